"""Published .npz archives with a layout of their own: dSprites, MPI3D and downsampled ImageNet."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vae_jax.data.events import Event
from vae_jax.data.on_disk import Rows
from vae_jax.data.readers.factors import classes_of_values, grid_factors, varying_factors
from vae_jax.data.sparse import SparseRows
from vae_jax.data.split import Split
from vae_jax.errors import UserError

_DSPRITES_FACTORS = ("color", "shape", "scale", "orientation", "x_position", "y_position")
_MPI3D_FACTORS = ("color", "shape", "size", "camera_height", "background_color", "horizontal_axis", "vertical_axis")
# Sizes of the factors of MPI3D: of toy, realistic and real, and of the release with real_complex.
_MPI3D_GRIDS = ((6, 6, 2, 3, 3, 40, 40), (4, 4, 2, 3, 3, 40, 40))


def with_known_layout(
    path: Path, split: Split, names: Sequence[str], read: Callable[[str], np.ndarray], event: Event
) -> tuple[Split, list[str]]:
    """Adds what is known about a published archive to its arrays.

    Args:
      path: the archive.
      split: its images and labels as stored.
      names: the names of all its arrays.
      read: reads an array by its name.
      event: the kind of example that the user asks for.

    Returns:
      The data, and the names of further arrays that need no note: they are used, or known to be of no use.
    """
    if "imgs" in names and ("latents_classes" in names or "latents_values" in names):
        return _dsprites(path, split, names, read)
    if set(names) == {"images"}:
        return with_mpi3d_factors(path, split), []
    if {"data", "labels"} <= set(names) <= {"data", "labels", "mean"} and event != "vector":
        return _imagenet(split), ["mean"]
    return split, []


def _dsprites(path: Path, split: Split, names: Sequence[str], read: Callable[[str], np.ndarray]) -> tuple[Split, list[str]]:
    """Adds the factors of dSprites. Its array `metadata` is pickled, and is never touched."""
    has_classes = "latents_classes" in names
    classes = read("latents_classes") if has_classes else classes_of_values(_table(path, read("latents_values")))
    classes = _table(path, classes)
    if classes.shape != (len(split.train), len(_DSPRITES_FACTORS)) or classes.dtype.kind not in "ui":
        raise UserError(
            f"{path}: expected the classes of {len(_DSPRITES_FACTORS)} factors for each of {len(split.train)} images as "
            f"integers, got shape {classes.shape} and dtype {classes.dtype}. The file is damaged, or not dSprites."
        )
    factors = varying_factors(str(path), _DSPRITES_FACTORS, classes)
    split = split._replace(train_factors=factors.train, factor_names=factors.names, notes=(*split.notes, *factors.notes))
    return split, ["latents_classes", "latents_values", "metadata"]


def _table(path: Path, array: np.ndarray) -> np.ndarray:
    if array.ndim == 2 and 0 not in array.shape:
        return array
    raise UserError(f"{path}: expected factors of shape (images, factors), got {array.shape}. The file is damaged.")


def with_mpi3d_factors(path: Path, split: Split, grids: Sequence[tuple[int, ...]] = _MPI3D_GRIDS) -> Split:
    """Adds the factors of MPI3D, which follow from the number of its images; other images are left as they are.

    Args:
      path: the archive.
      split: its images, which go through a grid of factors in C order.
      grids: the sizes of the factors of each release.
    """
    is_named = "mpi3d" in path.name.lower()
    count = len(split.train)
    sizes = next((sizes for sizes in grids if math.prod(sizes) == count), None)
    if not is_named and split.train.shape[1:] != (64, 64, 3):
        return split
    if sizes is None:
        if not is_named:
            return split
        known = " or ".join(f"{math.prod(sizes):,}" for sizes in grids)
        return split._replace(notes=(*split.notes, f"{path}: has no factors, because MPI3D has {known} images, not {count:,}."))
    factors = varying_factors(str(path), _MPI3D_FACTORS, grid_factors(sizes))
    return split._replace(train_factors=factors.train, factor_names=factors.names, notes=(*split.notes, *factors.notes))


def _imagenet(split: Split) -> Split:
    """Gives rows of three planes of square images, (examples, 3 * side * side), the shape (examples, side, side, 3)."""
    train = split.train
    if len(train.shape) != 2 or train.dtype != np.uint8 or isinstance(train, SparseRows):
        return split
    side = math.isqrt(train.shape[1] // 3)
    if 3 * side * side != train.shape[1] or side < 8:
        return split
    if isinstance(train, Rows):
        images = train.reshaped((3, side, side)).channels_last()
    else:
        images = np.moveaxis(train.reshape(-1, 3, side, side), 1, -1)
    conversion = f"rows of {train.shape[1]} bytes are three planes of {side} x {side} pixels"
    return split._replace(train=images, channels_last=True, conversion=conversion)
