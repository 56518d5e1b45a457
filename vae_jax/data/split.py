"""`Split`: the arrays that a reader found in a source, before they are checked."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax import Array

from vae_jax._numerics.short_repr import short_repr
from vae_jax.data.on_disk import Rows


class Rendering(NamedTuple):
    """Binary images that are computed from stored rows wherever they are needed."""

    name: str  # of the function and its version: part of the data's fingerprint
    render: Callable[[Array], Array]  # one row -> its image, levels 0 and 1 in uint8
    data_shape: tuple[int, ...]  # of an image
    mean: Callable[[], np.ndarray]  # the mean of all images, `data_shape`
    num_images: int  # of which `draw` draws
    draw: Callable[[Array, Array], Array] | None = None  # (key, row of train) -> a row to render; None: the row itself


@short_repr
class Split(NamedTuple):
    """Arrays of a source, as stored, by the part of the data that they are."""

    train: np.ndarray | Rows
    train_labels: np.ndarray | None = None
    validation: np.ndarray | None = None
    test: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    max_level: int | None = None  # the highest level, where the source is known to have it
    train_factors: np.ndarray | None = None  # (examples, factors), integers
    test_factors: np.ndarray | None = None
    factor_names: tuple[str, ...] | None = None
    rendering: Rendering | None = None  # of rows that are not images
    split: str = "the source's own"  # how the test set came about, where there is one
    where: dict[str, str] | None = None  # name of the file, folder or array of each part; keys train, validation, test
    assumed_level: int | None = None  # the highest level unless the user gives one; None: 1 for binary images, else 255
    channels_last: bool = False  # by the format of the source, so that no other layout can be meant
    notes: tuple[str, ...] = ()  # what the source holds and is not used, and what was changed in reading it
