"""Kullback-Leibler divergences of one example, in nats, summed over the latent dimensions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from vae_jax._numerics.arrays import one_event, promote
from vae_jax._numerics.special import exp_finite, expm1_minus


def kl_to_standard_normal(mean: Float[ArrayLike, "latent"], log_scale: Float[ArrayLike, "latent"]) -> Float[Array, ""]:
    """Computes the KL divergence of a diagonal Gaussian from the standard normal, for one example.

        KL(N(m, diag(exp(2 s))) || N(0, I)) = 1/2 sum_j [ m^2 + (exp(2 s) - 1 - 2 s) ]

    Args:
      mean: posterior mean m, shape (latent,).
      log_scale: s, natural log of the posterior standard deviation, same shape.

    Returns:
      Scalar, nats, >= 0, sum over the latent dimensions.

    Numerics:
      Both terms are non-negative and computed without cancellation. The result is exactly 0 at mean = log_scale = 0, and 1.5e-8
      for each dimension at mean = log_scale = 1e-4. Value and gradient are finite for |log_scale| <= 20 in float32 and
      bfloat16.

    Example:
      >>> jax.vmap(kl_to_standard_normal)(jnp.ones((2, 3)), jnp.zeros((2, 3))).tolist()
      [1.5, 1.5]

    Source:
      Kingma & Welling (2014), appendix B.
    """
    (mean, log_scale), dtype = one_event("kl_to_standard_normal", mean=mean, log_scale=log_scale)
    return (0.5 * jnp.sum(jnp.square(mean) + expm1_minus(2 * log_scale))).astype(dtype)


def kl_diagonal_gaussians(
    mean_q: Float[ArrayLike, "latent"],
    log_scale_q: Float[ArrayLike, "latent"],
    mean_p: Float[ArrayLike, "latent"],
    log_scale_p: Float[ArrayLike, "latent"],
) -> Float[Array, ""]:
    """Computes the KL divergence between two diagonal Gaussians, KL(q || p), for one example.

        KL(q || p) = 1/2 sum_j [ ((m_q - m_p) exp(-s_p))^2 + (exp(2 d) - 1 - 2 d) ],   d = s_q - s_p

    Args:
      mean_q, log_scale_q: mean and natural log of the standard deviation of q, shape (latent,).
      mean_p, log_scale_p: mean and natural log of the standard deviation of p, same shape.

    Returns:
      Scalar, nats, >= 0, sum over the latent dimensions. It is exactly 0 for q = p.

    Numerics:
      Nothing cancels near q = p. Finite value and gradient for |log_scale| <= 20 in float32 and bfloat16.

    Example:
      >>> q, p = (jnp.ones((2, 3)), jnp.zeros((2, 3))), (jnp.zeros((2, 3)), jnp.zeros((2, 3)))
      >>> jax.vmap(kl_diagonal_gaussians)(*q, *p).tolist()
      [1.5, 1.5]

    Source:
      Kingma & Welling (2014), appendix B, for a general Gaussian p.
    """
    (mean_q, log_scale_q, mean_p, log_scale_p), dtype = one_event(
        "kl_diagonal_gaussians", mean_q=mean_q, log_scale_q=log_scale_q, mean_p=mean_p, log_scale_p=log_scale_p
    )
    distance = (mean_q - mean_p) * exp_finite(-log_scale_p)
    return (0.5 * jnp.sum(jnp.square(distance) + expm1_minus(2 * (log_scale_q - log_scale_p)))).astype(dtype)


def kl_full_gaussians(
    mean_q: Float[ArrayLike, "latent"],
    cholesky_q: Float[ArrayLike, "latent latent"],
    mean_p: Float[ArrayLike, "latent"],
    cholesky_p: Float[ArrayLike, "latent latent"],
) -> Float[Array, ""]:
    """Computes the KL divergence between two Gaussians with full covariances, KL(q || p), for one example.

        KL(q || p) = 1/2 [ sum_i (A_ii^2 - 1 - log A_ii^2) + sum_{i>j} A_ij^2 + |L_p^-1 (m_q - m_p)|^2 ],   A = L_p^-1 L_q

    This is 1/2 [ tr(S_p^-1 S_q) - k + log det S_p - log det S_q + ... ] for S = L L', sorted so that each term is >= 0.

    Args:
      mean_q, mean_p: means, shape (latent,).
      cholesky_q, cholesky_p: lower triangular factors L with positive diagonal, shape (latent, latent). Entries above the
        diagonal are ignored.

    Returns:
      Scalar, nats, >= 0, sum over the latent dimensions. It is exactly 0 for q = p.

    Numerics:
      Nothing cancels near q = p: perturbations of 1e-4 keep their relative precision in float32.

    Example:
      >>> mean, cholesky = jnp.ones((2, 3)), jnp.stack([jnp.eye(3)] * 2)
      >>> jax.vmap(kl_full_gaussians)(mean, cholesky, 0 * mean, cholesky).tolist()
      [1.5, 1.5]

    Source:
      Kullback & Leibler (1951); Duchi (2007).
    """
    (mean_q, cholesky_q, mean_p, cholesky_p), dtype = promote(mean_q, cholesky_q, mean_p, cholesky_p)
    shapes = [array.shape for array in (mean_q, cholesky_q, mean_p, cholesky_p)]
    if mean_q.ndim != 1 or shapes != [mean_q.shape, mean_q.shape * 2] * 2:
        raise ValueError(
            "kl_full_gaussians: expected one example with means (latent,) and factors (latent, latent), got "
            f"{', '.join(map(str, shapes))}. The function takes ONE example: use jax.vmap for a batch."
        )
    diagonal_q, diagonal_p = jnp.diagonal(cholesky_q), jnp.diagonal(cholesky_p)
    # A = diag(ratio) + N with a strictly lower triangular N. For q = p the right-hand side of N is exactly 0, with any rounding
    # of the solver. Near q = p, L_q - L_p diag(ratio) is computed from differences, which are exact there. Elsewhere they would
    # lose small entries of L_q.
    relative, ratio = (diagonal_q - diagonal_p) / diagonal_p, diagonal_q / diagonal_p
    near = jnp.abs(relative) < 0.5
    from_differences = (cholesky_q - cholesky_p) - cholesky_p * relative[None, :]
    right = jnp.where(near[None, :], from_differences, cholesky_q - cholesky_p * ratio[None, :])
    lower = jax.scipy.linalg.solve_triangular(cholesky_p, jnp.tril(right, -1), lower=True)
    distance = jax.scipy.linalg.solve_triangular(cholesky_p, mean_q - mean_p, lower=True)
    log_ratio = jnp.where(near, jnp.log1p(jnp.where(near, relative, 0)), jnp.log(diagonal_q) - jnp.log(diagonal_p))
    squares = jnp.sum(jnp.square(lower)) + jnp.sum(jnp.square(distance))
    return (0.5 * (jnp.sum(expm1_minus(2 * log_ratio)) + squares)).astype(dtype)


def kl_monte_carlo(
    key: Key[Array, ""],
    sample_q: Callable[[Array], Array],
    log_prob_q: Callable[[Array], Array],
    log_prob_p: Callable[[Array], Array],
    num_samples: int = 1,
) -> Float[Array, ""]:
    """Estimates the KL divergence between any two distributions by sampling, without bias, for one example.

        KL(q || p) ~ 1/K sum_k [ log q(z_k) - log p(z_k) ],   z_k ~ q

    Args:
      key: a new-style PRNG key.
      sample_q: key -> z. It must be reparameterized where gradients are wanted.
      log_prob_q, log_prob_p: z -> scalar nats, both normalized.
      num_samples: K >= 1 (static).

    Returns:
      Scalar, nats. The estimate may be negative. Its variance is that of log q - log p divided by K.

    Raises:
      ValueError: `num_samples` is below 1, or a log-probability is not a scalar.

    Example: a Laplace prior for a diagonal Gaussian posterior.
      >>> from vae_jax.posteriors import posterior_log_prob, sample_posterior
      >>> def kl(key, mean, log_scale, prior_log_prob):
      ...     sample_q = lambda key: sample_posterior(key, mean, log_scale)
      ...     log_prob_q = lambda z: posterior_log_prob(mean, log_scale, z)
      ...     return kl_monte_carlo(key, sample_q, log_prob_q, prior_log_prob, num_samples=10_000)
      >>> laplace = lambda z: -jnp.sum(jnp.abs(z) + jnp.log(2.0))
      >>> print(kl(jax.random.key(0), jnp.zeros(2), jnp.zeros(2), laplace))
      0.1

    Source:
      Tomczak & Welling (2018) estimate the KL to the VampPrior in this way.
    """
    if num_samples < 1:
        raise ValueError(f"kl_monte_carlo: expected num_samples >= 1, got {num_samples}.")

    def one(key: Array) -> Array:
        z = sample_q(key)
        difference = log_prob_q(z) - log_prob_p(z)
        if jnp.shape(difference) != ():
            raise ValueError(
                "kl_monte_carlo: expected log_prob_q and log_prob_p to return scalars (nats summed over the latent dimensions "
                f"of one example), got shape {jnp.shape(difference)}."
            )
        return difference

    return jnp.mean(jax.vmap(one)(jax.random.split(key, num_samples)))


def kl_per_dimension(mean: Float[ArrayLike, "latent"], log_scale: Float[ArrayLike, "latent"]) -> Float[Array, "latent"]:
    """Computes `kl_to_standard_normal` of one example separately for each latent dimension.

    Args:
      mean: posterior mean, shape (latent,).
      log_scale: natural log of the posterior standard deviation, same shape.

    Returns:
      Shape (latent,), nats, >= 0.

    Example:
      >>> kl_per_dimension(jnp.array([1.0, 0.0]), jnp.zeros(2)).tolist()
      [0.5, 0.0]
    """
    mean, log_scale = jnp.asarray(mean), jnp.asarray(log_scale)
    if mean.ndim != 1 or log_scale.shape != mean.shape:
        raise ValueError(
            f"kl_per_dimension: expected one example with mean and log_scale of one shape (latent,), got {mean.shape} and "
            f"{log_scale.shape}. The function takes ONE example: use jax.vmap for a batch."
        )
    return jax.vmap(kl_to_standard_normal)(mean, log_scale)


def free_bits_per_dimension(kl: Float[ArrayLike, "latent"], free_bits: Float[ArrayLike, ""]) -> Float[Array, ""]:
    """Computes a KL whose gradient stops where a dimension of this example spends less than its allowance.

        sum_j max(kl_j, free_bits)

    Three variants are called free bits. This one clips each dimension of each example. `free_bits_per_group` clips sums of
    dimensions. `objectives.batch.free_bits_batch_mean` clips the mean over the batch, as the paper does, and so lets single
    examples fall below the allowance.

    Args:
      kl: KL of each latent dimension, shape (latent,), such as from `kl_per_dimension`.
      free_bits: the allowance of each dimension in nats (despite the name), >= 0. May be traced.

    Returns:
      Scalar, nats, >= free_bits times the number of dimensions.

    Example:
      >>> print(free_bits_per_dimension(jnp.array([0.1, 2.0]), 0.5))
      2.5

    Source:
      Kingma et al. (2016) without its mean over the minibatch.
    """
    kl = jnp.asarray(kl)
    if kl.ndim != 1:
        raise ValueError(
            f"free_bits_per_dimension: expected the KLs of one example, shape (latent,), got {kl.shape}. "
            "The function takes ONE example: use jax.vmap for a batch."
        )
    return jnp.sum(jnp.maximum(kl, free_bits))


def free_bits_per_group(kl: Float[ArrayLike, "latent"], free_bits: Float[ArrayLike, ""], num_groups: int) -> Float[Array, ""]:
    """Computes a KL whose gradient stops where a group of neighboring dimensions spends less than its allowance.

        sum_g max(sum_{j in g} kl_j, free_bits)

    Args:
      kl: KL of each latent dimension, shape (latent,).
      free_bits: the allowance of each group in nats, >= 0. May be traced.
      num_groups: a divisor of the number of dimensions (static). 1 clips the whole KL of the example.

    Returns:
      Scalar, nats, >= free_bits times the number of groups.

    Example:
      >>> print(free_bits_per_group(jnp.array([0.1, 0.2, 2.0, 1.0]), 0.5, num_groups=2))
      3.5

    Source:
      Kingma et al. (2016) without its mean over the minibatch.
    """
    kl = jnp.asarray(kl)
    if kl.ndim != 1 or num_groups < 1 or kl.shape[0] % num_groups:
        raise ValueError(
            f"free_bits_per_group: expected num_groups to divide the latent dimensions of one example, got {num_groups} groups "
            f"for shape {kl.shape}."
        )
    return free_bits_per_dimension(jnp.sum(kl.reshape(num_groups, -1), axis=1), free_bits)
