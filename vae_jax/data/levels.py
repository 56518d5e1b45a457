"""Conversion of stored arrays to uint8 levels or float32, with the channels last, and the highest level of the data."""

from typing import Literal

import numpy as np

from vae_jax.data.checks import check_finite, check_range, check_shape, count_non_finite, level_type
from vae_jax.data.on_disk import Rows, value_range
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


def check_layout_of_known_format(name: str, layout: Layout) -> None:
    """Raises `UserError` where the user states channels first for a format that has its channels last."""
    if layout == "channels_first":
        raise UserError(f'{name}: its channels are last. Leave out `layout="channels_first"`.')


def channels_last(name: str, source: Split, layout: Layout) -> tuple[dict[str, np.ndarray | Rows], list[str]]:
    """Moves the channels of all images to the last axis.

    "auto" takes (examples, a, b, c) as channels first where a is 1, 3 or 4, b and c are larger, and c is not 1, 3 or 4.
    Arrays with three axes are gray under every layout.

    Returns:
      The images by part, and notes on images that were moved or may have to be.
    """
    images = source.images_by_part()
    if source.channels_last:
        check_layout_of_known_format(name, layout)
        return images, []
    moved, notes = {}, []
    for part, array in images.items():
        shape = array.stored_shape if isinstance(array, Rows) else array.shape
        if len(shape) == 4 and (layout == "channels_first" or (layout == "auto" and _is_channels_first(shape))):
            moved[part] = array.channels_last() if isinstance(array, Rows) else np.moveaxis(array, 1, -1)
        else:
            moved[part] = array
    shape = source.train.stored_shape if isinstance(source.train, Rows) else source.train.shape
    if layout == "auto" and moved["train"] is not source.train:
        notes.append(
            f"{name}: images of shape {shape[1:]} are taken as channels first and become {moved['train'].shape[1:]}. "
            'Pass `layout="channels_first"` to confirm this, or `layout="channels_last"` to leave them as they are.'
        )
    elif layout == "auto" and _may_be_channels_first(shape):
        notes.append(
            f"{name}: images of shape {shape[1:]} are taken as {shape[1]} x {shape[2]} with {shape[3]} channels. If the first "
            'axis has the channels, pass `layout="channels_first"`.'
        )
    return moved, notes


def as_levels(name: str, array: np.ndarray, index: np.ndarray | None = None) -> np.ndarray:
    """Converts an array to uint8 levels or finite float32, with four axes.

    Args:
      name: the data set, for messages.
      array: (examples, height, width) or (examples, height, width, channels).
      index: index of each example in the source, for messages; None: 0, 1, 2, ...

    Raises:
      UserError: a shape or type that cannot be images, integers outside 0 to 255, numbers that are not finite in float32.
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
        check_finite(name, count_non_finite(array, levels, index), len(array))
    return levels


def clip_rounding(name: str, source: Split) -> tuple[Split, list[str]]:
    """Sets floats that leave [0, 1] by rounding alone to 0 or 1.

    Rounding is at most 1e-6 above 1, and at most 1e-6 of the largest value below 0, so that data on a much smaller scale are
    never changed.

    Returns:
      The data, and a note where numbers were clipped.
    """
    images = source.images_by_part()
    if any(array.dtype != np.float32 for array in images.values()):
        return source, []
    ranges = [value_range(array) for array in images.values()]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if (low >= 0 and high <= 1) or high > 1 + ROUNDING or low < -ROUNDING * high:
        return source, []
    clipped = {part: array.clipped() if isinstance(array, Rows) else np.clip(array, 0, 1) for part, array in images.items()}
    return source._replace(**clipped), [
        f"{name}: values from {low:.9g} to {high:.9g} leave [0, 1] by rounding alone and were clipped to it."
    ]


def top_level(name: str, source: Split, max_level: int | None) -> tuple[int | None, list[str]]:
    """Returns the highest level of the data, and a note where all levels stay far below one that is assumed.

    Args:
      name: the data set, for messages.
      source: converted images of all parts.
      max_level: the highest level that the user gives, if any.

    Returns:
      The level, None for floats, and notes.

    Raises:
      UserError: parts with different shapes or types, or a `max_level` that does not fit the data.
    """
    if source.max_level is not None:
        if max_level not in (None, source.max_level):
            raise UserError(
                f"{name}: `max_level={max_level}` does not fit, because its levels run from 0 to {source.max_level}. "
                "Leave it out."
            )
        return source.max_level, []
    images = source.images_by_part()
    if len({(array.shape[1:], array.dtype) for array in images.values()}) > 1:
        raise UserError(
            f"{name}: expected training, validation and test images of one shape and dtype, got "
            + " and ".join(f"{part} {array.shape[1:]} {array.dtype}" for part, array in images.items())
            + ". Convert them to the same."
        )
    if images["train"].dtype == np.float32:
        if max_level is not None:
            raise UserError(
                f"{name}: `max_level={max_level}` is for integer levels, and these images are floats. Leave it out and save "
                f"x / {max_level}, or save x.astype(np.uint8) where the floats are whole numbers."
            )
        return None, []
    largest = max(int(array.max()) for array in images.values())
    if max_level is not None:
        if largest > max_level:
            raise UserError(f"{name}: `max_level={max_level}` is below the largest level, {largest}. Give at least {largest}.")
        return max_level, []
    top = source.assumed_level or (1 if largest <= 1 else 255)
    if top == 1 or largest * 10 >= top:
        return top, []
    return top, [
        f"{name}: the largest level is {largest}, but levels are taken to run from 0 to {top}, so images are nearly black. If "
        f"{max(largest, 1)} is the highest level, pass `max_level={max(largest, 1)}`. Likelihoods of counts are not affected."
    ]
