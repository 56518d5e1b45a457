"""Files of a data folder in natural order, the part of the data that a name stands for, and the words for what is left over."""

import contextlib
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
from typing import Any

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
_MOST_NAMES = 5  # in a note
PARTS = {"train": "training", "validation": "validation", "test": "test"}  # each with its adjective
_PART_WORDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
PART_WORD = rf"({'|'.join(sorted(_PART_WORDS, key=len, reverse=True))})"


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Hides what a file makes its reader warn of (an old header, a strange palette): the file is read or refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def natural_key(path: Path) -> tuple[list[str], Path]:
    """Sorts paths as strings, except that two numbers at the same place compare by value: frame9 comes before frame10.

    Names whose numbers are padded with zeros to one width have the order of strings.

    Example:
      >>> [path.name for path in sorted(map(Path, ["b1", "a10", "a9", "a-1", "a09"]), key=natural_key)]
      ['a-1', 'a09', 'a9', 'a10', 'b1']
    """

    def number(match: re.Match[str]) -> str:
        """A digit as before among other signs, then the length and the digits, which compare as the numbers do."""
        digits = match[0].lstrip("0")
        return f"0{chr(len(digits))}{digits}"

    return [re.sub("[0-9]+", number, part) for part in path.parts], path


def list_files(folder: Path) -> list[Path]:
    """All files below a folder in natural order, without those that are hidden by their own name."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return sorted(files, key=natural_key)


def part_of_word(word: str) -> str | None:
    """The part that a lower-case word such as "val" stands for; None for any other word."""
    return _PART_WORDS.get(word)


def part_of_folders(file: Path, folder: Path) -> tuple[str, Path] | None:
    """(part, its folder) of the outermost folder between `folder` and a file that is named like a part, or None.

    Example:
      >>> part_of_folders(Path("data/images/val2017/cats/1.png"), Path("data"))
      ('validation', PosixPath('images/val2017'))
    """
    parents = file.relative_to(folder).parts[:-1]
    for depth, name in enumerate(parents, 1):
        compact = re.sub(r"[^a-z0-9]", "", name.lower())
        if match := re.fullmatch(rf"(?:images?|imgs|data)?{PART_WORD}(?:set|images?|imgs|data|split)?\d*", compact):
            return _PART_WORDS[match[1]], Path(*parents[:depth])
    return None


def joined(names: Iterable[Any], most: int = _MOST_NAMES) -> str:
    """Names with commas, at most `most` of them.

    Example:
      >>> joined(["a", "b"]), joined("abcdefgh")
      ('a and b', 'a, b, c, d, e and 3 more')
    """
    names = [str(name) for name in names]
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def other_files(folder: Path, files: Sequence[Path], kind: str) -> tuple[str, ...]:
    """A note on the files of a folder that are not of the kind that is read from it, the most frequent endings first."""
    if not files:
        return ()
    by_ending: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        by_ending[file.suffix.lower()].append(file.relative_to(folder))
    words = [
        str(group[0]) if len(group) == 1 else f"{len(group)} files {f'*{ending}' if ending else 'without an ending'}"
        for ending, group in sorted(by_ending.items(), key=lambda item: -len(item[1]))
    ]
    verb = "is" if len(files) == 1 else "are"
    return (f"{folder}: {joined(words)} {verb} left out, because only {kind} are read.",)


def expect_to_fit(path: Path, size: int) -> None:
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
