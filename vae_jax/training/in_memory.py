"""The program of `fit_members` for data in device memory: an epoch and its evaluation are one compiled call."""

from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from vae_jax.config import Hyperparams
from vae_jax.training.epoch import MemberState, RunKeys, make_epoch, make_member_epoch, run_keys
from vae_jax.training.placement import Placement, over_members
from vae_jax.training.program import EpochResult, EpochTask, Job, Program, padded, start_members, wait


class _Compiled(NamedTuple):
    """The compiled epoch and its arguments on the devices."""

    members: MemberState  # stacked, one for each slot of the placement
    inputs: tuple[RunKeys, Hyperparams]  # likewise
    splits: tuple[Array, Array, Array | None]  # training, test and validation set, on every device
    epoch: jax.stages.Compiled


def in_memory_program(job: Job, placement: Placement) -> Program:
    """Compiles the program for data that are in device memory, with the largest chunk of members that fits.

    Args:
      job: its training data are an array.
      placement: its chunk may be made smaller.
    """
    compiled = _compile(job, placement)
    while smaller := placement.with_smaller_chunk(compiled.epoch):
        placement = smaller
        compiled = _compile(job, placement)
    _, inputs, splits, epoch_program = compiled
    num_slots = placement.num_slots(len(job.seeds))

    def run_epoch(task: EpochTask) -> EpochResult:
        is_active = placement.put(np.isin(np.arange(num_slots), task.chosen))
        numbers = np.int32(task.epoch), np.int32(task.num_steps)
        members, outcome = epoch_program(task.members, inputs, is_active, *numbers, *splits)
        wait(outcome)
        return EpochResult(members, None, jax.device_get(outcome))

    return Program(compiled.members, run_epoch, placement)


def _compile(job: Job, placement: Placement) -> _Compiled:
    """Puts everything onto the devices and compiles the epoch."""
    num_slots = placement.num_slots(len(job.seeds))
    keys_from_seeds = jax.jit(jax.vmap(lambda seed: run_keys(seed, job.options.prng)))
    keys = placement.put(keys_from_seeds(padded(np.asarray(job.seeds, np.uint32), num_slots)))
    inputs = (keys, placement.put(padded(job.hyperparams, num_slots)))
    members = start_members(job, placement, keys.init)
    assert not job.data.is_on_disk
    splits = placement.replicate((job.data.train, job.data.test, job.data.validation))
    run_epoch = make_epoch(job.train_step, job.options.batch_size, constrain=placement.constrain_batch)
    member_epoch = make_member_epoch(run_epoch, job.make_epoch_end())
    program = jax.jit(over_members(member_epoch, placement), donate_argnums=0)
    # Compiled before the clock starts, and by hand, so that nothing can compile a second time unnoticed.
    all_active = placement.put(np.ones(num_slots, bool))
    lowered = program.lower(members, inputs, all_active, np.int32(0), np.int32(job.num_steps), *splits)
    return _Compiled(members, inputs, splits, lowered.compile())
