"""Importance-weighted estimates of log p(x), with what each is worth: errors over draws, remaining bias, Pareto shape."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vae_jax._numerics.short_repr import short_repr
from vae_jax.evaluation.dataset_means import ToInput, standard_error
from vae_jax.model import VAE, Params, prior_log_prob
from vae_jax.objectives import draw, log_mean_exp_k

_TAIL_LEAST = 5  # draws in the tail, fewer say nothing of its shape
# Exact posteriors gave tails of log weights as wide as 5.6 units in the last place, for 6 to 12,288 pixels.
_NOISE = 16
# Terms of about this size, in nats, are summed even where the sum is smaller.
_LEAST_TERM = 10.0
# `log_px_means` closes the interval where so few examples are above the limit that they hardly matter. See there.
_MOST_ABOVE = 0.01
_NATS_MISSING = 3.0


@short_repr
class LogPx(NamedTuple):
    """The estimate of log p(x) from K draws, and its quality; nats. One example, or a leading axis of examples."""

    log_px: Array  # log 1/K sum_k w_k: below log p(x) in expectation
    log_px_half: Array  # the mean of the same from either half of the draws; NaN for K = 1
    standard_error: Array  # of log_px over the draws; NaN for K = 1
    effective_sample_size: Array  # (sum w)^2 / sum w^2, from 1 to K
    pareto_k: Array  # shape of the weights' tail: above `pareto_k_limit` the errors here are too small; NaN for K < 25


class LogPxMeans(NamedTuple):
    """Means over the examples of a split, in nats per example."""

    log_px: float
    standard_error: float  # over the examples, as for another test set from the same source
    monte_carlo_error: float  # over the draws, for this test set
    bias: float  # estimate of what log_px is too low by, >= 0; where the interval is open it is too small
    interval: tuple[float, float]  # of the mean log p(x) of this test set; (low, inf) where the weights give a lower end only
    effective_sample_size: float  # median over the examples
    pareto_k_above: float  # share of examples with a Pareto shape above 0.7; NaN for K < 25
    num_samples: int
    num_examples: int
    pareto_k_above_limit: float  # share above `pareto_k_limit(num_samples)`, which the interval goes by; NaN for K < 25


def log_px_from_weights(log_w: Array) -> LogPx:
    """What K log importance weights of one example say of log p(x).

        log_px                = log 1/K sum_k w_k
        effective_sample_size = (sum_k w_k)^2 / sum_k w_k^2
        standard_error        = sqrt[ (1/ESS - 1/K) K/(K-1) ],   the delta method's standard deviation of log_px

    The bias of log_px is c/K to first order, and 2c/K from half of the draws: so log_px - log_px_half estimates what is left.

    Args:
      log_w: log [p(x|z_k) p(z_k) / q(z_k|x)], z_k ~ q(z|x), shape (K,), finite.

    Returns:
      `LogPx` of scalars.

    Numerics:
      With q the exact posterior all weights are equal: standard_error and bias are then 0 to rounding, the effective sample
      size is K and pareto_k minus infinity (no tail). So it is in float32, where the weights differ by rounding.

    Example:
      >>> estimate = log_px_from_weights(jnp.log(jnp.array([1.0, 3.0])))
      >>> print(estimate.log_px, estimate.effective_sample_size)
      0.6931472 1.6

    Source:
      Burda et al. (2016); half against whole: Nowozin (2018) has the expansion in 1/K; pareto_k: see `pareto_k`.
    """
    k = log_w.shape[0]
    half = k // 2
    weights = jax.nn.softmax(log_w)
    effective = 1 / jnp.sum(jnp.square(weights))
    # About the mean, not 1/ESS - 1/K: equal weights then have an error of 0, not one of rounding.
    variance = jnp.sum(jnp.square(weights - 1 / k)) * (k / max(k - 1, 1))
    nan = jnp.full((), jnp.nan, log_w.dtype)
    halves = 0.5 * (log_mean_exp_k(log_w[:half]) + log_mean_exp_k(log_w[k - half :])) if half else nan
    return LogPx(log_mean_exp_k(log_w), halves, jnp.sqrt(variance) if half else nan, effective, pareto_k(log_w))


def pareto_k(log_w: Array) -> Array:
    """Shape of the generalised Pareto distribution fitted to the largest importance weights of one example.

    Below 0.5 the weights have a variance. Up to 0.7 the estimate converges at a useful rate. Above it does not, whatever
    its standard error says. The tail is the M = min(K/5, 3 sqrt(K)) largest weights, less the next one below them. The fit
    is the profile posterior mean of Zhang & Stephens, shrunk towards 0.5 as by ten draws.

    Args:
      log_w: log weights, shape (K,).

    Returns:
      Scalar. Minus infinity where the tail's weights are all the same: their logarithms lie within 16 units in the last place
      of the largest one (or of 10 nats, where that is more), so that their differences are rounding. NaN for K < 25.

    Source:
      Vehtari, Simpson, Gelman, Yao & Gabry (2024); Zhang & Stephens (2009).
    """
    k = log_w.shape[0]
    count = int(min(k / 5, 3 * math.sqrt(k)))
    if count < _TAIL_LEAST:
        return jnp.full((), jnp.nan, log_w.dtype)
    largest = jax.lax.top_k(log_w, count + 1)[0]
    # In units of the largest weight, so that nothing overflows; the shape does not depend on the unit.
    excess = (jnp.exp(largest[:-1] - largest[0]) - jnp.exp(largest[-1] - largest[0]))[::-1]
    # The rounding of log w has a shape, too, often a heavy one; the excess of equal weights is 0.
    rounding = _NOISE * jnp.finfo(log_w.dtype).eps * jnp.maximum(jnp.abs(largest[0]), _LEAST_TERM)
    shapeless = (excess[-1] <= 0) | (largest[0] - largest[-1] <= rounding)
    excess = jnp.where(shapeless, jnp.arange(1.0, count + 1.0), excess)  # any numbers that can be fitted
    # theta = -shape/scale on a grid between the data's bounds; the first quartile sets the prior's scale.
    grid = 30 + int(math.sqrt(count))
    quartile = jnp.maximum(excess[int(count / 4 + 0.5) - 1], jnp.finfo(excess.dtype).tiny)
    spread = 1 - jnp.sqrt(grid / (jnp.arange(1, grid + 1) - 0.5))
    theta = 1 / excess[-1] + spread / (3 * quartile)

    def shape_at(theta: Array) -> Array:
        return jnp.mean(jnp.log1p(-theta * excess))

    shapes = jax.vmap(shape_at)(theta)
    # At the pole theta = 0 the likelihood's log(-theta/shape) has a limit; no grid point is there but for coincidence.
    log_likelihood = count * (jnp.log(-theta / shapes) - shapes - 1)
    posterior_mean = jnp.sum(theta * jax.nn.softmax(log_likelihood))
    shape = (count * shape_at(posterior_mean) + 10 * 0.5) / (count + 10)
    return jnp.where(shapeless, -jnp.inf, shape)


def importance_log_px(
    key: Array,
    vae: VAE,
    params: Params,
    data: Array,
    *,
    num_samples: int,
    to_input: ToInput = lambda x: x,
    log_jacobian: float = 0.0,
    memory_bytes: int = 2**26,
    first: ArrayLike = 0,
) -> LogPx:
    """Importance-weighted log p(x) for every example of a data set, the encoder's q(z|x) as the proposal. Jit it at the edge.

        log_px = log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x),   z_k ~ q(z|x)

    Args:
      key: a new-style PRNG key. Draw k of example i uses fold_in(fold_in(key, i), k): results do not depend on chunks.
      vae, params: the model.
      data: (examples, ...) as stored; to_input turns a batch of it into floats.
      num_samples: K >= 1 (static).
      log_jacobian: nats added to each, `data.Prepared.log_jacobian`.
      memory_bytes: about what the decoder's layers may take; sets how many draws are decoded at once. The default keeps them
        in a CPU's cache; 2**30 fills an accelerator.
      first: index of data[0], where data is a part of a data set; may be traced. The parts give what the whole does.

    Returns:
      `LogPx`, each field (examples,).

    Raises:
      ValueError: num_samples < 1.

    Source:
      Burda et al. (2016).
    """
    if num_samples < 1:
        raise ValueError(f"importance_log_px: expected num_samples >= 1, got {num_samples}.")
    num_examples, log_prior = data.shape[0], prior_log_prob(vae, params)
    images, draws = chunk_sizes(draw_bytes(vae, params), num_examples, num_samples, memory_bytes)
    draw_index = jnp.arange(-(-num_samples // draws) * draws).reshape(-1, draws)

    def log_weight(key_x: Array, posterior: tuple[Array, Array], x: Array, k: Array) -> Array:
        drawn = draw(
            jax.random.fold_in(key_x, k),
            *posterior,
            lambda z: vae.decode(params, z),
            vae.likelihood.log_prob,
            x,
            prior_log_prob=log_prior,
        )
        return drawn.log_weight

    def of_images(index: Array) -> LogPx:
        x = to_input(data[index])
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, first + index)
        posteriors = jax.vmap(lambda x: vae.encode(params, x))(x)
        of_draws = jax.vmap(jax.vmap(log_weight, in_axes=(None, None, None, 0)), in_axes=(0, 0, 0, None))
        log_w = jax.lax.map(lambda k: of_draws(keys, posteriors, x, k), draw_index)  # (chunks, images, draws)
        log_w = jnp.moveaxis(log_w, 0, 1).reshape(images, -1)[:, :num_samples]
        return jax.vmap(log_px_from_weights)(log_w)

    # The last images are filled up with copies of the first, which are cut off.
    index = jnp.arange(-(-num_examples // images) * images)
    index = jnp.where(index < num_examples, index, 0).reshape(-1, images)
    found = jax.tree.map(lambda leaf: leaf.reshape(-1)[:num_examples], jax.lax.map(of_images, index))
    return found._replace(log_px=found.log_px + log_jacobian, log_px_half=found.log_px_half + log_jacobian)


def draw_bytes(vae: VAE, params: Params) -> int:
    """Bytes of all intermediate values of decoding and weighing one draw: a bound on what it needs; from shapes alone."""

    def one(params: Params, z: Array, x: Array) -> Array:
        return vae.likelihood.log_prob(vae.decode(params, z), x)

    z, x = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((vae.latent_dim,), vae.data_shape))
    return _intermediates(jax.make_jaxpr(one)(params, z, x).jaxpr)


def _intermediates(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        inner = [value.jaxpr for value in equation.params.values() if hasattr(value, "jaxpr")]
        outputs = sum(math.prod(out.aval.shape) * out.aval.dtype.itemsize for out in equation.outvars)
        total += sum(map(_intermediates, inner)) if inner else outputs
    return total


def chunk_sizes(bytes_per_draw: int, num_examples: int, num_samples: int, memory_bytes: int) -> tuple[int, int]:
    """(examples, draws of each) decoded at once: all draws of several examples, or some draws of one, as memory allows.

    Example:
      >>> chunk_sizes(1000, 100, 50, 10**6), chunk_sizes(1000, 100, 5000, 10**6)
      ((20, 50), (1, 1000))
    """
    at_once = max(1, memory_bytes // max(bytes_per_draw, 1))
    draws = min(num_samples, at_once)
    # As many chunks as needed, all of one size: the last one is hardly ever ragged.
    draws = -(-num_samples // -(-num_samples // draws))
    return min(num_examples, max(1, at_once // num_samples)), draws


def pareto_k_limit(num_samples: int) -> float:
    """Returns the Pareto shape up to which K draws tell the error of log p(x): min(1 - 1/log10 K, 0.6).

    The first part says which shapes K draws can tell from heavier ones (Vehtari et al.). Their second part, 0.7, is too high
    for the bias: it falls as K^(1 - 1/k) for k > 0.5, and twice the difference between K and K/2 draws covers it up to 0.63.

    Example:
      >>> [round(pareto_k_limit(k), 2) for k in (25, 100, 1000, 5000)]
      [0.28, 0.5, 0.6, 0.6]

    Source:
      Vehtari, Simpson, Gelman, Yao & Gabry (2024).
    """
    return min(1 - 1 / max(math.log10(num_samples), 1.0), 0.6)


def log_px_means(estimates: LogPx, num_samples: int) -> LogPxMeans:
    """Computes dataset means in float64 from per-example estimates.

    The interval is for the mean log p(x) of these examples: three errors over the draws (99.7 %) either way, and twice the
    estimated bias above, since the estimate is below on average. Its lower end always holds. Its upper end holds only if the
    weights' tails are light, so it is infinite ("at least") unless the examples with a Pareto shape above
    `pareto_k_limit(num_samples)` are at most 1 %, and so few that 3 nats missing from each would stay within the interval.
    Annealed importance sampling (`ais_dataset`) then comes closer.

    Numerics:
      Known answers: a normal posterior in 1 to 50 dimensions, and q narrower, wider, shifted or of mixed widths; 30 to 250
      examples, K = 100 to 20,000; 22,500 test sets, with other q and draws than those by which the rule was chosen. Closed
      always, the interval lies below the truth in 26 % of the sets whose examples are all alike, in 15 % of those whose q vary,
      and in 33 % of those with a few bad q among good ones. Closed by this rule it does so in 0.1 %, 0.3 % and 2.1 %, by at
      most 0.09 nats. The price: half of the intervals that would have held are open. No rule that looks at the weights can
      see a mode of the posterior that q never reaches.
    """
    log_px, half, error, effective, shape = (np.asarray(values, np.float64) for values in estimates)
    count = len(log_px)
    mean = float(np.mean(log_px))
    monte_carlo = float(np.sqrt(np.sum(np.square(error)))) / count
    with np.errstate(invalid="ignore"):  # of examples whose log p(x) is not finite
        bias = max(float(np.mean(log_px - half)), 0.0) if num_samples > 1 else math.nan
    has_shape = not np.isnan(shape).all()
    above, above_limit = (float(np.mean(shape > k)) if has_shape else math.nan for k in (0.7, pareto_k_limit(num_samples)))
    low, high = mean - 3 * monte_carlo, mean + 3 * monte_carlo + 2 * bias
    is_closed = above_limit <= min(_MOST_ABOVE, (high - mean) / _NATS_MISSING)  # False for NaN
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
