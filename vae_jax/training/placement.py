"""The layout of a sweep's members: sequential or batched on each device, spread over a mesh of devices."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vae_jax.errors import UserError

MEMBERS, DATA = "members", "data"  # axes of the mesh
_MEMORY_SHARE = 0.9  # share of a device's memory that a program may fill

Tree = TypeVar("Tree")
State = TypeVar("State")
Outcome = TypeVar("Outcome")


class Placement(NamedTuple):
    """Layout of the members of one program.

    Arrays of all members have a leading axis of slots. Slot i belongs to member i. The slots beyond the last member fill the
    last chunk, or the last device, and are never trained.
    """

    strategy: Literal["map", "vmap"]  # on each device: one member after another, or `chunk` members at once
    chunk: int
    mesh: Mesh  # axes (members, data), over devices of this process
    description: str
    chunk_is_free: bool = False  # the chunk was not set by the user, so it may shrink to fit into memory

    @property
    def num_shards(self) -> int:
        """Devices, or groups of devices that share a batch, over which the members are spread."""
        return self.mesh.shape[MEMBERS]

    def num_slots(self, num_members: int) -> int:
        """Returns the number of members, rounded up to whole chunks on every device."""
        multiple = self.num_shards * self.chunk
        return -(-num_members // multiple) * multiple

    def with_smaller_chunk(self, program: jax.stages.Compiled, other_bytes: int = 0) -> "Placement | None":
        """Returns a layout with half the chunk if the program would not fit into the device's memory, and None if it fits.

        Args:
          program: the compiled program.
          other_bytes: memory of the device that other arrays occupy while it runs.
        """
        stats, use = self.mesh.devices.flat[0].memory_stats(), program.memory_analysis()
        if not (stats and use and self.chunk_is_free and self.chunk > 1):
            return None
        needed = use.argument_size_in_bytes + use.output_size_in_bytes + use.temp_size_in_bytes - use.alias_size_in_bytes
        needed += other_bytes
        limit = stats.get("bytes_limit", 0)
        if not limit or needed <= _MEMORY_SHARE * limit:
            return None
        chunk = -(-self.chunk // 2)
        reason = f"{chunk} at once, because {self.chunk} would need {needed / 1e9:.1f} of {limit / 1e9:.1f} GB"
        return self._replace(chunk=chunk, description=self.description.replace(f"{self.chunk} at once", reason))

    def put(self, tree: Tree) -> Tree:
        """Puts arrays with a leading axis of slots onto the devices."""
        return jax.device_put(tree, NamedSharding(self.mesh, P(MEMBERS)))

    def replicate(self, tree: Tree) -> Tree:
        """Puts a copy of the arrays onto every device."""
        return jax.device_put(tree, NamedSharding(self.mesh, P()))

    def constrain_batch(self, batch: Array) -> Array:
        """Spreads a batch over the devices of the axis `data`. The compiler splits the step and adds the reductions."""
        return jax.lax.with_sharding_constraint(batch, P(DATA)) if self.mesh.shape[DATA] > 1 else batch


def place(
    num_members: int,
    strategy: str = "auto",
    *,
    chunk: int | None = None,
    data_parallel: int = 1,
    devices: Sequence[Any] | None = None,
) -> Placement:
    """Chooses the layout of a program's members.

    Args:
      num_members: members of the program, >= 1.
      strategy: "map" trains one member after another on each device. Each member then has bit for bit the result that it would
        have alone. "vmap" trains the members of a chunk at once with batched matrix products, and results are equal up to
        rounding. "auto" is map on CPU, where batched products are slower, and vmap elsewhere.
      chunk: members at once on each device under vmap. By default all members of the device.
      data_parallel: number of devices that share each batch.
      devices: devices of this process; all of them by default.

    Returns:
      The layout. Its `description` says what was chosen and why.

    Raises:
      UserError: an unknown strategy, a chunk without vmap, or a data_parallel that does not divide the number of devices.
    """
    devices = list(jax.local_devices() if devices is None else devices)
    if num_members < 1:
        raise UserError("expected at least one member, got none.")
    if strategy not in ("auto", "map", "vmap"):
        raise UserError(field="strategy", expected="auto, map or vmap", got=strategy)
    if data_parallel < 1 or len(devices) % data_parallel:
        raise UserError(field="data_parallel", expected=f"a divisor of the {len(devices)} devices here", got=data_parallel)
    shards = min(len(devices) // data_parallel, num_members)
    mesh = Mesh(
        np.array(devices[: shards * data_parallel]).reshape(shards, data_parallel),
        (MEMBERS, DATA),
        axis_types=(AxisType.Auto, AxisType.Auto),
    )
    is_cpu = devices[0].platform == "cpu"
    chosen: Literal["map", "vmap"] = "map" if strategy == "map" or (strategy == "auto" and is_cpu) else "vmap"
    if chunk is not None and (chunk < 1 or (chosen == "map" and chunk != 1)):
        expected = "a whole number >= 1" if chosen == "vmap" else f'`strategy="vmap"` with it ({strategy} means map here)'
        raise UserError(field="chunk", expected=expected, got=chunk)
    chunk_is_free = chosen == "vmap" and chunk is None
    members_per_shard = -(-num_members // shards)
    chunk = 1 if chosen == "map" else min(chunk or members_per_shard, members_per_shard)
    hardware = f"{shards} {devices[0].platform} device{'s' if shards > 1 else ''}"
    if data_parallel > 1:
        hardware += f" times {data_parallel} that share each batch"
    reason = {
        "auto": "batched matrix products are slower on CPU" if is_cpu else "batched matrix products fill an accelerator",
        chosen: "as requested",
    }[strategy]
    grouping = "one after another" if chosen == "map" else f"{chunk} at once"
    return Placement(chosen, chunk, mesh, f"{chosen}: {grouping} on {hardware}; {reason}", chunk_is_free)


def over_members(
    function: Callable[..., tuple[State, Outcome]], placement: Placement, manual: Sequence[str] = (MEMBERS,)
) -> Callable[..., tuple[State, Outcome]]:
    """Turns a function of one member into a function of all members, a single program for every device of the mesh.

    Args:
      function: (state, inputs, *shared) -> (state, outcome). A member changes its state. Its inputs are constant, and `shared`
        is the same for all members.
      placement: from `place`.
      manual: axes of the mesh that the compiler does not see. A function that calls the host needs all of them.

    Returns:
      (states, inputs, active, *shared) -> (states, outcomes). The first three arguments and the results have a leading axis of
      slots. A member that is not active keeps its state bit for bit. Its outcome is meaningless. Under map it costs no time.
      Jit the function with the states donated: they are updated in place, one chunk at a time.
    """

    def local(states: State, inputs: object, active: Array, *shared: object) -> tuple[State, Outcome]:
        chunk, is_batched = placement.chunk, placement.strategy == "vmap"
        run = jax.vmap(function, in_axes=(0, 0, *[None] * len(shared))) if is_batched else function
        run = jax.jit(run, inline=True)  # traced once, for the shapes of its outcome and for the program

        def run_chunk(states: State, i: Array) -> tuple[State, Outcome]:
            def take(leaf: Array) -> Array:
                if is_batched:
                    return jax.lax.dynamic_slice_in_dim(leaf, i * chunk, chunk)
                return jax.lax.dynamic_index_in_dim(leaf, i, keepdims=False)

            def put_back(leaf: Array, value: Array) -> Array:
                if is_batched:
                    return jax.lax.dynamic_update_slice_in_dim(leaf, value, i * chunk, 0)
                return jax.lax.dynamic_update_index_in_dim(leaf, value, i, 0)

            old, given, is_active = jax.tree.map(take, (states, inputs, active))
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(run, old, given, *shared)[1])
            new, outcome = jax.lax.cond(jnp.any(is_active), lambda: run(old, given, *shared), lambda: (old, zeros))
            if is_batched:
                new = jax.tree.map(lambda n, o: jnp.where(is_active.reshape(-1, *[1] * (n.ndim - 1)), n, o), new, old)
            return jax.tree.map(put_back, states, new), outcome

        states, outcomes = jax.lax.scan(run_chunk, states, jnp.arange(active.shape[0] // chunk))
        if is_batched:
            outcomes = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), outcomes)
        return states, outcomes

    def sharded(states: State, inputs: object, active: Array, *shared: object) -> tuple[State, Outcome]:
        return jax.shard_map(
            local,
            mesh=placement.mesh,
            in_specs=(P(MEMBERS), P(MEMBERS), P(MEMBERS), *[P()] * len(shared)),
            out_specs=P(MEMBERS),
            axis_names=set(manual),  # the axis data stays the compiler's by default
            check_vma=False,
        )(states, inputs, active, *shared)

    return sharded
