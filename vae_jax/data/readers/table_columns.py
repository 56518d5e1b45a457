"""Division of a table of pyarrow into columns of numbers and a column of labels."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vae_jax.data.column_types import ColumnType
from vae_jax.data.readers import mixed_tables
from vae_jax.data.readers.arrow_columns import check_distinct_names, kind_of_type, numbers_of_column, texts_of_column
from vae_jax.data.readers.listing import UNREADABLE, be, check_fits_in_memory, joined
from vae_jax.data.readers.registry import ReadOptions
from vae_jax.errors import UserError, unknown

if TYPE_CHECKING:  # pyarrow is an optional dependency
    import pyarrow

# In the order in which they are looked for.
_LABEL_NAMES = ("label", "labels", "target", "targets", "class", "classes", "y", "species", "diagnosis", "category")
_INDEX = re.compile(r"Unnamed: 0|__index_level_\d+__|")  # names that pandas and R give to row names
_IDENTIFIERS = ("id", "index", "idx")
_FIX_MISSING = (
    'Pass `missing="nan"` to model the observed entries alone, leave these rows out (df.dropna()), or fill them in '
    "(df.fillna(df.median()))."
)


class Table(NamedTuple):
    """Numbers, labels and column names of a table.

    Attributes:
      numbers: (rows, columns), int64 or float64.
      labels: (rows,), integers, floats or text; None if the table has no column of labels.
      column_names: the name of each column of numbers; None where the table has no names.
      label_column: name of the column of labels, if there is one.
      notes: sentences on columns that were left out.
      column_types: types of the columns of a mixed table; None: all columns have numbers without missing values.
    """

    numbers: np.ndarray
    labels: np.ndarray | None
    column_names: tuple[str, ...] | None
    label_column: str | None
    notes: tuple[str, ...]
    column_types: tuple[ColumnType, ...] | None = None


def arrays_of_table(
    name: str,
    table: "pyarrow.Table",
    label: str | None,
    with_names: bool = True,
    takes_missing: bool = False,
    mixed: bool = False,
) -> Table:
    """Divides a table of pyarrow into numbers and labels.

    Whole numbers stay whole where all columns of numbers have them, and become float64 otherwise. Missing ones become NaN.

    Args:
      name: the data set, for messages.
      table: the table.
      label: name of the column of labels; None for none.
      with_names: whether the columns have names.
      takes_missing: allow missing values in the columns of numbers.
      mixed: take text, booleans and missing values as columns of a mixed table (see `mixed_tables`).

    Raises:
      UserError: no rows, missing values that are not allowed, columns of text or of other things that are not numbers.
    """
    names = [str(column) for column in table.column_names]
    check_distinct_names(name, names)
    if not table.num_rows or not names:
        raise UserError(f"{name}: expected a table with rows and columns, got {table.num_rows} x {len(names)}.")
    notes = []
    columns = [column for column in names if column != label]
    index = _index_columns(table, columns) if with_names else []
    if index and len(index) < len(columns):
        fix = "To use it, give it a name, or remove it from the index." if len(index) == 1 else "To use them, name them."
        verb, nouns = be(index), "the column" if len(index) == 1 else "the columns"
        notes.append(f"{name}: {nouns} {joined(map(repr, index))} {verb} the index of the rows and {verb} not used. {fix}")
        columns = [column for column in columns if column not in index]
    if mixed:
        if not columns:
            raise UserError(f"{name}: expected columns beside the labels {label!r}, got none.")
        check_fits_in_memory(Path(name), 8 * table.num_rows * len(columns))
        array, types = mixed_tables.mixed_columns(name, table, columns)
        if not takes_missing:
            check_complete(name, dict(zip(columns, np.isnan(array).sum(axis=0).tolist(), strict=True)))
        labels = None if label is None else labels_of_column(name, table, label)
        return Table(array, labels, tuple(columns) if with_names else None, label, tuple(notes), types)
    notes += _notes_on_identifiers(name, table, columns)
    _check_columns(name, table, columns, label, takes_missing)
    labels = None if label is None else labels_of_column(name, table, label)
    arrays = [table.column(column) for column in columns]
    is_whole = all(kind_of_type(array.type) in ("bool", "int") and not array.null_count for array in arrays)
    check_fits_in_memory(Path(name), 8 * table.num_rows * len(columns))
    numbers = np.empty((table.num_rows, len(columns)), np.int64 if is_whole else np.float64)
    for i, array in enumerate(arrays):
        values = numbers_of_column(array)
        if is_whole and values.dtype == np.uint64 and values.max() >= 2**63:
            raise UserError(f"{name}: expected integers within the range of int64, got {values.max()} in {columns[i]!r}.")
        numbers[:, i] = values
    return Table(numbers, labels, tuple(columns) if with_names else None, label, tuple(notes))


def only_columns(
    name: str, table: "pyarrow.Table", options: ReadOptions, with_names: bool = True
) -> tuple["pyarrow.Table", ReadOptions, tuple[str, ...]]:
    """Returns a table with the columns of `options.columns`, those of the condition, and complete labels, if it has any.

    Args:
      name: the data set, for messages.
      table: the table.
      options: of the reader.
      with_names: whether the columns have names.

    Returns:
      The table, options with the name of the column of labels, or None for none, and notes on columns that are left out.

    Raises:
      UserError: a column is missing.
    """
    assert options.columns is not None
    names = [str(column) for column in table.column_names]
    check_distinct_names(name, names)
    wanted = [*options.columns, *(column for column in options.condition if column not in options.columns)]
    if absent := [column for column in wanted if column not in names]:
        noun = "the column" if len(absent) == 1 else "the columns"
        raise UserError(f"{name}: lacks {noun} {joined(absent)}, on which the model was trained.", field="data")
    rest = [column for column in names if column not in options.columns]
    label = options.label_column if options.label_column in rest else None
    if options.label_column is None:
        label = find_label_column(name, rest, None, with_names)
    notes = []
    if label is not None:
        try:
            labels_of_column(name, table, label)
        except UserError as error:
            notes.append(f"The labels are not used. {error.text}")
            label = None
    if unused := [column for column in rest if column != label and column not in wanted]:
        notes.append(f"{name}: {joined(unused)} {be(unused)} not used, because the model was trained without {_them(unused)}.")
    chosen = wanted if label is None or label in wanted else [*wanted, label]
    return table.select(chosen), options._replace(label_column=label), tuple(notes)


def _them(things: Sequence[str]) -> str:
    return "it" if len(things) == 1 else "them"


def find_label_column(name: str, names: list[str], wanted: str | None, with_names: bool) -> str | None:
    """Returns the name of the column of labels: the one that the user names, or else one with a usual name."""
    if wanted is not None:
        if wanted not in names:
            raise unknown("column", wanted, names, f" Expected a column of {name}.")
        return wanted
    lower = {column.strip().lower(): column for column in reversed(names)}
    return next((lower[label] for label in _LABEL_NAMES if with_names and label in lower), None)


def _index_columns(table: "pyarrow.Table", columns: Sequence[str]) -> list[str]:
    """Returns the columns that hold the index of a DataFrame, or the names of rows: numbers or words that are not data.

    They are those that the metadata of pandas name, and columns without a name in which each row has whole numbers or text.
    """
    try:
        metadata = (table.schema.pandas_metadata or {}).get("index_columns", [])
    except (*UNREADABLE, AttributeError):  # damaged metadata
        metadata = []
    pandas_index = [column for column in metadata if isinstance(column, str)]
    return [
        column
        for column in columns
        if column in pandas_index or (_INDEX.fullmatch(column) and kind_of_type(table.column(column).type) in ("int", "text"))
    ]


def _notes_on_identifiers(name: str, table: "pyarrow.Table", columns: Sequence[str]) -> list[str]:
    """Returns a note on columns named id or index whose whole numbers are all different."""
    rows = table.num_rows
    named = [column for column in columns if column.lower() in _IDENTIFIERS]
    whole = [column for column in named if kind_of_type(table.column(column).type) == "int"]
    numbers = [column for column in whole if rows > 1 and len(table.column(column).unique()) == rows]
    return [
        f"{name}: the column {column!r} has a different number in each row and is used as data. If it only identifies the "
        f"rows, leave it out: df.drop(columns={column!r})."
        for column in numbers
    ]


def _check_columns(name: str, table: "pyarrow.Table", columns: list[str], label: str | None, takes_missing: bool) -> None:
    """Raises `UserError` for columns that are not numbers, and for missing values."""
    if not columns:
        raise UserError(f"{name}: expected columns of numbers, got the labels {label!r} alone.")
    empty = [column for column in columns if table.column(column).null_count == table.num_rows]
    if empty and takes_missing:  # a note names them
        columns = [column for column in columns if column not in empty]
    elif empty:
        raise UserError(f"{name}: the columns {joined(empty)} have no values. Leave them out: df.dropna(axis=1, how='all').")
    text = [column for column in columns if kind_of_type(table.column(column).type) == "text"]
    if text:
        fix = f"Leave them out or number them: df[{text[0]!r}].astype('category').cat.codes."
        fix += ' For a likelihood for each column, use `likelihood="columns"`.'
        if label is None:
            fix += f' If {text[0]} has the labels, pass `label_column="{text[0]}"`.'
        raise UserError(f"{name}: expected columns of numbers, got text in {joined(text)}. {fix}")
    if other := [column for column in columns if kind_of_type(table.column(column).type) == "other"]:
        kinds = joined(f"{column} ({table.column(column).type})" for column in other)
        raise UserError(f"{name}: expected columns of numbers, got {kinds}. Leave them out or convert them to numbers.")
    if not takes_missing:
        check_complete(name, {column: table.column(column).null_count for column in columns})


def check_complete(name: str, num_missing: Mapping[str, int]) -> None:
    """Raises `UserError` that names the columns with missing values, if there are any.

    Args:
      name: the data set, for messages.
      num_missing: the number of missing values of each column.
    """
    if columns := [column for column, count in num_missing.items() if count]:
        total = sum(num_missing.values())
        raise UserError(
            f"{name}: expected a value in every row, got {total} missing values in {joined(columns)}. {_FIX_MISSING}"
        )


def labels_of_column(name: str, table: "pyarrow.Table", label: str) -> np.ndarray:
    """Returns a column of labels: whole numbers, numbers, or text. Raises `UserError` for missing ones."""
    column = table.column(label)
    if column.null_count:
        fix = f"Leave these rows out (df.dropna(subset=[{label!r}])), or choose a different column of labels."
        raise UserError(f"{name}: expected a label in every row, got {column.null_count} missing in {label!r}. {fix}")
    kind = kind_of_type(column.type)
    if kind == "other":
        fix = "Choose a different `label_column`."
        raise UserError(f"{name}: expected labels as numbers or text, got {label!r} of type {column.type}. {fix}")
    if kind == "text":
        return np.array(texts_of_column(name, label, column))
    labels = np.asarray(column.to_numpy())
    if kind == "float" and np.array_equal(labels, np.round(labels)):
        return labels.astype(np.int64)
    return labels.astype(np.int64) if kind == "bool" else labels
