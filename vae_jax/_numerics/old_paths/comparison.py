"""Moved to `vae_jax.runs.likelihood_comparison`."""

import warnings

from vae_jax.runs.likelihood_comparison import *  # noqa: F403

warnings.warn("vae_jax.comparison moved to vae_jax.runs.likelihood_comparison", DeprecationWarning, stacklevel=2)
