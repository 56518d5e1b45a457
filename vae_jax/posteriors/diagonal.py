"""The diagonal Gaussian posterior q(z|x) of one example: reparameterized sampling and log q(z|x)."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key

from vae_jax._numerics.threefry import normal
from vae_jax.likelihoods import gaussian_log_prob


def sample_posterior(
    key: Key[Array, ""], mean: Float[ArrayLike, "latent"], log_scale: Float[ArrayLike, "latent"]
) -> Float[Array, "latent"]:
    """Draws once from a diagonal Gaussian by reparameterization, for one example.

        z = mean + exp(log_scale) * eps,   eps ~ N(0, I)

    Gradients flow through mean and log_scale, not through eps.

    Args:
      key: a new-style PRNG key. The same key gives the same eps.
      mean: posterior mean, shape (latent,).
      log_scale: natural log of the posterior standard deviation, same shape.

    Returns:
      z, shape (latent,), in the dtype of mean.

    Example:
      >>> import jax
      >>> keys = jax.random.split(jax.random.key(0), 5)
      >>> jax.vmap(sample_posterior)(keys, jnp.zeros((5, 2)), jnp.zeros((5, 2))).shape
      (5, 2)

    Source:
      Kingma & Welling (2014), section 2.4; Rezende, Mohamed & Wierstra (2014).
    """
    mean, log_scale = jnp.asarray(mean), jnp.asarray(log_scale)
    if mean.shape != log_scale.shape:
        raise ValueError(f"sample_posterior: expected equal shapes, got mean {mean.shape} and log_scale {log_scale.shape}.")
    return mean + jnp.exp(log_scale) * normal(key, mean.shape, mean.dtype)


def posterior_log_prob(
    mean: Float[ArrayLike, "latent"], log_scale: Float[ArrayLike, "latent"], z: Float[ArrayLike, "latent"]
) -> Float[Array, ""]:
    """Computes the log density log q(z|x) of a diagonal Gaussian, for one example.

    Args:
      mean: posterior mean, shape (latent,).
      log_scale: natural log of the posterior standard deviation, same shape.
      z: the code, same shape.

    Returns:
      Scalar, nats, any sign (it is a density), sum over the latent dimensions.

    Example:
      >>> print(posterior_log_prob(jnp.zeros(2), jnp.zeros(2), jnp.zeros(2)))
      -1.84
    """
    return gaussian_log_prob(mean, log_scale, z)
