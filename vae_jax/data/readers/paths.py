"""Reading of a path: finds the reader of the file or folder in the registry, and notes the files that it leaves out."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vae_jax.data.readers import part_files, registry
from vae_jax.data.readers.listing import folders_of, joined, list_files, natural_key, note_on_other_files
from vae_jax.data.readers.registry import Reader, ReadOptions, Request
from vae_jax.data.readers.unsupported import unsupported_kind
from vae_jax.data.split import Split
from vae_jax.errors import UserError

# Options that have a meaning after the reading, for the data of any reader, and those that others than tables ignore.
_GENERAL = ("event", "transpose", "condition", "missing", "mixed", "columns")


def is_path(name: str) -> bool:
    """Returns whether the name of a data set is a path: it looks like one, or there is such a file or folder."""
    looks_like_one = name.endswith(registry.file_endings()) or name.startswith((".", "~", "/"))
    try:
        return looks_like_one or Path(name).exists()
    except OSError:  # a name too long for a path
        return False


def read_path(path: Path, stream: bool = False, options: ReadOptions = ReadOptions()) -> Split:  # noqa: B008  # a NamedTuple
    """Reads a file or folder with the reader that the registry has for it.

    Args:
      path: the file or folder; a leading ~ stands for the home folder.
      stream: leave the training images on disk, as `Rows`.
      options: further settings of `data.load`.

    Returns:
      The arrays as stored. The notes of the `Split` name the files of a folder that were not read.

    Raises:
      UserError: a missing path, an unknown format, a format that cannot be streamed where that is asked for, or an option
        that has no meaning for the format.
    """
    path = Path(os.path.expanduser(path))  # which, unlike Path.expanduser, leaves an unknown ~user as it is
    try:
        if not path.exists():
            start = "" if path.is_absolute() else f" The path starts at the working folder, {Path.cwd()}."
            raise UserError(f"{path}: no such file or folder.{start}")
    except OSError as error:  # such as a name that is too long
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from None
    if path.is_dir():
        return _read_folder(path, stream, options)
    if not path.is_file():  # a pipe or a device, which may never end
        raise UserError(f"{path}: expected a file or a folder, got something else.")
    reader = registry.reader_of_file(path)
    if reader is None:
        raise _unknown_format(path)
    _check_streaming(path, reader, stream)
    _check_options(path, reader, options)
    return reader.read(Request(path, [path], stream, options))


def is_table(name: str) -> bool:
    """Returns whether the name of a data set is the path of a table, whose columns may be of different types."""
    if not is_path(name):
        return False
    path = Path(os.path.expanduser(name))
    try:
        files = list_files(path) if path.is_dir() else [path]
        if not path.is_dir():
            reader = registry.reader_of_file(path) if path.is_file() else None
            return reader is not None and reader.is_table
        readers = None if registry.reader_of_folder(files) else [registry.reader_of_file(file) for file in files]
    except (OSError, UserError):  # it is reported where the data are read
        return False
    return bool(readers) and all(reader is not None and reader.is_table for reader in readers)


def _unknown_format(path: Path) -> UserError:
    if refused := unsupported_kind([path]):
        return UserError(f"{path}: {refused[1].reason}. {refused[1].fix}")
    fix = "Read it in Python and save its images as one array: np.save('images.npy', images)."
    if registry.reader_of_folder([path]):
        fix = f"Pass the folder that it is in: {path.parent}."
    return UserError(f"{path}: expected {registry.expected_paths()}, got a file ending in {path.suffix!r}. {fix}")


def _check_streaming(path: Path, reader: Reader, stream: bool) -> None:
    if stream and not reader.can_stream:
        raise UserError(
            f"{path}: {reader.files} cannot be read row by row while training. Save the images as one array in an .npy file, "
            "or leave out `stream=True`.",
            field="stream",
        )


def _check_options(path: Path, reader: Reader, options: ReadOptions) -> None:
    check_options(str(path), reader.files, reader.uses, options)


def check_options(name: str, kind: str, uses: Sequence[str], options: ReadOptions) -> None:
    """Raises `UserError` for an option that a source does not use. `event`, `transpose`, `condition` and
    `missing` work on any data.

    Args:
      name: the source.
      kind: what it is, in the plural, such as "IDX files".
      uses: the fields of the options that it uses.
      options: the settings of the user.
    """
    for field, value in options._asdict().items():
        if field not in _GENERAL and value != getattr(ReadOptions(), field) and field not in uses:
            users = [other.files for other in registry.readers() if field in other.uses]
            meaning = f" It is for {registry.either(users)}." if users else ""
            raise UserError(f"{name}: `{field}` has no meaning for {kind}.{meaning} Leave it out.", field=field)


def usable_options(path: Path, options: ReadOptions) -> ReadOptions:
    """Returns the options without those that the reader of a path does not use."""
    path = Path(os.path.expanduser(path))
    files = list_files(path) if path.is_dir() else [path] if path.is_file() else []
    readers = [registry.reader_of_folder(files)] if path.is_dir() else []
    if readers in ([], [None]):
        readers = [registry.reader_of_file(file) for file in files]
    uses = {field for reader in readers if reader for field in reader.uses} | set(_GENERAL)
    return ReadOptions(**{field: value for field, value in options._asdict().items() if field in uses})


def _read_folder(folder: Path, stream: bool, options: ReadOptions) -> Split:
    files = list_files(folder)
    reader = registry.reader_of_folder(files)
    if reader is None or reader.recognizes is None:
        split = part_files.read_part_files(folder, files, stream, lambda file, on_disk: read_path(file, on_disk, options))
        if split is None:
            raise _no_data_in(folder, files)
        return split
    _check_streaming(folder, reader, stream)
    _check_options(folder, reader, options)
    recognized, kind = list(filter(reader.recognizes, files)), reader.files
    if reader.skips_hidden_folders:
        # Programs keep copies of pictures in folders such as .thumbnails and .ipynb_checkpoints.
        recognized = [file for file in recognized if not _is_hidden(file, folder)] or recognized
        kind = f"{kind} outside of hidden folders"
    split = reader.read(Request(folder, recognized, stream, options))
    rest = sorted(set(files).difference(recognized), key=natural_key) if len(recognized) < len(files) else []
    return split._replace(notes=(*split.notes, *note_on_other_files(folder, rest, kind)))


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(name.startswith(".") for name in folders_of(file, folder))


def _no_data_in(folder: Path, files: Sequence[Path]) -> UserError:
    if refused := unsupported_kind(files):
        return UserError(f"{folder}: {refused[1].reason} ({refused[0].relative_to(folder)}). {refused[1].fix}")
    endings = Counter(file.suffix.lower() for file in files)
    fix = " Convert the images to PNG." if endings else ""
    kinds = f" ({joined(ending or 'no ending' for ending, _ in endings.most_common())})" if endings else ""
    return UserError(f"{folder}: expected {registry.expected_folders()}, found none among {len(files)} files{kinds}.{fix}")
