"""Moved to `posterior_collapse`, `kl_decomposition` and `overfitting` in `vae_jax.evaluation`."""

import warnings

from vae_jax.evaluation.kl_decomposition import *  # noqa: F403
from vae_jax.evaluation.overfitting import *  # noqa: F403
from vae_jax.evaluation.posterior_collapse import *  # noqa: F403

places = " and ".join(f"vae_jax.evaluation.{name}" for name in ("posterior_collapse", "kl_decomposition", "overfitting"))
warnings.warn(f"vae_jax.diagnostics moved to {places}", DeprecationWarning, stacklevel=2)
