"""Reader of IDX files, alone or in folders, the format in which MNIST is distributed."""

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
from vae_jax.data.readers.listing import PART_WORD, PARTS, check_fits_in_memory, folder_part, joined, word_part
from vae_jax.data.readers.registry import Reader, Request, register
from vae_jax.data.split import Split
from vae_jax.errors import UserError, unknown

_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}  # by the third byte of the file


def is_idx(file: Path) -> bool:
    """Returns whether a file is named like an IDX file."""
    return "idx" in file.name.lower() or "ubyte" in file.name.lower()


def _starts_with_examples(start: bytes) -> bool:
    """Returns whether the first bytes of a file are the header of an IDX file of examples, which has more than one axis."""
    return len(start) >= 4 and start[:2] == b"\x00\x00" and start[2] in _TYPES and 2 <= start[3] <= 4


def _read(request: Request) -> Split:
    """Reads a folder, or the examples of one file, without labels."""
    if request.path.is_dir():
        return _read_folder(request)
    examples = _open_idx(request.path) if request.stream else read_idx(request.path)
    return Split(examples, conversion=_conversion(request, request.path))


def _conversion(request: Request, file: Path) -> str:
    if "emnist" in file.name.lower() and not request.options.transpose:
        return "images transposed, as EMNIST stores them (`transpose=True` turns them)"
    return ""


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
    files, notes = _without_packed_copies(folder, request.files)
    chosen = _choose_files(folder, files, request.options.array)

    def read(kind: str) -> np.ndarray | None:
        return read_idx(chosen[kind]) if kind in chosen else None

    def read_labels(part: str) -> np.ndarray | None:
        labels = read(f"{part}_labels")
        # QMNIST's labels are rows of eight numbers, of which the first is the digit.
        return labels[:, 0] if labels is not None and labels.ndim == 2 else labels

    return Split(
        _open_idx(chosen["train"]) if request.stream else read_idx(chosen["train"]),
        read_labels("train"),
        read("validation"),
        read("test"),
        read_labels("test"),
        part_names={part: str(chosen[part].relative_to(folder)) for part in PARTS if part in chosen},
        notes=notes,
        validation_labels=read_labels("validation"),
        conversion=_conversion(request, chosen["train"]),
    )


def _without_packed_copies(folder: Path, files: Sequence[Path]) -> tuple[list[Path], tuple[str, ...]]:
    """Returns the files without those that are there unpacked as well, and a note on copies that differ from them."""
    unpacked = {file for file in files if file.suffix != ".gz"}
    twice = [file for file in files if file.suffix == ".gz" and file.with_suffix("") in unpacked]
    others = [file for file in twice if not _is_packed_copy(file, file.with_suffix(""))]
    kept = [file for file in files if file not in twice]
    if not others:
        return kept, ()
    verb = "is" if len(others) == 1 else "are"
    names = joined(file.relative_to(folder) for file in others)
    return kept, (f"{folder}: {names} {verb} not used, because other unpacked files of that name are read.",)


def _is_packed_copy(packed: Path, raw: Path) -> bool:
    """Returns whether a gzipped file holds the bytes of another, by the checksum and the size at its end."""
    try:
        with packed.open("rb") as file:
            file.seek(-8, 2)
            checksum, size = np.frombuffer(file.read(8), "<u4").tolist()
        if raw.stat().st_size % 2**32 != size:
            return False
        computed = 0
        with raw.open("rb") as file:
            while chunk := file.read(2**20):
                computed = zlib.crc32(chunk, computed)
    except OSError:
        return False
    return computed == checksum


def _choose_files(folder: Path, files: Sequence[Path], data_set: str | None) -> dict[str, Path]:
    """Returns the file of each part: train, train_labels, validation ...

    Args:
      folder: the data set.
      files: its IDX files.
      data_set: the start of the names of the files that are meant, such as emnist-letters; None: all are.
    """
    if data_set is not None:
        names = sorted({_data_set(file) for file in files})
        if data_set.lower() not in names:
            raise unknown("array", data_set, names)
        files = [file for file in files if _data_set(file) == data_set.lower()]
    chosen: dict[str, Path] = {}
    for file in files:
        part, is_labels = _part(file, folder), len(idx_header(file)[0]) == 1 or "labels" in file.name.lower()
        kind = f"{part}_labels" if is_labels else part
        if kind in chosen:
            raise _two_files(folder, f"{PARTS[part]} {'labels' if is_labels else 'images'}", chosen[kind], file, files)
        chosen[kind] = file
    if "train" not in chosen:
        images = [file for kind, file in chosen.items() if not kind.endswith("labels")]
        raise UserError(
            f"{folder}: expected an IDX file of training images (such as train-images-idx3-ubyte), got "
            f"{joined(file.relative_to(folder) for file in chosen.values())}. Add it, or rename the file that holds them."
            + (f" To read one file alone, name it: {images[0]}." if images else "")
        )
    return chosen


def _two_files(folder: Path, kind: str, first: Path, second: Path, files: Sequence[Path]) -> UserError:
    both = joined(path.relative_to(folder) for path in (first, second))
    fix = "Pass a folder that holds one data set."
    if len(names := sorted({_data_set(file) for file in files} - {""})) > 1:
        named = f'such as `array="{names[0]}"`'
        fix = f"Pass a folder that holds one data set, or name the one that is meant ({joined(names, limit=10)}), {named}."
    return UserError(f"{folder}: expected one file of {kind}, got {both}. {fix}")


def _data_set(file: Path) -> str:
    """Returns what stands before the part in the name of an IDX file: emnist-letters for emnist-letters-test-images-idx3-ubyte.

    It is empty for names such as train-images-idx3-ubyte.
    """
    name = file.name.lower()
    return name[: match.start()].strip("-_.") if (match := re.search(rf"(?<![a-z]){PART_WORD}(?![a-z])", name)) else ""


def read_idx(path: Path) -> np.ndarray:
    """Reads one IDX file, raw or gzipped.

    The file has the bytes 0, 0, type (8 for unsigned bytes) and the number of axes, then big-endian sizes, then the numbers,
    big-endian as well.
    """
    shape, dtype = idx_header(path)
    start, num_bytes = 4 + 4 * len(shape), math.prod(shape) * dtype.itemsize
    check_fits_in_memory(path, num_bytes)
    content = _read_bytes(path, lambda file: file.read(start + num_bytes + 1))
    if len(content) != start + num_bytes:
        got = len(content) - start
        raise UserError(f"{path}: expected {num_bytes} bytes for shape {shape}, got {got}. The file is damaged.")
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


def idx_header(path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Returns the shape and the type in the header of an IDX file."""
    header = _read_bytes(path, lambda file: file.read(4))
    if len(header) < 4 or header[:2] != b"\x00\x00" or header[2] not in _TYPES or not 1 <= header[3] <= 4:
        raise UserError(
            f"{path}: expected an IDX file (of unsigned bytes, it starts with 00 00 08), got {header!r}. Convert it to an .npy "
            "file, or move it out of the folder."
        )
    sizes = _read_bytes(path, lambda file: file.read(4 + 4 * header[3]))[4:]
    if len(sizes) != 4 * header[3]:
        raise UserError(f"{path}: expected {header[3]} sizes of 4 bytes, got {len(sizes)} bytes. The file is damaged.")
    shape = tuple(np.frombuffer(sizes, ">u4").tolist())
    if len(shape) > 1:
        event_shape(str(path), shape)  # refuses shapes that no event has
    return shape, np.dtype(_TYPES[header[2]])


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
    shape, dtype = idx_header(path)
    return open_array(path, shape, dtype, 4 + 4 * len(shape))


register(
    Reader(
        "idx",
        "IDX files",
        "an IDX file (the format of MNIST) or a folder of them, raw or gzipped",
        _read,
        starts_with=_starts_with_examples,
        recognizes=is_idx,
        can_stream=True,
        uses=("array",),
        published=("MNIST", "Fashion-MNIST", "KMNIST", "EMNIST", "QMNIST"),
    )
)
