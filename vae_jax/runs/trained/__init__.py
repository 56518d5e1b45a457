"""Trained models as tools: `load_model` reads one without its training data."""

from vae_jax.runs.trained.initial import init_from as init_from
from vae_jax.runs.trained.initial import recorded_init as recorded_init
from vae_jax.runs.trained.model import TrainedModel as TrainedModel
from vae_jax.runs.trained.model import load_model as load_model
from vae_jax.runs.trained.new_data import NewData as NewData
from vae_jax.runs.trained.new_data import read_new_data as read_new_data
from vae_jax.runs.trained.sweep_members import best as best
