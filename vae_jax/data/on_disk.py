"""`Rows`: images that stay in their file and are read where they are needed, for data larger than memory."""

import hashlib
import mmap
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from vae_jax._numerics.short_repr import short_repr
from vae_jax.data.checks import Unusable, check_shape, level_type, unusable
from vae_jax.errors import UserError


@short_repr
class Scan(NamedTuple):
    """The results of one pass over all images."""

    bad: Unusable  # numbers that are not finite
    low: float  # of what is stored
    high: float
    values: np.ndarray  # the levels that occur; of floats the lowest, the highest, and one with a fraction if there is any
    total: np.ndarray  # the sum of all images, float64
    squares: float  # the sum of the squares of all numbers
    digest: Any  # SHA-256 over shape, dtype and bytes, to be copied and continued


class _File:
    """An array in a file, mapped into memory twice: once for reading it through, once for picking rows here and there."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype, offset: int):
        self.path, self.end = path, offset + int(np.prod(shape, dtype=object)) * dtype.itemsize
        if path.stat().st_size < self.end:
            raise UserError(f"{path}: expected {self.end} bytes for shape {shape}, got {path.stat().st_size}; it is damaged.")
        self._opened, self._map = path.stat(), self._mapped()
        scattered = self._mapped()
        if hasattr(mmap, "MADV_RANDOM"):  # else the system reads 128 kB around each row, which the next row is not in
            scattered.madvise(mmap.MADV_RANDOM)
        self.through = np.ndarray(shape, dtype, self._map, offset)
        self.scattered = np.ndarray(shape, dtype, scattered, offset)

    def _mapped(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def check_unchanged(self) -> None:
        """Raises `OSError` where the file is not what it was; past its new end the system would kill the process."""
        if self._map.size() < self.end:
            raise OSError(f"{self.path}: became shorter while it was read. Restore it, and go on with --resume.")
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return  # removed or replaced: what was opened is still there
        if now.st_ino == self._opened.st_ino and now.st_mtime_ns != self._opened.st_mtime_ns:
            raise OSError(f"{self.path}: was changed while it was read. Restore it, and go on with --resume.")


class _Reading(NamedTuple):
    """Which rows of a file are read, and what is done to them."""

    chosen: np.ndarray | None = None  # their numbers; None: all rows
    channels_first: bool = False  # in the file; the channels are moved to the last axis
    clipped: bool = False  # to [0, 1]
    as_bytes: Callable[[np.ndarray], np.ndarray] | None = None  # from images to uint8


class Rows:
    """Images on disk, (examples, height, width, channels), uint8 levels or float32 whatever is stored; or some of them.

    Behaves like an array of which only rows are ever read: shape, dtype, size, len, and indexing by a slice or by integers.
    """

    def __init__(self, file: _File, reading: _Reading = _Reading()):  # noqa: B008  # it cannot be changed
        shape, stored = file.through.shape, file.through.dtype
        check_shape(str(file.path), shape)
        self._file, self._reading = file, reading
        self._kept = level_type(str(file.path), stored)
        self.dtype = np.dtype(np.uint8) if reading.as_bytes else self._kept
        count = shape[0] if reading.chosen is None else len(reading.chosen)
        image = shape[1:] if len(shape) == 4 else (*shape[1:], 1)
        self.shape = (count, *((*image[1:], image[0]) if reading.channels_first else image))

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Numbers in all rows."""
        return int(np.prod(self.shape, dtype=object))

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("images on disk (--stream) are read by rows, not as one array: index them")

    __iter__ = None  # or NumPy would collect all rows, one by one

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        return self._as_levels(self.stored(key))

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of the array in the file."""
        return self._file.through.shape

    def stored(self, key: slice | np.ndarray) -> np.ndarray:
        """Rows before they become levels or float32, with the channels last."""
        self._file.check_unchanged()
        return self._taken(self._file.through, self.places(key))

    def gather(self, index: np.ndarray, out: np.ndarray) -> None:
        """Rows into `out`, (rows, ...), in the order of `index` but read in that of the file, which disks like better."""
        self._file.check_unchanged()
        places = self.places(index)
        order = np.argsort(places)
        out[order] = self._as_levels(self._taken(self._file.scattered, places[order])).reshape(out.shape)

    def view(self, index: np.ndarray) -> "Rows":
        """Some of these rows, where they are."""
        return Rows(self._file, self._reading._replace(chosen=self.places(index)))

    def channels_last(self) -> "Rows":
        """The same rows of a file that has the channels before height and width, with the channels last."""
        return Rows(self._file, self._reading._replace(channels_first=True))

    def clipped(self) -> "Rows":
        """The same rows with their numbers clipped to [0, 1]."""
        return Rows(self._file, self._reading._replace(clipped=True))

    def treated(self, as_bytes: Callable[[np.ndarray], np.ndarray]) -> "Rows":
        """The same rows, with this function from images to uint8 applied to what is read of them."""
        return Rows(self._file, self._reading._replace(as_bytes=as_bytes))

    def max(self) -> float:
        """The largest number that is stored."""
        return self.scan.high

    @cached_property
    def scan(self) -> Scan:
        """All that is needed to know about the images, by one pass, a few megabytes at a time."""
        bad, low, high, fraction = Unusable(), np.inf, -np.inf, np.zeros(0, np.float32)
        total, squares, levels = np.zeros(self.shape[1:], np.float64), 0.0, np.zeros(256, bool)
        digest = hashlib.sha256(header(self))
        for part in slices(self):
            raw = self.stored(part)
            chunk = self._as_levels(raw)
            if self.dtype == np.uint8:
                levels |= np.bincount(chunk.ravel(), minlength=256) > 0
                low, high = min(low, float(raw.min())), max(high, float(raw.max()))
            else:
                finite = np.isfinite(chunk)
                bad = bad.plus(unusable(raw, chunk, self.places(part)))
                low = min(low, float(np.min(chunk, where=finite, initial=np.inf)))
                high = max(high, float(np.max(chunk, where=finite, initial=-np.inf)))
                if not len(fraction):
                    fraction = chunk[chunk != np.round(chunk)][:1]
            with np.errstate(invalid="ignore"):  # infinities, which are refused later
                total += sum_images(chunk)
                squares += sum_squares(chunk)
            digest.update(chunk.data)
        whole = np.flatnonzero(levels).astype(np.uint8)
        values = whole if self.dtype == np.uint8 else np.concatenate([np.array([low, high], np.float32), fraction])
        return Scan(bad, low, high, values, total, squares, digest)

    def places(self, key: slice | np.ndarray) -> np.ndarray:
        """Numbers of these rows in the file."""
        index = np.arange(*key.indices(len(self))) if isinstance(key, slice) else np.asarray(key)
        return index if self._reading.chosen is None else self._reading.chosen[index]

    def _taken(self, file: np.ndarray, places: np.ndarray) -> np.ndarray:
        taken = np.take(file, places, axis=0)
        return np.moveaxis(taken, 1, -1) if self._reading.channels_first else taken

    def _as_levels(self, stored: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            images = np.ascontiguousarray(stored, self._kept).reshape(-1, *self.shape[1:])
        if self._reading.clipped:
            images = np.clip(images, 0, 1)
        return self._reading.as_bytes(images) if self._reading.as_bytes else images


def open_array(path: Path, shape: tuple[int, ...], dtype: np.dtype, offset: int) -> Rows:
    """The rows of an array in C order that starts `offset` bytes into a file."""
    return Rows(_File(path, shape, dtype, offset))


def header(rows: np.ndarray | Rows) -> bytes:
    """What stands before an array's bytes in a fingerprint."""
    return f"{rows.shape}{rows.dtype}".encode()


def sum_images(images: np.ndarray) -> np.ndarray:
    """The sum over the examples, float64."""
    return images.sum(axis=0, dtype=np.float64)


def sum_squares(images: np.ndarray) -> float:
    """The sum of the squares of all numbers, in float64."""
    return float(np.square(images, dtype=np.float64).sum())


def chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of a few megabytes, cut as those of `Rows.scan`, so that sums over them are the same bits."""
    return (rows[part] for part in slices(rows))


def slices(rows: np.ndarray | Rows) -> Iterator[slice]:
    """Yields slices of a few megabytes that cover all rows."""
    row_bytes = int(np.prod(rows.shape[1:], dtype=object)) * rows.dtype.itemsize
    length = max(1, min(1024, 2**22 // max(row_bytes, 1)))
    return (slice(first, min(first + length, len(rows))) for first in range(0, len(rows), length))
