"""Records of training on the host: epochs, progress to resume from, and results."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax._numerics.short_repr import short_repr
from vae_jax.evaluation import NOT_FINITE, Means, are_finite, means
from vae_jax.model import VAE, Params
from vae_jax.objectives.batch import AnyObjective
from vae_jax.training.epoch import MemberState, Outcome, PartialEpoch, init_member, run_keys
from vae_jax.training.optimizers import Optimizer
from vae_jax.training.options import FitOptions
from vae_jax.training.placement import Placement
from vae_jax.training.step import Best, TrainState

NO_TEST = Means(np.nan, np.nan, np.nan, np.nan, 0)  # of a run that diverged in its first epoch


class TrainMeans(NamedTuple):
    """`StepMetrics` on the host, averaged over the steps of an epoch, in nats per example."""

    loss: float
    log_likelihood: float
    kl: float
    extra: dict[str, float]  # further terms of the objective by name


@short_repr
class Epoch(NamedTuple):
    """Results of one epoch."""

    epoch: int  # counted from 1
    step: int  # updates made so far
    train: TrainMeans
    test: Means
    validation: Means | None
    seconds: float  # of training and evaluation; for several members in one program, the equal share of this one


@short_repr
class Progress(NamedTuple):
    """Everything that another process needs to resume a run."""

    state: TrainState
    best: Best
    history: tuple[Epoch, ...]
    partial: PartialEpoch | None = None  # of streamed data: progress within the epoch that follows the history


@short_repr
class MembersProgress(NamedTuple):
    """Everything that another process needs to resume several members."""

    members: MemberState  # stacked; there may be more slots than members, which come first
    histories: tuple[tuple[Epoch, ...], ...]
    status: tuple[str, ...]  # "running", "finished", "stopped early", "diverged" or "not finite"
    epoch: int  # number of epochs that the running members have completed
    partial: PartialEpoch | None = None  # see `Progress`


class Callbacks(NamedTuple):
    """Functions that `fit_members` calls while it trains. If one returns True, all runs end with status "interrupted"."""

    on_progress: Callable[[MembersProgress], bool | None] = lambda progress: None
    """Called after each epoch. Copy the arrays of the members that you keep, because the next epoch overwrites them."""
    on_chunk: Callable[[int, Callable[[], MembersProgress | None]], bool | None] = lambda steps, progress: None
    """Called within an epoch of streamed data; see `fit`. For several members the progress is always None, and if the function
    returns True, `fit_members` raises `EpochInterrupted`."""


@short_repr
class Fit(NamedTuple):
    """Result of `fit`."""

    progress: Progress
    status: str  # "finished", "stopped early", "interrupted", "diverged" or "not finite" (the ELBO of some example)
    params: Params  # to evaluate: the best ones under early stopping, otherwise the last ones; see `params_to_evaluate`
    epoch: int  # that the parameters come from
    test: Means  # of the parameters; of a diverged run, the last completed epoch, or NaN over 0 examples if there is none
    first_epoch: int = 1  # from which on epochs counted for the best parameters and for early stopping
    problem: str | None = None  # names the examples whose ELBO is not finite, and says what to do


@short_repr
class MembersFit(NamedTuple):
    """Result of `fit_members`."""

    progress: MembersProgress
    status: tuple[str, ...]  # of each member; see `Fit`
    params: Params  # stacked, one for each member
    epochs: tuple[int, ...]
    tests: tuple[Means, ...]
    placement: Placement  # as used: the chunk is smaller than requested if memory was short
    first_epoch: int = 1  # see `Fit`


def initial_progress(
    vae: VAE, optimizer: Optimizer, seed: int, objective: AnyObjective | None = None, keep_best: bool = True
) -> Progress:
    """Returns the progress of a run before its first epoch."""
    member = jax.jit(lambda key: init_member(vae, optimizer, key, objective, keep_best))(run_keys(seed).init)
    state, best = jax.tree.map(jnp.copy, member)
    return Progress(state, best, ())


class MembersLog:
    """Status and history of the members while `fit_members` runs."""

    def __init__(self, num_members: int, start: MembersProgress | None, best_epochs: Sequence[int]) -> None:
        self.histories = [list(history) for history in start.histories] if start else [[] for _ in range(num_members)]
        self.status = list(start.status) if start else ["running"] * num_members
        self.epoch = start.epoch if start else 0
        self.best_epochs = [int(epoch) for epoch in best_epochs]

    def progress(self, members: MemberState, partial: PartialEpoch | None) -> MembersProgress:
        """Returns a record of the members with these arrays."""
        return MembersProgress(members, tuple(map(tuple, self.histories)), tuple(self.status), self.epoch, partial)

    def update_status(self, options: FitOptions, first_epoch: int) -> list[int]:
        """Ends the members whose runs are over, and returns the indices of the members that are still running."""
        for i, history in enumerate(self.histories):
            if self.status[i] != "running":
                continue
            if history and not are_finite(history[-1].test, history[-1].validation):
                self.status[i] = NOT_FINITE
            elif len(history) >= options.epochs:
                self.status[i] = "finished"
            elif options.early_stopping and history:
                epochs_since_best = len(history) - max(self.best_epochs[i], first_epoch - 1)
                self.status[i] = "stopped early" if epochs_since_best >= options.early_stopping else "running"
        return [i for i, status in enumerate(self.status) if status == "running"]

    def add_epoch(
        self, running: Sequence[int], outcome: Outcome, num_steps: int, log_jacobian: float, seconds: float
    ) -> list[int]:
        """Adds an epoch to the histories of the running members, and returns the indices of those that diverged in it."""
        diverged = []
        for i in running:
            if int(outcome.good_steps[i]) == num_steps:
                step = (self.epoch + 1) * num_steps
                self.histories[i].append(epoch_record(self.epoch + 1, step, outcome, i, log_jacobian, seconds))
                self.best_epochs[i] = int(outcome.best_epoch[i])
            else:
                self.status[i] = "diverged"
                diverged.append(i)
        return diverged

    def has_running(self, epochs: int) -> bool:
        """Returns True if a member has epochs left to train."""
        return any(s == "running" and len(h) < epochs for s, h in zip(self.status, self.histories, strict=True))

    def evaluated_epochs(self, early_stopping: int) -> tuple[int, ...]:
        """Returns the epoch that the parameters to evaluate come from, for each member. It is 0 if there is none."""
        pairs = zip(self.best_epochs, self.histories, strict=True)
        return tuple(best if early_stopping and best else len(history) for best, history in pairs)


def epoch_record(epoch: int, step: int, outcome: Outcome, member: int, log_jacobian: float, seconds: float) -> Epoch:
    """Returns the record of one member's epoch, from the outcomes of all members."""
    metrics, _, test, validation, _ = jax.tree.map(lambda leaf: leaf[member], outcome)
    extra = {name: float(value) for name, value in (metrics.extra or {}).items()}
    loss, log_likelihood, kl = (float(value) for value in metrics[:3])
    train = TrainMeans(loss - log_jacobian, log_likelihood + log_jacobian, kl, extra)
    return Epoch(epoch, step, train, means(test), None if validation is None else means(validation), seconds)
