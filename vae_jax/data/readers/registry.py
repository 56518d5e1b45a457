"""Registry of the formats that `data.load` reads from files and folders, and of the bundled data sets.

Every reader module registers a `Reader` beside its code. Messages and help texts that list the formats are made from the
registry. It imports NumPy alone: JAX, Pillow and TensorFlow Datasets are imported by the functions that need them.
"""

import gzip
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from vae_jax.data.events import Event
from vae_jax.data.split import Split


class ReadOptions(NamedTuple):
    """Settings of `data.load` that say how files are read. A reader uses those that have a meaning for its format.

    Attributes:
      event: the kind of example (see `events.event_shape`). `data.load` gives the arrays their shape; a reader needs it only
        where its format has no shape.
      resize: (height, width) to which pictures are resized as they are stored, before `transpose`; None: as they are.
      crop: side of the central square that is cut out of pictures before they are resized; None: the whole picture.
      transpose: `data.load` exchanges the height and the width of each image after the reading.
      array: name of the array, or of the data set, to read where there are several, such as "layers/counts"; None: the reader
        chooses.
      label_column: name of the column, or of the kind of labels, that is used; None: the reader chooses.
      condition: names of columns of a table, or of factors, that are the condition. A reader of tables takes its columns out of
        the examples.
      missing: "nan" takes missing values of tables as NaN; "refuse" refuses them. `data.load` treats NaN in the same way.
      mixed: not None: read tables with text, booleans and missing values (see `mixed_tables`); the names are of columns that
        are no labels. Readers of other formats ignore it.
      columns: not None: read these columns of a table alone, beside those of the condition, and its labels if they are
        complete. Readers of other formats ignore it.
    """

    event: Event = "auto"
    resize: tuple[int, int] | None = None
    crop: int | None = None
    transpose: bool = False
    array: str | None = None
    label_column: str | None = None
    condition: tuple[str, ...] = ()
    missing: Literal["refuse", "nan"] = "refuse"
    mixed: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None


class Request(NamedTuple):
    """Files to read, and how to read them.

    Attributes:
      path: the file or folder that the user named.
      files: the files to read: those of the folder that `Reader.recognizes` accepts, in natural order, or `path` alone.
      stream: leave the training images on disk, as `Rows`. True only for readers with `can_stream`.
      options: further settings of `data.load`.
    """

    path: Path
    files: Sequence[Path]
    stream: bool = False
    options: ReadOptions = ReadOptions()


class Reader(NamedTuple):
    """One file format.

    Its data are either a single file with one of the `endings`, or a folder of files that `recognizes` accepts.

    Attributes:
      name: unique name of the format.
      files: the files in the plural, as messages name them: "IDX files".
      help: one line for help texts, as a noun phrase: "a folder of IDX files (the format of MNIST), raw or gzipped".
      read: reads a request. It imports heavy libraries itself, and raises `UserError` for files that cannot be read.
      endings: endings of single files in lower case, with the dot; empty for a format that is a folder.
      recognizes: returns whether a file of a folder has this format, by its name alone; None for single files.
      skips_hidden_folders: leave out files in hidden folders, such as .thumbnails, unless the folder holds only those.
      can_stream: whether `read` can leave the training images on disk.
      starts_with: returns whether a single file has this format, by its first 2,048 bytes (unpacked, for gzip). Such a reader
        is chosen by content, whatever the ending of the file is.
      uses: the fields of `ReadOptions` that the reader uses. Others are refused where the user sets them.
      extra: the optional dependencies of this package that the format needs, such as "hdf5"; "" for none.
      published: names of published data sets in this format, for the documentation.
      is_table: whether the format has tables with columns of different types, for which likelihoods are proposed.

    Example: a format that is one function.
      >>> import numpy as np
      >>> def read_text(request):
      ...     images = np.loadtxt(request.path, dtype=np.uint8).reshape(-1, 8, 8)
      ...     return Split(images)
      >>> reader = Reader("text", ".txt tables", "a .txt file: a row of 64 levels for each image", read_text, endings=(".txt",))
      >>> reader.can_stream
      False
    """

    name: str
    files: str
    help: str
    read: Callable[[Request], Split]
    endings: tuple[str, ...] = ()
    recognizes: Callable[[Path], bool] | None = None
    skips_hidden_folders: bool = False
    can_stream: bool = False
    starts_with: Callable[[bytes], bool] | None = None
    uses: tuple[str, ...] = ()
    extra: str = ""
    published: tuple[str, ...] = ()
    is_table: bool = False


class Bundled(NamedTuple):
    """One data set that needs no file of the user's.

    Attributes:
      name: the name to pass to `data.load`.
      help: one line for help texts, as a noun phrase.
      read: returns the arrays. It imports heavy libraries itself.
    """

    name: str
    help: str
    read: Callable[[], Split]


_readers: dict[str, Reader] = {}
_bundled: dict[str, Bundled] = {}
TFDS_HELP = "the name of an image data set in TensorFlow Datasets, such as mnist or dsprites"


def register(reader: Reader) -> Reader:
    """Adds a reader, or replaces the one with its name. Among readers for the same files the last registered one is used."""
    _readers.pop(reader.name, None)
    _readers[reader.name] = reader
    return reader


def register_bundled(source: Bundled) -> Bundled:
    """Adds a bundled data set, or replaces the one with its name."""
    _bundled[source.name] = source
    return source


def bundled() -> dict[str, Bundled]:
    """Returns the bundled data sets by name, in the order in which they were registered."""
    return dict(_bundled)


def file_endings() -> tuple[str, ...]:
    """Returns the endings of single files that can be read, in lower case."""
    return tuple(dict.fromkeys(ending for reader in _readers.values() for ending in reader.endings))


def readers() -> tuple[Reader, ...]:
    """Returns all readers, in the order in which they were registered."""
    return tuple(_readers.values())


def reader_of_file(path: Path) -> Reader | None:
    """Returns the reader for a single file, by its content or else by its ending; None where there is none."""
    start, name = _start(path), path.name.lower()
    candidates = list(reversed(_readers.values()))
    by_content = next((reader for reader in candidates if reader.starts_with and reader.starts_with(start)), None)
    return by_content or next((reader for reader in candidates if name.endswith(reader.endings)), None)


def _start(path: Path) -> bytes:
    """Returns the first 2,048 bytes of a file, unpacked where it is compressed by gzip; nothing where it cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(2048)
        if start[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                return file.read(2048)
        return start
    except (OSError, EOFError, zlib.error):
        return b""


def reader_of_folder(files: Sequence[Path]) -> Reader | None:
    """Returns the reader for a folder with these files: the last registered one that recognizes any of them."""
    readers = [reader for reader in reversed(_readers.values()) if reader.recognizes]
    return next((reader for reader in readers if reader.recognizes and any(map(reader.recognizes, files))), None)


def expected_paths() -> str:
    """Returns the paths that can be read as a noun phrase: "a file ending in .npy or .npz, or a folder with IDX files"."""
    return f"a file ending in {either(file_endings())}, or {expected_folders()}"


def expected_folders() -> str:
    """Returns the folders that can be read as a noun phrase: "a folder with IDX files or PNG/JPEG images"."""
    return f"a folder with {either(reader.files for reader in _readers.values() if reader.recognizes)}"


def help_lines() -> list[str]:
    """Returns a line for each kind of name that `data.load` takes: the bundled data sets, TFDS, and each file format."""
    names = [f"{source.name}: {source.help}" for source in _bundled.values()]
    return [*names, TFDS_HELP, *(reader.help for reader in _readers.values())]


def either(names: Iterable[str]) -> str:
    """Returns names with commas and a final "or".

    Example:
      >>> either([".npy", ".npz"]), either("abc")
      ('.npy or .npz', 'a, b or c')
    """
    names = list(names)
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
