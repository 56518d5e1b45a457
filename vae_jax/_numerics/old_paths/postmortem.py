"""Moved to `vae_jax.runs.postmortem`."""

import warnings

from vae_jax.runs.postmortem import *  # noqa: F403

warnings.warn("vae_jax.postmortem moved to vae_jax.runs.postmortem", DeprecationWarning, stacklevel=2)
