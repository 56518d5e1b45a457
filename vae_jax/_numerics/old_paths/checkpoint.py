"""Moved to `vae_jax.runs.checkpoints`."""

import warnings

from vae_jax.runs.checkpoints import *  # noqa: F403

warnings.warn("vae_jax.checkpoint moved to vae_jax.runs.checkpoints", DeprecationWarning, stacklevel=2)
