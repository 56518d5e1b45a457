"""Checks before training: of the options, of the train step, and of all data against the model and its likelihood."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax.config import Hyperparams
from vae_jax.data import Prepared, Rows, SparseArray, outside_columns
from vae_jax.data.checks import MISSING_FIX
from vae_jax.errors import UserError
from vae_jax.example import Example, event_of, mask_of, with_event
from vae_jax.likelihoods import check_factorizes, outside_support
from vae_jax.model import VAE
from vae_jax.training.epoch import batch_shapes
from vae_jax.training.options import FitOptions
from vae_jax.training.step import StepMetrics, init_state, make_train_step

_BATCH = 1024  # examples that are checked by one call
_NUM_RENDERED = 1000  # examples of a computed data set that are checked: their values are known to be zeros and ones

_FIXES = {
    "binary": 'Use data.prepare(..., binarization="dynamic") (or "threshold")',
    "unit_interval": "Rescale the data to [0, 1] before data.prepare",
    "levels": "Give the data set as many integer levels as the likelihood has (max_level = num_bins - 1)",
    "counts": "Use data.prepare(..., counts=True), which leaves whole numbers as they are",
}


class _Summary(NamedTuple):
    """Numbers that decide for all inputs of a model whether they are in the support of its likelihood."""

    low: Array  # ()
    high: Array  # ()
    fractional: Array  # (), a number that is not whole; minus infinity if all are whole
    between: Array  # (), a number between the likelihood's levels; minus infinity if there is none
    first_bad: Array  # (), int32: the first example with a number that is not finite; past the end if there is none


def check_fit(data: Prepared, batch_size: int, early_stopping: int) -> None:
    """Raises `UserError` if the data do not allow this batch size or early stopping."""
    num_train = data.train.shape[0]
    if batch_size > num_train:
        raise UserError(field="batch_size", expected=f"at most the {num_train} training examples", got=batch_size)
    if early_stopping and data.validation is None:
        raise UserError(
            "the best epoch is chosen by validation data, and there are none.",
            field="early_stopping",
            fix="Hold out validation data with `validation_fraction=0.1`.",
        )


def check_devices(devices: int, batch_size: int) -> None:
    """Raises `UserError` unless this process has the devices and each gets an equal part of a batch."""
    available = jax.local_devices()
    if not 1 <= devices <= len(available):
        kind = available[0].platform
        fix = "On CPU set the number of virtual devices before JAX starts, by jax.config.update('jax_num_cpu_devices', n)."
        raise UserError(
            field="devices",
            expected=f"1 to {len(available)}, the number of {kind} devices of this process",
            got=devices,
            fix=fix if kind == "cpu" and devices > 1 else "",
        )
    if batch_size % devices:
        raise UserError(
            f"a batch of {batch_size} examples cannot be divided equally among {devices} devices.",
            field="devices",
            fix=f"Use a `batch_size` that is a multiple of {devices}.",
        )


def check_companions(vae: VAE, data: Prepared) -> None:
    """Raises `UserError` unless the model takes the condition of the data, and its likelihood can leave out missing entries."""
    if data.has_missing:
        check_factorizes(vae.likelihood)
    expected, got = data.condition_dim, vae.condition_dim
    if expected == got:
        return
    if data.condition is None:
        raise UserError(
            f"the model has condition_dim={got}, and the data have no condition (condition_dim=0).",
            fix="Pass `condition` to fit, data.with_condition or data.from_arrays, or make the model without condition_dim.",
        )
    described = data.condition.describe()
    has = f"the model has condition_dim={got}" if got else "the model has no condition (condition_dim=0)"
    raise UserError(
        f"the condition of the data has condition_dim={expected}: {described}. But {has}.",
        fix=f"Make the model with condition_dim={expected}, which is the condition_dim of the prepared data.",
    )


def check_step(vae: VAE, data: Prepared, options: FitOptions, hyperparams: Hyperparams | None = None) -> StepMetrics:
    """Raises `UserError` if the train step cannot be traced with this batch size and objective. Computes nothing.

    Returns:
      Shapes and dtypes of the metrics of a step.
    """
    check_companions(vae, data)
    _, batch_size, optimizer, objective, schedules, *_ = options
    train_step = make_train_step(
        vae, optimizer=optimizer, objective=objective, train_input=data.train_input, schedules=schedules
    )
    state = jax.eval_shape(lambda key: init_state(vae, optimizer, key, objective), stream(0, Stream.INIT))
    batch = batch_shapes(data.train, batch_size)
    traced = jax.tree.map(jnp.float32, hyperparams or Hyperparams())
    try:
        return jax.eval_shape(train_step, state, stream(0, Stream.STEP), batch, traced)[1]
    except ValueError as error:
        raise UserError(str(error)) from None


def check_values(vae: VAE, data: Prepared) -> None:
    """Checks every example of every split, as the model receives it, in one pass over each split.

    Training images on disk are not read again, because `Rows.scan` has already collected the numbers that occur in them. Of
    sparse examples, which were checked for finite numbers, the lowest, the highest and one with a fraction are checked.

    Raises:
      UserError: for examples of a different shape from the model's, for NaN or infinite numbers, with the first example that
        has them, and for numbers outside the support of the likelihood.
    """
    key = stream(0, Stream.CHECK)
    train = _examples_with_all_values(data.train) if data.is_on_disk else data.train
    for split, rows in (("training", train), ("validation", data.validation), ("test", data.test)):
        if rows is None:
            continue
        if isinstance(event_of(rows), SparseArray):
            rows = _sparse_examples_with_all_values(rows)  # pyright: ignore[reportArgumentType]
        rows = jax.tree.map(jnp.asarray, rows[:_NUM_RENDERED] if data.rendered else rows)
        # Both programs are compiled once, because the function and the shapes are always the same.
        draw, fixed = jax.jit(data.train_input), jax.jit(data.eval_input)
        is_train = split == "training"
        to_input = (lambda i, x: draw(jax.random.fold_in(key, i), x)) if is_train else (lambda i, x: fixed(x))  # noqa: B023
        numbers, first_bad = _summarize_rows(to_input, rows, vae.likelihood.num_levels or 2, split, vae.data_shape)
        if first_bad is not None:
            raise UserError(
                f"{split} data: expected finite numbers, got NaN or infinite ones, first in example {first_bad}. Remove or "
                f"replace the examples that have them. {MISSING_FIX}"
            )
        if vae.likelihood.support == "mixed":
            if isinstance(event_of(rows), jax.Array) and (problem := _outside_columns(vae, rows)):
                raise UserError(f"{split} data: {problem}. Choose a different likelihood for this column.")
        elif problem := outside_support(vae.likelihood, numbers):
            raise UserError(f"{split} data: {problem}. {_FIXES[vae.likelihood.support]}, or choose a different likelihood.")


def _outside_columns(vae: VAE, rows: Array | Example) -> str | None:
    """Describes in which way the columns of stored rows of a mixed table lie outside their supports; None where they do not."""
    mask = mask_of(rows)
    return outside_columns(vae.likelihood, np.asarray(event_of(rows)), None if mask is None else np.asarray(mask))


def _summarize_rows(
    to_input: Callable[[int, Array], Array], rows: Array, num_levels: int, split: str, shape: tuple[int, ...]
) -> tuple[np.ndarray, int | None]:
    """Returns numbers that decide for all rows, and the first row with a number that is not finite."""
    size = min(_BATCH, len(rows))
    summaries = []
    for i, first in enumerate(range(0, len(rows), size)):
        start = min(first, len(rows) - size)  # the last rows overlap those before, so that all programs have one shape
        part = jax.tree.map(lambda array, start=start: jax.lax.dynamic_slice_in_dim(array, start, size), rows)
        example = to_input(i, part)
        x = event_of(example)
        if x.shape[1:] != shape:
            raise UserError(
                f"{split} data: expected the shape {shape} that the model is made for, got {x.shape[1:]}. Make the model with "
                "the data_shape of the data set."
            )
        summaries.append((start, jax.jit(_summarize, static_argnums=1)(x, num_levels, mask_of(example))))
    summaries = jax.device_get(summaries)
    bad = [start + int(summary.first_bad) for start, summary in summaries if summary.first_bad < size]
    extremes = [(summary.low, summary.high, summary.fractional, summary.between) for _, summary in summaries]
    low, high, fractional, between = np.array(extremes, np.float32).T
    numbers = np.array([low.min(), high.max(), fractional.max(), between.max()])
    numbers = numbers[np.isfinite(numbers)]
    return numbers if numbers.size else np.zeros(1, np.float32), min(bad, default=None)  # where no entry is observed


def _summarize(x: Array, num_levels: int, mask: Array | None) -> _Summary:
    flat = x.astype(jnp.float32).reshape(len(x), -1)
    if mask is not None:
        return _summarize_observed(flat, num_levels, mask.reshape(flat.shape))
    scaled = flat * (num_levels - 1)
    largest = lambda where: jnp.max(jnp.where(where, flat, -jnp.inf))  # noqa: E731
    bad = ~jnp.all(jnp.isfinite(flat), axis=1)
    return _Summary(
        flat.min(),
        flat.max(),
        largest(flat != jnp.round(flat)),
        largest(jnp.abs(scaled - jnp.round(scaled)) >= 1e-3),
        jnp.where(jnp.any(bad), jnp.argmax(bad), len(x)),
    )


def _summarize_observed(flat: Array, num_levels: int, mask: Array) -> _Summary:
    """Returns the summary of the observed entries alone."""
    scaled = flat * (num_levels - 1)
    largest = lambda where: jnp.max(jnp.where(where & mask, flat, -jnp.inf))  # noqa: E731
    bad = jnp.any(mask & ~jnp.isfinite(flat), axis=1)
    return _Summary(
        jnp.min(jnp.where(mask, flat, jnp.inf)),
        largest(True),
        largest(flat != jnp.round(flat)),
        largest(jnp.abs(scaled - jnp.round(scaled)) >= 1e-3),
        jnp.where(jnp.any(bad), jnp.argmax(bad), len(flat)),
    )


def _examples_with_all_values(train: Rows | Example) -> np.ndarray | Example:
    """Returns examples made of the numbers that occur in rows on disk."""
    rows: Rows = event_of(train)
    values = rows.scan.values
    size = int(np.prod(rows.shape[1:]))
    count = min(-(-len(values) // size), len(rows))
    events = np.resize(values, count * size).astype(rows.dtype).reshape(count, *rows.shape[1:])
    if not isinstance(train, Example):
        return events
    mask = None if train.mask is None else np.ones(events.shape, bool)  # its values would hide some of the numbers
    return Example(events, None if train.condition is None else train.condition[:count], mask)


def _sparse_examples_with_all_values(examples: SparseArray | Example) -> np.ndarray | Example:
    """Returns an example made of numbers that represent those of sparse rows, zero among them."""
    rows: SparseArray = event_of(examples)
    numbers = rows.data
    is_whole = numbers == jnp.round(numbers) if jnp.issubdtype(numbers.dtype, jnp.floating) else jnp.ones(numbers.shape, bool)
    values = [jnp.zeros((), numbers.dtype), jnp.min(numbers), jnp.max(numbers), numbers[jnp.argmin(is_whole)]]
    events = np.resize(np.array(values, numbers.dtype), -(-4 // rows.shape[1]) * rows.shape[1]).reshape(-1, rows.shape[1])
    return with_event(examples[: len(events)], events) if isinstance(examples, Example) else events
