"""Real-valued data: Gaussian, Laplace and Student-t, with a scale that is fixed, shared by all pixels or one for each."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vae_jax._numerics.arrays import one_event
from vae_jax._numerics.special import soft_floor, stirling_error
from vae_jax.likelihoods.base import Likelihood, check_positive, log_of, second_parameter

Scale = float | Literal["shared", "per_pixel"]
# A scale for each pixel is kept above exp(-6) of where it starts: at a pixel that never varies the density has no upper bound.
_MIN_LOG_RATIO = -6.0


def gaussian_log_prob(mean: ArrayLike, log_scale: ArrayLike, x: ArrayLike) -> Array:
    """Gaussian log-likelihood of one example with independent dimensions.

        log p(x) = -1/2 sum_d [ ((x - mean) exp(-log_scale))^2 + 2 log_scale + log(2 pi) ]

    With the standard deviation fixed at sigma this is -MSE_sum/(2 sigma^2) - D/2 log(2 pi sigma^2); sigma = 1/sqrt(2)
    makes it minus the summed squared error, up to -D/2 log(pi).

    Args:
      mean: any real values, shape of the event.
      log_scale: natural log of the standard deviation; a scalar for all dimensions or the shape of the event.
      x: real data, shape of the event.

    Returns:
      Scalar, nats, any sign (it is a density), sum over the event.

    Numerics:
      Finite value and gradient for |log_scale| <= 20 in float32 and bfloat16.

    Example:
      >>> mean, x = jnp.zeros((2, 3)), jnp.ones((2, 3))
      >>> print(jax.vmap(gaussian_log_prob, in_axes=(0, None, 0))(mean, 0.0, x))
      [-4.26 -4.26]

    Source:
      Kingma & Welling (2014), appendix C.2.
    """
    (mean, log_scale, x), dtype = one_event(
        "gaussian_log_prob", may_be_scalar=("log_scale",), mean=mean, log_scale=log_scale, x=x
    )
    standardised = (x - mean) * jnp.exp(-log_scale)
    return (-0.5 * jnp.sum(jnp.square(standardised) + 2 * log_scale + math.log(2 * math.pi))).astype(dtype)


def laplace_log_prob(loc: ArrayLike, log_scale: ArrayLike, x: ArrayLike) -> Array:
    """Laplace log-likelihood of one example with independent dimensions.

        log p(x) = -sum_d [ |x - loc| exp(-log_scale) + log_scale + log 2 ]

    With the scale fixed at 1 this is minus the summed absolute error, up to -D log 2.

    Args:
      loc: median and mean, any real values, shape of the event.
      log_scale: natural log of the scale b (the mean absolute deviation; the standard deviation is sqrt(2) b); a scalar for
        all dimensions or the shape of the event.
      x: real data, shape of the event.

    Returns:
      Scalar, nats, any sign (it is a density), sum over the event.

    Numerics:
      Finite value and gradient for |log_scale| <= 20 in float32 and bfloat16; the gradient at x = loc is 0.

    Example:
      >>> loc, x = jnp.zeros((2, 3)), jnp.ones((2, 3))
      >>> print(jax.vmap(laplace_log_prob, in_axes=(0, None, 0))(loc, 0.0, x))
      [-5.08 -5.08]

    Source:
      Laplace (1774); as a decoder, Kingma & Welling (2014), section 3, allow any such density.
    """
    (loc, log_scale, x), dtype = one_event("laplace_log_prob", may_be_scalar=("log_scale",), loc=loc, log_scale=log_scale, x=x)
    return -jnp.sum(jnp.abs(x - loc) * jnp.exp(-log_scale) + log_scale + math.log(2)).astype(dtype)


def student_t_log_prob(loc: ArrayLike, log_scale: ArrayLike, x: ArrayLike, degrees_of_freedom: ArrayLike = 4.0) -> Array:
    """Student-t log-likelihood of one example with independent dimensions: a Gaussian that forgives outliers.

        log p(x) = sum_d [ log Gamma((v + 1)/2) - log Gamma(v/2) - 1/2 log(pi v) - log_scale - (v + 1)/2 log1p(t^2 / v) ],
        t = (x - loc) exp(-log_scale)

    Coded with log Gamma(a + 1/2) - log Gamma(a) = a log1p(1/(2a)) - 1/2 + 1/2 log(a) + S(a + 1/2) - S(a), a = v/2, S the error
    of Stirling's formula: nothing cancels, however large v is, and v to infinity is the Gaussian.

    Args:
      loc: median, any real values, shape of the event.
      log_scale: natural log of the scale (the standard deviation is sqrt(v / (v - 2)) times it); a scalar or the event's shape.
      x: real data, shape of the event.
      degrees_of_freedom: v > 0, a scalar or the event's shape; may be traced and learned. 1 is the Cauchy distribution.

    Returns:
      Scalar, nats, any sign (it is a density), sum over the event.

    Numerics:
      Finite value and gradient for |log_scale| <= 20 in float32 and bfloat16.

    Example:
      >>> loc, x = jnp.zeros((2, 3)), jnp.ones((2, 3))
      >>> print(jax.vmap(student_t_log_prob, in_axes=(0, None, 0))(loc, 0.0, x))
      [-4.62 -4.62]

    Source:
      Student (1908); in variational autoencoders, Takahashi et al. (2018).
    """
    (loc, log_scale, x, v), dtype = one_event(
        "student_t_log_prob",
        may_be_scalar=("log_scale", "degrees_of_freedom"),
        loc=loc,
        log_scale=log_scale,
        x=x,
        degrees_of_freedom=degrees_of_freedom,
    )
    a = v / 2
    constant = a * jnp.log1p(0.5 / a) - 0.5 + stirling_error(a + 0.5) - stirling_error(a) - 0.5 * math.log(2 * math.pi)
    # t^2 / v as a square of a quotient: t itself may be 1e10 and more.
    tail = (a + 0.5) * jnp.log1p(jnp.square((x - loc) * jnp.exp(-log_scale) / jnp.sqrt(v)))
    return jnp.sum(constant - log_scale - tail).astype(dtype)


def _location_scale(
    name: str,
    log_prob: Callable[[Any, Any, Array], Array],
    standard_sample: Callable[[Array, Array], Array],
    scale: Scale,
    initial_scale: ArrayLike,
) -> Likelihood:
    """The bundle of a location-scale family; `standard_sample` (key, like) draws it at location 0 and scale 1."""
    check_positive(name, initial_scale=initial_scale)
    start = log_of(initial_scale)
    # The shared scale has no floor: one for all pixels is held up by the pixels that do vary.
    keep_up = (lambda log_scale: soft_floor(log_scale, start + _MIN_LOG_RATIO)) if scale == "per_pixel" else lambda s: s
    split, fill, fields = second_parameter(name, "scale", scale, start, keep_up)

    def sample(key: Array, output: Any) -> Array:
        loc, log_scale = split(output)
        return loc + jnp.exp(log_scale) * standard_sample(key, loc)

    return Likelihood(
        name=name,
        log_prob=lambda output, x: log_prob(*split(output), x),
        mean=lambda output: split(output)[0],
        sample=sample,
        support="real",
        output_for_mean=fill,
        **fields,
    )


def gaussian(scale: Scale = 1.0, *, initial_scale: ArrayLike = 1.0) -> Likelihood:
    """Real data with errors of one size. The decoder emits the mean.

    When to use it: real data, or grey data where a density on [0, 1] is good enough and squared errors are wanted. The scale
    matters more than anything else: prefer "shared" to a number. `cross_batch.optimal_scale` sets it in closed form instead.

    Args:
      scale: the standard deviation: a positive number; "shared" for one that is learned with the network and is the same for
        every pixel (Rybkin et al. 2021); or "per_pixel" for a second decoder output, raw, with
        log_scale = soft floor(log(initial_scale) + raw). Data in [0, 1] have standard deviations far below 1, so the default
        of 1 leaves most of the data unexplained; it is what a plain squared error assumes.
      initial_scale: where a learned scale starts; the standard deviation of the data saves many steps. An array of the event's
        shape, for entries in different units (`data.Prepared.moments`), gives each its own start and its own floor. A shared
        scale is then one factor on all of them.
    """
    return _location_scale(
        "gaussian", gaussian_log_prob, lambda key, like: jax.random.normal(key, like.shape, like.dtype), scale, initial_scale
    )


def laplace(scale: Scale = 1.0, *, initial_scale: ArrayLike = 1.0) -> Likelihood:
    """Real data with sparse, sharper errors: absolute instead of squared error. The decoder emits the median.

    When to use it: edges and a few large errors should cost less than under a Gaussian. Arguments as of `gaussian`, the scale
    being Laplace's b, 1/sqrt(2) of the standard deviation.
    """
    return _location_scale(
        "laplace", laplace_log_prob, lambda key, like: jax.random.laplace(key, like.shape, like.dtype), scale, initial_scale
    )


def student_t(scale: Scale = 1.0, *, degrees_of_freedom: float = 4.0, initial_scale: ArrayLike = 1.0) -> Likelihood:
    """Real data with outliers. The decoder emits the location, which is the mean for more than one degree of freedom.

    When to use it: corrupted pixels or heavy-tailed measurements, which would drive a Gaussian's scale and gradients. Arguments
    as of `gaussian`; degrees_of_freedom > 0, few for heavy tails.
    """
    check_positive("student_t", degrees_of_freedom=degrees_of_freedom)
    return _location_scale(
        "student_t",
        lambda loc, log_scale, x: student_t_log_prob(loc, log_scale, x, degrees_of_freedom),
        lambda key, like: jax.random.t(key, degrees_of_freedom, like.shape, like.dtype),
        scale,
        initial_scale,
    )
