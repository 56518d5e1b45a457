"""Moved to `vae_jax.evaluation`: posterior_collapse, kl_decomposition and overfitting."""

import warnings

from vae_jax.evaluation.kl_decomposition import *  # noqa: F403
from vae_jax.evaluation.overfitting import *  # noqa: F403
from vae_jax.evaluation.posterior_collapse import *  # noqa: F403

places = "vae_jax.evaluation.posterior_collapse, kl_decomposition and overfitting"
warnings.warn(f"vae_jax.diagnostics moved to {places}", DeprecationWarning, stacklevel=2)
