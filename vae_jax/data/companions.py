"""Conditions and masks that come with the examples of a source, before its parts are split."""

from typing import Literal

import numpy as np

from vae_jax.data.events import Event
from vae_jax.data.levels import Layout, convert, name_of_part
from vae_jax.data.on_disk import Rows
from vae_jax.data.split import Split
from vae_jax.errors import UserError

_PARTS = ("train", "validation", "test")


def with_condition_of(name: str, source: Split, condition: str) -> Split:
    """Returns the source with the columns of the condition that its labels or factors give.

    Args:
      name: the data set, for messages.
      source: with checked labels and factors.
      condition: the argument of `data.load`.

    Raises:
      UserError: the source has no such labels, factors or columns.
    """
    if not condition or source.train_condition is not None:
        return source
    examples = source.images_by_part()
    columns: dict[str, dict[str, np.ndarray]] = {}
    for part in examples:
        if condition == "labels":
            labels = getattr(source, f"{part}_labels")
            columns[part] = {} if labels is None else {"label": labels}
        elif condition == "factors":
            factors = getattr(source, f"{part}_factors", None)
            names = source.factor_names or (() if factors is None else tuple(f"factor_{i}" for i in range(factors.shape[1])))
            columns[part] = {} if factors is None else dict(zip(names, factors.T, strict=True))
        else:
            raise UserError(f"{name}: has no columns {condition!r}.", field="condition")
        if not columns[part]:
            raise UserError(f"{name}: its {part} examples have no {condition}.", field="condition")
    return source._replace(**{f"{part}_condition": given for part, given in columns.items()})


def with_masks(name: str, source: Split, missing: Literal["refuse", "nan"]) -> Split:
    """Returns the source with a mask for each part, and 0 in place of NaN; without masks where no entry is missing.

    Args:
      name: the data set, for messages.
      source: arrays as stored, and masks that came with them.
      missing: whether NaN marks missing entries.
    """
    masks = source.by_part("mask")
    arrays = source.images_by_part()
    for part, mask in masks.items():
        if mask.shape != arrays[part].shape or mask.dtype.kind not in "bui":
            raise UserError(
                f"{name_of_part(name, part)}: expected a mask of shape {arrays[part].shape}, True where an entry is observed, "
                f"got shape {mask.shape} and dtype {mask.dtype}.",
                field="mask",
            )
        masks[part] = mask.astype(bool)
    if missing == "nan":
        for part, array in arrays.items():
            if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
                continue
            observed = ~np.isnan(array) & masks.get(part, True)
            if part in masks or not observed.all():
                masks[part] = observed
    if all(mask.all() for mask in masks.values()) if masks else True:
        return source._replace(train_mask=None, validation_mask=None, test_mask=None)
    filled = {}
    for part, array in arrays.items():
        if isinstance(array, Rows):
            continue
        masks.setdefault(part, np.ones(array.shape, bool))
        filled[part] = np.where(masks[part], array, np.zeros((), array.dtype))
    return source._replace(**filled, **{f"{part}_mask": mask for part, mask in masks.items()})


def masks_as_events(name: str, source: Split, layout: Layout, event: Event, transpose: bool) -> dict[str, np.ndarray]:
    """Returns the masks of all parts in the shape of the events."""
    masks = source.by_part("mask")
    if not masks or "train" not in masks:
        return {}
    as_source = source._replace(**{part: mask.astype(np.uint8) for part, mask in masks.items()})
    arrays, _ = convert(name, as_source, layout, event, None, transpose)
    return {f"{part}_mask": arrays[part].astype(bool) for part in masks}  # pyright: ignore
