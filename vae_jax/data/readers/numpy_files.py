"""Readers of NumPy's files: one array in an .npy file, several named arrays in an .npz archive."""

import re
import zipfile
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.lib.npyio import NpzFile

from vae_jax.data.on_disk import Rows, open_array
from vae_jax.data.readers.listing import PART_WORD, PARTS, UNREADABLE, check_fits_in_memory, joined, silence, word_part
from vae_jax.data.readers.registry import Reader, Request, register
from vae_jax.data.split import Split
from vae_jax.errors import UserError

_BARE = r"(?:x|images?|imgs?|data)"
_LABELS = r"(?:y|labels?|targets?)"
# Patterns of array names, in lower case and without signs such as "_".
_PATTERNS = {
    "images": rf"{_BARE}?{PART_WORD}(?:{_BARE}|set)?",
    "labels": rf"{_LABELS}{PART_WORD}|{PART_WORD}{_LABELS}",
    "factors": rf"factors{PART_WORD}|{PART_WORD}factors",
}
_PATTERNS_WITHOUT_PART = {"images": _BARE, "labels": _LABELS, "factors": "factors"}


class Role(NamedTuple):
    """The use of an array of an archive.

    Attributes:
      part: train, validation or test.
      kind: images, labels or factors.
    """

    part: str
    kind: str


def _read_npy(request: Request) -> Split:
    """Reads an .npy file of images; with `stream` they stay on disk."""
    return Split(open_npy(request.path) if request.stream else _check_is_array(request.path, _load(request.path)))


def open_npy(path: Path) -> Rows:
    """Opens the rows of an .npy file, which stay on disk."""
    array = _check_is_array(path, _load(path, mmap_mode="r"))
    assert isinstance(array, np.memmap)
    if not array.flags.c_contiguous:
        raise UserError(
            f"{path}: expected an array in C order, got Fortran order. Save np.ascontiguousarray(x).", field="stream"
        )
    return open_array(path, array.shape, array.dtype, array.offset)


def _check_is_array(path: Path, array: np.ndarray | NpzFile) -> np.ndarray:
    if isinstance(array, np.ndarray):
        return array
    array.close()
    raise UserError(f"{path}: expected an array, got an archive of arrays. Rename it to .npz, or save one array.")


def _load(path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray | NpzFile:
    """Opens an .npy or .npz file without executing anything from it."""
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
        fix = str(error)
        if pickled:
            fix = "Object arrays hold pickled code and are never loaded. Save one array of numbers, such as np.stack(images)."
        elif isinstance(error, MemoryError):
            fix = f"It does not fit into memory ({error}). Use `stream=True`, which leaves it on disk."
        raise UserError(f"{path}: not a readable array file. {fix}") from None


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
    return (Role("train", "images"), False) if name == "arr_0" else None


def _choose_arrays(path: Path, names: list[str]) -> dict[Role, str]:
    """Returns the name of the array for each role. A name that has the part in it wins, such as x_train over x."""
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
            if kind == "labels":  # for figures only, so a choice does no harm; the others get a note
                candidates = [min(candidates, key=lambda name: name.lower().startswith("y") != names_part)]
            elif len(candidates) > 1:
                candidates = [name for name in candidates if name != "arr_0"]
            if len(candidates) > 1:
                raise UserError(
                    f"{path}: expected one array of {PARTS[part]} {kind}, got {joined(candidates)}. Save the archive without "
                    "those that are not meant."
                )
            chosen[role] = candidates[0]
    return chosen


def _read_npz(request: Request) -> Split:
    """Reads the arrays of an .npz archive that have a known name. A note names the others, which are never unpacked."""
    path = request.path
    archive = _load(path)
    if isinstance(archive, np.ndarray):
        raise UserError(f"{path}: expected an .npz archive, got a single array. Rename it to .npy.")
    with archive:
        check_fits_in_memory(path, sum(entry.file_size for entry in archive.zip.infolist()) if archive.zip else 0)
        names = archive.files
        if set(names) >= {"format", "shape", "data"}:  # of scipy.sparse.save_npz, in every format
            from vae_jax.data.readers import sparse_files

            return sparse_files.read_scipy_npz(request)
        roles = _choose_arrays(path, names)
        if Role("train", "images") not in roles:
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
                fix = str(error)
                if isinstance(error, MemoryError):
                    fix = f"It does not fit into memory ({error}). Save it as an .npy file and use `stream=True`."
                raise UserError(f"{path}: cannot read the array {name!r}. {fix}") from None
            if not isinstance(array, np.ndarray):  # NumPy returns a member that is not an array as bytes
                raise UserError(f"{path}: expected {name!r} to be an array, got {type(array).__name__}. It is damaged.")
            return array

        train = read(roles[Role("train", "images")])
        assert train is not None
        factor_names = read("factor_names" if "factor_names" in names else None)
        return Split(
            train,
            read(roles.get(Role("train", "labels"))),
            read(roles.get(Role("validation", "images"))),
            read(roles.get(Role("test", "images"))),
            read(roles.get(Role("test", "labels"))),
            train_factors=read(roles.get(Role("train", "factors"))),
            test_factors=read(roles.get(Role("test", "factors"))),
            factor_names=None if factor_names is None else tuple(str(name) for name in factor_names.ravel()),
            part_names={part: roles[Role(part, "images")] for part in PARTS if Role(part, "images") in roles},
            notes=_note_on_unused(path, [name for name in names if name not in (*roles.values(), "factor_names")]),
        )


def _note_on_unused(path: Path, names: list[str]) -> tuple[str, ...]:
    if not names:
        return ()
    verb, noun = ("is", "the array") if len(names) == 1 else ("are", "the arrays")
    fix = "Names that are read are those of np.savez(path, x_train=..., x_validation=..., x_test=...)."
    return (f"{path}: {noun} {joined(names)} {verb} not used. {fix}",)


register(Reader("npy", ".npy files", "an .npy file: one array of images", _read_npy, endings=(".npy",), can_stream=True))
register(
    Reader(
        "npz",
        ".npz archives",
        "an .npz file: arrays of training images (train or x_train), test images (test or x_test), labels and factors",
        _read_npz,
        endings=(".npz",),
    )
)
