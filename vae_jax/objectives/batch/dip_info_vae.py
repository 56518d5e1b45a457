"""DIP-VAE and InfoVAE, which match moments or samples of the aggregate posterior with those of the prior."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Real

from vae_jax.objectives.assumptions import check_gaussian
from vae_jax.objectives.base import Decode, Encode, LogProb, Terms
from vae_jax.objectives.batch.base import forward, repeat_for_batch
from vae_jax.posteriors import DIAGONAL, Posterior
from vae_jax.posteriors import covariances as covariances_of_each

Kernel: TypeAlias = Callable[[Array, Array], Array]  # two codes, each (latent,) -> scalar


def dip_penalty(
    mean: Float[ArrayLike, "batch latent"],
    log_scale: Float[ArrayLike, "batch latent"],
    *,
    lambda_od: Float[ArrayLike, ""],
    lambda_d: Float[ArrayLike, ""],
    variant: Literal["i", "ii"],
    covariances: Float[ArrayLike, "batch latent latent"] | None = None,
) -> Float[Array, ""]:
    """Computes a squared distance of the covariance of the aggregate posterior from the identity, for a batch of posteriors.

        lambda_od sum_{i != j} C_ij^2 + lambda_d sum_i (C_ii - 1)^2
        variant "i":  C = Cov_x[mean]            variant "ii":  C = Cov_x[mean] + E_x[Cov[z|x]]

    Args:
      mean: posterior means, shape (batch, latent).
      log_scale: natural logs of the posterior standard deviations, same shape.
      lambda_od, lambda_d: weights off and on the diagonal, >= 0. May be traced. The authors take lambda_d = 10 lambda_od for
        variant I and lambda_d = lambda_od for variant II.
      variant: the covariance (static). Both variants divide by the batch size.
      covariances: Cov[z|x] of posteriors with correlations. None: diag(exp(log_scale)^2).

    Returns:
      Scalar, >= 0.

    Raises:
      ValueError: the variant is unknown.

    Example:
      >>> codes = jnp.array([[1.0, 1.0], [-1.0, -1.0]])
      >>> print(dip_penalty(codes, codes, lambda_od=10.0, lambda_d=1.0, variant="i"))
      20.0

    Source:
      Kumar et al. (2018).
    """
    if variant not in ("i", "ii"):
        raise ValueError(f"dip_penalty: expected variant 'i' or 'ii', got {variant!r}.")
    mean, log_scale, lambda_od, lambda_d = (jnp.asarray(a) for a in (mean, log_scale, lambda_od, lambda_d))
    centered = mean - jnp.mean(mean, axis=0, keepdims=True)
    covariance = centered.T @ centered / mean.shape[0]
    if variant == "ii":
        if covariances is None:
            covariance = covariance + jnp.diag(jnp.mean(jnp.exp(2 * log_scale), axis=0))
        else:
            covariance = covariance + jnp.mean(jnp.asarray(covariances), axis=0)
    diagonal = jnp.diagonal(covariance)
    off_diagonal = jnp.sum(jnp.square(covariance)) - jnp.sum(jnp.square(diagonal))
    return lambda_od * off_diagonal + lambda_d * jnp.sum(jnp.square(diagonal - 1))


def dip_elbo(
    key: Key[Array, ""],
    encode: Encode,
    decode: Decode,
    log_prob: LogProb,
    x: Real[Array, "batch *event"],
    *,
    lambda_od: Float[ArrayLike, ""],
    lambda_d: Float[ArrayLike, ""],
    variant: Literal["i", "ii"],
    beta: Float[ArrayLike, ""] = 1.0,
    posterior: Posterior = DIAGONAL,
) -> Terms:
    """Computes the DIP-VAE objective of a batch.

        loss = -log_likelihood + beta kl + dip_penalty

    Args:
      key, encode, decode, log_prob, x: see `beta_tc_elbo`.
      lambda_od, lambda_d, variant: see `dip_penalty`.
      beta: weight of the KL, >= 0, 1 in the paper. May be traced.
      posterior: the family of q(z|x), a Gaussian.

    Returns:
      `Terms` of shape (batch,), nats. `extra` has the penalty.

    Source:
      Kumar et al. (2018).
    """
    check_gaussian("DIP-VAE matches the mean and the covariance of q(z|x)", posterior)
    codes = forward(key, encode, decode, log_prob, x, posterior)
    given = None if codes.q is None else covariances_of_each(posterior, codes.q)
    penalty = dip_penalty(
        codes.mean, codes.log_scale, lambda_od=lambda_od, lambda_d=lambda_d, variant=variant, covariances=given
    )
    penalty = repeat_for_batch(penalty, codes.kl)
    return Terms(-codes.log_likelihood + beta * codes.kl + penalty, codes.log_likelihood, codes.kl, {"dip_penalty": penalty})


def gaussian_kernel(a: Float[Array, "latent"], b: Float[Array, "latent"]) -> Float[Array, ""]:
    """Computes exp(-|a - b|^2 / (2 latent)). Its width is the average distance of two draws from N(0, I)."""
    return jnp.exp(-jnp.sum(jnp.square(a - b)) / (2 * a.shape[0]))


def inverse_multiquadratic_kernel(a: Float[Array, "latent"], b: Float[Array, "latent"]) -> Float[Array, ""]:
    """Computes c / (c + |a - b|^2) with c = 2 latent.

    Its tails are heavier than those of a Gaussian, so that distant codes have a gradient (Tolstikhin et al. 2018).
    """
    scale = 2 * a.shape[0]
    return scale / (scale + jnp.sum(jnp.square(a - b)))


def mmd(
    a: Float[ArrayLike, "count_a latent"], b: Float[ArrayLike, "count_b latent"], kernel: Kernel = gaussian_kernel
) -> Float[Array, ""]:
    """Estimates the squared maximum mean discrepancy of two samples.

        1/(n (n-1)) sum_{i != j} k(a_i, a_j) + 1/(m (m-1)) sum_{i != j} k(b_i, b_j) - 2/(n m) sum_ij k(a_i, b_j)

    Args:
      a, b: samples of shape (n, latent) and (m, latent), with n, m >= 2.
      kernel: positive definite function of two codes (static).

    Returns:
      Scalar. The estimate is unbiased, so it may be negative.

    Raises:
      ValueError: the shapes do not fit, or a sample has fewer than two codes.

    Example:
      >>> a = jax.random.normal(jax.random.key(0), (500, 2))
      >>> print(abs(mmd(a[:250], a[250:])) < 0.01)
      True

    Source:
      Gretton et al. (2012).
    """
    a, b = jnp.asarray(a), jnp.asarray(b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(a.shape[0], b.shape[0]) < 2:
        raise ValueError(f"mmd: expected two samples (count >= 2, latent), got shapes {a.shape} and {b.shape}.")

    def table(a: Array, b: Array) -> Array:
        return jax.vmap(lambda one: jax.vmap(lambda other: kernel(one, other))(b))(a)

    def within(a: Array) -> Array:
        return jnp.sum(jnp.where(jnp.eye(a.shape[0], dtype=bool), 0, table(a, a))) / (a.shape[0] * (a.shape[0] - 1))

    return within(a) + within(b) - 2 * jnp.mean(table(a, b))


def info_elbo(
    key: Key[Array, ""],
    encode: Encode,
    decode: Decode,
    log_prob: LogProb,
    x: Real[Array, "batch *event"],
    *,
    mmd_weight: Float[ArrayLike, ""],
    beta: Float[ArrayLike, ""] = 1.0,
    kernel: Kernel = gaussian_kernel,
    posterior: Posterior = DIAGONAL,
) -> Terms:
    """Computes the InfoVAE objective of a batch, with MMD as the divergence of the aggregate posterior from the prior.

        loss = -log_likelihood + beta kl + mmd_weight MMD^2({z_i}, {draws of N(0, I)})

    Args:
      key, encode, decode, log_prob, x: see `beta_tc_elbo`.
      mmd_weight: alpha + lambda - 1 of the paper. May be traced.
      beta: 1 - alpha of the paper. May be traced. 0 with a large `mmd_weight` is WAE-MMD with a random encoder.
      kernel: positive definite function of two codes (static, see `mmd`).
      posterior: the family of q(z|x). Where the KL has no closed form, it is that of the draw.

    Returns:
      `Terms` of shape (batch,), nats. `extra` has the squared MMD.

    Source:
      Zhao et al. (2019).
    """
    key_codes, key_prior = jax.random.split(key)
    codes = forward(key_codes, encode, decode, log_prob, x, posterior)
    distance = repeat_for_batch(mmd(codes.z, jax.random.normal(key_prior, codes.z.shape, codes.z.dtype), kernel), codes.kl)
    loss = -codes.log_likelihood + beta * codes.kl + mmd_weight * distance
    return Terms(loss, codes.log_likelihood, codes.kl, {"mmd": distance})
