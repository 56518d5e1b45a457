"""Files that are written part by part in constant memory, and appear whole or not at all: archives, tables, image folders."""

import contextlib
import importlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any, ParamSpec

import numpy as np

from vae_jax.errors import UserError
from vae_jax.storage.atomic import naming_path, written_file

if TYPE_CHECKING:  # pyarrow is an optional dependency
    import pyarrow

Arguments = ParamSpec("Arguments")
_GROUP_ROWS, _GROUP_BYTES = 2**16, 2**26  # a row group of Parquet files is written when it has as many


@contextlib.contextmanager
def archive_writer(path: Path) -> Iterator[Callable[[Mapping[str, np.ndarray]], None]]:
    """Opens an .npz archive to be written in parts.

    Yields:
      A function of arrays by name, (rows, ...), which are appended to those before. Arrays of one name have one type, and equal
      shapes but for the rows.
    """
    with contextlib.ExitStack() as stack:
        arrays: dict[str, _Spool] = {}

        def write(part: Mapping[str, np.ndarray]) -> None:
            for name, rows in part.items():
                if name not in arrays:
                    # Without a name in the folder, so that nothing is left of it however the process ends.
                    arrays[name] = _Spool(stack.enter_context(tempfile.TemporaryFile(dir=path.parent)), rows)
                with naming_path(path):
                    arrays[name].append(rows)

        yield write
        with written_file(path) as file, zipfile.ZipFile(file, "w") as archive:
            for name, spool in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    spool.copy_to(member)


class _Spool:
    """The numbers of one array in a temporary file: an archive takes one member after the other."""

    def __init__(self, file: IO[bytes], first: np.ndarray):
        self._file, self._dtype, self._shape, self._rows = file, first.dtype, first.shape[1:], 0

    def append(self, rows: np.ndarray) -> None:
        """Appends rows."""
        if rows.dtype != self._dtype or rows.shape[1:] != self._shape:
            raise ValueError(f"expected rows {self._dtype}{self._shape}, got {rows.dtype}{rows.shape[1:]}.")
        self._file.write(np.ascontiguousarray(rows).data)
        self._rows += len(rows)

    def copy_to(self, member: IO[bytes]) -> None:
        """Writes the whole array in the format .npy."""
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._rows, *self._shape),
        }
        np.lib.format.write_array_header_1_0(member, header)
        self._file.seek(0)
        shutil.copyfileobj(self._file, member, 2**20)


@contextlib.contextmanager
def table_writer(path: Path) -> Iterator[Callable[["pyarrow.Table"], None]]:
    """Opens a .csv or .parquet file to be written in parts.

    Yields:
      A function of tables of pyarrow, which are appended to those before. They have one schema. CSV files have text in place of
      categories.
    """
    is_csv = path.suffix.lower() == ".csv"
    module = table_module("pyarrow.csv" if is_csv else "pyarrow.parquet")
    with written_file(path) as file, contextlib.ExitStack() as stack:
        group: list[pyarrow.Table] = []
        writers: list[Any] = []

        def flush() -> None:
            table = table_module("pyarrow").concat_tables(group)
            group.clear()
            if not writers:
                # Floats hardly ever repeat, and a dictionary of them would take half of the time.
                repeating = [field.name for field in table.schema if not str(field.type).startswith(("float", "double"))]
                options = {} if is_csv else {"use_dictionary": repeating}
                make = module.CSVWriter if is_csv else module.ParquetWriter
                writers.append(make(file, table.schema, **options))
                stack.callback(writers[0].close)
            writers[0].write_table(table)

        def write(table: "pyarrow.Table") -> None:
            group.append(without_categories(table) if is_csv else table)
            if is_csv or sum(t.num_rows for t in group) >= _GROUP_ROWS or sum(t.nbytes for t in group) >= _GROUP_BYTES:
                flush()

        yield write
        if group:
            flush()


def without_categories(table: "pyarrow.Table") -> "pyarrow.Table":
    """Returns the table with text in place of dictionaries, which CSV files do not have."""
    import pyarrow.types

    for i, field in enumerate(table.schema):
        if pyarrow.types.is_dictionary(field.type):
            table = table.set_column(i, field.name, table.column(i).cast(field.type.value_type))
    return table


def table_module(name: str) -> ModuleType:
    """Imports pyarrow or a module of it, which is an optional dependency."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError("tables need pyarrow. Install it by: pip install 'vae_jax[tables]'") from None


@contextlib.contextmanager
def image_folder_writer(folder: Path, count: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Opens a folder of PNG files to be written in parts. A folder of the same name is replaced.

    Args:
      folder: the folder, whose parent exists.
      count: number of images in all, which sets the digits of the names 000000.png, 000001.png, ...

    Yields:
      A function of images, (images, height, width, channels) of uint8, with 1, 3 or 4 channels.
    """
    digits, written = max(6, len(str(count - 1))), 0
    with written_folder(folder) as temporary:

        def write(images: np.ndarray) -> None:
            nonlocal written
            from PIL import Image

            for image in images:
                path = temporary / f"{written:0{digits}}.png"
                with naming_path(folder):
                    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path)
                written += 1

        yield write


@contextlib.contextmanager
def written_folder(folder: Path) -> Iterator[Path]:
    """Yields a new folder to write into, which takes the place of `folder` where the context ends without an error.

    Otherwise nothing remains of it, and a folder that was there before stays as it was.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        with naming_path(folder):
            temporary.mkdir(parents=True)
        yield temporary
        with naming_path(folder):
            _replace_folder(folder, temporary, old)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(folder: Path, new: Path, old: Path) -> None:
    """Puts a folder in place of another one, which is kept as `old`."""
    if not folder.exists():
        new.rename(folder)
        return
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise


def is_image_folder(folder: Path) -> bool:
    """Returns whether a folder is empty, or has nothing but the files that `image_folder_writer` writes."""
    return all(path.suffix == ".png" and path.stem.isdigit() and path.is_file() for path in folder.iterdir())


@contextlib.contextmanager
def in_background(write: Callable[Arguments, None]) -> Iterator[Callable[Arguments, None]]:
    """Yields a function that calls `write` in a thread. Each call waits until that before has ended, and raises its error."""
    with ThreadPoolExecutor(1, "writer") as pool:
        running: Future[None] | None = None

        def submit(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
            nonlocal running
            if running is not None:
                running.result()
            running = pool.submit(write, *args, **kwargs)

        yield submit
        if running is not None:
            running.result()
