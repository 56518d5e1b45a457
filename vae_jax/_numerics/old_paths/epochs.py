"""Moved to `vae_jax.training.epoch`."""

import warnings

from vae_jax.training.epoch import *  # noqa: F403

warnings.warn("vae_jax.epochs moved to vae_jax.training.epoch", DeprecationWarning, stacklevel=2)
