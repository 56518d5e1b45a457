"""Settings of a run: `Config` (everything static) and `Hyperparams` (what a step takes as traced arrays). Imports no jax."""

from vae_jax.config.settings import CUSTOM as CUSTOM
from vae_jax.config.settings import FIXED_IN_MEMORY as FIXED_IN_MEMORY
from vae_jax.config.settings import LIKELIHOODS as LIKELIHOODS
from vae_jax.config.settings import NETWORKS as NETWORKS
from vae_jax.config.settings import OBJECTIVES as OBJECTIVES
from vae_jax.config.settings import OPTIMIZERS as OPTIMIZERS
from vae_jax.config.settings import PRIORS as PRIORS
from vae_jax.config.settings import Config as Config
from vae_jax.config.settings import Hyperparams as Hyperparams
from vae_jax.config.settings import from_dict as from_dict
