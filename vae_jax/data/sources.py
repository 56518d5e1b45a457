"""Readers of images from packages and files: the embedded digits, .npy, .npz, folders of IDX files or of pictures."""

import contextlib
import gzip
import importlib.util
import lzma
import math
import os
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jax import Array

from vae_jax._short_repr import short_repr
from vae_jax.data.rows import Rows, check_shape, open_array
from vae_jax.errors import UserError

# What a damaged or hostile array file makes NumPy raise.
_OF_NUMPY = (
    ValueError,
    EOFError,
    OSError,
    SyntaxError,
    tokenize.TokenError,
    LookupError,
    TypeError,
    MemoryError,
    ArithmeticError,
)
_OF_ARCHIVES = (RuntimeError, zlib.error, lzma.LZMAError, struct.error, zipfile.BadZipFile)  # RuntimeError: encrypted, unknown
UNREADABLE = (*_OF_NUMPY, *_OF_ARCHIVES)
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")
_SAVE_IT = "Save them as one array in an .npy file, or leave out --stream."


class Rendering(NamedTuple):
    """Binary images that are computed from stored rows wherever they are needed."""

    name: str  # of the function and its version: part of the data's fingerprint
    render: Callable[[Array], Array]  # one row -> its image, levels 0 and 1 in uint8
    data_shape: tuple[int, ...]  # of an image
    mean: Callable[[], np.ndarray]  # the mean of all images, `data_shape`
    num_images: int  # of which `draw` draws
    draw: Callable[[Array, Array], Array] | None = None  # (key, row of train) -> a row to render; None: the row itself


@short_repr
class Split(NamedTuple):
    """What a source has, as stored."""

    train: np.ndarray | Rows
    train_labels: np.ndarray | None = None
    validation: np.ndarray | None = None
    test: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    max_level: int | None = None  # None: 1 for binary images, else 255
    train_factors: np.ndarray | None = None  # (examples, factors), integers
    test_factors: np.ndarray | None = None
    factor_names: tuple[str, ...] | None = None
    rendering: Rendering | None = None  # of rows that are no images
    split: str = "the source's own"  # how the test set came about, where there is one


def digits() -> Split:
    """The 1,797 handwritten digits of scikit-learn, 8x8, levels 0 to 16 (UCI, Alpaydin & Kaynak 1998)."""
    package = importlib.util.find_spec("sklearn")
    file = Path(package.origin).parent / "datasets/data/digits.csv.gz" if package and package.origin else None
    if file and file.is_file():  # what load_digits reads: to import scikit-learn takes a second, a fifth of a run's start
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
        pixels, labels = table[:, :-1], table[:, -1]
    else:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
    return Split(np.asarray(pixels).reshape(-1, 8, 8).astype(np.uint8), np.asarray(labels), max_level=16)


def from_path(path: Path, stream: bool = False) -> Split:
    """Reads an .npy or .npz file, or a folder of IDX files or of images; with `stream` the training images stay on disk."""
    path = Path(os.path.expanduser(path))  # which, unlike Path.expanduser, leaves an unknown ~user as it is
    try:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder.")
    except OSError as error:  # such as a name that is too long
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        pictures = [file for file in files if file.suffix.lower() in IMAGE_ENDINGS]
        if pictures:
            if stream:
                raise UserError(f"--stream: {path}: images are not read from their files while training. {_SAVE_IT}")
            return _from_pictures(path, pictures)
        idx = [file for file in files if "idx" in file.name.lower() or "ubyte" in file.name.lower()]
        if idx:
            return _from_idx(path, idx, stream)
        raise UserError(f"{path}: expected a folder with IDX files or PNG/JPEG images, found none among {len(files)} files.")
    if not path.is_file():  # a pipe or a device, which may never end
        raise UserError(f"{path}: expected a file or a folder, got something else.")
    if path.suffix == ".npy":
        return Split(rows_of_npy(path) if stream else _expect_array(path, _read_numpy(path)))
    if path.suffix == ".npz":
        if stream:
            raise UserError(f"--stream: {path}: an archive cannot be read row by row. {_SAVE_IT}")
        return _from_npz(path)
    raise UserError(f"{path}: expected an .npy or .npz file or a folder, got a file ending in {path.suffix!r}.")


def rows_of_npy(path: Path) -> Rows:
    """The rows of an .npy file, which stay where they are."""
    array = _expect_array(path, _read_numpy(path, mmap_mode="r"))
    if not array.flags.c_contiguous:
        raise UserError(f"--stream: {path}: expected an array in C order, got Fortran order. Save np.ascontiguousarray(x).")
    return open_array(path, array.shape, array.dtype, array.offset)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What a file makes its reader warn of (an old header, a strange palette) is not for the user: it is read or refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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
        with _silence():
            return np.load(path, mmap_mode, allow_pickle=False)
    except UserError:
        raise
    except UNREADABLE as error:
        pickled = "Object arrays cannot be loaded" in str(error) or "allow_pickle=False" in str(error)
        fix = "Object arrays hold pickled code and are never loaded; save a plain uint8 or float array." if pickled else error
        if isinstance(error, MemoryError):
            fix = f"It does not fit into memory ({error}). Add --stream, which leaves it on disk."
        raise UserError(f"{path}: not a readable array file. {fix}") from None


def _expect_to_fit(path: Path, size: int) -> None:
    """Raises `UserError`, before anything is unpacked, for a file that unpacks to more bytes than the machine has."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # where this is not known the reading itself must fail
        return
    if size > memory:
        raise UserError(
            f"{path}: unpacks to {size / 2**30:,.0f} GiB, and this machine has {memory / 2**30:,.0f} GiB of memory. It is "
            "damaged, or too large: then save the images as one .npy file and add --stream."
        )


def _from_npz(path: Path) -> Split:
    archive = _read_numpy(path)
    if isinstance(archive, np.ndarray):
        raise UserError(f"{path}: expected an .npz archive, got a single array; rename it to .npy.")
    with archive:
        _expect_to_fit(path, sum(entry.file_size for entry in archive.zip.infolist()))
        names = set(archive.files)

        def read(*candidates: str) -> np.ndarray | None:
            name = next((candidate for candidate in candidates if candidate in names), None)
            if name is None:
                return None
            try:
                with _silence():
                    array = archive[name]
            except UNREADABLE as error:
                raise UserError(f"{path}: cannot read the array {name!r}. {error}") from None
            if not isinstance(array, np.ndarray):  # NumPy hands over what is no array as bytes
                raise UserError(f"{path}: expected {name!r} to be an array, got {type(array).__name__}. It is damaged.")
            return array

        train = read("train", "x_train", "images", "x", "data", "arr_0")
        if train is None:
            raise UserError(f"{path}: expected an array named train or x_train (and test or x_test), got {sorted(names)}.")
        names_of = read("factor_names")
        return Split(
            train,
            read("y_train", "train_labels", "labels", "y"),
            read("validation", "x_validation", "x_val"),
            read("test", "x_test"),
            read("y_test", "test_labels"),
            train_factors=read("factors", "train_factors"),
            test_factors=read("test_factors"),
            factor_names=None if names_of is None else tuple(str(name) for name in names_of.ravel()),
        )


def _from_idx(folder: Path, files: list[Path], stream: bool) -> Split:
    found: dict[str, Any] = {}
    for file in files:
        name = file.name.lower()
        role = "test" if name.startswith(("t10k", "test")) else "train"
        shape = idx_shape(file)
        kind = f"{role}_labels" if len(shape) == 1 else role
        if kind in found:
            raise UserError(f"{folder}: found two files for {kind}, the second is {file.name}. Keep one.")
        found[kind] = _rows_of_idx(file, shape) if stream and kind == "train" else read_idx(file)
    if "train" not in found:
        raise UserError(f"{folder}: expected an IDX file of training images (train-images-idx3-ubyte), found {sorted(found)}.")
    return Split(found["train"], found.get("train_labels"), test=found.get("test"), test_labels=found.get("test_labels"))


def read_idx(path: Path) -> np.ndarray:
    """One IDX file of unsigned bytes, raw or gzipped: magic 0 0 8 ndim, big-endian sizes, then the bytes."""
    shape = idx_shape(path)
    start, count = 4 + 4 * len(shape), math.prod(shape)
    _expect_to_fit(path, count)
    content = _of_idx(path, lambda file: file.read(start + count + 1))
    if len(content) != start + count:
        found = len(content) - start
        raise UserError(f"{path}: expected {count} bytes for shape {shape}, got {found}; the file is damaged.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def idx_shape(path: Path) -> tuple[int, ...]:
    """What the header of an IDX file of unsigned bytes says."""
    header = _of_idx(path, lambda file: file.read(4))
    if len(header) < 4 or header[:3] != b"\x00\x00\x08" or not 1 <= header[3] <= 4:
        raise UserError(f"{path}: expected an IDX file of unsigned bytes (it starts with 00 00 08), got {header!r}.")
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


def _rows_of_idx(path: Path, shape: tuple[int, ...]) -> Rows:
    if path.suffix == ".gz":
        raise UserError(f"--stream: {path}: a compressed file cannot be read row by row. Unpack it (gunzip).")
    return open_array(path, shape, np.dtype(np.uint8), 4 + 4 * len(shape))


def _from_pictures(folder: Path, files: list[Path]) -> Split:
    from PIL import Image

    def read(file: Path) -> np.ndarray:
        try:
            with _silence(), Image.open(file, formats=("PNG", "JPEG")) as image:  # other formats may run programs
                if image.mode.startswith(("I", "F")):
                    raise UserError(
                        f"{file}: expected 8 bits per channel, got image mode {image.mode}. Convert it, or use .npy."
                    )
                grey = image.mode in ("1", "L", "LA")
                if image.mode == "P" and "transparency" in image.info:
                    return np.asarray(image.convert("RGBA").convert("RGB"))
                return np.asarray(image.convert("L" if grey else "RGB"))
        except UserError:
            raise
        except (*UNREADABLE, Image.DecompressionBombError) as error:
            raise UserError(f"{file}: not a readable image. {error}") from None

    def stack(files: list[Path]) -> np.ndarray:
        images = [read(file) for file in files]
        odd = next((i for i, image in enumerate(images) if image.shape != images[0].shape), None)
        if odd is not None:
            raise UserError(
                f"{folder}: expected images of one size, got {images[0].shape} ({files[0].name}) and "
                f"{images[odd].shape} ({files[odd].name}). Resize them first."
            )
        return np.stack(images)

    parts = {name: [file for file in files if file.relative_to(folder).parts[0] == name] for name in ("train", "test")}
    if parts["train"] and parts["test"]:
        return Split(stack(parts["train"]), test=stack(parts["test"]), max_level=255)
    return Split(stack(files), max_level=255)
