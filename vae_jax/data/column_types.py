"""Types of the columns of a mixed table, and tables of examples with the original names, categories and types."""

import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vae_jax.errors import UserError
from vae_jax.storage.output_files import table_module, table_writer

if TYPE_CHECKING:  # pyarrow is an optional dependency
    import pyarrow

_ENDINGS = (".csv", ".parquet")


class ColumnType(NamedTuple):
    """Name and type of one column of a table, whose examples are numbers.

    Attributes:
      name: the name of the column.
      categories: the texts that the codes 0, 1, 2, ... stand for. None: the column has numbers, which examples hold unchanged,
        whatever their likelihood is.
      dtype: the type in the table: "string", "category" (text whose categories have an order), "bool", the name of a type of
        NumPy such as "int64" or "float64", or that of a type of pyarrow: "decimal128(10, 2)", "date32[day]",
        "timestamp[us, tz=UTC]". Dates have categories, their texts.
      num_known: the number of categories before those that only validation or test files of their own have. None: all.
    """

    name: str
    categories: tuple[str, ...] | None = None
    dtype: str = "float64"
    num_known: int | None = None

    @property
    def is_integer(self) -> bool:
        """True if the column has whole numbers in the table."""
        return self.dtype.startswith(("int", "uint"))

    @property
    def is_date(self) -> bool:
        """Whether the column has dates or times in the table."""
        return self.dtype.startswith(("date", "timestamp"))


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
    pyarrow = table_module("pyarrow")
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.shape[1] != len(types):
        raise UserError(f"to_table: expected rows of shape (examples, {len(types)}), got {rows.shape}.")
    arrays = [_column(pyarrow, kind, rows[:, i].astype(np.float64)) for i, kind in enumerate(types)]
    return pyarrow.table(dict(zip([kind.name for kind in types], arrays, strict=True)))


def _column(pyarrow: ModuleType, kind: ColumnType, values: np.ndarray) -> "pyarrow.Array":
    """Returns the numbers of one column as an array of pyarrow of the original type."""
    is_missing = np.isnan(values)
    numbers = np.where(is_missing, 0, values)
    if kind.categories is not None:
        codes = np.clip(np.rint(numbers), 0, len(kind.categories) - 1).astype(np.int32)
        coded = pyarrow.DictionaryArray.from_arrays(
            pyarrow.array(codes, mask=is_missing), pyarrow.array(kind.categories), ordered=kind.dtype == "category"
        )
        if kind.dtype == "category":
            return coded
        texts = coded.cast(pyarrow.string())
        return texts.cast(_arrow_type(pyarrow, kind.dtype)) if kind.is_date else texts
    if kind.dtype == "bool":
        return pyarrow.array(numbers >= 0.5, mask=is_missing)
    if kind.dtype.startswith("decimal"):
        return pyarrow.array(numbers, mask=is_missing).cast(_arrow_type(pyarrow, kind.dtype), safe=False)
    dtype = np.dtype(kind.dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        # The largest 64-bit integer is rounded up to 2**63 in float64, which does not fit.
        high = float(limits.max) if limits.bits < 64 else np.nextafter(float(limits.max), 0)
        numbers = np.clip(np.rint(numbers), float(limits.min), high)
    return pyarrow.array(numbers.astype(dtype), mask=is_missing)


def _arrow_type(pyarrow: ModuleType, text: str) -> "pyarrow.DataType":
    """Returns the type of dates or decimal numbers that pyarrow writes as this text."""
    if parts := re.fullmatch(r"(decimal\d+)\((\d+), (-?\d+)\)", text):
        return getattr(pyarrow, parts[1])(int(parts[2]), int(parts[3]))
    if parts := re.fullmatch(r"timestamp\[(\w+), tz=(.+)\]", text):
        return pyarrow.timestamp(parts[1], parts[2])
    return pyarrow.type_for_alias(text)


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
        with table_writer(path) as write:
            write(table)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}.") from None
    return path
