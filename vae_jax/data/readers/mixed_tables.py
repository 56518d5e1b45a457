"""Columns of mixed tables: text becomes category codes, missing values become NaN, and the types of the table are kept."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vae_jax.data.column_types import ColumnType
from vae_jax.data.readers.arrow_columns import kind_of_type
from vae_jax.data.readers.listing import UNREADABLE, joined
from vae_jax.errors import UserError

if TYPE_CHECKING:  # pyarrow is an optional dependency
    import pyarrow

_LARGEST_EXACT = 2**24  # of float32


def mixed_columns(name: str, table: "pyarrow.Table", columns: Sequence[str]) -> tuple[np.ndarray, tuple[ColumnType, ...]]:
    """Returns columns of a table as numbers, with their types.

    Text becomes the codes 0, 1, 2, ... of its categories, in sorted order, or in the order of a categorical column of pandas.
    Booleans become 0 and 1. Other numbers stay as they are. Missing values become NaN.

    Args:
      name: the data set, for messages.
      table: the table.
      columns: the names of the columns to take.

    Returns:
      numbers: (rows, columns), int64 if all are whole numbers without missing values, else float64.
      types: one for each column.

    Raises:
      UserError: columns without values, or of types such as dates and lists, that are neither numbers nor text.
    """
    empty = [column for column in columns if table.column(column).null_count == table.num_rows]
    if empty:
        raise UserError(f"{name}: the columns {joined(empty)} have no values. Leave them out: df.dropna(axis=1, how='all').")
    if other := [column for column in columns if kind_of_type(table.column(column).type) == "other"]:
        kinds = joined(f"{column} ({table.column(column).type})" for column in other)
        raise UserError(f"{name}: expected columns of numbers or text, got {kinds}. Leave them out or convert them to numbers.")
    converted = [_column(name, column, table.column(column)) for column in columns]
    arrays, types = [array for array, _ in converted], tuple(kind for _, kind in converted)
    is_whole = all(array.dtype.kind == "i" and np.abs(array).max() <= _LARGEST_EXACT for array in arrays)
    return np.stack(arrays, axis=1, dtype=np.int64 if is_whole else np.float64), types


def _column(name: str, column: str, values: "pyarrow.ChunkedArray") -> tuple[np.ndarray, ColumnType]:
    """Returns one column as numbers, and its type."""
    import pyarrow.types as types

    kind, is_dictionary = kind_of_type(values.type), types.is_dictionary(values.type)
    if kind == "text":
        return _text_column(name, column, values, is_dictionary)
    if is_dictionary:
        values = values.cast(values.type.value_type)
    dtype = "bool" if kind == "bool" else np.dtype(values.type.to_pandas_dtype()).name
    if kind != "float" and not values.null_count:
        array = np.asarray(values.to_numpy())
        if array.dtype == np.uint64 and array.max() >= 2**63:
            return array.astype(np.float64), ColumnType(column, None, dtype)
        return array.astype(np.int64), ColumnType(column, None, dtype)
    is_missing = np.asarray(values.is_null().to_numpy())
    filled = values.fill_null(False if kind == "bool" else 0)
    return np.where(is_missing, np.nan, np.asarray(filled.to_numpy(), np.float64)), ColumnType(column, None, dtype)


def _text_column(name: str, column: str, values: "pyarrow.ChunkedArray", is_dictionary: bool) -> tuple[np.ndarray, ColumnType]:
    """Returns the codes of a column of text, and its type with the categories."""
    try:
        encoded = (values if is_dictionary else values.dictionary_encode()).unify_dictionaries().combine_chunks()
        # With a single chunk combine_chunks returns an array, with none or several of them a chunked one.
        encoded = encoded.chunk(0) if hasattr(encoded, "chunk") else encoded
        texts = [text.decode() if isinstance(text, bytes) else text for text in encoded.dictionary.to_pylist()]
    except UnicodeDecodeError:
        raise UserError(f"{name}: expected text in UTF-8 in the column {column!r}. Save it in UTF-8.") from None
    except UNREADABLE as error:
        raise UserError(f"{name}: the column {column!r} cannot be read: {' '.join(str(error).split())[:200]}.") from None
    order = list(range(len(texts))) if is_dictionary else sorted(range(len(texts)), key=texts.__getitem__)
    place = np.empty(len(texts), np.int64)
    place[order] = np.arange(len(texts))
    is_missing = np.asarray(encoded.indices.is_null().to_numpy(zero_copy_only=False))
    index = np.asarray(encoded.indices.fill_null(0).to_numpy(zero_copy_only=False))
    codes = place[index] if len(texts) else np.zeros(len(index), np.int64)
    categories = tuple(texts[i] for i in order)
    kept = np.where(is_missing, np.nan, codes) if is_missing.any() else codes
    return kept, ColumnType(column, categories, "category" if is_dictionary else "string")


def recoded(name: str, examples: np.ndarray, types: Sequence[ColumnType], common: Sequence[ColumnType]) -> np.ndarray:
    """Returns examples of one file with the category codes of another file.

    Args:
      name: the file of the examples, for messages.
      examples: (rows, columns), numbers as `mixed_columns` returns them.
      types: their types.
      common: types with the categories that the codes are to mean.

    Raises:
      UserError: a category that `common` does not have, or a column of text that has numbers there.
    """
    changed = None
    for i, (kind, other) in enumerate(zip(types, common, strict=True)):
        if kind.categories == other.categories:
            continue
        if kind.categories is None or other.categories is None:
            kinds = ["numbers" if kind.categories is None else "text" for kind in (other, kind)]
            raise UserError(f"{name}: expected {kinds[0]} in the column {kind.name!r}, as in the training set, got {kinds[1]}.")
        codes = {category: code for code, category in enumerate(other.categories)}
        values = examples[:, i]
        present = np.unique(values[~np.isnan(values)]).astype(int)
        unseen = [kind.categories[code] for code in present if kind.categories[code] not in codes]
        if unseen:
            raise UserError(
                f"{name}: the column {kind.name!r} has categories that the training set does not have: {joined(unseen)}.",
                fix="Leave out these rows, or move some of them into the training set.",
            )
        lookup = np.array([codes.get(category, -1) for category in kind.categories], np.float64)
        changed = examples.astype(np.float64) if changed is None else changed
        changed[:, i] = np.where(np.isnan(values), np.nan, lookup[np.where(np.isnan(values), 0, values).astype(int)])
    return examples if changed is None else changed.astype(examples.dtype)


def union_of_types(types: Sequence[Sequence[ColumnType]]) -> tuple[ColumnType, ...]:
    """Returns the types of tables that are the rows of one: categories of text in sorted order, of all of them."""
    joined_types = []
    for same in zip(*types, strict=True):
        first = same[0]
        known: Mapping[str, None] = dict.fromkeys(category for kind in same for category in kind.categories or ())
        if first.categories is not None and any(kind.categories != first.categories for kind in same):
            first = first._replace(categories=tuple(sorted(known) if first.dtype == "string" else known))
        joined_types.append(first)
    return tuple(joined_types)
