"""Zero-inflated negative binomial likelihood for counts with more zeros than a negative binomial has."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from vae_jax._numerics.arrays import one_event
from vae_jax.likelihoods.base import DecoderOutput, Likelihood, check_positive, entrywise, natural_log
from vae_jax.likelihoods.counts import Dispersion, draw_negative_binomial, negative_binomial_terms
from vae_jax.likelihoods.rates import SHARE_OF_TOTAL, Exposure, make_rates
from vae_jax.likelihoods.second_parameter import second_parameter

_START_LOGIT = -3.0


def zero_inflated_negative_binomial_log_prob(
    logit_zero: Float[ArrayLike, "*event"],
    log_mean: Float[ArrayLike, "*event"],
    log_dispersion: Float[ArrayLike, "*#event"],
    x: Real[ArrayLike, "*event"],
) -> Float[Array, ""]:
    """Computes the zero-inflated negative binomial log-likelihood of one example with independent dimensions.

        p(x) = prod_d [ pi 1[x_d = 0] + (1 - pi) NB(x_d) ],   pi = sigmoid(logit_zero)

    NB is the negative binomial of `negative_binomial_log_prob`. The mean is (1 - pi) exp(log_mean). Coded for each dimension as

        x > 0:   log NB(x) - softplus(logit_zero)
        x = 0:   log1p((1 - pi) (NB(0) - 1)),   or logaddexp(logit_zero, log NB(0)) - softplus(logit_zero) where p(0) < 1/2

    The second form of log p(0) is that of scVI. It loses its digits where p(0) is near 1, and the first form has them.

    Args:
      logit_zero: log-odds of a zero that does not come from the negative binomial, any real values, shape of the event.
      log_mean: natural log of the mean of the negative binomial, any real values, shape of the event.
      log_dispersion: natural log of the total count r (inverse dispersion). A scalar for all dimensions, or the shape of the
        event.
      x: counts 0, 1, 2, ..., shape of the event.

    Returns:
      Scalar, nats, <= 0, sum over the event.

    Numerics:
      Precision like that of `negative_binomial_log_prob`. Finite value and gradient for |logit_zero| <= 1e4, |log_mean| <= 20
      and |log_dispersion| <= 20 in float32 and bfloat16.

    Example:
      >>> zeros, x = jnp.zeros((2, 3)), jnp.ones((2, 3))
      >>> print(jax.vmap(zero_inflated_negative_binomial_log_prob, in_axes=(0, 0, None, 0))(zeros, zeros, 0.0, x))
      [-6.24 -6.24]

    Source:
      Lambert (1992) for the Poisson, Greene (1994) for the negative binomial. Lopez et al. (2018), scVI, whose loss is minus
      this (`log_zinb_positive`, with theta = r).
    """
    (logit_zero, log_mean, log_dispersion, x), dtype = one_event(
        "zero_inflated_negative_binomial_log_prob",
        may_be_scalar=("log_dispersion",),
        logit_zero=logit_zero,
        log_mean=log_mean,
        log_dispersion=log_dispersion,
        x=x,
    )
    return jnp.sum(_zero_inflated_terms(logit_zero, log_mean, log_dispersion, x)).astype(dtype)


def _zero_inflated_terms(logit_zero: Array, log_mean: Array, log_dispersion: Array, x: Array) -> Array:
    positive_term, zero_term = negative_binomial_terms(log_mean, log_dispersion, x)
    log_not_inflated = -jax.nn.softplus(logit_zero)
    missing = jax.nn.sigmoid(-logit_zero) * jnp.expm1(zero_term)  # minus the probability of a positive count
    is_likely = missing > -0.5
    likely = jnp.log1p(jnp.where(is_likely, missing, 0))
    zero = jnp.where(is_likely, likely, jnp.logaddexp(logit_zero, zero_term) + log_not_inflated)
    return jnp.where(x > 0, positive_term + log_not_inflated, zero)


def zero_inflated_negative_binomial(
    dispersion: Dispersion = "shared",
    *,
    initial_dispersion: Float[ArrayLike, "*columns"] = 1.0,
    unit: Float[ArrayLike, "*#event"] = 1.0,
    exposure: Exposure = "none",
    total: float = 1.0,
) -> Likelihood:
    """Makes the zero-inflated negative binomial likelihood, the default of scVI.

    The decoder emits two numbers for each dimension: raw, with the mean unit softplus(raw) of the negative binomial, and the
    log-odds of an additional zero. Use it for counts that are zero more often than a negative binomial explains, such as those
    of droplets in which a molecule was missed. Compare it with `negative_binomial`, which often suffices.

    Args:
      dispersion, initial_dispersion: the total count r (see `negative_binomial`). "per_pixel" reads a third decoder output.
      unit: scale of the mean of the negative binomial, > 0 (see `poisson`).
      exposure, total: a mean that is a share of the row's total (see `poisson`).

    Returns:
      The `Likelihood`. With the training mean as output bias, an additional zero starts at a probability of 0.05.
    """
    name = "zero_inflated_negative_binomial"
    check_positive(name, initial_dispersion=initial_dispersion)
    rates = make_rates(name, unit, exposure, total)
    split, fill, fields = second_parameter(name, "dispersion", dispersion, natural_log(initial_dispersion), num_first=2)

    def log_prob(output: DecoderOutput, x: Array) -> Array:
        first, log_dispersion = split(output)
        log_rate = rates.log_rate(first[..., 0], x)
        return zero_inflated_negative_binomial_log_prob(first[..., 1], log_rate, log_dispersion, x)

    def log_prob_per_entry(output: DecoderOutput, x: Array) -> Array:
        first, log_dispersion = split(output)
        log_rate = rates.log_rate(first[..., 0], x)
        return entrywise(_zero_inflated_terms, first[..., 1], log_rate, log_dispersion, x)

    def mean_at(output: DecoderOutput, log_rate: Callable[[Array], Array]) -> Array:
        first, _ = split(output)
        return jax.nn.sigmoid(-first[..., 1]) * jnp.exp(log_rate(first[..., 0]))

    def sample_at(key: Array, output: DecoderOutput, log_rate: Callable[[Array], Array]) -> Array:
        key_zero, key_count = jax.random.split(key)
        first, log_dispersion = split(output)
        counts = draw_negative_binomial(key_count, log_rate(first[..., 0]), log_dispersion)
        return jnp.where(jax.random.bernoulli(key_zero, jax.nn.sigmoid(first[..., 1])), 0, counts)

    def mean_given(output: DecoderOutput, x: Array) -> Array:
        return mean_at(output, lambda raw: rates.log_rate(raw, x))

    def sample_given(key: Array, output: DecoderOutput, x: Array) -> Array:
        return sample_at(key, output, lambda raw: rates.log_rate(raw, x))

    def output_for_mean(mean: Array) -> Array:
        # With exposure the proportions are those of the mean, and the additional zeros make its sum smaller than the total.
        lost = 1.0 if exposure == "observed" else 1 + math.exp(_START_LOGIT)
        raw = rates.raw_for_mean(lost * jnp.maximum(mean, 1e-3 * jnp.asarray(unit)))
        return fill(jnp.stack([raw, jnp.full_like(raw, _START_LOGIT)], axis=-1))

    return Likelihood(
        name=name,
        log_prob=log_prob,
        log_prob_per_entry=log_prob_per_entry if exposure == "none" else None,
        dependence=SHARE_OF_TOTAL if exposure == "observed" else "",
        mean=lambda output: mean_at(output, rates.log_mean_rate),
        sample=lambda key, output: sample_at(key, output, rates.log_mean_rate),
        support="counts",
        output_for_mean=output_for_mean,
        scale_mean=rates.scale_mean,
        mean_given=mean_given if exposure == "observed" else None,
        sample_given=sample_given if exposure == "observed" else None,
        **fields,
    )
