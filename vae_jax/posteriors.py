"""The approximate posterior q(z|x) of one example: reparameterised sampling and log q(z|x)."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vae_jax._numerics.threefry import normal
from vae_jax.likelihoods import gaussian_log_prob


def sample_posterior(key: Array, mean: ArrayLike, log_scale: ArrayLike) -> Array:
    """One reparameterised draw from a diagonal Gaussian, for one example.

        z = mean + exp(log_scale) * eps,   eps ~ N(0, I)

    Gradients flow through mean and log_scale, not through eps.

    Args:
      key: a new-style PRNG key; the same key gives the same eps.
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


def posterior_log_prob(mean: ArrayLike, log_scale: ArrayLike, z: ArrayLike) -> Array:
    """Log density log q(z|x) of one example under a diagonal Gaussian: scalar, nats, sum over the latent dimensions.

    Args:
      mean, log_scale: parameters of q, shape (latent,); log_scale is the natural log of the standard deviation.
      z: the point, shape (latent,).

    Example:
      >>> print(posterior_log_prob(jnp.zeros(2), jnp.zeros(2), jnp.zeros(2)))
      -1.84
    """
    return gaussian_log_prob(mean, log_scale, z)
