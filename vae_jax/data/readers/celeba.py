"""CelebA's lists of pictures: the partition into training, validation and test set, and 40 binary attributes."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_jax.data.readers.listing import PARTS, UNREADABLE, check_fits_in_memory, joined
from vae_jax.data.readers.picture_parts import Parts
from vae_jax.errors import UserError

PARTITION = ("list_eval_partition.txt", "list_eval_partition.csv")
ATTRIBUTES = ("list_attr_celeba.txt", "list_attr_celeba.csv")
_PART_BY_NUMBER = {"0": "train", "1": "validation", "2": "test"}
_LEVELS = {"-1": 0, "0": 0, "1": 1}
_PLACES = ("", "Anno", "Eval")  # folders of the lists in CelebA's download, beside Img/img_align_celeba


class Table(NamedTuple):
    """A list of pictures.

    Attributes:
      path: its file.
      columns: the names of the columns after that of the file names.
      rows: the entries after the file name, with spaces between them, by the file name without its ending.
    """

    path: Path
    columns: Sequence[str]
    rows: Mapping[str, str]


class Factors(NamedTuple):
    """Attributes of pictures.

    Attributes:
      by_part: 0 and 1 for each picture and attribute, (pictures, attributes), uint8.
      names: the name of each attribute.
      notes: a sentence on the attributes that are not used.
    """

    by_part: Mapping[str, np.ndarray]
    names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


class Lists(NamedTuple):
    """The lists that are read.

    Attributes:
      partition: the list of parts, if there is one.
      attributes: the list of attributes, if there is one.
      notes: a sentence for each list that is not used.
    """

    partition: Table | None = None
    attributes: Table | None = None
    notes: tuple[str, ...] = ()


def is_list(file: Path) -> bool:
    """Returns whether a file is named like one of the lists."""
    return file.name in (*PARTITION, *ATTRIBUTES)


def read_lists(folder: Path, inside: Sequence[Path]) -> Lists:
    """Reads the lists that are in a folder of pictures, or beside it where the folder or the one above it is CelebA's.

    Args:
      folder: the folder of pictures, such as celeba or celeba/img_align_celeba.
      inside: the lists within the folder.

    Raises:
      UserError: a list that is damaged.
    """
    candidates = [*inside, *(_beside(folder) if "celeba" in folder.name.lower() else [])]
    tables: list[Table | None] = []
    notes = []
    for names, columns in ((PARTITION, ["partition"]), (ATTRIBUTES, None)):
        files = sorted((file for file in candidates if file.name in names), key=lambda file: names.index(file.name))
        tables.append(_read(files[0], columns) if files else None)
        notes += [
            f"{folder}: {_shown(file, folder)} is not used, because {_shown(files[0], folder)} is read."
            for file in files[1:]
            if file in inside
        ]
    return Lists(tables[0], tables[1], tuple(notes))


def _beside(folder: Path) -> list[Path]:
    """Returns the lists beside the folder, and one level above where it is in Img or in a folder of the same kind."""
    above = folder.absolute().parent
    places = [above]
    if above.name == "Img" or "celeba" in above.name.lower():
        places.append(above.parent)
    paths = [place / sub / name for place in places for sub in _PLACES for name in (*PARTITION, *ATTRIBUTES)]
    return [path for path in paths if path.is_file()]


def _shown(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder)) if file.is_relative_to(folder) else file.name


def _read(path: Path, columns: list[str] | None) -> Table:
    """Reads a list.

    The text has a row for each picture: its name and the entries. The list of attributes starts with a line with the number of
    pictures and one with the names of the attributes. Kaggle's CSV files start with a line with the names of all columns.
    """
    import csv

    try:
        check_fits_in_memory(path, path.stat().st_size)
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file) if path.suffix == ".csv" else map(str.split, file)
            return _table(path, filter(None, rows), columns)
    except UserError:
        raise
    except (*UNREADABLE, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {error}.") from None


def _table(path: Path, rows: Iterator[list[str]], columns: list[str] | None) -> Table:
    """Checks the rows of a list and collects them.

    Args:
      path: the list, for messages.
      rows: its rows that are not empty.
      columns: the names of the columns where the file has none.
    """
    num_expected, num_header_lines = None, 0
    if path.suffix == ".csv":
        columns, num_header_lines = next(rows, [])[1:], 1
    elif columns is None:
        count = next(rows, [])
        if len(count) != 1 or not count[0].isdigit():
            raise UserError(f"{path}: expected the number of pictures in the first line, got {' '.join(count)[:40]!r}.")
        num_expected, columns, num_header_lines = int(count[0]), next(rows, []), 2
    if not columns:
        raise UserError(f"{path}: expected the names of columns at its start, got none. The file is damaged.")
    expected = f"expected a file name and {len(columns)} {'entry' if len(columns) == 1 else 'entries'} for each picture"
    table: dict[str, str] = {}
    for line, (name, *entries) in enumerate(rows, num_header_lines + 1):
        if len(entries) != len(columns):
            raise UserError(f"{path}: {expected}, got {len(entries)} entries in line {line}. The file is damaged.")
        stem = os.path.splitext(name)[0]
        if stem in table:
            raise UserError(f"{path}: expected one row for each picture, got several for {name}. Remove all but one.")
        table[stem] = " ".join(entries)  # much smaller than a list
    if num_expected not in (None, len(table)):
        raise UserError(f"{path}: {expected}, got {len(table)} rows for {num_expected} pictures. The file is damaged.")
    return Table(path, columns, table)


def divide_by_partition(folder: Path, parts: Parts, lists: Lists) -> Parts:
    """Keeps the pictures that are in the lists, and divides them by the partition unless folders divide them already.

    Returns:
      The pictures of each part, with notes on pictures that no list has, and on entries without a picture.

    Raises:
      UserError: a list that has none of the pictures, an unknown part, or several pictures with one name.
    """
    tables = [table for table in (lists.partition, lists.attributes) if table is not None]
    if not tables:
        return parts
    files = [file for group in parts.files.values() for file in group]
    counts = Counter(file.stem for file in files)
    name, count = counts.most_common(1)[0]
    if count > 1:
        twice = [file.relative_to(folder) for file in files if file.stem == name]
        raise UserError(
            f"{folder}: {tables[0].path.name} is about one picture {name}, got {joined(twice)}. Pass the folder of one of them."
        )
    notes = list(parts.notes)
    for table in tables:
        listed = [file for file in files if file.stem in table.rows]
        if not listed:
            fix = f"Remove {table.path.name}, or pass the folder of CelebA's pictures."
            raise UserError(f"{folder}: expected pictures that are named in {table.path}, got {files[0].name}. {fix}")
        if missing := [file.relative_to(folder) for file in files if file.stem not in table.rows]:
            verb = "picture is" if len(missing) == 1 else "pictures are"
            notes.append(f"{folder}: {len(missing)} {verb} not used, being absent from {table.path.name}: {joined(missing)}.")
        if absent := len(table.rows.keys() - counts.keys()):
            notes.append(f"{folder}: {absent} of {len(table.rows)} pictures in {table.path.name} have no file.")
        files = listed
    used = set(files)
    kept = {part: [file for file in group if file in used] for part, group in parts.files.items()}
    if empty := [part for part, group in kept.items() if not group]:
        raise UserError(f"{folder}: the lists of pictures have none of the {PARTS[empty[0]]} pictures. Remove them.")
    if lists.partition is None:
        return Parts(kept, parts.names, tuple(notes))
    file_name = lists.partition.path.name
    if parts.names is not None:
        note = f"{folder}: {file_name} is not used, because the folders {joined(parts.names.values())} are the parts."
        return Parts(kept, parts.names, (*notes, note))
    return _divided(folder, files, lists.partition, notes)


def _divided(folder: Path, files: Sequence[Path], partition: Table, notes: list[str]) -> Parts:
    by_part: dict[str, list[Path]] = {part: [] for part in PARTS}
    for file in files:
        number = partition.rows[file.stem].strip()
        if number not in _PART_BY_NUMBER:
            raise UserError(f"{partition.path}: expected 0, 1 or 2 for {file.name}, got {number!r}. The file is damaged.")
        by_part[_PART_BY_NUMBER[number]].append(file)
    by_part = {part: group for part, group in by_part.items() if group}
    if "train" not in by_part:
        notes.append(f"{folder}: {partition.path.name} has none of its pictures in the training set, so it is not used.")
        return Parts({"train": files}, None, tuple(notes))
    names = {part: f"{number} in {partition.path.name}" for number, part in _PART_BY_NUMBER.items() if part in by_part}
    return Parts(by_part, names, tuple(notes))


def attribute_factors(folder: Path, parts: Parts, attributes: Table | None) -> Factors:
    """Returns the attributes of the pictures as factors: 1 where the list has 1, 0 where it has -1.

    Attributes that all training and test pictures share are left out.
    """
    if attributes is None:
        return Factors({})
    by_part = {part: _levels(files, attributes) for part, files in parts.files.items()}
    everything = np.concatenate([levels for part, levels in by_part.items() if part != "validation"])
    varies = (everything != everything[0]).any(axis=0)
    names = tuple(np.array(attributes.columns)[varies].tolist())
    constant = [name for name, varied in zip(attributes.columns, varies, strict=True) if not varied]
    notes = ()
    if constant:
        verb = "attribute is" if len(constant) == 1 else "attributes are"
        notes = (f"{folder}: {len(constant)} {verb} the same for all pictures and not used: {joined(constant)}.",)
    if not names:
        return Factors({}, None, notes)
    return Factors({part: levels[:, varies] for part, levels in by_part.items()}, names, notes)


def _levels(files: Sequence[Path], attributes: Table) -> np.ndarray:
    try:
        rows = [bytes(map(_LEVELS.__getitem__, attributes.rows[file.stem].split())) for file in files]
    except KeyError as error:
        got = error.args[0]
        raise UserError(f"{attributes.path}: expected -1 and 1, got {got!r}. The file is damaged.") from None
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(files), -1)
