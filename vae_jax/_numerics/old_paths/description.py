"""Moved to `vae_jax.runs.config_file`."""

import warnings

from vae_jax.runs.config_file import *  # noqa: F403

warnings.warn("vae_jax.description moved to vae_jax.runs.config_file", DeprecationWarning, stacklevel=2)
