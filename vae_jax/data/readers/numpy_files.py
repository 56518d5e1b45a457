"""Readers of NumPy's files: one array in an .npy file, several with names in an .npz archive."""

import re
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vae_jax.data.on_disk import Rows, open_array
from vae_jax.data.readers.listing import PART_WORD, PARTS, UNREADABLE, expect_to_fit, joined, part_of_word, silence
from vae_jax.data.split import Split
from vae_jax.errors import UserError

_BARE = r"(?:x|images?|imgs?|data)"
_LABELS = r"(?:y|labels?|targets?)"
_NAMES = {  # patterns of names, in lower case and without signs such as "_"
    "images": rf"{_BARE}?{PART_WORD}(?:{_BARE}|set)?",
    "labels": rf"{_LABELS}{PART_WORD}|{PART_WORD}{_LABELS}",
    "factors": rf"factors{PART_WORD}|{PART_WORD}factors",
}
_NAMES_OF_ALL = {"images": _BARE, "labels": _LABELS, "factors": "factors"}  # without a part: of the only one


def read_npy(path: Path, stream: bool) -> Split:
    """Reads an .npy file of images; with `stream` they stay on disk."""
    return Split(rows_of_npy(path) if stream else _expect_array(path, _read_numpy(path)))


def rows_of_npy(path: Path) -> Rows:
    """Opens the rows of an .npy file, which stay on disk."""
    array = _expect_array(path, _read_numpy(path, mmap_mode="r"))
    if not array.flags.c_contiguous:
        raise UserError(f"--stream: {path}: expected an array in C order, got Fortran order. Save np.ascontiguousarray(x).")
    return open_array(path, array.shape, array.dtype, array.offset)


def _expect_array(path: Path, array: Any) -> Any:
    if isinstance(array, np.ndarray):
        return array
    array.close()
    raise UserError(f"{path}: expected an array, got an archive of arrays. Rename it to .npz, or save one array.")


def _read_numpy(path: Path, mmap_mode: Literal["r"] | None = None) -> Any:
    try:
        with path.open("rb") as file:
            start = file.read(6)
        if start != b"\x93NUMPY" and not zipfile.is_zipfile(path):
            raise UserError(f"{path}: not a readable array file. It is damaged, or neither .npy nor .npz.")
        with silence():
            return np.load(path, mmap_mode, allow_pickle=False)
    except UserError:
        raise
    except UNREADABLE as error:
        pickled = "Object arrays cannot be loaded" in str(error) or "allow_pickle=False" in str(error)
        fix: Any = error
        if pickled:
            fix = "Object arrays hold pickled code and are never loaded; save one array of numbers, such as np.stack(images)."
        elif isinstance(error, MemoryError):
            fix = f"It does not fit into memory ({error}). Add --stream, which leaves it on disk."
        raise UserError(f"{path}: not a readable array file. {fix}") from None


def role_of(name: str) -> tuple[str, str, bool] | None:
    """(part, images or labels or factors, whether the name has the part in it) of an array's name; None for other names.

    Example:
      >>> role_of("X_train"), role_of("val_labels"), role_of("images")
      (('train', 'images', True), ('validation', 'labels', True), ('train', 'images', False))
    """
    compact = re.sub(r"[^a-z0-9]", "", name.lower())
    for kind, pattern in _NAMES.items():
        if match := re.fullmatch(pattern, compact):
            part = part_of_word(next(filter(None, match.groups())))
            return str(part), kind, True
    for kind, pattern in _NAMES_OF_ALL.items():
        if re.fullmatch(pattern, compact):
            return "train", kind, False
    return ("train", "images", False) if name == "arr_0" else None


def _roles(path: Path, names: list[str]) -> dict[tuple[str, str], str]:
    """The array of each (part, kind); one that names its part comes before one that does not, such as x_train before x."""
    chosen: dict[tuple[str, str], str] = {}
    for explicit in (True, False):
        found: dict[tuple[str, str], list[str]] = {}
        for name in names:
            if (role := role_of(name)) and role[2] == explicit:
                found.setdefault(role[:2], []).append(name)
        for (part, kind), candidates in found.items():
            if (part, kind) in chosen:
                continue
            if kind == "labels":  # for figures only, so a choice does no harm; the others get a note
                candidates = [min(candidates, key=lambda name: name.lower().startswith("y") != explicit)]
            elif len(candidates) > 1:
                candidates = [name for name in candidates if name != "arr_0"]
            if len(candidates) > 1:
                raise UserError(
                    f"{path}: expected one array of {PARTS[part]} {kind}, got {joined(candidates)}. Save the archive without "
                    "those that are not meant."
                )
            chosen[part, kind] = candidates[0]
    return chosen


def read_npz(path: Path) -> Split:
    """Reads the arrays of an .npz archive that have a known name; the others are named in a note and never unpacked."""
    archive = _read_numpy(path)
    if isinstance(archive, np.ndarray):
        raise UserError(f"{path}: expected an .npz archive, got a single array; rename it to .npy.")
    with archive:
        expect_to_fit(path, sum(entry.file_size for entry in archive.zip.infolist()))
        names = archive.files
        roles = _roles(path, names)
        if ("train", "images") not in roles:
            raise UserError(
                f"{path}: expected an array named train or x_train (and test or x_test), got {sorted(names)}. Save it by "
                "np.savez(path, x_train=images)."
            )

        def read(name: str | None) -> np.ndarray | None:
            if name is None:
                return None
            try:
                with silence():
                    array = archive[name]
            except UNREADABLE as error:
                fix = error
                if isinstance(error, MemoryError):
                    fix = f"It does not fit into memory ({error}). Save it as an .npy file and add --stream."
                raise UserError(f"{path}: cannot read the array {name!r}. {fix}") from None
            if not isinstance(array, np.ndarray):  # NumPy returns a member that is not an array as bytes
                raise UserError(f"{path}: expected {name!r} to be an array, got {type(array).__name__}. It is damaged.")
            return array

        train = read(roles["train", "images"])
        assert train is not None
        factor_names = read("factor_names" if "factor_names" in names else None)
        return Split(
            train,
            read(roles.get(("train", "labels"))),
            read(roles.get(("validation", "images"))),
            read(roles.get(("test", "images"))),
            read(roles.get(("test", "labels"))),
            train_factors=read(roles.get(("train", "factors"))),
            test_factors=read(roles.get(("test", "factors"))),
            factor_names=None if factor_names is None else tuple(str(name) for name in factor_names.ravel()),
            where={part: roles[part, "images"] for part in PARTS if (part, "images") in roles},
            notes=_unused(path, [name for name in names if name not in (*roles.values(), "factor_names")]),
        )


def _unused(path: Path, names: list[str]) -> tuple[str, ...]:
    if not names:
        return ()
    verb, noun = ("is", "the array") if len(names) == 1 else ("are", "the arrays")
    fix = "np.savez(path, x_train=..., x_validation=..., x_test=...) gives names that are read"
    return (f"{path}: {noun} {joined(names)} {verb} not used; {fix}.",)
