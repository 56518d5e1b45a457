"""Trained models as tools: `load_model` reads one without its training data.

Its codes, scores, reconstructions and samples are in `encode`, `score`, `reconstruct`, `sample`, `decode` and `interpolate`.
"""

from vae_jax.runs.trained.decoding import decode as decode
from vae_jax.runs.trained.decoding import interpolate as interpolate
from vae_jax.runs.trained.decoding import reconstruct as reconstruct
from vae_jax.runs.trained.decoding import sample as sample
from vae_jax.runs.trained.encoding import Encoded as Encoded
from vae_jax.runs.trained.encoding import encode as encode
from vae_jax.runs.trained.export import export_model as export_model
from vae_jax.runs.trained.initial import init_from as init_from
from vae_jax.runs.trained.initial import recorded_init as recorded_init
from vae_jax.runs.trained.model import TrainedModel as TrainedModel
from vae_jax.runs.trained.model import load_model as load_model
from vae_jax.runs.trained.new_data import NewData as NewData
from vae_jax.runs.trained.new_data import read_new_data as read_new_data
from vae_jax.runs.trained.scoring import Scores as Scores
from vae_jax.runs.trained.scoring import score as score
from vae_jax.runs.trained.sweep_members import best as best
