"""Checks of all data against a model before it is trained: their shape, their numbers, the likelihood's support."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax.data import Prepared, Rows
from vae_jax.errors import UserError
from vae_jax.keys import Stream, stream
from vae_jax.likelihoods import outside_support
from vae_jax.model import VAE

_AT_ONCE = 256  # examples
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
    first_bad: Array  # (), int32: the first example with a number that is not finite, or the number of examples


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
    draw = lambda i, batch: data.train_input(jax.random.fold_in(stream(0, Stream.CHECK), i), batch)  # noqa: E731
    fixed = lambda i, batch: data.eval_input(batch)  # noqa: E731
    train = _standing_for(data.train) if isinstance(data.train, Rows) else data.train
    splits = [("training", train, draw), ("validation", data.validation, fixed), ("test", data.test, fixed)]
    for name, rows, to_input in splits:
        if rows is None:
            continue
        shape = jax.eval_shape(to_input, 0, jax.ShapeDtypeStruct((1, *rows.shape[1:]), rows.dtype)).shape[1:]
        if shape != vae.data_shape:
            raise UserError(f"{name} data: expected the shape {vae.data_shape} that the model is made for, got {shape}.")
        rows = jnp.asarray(rows[:_OF_RENDERED] if data.rendered else rows)
        num_levels = vae.likelihood.num_levels or 2
        seen = jax.device_get(jax.jit(lambda rows, f=to_input, n=num_levels: _look(f, rows, n))(rows))
        if seen.first_bad < len(rows):
            raise UserError(
                f"{name} data: expected finite numbers, got NaN or infinite ones, first in example {seen.first_bad}. Remove or "
                "replace the rows that have them."
            )
        numbers = np.array(seen[:4], np.float32)
        if problem := outside_support(vae.likelihood, numbers[np.isfinite(numbers)]):
            raise UserError(f"{name} data: {problem}. {_FIXES[vae.likelihood.support]}, or choose another likelihood.")


def _look(to_input: Callable[[Array, Array], Array], rows: Array, num_levels: int) -> _Seen:
    """Looks at all rows, a few at a time; the last ones are filled up with the first row."""
    count = rows.shape[0]
    size = min(_AT_ONCE, count)
    index = jnp.arange(-(-count // size) * size)
    index = jnp.where(index < count, index, 0).reshape(-1, size)

    def of_batch(batch: tuple[Array, Array]) -> _Seen:
        i, index = batch
        x = to_input(i, rows[index]).astype(jnp.float32)
        x = x.reshape(size, -1)
        scaled = x * (num_levels - 1)
        largest = lambda where: jnp.max(jnp.where(where, x, -jnp.inf))  # noqa: E731
        bad = ~jnp.all(jnp.isfinite(x), axis=1)
        return _Seen(
            x.min(),
            x.max(),
            largest(x != jnp.round(x)),
            largest(jnp.abs(scaled - jnp.round(scaled)) >= 1e-3),
            jnp.min(jnp.where(bad, index, count)),
        )

    seen = jax.lax.map(of_batch, (jnp.arange(len(index)), index))
    high, fractional, between = (part.max() for part in (seen.high, seen.fractional, seen.between))
    return _Seen(seen.low.min(), high, fractional, between, seen.first_bad.min())


def _standing_for(rows: Rows) -> np.ndarray:
    """Examples made of the numbers that occur in rows on disk."""
    found = rows.scan.values
    size = int(np.prod(rows.shape[1:]))
    count = min(-(-len(found) // size), len(rows))
    return np.resize(found, count * size).astype(rows.dtype).reshape(count, *rows.shape[1:])
