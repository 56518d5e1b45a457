"""Arrays of a file that have names, such as x_train and test_labels: which of them are images, labels, factors and masks."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_jax.data.on_disk import Rows
from vae_jax.data.readers.listing import PART_WORD, PARTS, joined, word_part
from vae_jax.data.split import Split
from vae_jax.errors import UserError, unknown

_BARE = r"(?:x|images?|imgs?|data)"
_LABELS = r"(?:y|labels?|targets?)"
# Patterns of array names, in lower case and without signs such as "_".
_PATTERNS = {
    "images": rf"{_BARE}?{PART_WORD}(?:{_BARE}|set)?",
    "labels": rf"{_LABELS}{PART_WORD}|{PART_WORD}{_LABELS}",
    "factors": rf"factors{PART_WORD}|{PART_WORD}factors",
    # True where an entry is observed. "masks" are those of segmentation in other people's archives.
    "masks": rf"{_BARE}?{PART_WORD}(?:{_BARE})?mask|mask{_BARE}?{PART_WORD}",
}
_PATTERNS_WITHOUT_PART = {"images": _BARE, "labels": _LABELS, "factors": "factors", "masks": f"{_BARE}?mask|mask{_BARE}"}


class Role(NamedTuple):
    """The use of an array of a file.

    Attributes:
      part: train, validation or test.
      kind: images, labels, factors or masks.
    """

    part: str
    kind: str


TRAIN_IMAGES, TRAIN_MASK = Role("train", "images"), Role("train", "masks")


def array_role(name: str) -> tuple[Role, bool] | None:
    """Returns the role of an array by its name, and whether the name has the part in it; None for other names.

    Example:
      >>> array_role("val_labels")
      (Role(part='validation', kind='labels'), True)
      >>> array_role("images")
      (Role(part='train', kind='images'), False)
    """
    compact = re.sub(r"[^a-z0-9]", "", name.lower())
    for kind, pattern in _PATTERNS.items():
        if match := re.fullmatch(pattern, compact):
            part = word_part(next(filter(None, match.groups())))
            return Role(str(part), kind), True
    for kind, pattern in _PATTERNS_WITHOUT_PART.items():
        if re.fullmatch(pattern, compact):
            return Role("train", kind), False
    return (TRAIN_IMAGES, False) if name == "arr_0" else None


def choose_arrays(path: Path, names: Sequence[str], array: str | None = None) -> dict[Role, str]:
    """Returns the name of the array for each role. A name that has the part in it wins, such as x_train over x.

    Args:
      path: the file, for messages.
      names: the names of its arrays.
      array: the array that the user names as the training examples. Where its name says that it belongs to another part, such
        as x_test, it comes with the labels and factors of that part, and nothing else is used.

    Raises:
      UserError: two arrays for one role, or an `array` that is not there.
    """
    if array is None:
        return _choose(path, names)
    if array not in names:
        raise unknown("array", array, sorted(names), f" Expected the name of an array in {path}.")
    known = array_role(array)
    part = known[0].part if known and known[0].kind == "images" else "train"
    images = Role(part, "images")
    rest = [name for name in names if name != array and not ((role := array_role(name)) and role[0] == images)]
    roles = _choose(path, rest)
    if part != "train":
        roles = {Role("train", role.kind): name for role, name in roles.items() if role.part == part}
    return {**roles, TRAIN_IMAGES: array}


def _choose(path: Path, names: Sequence[str]) -> dict[Role, str]:
    chosen: dict[Role, str] = {}
    for names_part in (True, False):
        candidates_by_role: dict[Role, list[str]] = {}
        for name in names:
            if (match := array_role(name)) and match[1] == names_part:
                candidates_by_role.setdefault(match[0], []).append(name)
        for role, candidates in candidates_by_role.items():
            if role in chosen:
                continue
            part, kind = role
            if kind == "labels":  # the others get a note
                candidates = [min(candidates, key=lambda name: name.lower().startswith("y") != names_part)]
            elif len(candidates) > 1:
                candidates = [name for name in candidates if name != "arr_0"]
            if len(candidates) > 1:
                fix = "Save the file without those that are not meant"
                if kind == "images":
                    fix += f', or name one, such as `array="{candidates[0]}"`'
                raise UserError(f"{path}: expected one array of {PARTS[part]} {kind}, got {joined(candidates)}. {fix}.")
            chosen[role] = candidates[0]
    return chosen


def split_of_arrays(
    roles: dict[Role, str],
    read: Callable[[str], np.ndarray],
    open_rows: Callable[[str], Rows] | None = None,
    check: bool = False,
) -> tuple[Split, list[str]]:
    """Reads arrays into a `Split`.

    Args:
      roles: the name of the array for each role, at least for the training images.
      read: reads an array by its name.
      open_rows: opens the training images, and their mask, which stay on disk; None: they are read.
      check: leave out arrays that do not belong to the training images by their shapes. Otherwise they are refused later.

    Returns:
      The data, and the names of the arrays that are used.
    """
    train = (open_rows or read)(roles[TRAIN_IMAGES])
    used = [roles[TRAIN_IMAGES]]
    arrays: dict[Role, np.ndarray] = {}
    masks: dict[str, np.ndarray | Rows] = {}
    lengths = {"train": train.shape[0] if train.shape else 0}
    for role, name in sorted(roles.items(), key=lambda item: item[0].kind != "images"):  # labels after their images
        if role == TRAIN_IMAGES:
            continue
        if role.kind == "masks":  # checked with their examples
            masks[f"{role.part}_mask"] = open_rows(name) if open_rows is not None and role == TRAIN_MASK else read(name)
            used.append(name)
            continue
        array = read(name)
        length = len(array) if array.ndim else 0
        is_images = role.kind == "images"
        if check and (array.shape[1:] != train.shape[1:] if is_images else length != lengths.get(role.part)):
            continue
        arrays[role] = array
        used.append(name)
        if is_images:
            lengths[role.part] = length
    part_names = {part: roles[role] for part in PARTS if (role := Role(part, "images")) in arrays or role == TRAIN_IMAGES}
    split = Split(
        train,
        arrays.get(Role("train", "labels")),
        arrays.get(Role("validation", "images")),
        arrays.get(Role("test", "images")),
        arrays.get(Role("test", "labels")),
        train_factors=arrays.get(Role("train", "factors")),
        test_factors=arrays.get(Role("test", "factors")),
        part_names=part_names,
        validation_labels=arrays.get(Role("validation", "labels")),
        train_mask=masks.get("train_mask"),
        validation_mask=masks.get("validation_mask"),
        test_mask=masks.get("test_mask"),
        validation_factors=arrays.get(Role("validation", "factors")),
    )
    return split, used
