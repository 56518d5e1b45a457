"""Multinomial likelihood of a row of counts given its total, as in Mult-VAE."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key, Real

from vae_jax._numerics.arrays import one_event
from vae_jax._numerics.special import stirling_error_for_counts
from vae_jax.likelihoods.base import Likelihood, check_positive, natural_log
from vae_jax.likelihoods.counts import poisson_log_prob
from vae_jax.likelihoods.rates import exposed_log_rate, log_proportions, raw_for_proportions, scale_proportions

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_DRAWS_AT_ONCE = 1024


def multinomial_log_prob(logits: Float[ArrayLike, "*event"], x: Real[ArrayLike, "*event"]) -> Float[Array, ""]:
    """Computes the multinomial log-likelihood of one example given its total.

        log p(x | n) = log n! - sum_d log x_d! + sum_d x_d log softmax(logits)_d,   n = sum_d x_d
                     = sum_d log Poisson(x_d | n softmax(logits)_d) - log Poisson(n | n),   as coded

    The softmax runs over all entries of the event: the items of a vector, or every entry of a series or an image. The first
    form would subtract numbers of size n log n. In the second one every term is small, and the rounding of the softmax's
    denominator cancels to first order.

    Mult-VAE minimizes the negative of the last sum alone. The coefficient log n! - sum_d log x_d! depends on no parameter, so
    gradients and the comparison of models on the same rows are the same, but without it the probabilities of the rows with
    total n do not sum to 1. For a binary row it is log n!.

    Args:
      logits: any real values, shape of the event.
      x: counts 0, 1, 2, ..., same shape. Zeros and ones (items that were clicked) are counts.

    Returns:
      Scalar, nats, <= 0 up to rounding. It is normalized over all rows with the total of x. A row of zeros has 0.

    Numerics:
      Full relative precision for counts up to 10,000 in float32, like `poisson_log_prob`. Finite value and gradient for
      |logits| <= 1e4 in float32 and bfloat16.

    Example:
      >>> logits, x = jnp.zeros((2, 3)), jnp.ones((2, 3))
      >>> print(jax.vmap(multinomial_log_prob)(logits, x))
      [-1.50 -1.50]

    Source:
      Liang, Krishnan, Hoffman & Jebara (2018), Variational autoencoders for collaborative filtering, equation 2.
    """
    (logits, x), dtype = one_event("multinomial_log_prob", logits=logits, x=x)
    total = jnp.maximum(jnp.sum(x), 1)
    log_prob_total = -stirling_error_for_counts(total) - _HALF_LOG_2PI - 0.5 * jnp.log(total)  # log Poisson(n | n)
    value = poisson_log_prob(exposed_log_rate(logits, x), x) - log_prob_total
    return jnp.where(jnp.sum(x) > 0, value, 0).astype(dtype)


def multinomial(total: float = 1.0, *, unit: Float[ArrayLike, "*#event"] = 1.0) -> Likelihood:
    """Makes the multinomial likelihood for rows of counts with a given total (Mult-VAE).

    The decoder emits raw numbers with proportions softmax(log unit + raw) over all entries of the event. Use it where only the
    composition of a row matters: items that a user chose, words of a document, species of a sample. The total of each row is
    given, so its log-likelihoods are those of x given the total and compare with likelihoods that condition on it as well.

    Args:
      total: total of the rows that `mean` and `sample` return, >= 1, rounded to a whole number. The mean total of the training
        data is a good value. `log_prob` uses the total of x.
      unit: scale of the proportions, > 0, a number or an array of the event's shape. With the mean counts of the data, zero
        outputs predict the mean proportions. A number has no effect.

    Returns:
      The `Likelihood`.
    """
    check_positive("multinomial", total=total, unit=unit)
    draws = max(1, round(total))

    return Likelihood(
        name="multinomial",
        log_prob=lambda raw, x: multinomial_log_prob(raw + natural_log(unit), x),
        dependence="The counts of a row are given their total, which is not known where entries are missing. Use poisson or "
        "negative_binomial.",
        mean=lambda raw: draws * jnp.exp(log_proportions(raw, unit)),
        sample=lambda key, raw: draw_counts(key, log_proportions(raw, unit), draws),
        support="counts",
        output_for_mean=lambda mean: raw_for_proportions(mean, unit),
        scale_mean=scale_proportions,
        mean_given=lambda raw, x: jnp.sum(x) * jnp.exp(log_proportions(raw, unit)),
        sample_given=lambda key, raw, x: draw_counts(key, log_proportions(raw, unit), jnp.sum(x).astype(jnp.int32)),
    )


def draw_counts(key: Key[Array, ""], log_probs: Float[Array, "*event"], total: int | Int[Array, ""]) -> Float[Array, "*event"]:
    """Draws a row of counts with a given total, by as many draws of a category, `_DRAWS_AT_ONCE` at a time.

    Each draw inverts the distribution function at a uniform number of 23 bits. `jax.random.multinomial` would draw one binomial
    after another, in as many sequential steps as there are entries.
    """
    cumulative = jnp.cumsum(jnp.exp(log_probs.reshape(-1).astype(jnp.float32)))
    at_once = min(total, _DRAWS_AT_ONCE) if isinstance(total, int) else _DRAWS_AT_ONCE
    below_last = jnp.nextafter(cumulative[-1], jnp.float32(0))

    def add_draws(i: Array, counts: Array) -> Array:
        uniform = jax.random.uniform(jax.random.fold_in(key, i), (at_once,))
        drawn = jnp.searchsorted(cumulative, jnp.minimum(uniform * cumulative[-1], below_last), side="right")
        is_needed = jnp.arange(drawn.size) + i * _DRAWS_AT_ONCE < total
        return counts.at[drawn].add(is_needed.astype(counts.dtype))

    counts = jax.lax.fori_loop(0, -(-total // _DRAWS_AT_ONCE), add_draws, jnp.zeros(cumulative.shape, jnp.int32))
    return counts.astype(log_probs.dtype).reshape(log_probs.shape)
