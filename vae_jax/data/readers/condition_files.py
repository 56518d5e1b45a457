"""Files with a condition for each example: arrays and tables, for the whole source or for each of its parts."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vae_jax.data.conditions.setting import FILE_ENDINGS
from vae_jax.data.readers.arrow_columns import check_distinct_names
from vae_jax.data.readers.condition_columns import columns_of_table
from vae_jax.data.readers.listing import (
    PART_WORD,
    PARTS,
    UNREADABLE,
    check_fits_in_memory,
    joined,
    list_files,
    silence,
    word_part,
)
from vae_jax.data.readers.part_files import file_part
from vae_jax.errors import UserError

Columns = dict[str, np.ndarray]
_SINGLE = "condition"  # name of the column of an array without names
_INDEX_NAMES = ("Unnamed: 0",)


def read_condition_file(path: str) -> tuple[dict[str, Columns], list[str]]:
    """Reads the condition of every example of a source.

    - .npy: an array (examples,) or (examples, columns) of integers, booleans, words or reals.
    - .csv, .tsv (raw or gzipped) and .parquet: a row for each example; all columns are used.
    - .npz: one array; or arrays named train, validation and test; or an array (examples,) for each column, by its name; or
      both, as train_age and test_age.
    - a folder of such files, named after their parts, such as train.csv and test.csv.

    Args:
      path: the file or folder.

    Returns:
      The columns of each part, by their names, and notes. Columns for the whole source have the part "".

    Raises:
      UserError: a missing or damaged file, or one of another format.
    """
    expanded = Path(os.path.expanduser(path))
    try:
        is_there = expanded.exists()
    except OSError as error:  # such as a name that is too long
        raise UserError(f"{path}: cannot be read: {error.strerror}.", field="condition") from None
    if not is_there:
        start = "" if expanded.is_absolute() else f" The path starts at the working folder, {Path.cwd()}."
        raise UserError(
            f"{path}: no such file.{start}", field="condition", fix="For a column of this name put it in double quotes."
        )
    if expanded.is_dir():
        return _read_folder(expanded)
    if not expanded.is_file():
        raise UserError(f"{path}: expected a file or a folder, got something else.", field="condition")
    return _read_file(expanded)


def _read_folder(folder: Path) -> tuple[dict[str, Columns], list[str]]:
    by_part: dict[str, Columns] = {}
    notes: list[str] = []
    used: dict[str, Path] = {}
    for file in list_files(folder):
        if not file.name.lower().endswith(FILE_ENDINGS):
            notes.append(f"{folder}: {file.relative_to(folder)} is not used.")
            continue
        part = file_part(file, folder)
        if part not in PARTS:
            raise UserError(
                f"{file}: expected files named after their part, such as train{file.suffix} and test{file.suffix}.",
                field="condition",
            )
        if part in used:
            both = joined((used[part].relative_to(folder), file.relative_to(folder)))
            raise UserError(f"{folder}: expected one file for the {PARTS[part]} examples, got {both}.", field="condition")
        columns, more = _read_file(file)
        if list(columns) != [""]:
            raise UserError(
                f"{file}: expected the {PARTS[part]} examples alone, got arrays for several parts.", field="condition"
            )
        by_part[part], used[part] = columns[""], file
        notes += more
    if not by_part:
        raise UserError(f"{folder}: expected files such as train.csv and test.csv, found none.", field="condition")
    return by_part, notes


def _read_file(path: Path) -> tuple[dict[str, Columns], list[str]]:
    name = path.name.lower()
    if name.endswith((".npy", ".npz")):
        return _read_arrays(path), []
    if name.endswith((".parquet", ".parq")):
        from vae_jax.data.readers.tables import read_parquet_table

        table = read_parquet_table(path)
    elif name.endswith((".csv", ".tsv", ".csv.gz", ".tsv.gz")):
        from vae_jax.data.readers.tables import read_csv

        table = read_csv(path)[1]
    else:
        raise UserError(
            f"{path}: expected a file ending in {', '.join(FILE_ENDINGS)}, got {path.suffix or 'no ending'!r}.",
            field="condition",
        )
    names = [str(column) for column in table.column_names]
    if not names or not table.num_rows:
        raise UserError(f"{path}: expected a table with rows and columns, got {table.num_rows} x {len(names)}.")
    check_distinct_names(str(path), names)
    index = [column for column in names if column in _INDEX_NAMES or column.startswith("__index_level_")]
    kept = [column for column in names if column not in index] if len(index) < len(names) else names
    notes = [
        f"{path}: the column {column!r} is the index of the rows and is not used." for column in names if column not in kept
    ]
    return {"": columns_of_table(str(path), table, kept)}, notes


def _read_arrays(path: Path) -> dict[str, Columns]:
    from vae_jax.data.readers.numpy_files import load_numpy

    archive = load_numpy(path)
    if isinstance(archive, np.ndarray):
        return {"": named_columns(str(path), archive)}
    arrays: dict[str, np.ndarray] = {}
    with archive:
        assert archive.zip is not None
        check_fits_in_memory(path, sum(entry.file_size for entry in archive.zip.infolist()))
        for name in archive.files:
            try:
                with silence():
                    array = archive[name]
            except UNREADABLE as error:
                raise UserError(f"{path}: cannot read the array {name!r}. {error}", field="condition") from None
            if not isinstance(array, np.ndarray):
                raise UserError(f"{path}: expected {name!r} to be an array, got {type(array).__name__}. It is damaged.")
            arrays[name] = array
    if not arrays:
        raise UserError(f"{path}: expected at least one array, got none.", field="condition")
    return _by_part(path, arrays)


def _by_part(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Columns]:
    """Returns the columns of the arrays of an archive by part, or with the part "" where their names have no part."""
    roles = {name: _part_and_column(name) for name in arrays}
    if all(role is None for role in roles.values()):
        if len(arrays) == 1:
            (name, array), *_ = arrays.items()
            return {"": named_columns(str(path), array, _SINGLE if name == "arr_0" else name)}
        return {"": {name: _one_column(path, name, array) for name, array in arrays.items()}}
    if without := [name for name, role in roles.items() if role is None]:
        raise UserError(
            f"{path}: expected the part in the name of every array, as train_age and test_age, or in none, got "
            f"{joined(arrays)}.",
            field="condition",
            fix=f"Rename {without[0]!r} or save it in a different file.",
        )
    by_part: dict[str, Columns] = {}
    for name, role in roles.items():
        assert role is not None
        part, column = role
        columns = by_part.setdefault(part, {})
        new = named_columns(f"{path}: {name}", arrays[name], column or _SINGLE)
        if twice := [one for one in new if one in columns]:
            raise UserError(f"{path}: has the {PARTS[part]} column {twice[0]!r} twice. Save it once.", field="condition")
        columns.update(new)
    return by_part


def _part_and_column(name: str) -> tuple[str, str] | None:
    """Returns the part and the column that the name of an array stands for; None where it does not begin with a part.

    Example:
      >>> _part_and_column("train_age"), _part_and_column("validation"), _part_and_column("trainer")
      (('train', 'age'), ('validation', ''), None)
    """
    match = re.fullmatch(rf"{PART_WORD}(?:[_/.-](.+))?", name, re.IGNORECASE)
    return None if match is None else (str(word_part(match[1].lower())), match[2] or "")


def _one_column(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim != 1:
        raise UserError(
            f"{path}: expected one number or word for each example in {name!r}, got shape {array.shape}.",
            field="condition",
            fix="Save each column by its name, or one array (examples, columns) alone.",
        )
    return array


def named_columns(name: str, array: np.ndarray, column: str = _SINGLE) -> Columns:
    """Returns the columns of an array (examples,) or (examples, columns): "condition", or "condition_0", "condition_1" ..."""
    if array.dtype.names:
        return {field: array[field] for field in array.dtype.names}
    if array.ndim not in (1, 2) or 0 in array.shape:
        raise UserError(
            f"{name}: expected a condition (examples,) or (examples, columns), got shape {array.shape}.", field="condition"
        )
    columns = array[:, None] if array.ndim == 1 else array
    if columns.shape[1] == 1:
        return {column: columns[:, 0]}
    return {f"{column}_{i}": values for i, values in enumerate(columns.T)}
