"""Folders of files that are named after the part that they hold, such as train.npy and test.npy."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vae_jax.data.on_disk import Rows
from vae_jax.data.readers import registry
from vae_jax.data.readers.combining import Piece, assemble, join_pieces, pieces_of
from vae_jax.data.readers.listing import (
    PART_WORD,
    PARTS,
    be,
    check_fits_in_memory,
    folder_part,
    joined,
    natural_key,
    note_on_other_files,
    word_part,
)
from vae_jax.data.sparse import SparseRows
from vae_jax.data.split import Split
from vae_jax.errors import UserError

_EXTRA = "extra"  # further training images of SVHN, which are easier than the others
_PARTS_OF_FILES = {"eval": "validation", _EXTRA: _EXTRA}
_KINDS = {"factors": "factors", "mask": "masks", **dict.fromkeys(("y", "label", "labels", "target", "targets"), "labels")}


def file_part(file: Path, folder: Path) -> str | None:
    """Returns the part that a file belongs to by its name, or else by its folder: train, validation, test or "extra".

    None where neither names a part, or where the name has the words of two parts.

    Example:
      >>> [file_part(Path("d", name), Path("d")) for name in ("imagenet32-valid.npy", "x_train.npz", "eval_data.npz", "a.npy")]
      ['validation', 'train', 'validation', None]
      >>> file_part(Path("d/test/0000.parquet"), Path("d"))
      'test'
    """
    stem = file.name.split(".")[0]
    # A capital inside a word starts a new one, as in mnistTrain.
    split_name = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", stem).lower())
    parts = {part for word in split_name if (part := _PARTS_OF_FILES.get(word) or _word_part(word))}
    if parts:
        return parts.pop() if len(parts) == 1 else None
    in_folder = folder_part(file, folder)
    return in_folder[0] if in_folder else None


def _word_part(word: str) -> str | None:
    match = re.fullmatch(rf"(?:x|y|images?|imgs?|data)?{PART_WORD}(?:set|images?|imgs?|data|labels?)?", word)
    return word_part(match[1]) if match else None


def read_part_files(folder: Path, files: Sequence[Path], stream: bool, read: Callable[[Path, bool], Split]) -> Split | None:
    """Reads the files of a folder that no reader of folders recognizes.

    A single file that can be read is read. Of several, the words in their names say to which part each belongs. Files of one
    part are joined in natural order. Arrays of labels or factors (y_train.npy, train_labels.npy) belong to the examples beside
    them.

    Args:
      folder: the data set.
      files: all files of the folder.
      stream: leave the training examples on disk.
      read: reads one file, or with True as second argument leaves its training examples on disk.

    Returns:
      The data set; None where no file can be read.

    Raises:
      UserError: files that do not make up one data set.
    """
    readers = {file: reader for file in files if (reader := registry.reader_of_file(file))}
    if not readers:
        return None
    kind = registry.either(dict.fromkeys(reader.files for reader in readers.values()))
    others = note_on_other_files(folder, [file for file in files if file not in readers], kind)
    if len(readers) == 1:
        split = read(next(iter(readers)), stream)
        return split._replace(notes=(*split.notes, *others))
    files_by_part: dict[str | None, list[Path]] = {}
    for file in sorted(readers, key=natural_key):
        files_by_part.setdefault(file_part(file, folder), []).append(file)
    examples_by_part = {part: _with_kind(part_files, readers, None) for part, part_files in files_by_part.items()}
    if not examples_by_part.get("train"):
        raise _no_training_files(folder, list(readers))
    pieces, notes = {}, []
    for part in PARTS:
        if examples := examples_by_part.get(part):
            pieces[part] = _read_part(folder, part, examples, stream and part == "train", read)
            labels = _read_beside(folder, part, _with_kind(files_by_part[part], readers, "labels"), read)
            factors = _read_beside(folder, part, _with_kind(files_by_part[part], readers, "factors"), read)
            is_on_disk = stream and part == "train"
            mask = _read_mask(folder, part, _with_kind(files_by_part[part], readers, "masks"), read, is_on_disk)
            pieces[part] = pieces[part]._replace(
                labels=pieces[part].labels if labels is None else labels,
                factors=pieces[part].factors if factors is None else factors,
                mask=pieces[part].mask if mask is None else mask,
            )
            notes += pieces[part].source.notes
        elif unused := files_by_part.get(part):
            verb, why = be(unused), f"there are no {PARTS[part]} examples beside"
            notes.append(f"{folder}: {_names(folder, unused)} {verb} not used, because {why}.")
    if extra := files_by_part.get(_EXTRA):
        fix = "To train on more examples, join all of them in one file."
        notes.append(f"{folder}: {_names(folder, extra)} {be(extra)} not used. {fix}")
    if unnamed := files_by_part.get(None):
        why = "the name does not tell the part: train, validation or test"
        notes.append(f"{folder}: {_names(folder, unnamed)} {be(unnamed)} not used, because {why}.")
    part_names = {part: _names(folder, examples_by_part[part]) for part in pieces}
    split = assemble(pieces, pieces["train"].source)
    return split._replace(part_names=part_names, notes=(*notes, *others))


def _with_kind(files: Sequence[Path], readers: Mapping[Path, registry.Reader], kind: str | None) -> list[Path]:
    """Returns the files of examples (kind None), or the arrays of labels, factors or masks that lie beside them."""

    def kind_of(file: Path) -> str | None:
        split_name = re.split(r"[^a-z]+", re.sub(rf"(labels?|mask|{PART_WORD})", r"_\1_", file.stem.lower()))
        return next(filter(None, map(_KINDS.get, split_name)), None) if readers[file].name == "npy" else None

    return [file for file in files if kind_of(file) == kind]


def _read_part(folder: Path, part: str, files: Sequence[Path], stream: bool, read: Callable[[Path, bool], Split]) -> Piece:
    """Reads the files of one part, and joins them."""
    if len(files) == 1:
        return _part_of_file(read(files[0], stream), files[0], part)
    endings = dict.fromkeys(file.suffix.lower() for file in files)
    if len(endings) > 1:
        raise UserError(
            f"{folder}: expected {PARTS[part]} files of one format, got {_names(folder, files)}. Pass a folder without those "
            "that are not meant."
        )
    if stream:
        raise UserError(
            f"{folder}: {len(files)} training files ({_names(folder, files)}) cannot be read row by row while training. Join "
            "them in one .npy file, or leave out `stream=True`.",
            field="stream",
        )
    pieces: list[Piece] = []
    for index, file in enumerate(files):
        piece = _part_of_file(read(file, False), file, part)
        if not index:  # before any other file is read
            stored = piece.examples.data if isinstance(piece.examples, SparseRows) else piece.examples
            check_fits_in_memory(folder, stored.size * stored.dtype.itemsize * len(files))
        pieces.append(piece)
    return join_pieces(str(folder), part, pieces)


def _part_of_file(source: Split, file: Path, part: str) -> Piece:
    """Returns the part of a source that its file is named after."""
    pieces = pieces_of(source, str(file))
    if len(pieces) == 1:
        return pieces["train"]
    if part not in pieces or part == "train":
        raise UserError(
            f"{file}: expected {PARTS[part]} examples alone, as its name says, got "
            f"{joined(f'{PARTS[other]} examples' for other in pieces)}. Pass this file itself in place of its folder."
        )
    return pieces[part]


def _read_beside(folder: Path, part: str, files: Sequence[Path], read: Callable[[Path, bool], Split]) -> np.ndarray | None:
    """Reads the labels or factors of one part, which lie in one array."""
    array = _read_mask(folder, part, files, read, stream=False)
    assert not isinstance(array, Rows)
    return array


def _read_mask(
    folder: Path, part: str, files: Sequence[Path], read: Callable[[Path, bool], Split], stream: bool
) -> np.ndarray | Rows | None:
    """Reads one array beside the examples of a part. With `stream` it stays on disk."""
    if len(files) > 1:
        raise UserError(
            f"{folder}: expected one file of {PARTS[part]} labels, factors or masks, got {_names(folder, files)}. Pass a "
            "folder without those that are not meant."
        )
    if not files:
        return None
    array = read(files[0], stream).train
    assert not isinstance(array, SparseRows)
    return array


def _no_training_files(folder: Path, files: Sequence[Path]) -> UserError:
    example = files[0]
    return UserError(
        f"{folder}: expected files named after their part, such as train{example.suffix} and test{example.suffix}, got "
        f"{_names(folder, files)}. Rename the files so that one has train in its name, or pass a single file: {example}."
    )


def _names(folder: Path, files: Sequence[Path]) -> str:
    return joined((file.relative_to(folder) for file in files), limit=3)
