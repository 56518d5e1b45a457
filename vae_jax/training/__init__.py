"""Training: `fit` trains one run, `fit_members` trains many side by side; the parts of a step and of an epoch below them."""

from vae_jax.training.checks import check_fit as check_fit
from vae_jax.training.epoch import Best as Best
from vae_jax.training.epoch import Lane as Lane
from vae_jax.training.epoch import Partial as Partial
from vae_jax.training.epoch import RunKeys as RunKeys
from vae_jax.training.epoch import epoch_order as epoch_order
from vae_jax.training.epoch import evaluation_key as evaluation_key
from vae_jax.training.epoch import make_epoch as make_epoch
from vae_jax.training.epoch import run_keys as run_keys
from vae_jax.training.loop import Epoch as Epoch
from vae_jax.training.loop import Fit as Fit
from vae_jax.training.loop import MembersFit as MembersFit
from vae_jax.training.loop import MembersProgress as MembersProgress
from vae_jax.training.loop import Progress as Progress
from vae_jax.training.loop import TrainMeans as TrainMeans
from vae_jax.training.loop import check_step as check_step
from vae_jax.training.loop import evaluation_params as evaluation_params
from vae_jax.training.loop import fit as fit
from vae_jax.training.loop import fit_members as fit_members
from vae_jax.training.loop import initial_progress as initial_progress
from vae_jax.training.step import StepMetrics as StepMetrics
from vae_jax.training.step import TrainState as TrainState
from vae_jax.training.step import init_state as init_state
from vae_jax.training.step import make_train_step as make_train_step
from vae_jax.training.step import params_to_evaluate as params_to_evaluate
