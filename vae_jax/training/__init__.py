"""Training: `fit` trains one run, `fit_members` trains several runs in one program. The functions that they are made of follow.

`make_train_step` and `make_epoch` are pure functions for training loops of your own.
"""

from vae_jax.training.checks import check_devices as check_devices
from vae_jax.training.checks import check_fit as check_fit
from vae_jax.training.checks import check_step as check_step
from vae_jax.training.epoch import MemberState as MemberState
from vae_jax.training.epoch import PartialEpoch as PartialEpoch
from vae_jax.training.epoch import RunKeys as RunKeys
from vae_jax.training.epoch import epoch_order as epoch_order
from vae_jax.training.epoch import evaluation_key as evaluation_key
from vae_jax.training.epoch import make_epoch as make_epoch
from vae_jax.training.epoch import params_to_evaluate_members as params_to_evaluate_members
from vae_jax.training.epoch import run_keys as run_keys
from vae_jax.training.loop import fit as fit
from vae_jax.training.loop import fit_members as fit_members
from vae_jax.training.metrics import OnEpoch as OnEpoch
from vae_jax.training.metrics import epoch_metrics as epoch_metrics
from vae_jax.training.metrics import progress_bar as progress_bar
from vae_jax.training.options import FitOptions as FitOptions
from vae_jax.training.program import EpochInterrupted as EpochInterrupted
from vae_jax.training.progress import Callbacks as Callbacks
from vae_jax.training.progress import Epoch as Epoch
from vae_jax.training.progress import Fit as Fit
from vae_jax.training.progress import MembersFit as MembersFit
from vae_jax.training.progress import MembersProgress as MembersProgress
from vae_jax.training.progress import Progress as Progress
from vae_jax.training.progress import TrainMeans as TrainMeans
from vae_jax.training.progress import initial_progress as initial_progress
from vae_jax.training.step import Best as Best
from vae_jax.training.step import StepMetrics as StepMetrics
from vae_jax.training.step import TrainState as TrainState
from vae_jax.training.step import init_state as init_state
from vae_jax.training.step import make_train_step as make_train_step
from vae_jax.training.step import params_to_evaluate as params_to_evaluate
