"""The program of `fit_members` for data that stay on disk: an epoch is fed in chunks and can be interrupted between them."""

import contextlib
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from vae_jax.config import Hyperparams
from vae_jax.data import Rows
from vae_jax.data.prefetch import chunks, steps_of_chunk
from vae_jax.example import Example
from vae_jax.training.epoch import MemberState, Outcome, PartialEpoch, RunKeys, run_keys
from vae_jax.training.placement import Placement
from vae_jax.training.program import EpochInterrupted, EpochResult, EpochTask, Job, Program, padded, start_members, wait
from vae_jax.training.streamed_steps import Carry, Programs, Stream, Tree, compile_programs


class _Prepared(NamedTuple):
    """Arrays on the devices, constant but for the carries."""

    inputs: list[tuple[RunKeys, Hyperparams]]  # for each rank
    splits: tuple[Array, Array | None]  # test and validation set, on every device
    order_keys: RunKeys  # one for each order of the examples, on the first device
    spare: list[Carry]  # to be overwritten: memory that is given back and taken again for each member comes apart in pieces


_STATES_AT_ONCE = 2**27  # bytes of states of the members that share a reading, which all exist twice


class _Feed(NamedTuple):
    """Members that train on the same batches, which are read once for them."""

    rows_of_shard: tuple[tuple[int, ...], ...]  # the orders that each shard needs
    orders: tuple[int, ...]  # all of them, each once
    ranks: list[int]


def streaming_program(job: Job, placement: Placement) -> Program:
    """Compiles the program for training images that are `Rows`. Order, keys and steps are those of `in_memory_program`.

    The results of the two are equal up to rounding, because XLA fuses the two programs differently. A resumed run repeats an
    uninterrupted one bit for bit, because both are this program.

    An epoch calls one compiled program for each chunk of a few megabytes, and one for the evaluation at its end. Each chunk is
    read and put on the device while the chunks before it are trained on. The host waits for the chunk before the last, so that
    the device always has one more to work on.

    Several members are trained one after another in each epoch, `placement.chunk` at once on each device. One reader reads the
    batches of each in its order. Members with the same seed share the batches, as far as their states do not take too much
    memory: those of the members in training exist twice. When `on_chunk` interrupts the epoch of several members, some are
    ahead of others, so the program raises `EpochInterrupted`.
    """
    rows, batch_size = job.data.train, job.options.batch_size
    assert job.data.is_on_disk
    stream = _make_stream(rows, batch_size, job.seeds, placement)
    members, prepared, programs = _compile(job, stream)
    while smaller := stream.placement.with_smaller_chunk(programs.run_chunk, _local_bytes(members, stream)):
        stream = _make_stream(rows, batch_size, job.seeds, smaller)
        members, prepared, programs = _compile(job, stream)
    rank_bytes = _local_bytes(members, stream) * stream.placement.num_shards // stream.num_ranks  # CPU devices share memory
    stream = stream._replace(ranks_at_once=max(1, _STATES_AT_ONCE // max(rank_bytes, 1)))
    return Program(members, lambda task: _run_epoch(stream, prepared, programs, task), stream.placement)


def _make_stream(rows: Rows | Example, batch_size: int, seeds: Sequence[int], placement: Placement) -> Stream:
    """Returns the layout of the members and of the chunks that they are fed."""
    order_of_slot = np.unique(padded(np.asarray(seeds, np.uint32), placement.num_slots(len(seeds))), return_inverse=True)[1]
    num_ranks = len(order_of_slot) // (placement.num_shards * placement.chunk)
    at_once = order_of_slot.reshape(placement.num_shards, num_ranks, placement.chunk)
    num_orders = max(len(np.unique(orders)) for shard in at_once for orders in shard)
    steps = steps_of_chunk(rows, batch_size, num_orders)
    return Stream(rows, placement, batch_size, steps, order_of_slot, num_ranks, num_orders)


def _local_bytes(members: MemberState, stream: Stream) -> int:
    """Returns the size of the states of the members on one device."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(members)) // stream.placement.num_shards


def _compile(job: Job, stream: Stream) -> tuple[MemberState, _Prepared, Programs]:
    """Puts everything onto the devices and compiles the programs."""
    placement, prng = stream.placement, job.options.prng
    keys_from_seeds = jax.jit(jax.vmap(lambda seed: run_keys(seed, prng)))
    seeds = np.asarray(job.seeds, np.uint32)
    keys = placement.put(keys_from_seeds(padded(seeds, stream.num_slots)))
    hyperparams = placement.put(padded(job.hyperparams, stream.num_slots))
    members = start_members(job, placement, keys.init)
    programs = compile_programs(job, stream, members, (keys, hyperparams))
    prepared = _Prepared(
        [programs.take_inputs((keys, hyperparams), np.int32(rank)) for rank in range(stream.num_ranks)],
        placement.replicate((job.data.test, job.data.validation)),
        keys_from_seeds(np.unique(seeds)),
        [],
    )
    return members, prepared, programs


def _feeds(stream: Stream, chosen: Sequence[int]) -> list[_Feed]:
    """Returns the feeds of the ranks that have a chosen member, in the order in which they are trained."""
    feeds: dict[tuple[tuple[int, ...], ...], _Feed] = {}
    for rank in range(stream.num_ranks):
        slots = stream.slots(rank).reshape(stream.placement.num_shards, -1)
        used = [stream.order_of_slot[shard][np.isin(shard, chosen)].tolist() for shard in slots]
        rows_of_shard = tuple(tuple(dict.fromkeys(orders)) for orders in used)
        if any(rows_of_shard):
            orders = tuple(dict.fromkeys(order for rows in rows_of_shard for order in rows))
            feeds.setdefault(rows_of_shard, _Feed(rows_of_shard, orders, [])).ranks.append(rank)
    size = stream.ranks_at_once
    return [
        feed._replace(ranks=feed.ranks[first : first + size])
        for feed in feeds.values()
        for first in range(0, len(feed.ranks), size)
    ]


def _put_item(stream: Stream, feed: _Feed, item: np.ndarray | Example) -> Array | Example:
    """Puts the batches of a feed, (orders, ...), onto the devices, (`stream.num_orders` of each shard, ...)."""
    filled = []
    for used in feed.rows_of_shard:
        positions = [feed.orders.index(order) for order in used]
        filled += (positions + [0] * stream.num_orders)[: stream.num_orders]
    is_whole = filled == list(range(len(item)))
    return jax.device_put(item if is_whole else item[np.array(filled)], stream.sharding)


def _rows_in_item(stream: Stream, feed: _Feed, rank: int) -> np.ndarray:
    """Returns, for each slot of a rank, which batches of its shard's part of an item are its own. Slots without one get 0."""
    slots = stream.slots(rank).reshape(stream.placement.num_shards, -1)
    orders = stream.order_of_slot
    rows = [
        [used.index(order) if (order := int(orders[slot])) in used else 0 for slot in shard]
        for shard, used in zip(slots, feed.rows_of_shard, strict=True)
    ]
    return np.array(rows, np.int32).ravel()


class _Epoch:
    """An epoch of the chosen members while it runs."""

    def __init__(self, stream: Stream, prepared: _Prepared, programs: Programs, task: EpochTask):
        self._stream, self._prepared, self._programs, self._task = stream, prepared, programs, task
        self.began = time.perf_counter() - (task.partial.seconds if task.partial else 0.0)
        self.members = self._put(task.members)
        self.first = 0  # steps made by the members that are trained now
        self.carries: dict[int, Carry] = {}  # by their ranks
        self.last_good: tuple[MemberState, PartialEpoch] | None = None
        is_chosen = np.isin(np.arange(stream.num_slots), task.chosen)
        self._is_chosen = {rank: is_chosen[stream.slots(rank)] for rank in range(stream.num_ranks)}
        self._outcomes: Outcome | None = None

    def _put(self, tree: Tree) -> Tree:
        """Puts arrays with a leading axis of slots onto the devices."""
        # A CPU device may use a NumPy array in place, and donated arrays are overwritten, so it gets a copy.
        copies = jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, tree)
        return self._stream.placement.put(copies)

    def run(self) -> Outcome | None:
        """Trains and evaluates the members. Returns the outcomes of all slots, or None if the epoch was interrupted.

        Slots that were not chosen have zeros.
        """
        for feed in _feeds(self._stream, self._task.chosen):
            if self._make_steps(feed):
                return None
            for rank in feed.ranks:
                self._end(rank)
        return self._outcomes

    def _make_steps(self, feed: _Feed) -> bool:
        """Makes the steps of the members of a feed; returns True if they were interrupted."""
        stream, task, programs, prepared = self._stream, self._task, self._programs, self._prepared
        self.first = task.partial.steps if task.partial else 0
        for rank in feed.ranks:
            spare = prepared.spare.pop() if prepared.spare else programs.make_carry()
            self.carries[rank] = programs.begin(self.members, spare, np.int32(rank))
            if task.partial:
                record = self._put(jax.tree.map(lambda leaf: np.asarray(leaf)[None], task.partial.record))
                self.carries[rank] = self.carries[rank][0], record
        epoch = np.int32(task.epoch)
        orders = [np.asarray(programs.make_order(prepared.order_keys, np.int32(order), epoch)) for order in feed.orders]
        rows_in_item, is_active = {}, {}
        for rank in feed.ranks:
            rows_in_item[rank] = stream.placement.put(_rows_in_item(stream, feed, rank))
            is_active[rank] = stream.placement.put(self._is_chosen[rank])
        lost, dispatched = set(), None
        used = [order[self.first : task.num_steps] for order in orders]
        with contextlib.closing(chunks(stream.rows, used, stream.chunk_steps, partial(_put_item, stream, feed))) as items:
            for item in items:
                count = min(stream.chunk_steps, task.num_steps - self.first)
                numbers = epoch, np.int32(self.first), np.int32(count)
                for rank in (rank for rank in feed.ranks if rank not in lost):
                    arguments = (*prepared.inputs[rank], rows_in_item[rank], is_active[rank], item, numbers)
                    self.carries[rank], is_finite = programs.run_chunk(self.carries[rank], *arguments)
                    # This waits for the chunk before this one.
                    if dispatched and not np.any(np.asarray(dispatched[1])[self._is_chosen[dispatched[0]]]):
                        lost.add(dispatched[0])
                    dispatched = rank, is_finite
                self.first += count
                if len(lost) == len(feed.ranks):
                    break  # the rest of the epoch would be discarded
                if self.first < task.num_steps and task.on_chunk(self.first, self.snapshot) and self._can_stop():
                    return True
        return False

    def _can_stop(self) -> bool:
        """Returns True if the epoch can be interrupted now: a single member only where it is finite, because it is kept."""
        return self._stream.num_slots > 1 or self.snapshot() is not None

    def snapshot(self) -> tuple[MemberState, PartialEpoch] | None:
        """Returns copies of the state of a single member on the host; None if it is not finite, or for several members."""
        if self._stream.num_slots > 1 or not self._programs.is_finite(self.carries[0]):
            return None
        state, record, best = jax.tree.map(np.array, (*self.carries[0], self.members.best))  # the next chunk overwrites them
        record = jax.tree.map(lambda leaf: leaf[0], record)
        self.last_good = MemberState(state, best), PartialEpoch(self.first, record, time.perf_counter() - self.began)
        return self.last_good

    def _end(self, rank: int) -> None:
        """Evaluates the members of a rank and keeps their outcomes."""
        stream, task = self._stream, self._task
        numbers = np.int32(rank), np.int32(task.epoch), np.int32(task.num_steps)
        carry = self.carries.pop(rank)
        arguments = (carry, stream.placement.put(self._is_chosen[rank]), *numbers)
        self.members, outcome = self._programs.end_epoch(self.members, *arguments, *self._prepared.splits)
        wait(outcome)
        self._prepared.spare.append(carry)
        outcome = jax.device_get(outcome)
        if self._outcomes is None:
            self._outcomes = jax.tree.map(lambda leaf: np.zeros((stream.num_slots, *leaf.shape[1:]), leaf.dtype), outcome)
        for all_slots, leaf in zip(jax.tree.leaves(self._outcomes), jax.tree.leaves(outcome), strict=True):
            all_slots[stream.slots(rank)] = leaf


def _run_epoch(stream: Stream, prepared: _Prepared, programs: Programs, task: EpochTask) -> EpochResult:
    """Trains on the chunks of an epoch and evaluates the members; see `streaming_program`."""
    epoch = _Epoch(stream, prepared, programs, task)
    outcome = epoch.run()
    if outcome is None:
        if epoch.last_good is None:
            raise EpochInterrupted
        return EpochResult(*epoch.last_good, None)
    if int(outcome.good_steps[task.chosen[0]]) == task.num_steps:
        return EpochResult(epoch.members, None, outcome)
    return EpochResult(*(epoch.last_good or (epoch.members, task.partial)), outcome)
