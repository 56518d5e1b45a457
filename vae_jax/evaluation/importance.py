"""Importance-weighted estimates of log p(x), with their Monte Carlo error, bias and Pareto shape."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Jaxpr
from jaxtyping import Array, Float, Key, Shaped

from vae_jax._numerics.short_repr import short_repr
from vae_jax.evaluation.dataset_means import DataSlice, ToInput, as_slice, standard_error
from vae_jax.example import Example
from vae_jax.model import VAE, Params, bind, example_shapes, with_weights
from vae_jax.objectives import draw, log_mean_exp_k
from vae_jax.posteriors import PosteriorParams

_MIN_TAIL = 5  # draws in the tail: fewer do not determine its shape
# Units in the last place within which log weights count as equal. Exact posteriors gave tails of log weights that were up to
# 5.6 units wide, for 6 to 12,288 pixels.
_ROUNDING_UNITS = 16
_MIN_MAGNITUDE = 10.0  # nats: terms of this size are summed even if the sum is smaller, so they set the rounding error
# `log_px_means` reports an upper end if at most this share of examples is above the Pareto limit, and if this shortfall of
# each of them would stay within the interval. Its docstring has the measurements.
_MAX_SHARE_ABOVE = 0.01
_ASSUMED_SHORTFALL = 3.0  # nats


@short_repr
class LogPx(NamedTuple):
    """Estimate of log p(x) in nats from K draws, and its quality. Results for a data set have a leading axis of examples."""

    log_px: Float[Array, "*examples"]  # log 1/K sum_k w_k, below log p(x) in expectation
    log_px_half: Float[Array, "*examples"]  # mean of the same estimate from each half of the draws, NaN for K = 1
    standard_error: Float[Array, "*examples"]  # of log_px over the draws, NaN for K = 1
    effective_sample_size: Float[Array, "*examples"]  # (sum w)^2 / sum w^2, from 1 to K
    pareto_k: Float[Array, "*examples"]  # tail shape, NaN for K < 25. Above `pareto_k_limit`, standard_error is too small.


class LogPxMeans(NamedTuple):
    """Means over the examples of a split, in nats per example."""

    log_px: float
    standard_error: float  # over the examples, as if the test set were drawn anew
    monte_carlo_error: float  # over the draws, for this test set
    bias: float  # estimated shortfall of log_px, >= 0. It is too small if the interval has no upper end.
    interval: tuple[float, float]  # for the mean log p(x) of this test set. (low, inf) if the weights give no upper end.
    effective_sample_size: float  # median over the examples
    pareto_k_above: float  # share of examples with a Pareto shape above 0.7, NaN for K < 25
    num_samples: int
    num_examples: int
    pareto_k_above_limit: float  # share above `pareto_k_limit(num_samples)`, which decides the upper end, NaN for K < 25


def log_px_from_weights(log_w: Float[Array, "draws"]) -> LogPx:
    """Estimates log p(x) of one example, and the quality of the estimate, from K log importance weights.

        log_px                = log 1/K sum_k w_k
        effective_sample_size = (sum_k w_k)^2 / sum_k w_k^2
        standard_error        = sqrt[ (1/ESS - 1/K) K/(K-1) ]      (delta method)

    The bias of log_px is -c/K to first order, and -2c/K with half of the draws, so log_px - log_px_half estimates the remaining
    shortfall c/K.

    Args:
      log_w: log [p(x|z_k) p(z_k) / q(z_k|x)], z_k ~ q(z|x), shape (K,), finite.

    Returns:
      `LogPx` of scalars.

    Numerics:
      If q is the exact posterior, all weights are equal. Then standard_error and bias are 0 up to rounding, the effective
      sample size is K, and pareto_k is minus infinity (no tail). This also holds in float32, where the weights differ by
      rounding.

    Example:
      >>> estimate = log_px_from_weights(jnp.log(jnp.array([1.0, 3.0])))
      >>> print(estimate.log_px, estimate.effective_sample_size)
      0.6931472 1.6

    Source:
      Burda et al. (2016). The expansion in 1/K: Nowozin (2018).
    """
    k = log_w.shape[0]
    half = k // 2
    weights = jax.nn.softmax(log_w)
    effective = 1 / jnp.sum(jnp.square(weights))
    # Squares about the mean rather than 1/ESS - 1/K: equal weights then have an error of exactly 0.
    variance = jnp.sum(jnp.square(weights - 1 / k)) * (k / max(k - 1, 1))
    nan = jnp.full((), jnp.nan, log_w.dtype)
    halves = 0.5 * (log_mean_exp_k(log_w[:half]) + log_mean_exp_k(log_w[k - half :])) if half else nan
    return LogPx(log_mean_exp_k(log_w), halves, jnp.sqrt(variance) if half else nan, effective, pareto_k(log_w))


def pareto_k(log_w: Float[Array, "draws"]) -> Float[Array, ""]:
    """Fits a generalized Pareto distribution to the largest importance weights of one example and returns its shape.

    With a shape below 0.5 the weights have a finite variance. Up to 0.7 the estimate of log p(x) converges at a useful rate.
    Above 0.7 it does not, and its standard error is misleading. The tail consists of the M = min(K/5, 3 sqrt(K)) largest
    weights, minus the next smaller one. The fit is the profile posterior mean of Zhang & Stephens, shrunk towards 0.5 with the
    weight of ten draws.

    Args:
      log_w: log weights, shape (K,).

    Returns:
      Scalar shape. It is minus infinity if the weights of the tail are equal up to rounding: their logarithms lie within 16
      units in the last place of the largest one, or of 10 nats if that is more. It is NaN for K < 25.

    Source:
      Vehtari, Simpson, Gelman, Yao & Gabry (2024); Zhang & Stephens (2009).
    """
    k = log_w.shape[0]
    count = int(min(k / 5, 3 * math.sqrt(k)))
    if count < _MIN_TAIL:
        return jnp.full((), jnp.nan, log_w.dtype)
    largest = jax.lax.top_k(log_w, count + 1)[0]
    # In units of the largest weight, so that nothing overflows. The shape does not depend on the unit.
    excess = (jnp.exp(largest[:-1] - largest[0]) - jnp.exp(largest[-1] - largest[0]))[::-1]
    # Rounding errors of log w would give a shape too, often a heavy tail. The excess of equal weights is 0.
    rounding = _ROUNDING_UNITS * jnp.finfo(log_w.dtype).eps * jnp.maximum(jnp.abs(largest[0]), _MIN_MAGNITUDE)
    shapeless = (excess[-1] <= 0) | (largest[0] - largest[-1] <= rounding)
    excess = jnp.where(shapeless, jnp.arange(1.0, count + 1.0), excess)  # placeholder values, which can be fitted
    # theta = -shape/scale on a grid within the bounds given by the data. The first quartile sets the scale of the prior.
    grid = 30 + int(math.sqrt(count))
    quartile = jnp.maximum(excess[int(count / 4 + 0.5) - 1], jnp.finfo(excess.dtype).tiny)
    spread = 1 - jnp.sqrt(grid / (jnp.arange(1, grid + 1) - 0.5))
    theta = 1 / excess[-1] + spread / (3 * quartile)

    def shape_at(theta: Array) -> Array:
        return jnp.mean(jnp.log1p(-theta * excess))

    shapes = jax.vmap(shape_at)(theta)
    # log(-theta/shape) has a removable singularity at theta = 0, which a grid point hits only by coincidence.
    log_likelihood = count * (jnp.log(-theta / shapes) - shapes - 1)
    posterior_mean = jnp.sum(theta * jax.nn.softmax(log_likelihood))
    shape = (count * shape_at(posterior_mean) + 10 * 0.5) / (count + 10)
    return jnp.where(shapeless, -jnp.inf, shape)


def importance_log_px(
    key: Key[Array, ""],
    vae: VAE,
    params: Params,
    data: Shaped[Array, "examples ..."] | DataSlice,
    *,
    num_samples: int,
    to_input: ToInput = lambda x: x,
    log_jacobian: float = 0.0,
    memory_bytes: int = 2**26,
) -> LogPx:
    """Estimates log p(x) of every example of a data set by importance sampling from the encoder's q(z|x).

        log_px = log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x),   z_k ~ q(z|x)

    Jit it at the call site.

    Args:
      key: a new-style PRNG key. Draw k of example i uses fold_in(fold_in(key, i), k), so results do not depend on the chunks.
      vae, params: the model.
      data: (examples, ...) as stored, or a `DataSlice` of a larger data set.
      num_samples: number of draws K >= 1 (static).
      to_input: turns a batch of `data` into floats.
      log_jacobian: nats added to each estimate, usually `data.Prepared.log_jacobian`.
      memory_bytes: approximate memory for the layers of the decoder. It determines how many draws are decoded together. The
        default fits into a CPU's cache; 2**30 fills an accelerator.

    Returns:
      `LogPx`, each field (examples,).

    Raises:
      ValueError: if num_samples < 1.

    Source:
      Burda et al. (2016).
    """
    if num_samples < 1:
        raise ValueError(f"importance_log_px: expected num_samples >= 1, got {num_samples}.")
    examples, first = as_slice(data)
    num_examples = examples.shape[0]
    images, draws = chunk_sizes(draw_bytes(vae, params), num_examples, num_samples, memory_bytes)
    draw_index = jnp.arange(-(-num_samples // draws) * draws).reshape(-1, draws)

    def log_weight(key_x: Array, outputs: PosteriorParams, x: Array | Example, k: Array) -> Array:
        model, key_k = bind(vae, params, x), jax.random.fold_in(key_x, k)
        q = with_weights(vae, params, outputs)
        return draw(key_k, q, model.decode, model.log_prob, model.x, **model.keywords).log_weight

    def estimate_chunk(index: Array) -> LogPx:
        x = to_input(examples[index])
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, first + index)
        outputs = jax.vmap(lambda x: vae.encode(params, x))(x)
        log_weights = jax.vmap(jax.vmap(log_weight, in_axes=(None, None, None, 0)), in_axes=(0, 0, 0, None))
        log_w = jax.lax.map(lambda k: log_weights(keys, outputs, x, k), draw_index)  # (chunks, images, draws)
        log_w = jnp.moveaxis(log_w, 0, 1).reshape(images, -1)[:, :num_samples]
        return jax.vmap(log_px_from_weights)(log_w)

    # The last chunk is filled up with copies of the first image, which are cut off.
    index = jnp.arange(-(-num_examples // images) * images)
    index = jnp.where(index < num_examples, index, 0).reshape(-1, images)
    result = jax.tree.map(lambda leaf: leaf.reshape(-1)[:num_examples], jax.lax.map(estimate_chunk, index))
    return result._replace(log_px=result.log_px + log_jacobian, log_px_half=result.log_px_half + log_jacobian)


def draw_bytes(vae: VAE, params: Params) -> int:
    """Returns the bytes of all intermediate values of decoding and weighting one draw, an upper bound on its memory.

    The number follows from shapes alone; nothing is computed.
    """

    def one(params: Params, z: Array, x: Array | Example) -> Array:
        model = bind(vae, params, x)
        return model.log_prob(model.decode(z), model.x)

    z = jax.ShapeDtypeStruct((vae.latent_dim,), jnp.float32)
    return _intermediate_bytes(jax.make_jaxpr(one)(params, z, example_shapes(vae)).jaxpr)


def _intermediate_bytes(jaxpr: Jaxpr) -> int:
    """Returns the bytes of all results of the equations of a program, including those of inner programs."""
    total = 0
    for equation in jaxpr.eqns:
        inner = [value.jaxpr for value in equation.params.values() if hasattr(value, "jaxpr")]
        results = [out.aval for out in equation.outvars if isinstance(out.aval, ShapedArray)]
        outputs = sum(math.prod(result.shape) * result.dtype.itemsize for result in results)
        total += sum(map(_intermediate_bytes, inner)) if inner else outputs
    return total


def chunk_sizes(bytes_per_draw: int, num_examples: int, num_samples: int, memory_bytes: int) -> tuple[int, int]:
    """Returns (examples, draws of each example) that are decoded together.

    These are all draws of several examples if memory allows, and otherwise a part of the draws of one example.

    Example:
      >>> chunk_sizes(1000, 100, 50, 10**6), chunk_sizes(1000, 100, 5000, 10**6)
      ((20, 50), (1, 1000))
    """
    at_once = max(1, memory_bytes // max(bytes_per_draw, 1))
    draws = min(num_samples, at_once)
    # Chunks of equal size, so that the last one is hardly ever ragged.
    draws = -(-num_samples // -(-num_samples // draws))
    return min(num_examples, max(1, at_once // num_samples)), draws


def pareto_k_limit(num_samples: int) -> float:
    """Returns the Pareto shape up to which K draws determine the error of log p(x): min(1 - 1/log10 K, 0.6).

    The first term is the largest shape that K draws can distinguish from heavier tails (Vehtari et al.). The second term of
    these authors is 0.7, which is too high for the bias: it falls as K^(1 - 1/k) for k > 0.5, and twice the difference between
    K and K/2 draws covers it for shapes up to 0.63 only.

    Example:
      >>> [round(pareto_k_limit(k), 2) for k in (25, 100, 1000, 5000)]
      [0.28, 0.5, 0.6, 0.6]

    Source:
      Vehtari, Simpson, Gelman, Yao & Gabry (2024).
    """
    return min(1 - 1 / max(math.log10(num_samples), 1.0), 0.6)


def log_px_means(estimates: LogPx, num_samples: int) -> LogPxMeans:
    """Computes dataset means in float64 from per-example estimates.

    The interval is for the mean log p(x) of these examples. It extends by three Monte Carlo errors (99.7 %) in both directions,
    and upwards by twice the estimated bias in addition, because the estimate is too low on average. The lower end is always
    valid. The upper end is valid only if the weights have light tails. It is therefore infinite ("at least") unless the
    examples with a Pareto shape above `pareto_k_limit(num_samples)` are at most 1 %, and few enough that a shortfall of 3 nats
    in each of them would stay within the interval. Annealed importance sampling (`ais_dataset`) gives tighter bounds then.

    Args:
      estimates: `LogPx` with fields (examples,).
      num_samples: number of draws K behind each estimate.

    Numerics:
      The rule was tested on problems with known answers: a normal posterior in 1 to 50 dimensions with q narrower, wider,
      shifted or of mixed widths, 30 to 250 examples, and K = 100 to 20,000. These were 22,500 test sets, with different q and
      draws from those by which the rule was chosen. An interval with an upper end in all cases lies below the truth in 26 % of
      the sets whose examples are all alike, in 15 % of those whose q vary, and in 33 % of those with a few bad q among good
      ones. With this rule it does so in 0.1 %, 0.3 % and 2.1 %, by at most 0.09 nats. The price is that half of the intervals
      that would have been valid have no upper end. Modes of the posterior that q never reaches cannot be detected by any rule
      that uses the weights only.
    """
    log_px, half, error, effective, shape = (np.asarray(values, np.float64) for values in estimates)
    count = len(log_px)
    mean = float(np.mean(log_px))
    monte_carlo = float(np.sqrt(np.sum(np.square(error)))) / count
    with np.errstate(invalid="ignore"):  # examples whose log p(x) is not finite
        bias = max(float(np.mean(log_px - half)), 0.0) if num_samples > 1 else math.nan
    has_shape = not np.isnan(shape).all()
    above, above_limit = (float(np.mean(shape > k)) if has_shape else math.nan for k in (0.7, pareto_k_limit(num_samples)))
    low, high = mean - 3 * monte_carlo, mean + 3 * monte_carlo + 2 * bias
    is_closed = above_limit <= min(_MAX_SHARE_ABOVE, (high - mean) / _ASSUMED_SHORTFALL)  # False for NaN
    return LogPxMeans(
        mean,
        standard_error(log_px),
        monte_carlo,
        bias,
        (low, high if is_closed else math.inf),
        float(np.median(effective)),
        above,
        num_samples,
        count,
        above_limit,
    )
