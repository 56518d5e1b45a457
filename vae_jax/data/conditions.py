"""`Condition`: the columns on which a model is conditioned, and their conversion to the numbers that networks take."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax._numerics.short_repr import short_repr
from vae_jax.errors import UserError

_MAX_LISTED = 8  # categories that a message lists


class ConditionColumn(NamedTuple):
    """One column of a condition: a category or a real number.

    Attributes:
      name: such as "label" or the name of a column of a table.
      categories: name of each category, by its code 0, 1, 2, ...; None: the column is a real number.
      mean, std: moments of a real number over the training set, by which it is standardized.
    """

    name: str
    categories: tuple[str, ...] | None = None
    mean: float = 0.0
    std: float = 1.0

    @property
    def width(self) -> int:
        """Numbers that a network sees for this column."""
        return 1 if self.categories is None else len(self.categories)


@short_repr
class Condition(NamedTuple):
    """The columns of a condition c. Splits store them as one float for each column: a code or the number itself."""

    columns: tuple[ConditionColumn, ...]

    @property
    def dim(self) -> int:
        """Length of the condition as networks take it: one-hot categories and standardized numbers."""
        return sum(column.width for column in self.columns)

    def expand(self, stored: Array | np.ndarray) -> Array:
        """Converts stored conditions to the floats that networks take.

        Args:
          stored: (..., columns), float32.

        Returns:
          (..., dim), float32: categories as one-hot vectors, real numbers as (c - mean) / std.
        """
        stored = jnp.asarray(stored)
        parts = []
        for i, column in enumerate(self.columns):
            values = stored[..., i]
            if column.categories is None:
                parts.append(((values - column.mean) / column.std)[..., None])
            else:
                parts.append(jax.nn.one_hot(values.astype(jnp.int32), column.width))
        return jnp.concatenate(parts, axis=-1)

    def describe(self) -> str:
        """Returns a phrase such as "label (10 categories), age"."""
        named = (f"{c.name} ({len(c.categories)} categories)" if c.categories is not None else c.name for c in self.columns)
        return ", ".join(named)


Columns = Mapping[str, np.ndarray]  # one (examples,) array of numbers or words for each column, by name


def make_condition(
    name: str, by_part: Mapping[str, Columns], known_names: Mapping[str, Sequence[str]] | None = None
) -> tuple[Condition, dict[str, np.ndarray]]:
    """Numbers the categories, computes the moments of real columns, and stores the conditions of all parts.

    Whole numbers, booleans and words are categories: those of the training set, in sorted order. Other numbers are real.

    Args:
      name: the data set, for messages.
      by_part: the columns of each part; keys train, validation, test. All parts have the same columns.
      known_names: the names of all categories of a column whose values are 0, 1, 2, ..., such as the names of the labels.

    Returns:
      The `Condition`, and the stored conditions of each part, (examples, columns), float32.

    Raises:
      UserError: columns that are missing in a part, a category that is not in the training set, numbers that are not finite.
    """
    names = list(by_part["train"])
    for part, columns in by_part.items():
        if list(columns) != names:
            raise UserError(
                f"{name}: expected the condition's columns {', '.join(names)} in all parts, got {', '.join(columns)} in "
                f"{part}.",
                field="condition",
            )
    made, stored = [], {part: [] for part in by_part}
    for column in names:
        made.append(_make_column(name, column, {part: by_part[part][column] for part in by_part}, known_names or {}))
        for part in by_part:
            stored[part].append(store_column(name, made[-1], by_part[part][column], part))
    return Condition(tuple(made)), {part: np.stack(arrays, axis=1) for part, arrays in stored.items()}


def _make_column(
    name: str, column: str, by_part: Mapping[str, np.ndarray], known_names: Mapping[str, Sequence[str]]
) -> ConditionColumn:
    """Returns what a column of the training set makes of it: its categories, or its moments."""
    train = np.asarray(by_part["train"])
    if train.dtype.kind == "f":
        if not np.isfinite(train).all():
            raise UserError(f"{name}: expected finite numbers in the condition {column!r}, got NaN or infinite ones.")
        mean, std = float(train.mean(dtype=np.float64)), float(train.std(dtype=np.float64))
        return ConditionColumn(column, None, mean, std if std > 1e-9 * abs(mean) else 1.0)
    if column in known_names:
        return ConditionColumn(column, tuple(known_names[column]))
    return ConditionColumn(column, tuple(map(str, np.unique(train).tolist())))


def store_column(name: str, column: ConditionColumn, values: np.ndarray, part: str) -> np.ndarray:
    """Returns the float32 numbers that stand for the values of a column.

    Raises:
      UserError: a category that was not in the training set, or a number that is not finite.
    """
    values = np.asarray(values)
    if column.categories is None:
        try:
            numbers = values.astype(np.float32)
        except ValueError:
            got = f"{values.ravel()[0]!r}"
            raise UserError(f"{name}: expected numbers in the condition {column.name!r} of {part}, got {got}.") from None
        if not np.isfinite(numbers).all():
            raise UserError(f"{name}: expected finite numbers in the condition {column.name!r} of {part}, got NaN or infinite.")
        return numbers
    codes = {category: code for code, category in enumerate(column.categories)}
    distinct, index = np.unique(values, return_inverse=True)
    unseen = [str(value) for value in distinct.tolist() if str(value) not in codes]
    if unseen:
        listed = ", ".join(map(repr, unseen[:_MAX_LISTED])) + (", ..." if len(unseen) > _MAX_LISTED else "")
        raise UserError(
            f"{name}: the condition {column.name!r} has categories in {part} that the training set does not have: {listed}.",
            fix="Leave out these examples, or move some of them into the training set.",
        )
    return np.array([codes[str(value)] for value in distinct.tolist()], np.float32)[index.reshape(values.shape)]
