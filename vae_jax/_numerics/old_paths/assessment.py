"""Moved to `vae_jax.runs.evaluate_run` and `vae_jax.runs.in_words`."""

import warnings

from vae_jax.runs.evaluate_run import *  # noqa: F403
from vae_jax.runs.in_words import *  # noqa: F403

warnings.warn(
    "vae_jax.assessment moved to vae_jax.runs.evaluate_run and vae_jax.runs.in_words", DeprecationWarning, stacklevel=2
)
