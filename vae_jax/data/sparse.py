"""`SparseRows`: vectors that are mostly zeros, such as gene counts, kept as a sparse matrix in memory."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NoReturn, Protocol, Self, cast

import numpy as np

from vae_jax.data.checks import NonFinite, check_type, kept_type
from vae_jax.data.events import Event
from vae_jax.data.on_disk import Digest, Rows, Scan, header, sum_squares
from vae_jax.errors import UserError

_CHUNK = 2**20  # stored numbers that are converted at once


class SparseMatrix(Protocol):
    """The part of scipy's sparse matrices that is used here. SciPy has no annotations, and is imported when it is needed."""

    shape: tuple[int, ...]
    dtype: np.dtype
    format: str

    def astype(self, dtype: np.dtype) -> Self:
        """Returns the matrix with numbers of another type."""
        ...

    def tocsr(self) -> "CsrMatrix":
        """Returns the matrix by rows."""
        ...


class CsrMatrix(SparseMatrix, Protocol):
    """The part of scipy's `csr_array` that is used here."""

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    has_canonical_format: bool

    def check_format(self, full_check: bool) -> None:
        """Raises `ValueError` where the arrays do not fit to each other."""

    def copy(self) -> Self:
        """Returns a copy."""
        ...

    def sum_duplicates(self) -> None:
        """Sorts each row and sums duplicates, in place."""

    def eliminate_zeros(self) -> None:
        """Removes stored zeros, in place."""

    def __getitem__(self, index: np.ndarray) -> "CsrMatrix":
        """Returns rows."""
        ...


class SparseRows:
    """Vectors, (examples, columns), of which only the numbers that are not zero are stored, row by row (scipy's CSR).

    Behaves like an array that is read by rows only. Indexing by a slice or by an array of indices returns dense vectors. The
    arrays are canonical: columns are sorted within each row, and neither zeros nor duplicates are stored. They must not be
    changed.

    Attributes:
      shape: (examples, columns).
      dtype: uint8 for zeros and ones, int32 for other whole numbers such as counts, float32.
      data: the stored numbers, (stored,), of type `dtype`.
      indices: the column of each stored number, (stored,), int32.
      indptr: the stored numbers of row i are those from indptr[i] to indptr[i + 1], (examples + 1,), int64.
    """

    ndim = 2

    def __init__(self, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, ...]):
        self.data, self.indices, self.indptr = data, indices.astype(np.int32, copy=False), indptr.astype(np.int64, copy=False)
        self.shape: tuple[int, ...] = shape
        self.dtype = data.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"SparseRows({self.dtype}{self.shape}, {len(self.data)} stored numbers)"

    @property
    def size(self) -> int:
        """Number of numbers in all rows, zeros included."""
        return self.shape[0] * self.shape[1]

    def __array__(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("sparse examples are read by rows, not as one array: index them, such as rows[:100]")

    __iter__ = None  # otherwise NumPy would collect all rows, one by one

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        part = self.view(key)
        dense = np.zeros(part.shape, part.dtype)
        dense[np.repeat(np.arange(len(part)), np.diff(part.indptr)), part.indices] = part.data
        return dense

    stored = __getitem__

    def gather(self, index: np.ndarray, out: np.ndarray) -> None:
        """Writes the dense rows with these indices into `out`, (rows, ...)."""
        out[...] = self[index].reshape(out.shape)

    def view(self, index: slice | np.ndarray) -> "SparseRows":
        """Returns the rows with these indices, which stay sparse. Rows in a slice with step 1 are not copied."""
        if isinstance(index, slice):
            first, last, step = index.indices(len(self))
            if step == 1:
                last = max(first, last)
                part = slice(self.indptr[first], self.indptr[last])
                indptr = self.indptr[first : last + 1] - self.indptr[first]
                return SparseRows(self.data[part], self.indices[part], indptr, (last - first, self.shape[1]))
            index = np.arange(first, last, step)
        rows = self._matrix[np.asarray(index)]
        return SparseRows(rows.data, rows.indices, rows.indptr, (rows.shape[0], self.shape[1]))

    def columns(self, index: Sequence[int]) -> "SparseRows":
        """Returns the rows with these columns, in this order."""
        place = np.full(self.shape[1], -1, np.int32)
        place[list(index)] = np.arange(len(index))
        row = np.repeat(np.arange(len(self)), np.diff(self.indptr))
        column = place[self.indices]
        kept = column >= 0
        order = np.lexsort((column[kept], row[kept]))
        indptr = np.concatenate([[0], np.cumsum(np.bincount(row[kept], minlength=len(self)))])
        return SparseRows(self.data[kept][order], column[kept][order], indptr, (len(self), len(index)))

    def as_events(self, event: Event, kept: np.dtype) -> "SparseRows":
        """Returns the rows with their numbers converted to the type `kept`.

        Raises:
          UserError: an event other than a vector.
        """
        if event not in ("auto", "vector"):
            raise UserError(
                f'sparse matrices have vectors as examples. Leave out `event="{event}"`, or save dense arrays: '
                "np.save('x.npy', matrix.toarray()).",
                field="event",
            )
        return self.with_data(self.data.astype(kept, copy=False))

    def with_data(self, data: np.ndarray) -> "SparseRows":
        """Returns rows with other numbers, none of them zero, in the same places."""
        return SparseRows(data, self.indices, self.indptr, self.shape)

    def clipped(self) -> "SparseRows":
        """Returns the same rows with their numbers clipped to [0, 1]."""
        clipped = self.with_data(np.clip(self.data, 0, 1))
        return clipped if clipped.data.all() else sparse_rows("clipped rows", clipped._matrix)

    def max(self) -> float:
        """Returns the highest number, zeros included."""
        return self.scan.high

    def stored_range(self) -> tuple[float, float]:
        """Returns the lowest and the highest number, zeros included."""
        return self.scan.low, self.scan.high

    @cached_property
    def scan(self) -> Scan:
        """Moments, range and fingerprint of all rows, computed from the stored numbers."""
        low, high = (float(self.data.min()), float(self.data.max())) if len(self.data) else (0.0, 0.0)
        if has_zeros := len(self.data) < self.size:
            low, high = min(low, 0.0), max(high, 0.0)
        if self.dtype == np.uint8:
            present = np.bincount(self.data, minlength=256) > 0
            present[0] |= has_zeros
            values = np.flatnonzero(present).astype(np.uint8)
        else:
            fractions = (part[part != np.round(part)][:1] for part in map(self.data.__getitem__, self._parts()))
            first_fraction = next((fraction for fraction in fractions if len(fraction)), ())
            values = np.array([low, high, *first_fraction], self.dtype)
        total = self._sum_over_rows(lambda numbers, columns: numbers)
        squares = sum(sum_squares(self.data[part]) for part in self._parts())
        digest = hashlib.sha256()
        self.update_digest(digest)
        return Scan(NonFinite(), low, high, values, total, squares, digest)

    def update_digest(self, digest: Digest) -> None:
        """Adds shape, type and stored numbers to a hash."""
        digest.update(header(self) + b"csr")
        for array in (self.indptr, self.indices, self.data):
            digest.update(np.ascontiguousarray(array).data)

    def sum_squared_deviations(self, mean: np.ndarray) -> np.ndarray:
        """Returns the sum over the examples of (x - mean)², (columns,), float64.

        Stored numbers are summed one by one. Each zero of a column adds mean².
        """
        deviations = self._sum_over_rows(lambda numbers, columns: np.square(numbers - mean[columns]))
        return deviations + self._count_zeros() * np.square(mean)

    def log1p_sums(self, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the sums over the examples of log(1 + x) - shift and of its square, each (columns,), float64."""
        total = self._sum_over_rows(lambda numbers, columns: np.log1p(numbers) - shift[columns])
        squares = self._sum_over_rows(lambda numbers, columns: np.square(np.log1p(numbers) - shift[columns]))
        num_zeros = self._count_zeros()
        return total - num_zeros * shift, squares + num_zeros * np.square(shift)

    def _count_zeros(self) -> np.ndarray:
        """Returns the number of zeros in each column, (columns,)."""
        return len(self) - self._sum_over_rows(lambda numbers, columns: np.ones(len(numbers)))

    def _sum_over_rows(self, function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """Returns for each column the sum of a function of (stored numbers, their columns)."""
        total = np.zeros(self.shape[1])
        for part in self._parts():
            columns = self.indices[part]
            weights = function(self.data[part].astype(np.float64), columns)
            total += np.bincount(columns, weights=weights, minlength=self.shape[1])
        return total

    def _parts(self) -> Iterator[slice]:
        return (slice(first, first + _CHUNK) for first in range(0, len(self.data), _CHUNK))

    @cached_property
    def _matrix(self) -> CsrMatrix:
        # SciPy needs one type for both index arrays. The narrower one avoids a copy of `indices`.
        indptr = self.indptr.astype(np.int32) if len(self.data) < 2**31 else self.indptr
        return csr_matrix(self.data, self.indices, indptr, self.shape)


def csr_matrix(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, ...]) -> CsrMatrix:
    """Returns scipy's matrix of these arrays, which are not copied; raises `ValueError` where they do not fit at all."""
    import scipy.sparse

    return cast(CsrMatrix, scipy.sparse.csr_array((data, indices, indptr), shape=shape))


def sparse_rows(name: str, matrix: SparseMatrix) -> SparseRows:
    """Converts a sparse matrix of scipy, (examples, columns), in any format.

    Whole numbers are kept as int32, or as uint8 where all are 0 or 1. Floats that are all whole numbers >= 0 are taken as such:
    programs for cells store counts as float32. Other numbers are kept as float32.

    Args:
      name: the data set, for messages.
      matrix: the matrix, which is not changed. Duplicates are summed, and zeros that are stored are left out.

    Raises:
      UserError: indices outside of the shape, pointers that do not fit, numbers that are not real, not finite in float32 or
        beyond int32, an empty matrix.
    """
    check_type(name, matrix.dtype)
    if len(matrix.shape) != 2 or 0 in matrix.shape:
        raise UserError(f"{name}: expected a matrix (examples, columns) with entries, got shape {matrix.shape}.")
    if matrix.format in ("csr", "csc", "bsr"):
        with damage_reported(name):  # the conversion would write outside of its arrays
            cast(CsrMatrix, matrix).check_format(full_check=True)
    else:
        matrix = matrix.astype(_wide(matrix.dtype))  # small integers overflow when duplicates are summed
    by_rows = matrix.tocsr()
    return csr_rows(name, by_rows.data, by_rows.indices, by_rows.indptr, by_rows.shape)


def csr_rows(name: str, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, ...]) -> SparseRows:
    """Converts the arrays of a matrix in the format CSR as `sparse_rows` does. They may come from a damaged file."""
    check_type(name, data.dtype)
    if len(shape) != 2 or not all(0 < size < 2**31 for size in shape):
        raise UserError(f"{name}: expected a matrix (examples, columns) with entries, got shape {tuple(shape)}.")
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        raise UserError(f"{name}: expected integers for the indices of a sparse matrix, got {indices.dtype}. It is damaged.")
    with damage_reported(name):
        csr = csr_matrix(data.astype(_known_to_scipy(data.dtype), copy=False), indices, indptr, shape)
        csr.check_format(full_check=True)
    check_finite_numbers(name, csr)
    if not csr.has_canonical_format:
        csr = csr.astype(_wide(csr.dtype)).copy()  # small integers overflow when they are summed
        csr.sum_duplicates()
    if not csr.data.all():
        csr = csr.copy()
        csr.eliminate_zeros()
    data = csr.data
    low, high = (float(data.min()), float(data.max())) if len(data) else (0.0, 0.0)
    data = data.astype(_kept_type(name, data, low, high), copy=False)
    return SparseRows(data, csr.indices, csr.indptr, (int(shape[0]), int(shape[1])))


@contextlib.contextmanager
def damage_reported(name: str) -> Iterator[None]:
    """Turns the exceptions of scipy for arrays that do not fit to each other into a `UserError`."""
    try:
        yield
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise UserError(f"{name}: not a readable sparse matrix: {' '.join(str(error).split())}. It is damaged.") from None


def is_sparse(array: object) -> bool:
    """Returns whether an object is a sparse matrix of scipy, without importing scipy."""
    return type(array).__module__.split(".")[0] == "scipy" and hasattr(array, "tocsr")


def _known_to_scipy(dtype: np.dtype) -> np.dtype:
    """Returns a type in native byte order that scipy takes; it knows neither float16 nor, on all machines, float128."""
    if dtype.kind == "f":
        return np.dtype(np.float32 if dtype.itemsize <= 4 else np.float64)
    return dtype.newbyteorder("=")


def _wide(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.float64 if dtype.kind == "f" else np.int64)


def _kept_type(name: str, data: np.ndarray, low: float, high: float) -> np.dtype:
    if data.dtype.kind == "f":
        parts = (data[first : first + _CHUNK] for first in range(0, len(data), _CHUNK))
        if low < 0 or high >= 2**31 or not all(np.array_equal(part, np.round(part)) for part in parts):
            return np.dtype(np.float32)
    if low >= 0 and high <= 1:
        return np.dtype(np.uint8)
    return kept_type(name, np.dtype(np.int64), low, high, is_image=False)


def check_finite_numbers(name: str, csr: CsrMatrix) -> None:
    """Raises `UserError` where stored numbers are not finite in float32."""
    if csr.data.dtype.kind != "f":
        return
    with np.errstate(over="ignore"):
        parts = (csr.data[first : first + _CHUNK].astype(np.float32) for first in range(0, len(csr.data), _CHUNK))
        bad = [np.flatnonzero(~np.isfinite(part)) + i * _CHUNK for i, part in enumerate(parts)]
    places = np.concatenate([np.zeros(0, np.int64), *bad])
    if len(places):
        rows = np.unique(np.searchsorted(csr.indptr, places, side="right") - 1)
        raise UserError(
            f"{name}: expected finite numbers within the range of float32, got {len(places)} others in {len(rows)} of "
            f"{csr.shape[0]} examples, the first in the example with index {rows[0]}. Leave these examples out, or replace the "
            "numbers: x.data = np.nan_to_num(x.data, posinf=0, neginf=0). If NaN marks missing entries, save the matrix as a "
            'dense array and pass `missing="nan"`.'
        )


def with_one_type(name: str, arrays: Mapping[str, np.ndarray | Rows | SparseRows]) -> dict[str, np.ndarray | Rows | SparseRows]:
    """Returns the arrays of a data set so that all are sparse and of one type where any of them is sparse."""
    sparse: dict[str, SparseRows] = {}
    for part, array in arrays.items():
        if isinstance(array, SparseRows):
            sparse[part] = array
    if not sparse:
        return dict(arrays)
    import scipy.sparse

    for part, array in arrays.items():
        if isinstance(array, Rows):
            raise UserError(
                f"{name}: expected all parts as sparse matrices, got the {part} set on disk. Leave out `stream=True`."
            )
        if isinstance(array, np.ndarray):
            if array.ndim != 2:
                raise UserError(f"{name}: expected vectors in all parts, because one is a sparse matrix, got {array.shape}.")
            sparse[part] = sparse_rows(name, cast(SparseMatrix, scipy.sparse.csr_array(array)))
    if all(rows.dtype.kind != "f" for rows in sparse.values()):
        return {part: sparse[part] for part in arrays}
    return {part: sparse[part].as_events("auto", np.dtype(np.float32)) for part in arrays}
