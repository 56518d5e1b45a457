"""Posterior collapse: the number of active units, and the latent dimensions whose posterior equals the prior."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vae_jax._numerics.short_repr import short_repr
from vae_jax.divergences import kl_per_dimension

_NEGLIGIBLE_KL = 0.1  # nats, summed over the latent dimensions: with less, the code says next to nothing about x
REMEDIES = (
    "usual remedies: a lower `beta`, a warm-up of beta (`beta_warmup_steps`), the free-bits objective "
    '(`objective="free_bits"`), a learned or smaller `scale`, a weaker decoder'
)


def active_units(
    posterior_means: Float[Array, "examples latent"], threshold: Float[np.ndarray | Array, "*thresholds"] | float = 0.01
) -> Int[Array, "*thresholds"]:
    """Returns the number of latent dimensions whose posterior mean varies over the data.

        sum_j [ Var_x(E_q(z|x)[z_j]) > threshold ]

    Args:
      posterior_means: E_q(z|x)[z] of each example, (examples, latent).
      threshold: a variance, 0.01 in the paper. An array of thresholds gives the number at each of them.

    Returns:
      Whole numbers from 0 to the number of latent dimensions, in the shape of `threshold`.

    Example:
      >>> active_units(jnp.array([[0.0, 1.0], [0.1, -1.0]]), jnp.array([0.001, 0.01])).tolist()
      [2, 1]

    Source:
      Burda et al. (2016), section 5.2.
    """
    if jnp.ndim(posterior_means) != 2:
        raise ValueError(f"active_units: expected means (examples, latent), got shape {jnp.shape(posterior_means)}.")
    return jnp.sum(jnp.var(posterior_means, axis=0) > jnp.asarray(threshold)[..., None], axis=-1)


@short_repr
class Collapse(NamedTuple):
    """Collapsed latent dimensions by the definition of Lucas et al. (2019)."""

    collapsed: Bool[Array, "latent"]
    share_below: Float[Array, "latent"]  # share of examples whose KL in the dimension is below epsilon


def collapse(
    mean: Float[Array, "examples latent"],
    log_scale: Float[Array, "examples latent"],
    *,
    epsilon: float = 0.01,
    delta: float = 0.01,
) -> Collapse:
    """Computes the (epsilon, delta)-collapse of each latent dimension over a data set.

        dimension j is collapsed when  P_x[ KL(q(z_j|x) || N(0, 1)) < epsilon ] >= 1 - delta

    Args:
      mean, log_scale: parameters of q(z|x), each (examples, latent). log_scale is the log of the standard deviation.
      epsilon: KL in nats.
      delta: share of examples, in [0, 1], that may use a dimension that still counts as collapsed.

    Returns:
      `Collapse`.

    Example: the first dimension is at the prior, the second is not.
      >>> collapse(jnp.array([[0.0, 2.0], [0.01, -2.0]]), jnp.array([[0.0, -1.0], [0.0, -1.0]])).collapsed.tolist()
      [True, False]

    Source:
      Lucas et al. (2019).
    """
    below = jnp.mean(jax.vmap(kl_per_dimension)(mean, log_scale) < epsilon, axis=0)
    return Collapse(below >= 1 - delta, below)


def describe_collapse(num_collapsed: int, latent_dim: int, kl: float) -> str | None:
    """Returns a sentence for the user about collapsed dimensions, or None if no dimension is collapsed.

    Args:
      num_collapsed: number of dimensions that `collapse` reports.
      latent_dim: number of all latent dimensions.
      kl: mean KL over the data, summed over the latent dimensions, in nats.
    """
    if num_collapsed == latent_dim or kl < _NEGLIGIBLE_KL:
        return f"posterior collapse: the {latent_dim} latent dimensions together carry {kl:z.3f} nats of x; {REMEDIES}."
    if num_collapsed:
        return f"{num_collapsed} of {latent_dim} latent dimensions are collapsed onto the prior and carry nothing of x."
    return None


def is_collapsing(kl: Sequence[float], patience: int = 10) -> bool:
    """Returns true if the last `patience` epochs all had a mean KL below 0.1 nats.

    A healthy run may pass through such values in its first epochs, so one low value does not count.

    Args:
      kl: mean KL after each epoch so far, in nats.
      patience: number of epochs, >= 1.
    """
    return len(kl) >= patience and max(kl[-patience:]) < _NEGLIGIBLE_KL
