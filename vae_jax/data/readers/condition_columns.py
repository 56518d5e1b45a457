"""Columns of tables that are conditions: their values as numbers or words, before they are checked."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vae_jax.data.readers.arrow_columns import kind_of_type, texts_of_column
from vae_jax.data.readers.listing import joined
from vae_jax.errors import UserError, unknown

if TYPE_CHECKING:  # pyarrow is an optional dependency
    import pyarrow


def check_columns_exist(name: str, names: Sequence[str], known: Sequence[str], kind: str = "columns") -> None:
    """Raises `UserError` with the near names for a name of a condition that is not among the columns.

    Args:
      name: the source, for messages.
      names: the names of the condition.
      known: the names of the columns.
      kind: the columns that are meant, in the plural, for messages.
    """
    for wanted in names:
        if wanted not in known:
            raise unknown("column", wanted, known, f" `condition` expects {kind} of {name}.")


def columns_of_table(name: str, table: "pyarrow.Table", names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns columns of a table of pyarrow: text, booleans, whole numbers, or floats.

    Raises:
      UserError: a column that is not there, a column of another type, or missing values.
    """
    check_columns_exist(name, names, [str(column) for column in table.column_names])
    return {column: _values(name, column, table.column(column)) for column in names}


def _values(name: str, column: str, values: "pyarrow.ChunkedArray") -> np.ndarray:
    import pyarrow.types

    if values.null_count:
        is_float = pyarrow.types.is_floating(values.type)
        numbers = np.asarray(values.drop_null().to_numpy()) if is_float else np.zeros(0)
        raise missing_values(name, column, values.null_count, bool((numbers != np.round(numbers)).any()))

    if pyarrow.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = kind_of_type(values.type)
    if kind == "other":
        raise wrong_type(name, column, str(values.type))
    if kind == "text":
        return np.array(texts_of_column(name, column, values), dtype=np.str_)
    return np.asarray(values.to_numpy())


def missing_values(name: str, column: str, count: int, is_real: bool = False) -> UserError:
    """Returns the error for missing values of a condition, whose column is a real number or else a category."""
    if is_real:
        more = f"Or fill them in, such as by df[{column!r}].fillna(df[{column!r}].mean())."
    else:
        more = "Or give missing values a category of their own, such as "
        more += f"df[{column!r}].astype(object).fillna('missing').astype(str)."
    return UserError(
        f"{name}: expected a value of the condition {column!r} for every example, and {count} are missing.",
        field="condition",
        fix=f"Leave these rows out, such as df.dropna(subset=[{column!r}]). {more}",
    )


def wrong_type(name: str, column: str, dtype: str) -> UserError:
    """Returns the error for values of a condition that are neither numbers nor words."""
    return UserError(
        f"{name}: expected numbers or words in the condition {column!r}, got {dtype}.",
        field="condition",
        fix="Convert it: numbers such as days since a first date for a real condition, or words for categories.",
    )


def named_codes(names: Sequence[str], codes: np.ndarray) -> np.ndarray:
    """Returns the name of each code 0, 1, 2, ..., or the codes themselves where two have the same name."""
    return np.array(names, dtype=np.str_)[codes] if len(set(names)) == len(names) else codes


def joined_columns(name: str, pieces: Sequence[tuple[str, Mapping[str, np.ndarray] | None]]) -> dict[str, np.ndarray] | None:
    """Joins the columns of several files of one part; None where none has any.

    Args:
      name: the part, for messages.
      pieces: the name of each file, and its columns.
    """
    if all(columns is None for _, columns in pieces):
        return None
    first_name, first = pieces[0]
    for file, columns in pieces:
        if columns is None or first is None or list(columns) != list(first):
            got = "none" if not columns else joined(columns)
            expected = "none" if not first else joined(first)
            raise UserError(
                f"{name}: expected the same condition in all files, got {expected} in {first_name}, {got} in {file}."
            )
    assert first is not None
    kinds = {column: {_kind(columns[column]) for _, columns in pieces if columns} for column in first}
    if mixed := [column for column, types_of_column in kinds.items() if len(types_of_column) > 1]:
        got = " and ".join(sorted(kinds[mixed[0]]))
        raise UserError(f"{name}: expected one type of the condition {mixed[0]!r} in all files, got {got}. Save one type.")
    return {column: np.concatenate([columns[column] for _, columns in pieces if columns]) for column in first}


def _kind(values: np.ndarray) -> str:
    return {"f": "floats", "b": "booleans", "i": "integers", "u": "integers"}.get(values.dtype.kind, "words")
