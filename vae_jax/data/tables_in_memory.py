"""Tables of pandas and pyarrow in memory as columns of NumPy arrays."""

import sys
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from vae_jax.data.column_types import ColumnType
from vae_jax.data.readers.arrow_columns import check_distinct_names, numbers_of_column
from vae_jax.data.readers.extras import optional_module
from vae_jax.data.readers.listing import joined
from vae_jax.data.readers.mixed_tables import mixed_columns
from vae_jax.errors import UserError

# Objects of NumPy, JAX, pandas, pyarrow or scipy, which are not imported here.
Examples: TypeAlias = Any
_NUMBERS = "fbui"


class TableColumns(NamedTuple):
    """Columns of a table by name, in its order, and the method that drops some of them, for messages."""

    columns: dict[str, np.ndarray]
    drop: str
    mixed: dict[str, ColumnType] | None = None  # types of the columns of a mixed table, whose text is stored as codes

    def labels(self, name: str) -> np.ndarray:
        """Returns a column as labels; those of text as text."""
        categories = None if self.mixed is None else self.mixed[name].categories
        values = self.columns[name]
        if categories is None or np.isnan(values).any():
            return values
        return np.array(categories)[values.astype(int)]

    def without(self, name: str) -> "TableColumns":
        return self._replace(columns={column: values for column, values in self.columns.items() if column != name})


def as_table(name: str, examples: Examples) -> TableColumns | None:
    """Returns the columns of a DataFrame of pandas or a table of pyarrow; None for anything else.

    A library that is not imported has made nothing, so none is imported here.
    """
    pandas, pyarrow = sys.modules.get("pandas"), sys.modules.get("pyarrow")
    if pandas is not None and isinstance(examples, pandas.DataFrame):
        names = [str(column) for column in examples.columns]
        columns, drop = [_as_column(examples.iloc[:, i]) for i in range(len(names))], "drop(columns={})"
    elif pyarrow is not None and isinstance(examples, pyarrow.Table | pyarrow.RecordBatch):
        names = list(examples.schema.names)
        columns, drop = [numbers_of_column(examples.column(i)) for i in range(len(names))], "drop_columns({})"
    else:
        return None
    check_distinct_names(name, names)
    return TableColumns(dict(zip(names, columns, strict=True)), drop)


def as_mixed_table(name: str, examples: Examples) -> TableColumns:
    """Returns a DataFrame of pandas or a table of pyarrow as numbers, with the types of its columns."""
    pandas, pyarrow = sys.modules.get("pandas"), sys.modules.get("pyarrow")
    if pandas is not None and isinstance(examples, pandas.DataFrame):
        pyarrow = optional_module(Path(name), "pyarrow", "tables", "tables")
        try:
            examples = pyarrow.Table.from_pandas(examples.rename(columns=str), preserve_index=False)
        except (TypeError, ValueError) as error:  # a column of objects of several kinds
            raise UserError(f"{name}: a column has values of several types. {' '.join(str(error).split())[:200]}.") from None
    if pyarrow is not None and isinstance(examples, pyarrow.RecordBatch):
        examples = pyarrow.Table.from_batches([examples])
    if pyarrow is None or not isinstance(examples, pyarrow.Table):
        got = type(examples).__name__
        raise UserError(f"{name}: expected a table of pandas or pyarrow with `mixed=True`, got a {got}. Leave it out.")
    names = [str(column) for column in examples.column_names]
    check_distinct_names(name, names)
    if not names or not examples.num_rows:
        raise UserError(f"{name}: expected a table with rows and columns, got {examples.num_rows} x {len(names)}.")
    numbers, types = mixed_columns(name, examples, names)
    columns = {column: numbers[:, i] for i, column in enumerate(names)}
    return TableColumns(columns, "drop(columns={})", {kind.name: kind for kind in types})


def _as_column(series: Examples) -> np.ndarray:
    """Returns a column of pandas as an array. Its missing numbers become NaN."""
    dtype = series.dtype
    if getattr(dtype, "kind", "O") not in _NUMBERS:
        return series.to_numpy()
    if series.hasnans:
        return series.to_numpy(np.float64, na_value=np.nan)
    # Types with missing values, and sparse ones, keep the type of NumPy under these names.
    return series.to_numpy(getattr(dtype, "numpy_dtype", getattr(dtype, "subtype", dtype)))


def stacked_columns(name: str, table: TableColumns) -> np.ndarray:
    """Returns the columns of a table as an array (rows, columns)."""
    if not table.columns:
        raise UserError(f"{name}: expected a table with columns of numbers, got none.")
    others = {column: values for column, values in table.columns.items() if values.dtype.kind not in _NUMBERS}
    if others:
        column, values = next(iter(others.items()))
        raise UserError(
            f"{name}: expected columns of numbers, got {joined(others)} with values such as {values[0]!s}. Leave them out: "
            f"table.{table.drop.format(list(others))}. Or replace words by numbers. For labels pass labels={column!r}."
        )
    return np.stack(list(table.columns.values()), axis=1)
