"""Student's t as a prior, whose tails are heavier than those of a Gaussian."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vae_jax._numerics.arrays import Params
from vae_jax.likelihoods import student_t_log_prob
from vae_jax.posteriors import Encode
from vae_jax.priors.bundles import Prior


def student_t(latent_dim: int, degrees_of_freedom: float = 5.0) -> Prior:
    """Makes a prior of independent Student's t distributions of location 0 and scale 1, whose degrees of freedom are learned.

        log p(z) = sum_j log t(z_j; df_j),    df_j = exp(log_df_j)

    Location and scale are not learned, because the encoder and the decoder can shift and scale the codes themselves.

    Args:
      latent_dim: number of latent dimensions.
      degrees_of_freedom: initial df of every dimension, > 0. Below 2 the variance is infinite, and large values are N(0, 1).

    Returns:
      The `Prior`, with parameters {"log_df": (latent,)}.
    """
    if not 0 < degrees_of_freedom < float("inf"):
        raise ValueError(f"student_t: expected degrees_of_freedom > 0, got {degrees_of_freedom}.")

    def init(key: Array) -> Params:
        return {"log_df": jnp.full(latent_dim, jnp.log(degrees_of_freedom))}

    def log_prob(params: Params, encode: Encode, z: Array) -> Array:
        origin = jnp.zeros_like(z)
        return student_t_log_prob(origin, origin, z, jnp.exp(params["log_df"]))

    def sample(params: Params, encode: Encode, key: Array) -> Array:
        return jax.random.t(key, jnp.exp(params["log_df"]))

    return Prior("student_t", init, log_prob, sample)
