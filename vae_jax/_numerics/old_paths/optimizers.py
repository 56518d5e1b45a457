"""Moved to `vae_jax.training.optimizers`."""

import warnings

from vae_jax.training.optimizers import *  # noqa: F403

warnings.warn("vae_jax.optimizers moved to vae_jax.training.optimizers", DeprecationWarning, stacklevel=2)
