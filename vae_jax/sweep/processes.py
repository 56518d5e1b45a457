"""The processes of a sweep on one or several machines: their ranks, agreement on the configuration, and barriers."""

import json
import socket
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax

from vae_jax.errors import UserError
from vae_jax.sweep import distributed_runtime
from vae_jax.sweep.distributed_runtime import CoordinationClient


class Processes(NamedTuple):
    """One process among all. Each trains its share of the members on its devices."""

    rank: int = 0
    size: int = 1
    timeout: float = 60.0  # seconds to wait for the others
    client: CoordinationClient | None = None  # None for a single process

    def agree(self, name: str, content: str, subject: str) -> None:
        """Raises `UserError` in every process unless all of them have the same content.

        Args:
          name: key of the exchange, used once.
          content: JSON.
          subject: noun for the content, for the error message.
        """
        if self.client is None:
            return
        self.client.key_value_set(f"vae_jax/{name}/{self.rank}", content)
        texts = [self._get(f"{name}/{other}") for other in range(self.size)]
        self.wait(f"{name}/read")
        if different := [other for other in range(self.size) if texts[other] != texts[0]]:
            difference = _first_difference(texts[0], texts[different[0]])
            raise UserError(
                f"process {different[0]} has a different {subject} from process 0 ({difference}).",
                fix="Start all processes with the same command, data and versions.",
            )

    def broadcast(self, name: str, text: str) -> str:
        """Returns the text of process 0 in every process."""
        if self.client is None:
            return text
        if self.rank == 0:
            self.client.key_value_set(f"vae_jax/{name}", text)
        return self._get(name)

    def _get(self, name: str) -> str:
        assert self.client is not None
        try:
            return self.client.blocking_key_value_get(f"vae_jax/{name}", int(1000 * self.timeout))
        except Exception:
            raise UserError(
                f"a different process did not come to the same point ({name}) within {self.timeout:g} s.",
                fix="Look at the output of the other processes.",
            ) from None

    def wait(self, name: str, timeout: float | None = None) -> None:
        """Waits for all processes. If one dies in the meantime, JAX notices it and ends this process."""
        if self.client is not None:
            self.client.wait_at_barrier(f"vae_jax/{name}", int(1000 * (timeout or self.timeout)))

    def leave(self) -> None:
        """Waits until all processes have ended, then leaves the group. Process 0 works alone afterwards."""
        if self.client is not None:
            self.wait("ended", timeout=30 * 24 * 3600)
            self.client.shutdown()

    def check_devices(self) -> None:
        """Raises `UserError` if the devices of all processes are one machine to JAX."""
        if jax.process_count() > 1:
            raise UserError(
                "the devices of all hosts are one machine here, as on a TPU slice.",
                fix="Give each process its devices: set TPU_PROCESS_BOUNDS=1,1,1 and TPU_CHIPS_PER_PROCESS_BOUNDS (2,2,1 for "
                "four chips) before it starts.",
            )


def _first_difference(one: str, other: str) -> str:
    first, second = (dict(_leaves(json.loads(text))) for text in (one, other))
    name = next(name for name in {**first, **second} if first.get(name) != second.get(name))
    return f"{name}: {second.get(name)}, not {first.get(name)}"


def _leaves(tree: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yields (path, value) for every leaf of a tree of JSON."""
    if isinstance(tree, dict | list):
        for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _leaves(value, f"{path}.{name}" if path else str(name))
    else:
        yield path, tree


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None, timeout: float) -> Processes:
    """Joins the processes of a sweep. Call it before anything touches a device.

    Args:
      coordinator: HOST:PORT of process 0. JAX determines it under SLURM, Open MPI, Kubernetes and on TPU slices if it is None.
      num_processes: number of processes, >= 1; likewise.
      process_id: number of this process from 0; likewise.
      timeout: seconds to wait for the others.

    Raises:
      UserError: the address is invalid, the coordinator does not answer in time, or the process id is out of range.
    """
    for name, value, low in (("num_processes", num_processes, 1), ("process_id", process_id, 0)):
        if value is not None and value < low:
            raise UserError(field=name, expected=f"a whole number >= {low}", got=value)
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise UserError(field="coordinator", expected="HOST:PORT, such as 10.0.0.1:12345", got=coordinator)
        if num_processes is not None and process_id is not None and process_id >= num_processes:
            raise UserError(field="process_id", expected=f"a number below `num_processes={num_processes}`", got=process_id)
        if process_id is not None and process_id > 0:
            _wait_for_port(coordinator, host, int(port), timeout)
        elif process_id == 0:
            _check_free(coordinator, int(port))
    try:
        membership = distributed_runtime.join(coordinator, num_processes, process_id, timeout)
    except (ValueError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the processes could not be joined by `coordinator`, `num_processes` and `process_id`: {reason}"
        ) from None
    client = membership.client if membership.num_processes > 1 else None
    return Processes(membership.process_id, membership.num_processes, timeout, client)


def _wait_for_port(coordinator: str, host: str, port: int, timeout: float) -> None:
    """Raises `UserError` if nothing listens there in time. JAX would abort the process."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.1, min(5.0, deadline - time.monotonic()))).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                message = f"{coordinator} was not reached within {timeout:g} s ({error.strerror or error})."
                fix = "Check that process 0 is running at this address. A larger `coordinator_timeout` waits longer."
                raise UserError(message, field="coordinator", fix=fix) from None
        time.sleep(0.2)


def _check_free(coordinator: str, port: int) -> None:
    """Raises `UserError` if this process cannot listen on the port."""
    try:
        with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
    except OSError as error:
        message = f"{coordinator}: port {port} cannot be used here: {error.strerror}."
        raise UserError(message, field="coordinator") from None
