"""Moved to `vae_jax.runs.description`."""

import warnings

from vae_jax.runs.description import *  # noqa: F403

warnings.warn("vae_jax.description moved to vae_jax.runs.description", DeprecationWarning, stacklevel=2)
