"""Moved to `vae_jax.sweep.statistics`."""

import warnings

from vae_jax.sweep.statistics import *  # noqa: F403

warnings.warn("vae_jax.sweep.table moved to vae_jax.sweep.statistics", DeprecationWarning, stacklevel=2)
