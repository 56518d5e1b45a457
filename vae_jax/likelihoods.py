"""log p(x|z) for one example, in nats, summed over the event and normalised; and bundles that go into a `VAE`.

Every `*_log_prob` takes the decoder's outputs first, then `x`: arrays of one event (any shape), without a batch axis.
It returns a scalar, to be maximised, constants included, so that any two likelihoods are comparable on the same data.
Computed in at least float32; the result has the dtype of the inputs.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vae_jax._arrays import one_event, promote

Support = Literal["binary", "unit_interval", "real"]


# Cross-entropy with logits, elementwise, and its derivative from one shared exp(-|l|): 7 % of a CPU train step cheaper than two
# softplus. By hand, because autodiff of |l| and max has a second derivative of 0 at logit 0, where training may start.


@jax.custom_jvp
def _cross_entropy(logits: Array, x: Array) -> Array:
    return _cross_entropy_from_exp(logits, x, jnp.exp(-jnp.abs(logits)))


def _cross_entropy_from_exp(logits: Array, x: Array, decay: Array) -> Array:
    return x * jnp.maximum(-logits, 0) + (1 - x) * jnp.maximum(logits, 0) + jnp.log1p(decay)


@_cross_entropy.defjvp
def _cross_entropy_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (logits, x), (logits_dot, x_dot) = primals, tangents
    decay = jnp.exp(-jnp.abs(logits))
    slope = (_sigmoid_from_exp(logits, decay) - x) * logits_dot - logits * x_dot
    return _cross_entropy_from_exp(logits, x, decay), slope


@jax.custom_jvp
def _sigmoid_from_exp(logits: Array, decay: Array) -> Array:
    return jnp.where(logits >= 0, 1, decay) / (1 + decay)


@_sigmoid_from_exp.defjvp
def _sigmoid_from_exp_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    logits, decay = primals
    # The other factor is sigma(-l), not 1 - sigma(l): that would be 0 / 0 in precision for large logits.
    slope = _sigmoid_from_exp(logits, decay) * _sigmoid_from_exp(-logits, decay)
    return _sigmoid_from_exp(logits, decay), slope * tangents[0]  # decay is a function of the logits: all of it is in here


def bernoulli_log_prob(logits: ArrayLike, x: ArrayLike) -> Array:
    """Bernoulli log-likelihood of one example, from logits.

        log p(x|l) = -sum_d [ x softplus(-l) + (1 - x) softplus(l) ]
                   = -sum_d [ x max(-l, 0) + (1 - x) max(l, 0) + log1p(exp(-|l|)) ]

    The negative of binary cross-entropy with logits, summed over the pixels.

    Args:
      logits: log-odds of x = 1, any real values, shape of the event.
      x: 0 or 1, same shape. Values in between give cross-entropy, which is no log-likelihood of grey data
        (it does not integrate to one): use `continuous_bernoulli_log_prob` for those.

    Returns:
      Scalar, nats, <= 0, sum over the event.

    Numerics:
      No term is a difference, so float32 keeps its relative precision at any logit; value and gradient are finite for
      |logits| <= 1e4 in float32 and bfloat16. No probability is clipped.

    Example:
      >>> logits, x = jnp.zeros((3, 4)), jnp.ones((3, 4))
      >>> print(jax.vmap(bernoulli_log_prob)(logits, x))
      [-2.77 -2.77 -2.77]

    Source:
      Kingma & Welling (2014), appendix C.1.
    """
    (logits, x), dtype = one_event("bernoulli_log_prob", logits=logits, x=x)
    return -jnp.sum(_cross_entropy(logits, x)).astype(dtype)


def bernoulli_log_prob_from_probs(probs: ArrayLike, x: ArrayLike) -> Array:
    """Bernoulli log-likelihood of one example, from probabilities: for decoders that end in a sigmoid.

        log p(x|p) = sum_d [ x log p + (1 - x) log1p(-p) ],   with 0 log 0 = 0

    Args:
      probs: probability of x = 1, in [0, 1], shape of the event.
      x: 0 or 1, same shape.

    Returns:
      Scalar, nats, <= 0, sum over the event; -inf where an outcome of probability 0 occurred.

    Numerics:
      Prefer `bernoulli_log_prob`. A probability has lost what the logit knew: in float32 a sigmoid rounds to exactly 1
      for logits above 17, so the cost of a wrong pixel there is infinite and its gradient is not finite, and the relative
      error of log(1 - p) grows as eps / (1 - p), about 1e-3 at logit 10. Logits have neither trouble. Nothing is clipped
      here, because clipping hides this behind a wrong number.

    Example:
      >>> probs, x = jnp.full((2, 4), 0.5), jnp.ones((2, 4))
      >>> print(jax.vmap(bernoulli_log_prob_from_probs)(probs, x))
      [-2.77 -2.77]

    Source:
      Kingma & Welling (2014), appendix C.1, as written there.
    """
    (probs, x), dtype = one_event("bernoulli_log_prob_from_probs", probs=probs, x=x)
    # Inner `where`s: without them a certain and correct pixel (x = p = 1, common in float32) has gradient 0/0.
    log_p = jnp.log(jnp.where(x > 0, probs, 1))
    log_not_p = jnp.log1p(-jnp.where(x < 1, probs, 0))
    return jnp.sum(x * log_p + (1 - x) * log_not_p).astype(dtype)


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
    (mean, log_scale, x), dtype = one_event("gaussian_log_prob", may_be_scalar="log_scale", mean=mean, log_scale=log_scale, x=x)
    standardised = (x - mean) * jnp.exp(-log_scale)
    return (-0.5 * jnp.sum(jnp.square(standardised) + 2 * log_scale + math.log(2 * math.pi))).astype(dtype)


# log(sinh(a/2) / (a/2)) = sum_n B_2n a^(2n) / (2n (2n)!), B_2n the Bernoulli numbers; coefficients of (a^2)^1, (a^2)^2, ...
_LOG_SINHC_SERIES = (1 / 24, -1 / 2880, 1 / 181440, -1 / 9676800, 1 / 479001600, -691 / 15692092416000)
# Below this |logit| the series is exact to float64 (next term 6e-17) and the closed form loses digits in log(1 - tiny).
_SERIES_RADIUS = 0.5


def continuous_bernoulli_log_prob(logits: ArrayLike, x: ArrayLike) -> Array:
    """Continuous Bernoulli log-likelihood of one example with values in [0, 1], from logits.

        log p(x|l) = sum_d [ l x - A(l) ],   A(l) = log((exp(l) - 1) / l),   A(0) = 0
                   = sum_d [ l (x - 1/2) - log(sinh(l/2) / (l/2)) ]                                 coded for |l| < 1/2
                   = sum_d [ -x max(-l, 0) - (1 - x) max(l, 0) - log((1 - exp(-|l|)) / |l|) ]       coded elsewhere

    The Bernoulli's cross-entropy plus the constant that makes it integrate to one over [0, 1].

    Args:
      logits: natural parameter l = log(lambda / (1 - lambda)), any real values, shape of the event.
      x: grey values in [0, 1], same shape.

    Returns:
      Scalar, nats, any sign (it is a density), sum over the event.

    Numerics:
      In the logit there is nothing to clip and no trouble at lambda = 1/2; finite value and gradient for |logits| <= 1e4.

    Example:
      >>> logits, x = jnp.zeros((2, 3)), jnp.full((2, 3), 0.3)
      >>> jax.vmap(continuous_bernoulli_log_prob)(logits, x).tolist()
      [0.0, 0.0]

    Source:
      Loaiza-Ganem & Cunningham (2019), equation 6, rewritten in the logit.
    """
    (logits, x), dtype = one_event("continuous_bernoulli_log_prob", logits=logits, x=x)
    near_zero = jnp.abs(logits) < _SERIES_RADIUS
    # Both branches of a `where` are differentiated, so each gets arguments that are safe for it.
    small = jnp.where(near_zero, logits, 0)
    large = jnp.where(near_zero, 1, logits)
    square = jnp.square(small)
    series = small * (x - 0.5) - square * jnp.polyval(jnp.array(_LOG_SINHC_SERIES[::-1], square.dtype), square)
    size = jnp.abs(large)
    closed = -x * jnp.maximum(-large, 0) - (1 - x) * jnp.maximum(large, 0) - jnp.log(-jnp.expm1(-size) / size)
    return jnp.sum(jnp.where(near_zero, series, closed)).astype(dtype)


def continuous_bernoulli_mean(logits: ArrayLike) -> Array:
    """Mean of the continuous Bernoulli for each dimension: A'(l) = 1 / (1 - exp(-l)) - 1/l, and 1/2 at l = 0.

    This is what a reconstruction shows. It is not lambda = sigmoid(l): the mean is always closer to 1/2.

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
    """Inverse distribution function, on the side where the density falls: y = -log1p(u (exp(-|l|) - 1)) / |l|."""
    uniform = jax.random.uniform(key, logits.shape, logits.dtype)
    size = jnp.maximum(jnp.abs(logits), 1e-6)  # at 1e-6 the density is flat to float32
    falling = -jnp.log1p(uniform * jnp.expm1(-size)) / size
    return jnp.where(logits > 0, 1 - falling, falling)


class Likelihood(NamedTuple):
    """A likelihood as a bundle of pure functions of one example.

    `decoder_output` is whatever the decoder returns for one example: an array with the shape of the data (with a last
    axis of length `outputs_per_dim` where that is more than 1), or a tuple of it and the learned numbers of `shared_start`.
    """

    name: str
    log_prob: Callable[[Any, Array], Array]  # (decoder_output, x) -> scalar nats
    mean: Callable[[Any], Array]  # decoder_output -> E[x|z], shape of the data
    sample: Callable[[Array, Any], Array]  # (key, decoder_output) -> a draw of x, shape of the data
    support: Support
    outputs_per_dim: int = 1  # numbers that the decoder emits for each data dimension
    shared_start: tuple[float, ...] = ()  # where learned numbers that all dimensions share start; they are VAE parameters
    output_for_mean: Callable[[Array], Array] | None = None  # training mean -> decoder output that predicts it (bias)


def bernoulli() -> Likelihood:
    """Binary data. The decoder emits logits."""

    def output_for_mean(mean: Array) -> Array:
        mean = jnp.clip(mean, 1e-3, 1 - 1e-3)  # an always-black pixel starts at logit -7 rather than at minus infinity
        return jnp.log(mean) - jnp.log1p(-mean)

    return Likelihood(
        name="bernoulli",
        log_prob=bernoulli_log_prob,
        mean=jax.nn.sigmoid,
        sample=lambda key, logits: jax.random.bernoulli(key, jax.nn.sigmoid(logits)).astype(logits.dtype),
        support="binary",
        output_for_mean=output_for_mean,
    )


def continuous_bernoulli() -> Likelihood:
    """Grey data in [0, 1]. The decoder emits logits; the reconstruction is `continuous_bernoulli_mean`, not their sigmoid."""

    def output_for_mean(mean: Array) -> Array:
        mean = jnp.clip(mean, 1e-3, 1 - 1e-3)
        low, high = jnp.full_like(mean, -2e3), jnp.full_like(mean, 2e3)
        for _ in range(50):  # the mean has no inverse in closed form; it rises with the logit, so bisect
            middle = (low + high) / 2
            below = continuous_bernoulli_mean(middle) < mean
            low, high = jnp.where(below, middle, low), jnp.where(below, high, middle)
        return (low + high) / 2

    return Likelihood(
        name="continuous_bernoulli",
        log_prob=continuous_bernoulli_log_prob,
        mean=continuous_bernoulli_mean,
        sample=_sample_continuous_bernoulli,
        support="unit_interval",
        output_for_mean=output_for_mean,
    )


def gaussian(scale: float | Literal["shared"] = 1.0, *, initial_scale: float = 1.0) -> Likelihood:
    """Real data. The decoder emits the mean.

    Args:
      scale: the standard deviation: a positive number, or "shared" for one that is learned with the network and is the
        same for every pixel (Rybkin et al. 2021). Data in [0, 1] have standard deviations far below 1, so the default
        of 1 leaves most of the data unexplained; it is what a plain squared error assumes.
      initial_scale: where a learned scale starts; the standard deviation of the data saves many steps.
    """
    if scale == "shared":
        return Likelihood(
            name="gaussian",
            log_prob=lambda output, x: gaussian_log_prob(output[0], output[1][0], x),
            mean=lambda output: output[0],
            sample=lambda key, output: (
                output[0] + jnp.exp(output[1][0]) * jax.random.normal(key, output[0].shape, output[0].dtype)
            ),
            support="real",
            shared_start=(math.log(initial_scale),),
            output_for_mean=lambda mean: mean,
        )
    if isinstance(scale, str) or not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"gaussian: expected scale to be a positive number or 'shared', got {scale!r}.")
    log_scale = math.log(scale)
    return Likelihood(
        name="gaussian",
        log_prob=lambda mean, x: gaussian_log_prob(mean, log_scale, x),
        mean=lambda mean: mean,
        sample=lambda key, mean: mean + scale * jax.random.normal(key, mean.shape, mean.dtype),
        support="real",
        output_for_mean=lambda mean: mean,
    )


def from_log_prob(log_prob: Callable[[Any, Array], Array], **fields: Any) -> Likelihood:
    """A likelihood from any function (decoder_output, x) -> scalar nats.

    Without further fields the decoder's output is taken as the mean and as the sample, and the data may be any real numbers;
    pass `mean=`, `sample=`, `support=`, `outputs_per_dim=` ... to say otherwise.

    Example:
      >>> laplace = from_log_prob(lambda loc, x: -jnp.sum(jnp.abs(x - loc) + jnp.log(2.0)))
      >>> print(laplace.log_prob(jnp.zeros(1), jnp.ones(1)))
      -1.69
    """
    defaults: dict[str, Any] = {
        "name": getattr(log_prob, "__name__", "custom"),
        "mean": lambda output: output,
        "sample": lambda key, output: output,
        "support": "real",
    }
    return Likelihood(log_prob=log_prob, **(defaults | fields))
