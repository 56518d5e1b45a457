"""Poisson and negative binomial likelihoods for counts 0, 1, 2, ..."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Real

from vae_jax._numerics.arrays import one_event
from vae_jax._numerics.poisson import poisson as draw_poisson
from vae_jax._numerics.special import expm1_minus, stirling_error, stirling_error_for_counts
from vae_jax.likelihoods.base import DecoderOutput, Likelihood, check_positive, entrywise, natural_log
from vae_jax.likelihoods.rates import SHARE_OF_TOTAL, Exposure, make_rates
from vae_jax.likelihoods.second_parameter import second_parameter

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
Dispersion = float | Literal["shared", "per_column", "per_pixel"]


def poisson_log_prob(log_rate: Float[ArrayLike, "*event"], x: Real[ArrayLike, "*event"]) -> Float[Array, ""]:
    """Computes the Poisson log-likelihood of one example with independent dimensions.

        log p(x) = sum_d [ x log_rate - exp(log_rate) - log x! ]
                 = sum_d [ -x (exp(t) - 1 - t) - S(x) - 1/2 log(2 pi x) ],   t = log_rate - log x,   coded for x > 0

    S is the error of Stirling's formula. The first form would subtract numbers of size x log x, and the result has size log x.

    Args:
      log_rate: natural log of the mean, any real values, shape of the event.
      x: counts 0, 1, 2, ..., same shape.

    Returns:
      Scalar, nats, <= 0, sum over the event.

    Numerics:
      Full relative precision for counts up to 10,000 in float32. For larger counts log_rate itself has too few digits, so the
      error is 3e-5 at 1e6. Finite value and gradient for |log_rate| <= 20 in float32 and bfloat16.

    Example:
      >>> log_rate, x = jnp.zeros((2, 3)), jnp.ones((2, 3))
      >>> print(jax.vmap(poisson_log_prob)(log_rate, x))
      [-3.00 -3.00]

    Source:
      Poisson (1837). The stable form is that of Loader (2000).
    """
    (log_rate, x), dtype = one_event("poisson_log_prob", log_rate=log_rate, x=x)
    return jnp.sum(_poisson_terms(log_rate, x)).astype(dtype)


def _poisson_terms(log_rate: Array, x: Array) -> Array:
    positive = jnp.maximum(x, 1)
    t, rate = log_rate - jnp.log(positive), jnp.exp(log_rate)
    # Far above the count, x exp(t) is computed as the rate itself, which is free of the rounding of t.
    deviance = jnp.where(t > 2, rate - positive * (1 + t), positive * expm1_minus(jnp.minimum(t, 2)))
    positive_term = -deviance - stirling_error_for_counts(positive) - _HALF_LOG_2PI - 0.5 * jnp.log(positive)
    return jnp.where(x > 0, positive_term, -rate)


def negative_binomial_log_prob(
    log_mean: Float[ArrayLike, "*event"], log_dispersion: Float[ArrayLike, "*#event"], x: Real[ArrayLike, "*event"]
) -> Float[Array, ""]:
    """Computes the negative binomial log-likelihood of one example with independent dimensions.

    It describes counts that vary more than under a Poisson distribution.

        log p(x) = sum_d [ log Gamma(x + r) - log Gamma(r) - log x! + r log(r / (r + m)) + x log(m / (r + m)) ],
        m = exp(log_mean),  r = exp(log_dispersion);   mean m, variance m + m^2 / r

    It is coded as a binomial's saddle-point form (with the deviances of r and of x and the errors of Stirling's formula), in
    which nothing cancels. The limit r to infinity is the Poisson distribution, to all digits.

    Args:
      log_mean: natural log of the mean, any real values, shape of the event.
      log_dispersion: natural log of the total count r (inverse dispersion). A scalar for all dimensions, or the shape of the
        event.
      x: counts 0, 1, 2, ..., shape of the event.

    Returns:
      Scalar, nats, <= 0, sum over the event.

    Numerics:
      Precision like that of `poisson_log_prob`. Finite value and gradient for |log_mean| <= 20 and |log_dispersion| <= 20.

    Example:
      >>> log_mean, x = jnp.zeros((2, 3)), jnp.ones((2, 3))
      >>> print(jax.vmap(negative_binomial_log_prob, in_axes=(0, None, 0))(log_mean, 0.0, x))
      [-4.16 -4.16]

    Source:
      Greenwood & Yule (1920). The stable form is that of Loader (2000).
    """
    (log_mean, log_dispersion, x), dtype = one_event(
        "negative_binomial_log_prob", may_be_scalar=("log_dispersion",), log_mean=log_mean, log_dispersion=log_dispersion, x=x
    )
    return jnp.sum(_negative_binomial_terms(log_mean, log_dispersion, x)).astype(dtype)


def _negative_binomial_terms(log_mean: Array, log_dispersion: Array, x: Array) -> Array:
    positive_term, zero_term = negative_binomial_terms(log_mean, log_dispersion, x)
    return jnp.where(x > 0, positive_term, zero_term)


def negative_binomial_terms(
    log_mean: Float[Array, "dims"], log_dispersion: Float[Array, "dims"], x: Float[Array, "dims"]
) -> tuple[Float[Array, "dims"], Float[Array, "dims"]]:
    """Computes log p(x) of each dimension in two forms: that for x > 0, finite also at 0, and log p(0)."""
    mean, r = jnp.exp(log_mean), jnp.exp(log_dispersion)
    zero_term = -r * jax.nn.softplus(log_mean - log_dispersion)
    positive = jnp.maximum(x, 1)
    # `shrunk` is log((r + x) / (r + m)), the excess of x over its mean once both are shrunk towards r. `excess` is the log of
    # (r + x) m / ((r + m) x). Each has two forms: one loses its digits where x is close to m, the other where r is small
    # against m.
    log_x, relative = jnp.log(positive), (positive - mean) / (r + mean)
    near = jnp.abs(relative) < 0.5
    far_apart = jnp.log(r + positive) - jnp.logaddexp(log_dispersion, log_mean)
    shrunk = jnp.where(near, jnp.log1p(jnp.where(near, relative, 0)), far_apart)
    overdispersed = jnp.log1p(r / positive) - jax.nn.softplus(log_dispersion - log_mean)
    excess = jnp.where(log_dispersion < log_mean, overdispersed, shrunk + log_mean - log_x)
    deviance = r * expm1_minus(shrunk) + positive * expm1_minus(excess)
    stirling = stirling_error(r + positive) - stirling_error(r) - stirling_error_for_counts(positive)
    positive_term = stirling - deviance - _HALF_LOG_2PI + 0.5 * (log_dispersion - jnp.log(r + positive) - log_x)
    return positive_term, zero_term


def poisson(unit: Float[ArrayLike, "*#event"] = 1.0, *, exposure: Exposure = "none", total: float = 1.0) -> Likelihood:
    """Makes the Poisson likelihood for counts. The decoder emits raw numbers with rate = unit softplus(raw).

    Use it for photon or event counts, whose variance equals their mean. Where they vary more, use `negative_binomial`.

    Args:
      unit: scale of the rate, > 0. The mean count of the data keeps the decoder outputs near one. An array of the event's shape
        sets one unit for each entry.
      exposure: "observed" makes the rate a share of the row's total: rate = (sum of x) softmax(log unit + raw), with the
        softmax over all entries of the event, as scVI does with its observed library size. `log_prob` is then log p(x | total)
        with the total as a covariate: for each fixed total it is normalized over all x, not only over those with this total.
        A row of zeros has rate 0 and log p = 0.
      total: the total that `mean` and `sample` take with exposure, > 0. The mean total of the training data is a good value.

    Returns:
      The `Likelihood`.
    """
    rates = make_rates("poisson", unit, exposure, total)

    def log_prob_per_entry(raw: DecoderOutput, x: Array) -> Array:
        return entrywise(_poisson_terms, rates.log_rate(raw, x), x)

    def mean_given(raw: DecoderOutput, x: Array) -> Array:
        return jnp.exp(rates.log_rate(raw, x))

    def sample_given(key: Array, raw: DecoderOutput, x: Array) -> Array:
        return draw_poisson(key, mean_given(raw, x)).astype(raw.dtype)

    return Likelihood(
        name="poisson",
        log_prob=lambda raw, x: poisson_log_prob(rates.log_rate(raw, x), x),
        log_prob_per_entry=log_prob_per_entry if exposure == "none" else None,
        dependence=SHARE_OF_TOTAL if exposure == "observed" else "",
        mean=rates.mean_rate,
        sample=lambda key, raw: draw_poisson(key, rates.mean_rate(raw)).astype(raw.dtype),
        support="counts",
        output_for_mean=rates.raw_for_mean,
        scale_mean=rates.scale_mean,
        mean_given=mean_given if exposure == "observed" else None,
        sample_given=sample_given if exposure == "observed" else None,
    )


def draw_negative_binomial(
    key: Key[Array, ""], log_mean: Float[Array, "*shape"], log_dispersion: Float[Array, "*#shape"] | float
) -> Float[Array, "*shape"]:
    """Draws negative binomial counts: Poisson counts whose rates are gamma draws."""
    key_rate, key_count = jax.random.split(key)
    log_dispersion = jnp.broadcast_to(log_dispersion, log_mean.shape).astype(log_mean.dtype)
    log_gamma = jax.random.loggamma(key_rate, jnp.exp(log_dispersion))
    return draw_poisson(key_count, jnp.exp(log_gamma + log_mean - log_dispersion))


def negative_binomial(
    dispersion: Dispersion = "shared",
    *,
    initial_dispersion: Float[ArrayLike, "*columns"] = 1.0,
    unit: Float[ArrayLike, "*#event"] = 1.0,
    exposure: Exposure = "none",
    total: float = 1.0,
) -> Likelihood:
    """Makes the negative binomial likelihood for counts that vary more than under a Poisson distribution.

    The decoder emits raw numbers with mean = unit softplus(raw). Use it for single-cell RNA, or for events in bursts.

    Args:
      dispersion: the total count r. A small r is overdispersed, and an infinite one is Poisson. A positive number fixes it.
        "shared" learns one for all dimensions. "per_column" learns one for each index of the last axis: each column of a
        vector, each channel of a series or an image. "per_pixel" reads a second decoder output, with
        log r = log(initial_dispersion) + raw.
      initial_dispersion: initial value of a learned r. With "per_column" an array with one number for each column.
      unit: scale of the mean, > 0, a number or an array of the event's shape (see `poisson`).
      exposure, total: a mean that is a share of the row's total (see `poisson`).

    Returns:
      The `Likelihood`.
    """
    check_positive("negative_binomial", initial_dispersion=initial_dispersion)
    rates = make_rates("negative_binomial", unit, exposure, total)
    start = natural_log(initial_dispersion)
    split, fill, fields = second_parameter("negative_binomial", "dispersion", dispersion, start)

    def log_prob(output: DecoderOutput, x: Array) -> Array:
        raw, log_dispersion = split(output)
        return negative_binomial_log_prob(rates.log_rate(raw, x), log_dispersion, x)

    def log_prob_per_entry(output: DecoderOutput, x: Array) -> Array:
        raw, log_dispersion = split(output)
        return entrywise(_negative_binomial_terms, rates.log_rate(raw, x), log_dispersion, x)

    def sample(key: Array, output: DecoderOutput) -> Array:
        raw, log_dispersion = split(output)
        return draw_negative_binomial(key, rates.log_mean_rate(raw), log_dispersion)

    def mean_given(output: DecoderOutput, x: Array) -> Array:
        return jnp.exp(rates.log_rate(split(output)[0], x))

    def sample_given(key: Array, output: DecoderOutput, x: Array) -> Array:
        raw, log_dispersion = split(output)
        return draw_negative_binomial(key, rates.log_rate(raw, x), log_dispersion)

    return Likelihood(
        name="negative_binomial",
        log_prob=log_prob,
        log_prob_per_entry=log_prob_per_entry if exposure == "none" else None,
        dependence=SHARE_OF_TOTAL if exposure == "observed" else "",
        mean=lambda output: jnp.exp(rates.log_mean_rate(split(output)[0])),
        sample=sample,
        support="counts",
        output_for_mean=lambda mean: fill(rates.raw_for_mean(mean)),
        scale_mean=rates.scale_mean,
        mean_given=mean_given if exposure == "observed" else None,
        sample_given=sample_given if exposure == "observed" else None,
        **fields,
    )
