"""Gaussian posteriors with correlations between the latent dimensions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.special import expm1_minus
from vae_jax._numerics.threefry import normal
from vae_jax.likelihoods import gaussian_log_prob
from vae_jax.posteriors.base import Posterior, PosteriorParams

_PRECISE = jax.lax.Precision.HIGHEST


def full_cholesky(log_scale: Float[Array, "latent"], extra: Float[Array, "pairs"]) -> Float[Array, "latent latent"]:
    """Returns the Cholesky factor of the covariance of the `full` posterior.

        L = diag(exp(log_scale)) (I + N),   N strictly lower triangular

    Args:
      log_scale: log of the diagonal of L, shape (latent,).
      extra: the entries of N row by row, shape (latent (latent - 1) / 2,).

    Returns:
      L, shape (latent, latent), with zeros above the diagonal.

    Example:
      >>> print(full_cholesky(jnp.zeros(2), jnp.array([0.5])))
      [[1.   0.  ]
       [0.5  1.  ]]
    """
    rows, columns = jnp.tril_indices(log_scale.shape[0], -1)
    unit = jnp.eye(log_scale.shape[0], dtype=log_scale.dtype).at[rows, columns].set(extra.astype(log_scale.dtype))
    return jnp.exp(log_scale)[:, None] * unit


def full(latent_dim: int) -> Posterior:
    """Makes the Gaussian posterior with a full covariance.

        q(z|x) = N(mean, L L'),   L = diag(exp(log_scale)) (I + N)

    The encoder returns the latent (latent - 1) / 2 numbers of N besides mean and log_scale. With N = 0 it is the diagonal
    Gaussian, where training starts if the encoder's last layer starts small.

    Args:
      latent_dim: number of latent dimensions, >= 1.

    Returns:
      The `Posterior`. Its KL to N(0, I) is in closed form (`divergences.kl_full_gaussians`), and every estimator of gradients
      works.

    Example:
      >>> q = jnp.zeros(2), jnp.zeros(2), jnp.zeros(1)
      >>> print(full(2).kl_to_standard_normal(q))
      0.0

    Source:
      Kingma & Welling (2019), section 2.5.1.
    """

    def sample(key: Array, q: PosteriorParams) -> Array:
        return sample_and_log_prob(key, q)[0]

    def log_prob(q: PosteriorParams, z: Array) -> Array:
        mean, log_scale, extra = q
        residual = jax.scipy.linalg.solve_triangular(full_cholesky(log_scale, extra), z - mean, lower=True)
        zeros = jnp.zeros_like(residual)
        return gaussian_log_prob(zeros, zeros, residual) - jnp.sum(log_scale)

    def sample_and_log_prob(key: Array, q: PosteriorParams) -> tuple[Array, Array]:
        mean, log_scale, extra = q
        noise = normal(key, mean.shape, mean.dtype)
        zeros = jnp.zeros_like(noise)
        # In full precision on every device, so that the density is that of the draw.
        correlated = jnp.matmul(full_cholesky(log_scale, extra), noise, precision=jax.lax.Precision.HIGHEST)
        return mean + correlated, gaussian_log_prob(zeros, zeros, noise) - jnp.sum(log_scale)

    def kl(q: PosteriorParams) -> Array:
        mean, log_scale, extra = q
        cholesky = full_cholesky(log_scale, extra)
        # 1/2 [tr(L L') - d - log det L L' + |mean|^2], sorted as in `kl_to_standard_normal`: each term is >= 0.
        lower = jnp.tril(cholesky, -1)
        return 0.5 * (jnp.sum(expm1_minus(2 * log_scale)) + jnp.sum(jnp.square(lower)) + jnp.sum(jnp.square(mean)))

    def moments(key: Array, q: PosteriorParams) -> tuple[Array, Array]:
        mean, log_scale, extra = q
        rows = jnp.sum(jnp.square(full_cholesky(jnp.zeros_like(log_scale), extra)), axis=1)
        return mean, log_scale + 0.5 * jnp.log(rows)

    def factor(q: PosteriorParams) -> Array:
        return full_cholesky(q[1], q[2])

    num_extra = latent_dim * (latent_dim - 1) // 2
    return Posterior("full", sample, sample_and_log_prob, log_prob, kl, moments, num_extra, factor=factor)


def log_prob_at_each(
    posterior: Posterior, outputs: PosteriorParams, weights: PosteriorParams = ()
) -> Callable[[Float[Array, "latent"]], Float[Array, "examples"]]:
    """Returns the function z -> log q(z|x_n) of every example n, nats, for a Gaussian posterior.

    The factors are inverted once, so that a density of N examples takes N products of a matrix and a vector.

    Args:
      posterior: with a `factor`, such as `full`.
      outputs: what the encoder gave, each array with a leading axis of examples.
      weights: the learned weights of the posterior, or ().

    Example:
      >>> q = jnp.zeros((3, 2)), jnp.zeros((3, 2)), jnp.zeros((3, 1))
      >>> print(log_prob_at_each(full(2), q)(jnp.zeros(2)))
      [-1.84 -1.84 -1.84]
    """
    factor, log_prob = posterior.factor, posterior.log_prob
    if factor is None or log_prob is None:
        raise ValueError(f"log_prob_at_each: expected a Gaussian posterior with a factor, got {posterior.name!r}.")

    def prepare(row: PosteriorParams) -> tuple[Array, Array, Array]:
        q = (*row, *weights)
        mean, _ = posterior.moments(stream(0, Stream.MOMENTS), q)
        return mean, jnp.linalg.inv(factor(q)), log_prob(q, mean)

    mean, whitening, at_mean = jax.vmap(prepare)(outputs)

    def at_each(z: Array) -> Array:
        residual = jnp.einsum("nij,nj->ni", whitening, z - mean, precision=_PRECISE)
        return at_mean - 0.5 * jnp.sum(jnp.square(residual), axis=1)

    return at_each


def covariances(posterior: Posterior, q: PosteriorParams) -> Float[Array, "examples latent latent"]:
    """Returns Cov[z|x_n] of every example of a Gaussian posterior, whose parameters have a leading axis of examples."""
    assert posterior.factor is not None
    factors = jax.vmap(posterior.factor)(q)
    return jnp.einsum("nik,njk->nij", factors, factors, precision=_PRECISE)
