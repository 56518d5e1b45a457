"""Reader of smallNORB (LeCun et al. 2004), whose .mat files have a binary format of their own and are not from MATLAB."""

import gzip
import math
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vae_jax.data.readers.factors import varying_factors
from vae_jax.data.readers.listing import PARTS, check_fits_in_memory, joined
from vae_jax.data.readers.registry import Reader, Request, register
from vae_jax.data.split import Split
from vae_jax.errors import UserError

# The first four bytes, little-endian, of arrays of bytes, 32-bit integers, 16-bit integers, and floats.
_TYPES = {507333717: "<u1", 507333716: "<i4", 507333718: "<i2", 507333713: "<f4", 507333715: "<f8"}
_NAME = re.compile(r"(.*-)?(training|testing)-(?:\d+-)?(dat|cat|info)\.mat(\.gz)?", re.IGNORECASE)
_CATEGORIES = ("animal", "human", "airplane", "truck", "car")
_FACTORS = ("category", "instance", "elevation", "azimuth", "lighting")
_CONVERSION = "the left camera of each pair, as in disentanglement_lib"


def read_norb_array(path: Path) -> np.ndarray:
    """Reads one array: type and number of axes as 32-bit integers, at least three sizes, then the numbers, little-endian."""
    try:
        with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
            magic, num_axes = struct.unpack("<2i", file.read(8))
            if magic not in _TYPES or not 1 <= num_axes <= 8:
                raise ValueError("Its header is not that of an array.")
            sizes = struct.unpack(f"<{max(3, num_axes)}i", file.read(4 * max(3, num_axes)))[:num_axes]
            if min(sizes) < 1:
                raise ValueError(f"Its header has the sizes {sizes}.")
            dtype = np.dtype(_TYPES[magic])
            num_bytes = math.prod(sizes) * dtype.itemsize
            check_fits_in_memory(path, num_bytes)
            content = file.read(num_bytes + 1)
    except UserError:
        raise
    except (OSError, EOFError, zlib.error, struct.error, ValueError, MemoryError, OverflowError) as error:
        raise UserError(f"{path}: not a readable file of smallNORB. {error}") from None
    if len(content) != num_bytes:
        raise UserError(f"{path}: expected {num_bytes} bytes for shape {sizes}, got {len(content)}. The file is damaged.")
    return np.frombuffer(content, dtype).reshape(sizes)


def _kind(file: Path) -> tuple[str, str] | None:
    """Returns the part and the kind (dat, cat or info) of a file by its name; None for other files."""
    match = _NAME.fullmatch(file.name)
    return ("train" if match[2].lower() == "training" else "test", match[3].lower()) if match else None


def _read_part(images: Path, beside: dict[str, Path]) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Returns the images, the categories and the factors of one part, as far as there are files with them."""
    pairs = read_norb_array(images)
    if pairs.ndim != 4 or pairs.shape[1] != 2 or pairs.dtype != np.uint8:
        raise UserError(
            f"{images}: expected bytes of shape (examples, 2, height, width), pairs of images, got {pairs.dtype} "
            f"{pairs.shape}. Pass the file whose name ends in -dat.mat."
        )
    categories = read_norb_array(beside["cat"]).ravel() if "cat" in beside else None
    information = read_norb_array(beside["info"]) if "info" in beside else None
    for kind, array in (("cat", categories), ("info", information)):
        if array is not None and (len(array) != len(pairs) or array.dtype.kind not in "iu"):
            raise UserError(f"{beside[kind]}: expected a row of integers for each of {len(pairs)} images, got {array.shape}.")
    if categories is None or information is None:
        return pairs[:, 0], categories, None
    if information.shape[1:] != (4,):
        raise UserError(f"{beside['info']}: expected 4 columns, got shape {information.shape}. The file is damaged.")
    instance, elevation, azimuth, lighting = information.T
    return pairs[:, 0], categories, np.stack([categories, instance, elevation, azimuth // 2, lighting], axis=1)


def _read(request: Request) -> Split:
    """Reads the training and testing files of a folder, or the images of one file with the arrays that lie beside it."""
    path, files = request.path, request.files
    if path.is_dir():
        chosen = _choose_files(path, files)
    else:
        kind = _kind(path)
        beside = [file for file in path.parent.iterdir() if kind and (other := _kind(file)) and other[0] == kind[0]]
        prefix = re.split(r"(?:dat|cat|info)\.mat", path.name)[0]
        same = {other[1]: file for file in beside if file.name.startswith(prefix) and (other := _kind(file))}
        chosen = {"train": {**same, "dat": path}}
    parts = {part: _read_part(kinds["dat"], kinds) for part, kinds in chosen.items()}
    images, categories, factors = parts["train"]
    test_images, test_categories, test_factors = parts.get("test", (None, None, None))
    split = Split(
        images,
        categories,
        test=test_images,
        test_labels=test_categories,
        part_names={part: str(kinds["dat"].relative_to(path)) for part, kinds in chosen.items()} if path.is_dir() else None,
        label_names=_CATEGORIES if categories is not None else None,
        conversion=_CONVERSION,
    )
    if factors is None or (test_images is not None and test_factors is None):
        return split
    varying = varying_factors(str(path), _FACTORS, factors, test_factors)
    return split._replace(
        train_factors=varying.train, test_factors=varying.test, factor_names=varying.names, notes=varying.notes
    )


def _choose_files(folder: Path, files: Sequence[Path]) -> dict[str, dict[str, Path]]:
    """Returns the file of each kind for each part. A packed file is left out where the unpacked one lies beside it."""
    chosen: dict[str, dict[str, Path]] = {}
    names = set(files)
    for file in files:
        if file.suffix.lower() == ".gz" and file.with_suffix("") in names:
            continue
        part, kind = _kind(file) or ("", "")
        kinds = chosen.setdefault(part, {})
        if kind in kinds:
            both = joined(one.relative_to(folder) for one in (kinds[kind], file))
            raise UserError(f"{folder}: expected one {kind} file of {PARTS[part]} images, got {both}. Keep one.")
        kinds[kind] = file
    for part, kinds in [*chosen.items()]:
        if "dat" not in kinds:
            got = next(iter(kinds.values())).name
            raise UserError(
                f"{folder}: expected the {PARTS[part]} images (a file ending in -dat.mat), got {got}. "
                "Add it, or take the other files of that part away."
            )
    return chosen if "train" in chosen else {"train": chosen["test"]}


def _is_norb(start: bytes) -> bool:
    return len(start) >= 8 and struct.unpack("<i", start[:4])[0] in _TYPES


register(
    Reader(
        "small_norb",
        "smallNORB files",
        "a folder of smallNORB's files (dat, cat and info, raw or gzipped), the left camera, with their factors",
        _read,
        recognizes=lambda file: _kind(file) is not None,
        starts_with=_is_norb,
        published=("smallNORB",),
    )
)
