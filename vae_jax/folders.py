"""The folder that a run or a sweep writes: whether it may be, and that one process alone does."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock

from vae_jax.errors import UserError

_LOCK = ".lock"
_UNFINISHED = (".config.json.", ".sweep.json.")  # the first file of a run or a sweep, while it is written


def is_fresh(out: Path) -> bool:
    """Whether nothing is in `out` yet: it is missing, empty, or a process was killed while it wrote the first file."""
    return not out.exists() or (
        out.is_dir() and all(path.name == _LOCK or path.name.startswith(_UNFINISHED) for path in out.iterdir())
    )


def check_out(out: Path, resume: bool, read: Callable[[Path], Any], what: str = "to go on with it") -> None:
    """Raises `UserError` unless `out` may be written, before anything else is done; `read` reads what is to be resumed."""
    try:
        fresh = is_fresh(out)
        above = next(folder for folder in out.absolute().parents if folder.exists())
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}.") from None
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"--out {out}: cannot be written: {above} is not a folder that you may write to.")
    if fresh:
        return
    if resume:
        read(out)
    else:
        raise UserError(f"--out {out}: exists and is not empty. Add --resume {what}, or choose another folder.")


@contextlib.contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Makes the folder and holds its lock, which the system lets go when the process ends, however it ends.

    Raises:
      UserError: where another process holds it, or the folder cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}.") from None
    lock = filelock.FileLock(out / _LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"--out {out}: another process is writing there. Wait for its end, or choose another folder.") from None
    except (OSError, NotImplementedError):  # a file system without locks: as it was before there were any
        yield
        return
    try:
        yield
    finally:
        lock.release()
