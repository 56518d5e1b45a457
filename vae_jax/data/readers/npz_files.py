"""Reader of .npz archives, which hold several named arrays."""

import math
import shutil
import sys
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vae_jax.data.on_disk import Rows, open_array
from vae_jax.data.readers.array_cache import CACHE_FIX, cached_file, written_array
from vae_jax.data.readers.known_archives import with_known_layout
from vae_jax.data.readers.listing import UNREADABLE, check_fits_in_memory, joined, silence
from vae_jax.data.readers.named_arrays import TRAIN_IMAGES, TRAIN_MASK, choose_arrays, split_of_arrays
from vae_jax.data.readers.numpy_files import load_numpy, open_npy
from vae_jax.data.readers.registry import Reader, Request, register
from vae_jax.data.split import Split
from vae_jax.errors import UserError

_SPARSE = {"format", "shape", "data"}  # of scipy.sparse.save_npz, in every format


def _read_npz(request: Request) -> Split:
    """Reads the arrays of an .npz archive that have a known name. A note names the others, which are never unpacked.

    Archives of dSprites, MPI3D and downsampled ImageNet are known by their names and shapes. With `stream` the training images
    stay in the archive where they are stored without compression, and else are unpacked into the cache folder once.
    """
    path, array = request.path, request.options.array
    archive = load_numpy(path)
    if isinstance(archive, np.ndarray):
        raise UserError(f"{path}: expected an .npz archive, got a single array. Rename it to .npy.")
    with archive:
        names = archive.files
        if set(names) >= _SPARSE and array is None:
            from vae_jax.data.readers import sparse_files

            return sparse_files.read_scipy_npz(request)
        roles = choose_arrays(path, names, array)
        if TRAIN_IMAGES not in roles:
            raise UserError(
                f"{path}: expected an array named train or x_train (and test or x_test), got {sorted(names)}. Save it by "
                f'np.savez(path, x_train=images), or name the array that is meant, such as `array="{min(names, default="x")}"`.'
            )
        assert archive.zip is not None
        members = {entry.filename.removesuffix(".npy"): entry for entry in archive.zip.infolist()}
        in_memory = [name for role, name in roles.items() if not (request.stream and role in (TRAIN_IMAGES, TRAIN_MASK))]
        check_fits_in_memory(path, sum(members[name].file_size for name in in_memory))

        def read(name: str) -> np.ndarray:
            try:
                with silence():
                    array = archive[name]
            except UNREADABLE as error:
                fix = str(error)
                if isinstance(error, MemoryError):
                    fix = f"It does not fit into memory ({error}). Use `stream=True`, which leaves it on disk."
                raise UserError(f"{path}: cannot read the array {name!r}. {fix}") from None
            if not isinstance(array, np.ndarray):  # NumPy returns a member that is not an array as bytes
                raise UserError(f"{path}: expected {name!r} to be an array, got {type(array).__name__}. It is damaged.")
            return array

        def open_rows(name: str) -> Rows:
            return _open_member(path, members[name])

        split, used = split_of_arrays(roles, read, open_rows if request.stream else None, check=array is not None)
        if array is None:
            split, more = with_known_layout(path, split, names, read, request.options.event)
            used += more
        if "factor_names" in names:
            used.append("factor_names")
            if split.factor_names is None:
                split = split._replace(factor_names=tuple(str(name) for name in read("factor_names").ravel()))
    unused = [name for name in names if name not in used]
    return split._replace(notes=(*split.notes, *_note_on_unused(path, unused)))


def _note_on_unused(path: Path, names: list[str]) -> tuple[str, ...]:
    if not names:
        return ()
    verb, noun = ("is", "the array") if len(names) == 1 else ("are", "the arrays")
    fix = "Names that are read are those of np.savez(path, x_train=..., x_validation=..., x_test=...)."
    return (f"{path}: {noun} {joined(names)} {verb} not used. {fix}",)


def _open_member(path: Path, member: zipfile.ZipInfo) -> Rows:
    """Opens the rows of an array of an archive, which stay on disk."""
    if member.flag_bits & 1:
        raise UserError(f"{path}: an encrypted archive cannot be read. Save it without a password.")
    if member.compress_type != zipfile.ZIP_STORED:
        return open_npy(_unpacked(path, member))
    try:
        with path.open("rb") as file:
            file.seek(member.header_offset)
            local = file.read(30)  # ends with the lengths of the name and of further fields, which come next
            if len(local) < 30 or local[:4] != b"PK\x03\x04":
                raise ValueError("its local header is missing")
            file.seek(int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little"), 1)
            start = file.tell()
            shape, in_fortran_order, dtype = _array_header(file)
            offset = file.tell()
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot read the array {member.filename!r}. {error}. The file is damaged.") from None
    if in_fortran_order:
        fix = "Save np.ascontiguousarray(x)."
        raise UserError(f"{path}: expected {member.filename!r} in C order, got Fortran order. {fix}", field="stream")
    if dtype.hasobject:
        raise UserError(f"{path}: {member.filename!r} holds pickled objects, which are never loaded. Save numbers.")
    if offset - start + math.prod(shape) * dtype.itemsize > member.file_size:
        raise UserError(f"{path}: {member.filename!r} is shorter than its shape {shape}. The file is damaged.")
    return open_array(path, shape, dtype, offset)


def _array_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Reads the header of an .npy file."""
    with silence():
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return reader(file)


def _unpacked(path: Path, member: zipfile.ZipInfo) -> Path:
    """Returns the .npy file in the cache folder that has the content of a compressed member; it is written once."""
    cached = cached_file(path.stem, [path], member.filename, member.CRC, member.file_size)
    if cached.is_file() and cached.stat().st_size == member.file_size:
        return cached
    if sys.stderr.isatty() or member.file_size > 2**28:
        print(f"{path.name}: unpacking {member.filename} into {cached.parent}, once ...", file=sys.stderr, flush=True)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as packed, written_array(cached, member.file_size) as file:
            shutil.copyfileobj(packed, file, 2**20)
    except UNREADABLE as error:
        message = f"{path}: cannot unpack the array {member.filename!r}: {error}."
        raise UserError(message, field="stream", fix=CACHE_FIX) from None
    return cached


register(
    Reader(
        "npz",
        ".npz archives",
        "an .npz file: arrays of training images (train or x_train), test images (test or x_test), labels, factors and masks, "
        "or the archive of dSprites, MPI3D, MedMNIST or downsampled ImageNet",
        _read_npz,
        endings=(".npz",),
        can_stream=True,
        uses=("array",),
        published=("Keras", "dSprites", "MPI3D", "MedMNIST", "ImageNet32", "pythae", "scipy.sparse"),
    )
)
