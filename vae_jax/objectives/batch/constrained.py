"""Objectives that set a number by the batch: the optimal scale, GECO's multiplier, free bits by the batch mean."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vae_jax.divergences import free_bits_per_dimension, kl_per_dimension
from vae_jax.objectives import Decode, Encode, LogProb, Terms
from vae_jax.objectives.batch.base import BatchObjective, forward, to_all

_MAX_LOG = math.log(1e6)  # a target that cannot be met must not drive the loss to infinity


def optimal_log_scale(mean: ArrayLike, x: ArrayLike, min_log_scale: float = -30.0) -> Array:
    """Log of the Gaussian decoder's best single standard deviation for a batch: 1/2 log of the mean squared error.

    Args:
      mean, x: decoder means and data, (batch, ...).
      min_log_scale: the result is kept above it, with a gradient of zero there: finite for a batch that is reproduced exactly.

    Returns:
      Scalar, natural log of sigma.

    Example:
      >>> print(optimal_log_scale(jnp.zeros((2, 3)), jnp.full((2, 3), 2.0)))
      0.69

    Source:
      Rybkin et al. (2021) (whose sigma* is sigma*^2).
    """
    mean_square = jnp.mean(jnp.square(jnp.asarray(x) - jnp.asarray(mean)))
    return 0.5 * jnp.log(jnp.maximum(mean_square, math.exp(2 * min_log_scale)))


class ScaleState(NamedTuple):
    """Moving average of the mean squared error, for evaluation."""

    mean_square: Array  # (), not yet corrected for its start at zero
    weight: Array  # (), sum of the weights so far; 0 before the first step


def optimal_scale(
    *, min_log_scale: float = -6.0, decay: float = 0.9, relative_scale: ArrayLike | None = None
) -> BatchObjective:
    """The beta-ELBO of a Gaussian decoder whose standard deviation is, at every step, the best one for the batch.

        sigma^2 = mean over batch and pixels of (x - mean)^2
        loss_i = sum_d (x - mean)^2 / (2 sigma^2) + D/2 log(2 pi sigma^2) + beta kl_i       (mean: D/2 log sigma^2 + ...)

    The gradient does not care whether it flows through sigma: at the optimum the loss does not depend on it. So this is a
    learned scale without its lag, and a quantity of the batch. Needs `likelihoods.gaussian("shared")`, whose log-scale it sets
    for evaluation, from a moving average of the squared error; `hyperparams.beta` weighs the KL.

    Args:
      min_log_scale: sigma is kept above its exponential: of a batch that is reproduced exactly the density has no upper bound.
      decay: of the moving average; the average lags 1 / (1 - decay) steps behind, in which the error may fall.
      relative_scale: for entries in different units, an array of the event's shape: sigma times it is then the standard
        deviation of each. It is `initial_scale` of the likelihood over its geometric mean.

    Source:
      Rybkin et al. (2021).
    """

    def terms(
        key: Array, encode: Encode, decode: Decode, log_prob: LogProb, x: Array, hyperparams: Any, state: ScaleState
    ) -> tuple[Terms, ScaleState]:
        codes = forward(key, encode, decode, log_prob, x)
        if not isinstance(codes.output, tuple) or codes.output[0].shape != x.shape:
            raise ValueError("optimal_scale: expected a VAE with likelihoods.gaussian('shared'), whose decoder emits the mean.")
        mean = codes.output[0]
        weight = 1 if relative_scale is None else 1 / jnp.asarray(relative_scale)
        log_scale = optimal_log_scale(mean * weight, x * weight, min_log_scale)
        at_optimum = lambda mean, x: log_prob((mean, log_scale[None]), x)  # noqa: E731
        log_likelihood = jax.vmap(at_optimum)(mean, x)
        square = jax.lax.stop_gradient(jnp.exp(2 * log_scale))
        new = ScaleState(decay * state.mean_square + (1 - decay) * square, decay * state.weight + (1 - decay))
        extra = {"log_scale": to_all(log_scale, codes.kl)}
        return Terms(-log_likelihood + hyperparams.beta * codes.kl, log_likelihood, codes.kl, extra), new

    def evaluation_params(params: Any, state: ScaleState) -> Any:
        started = state.weight > 0
        average = jnp.where(started, state.mean_square / jnp.where(started, state.weight, 1), 1)
        log_scale = jnp.where(started, jnp.full_like(params["likelihood"], 0.5 * jnp.log(average)), params["likelihood"])
        return params | {"likelihood": log_scale}

    return BatchObjective(terms, lambda key: ScaleState(jnp.zeros(()), jnp.zeros(())), evaluation_params)


class GecoState(NamedTuple):
    """The multiplier, and the moving average of how much the constraint is violated."""

    log_multiplier: Array  # ()
    violation: Array  # (), nats per example
    started: Array  # (), bool


def geco(*, step_size: float = 1e-3, max_step: float = 0.01, decay: float = 0.99) -> BatchObjective:
    """Least KL subject to a distortion: a constraint in place of beta, whose multiplier is adapted in the state.

        loss = kl + multiplier (distortion - target),   distortion = -log_likelihood
        log multiplier += clip(step_size average(mean distortion - target), -max_step, max_step)

    The target is `hyperparams.target_distortion`, nats per example. Once it is met, 1/multiplier is the beta of the beta-VAE
    that has this distortion. A log-likelihood summed over pixels differs from its target by hundreds of nats at first, where
    the paper has a mean over pixels, so the change of the multiplier is bounded: at most max_step, relative, at every step.

    Args:
      step_size: of the log-multiplier, for each nat of violation.
      max_step: largest change of the log-multiplier in a step.
      decay: of the moving average of the violation (0.99 in the paper).

    Returns:
      A `BatchObjective`; its multiplier is in `extra`. The average moves the multiplier alone; the gradient is the batch's own.

    Source:
      Rezende & Viola (2018), algorithm 1.
    """

    def terms(
        key: Array, encode: Encode, decode: Decode, log_prob: LogProb, x: Array, hyperparams: Any, state: GecoState
    ) -> tuple[Terms, GecoState]:
        codes = forward(key, encode, decode, log_prob, x)
        excess = -codes.log_likelihood - hyperparams.target_distortion
        multiplier = jnp.exp(state.log_multiplier)
        now = jax.lax.stop_gradient(jnp.mean(excess))
        violation = jnp.where(state.started, decay * state.violation + (1 - decay) * now, now)
        change = jnp.clip(step_size * violation, -max_step, max_step)
        new = GecoState(jnp.clip(state.log_multiplier + change, -_MAX_LOG, _MAX_LOG), violation, jnp.ones((), bool))
        return Terms(
            codes.kl + multiplier * excess, codes.log_likelihood, codes.kl, {"multiplier": to_all(multiplier, codes.kl)}
        ), new

    return BatchObjective(terms, lambda key: GecoState(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), bool)))


def free_bits_batch_mean(kl: ArrayLike, free_bits: ArrayLike) -> Array:
    """Free bits as in the paper: each latent dimension's KL, averaged over the batch, and then clipped.

        sum_j max(1/B sum_i kl_ij, free_bits)

    Compare `divergences.free_bits_per_dimension`, which clips every example by itself, and so is never smaller.

    Args:
      kl: (batch, latent), nats; free_bits: allowance of each dimension in nats; may be traced.

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
    key: Array,
    encode: Encode,
    decode: Decode,
    log_prob: LogProb,
    x: Array,
    *,
    free_bits: ArrayLike,
    beta: ArrayLike = 1.0,
) -> Terms:
    """The ELBO with `free_bits_batch_mean` for a batch: loss = -log_likelihood + beta sum_j max(mean kl_j, free_bits).

    Args:
      key, encode, decode, log_prob, x: as in `beta_tc_elbo`; free_bits, beta: as in `objectives.free_bits_elbo`.

    Returns:
      `Terms` of shape (batch,).

    Source:
      Kingma et al. (2016).
    """
    codes = forward(key, encode, decode, log_prob, x)
    clipped = free_bits_batch_mean(jax.vmap(kl_per_dimension)(codes.mean, codes.log_scale), free_bits)
    return Terms(-codes.log_likelihood + beta * to_all(clipped, codes.kl), codes.log_likelihood, codes.kl)
