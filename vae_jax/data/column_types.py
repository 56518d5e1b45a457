"""Types of the columns of a mixed table, and tables of examples with the original names, categories and types."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vae_jax.errors import UserError
from vae_jax.storage.atomic import written_file

if TYPE_CHECKING:  # pyarrow is an optional dependency
    import pyarrow

_ENDINGS = (".csv", ".parquet")


class ColumnType(NamedTuple):
    """Name and type of one column of a table, whose examples are numbers.

    Attributes:
      name: the name of the column.
      categories: the texts that the codes 0, 1, 2, ... stand for. None: the column has numbers, which examples hold unchanged,
        whatever their likelihood is.
      dtype: the type in the table: "string", "category" (text whose categories have an order), "bool", or the name of a type
        of NumPy such as "int64" or "float64".
    """

    name: str
    categories: tuple[str, ...] | None = None
    dtype: str = "float64"

    @property
    def is_integer(self) -> bool:
        """True if the column has whole numbers in the table."""
        return self.dtype.startswith(("int", "uint"))


def to_table(types: Sequence[ColumnType], rows: np.ndarray) -> "pyarrow.Table":
    """Returns examples as a table with the original column names, categories and types.

    Numbers of integer columns are rounded and kept within the range of their type. Codes become texts, the nearest category
    where a number is not a code. NaN becomes a missing value.

    Args:
      types: one for each column.
      rows: (examples, columns), numbers; category codes in columns with categories.

    Returns:
      A table of pyarrow with a row for each example.

    Raises:
      UserError: an array of a different width, or pyarrow is not installed.

    Example:
      >>> types = [ColumnType("city", ("Oslo", "Rome"), "string"), ColumnType("rooms", dtype="int64")]
      >>> to_table(types, np.array([[1.0, 2.9], [0.0, np.nan]])).to_pydict()
      {'city': ['Rome', 'Oslo'], 'rooms': [3, None]}
    """
    pyarrow = _module("pyarrow")
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.shape[1] != len(types):
        raise UserError(f"to_table: expected rows of shape (examples, {len(types)}), got {rows.shape}.")
    arrays = [_column(pyarrow, kind, rows[:, i].astype(np.float64)) for i, kind in enumerate(types)]
    return pyarrow.table(dict(zip([kind.name for kind in types], arrays, strict=True)))


def _module(name: str) -> ModuleType:
    """Imports pyarrow or a module of it, which is an optional dependency."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError("tables need pyarrow. Install it by: pip install 'vae_jax[tables]'") from None


def _column(pyarrow: ModuleType, kind: ColumnType, values: np.ndarray) -> "pyarrow.Array":
    """Returns the numbers of one column as an array of pyarrow of the original type."""
    is_missing = np.isnan(values)
    numbers = np.where(is_missing, 0, values)
    if kind.categories is not None:
        codes = np.clip(np.rint(numbers), 0, len(kind.categories) - 1).astype(np.int32)
        coded = pyarrow.DictionaryArray.from_arrays(
            pyarrow.array(codes, mask=is_missing), pyarrow.array(kind.categories), ordered=kind.dtype == "category"
        )
        return coded if kind.dtype == "category" else coded.cast(pyarrow.string())
    if kind.dtype == "bool":
        return pyarrow.array(numbers >= 0.5, mask=is_missing)
    dtype = np.dtype(kind.dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        # The largest 64-bit integer is rounded up to 2**63 in float64, which does not fit.
        high = float(limits.max) if limits.bits < 64 else np.nextafter(float(limits.max), 0)
        numbers = np.clip(np.rint(numbers), float(limits.min), high)
    return pyarrow.array(numbers.astype(dtype), mask=is_missing)


def write_table(table: "pyarrow.Table", path: str | Path) -> Path:
    """Writes a table as .csv or .parquet, by the ending of the path, and returns the path.

    Raises:
      UserError: a different ending, or a folder that does not exist.
    """
    path = Path(path)
    if path.suffix.lower() not in _ENDINGS:
        raise UserError(f"{path}: expected a name ending in {' or '.join(_ENDINGS)}. Rename it.")
    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder {path.parent} does not exist. Make it, or choose a different path.")
    try:
        with written_file(path) as file:
            if path.suffix.lower() == ".csv":
                _module("pyarrow.csv").write_csv(_plain(table), file)
            else:
                _module("pyarrow.parquet").write_table(table, file)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}.") from None
    return path


def _plain(table: "pyarrow.Table") -> "pyarrow.Table":
    """Returns the table with text in place of dictionaries, which CSV files do not have."""
    import pyarrow.types

    for i, field in enumerate(table.schema):
        if pyarrow.types.is_dictionary(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(field.type.value_type))
    return table
