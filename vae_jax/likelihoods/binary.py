"""The Bernoulli likelihood for binary data, from logits or from probabilities."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from vae_jax._numerics.arrays import one_event
from vae_jax._numerics.special import sum_with_log1p
from vae_jax.likelihoods.base import Likelihood, entrywise


# The derivative shares exp(-|l|) with the value, which saves 7 % of a CPU train step against two softplus. It is written by
# hand because autodiff of |l| and max has a second derivative of 0 at logit 0, where training may start.
@jax.custom_jvp
def _cross_entropy(logits: Array, x: Array) -> Array:
    """Computes the cross-entropy with logits, summed over the event."""
    return _cross_entropy_from_exp(logits, x, jnp.exp(-jnp.abs(logits)))


def _cross_entropy_from_exp(logits: Array, x: Array, decay: Array) -> Array:
    return sum_with_log1p(x * jnp.maximum(-logits, 0) + (1 - x) * jnp.maximum(logits, 0), decay)


@_cross_entropy.defjvp
def _cross_entropy_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (logits, x), (logits_dot, x_dot) = primals, tangents
    decay = jnp.exp(-jnp.abs(logits))
    slope = jnp.sum((_sigmoid_from_exp(logits, decay) - x) * logits_dot - logits * x_dot)
    return _cross_entropy_from_exp(logits, x, decay), slope


@jax.custom_jvp
def _sigmoid_from_exp(logits: Array, decay: Array) -> Array:
    return jnp.where(logits >= 0, 1, decay) / (1 + decay)


@_sigmoid_from_exp.defjvp
def _sigmoid_from_exp_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    logits, decay = primals
    # The other factor is sigma(-l) rather than 1 - sigma(l), which would lose all digits for large logits.
    slope = _sigmoid_from_exp(logits, decay) * _sigmoid_from_exp(-logits, decay)
    return _sigmoid_from_exp(logits, decay), slope * tangents[0]  # decay is a function of the logits, so this is all of it


def bernoulli_log_prob(logits: Float[ArrayLike, "*event"], x: Shaped[ArrayLike, "*event"]) -> Float[Array, ""]:
    """Computes the Bernoulli log-likelihood of one example from logits.

        log p(x|l) = -sum_d [ x softplus(-l) + (1 - x) softplus(l) ]
                   = -sum_d [ x max(-l, 0) + (1 - x) max(l, 0) + log1p(exp(-|l|)) ]

    This is the negative of binary cross-entropy with logits, summed over the pixels.

    Args:
      logits: log-odds of x = 1, any real values, shape of the event.
      x: 0 or 1, same shape, any dtype. Values in between give cross-entropy, which is not a log-likelihood of gray data,
        because it does not integrate to one. Use `continuous_bernoulli_log_prob` for those.

    Returns:
      Scalar, nats, <= 0, sum over the event.

    Numerics:
      No term is a difference, so float32 keeps its relative precision at any logit. Value and gradient are finite for
      |logits| <= 1e4 in float32 and bfloat16. Probabilities are not clipped.

    Example:
      >>> logits, x = jnp.zeros((3, 4)), jnp.ones((3, 4))
      >>> print(jax.vmap(bernoulli_log_prob)(logits, x))
      [-2.77 -2.77 -2.77]

    Source:
      Kingma & Welling (2014), appendix C.1.
    """
    (logits, x), dtype = one_event("bernoulli_log_prob", logits=logits, x=x)
    return -_cross_entropy(logits, x).astype(dtype)


# `bernoulli_log_prob` is the sum of these terms in the rounding of `sum_with_log1p`, which needs one logarithm for 16 pixels.
def _bernoulli_terms(logits: Array, x: Array) -> Array:
    return -(x * jax.nn.softplus(-logits) + (1 - x) * jax.nn.softplus(logits))


def _bernoulli_observed(logits: Array, x: Array, mask: Array) -> Array:
    """Computes the log-likelihood of the observed pixels by the fast sum over all.

    A missing pixel is replaced by a certain one: with x = 1 and logit 1e4 its term and its derivatives are exactly 0. The plain
    sum over the observed terms would take one logarithm for each pixel, and a train step 20 % longer on CPU.
    """
    (logits, x), dtype = one_event("bernoulli_log_prob", logits=logits, x=x)
    is_observed = mask.reshape(-1)
    return -_cross_entropy(jnp.where(is_observed, logits, 1e4), jnp.where(is_observed, x, 1)).astype(dtype)


def bernoulli_log_prob_from_probs(probs: Float[ArrayLike, "*event"], x: Shaped[ArrayLike, "*event"]) -> Float[Array, ""]:
    """Computes the Bernoulli log-likelihood of one example from probabilities, for decoders that end in a sigmoid.

        log p(x|p) = sum_d [ x log p + (1 - x) log1p(-p) ],   with 0 log 0 = 0

    Args:
      probs: probability of x = 1, in [0, 1], shape of the event.
      x: 0 or 1, same shape, any dtype.

    Returns:
      Scalar, nats, <= 0, sum over the event. It is -inf where an outcome of probability 0 occurred.

    Numerics:
      Prefer `bernoulli_log_prob`. In float32 a sigmoid rounds to exactly 1 for logits above 17, so the cost of a wrong pixel
      there is infinite and its gradient is not finite. The relative error of log(1 - p) grows as eps / (1 - p), about 1e-3 at
      logit 10. Logits have neither problem. Nothing is clipped here, because clipping would hide the problem behind a wrong
      number.

    Example:
      >>> probs, x = jnp.full((2, 4), 0.5), jnp.ones((2, 4))
      >>> print(jax.vmap(bernoulli_log_prob_from_probs)(probs, x))
      [-2.77 -2.77]

    Source:
      Kingma & Welling (2014), appendix C.1, as written there.
    """
    (probs, x), dtype = one_event("bernoulli_log_prob_from_probs", probs=probs, x=x)
    # Without the inner `where`, a certain and correct pixel (x = p = 1, common in float32) would have the gradient 0/0.
    log_p = jnp.log(jnp.where(x > 0, probs, 1))
    log_not_p = jnp.log1p(-jnp.where(x < 1, probs, 0))
    return jnp.sum(x * log_p + (1 - x) * log_not_p).astype(dtype)


def bernoulli() -> Likelihood:
    """Makes the likelihood for binary data. The decoder emits logits."""

    def output_for_mean(mean: Array) -> Array:
        mean = jnp.clip(mean, 1e-3, 1 - 1e-3)  # a pixel that is always black starts at logit -7 rather than at minus infinity
        return jnp.log(mean) - jnp.log1p(-mean)

    return Likelihood(
        name="bernoulli",
        log_prob=bernoulli_log_prob,
        log_prob_per_entry=lambda logits, x: entrywise(_bernoulli_terms, logits, x),
        log_prob_observed=_bernoulli_observed,
        mean=jax.nn.sigmoid,
        sample=lambda key, logits: jax.random.bernoulli(key, jax.nn.sigmoid(logits)).astype(logits.dtype),
        support="binary",
        output_for_mean=output_for_mean,
    )
