"""Missing entries: masks that come with the examples of a source, and NaN."""

from typing import Literal

import numpy as np

from vae_jax.data.events import Event
from vae_jax.data.levels import Layout, convert, is_channels_first, name_of_part
from vae_jax.data.on_disk import Rows, value_range
from vae_jax.data.readers.listing import joined
from vae_jax.data.sparse import SparseRows
from vae_jax.data.split import Split
from vae_jax.errors import UserError

Missing = Literal["refuse", "nan"]
MISSING: tuple[Missing, ...] = ("refuse", "nan")
_FEW = 0.4  # share of ones in a mask below which it may mark the missing entries; studies often hide half of them


def with_masks(name: str, source: Split, missing: Missing, layout: Layout = "auto") -> tuple[Split, list[str]]:
    """Returns the source with a mask for each part in memory that has missing entries, and 0 in their place.

    Missing entries of rows on disk stay as they are, and the rows know them (see `Rows.with_missing`).

    Args:
      name: the data set, for messages.
      source: arrays as stored, and masks that came with them.
      missing: whether NaN marks missing entries.
      layout: the argument of `data.load`.

    Returns:
      The source, and a note on masks with few observed entries, which may be meant the other way round.

    Raises:
      UserError: a mask that does not belong to its part by shape or type, or one of sparse or rendered data.
    """
    arrays, changed, notes = source.images_by_part(), {}, []
    for part, mask in source.by_part("mask").items():
        if part not in arrays:
            raise UserError(f"{name}: got a mask of {part} examples, and there are none. Leave it out.", field="mask")
        text = name_of_part(name, part)
        mask = _checked_mask(text, mask, arrays[part], source, layout)
        changed[f"{part}_mask"] = mask
        if (share := float(mask.mean() if isinstance(mask, np.ndarray) else mask.scan.total.sum() / mask.size)) < _FEW:
            notes.append(
                f"{text}: its mask is True or 1 for {share:.1%} of the entries, which are taken as the observed ones. If it "
                "marks the missing entries instead, save the opposite: ~mask.astype(bool)."
            )
    source = source._replace(**changed)
    for part, array in arrays.items():
        mask = source.by_part("mask").get(part)
        if isinstance(array, Rows):
            nan_is_missing = missing == "nan" and array.dtype.kind == "f"
            if mask is not None or nan_is_missing:
                source = source._replace(train=array.with_missing(mask, nan_is_missing))
        elif isinstance(array, np.ndarray):
            source = source._replace(**_hidden(part, array, mask, missing == "nan" and source.rendering is None))
    return source, notes


def _hidden(part: str, array: np.ndarray, mask: np.ndarray | None, nan_is_missing: bool) -> dict[str, np.ndarray | None]:
    """Returns the array of a part with 0 at missing entries, and the mask of the observed ones; None if all are observed."""
    if nan_is_missing and array.dtype.kind == "f":
        observed = ~np.isnan(array)
        mask = observed if mask is None else mask & observed
    if mask is None or mask.all():
        return {f"{part}_mask": None}
    return {part: np.where(mask, array, np.zeros((), array.dtype)), f"{part}_mask": mask}


def _checked_mask(
    name: str, mask: np.ndarray | Rows, array: np.ndarray | Rows | SparseRows, source: Split, layout: Layout
) -> np.ndarray | Rows:
    """Returns a mask as bool in the shape of its part as stored."""
    if source.rendering is not None:
        raise UserError(f"{name}: its images are computed, so no entry can be missing. Leave out the mask.", field="mask")
    if isinstance(array, SparseRows):
        raise UserError(
            f"{name}: a sparse matrix takes no mask, because its missing entries would be zeros. Pass a dense array, such as "
            "x.toarray().",
            field="mask",
        )
    if isinstance(array, Rows) != isinstance(mask, Rows):
        raise UserError(
            f"{name}: examples on disk need a mask on disk. Save both in one .npz file by np.savez, or leave out "
            "`stream=True`.",
            field="stream",
        )
    expected = f"True or 1 where an entry is observed and False or 0 where it is missing, in the shape {array.shape}"
    if mask.dtype.kind not in "bui":
        raise UserError(
            f"{name}: expected a mask of bool, {expected}, got dtype {mask.dtype}. Pass mask.astype(bool).", field="mask"
        )
    low, high = value_range(mask) if mask.size else (0, 0)
    if low < 0 or high > 1:
        raise UserError(
            f"{name}: expected a mask of bool, {expected}, got integers from {low:.0f} to {high:.0f}. Pass mask > 0 where "
            "positive numbers mark observed entries.",
            field="mask",
        )
    if isinstance(mask, np.ndarray):
        mask = _with_channels(mask.astype(bool), array.shape, layout)
    if mask.shape != array.shape:
        pixels = " or, with one value for each pixel, (examples, height, width)" if len(array.shape) == 4 else ""
        raise UserError(
            f"{name}: expected a mask in the shape of the examples, {array.shape}{pixels}, got shape {mask.shape}. Pass "
            "np.broadcast_to(mask, x.shape) where one mask is meant for several entries.",
            field="mask",
        )
    return mask


def _with_channels(mask: np.ndarray, shape: tuple[int, ...], layout: Layout) -> np.ndarray:
    """Returns a mask of pixels, (examples, height, width), for images with channels; other masks as they are."""
    if mask.ndim != 3 or len(shape) != 4:
        return mask
    if layout == "channels_first" or (layout == "auto" and is_channels_first(shape)):
        fits, axis = mask.shape == (shape[0], *shape[2:]), 1
    else:
        fits, axis = mask.shape == shape[:3], -1
    return np.broadcast_to(np.expand_dims(mask, axis), shape) if fits else mask


def masks_as_events(source: Split, layout: Layout, event: Event, transpose: bool) -> dict[str, np.ndarray]:
    """Returns the masks of all parts in memory in the shape of the events, by the field of a `Split`."""
    masks = {part: mask for part, mask in source.by_part("mask").items() if isinstance(mask, np.ndarray)}
    converted = {}
    for part, mask in masks.items():
        # Each array alone: it is in the layout of its examples, because it has their shape.
        alone = Split(mask.astype(np.uint8), channels_last=source.channels_last)
        arrays, _ = convert("mask", alone, layout, event, None, transpose)
        array = arrays["train"]
        assert isinstance(array, np.ndarray)
        converted[f"{part}_mask"] = array.astype(bool)
    return converted


def with_complete_parts(parts: Split) -> Split:
    """Returns the parts of a data set with masks where they are needed, after the parts were split.

    Where training entries are missing, every part has a mask. Otherwise a part has one if its entries are missing. Entries of
    parts that were read from rows on disk, where NaN may mark missing entries, become 0 and are masked.
    """
    train, changed = parts.train, {}
    for part in ("validation", "test"):
        array, mask = getattr(parts, part), getattr(parts, f"{part}_mask")
        if isinstance(array, np.ndarray):
            changed |= _hidden(part, array, mask, isinstance(train, Rows) and train.nan_is_missing)
    if isinstance(train, Rows):
        can_miss = train.mask is not None or train.nan_is_missing  # otherwise the file is not read for this
        is_complete = not can_miss or train.scan.observed is None
    else:
        is_complete = not isinstance(parts.train_mask, np.ndarray) or bool(parts.train_mask.all())
    parts = parts._replace(**changed, train_mask=None if is_complete else parts.train_mask)
    if is_complete:
        return parts
    return parts._replace(
        **{
            f"{part}_mask": np.ones(array.shape, bool)
            for part, array in parts.images_by_part().items()
            if part != "train" and getattr(parts, f"{part}_mask") is None
        }
    )


def notes_on_unobserved(name: str, counts: np.ndarray | None, column_names: tuple[str, ...] | None) -> list[str]:
    """Returns a note on entries that no training example has.

    Args:
      name: the data set, for messages.
      counts: number of observed values of each entry; None where no entry is missing.
      column_names: the names of the columns of vectors.
    """
    if counts is None or counts.all():
        return []
    entries = np.flatnonzero(counts.ravel() == 0)
    if len(entries) == counts.size:
        return [f"{name}: no entry of the training examples is observed, so there is nothing to learn."]
    if counts.ndim == 1:
        names = joined(column_names[i] if column_names else str(i) for i in entries)
        which = f"the column{'s' * (len(entries) > 1)} {names}"
    else:
        which = f"{len(entries)} of {counts.size} entries"
    return [
        f"{name}: {which} {'are' if len(entries) > 1 else 'is'} missing in all training examples. The mean there is taken as 0."
    ]
