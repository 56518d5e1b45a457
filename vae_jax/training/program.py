"""The interface between `fit_members` and its two programs, for data in memory (`in_memory`) and on disk (`streaming`)."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax import Array

from vae_jax.config import Hyperparams
from vae_jax.data import Prepared
from vae_jax.model import VAE
from vae_jax.training.epoch import EndEpoch, MemberState, Outcome, PartialEpoch, init_member, make_epoch_end
from vae_jax.training.options import FitOptions
from vae_jax.training.placement import Placement, over_members
from vae_jax.training.step import TrainStep

Tree = TypeVar("Tree")


class Job(NamedTuple):
    """Everything that a program needs to train its members."""

    vae: VAE
    data: Prepared
    options: FitOptions
    train_step: TrainStep
    seeds: Sequence[int]  # one for each member
    hyperparams: Hyperparams  # (members,) each
    start: MemberState | None  # stacked members to resume; None to start from the seeds
    first_epoch: int  # from which on the best parameters are chosen, counted from 1

    @property
    def num_steps(self) -> int:
        """Number of steps in an epoch."""
        return self.data.train.shape[0] // self.options.batch_size

    def init_member(self, key: Array) -> MemberState:
        """Returns a member before its first epoch."""
        options, keep_best = self.options, self.data.validation is not None
        return init_member(self.vae, options.optimizer, key, options.objective, keep_best)

    def make_epoch_end(self) -> EndEpoch:
        """Makes the function that evaluates a member at the end of an epoch."""
        options = self.options
        return make_epoch_end(
            self.vae, self.data, options.objective, options.eval_batch_size, options.test_seed, self.first_epoch
        )


class EpochInterrupted(Exception):
    """Raised when `on_chunk` interrupts the epoch of several members: some have ended the epoch, and others have not begun it.

    Continue from the progress that the last `on_progress` received.
    """


Snapshot = Callable[[], tuple[MemberState, PartialEpoch] | None]  # the epoch so far, on the host; None if it is not finite
OnChunk = Callable[[int, Snapshot], bool]  # (steps made in the epoch, the epoch so far) -> True to interrupt the epoch


class EpochTask(NamedTuple):
    """An epoch, or its first steps, for a program to run."""

    members: MemberState  # stacked; the program may overwrite these arrays
    partial: PartialEpoch | None  # progress within this epoch, to continue from it
    chosen: Sequence[int]  # indices of the members to train; the others stay as they are
    epoch: int  # counted from 0
    num_steps: int  # at most the steps of an epoch
    on_chunk: OnChunk = lambda steps, snapshot: False  # called wherever the epoch can be interrupted


class EpochResult(NamedTuple):
    """Result of an `EpochTask`.

    Members whose epoch produced a number that is not finite are as they were before it, or at a snapshot that was taken in it,
    whose progress is then `partial`.
    """

    members: MemberState
    partial: PartialEpoch | None  # None at the end of an epoch
    outcome: Outcome | None  # stacked, on the host; None if `on_chunk` interrupted the epoch


RunEpoch = Callable[[EpochTask], EpochResult]


class Program(NamedTuple):
    """A compiled program with its members ready to run."""

    members: MemberState
    run_epoch: RunEpoch
    placement: Placement  # as used: the chunk is smaller than requested if memory was short


def wait(tree: object) -> None:
    """Blocks in Python rather than in C++, so that signal handlers run while the device works."""
    while not all(leaf.is_ready() for leaf in jax.tree.leaves(tree)):
        time.sleep(0.001)


def start_members(job: Job, placement: Placement, keys: Array) -> MemberState:
    """Returns the members on the devices, resumed or initialized. A member is initialized where it will be trained.

    The initialization runs one member at a time, so that each gets bit for bit the parameters that it would have alone.
    """
    if job.start is not None:
        # One array at a time, so that not all exist three times.
        return jax.tree.map(lambda leaf: placement.put(padded(leaf, len(keys))), job.start)

    def init(state: tuple[()], key: Array) -> tuple[tuple[()], MemberState]:
        return state, job.init_member(key)

    one_at_a_time = placement._replace(strategy="map", chunk=1)
    # Priors that start at training examples read them from disk by calls to the host.
    return jax.jit(over_members(init, one_at_a_time, placement.mesh.axis_names))(
        (), keys, placement.put(np.ones(len(keys), bool))
    )[1]


def padded(tree: Tree, num_slots: int) -> Tree:
    """Fills the slots beyond the last member with copies of the first member."""

    def pad(leaf: Array | np.ndarray) -> np.ndarray:
        values = np.asarray(leaf)
        return np.concatenate([values, np.repeat(values[:1], num_slots - len(values), axis=0)])

    return jax.tree.map(pad, tree)
