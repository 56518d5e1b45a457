"""Readers of tables: CSV and TSV files, and Parquet files. A row is an example, one column may have the labels."""

import gzip
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, cast

import numpy as np

from vae_jax.data.events import Event
from vae_jax.data.readers.condition_columns import columns_of_table
from vae_jax.data.readers.extras import is_gzipped, optional_module, unpacked_size
from vae_jax.data.readers.listing import UNREADABLE, be, check_fits_in_memory, joined
from vae_jax.data.readers.registry import Reader, ReadOptions, Request, register
from vae_jax.data.split import Split
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
    """

    numbers: np.ndarray
    labels: np.ndarray | None
    column_names: tuple[str, ...] | None
    label_column: str | None
    notes: tuple[str, ...]


def _read_csv(request: Request) -> Split:
    """Reads a CSV or TSV file, raw or gzipped. A file of ratings becomes a sparse matrix."""
    path = request.path
    with_names, table = read_csv(path)
    from vae_jax.data.readers import ratings

    if ratings.is_ratings(table.column_names):
        if request.options.condition:
            raise UserError(
                f"{path}: its rows are ratings, which become one row for each user, so its columns cannot be a condition.",
                field="condition",
                fix="Pass a file with a row for each user.",
            )
        return ratings.read_ratings(request, table)
    split = split_of_table(path, table, request.options, with_names)
    return split._replace(notes=(*split.notes, *_notes_on_labelled_images(path, split, request.options.event)))


def _notes_on_labelled_images(path: Path, split: Split, event: Event) -> tuple[str, ...]:
    """Returns a note on a table without names whose first column may have the labels of square images in the others.

    Raises:
      UserError: such a table, where images are asked for.
    """
    num_columns = split.train.shape[1]
    side = math.isqrt(num_columns - 1)
    if split.column_names or split.train_labels is not None or side < 8 or side**2 != num_columns - 1:
        return ()
    text = f"{path}: has {num_columns} columns without names, one more than images of {side} x {side} pixels"
    fix = 'Pass `label_column="0"` if the first column has the labels.'
    if event == "image":
        raise UserError(f"{text}. {fix}", field="label_column")
    return (f"{text}, and all are used. {fix}",)


def split_of_table(path: Path, table: "pyarrow.Table", options: ReadOptions, with_names: bool = True) -> Split:
    """Returns the split of a table of pyarrow. The columns of the condition are no longer part of the examples."""
    names = [str(column) for column in table.column_names]
    conditions = columns_of_table(str(path), table, options.condition) if options.condition else None
    label = _label_column(str(path), names, options.label_column, with_names)
    if taken := [column for column in options.condition if column != label and names.count(column) == 1]:
        table = table.drop_columns(taken)
    takes_missing = options.missing == "nan"
    numbers, labels, column_names, label, notes = arrays_of_table(str(path), table, label, with_names, takes_missing)
    phrase = "" if label is None else f"labels from the column {label!r}"
    return Split(
        numbers, train_labels=labels, column_names=column_names, notes=notes, conversion=phrase, train_condition=conditions
    )


def read_csv(path: Path) -> "tuple[bool, pyarrow.Table]":
    """Reads a CSV file. The first row has names unless all of it are numbers; commas, semicolons or tabs separate columns.

    pyarrow reads it: it is several times as fast as pandas, parses in parallel, and is installed through TFDS anyway.

    Returns:
      Whether the first row has names, and the table. Columns without names are called 0, 1, 2, ...
    """
    csv = optional_module(path, "pyarrow.csv", "tables", "tables")
    check_fits_in_memory(path, unpacked_size(path))
    try:
        with _open(path) as file:
            start = file.readline(2**24)
            if b"\r" not in start.rstrip(b"\r\n"):  # lines may end in a carriage return alone
                start += file.readline(2**24)
        first, second, *_ = [*start.decode("utf-8-sig").splitlines(), "", ""]
        delimiter = max(",;\t", key=first.count)
        decimal = "," if delimiter != "," and any(map(_DECIMAL_COMMA.fullmatch, second.split(delimiter))) else "."
        with_names = _has_names(*(line.replace(decimal, ".").split(delimiter) for line in (first, second)))
        options = {
            "read_options": csv.ReadOptions(autogenerate_column_names=not with_names),
            "parse_options": csv.ParseOptions(delimiter=delimiter),
            # A column of numbers may have none in some rows; in a column of text an empty field is a missing value too.
            "convert_options": csv.ConvertOptions(
                strings_can_be_null=True, null_values=_NULLS, quoted_strings_can_be_null=False, decimal_point=decimal
            ),
        }
        with _open(path) as file:
            table = csv.read_csv(file, **options)
        table = table.rename_columns([name.strip() for name in table.column_names])
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: expected text in UTF-8, got {error.object[error.start : error.end]!r}. Save it in UTF-8."
        ) from None
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(f"{path}: not a readable table. {reason}. Save it with as many values in each row as names.") from None
    if not with_names:
        table = table.rename_columns([str(i) for i in range(table.num_columns)])
    return with_names, table


_DECIMAL_COMMA = re.compile(r'\s*"?[-+]?\d*,\d+([eE][-+]?\d+)?"?\s*')
_NULLS = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?", "-nan", "n/a", "#N/A"]


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if is_gzipped(path) else path.open("rb")


def _has_names(first: Sequence[str], second: Sequence[str]) -> bool:
    """Returns whether the first row of a table has names.

    It has where all of it is text, where it has text in a column of numbers, or where it counts from 0, as pandas names columns
    that have no names.
    """
    are_numbers = [_is_number(text) for text in first]
    if not any(are_numbers):
        return True
    blank = [not text.strip() for text in first]
    if any(blank) and all(is_number or is_blank for is_number, is_blank in zip(are_numbers, blank, strict=True)):
        # Missing numbers, except where the columns count from 0 behind that of the names of the rows, which has no name.
        return blank[0] and list(first[1:]) == [str(i) for i in range(len(first) - 1)]
    if any(not is_number and _is_number(text) for is_number, text in zip(are_numbers, second, strict=False)):
        return True
    counts = [str(i) for i in range(len(first))]
    return len(first) > 2 and list(first) == counts and list(second) != counts


def _is_number(text: str) -> bool:
    text = text.strip().strip('"')
    try:
        float(text)
    except ValueError:
        return text in _NULLS and text != ""
    return True


def arrays_of_table(
    name: str, table: "pyarrow.Table", label_column: str | None, with_names: bool = True, takes_missing: bool = False
) -> Table:
    """Divides a table of pyarrow into numbers and labels.

    Whole numbers stay whole where all columns of numbers have them, and become float64 otherwise. Missing ones become NaN.

    Args:
      name: the data set, for messages.
      table: the table.
      label_column: name of the column of labels. None: a column named label, target, class ...
      with_names: whether the columns have names.
      takes_missing: allow missing values in the columns of numbers.

    Raises:
      UserError: no rows, missing values that are not allowed, columns of text or of other things that are not numbers, a
        `label_column` that is not there.
    """
    names = [str(column) for column in table.column_names]
    if len(twice := {column for column in names if names.count(column) > 1}):
        raise UserError(f"{name}: expected columns of different names, got {joined(sorted(twice))} several times. Rename them.")
    if not table.num_rows or not names:
        raise UserError(f"{name}: expected a table with rows and columns, got {table.num_rows} x {len(names)}.")
    notes = []
    label = _label_column(name, names, label_column, with_names)
    columns = [column for column in names if column != label]
    index = _index_columns(table, columns) if with_names else []
    if index and len(index) < len(columns):
        fix = "To use it, give it a name, or remove it from the index." if len(index) == 1 else "To use them, name them."
        verb, nouns = be(index), "the column" if len(index) == 1 else "the columns"
        notes.append(f"{name}: {nouns} {joined(map(repr, index))} {verb} the index of the rows and {verb} not used. {fix}")
        columns = [column for column in columns if column not in index]
    notes += _notes_on_identifiers(name, table, columns)
    _check_columns(name, table, columns, label, takes_missing)
    labels = None if label is None else labels_of_column(name, table, label)
    arrays = [table.column(column) for column in columns]
    is_whole = all(_kind(array.type) in ("bool", "int") and not array.null_count for array in arrays)
    check_fits_in_memory(Path(name), 8 * table.num_rows * len(columns))
    numbers = np.empty((table.num_rows, len(columns)), np.int64 if is_whole else np.float64)
    for i, array in enumerate(arrays):
        values = _numbers_of_column(array)
        if is_whole and values.dtype == np.uint64 and values.max() >= 2**63:
            raise UserError(f"{name}: expected integers within the range of int64, got {values.max()} in {columns[i]!r}.")
        numbers[:, i] = values
    return Table(numbers, labels, tuple(columns) if with_names else None, label, tuple(notes))


def _numbers_of_column(column: "pyarrow.ChunkedArray") -> np.ndarray:
    """Returns the numbers of a column, floats with NaN where values are missing."""
    if column.null_count == len(column):  # its type may be null
        return np.full(len(column), np.nan)
    if column.null_count and _kind(column.type) == "bool":
        column = column.cast("uint8")
    return column.to_numpy()


def _label_column(name: str, names: list[str], wanted: str | None, with_names: bool) -> str | None:
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
        if column in pandas_index or (_INDEX.fullmatch(column) and _kind(table.column(column).type) in ("int", "text"))
    ]


def _notes_on_identifiers(name: str, table: "pyarrow.Table", columns: Sequence[str]) -> list[str]:
    """Returns a note on columns named id or index whose whole numbers are all different."""
    rows = table.num_rows
    numbers = [column for column in columns if column.lower() in _IDENTIFIERS and _kind(table.column(column).type) == "int"]
    numbers = [column for column in numbers if rows > 1 and len(table.column(column).unique()) == rows]
    return [
        f"{name}: the column {column!r} has a different number in each row and is used as data. If it only identifies the "
        f"rows, leave it out: df.drop(columns={column!r})."
        for column in numbers
    ]


def _kind(dtype: "pyarrow.DataType") -> str:
    """Returns bool, int, float, text or other."""
    import pyarrow.types as types

    if types.is_dictionary(dtype):
        dtype = dtype.value_type
    tests = {"bool": types.is_boolean, "int": types.is_integer, "float": types.is_floating}
    text = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    kind = next((kind for kind, test in tests.items() if test(dtype)), None)
    return kind or ("text" if any(test(dtype) for test in text) else "other")


def _check_columns(name: str, table: "pyarrow.Table", columns: list[str], label: str | None, takes_missing: bool) -> None:
    """Raises `UserError` for columns that are not numbers, and for missing values."""
    if not columns:
        raise UserError(f"{name}: expected columns of numbers, got the labels {label!r} alone.")
    empty = [column for column in columns if table.column(column).null_count == table.num_rows]
    if empty and takes_missing:  # a note names them
        columns = [column for column in columns if column not in empty]
    elif empty:
        raise UserError(f"{name}: the columns {joined(empty)} have no values. Leave them out: df.dropna(axis=1, how='all').")
    text = [column for column in columns if _kind(table.column(column).type) == "text"]
    if text:
        fix = f"Leave them out or number them: df[{text[0]!r}].astype('category').cat.codes."
        if label is None:
            fix += f' If {text[0]} has the labels, pass `label_column="{text[0]}"`.'
        raise UserError(f"{name}: expected columns of numbers, got text in {joined(text)}. {fix}")
    if other := [column for column in columns if _kind(table.column(column).type) == "other"]:
        kinds = joined(f"{column} ({table.column(column).type})" for column in other)
        raise UserError(f"{name}: expected columns of numbers, got {kinds}. Leave them out or convert them to numbers.")
    missing = {column: table.column(column).null_count for column in columns if table.column(column).null_count}
    if missing and not takes_missing:
        total = sum(missing.values())
        raise UserError(
            f"{name}: expected a number in every row, got {total} missing values in {joined(missing)}. {_FIX_MISSING}"
        )


def labels_of_column(name: str, table: "pyarrow.Table", label: str) -> np.ndarray:
    """Returns a column of labels: whole numbers, numbers, or text. Raises `UserError` for missing ones."""
    column = table.column(label)
    if column.null_count:
        fix = f"Leave these rows out (df.dropna(subset=[{label!r}])), or choose a different column of labels."
        raise UserError(f"{name}: expected a label in every row, got {column.null_count} missing in {label!r}. {fix}")
    kind = _kind(column.type)
    if kind == "other":
        fix = "Choose a different `label_column`."
        raise UserError(f"{name}: expected labels as numbers or text, got {label!r} of type {column.type}. {fix}")
    if kind == "text":
        try:
            texts = [value.decode() if isinstance(value, bytes) else value for value in column.to_pylist()]
            return np.array([text.strip() for text in texts])
        except UnicodeDecodeError:
            raise UserError(f"{name}: expected text in UTF-8 in the column {label!r}. Save it in UTF-8.") from None
    labels = np.asarray(column.to_numpy())
    if kind == "float" and np.array_equal(labels, np.round(labels)):
        return labels.astype(np.int64)
    return labels.astype(np.int64) if kind == "bool" else labels


def _read_parquet(request: Request) -> Split:
    """Reads a Parquet file: a table, or pictures as the data sets library of Hugging Face writes them."""
    path = request.path
    parquet = optional_module(path, "pyarrow.parquet", "tables", "Parquet files")
    from vae_jax.data.readers import parquet_pictures

    try:
        # Memory is not mapped: a file that becomes shorter would make the system kill the process.
        with parquet.ParquetFile(path, memory_map=False) as file:
            size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
            check_fits_in_memory(path, size)
            if column := parquet_pictures.picture_column(file.schema_arrow):
                return parquet_pictures.read_pictures(request, file, column)
            table = file.read()
    except UserError:
        raise
    except UNREADABLE as error:
        raise _unreadable_parquet(path, error) from None
    return split_of_table(path, table, request.options)


def read_parquet_table(path: Path) -> "pyarrow.Table":
    """Reads a Parquet file with all of its columns."""
    parquet = optional_module(path, "pyarrow.parquet", "tables", "Parquet files")
    try:
        with parquet.ParquetFile(path, memory_map=False) as file:
            size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
            check_fits_in_memory(path, size)
            return file.read()
    except UserError:
        raise
    except UNREADABLE as error:
        raise _unreadable_parquet(path, error) from None


def _unreadable_parquet(path: Path, error: BaseException) -> UserError:
    return UserError(f"{path}: not a readable Parquet file. {' '.join(str(error).split())[:200]}. It is damaged.")


register(
    Reader(
        "csv",
        "CSV and TSV tables",
        "a .csv or .tsv table (needs vae_jax[tables]), raw or gzipped: a row for each example, one column may have the labels",
        _read_csv,
        endings=(".csv", ".tsv", ".csv.gz", ".tsv.gz"),
        uses=("label_column",),
        extra="tables",
        published=("Kaggle", "MovieLens"),
    )
)
register(
    Reader(
        "parquet",
        "Parquet tables",
        "a .parquet table (needs vae_jax[tables]), or one with pictures as data sets of Hugging Face have them",
        _read_parquet,
        endings=(".parquet", ".parq"),
        starts_with=lambda start: start.startswith(b"PAR1"),
        uses=("label_column", "resize", "crop"),
        extra="tables",
        published=("Hugging Face",),
    )
)
