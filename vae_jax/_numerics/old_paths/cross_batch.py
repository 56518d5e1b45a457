"""Moved to `vae_jax.objectives.batch`."""

import warnings

from vae_jax.objectives.batch import *  # noqa: F403

warnings.warn("vae_jax.cross_batch moved to vae_jax.objectives.batch", DeprecationWarning, stacklevel=2)
