"""The program of `fit_members` for data that stay on disk: an epoch is fed chunk by chunk, and can end in its middle."""

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax.data import Rows
from vae_jax.data.prefetch import chunks, steps_of_chunk
from vae_jax.errors import UserError
from vae_jax.training.epoch import (
    Lane,
    Outcome,
    Partial,
    RunKeys,
    close_record,
    empty_record,
    epoch_order,
    init_lane,
    make_ending,
    run_keys,
    run_steps,
    step_keys_of,
)
from vae_jax.training.in_memory import OnChunk, Program, Work, wait
from vae_jax.training.placement import Placement
from vae_jax.training.step import StepMetrics, TrainState, all_finite

Carry = tuple[TrainState, StepMetrics]  # what a chunk's steps change: the state, and the record of the epoch's steps


def streamed(work: Work, placement: Placement) -> Program:
    """The program whose training images are `Rows`; the same order, keys and steps as `programs.resident`.

    Results are equal up to rounding: XLA fuses the two programs differently. A resumed run repeats one that was left alone bit
    for bit, because both are this program.

    An epoch is a call of one compiled program for each chunk of a few megabytes, and one for the evaluation at its end. Each
    chunk is read, and put on the device, while those before it are trained on; the host waits for the chunk before the last,
    so that the device has always one more to do.

    Raises:
      UserError: for several members, whose orders differ, or several devices.
    """
    if len(work.seeds) > 1:
        raise UserError(
            f"data on disk (--stream): expected one member, got {len(work.seeds)}, each with an order of its own. Train them "
            "one by one, or leave out --stream."
        )
    if placement.mesh.size > 1:
        raise UserError(f"data on disk (--stream): expected one device, got {placement.mesh.size}. Leave one of both out.")
    rows, device, batch_size = work.data.train, placement.mesh.devices.flat[0], work.batch_size
    assert isinstance(rows, Rows)
    all_steps, chunk_steps = len(rows) // batch_size, steps_of_chunk(rows, batch_size)
    train_step = jax.jit(work.train_step, inline=True)  # traced once, for the shapes of its metrics and for the loop

    def put(tree: Any) -> Any:
        # A CPU device may use a NumPy array where it is, and what is donated is overwritten: it gets a copy.
        return jax.device_put(jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree), device)

    def run_chunk(
        carry: Carry, chunk: Array, keys: RunKeys, hyperparams: Any, epoch: Array, first: Array, num_steps: Array
    ) -> tuple[Carry, Array]:
        """Steps from `first` on, on a chunk (steps, batch_size, numbers of a row), and whether all losses are finite."""
        step_keys = step_keys_of(keys, epoch * all_steps + first, chunk_steps)

        def batch_of(i: Array) -> Array:
            return chunk[i].reshape(batch_size, *rows.shape[1:])

        carry = run_steps(train_step, carry, batch_of, step_keys, hyperparams, num_steps, first)
        return carry, all_finite(carry[1].loss)

    ending = make_ending(work.vae, work.data, work.objective, work.eval_batch_size, work.test_seed, work.first_epoch)

    def end(lanes: Lane, carry: Carry, epoch: Array, num_steps: Array, *splits: Array | None) -> tuple[Lane, Outcome]:
        metrics, good_steps = close_record(*carry, num_steps)
        lane = jax.tree.map(lambda leaf: leaf[0], lanes)
        ended = ending(lane, carry[0], metrics, good_steps, epoch, num_steps, *splits)
        return jax.tree.map(lambda leaf: leaf[None], ended)

    def init(key: Array) -> Lane:
        keep_best = work.data.validation is not None
        return jax.tree.map(lambda leaf: leaf[None], init_lane(work.vae, work.optimizer, key, work.objective, keep_best))

    def begin(lanes: Lane) -> TrainState:
        return jax.tree.map(lambda leaf: jnp.copy(leaf[0]), lanes.state)  # the steps overwrite it

    keys = put(jax.jit(lambda seed: run_keys(seed, work.prng))(np.uint32(work.seeds[0])))
    hyperparams = put(jax.tree.map(lambda values: np.float32(values[0]), work.hyperparams))
    splits = put((work.data.test, work.data.validation))
    lanes = put(work.start or jax.jit(init)(keys.init))
    # All compiled before the clock starts, and by hand, so that nothing can compile a second time unseen.
    zero, all_of_it = np.int32(0), np.int32(all_steps)
    to_state = jax.jit(begin).lower(lanes).compile()
    state = to_state(lanes)
    batch = jax.ShapeDtypeStruct((batch_size, *rows.shape[1:]), rows.dtype)
    metrics = jax.eval_shape(train_step, state, keys.step, batch, hyperparams)[1]
    to_record = jax.jit(lambda: empty_record(metrics, all_steps)).lower().compile()
    carry = (state, put(to_record()))
    order_of = jax.jit(lambda keys, epoch: epoch_order(keys, epoch, len(rows), batch_size)).lower(keys, zero).compile()
    chunk = jax.ShapeDtypeStruct((chunk_steps, batch_size, batch.size // batch_size), rows.dtype)
    lowered = jax.jit(run_chunk, donate_argnums=0).lower(carry, chunk, keys, hyperparams, zero, zero, zero)
    run_chunk_program = lowered.compile()
    end_program = jax.jit(end, donate_argnums=0).lower(lanes, carry, zero, all_of_it, *splits).compile()
    is_good = jax.jit(lambda carry: all_finite((carry[0].params, carry[1].loss))).lower(carry).compile()
    del carry, state

    def run_epoch(
        lanes: Lane,
        partial: Partial | None,
        chosen: Sequence[int],
        epoch: int,
        num_steps: int,
        on_chunk: OnChunk,
    ) -> tuple[Lane, Partial | None, Outcome | None]:
        began = time.perf_counter() - (partial.seconds if partial else 0.0)
        best, last_good = lanes.best, None
        lanes = put(lanes)
        first = partial.steps if partial else 0
        carry = (to_state(lanes), put(partial.record) if partial else to_record())
        order = np.asarray(order_of(keys, np.int32(epoch)))[first:num_steps]

        def snapshot() -> tuple[Lane, Partial] | None:
            nonlocal last_good
            if not is_good(carry):
                return None
            state, record, own_best = jax.tree.map(np.array, (*carry, best))  # copies: the next chunk overwrites them
            state = jax.tree.map(lambda leaf: leaf[None], state)
            last_good = Lane(state, own_best), Partial(first, record, time.perf_counter() - began)
            return last_good

        finite = None
        with contextlib.closing(chunks(rows, order, chunk_steps, device)) as feed:
            for chunk in feed:
                count = min(chunk_steps, num_steps - first)
                numbers = (np.int32(epoch), np.int32(first), np.int32(count))
                before, (carry, finite) = finite, run_chunk_program(carry, chunk, keys, hyperparams, *numbers)
                first += count
                if before is not None and not before:
                    break  # it waited for the chunk before this one; what is left of the epoch would be lost
                if first < num_steps and on_chunk(first, snapshot) and (stopped := snapshot()) is not None:
                    return *stopped, None
        ended, outcome = end_program(lanes, carry, np.int32(epoch), np.int32(num_steps), *splits)
        wait(outcome)
        outcome = jax.device_get(outcome)
        if int(outcome.good_steps[0]) == num_steps:
            return ended, None, outcome
        return *(last_good or (ended, partial)), outcome

    return Program(lanes, run_epoch, placement)
