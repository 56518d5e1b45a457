"""Readers of tables: CSV and TSV files, and Parquet files. A row is an example, one column may have the labels."""

import gzip
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from vae_jax.data.events import Event
from vae_jax.data.readers.condition_columns import columns_of_table
from vae_jax.data.readers.extras import is_gzipped, optional_module, unpacked_size
from vae_jax.data.readers.listing import UNREADABLE, check_fits_in_memory
from vae_jax.data.readers.registry import Reader, ReadOptions, Request, register
from vae_jax.data.readers.table_columns import arrays_of_table, find_label_column, only_columns
from vae_jax.data.split import Split
from vae_jax.errors import UserError

if TYPE_CHECKING:  # pyarrow is an optional dependency
    import pyarrow


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
    unlabeled, notes = (), ()
    if options.columns is not None:
        table, options, notes = only_columns(str(path), table, options, with_names)
        unlabeled = table.column_names if options.label_column is None else ()
    names = [str(column) for column in table.column_names]
    conditions = columns_of_table(str(path), table, options.condition) if options.condition else None
    unlabeled = (*(options.mixed or ()), *unlabeled)
    usable = [column for column in names if column not in unlabeled]
    label = find_label_column(str(path), usable, options.label_column, with_names)
    if taken := [column for column in options.condition if column != label and names.count(column) == 1]:
        table = table.drop_columns(taken)
        if not set(table.column_names) - {label}:
            raise UserError(f"{path}: the condition takes all columns. Leave some as examples.", field="condition")
    read = arrays_of_table(str(path), table, label, with_names, options.missing == "nan", options.mixed is not None)
    phrase = "" if read.label_column is None else f"labels from the column {read.label_column!r}"
    return Split(
        read.numbers,
        train_labels=read.labels,
        column_names=read.column_names,
        notes=(*notes, *read.notes),
        conversion=phrase,
        train_condition=conditions,
        column_types=read.column_types,
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
        is_table=True,
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
        is_table=True,
        published=("Hugging Face",),
    )
)
