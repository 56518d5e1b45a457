"""Moved to `vae_jax.training.step`."""

import warnings

from vae_jax.training.step import *  # noqa: F403

warnings.warn("vae_jax.train_step moved to vae_jax.training.step", DeprecationWarning, stacklevel=2)
