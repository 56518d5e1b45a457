"""Arrays in the cache folder: what takes long to unpack or to compute from a file is kept as one .npy file."""

import contextlib
import glob
import hashlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vae_jax.data.on_disk import Rows
from vae_jax.data.readers.listing import UNREADABLE
from vae_jax.data.readers.numpy_files import open_npy
from vae_jax.errors import UserError
from vae_jax.storage.atomic import written_file
from vae_jax.storage.cache import cache_dir

_ABANDONED = 60  # seconds after which a file that does not grow has no writer
CACHE_FIX = "Set VAE_JAX_CACHE to a folder with more space."


def cached_file(name: str, files: Sequence[Path], *settings: object) -> Path:
    """Returns the path in the cache folder of an array that is made from files.

    Args:
      name: start of its name.
      files: the files. The path changes with their sizes and with the times of their last changes.
      *settings: everything else that the array depends on.
    """
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(repr((stats, settings)).encode()).hexdigest()
    return cache_dir() / "arrays" / f"{name}-{key[:16]}.npy"


@contextlib.contextmanager
def written_array(path: Path, size: int) -> Iterator[BinaryIO]:
    """Opens a file of the cache folder to be written atomically.

    Args:
      path: the file, from `cached_file`.
      size: the bytes that will be written.

    Raises:
      OSError: a folder that cannot be written, or that has too little space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    if size > (free := shutil.disk_usage(path.parent).free):
        needed = f"{size / 2**30:,.1f} GiB are needed, and {path.parent} has {free / 2**30:,.1f} GiB left"
        raise OSError(needed)
    with written_file(path) as file:
        yield file


def remove_leftovers(path: Path) -> None:
    """Removes the unfinished files of killed processes that were to become `path`.

    A process that is still writing changes its file all the time, so that files count which are unchanged for a minute.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()


def computed_once(cached: Path, compute: Callable[[], np.ndarray], doing: str, stream: bool) -> np.ndarray | Rows:
    """Returns an array from the cache folder, or computes it and writes it there.

    Args:
      cached: the file, from `cached_file`.
      compute: returns the array.
      doing: what is computed, for a message: "resizing 183 cars".
      stream: return `Rows`, which stay on disk. The cache folder then has to be writable.
    """
    if (array := _read(cached, stream)) is not None:
        return array
    if sys.stderr.isatty():
        print(f"{doing}, once ...", file=sys.stderr, flush=True)
    array = compute()
    try:
        with written_array(cached, array.nbytes) as file:
            np.lib.format.write_array(file, array, allow_pickle=False)
    except OSError as error:
        if stream:
            raise UserError(f"{cached.parent}: cannot be written: {error}. {CACHE_FIX}", field="stream") from None
        print(f"note: an array could not be cached in {cached.parent}: {error}", file=sys.stderr)
    return open_npy(cached) if stream else array


def _read(cached: Path, stream: bool) -> np.ndarray | Rows | None:
    try:
        return open_npy(cached) if stream else np.load(cached, allow_pickle=False)
    except (*UNREADABLE, UserError):  # not there yet, or damaged
        return None
