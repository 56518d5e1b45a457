"""The continuous Bernoulli distribution, for gray values in [0, 1]."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from vae_jax._numerics.arrays import one_event, promote
from vae_jax.likelihoods.base import Likelihood, entrywise, invert_increasing

# Coefficients of (a^2)^1, (a^2)^2, ... in log(sinh(a/2) / (a/2)) = sum_n B_2n a^(2n) / (2n (2n)!), B_2n the Bernoulli numbers.
_LOG_SINHC_SERIES = (1 / 24, -1 / 2880, 1 / 181440, -1 / 9676800, 1 / 479001600, -691 / 15692092416000)
# Below this |logit| the series is exact to float64 (the next term is 6e-17), and the closed form loses digits in log(1 - tiny).
_SERIES_RADIUS = 0.5


def continuous_bernoulli_log_prob(logits: Float[ArrayLike, "*event"], x: Real[ArrayLike, "*event"]) -> Float[Array, ""]:
    """Computes the continuous Bernoulli log-likelihood of one example with values in [0, 1], from logits.

        log p(x|l) = sum_d [ l x - A(l) ],   A(l) = log((exp(l) - 1) / l),   A(0) = 0
                   = sum_d [ l (x - 1/2) - log(sinh(l/2) / (l/2)) ]                                 coded for |l| < 1/2
                   = sum_d [ -x max(-l, 0) - (1 - x) max(l, 0) - log((1 - exp(-|l|)) / |l|) ]       coded elsewhere

    This is the Bernoulli's cross-entropy plus the constant that makes it integrate to one over [0, 1].

    Args:
      logits: natural parameter l = log(lambda / (1 - lambda)), any real values, shape of the event.
      x: gray values in [0, 1], same shape.

    Returns:
      Scalar, nats, any sign (it is a density), sum over the event.

    Numerics:
      In the logit, nothing needs to be clipped and lambda = 1/2 is not singular. Value and gradient are finite for
      |logits| <= 1e4.

    Example:
      >>> logits, x = jnp.zeros((2, 3)), jnp.full((2, 3), 0.3)
      >>> jax.vmap(continuous_bernoulli_log_prob)(logits, x).tolist()
      [0.0, 0.0]

    Source:
      Loaiza-Ganem & Cunningham (2019), equation 6, rewritten in the logit.
    """
    (logits, x), dtype = one_event("continuous_bernoulli_log_prob", logits=logits, x=x)
    return jnp.sum(_continuous_bernoulli_terms(logits, x)).astype(dtype)


def _continuous_bernoulli_terms(logits: Array, x: Array) -> Array:
    near_zero = jnp.abs(logits) < _SERIES_RADIUS
    # Both branches of a `where` are differentiated, so each receives arguments that are safe for it.
    small = jnp.where(near_zero, logits, 0)
    large = jnp.where(near_zero, 1, logits)
    square = jnp.square(small)
    series = small * (x - 0.5) - square * jnp.polyval(jnp.array(_LOG_SINHC_SERIES[::-1], square.dtype), square)
    size = jnp.abs(large)
    closed = -x * jnp.maximum(-large, 0) - (1 - x) * jnp.maximum(large, 0) - jnp.log(-jnp.expm1(-size) / size)
    return jnp.where(near_zero, series, closed)


def continuous_bernoulli_mean(logits: Float[ArrayLike, "*event"]) -> Float[Array, "*event"]:
    """Computes the mean of the continuous Bernoulli for each dimension: A'(l) = 1 / (1 - exp(-l)) - 1/l, and 1/2 at l = 0.

    Reconstructions show this mean. It is not lambda = sigmoid(l), because the mean is always closer to 1/2.

    Args:
      logits: natural parameter l, any real values, any shape.

    Returns:
      Means in [0, 1], in the shape of `logits`.

    Example:
      >>> print(continuous_bernoulli_mean(jnp.array([-1e4, 0.0, 5.0])))
      [0.0 0.5 0.81]
    """
    (logits,), dtype = promote(logits)
    near_zero = jnp.abs(logits) < _SERIES_RADIUS
    small = jnp.where(near_zero, logits, 0)
    large = jnp.where(near_zero, 1, logits)
    # The derivative of the series above, term by term: c_n (a^2)^n -> 2n c_n a^(2n-1).
    slopes = [2 * n * c for n, c in enumerate(_LOG_SINHC_SERIES, start=1)]
    series = 0.5 + small * jnp.polyval(jnp.array(slopes[::-1], small.dtype), jnp.square(small))
    size = jnp.abs(large)
    from_edge = 1 / size - jnp.exp(-size) / -jnp.expm1(-size)  # distance of the mean from the edge that it leans to
    closed = jnp.where(large > 0, 1 - from_edge, from_edge)
    return jnp.where(near_zero, series, closed).astype(dtype)


def _sample_continuous_bernoulli(key: Array, logits: Array) -> Array:
    """Draws by the inverse distribution function, on the side where the density falls: -log1p(u (exp(-|l|) - 1)) / |l|."""
    uniform = jax.random.uniform(key, logits.shape, logits.dtype)
    size = jnp.maximum(jnp.abs(logits), 1e-6)  # at 1e-6 the density is flat to float32
    falling = -jnp.log1p(uniform * jnp.expm1(-size)) / size
    return jnp.where(logits > 0, 1 - falling, falling)


def continuous_bernoulli() -> Likelihood:
    """Makes the likelihood for gray data in [0, 1].

    The decoder emits logits. The reconstruction is `continuous_bernoulli_mean` of them, not their sigmoid.
    """

    def output_for_mean(mean: Array) -> Array:
        mean = jnp.clip(mean, 1e-3, 1 - 1e-3)
        return invert_increasing(continuous_bernoulli_mean, mean, -2e3, 2e3)

    return Likelihood(
        name="continuous_bernoulli",
        log_prob=continuous_bernoulli_log_prob,
        log_prob_per_entry=lambda logits, x: entrywise(_continuous_bernoulli_terms, logits, x),
        mean=continuous_bernoulli_mean,
        sample=_sample_continuous_bernoulli,
        support="unit_interval",
        output_for_mean=output_for_mean,
    )
