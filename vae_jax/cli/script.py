"""Runs the main function of a process: bad input becomes one line and an exit status, without a traceback."""

import contextlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn, TextIO

from vae_jax.cli.messages import note, render, with_options
from vae_jax.errors import DataWarning, DivergenceWarning, UserError


def stop_at_once(number: int, frame: FrameType | None) -> None:
    """Ends the process on Ctrl-C while nothing has to be saved; libraries that are being imported must not answer it."""
    print("\ninterrupted", file=sys.stderr, flush=True)
    os._exit(128 + number)


def run_script(main: Callable[[], int | None], *, ends_process: bool = True) -> NoReturn:
    """Calls `main` and exits with the status that it returns; status 2 for bad input, 1 for other errors that are expected.

    Args:
      main: takes no arguments and returns the exit status, or None for 0.
      ends_process: the process has nothing else to do. False in tests, which call several commands in one process: Ctrl-C is
        left alone then, and `SystemExit` is raised in all cases.
    """
    if ends_process:
        signal.signal(signal.SIGINT, stop_at_once)
    _prepare_streams()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # hides XLA's remarks; its errors stay
    sys.unraisablehook = _unraisable
    warnings.simplefilter("ignore", DivergenceWarning)  # every command reports divergence in a line
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # Orbax's reads of a damaged checkpoint, which are reported anyway
    try:
        with _data_notes():
            status = main()
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {render(error)}", file=sys.stderr)
        status = 2
    except BrokenPipeError:  # the reader of our output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except OSError as error:  # a full disk, a folder that may not be written
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"error: {with_options(' '.join(text.split()))}", file=sys.stderr)
        if ends_process:  # Orbax's threads, which wait for what cannot be written, must not hold the process
            sys.stdout.flush()
            os._exit(1)
        status = 1
    except Exception as error:
        line = _machine_error(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        status = 1
    sys.exit(status or 0)


def _prepare_streams() -> None:
    """Makes stdout and stderr usable where the parent process closed them, and for terminals that have no β."""
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        with contextlib.suppress(AttributeError, OSError):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Reports an exception in a finalizer, except those of the writers of a failed checkpoint, which is itself reported."""
    if "Event loop is closed" not in str(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)


@contextlib.contextmanager
def _data_notes() -> Iterator[None]:
    """Prints each warning about data once, as a line on stderr."""
    shown, show = set[str](), warnings.showwarning

    def show_note(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, DataWarning):
            show(message, category, filename, lineno, file, line)
        elif str(message) not in shown:
            shown.add(str(message))
            note(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", DataWarning)
        warnings.showwarning = show_note
        yield


def _machine_error(error: Exception) -> str | None:
    """Returns the line about an error that lies in this machine: its memory, its accelerator. None for all other errors."""
    text = " ".join(str(error).split())[:160]
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text:
        return f"out of memory: {text.rstrip('.')}. Use smaller networks or batches."
    if "Unable to initialize backend" in text or "Unknown backend" in text:
        return f"JAX_PLATFORMS: {text}"
    return None
