"""Factors from which the images of a data set were made: classes of values, and factors that never vary."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vae_jax.data.readers.listing import joined


class Factors(NamedTuple):
    """Factors of a data set, as the fields of a `Split`.

    Attributes:
      train: classes of the training images, (examples, factors), integers from 0.
      test: classes of the test images, or None.
      names: a name for each column.
      notes: a note on factors that were left out.
    """

    train: np.ndarray
    test: np.ndarray | None
    names: tuple[str, ...]
    notes: tuple[str, ...]


def varying_factors(name: str, names: Sequence[str], train: np.ndarray, test: np.ndarray | None = None) -> Factors:
    """Leaves out the factors that have the same value in all images, which no metric of disentanglement can score.

    Args:
      name: the data set, for the note.
      names: a name for each factor.
      train: classes, (examples, factors), integers.
      test: the same for the test images, if there are any.
    """
    parts = [train] if test is None else [train, test]
    low = np.min([part.min(axis=0) for part in parts], axis=0)
    high = np.max([part.max(axis=0) for part in parts], axis=0)
    varies = low < high
    notes: tuple[str, ...] = ()
    if not varies.all():
        constant = [name for name, does_vary in zip(names, varies, strict=True) if not does_vary]
        noun, verb = ("factor", "has") if len(constant) == 1 else ("factors", "have")
        notes = (
            f"{name}: the {noun} {joined(constant, limit=10)} {verb} one value in all images and {_be(constant)} left out.",
        )
    dtype = np.uint8 if low.min() >= 0 and high.max() <= 255 else np.int32
    train, *rest = (np.ascontiguousarray(part[:, varies], dtype) for part in parts)
    kept = tuple(name for name, does_vary in zip(names, varies, strict=True) if does_vary)
    return Factors(train, rest[0] if rest else None, kept, notes)


def _be(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def classes_of_values(values: np.ndarray) -> np.ndarray:
    """Numbers the distinct values of each column in ascending order: (examples, factors), floats to integers.

    Example:
      >>> classes_of_values(np.array([[0.5, 3.0], [1.0, 3.0], [0.5, 1.0]])).tolist()
      [[0, 1], [1, 1], [0, 0]]
    """
    return np.stack([np.unique(column, return_inverse=True)[1] for column in values.T], axis=1)


def grid_factors(sizes: Sequence[int]) -> np.ndarray:
    """Returns the factors of images that go through a grid in C order, the last factor fastest: (prod(sizes), factors), uint8.

    Example:
      >>> grid_factors([2, 3]).tolist()
      [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    """
    index = np.arange(math.prod(sizes))
    return np.stack([level.astype(np.uint8) for level in np.unravel_index(index, tuple(sizes))], axis=1)
