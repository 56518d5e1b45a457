"""`Rows`: images that stay in their file and are read when they are needed, for data larger than memory."""

import copy
import hashlib
import mmap
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol, Self

import numpy as np

from vae_jax._numerics.short_repr import short_repr
from vae_jax.data.checks import NonFinite, check_type, count_non_finite
from vae_jax.data.events import Event, event_shape
from vae_jax.errors import UserError

if TYPE_CHECKING:
    from vae_jax.data.sparse import SparseRows


_GATHER_BYTES = 2**18  # taken from the file at once, between the file and its place in a batch


class Digest(Protocol):
    """A hash that is being computed, as `hashlib` makes it."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Adds bytes to the hash."""

    def copy(self) -> Self:
        """Returns an independent hash of the bytes so far."""
        ...

    def hexdigest(self) -> str:
        """Returns the hash of the bytes so far."""
        ...


@short_repr
class Scan(NamedTuple):
    """Results of one pass over all images.

    Attributes:
      non_finite: the numbers that are not finite in float32.
      low: the lowest stored number.
      high: the highest stored number.
      values: the levels that occur, for bytes. For other types: the lowest number, the highest, and one with a fraction if
        there is any. They lie in the support of a likelihood if and only if all numbers do.
      total: sum of all examples, float64, with the shape of an event.
      squares: sum of the squares of all numbers.
      digest: SHA-256 over shape, dtype and bytes; copy it before it is continued.
      observed: number of observed values of each entry, integers of the shape of an event; None where no entry is missing.
        Missing entries count in none of the results above, and as 0 in the digest.
      mask_digest: SHA-256 over the bytes of the mask.
    """

    non_finite: NonFinite
    low: float
    high: float
    values: np.ndarray
    total: np.ndarray
    squares: float
    digest: Digest
    observed: np.ndarray | None = None
    mask_digest: Digest | None = None


class _File:
    """An array in a file, mapped into memory twice: once for reading it through, once for picking rows in any order."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype, offset: int, highest: float | None = None):
        self.highest = highest
        self.path, self.end = path, offset + int(np.prod(shape, dtype=object)) * dtype.itemsize
        if path.stat().st_size < self.end:
            raise UserError(
                f"{path}: expected {self.end} bytes for shape {shape}, got {path.stat().st_size}. The file is damaged."
            )
        self._opened, self._map = path.stat(), self._mapped()
        scattered = self._mapped()
        # Otherwise the system reads 128 kB around each row, which do not hold the row that is read next.
        if hasattr(mmap, "MADV_RANDOM"):
            scattered.madvise(mmap.MADV_RANDOM)
        self.through = np.ndarray(shape, dtype, self._map, offset)
        self.scattered = np.ndarray(shape, dtype, scattered, offset)

    def _mapped(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def check_unchanged(self) -> None:
        """Raises `OSError` where the file has changed. Reading past its new end would make the system kill the process."""
        if self._map.size() < self.end:
            raise OSError(f"{self.path}: became shorter while it was read. Restore it and resume the run.")
        try:
            now = self.path.stat()
        except FileNotFoundError:
            return  # removed or replaced: the file that was opened is still there
        if now.st_ino == self._opened.st_ino and now.st_mtime_ns != self._opened.st_mtime_ns:
            raise OSError(f"{self.path}: was changed while it was read. Restore it and resume the run.")


class _View(NamedTuple):
    """Selection of rows of a file, and their conversion.

    Attributes:
      rows: indices of the selected rows in the file; None: all rows.
      channels_first: the file has the channels in its second axis; they are moved to the last axis.
      transposed: exchange the height and the width of images.
      event: the kind of example that a row is reshaped to; None: rows have the shape and the type that are stored.
      kept: the type to which numbers are converted; None: the type that is stored.
      clipped: clip the numbers to [0, 1].
      to_bytes: converts images to uint8 after everything else.
      nan_is_missing: NaN marks missing entries.
    """

    rows: np.ndarray | None = None
    channels_first: bool = False
    transposed: bool = False
    event: Event | None = None
    kept: np.dtype | None = None
    clipped: bool = False
    to_bytes: Callable[[np.ndarray], np.ndarray] | None = None
    nan_is_missing: bool = False


_AS_STORED = _View()


class Rows:
    """Examples on disk, (examples, ...), as they are stored, or converted by `as_events`.

    Behaves like an array that is read by rows only. Indexing by a slice or by an array of integers returns the examples in
    memory. The file is mapped, never loaded as a whole, and must not change while it is used.

    Attributes:
      shape: (examples, ...).
      dtype: as stored, or uint8, uint16, int32 or float32.
      mask: rows of bool, True where an entry is observed, of the same shape; None: there is no mask. The rows are read as they
        are stored, and `scan` leaves missing entries out.
    """

    def __init__(self, file: _File, view: _View = _AS_STORED, mask: "Rows | None" = None):
        shape, stored = file.through.shape, file.through.dtype
        check_type(str(file.path), stored)
        self._file, self._view, self.mask = file, view, mask
        self.dtype = np.dtype(np.uint8) if view.to_bytes else view.kept or stored
        if view.channels_first:
            shape = (shape[0], *shape[2:], shape[1])
        if view.event:
            shape = event_shape(str(file.path), shape, view.event)
        if view.transposed:
            shape = (shape[0], shape[2], shape[1], *shape[3:])
        self.shape = (shape[0] if view.rows is None else len(view.rows), *shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Number of numbers in all rows."""
        return int(np.prod(self.shape, dtype=object))

    def __array__(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("examples on disk are read by rows, not as one array: index them")

    __iter__ = None  # otherwise NumPy would collect all rows, one by one

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        return self._as_levels(self.stored(key))

    def stored(self, key: slice | np.ndarray) -> np.ndarray:
        """Reads rows in the type that is stored, with the channels last."""
        self._file.check_unchanged()
        return self._take(self._file.through, self.indices_in_file(key))

    def stored_range(self) -> tuple[float, float]:
        """Returns the lowest and the highest stored number that is not hidden by the mask, from a pass over the file."""
        ranges = []
        for part in slices(self):
            numbers = self.stored(part)
            numbers = numbers if self.mask is None else numbers[self.mask[part].reshape(numbers.shape)]
            ranges += [(numbers.min(), numbers.max())] if numbers.size else []
        return float(min((low for low, _ in ranges), default=0)), float(max((high for _, high in ranges), default=0))

    def gather(self, index: np.ndarray, out: np.ndarray) -> None:
        """Reads rows into `out`, (rows, ...), in the order of `index`.

        The rows are read in the order of the file, which is faster on disks.
        """
        self._file.check_unchanged()
        in_file = self.indices_in_file(index)
        order = np.argsort(in_file)
        length = max(1, _GATHER_BYTES // max(out[:1].nbytes, 1))
        for part in (order[first : first + length] for first in range(0, len(order), length)):
            out[part] = self._as_levels(self._take(self._file.scattered, in_file[part])).reshape(len(part), *out.shape[1:])

    def view(self, index: np.ndarray) -> "Rows":
        """Returns the rows with these indices, which stay on disk."""
        return self._viewed(self._view._replace(rows=self.indices_in_file(index)))

    def channels_last(self) -> "Rows":
        """Returns the rows of a file that stores (examples, channels, ...) with their channels last."""
        return self._viewed(self._view._replace(channels_first=True))

    def reshaped(self, shape: tuple[int, ...]) -> "Rows":
        """Returns the rows of a file, of which each has another shape with as many entries. Call it before any conversion."""
        file = copy.copy(self._file)
        file.through, file.scattered = (array.reshape(-1, *shape) for array in (file.through, file.scattered))
        return Rows(file, self._view)

    def as_events(self, event: Event, kept: np.dtype) -> "Rows":
        """Returns the rows with the shape of an event (see `events.event_shape`), converted to the type `kept`."""
        return self._viewed(self._view._replace(event=event, kept=kept))

    def transposed(self) -> "Rows":
        """Returns the same images with height and width exchanged. Call it after `as_events`."""
        return self._viewed(self._view._replace(transposed=True))

    def clipped(self) -> "Rows":
        """Returns the same rows with their numbers clipped to [0, 1]."""
        return self._viewed(self._view._replace(clipped=True))

    def converted(self, to_bytes: Callable[[np.ndarray], np.ndarray]) -> "Rows":
        """Returns the same rows, to which a function from images to uint8 is applied when they are read."""
        return self._viewed(self._view._replace(to_bytes=to_bytes))

    def with_missing(self, mask: "Rows | None", nan_is_missing: bool) -> "Rows":
        """Returns the same rows with missing entries, which a mask of their shape or NaN marks."""
        if mask is not None:
            mask = Rows(mask._file, mask._view._replace(kept=np.dtype(bool)))
        return Rows(self._file, self._view._replace(nan_is_missing=nan_is_missing), mask)

    @property
    def nan_is_missing(self) -> bool:
        """True where NaN marks missing entries."""
        return self._view.nan_is_missing

    def _viewed(self, view: _View) -> "Rows":
        """Returns other rows of the file, or of another shape, with the mask of the same rows and shape."""
        mask = self.mask
        if mask is not None:
            shape = {"channels_first": view.channels_first, "transposed": view.transposed, "event": view.event}
            mask = Rows(mask._file, mask._view._replace(rows=view.rows, **shape))
        return Rows(self._file, view, mask)

    def observed(self, key: slice | np.ndarray, values: np.ndarray) -> np.ndarray | None:
        """Returns True where an entry of some rows, whose values are given, is observed; None where none can be missing."""
        observed = None if self.mask is None else self.mask[key]
        if not self._view.nan_is_missing:
            return observed
        return ~np.isnan(values) if observed is None else observed & ~np.isnan(values)

    def max(self) -> float:
        """Returns the highest stored number, or a bound of it where the file was opened with one."""
        return self.scan.high if self._file.highest is None else self._file.highest

    @cached_property
    def scan(self) -> Scan:
        """Moments, range and fingerprint of all images, from one pass over the file, a few megabytes at a time."""
        non_finite, low, high, fraction = NonFinite(), np.inf, -np.inf, np.zeros(0, np.float32)
        total, squares, levels = np.zeros(self.shape[1:], np.float64), 0.0, np.zeros(256, bool)
        digest, mask_digest = hashlib.sha256(header(self)), hashlib.sha256()
        observed_counts = np.zeros(self.shape[1:], np.int64)
        for part in slices(self):
            raw = self.stored(part)
            chunk = self._as_levels(raw)
            if (observed := self.observed(part, chunk)) is not None:
                chunk, raw = _filled(chunk, observed), _filled(raw, observed.reshape(raw.shape))
                observed_counts += observed.sum(axis=0)
                mask_digest.update(np.ascontiguousarray(observed).data)
            if self.dtype.kind != "f":
                # Rounding of floats to bytes would hide their range, so it is that of the stored numbers.
                numbers, seen = chunk if observed is None else chunk[observed], raw if self.dtype == np.uint8 else chunk
                seen = seen if observed is None else seen[observed.reshape(seen.shape)]
                if self.dtype == np.uint8:
                    levels |= np.bincount(numbers.ravel(), minlength=256) > 0
                if seen.size:
                    low, high = min(low, float(seen.min())), max(high, float(seen.max()))
            else:
                finite = np.isfinite(chunk) if observed is None else np.isfinite(chunk) & observed
                non_finite = non_finite.plus(count_non_finite(raw, chunk, self.indices_in_file(part)))
                low = min(low, float(np.min(chunk, where=finite, initial=np.inf)))
                high = max(high, float(np.max(chunk, where=finite, initial=-np.inf)))
                if not len(fraction):
                    fraction = chunk[chunk != np.round(chunk)][:1]
            with np.errstate(invalid="ignore"):  # infinities, which are refused later
                total += sum_images(chunk)
                squares += sum_squares(chunk)
            digest.update(chunk.data)
        if low > high:  # no entry is observed
            low, high, levels[0] = 0.0, 0.0, True
        if self.dtype == np.uint8:
            values = np.flatnonzero(levels).astype(np.uint8)
        else:
            values = np.concatenate([np.array([low, high], self.dtype), fraction.astype(self.dtype)])
        is_complete = (self.mask is None and not self.nan_is_missing) or bool((observed_counts == len(self)).all())
        counts = None if is_complete else observed_counts
        return Scan(non_finite, low, high, values, total, squares, digest, counts, mask_digest)

    def indices_in_file(self, key: slice | np.ndarray) -> np.ndarray:
        """Returns the indices in the file of rows of this view."""
        index = np.arange(*key.indices(len(self))) if isinstance(key, slice) else np.asarray(key)
        return index if self._view.rows is None else self._view.rows[index]

    def _take(self, file: np.ndarray, in_file: np.ndarray) -> np.ndarray:
        images = np.take(file, in_file, axis=0)
        images = np.moveaxis(images, 1, -1) if self._view.channels_first else images
        if self._view.transposed:
            _, width, height, *channels = self.shape
            images = images.reshape(len(images), height, width, *channels).swapaxes(1, 2)
        return images

    def _as_levels(self, stored: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):
            images = np.ascontiguousarray(stored, self._view.kept or stored.dtype).reshape(-1, *self.shape[1:])
        if self._view.clipped:
            images = np.clip(images, 0, 1)
        return self._view.to_bytes(images) if self._view.to_bytes else images


def open_array(path: Path, shape: tuple[int, ...], dtype: np.dtype, offset: int, highest: float | None = None) -> Rows:
    """Opens the rows of an array in C order that starts `offset` bytes into a file.

    Args:
      path: the file.
      shape, dtype, offset: of the array.
      highest: the highest number of the data set that the rows belong to, where it is known, so that `Rows.max` does not read
        the file.
    """
    return Rows(_File(path, shape, dtype, offset, highest))


def header(rows: "np.ndarray | Rows | SparseRows") -> bytes:
    """Returns the bytes that stand for the shape and type of an array in a fingerprint; the bytes of the array follow."""
    return f"{rows.shape}{rows.dtype}".encode()


def sum_images(images: np.ndarray) -> np.ndarray:
    """Returns the sum over the examples, float64."""
    return images.sum(axis=0, dtype=np.float64)


def sum_squares(images: np.ndarray) -> float:
    """Returns the sum of the squares of all numbers, computed in float64."""
    return float(np.square(images, dtype=np.float64).sum())


def value_range(images: "np.ndarray | Rows | SparseRows", mask: np.ndarray | None = None) -> tuple[float, float]:
    """Returns the lowest and the highest stored number; both are NaN where an array in memory has NaN.

    Args:
      images: the examples.
      mask: True where an entry of an array in memory is observed. The range of no entry at all is 0 to 0.
    """
    if not isinstance(images, np.ndarray):
        return images.scan.low, images.scan.high
    if mask is None:
        return float(images.min()), float(images.max())
    ranges = [(seen.min(), seen.max()) for part in slices(images) if (seen := images[part][mask[part]]).size]
    return float(min((low for low, _ in ranges), default=0)), float(max((high for _, high in ranges), default=0))


def observed_chunks(
    examples: np.ndarray | Rows, mask: np.ndarray | Rows | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yields parts of a few megabytes with 0 at missing entries, and True where an entry is observed; None where all are.

    Args:
      examples: the examples.
      mask: that of an array in memory. Rows have theirs.
    """
    for part in slices(examples):
        chunk = examples[part]
        if isinstance(examples, Rows):
            observed = None if examples.scan.observed is None else examples.observed(part, chunk)
        else:
            observed = None if mask is None else mask[part]
        yield chunk if observed is None else _filled(chunk, observed), observed


def _filled(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Returns the values with 0 at missing entries."""
    return np.where(observed, values, np.zeros((), values.dtype))


def chunks(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yields parts of a few megabytes, cut as those of `Rows.scan`, so that sums over them have the same bits."""
    return (images[part] for part in slices(images))


def slices(rows: np.ndarray | Rows) -> Iterator[slice]:
    """Yields slices of a few megabytes that cover all rows."""
    row_bytes = int(np.prod(rows.shape[1:], dtype=object)) * rows.dtype.itemsize
    length = max(1, min(1024, 2**22 // max(row_bytes, 1)))
    return (slice(first, min(first + length, len(rows))) for first in range(0, len(rows), length))
