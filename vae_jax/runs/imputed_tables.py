"""Imputed examples as tables: the original table with values in place of missing entries."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vae_jax.build import DataDescription
from vae_jax.data import column_proposals
from vae_jax.data.column_types import ColumnType, to_table
from vae_jax.data.readers.extras import optional_module
from vae_jax.errors import UserError

if TYPE_CHECKING:  # pyarrow is an optional dependency
    import pyarrow

TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".parq")


def original_table(path: Path) -> "pyarrow.Table | None":
    """Reads a table as it is, with all of its columns; None for a file in another format."""
    name = path.name.lower()
    if not path.is_file() or not name.endswith(TABLES):
        return None
    if name.endswith((".parquet", ".parq")):
        return optional_module(path, "pyarrow.parquet", "tables", "Parquet files").read_table(path, memory_map=False)
    from vae_jax.data.readers.tables import read_csv

    return read_csv(path)[1]


def column_types(description: DataDescription) -> tuple[ColumnType, ...]:
    """Returns the types of the columns of vectors. Raises `UserError` for examples of other shapes."""
    shape = description.facts.data_shape
    if len(shape) != 1:
        raise UserError(
            f"expected a name ending in .npz or .npy for examples of shape {shape}, because tables have vectors.", field="out"
        )
    names, dtype = description.column_names, np.dtype(description.dtype)
    return description.column_types or column_proposals.types_of_numbers(shape[0], names, dtype)


def completed_table(original: "pyarrow.Table | None", types: Sequence[ColumnType], values: np.ndarray) -> "pyarrow.Table":
    """Returns a table of imputed examples.

    Args:
      original: the table that was read. Its cells that have a value stay as they are, in all columns, and so do its types:
        imputed values of integer columns are rounded. None: a new table is made of the model's columns.
      types: from `column_types`.
      values: imputed examples in the stored unit, (examples, columns).
    """
    if values.dtype == np.float32:  # the float64 numbers with the same shortest decimals
        values = values.astype(str).astype(np.float64)
    if original is None:
        return to_table(types, values)
    import pyarrow
    import pyarrow.compute

    pc: Any = pyarrow.compute  # its functions are made when it is imported
    table = original
    for j, kind in enumerate(types):
        if kind.name not in table.column_names:  # the model has no part in it
            continue
        place = table.column_names.index(kind.name)
        column = table.column(place)
        is_missing = pc.is_null(column, nan_is_null=True)
        if not pc.any(is_missing).as_py():
            continue
        filler = to_table([_type_of(column.type, kind)], values[:, j : j + 1]).column(0)
        filler = _cast(filler, column.type)
        filled = pc.if_else(is_missing, filler, column)
        table = table.set_column(place, pyarrow.field(kind.name, filled.type), filled)
    return table


def _type_of(dtype: "pyarrow.DataType", kind: ColumnType) -> ColumnType:
    """Returns the type of the imputed values of a column that is stored with a type of pyarrow."""
    import pyarrow.types

    if kind.categories is not None:
        return kind._replace(dtype="string")
    if pyarrow.types.is_null(dtype):  # the column has no value in the file
        return kind
    if pyarrow.types.is_boolean(dtype):
        return kind._replace(dtype="bool")
    return kind._replace(dtype=str(dtype) if pyarrow.types.is_integer(dtype) else "float64")


def _cast(column: "pyarrow.ChunkedArray", dtype: "pyarrow.DataType") -> "pyarrow.ChunkedArray":
    """Converts imputed values to the type of their column. A column without any value gets the type of its numbers."""
    import pyarrow.types

    if pyarrow.types.is_null(dtype):
        return column
    if pyarrow.types.is_dictionary(dtype):
        return column.cast(dtype.value_type).dictionary_encode().cast(dtype)
    return column.cast(dtype, safe=False)


def stacked_table(tables: "list[pyarrow.Table]") -> "pyarrow.Table":
    """Stacks several imputations, with their number 1, 2, ... in a first column `imputation`."""
    import pyarrow

    numbered = [
        table.add_column(0, "imputation", pyarrow.array(np.full(table.num_rows, number, np.int64)))
        for number, table in enumerate(tables, 1)
    ]
    return pyarrow.concat_tables(numbered, promote_options="permissive")
