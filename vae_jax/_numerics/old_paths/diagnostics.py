"""Moved to `vae_jax.evaluation.posterior_collapse`."""

import warnings

from vae_jax.evaluation.posterior_collapse import *  # noqa: F403

warnings.warn("vae_jax.diagnostics moved to vae_jax.evaluation.posterior_collapse", DeprecationWarning, stacklevel=2)
