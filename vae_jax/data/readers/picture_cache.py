"""Decoded pictures in the cache folder: one .npy file for a state of a folder of pictures and the options of reading it."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_jax.data.readers.listing import UNREADABLE, memory_size
from vae_jax.data.readers.picture_decoding import Change, Changes, Pictures, Plan, decode_all, plan
from vae_jax.errors import UserError
from vae_jax.storage.atomic import naming_path, write_json
from vae_jax.storage.cache import cache_dir

_VERSION = 1  # of the decoder and of the files; a change makes all cached pictures out of date
_MANY = 2_000  # pictures from which on they are cached
_LARGE = 2**26  # bytes from which on they are cached
_IMAGES, _NOTES = "images.npy", "pictures.json"


class Decoded(NamedTuple):
    """Decoded pictures of a folder.

    Attributes:
      images: (pictures, ...); a read-only map of a file in the cache folder, or an array in memory.
      changes: the changes that were made to the pictures.
    """

    images: np.ndarray
    changes: Changes


class _Entry(NamedTuple):
    """Names in the cache folder.

    Attributes:
      folder: the folder of decoded pictures.
      key: stands for the folder of pictures and the options.
      state: stands for the key and for all files, their sizes and times.
    """

    folder: Path
    key: str
    state: str

    @property
    def path(self) -> Path:
        """Folder of the decoded pictures, which appears when it is complete."""
        return self.folder / f"{self.key}-{self.state}"


def decoded(pictures: Pictures, stream: bool) -> Decoded:
    """Returns decoded pictures from the cache folder, or decodes them.

    They are written to the cache folder if they are more than 2,000 or than 64 MiB, and always where they are resized, cut or
    streamed. An entry counts only for files with the same paths, sizes and times. It appears under its name when it is
    complete, and replaces the entry for an earlier state of the same folder.

    Args:
      pictures: the files, and the options of reading them.
      stream: the images stay on disk.

    Raises:
      UserError: a damaged picture, pictures that do not fit together, not enough memory, or, with `stream`, a cache folder that
        cannot be written.
    """
    entry = _entry(pictures)
    if (cached := _read(entry)) is not None:
        if not stream:
            _check_memory(pictures, cached.images.nbytes)
        return cached
    planned = plan(pictures)
    if not stream:
        _check_memory(pictures, planned.num_bytes)
    options = pictures.options
    is_large = len(pictures.files) > _MANY or planned.num_bytes > _LARGE
    if stream or is_large or options.resize is not None or options.crop is not None:
        try:
            return _write_alone(pictures, planned, entry)
        except OSError as error:
            problem = f"the decoded images could not be cached in {entry.folder}: {error}"
            if stream:
                fix = "Choose a different folder by the environment variable VAE_JAX_CACHE, or leave out `stream=True`."
                raise UserError(f"{pictures.folder}: {problem}. {fix}", field="stream") from None
            print(f"note: {problem}", file=sys.stderr)
    images = np.empty(planned.shape, planned.dtype)

    def keep(index: int, pixels: np.ndarray) -> None:
        images[index] = pixels

    return Decoded(images, decode_all(pictures, planned, keep))


def _entry(pictures: Pictures) -> _Entry:
    """Returns the entry for the pictures as they are now."""
    import PIL  # its version alone

    folder, files, options = pictures
    where = os.path.realpath(folder)
    how = [_VERSION, PIL.__version__, options.resize, options.crop, options.transpose]
    key = hashlib.sha256(json.dumps([where, how]).encode()).hexdigest()[:12]
    state = hashlib.sha256(key.encode())
    start = len(str(folder)) + 1
    for file in files:
        try:
            now = os.stat(file)
        except OSError as error:
            raise UserError(f"{file}: not a readable image. {error.strerror}") from None
        # The time of the last change of any kind notices a file that was replaced by one with the same size and time.
        state.update(os.fsencode(f"{str(file)[start:]}\0{now.st_size}\0{now.st_mtime_ns}\0{now.st_ctime_ns}\n"))
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(where).name)[:40]
    return _Entry(cache_dir() / "pictures", f"{name}-{key}", state.hexdigest()[:16])


def _read(entry: _Entry) -> Decoded | None:
    """Returns the decoded pictures of an entry; None where there is none, or a damaged one."""
    try:
        record = json.loads((entry.path / _NOTES).read_text())
        images = np.load(entry.path / _IMAGES, mmap_mode="r", allow_pickle=False)
        changes = {str(name): Change(int(total), str(first)) for name, (total, first) in record["changes"].items()}
        is_whole = list(images.shape) == record["shape"] and str(images.dtype) == record["dtype"]
    except (*UNREADABLE, AttributeError):
        return None
    return Decoded(images, changes) if is_whole else None


def _write_alone(pictures: Pictures, planned: Plan, entry: _Entry) -> Decoded:
    """Decodes pictures into the cache folder, unless another process does so first, whose entry is then read."""
    with naming_path(entry.folder):
        entry.folder.mkdir(parents=True, exist_ok=True)
    with _locked(entry, pictures):
        if (cached := _read(entry)) is not None:
            return cached
        for left in entry.folder.glob(f".{entry.key}.*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        _check_disk(pictures, planned, entry)
        _write(pictures, planned, entry)
        cached = _read(entry)
        if cached is None:
            raise OSError(f"{entry.path} was removed while it was read")
        for other in entry.folder.glob(f"{entry.key}-*"):
            if other != entry.path and other.suffix != ".lock":
                shutil.rmtree(other, ignore_errors=True)  # processes that have mapped its file keep it
        return cached


@contextlib.contextmanager
def _locked(entry: _Entry, pictures: Pictures) -> Iterator[None]:
    """Holds the lock of the entry. On a file system without locks several processes may decode the same pictures."""
    import filelock

    lock = filelock.FileLock(entry.folder / f"{entry.key}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"{pictures.folder}: waiting for the process that decodes its pictures ...", file=sys.stderr, flush=True)
        lock.acquire()
    except (NotImplementedError, OSError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _write(pictures: Pictures, planned: Plan, entry: _Entry) -> None:
    """Writes the files of an entry into a temporary folder, which then gets the name of the entry."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{entry.key}.", dir=entry.folder))
    try:
        # Written, not mapped: on a full disk a write raises an error, and a mapped page kills the process.
        with naming_path(temporary / _IMAGES), (temporary / _IMAGES).open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(planned.dtype), "fortran_order": False, "shape": planned.shape}
            np.lib.format.write_array_header_1_0(file, header)

            def keep(index: int, pixels: np.ndarray) -> None:
                file.write(pixels.data)

            changes = decode_all(pictures, planned, keep)
            file.flush()
            os.fsync(file.fileno())
        write_json(temporary / _NOTES, {"shape": planned.shape, "dtype": str(planned.dtype), "changes": changes})
        if entry.path.exists():  # damaged, or else it would have been read
            shutil.rmtree(entry.path, ignore_errors=True)
        with naming_path(entry.path):
            os.rename(temporary, entry.path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_disk(pictures: Pictures, planned: Plan, entry: _Entry) -> None:
    """Raises `OSError` where the pictures would not fit on the disk of the cache folder."""
    free = shutil.disk_usage(entry.folder).free
    if planned.num_bytes + 2**20 > free:
        raise OSError(
            f"they need {_gibibytes(planned.num_bytes)}, and its disk has {_gibibytes(free)} left. Make room, or pass a "
            "smaller `resize`"
        )


def _check_memory(pictures: Pictures, num_bytes: int) -> None:
    """Raises `UserError`, before anything is decoded, where the pictures would not fit into memory."""
    memory = memory_size()
    if memory is not None and num_bytes > memory:
        raise UserError(
            f"{pictures.folder}: {len(pictures.files):,} pictures become {_gibibytes(num_bytes)}, and this machine has "
            f"{_gibibytes(memory)} of memory. Pass `stream=True`, which leaves them on disk, or a smaller `resize`."
        )


def _gibibytes(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.1f} GiB"
