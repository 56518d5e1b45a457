"""Checks of all data against a model before it is trained: their shape, their numbers, the likelihood's support."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax.data import Prepared, Rows
from vae_jax.errors import UserError
from vae_jax.likelihoods import outside_support
from vae_jax.model import VAE

_AT_ONCE = 1024  # examples
_OF_RENDERED = 1000  # examples of images that are computed, whose values are known


_FIXES = {
    "binary": 'Use data.prepare(..., binarization="dynamic") (or "threshold")',
    "unit_interval": "Rescale the data to [0, 1] before data.prepare",
    "levels": "Give the data set as many integer levels as the likelihood has (max_level = num_bins - 1)",
    "counts": "Use data.prepare(..., counts=True), which leaves whole numbers as they are",
}


class _Seen(NamedTuple):
    """Numbers of the inputs of a model that stand for all of them."""

    low: Array  # ()
    high: Array  # ()
    fractional: Array  # (), a number that is not whole; minus infinity where all are
    between: Array  # (), a number between the likelihood's levels; minus infinity where there is none
    first_bad: Array  # (), int32: the first example with a number that is not finite; past the end if there is none


def check_fit(data: Prepared, batch_size: int, early_stopping: int) -> None:
    """Raises `UserError` where these data cannot be trained on like this."""
    num_train = data.train.shape[0]
    if batch_size > num_train:
        raise UserError(f"--batch-size: expected at most the {num_train} training examples, got {batch_size}.")
    if early_stopping and data.validation is None:
        raise UserError(
            "--early-stopping chooses by validation data and there is none: add --validation-fraction 0.1. "
            "In Python, load the data with validation_fraction=0.1."
        )


def check_values(vae: VAE, data: Prepared) -> None:
    """Checks every example of every split, as the model will see it, in one pass over each.

    Training images on disk are not read again: the numbers that `Rows.scan` found in them stand for them.

    Raises:
      UserError: examples of a different shape than the model's; NaN or infinite numbers, with the first example that has them;
        numbers outside of the likelihood's support.
    """
    key = stream(0, Stream.CHECK)
    train = _standing_for(data.train) if isinstance(data.train, Rows) else data.train
    for name, rows in (("training", train), ("validation", data.validation), ("test", data.test)):
        if rows is None:
            continue
        rows = jnp.asarray(rows[:_OF_RENDERED] if data.rendered else rows)
        # Both programs are compiled once: for the same function, and for the same shapes.
        draw, fixed = jax.jit(data.train_input), jax.jit(data.eval_input)
        to_input = (lambda i, x: draw(jax.random.fold_in(key, i), x)) if name == "training" else (lambda i, x: fixed(x))  # noqa: B023
        numbers, first_bad = _look(to_input, rows, vae.likelihood.num_levels or 2, name, vae.data_shape)
        if first_bad is not None:
            raise UserError(
                f"{name} data: expected finite numbers, got NaN or infinite ones, first in example {first_bad}. Remove or "
                "replace the rows that have them."
            )
        if problem := outside_support(vae.likelihood, numbers):
            raise UserError(f"{name} data: {problem}. {_FIXES[vae.likelihood.support]}, or choose another likelihood.")


def _look(
    to_input: Callable[[int, Array], Array], rows: Array, num_levels: int, name: str, shape: tuple[int, ...]
) -> tuple[np.ndarray, int | None]:
    """Looks at all rows, some at a time. Returns numbers that stand for all, and the first row that has one not finite."""
    size = min(_AT_ONCE, len(rows))
    seen = []
    for i, first in enumerate(range(0, len(rows), size)):
        start = min(first, len(rows) - size)  # the last rows overlap those before, so that all programs have one shape
        x = to_input(i, jax.lax.dynamic_slice_in_dim(rows, start, size))
        if x.shape[1:] != shape:
            raise UserError(
                f"{name} data: expected the shape {shape} that the model is made for, got {x.shape[1:]}. Make the model with "
                "the data_shape of the data set."
            )
        seen.append((start, jax.jit(_seen, static_argnums=1)(x, num_levels)))
    seen = jax.device_get(seen)
    bad = [start + int(part.first_bad) for start, part in seen if part.first_bad < size]
    ends = [(part.low, part.high, part.fractional, part.between) for _, part in seen]
    low, high, fractional, between = np.array(ends, np.float32).T
    numbers = np.array([low.min(), high.max(), fractional.max(), between.max()])
    return numbers[np.isfinite(numbers)], min(bad, default=None)


def _seen(x: Array, num_levels: int) -> _Seen:
    flat = x.astype(jnp.float32).reshape(len(x), -1)
    scaled = flat * (num_levels - 1)
    largest = lambda where: jnp.max(jnp.where(where, flat, -jnp.inf))  # noqa: E731
    bad = ~jnp.all(jnp.isfinite(flat), axis=1)
    return _Seen(
        flat.min(),
        flat.max(),
        largest(flat != jnp.round(flat)),
        largest(jnp.abs(scaled - jnp.round(scaled)) >= 1e-3),
        jnp.where(jnp.any(bad), jnp.argmax(bad), len(x)),
    )


def _standing_for(rows: Rows) -> np.ndarray:
    """Examples made of the numbers that occur in rows on disk."""
    found = rows.scan.values
    size = int(np.prod(rows.shape[1:]))
    count = min(-(-len(found) // size), len(rows))
    return np.resize(found, count * size).astype(rows.dtype).reshape(count, *rows.shape[1:])
