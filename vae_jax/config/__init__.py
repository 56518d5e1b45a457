"""Settings of a run: `Config` (everything static), `Hyperparams` (what a step takes as traced arrays), and their registry."""

from vae_jax.config.registry import CUSTOM as CUSTOM
from vae_jax.config.registry import KINDS as KINDS
from vae_jax.config.registry import Entry as Entry
from vae_jax.config.registry import Setting as Setting
from vae_jax.config.registry import TrainingData as TrainingData
from vae_jax.config.registry import entries as entries
from vae_jax.config.registry import register as register
from vae_jax.config.registry import unregister as unregister
from vae_jax.config.settings import Config as Config
from vae_jax.config.settings import Hyperparams as Hyperparams
from vae_jax.config.settings import all_settings as all_settings
from vae_jax.config.settings import from_dict as from_dict
from vae_jax.config.settings import settings_of as settings_of
from vae_jax.config.validation import fixed_needs_memory as fixed_needs_memory
