"""Parts of a source whose numbers differ in type only because entries are missing in some of them."""

from typing import Literal

import numpy as np

from vae_jax.data.split import Split


def with_common_types(source: Split, missing: Literal["refuse", "nan"]) -> Split:
    """Returns a source whose whole numbers have one type in all parts, although NaN needs floats where entries are missing.

    Beside training examples of integers, floats whose observed numbers are whole become integers with a mask. Beside training
    examples of floats, integers become floats.

    Args:
      source: arrays as stored.
      missing: whether NaN marks missing entries; otherwise nothing changes.
    """
    if missing == "refuse" or source.rendering is not None:
        return source
    changed: dict[str, np.ndarray] = {}
    for part, array in source.images_by_part().items():
        if part == "train" or not isinstance(array, np.ndarray):
            continue
        if source.train.dtype.kind in "bui" and array.dtype.kind == "f":
            is_missing = np.isnan(array)
            numbers = np.where(is_missing, 0, array)
            if is_missing.any() and np.array_equal(numbers, np.round(numbers)) and np.abs(numbers).max(initial=0) < 2**53:
                mask = getattr(source, f"{part}_mask")
                changed[part] = numbers.astype(np.int64)
                changed[f"{part}_mask"] = ~is_missing if mask is None else np.asarray(mask, bool) & ~is_missing
        elif source.train.dtype.kind == "f" and array.dtype.kind in "bui":
            changed[part] = array.astype(np.float64)
    return source._replace(**changed)
