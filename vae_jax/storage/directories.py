"""Output directories of runs and sweeps: validation before anything is written, and an exclusive lock while writing."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from vae_jax.errors import UserError

_LOCK = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # raised by file systems without locks
_UNFINISHED = (".config.json.", ".sweep.json.")  # the first file of a run or a sweep, while it is written


PathLike = str | os.PathLike[str]


def as_path(path: PathLike) -> Path:
    """Returns a user's string or path as a `Path` with ~ expanded; raises `UserError` for anything else."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise UserError(expected="a path such as 'runs/first'", got=type(path).__name__ if path else repr(path))
    return Path(path).expanduser()


def is_fresh(out: Path) -> bool:
    """Returns True for a directory that is missing, empty, or was left by a process killed while writing its first file."""
    return not out.exists() or (
        out.is_dir() and all(path.name == _LOCK or path.name.startswith(_UNFINISHED) for path in out.iterdir())
    )


def check_out(out: Path, resume: bool, read: Callable[[Path], object], purpose: str = "to continue it") -> None:
    """Raises `UserError` unless the directory `out` may be written.

    Args:
      out: the directory.
      resume: allow a directory that is not empty, if `read` can read it.
      read: reads the directory that is to be resumed; raises `UserError` if it is not such a directory.
      purpose: what `resume=True` is for, for the error message.
    """
    try:
        fresh = is_fresh(out)
        above = next(folder for folder in out.absolute().parents if folder.exists())
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}.", field="out") from None
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"{out} cannot be written: {above} is not a folder that you may write to.", field="out")
    if fresh:
        return
    if resume:
        read(out)
    else:
        fix = f"Add `resume=True` {purpose}, or choose a different folder."
        raise UserError(f"{out} exists and is not empty.", field="out", fix=fix)


def refuse_links(out: Path) -> None:
    """Raises `UserError` if a link within `out` leads out of it, so that nothing is written or removed through a link."""
    inside = out.resolve()
    for path in out.rglob("*"):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):
            raise UserError(
                f"{path}: a link that leads out of the run directory.", fix="Replace it by its target, or remove it."
            )


@contextlib.contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Creates the directory and holds its lock, which the operating system releases however the process ends.

    Raises:
      UserError: another process holds the lock, or the directory cannot be created or has links that lead out of it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}.", field="out") from None
    refuse_links(out)
    lock = filelock.FileLock(out / _LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        message = f"another process is writing to {out}."
        raise UserError(message, field="out", fix="Wait until it has ended, or choose a different folder.") from None
    except NotImplementedError:  # this file system has no locks, so several writers are not noticed
        yield
        return
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            message = f"{out / _LOCK} cannot be locked: {error.strerror}."
            raise UserError(message, field="out", fix="Choose a different folder.") from None
        yield
        return
    try:
        yield
    finally:
        lock.release()


def remove(folder: Path) -> None:
    """Removes a folder if it exists. It is renamed first, so it is never visible half removed."""
    renamed = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(renamed, ignore_errors=True)  # left by a process that was killed before the last line
    with contextlib.suppress(OSError):
        folder.rename(renamed)
    shutil.rmtree(renamed, ignore_errors=True)
