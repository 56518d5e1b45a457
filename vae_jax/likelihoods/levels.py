"""Discretized logistic and categorical likelihoods for integer levels, such as gray values 0 ... 255."""

import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int, Key, Real

from vae_jax._numerics.arrays import one_event
from vae_jax._numerics.special import log1mexp, soft_floor
from vae_jax.likelihoods.base import Likelihood, check_positive, entrywise, invert_increasing, natural_log
from vae_jax.likelihoods.second_parameter import second_parameter

# Scales are kept above 5 % of a bin. Narrower ones change probabilities by less than rounding, and gradients would explode.
_MIN_SCALE_IN_BINS = 0.05


def edges(
    loc: Float[Array, "*shape"], level: Real[Array, "*#shape"], num_bins: int
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Computes the distances of a level's upper and lower bin edge from loc, in bins: level +- 1/2 - (num_bins - 1) loc.

    (num_bins - 1) is written as a power of two minus a remainder. The product with the power is exact, so digits are not lost
    where a narrow distribution sits on the level itself.
    """
    power = 2 ** math.ceil(math.log2(num_bins - 1)) if num_bins > 2 else 1
    remainder = (power - (num_bins - 1)) * loc
    scaled = power * loc
    return (level + 0.5 - scaled) + remainder, (level - 0.5 - scaled) + remainder


def level_log_prob(
    loc: Float[Array, "*shape"], log_scale: Float[Array, "*shape"], level: Float[Array, "*#shape"], num_bins: int
) -> Float[Array, "*shape"]:
    """Computes the log-probability of levels elementwise.

    It uses sigma(a) - sigma(b) = sigma(a) sigma(-b) (1 - exp(b - a)), in which nothing cancels.
    """
    steepness = jnp.exp(-log_scale) / (num_bins - 1)  # 1 / scale in bins
    upper, lower = edges(loc, level, num_bins)
    below = jnp.where(
        level < num_bins - 1, jax.nn.softplus(-upper * steepness), 0
    )  # -log sigma(a), and the last bin is open above
    above = jnp.where(level > 0, jax.nn.softplus(lower * steepness), 0)  # -log sigma(-b), and the first is open below
    inner = jnp.where((level > 0) & (level < num_bins - 1), log1mexp(steepness), 0)
    return inner - below - above


def check_bins(function: str, num_bins: int) -> None:
    """Raises `ValueError` for fewer than two levels."""
    if num_bins < 2:
        raise ValueError(f"{function}: expected num_bins >= 2, got {num_bins}.")


def discretized_logistic_log_prob(
    loc: Float[ArrayLike, "*event"],
    log_scale: Float[ArrayLike, "*#event"],
    x: Real[ArrayLike, "*event"],
    num_bins: int = 256,
) -> Float[Array, ""]:
    """Computes the discretized logistic log-likelihood of one example with integer levels.

        P(k) = sigma((y + h - loc)/s) - sigma((y - h - loc)/s),   y = k/(n - 1),  h = 1/(2 (n - 1)),  s = exp(log_scale)
        log P(k) = log sigma(a) + log sigma(-b) + log(1 - exp(-2 h/s)),   a, b the arguments above

    This is a logistic distribution rounded to the nearest level. The first and last level take all mass beyond them, so the
    probabilities sum to one for any loc and scale. The second form holds in the tails, where the difference in the first is 0.

    Args:
      loc: location on the scale where level k sits at k/(n - 1), shape of the event.
      log_scale: natural log of the logistic's scale s (its standard deviation is pi/sqrt(3) s). A scalar, or the shape of the
        event.
      x: levels 0 ... n - 1, shape of the event, of any real dtype.
      num_bins: n, the number of levels, >= 2 (static).

    Returns:
      Scalar, nats of the discrete data, <= 0, sum over the event.

    Numerics:
      Nothing is clipped or approximated by the density, so the relative precision is full any number of scales away from loc.
      Value and gradient are finite for |log_scale| <= 20 in float32 and bfloat16.

    Example:
      >>> loc, x = jnp.full((2, 3), 0.5), jnp.full((2, 3), 127)
      >>> print(jax.vmap(discretized_logistic_log_prob, in_axes=(0, None, 0))(loc, -3.0, x))
      [-11.79 -11.79]

    Source:
      Kingma et al. (2016), with the edges of Salimans et al. (2017).
    """
    check_bins("discretized_logistic_log_prob", num_bins)
    (loc, log_scale, x), dtype = one_event(
        "discretized_logistic_log_prob", may_be_scalar=("log_scale",), loc=loc, log_scale=log_scale, x=x
    )
    return jnp.sum(level_log_prob(loc, log_scale, x, num_bins)).astype(dtype)


def categorical_log_prob(logits: Float[ArrayLike, "*event classes"], x: Real[ArrayLike, "*event"]) -> Float[Array, ""]:
    """Computes the categorical log-likelihood of one example, whose dimensions are classes such as the gray levels.

        log p(x) = sum_d [ logits_x - log sum_j exp(logits_j) ] = -sum_d softplus(log sum_{j != x} exp(logits_j - logits_x))

    This is the negative of cross-entropy with integer labels, summed over the pixels. The second form is coded, because it
    keeps its digits where the right class is almost certain.

    Args:
      logits: unnormalized log-probabilities, any real values, in the event's shape with the classes (>= 2) on one more axis.
      x: classes 0 ... C - 1, shape of the event, of any real dtype.

    Returns:
      Scalar, nats, <= 0, sum over the event.

    Example:
      >>> logits, x = jnp.zeros((2, 3, 4)), jnp.ones((2, 3))
      >>> print(jax.vmap(categorical_log_prob)(logits, x))
      [-4.16 -4.16]

    Source:
      Van den Oord et al. (2016), section 2.2, who use it as PixelCNN's output.
    """
    (logits, x), dtype = one_event("categorical_log_prob", extra_axes={"logits": 1}, logits=logits, x=x)
    return -jnp.sum(_categorical_cross_entropy(logits, x)).astype(dtype)


def _categorical_cross_entropy(logits: Array, x: Array) -> Array:
    level = x.astype(jnp.int32)[:, None]
    others = jnp.arange(logits.shape[-1], dtype=jnp.int32)[None] != level
    relative = jnp.where(others, logits - jnp.take_along_axis(logits, level, axis=-1), -jnp.inf)
    return jax.nn.softplus(jax.nn.logsumexp(relative, axis=-1))


def expected_level(
    loc: Float[Array, "*shape"], log_scale: Float[Array, "*#shape"] | float, num_bins: int
) -> Float[Array, "*shape"]:
    """Computes the mean of the discretized logistic on [0, 1] elementwise: sum_k P(level > k) / (num_bins - 1)."""
    steepness = jnp.exp(-log_scale) / (num_bins - 1)

    def above(k: Int[Array, ""]) -> Array:
        return jax.nn.sigmoid(-edges(loc, k.astype(loc.dtype), num_bins)[0] * steepness)

    total = jax.lax.fori_loop(0, num_bins - 1, lambda k, total: total + above(k), jnp.zeros_like(loc))
    return total / (num_bins - 1)


def loc_for_mean(mean: Float[Array, "*shape"], start: float | Array, floor: float, num_bins: int) -> Float[Array, "*shape"]:
    """Computes the location with this mean at the initial scale.

    Means at the ends of [0, 1], which a logistic cannot have, are moved inwards.
    """
    log_scale = soft_floor(jnp.asarray(start, jnp.float32), floor)
    return invert_increasing(lambda loc: expected_level(loc, log_scale, num_bins), jnp.clip(mean, 1e-3, 1 - 1e-3), -9.0, 10.0)


def draw_level(
    key: Key[Array, ""], loc: Float[Array, "*shape"], log_scale: Float[Array, "*#shape"] | float, num_bins: int
) -> Float[Array, "*shape"]:
    """Draws levels in [0, 1]: logistic draws, rounded to the nearest level and clipped to the ends."""
    y = loc + jnp.exp(log_scale) * jax.random.logistic(key, loc.shape, loc.dtype)
    return jnp.clip(jnp.round(y * (num_bins - 1)), 0, num_bins - 1) / (num_bins - 1)


def to_levels(x: Float[Array, "*shape"], num_bins: int) -> Float[Array, "*shape"]:
    """Converts values k/(num_bins - 1) in [0, 1] to the levels k."""
    return jnp.round(x * (num_bins - 1))


def scale_start(name: str, num_bins: int, initial_scale: Float[ArrayLike, "*columns"]) -> tuple[float | Array, float]:
    """Returns the initial log-scale, a number or an array like `initial_scale`, and its floor."""
    check_bins(name, num_bins)
    check_positive(name, initial_scale=initial_scale)
    floor = math.log(_MIN_SCALE_IN_BINS / (num_bins - 1))
    start = natural_log(initial_scale)
    return jnp.maximum(start, floor + 1) if isinstance(start, Array) else max(start, floor + 1), floor


def discretized_logistic(
    num_bins: int = 256,
    scale: Literal["shared", "per_column", "per_pixel"] = "shared",
    *,
    initial_scale: Float[ArrayLike, "*columns"] = 0.1,
) -> Likelihood:
    """Makes the rounded logistic likelihood for integer levels. The decoder emits the location.

    Use it for photographs. It gives exact nats (and bits per dimension) of the discrete data at the cost of a Gaussian.

    Args:
      num_bins: the number of levels, >= 2; x is k/(num_bins - 1).
      scale: "shared" learns one scale for all pixels. "per_column" learns one for each channel, or each column of a vector.
        "per_pixel" reads a second decoder output, added to log(initial_scale).
      initial_scale: initial value of the scale, > 0. A good value is 0.55 of the data's standard deviation. With "per_column"
        an array with one number for each channel.

    Returns:
      The `Likelihood`.
    """
    start, floor = scale_start("discretized_logistic", num_bins, initial_scale)
    if scale not in ("shared", "per_column", "per_pixel"):
        raise ValueError(f"discretized_logistic: expected scale to be 'shared', 'per_column' or 'per_pixel', got {scale!r}.")

    split, fill, fields = second_parameter(
        "discretized_logistic", "scale", scale, start, lambda log_scale: soft_floor(log_scale, floor)
    )

    return Likelihood(
        name="discretized_logistic",
        log_prob=lambda output, x: discretized_logistic_log_prob(*split(output), to_levels(x, num_bins), num_bins),
        log_prob_per_entry=lambda output, x: entrywise(
            partial(level_log_prob, num_bins=num_bins), *split(output), to_levels(x, num_bins)
        ),
        mean=lambda output: expected_level(*split(output), num_bins),
        sample=lambda key, output: draw_level(key, *split(output), num_bins),
        support="levels",
        output_for_mean=lambda mean: fill(loc_for_mean(mean, start, floor, num_bins)),
        num_levels=num_bins,
        **fields,
    )


def categorical(num_bins: int = 256) -> Likelihood:
    """Makes the categorical likelihood for integer levels: any distribution over them, one decoder output for each level.

    Use it for few levels, or for labels without an order. With 256 levels it is costly and has to learn that neighboring levels
    are alike, so prefer `discretized_logistic` or `logistic_mixture`.

    Args:
      num_bins: the number of levels, >= 2; x is k/(num_bins - 1).

    Returns:
      The `Likelihood`.
    """
    check_bins("categorical", num_bins)

    def grid(dtype: DTypeLike) -> Array:
        return jnp.arange(num_bins, dtype=dtype) / (num_bins - 1)

    def mean(logits: Array) -> Array:
        return jax.nn.softmax(logits) @ grid(logits.dtype)

    def output_for_mean(target: Array) -> Array:
        def tilt(slope: Array) -> Array:  # logits linear in the level have the largest entropy for a given mean
            return jnp.multiply.outer(slope, grid(target.dtype))

        return tilt(invert_increasing(lambda slope: mean(tilt(slope)), jnp.clip(target, 1e-3, 1 - 1e-3), -2e3, 2e3))

    return Likelihood(
        name="categorical",
        log_prob=lambda logits, x: categorical_log_prob(logits, to_levels(x, num_bins)),
        log_prob_per_entry=lambda logits, x: -entrywise(_categorical_cross_entropy, logits, to_levels(x, num_bins)),
        mean=mean,
        sample=lambda key, logits: jax.random.categorical(key, logits).astype(logits.dtype) / (num_bins - 1),
        support="levels",
        outputs_per_dim=num_bins,
        output_for_mean=output_for_mean,
        num_levels=num_bins,
    )
