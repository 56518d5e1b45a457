"""Posteriors by normalizing flows: inverse autoregressive, Householder and planar."""

import itertools
import math
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vae_jax._numerics.special import exp_finite
from vae_jax._numerics.threefry import normal
from vae_jax.divergences import kl_to_standard_normal
from vae_jax.likelihoods import gaussian_log_prob
from vae_jax.posteriors.base import Posterior, PosteriorParams, moments_from_draws

Weights: TypeAlias = dict[str, Array]  # of one masked network
Masks: TypeAlias = tuple[Array, ...]  # of its layers, shapes (inputs, outputs)

# sigmoid(2) = 0.88: a new inverse autoregressive flow hardly changes z (Kingma et al. 2016, section 4).
_FORGET_BIAS = 2.0
_SMALL = 0.01  # factor on the first weights of the last layer
_LOG_E_MINUS_1 = math.log(math.e - 1)  # softplus of it is 1
_LEAST_SQUARED = 1e-12  # squared length of a vector whose direction counts


def _noise_log_prob(noise: Array, log_scale: Array) -> Array:
    """Computes log N(mean + exp(log_scale) noise; mean, exp(log_scale)^2)."""
    zeros = jnp.zeros_like(noise)
    return gaussian_log_prob(zeros, zeros, noise) - jnp.sum(log_scale)


def _check(function: str, **sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{function}: expected {name} >= 1, got {size}.")


def autoregressive_masks(latent_dim: int, hidden: tuple[int, ...]) -> Masks:
    """Makes the masks of a network whose outputs i depend on the inputs before i only.

    Hidden units of degree k see the inputs 1 ... k, and the outputs i see the hidden units of degrees below i. Degrees run
    through 0 ... latent - 1. Units of degree 0 see the context alone.

    Args:
      latent_dim: number of inputs, and of outputs of each of two kinds.
      hidden: widths of the hidden layers. A layer narrower than latent_dim lacks the highest degrees.

    Returns:
      A mask of zeros and ones for each layer, shape (inputs, outputs). The last one has 2 latent_dim outputs.

    Source:
      Germain et al. (2015), MADE, with degrees in order as in Papamakarios et al. (2017).
    """
    outputs = jnp.arange(1, latent_dim + 1)
    degrees = [outputs, *(jnp.arange(width) % latent_dim for width in hidden)]
    inner = [a[:, None] <= b[None, :] for a, b in itertools.pairwise(degrees)]
    last = degrees[-1][:, None] < jnp.tile(outputs, 2)[None, :]
    return tuple(mask.astype(jnp.float32) for mask in (*inner, last))


def _init_masked(key: Array, masks: Masks, context_dim: int) -> Weights:
    """Returns the initial weights of one masked network: outputs near 0, and variances kept by the hidden layers."""
    weights: Weights = {}
    for i, mask in enumerate(masks):
        factor = _SMALL if i == len(masks) - 1 else 1.0
        deviation = factor / jnp.sqrt(jnp.maximum(mask.sum(0), 1))
        weights[f"kernel_{i}"] = jax.random.normal(jax.random.fold_in(key, i), mask.shape, jnp.float32) * mask * deviation
        weights[f"bias_{i}"] = jnp.zeros(mask.shape[1], jnp.float32)
    factor = _SMALL if len(masks) == 1 else 1.0
    shape = (context_dim, masks[0].shape[1])
    weights["context"] = jax.random.normal(jax.random.fold_in(key, len(masks)), shape, jnp.float32) * (
        factor / context_dim**0.5
    )
    return weights


def _product(vector: Array, matrix: Array) -> Array:
    # In full precision on every device: the inverse must find the numbers of the forward pass again.
    return jnp.matmul(vector, matrix, precision=jax.lax.Precision.HIGHEST)


def _masked_network(weights: Weights, masks: Masks, context: Array, z: Array) -> tuple[Array, Array]:
    """Returns m and s, each (latent,), whose entries i depend on the context and on the entries of z before i."""
    h = z
    for i, mask in enumerate(masks):
        h = _product(h, weights[f"kernel_{i}"] * mask) + weights[f"bias_{i}"]
        h = h + _product(context, weights["context"]) if i == 0 else h
        # tanh, because codes are not bounded, and gates linear in them would saturate at the first steps.
        h = jnp.tanh(h) if i < len(masks) - 1 else h
    m, s = jnp.split(h, 2)
    return m, s + _FORGET_BIAS


def _update(weights: Weights, masks: Masks, context: Array, z: Array) -> tuple[Array, Array]:
    """Returns sigmoid(s) z + (1 - sigmoid(s)) m and its log-determinant, a scalar."""
    m, s = _masked_network(weights, masks, context, z)
    return jax.nn.sigmoid(s) * z + jax.nn.sigmoid(-s) * m, jnp.sum(jax.nn.log_sigmoid(s))


def _undo_update(weights: Weights, masks: Masks, context: Array, updated: Array) -> Array:
    """Returns z from the result of `_update`, dimension by dimension."""

    def fill(z: Array, i: Array) -> tuple[Array, None]:
        m, s = _masked_network(weights, masks, context, z)
        # (updated - (1 - sigmoid(s)) m) / sigmoid(s) without the division
        previous = updated + (updated - m) * exp_finite(-s)
        return z.at[i].set(previous[i]), None

    return jax.lax.scan(fill, jnp.zeros_like(updated), jnp.arange(updated.shape[0]))[0]


def iaf(latent_dim: int, *, num_flows: int = 4, hidden: tuple[int, ...] = (128, 128), context_dim: int = 32) -> Posterior:
    """Makes the posterior of an inverse autoregressive flow.

        z_0 = mean + exp(log_scale) noise
        z_t = sigmoid(s_t) z_{t-1} + (1 - sigmoid(s_t)) m_t,   (m_t, s_t) = network_t(z_{t-1}, context),   t = 1 ... num_flows
        log q(z|x) = log N(noise; 0, I) - sum log_scale - sum_t sum_i log sigmoid(s_ti)

    The entries i of m_t and s_t depend on the entries of z_{t-1} before i (masked dense layers with tanh), and the order of
    the dimensions is reversed from step to step. The encoder returns the context, `context_dim` numbers, besides mean and
    log_scale. Each flow starts near the identity, with gates of sigmoid(2).

    Args:
      latent_dim: number of latent dimensions, >= 1.
      num_flows: number of steps, >= 1.
      hidden: widths of the hidden layers of each network. Use widths of at least latent_dim.
      context_dim: length of the context, >= 1.

    Returns:
      The `Posterior`. A draw and its density take one pass. The density of a given z takes latent_dim passes, because the
      dimensions are recovered one after the other; "stl" and "dreg" need it. The KL to N(0, I) has no closed form.

    Raises:
      ValueError: a size is below 1.

    Example:
      >>> posterior = iaf(2, num_flows=1, hidden=(8,), context_dim=3)
      >>> q = jnp.zeros(2), jnp.zeros(2), jnp.zeros(3), posterior.init(jax.random.key(0))
      >>> z, log_q = posterior.sample_and_log_prob(jax.random.key(1), q)
      >>> bool(jnp.abs(log_q - posterior.log_prob(q, z)) < 1e-5)
      True

    Source:
      Kingma et al. (2016), algorithm 1 and equation 14.
    """
    _check("iaf", latent_dim=latent_dim, num_flows=num_flows, context_dim=context_dim)
    _check("iaf", **{f"hidden[{i}]": width for i, width in enumerate(hidden)})
    make_masks = partial(autoregressive_masks, latent_dim, tuple(hidden))  # called in each trace: a bundle holds no arrays

    def init(key: Array) -> dict[str, Weights]:
        masks = make_masks()
        return {f"flow_{t}": _init_masked(jax.random.fold_in(key, t), masks, context_dim) for t in range(num_flows)}

    def sample_and_log_prob(key: Array, q: PosteriorParams) -> tuple[Array, Array]:
        mean, log_scale, context, weights = q
        masks = make_masks()
        noise = normal(key, mean.shape, mean.dtype)
        z, log_q = mean + jnp.exp(log_scale) * noise, _noise_log_prob(noise, log_scale)
        for t in range(num_flows):
            z, log_determinant = _update(weights[f"flow_{t}"], masks, context, z[::-1] if t % 2 else z)
            z, log_q = z[::-1] if t % 2 else z, log_q - log_determinant
        return z, log_q

    def sample(key: Array, q: PosteriorParams) -> Array:
        return sample_and_log_prob(key, q)[0]

    def log_prob(q: PosteriorParams, z: Array) -> Array:
        mean, log_scale, context, weights = q
        masks = make_masks()
        total = jnp.zeros((), z.dtype)
        for t in reversed(range(num_flows)):
            flow = weights[f"flow_{t}"]
            z = _undo_update(flow, masks, context, z[::-1] if t % 2 else z)
            total = total + _update(flow, masks, context, z)[1]
            z = z[::-1] if t % 2 else z
        return gaussian_log_prob(mean, log_scale, z) - total

    def moments(key: Array, q: PosteriorParams) -> tuple[Array, Array]:
        return moments_from_draws(key, sample, q)

    return Posterior("iaf", sample, sample_and_log_prob, log_prob, None, moments, context_dim, init)


def _directions(extra: Array) -> Array:
    """Returns vectors (num_flows, latent) relative to unit vectors, so that none starts without a direction."""
    return extra + jnp.eye(extra.shape[1], dtype=extra.dtype)[jnp.arange(extra.shape[0]) % extra.shape[1]]


def _reflect(vector: Array, z: Array) -> Array:
    """Returns z mirrored at the plane that is orthogonal to the vector; z itself for a vector shorter than 1e-6."""
    squared = jnp.sum(jnp.square(vector))
    has_direction = squared > _LEAST_SQUARED
    factor = 2 * jnp.sum(vector * z) / jnp.where(has_direction, squared, 1)
    return z - vector * jnp.where(has_direction, factor, 0)


def householder(latent_dim: int, *, num_flows: int = 4) -> Posterior:
    """Makes the posterior of a Householder flow, a Gaussian whose covariance is rotated by a product of reflections.

        z = mean + H_T ... H_1 exp(log_scale) noise,   H_t = I - 2 v_t v_t' / |v_t|^2

    The encoder returns the vectors v_t, relative to unit vectors, besides mean and log_scale. Where these numbers are 0 the
    posterior is the diagonal Gaussian. With num_flows = latent_dim the covariance is any one.

    Args:
      latent_dim: number of latent dimensions, >= 1.
      num_flows: T, the number of reflections, >= 1.

    Returns:
      The `Posterior`. The rotation leaves the KL to N(0, I) that of the diagonal Gaussian, and every estimator of gradients
      works.

    Raises:
      ValueError: a size is below 1.

    Example:
      >>> print(householder(2).kl_to_standard_normal((jnp.zeros(2), jnp.zeros(2), jnp.ones(8))))
      0.0

    Source:
      Tomczak & Welling (2016). They compute v_t from v_{t-1} by a linear layer and rotate the mean as well, which is the same
      family, because the mean is free.
    """
    _check("householder", latent_dim=latent_dim, num_flows=num_flows)

    def rotate(extra: Array, z: Array, reverse: bool = False) -> Array:
        vectors = _directions(extra.reshape(num_flows, latent_dim))
        for vector in vectors[::-1] if reverse else vectors:
            z = _reflect(vector, z)
        return z

    def sample_and_log_prob(key: Array, q: PosteriorParams) -> tuple[Array, Array]:
        mean, log_scale, extra = q
        noise = normal(key, mean.shape, mean.dtype)
        return mean + rotate(extra, jnp.exp(log_scale) * noise), _noise_log_prob(noise, log_scale)

    def sample(key: Array, q: PosteriorParams) -> Array:
        return sample_and_log_prob(key, q)[0]

    def log_prob(q: PosteriorParams, z: Array) -> Array:
        mean, log_scale, extra = q
        return gaussian_log_prob(jnp.zeros_like(mean), log_scale, rotate(extra, z - mean, reverse=True))

    def rotation_matrix(extra: Array) -> Array:
        return jax.vmap(lambda column: rotate(extra, column), out_axes=1)(jnp.eye(latent_dim, dtype=extra.dtype))

    def factor(q: PosteriorParams) -> Array:
        return rotation_matrix(q[2]) * jnp.exp(q[1])

    def moments(key: Array, q: PosteriorParams) -> tuple[Array, Array]:
        mean, log_scale, extra = q
        rotation = rotation_matrix(extra)
        largest = jnp.max(log_scale)
        variance = jnp.sum(jnp.square(rotation * jnp.exp(log_scale - largest)), axis=1)
        return mean, largest + 0.5 * jnp.log(jnp.maximum(variance, jnp.finfo(variance.dtype).tiny))

    def kl(q: PosteriorParams) -> Array:
        return kl_to_standard_normal(q[0], q[1])

    num_extra = num_flows * latent_dim
    return Posterior("householder", sample, sample_and_log_prob, log_prob, kl, moments, num_extra, factor=factor)


def planar_update(
    z: Float[Array, "latent"], u: Float[Array, "latent"], w: Float[Array, "latent"], bias: Float[Array, ""]
) -> tuple[Float[Array, "latent"], Float[Array, ""]]:
    """Computes one planar flow and its log-determinant.

        f(z) = z + u_hat tanh(w'z + b),   u_hat = u + (m(w'u) - w'u) w / |w|^2,   m(t) = softplus(t + log(e - 1)) - 1
        log |det df/dz| = log(1 + w'u_hat (1 - tanh^2(w'z + b)))

    m(t) > -1 makes f invertible. The paper has m(t) = softplus(t) - 1, which is not 0 at u = 0. Here f is then the identity.

    Args:
      z: the code, shape (latent,).
      u, w, bias: the parameters, shapes (latent,), (latent,) and ().

    Returns:
      (f(z), log-determinant), shapes (latent,) and (), nats.

    Example:
      >>> z, log_determinant = planar_update(jnp.ones(2), jnp.zeros(2), jnp.ones(2), jnp.zeros(()))
      >>> print(z, log_determinant)
      [1. 1.] 0.0

    Source:
      Rezende & Mohamed (2015), equations 10 to 12 and appendix A.1.
    """
    inner, squared = jnp.sum(w * u), jnp.sum(jnp.square(w))
    # A shorter w has no direction, and u is not changed: w'u > -1 then holds for any |u| < 1e6.
    has_direction = squared > _LEAST_SQUARED
    softplus = jax.nn.softplus(inner + _LOG_E_MINUS_1)
    plus_one = jnp.where(has_direction, softplus, 1 + inner)  # 1 + w'u_hat > 0
    u_hat = u + w * jnp.where(has_direction, (softplus - 1 - inner) / jnp.where(has_direction, squared, 1), 0)
    t = jnp.sum(w * z) + bias
    # 1 - tanh^2 without cancellation; the determinant is tanh^2 + (1 - tanh^2) (1 + w'u_hat), two terms >= 0.
    decay = jnp.exp(-2 * jnp.abs(t))
    sech_squared = 4 * decay / jnp.square(1 + decay)
    determinant = jnp.square(jnp.tanh(t)) + sech_squared * plus_one
    return z + u_hat * jnp.tanh(t), jnp.log(jnp.maximum(determinant, jnp.finfo(z.dtype).tiny))


def planar(latent_dim: int, *, num_flows: int = 4) -> Posterior:
    """Makes the posterior of planar flows (see `planar_update`) behind a diagonal Gaussian.

        z_0 = mean + exp(log_scale) noise,   z_t = f_t(z_{t-1}),   t = 1 ... num_flows

    The encoder returns u_t, w_t (relative to unit vectors) and b_t, 2 latent + 1 numbers for each flow, besides mean and
    log_scale. Where these numbers are 0 the posterior is the diagonal Gaussian.

    Args:
      latent_dim: number of latent dimensions, >= 1.
      num_flows: number of planar flows, >= 1.

    Returns:
      The `Posterior`. Its `log_prob` is None, because the inverse has no closed form: the density is known for draws only.
      Estimators "stl" and "dreg" refuse it. The KL to N(0, I) has no closed form.

    Raises:
      ValueError: a size is below 1.

    Example:
      >>> planar(2).log_prob is None
      True

    Source:
      Rezende & Mohamed (2015).
    """
    _check("planar", latent_dim=latent_dim, num_flows=num_flows)

    def sample_and_log_prob(key: Array, q: PosteriorParams) -> tuple[Array, Array]:
        mean, log_scale, extra = q
        noise = normal(key, mean.shape, mean.dtype)
        z, log_q = mean + jnp.exp(log_scale) * noise, _noise_log_prob(noise, log_scale)
        u, w, bias = jnp.split(extra.reshape(num_flows, -1), [latent_dim, 2 * latent_dim], axis=1)
        for flow in zip(u, _directions(w), bias[:, 0], strict=True):
            z, log_determinant = planar_update(z, *flow)
            log_q = log_q - log_determinant
        return z, log_q

    def sample(key: Array, q: PosteriorParams) -> Array:
        return sample_and_log_prob(key, q)[0]

    def moments(key: Array, q: PosteriorParams) -> tuple[Array, Array]:
        return moments_from_draws(key, sample, q)

    return Posterior("planar", sample, sample_and_log_prob, None, None, moments, num_flows * (2 * latent_dim + 1))
