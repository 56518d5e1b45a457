"""Rows that are joined, or completed at their missing entries, when they are read."""

import math
from collections.abc import Sequence

import numpy as np

from vae_jax.data.on_disk import Rows


class CompleteRows:
    """The events of `Rows` with 0 at their missing entries, or their masks. Behaves like an array that is read by rows only.

    Attributes:
      shape: (examples, ...).
      dtype: of the events, or bool.
    """

    def __init__(self, rows: Rows, is_mask: bool = False):
        self._rows, self._is_mask = rows, is_mask
        self.shape, self.dtype = rows.shape, np.dtype(bool) if is_mask else rows.dtype

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Number of numbers in all rows."""
        return math.prod(self.shape)

    __iter__ = None  # otherwise NumPy would collect all rows, one by one

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        values = self._rows[key]
        observed = self._rows.observed(key, values)
        if self._is_mask:
            return np.ones(values.shape, bool) if observed is None else observed
        return values if observed is None else np.where(observed, values, np.zeros((), values.dtype))


class JoinedRows:
    """The rows of several arrays, one after the other. Behaves like an array that is read by rows only.

    Attributes:
      shape: (examples, ...).
      dtype: of the arrays, which have one type.
    """

    def __init__(self, parts: Sequence[np.ndarray | Rows | CompleteRows]):
        self._parts = list(parts)
        self._starts = np.cumsum([0, *map(len, parts)])
        self.shape = (int(self._starts[-1]), *parts[0].shape[1:])
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Number of numbers in all rows."""
        return math.prod(self.shape)

    __iter__ = None  # otherwise NumPy would collect all rows, one by one

    def __getitem__(self, key: slice | np.ndarray) -> np.ndarray:
        index = np.arange(*key.indices(len(self))) if isinstance(key, slice) else np.asarray(key)
        out = np.empty((*index.shape, *self.shape[1:]), self.dtype)
        for start, part in zip(self._starts, self._parts, strict=False):
            chosen = (index >= start) & (index < start + len(part))
            if chosen.any():
                out[chosen] = part[index[chosen] - start]
        return out
