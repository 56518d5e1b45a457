"""`SparseArray`: vectors that are mostly zeros, on the device. Batches of them become dense inside compiled programs."""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax.data.sparse import SparseRows
from vae_jax.errors import UserError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SparseArray:
    """Vectors, (examples, columns), of which the device holds only the numbers that are not zero, row by row (CSR).

    Indexing by an array of indices returns dense vectors, also inside of compiled programs. Indexing by a slice returns a
    `SparseArray` that shares the stored numbers.

    Attributes:
      data: the stored numbers, (stored,).
      indices: the column of each stored number, (stored,), int32. No column occurs twice in a row.
      indptr: the stored numbers of row i are those from indptr[i] to indptr[i + 1], (examples + 1,), int32.
      num_columns: numbers in a row, zeros included.
      window: stored numbers of a row that are written at once.
      has_long_rows: whether a row has more stored numbers than the window.
    """

    data: Array
    indices: Array
    indptr: Array
    num_columns: int = dataclasses.field(metadata={"static": True})
    window: int = dataclasses.field(metadata={"static": True})
    has_long_rows: bool = dataclasses.field(metadata={"static": True})

    ndim = 2

    @property
    def shape(self) -> tuple[int, int]:
        """Number of examples and of columns."""
        return self.indptr.shape[0] - 1, self.num_columns

    @property
    def dtype(self) -> np.dtype:
        """Type of the numbers."""
        return self.data.dtype

    @property
    def size(self) -> int:
        """Number of numbers in all rows, zeros included."""
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise TypeError("sparse examples are read by rows, not as one array: index them by an array of indices")

    __iter__ = None  # otherwise NumPy would collect all rows, one by one

    def __getitem__(self, key: Array | np.ndarray | slice) -> "Array | Self":
        if isinstance(key, slice):
            first, last, step = key.indices(len(self))
            if step != 1:
                raise TypeError("expected a slice with step 1 or an array of indices")
            return dataclasses.replace(self, indptr=self.indptr[first : max(first, last) + 1])
        index = jnp.asarray(key)
        return self._dense(index.reshape(-1)).reshape(*index.shape, self.num_columns)

    def _dense(self, index: Array) -> Array:
        """Returns the rows with these indices, (rows,), as dense vectors."""
        start, number = self.indptr[index], jnp.arange(len(index))[:, None]
        length = self.indptr[index + 1] - start

        def write(first: Array | int, dense: Array) -> Array:
            """Writes the stored numbers from the position `first` of each row on."""
            offset = first + jnp.arange(self.window)
            position = start[:, None] + offset
            column = self.indices.at[position].get(mode="clip")
            column = jnp.where(offset < length[:, None], column, self.num_columns)  # past the end of the row: dropped
            # On CPU this takes twice as long as gathering dense rows, at 5% of the memory.
            return dense.at[number, column].set(self.data.at[position].get(mode="clip"), mode="drop")

        dense = jnp.zeros((len(index), self.num_columns), self.dtype)
        if not self.has_long_rows:
            return write(0, dense)
        num_windows = -(-jnp.max(length, initial=0) // self.window)
        return jax.lax.fori_loop(0, num_windows, lambda i, dense: write(i * self.window, dense), dense)


def to_device(rows: SparseRows) -> SparseArray:
    """Puts sparse rows on the device. The stored numbers take as much memory there as on the host.

    Raises:
      UserError: more stored numbers than an int32 can count.
    """
    if len(rows.data) >= 2**31 - rows.shape[1]:
        limit = f"expected fewer than {2**31 - rows.shape[1]:,} stored numbers in a sparse matrix"
        raise UserError(f"{limit}, got {len(rows.data):,}. Leave out columns or examples.")
    lengths = np.diff(rows.indptr)
    longest, usual = int(lengths.max(initial=1)), 2 * int(np.ceil(lengths.mean()))
    window = max(1, longest if longest <= 2 * usual else usual)
    is_empty = not len(rows.data)  # a gather needs something to take
    data, indices = (np.zeros(1, a.dtype) if is_empty else a for a in (rows.data, rows.indices))
    return SparseArray(
        data=jnp.asarray(data),
        indices=jnp.asarray(indices),
        indptr=jnp.asarray(rows.indptr.astype(np.int32)),
        num_columns=rows.shape[1],
        window=window,
        has_long_rows=longest > window,
    )
