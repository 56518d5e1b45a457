"""Columns of tables of pyarrow: their kinds, their numbers and their texts. pyarrow is imported by whoever made the table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from vae_jax.data.readers.listing import joined
from vae_jax.errors import UserError

if TYPE_CHECKING:  # pyarrow is an optional dependency
    import pyarrow

Kind = Literal["bool", "int", "float", "text", "other"]


def check_distinct_names(name: str, names: Sequence[str]) -> None:
    """Raises `UserError` for columns that have the same name.

    Args:
      name: the table, for messages.
      names: of its columns.
    """
    if twice := sorted({column for column in names if names.count(column) > 1}):
        raise UserError(f"{name}: expected columns of different names, got {joined(twice)} several times. Rename them.")


def kind_of_type(dtype: "pyarrow.DataType") -> Kind:
    """Returns the kind of the values of a column; of a dictionary, that of the values that it stands for."""
    import pyarrow.types as types

    if types.is_dictionary(dtype):
        dtype = dtype.value_type
    if types.is_boolean(dtype):
        return "bool"
    if types.is_integer(dtype):
        return "int"
    if types.is_floating(dtype):
        return "float"
    is_text = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    return "text" if any(test(dtype) for test in is_text) else "other"


def numbers_of_column(column: "pyarrow.ChunkedArray | pyarrow.Array") -> np.ndarray:
    """Returns a column as an array. Missing numbers become NaN, also those of booleans and of a column without any value."""
    if column.null_count == len(column):  # its type may be null
        return np.full(len(column), np.nan)
    if column.null_count and kind_of_type(column.type) == "bool":
        column = column.cast("uint8")
    # A chunked array has no argument `zero_copy_only`, and a single chunk is copied only where it must be.
    return column.to_numpy() if hasattr(column, "chunks") else column.to_numpy(zero_copy_only=False)


def texts_of_column(name: str, column: str, values: "pyarrow.ChunkedArray | pyarrow.Array") -> list[str]:
    """Returns the texts of a column without missing values, without spaces around them.

    Args:
      name: the table, for messages.
      column: the name of the column, for messages.
      values: strings, or bytes in UTF-8.

    Raises:
      UserError: bytes that are not UTF-8.
    """
    try:
        return [(value.decode() if isinstance(value, bytes) else value).strip() for value in values.to_pylist()]
    except UnicodeDecodeError:
        raise UserError(f"{name}: expected text in UTF-8 in the column {column!r}. Save it in UTF-8.") from None
