"""Moved to `vae_jax.storage.atomic`."""

import warnings

from vae_jax.storage.atomic import *  # noqa: F403

warnings.warn("vae_jax.files moved to vae_jax.storage.atomic", DeprecationWarning, stacklevel=2)
