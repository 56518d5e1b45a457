"""A mixture of Gaussians with full covariances as a prior, such as scikit-learn fits it to codes."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from vae_jax._numerics.arrays import Params
from vae_jax.posteriors import Encode, posterior_log_prob
from vae_jax.priors.bundles import Prior


def full_mixture_log_prob(
    z: Float[ArrayLike, "latent"],
    mixture_logits: Float[ArrayLike, "components"],
    means: Float[ArrayLike, "components latent"],
    precisions_cholesky: Float[ArrayLike, "components latent latent"],
) -> Float[Array, ""]:
    """Computes the log density of one code under a mixture of Gaussians with full covariances.

        log p(z) = log sum_m softmax(mixture_logits)_m N(z; means_m, (U_m U_m^T)^-1)
        log N(z; mean, (U U^T)^-1) = log N((z - mean) U; 0, I) + sum log diag U

    Args:
      z: the code, shape (latent,).
      mixture_logits: unnormalized log-weights, shape (components,).
      means: means of the components, shape (components, latent).
      precisions_cholesky: the matrices U, upper triangular with a positive diagonal, shape (components, latent, latent). They
        are the `precisions_cholesky_` of scikit-learn.

    Returns:
      Scalar, nats, any sign (it is a density).

    Example: one component is the plain Gaussian.
      >>> print(full_mixture_log_prob(jnp.zeros(2), jnp.zeros(1), jnp.zeros((1, 2)), jnp.eye(2)[None]))
      -1.84
    """
    z, means, factors = jnp.asarray(z), jnp.asarray(means), jnp.asarray(precisions_cholesky)
    shapes = jnp.shape(mixture_logits), means.shape, factors.shape
    if z.ndim != 1 or shapes != (means.shape[:1], (*means.shape[:1], *z.shape), (*means.shape[:1], *z.shape, *z.shape)):
        raise ValueError(
            "full_mixture_log_prob: expected z (latent,), mixture_logits (components,), means (components, latent) and "
            f"precisions_cholesky (components, latent, latent), got {z.shape}, {shapes[0]}, {shapes[1]} and {shapes[2]}. "
            "The function takes ONE code z: use jax.vmap for several."
        )
    whitened = jnp.einsum("ki,kij->kj", z - means, factors)
    log_det = jnp.sum(jnp.log(jnp.diagonal(factors, axis1=1, axis2=2)), axis=1)
    origin = jnp.zeros_like(z)
    components = jax.vmap(lambda e: posterior_log_prob(origin, origin, e))(whitened) + log_det
    return jax.nn.logsumexp(jax.nn.log_softmax(jnp.asarray(mixture_logits)) + components)


def full_mixture(latent_dim: int, num_components: int) -> Prior:
    """Makes a mixture of Gaussians with full covariances, for codes to which it is fitted after training.

    Its parameters are {"logits", "means", "precisions_cholesky"} (see `full_mixture_log_prob`). They start as N(0, I) in every
    component. The diagonal of a factor must stay positive, so gradient steps should not change it by much.

    Args:
      latent_dim: number of latent dimensions.
      num_components: number of components, >= 1.

    Returns:
      The `Prior`.
    """
    if num_components < 1:
        raise ValueError(f"full_mixture: expected num_components >= 1, got {num_components}.")

    def init(key: Array) -> Params:
        means = jax.random.normal(key, (num_components, latent_dim)) if num_components > 1 else jnp.zeros((1, latent_dim))
        factors = jnp.tile(jnp.eye(latent_dim), (num_components, 1, 1))
        return {"logits": jnp.zeros(num_components), "means": means, "precisions_cholesky": factors}

    def log_prob(params: Params, encode: Encode, z: Array) -> Array:
        return full_mixture_log_prob(z, params["logits"], params["means"], params["precisions_cholesky"])

    def sample(params: Params, encode: Encode, key: Array) -> Array:
        key_component, key_z = jax.random.split(key)
        chosen = jax.random.categorical(key_component, params["logits"])
        noise = jax.random.normal(key_z, (latent_dim,))
        # (z - mean) U = e
        return params["means"][chosen] + solve_triangular(params["precisions_cholesky"][chosen], noise, trans=1, lower=False)

    return Prior("full_mixture", init, log_prob, sample)
