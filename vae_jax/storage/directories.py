"""The folder that a run or a sweep writes: whether it may be, and that one process alone does."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock

from vae_jax.errors import UserError

_LOCK = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # what a file system without locks says
_UNFINISHED = (".config.json.", ".sweep.json.")  # the first file of a run or a sweep, while it is written


PathLike = str | os.PathLike[str]


def as_path(path: PathLike) -> Path:
    """The folder or file that a user names by a string or a path, with ~ expanded; or a `UserError`."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise UserError(f"expected a path such as 'runs/first', got {type(path).__name__ if path else repr(path)}.")
    return Path(path).expanduser()


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


def refuse_links(out: Path) -> None:
    """Raises `UserError` where a link within `out` leads out of it: nothing is written or removed through one."""
    inside = out.resolve()
    for path in out.rglob("*"):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):
            raise UserError(f"{path}: a link that leads out of the run directory. Put there what it leads to, or remove it.")


@contextlib.contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Makes the folder and holds its lock, which the system lets go when the process ends, however it ends.

    Raises:
      UserError: where another process holds it, or the folder cannot be made or has links that lead out of it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written: {error.strerror}.") from None
    refuse_links(out)
    lock = filelock.FileLock(out / _LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UserError(f"--out {out}: another process is writing there. Wait for its end, or choose another folder.") from None
    except NotImplementedError:  # a file system without locks: as it was before there were any
        yield
        return
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise UserError(f"--out {out}: its {_LOCK} cannot be locked: {error.strerror}. Choose another folder.") from None
        yield
        return
    try:
        yield
    finally:
        lock.release()


def remove(folder: Path) -> None:
    """Removes a folder if it is there, at once: it is never seen half removed."""
    aside = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(aside, ignore_errors=True)  # a process was killed in the next but one line
    with contextlib.suppress(OSError):
        folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
