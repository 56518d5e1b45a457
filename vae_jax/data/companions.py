"""Masks that come with the examples of a source, before its parts are split."""

from typing import Literal

import numpy as np

from vae_jax.data.events import Event
from vae_jax.data.levels import Layout, convert, name_of_part
from vae_jax.data.on_disk import Rows
from vae_jax.data.split import Split
from vae_jax.errors import UserError


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
