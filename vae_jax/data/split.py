"""`Split`: the arrays of a data set as its reader returns them, before they are checked."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vae_jax._numerics.short_repr import short_repr
from vae_jax.data.on_disk import Rows
from vae_jax.data.sparse import SparseRows

if TYPE_CHECKING:  # readers are listed without JAX
    from jax import Array


class Rendering(NamedTuple):
    """Binary images that are computed from stored rows wherever they are needed.

    Attributes:
      name: name of the function and its version; part of the data's fingerprint.
      render: computes an image from a row of integers, (numbers,); levels 0 and 1, uint8, of shape `data_shape`.
      data_shape: (height, width, channels) of an image.
      mean: returns the mean of all images that can be rendered, of shape `data_shape`, in [0, 1].
      num_images: number of different images, from which `draw` draws.
      draw: draws a row to render from a key and a row of the training set. None: the rows of the training set are rendered
        themselves.
      sizes: the number of values 0, 1, 2, ... of each entry of a row to render, which are the factors of its image.
    """

    name: str
    render: "Callable[[Array], Array]"
    data_shape: tuple[int, ...]
    mean: Callable[[], np.ndarray]
    num_images: int
    draw: "Callable[[Array, Array], Array] | None" = None
    sizes: tuple[int, ...] = ()


@short_repr
class Split(NamedTuple):
    """Arrays of a data set as stored, for each of its parts: training, validation, test.

    The arrays have the shape (examples, ...) and any numeric type. `data.load` gives each example the shape of an event (see
    `events.event_shape`), and splits off the parts that are missing.

    Attributes:
      train: training images; `Rows` where they stay on disk, `SparseRows` for sparse matrices.
      train_labels: a label for each training example, (examples,), of any type.
      validation: validation images, where the source has them.
      test: test images, where the source has them.
      test_labels: a label for each test example, (examples,).
      max_level: the highest level of integer images, where the source is known to have it, such as 16 for the digits.
      train_factors: the factors that the training images were made from, (examples, factors), integers.
      test_factors: the factors of the test images, (examples, factors), integers.
      factor_names: a name for each column of the factors.
      rendering: computes images from rows of integers, which the arrays then hold in place of images.
      split: a phrase that says how the test set came about, where there is one.
      part_names: name of the file, folder or array of each part; keys train, validation, test.
      assumed_level: the highest level of integer images unless the user gives one. None: 1 for binary images, else 255.
      channels_last: the format has the channels last, so that no other layout can be meant.
      notes: a sentence for everything that the source holds and that is not used, or that was changed in reading it.
      validation_labels: a label for each validation example, (examples,).
      label_names: the name of each label 0, 1, 2, ..., where labels are such numbers.
      column_names: the name of each column of vectors, such as genes.
      conversion: a phrase that says how the stored numbers became images, where a reader turned, inverted or chose some.
      train_condition, validation_condition, test_condition: the columns of the condition, (examples,) each, by name.
      train_mask, validation_mask, test_mask: True where an entry is observed, of the shape of the part; `Rows` where the
        training examples stay on disk.
      validation_factors: the factors of the validation images, (examples, factors), integers.
    """

    train: np.ndarray | Rows | SparseRows
    train_labels: np.ndarray | None = None
    validation: np.ndarray | SparseRows | None = None
    test: np.ndarray | SparseRows | None = None
    test_labels: np.ndarray | None = None
    max_level: int | None = None
    train_factors: np.ndarray | None = None
    test_factors: np.ndarray | None = None
    factor_names: tuple[str, ...] | None = None
    rendering: Rendering | None = None
    split: str = "the source's own"
    part_names: dict[str, str] | None = None
    assumed_level: int | None = None
    channels_last: bool = False
    notes: tuple[str, ...] = ()
    validation_labels: np.ndarray | None = None
    label_names: tuple[str, ...] | None = None
    column_names: tuple[str, ...] | None = None
    conversion: str = ""
    train_condition: Mapping[str, np.ndarray] | None = None
    validation_condition: Mapping[str, np.ndarray] | None = None
    test_condition: Mapping[str, np.ndarray] | None = None
    train_mask: np.ndarray | Rows | None = None
    validation_mask: np.ndarray | Rows | None = None
    test_mask: np.ndarray | Rows | None = None
    validation_factors: np.ndarray | None = None

    def images_by_part(self) -> dict[str, np.ndarray | Rows | SparseRows]:
        """Returns the images of the parts that the source has; keys train, validation, test."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {part: array for part, array in parts.items() if array is not None}

    def mask_in_memory(self, part: str) -> np.ndarray | None:
        """Returns the mask of a part in memory, or None. Rows on disk have their masks themselves."""
        mask = getattr(self, f"{part}_mask")
        return mask if isinstance(mask, np.ndarray) else None

    def by_part(self, field: str) -> dict[str, Any]:
        """Returns a field such as "condition" or "mask" of the parts that have it; keys train, validation, test."""
        values = {part: getattr(self, f"{part}_{field}") for part in ("train", "validation", "test")}
        return {part: value for part, value in values.items() if value is not None}
