"""Conversion of stored arrays to events of levels, counts or float32, with the channels last, and the highest level."""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from vae_jax.data.checks import check_finite, check_type, count_non_finite, kept_type
from vae_jax.data.events import Event, as_event, event_shape
from vae_jax.data.on_disk import Rows, chunks, value_range
from vae_jax.data.readers.listing import PARTS
from vae_jax.data.sparse import SparseRows, with_one_type
from vae_jax.data.split import Split
from vae_jax.errors import UserError

Layout = Literal["auto", "channels_last", "channels_first"]
LAYOUTS: tuple[Layout, ...] = ("auto", "channels_last", "channels_first")
ROUNDING = 1e-6  # of floats meant to be in [0, 1]: a few units in the last place of float32


def is_channels_first(shape: tuple[int, ...]) -> bool:
    """Returns whether a shape (examples, a, b, c) can only be meant as (examples, channels, height, width)."""
    if len(shape) != 4:
        return False
    _, first, height, last = shape
    return first in (1, 3, 4) and last not in (1, 3, 4) and first < min(height, last)


def _may_be_channels_first(shape: tuple[int, ...]) -> bool:
    """Returns whether a shape looks like images behind an unusual number of channels, or like images one row high."""
    if len(shape) != 4:
        return False
    _, first, height, last = shape
    is_square = height == last > 4 and 1 < first < height and first not in (3, 4)
    return is_square or (first in (1, 3) and last in (3, 4) and first < min(height, last))


def check_layout_of_known_format(name: str, layout: Layout) -> None:
    """Raises `UserError` where the user states channels first for a format that has its channels last."""
    if layout == "channels_first":
        raise UserError(f'{name}: its channels are last. Leave out `layout="channels_first"`.')


def channels_last(
    name: str, source: Split, layout: Layout, event: Event = "auto"
) -> tuple[dict[str, np.ndarray | Rows | SparseRows], list[str]]:
    """Moves the channels of all images to the last axis, and those of series where the user says that they come first.

    "auto" takes (examples, a, b, c) as channels first where a is 1, 3 or 4, b and c are larger, and c is not 1, 3 or 4.
    Images with three axes are gray under every layout.

    Returns:
      The images by part, and notes on images that were moved or may have to be.
    """
    images = source.images_by_part()
    if source.channels_last or event == "vector":
        check_layout_of_known_format(name, layout)
        return images, []
    if event == "series":
        is_first = layout == "channels_first"
        return {part: _moved(array) if is_first and len(array.shape) == 3 else array for part, array in images.items()}, []
    moved, notes = {}, []
    for part, array in images.items():
        shape = array.shape
        if len(shape) == 4 and (layout == "channels_first" or (layout == "auto" and is_channels_first(shape))):
            moved[part] = _moved(array)
        else:
            moved[part] = array
    shape = source.train.shape
    sides = tuple(shape[1:])
    if event == "auto" and len(sides) == 2 and max(sides) >= 4 * min(sides):
        notes.append(
            f"{name}: an array of shape {shape} is taken as gray images (examples, height, width). For series (examples, time, "
            'channels) pass `event="series"`, for vectors `event="vector"`, and `event="image"` to confirm images.'
        )
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


def _moved(array: np.ndarray | Rows | SparseRows) -> np.ndarray | Rows:
    assert not isinstance(array, SparseRows)  # which has two axes
    return array.channels_last() if isinstance(array, Rows) else np.moveaxis(array, 1, -1)


def convert(
    name: str, source: Split, layout: Layout, event: Event, max_level: int | None, transpose: bool = False
) -> tuple[dict[str, np.ndarray | Rows | SparseRows], list[str]]:
    """Gives all parts the shape of events, with the channels last, and one type for integers (see `checks.kept_type`).

    Args:
      name: the data set, for messages.
      source: arrays as stored.
      layout, event, max_level, transpose: the arguments of `data.load`.

    Returns:
      The arrays by part, and notes.

    Raises:
      UserError: a shape or type that cannot be meant, integers that do not fit, numbers that are not finite in float32. Floats
        on disk are checked after the split.
    """
    arrays, notes = channels_last(name, source, layout, event)
    arrays = with_one_type(name, arrays)
    shapes = {part: event_shape(name_of_part(name, part), array.shape, event) for part, array in arrays.items()}
    kept = _kept_types(name, source, arrays, is_image=len(shapes["train"]) == 4, max_level=max_level)
    if transpose and len(shapes["train"]) != 4:
        got = f"examples of shape {shapes['train'][1:]}"
        raise UserError(f"{name}: `transpose=True` is for images, got {got}. Leave it out.", field="transpose")
    converted: dict[str, np.ndarray | Rows | SparseRows] = {}
    for part, array in arrays.items():
        if isinstance(array, SparseRows):
            converted[part] = array.as_events(event, kept[part])
        elif isinstance(array, Rows):
            rows = array.as_events(event, kept[part])
            converted[part] = rows.transposed() if transpose else rows
        else:
            images = as_event(name, array, event)
            converted[part] = as_kept(name_of_part(name, part), images.swapaxes(1, 2) if transpose else images, kept[part])
    return converted, notes


def name_of_part(name: str, part: str) -> str:
    """Returns the name of a part in messages. The training examples have the name of the data set."""
    return name if part == "train" else f"{name}: {PARTS[part]} images"


def _kept_types(
    name: str, source: Split, arrays: dict[str, np.ndarray | Rows | SparseRows], is_image: bool, max_level: int | None
) -> dict[str, np.dtype]:
    """Returns the type in which each part is kept: the same for all parts of integers."""
    for part, array in arrays.items():
        check_type(name_of_part(name, part), array.dtype)
    wide = [array for array in arrays.values() if array.dtype.kind in "bui" and array.dtype != np.uint8]
    ranges = [(float(a.min()), float(a.max())) if isinstance(a, np.ndarray) else a.stored_range() for a in wide]
    low, high = min((low for low, _ in ranges), default=0.0), max((high for _, high in ranges), default=0.0)
    top = source.max_level or max_level
    if top is not None and low >= 0 and high <= top:
        fitting = np.dtype(np.uint8 if top <= 255 else np.uint16)
        kept = {part: np.dtype(np.float32) if array.dtype.kind == "f" else fitting for part, array in arrays.items()}
    else:
        kept = {part: kept_type(name, array.dtype, low, high, is_image) for part, array in arrays.items()}
    widest = max((dtype for dtype in kept.values() if dtype.kind != "f"), key=lambda dtype: dtype.itemsize, default=None)
    return {part: dtype if dtype.kind == "f" or widest is None else widest for part, dtype in kept.items()}


def as_kept(
    name: str, array: np.ndarray, kept: np.dtype, index: np.ndarray | None = None, nan_is_missing: bool = False
) -> np.ndarray:
    """Converts the numbers of an array to the type in which they are kept.

    Args:
      name: the data set, for messages.
      array: (examples, ...).
      kept: uint8, uint16, int32 or float32, from `checks.kept_type`.
      index: index of each example in the source, for messages; None: 0, 1, 2, ...
      nan_is_missing: leave NaN, which marks missing entries.

    Raises:
      UserError: numbers that are not finite in float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = np.ascontiguousarray(array, dtype=kept)
    if kept == np.float32:
        observed = np.where(np.isnan(numbers), np.float32(0), numbers) if nan_is_missing else numbers
        check_finite(name, count_non_finite(array, observed, index), len(array))
    return numbers


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
    ranges = [value_range(array, source.mask_in_memory(part)) for part, array in images.items()]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if (low >= 0 and high <= 1) or high > 1 + ROUNDING or low < -ROUNDING * high:
        return source, []
    clipped = {
        part: np.clip(array, 0, 1) if isinstance(array, np.ndarray) else array.clipped() for part, array in images.items()
    }
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
    images = source.images_by_part()
    if source.rendering is None and len({(array.shape[1:], array.dtype) for array in images.values()}) > 1:
        raise UserError(
            f"{name}: expected training, validation and test sets of one shape and dtype, got "
            + " and ".join(f"{part} {array.shape[1:]} {array.dtype}" for part, array in images.items())
            + ". Convert them to the same."
        )
    if source.max_level is not None:
        if max_level not in (None, source.max_level):
            raise UserError(
                f"{name}: `max_level={max_level}` does not fit, because its levels run from 0 to {source.max_level}. "
                "Leave it out."
            )
        return source.max_level, []
    if images["train"].dtype == np.float32:
        if max_level is not None:
            raise UserError(
                f"{name}: `max_level={max_level}` is for integer levels, and these data are floats. Leave it out and save "
                f"x / {max_level}, or save x.astype(np.uint8) where the floats are whole numbers."
            )
        return None, _note_on_whole_floats(name, images)
    largest = max(int(array.max()) for array in images.values())
    if max_level is not None:
        if largest > max_level:
            raise UserError(f"{name}: `max_level={max_level}` is below the largest level, {largest}. Give at least {largest}.")
        return max_level, []
    if images["train"].dtype == np.int32:
        return None, _note_on_integers(name, largest)
    top = source.assumed_level or (1 if largest <= 1 else np.iinfo(images["train"].dtype).max)
    if top == 1 or largest * 10 >= top:
        return top, []
    return top, [
        f"{name}: the largest level is {largest}, but levels are taken to run from 0 to {top}, so images are nearly black. If "
        f"{max(largest, 1)} is the highest level, pass `max_level={max(largest, 1)}`. Likelihoods of counts are not affected."
    ]


def _note_on_whole_floats(name: str, images: Mapping[str, np.ndarray | Rows | SparseRows]) -> list[str]:
    """Returns a note on images of bytes that are stored as floats."""
    dense = [array for array in images.values() if not isinstance(array, SparseRows)]
    if len(images["train"].shape) != 4 or len(dense) < len(images):
        return []
    ranges = [value_range(array) for array in dense]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if low < 0 or not 1 < high <= 255 or not all(map(_is_whole, dense)):
        return []
    return [
        f"{name}: images are whole numbers from {low:.0f} to {high:.0f} stored as floats, and are taken as real numbers. For "
        "levels, which are scaled to [0, 1], save x.astype(np.uint8)."
    ]


def _is_whole(array: np.ndarray | Rows) -> bool:
    """Returns whether all numbers of an array of floats are whole."""
    if isinstance(array, Rows):
        return bool(np.array_equal(array.scan.values, np.round(array.scan.values)))
    return all(np.array_equal(chunk, np.round(chunk)) for chunk in chunks(array))


def _note_on_integers(name: str, largest: int) -> list[str]:
    """Returns a note on integers that float32, in which every likelihood computes, does not hold exactly."""
    if largest <= 2**24:
        return []
    return [
        f"{name}: the largest integer is {largest}, and likelihoods compute in float32, which rounds integers above {2**24}."
    ]
