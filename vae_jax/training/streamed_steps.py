"""The compiled programs for data that stay on disk: the steps of a chunk and the end of an epoch, for members side by side."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.stages import Compiled

from vae_jax.config import Hyperparams
from vae_jax.data import Rows
from vae_jax.example import Example
from vae_jax.training.epoch import (
    MemberState,
    Outcome,
    RunKeys,
    average_record,
    batch_shapes,
    empty_record,
    epoch_order,
    make_step_keys,
    run_keys,
    run_steps,
)
from vae_jax.training.placement import MEMBERS, Placement
from vae_jax.training.program import Job
from vae_jax.training.step import StepMetrics, TrainState, all_finite

Carry = tuple[TrainState, StepMetrics]  # changed by the steps: the state, and the record of the epoch's steps
Tree = TypeVar("Tree")


class Stream(NamedTuple):
    """The training images on disk, and the members that they are fed to.

    Each shard of the mesh has its members in ranks, which are trained in turns. A rank has `placement.chunk` slots of every
    shard, so all devices are busy.
    """

    rows: Rows | Example
    placement: Placement
    batch_size: int
    chunk_steps: int  # steps whose batches are read together
    order_of_slot: np.ndarray  # (slots,): the number of the order of the examples, the same for members with one seed
    num_ranks: int
    num_orders: int  # the largest number of orders in the slots of a shard in a rank
    ranks_at_once: int = 1  # the largest number of ranks that share a reading

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch."""
        return len(self.rows) // self.batch_size

    @property
    def num_slots(self) -> int:
        """Members, and slots that pad them."""
        return len(self.order_of_slot)

    @property
    def sharding(self) -> NamedSharding:
        """Sharding of arrays with a leading axis of slots."""
        return NamedSharding(self.placement.mesh, P(MEMBERS))

    def slots(self, rank: int) -> np.ndarray:
        """Returns the slots of a rank, those of one shard after those of another."""
        by_shard = np.arange(self.num_slots).reshape(self.placement.num_shards, self.num_ranks, -1)
        return by_shard[:, rank].ravel()


class Programs(NamedTuple):
    """The compiled programs of an epoch. Arrays of members have a leading axis of slots, of all ranks or of one."""

    take_inputs: Callable[..., tuple[RunKeys, Hyperparams]]  # (inputs of all slots, rank) -> inputs of the rank
    make_carry: Compiled  # () -> a carry of zeros
    begin: Compiled  # (members, any carry, which is overwritten; rank) -> carry of the rank before its first step
    make_order: Compiled  # (keys of all orders, order, epoch) -> indices of the examples of every step
    run_chunk: Compiled  # see `_make_run_chunk`
    end_epoch: Compiled  # see `_make_end_epoch`
    is_finite: Compiled  # carry of one member -> True if everything in it is finite


def _each_member(function: Callable[..., Tree], stream: Stream) -> Callable[..., Tree]:
    """Returns the function of the slots of a rank on one device that calls a function of one member, as `over_members`."""
    if stream.placement.strategy == "vmap":
        return jax.vmap(function)

    def one(*arguments: object) -> Tree:
        result = function(*jax.tree.map(lambda leaf: leaf[0], arguments))
        return jax.tree.map(lambda leaf: leaf[None], result)

    return one


def _on_shards(function: Callable[..., Tree], stream: Stream, num_sharded: int, num_shared: int) -> Callable[..., Tree]:
    """Runs a function on each shard. Its first arguments and its results have a leading axis of slots, the other ones not."""
    return jax.shard_map(
        function,
        mesh=stream.placement.mesh,
        in_specs=(*[P(MEMBERS)] * num_sharded, *[P()] * num_shared),
        out_specs=P(MEMBERS),
        axis_names={MEMBERS},  # the axis data stays the compiler's
        check_vma=False,
    )


def _take_rank(tree: Tree, rank: Array, stream: Stream) -> Tree:
    size = stream.placement.chunk
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, rank * size, size), tree)


def compile_programs(job: Job, stream: Stream, members: MemberState, inputs: tuple[RunKeys, Hyperparams]) -> Programs:
    """Compiles all programs before the clock starts, and by hand, so that nothing can compile a second time unnoticed.

    Args:
      job: what is trained.
      stream: the data and the layout of the members.
      members: stacked states of all slots, on the devices.
      inputs: keys and hyperparameters of all slots, on the devices.
    """
    rows, batch_size, placement = stream.rows, stream.batch_size, stream.placement
    zero, num_here = np.int32(0), placement.num_shards * placement.chunk
    take_inputs = jax.jit(_on_shards(lambda tree, rank: _take_rank(tree, rank, stream), stream, 1, 1))
    one_keys, one_hyperparams = jax.eval_shape(lambda tree: jax.tree.map(lambda leaf: leaf[0], tree), inputs)
    one_state = jax.eval_shape(lambda tree: jax.tree.map(lambda leaf: leaf[0], tree), members.state)
    batch = batch_shapes(rows, batch_size)
    metrics = jax.eval_shape(job.train_step, one_state, one_keys.step, batch, one_hyperparams)[1]

    def begin(members: MemberState, carry: Carry, rank: Array) -> Carry:
        return _take_rank(members.state, rank, stream), jax.tree.map(jnp.zeros_like, carry[1])

    def make_carry() -> Carry:
        record = empty_record(metrics, stream.epoch_steps)
        zeros = lambda leaf: jnp.zeros((num_here, *leaf.shape), leaf.dtype)  # noqa: E731
        return jax.tree.map(zeros, (one_state, record))

    make_carry_program = jax.jit(make_carry, out_shardings=stream.sharding).lower().compile()
    carry, rank_inputs = make_carry_program(), take_inputs(inputs, zero)
    # The carry that is overwritten has no other use in it.
    begin_program = jax.jit(_on_shards(begin, stream, 2, 1), donate_argnums=1, keep_unused=True)
    is_active, rows_in_item = placement.put(np.ones(num_here, bool)), placement.put(np.zeros(num_here, np.int32))

    def item_shape(array: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        shape = (placement.num_shards * stream.num_orders, stream.chunk_steps, batch_size, array.size // batch_size)
        return jax.ShapeDtypeStruct(shape, array.dtype, sharding=stream.sharding)

    item = jax.tree.map(item_shape, batch)
    splits = placement.replicate((job.data.test, job.data.validation))
    run_chunk = jax.jit(_on_shards(_make_run_chunk(job, stream), stream, 6, 1), donate_argnums=0)
    end_epoch = jax.jit(_on_shards(_make_end_epoch(job, stream), stream, 3, 5), donate_argnums=0)
    steps = np.int32(stream.epoch_steps)

    def make_order(keys: RunKeys, order: Array, epoch: Array) -> Array:
        return epoch_order(jax.tree.map(lambda leaf: leaf[order], keys), epoch, len(rows), batch_size)

    order_keys = jax.eval_shape(
        jax.vmap(lambda seed: run_keys(seed, job.options.prng)), np.unique(stream.order_of_slot).astype(np.uint32)
    )
    return Programs(
        take_inputs,
        make_carry_program,
        begin_program.lower(members, carry, zero).compile(),
        jax.jit(make_order).lower(order_keys, zero, zero).compile(),
        run_chunk.lower(carry, *rank_inputs, rows_in_item, is_active, item, (zero, zero, zero)).compile(),
        end_epoch.lower(members, carry, is_active, zero, zero, steps, *splits).compile(),
        jax.jit(lambda carry: all_finite((carry[0].params, carry[1].loss))).lower(carry).compile(),
    )


def _make_run_chunk(job: Job, stream: Stream) -> Callable[..., tuple[Carry, Array]]:
    """Makes the function that makes the steps of an item and tells if all losses are finite.

    Its `numbers` are the epoch, the position of the first step in it, and the number of steps.
    """
    train_step = jax.jit(job.train_step, inline=True)  # traced once, for all its uses
    shapes = batch_shapes(stream.rows, stream.batch_size)

    def run_chunk(
        carry: Carry,
        keys: RunKeys,
        hyperparams: Hyperparams,
        rows_in_item: Array,
        is_active: Array,
        item: Array | Example,
        numbers: tuple[Array, Array, Array],
    ) -> tuple[Carry, Array]:
        epoch, first, num_steps = numbers
        num_steps = jnp.where(jnp.any(is_active), num_steps, 0)  # a shard without members to train has nothing to do

        def one(carry: Carry, keys: RunKeys, hyperparams: Hyperparams, row: Array) -> tuple[Carry, Array]:
            step_keys = make_step_keys(keys, epoch * stream.epoch_steps + first, stream.chunk_steps)

            def get_batch(i: Array) -> Array | Example:
                batch = jax.tree.map(lambda item, like: item[row, i].reshape(like.shape), item, shapes)
                return jax.tree.map(stream.placement.constrain_batch, batch)

            carry = run_steps(train_step, carry, get_batch, step_keys, hyperparams, num_steps, first)
            return carry, all_finite(carry[1].loss)

        return _each_member(one, stream)(carry, keys, hyperparams, rows_in_item)

    return run_chunk


def _make_end_epoch(job: Job, stream: Stream) -> Callable[..., tuple[MemberState, Outcome]]:
    """Makes the function that evaluates the members of a rank and updates them in the states of all slots."""
    end_member_epoch = job.make_epoch_end()

    def end_epoch(
        members: MemberState,
        carry: Carry,
        is_active: Array,
        rank: Array,
        epoch: Array,
        num_steps: Array,
        test: Array,
        validation: Array | None,
    ) -> tuple[MemberState, Outcome]:
        old = _take_rank(members, rank, stream)

        def one(member: MemberState, carry: Carry, is_active: Array) -> tuple[MemberState, Outcome]:
            metrics, good_steps = average_record(*carry, num_steps)
            ended, outcome = end_member_epoch(member, carry[0], metrics, good_steps, epoch, num_steps, test, validation)
            return jax.tree.map(lambda new, old: jnp.where(is_active, new, old), ended, member), outcome

        new, outcome = _each_member(one, stream)(old, carry, is_active)
        start = rank * stream.placement.chunk
        put_back = lambda leaf, value: jax.lax.dynamic_update_slice_in_dim(leaf, value, start, 0)  # noqa: E731
        return jax.tree.map(put_back, members, new), outcome

    return end_epoch
