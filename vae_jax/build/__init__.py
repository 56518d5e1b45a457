"""Settings -> objects: `build` loads the data and makes the model, with parts of the user where there are any."""

from vae_jax.build.built import Built as Built
from vae_jax.build.built import build as build
from vae_jax.build.built import make_likelihood as make_likelihood
from vae_jax.build.built import prepare as prepare
from vae_jax.build.data_settings import load_dataset as load_dataset
from vae_jax.build.data_settings import names_of_columns as names_of_columns
from vae_jax.build.data_settings import resolve_columns as resolve_columns
from vae_jax.build.data_settings import with_dataset as with_dataset
from vae_jax.build.data_settings import with_planned_columns as with_planned_columns
from vae_jax.build.description import DataDescription as DataDescription
from vae_jax.build.description import training_data as training_data
from vae_jax.build.initial import INIT_PARTS as INIT_PARTS
from vae_jax.build.initial import Initial as Initial
from vae_jax.build.model import make_model as make_model
from vae_jax.build.parts import PART_NAMES as PART_NAMES
from vae_jax.build.parts import PartOptions as PartOptions
from vae_jax.build.parts import Parts as Parts
from vae_jax.build.parts import PartSource as PartSource
from vae_jax.build.parts import check_parts as check_parts
