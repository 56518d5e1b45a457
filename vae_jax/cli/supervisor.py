"""Runs a process of a distributed sweep in a child, so that the death of another process ends in one clear line."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from vae_jax.cli.messages import with_options
from vae_jax.cli.script import run_script
from vae_jax.errors import UserError


class _Pipes(NamedTuple):
    """Pairs (read end, write end) between the supervisor and its child."""

    stderr: tuple[int, int]
    joined: tuple[int, int]  # the child writes here once the processes have joined
    life: tuple[int, int]  # closed when the supervisor ends


def supervised(work: Callable[[Callable[[], None]], int], timeout: float) -> int:
    """Runs `work` in a child, because JAX aborts a process with a stack trace when another one of its group dies.

    The abort becomes one line here. Signals are passed on to the child, and it ends with this process. Call this before JAX is
    imported.

    Args:
      work: given a function to call once the processes have joined; returns the exit status.
      timeout: seconds that joining may take, for the message.

    Returns:
      The exit status.
    """
    pipes = _Pipes(os.pipe(), os.pipe(), os.pipe())
    child = os.fork()
    if child == 0:
        _run_child(work, pipes)
    for fd in (pipes.stderr[1], pipes.joined[1], pipes.life[0]):
        os.close(fd)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os.kill(child, number))
    _forward_stderr(pipes.stderr[0])
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    has_joined = os.read(pipes.joined[0], 1) == b"j"
    if code != -signal.SIGABRT:
        return code if code >= 0 else 128 - code
    if not has_joined:
        raise UserError(
            f"the processes did not all join within {timeout:g} s. Start every one of them, with the same `num_processes` and "
            "`coordinator`; `coordinator_timeout` waits longer."
        )
    print(
        with_options(
            "error: another process of the sweep died or cannot be reached any more, so this one stops too. Finished epochs "
            "are saved: start all processes again with `resume=True`."
        ),
        file=sys.stderr,
    )
    return 1


def _run_child(work: Callable[[Callable[[], None]], int], pipes: _Pipes) -> None:
    """Does the work in the child; raises `SystemExit` with status 0 or ends the process."""
    os.setpgid(0, 0)  # Ctrl-C reaches the supervisor, which passes it on once
    os.dup2(pipes.stderr[1], 2)
    for fd in (*pipes.stderr, pipes.joined[0], pipes.life[1]):
        os.close(fd)

    def end_with_supervisor() -> None:
        os.read(pipes.life[0], 1)  # returns when the supervisor has ended
        os._exit(1)

    has_joined = False

    def joined() -> None:
        nonlocal has_joined
        has_joined = True
        os.write(pipes.joined[1], b"j")

    threading.Thread(target=end_with_supervisor, daemon=True).start()
    try:
        run_script(lambda: work(joined), ends_process=False)
    except SystemExit as stop:
        if stop.code:  # at its exit JAX would wait for processes that do not know
            sys.stdout.flush()
            if stop.code == 2 and has_joined and sys.modules["jax"].process_index() == 0:
                time.sleep(3)  # process 0 ends the others, which have the same error to report
            os._exit(stop.code if isinstance(stop.code, int) else 1)
        raise


def _forward_stderr(fd: int) -> None:
    """Copies the child's stderr to ours, without the messages of JAX's runtime, which may extend over several lines."""
    quiet = False
    with os.fdopen(fd, errors="replace") as stderr:
        for line in stderr:
            starts = re.match(r"[EWIF]\d{4} |\*\*\* |(error|note|Traceback|interrupted|finishing|saved)\b", line)
            quiet = not starts[1] if starts else quiet
            if not quiet:
                sys.stderr.write(line)
                sys.stderr.flush()
