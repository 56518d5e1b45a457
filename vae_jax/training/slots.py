"""The program of `fit_queue`: each slot holds a member at an epoch that need not be that of the others, and is filled again."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vae_jax.config import Hyperparams
from vae_jax.training.epoch import MemberState, Outcome, RunKeys, make_epoch, make_member_epoch, run_keys
from vae_jax.training.placement import MEMBERS, Placement, over_members
from vae_jax.training.program import EpochResult, EpochTask, Job, padded, wait


def slot_program(job: Job, placement: Placement, slots: Sequence[int | None], start: MemberState | None) -> "SlotProgram":
    """Compiles the program with the largest chunk of slots that fits into memory.

    Args:
      job: its seeds and hyperparameters are those of all members of the queue.
      placement: its chunk may be made smaller.
      slots: the member in each slot.
      start: the stacked members in the slots to continue from; None to initialize them.
    """
    program = SlotProgram(job, placement, slots, start)
    while smaller := program.placement.with_smaller_chunk(program.epoch_program):
        program = SlotProgram(job, smaller, slots, start)
    return program


class SlotProgram:
    """A compiled epoch and a compiled initialization of slots. Keys, hyperparameters and epochs of the slots are its inputs.

    Attributes:
      members: the stacked members in the slots.
      epochs: number of epochs that the member in each slot has made, to be set before `run_epoch`.
      placement: of the slots.
    """

    def __init__(self, job: Job, placement: Placement, slots: Sequence[int | None], start: MemberState | None):
        self.placement = placement
        self._num_slots = placement.num_slots(len(slots))
        self.epochs = np.zeros(len(slots), np.int32)
        keys = jax.jit(jax.vmap(lambda seed: run_keys(seed, job.options.prng)))(np.asarray(job.seeds, np.uint32))
        self._all_inputs = jax.device_get(job.hyperparams), keys
        everywhere = NamedSharding(placement.mesh, P(MEMBERS))

        def take(inputs: tuple[Hyperparams, RunKeys], chosen: Array) -> tuple[RunKeys, Hyperparams]:
            hyperparams, keys = jax.tree.map(lambda leaf: leaf[chosen], jax.tree.map(jnp.asarray, inputs))
            return keys, hyperparams

        self._take = jax.jit(take, out_shardings=everywhere)
        self._inputs = self._take(self._all_inputs, self._chosen(slots))
        template = jax.eval_shape(job.init_member, self._inputs[0].init[0])
        # One at a time, so that each member gets bit for bit the parameters that it would have alone.
        one_at_a_time = placement._replace(strategy="map", chunk=1)
        init = over_members(lambda member, key: (job.init_member(key), ()), one_at_a_time)
        self._init = jax.jit(lambda *arguments: init(*arguments)[0], donate_argnums=0)
        members = jax.tree.map(lambda leaf: np.zeros((self._num_slots, *leaf.shape), leaf.dtype), template)
        members = placement.put(members if start is None else jax.tree.map(lambda leaf: padded(leaf, self._num_slots), start))
        # Compiled before the clock starts, even if there is nothing to initialize now.
        is_new = [start is None and member is not None for member in slots]
        self.members = self._init(members, self._inputs[0].init, self._mask(is_new))
        self._splits = placement.replicate((job.data.train, job.data.test, job.data.validation))
        self.epoch_program = self._compile_epoch(job)

    def _compile_epoch(self, job: Job) -> jax.stages.Compiled:
        run_epoch = make_epoch(job.train_step, job.options.batch_size, constrain=self.placement.constrain_batch)
        member_epoch = make_member_epoch(run_epoch, job.make_epoch_end())

        def slot_epoch(
            member: MemberState, inputs: tuple[RunKeys, Hyperparams, Array], num_steps: Array, *splits: Array
        ) -> tuple[MemberState, Outcome]:
            keys, hyperparams, epoch = inputs
            return member_epoch(member, (keys, hyperparams), epoch, num_steps, *splits)

        program = jax.jit(over_members(slot_epoch, self.placement), donate_argnums=0)
        inputs = (*self._inputs, self._put_epochs())
        all_active = self._mask([True] * self._num_slots)
        return program.lower(self.members, inputs, all_active, np.int32(job.num_steps), *self._splits).compile()

    def fill(self, members: MemberState, slots: Sequence[int | None], is_new: Sequence[bool]) -> MemberState:
        """Initializes new members in their slots, and leaves the other slots as they are bit for bit.

        Args:
          members: stacked, which are donated.
          slots: the member that each slot has from now on.
          is_new: True for each slot whose member changes.
        """
        is_new = [new and member is not None for new, member in zip(is_new, slots, strict=True)]
        if not any(is_new):
            return members
        self._inputs = self._take(self._all_inputs, self._chosen(slots))
        return self._init(members, self._inputs[0].init, self._mask(is_new))

    def run_epoch(self, task: EpochTask) -> EpochResult:
        """Makes the next epoch, or its first steps, of the members in the chosen slots. `task.epoch` is not used."""
        is_active = self._mask(np.isin(np.arange(self._num_slots), task.chosen).tolist())
        inputs = (*self._inputs, self._put_epochs())
        members, outcome = self.epoch_program(task.members, inputs, is_active, np.int32(task.num_steps), *self._splits)
        wait(outcome)
        return EpochResult(members, None, jax.device_get(outcome))

    def _chosen(self, slots: Sequence[int | None]) -> np.ndarray:
        """Returns the member of each slot; 0 for slots that are not used."""
        return np.array([member or 0 for member in slots] + [0] * (self._num_slots - len(slots)), np.int32)

    def _put_epochs(self) -> Array:
        padding = np.zeros(self._num_slots - len(self.epochs), np.int32)
        return self.placement.put(jnp.asarray(np.concatenate([self.epochs, padding])))

    def _mask(self, chosen: Sequence[bool]) -> Array:
        padding = [False] * (self._num_slots - len(chosen))
        return self.placement.put(jnp.asarray(np.array([*chosen, *padding], bool)))
