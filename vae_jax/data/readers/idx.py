"""Reader of folders of IDX files, the format of MNIST."""

import gzip
import math
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.data.checks import check_shape
from vae_jax.data.on_disk import Rows, open_array
from vae_jax.data.readers.listing import PARTS, expect_to_fit, joined, part_of_folders, part_of_word
from vae_jax.data.split import Split
from vae_jax.errors import UserError


def is_idx(file: Path) -> bool:
    """Returns whether a file is named like an IDX file."""
    return "idx" in file.name.lower() or "ubyte" in file.name.lower()


def _part(file: Path, folder: Path) -> str:
    """The part of a file by its own name (t10k-images-idx3-ubyte, emnist-letters-test-images), or by its folder's."""
    name = file.name.lower()
    if name.startswith(("t10k", "test")):
        return "test"
    words = (part_of_word(word) for word in re.split(r"[^a-z]+", name))
    by_folder = part_of_folders(file, folder)
    return next(filter(None, words), by_folder[0] if by_folder else "train")


def read_folder(folder: Path, files: list[Path], stream: bool) -> Split:
    """Reads the images and labels of a folder's IDX files; with `stream` the training images stay on disk."""
    unpacked = {file for file in files if file.suffix != ".gz"}
    twice = [file for file in files if file.suffix == ".gz" and file.with_suffix("") in unpacked]
    found: dict[str, Path] = {}
    for file in files:
        if file in twice:
            continue
        part, is_labels = _part(file, folder), len(idx_shape(file)) == 1
        kind = f"{part}_labels" if is_labels else part
        if kind in found:
            both = joined(path.relative_to(folder) for path in (found[kind], file))
            raise UserError(
                f"{folder}: expected one file of {PARTS[part]} {'labels' if is_labels else 'images'}, got {both}. Pass a "
                "folder that holds one data set."
            )
        found[kind] = file
    if "train" not in found:
        raise UserError(
            f"{folder}: expected an IDX file of training images (such as train-images-idx3-ubyte), got "
            f"{joined(file.relative_to(folder) for file in found.values())}. Add it, or rename the file that holds them."
        )
    notes = ()
    if twice:
        names = joined(file.relative_to(folder) for file in twice)
        notes = (f"{folder}: {names} {'is' if len(twice) == 1 else 'are'} not used: the unpacked files beside them are read.",)

    def read(kind: str) -> np.ndarray | None:
        return read_idx(found[kind]) if kind in found else None

    train = _rows_of_idx(found["train"]) if stream else read_idx(found["train"])
    return Split(
        train,
        read("train_labels"),
        read("validation"),
        read("test"),
        read("test_labels"),
        where={part: str(found[part].relative_to(folder)) for part in PARTS if part in found},
        notes=notes,
    )


def read_idx(path: Path) -> np.ndarray:
    """Reads one IDX file of unsigned bytes, raw or gzipped: magic 0 0 8 ndim, big-endian sizes, then the bytes."""
    shape = idx_shape(path)
    start, count = 4 + 4 * len(shape), math.prod(shape)
    expect_to_fit(path, count)
    content = _of_idx(path, lambda file: file.read(start + count + 1))
    if len(content) != start + count:
        found = len(content) - start
        raise UserError(f"{path}: expected {count} bytes for shape {shape}, got {found}; the file is damaged.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def idx_shape(path: Path) -> tuple[int, ...]:
    """Returns the shape in the header of an IDX file of unsigned bytes."""
    header = _of_idx(path, lambda file: file.read(4))
    if len(header) < 4 or header[:3] != b"\x00\x00\x08" or not 1 <= header[3] <= 4:
        raise UserError(
            f"{path}: expected an IDX file of unsigned bytes (it starts with 00 00 08), got {header!r}. Convert it to an .npy "
            "file, or move it out of the folder."
        )
    sizes = _of_idx(path, lambda file: file.read(4 + 4 * header[3]))[4:]
    if len(sizes) != 4 * header[3]:
        raise UserError(f"{path}: expected {header[3]} sizes of 4 bytes, got {len(sizes)} bytes; the file is damaged.")
    shape = tuple(np.frombuffer(sizes, ">u4").tolist())
    if len(shape) > 1:
        check_shape(str(path), shape)
    return shape


def _of_idx(path: Path, read: Callable[[Any], bytes]) -> bytes:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            return read(file)
    except (OSError, EOFError, zlib.error, MemoryError, OverflowError) as error:
        raise UserError(f"{path}: not a readable IDX file. {error}") from None


def _rows_of_idx(path: Path) -> Rows:
    if path.suffix == ".gz":
        raise UserError(f"--stream: {path}: a compressed file cannot be read row by row. Unpack it (gunzip).")
    shape = idx_shape(path)
    return open_array(path, shape, np.dtype(np.uint8), 4 + 4 * len(shape))
