"""Moved to `vae_jax.training.placement`."""

import warnings

from vae_jax.training.placement import *  # noqa: F403

warnings.warn("vae_jax.sharding moved to vae_jax.training.placement", DeprecationWarning, stacklevel=2)
