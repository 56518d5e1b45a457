"""Reader of .npy files, which hold one array, and the opening of NumPy's files in general."""

import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.lib.npyio import NpzFile

from vae_jax.data.on_disk import Rows, open_array
from vae_jax.data.readers.listing import UNREADABLE, silence
from vae_jax.data.readers.registry import Reader, Request, register
from vae_jax.data.split import Split
from vae_jax.errors import UserError


def _read_npy(request: Request) -> Split:
    """Reads an .npy file of images; with `stream` they stay on disk."""
    return Split(open_npy(request.path) if request.stream else _check_is_array(request.path, load_numpy(request.path)))


def open_npy(path: Path) -> Rows:
    """Opens the rows of an .npy file, which stay on disk."""
    array = _check_is_array(path, load_numpy(path, mmap_mode="r"))
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


def load_numpy(path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray | NpzFile:
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


register(
    Reader(
        "npy",
        ".npy files",
        "an .npy file: one array of images",
        _read_npy,
        endings=(".npy",),
        can_stream=True,
        published=("VDVAE's ImageNet32 and FFHQ-256",),
    )
)
