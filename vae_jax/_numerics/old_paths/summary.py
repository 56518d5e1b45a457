"""Moved to `vae_jax.runs.summary_file`."""

import warnings

from vae_jax.runs.summary_file import *  # noqa: F403

warnings.warn("vae_jax.summary moved to vae_jax.runs.summary_file", DeprecationWarning, stacklevel=2)
