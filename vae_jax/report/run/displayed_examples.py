"""Test examples for display, and the functions that encode, decode and draw examples on the same scale."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from vae_jax._numerics.short_repr import short_repr
from vae_jax.build import Built
from vae_jax.example import condition_of, event_of, mask_of
from vae_jax.model import VAE, Params, decode_given, posterior_moments
from vae_jax.report.run.events.panels import displayed_kind, displayed_shape

NUM_SHOWN = 24  # test examples with their reconstructions


@short_repr
class Views(NamedTuple):
    """Test examples for display, and compiled functions of the parameters that make more of them on the same scale.

    Images are on [0, 1]. Series and vectors keep their numbers, and an image of one row or column becomes one of these. Missing
    entries are NaN.
    """

    originals: np.ndarray  # test examples as the model saw them
    stored: np.ndarray  # the same examples as stored in the dataset
    codes: Callable[[Params], jax.Array]  # params -> posterior means of the originals
    # (params, z (n, latent), c (n, condition) or None) -> E[x|z]; given a total, the mean one. None: the condition of the first
    # original, if the model has conditions
    means: Callable[..., np.ndarray]
    # (params, z (n, latent), rows (n,)) -> E[x|z]; given a total or a condition, that of the original with this index
    means_like: Callable[[Params, jax.Array, np.ndarray], np.ndarray]
    to_displayed: Callable[[ArrayLike], np.ndarray]  # puts other examples on the same scale
    places: np.ndarray  # indices of the originals in the test set
    scale: str  # a sentence for captions that says what black and white are; starts with a space, or is empty
    # (params, keys (n,), z (n, latent), rows (n,)) -> draws of p(x|z); given a total or a condition, that of the original with
    # this index
    samples: Callable[[Params, jax.Array, jax.Array, np.ndarray], np.ndarray]
    # (params, keys (n,), z (n, latent), c (n, condition)) -> draws of p(x|z, c) of a conditional model
    draws: Callable[..., np.ndarray]
    conditions: jax.Array | None = None  # of the originals, as the networks take them, (n, condition)


def views(built: Built, count: int = NUM_SHOWN, first: Sequence[int] = ()) -> Views:
    """Chooses test examples and returns them with the functions that encode and decode them for display.

    Args:
      built: model and data.
      count: number of test examples, spread evenly over the test set.
      first: indices of test examples that come before these.
    """
    vae, data = built.vae, built.data
    # Spread over the test set, because neighbors are often alike (video frames, sorted classes).
    spread = np.linspace(0, len(data.test) - 1, min(count, len(data.test))).round()
    index = np.array([*first, *spread], int)
    inputs = data.eval_input(data.test[index])
    x, conditions, observed = event_of(inputs), condition_of(inputs), mask_of(inputs)
    encode = jax.jit(jax.vmap(partial(posterior_moments, vae), in_axes=(None, 0)))
    mean, sample, means_like, samples_like = _decoders(vae, x, conditions)

    def means(params: Params, z: jax.Array, c: jax.Array | None = None) -> np.ndarray:
        if conditions is not None and c is None:
            c = jnp.tile(conditions[:1], (len(z), 1))
        return to_displayed(mean(params, z, c))

    to_displayed, scale = _display(built, x if observed is None or not observed.any() else x[observed])
    stored = np.asarray(built.dataset.images(built.dataset.test[index]))
    top = built.dataset.max_level
    if top and (displayed_kind(built.dataset.data_shape) == "image" or vae.likelihood.support != "counts"):
        stored = to_displayed.reshape(stored / top)
    else:
        stored = to_displayed(stored)
    is_missing = None if observed is None else ~to_displayed.reshape(np.asarray(observed))
    originals, stored = (x if is_missing is None else np.where(is_missing, np.nan, x) for x in (to_displayed(x), stored))
    return Views(
        originals,
        stored,
        lambda params: encode(params, inputs)[0],
        means,
        lambda params, z, rows: to_displayed(means_like(params, z, rows)),
        to_displayed,
        index,
        scale,
        lambda params, keys, z, rows: to_displayed(samples_like(params, keys, z, rows)),
        lambda params, keys, z, c: to_displayed(sample(params, keys, z, c)),
        conditions,
    )


def _decoders(vae: VAE, x: jax.Array, conditions: jax.Array | None) -> tuple[Callable[..., jax.Array], ...]:
    """Returns compiled functions of batches of codes.

    Args:
      vae: the model.
      x: the originals, (n, *event).
      conditions: of the originals, or None.

    Returns:
      mean: (params, z, c) -> E[x|z].
      sample: (params, keys, z, c) -> draws of p(x|z).
      means_like: (params, z, rows) -> E[x|z] with total and condition of the originals with these indices.
      samples_like: (params, keys, z, rows) -> draws of p(x|z), likewise.
    """
    likelihood = vae.likelihood
    output = lambda params, z, c: decode_given(vae, params, z, c)  # noqa: E731
    for_rows = lambda rows: None if conditions is None else conditions[rows]  # noqa: E731
    mean = jax.jit(jax.vmap(lambda params, z, c: likelihood.mean(output(params, z, c)), in_axes=(None, 0, 0)))
    in_axes = (None, 0, 0, 0)
    sample = jax.jit(jax.vmap(lambda params, key, z, c: likelihood.sample(key, output(params, z, c)), in_axes=in_axes))
    if (given := likelihood.mean_given) and (draw_given := likelihood.sample_given):
        mean_given = jax.jit(jax.vmap(lambda params, z, c, x: given(output(params, z, c), x), in_axes=in_axes))
        draw = lambda params, key, z, c, x: draw_given(key, output(params, z, c), x)  # noqa: E731
        sample_given = jax.jit(jax.vmap(draw, in_axes=(None, 0, 0, 0, 0)))
        return (
            mean,
            sample,
            lambda params, z, rows: mean_given(params, z, for_rows(rows), x[rows]),
            lambda params, keys, z, rows: sample_given(params, keys, z, for_rows(rows), x[rows]),
        )
    return (
        mean,
        sample,
        lambda params, z, rows: mean(params, z, for_rows(rows)),
        lambda params, keys, z, rows: sample(params, keys, z, for_rows(rows)),
    )


class _Display(NamedTuple):
    """Maps the numbers that the model sees to those that are drawn, (x - low) / (high - low), in the displayed shape."""

    low: float
    high: float
    shape: tuple[int, ...]

    def __call__(self, x: ArrayLike) -> np.ndarray:
        return self.reshape((np.asarray(x, np.float64) - self.low) / max(self.high - self.low, 1e-12))

    def reshape(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), *self.shape)


def _display(built: Built, x: jax.Array) -> tuple[_Display, str]:
    """Returns the display of examples like x, and a sentence for captions about black and white."""
    dataset, support = built.dataset, built.vae.likelihood.support
    shape = displayed_shape(dataset.data_shape)
    if len(shape) < 3:
        return _Display(0.0, 1.0, shape), ""
    low, high = 0.0, 1.0
    if support == "counts":
        high = float(x.max())
    elif dataset.max_level is None:
        low, high = float(x.min()), float(x.max())
    return _Display(low, high, shape), _describe_scale(built, low, high, shape[-1])


def _describe_scale(built: Built, low: float, high: float, channels: int) -> str:
    """Says which values are black and white where that is not obvious, and which channels are left out."""
    text = "" if channels in (1, 3) else f" Only the first of {channels} channels is shown."
    if built.dataset.max_level is None or built.vae.likelihood.support == "counts":
        kind = "largest count" if built.vae.likelihood.support == "counts" else "range"
        ends = f"Black is {low:z.4g} and white is {high:z.4g}".replace("-", "−")
        return f"{text} {ends}, the {kind} of the test images shown. Values beyond are clipped."
    if built.vae.likelihood.support == "real":
        return f"{text} Black is 0 and white is the highest level. Means and draws beyond are clipped."
    return text
