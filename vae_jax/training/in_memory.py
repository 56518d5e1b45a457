"""What `fit_members` runs, epoch by epoch: here one compiled program over data that lie on the device; see `streaming`."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax import Array

from vae_jax.data import Prepared
from vae_jax.model import VAE
from vae_jax.objectives import Objective
from vae_jax.objectives.batch import BatchObjective
from vae_jax.training.epoch import Lane, Outcome, Partial, TrainStep, init_lane, make_epoch, make_member_epoch, run_keys
from vae_jax.training.placement import Placement, over_members
from vae_jax.training.schedules import Optimizer


class Work(NamedTuple):
    """What is to be trained, and on what."""

    vae: VAE
    data: Prepared
    train_step: TrainStep
    optimizer: Optimizer
    objective: Objective | BatchObjective | None
    batch_size: int
    eval_batch_size: int
    test_seed: int
    seeds: Sequence[int]  # one for each member
    hyperparams: Any  # each (members,)
    prng: str  # generator of the steps' keys
    start: Lane | None  # the members' lanes where they go on from; None: from their seeds
    first_epoch: int  # from which on the best is chosen, counted from 1


Snapshot = Callable[[], tuple[Lane, Partial] | None]  # where the epoch is now, on the host; None where it is not finite
OnChunk = Callable[[int, Snapshot], bool]  # (steps that the epoch has made, where it is) -> whether to end it there


class RunEpoch(Protocol):
    """Runs an epoch of the chosen members, or its first steps.

    (lanes, what of the epoch they have behind them, members, epoch, steps to make, on_chunk) -> (lanes, partial, outcome).
    Lanes whose epoch was not finite stay as they were, `partial` with them. A true answer of `on_chunk`, called
    wherever the epoch can be interrupted, ends it there: the outcome is then None.
    """

    def __call__(
        self,
        lanes: Lane,
        partial: Partial | None,
        chosen: Sequence[int],
        epoch: int,
        num_steps: int,
        on_chunk: OnChunk,
    ) -> tuple[Lane, Partial | None, Outcome | None]: ...


class Program(NamedTuple):
    """Compiled, with the members ready to run."""

    lanes: Lane
    run_epoch: RunEpoch
    placement: Placement  # as used: `chunk` is smaller than it was where memory was short


def wait(tree: Any) -> None:
    """Blocks in Python rather than in C++, so that the handler of a signal runs while the device works."""
    while not all(leaf.is_ready() for leaf in jax.tree.leaves(tree)):
        time.sleep(0.001)


def _start_lanes(work: Work, placement: Placement, keys: Array) -> Lane:
    """The lanes on the devices: where they go on from, or made where they will live, each as it would be alone."""
    if work.start is not None:
        return placement.put(jax.tree.map(lambda values: _fill(values, len(keys)), work.start))

    def init(lane: tuple[()], key: Array) -> tuple[tuple[()], Lane]:
        keep_best = work.data.validation is not None
        return lane, init_lane(work.vae, work.optimizer, key, work.objective, keep_best=keep_best)

    alone = placement._replace(strategy="map", chunk=1)
    return jax.jit(over_members(init, alone))((), keys, placement.put(np.ones(len(keys), bool)))[1]


def _fill(values: Any, num_lanes: int) -> np.ndarray:
    """Copies of the first member until there are so many lanes."""
    values = np.asarray(values)
    return np.concatenate([values, np.repeat(values[:1], num_lanes - len(values), axis=0)])


def resident(work: Work, placement: Placement) -> Program:
    """The program whose data, train, test and validation, are on the device: an epoch and its evaluation in one call."""
    steps, count = work.data.train.shape[0] // work.batch_size, len(work.seeds)

    def lay_out(placement: Placement) -> tuple[Lane, Any, Any, Any]:
        """(lanes, what each is given, what all are given, the program), on the devices."""
        num_lanes = placement.padded(count)
        keys_of = jax.jit(jax.vmap(lambda seed: run_keys(seed, work.prng)))
        keys = placement.put(keys_of(_fill(np.asarray(work.seeds, np.uint32), num_lanes)))
        members = (keys, placement.put(jax.tree.map(lambda values: _fill(values, num_lanes), work.hyperparams)))
        lanes = _start_lanes(work, placement, keys.init)
        shared = placement.replicate((work.data.train, work.data.test, work.data.validation))
        run_epoch = make_epoch(work.train_step, work.batch_size, constrain=placement.constrain_batch)
        member_epoch = make_member_epoch(
            work.vae, work.data, run_epoch, work.objective, work.eval_batch_size, work.test_seed, work.first_epoch
        )
        program = jax.jit(over_members(member_epoch, placement), donate_argnums=0)
        # Compiled before the clock starts, and by hand, so that nothing can compile a second time unseen.
        everyone = placement.put(np.ones(num_lanes, bool))
        lowered = program.lower(lanes, members, everyone, np.int32(0), np.int32(steps), *shared)
        return lanes, members, shared, lowered.compile()

    lanes, members, shared, program = lay_out(placement)
    while smaller := placement.smaller(program):
        placement = smaller
        lanes, members, shared, program = lay_out(placement)

    def run_epoch(
        lanes: Lane,
        partial: Partial | None,
        chosen: Sequence[int],
        epoch: int,
        num_steps: int,
        on_chunk: OnChunk,
    ) -> tuple[Lane, Partial | None, Outcome | None]:
        active = placement.put(np.isin(np.arange(placement.padded(count)), chosen))
        lanes, outcome = program(lanes, members, active, np.int32(epoch), np.int32(num_steps), *shared)
        wait(outcome)
        return lanes, None, jax.device_get(outcome)

    return Program(lanes, run_epoch, placement)
