"""Moved to `vae_jax.report.run.figures`."""

import warnings

from vae_jax.report.run.figures import *  # noqa: F403

warnings.warn("vae_jax.report.figures moved to vae_jax.report.run.figures", DeprecationWarning, stacklevel=2)
