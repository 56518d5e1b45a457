"""Access to JAX's coordination service for processes that each keep their devices to themselves. Uses private parts of JAX.

Reason: the processes of a sweep train different members, so none needs the devices of another. They share JAX's coordination
service, which knows which processes exist, notices one that dies, and offers a key-value store and barriers. JAX has no public
client of this service: `jax.distributed` has only `initialize`, `is_initialized` and `shutdown`. After `initialize`, the
devices of all processes are one machine to the backend and to Orbax, which then writes the arrays of process 0 only. So `join`
takes the client out of JAX's global state and resets the rest before a backend starts.

Measured: `initialize(..., heartbeat_timeout_seconds=...)` is public in JAX 0.10.2 and 0.12.0.1. In both versions the private
`jax._src.distributed.global_state` has the fields `client`, `process_id` and `num_processes`, and the methods of
`CoordinationClient` have the same signatures. tests/system/test_sweep_script.py holds the behavior: two processes write the
same table as one, and the death of either ends the other in one line.

Delete this module when JAX publishes a client of its coordination service, or an argument of `jax.distributed.initialize` that
keeps the devices of each process to itself.
"""

import contextlib
from typing import NamedTuple, Protocol, cast

import jax

_HEARTBEAT_SECONDS = 20  # after which a process that does not answer counts as dead


class CoordinationClient(Protocol):
    """The methods of JAX's private client of the coordination service that sweeps use; times are in milliseconds."""

    def key_value_set(self, key: str, value: str) -> None:
        """Stores a text for all processes."""

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
        """Waits for a text that any process stores."""
        ...

    def wait_at_barrier(self, barrier_id: str, timeout_in_ms: int) -> None:
        """Waits for all processes."""

    def shutdown(self) -> None:
        """Leaves the group once all processes have called it."""


class Membership(NamedTuple):
    """Rank of this process, number of processes, and their coordination service."""

    process_id: int
    num_processes: int
    client: CoordinationClient


def join(coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: float) -> Membership:
    """Joins the processes and detaches this one from the devices of the others. Call it before anything touches a device.

    Args:
      coordinator: HOST:PORT of process 0, or None if JAX can determine all three from the cluster.
      num_processes: in all.
      process_id: of this process, from 0.
      timeout: seconds to wait for the others.

    Raises:
      ValueError, RuntimeError, TypeError: from `jax.distributed.initialize`.
    """
    with contextlib.suppress(AttributeError):
        # Otherwise JAX handles SIGTERM itself, and this process would not react to it.
        jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        initialization_timeout=max(1, int(timeout)),
        heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
    )
    from jax._src import distributed

    state = distributed.global_state
    membership = Membership(state.process_id, state.num_processes, cast(CoordinationClient, state.client))
    state.client, state.process_id, state.num_processes = None, 0, 1
    return membership
