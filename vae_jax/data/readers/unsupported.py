"""Formats that are never read, each with the way to data that are."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

_AS_ARRAY = "In Python save the images as one array: np.save('images.npy', images)."


class Unsupported(NamedTuple):
    """One format that is refused.

    Attributes:
      matches: returns whether a file has the format, by its path.
      reason: a clause that says what the file is and why it is not read.
      fix: a sentence with the way out.
      files: the files, for the documentation.
      instead: what is read in their place, for the documentation.
    """

    matches: Callable[[Path], bool]
    reason: str
    fix: str
    files: str
    instead: str


def _by_name(pattern: str) -> Callable[[Path], bool]:
    expression = re.compile(pattern, re.IGNORECASE)
    return lambda file: expression.fullmatch(file.name) is not None


def _is_pickle(file: Path) -> bool:
    """Returns whether a file starts like a pickle of protocol 2 or later: the bytes 0x80 and the number of the protocol."""
    try:
        with file.open("rb") as opened:
            start = opened.read(2)
    except OSError:
        return False
    return len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5


_CIFAR_PICKLE = _by_name(r"data_batch_\d+|test_batch|batches\.meta|(train|test|meta)")
KINDS = (
    Unsupported(
        lambda file: _CIFAR_PICKLE(file) and _is_pickle(file),
        "the python version of CIFAR is pickled, and loading a pickle runs code from it",
        "Download the binary version (cifar-10-binary.tar.gz or cifar-100-binary.tar.gz), unpack it, and pass its folder.",
        "CIFAR, python version",
        "CIFAR, binary version",
    ),
    Unsupported(
        _by_name(r".*\.(pt|pth|ckpt)"),
        "files of PyTorch are pickled, and loading a pickle runs code from it",
        "In Python save the tensor as an array: np.save('images.npy', tensor.numpy()).",
        "`.pt` `.pth` `.ckpt`",
        "`.npy`",
    ),
    Unsupported(
        lambda file: file.suffix.lower() in (".pkl", ".pickle", ".p", ".joblib") or (not file.suffix and _is_pickle(file)),
        "a pickle is never loaded, because that runs code from it",
        _AS_ARRAY,
        "`.pkl` `.pickle` `.joblib`",
        "`.npy`",
    ),
    Unsupported(
        lambda file: file.name == "zarr.json" or any(parent.suffix == ".zarr" for parent in file.parents),
        "Zarr stores are not read",
        "In Python save cells as an .h5ad file: anndata.read_zarr(path).write_h5ad('cells.h5ad'). Save an array by np.save.",
        "`.zarr`",
        "`.h5ad` `.npy`",
    ),
    Unsupported(
        _by_name(r".*\.(mdb|lmdb)|lock\.mdb"),
        "LMDB databases are not read",
        f"Decode its images. {_AS_ARRAY}",
        "`.mdb` `.lmdb`",
        "`.npy`",
    ),
    Unsupported(
        _by_name(r".*\.(tar|tgz|tar\.(gz|bz2|xz)|zip|7z|rar)"),
        "packed archives, WebDataset shards among them, are not read",
        "Unpack it into a folder, and pass the folder, or the file in it.",
        "`.tar` `.tgz` `.zip` `.7z` `.rar`",
        "the unpacked folder",
    ),
    Unsupported(
        _by_name(r".*\.(bz2|xz|zst|lz4)"),
        "of compressed files those of gzip are read",
        "Unpack it, and pass the file in it.",
        "`.bz2` `.xz` `.zst` `.lz4`",
        "the unpacked file",
    ),
    Unsupported(
        _by_name(r".*\.(xlsx?|ods|arrow|feather|orc|rds|rda|rdata|dta|sav|sqlite3?|db)"),
        "of tables CSV and Parquet are read",
        "Read it in its program, and save it as a table, such as df.to_parquet('table.parquet') in pandas.",
        "`.xlsx` `.ods` `.arrow` `.feather` `.rds` `.sqlite`",
        "`.csv` `.parquet`",
    ),
    Unsupported(
        _by_name(r".*\.loom"),
        "loom files are not read",
        "In Python: anndata.io.read_loom(path).write_h5ad('cells.h5ad').",
        "`.loom`",
        "`.h5ad`",
    ),
    Unsupported(
        _by_name(r".*\.(txt|smi|smiles|sdf|fasta|jsonl?)"),
        "text is not read",
        "Rename a table of numbers to .csv. Save sequences as one-hot codes in an .npy array (examples, length, symbols), read "
        'with `event="series"`.',
        "`.txt` `.smi` `.json` `.fasta`",
        "`.csv`, one-hot codes in `.npy`",
    ),
    Unsupported(
        _by_name(r".*\.tfrecords?(-.*)?"),
        "TFRecord files are read through TensorFlow Datasets alone",
        f"Pass the name of the data set in TFDS. For other records: {_AS_ARRAY[0].lower()}{_AS_ARRAY[1:]}",
        "`.tfrecord`",
        "the name in TFDS",
    ),
)


def unsupported_kind(files: Sequence[Path]) -> tuple[Path, Unsupported] | None:
    """Returns the first format that is known and refused and that one of the files has, with that file; None for others."""
    return next(((file, kind) for kind in KINDS for file in files if kind.matches(file)), None)
