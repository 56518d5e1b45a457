"""The program of `fit_members` for data that stay on disk: an epoch is fed in chunks and can be interrupted between them."""

import contextlib
import time
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.stages import Compiled

from vae_jax.config import Hyperparams
from vae_jax.data import Rows
from vae_jax.data.prefetch import chunks, steps_of_chunk
from vae_jax.errors import UserError
from vae_jax.training.epoch import (
    MemberState,
    Outcome,
    PartialEpoch,
    RunKeys,
    average_record,
    empty_record,
    epoch_order,
    make_step_keys,
    run_keys,
    run_steps,
)
from vae_jax.training.placement import Placement
from vae_jax.training.program import EpochResult, EpochTask, Job, Program, wait
from vae_jax.training.step import StepMetrics, TrainState, all_finite

Carry = tuple[TrainState, StepMetrics]  # changed by the steps: the state, and the record of the epoch's steps
Tree = TypeVar("Tree")


class _Stream(NamedTuple):
    """The training images on disk, and the device that they are fed to."""

    rows: Rows
    device: object
    batch_size: int
    chunk_steps: int  # steps whose batches are read together

    @property
    def epoch_steps(self) -> int:
        return len(self.rows) // self.batch_size

    def put(self, tree: Tree) -> Tree:
        """Puts arrays onto the device."""
        # A CPU device may use a NumPy array in place, and donated arrays are overwritten, so it gets a copy.
        copies = jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree)
        return jax.device_put(copies, self.device)


class _Inputs(NamedTuple):
    """Constant arrays on the device."""

    keys: RunKeys
    hyperparams: Hyperparams
    splits: tuple[Array, Array | None]  # test and validation set


class _Programs(NamedTuple):
    """The compiled programs of an epoch."""

    copy_state: Compiled  # members -> a copy of the member's state, which the steps may overwrite
    make_record: Compiled  # () -> an empty record
    make_order: Compiled  # (keys, epoch) -> indices of the examples of every step
    run_chunk: Compiled  # see `_compile`
    end_epoch: Compiled  # likewise
    is_finite: Compiled  # carry -> True if everything in it is finite


def streaming_program(job: Job, placement: Placement) -> Program:
    """Compiles the program for training images that are `Rows`. Order, keys and steps are those of `in_memory_program`.

    The results of the two are equal up to rounding, because XLA fuses the two programs differently. A resumed run repeats an
    uninterrupted one bit for bit, because both are this program.

    An epoch calls one compiled program for each chunk of a few megabytes, and one for the evaluation at its end. Each chunk is
    read and put on the device while the chunks before it are trained on. The host waits for the chunk before the last, so that
    the device always has one more to work on.

    Raises:
      UserError: for several members, because their orders differ, or for several devices.
    """
    if len(job.seeds) > 1:
        raise UserError(
            f"expected one member with data on disk, got {len(job.seeds)}, each of which orders the examples differently.",
            fix="Train the members one by one, or load the data without `stream=True`.",
        )
    if placement.mesh.size > 1:
        raise UserError(
            f"expected one device with data on disk, got {placement.mesh.size}.",
            fix="Use either `stream=True` or several devices, not both.",
        )
    rows, batch_size = job.data.train, job.options.batch_size
    assert isinstance(rows, Rows)
    stream = _Stream(rows, placement.mesh.devices.flat[0], batch_size, steps_of_chunk(rows, batch_size))
    inputs = _Inputs(
        stream.put(jax.jit(lambda seed: run_keys(seed, job.options.prng))(np.uint32(job.seeds[0]))),
        stream.put(jax.tree.map(lambda values: np.float32(values[0]), job.hyperparams)),
        stream.put((job.data.test, job.data.validation)),
    )
    init = jax.jit(lambda key: jax.tree.map(lambda leaf: leaf[None], job.init_member(key)))
    members = stream.put(job.start or init(inputs.keys.init))
    programs = _compile(job, stream, inputs, members)
    return Program(members, lambda task: _run_epoch(stream, inputs, programs, task), placement)


def _compile(job: Job, stream: _Stream, inputs: _Inputs, members: MemberState) -> _Programs:
    """Compiles all programs before the clock starts, and by hand, so that nothing can compile a second time unnoticed."""
    rows, _, batch_size, chunk_steps = stream
    train_step = jax.jit(job.train_step, inline=True)  # traced once, for the shapes of its metrics and for the loop
    end_member_epoch = job.make_epoch_end()

    def run_chunk(
        carry: Carry, chunk: Array, keys: RunKeys, hyperparams: Hyperparams, epoch: Array, first: Array, num_steps: Array
    ) -> tuple[Carry, Array]:
        """Makes steps from `first` on, on a chunk (steps, batch_size, numbers of a row); and tells if all losses are finite."""
        step_keys = make_step_keys(keys, epoch * stream.epoch_steps + first, chunk_steps)

        def get_batch(i: Array) -> Array:
            return chunk[i].reshape(batch_size, *rows.shape[1:])

        carry = run_steps(train_step, carry, get_batch, step_keys, hyperparams, num_steps, first)
        return carry, all_finite(carry[1].loss)

    def end_epoch(
        members: MemberState, carry: Carry, epoch: Array, num_steps: Array, *splits: Array | None
    ) -> tuple[MemberState, Outcome]:
        metrics, good_steps = average_record(*carry, num_steps)
        member = jax.tree.map(lambda leaf: leaf[0], members)
        ended = end_member_epoch(member, carry[0], metrics, good_steps, epoch, num_steps, *splits)
        return jax.tree.map(lambda leaf: leaf[None], ended)

    def copy_state(members: MemberState) -> TrainState:
        return jax.tree.map(lambda leaf: jnp.copy(leaf[0]), members.state)

    keys, hyperparams, splits = inputs
    zero = np.int32(0)
    copy_state_program = jax.jit(copy_state).lower(members).compile()
    state = copy_state_program(members)
    batch = jax.ShapeDtypeStruct((batch_size, *rows.shape[1:]), rows.dtype)
    metrics = jax.eval_shape(train_step, state, keys.step, batch, hyperparams)[1]
    make_record = jax.jit(lambda: empty_record(metrics, stream.epoch_steps)).lower().compile()
    carry = (state, stream.put(make_record()))
    make_order = jax.jit(lambda keys, epoch: epoch_order(keys, epoch, len(rows), batch_size)).lower(keys, zero).compile()
    chunk = jax.ShapeDtypeStruct((chunk_steps, batch_size, batch.size // batch_size), rows.dtype)
    return _Programs(
        copy_state_program,
        make_record,
        make_order,
        jax.jit(run_chunk, donate_argnums=0).lower(carry, chunk, keys, hyperparams, zero, zero, zero).compile(),
        jax.jit(end_epoch, donate_argnums=0).lower(members, carry, zero, np.int32(stream.epoch_steps), *splits).compile(),
        jax.jit(lambda carry: all_finite((carry[0].params, carry[1].loss))).lower(carry).compile(),
    )


def _run_epoch(stream: _Stream, inputs: _Inputs, programs: _Programs, task: EpochTask) -> EpochResult:
    """Trains on the chunks of an epoch and evaluates the member; see `streaming_program`."""
    partial, num_steps, epoch = task.partial, task.num_steps, np.int32(task.epoch)
    began = time.perf_counter() - (partial.seconds if partial else 0.0)
    best, last_good = task.members.best, None
    members = stream.put(task.members)
    first = partial.steps if partial else 0
    carry = (programs.copy_state(members), stream.put(partial.record) if partial else programs.make_record())
    order = np.asarray(programs.make_order(inputs.keys, epoch))[first:num_steps]

    def snapshot() -> tuple[MemberState, PartialEpoch] | None:
        nonlocal last_good
        if not programs.is_finite(carry):
            return None
        state, record, best_copy = jax.tree.map(np.array, (*carry, best))  # copies: the next chunk overwrites the arrays
        state = jax.tree.map(lambda leaf: leaf[None], state)
        last_good = MemberState(state, best_copy), PartialEpoch(first, record, time.perf_counter() - began)
        return last_good

    is_finite = None
    with contextlib.closing(chunks(stream.rows, order, stream.chunk_steps, stream.device)) as feed:
        for chunk in feed:
            count = min(stream.chunk_steps, num_steps - first)
            numbers = (epoch, np.int32(first), np.int32(count))
            was_finite = is_finite
            carry, is_finite = programs.run_chunk(carry, chunk, inputs.keys, inputs.hyperparams, *numbers)
            first += count
            if was_finite is not None and not was_finite:
                break  # this waited for the chunk before this one; the rest of the epoch would be discarded
            if first < num_steps and task.on_chunk(first, snapshot) and (interrupted := snapshot()) is not None:
                return EpochResult(*interrupted, None)
    ended, outcome = programs.end_epoch(members, carry, epoch, np.int32(num_steps), *inputs.splits)
    wait(outcome)
    outcome = jax.device_get(outcome)
    if int(outcome.good_steps[0]) == num_steps:
        return EpochResult(ended, None, outcome)
    return EpochResult(*(last_good or (ended, partial)), outcome)
