"""Run directories: `train` writes one, `load_run` reads it back, and `load_model` reads its model without the data."""

from vae_jax.runs.config_file import describe as describe
from vae_jax.runs.config_file import read_config as read_config
from vae_jax.runs.directory import Run as Run
from vae_jax.runs.directory import load_last_good as load_last_good
from vae_jax.runs.directory import load_run as load_run
from vae_jax.runs.metrics_file import append_metrics as append_metrics
from vae_jax.runs.metrics_file import read_metrics as read_metrics
from vae_jax.runs.metrics_file import rewrite_metrics as rewrite_metrics
from vae_jax.runs.metrics_file import to_epoch as to_epoch
from vae_jax.runs.metrics_file import to_line as to_line
from vae_jax.runs.recorded_training import train as train
from vae_jax.runs.trained import NewData as NewData
from vae_jax.runs.trained import TrainedModel as TrainedModel
from vae_jax.runs.trained import best as best
from vae_jax.runs.trained import init_from as init_from
from vae_jax.runs.trained import load_model as load_model
from vae_jax.runs.trained import read_new_data as read_new_data
from vae_jax.runs.trained import recorded_init as recorded_init
