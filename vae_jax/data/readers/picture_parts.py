"""Training, validation and test pictures by the folders that they are in, and class folders as labels."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_jax.data.readers.listing import PARTS, folder_part, folders_of, joined
from vae_jax.errors import UserError


class Parts(NamedTuple):
    """The pictures of each part.

    Attributes:
      files: the pictures by part; keys train, validation, test.
      names: the name of each part, such as its folder; None where there are training pictures alone.
      notes: a sentence for everything that is not used.
    """

    files: Mapping[str, Sequence[Path]]
    names: dict[str, str] | None = None
    notes: tuple[str, ...] = ()


class Labels(NamedTuple):
    """Labels of the pictures.

    Attributes:
      by_part: a label for each picture of a part, (pictures,), int64. Parts without class folders are absent.
      names: the name of each label 0, 1, 2, ...
      notes: a sentence for each part without labels where others have some.
    """

    by_part: Mapping[str, np.ndarray]
    names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def divide_by_folders(folder: Path, files: Sequence[Path]) -> Parts:
    """Divides pictures by folders named train, val (valid, validation, dev) and test, as far as there are any."""
    parts_of_files = [(file, folder_part(file, folder)) for file in files]
    folders: dict[str, list[Path]] = {part: [] for part in PARTS}
    for _, match in parts_of_files:
        if match and match[1] not in folders[match[0]]:
            folders[match[0]].append(match[1])
    held_out = [subfolder for part in ("validation", "test") for subfolder in folders[part]]
    if not held_out:
        return Parts({"train": files})
    if not folders["train"]:
        note = (
            f"{folder}: {_joined_folders(held_out)} {'is' if len(held_out) == 1 else 'are'} pooled with all other pictures, "
            "because no folder is named train. Rename the folder of the training pictures to train to keep them apart."
        )
        return Parts({"train": files}, None, (note,))
    _check_one_folder_for_each_part(folder, folders)
    parts: dict[str, Sequence[Path]] = {
        part: [file for file, match in parts_of_files if match and match[0] == part] for part in PARTS if folders[part]
    }
    part_names = {part: _joined_folders(folders[part]) for part in parts}
    rest = [file.relative_to(folder) for file, match in parts_of_files if match is None]
    if not rest:
        return Parts(parts, part_names)
    verb = "picture is" if len(rest) == 1 else "pictures are"
    note = f"{folder}: {len(rest)} {verb} not used, being outside {joined(part_names.values())}: {joined(rest)}."
    return Parts(parts, part_names, (note,))


def _check_one_folder_for_each_part(folder: Path, folders: dict[str, list[Path]]) -> None:
    """Raises `UserError` where two folders in one parent have names of the same part."""
    for part, subfolders in folders.items():
        for parent, count in Counter(subfolder.parent for subfolder in subfolders).items():
            if count > 1:
                siblings = [subfolder for subfolder in subfolders if subfolder.parent == parent]
                raise UserError(
                    f"{folder}: expected one folder of {PARTS[part]} pictures, got {_joined_folders(siblings)}. Merge them, or "
                    "move those that are not meant elsewhere."
                )


def _joined_folders(folders: Iterable[Path]) -> str:
    return joined(f"{folder}/" for folder in folders)


def class_labels(folder: Path, parts: Parts) -> Labels:
    """Returns the labels that class folders stand for.

    The class of a picture is its first folder below the folder of its part, or below `folder` where no folder is named like a
    part. Classes are numbered in the sorted order of the names of all parts, as torchvision's `ImageFolder` numbers them. A
    part has labels if all of its pictures are in class folders, and some of these are classes of the training pictures.
    There are none at all unless at least two classes occur.

    Folders that number the pictures through, as those of FFHQ (00000/00000.png, ..., 01000/01000.png), are not classes: the
    names of the folders are numbers of one length, the names of the pictures are numbers, and all those in one folder come
    before all those in the next.
    """
    if parts.names is None and len(part_folders := {folder_part(file, folder) for file in parts.files["train"]}) == 1:
        (only,) = part_folders
        folder = folder / only[1] if only else folder  # all pictures are in train/
    classes_by_part = {part: [_class_folder(folder, file, parts) for file in files] for part, files in parts.files.items()}
    labeled = {part: [name for name in names if name is not None] for part, names in classes_by_part.items() if all(names)}
    # The folder val/images of Tiny ImageNet is not a class.
    foreign = [part for part, classes in labeled.items() if set(classes).isdisjoint(labeled.get("train", classes))]
    for part in foreign:
        labeled.pop(part)
    names = sorted({name for classes in labeled.values() for name in classes})
    if len(names) < 2 or _number_pictures_through(parts, labeled):
        return Labels({})
    notes = [
        f"{folder}: the {PARTS[part]} pictures have no labels, because {(parts.names or {})[part]} has pictures outside of "
        "class folders."
        for part in parts.files
        if part not in labeled and part not in foreign
    ]
    notes += [
        f"{folder}: the {PARTS[part]} pictures have no labels, because the folders in {(parts.names or {})[part]} are not "
        f"those of {(parts.names or {})['train']}."
        for part in foreign
    ]
    number = {name: label for label, name in enumerate(names)}
    labels = {part: np.array([number[name] for name in classes], np.int64) for part, classes in labeled.items()}
    return Labels(labels, tuple(names), tuple(notes))


def _class_folder(folder: Path, file: Path, parts: Parts) -> str | None:
    """Returns the name of the class folder that a picture is in; None where it is in none."""
    parents = folders_of(file, folder)
    if parts.names and (match := folder_part(file, folder)):
        parents = parents[len(match[1].parts) :]
    return parents[0] if parents else None


def _number_pictures_through(parts: Parts, labeled: Mapping[str, Sequence[str]]) -> bool:
    """Returns whether the folders of all parts only divide a numbered sequence of pictures."""
    for part, folders in labeled.items():
        numbers: dict[str, list[str]] = {}
        for name, file in zip(folders, parts.files[part], strict=True):
            numbers.setdefault(name, []).append(file.stem)
        lengths = {len(name) for name in numbers}
        stems = [stem for group in numbers.values() for stem in group]
        if lengths != {max(lengths)} or max(lengths) < 2 or not all(map(_is_number, [*numbers, *stems])):
            return False
        groups = [list(map(int, numbers[name])) for name in sorted(numbers)]
        if any(max(before) >= min(after) for before, after in pairwise(groups)):
            return False
    return True


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()
