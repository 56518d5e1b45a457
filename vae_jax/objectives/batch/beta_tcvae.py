"""beta-TCVAE: estimates of the aggregate posterior from a minibatch, and the three parts of the KL."""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Real

from vae_jax.objectives.assumptions import check_gaussian
from vae_jax.objectives.base import Decode, Encode, LogProb, Terms
from vae_jax.objectives.batch.base import forward
from vae_jax.posteriors import DIAGONAL, Posterior, PosteriorParams, log_prob_at_each

Weights = Literal["stratified", "weighted"]


class KLParts(NamedTuple):
    """The three parts of KL(q(z|x) || p(z)), estimated for each draw, in nats. Only their means over the data are >= 0."""

    mutual_information: Float[Array, "batch"]  # log q(z|x) - log q(z), between the index of an example and its code
    total_correlation: Float[Array, "batch"]  # log q(z) - sum_j log q(z_j)
    dimension_wise_kl: Float[Array, "batch"]  # sum_j [log q(z_j) - log p(z_j)]


def log_importance_weights(batch_size: int, num_examples: int, weights: Weights) -> Float[Array, "batch batch"]:
    """Computes the log weights w_im of the estimate log q(z_i) ~ log sum_m w_im q(z_i|x_m) of the aggregate posterior.

        stratified:  w_ii = 1/N,   w_im = (N - 1) / (N (B - 1)) for m != i     (every row sums to 1)
        weighted:    w_im = 1/(N B)                                            (every row sums to 1/N)

    Row i is for the code drawn from example i. Example i is in every batch for which row i is computed, and the others are a
    random choice from the rest.

    With the stratified weights, the estimate of q(z_i) itself (not of its log) is unbiased. They are the paper's weights,
    averaged over the order of the batch. The paper singles out one other example, which gets (N - M)/(N M), M = B - 1, and
    gives 1/M to the rest. The sum and the expectation are the same, and the variance is larger. The reference code puts 1/N in
    the first column instead of on the diagonal, so its rows do not sum to one.

    With the weighted weights, log q(z) and every log q(z_j) are too low: by log B where the codes do not overlap, and by log N
    where all codes coincide. Mutual information is too high by the error of log q(z). The total correlation is too high by the
    sum of the errors of all log q(z_j) minus the error of log q(z).

    Args:
      batch_size: B >= 2.
      num_examples: N, the number of examples in the training set, >= B.
      weights: the kind of weights.

    Returns:
      Natural logs, shape (B, B).

    Raises:
      ValueError: the sizes are out of range, or the kind of weights is unknown.

    Source:
      Chen et al. (2018), appendix C.1 (weighted) and C.2 (stratified).
    """
    if weights not in ("stratified", "weighted"):
        raise ValueError(f"expected the weights to be 'stratified' or 'weighted', got {weights!r}.")
    if not 2 <= batch_size <= num_examples:
        raise ValueError(
            f"expected a batch of 2 to num_examples examples, got a batch of {batch_size} with num_examples={num_examples}: "
            "num_examples is the size of the whole training set."
        )
    if weights == "weighted":
        return jnp.full((batch_size, batch_size), -math.log(num_examples * batch_size))
    other = math.log((num_examples - 1) / (num_examples * (batch_size - 1)))
    return jnp.where(jnp.eye(batch_size, dtype=bool), -math.log(num_examples), other)


def _log_density(z: Array, mean: Array, log_scale: Array) -> Array:
    """Computes log N(z; mean, exp(log_scale)^2) elementwise."""
    return -0.5 * (jnp.square((z - mean) * jnp.exp(-log_scale)) + 2 * log_scale + math.log(2 * math.pi))


def kl_parts(
    z: Float[ArrayLike, "batch latent"],
    mean: Float[ArrayLike, "batch latent"],
    log_scale: Float[ArrayLike, "batch latent"],
    num_examples: int,
    weights: Weights = "stratified",
    joint: tuple[Float[Array, "batch"], Float[Array, "batch batch"]] | None = None,
) -> KLParts:
    """Estimates mutual information, total correlation and dimension-wise KL from a batch of codes.

        mutual_information = log q(z|x) - log q(z)
        total_correlation  = log q(z) - sum_j log q(z_j)
        dimension_wise_kl  = sum_j [ log q(z_j) - log N(z_j; 0, 1) ]
        log q(z_i) = log sum_m w_im q(z_i|x_m),   log q(z_ij) = log sum_m w_im q(z_ij|x_m)

    Args:
      z: one draw from each example's posterior, shape (batch, latent).
      mean: means of the posteriors, same shape.
      log_scale: natural logs of their standard deviations, same shape.
      num_examples: size of the training set that the batch is from.
      weights: weights of the examples in the aggregate posterior (see `log_importance_weights`).
      joint: log q(z_i|x_i) and log q(z_i|x_m), shapes (batch,) and (batch, batch), of Gaussian posteriors with correlations,
        whose marginals have these means and log_scales. None: the posteriors are diagonal.

    Returns:
      `KLParts` of shape (batch,), nats. Their sum is exactly log q(z|x) - log p(z) with any weights. With the whole data set as
      the batch and "stratified" weights, the aggregate posterior is exact.

    Example:
      >>> parts = kl_parts(jnp.zeros((3, 2)), jnp.zeros((3, 2)), jnp.zeros((3, 2)), num_examples=3)
      >>> print(abs(parts.total_correlation).max() < 1e-6)
      True

    Source:
      Chen et al. (2018).
    """
    z, mean, log_scale = jnp.asarray(z), jnp.asarray(mean), jnp.asarray(log_scale)
    if z.ndim != 2 or mean.shape != z.shape or log_scale.shape != z.shape:
        raise ValueError(
            "kl_parts: expected z, mean and log_scale of one shape (batch, latent), "
            f"got {z.shape}, {mean.shape} and {log_scale.shape}."
        )
    log_w = log_importance_weights(z.shape[0], num_examples, weights).astype(z.dtype)
    pairs = _log_density(z[:, None, :], mean[None, :, :], log_scale[None, :, :])  # (batch, batch, latent)
    if joint is None:
        log_q_given_x = jnp.sum(_log_density(z, mean, log_scale), axis=1)
        log_q = jax.nn.logsumexp(log_w + jnp.sum(pairs, axis=2), axis=1)
    else:
        log_q_given_x = joint[0]
        log_q = jax.nn.logsumexp(log_w + joint[1], axis=1)
    log_product = jnp.sum(jax.nn.logsumexp(log_w[:, :, None] + pairs, axis=1), axis=1)
    log_p = jnp.sum(_log_density(z, jnp.zeros_like(z), jnp.zeros_like(z)), axis=1)
    return KLParts(log_q_given_x - log_q, log_q - log_product, log_product - log_p)


def _joint_densities(z: Array, q: PosteriorParams | None, posterior: Posterior) -> tuple[Array, Array] | None:
    """Returns log q(z_i|x_i) and log q(z_i|x_m) of posteriors with correlations; None for the diagonal one."""
    if q is None:
        return None
    pairs = jax.vmap(log_prob_at_each(posterior, q))(z)
    return jnp.diagonal(pairs), pairs


def beta_tc_elbo(
    key: Key[Array, ""],
    encode: Encode,
    decode: Decode,
    log_prob: LogProb,
    x: Real[Array, "batch *event"],
    *,
    beta: Float[ArrayLike, ""],
    num_examples: int,
    weights: Weights = "stratified",
    posterior: Posterior = DIAGONAL,
) -> Terms:
    """Computes the beta-TCVAE objective of a batch, the ELBO with beta on the total correlation alone.

        loss = -log_likelihood + mutual_information + beta total_correlation + dimension_wise_kl

    Args:
      key: a new-style PRNG key.
      encode, decode, log_prob: functions of one example.
      x: a batch, shape (batch, *event).
      beta: weight of the total correlation, >= 0. May be traced. 1 is the ELBO with a sampled KL.
      num_examples: size of the training set (static).
      weights: weights of the examples in the aggregate posterior (static, see `log_importance_weights`).
      posterior: the family of q(z|x), a Gaussian, because the densities of its dimensions are needed.

    Returns:
      `Terms` of shape (batch,), nats. `kl` is in closed form, and `extra` has the three parts.

    Source:
      Chen et al. (2018) with alpha = gamma = 1.
    """
    check_gaussian("beta_tcvae compares the densities of single dimensions of q(z|x)", posterior)
    codes = forward(key, encode, decode, log_prob, x, posterior)
    joint = _joint_densities(codes.z, codes.q, posterior)
    parts = kl_parts(codes.z, codes.mean, codes.log_scale, num_examples, weights, joint)
    loss = -codes.log_likelihood + parts.mutual_information + beta * parts.total_correlation + parts.dimension_wise_kl
    return Terms(loss, codes.log_likelihood, codes.kl, parts._asdict())
