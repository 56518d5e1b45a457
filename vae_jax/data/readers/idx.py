"""Reader of folders of IDX files, the format in which MNIST is distributed."""

import gzip
import math
import re
import zlib
from collections.abc import Callable, Sequence
from io import BufferedReader
from pathlib import Path

import numpy as np

from vae_jax.data.events import event_shape
from vae_jax.data.on_disk import Rows, open_array
from vae_jax.data.readers.listing import PARTS, check_fits_in_memory, folder_part, joined, word_part
from vae_jax.data.readers.registry import Reader, Request, register
from vae_jax.data.split import Split
from vae_jax.errors import UserError


def is_idx(file: Path) -> bool:
    """Returns whether a file is named like an IDX file."""
    return "idx" in file.name.lower() or "ubyte" in file.name.lower()


def _part(file: Path, folder: Path) -> str:
    """Returns the part of a file by its name (t10k-images-idx3-ubyte, emnist-letters-test-images), or else by its folder."""
    name = file.name.lower()
    if name.startswith(("t10k", "test")):
        return "test"
    parts = (word_part(word) for word in re.split(r"[^a-z]+", name))
    in_folder = folder_part(file, folder)
    return next(filter(None, parts), in_folder[0] if in_folder else "train")


def _read_folder(request: Request) -> Split:
    """Reads the images and labels of a folder's IDX files; with `stream` the training images stay on disk."""
    folder = request.path
    chosen, notes = _choose_files(folder, request.files)

    def read(kind: str) -> np.ndarray | None:
        return read_idx(chosen[kind]) if kind in chosen else None

    train = _open_idx(chosen["train"]) if request.stream else read_idx(chosen["train"])
    return Split(
        train,
        read("train_labels"),
        read("validation"),
        read("test"),
        read("test_labels"),
        part_names={part: str(chosen[part].relative_to(folder)) for part in PARTS if part in chosen},
        notes=notes,
    )


def _choose_files(folder: Path, files: Sequence[Path]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Returns the file of each part (train, train_labels, validation ...), and a note on files that are there twice."""
    unpacked = {file for file in files if file.suffix != ".gz"}
    twice = [file for file in files if file.suffix == ".gz" and file.with_suffix("") in unpacked]
    chosen: dict[str, Path] = {}
    for file in files:
        if file in twice:
            continue
        part, is_labels = _part(file, folder), len(idx_shape(file)) == 1
        kind = f"{part}_labels" if is_labels else part
        if kind in chosen:
            both = joined(path.relative_to(folder) for path in (chosen[kind], file))
            raise UserError(
                f"{folder}: expected one file of {PARTS[part]} {'labels' if is_labels else 'images'}, got {both}. Pass a "
                "folder that holds one data set."
            )
        chosen[kind] = file
    if "train" not in chosen:
        raise UserError(
            f"{folder}: expected an IDX file of training images (such as train-images-idx3-ubyte), got "
            f"{joined(file.relative_to(folder) for file in chosen.values())}. Add it, or rename the file that holds them."
        )
    if not twice:
        return chosen, ()
    names = joined(file.relative_to(folder) for file in twice)
    verb = "is" if len(twice) == 1 else "are"
    return chosen, (f"{folder}: {names} {verb} not used, because the unpacked files beside them are read.",)


def read_idx(path: Path) -> np.ndarray:
    """Reads one IDX file of unsigned bytes, raw or gzipped.

    The file has the bytes 0, 0, 8 and the number of axes, then big-endian sizes, then the numbers.
    """
    shape = idx_shape(path)
    start, count = 4 + 4 * len(shape), math.prod(shape)
    check_fits_in_memory(path, count)
    content = _read_bytes(path, lambda file: file.read(start + count + 1))
    if len(content) != start + count:
        num_bytes = len(content) - start
        raise UserError(f"{path}: expected {count} bytes for shape {shape}, got {num_bytes}. The file is damaged.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def idx_shape(path: Path) -> tuple[int, ...]:
    """Returns the shape in the header of an IDX file of unsigned bytes."""
    header = _read_bytes(path, lambda file: file.read(4))
    if len(header) < 4 or header[:3] != b"\x00\x00\x08" or not 1 <= header[3] <= 4:
        raise UserError(
            f"{path}: expected an IDX file of unsigned bytes (it starts with 00 00 08), got {header!r}. Convert it to an .npy "
            "file, or move it out of the folder."
        )
    sizes = _read_bytes(path, lambda file: file.read(4 + 4 * header[3]))[4:]
    if len(sizes) != 4 * header[3]:
        raise UserError(f"{path}: expected {header[3]} sizes of 4 bytes, got {len(sizes)} bytes. The file is damaged.")
    shape = tuple(np.frombuffer(sizes, ">u4").tolist())
    if len(shape) > 1:
        event_shape(str(path), shape)  # refuses shapes that no event has
    return shape


def _read_bytes(path: Path, read: Callable[[BufferedReader | gzip.GzipFile], bytes]) -> bytes:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            return read(file)
    except (OSError, EOFError, zlib.error, MemoryError, OverflowError) as error:
        raise UserError(f"{path}: not a readable IDX file. {error}") from None


def _open_idx(path: Path) -> Rows:
    """Opens the images of an IDX file, which stay on disk."""
    if path.suffix == ".gz":
        raise UserError(f"{path}: a compressed file cannot be read row by row. Unpack it (gunzip).", field="stream")
    shape = idx_shape(path)
    return open_array(path, shape, np.dtype(np.uint8), 4 + 4 * len(shape))


register(
    Reader(
        "idx",
        "IDX files",
        "a folder of IDX files (the format of MNIST), raw or gzipped",
        _read_folder,
        recognizes=is_idx,
        can_stream=True,
    )
)
