"""Gaussian, Laplace and Student-t likelihoods for real data. The scale is fixed, shared, or one for each column or pixel."""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from vae_jax._numerics.arrays import one_event
from vae_jax._numerics.special import soft_floor, stirling_error
from vae_jax.likelihoods.base import (
    DecoderOutput,
    Likelihood,
    check_positive,
    entrywise,
    natural_log,
)
from vae_jax.likelihoods.second_parameter import column_starts, second_parameter

Scale = float | Literal["shared", "per_column", "per_pixel"]
# A scale for each column or pixel is kept above exp(-6) times its initial value, because the density of a pixel that never
# varies is unbounded.
_MIN_LOG_RATIO = -6.0


def gaussian_log_prob(
    mean: Float[ArrayLike, "*event"], log_scale: Float[ArrayLike, "*#event"], x: Real[ArrayLike, "*event"]
) -> Float[Array, ""]:
    """Computes the Gaussian log-likelihood of one example with independent dimensions.

        log p(x) = -1/2 sum_d [ ((x - mean) exp(-log_scale))^2 + 2 log_scale + log(2 pi) ]

    With the standard deviation fixed at sigma this is -MSE_sum/(2 sigma^2) - D/2 log(2 pi sigma^2). With sigma = 1/sqrt(2)
    it is minus the summed squared error, up to -D/2 log(pi).

    Args:
      mean: any real values, shape of the event.
      log_scale: natural log of the standard deviation. A scalar for all dimensions, or the shape of the event.
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
    # The factor stands outside the sum, because XLA's rounding of the value would otherwise depend on it.
    return (-0.5 * jnp.sum(_twice_negative_gaussian_terms(mean, log_scale, x))).astype(dtype)


def _twice_negative_gaussian_terms(mean: Array, log_scale: Array, x: Array) -> Array:
    standardized = (x - mean) * jnp.exp(-log_scale)
    return jnp.square(standardized) + 2 * log_scale + math.log(2 * math.pi)


def _gaussian_terms(mean: Array, log_scale: Array, x: Array) -> Array:
    return -0.5 * _twice_negative_gaussian_terms(mean, log_scale, x)


def laplace_log_prob(
    loc: Float[ArrayLike, "*event"], log_scale: Float[ArrayLike, "*#event"], x: Real[ArrayLike, "*event"]
) -> Float[Array, ""]:
    """Computes the Laplace log-likelihood of one example with independent dimensions.

        log p(x) = -sum_d [ |x - loc| exp(-log_scale) + log_scale + log 2 ]

    With the scale fixed at 1 this is minus the summed absolute error, up to -D log 2.

    Args:
      loc: median and mean, any real values, shape of the event.
      log_scale: natural log of the scale b. The mean absolute deviation is b, the standard deviation sqrt(2) b. A scalar for
        all dimensions, or the shape of the event.
      x: real data, shape of the event.

    Returns:
      Scalar, nats, any sign (it is a density), sum over the event.

    Numerics:
      Finite value and gradient for |log_scale| <= 20 in float32 and bfloat16. The gradient at x = loc is 0.

    Example:
      >>> loc, x = jnp.zeros((2, 3)), jnp.ones((2, 3))
      >>> print(jax.vmap(laplace_log_prob, in_axes=(0, None, 0))(loc, 0.0, x))
      [-5.08 -5.08]

    Source:
      Laplace (1774). Kingma & Welling (2014), section 3, allow any such density as a decoder.
    """
    (loc, log_scale, x), dtype = one_event("laplace_log_prob", may_be_scalar=("log_scale",), loc=loc, log_scale=log_scale, x=x)
    return jnp.sum(_laplace_terms(loc, log_scale, x)).astype(dtype)


def _laplace_terms(loc: Array, log_scale: Array, x: Array) -> Array:
    return -(jnp.abs(x - loc) * jnp.exp(-log_scale) + log_scale + math.log(2))


def student_t_log_prob(
    loc: Float[ArrayLike, "*event"],
    log_scale: Float[ArrayLike, "*#event"],
    x: Real[ArrayLike, "*event"],
    degrees_of_freedom: Real[ArrayLike, "*#event"] = 4.0,
) -> Float[Array, ""]:
    """Computes the Student-t log-likelihood of one example with independent dimensions.

    It is less sensitive to outliers than a Gaussian.

        log p(x) = sum_d [ log Gamma((v + 1)/2) - log Gamma(v/2) - 1/2 log(pi v) - log_scale - (v + 1)/2 log1p(t^2 / v) ],
        t = (x - loc) exp(-log_scale)

    Coded with log Gamma(a + 1/2) - log Gamma(a) = a log1p(1/(2a)) - 1/2 + 1/2 log(a) + S(a + 1/2) - S(a), a = v/2, S the error
    of Stirling's formula. Nothing cancels, however large v is. The limit v to infinity is the Gaussian.

    Args:
      loc: median, any real values, shape of the event.
      log_scale: natural log of the scale (the standard deviation is sqrt(v / (v - 2)) times it). A scalar, or the shape of the
        event.
      x: real data, shape of the event.
      degrees_of_freedom: v > 0, a scalar or the shape of the event. May be traced and learned. 1 is the Cauchy distribution.

    Returns:
      Scalar, nats, any sign (it is a density), sum over the event.

    Numerics:
      Finite value and gradient for |log_scale| <= 20 in float32 and bfloat16.

    Example:
      >>> loc, x = jnp.zeros((2, 3)), jnp.ones((2, 3))
      >>> print(jax.vmap(student_t_log_prob, in_axes=(0, None, 0))(loc, 0.0, x))
      [-4.62 -4.62]

    Source:
      Student (1908). In variational autoencoders: Takahashi et al. (2018).
    """
    (loc, log_scale, x, v), dtype = one_event(
        "student_t_log_prob",
        may_be_scalar=("log_scale", "degrees_of_freedom"),
        loc=loc,
        log_scale=log_scale,
        x=x,
        degrees_of_freedom=degrees_of_freedom,
    )
    return jnp.sum(_student_t_terms(loc, log_scale, x, v)).astype(dtype)


def _student_t_terms(loc: Array, log_scale: Array, x: Array, v: Array) -> Array:
    a = v / 2
    constant = a * jnp.log1p(0.5 / a) - 0.5 + stirling_error(a + 0.5) - stirling_error(a) - 0.5 * math.log(2 * math.pi)
    # t^2 / v is the square of a quotient, because t itself may be 1e10 and more.
    tail = (a + 0.5) * jnp.log1p(jnp.square((x - loc) * jnp.exp(-log_scale) / jnp.sqrt(v)))
    return constant - log_scale - tail


def _location_scale(
    name: str,
    log_prob: Callable[[Array, Array | float, Array], Array],
    terms: Callable[[Array, Array, Array], Array],
    standard_sample: Callable[[Array, Array], Array],
    scale: Scale,
    initial_scale: Float[ArrayLike, "*#event"],
) -> Likelihood:
    """Makes the bundle of a location-scale family.

    Args:
      name: of the bundle.
      log_prob: (loc, log_scale, x) -> nats of one example.
      terms: (loc, log_scale, x) -> nats of each entry; arrays of one shape.
      standard_sample: (key, like) -> draws at location 0 and scale 1.
      scale, initial_scale: see `gaussian`.
    """
    check_positive(name, initial_scale=initial_scale)
    start = natural_log(initial_scale)
    if scale == "per_column":
        start = column_starts(name, "scale", start)
    # A shared scale needs no floor, because the pixels that vary keep it up.
    has_floor = scale in ("per_column", "per_pixel")
    floor = (lambda log_scale: soft_floor(log_scale, start + _MIN_LOG_RATIO)) if has_floor else lambda s: s
    split, fill, fields = second_parameter(name, "scale", scale, start, floor)

    def sample(key: Array, output: DecoderOutput) -> Array:
        loc, log_scale = split(output)
        return loc + jnp.exp(log_scale) * standard_sample(key, loc)

    def per_entry(output: DecoderOutput, x: Array) -> Array:
        return entrywise(terms, *split(output), x)

    return Likelihood(
        name=name,
        log_prob=lambda output, x: log_prob(*split(output), x),
        log_prob_per_entry=per_entry,
        mean=lambda output: split(output)[0],
        sample=sample,
        support="real",
        output_for_mean=fill,
        **fields,
    )


def gaussian(scale: Scale = 1.0, *, initial_scale: Float[ArrayLike, "*#event"] = 1.0) -> Likelihood:
    """Makes the Gaussian likelihood for real data. The decoder emits the mean.

    Use it for real data, or for gray data where squared errors are wanted although the density is not confined to [0, 1]. The
    scale matters more than anything else, so prefer "shared" to a number. `objectives.batch.optimal_scale` sets it in closed
    form instead.

    Args:
      scale: the standard deviation. A positive number fixes it. "shared" learns one for all pixels with the network (Rybkin et
        al. 2021). "per_column" learns one for each index of the last axis: each column of a vector, each channel of a series
        (the same at all times) or of an image. "per_pixel" reads a second decoder output, raw, with
        log_scale = soft floor(log(initial_scale) + raw). Data in [0, 1] have standard deviations far below 1, so the default of
        1, which a plain squared error assumes, leaves most of the data unexplained.
      initial_scale: initial value of a learned scale. The standard deviation of the data saves many steps. An array of the
        event's shape (`data.Prepared.moments`) gives each entry its initial value and its floor, for entries in different
        units. A shared scale is then one factor on all of them. "per_column" needs an array, of the event's shape or of the
        columns.

    Returns:
      The `Likelihood`.

    Raises:
      ValueError: a scale is not positive, or not one of these names.
    """
    return _location_scale(
        "gaussian",
        gaussian_log_prob,
        _gaussian_terms,
        lambda key, like: jax.random.normal(key, like.shape, like.dtype),
        scale,
        initial_scale,
    )


def laplace(scale: Scale = 1.0, *, initial_scale: Float[ArrayLike, "*#event"] = 1.0) -> Likelihood:
    """Makes the Laplace likelihood for real data: absolute instead of squared error. The decoder emits the median.

    Use it where edges and a few large errors should cost less than under a Gaussian.

    Args:
      scale: Laplace's b, 1/sqrt(2) of the standard deviation: a number, "shared", "per_column" or "per_pixel" (see `gaussian`).
      initial_scale: initial value of a learned b, a number or an array (see `gaussian`).

    Returns:
      The `Likelihood`.
    """
    return _location_scale(
        "laplace",
        laplace_log_prob,
        _laplace_terms,
        lambda key, like: jax.random.laplace(key, like.shape, like.dtype),
        scale,
        initial_scale,
    )


def student_t(
    scale: Scale = 1.0, *, degrees_of_freedom: float = 4.0, initial_scale: Float[ArrayLike, "*#event"] = 1.0
) -> Likelihood:
    """Makes the Student-t likelihood for real data with outliers.

    The decoder emits the location, which is the mean for more than one degree of freedom. Use it for corrupted pixels or
    heavy-tailed measurements, which would dominate the scale and the gradients of a Gaussian.

    Args:
      scale: a number, "shared", "per_column" or "per_pixel" (see `gaussian`).
      degrees_of_freedom: > 0; few degrees give heavy tails.
      initial_scale: initial value of a learned scale, a number or an array (see `gaussian`).

    Returns:
      The `Likelihood`.
    """
    check_positive("student_t", degrees_of_freedom=degrees_of_freedom)
    return _location_scale(
        "student_t",
        lambda loc, log_scale, x: student_t_log_prob(loc, log_scale, x, degrees_of_freedom),
        lambda loc, log_scale, x: _student_t_terms(loc, log_scale, x, jnp.asarray(degrees_of_freedom, x.dtype)),
        lambda key, like: jax.random.t(key, degrees_of_freedom, like.shape, like.dtype),
        scale,
        initial_scale,
    )
