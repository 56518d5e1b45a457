"""Conversion of stored arrays: to uint8 levels or float32, with the highest level, and with the channels last."""

from typing import Literal

import numpy as np

from vae_jax.data.checks import check_finite, check_range, check_shape, level_type, unusable
from vae_jax.data.on_disk import Rows
from vae_jax.data.split import Split
from vae_jax.errors import UserError

Layout = Literal["auto", "channels_last", "channels_first"]
LAYOUTS: tuple[Layout, ...] = ("auto", "channels_last", "channels_first")
ROUNDING = 1e-6  # of floats meant to be in [0, 1]: a few units in the last place of float32


def _is_channels_first(shape: tuple[int, ...]) -> bool:
    """Returns whether a shape (examples, a, b, c) can only be meant as (examples, channels, height, width)."""
    if len(shape) != 4:
        return False
    _, first, height, last = shape
    return first in (1, 3, 4) and last not in (1, 3, 4) and first < min(height, last)


def _may_be_channels_first(shape: tuple[int, ...]) -> bool:
    """Returns whether a shape looks like square images behind an unusual number of channels."""
    return len(shape) == 4 and shape[2] == shape[3] > 4 and 1 < shape[1] < shape[2] and shape[1] not in (3, 4)


def channels_last(name: str, found: Split, layout: Layout) -> tuple[dict[str, np.ndarray | Rows], list[str]]:
    """The images of each part with their channels on the last axis, and notes on those that were moved or may have to be.

    "auto" takes (examples, a, b, c) as channels first where a is 1, 3 or 4, b and c are larger, and c is not 1, 3 or 4.
    Arrays with three axes are grey under every layout.
    """
    images = image_parts(found)
    if found.channels_last:
        if layout == "channels_first":
            raise UserError(f"{name}: its channels are last. Leave out layout='channels_first' (--layout channels_first).")
        return images, []
    moved, notes = {}, []
    for part, array in images.items():
        shape = array.stored_shape if isinstance(array, Rows) else array.shape
        if len(shape) == 4 and (layout == "channels_first" or (layout == "auto" and _is_channels_first(shape))):
            moved[part] = array.channels_last() if isinstance(array, Rows) else np.moveaxis(array, 1, -1)
        else:
            moved[part] = array
    shape = found.train.stored_shape if isinstance(found.train, Rows) else found.train.shape
    if layout == "auto" and moved["train"] is not found.train:
        notes.append(
            f"{name}: images of shape {shape[1:]} are taken as channels first and become {moved['train'].shape[1:]}. "
            "layout='channels_last' (--layout channels_last) leaves them as they are, layout='channels_first' states it."
        )
    elif layout == "auto" and _may_be_channels_first(shape):
        notes.append(
            f"{name}: images of shape {shape[1:]} are taken as {shape[1]} x {shape[2]} with {shape[3]} channels. If the first "
            "axis has the channels, pass layout='channels_first' (--layout channels_first)."
        )
    return moved, notes


def as_levels(name: str, array: np.ndarray, index: np.ndarray | None = None) -> np.ndarray:
    """Converts an array to uint8 levels or finite float32, with four axes; or raises `UserError`.

    `index` has the number of each row in the source, for the message.
    """
    check_shape(name, array.shape)
    kind = level_type(name, array.dtype)
    if array.ndim == 3:
        array = array[..., np.newaxis]
    if kind == np.uint8 and array.dtype != np.uint8:
        check_range(name, float(array.min()), float(array.max()))
    with np.errstate(over="ignore", invalid="ignore"):
        levels = np.ascontiguousarray(array, dtype=kind)
    if kind == np.float32:
        check_finite(name, unusable(array, levels, index), len(array))
    return levels


def image_parts(found: Split) -> dict[str, np.ndarray | Rows]:
    """The images of each part that the source has; keys train, validation, test."""
    parts = {"train": found.train, "validation": found.validation, "test": found.test}
    return {part: array for part, array in parts.items() if array is not None}


def clipped(name: str, found: Split) -> tuple[Split, list[str]]:
    """Sets floats that leave [0, 1] by rounding alone to 0 or 1, and returns a note where there are any.

    Rounding is at most 1e-6 above 1, and at most 1e-6 of the largest value below 0, so that data on a small scale of their
    own are never changed.
    """
    parts = image_parts(found)
    if any(array.dtype != np.float32 for array in parts.values()):
        return found, []
    ranges = [array.scan[1:3] if isinstance(array, Rows) else (array.min(), array.max()) for array in parts.values()]
    low, high = min(float(low) for low, _ in ranges), max(float(high) for _, high in ranges)
    if (low >= 0 and high <= 1) or high > 1 + ROUNDING or low < -ROUNDING * high:
        return found, []
    changed = {part: array.clipped() if isinstance(array, Rows) else np.clip(array, 0, 1) for part, array in parts.items()}
    return found._replace(**changed), [
        f"{name}: values from {low:.9g} to {high:.9g} leave [0, 1] by rounding alone and were clipped to it."
    ]


def top_level(name: str, found: Split, max_level: int | None) -> tuple[int | None, list[str]]:
    """The highest level of the data, None for floats, and a note where the data stay far below one that is assumed."""
    given = f"max_level={max_level} (--max-level {max_level})"
    if found.max_level is not None:
        if max_level not in (None, found.max_level):
            raise UserError(f"{name}: {given} does not fit, because its levels run from 0 to {found.max_level}. Leave it out.")
        return found.max_level, []
    parts = image_parts(found)
    kinds = {(array.shape[1:], array.dtype) for array in parts.values()}
    if len(kinds) > 1:
        raise UserError(
            f"{name}: expected training, validation and test images of one shape and dtype, got "
            + " and ".join(f"{part} {array.shape[1:]} {array.dtype}" for part, array in parts.items())
            + ". Convert them to the same."
        )
    if parts["train"].dtype == np.float32:
        if max_level is not None:
            raise UserError(
                f"{name}: {given} is for integer levels, and these images are floats. Leave it out and save x / {max_level}, "
                "or save x.astype(np.uint8) where the floats are whole numbers."
            )
        return None, []
    largest = max(int(array.max()) for array in parts.values())
    if max_level is not None:
        if largest > max_level:
            raise UserError(f"{name}: {given} is below the largest level, {largest}. Give at least {largest}.")
        return max_level, []
    top = found.assumed_level or (1 if largest <= 1 else 255)
    if top == 1 or largest * 10 >= top:
        return top, []
    real = max(largest, 1)
    return top, [
        f"{name}: the largest level is {largest}, but levels are taken to run from 0 to {top}, so images are nearly black. If "
        f"{real} is the top, pass max_level={real} (--max-level {real}). Likelihoods of counts are not affected."
    ]
