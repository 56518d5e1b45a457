"""`reconstruct`, `decode`, `sample` and `interpolate`: examples that a trained model makes, in the unit of its data."""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from vae_jax._numerics.keys import Stream, stream
from vae_jax.data import Condition, is_image
from vae_jax.errors import UserError
from vae_jax.evaluation import map_examples
from vae_jax.example import Example, Examples, condition_of, event_of
from vae_jax.model import VAE, Params, bind, decode_given, moments_of, posterior_moments, sample_prior
from vae_jax.runs.trained.chunks import Report, chunk_rows, joined, map_chunks, over_batches
from vae_jax.runs.trained.model import TrainedModel, expect_model
from vae_jax.runs.trained.new_data import NewData, Source
from vae_jax.runs.trained.sources import as_new_data, read_condition
from vae_jax.runs.trained.stored_unit import StoredUnit, stored_unit


class Output(NamedTuple):
    """Choice of what is made of a code z.

    Attributes:
      draw: a draw from p(x|z) instead of its mean E[x|z].
      as_pixels: pixels from 0 to 255 (uint8) instead of the unit of the data.
    """

    draw: bool = False
    as_pixels: bool = False


def reconstruct(
    model: TrainedModel,
    data: Source,
    *,
    draw: bool = False,
    seed: int = 0,
    batch_size: int | None = None,
    report: Report = lambda done: None,
) -> np.ndarray:
    """Reconstructs new data: E[x|z] at the mean z of q(z|x).

    Args:
      model: from `load_model`.
      data: the path of a file, an array of examples as the training data are stored, or the result of `read_new_data`.
      draw: draw from p(x|z) instead.
      seed: seed of the draws. The draw of row i depends on the seed and i alone.
      batch_size: rows that are read and computed at once; None: as many as fill some megabytes. On CPU no bit depends on it.
      report: called with the number of rows done.

    Returns:
      (rows, ...), in the unit of the stored data. Levels have the stored type. The expectations of counts, and of zeros and
      ones, are float32. Columns of a mixed table are numbers, with the codes of the most probable categories;
      `data.to_table(model.description.column_types, rows)` makes a table of them.

    Raises:
      UserError: data that do not fit the training data, or a number that is out of range.
    """
    data = as_new_data(model, data)
    return joined(reconstruct_chunks(model, data, Output(draw), seed=seed, batch_size=batch_size, report=report))


def reconstruct_chunks(
    model: TrainedModel,
    data: NewData,
    output: Output = Output(),  # noqa: B008 (a NamedTuple cannot be changed)
    *,
    seed: int = 0,
    batch_size: int | None = None,
    report: Report = lambda done: None,
) -> Iterator[np.ndarray]:
    """Yields the results of `reconstruct` for some rows after the other, for data that do not fit in memory."""
    rows, at_once = chunk_rows(model.vae.data_shape, batch_size)
    compiled = _reconstruction(model.vae, data.to_input, _unit(model), output, at_once)
    key = stream(seed, Stream.RECONSTRUCTIONS)
    return map(np.asarray, map_chunks(lambda *chunk: compiled(model.params, key, *chunk), data, rows, report))


@functools.lru_cache(maxsize=8)
def _reconstruction(
    vae: VAE, to_input: Callable[[Examples], Examples], unit: StoredUnit, output: Output, at_once: int
) -> Callable[..., Array]:
    """Returns the compiled program of `reconstruct`."""
    given, draw_given = vae.likelihood.mean_given, vae.likelihood.sample_given

    def program(params: Params, key: Array, examples: Examples, first: Array, count: Array) -> Array:
        def one(row: Array, x: Array | Example) -> Array:
            bound = bind(vae, params, x)
            decoded = bound.decode(moments_of(vae, bound.encode(bound.x))[0])
            if output.draw and draw_given is not None:  # with the total of x
                made = draw_given(jax.random.fold_in(key, row), decoded, bound.x)
            elif output.draw:
                made = vae.likelihood.sample(jax.random.fold_in(key, row), decoded)
            else:
                made = vae.likelihood.mean(decoded) if given is None else given(decoded, bound.x)
            return _converted(made, unit, output)

        return over_batches(lambda batch: map_examples(one, batch, to_input, at_once), examples, first, count, at_once)

    return jax.jit(program)


def decode(
    model: TrainedModel,
    codes: ArrayLike,
    *,
    condition: ArrayLike | None = None,
    as_pixels: bool = False,
    batch_size: int | None = None,
) -> np.ndarray:
    """Decodes codes to E[x|z].

    Args:
      model: from `load_model`.
      codes: (rows, latent), such as `encode` returns.
      condition: for a conditional model, stored conditions as in `NewData.examples.condition`, (rows, columns).
      as_pixels: pixels of images from 0 to 255 (uint8) instead of the unit of the data.
      batch_size: see `reconstruct`.

    Returns:
      (rows, ...), see `reconstruct`.

    Raises:
      UserError: codes of a different length, or a condition that is missing or not wanted.
    """
    codes = np.asarray(codes, np.float32)
    if codes.ndim != 2 or codes.shape[1] != model.vae.latent_dim or not len(codes):
        raise UserError(field="codes", expected=f"an array of shape (rows, {model.vae.latent_dim})", got=codes.shape)
    stored = None if condition is None else np.asarray(condition, np.float32)
    _check_condition(model, stored, len(codes))
    rows, at_once = chunk_rows(model.vae.data_shape, batch_size)
    compiled = _decoding(model.vae, model.description.condition, _unit(model), Output(as_pixels=as_pixels), at_once)
    data = NewData("codes", codes if stored is None else Example(codes, stored), lambda batch: batch)
    return joined(map(np.asarray, map_chunks(lambda *chunk: compiled(model.params, None, None, *chunk), data, rows)))


def sample(
    model: TrainedModel,
    num: int,
    *,
    seed: int = 0,
    condition: Source | None = None,
    temperature: float = 1.0,
    draw: bool | None = None,
    batch_size: int | None = None,
    report: Report = lambda done: None,
) -> np.ndarray:
    """Samples from a trained model: z from the prior, then x.

    Args:
      model: from `load_model`.
      num: number of examples, >= 1.
      seed: seed of the draws. Example i depends on the seed and i alone.
      condition: for a conditional model, conditions of the examples (see `read_condition`), which are used from the first on,
        again and again.
      temperature: standard deviation of z, > 0. Only 1 samples from the model. A learned prior p(z) takes no other value.
      draw: draw x from p(x|z), or take the mean E[x|z]. None: the mean of images, because their pixels are independent given z
        and a draw only adds noise to each, and draws of everything else, because the mean of a binary number or of a count is
        not one, and means vary less than the data.
      batch_size, report: see `reconstruct`.

    Returns:
      (num, ...), in the unit and the type of the stored data (see `reconstruct`).

    Raises:
      UserError: a number that is out of range, or a condition that is missing, not wanted, or does not fit.
    """
    expect_model(model)
    output = Output(not is_image(model.vae.data_shape) if draw is None else draw)
    stored = None if condition is None else read_condition(model, condition)
    options = SampleOptions(num, seed, temperature, output)
    return joined(sample_chunks(model, options, stored, batch_size=batch_size, report=report))


class SampleOptions(NamedTuple):
    """Number of samples and how they are made (see `sample`)."""

    num: int
    seed: int = 0
    temperature: float = 1.0
    output: Output = Output()


def sample_chunks(
    model: TrainedModel,
    options: SampleOptions,
    conditions: np.ndarray | None = None,
    *,
    batch_size: int | None = None,
    report: Report = lambda done: None,
) -> Iterator[np.ndarray]:
    """Yields the results of `sample` for some examples after the other, from stored conditions (rows, columns)."""
    num, temperature = options.num, options.temperature
    if num < 1:
        raise UserError(field="num", expected="a whole number >= 1", got=num)
    if not 0 < temperature < float("inf"):
        raise UserError(field="temperature", expected="a number > 0", got=temperature)
    if model.vae.prior is not None and temperature != 1:
        raise UserError(
            f"the prior {model.vae.prior.name!r} is learned, and has no temperature.", field="temperature", fix="Leave it out."
        )
    _check_condition(model, conditions, None)
    rows, at_once = chunk_rows(model.vae.data_shape, batch_size)
    compiled = _decoding(model.vae, model.description.condition, _unit(model), options.output, at_once)
    key = stream(options.seed, Stream.SAMPLES)
    data = NewData("samples", _Cycled(conditions, num), lambda batch: batch)
    chunks = map_chunks(lambda *chunk: compiled(model.params, key, jnp.float32(temperature), *chunk), data, rows, report)
    return map(np.asarray, chunks)


class _Cycled:
    """Rows of an array again and again, as many as are asked for, as examples without an event."""

    def __init__(self, rows: np.ndarray | None, num: int):
        self._rows = np.zeros((1, 0), np.float32) if rows is None else rows
        self.shape = (num, self._rows.shape[1])

    def __getitem__(self, part: slice) -> np.ndarray:
        return self._rows[np.arange(*part.indices(self.shape[0])) % len(self._rows)]


@functools.lru_cache(maxsize=8)
def _decoding(vae: VAE, condition: Condition | None, unit: StoredUnit, output: Output, at_once: int) -> Callable[..., Array]:
    """Returns the compiled program that decodes codes, or samples from the prior where it gets a key instead of codes."""

    def program(
        params: Params, key: Array | None, temperature: Array | None, examples: Examples, first: Array, count: Array
    ) -> Array:
        def one(row: Array, x: Array | Example) -> Array:
            stored = condition_of(x) if key is None else event_of(x)
            given = None if condition is None or stored is None else condition.expand(stored)
            if key is None:
                return _converted(vae.likelihood.mean(decode_given(vae, params, event_of(x), given)), unit, output)
            key_z, key_x = jax.random.split(jax.random.fold_in(key, row))
            z = sample_prior(vae, params, key_z) * (1 if temperature is None else temperature)
            decoded = decode_given(vae, params, z, given)
            made = vae.likelihood.sample(key_x, decoded) if output.draw else vae.likelihood.mean(decoded)
            return _converted(made, unit, output)

        batches = lambda batch: map_examples(one, batch, lambda x: x, at_once)  # noqa: E731
        return over_batches(batches, examples, first, count, at_once)

    return jax.jit(program)


def interpolate(
    model: TrainedModel,
    data: Source,
    first: int,
    last: int,
    steps: int = 9,
    *,
    spherical: bool = False,
    as_pixels: bool = False,
) -> np.ndarray:
    """Decodes codes on the way from one row of new data to another.

        z(t) = (1 - t) a + t b                                                                      (straight)
        z(t) = r(t) [sin((1 - t) w) a/|a| + sin(t w) b/|b|] / sin w,   w = angle(a, b)              (spherical)
        r(t) = (1 - t) |a| + t |b|

    Args:
      model: from `load_model`.
      data: the path of a file, an array of examples as the training data are stored, or the result of `read_new_data`.
      first, last: numbers of the rows, counted from 0, whose posterior means are the ends a and b.
      steps: number of codes, both ends included, >= 2.
      spherical: move along a great circle. It suits codes with the norms of draws from N(0, I) in many dimensions. Posterior
        means are shorter and near 0 in unused dimensions, so the straight line is the default.
      as_pixels: see `decode`.

    Returns:
      E[x|z] of each code, (steps, ...), in the unit of the stored data (see `reconstruct`). A conditional model decodes all of
      them with the condition of the row `first`.

    Raises:
      UserError: a row that does not exist, or fewer than two steps.
    """
    data = as_new_data(model, data)
    codes = interpolation_codes(model, data, first, last, steps, spherical)
    stored = condition_of(data.examples)
    condition = None if stored is None else np.repeat(np.asarray(stored[first : first + 1]), steps, axis=0)
    return decode(model, codes, condition=condition, as_pixels=as_pixels)


def interpolation_codes(model: TrainedModel, data: NewData, first: int, last: int, steps: int, spherical: bool) -> np.ndarray:
    """Returns the codes of `interpolate`, (steps, latent)."""
    for name, row in (("first", first), ("last", last)):
        if not 0 <= row < data.num_examples:
            raise UserError(field=name, expected=f"a row from 0 to {data.num_examples - 1}", got=row)
    if steps < 2:
        raise UserError(field="steps", expected="a whole number >= 2", got=steps)
    rows = jax.tree.map(jnp.asarray, data.examples[np.array([first, last])])
    encode = jax.jit(lambda params, rows: jax.vmap(lambda x: posterior_moments(model.vae, params, x)[0])(data.to_input(rows)))
    start, end = np.asarray(encode(model.params, rows), np.float64)
    t = np.linspace(0, 1, steps)[:, None]
    if spherical:
        lengths = np.linalg.norm([start, end], axis=1)
        a, b = np.array([start, end]) / np.maximum(lengths, 1e-300)[:, None]
        angle = np.arccos(np.clip(a @ b, -1, 1))
        if lengths.all() and np.sin(angle) > 1e-6:  # otherwise the ends lie on a line through 0
            directions = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
            return ((1 - t) * lengths[0] + t * lengths[1]) * directions
    return (1 - t) * start + t * end


def _unit(model: TrainedModel) -> StoredUnit:
    return stored_unit(model.config, model.description, model.vae.likelihood)


def _converted(x: Array, unit: StoredUnit, output: Output) -> Array:
    if output.as_pixels:
        return unit.to_pixels(x)
    return unit.convert_draw(x) if output.draw else unit.convert_mean(x)


def _check_condition(model: TrainedModel, stored: np.ndarray | None, count: int | None) -> None:
    """Raises `UserError` unless there are conditions exactly where the model takes them."""
    condition = model.description.condition
    if condition is None and stored is not None:
        raise UserError("the model has no condition. Leave it out.", field="condition")
    if condition is not None and stored is None:
        fix = "Pass `condition`, such as a file with these columns."
        raise UserError(f"the model is conditioned on {condition.describe()}.", field="condition", fix=fix)
    if condition is not None and stored is not None:
        expected = (count or len(stored), len(condition.columns))
        if stored.shape != expected or not len(stored):
            raise UserError(field="condition", expected=f"an array of shape {expected}", got=stored.shape)
