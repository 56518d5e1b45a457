"""`encode`: the posterior of each row of new data."""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.errors import UserError
from vae_jax.evaluation import DataSlice
from vae_jax.example import Examples
from vae_jax.model import VAE, Params, with_weights
from vae_jax.posteriors import DIAGONAL, PosteriorParams
from vae_jax.runs.trained.chunks import Report, chunk_rows, encoded_together, joined, map_chunks, over_batches
from vae_jax.runs.trained.model import TrainedModel
from vae_jax.runs.trained.new_data import NewData, Source
from vae_jax.runs.trained.sources import as_new_data

Posteriors: TypeAlias = tuple[Array, Array, Array]  # the fields of `Encoded`, on the device


@short_repr
class Encoded(NamedTuple):
    """The posterior q(z|x) of each row: its moments, which determine a diagonal Gaussian, and draws.

    Attributes:
      means: (rows, latent).
      log_scales: natural log of the standard deviations of each dimension, (rows, latent).
      draws: z ~ q(z|x), (rows, num_draws, latent).
    """

    means: np.ndarray
    log_scales: np.ndarray
    draws: np.ndarray


def encode(
    model: TrainedModel,
    data: Source,
    *,
    num_draws: int = 0,
    seed: int = 0,
    batch_size: int | None = None,
    report: Report = lambda done: None,
) -> Encoded:
    """Encodes new data.

    Args:
      model: from `load_model`.
      data: the path of a file, an array of examples as the training data are stored, or the result of `read_new_data`.
      num_draws: draws of z for each row, >= 0.
      seed: seed of the draws. Draw k of row i depends on the seed, i and k alone.
      batch_size: rows that are read and computed at once; None: as many as fill some megabytes. On CPU no bit depends on it.
      report: called with the number of rows done.

    Returns:
      `Encoded`, with rows in the order of the data. With a learned prior p(z|c) the codes are u = (z - mean(c)) / scale(c),
      which are N(0, I) under this prior.

    Raises:
      UserError: data that do not fit the training data, or a number that is out of range.
    """
    data = as_new_data(model, data)
    return joined(encode_chunks(model, data, num_draws=num_draws, seed=seed, batch_size=batch_size, report=report))


def encode_chunks(
    model: TrainedModel,
    data: NewData,
    *,
    num_draws: int = 0,
    seed: int = 0,
    batch_size: int | None = None,
    report: Report = lambda done: None,
) -> Iterator[Encoded]:
    """Yields the results of `encode` for some rows after the other, for data that do not fit in memory."""
    if num_draws < 0:
        raise UserError(field="num_draws", expected="a whole number >= 0", got=num_draws)
    rows, at_once = chunk_rows(model.vae.data_shape, batch_size)
    if jax.default_backend() == "cpu":
        at_once = encoded_together(model.vae.data_shape)
        rows = -(-rows // at_once) * at_once
    compiled, key = _program(model.vae, data.to_input, num_draws, at_once), stream(seed, Stream.CODES)
    chunks = map_chunks(lambda *chunk: compiled(model.params, key, *chunk), data, rows, report)
    return (Encoded(*map(np.asarray, chunk)) for chunk in chunks)


@functools.lru_cache(maxsize=8)
def _program(vae: VAE, to_input: Callable[[Examples], Examples], num_draws: int, at_once: int) -> Callable[..., Posteriors]:
    """Returns the compiled program, which files of the same shape share."""
    posterior = vae.posterior or DIAGONAL

    def draw(key: Array, row: Array, q: PosteriorParams) -> Array:
        key_x = jax.random.fold_in(key, row)
        one = lambda k: posterior.sample(jax.random.fold_in(key_x, k), q)  # noqa: E731
        return jax.vmap(one)(jnp.arange(num_draws)) if num_draws else jnp.zeros((0, vae.latent_dim), jnp.float32)

    def moments(params: Params, outputs: PosteriorParams) -> tuple[Array, Array]:
        return posterior.moments(stream(0, Stream.MOMENTS), with_weights(vae, params, outputs))

    def program(params: Params, key: Array, examples: Examples, first: Array, count: Array) -> Posteriors:
        def encode_batch(batch: DataSlice) -> Posteriors:
            outputs = jax.vmap(lambda x: vae.encode(params, x))(to_input(batch.examples))
            rows = jnp.asarray(batch.first) + jnp.arange(at_once)
            drawn = jax.vmap(lambda row, outputs: draw(key, row, with_weights(vae, params, outputs)))(rows, outputs)
            return (*jax.vmap(functools.partial(moments, params))(outputs), drawn)

        return over_batches(encode_batch, examples, first, count, at_once)

    return jax.jit(program)
