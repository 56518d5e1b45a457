"""Moved to `vae_jax.storage.cache`."""

import warnings

from vae_jax.storage.cache import *  # noqa: F403

warnings.warn("vae_jax.cache moved to vae_jax.storage.cache", DeprecationWarning, stacklevel=2)
