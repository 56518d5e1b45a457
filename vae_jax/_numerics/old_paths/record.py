"""Moved to `vae_jax.runs.metrics_file`."""

import warnings

from vae_jax.runs.metrics_file import *  # noqa: F403

warnings.warn("vae_jax.record moved to vae_jax.runs.metrics_file", DeprecationWarning, stacklevel=2)
