"""`Condition`: the columns on which a model is conditioned, and their conversion to the numbers that networks take."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax._numerics.short_repr import short_repr
from vae_jax.data.readers.condition_columns import missing_values, wrong_type
from vae_jax.errors import UserError

_MAX_LISTED = 8  # categories that a message lists
_MIN_SPREAD = 1e-5  # least standard deviation in units of the mean; float32 resolves 6e-8 of it
_MISSING_NAMES = ("nan", "None", "NaN", "<NA>", "NaT")
_PARTS = {"train": "training", "validation": "validation", "test": "test", "new": "new"}


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
      known_names: the names of the values 0, 1, 2, ... of a column, such as the names of the labels. Its categories are the
        names of those values that are in the training set, in the order of the values.

    Returns:
      The `Condition`, and the stored conditions of each part, (examples, columns), float32.

    Raises:
      UserError: columns that are missing in a part, a category that is not in the training set, numbers that are not finite,
        values that are neither numbers nor words.
    """
    names = list(by_part["train"])
    for part, columns in by_part.items():
        if list(columns) != names:
            raise UserError(
                f"{name}: expected the condition's columns {', '.join(names)} in all parts, got {', '.join(columns)} in "
                f"{_PARTS[part]}.",
                field="condition",
            )
    made: list[ConditionColumn] = []
    stored: dict[str, list[np.ndarray]] = {part: [] for part in by_part}
    for column in names:
        values = {part: checked_values(name, column, by_part[part][column], part) for part in by_part}
        known = (known_names or {}).get(column)
        if known is not None and len(set(known)) == len(known):
            made.append(ConditionColumn(column, tuple(str(known[code]) for code in np.unique(values["train"]))))
            values = {part: np.array(known, dtype=np.str_)[codes] for part, codes in values.items()}
        else:
            made.append(_make_column(name, column, values["train"]))
        for part in by_part:
            stored[part].append(store_column(name, made[-1], values[part], part))
    return Condition(tuple(made)), {part: np.stack(arrays, axis=1) for part, arrays in stored.items()}


def checked_values(name: str, column: str, values: np.ndarray, part: str) -> np.ndarray:
    """Returns the values of a column as integers, booleans, words (str) or finite floats.

    Args:
      name: the data set, for messages.
      column: the column, for messages.
      values: (examples,), of any type.
      part: train, validation or test, for messages.

    Raises:
      UserError: missing values, values that are neither numbers nor words, such as dates, or several kinds of them.
    """
    values = np.asarray(values)
    if values.ndim != 1:
        raise UserError(
            f"{name}: expected a number or a word for each example in the condition {column!r}, got shape {values.shape}.",
            field="condition",
        )
    if values.dtype.kind == "O":
        values = _from_objects(name, column, values)
    if values.dtype.kind == "S":
        try:
            values = np.char.decode(values)
        except UnicodeDecodeError:
            raise UserError(f"{name}: expected text in UTF-8 in the condition {column!r}.", field="condition") from None
    elif values.dtype.kind == "T":
        values = values.astype(np.str_)
    if values.dtype.kind not in "biufU":
        raise wrong_type(name, column, str(values.dtype))
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            finite = np.isfinite(values.astype(np.float32))
        if count := int(np.isnan(values).sum()):
            is_real = bool((values[finite] != np.round(values[finite])).any())
            raise missing_values(f"{name}: {_PARTS[part]} examples", column, count, is_real)
        if not finite.all():
            raise UserError(
                f"{name}: expected finite numbers within the range of float32 in the condition {column!r}, got "
                f"{values[~finite][0]} in {_PARTS[part]}, and {int((~finite).sum())} such numbers in all.",
                field="condition",
                fix="Replace or rescale them, or leave these rows out.",
            )
    return values


def _from_objects(name: str, column: str, values: np.ndarray) -> np.ndarray:
    """Converts an array of Python objects of one kind."""
    objects = values.tolist()
    # None, and the missing values of NumPy and pandas, which are not equal to themselves or have no truth value.
    missing = sum(
        one is None or type(one).__name__ in ("NAType", "NaTType") or (isinstance(one, float) and one != one) for one in objects
    )
    if missing:
        raise missing_values(name, column, missing)
    kinds = {type(one) for one in objects}
    for kind, dtype in ((bool | np.bool_, np.bool_), (str, np.str_), (bytes, np.bytes_)):
        if all(issubclass(one, kind) for one in kinds):
            return np.array(objects, dtype)
    is_whole = all(issubclass(one, int | np.integer) and one is not bool for one in kinds)
    if is_whole or all(issubclass(one, int | float | np.number) and one is not bool for one in kinds):
        try:
            return np.array(objects, np.int64 if is_whole else np.float64)
        except OverflowError:
            return np.array(list(map(str, objects)))
    raise wrong_type(name, column, "values of type " + " and ".join(sorted(kind.__name__ for kind in kinds)))


def _make_column(name: str, column: str, train: np.ndarray) -> ConditionColumn:
    """Returns what a column of the training set makes of it: its categories, or its moments."""
    if train.dtype.kind != "f":
        return ConditionColumn(column, tuple(map(str, np.unique(train).tolist())))
    mean, std = float(train.mean(dtype=np.float64)), float(train.std(dtype=np.float64))
    if train.min() == train.max():
        return ConditionColumn(column, None, float(train[0]), 1.0)
    if std < _MIN_SPREAD * abs(mean):
        raise UserError(
            f"{name}: the condition {column!r} has the mean {mean:.9g} and the standard deviation {std:.3g}, which "
            "float32 does not resolve.",
            field="condition",
            fix=f"Subtract the mean: x - {mean:.9g}.",
        )
    return ConditionColumn(column, None, mean, std)


def store_column(name: str, column: ConditionColumn, values: np.ndarray, part: str) -> np.ndarray:
    """Returns the float32 numbers that stand for the values of a column.

    Raises:
      UserError: a category that was not in the training set, or a number that is not finite.
    """
    values = checked_values(name, column.name, values, part)
    if column.categories is None:
        if values.dtype.kind == "U":
            raise UserError(
                f"{name}: expected numbers in the condition {column.name!r} of {_PARTS[part]}, as in training, got "
                f"{str(values[0])!r}.",
                field="condition",
            )
        return values.astype(np.float32)
    codes = {category: code for code, category in enumerate(column.categories)}
    distinct, index = np.unique(values, return_inverse=True)
    if values.dtype.kind == "f":
        raise UserError(
            f"{name}: the condition {column.name!r} has categories in training and real numbers such as {distinct[0]} in "
            f"{_PARTS[part]}.",
            field="condition",
            fix="Save one type in all parts: integers for categories, floats for real numbers.",
        )
    unseen = [(str(value), i) for i, value in enumerate(distinct.tolist()) if str(value) not in codes]
    if unseen:
        counts = np.bincount(index, minlength=len(distinct))
        total = int(sum(counts[i] for _, i in unseen))
        listed = ", ".join(repr(category) for category, _ in unseen[:_MAX_LISTED]) + (
            ", ..." if len(unseen) > _MAX_LISTED else ""
        )
        noun = "category" if len(unseen) == 1 else "categories"
        fix = f"Leave out {'this example' if total == 1 else f'these {total} examples'}, or move some into the training set."
        if values.dtype.kind in "iu":
            fix += " If the numbers are quantities rather than categories, save them as floats."
        raise UserError(
            f"{name}: the condition {column.name!r} has {len(unseen)} {noun} in {total} of {len(values)} {_PARTS[part]} "
            f"examples that no training example has: {listed}.",
            field="condition",
            fix=fix,
        )
    return np.array([codes[str(value)] for value in distinct.tolist()], np.float32)[index.reshape(values.shape)]


def notes_on_condition(name: str, condition: Condition, stored_train: np.ndarray) -> list[str]:
    """Returns notes on columns that the user may have meant differently.

    Args:
      name: the data set.
      condition: made of the training set.
      stored_train: the stored conditions of the training set, (examples, columns).
    """
    notes = []
    for column, values in zip(condition.columns, stored_train.T, strict=True):
        text = f"{name}: the condition {column.name!r}"
        if len(values) > 1 and (values == values[0]).all():
            notes.append(f"{text} has a single value in training, so a model learns nothing from it.")
        elif column.categories is None and np.array_equal(values, np.round(values)):
            notes.append(
                f"{text} holds whole numbers stored as floats, which are taken as real numbers. For categories save them as "
                "integers, such as x.astype(int)."
            )
        elif column.categories is not None:
            if suspicious := [category for category in column.categories if category in _MISSING_NAMES]:
                notes.append(f"{text} has a category {suspicious[0]!r}. If it stands for missing values, leave these rows out.")
            if len(column.categories) * 2 > len(values) > 2:
                notes.append(
                    f"{text} has {len(column.categories)} categories for {len(values)} training examples. If it numbers the "
                    "examples, leave it out. If it is a quantity, save it as floats."
                )
    return notes
