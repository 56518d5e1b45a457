"""Files of a data folder in natural order, the part that a name stands for, and notes on files that are not read."""

import contextlib
import functools
import lzma
import os
import re
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vae_jax.errors import UserError

# Exceptions that a damaged or hostile file makes NumPy or its archive raise.
_NUMPY_ERRORS = (
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
# zipfile raises RuntimeError for encrypted archives and unknown compression.
_ARCHIVE_ERRORS = (RuntimeError, zlib.error, lzma.LZMAError, struct.error, zipfile.BadZipFile)
UNREADABLE = (*_NUMPY_ERRORS, *_ARCHIVE_ERRORS)
_NUMBER = re.compile("[0-9]+")
_MAX_NAMES = 5  # in a note
PARTS = {"train": "training", "validation": "validation", "test": "test"}  # each with the adjective for messages
_PARTS_BY_WORD = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
PART_WORD = rf"({'|'.join(sorted(_PARTS_BY_WORD, key=len, reverse=True))})"


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Hides the warnings of libraries about a file, such as an old header: the file is read or refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def natural_key(path: Path) -> tuple[list[str], Path]:
    """Returns a key that sorts paths as strings, except that numbers compare by value: frame9 comes before frame10.

    Names whose numbers are padded with zeros to one width have the order of strings.

    Example:
      >>> [path.name for path in sorted(map(Path, ["b1", "a10", "a9", "a-1", "a09"]), key=natural_key)]
      ['a-1', 'a09', 'a9', 'a10', 'b1']
    """
    *parents, name = path.parts or ("",)
    return [*map(_natural_parent, parents), _natural(name)], path


def _natural(name: str) -> str:
    """Returns a name in which each number starts with a digit, which sorts among other signs, its length, and its value."""
    return _NUMBER.sub(lambda match: f"0{chr(len(digits := match[0].lstrip('0')))}{digits}", name)


_natural_parent = functools.lru_cache(1024)(_natural)


def list_files(folder: Path) -> list[Path]:
    """Returns all files below a folder in natural order, without files whose name starts with a dot."""
    files: list[Path] = []
    waiting = [folder]
    while waiting:
        parent = waiting.pop()
        with contextlib.suppress(PermissionError), os.scandir(parent) as entries:
            for entry in entries:  # which know their kind, so that a folder of many files is listed quickly
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(parent / entry.name)
                elif not entry.name.startswith(".") and _is_file(entry):
                    files.append(parent / entry.name)
    return sorted(files, key=natural_key)


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link in a loop
        return False


def folders_of(file: Path, folder: Path) -> tuple[str, ...]:
    """Returns the names of the folders between a folder and a file in it.

    Example:
      >>> folders_of(Path("data/images/cats/1.png"), Path("data"))
      ('images', 'cats')
    """
    return file.parts[len(folder.parts) : -1]


def word_part(word: str) -> str | None:
    """Returns the part that a lower-case word such as "val" stands for; None for any other word."""
    return _PARTS_BY_WORD.get(word)


def folder_part(file: Path, folder: Path) -> tuple[str, Path] | None:
    """Returns the part that a file belongs to by its folder, and that folder.

    This is the outermost folder between `folder` and the file that is named like a part. None where no folder is.

    Example:
      >>> folder_part(Path("data/images/val2017/cats/1.png"), Path("data"))
      ('validation', PosixPath('images/val2017'))
    """
    match = _part_of_folders(folders_of(file, folder))
    return match and (match[0], Path(match[1]))


@functools.lru_cache(1024)
def _part_of_folders(names: tuple[str, ...]) -> tuple[str, str] | None:
    """Returns the part that the outermost of these folders stands for, and the path of that folder."""
    for depth, name in enumerate(names, 1):
        compact = re.sub(r"[^a-z0-9]", "", name.lower())
        if match := re.fullmatch(rf"(?:images?|imgs|data)?{PART_WORD}(?:set|images?|imgs|data|split)?\d*", compact):
            return _PARTS_BY_WORD[match[1]], os.path.join(*names[:depth])
    return None


def joined(names: Iterable[object], limit: int = _MAX_NAMES) -> str:
    """Returns names with commas and a final "and", at most `limit` of them.

    Example:
      >>> joined(["a", "b"]), joined("abcdefgh")
      ('a and b', 'a, b, c, d, e and 3 more')
    """
    names = [str(name) for name in names]
    if len(names) > limit:
        return f"{', '.join(names[:limit])} and {len(names) - limit} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def be(things: Sequence[object]) -> str:
    """Returns the verb of a sentence about these things: "is" or "are"."""
    return "is" if len(things) == 1 else "are"


def note_on_other_files(folder: Path, files: Sequence[Path], kind: str) -> tuple[str, ...]:
    """Returns a note on files of a folder that are not read, the most frequent endings first; nothing for no files.

    Args:
      folder: the data set.
      files: the files that are not read.
      kind: the files that are read, in the plural.
    """
    if not files:
        return ()
    by_ending: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        by_ending[file.suffix.lower()].append(file.relative_to(folder))
    groups = [
        str(group[0]) if len(group) == 1 else f"{len(group)} files {f'*{ending}' if ending else 'without an ending'}"
        for ending, group in sorted(by_ending.items(), key=lambda item: -len(item[1]))
    ]
    return (f"{folder}: {joined(groups)} {be(files)} left out, because only {kind} are read.",)


def memory_size() -> int | None:
    """Returns the memory of this machine in bytes; None where the system does not tell, so that reading itself has to fail."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def check_fits_in_memory(path: Path, size: int) -> None:
    """Raises `UserError`, before anything is unpacked, where a file unpacks to more bytes than the machine has memory."""
    memory = memory_size()
    if memory is not None and size > memory:
        raise UserError(
            f"{path}: unpacks to {size / 2**30:,.0f} GiB, and this machine has {memory / 2**30:,.0f} GiB of memory. It is "
            "damaged or too large. If it is too large, save the images as one .npy file and use `stream=True`."
        )
