"""Moved to `vae_jax._numerics.keys`."""

import warnings

from vae_jax._numerics.keys import *  # noqa: F403

warnings.warn("vae_jax.keys moved to vae_jax._numerics.keys", DeprecationWarning, stacklevel=2)
