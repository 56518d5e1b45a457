"""Counts 0, 1, 2, ...: Poisson and negative binomial."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vae_jax._numerics.arrays import one_event
from vae_jax._numerics.keys import threefry_key
from vae_jax._numerics.special import expm1_minus, stirling_error, stirling_error_of_count
from vae_jax.likelihoods.base import Likelihood, check_positive, log_of, second_parameter

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def poisson_log_prob(log_rate: ArrayLike, x: ArrayLike) -> Array:
    """Poisson log-likelihood of one example with independent dimensions.

        log p(x) = sum_d [ x log_rate - exp(log_rate) - log x! ]
                 = sum_d [ -x (exp(t) - 1 - t) - S(x) - 1/2 log(2 pi x) ],   t = log_rate - log x,   coded for x > 0

    S is the error of Stirling's formula: the first form subtracts numbers of size x log x to be left with one of size log x.

    Args:
      log_rate: natural log of the mean, any real values, shape of the event.
      x: counts 0, 1, 2, ..., same shape.

    Returns:
      Scalar, nats, <= 0, sum over the event.

    Numerics:
      Relative precision for counts up to 10,000 in float32 (beyond, log_rate itself has too few digits: 3e-5 at 1e6); finite
      value and gradient for |log_rate| <= 20 in float32 and bfloat16.

    Example:
      >>> log_rate, x = jnp.zeros((2, 3)), jnp.ones((2, 3))
      >>> print(jax.vmap(poisson_log_prob)(log_rate, x))
      [-3.00 -3.00]

    Source:
      Poisson (1837); the stable form is Loader (2000).
    """
    (log_rate, x), dtype = one_event("poisson_log_prob", log_rate=log_rate, x=x)
    positive = jnp.maximum(x, 1)
    t, rate = log_rate - jnp.log(positive), jnp.exp(log_rate)
    # Far above the count x exp(t) is the rate itself, without the rounding of t.
    deviance = jnp.where(t > 2, rate - positive * (1 + t), positive * expm1_minus(jnp.minimum(t, 2)))
    some = -deviance - stirling_error_of_count(positive) - _HALF_LOG_2PI - 0.5 * jnp.log(positive)
    return jnp.sum(jnp.where(x > 0, some, -rate)).astype(dtype)


def negative_binomial_log_prob(log_mean: ArrayLike, log_dispersion: ArrayLike, x: ArrayLike) -> Array:
    """Negative binomial log-likelihood of one example with independent dimensions: counts that vary more than Poisson's.

        log p(x) = sum_d [ log Gamma(x + r) - log Gamma(r) - log x! + r log(r / (r + m)) + x log(m / (r + m)) ],
        m = exp(log_mean),  r = exp(log_dispersion);   mean m, variance m + m^2 / r

    Coded as a binomial's saddle-point form (with the deviances of r and of x and the errors of Stirling's formula), in which
    nothing cancels: r to infinity is the Poisson distribution, to all digits.

    Args:
      log_mean: natural log of the mean, any real values, shape of the event.
      log_dispersion: natural log of the total count r (inverse dispersion); a scalar for all dimensions or the event's shape.
      x: counts 0, 1, 2, ..., shape of the event.

    Returns:
      Scalar, nats, <= 0, sum over the event.

    Numerics:
      As `poisson_log_prob`; finite value and gradient for |log_mean| <= 20 and |log_dispersion| <= 20.

    Example:
      >>> log_mean, x = jnp.zeros((2, 3)), jnp.ones((2, 3))
      >>> print(jax.vmap(negative_binomial_log_prob, in_axes=(0, None, 0))(log_mean, 0.0, x))
      [-4.16 -4.16]

    Source:
      Greenwood & Yule (1920); the stable form is Loader (2000).
    """
    (log_mean, log_dispersion, x), dtype = one_event(
        "negative_binomial_log_prob", may_be_scalar=("log_dispersion",), log_mean=log_mean, log_dispersion=log_dispersion, x=x
    )
    mean, r = jnp.exp(log_mean), jnp.exp(log_dispersion)
    none = -r * jax.nn.softplus(log_mean - log_dispersion)
    positive = jnp.maximum(x, 1)
    # log((r + x) / (r + m)): by how much x exceeds its mean once both are shrunk towards r; and log of (r + x) m / ((r + m) x).
    # Each in two forms, of which one loses its digits where x is close to m and the other where r is small against m.
    log_x, relative = jnp.log(positive), (positive - mean) / (r + mean)
    near = jnp.abs(relative) < 0.5
    far_apart = jnp.log(r + positive) - jnp.logaddexp(log_dispersion, log_mean)
    shrunk = jnp.where(near, jnp.log1p(jnp.where(near, relative, 0)), far_apart)
    overdispersed = jnp.log1p(r / positive) - jax.nn.softplus(log_dispersion - log_mean)
    excess = jnp.where(log_dispersion < log_mean, overdispersed, shrunk + log_mean - log_x)
    deviance = r * expm1_minus(shrunk) + positive * expm1_minus(excess)
    stirling = stirling_error(r + positive) - stirling_error(r) - stirling_error_of_count(positive)
    some = stirling - deviance - _HALF_LOG_2PI + 0.5 * (log_dispersion - jnp.log(r + positive) - log_x)
    return jnp.sum(jnp.where(x > 0, some, none)).astype(dtype)


def _log_rate(raw: Array, unit: ArrayLike) -> Array:
    """log(unit softplus(raw)): it grows in proportion to the decoder's output, where exp would overflow on a wild draw of z."""
    tiny = raw < -10
    rate = jax.nn.softplus(jnp.where(tiny, 0, raw))
    return log_of(unit) + jnp.where(tiny, raw - 0.5 * jnp.exp(jnp.where(tiny, raw, 0)), jnp.log(rate))


def _raw_for_mean(mean: Array, unit: ArrayLike) -> Array:
    ratio = jnp.maximum(mean / unit, 1e-3)  # a pixel that is always 0 starts there rather than at minus infinity
    return ratio + jnp.log(-jnp.expm1(-ratio))


def _scale_mean(raw: Array, factor: Array) -> Array:
    """Returns the raw number with softplus(result) = factor softplus(raw)."""
    scaled = jnp.maximum(factor * jax.nn.softplus(raw), 1e-30)
    return scaled + jnp.log(-jnp.expm1(-scaled))


def poisson(unit: ArrayLike = 1.0) -> Likelihood:
    """Counts. The decoder emits raw numbers, rate = unit softplus(raw).

    When to use it: photon or event counts, whose variance is their mean. Where they vary more, `negative_binomial` fits.

    Args:
      unit: the rate's scale; the mean count of the data keeps the decoder's numbers near one. An array of the event's shape
        gives each entry its own.
    """
    check_positive("poisson", unit=unit)
    return Likelihood(
        name="poisson",
        log_prob=lambda raw, x: poisson_log_prob(_log_rate(raw, unit), x),
        mean=lambda raw: jnp.asarray(unit * jax.nn.softplus(raw)),
        sample=lambda key, raw: jax.random.poisson(threefry_key(key), unit * jax.nn.softplus(raw)).astype(raw.dtype),
        support="counts",
        output_for_mean=lambda mean: _raw_for_mean(mean, unit),
        scale_mean=_scale_mean,
    )


def negative_binomial(
    dispersion: float | Literal["shared", "per_pixel"] = "shared",
    *,
    initial_dispersion: float = 1.0,
    unit: ArrayLike = 1.0,
) -> Likelihood:
    """Counts that vary more than Poisson's (single-cell RNA, events in bursts). The decoder emits raw: mean unit softplus(raw).

    Args:
      dispersion: the total count r (small: overdispersed; infinite: Poisson): a positive number, "shared" for one that is
        learned and serves all dimensions, or "per_pixel" for a second decoder output, log r = log(initial_dispersion) + raw.
      initial_dispersion: where a learned r starts.
      unit: as in `poisson`.
    """
    check_positive("negative_binomial", unit=unit, initial_dispersion=initial_dispersion)
    read, fill, fields = second_parameter("negative_binomial", "dispersion", dispersion, math.log(initial_dispersion))

    def split(output: Any) -> tuple[Array, Any]:
        raw, log_dispersion = read(output)
        return _log_rate(raw, unit), log_dispersion

    def sample(key: Array, output: Any) -> Array:
        log_mean, log_dispersion = split(output)
        key_rate, key_count = jax.random.split(key)
        log_dispersion = jnp.broadcast_to(log_dispersion, log_mean.shape).astype(log_mean.dtype)
        log_gamma = jax.random.loggamma(key_rate, jnp.exp(log_dispersion))
        return jax.random.poisson(threefry_key(key_count), jnp.exp(log_gamma + log_mean - log_dispersion)).astype(
            log_mean.dtype
        )

    return Likelihood(
        name="negative_binomial",
        log_prob=lambda output, x: negative_binomial_log_prob(*split(output), x),
        mean=lambda output: jnp.exp(split(output)[0]),
        sample=sample,
        support="counts",
        output_for_mean=lambda mean: fill(_raw_for_mean(mean, unit)),
        scale_mean=_scale_mean,
        **fields,
    )
