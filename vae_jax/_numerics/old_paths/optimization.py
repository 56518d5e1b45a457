"""Moved to `vae_jax.training.schedules`."""

import warnings

from vae_jax.training.optimizers import *  # noqa: F403
from vae_jax.training.schedules import *  # noqa: F403

places = "vae_jax.training.schedules and vae_jax.training.optimizers"
warnings.warn(f"vae_jax.optimization moved to {places}", DeprecationWarning, stacklevel=2)
