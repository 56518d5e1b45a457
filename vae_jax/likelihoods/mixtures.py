"""Mixtures of discretized logistics for gray levels and for colors (the output of PixelCNN++)."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from vae_jax._numerics.arrays import one_event, promote
from vae_jax._numerics.special import soft_floor
from vae_jax.likelihoods.base import Likelihood, entrywise
from vae_jax.likelihoods.levels import (
    check_bins,
    draw_level,
    expected_level,
    level_log_prob,
    loc_for_mean,
    scale_start,
    to_levels,
)


def logistic_mixture_log_prob(
    mixture_logits: Float[ArrayLike, "*event components"],
    loc: Float[ArrayLike, "*event components"],
    log_scale: Float[ArrayLike, "*event components"],
    x: Real[ArrayLike, "*event"],
    num_bins: int = 256,
) -> Float[Array, ""]:
    """Computes the log-likelihood of one example under a mixture of discretized logistics for each dimension.

        log p(x) = sum_d log sum_m softmax(mixture_logits)_m P_m(x)     (P_m: see `discretized_logistic_log_prob`)

    Args:
      mixture_logits: unnormalized log-weights, in the event's shape with the components on one more axis at the end.
      loc, log_scale: location and natural log of the scale of each component, in the same shape.
      x: levels 0 ... num_bins - 1, shape of the event, of any real dtype.
      num_bins: number of levels, >= 2 (static).

    Returns:
      Scalar, nats of the discrete data, <= 0, sum over the event.

    Example:
      >>> zeros, x = jnp.zeros((2, 3, 5)), jnp.zeros((2, 3))
      >>> print(jax.vmap(logistic_mixture_log_prob)(zeros, zeros, zeros - 3.0, x))
      [-2.02 -2.02]

    Source:
      Salimans et al. (2017).
    """
    check_bins("logistic_mixture_log_prob", num_bins)
    (mixture_logits, loc, log_scale, x), dtype = one_event(
        "logistic_mixture_log_prob",
        extra_axes={"mixture_logits": 1, "loc": 1, "log_scale": 1},
        mixture_logits=mixture_logits,
        loc=loc,
        log_scale=log_scale,
        x=x,
    )
    return jnp.sum(_logistic_mixture_terms(mixture_logits, loc, log_scale, x, num_bins)).astype(dtype)


def _logistic_mixture_terms(mixture_logits: Array, loc: Array, log_scale: Array, x: Array, num_bins: int) -> Array:
    return _log_mixture(mixture_logits, level_log_prob(loc, log_scale, x[:, None], num_bins))


def _log_mixture(mixture_logits: Array, log_probs: Array) -> Array:
    """Computes log sum_m softmax(mixture_logits)_m exp(log_probs_m) over the last axis."""
    return jax.nn.logsumexp(jax.nn.log_softmax(mixture_logits) + log_probs, axis=-1)


def _couple(loc: Array, coefficients: Array, red: Array, green: Array) -> Array:
    """Computes the locations of all channels, (..., 3, components), given the red and green values in [0, 1]."""
    c = jnp.tanh(coefficients)
    loc_green = loc[..., 1, :] + c[..., 0, :] * (red - 0.5)
    loc_blue = loc[..., 2, :] + c[..., 1, :] * (red - 0.5) + c[..., 2, :] * (green - 0.5)
    return jnp.stack([loc[..., 0, :], loc_green, loc_blue], axis=-2)


def logistic_mixture_rgb_log_prob(
    mixture_logits: Float[ArrayLike, "*pixels components"],
    loc: Float[ArrayLike, "*pixels 3 components"],
    log_scale: Float[ArrayLike, "*pixels 3 components"],
    coefficients: Float[ArrayLike, "*pixels 3 components"],
    x: Real[ArrayLike, "*pixels 3"],
    num_bins: int = 256,
) -> Float[Array, ""]:
    """Computes the log-likelihood of one color image under a mixture for each pixel, whose channels depend on each other.

        log p(x) = sum_pixels log sum_m softmax(mixture_logits)_m P_m(r) P_m(g | r) P_m(b | r, g),   c = tanh(coefficients)
        locations: loc_r,   loc_g + c_0 (y_r - 1/2),   loc_b + c_1 (y_r - 1/2) + c_2 (y_g - 1/2),   y = level/(num_bins - 1)

    This is the output of PixelCNN++, moved from [-1, 1] to [0, 1].

    Args:
      mixture_logits: unnormalized log-weights, shape (*pixels, components).
      loc, log_scale: location and natural log of the scale, shape (*pixels, 3, components).
      coefficients: dependence of green on red, blue on red, and blue on green, shape (*pixels, 3, components).
      x: levels 0 ... num_bins - 1, shape (*pixels, 3), of any real dtype.
      num_bins: number of levels, >= 2 (static).

    Returns:
      Scalar, nats of the discrete data, <= 0, sum over pixels and channels.

    Example:
      >>> logits, zeros, x = jnp.zeros((4, 5)), jnp.zeros((4, 3, 5)), jnp.zeros((4, 3))
      >>> print(logistic_mixture_rgb_log_prob(logits, zeros, zeros - 3.0, zeros, x))
      -8.08

    Source:
      Salimans et al. (2017).
    """
    check_bins("logistic_mixture_rgb_log_prob", num_bins)
    (mixture_logits, loc, log_scale, coefficients, x), dtype = promote(mixture_logits, loc, log_scale, coefficients, x)
    full = (*x.shape, *mixture_logits.shape[-1:])
    shapes = [a.shape for a in (mixture_logits, loc, log_scale, coefficients)]
    if x.shape[-1:] != (3,) or shapes != [(*x.shape[:-1], *mixture_logits.shape[-1:]), full, full, full]:
        raise ValueError(
            "logistic_mixture_rgb_log_prob: expected one example with mixture_logits (*pixels, components), loc, log_scale and "
            f"coefficients (*pixels, 3, components) and x (*pixels, 3), got {', '.join(map(str, [*shapes, x.shape]))}. "
            "The function takes ONE example: use jax.vmap for a batch."
        )
    y = x[..., None] / (num_bins - 1)
    locs = _couple(loc, coefficients, y[..., 0, :], y[..., 1, :])
    components = jnp.sum(level_log_prob(locs, log_scale, x[..., None], num_bins), axis=-2)
    return jnp.sum(_log_mixture(mixture_logits, components)).astype(dtype)


def _output_for_mean(mean: Array, start: float | Array, floor: float, num_bins: int, num_components: int, parts: int) -> Array:
    """Returns the decoder output with equal weights, all components at the location of the mean, and all other parts 0."""
    loc = jnp.repeat(loc_for_mean(mean, start, floor, num_bins)[..., None], num_components, axis=-1)
    return jnp.concatenate([jnp.zeros_like(loc), loc, *[jnp.zeros_like(loc)] * (parts - 2)], axis=-1)


def _check_components(name: str, num_components: int) -> None:
    """Raises `ValueError` for fewer than one component."""
    if num_components < 1:
        raise ValueError(f"{name}: expected num_components >= 1, got {num_components}.")


def logistic_mixture(num_bins: int = 256, num_components: int = 10, *, initial_scale: float = 0.1) -> Likelihood:
    """Makes the likelihood for integer levels with a mixture of rounded logistics for each dimension.

    Use it for photographs where one logistic is too simple: it can have several modes, and spikes at the ends. It has three
    decoder outputs for each component and dimension, [logits | locations | raw log-scales] on the last axis. For colors, use
    `logistic_mixture_rgb`.

    Args:
      num_bins: the number of levels, >= 2; x is k/(num_bins - 1).
      num_components: the number of components, >= 1.
      initial_scale: initial value of the scales, > 0.

    Returns:
      The `Likelihood`.
    """
    _check_components("logistic_mixture", num_components)
    start, floor = scale_start("logistic_mixture", num_bins, initial_scale)

    def split(output: Array) -> tuple[Array, Array, Array]:
        logits, loc, raw = jnp.split(output, 3, axis=-1)
        return logits, loc, soft_floor(start + raw, floor)

    def mean(output: Array) -> Array:
        logits, loc, log_scale = split(output)
        return jnp.sum(jax.nn.softmax(logits) * expected_level(loc, log_scale, num_bins), axis=-1)

    def sample(key: Array, output: Array) -> Array:
        logits, loc, log_scale = split(output)
        key_component, key_level = jax.random.split(key)
        chosen = jax.random.categorical(key_component, logits)[..., None]
        loc, log_scale = (jnp.take_along_axis(a, chosen, axis=-1)[..., 0] for a in (loc, log_scale))
        return draw_level(key_level, loc, log_scale, num_bins)

    return Likelihood(
        name="logistic_mixture",
        log_prob=lambda output, x: logistic_mixture_log_prob(*split(output), to_levels(x, num_bins), num_bins),
        log_prob_per_entry=lambda output, x: entrywise(
            partial(_logistic_mixture_terms, num_bins=num_bins), *split(output), to_levels(x, num_bins)
        ),
        mean=mean,
        sample=sample,
        support="levels",
        outputs_per_dim=3 * num_components,
        output_for_mean=lambda mean: _output_for_mean(mean, start, floor, num_bins, num_components, 3),
        num_levels=num_bins,
    )


def logistic_mixture_rgb(num_bins: int = 256, num_components: int = 10, *, initial_scale: float = 0.1) -> Likelihood:
    """Makes the PixelCNN++ likelihood for color images of shape (..., 3).

    Each pixel has a mixture in which green depends on red, and blue on both. It has four decoder outputs for each component and
    dimension, [logits | locations | raw log-scales | raw coefficients] on the last axis. The mixture logits of a pixel are the
    sum over its channels. The `mean` of the bundle inserts the means of red and green into the locations that depend on them,
    which is exact except for the mass beyond the ends.

    Args:
      num_bins: the number of levels, >= 2; x is k/(num_bins - 1).
      num_components: the number of components, >= 1.
      initial_scale: initial value of the scales, > 0.

    Returns:
      The `Likelihood`.
    """
    _check_components("logistic_mixture_rgb", num_components)
    start, floor = scale_start("logistic_mixture_rgb", num_bins, initial_scale)

    def split(output: Array) -> tuple[Array, Array, Array, Array]:
        logits, loc, raw, coefficients = jnp.split(output, 4, axis=-1)
        return jnp.sum(logits, axis=-2), loc, soft_floor(start + raw, floor), coefficients

    def channels(level: Callable[[int, Array, Array], Array], loc: Array, log_scale: Array, coefficients: Array) -> Array:
        """Computes red, then green given red, then blue given both. `level` maps (channel, loc, log_scale) to [0, 1]."""
        red = level(0, loc[..., 0, :], log_scale[..., 0, :])
        green = level(1, _couple(loc, coefficients, red, red)[..., 1, :], log_scale[..., 1, :])
        blue = level(2, _couple(loc, coefficients, red, green)[..., 2, :], log_scale[..., 2, :])
        return jnp.stack([red, green, blue], axis=-2)

    def mean(output: Array) -> Array:
        logits, *rest = split(output)
        means = channels(lambda channel, loc, log_scale: expected_level(loc, log_scale, num_bins), *rest)
        return jnp.sum(jax.nn.softmax(logits)[..., None, :] * means, axis=-1)

    def sample(key: Array, output: Array) -> Array:
        logits, *rest = split(output)
        keys = jax.random.split(key, 4)
        chosen = jax.random.categorical(keys[3], logits)[..., None, None]
        rest = [jnp.take_along_axis(a, chosen, axis=-1) for a in rest]
        return channels(lambda channel, loc, log_scale: draw_level(keys[channel], loc, log_scale, num_bins), *rest)[..., 0]

    return Likelihood(
        name="logistic_mixture_rgb",
        log_prob=lambda output, x: logistic_mixture_rgb_log_prob(*split(output), to_levels(x, num_bins), num_bins),
        dependence="The channels of a pixel depend on each other given z. Use logistic_mixture, whose channels do not.",
        mean=mean,
        sample=sample,
        support="levels",
        outputs_per_dim=4 * num_components,
        output_for_mean=lambda mean: _output_for_mean(mean, start, floor, num_bins, num_components, 4),
        num_levels=num_bins,
    )
