"""Moved to `vae_jax.storage.directories`."""

import warnings

from vae_jax.storage.directories import *  # noqa: F403

warnings.warn("vae_jax.folders moved to vae_jax.storage.directories", DeprecationWarning, stacklevel=2)
