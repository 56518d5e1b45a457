"""Several processes on one or many machines, through JAX's own runtime: who is who, agreement, waiting for each other."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from vae_jax.errors import UserError

_HEARTBEAT_SECONDS = 20  # after which a process that does not answer counts as dead


class Processes(NamedTuple):
    """One process among all; each works on members of its own, with its own devices."""

    rank: int = 0
    size: int = 1
    timeout: float = 60.0
    client: Any = None  # of JAX's coordination service: a key-value store and barriers

    def agree(self, name: str, mine: str, what: str) -> None:
        """Raises `UserError`, in every process, unless all of them bring the same JSON."""
        if self.size == 1:
            return
        self.client.key_value_set(f"vae_jax/{name}/{self.rank}", mine)
        texts = [self._get(f"{name}/{other}") for other in range(self.size)]
        self.wait(f"{name}/read")
        if different := [other for other in range(self.size) if texts[other] != texts[0]]:
            difference = _first_difference(texts[0], texts[different[0]])
            raise UserError(
                f"process {different[0]} has another {what} than process 0 ({difference}). Start all with the same command, "
                "data and versions."
            )

    def tell(self, name: str, text: str) -> str:
        """What process 0 says, in every process."""
        if self.size == 1:
            return text
        if self.rank == 0:
            self.client.key_value_set(f"vae_jax/{name}", text)
        return self._get(name)

    def _get(self, name: str) -> str:
        try:
            return self.client.blocking_key_value_get(f"vae_jax/{name}", int(1000 * self.timeout))
        except Exception:
            raise UserError(
                f"another process did not come to the same point ({name}) within {self.timeout:g} s: look at what it printed."
            ) from None

    def wait(self, name: str, timeout: float | None = None) -> None:
        """Waits for all processes; those that died meanwhile are noticed by JAX, which ends this process."""
        if self.size > 1:
            self.client.wait_at_barrier(f"vae_jax/{name}", int(1000 * (timeout or self.timeout)))

    def leave(self) -> None:
        """Waits until all have ended, then leaves the group; what process 0 still does, it does alone."""
        if self.size > 1:
            self.wait("ended", timeout=30 * 24 * 3600)
            self.client.shutdown()

    def check_devices(self) -> None:
        """Raises `UserError` where the devices of all processes are one machine to JAX."""
        if jax.process_count() > 1:
            raise UserError(
                "the devices of all hosts are one machine here, as on a TPU slice. Give each process its own: set "
                "TPU_PROCESS_BOUNDS=1,1,1 and TPU_CHIPS_PER_PROCESS_BOUNDS (2,2,1 for four chips) before it starts."
            )


def _first_difference(one: str, other: str) -> str:
    first, second = (dict(_leaves(json.loads(text))) for text in (one, other))
    name = next(name for name in {**first, **second} if first.get(name) != second.get(name))
    return f"{name}: {second.get(name)}, not {first.get(name)}"


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of everything in a tree of JSON."""
    if isinstance(tree, dict | list):
        for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _leaves(value, f"{path}.{name}" if path else str(name))
    else:
        yield path, tree


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: float) -> Processes:
    """Joins the processes of a sweep; call it before anything touches a device.

    Args:
      coordinator: host:port of process 0; found by JAX under SLURM, Open MPI, Kubernetes and on TPU slices if left out.
      num_processes, process_id: likewise.
      timeout: seconds to wait for the others.

    Raises:
      UserError: an address that is none, a coordinator that does not answer in time, a process id out of range.
    """
    for name, value, low in (("num-processes", num_processes, 1), ("process-id", process_id, 0)):
        if value is not None and value < low:
            raise UserError(f"--{name}: expected a whole number >= {low}, got {value}.")
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise UserError(f"--coordinator: expected HOST:PORT, such as 10.0.0.1:12345, got {coordinator}.")
        if num_processes is not None and process_id is not None and process_id >= num_processes:
            raise UserError(f"--process-id: expected a number below --num-processes {num_processes}, got {process_id}.")
        if process_id is not None and process_id > 0:
            _wait_for_port(coordinator, host, int(port), timeout)
        elif process_id == 0:
            _check_free(coordinator, int(port))
    with contextlib.suppress(AttributeError):
        # Otherwise JAX takes SIGTERM for itself, and this process would not answer it.
        jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=max(1, int(timeout)),
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--coordinator, --num-processes, --process-id: the processes could not be joined: {reason}") from None
    from jax._src import distributed

    state = distributed.global_state
    processes = Processes(state.process_id, state.num_processes, timeout, state.client)
    # No process needs another's devices. So each is alone to the backend, and to Orbax, which would otherwise write the arrays
    # of process 0 only; what stays is the service that knows who is there and notices who is not.
    state.client, state.process_id, state.num_processes = None, 0, 1
    return processes


def _wait_for_port(coordinator: str, host: str, port: int, timeout: float) -> None:
    """Raises `UserError` when nothing listens there in time; JAX itself would abort the process."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.1, min(5.0, deadline - time.monotonic()))).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"--coordinator {coordinator}: not reached within {timeout:g} s ({error.strerror or error}). Is process 0 "
                    "running, and is this its address? --coordinator-timeout waits longer."
                ) from None
        time.sleep(0.2)


def _check_free(coordinator: str, port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
    except OSError as error:
        raise UserError(f"--coordinator {coordinator}: port {port} cannot be used here: {error.strerror}.") from None
