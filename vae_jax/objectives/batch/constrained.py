"""Objectives with a number that depends on the batch: the optimal scale, GECO's multiplier, free bits of the batch mean."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Key, Real

from vae_jax._numerics.arrays import Params
from vae_jax.divergences import free_bits_per_dimension, kl_per_dimension
from vae_jax.example import event_of, mask_of
from vae_jax.objectives.assumptions import check_batch_free_bits
from vae_jax.objectives.base import Decode, Encode, HyperparamsLike, LogProb, Terms
from vae_jax.objectives.batch.base import Batch, BatchObjective, forward, repeat_for_batch
from vae_jax.posteriors import DIAGONAL, Posterior

_MAX_LOG = math.log(1e6)  # bounds the multiplier, because a target that cannot be met must not drive the loss to infinity


def optimal_log_scale(
    mean: Float[ArrayLike, "batch *event"],
    x: Real[ArrayLike, "batch *event"],
    min_log_scale: float = -30.0,
    mask: Bool[Array, "batch *event"] | None = None,
) -> Float[Array, ""]:
    """Computes the log of the Gaussian decoder's best single standard deviation for a batch, 1/2 log of the mean squared error.

    Args:
      mean: decoder means, shape (batch, *event).
      x: data, same shape.
      min_log_scale: lower bound of the result, where its gradient is zero. It keeps the result finite for a batch that is
        reproduced exactly.
      mask: True where an entry is observed, same shape. The mean is over these entries of the whole batch, and x at the others
        has no effect. None: all are observed.

    Returns:
      Natural log of sigma, a scalar. It is `min_log_scale` where no entry is observed.

    Example:
      >>> print(optimal_log_scale(jnp.zeros((2, 3)), jnp.full((2, 3), 2.0)))
      0.69

    Source:
      Rybkin et al. (2021), whose sigma* denotes sigma*^2.
    """
    error = jnp.asarray(x) - jnp.asarray(mean)
    if mask is None:
        mean_square = jnp.mean(jnp.square(error))
    else:
        # Errors rather than squares are replaced, because the derivative of the square of a NaN is one as well.
        mean_square = jnp.sum(jnp.square(jnp.where(mask, error, 0))) / jnp.maximum(jnp.sum(mask), 1)
    return 0.5 * jnp.log(jnp.maximum(mean_square, math.exp(2 * min_log_scale)))


class ScaleState(NamedTuple):
    """Moving average of the mean squared error, for evaluation."""

    mean_square: Float[Array, ""]  # not yet corrected for its start at zero
    weight: Float[Array, ""]  # sum of the weights so far, 0 before the first step


def optimal_scale(
    *, min_log_scale: float = -6.0, decay: float = 0.9, relative_scale: ArrayLike | None = None
) -> BatchObjective:
    """Makes the beta-ELBO of a Gaussian decoder whose standard deviation is, at every step, the best one for the batch.

        sigma^2 = mean over batch and pixels of (x - mean)^2
        loss_i = sum_d (x - mean)^2 / (2 sigma^2) + D/2 log(2 pi sigma^2) + beta kl_i       (mean: D/2 log sigma^2 + ...)

    It makes no difference whether the gradient flows through sigma, because the loss is stationary in sigma at the optimum. So
    this is a learned scale without lag. It needs `likelihoods.gaussian("shared")`, whose log-scale it sets for evaluation from
    a moving average of the squared error. `hyperparams.beta` weighs the KL.

    Args:
      min_log_scale: lower bound of log sigma. Without it, the density of a batch that is reproduced exactly is unbounded.
      decay: decay rate of the moving average, which lags 1 / (1 - decay) steps behind the falling error.
      relative_scale: array of the event's shape, for entries in different units. The standard deviation of each entry is then
        sigma times it. It is the likelihood's `initial_scale` divided by its geometric mean.

    Returns:
      The `BatchObjective`. `extra` has the log-scale of the batch.

    Source:
      Rybkin et al. (2021).
    """

    def terms(
        key: Array,
        encode: Encode,
        decode: Decode,
        log_prob: LogProb,
        x: Batch,
        hyperparams: HyperparamsLike,
        state: ScaleState,
        posterior: Posterior = DIAGONAL,
    ) -> tuple[Terms, ScaleState]:
        codes = forward(key, encode, decode, log_prob, x, posterior)
        # The last axis of the learned numbers has one entry for a shared scale, and several for a scale of each column.
        if not isinstance(codes.output, tuple) or codes.output[0].shape != x.shape or codes.output[1].shape[-1] != 1:
            raise ValueError("optimal_scale: expected a VAE with likelihoods.gaussian('shared'), whose decoder emits the mean.")
        mean = codes.output[0]
        weight = 1 if relative_scale is None else 1 / jnp.asarray(relative_scale)
        log_scale = optimal_log_scale(mean * weight, event_of(x) * weight, min_log_scale, mask_of(x))
        log_likelihood = jax.vmap(lambda mean, x: log_prob((mean, log_scale[None]), x))(mean, x)
        square = jax.lax.stop_gradient(jnp.exp(2 * log_scale))
        new = ScaleState(decay * state.mean_square + (1 - decay) * square, decay * state.weight + (1 - decay))
        if (mask := mask_of(x)) is not None:  # a batch without a single entry says nothing about the scale
            new = jax.tree.map(lambda new, old: jnp.where(jnp.any(mask), new, old), new, state)
        extra = {"log_scale": repeat_for_batch(log_scale, codes.kl)}
        return Terms(-log_likelihood + hyperparams.beta * codes.kl, log_likelihood, codes.kl, extra), new

    def evaluation_params(params: Params, state: ScaleState) -> Params:
        started = state.weight > 0
        average = jnp.where(started, state.mean_square / jnp.where(started, state.weight, 1), 1)
        log_scale = jnp.where(started, jnp.full_like(params["likelihood"], 0.5 * jnp.log(average)), params["likelihood"])
        return params | {"likelihood": log_scale}

    return BatchObjective(terms, lambda key: ScaleState(jnp.zeros(()), jnp.zeros(())), evaluation_params)


class GecoState(NamedTuple):
    """State of GECO: the multiplier, and the moving average of the violation of the constraint."""

    log_multiplier: Float[Array, ""]
    violation: Float[Array, ""]  # nats per example
    started: Bool[Array, ""]  # False before the first step


def geco(*, step_size: float = 1e-3, max_step: float = 0.01, decay: float = 0.99) -> BatchObjective:
    """Makes the GECO objective: the least KL subject to a bound on the distortion, whose multiplier is adapted in the state.

        loss = kl + multiplier (distortion - target),   distortion = -log_likelihood
        log multiplier += clip(step_size average(mean distortion - target), -max_step, max_step)

    The target is `hyperparams.target_distortion`, in nats per example. Once it is met, 1/multiplier is the beta of the
    beta-VAE that has this distortion.

    This deviates from the paper in one point. A log-likelihood summed over pixels differs from its target by hundreds of nats
    at first, where the paper has a mean over pixels. So the change of the log-multiplier in one step is bounded.

    Args:
      step_size: step size of the log-multiplier for each nat of violation.
      max_step: largest change of the log-multiplier in one step.
      decay: decay rate of the moving average of the violation (0.99 in the paper).

    Returns:
      The `BatchObjective`. `extra` has the multiplier. The moving average drives the multiplier only, and the gradient is that
      of the batch.

    Source:
      Rezende & Viola (2018), algorithm 1.
    """

    def terms(
        key: Array,
        encode: Encode,
        decode: Decode,
        log_prob: LogProb,
        x: Batch,
        hyperparams: HyperparamsLike,
        state: GecoState,
        posterior: Posterior = DIAGONAL,
    ) -> tuple[Terms, GecoState]:
        codes = forward(key, encode, decode, log_prob, x, posterior)
        excess = -codes.log_likelihood - hyperparams.target_distortion
        multiplier = jnp.exp(state.log_multiplier)
        now = jax.lax.stop_gradient(jnp.mean(excess))
        violation = jnp.where(state.started, decay * state.violation + (1 - decay) * now, now)
        change = jnp.clip(step_size * violation, -max_step, max_step)
        new = GecoState(jnp.clip(state.log_multiplier + change, -_MAX_LOG, _MAX_LOG), violation, jnp.ones((), bool))
        return Terms(
            codes.kl + multiplier * excess,
            codes.log_likelihood,
            codes.kl,
            {"multiplier": repeat_for_batch(multiplier, codes.kl)},
        ), new

    return BatchObjective(terms, lambda key: GecoState(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), bool)))


def free_bits_batch_mean(kl: Float[ArrayLike, "batch latent"], free_bits: Float[ArrayLike, ""]) -> Float[Array, ""]:
    """Computes a KL whose gradient stops where the batch mean of a dimension is below its allowance, as in the paper.

        sum_j max(1/B sum_i kl_ij, free_bits)

    It is never larger than the mean of `divergences.free_bits_per_dimension`, which clips every example separately.

    Args:
      kl: KL of each example and latent dimension, shape (batch, latent), nats.
      free_bits: allowance of each dimension in nats, >= 0. May be traced.

    Returns:
      Scalar, nats per example.

    Example:
      >>> print(free_bits_batch_mean(jnp.array([[0.0, 1.0], [1.0, 1.0]]), 0.6))
      1.6

    Source:
      Kingma et al. (2016).
    """
    kl = jnp.asarray(kl)
    if kl.ndim != 2:
        raise ValueError(f"free_bits_batch_mean: expected the KLs of a batch, shape (batch, latent), got {kl.shape}.")
    return free_bits_per_dimension(jnp.mean(kl, axis=0), free_bits)


def free_bits_batch_mean_elbo(
    key: Key[Array, ""],
    encode: Encode,
    decode: Decode,
    log_prob: LogProb,
    x: Real[Array, "batch *event"],
    *,
    free_bits: Float[ArrayLike, ""],
    beta: Float[ArrayLike, ""] = 1.0,
    posterior: Posterior = DIAGONAL,
) -> Terms:
    """Computes the terms of the ELBO of a batch, and a loss with an allowance for the batch mean of the KL.

        loss = -log_likelihood + beta sum_j max(mean kl_j, free_bits)

    Args:
      key, encode, decode, log_prob, x: see `beta_tc_elbo`.
      free_bits: allowance of each dimension in nats, >= 0. May be traced.
      beta: weight of the KL, >= 0. May be traced.
      posterior: the family of q(z|x): the diagonal Gaussian, or a code of several layers, each of which has the allowance in
        place of a dimension.

    Returns:
      `Terms` of shape (batch,), nats. `kl` is the KL itself, not clipped.

    Raises:
      UserError: for other posteriors, which do not have a KL of each dimension or layer.

    Source:
      Kingma et al. (2016).
    """
    codes = forward(key, encode, decode, log_prob, x, posterior)
    if posterior is DIAGONAL:
        kl = jax.vmap(kl_per_dimension)(codes.mean, codes.log_scale)
    else:
        check_batch_free_bits(posterior)
        assert codes.layer_kl is not None
        kl = codes.layer_kl
    clipped = free_bits_batch_mean(kl, free_bits)
    return Terms(-codes.log_likelihood + beta * repeat_for_batch(clipped, codes.kl), codes.log_likelihood, codes.kl)
