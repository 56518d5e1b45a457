"""What the latent code carries: from the posteriors of a data set."""

import jax.numpy as jnp
from jax import Array


def active_units(posterior_means: Array, threshold: float = 0.01) -> Array:
    """Number of latent dimensions whose posterior mean varies over the data: Var_x(E_q[z_j]) > threshold.

    Args:
      posterior_means: (examples, latent), E_q(z|x)[z] of each example.
      threshold: variance, 0.01 in the paper.

    Returns:
      Scalar, a whole number.

    Source:
      Burda et al. (2016), section 5.2.
    """
    return jnp.sum(jnp.var(posterior_means, axis=0) > threshold)
