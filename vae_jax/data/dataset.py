"""`Dataset`: checked examples on the host, split into training, validation and test."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax._numerics.short_repr import short_repr
from vae_jax.data.column_types import ColumnType
from vae_jax.data.conditions.columns import Condition
from vae_jax.data.on_disk import Digest, Rows, chunks, header, sum_images, sum_squares, value_range
from vae_jax.data.sparse import SparseRows
from vae_jax.data.split import Rendering


@short_repr
class Dataset(NamedTuple):
    """Examples on the host: images (examples, height, width, channels), series (examples, time, channels) or vectors.

    They are uint8 or uint16 levels, int32 whole numbers such as counts, or float32. Levels run from 0 to `max_level`: 255 for
    photographs, 16 for the digits, 1 for binary images. With a `rendering` the arrays hold a row of integers for each image
    instead, and `images` turns either into images.

    Numbers mean the same in every format, and in memory:

    - bool and uint8: levels. Zeros and ones are binary data. Likelihoods of pixels see level / max_level.
    - Other integers of images: levels where all are from 0 to 255, and 16-bit levels where they are stored as uint16. Larger
      ones are counts, kept as int32. Negative ones are refused.
    - Other integers of vectors and series, of any width: whole numbers such as counts, kept as int32; beyond int32 they are
      refused.
    - Floats of any width: real numbers, kept as float32 on their own scale, whether in [0, 1], [-1, 1] or [0, 255]. Likelihoods
      that need [0, 1] or levels refuse others and say how to convert them. Floats that leave [0, 1] by rounding alone, at most
      1e-6, are clipped to it. Images of whole numbers up to 255 give a note.
    - NaN is refused, unless it marks missing entries (see `load`). Infinity, complex numbers, text and objects are refused.

    Attributes:
      name: the name or path that was loaded.
      train: training examples; `Rows` where they stay on disk, `SparseRows` for sparse matrices.
      validation: validation examples, or None; `SparseRows` where the training examples are.
      test: test examples; `SparseRows` where the training examples are.
      test_labels: a label for each test example, (examples,), integers.
      max_level: the highest level; None for floats, and for whole numbers that are not levels.
      split: a phrase that says how the test and validation sets came about.
      train_factors: the factors that the training images were made from, (examples, factors), integers, where they are known.
      test_factors: the factors of the test images, (examples, factors), integers.
      factor_names: a name for each column of the factors.
      rendering: computes images from rows of integers; None where images are stored.
      notes: a sentence for everything that the source holds and that is not used, or that was changed in reading it.
      train_labels: a label for each training example, (examples,), integers.
      validation_labels: a label for each validation example, (examples,), integers.
      label_names: the name of each label 0, 1, 2, ...
      column_names: the name of each column of vectors.
      condition: the columns on which a model is conditioned; None: there is no condition.
      train_condition, validation_condition, test_condition: the stored condition of each example, (examples, columns), float32
        (see `Condition`).
      train_mask, validation_mask, test_mask: True where an entry is observed, of the shape of the part, bool. All are None
        where no entry of the training set is missing, but those of parts with missing entries. Otherwise each part has one. The
        examples in memory hold 0 at missing entries. The mask of training `Rows` is `Rows` too.
      validation_factors: the factors of the validation images, (examples, factors), integers.
      missing_on_disk: NaN marks missing entries of the training `Rows`.
      column_types: types of the columns of a mixed table, whose text is stored as category codes. `data.to_table` turns
        examples into a table of these types. None: the data are not a mixed table.
    """

    name: str
    train: np.ndarray | Rows | SparseRows
    validation: np.ndarray | SparseRows | None
    test: np.ndarray | SparseRows
    test_labels: np.ndarray | None
    max_level: int | None
    split: str
    train_factors: np.ndarray | None = None
    test_factors: np.ndarray | None = None
    factor_names: tuple[str, ...] | None = None
    rendering: Rendering | None = None
    notes: tuple[str, ...] = ()
    train_labels: np.ndarray | None = None
    validation_labels: np.ndarray | None = None
    label_names: tuple[str, ...] | None = None
    column_names: tuple[str, ...] | None = None
    condition: Condition | None = None
    train_condition: np.ndarray | None = None
    validation_condition: np.ndarray | None = None
    test_condition: np.ndarray | None = None
    train_mask: np.ndarray | Rows | None = None
    validation_mask: np.ndarray | None = None
    test_mask: np.ndarray | None = None
    missing_on_disk: bool = False
    validation_factors: np.ndarray | None = None
    column_types: tuple[ColumnType, ...] | None = None

    @property
    def has_missing(self) -> bool:
        """True if entries are missing in any part."""
        masks = (self.train_mask, self.validation_mask, self.test_mask)
        return self.missing_on_disk or any(mask is not None for mask in masks)

    @property
    def missing_fraction(self) -> float:
        """Share of the entries that are missing, over all parts; in [0, 1]."""
        missing = total = 0
        for part, array in self.images_by_part().items():
            total += array.size
            if isinstance(array, Rows) and self.has_missing:
                missing += 0 if array.scan.observed is None else array.size - int(array.scan.observed.sum())
            elif (mask := getattr(self, f"{part}_mask")) is not None:
                missing += mask.size - int(np.count_nonzero(mask))
        return missing / total

    @property
    def train_counts(self) -> np.ndarray | None:
        """Number of training examples that have each entry, integers of shape `data_shape`; None where no entry is missing."""
        if isinstance(self.train, Rows):
            return self.train.scan.observed if self.missing_on_disk or self.train_mask is not None else None
        return self.train_mask.sum(axis=0) if isinstance(self.train_mask, np.ndarray) else None

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one example: (height, width, channels), (time, channels) or (columns,)."""
        return self.rendering.data_shape if self.rendering else self.train.shape[1:]

    @property
    def num_different(self) -> int:
        """Number of training images that an epoch goes through, or that it draws from where it draws new ones."""
        return self.rendering.num_images if self.rendering and self.rendering.draw else len(self.train)

    def images_by_part(self) -> dict[str, np.ndarray | Rows | SparseRows]:
        """Returns the arrays of the parts that the data set has; keys train, validation, test."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {part: array for part, array in parts.items() if array is not None}

    def images(self, rows: Array | np.ndarray) -> Array | np.ndarray:
        """Returns the images of stored rows.

        Args:
          rows: (examples, ...), of the validation or test set, or of a training set that is not drawn.

        Returns:
          (examples, height, width, channels), as levels or floats.
        """
        return rows if self.rendering is None else jax.vmap(self.rendering.render)(jnp.asarray(rows))

    def condition_of_rendered(self, rows: Array | np.ndarray) -> Array:
        """Returns the stored conditions of rows that are rendered, whose entries are the factors of their images.

        Args:
          rows: (examples, factors), integers, such as those that are drawn in a training step.

        Returns:
          (examples, columns of the condition), float32.
        """
        assert self.condition is not None
        assert self.factor_names is not None
        index = [self.factor_names.index(column.name) for column in self.condition.columns]
        return jnp.asarray(rows)[:, jnp.array(index)].astype(jnp.float32)

    def with_columns(self, index: Sequence[int]) -> "Dataset":
        """Returns the data set with some of the columns of its vectors, which are in memory."""
        index = list(index)
        changes: dict[str, Any] = {part: array[:, index] for part, array in self.images_by_part().items()}  # pyright: ignore
        for part in ("train", "validation", "test"):
            if (mask := getattr(self, f"{part}_mask")) is not None:
                changes[f"{part}_mask"] = mask[:, index]
        for field in ("column_names", "column_types"):
            if (values := getattr(self, field)) is not None:
                changes[field] = tuple(values[i] for i in index)
        return self._replace(**changes)

    @property
    def train_mean(self) -> np.ndarray:
        """Mean training example, of shape `data_shape`: in [0, 1] for levels, in the unit of the data for other numbers.

        The mean of an entry is over the examples that have it, and 0 if none does.
        """
        if self.rendering:
            return self.rendering.mean().astype(np.float32)
        return (self._stored_mean / (self.max_level or 1)).astype(np.float32)

    @property
    def _stored_mean(self) -> np.ndarray:
        """Mean training image before it is scaled, float64."""
        train, counts = self.train, self.train_counts
        size = len(train) if counts is None else np.maximum(counts, 1)
        if isinstance(train, Rows | SparseRows):
            return train.scan.total / size
        return sum(map(sum_images, chunks(train)), np.zeros(train.shape[1:])) / size

    @property
    def train_std(self) -> float:
        """Standard deviation of the training pixels about the mean image, in the unit of `train_mean`.

        It is positive for constant data too, and is 1 where no entry is observed. With missing entries it is the root of

            (sum of x^2 - sum over entries d of n_d mean_d^2) / sum of n_d

        over the observed values, of which there are n_d for entry d.
        """
        if self.rendering:
            mean = self.rendering.mean()
            return max(float(np.sqrt((mean - np.square(mean)).mean())), 1e-3)  # zeros and ones are their own squares
        train = self.train  # summed in chunks, so that no float copy of the data set is made
        is_scanned = isinstance(train, Rows | SparseRows)
        squares = train.scan.squares if is_scanned else sum(map(sum_squares, chunks(train)))
        if (counts := self.train_counts) is None:
            variance = squares / train.size - float(np.square(self._stored_mean).mean())
        elif counts.any():
            variance = (squares - float((counts * np.square(self._stored_mean)).sum())) / int(counts.sum())
        else:
            return 1.0
        std = float(np.sqrt(max(variance, 0.0))) / (self.max_level or 1)
        if self.max_level:
            return max(std, 1e-3)
        low, high = value_range(train)
        return max(std, 1e-6 * max(-low, high), 1e-30)

    def fingerprint(self) -> str:
        """Returns the SHA-256, in hexadecimal, of the shapes, types and bytes of all parts and the name of the rendering.

        Missing entries count as 0, whatever stands there, and the masks of parts with missing entries are added.
        """
        digest: Digest = hashlib.sha256(self.rendering.name.encode() if self.rendering else b"")
        for array in (self.train, self.validation, self.test):
            if isinstance(array, Rows):  # only the training set can be, and it comes first and has no rendering
                digest = array.scan.digest.copy()
            elif isinstance(array, SparseRows):
                array.update_digest(digest)
            elif array is not None:
                digest.update(header(array))
                digest.update(np.ascontiguousarray(array).data)
        if self.has_missing:
            for part, mask_digest in self._mask_digests().items():
                digest.update(part.encode() + mask_digest.encode())
        if self.condition is not None:
            digest.update(self.condition_fingerprint().encode())
        return digest.hexdigest()

    def condition_fingerprint(self) -> str:
        """Returns the SHA-256, in hexadecimal, of the columns, the categories and the values of the condition of all parts."""
        columns = () if self.condition is None else self.condition.columns
        digest = hashlib.sha256(json.dumps([[column.name, column.categories] for column in columns]).encode())
        for part, array in (
            ("train", self.train_condition),
            ("validation", self.validation_condition),
            ("test", self.test_condition),
        ):
            if array is not None:
                digest.update(f"{part}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array, np.float32).data)
        return digest.hexdigest()

    def _mask_digests(self) -> dict[str, str]:
        """Returns the SHA-256 of the mask of each part that has one."""
        digests = {}
        for part, array in self.images_by_part().items():
            mask = getattr(self, f"{part}_mask")
            if isinstance(array, Rows):
                if array.scan.observed is not None and array.scan.mask_digest is not None:
                    digests[part] = array.scan.mask_digest.hexdigest()
            elif mask is not None:
                digests[part] = hashlib.sha256(np.ascontiguousarray(mask).data).hexdigest()
        return digests
