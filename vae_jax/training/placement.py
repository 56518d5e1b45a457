"""Where the members of a sweep run: one after another or side by side on each device, spread over a mesh of devices."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vae_jax.errors import UserError

MEMBERS, DATA = "members", "data"  # the axes of the mesh


class Placement(NamedTuple):
    """How the members of one program are laid out."""

    strategy: Literal["map", "vmap"]  # on each device: one after another, or `chunk` at once
    chunk: int
    mesh: Mesh  # axes (members, data), of this process's own devices
    why: str
    chunk_is_free: bool = False  # it may be made smaller to fit into memory

    @property
    def num_shards(self) -> int:
        """Devices (or groups of devices that share a batch) that the members are spread over."""
        return self.mesh.shape[MEMBERS]

    def padded(self, num_members: int) -> int:
        """The number of lanes: members, filled up to whole chunks on every device."""
        multiple = self.num_shards * self.chunk
        return -(-num_members // multiple) * multiple

    def smaller(self, program: Any) -> "Placement | None":
        """Half the chunk, where the compiled program would not fit into the device's memory; None where it does."""
        stats, use = self.mesh.devices.flat[0].memory_stats(), program.memory_analysis()
        if not (stats and use and self.chunk_is_free and self.chunk > 1):
            return None
        needed = use.argument_size_in_bytes + use.output_size_in_bytes + use.temp_size_in_bytes - use.alias_size_in_bytes
        limit = stats.get("bytes_limit", 0)
        if not limit or needed <= 0.9 * limit:
            return None
        chunk = -(-self.chunk // 2)
        words = f"{chunk} at once, because {self.chunk} would need {needed / 1e9:.1f} of {limit / 1e9:.1f} GB"
        return self._replace(chunk=chunk, why=self.why.replace(f"{self.chunk} at once", words))

    def put(self, tree: Any) -> Any:
        """Puts arrays with a leading axis of lanes onto the devices."""
        return jax.device_put(tree, NamedSharding(self.mesh, P(MEMBERS)))

    def replicate(self, tree: Any) -> Any:
        """Puts a copy of the arrays onto every device."""
        return jax.device_put(tree, NamedSharding(self.mesh, P()))

    def constrain_batch(self, batch: Array) -> Array:
        """Spreads a batch over the devices of the axis `data`; the compiler splits the step and adds the reductions."""
        return jax.lax.with_sharding_constraint(batch, P(DATA)) if self.mesh.shape[DATA] > 1 else batch


def place(
    num_members: int,
    strategy: str = "auto",
    *,
    chunk: int | None = None,
    data_parallel: int = 1,
    devices: Sequence[Any] | None = None,
) -> Placement:
    """Chooses the layout, and says why.

    Args:
      num_members: of the program.
      strategy: "map": one member after another on each device, each bit for bit the run that it would be alone. "vmap": members
        side by side, as batched matrix products; equal up to rounding. "auto": map on CPU, where batched products are slower,
        vmap elsewhere.
      chunk: members at once on each device under vmap; all by default.
      data_parallel: devices that share each batch.
      devices: of this process; all of them by default.

    Raises:
      UserError: an unknown strategy, a chunk without vmap, or a data_parallel that does not divide the devices.
    """
    devices = list(jax.local_devices() if devices is None else devices)
    if num_members < 1:
        raise UserError("expected at least one member, got none.")
    if strategy not in ("auto", "map", "vmap"):
        raise UserError(f"--strategy: expected auto, map or vmap, got {strategy}.")
    if data_parallel < 1 or len(devices) % data_parallel:
        raise UserError(f"--data-parallel: expected a divisor of the {len(devices)} devices here, got {data_parallel}.")
    shards = min(len(devices) // data_parallel, num_members)
    mesh = Mesh(
        np.array(devices[: shards * data_parallel]).reshape(shards, data_parallel),
        (MEMBERS, DATA),
        axis_types=(AxisType.Auto, AxisType.Auto),
    )
    on_cpu = devices[0].platform == "cpu"
    chosen: Literal["map", "vmap"] = "map" if strategy == "map" or (strategy == "auto" and on_cpu) else "vmap"
    if chunk is not None and (chunk < 1 or (chosen == "map" and chunk != 1)):
        expected = "a whole number >= 1" if chosen == "vmap" else f"--strategy vmap with it ({strategy} means map here)"
        raise UserError(f"--chunk: expected {expected}, got {chunk}.")
    free = chosen == "vmap" and chunk is None
    per_shard = -(-num_members // shards)
    chunk = 1 if chosen == "map" else min(chunk or per_shard, per_shard)
    where = f"{shards} {devices[0].platform} device{'s' if shards > 1 else ''}"
    if data_parallel > 1:
        where += f" times {data_parallel} that share each batch"
    reason = {
        "auto": "batched matrix products are slower on CPU" if on_cpu else "batched matrix products fill an accelerator",
        chosen: "as asked",
    }[strategy]
    how = "one after another" if chosen == "map" else f"{chunk} at once"
    return Placement(chosen, chunk, mesh, f"{chosen}: {how} on {where}; {reason}", free)


def over_members(function: Callable[..., tuple[Any, Any]], placement: Placement) -> Callable[..., tuple[Any, Any]]:
    """A function of one member made one of all lanes, a single program for every device of the mesh.

    Args:
      function: (lane, member, *shared) -> (lane, outcome): what a member changes, what it is given, what all are given.
      placement: from `place`.

    Returns:
      (lanes, members, active, *shared) -> (lanes, outcomes); the first three and the results have a leading axis of lanes.
      Lanes that are not active keep what they have, bit for bit, and their outcomes mean nothing; under map they cost nothing.
      Jit it, with the lanes donated: they are updated in place, one chunk at a time.
    """

    def local(lanes: Any, members: Any, active: Array, *shared: Any) -> tuple[Any, Any]:
        chunk, side_by_side = placement.chunk, placement.strategy == "vmap"
        run = jax.vmap(function, in_axes=(0, 0, *[None] * len(shared))) if side_by_side else function
        run = jax.jit(run, inline=True)  # traced once, for the shapes of its outcome and for the program

        def of_chunk(lanes: Any, i: Array) -> tuple[Any, Any]:
            def take(leaf: Array) -> Array:
                if side_by_side:
                    return jax.lax.dynamic_slice_in_dim(leaf, i * chunk, chunk)
                return jax.lax.dynamic_index_in_dim(leaf, i, keepdims=False)

            def give(leaf: Array, value: Array) -> Array:
                if side_by_side:
                    return jax.lax.dynamic_update_slice_in_dim(leaf, value, i * chunk, 0)
                return jax.lax.dynamic_update_index_in_dim(leaf, value, i, 0)

            old, member, on = jax.tree.map(take, (lanes, members, active))
            nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(run, old, member, *shared)[1])
            new, outcome = jax.lax.cond(jnp.any(on), lambda: run(old, member, *shared), lambda: (old, nothing))
            if side_by_side:
                new = jax.tree.map(lambda n, o: jnp.where(on.reshape(-1, *[1] * (n.ndim - 1)), n, o), new, old)
            return jax.tree.map(give, lanes, new), outcome

        lanes, outcomes = jax.lax.scan(of_chunk, lanes, jnp.arange(active.shape[0] // chunk))
        if side_by_side:
            outcomes = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), outcomes)
        return lanes, outcomes

    def sharded(lanes: Any, members: Any, active: Array, *shared: Any) -> tuple[Any, Any]:
        return jax.shard_map(
            local,
            mesh=placement.mesh,
            in_specs=(P(MEMBERS), P(MEMBERS), P(MEMBERS), *[P()] * len(shared)),
            out_specs=P(MEMBERS),
            axis_names={MEMBERS},  # the axis data stays the compiler's
            check_vma=False,
        )(lanes, members, active, *shared)

    return sharded
