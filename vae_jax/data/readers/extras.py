"""Optional dependencies of readers, and sizes of compressed files."""

import gzip
import importlib
import os
from pathlib import Path
from types import ModuleType

from vae_jax.data.readers.listing import UNREADABLE, check_fits_in_memory
from vae_jax.errors import UserError


def optional_module(path: Path, module: str, extra: str, purpose: str) -> ModuleType:
    """Imports a module that belongs to an optional dependency of this package.

    Args:
      path: the file that needs it, for messages.
      module: the module, such as "h5py" or "pyarrow.csv".
      extra: the optional dependencies that install it, such as "hdf5".
      purpose: the files that it reads, in the plural.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise UserError(f"{path}: reading {purpose} needs {package}. Install it by: pip install 'vae_jax[{extra}]'") from None


def is_gzipped(path: Path) -> bool:
    """Returns whether a file starts as gzip files do."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def unpacked_size(path: Path) -> int:
    """Returns the number of bytes of a text file, unpacked where it is compressed by gzip, and not more than fit into memory.

    Raises:
      UserError: the file is damaged, or unpacks to more bytes than the machine has memory.
    """
    size = 0
    try:
        if not is_gzipped(path):
            size = os.path.getsize(path)
            check_fits_in_memory(path, size)
            return size
        with gzip.open(path) as file:
            while content := file.read(2**24):
                size += len(content)
                check_fits_in_memory(path, size)
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{path}: not a readable gzip file. {error}. It is damaged.") from None
    return size
