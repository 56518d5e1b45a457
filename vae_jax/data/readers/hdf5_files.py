"""Reader of HDF5 files: 3D Shapes, cells (AnnData and 10x Genomics), and arrays with names such as x_train."""

import hashlib
import math
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from vae_jax.data.checks import check_type
from vae_jax.data.on_disk import Rows, open_array
from vae_jax.data.readers.array_cache import remove_leftovers
from vae_jax.data.readers.extras import optional_module
from vae_jax.data.readers.factors import classes_of_values, varying_factors
from vae_jax.data.readers.listing import UNREADABLE, check_fits_in_memory, joined
from vae_jax.data.readers.named_arrays import TRAIN_IMAGES, Role, choose_arrays, split_of_arrays
from vae_jax.data.readers.numpy_files import open_npy
from vae_jax.data.readers.registry import Reader, Request, register
from vae_jax.data.split import Split
from vae_jax.errors import UserError
from vae_jax.storage.cache import cache_dir

if TYPE_CHECKING:  # h5py is an optional dependency
    import h5py

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SHAPES_3D = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
_BLOCK = 2**24  # bytes that are copied at once


def is_hdf5(start: bytes) -> bool:
    """Returns whether a file is HDF5 by its first bytes. The signature may come after a user block of 512 or 1,024 bytes."""
    return any(start[offset : offset + len(SIGNATURE)] == SIGNATURE for offset in (0, 512, 1024))


def _read_hdf5(request: Request) -> Split:
    """Reads an HDF5 file. Its layout is recognized by the names of its groups and arrays."""
    path = request.path
    with open_hdf5(path) as file:
        from vae_jax.data.readers import cells

        objects = hard_linked(file)
        if cells.is_anndata(objects):
            return cells.read_anndata(request, objects)
        if groups := cells.genomes(objects):
            return cells.read_10x(request, objects, groups)
        if request.options.label_column is not None:
            raise UserError(f"{path}: `label_column` is for tables and .h5ad files. Leave it out.", field="label_column")
        datasets = {name: cast("h5py.Dataset", item) for name, item in objects.items() if is_dataset(item)}
        return _read_arrays(request, datasets)


@contextmanager
def open_hdf5(path: Path) -> "Iterator[h5py.File]":
    """Opens an HDF5 file for reading, and turns the exceptions of h5py into a `UserError`."""
    h5py = optional_module(path, "h5py", "hdf5", "HDF5 files")
    try:
        # Some network file systems cannot lock files.
        with h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read. {' '.join(str(error).split())[:200]}. It is damaged.") from None


def hard_linked(file: "h5py.File") -> "dict[str, h5py.Group | h5py.Dataset]":
    """Returns all groups and arrays by their names. Links to other files, and soft links, are not followed."""
    objects: dict[str, h5py.Group | h5py.Dataset] = {}
    file.visititems(lambda name, item: objects.__setitem__(name, item))
    return objects


def is_dataset(item: "h5py.Group | h5py.Dataset") -> bool:
    """Returns whether an object of a file is an array."""
    return hasattr(item, "chunks")


def name_of(dataset: "h5py.Dataset") -> str:
    """Returns the name of an array without the leading slash."""
    return str(dataset.name).lstrip("/")


def checked(path: Path, dataset: "h5py.Dataset") -> "h5py.Dataset":
    """Raises `UserError` for an array whose numbers are in other files, which are never opened."""
    if dataset.is_virtual or dataset.external:
        raise UserError(
            f"{path}: {name_of(dataset)!r} takes its numbers from other files, which are not opened. Save the array itself, "
            "such as by file.create_dataset(name, data=array[()])."
        )
    return dataset


def read_array(path: Path, dataset: "h5py.Dataset") -> np.ndarray:
    """Reads an array of numbers into memory."""
    check_type(f"{path}: {name_of(dataset)}", dataset.dtype)
    check_fits_in_memory(path, math.prod(checked(path, dataset).shape) * dataset.dtype.itemsize)
    array = np.empty(dataset.shape, dataset.dtype)
    if array.size:  # h5py cannot read an empty selection in this way
        dataset.read_direct(array)
    return array


def _read_arrays(request: Request, datasets: "dict[str, h5py.Dataset]") -> Split:
    """Reads arrays by their names, such as x_train and test_labels. A note names the others."""
    path, array = request.path, request.options.array
    roles = choose_arrays(path, list(datasets), array)
    if TRAIN_IMAGES not in roles:
        got, fix = "none", "Links to other files are not followed."
        if names := sorted(datasets):
            got, fix = joined(names), f'Name the array that is meant, such as `array="{names[0]}"`.'
        raise UserError(f"{path}: expected an array named images, data, train or x_train, got {got}. {fix}")
    labels = Role("train", "labels")
    factors = datasets.get(roles.get(labels, ""))
    has_factors = factors is not None and _are_shapes_3d(factors)
    if has_factors:
        roles.pop(labels)

    def read(name: str) -> np.ndarray:
        return read_array(path, datasets[name])

    def open_rows(name: str) -> Rows:
        return open_dataset(path, datasets[name])

    split, used = split_of_arrays(roles, read, open_rows if request.stream else None, check=array is not None)
    if has_factors and factors is not None and len(factors) == len(split.train):
        classes = varying_factors(str(path), _SHAPES_3D, classes_of_values(read_array(path, factors)))
        used.append(name_of(factors))
        notes = (*split.notes, *classes.notes)
        split = split._replace(train_factors=classes.train, factor_names=classes.names, notes=notes)
    if unused := [name for name in datasets if name not in used]:
        verb = "is" if len(unused) == 1 else "are"
        split = split._replace(notes=(*split.notes, f"{path}: {joined(unused)} {verb} not used."))
    return split


def _are_shapes_3d(labels: "h5py.Dataset") -> bool:
    return labels.ndim == 2 and labels.shape[1] == len(_SHAPES_3D) and labels.dtype.kind == "f"


def open_dataset(path: Path, dataset: "h5py.Dataset") -> Rows:
    """Opens the rows of an array, which stay on disk.

    An array that is stored in one piece is read from its file. Others, which are stored in chunks, perhaps compressed, are
    copied into the cache folder once.
    """
    check_type(f"{path}: {name_of(dataset)}", checked(path, dataset).dtype)
    if 0 in dataset.shape or not dataset.shape:
        raise UserError(f"{path}: expected at least one example in {name_of(dataset)!r}, got shape {dataset.shape}.")
    offset = dataset.id.get_offset()
    if offset is not None and dataset.chunks is None and dataset.dtype.kind in "fui":
        return open_array(path, dataset.shape, dataset.dtype, offset)
    return open_npy(_cached(path, dataset))


def _cached(path: Path, dataset: "h5py.Dataset") -> Path:
    """Returns the .npy file in the cache folder that has the numbers of an array; it is written once."""
    stat = path.stat()
    stamp = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {dataset.name}"
    folder = cache_dir() / "arrays"
    cached = folder / f"{path.stem}-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}.npy"
    if cached.is_file():
        return cached
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    fix = "Set VAE_JAX_CACHE to a folder on a larger disk."
    temporary = cached.with_name(f".{cached.name}.{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(cached)
        if size > (free := shutil.disk_usage(folder).free):
            sizes = f"{size / 2**30:,.1f} GiB, and {folder} has {free / 2**30:,.1f} GiB left"
            raise UserError(f"{path}: {name_of(dataset)!r} unpacks to {sizes}. {fix}", field="stream")
        # Written, not mapped: on a full disk a write raises an error, and a mapped page kills the process.
        with temporary.open("wb") as file:
            for part in _copied(path, dataset, size):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, cached)
    finally:
        temporary.unlink(missing_ok=True)
    return cached


def _copied(path: Path, dataset: "h5py.Dataset", size: int) -> Iterator[bytes | memoryview]:
    """Yields the header and the numbers of an .npy file, whole chunks at a time, with a progress bar."""
    import io

    from tqdm import tqdm

    header = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dataset.dtype), "fortran_order": False, "shape": dataset.shape}
    np.lib.format.write_array_header_1_0(header, description)
    yield header.getvalue()
    chunk = dataset.chunks[0] if dataset.chunks else 1
    rows = max(1, _BLOCK // (chunk * max(size // len(dataset), 1))) * chunk
    is_shown = sys.stderr.isatty() or size > 2**28
    with tqdm(total=size, unit="B", unit_scale=True, desc=f"unpacking {path.name}", disable=not is_shown) as bar:
        for first in range(0, len(dataset), rows):
            part = np.ascontiguousarray(dataset[first : first + rows])
            yield part.data
            bar.update(part.nbytes)


register(
    Reader(
        "hdf5",
        "HDF5 files",
        "an HDF5 file (needs vae_jax[hdf5]): 3dshapes.h5, cells in an .h5ad file or in an .h5 file of 10x Genomics, or arrays "
        "named as in .npz files",
        _read_hdf5,
        endings=(".h5", ".hdf5", ".he5", ".h5ad", ".h5py"),
        can_stream=True,
        starts_with=is_hdf5,
        uses=("array", "label_column"),
        extra="hdf5",
        published=("3dshapes", "AnnData", "10x Genomics"),
    )
)
