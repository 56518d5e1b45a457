"""Reader of MATLAB files of version 5 (and 4): the published Omniglot, Caltech silhouettes, Frey faces and SVHN, and any array.

MATLAB stores arrays by columns. SciPy returns them with their axes in MATLAB's order, so a matrix has its rows first. What is
left of the column order is inside of flattened images, whose pixels go down the columns.
"""

import math
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_jax.data.readers.cars3d import cars_images, is_mesh
from vae_jax.data.readers.listing import check_fits_in_memory, joined, silence
from vae_jax.data.readers.named_arrays import TRAIN_IMAGES, choose_arrays, split_of_arrays
from vae_jax.data.readers.registry import Reader, Request, register
from vae_jax.data.split import Split
from vae_jax.errors import UserError, unknown

# Bytes of a number of each MATLAB class that is read. Cells, structures, objects and functions are not.
_NUMERIC = {"double": 8, "single": 4, "logical": 1} | {f"{sign}int{8 * n}": n for sign in ("", "u") for n in (1, 2, 4, 8)}
_Read = Callable[[str], np.ndarray]
_Shapes = Mapping[str, tuple[int, ...]]


class Variable(NamedTuple):
    """Declaration of an array in a MATLAB file: its shape and the bytes that it takes in memory."""

    shape: tuple[int, ...]
    num_bytes: int


def list_variables(path: Path) -> dict[str, Variable]:
    """Returns the numeric arrays of a MATLAB file by name, without reading them.

    Raises:
      UserError: a file that is not readable, or of version 7.3.
    """
    from scipy.io import whosmat

    try:
        with silence():
            listed = whosmat(str(path), appendmat=False)
    except NotImplementedError:  # of SciPy, for version 7.3
        fix = "Save it in MATLAB by save(file, '-v7'), or in Python as an .npz file."
        raise UserError(f"{path}: expected a MATLAB file of version 5 to 7, got version 7.3, which is HDF5. {fix}") from None
    except Exception as error:  # SciPy raises many kinds for a damaged file
        raise _unreadable(path, error) from None
    return {name: Variable(tuple(shape), math.prod(shape) * _NUMERIC[kind]) for name, shape, kind in listed if kind in _NUMERIC}


def read_variable(path: Path, name: str, variable: Variable) -> np.ndarray:
    """Reads an array that `list_variables` has listed. No other variable is unpacked."""
    from scipy.io import loadmat

    check_fits_in_memory(path, variable.num_bytes)
    try:
        _check_packed_sizes(path)
        with silence():
            array = loadmat(str(path), appendmat=False, variable_names=[name])[name]
    except Exception as error:
        raise _unreadable(path, error) from None
    if not isinstance(array, np.ndarray) or array.shape != variable.shape:
        raise UserError(f"{path}: expected {name!r} to be an array of shape {variable.shape}. The file is damaged.")
    return array


def _check_packed_sizes(path: Path) -> None:
    """Raises `ValueError` where a compressed array says that it holds more bytes than its shape, which SciPy would unpack."""
    with path.open("rb") as file:
        header = file.read(128)
        order = "<" if header[126:128] == b"IM" else ">"
        while header.startswith(b"MATLAB 5.0") and len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}2I", tag)
            end = file.tell() + size
            if kind == 15:  # a compressed element: a matrix with the elements flags, shape, name and numbers
                start = zlib.decompressobj().decompress(file.read(min(size, 4096)), 4096)[8:]
                (_, flags), (_, shape), _, (num_bytes, _) = (*_elements(start, order), *[(0, b"")] * 4)[:4]
                count = math.prod(np.frombuffer(shape, f"{order}i4").tolist())
                if 6 <= struct.unpack(f"{order}I", flags[:4].ljust(4, b"\0"))[0] % 256 <= 15 and num_bytes > 8 * count:
                    raise ValueError(f"An array of {count} numbers has {num_bytes} bytes.")
            file.seek(end)


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yields the size and the content (as far as it is there) of the elements of a matrix."""
    place = 0
    while place + 8 <= len(content):
        kind, size = struct.unpack(f"{order}2I", content[place : place + 8])
        first = place + 8
        if kind >> 16:  # a small element, whose content is in the second half of the tag
            size, first = kind >> 16, place + 4
        yield size, content[first : first + size]
        place = place + 8 if kind >> 16 else first + (size + 7) // 8 * 8


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return UserError(f"{path}: not a readable MATLAB file. {reason} It is damaged, or not from MATLAB.")


def _read_matlab(request: Request) -> Split:
    """Reads a data set with a known layout, or else the arrays of a file by their names."""
    path, array = request.path, request.options.array
    variables = list_variables(path)
    shapes = {name: variable.shape for name, variable in variables.items()}

    def read(name: str) -> np.ndarray:
        return read_variable(path, name, variables[name])

    if array is None and "im" in shapes and is_mesh(shapes["im"]):
        return cars_images(path, [path], lambda _: read("im"), request.options.resize)
    if request.options.resize is not None:
        raise UserError(f"{path}: `resize` is for the images of Cars3D. Leave it out.", field="resize")
    if array is None:
        for is_meant, read_layout in _LAYOUTS:
            if is_meant(path, shapes):
                return read_layout(shapes, read)
    return _read_arrays(request, shapes, read)


def _read_arrays(request: Request, shapes: _Shapes, read: _Read) -> Split:
    """Reads the arrays with known names, or the only array, whose first axis is that of the examples."""
    path, array = request.path, request.options.array
    if array is not None and array not in shapes:
        raise unknown("array", array, sorted(shapes), f" Expected the name of a numeric array in {path}.")
    roles = choose_arrays(path, list(shapes), array)
    if TRAIN_IMAGES not in roles:
        # MATLAB has no numbers and vectors, only matrices with one row or one column.
        tables = [name for name, shape in shapes.items() if min(shape) > 1]
        if len(tables) != 1:
            listed = joined((f"{name} {shape}" for name, shape in shapes.items()), 10) if shapes else "no numeric array"
            fix = (
                f'Name the array that is meant, such as `array="{tables[0]}"`.'
                if tables
                else "Save the examples as a full matrix."
            )
            raise UserError(f"{path}: expected one array of examples, got {listed}. {fix}")
        roles[TRAIN_IMAGES] = tables[0]

    def read_array(name: str) -> np.ndarray:
        is_label = any(name == array and role.kind == "labels" for role, array in roles.items())
        return _as_labels(read(name)) if is_label else read(name)

    split, used = split_of_arrays(roles, read_array, check=array is not None)
    notes = ()
    if unused := [name for name in shapes if name not in used]:
        verb, noun = ("is", "the array") if len(unused) == 1 else ("are", "the arrays")
        notes = (f"{path}: {noun} {joined(unused)} {verb} not used. To read another array, name it by `array`.",)
    options, num_axes = request.options, len(split.train.shape)
    if options.event == "image" and num_axes == 2 and not options.transpose:
        notes += (f"{path}: MATLAB flattens images by columns. If they lie on their side, pass `transpose=True`.",)
    axes = ", ".join(["examples", *("rows", "columns", "channels")[: num_axes - 1]])
    return split._replace(conversion=f"{roles[TRAIN_IMAGES]} is read as ({axes})", notes=notes)


def _as_labels(values: np.ndarray) -> np.ndarray:
    """Returns labels as a vector, and as integers where MATLAB stores whole numbers as floats."""
    if 1 in values.shape:
        values = values.ravel()
    is_whole = values.dtype.kind == "f" and (values == np.round(values)).all()
    return values.astype(np.int64) if is_whole else values


def square_images(flat: np.ndarray) -> np.ndarray:
    """Returns square images whose pixels are stored down their columns: (examples, side * side) to (examples, side, side)."""
    side = math.isqrt(flat.shape[1])
    return flat.reshape(-1, side, side).swapaxes(1, 2)


def _is_square(count: int) -> bool:
    return count > 1 and math.isqrt(count) ** 2 == count


def _is_omniglot(path: Path, shapes: _Shapes) -> bool:
    if not {"data", "testdata"} <= set(shapes):
        return False
    pixels = shapes["data"][0]
    return len(shapes["data"]) == len(shapes["testdata"]) == 2 and shapes["testdata"][0] == pixels and _is_square(pixels)


def _read_omniglot(shapes: _Shapes, read: _Read) -> Split:
    """Reads Omniglot of 28 x 28 pixels (chardata.mat of Burda et al. 2016): grey levels in [0, 1], labels by alphabet."""

    def labels(name: str) -> np.ndarray | None:
        if name not in shapes:
            return None
        target = read(name)
        return target.argmax(axis=0) if min(target.shape) > 1 else _as_labels(target)

    return Split(
        square_images(read("data").T),
        labels("target"),
        test=square_images(read("testdata").T),
        test_labels=labels("testtarget"),
        part_names={"train": "data", "test": "testdata"},
        channels_last=True,
        conversion="each column of the file is an image with its pixels by columns; labels are the alphabets",
    )


def _is_caltech(path: Path, shapes: _Shapes) -> bool:
    parts = ("train_data", "val_data", "test_data")
    if not set(parts) <= set(shapes):
        return False
    published = [shapes[part][0] for part in parts] == [4100, 2264, 2307]
    is_named = "silhouette" in path.name.lower() or "caltech" in path.name.lower()
    return (published or is_named) and all(len(shapes[part]) == 2 and _is_square(shapes[part][1]) for part in parts)


def _read_caltech(shapes: _Shapes, read: _Read) -> Split:
    """Reads the Caltech 101 silhouettes (Marlin et al. 2010). The literature models 1 - x: white shapes on black."""

    def images(part: str) -> np.ndarray:
        stored = read(f"{part}_data")
        if stored.min() < 0 or stored.max() > 1:
            raise UserError(f"expected silhouettes of zeros and ones, got {stored.min()} to {stored.max()}. Rename the file.")
        return square_images(1 - stored)

    def labels(part: str) -> np.ndarray | None:
        return _as_labels(read(f"{part}_labels")) if f"{part}_labels" in shapes else None

    return Split(
        images("train"),
        labels("train"),
        images("val"),
        images("test"),
        labels("test"),
        part_names={"train": "train_data", "validation": "val_data", "test": "test_data"},
        channels_last=True,
        validation_labels=labels("val"),
        conversion="inverted to 1 - x as in the literature, pixels by columns",
    )


def _is_frey(path: Path, shapes: _Shapes) -> bool:
    return len(shapes.get("ff", ())) == 2 and shapes["ff"][0] == 560


def _read_frey(shapes: _Shapes, read: _Read) -> Split:
    """Reads the Frey faces of 28 x 20 pixels, frames of a video."""
    conversion = "each column of the file is an image of 28 x 20 pixels"
    return Split(read("ff").T.reshape(-1, 28, 20), channels_last=True, conversion=conversion)


def _is_svhn(path: Path, shapes: _Shapes) -> bool:
    images = shapes.get("X", ())
    return "y" in shapes and len(images) == 4 and images[2] == 3 and images[0] == images[1] > 4


def _read_svhn(shapes: _Shapes, read: _Read) -> Split:
    """Reads one part of SVHN in the format of cropped digits, (32, 32, 3, examples). The label 10 stands for the digit 0."""
    digits = _as_labels(read("y"))
    images = np.moveaxis(read("X"), -1, 0)
    conversion = "the last axis of the file is that of the images; the label 10 is the digit 0"
    return Split(images, np.where(digits == 10, 0, digits), channels_last=True, conversion=conversion)


_LAYOUTS = (
    (_is_omniglot, _read_omniglot),
    (_is_caltech, _read_caltech),
    (_is_frey, _read_frey),
    (_is_svhn, _read_svhn),
)


def _is_matlab(start: bytes) -> bool:
    return start.startswith((b"MATLAB 5.0 MAT-file", b"MATLAB 7.3 MAT-file"))


register(
    Reader(
        "matlab",
        "MATLAB files",
        "a MATLAB file (.mat): Omniglot's chardata.mat, the Caltech silhouettes, the Frey faces, SVHN, or any array",
        _read_matlab,
        endings=(".mat",),
        starts_with=_is_matlab,
        uses=("array", "resize"),
        published=("Omniglot", "Caltech silhouettes", "Frey faces", "SVHN"),
    )
)
