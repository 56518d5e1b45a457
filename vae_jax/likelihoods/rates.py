"""Rates of counts from raw decoder outputs: on a scale of their own, or as a share of the row's observed total."""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from vae_jax._numerics.arrays import promote
from vae_jax.likelihoods.base import check_positive, natural_log

Exposure = Literal["none", "observed"]
# Completes the message of bundles that refuse missing entries.
SHARE_OF_TOTAL = (
    "The rate of each entry is a share of the total of the row, which is not known where entries are missing. Use "
    '`exposure="none"`.'
)
_LOG_ZERO = -1e4  # the log of a rate that is 0; exp gives exactly 0 in every dtype, and no gradient is NaN


class Rates(NamedTuple):
    """Conversions between the decoder's raw numbers, in the shape of the event, and rates.

    Attributes:
      log_rate: (raw, x) -> natural log of the rate at which counts x are scored.
      log_mean_rate: raw -> natural log of the rate without an x; with exposure, that of a row with the mean total.
      mean_rate: raw -> the same rate.
      raw_for_mean: rate -> raw.
      scale_mean: (raw, c) -> raw of c times the rate; with exposure, of proportions that are c times as large.
    """

    log_rate: Callable[[Array, Array], Array]
    log_mean_rate: Callable[[Array], Array]
    mean_rate: Callable[[Array], Array]
    raw_for_mean: Callable[[Array], Array]
    scale_mean: Callable[[Array, Array], Array]


def make_rates(function: str, unit: Float[ArrayLike, "*#event"], exposure: Exposure, total: float) -> Rates:
    """Makes the conversions for a bundle of counts.

    Args:
      function: name of the bundle, for messages.
      unit: scale of the rates, > 0, a number or an array of the event's shape.
      exposure: "none": rate = unit softplus(raw). "observed": rate = (sum of x) softmax(log unit + raw), with the softmax over
        all entries of the event.
      total: the sum of x that "observed" takes where there is no x, > 0.

    Raises:
      ValueError: an argument is out of range.
    """
    check_positive(function, unit=unit, total=total)
    if exposure not in get_args(Exposure):
        raise ValueError(f"{function}: expected exposure to be 'none' or 'observed', got {exposure!r}.")
    if exposure == "none":
        return Rates(
            lambda raw, x: _log_rate(raw, unit),
            lambda raw: _log_rate(raw, unit),
            lambda raw: jnp.asarray(unit * jax.nn.softplus(raw)),
            lambda mean: _raw_for_mean(mean, unit),
            _scale_mean,
        )

    def log_mean_rate(raw: Array) -> Array:
        return log_proportions(raw, unit) + natural_log(total)

    return Rates(
        lambda raw, x: exposed_log_rate(raw, x, unit),
        log_mean_rate,
        lambda raw: jnp.exp(log_mean_rate(raw)),
        lambda mean: raw_for_proportions(mean, unit),
        scale_proportions,
    )


def _log_rate(raw: Array, unit: ArrayLike) -> Array:
    """Computes log(unit softplus(raw)).

    The rate grows in proportion to the decoder output, where exp would overflow on an extreme draw of z.
    """
    tiny = raw < -10
    rate = jax.nn.softplus(jnp.where(tiny, 0, raw))
    return natural_log(unit) + jnp.where(tiny, raw - 0.5 * jnp.exp(jnp.where(tiny, raw, 0)), jnp.log(rate))


def _raw_for_mean(mean: Array, unit: ArrayLike) -> Array:
    """Computes the decoder output with unit softplus(raw) = mean."""
    ratio = jnp.maximum(mean / unit, 1e-3)  # a pixel that is always 0 starts there rather than at minus infinity
    return ratio + jnp.log(-jnp.expm1(-ratio))


def _scale_mean(raw: Array, factor: Array) -> Array:
    """Computes the decoder output with softplus(result) = factor softplus(raw)."""
    scaled = jnp.maximum(factor * jax.nn.softplus(raw), 1e-30)
    return scaled + jnp.log(-jnp.expm1(-scaled))


def log_proportions(raw: Float[Array, "*event"], unit: Float[ArrayLike, "*#event"] = 1.0) -> Float[Array, "*event"]:
    """Computes log softmax(log unit + raw) over all entries of the event."""
    return jax.nn.log_softmax(natural_log(unit) + raw, axis=None)


def exposed_log_rate(
    raw: Float[Array, "*event"], x: Real[Array, "*event"], unit: Float[ArrayLike, "*#event"] = 1.0
) -> Float[Array, "*event"]:
    """Computes log(total softmax(log unit + raw)) with the total of the counts x, in at least float32.

    An empty row has rates of exactly 0.
    """
    (raw, x), _ = promote(raw, x)
    total = jnp.sum(x)
    log_rate = log_proportions(raw, unit) + jnp.log(jnp.where(total > 0, total, 1))
    return jnp.where(total > 0, log_rate, _LOG_ZERO)


def raw_for_proportions(mean: Float[Array, "*event"], unit: Float[ArrayLike, "*#event"] = 1.0) -> Float[Array, "*event"]:
    """Computes raw numbers with softmax(log unit + raw) = mean / (sum of mean).

    An entry whose mean is below 1/1000 of the average entry's starts there rather than at minus infinity.
    """
    return jnp.log(jnp.maximum(mean / jnp.mean(mean), 1e-3)) - natural_log(unit)


def scale_proportions(raw: Float[Array, "*event"], factor: Float[Array, "*#event"]) -> Float[Array, "*event"]:
    """Computes raw numbers whose proportions are `factor` times as large, before they are normalized again."""
    return raw + jnp.log(factor)
