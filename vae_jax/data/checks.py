"""Checks of shapes, types and numbers of image arrays; each message has the NumPy line that makes the data readable."""

from typing import NamedTuple

import numpy as np

from vae_jax.errors import UserError

_ONLY_FINITE_EXAMPLES = "x = x[np.isfinite(x).reshape(len(x), -1).all(axis=1)]"
_ONLY_WITHOUT_INFINITY = "x = x[~np.isinf(x).reshape(len(x), -1).any(axis=1)]"
MISSING_FIX = 'If NaN marks missing entries, train with `missing="nan"`.'


class NonFinite(NamedTuple):
    """Numbers that are not finite in float32, counted over examples.

    Attributes:
      numbers: how many there are.
      too_large: how many of them are finite as stored, but beyond the range of float32.
      examples: number of examples that have such a number.
      first: index in the source of the first of these examples; -1 where there is none.
      nan: how many of the numbers are NaN.
    """

    numbers: int = 0
    too_large: int = 0
    examples: int = 0
    first: int = -1
    nan: int = 0

    def plus(self, other: "NonFinite") -> "NonFinite":
        """Returns the counts over the examples of both."""
        first = min((counts.first for counts in (self, other) if counts.examples), default=-1)
        numbers, too_large = self.numbers + other.numbers, self.too_large + other.too_large
        return NonFinite(numbers, too_large, self.examples + other.examples, first, self.nan + other.nan)


def count_non_finite(stored: np.ndarray, kept: np.ndarray, index: np.ndarray | None = None) -> NonFinite:
    """Counts the numbers that are not finite in float32.

    Args:
      stored: the numbers as stored, (examples, ...).
      kept: their float32 copy, with the same shape.
      index: index of each example in the source; None: 0, 1, 2, ...
    """
    finite = np.isfinite(kept)
    if finite.all():
        return NonFinite()
    bad = ~finite.reshape(len(kept), -1)
    rows = np.flatnonzero(bad.any(axis=1))
    too_large = np.isfinite(stored).reshape(len(kept), -1) & bad
    first = rows if index is None else index[rows]
    return NonFinite(int(bad.sum()), int(too_large.sum()), len(rows), int(first.min()), int(np.isnan(kept).sum()))


def check_type(name: str, dtype: np.dtype) -> None:
    """Raises `UserError` for a type that is not a real number."""
    if dtype.kind in "fbui":  # not timedelta64, which NumPy counts among the integers
        return
    fix = "Save numbers: x.astype(np.float32) where that is possible."
    if dtype.kind == "c":
        fix = "Save real numbers, such as np.stack([x.real, x.imag], axis=-1), which has two channels."
    elif dtype.kind in "mM":
        fix = "Save numbers, such as x.astype(np.int64).astype(np.float32)."
    elif dtype.names:
        fix = f"Save one of its fields, such as x[{dtype.names[0]!r}]."
    raise UserError(f"{name}: expected integers or floats, got dtype {dtype}. {fix}")


def kept_type(name: str, dtype: np.dtype, low: float, high: float, is_image: bool) -> np.dtype:
    """Returns the type in which numbers are kept in memory and on the device.

    Floats are kept as float32. Bytes and booleans are levels, uint8. Other integers of images are uint8 levels where they fit,
    uint16 levels where they are stored as uint16 (16-bit pictures), and else counts, int32. Other integers of vectors and
    series are counts or other whole numbers, int32, unless all are 0 or 1.

    Args:
      name: the data set, for messages.
      dtype: the type as stored.
      low, high: the lowest and the highest number of all parts of the data; they matter for integers alone.
      is_image: whether the events are images.

    Raises:
      UserError: a type that is not a real number, negative integers in images, or integers beyond int32.
    """
    check_type(name, dtype)
    if dtype.kind == "f":
        return np.dtype(np.float32)
    if dtype.itemsize == 1 and dtype.kind in "bu":
        return np.dtype(np.uint8)
    if low < -(2**31) or high >= 2**31:
        fix = "Save x.astype(np.float32) where rounding to 24 bits does no harm."
        raise UserError(f"{name}: expected integers within the range of int32, got {low:.0f} to {high:.0f}. {fix}")
    if is_image and low < 0:
        fix = "Save signed numbers as x.astype(np.float32), for likelihoods of real numbers."
        raise UserError(f"{name}: expected integer levels >= 0, got {low:.0f} to {high:.0f}. {fix}")
    if low >= 0 and high <= (255 if is_image else 1):
        return np.dtype(np.uint8)
    return np.dtype(np.uint16 if is_image and dtype.kind == "u" and dtype.itemsize == 2 else np.int32)


def check_finite(name: str, non_finite: NonFinite, num_examples: int) -> None:
    """Raises `UserError` where some of the examples have numbers that are not finite in float32."""
    if not non_finite.numbers:
        return
    if non_finite.too_large == non_finite.numbers:
        raise UserError(
            f"{name}: expected numbers within the range of float32, got {non_finite.numbers} beyond 3.4e38, the first in the "
            f"example with index {non_finite.first}. Rescale the data, such as x / np.abs(x).max()."
        )
    has_nan = non_finite.nan > 0
    fix = f"Leave them out: {_ONLY_FINITE_EXAMPLES if has_nan else _ONLY_WITHOUT_INFINITY}."
    if non_finite.examples == num_examples:
        where = "np.isfinite(x), x, 0" if has_nan else "np.isinf(x), 0, x"
        fix = f"Every example has some, so replace them: x = np.where({where})."
    fix = f"{fix} {MISSING_FIX}" if has_nan else fix
    raise UserError(
        f"{name}: expected finite numbers, got {non_finite.numbers} {'NaN or ' * has_nan}infinite values in "
        f"{non_finite.examples} of {num_examples} examples, the first in the example with index {non_finite.first}. {fix}"
    )
