"""Readers of sparse matrices: scipy's .npz files, MatrixMarket files, and 10x Genomics' folders with one of them."""

import gzip
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np

from vae_jax.data.readers.extras import is_gzipped, unpacked_size
from vae_jax.data.readers.listing import UNREADABLE, check_fits_in_memory, joined, silence
from vae_jax.data.readers.registry import Reader, Request, register
from vae_jax.data.sparse import SparseMatrix, SparseRows, damage_reported, sparse_rows
from vae_jax.data.split import Split
from vae_jax.errors import UserError

_BESIDE = r"(?:^|[_.-]){}\.(?:tsv|txt)(?:\.gz)?$"  # names may have a prefix, such as GSM3489182_
_MATRIX, _BARCODES = re.compile(r"(?:^|[_.-])matrix\.mtx(?:\.gz)?$"), re.compile(_BESIDE.format("barcodes"))
_FEATURES = re.compile(_BESIDE.format("(?:features|genes)"))
EXPRESSION = "Gene Expression"  # the type of features that are genes, where a file has several types


class Features(NamedTuple):
    """Columns of a matrix of 10x Genomics.

    Attributes:
      names: names of the genes (or of other features).
      types: "Gene Expression", "Antibody Capture" ... for each; None in old files, which have genes alone.
    """

    names: tuple[str, ...]
    types: tuple[str, ...] | None


def read_scipy_npz(request: Request) -> Split:
    """Reads an archive that `scipy.sparse.save_npz` wrote: a matrix (examples, columns) in any of its formats."""
    import scipy.sparse

    path = request.path
    if request.stream:
        raise stays_in_memory(path)
    try:
        with silence(), np.load(path, allow_pickle=False) as archive:
            check_fits_in_memory(path, sum(entry.file_size for entry in archive.zip.infolist()))
        with silence():
            matrix = scipy.sparse.load_npz(path)  # which loads no pickles either
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{path}: not a readable sparse matrix: {' '.join(str(error).split())}. It is damaged.") from None
    return Split(sparse_rows(str(path), cast(SparseMatrix, matrix)))


def stays_in_memory(path: Path) -> UserError:
    """Returns the error for a sparse matrix that is to be streamed."""
    return UserError(
        f"{path}: a sparse matrix stays in memory, where it is small, and its rows become dense on the device alone. Leave out "
        "`stream=True`.",
        field="stream",
    )


def _read_mtx(request: Request) -> Split:
    """Reads a MatrixMarket file: (examples, columns), or with 10x Genomics' tables beside it (genes, cells)."""
    path = request.path
    match = _MATRIX.search(path.name)
    prefix = path.name[: match.start()] if match else None
    beside = [file for file in path.parent.iterdir() if prefix is not None and file.name.startswith(prefix)]
    siblings = [file for file in beside if _BARCODES.search(file.name) or _FEATURES.search(file.name)]
    if all(any(map(pattern.search, (file.name for file in siblings))) for pattern in (_BARCODES, _FEATURES)):
        return _read_folder(request._replace(files=[path, *siblings]))
    matrix = read_matrix_market(path)
    if isinstance(matrix, np.ndarray):
        return Split(matrix)
    if request.stream:
        raise stays_in_memory(path)
    return Split(sparse_rows(str(path), matrix))


def read_matrix_market(path: Path) -> SparseMatrix | np.ndarray:
    """Reads a MatrixMarket file, raw or gzipped: a sparse matrix for the format "coordinate", an array for "array"."""
    import scipy.io

    size = unpacked_size(path)
    try:
        with _open(path) as file:
            entries, bytes_per_entry = _num_entries(file)
        # A header may promise any number of entries, for which memory is allocated before they are read.
        if entries * bytes_per_entry > size:
            raise ValueError(f"{entries} entries do not fit into {size} bytes")
        check_fits_in_memory(path, 24 * entries)
        with silence(), _open(path) as file:
            return cast("SparseMatrix | np.ndarray", scipy.io.mmread(_Unseekable(file)))
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{path}: not a readable MatrixMarket file: {' '.join(str(error).split())}. It is damaged.") from None


class _Unseekable:
    """A file that can only be read on.

    SciPy 1.17.1 seeks in a file that can be searched while it reports a damaged header, and a failure there ends the process.
    """

    def __init__(self, file: IO[bytes]):
        self.read = file.read


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if is_gzipped(path) else path.open("rb")


def _num_entries(file: IO[bytes]) -> tuple[int, int]:
    """Returns how many entries the header of a MatrixMarket file promises, and the bytes that one takes at least."""
    is_dense = b"array" in file.readline(1024).lower().split()
    while (line := file.readline(2**16)).startswith(b"%") or (line and not line.strip()):
        pass
    numbers = [int(number) for number in line.split()]
    if len(numbers) != (2 if is_dense else 3) or min(numbers) < 0:
        raise ValueError(f"expected its sizes, got {line[:40]!r}")
    return (numbers[0] * numbers[1], 1) if is_dense else (numbers[2], 4)


def _is_mex(file: Path) -> bool:
    return any(pattern.search(file.name) for pattern in (_MATRIX, _BARCODES, _FEATURES))


def _read_folder(request: Request) -> Split:
    """Reads 10x Genomics' folder: matrix.mtx (genes, cells), barcodes.tsv and features.tsv (or genes.tsv), raw or gzipped."""
    folder, files = request.path, request.files
    if request.stream:
        raise stays_in_memory(folder)
    matrix, barcodes, features = (_only(folder, files, pattern) for pattern in (_MATRIX, _BARCODES, _FEATURES))
    counts = read_matrix_market(matrix)
    if isinstance(counts, np.ndarray):
        raise UserError(f"{matrix}: expected a sparse matrix, in the format coordinate, got a dense one. It is damaged.")
    rows = _read_tsv(features)
    num_cells = len(_read_tsv(barcodes))
    if tuple(counts.shape) != (len(rows), num_cells):
        raise UserError(
            f"{matrix}: expected {len(rows)} genes (of {features.name}) and {num_cells} cells (of {barcodes.name}), got "
            f"shape {tuple(counts.shape)}. The files do not belong together."
        )
    columns = Features(
        tuple(row[1] if len(row) > 1 else row[0] for row in rows),
        tuple(row[2] for row in rows) if all(len(row) > 2 for row in rows) else None,
    )
    with damage_reported(str(matrix)):
        cells = cast("SparseMatrix", counts.T)  # pyright: ignore[reportAttributeAccessIssue]
    return expression_split(folder, sparse_rows(str(matrix), cells), columns)


def _only(folder: Path, files: Sequence[Path], pattern: re.Pattern[str]) -> Path:
    matching = [file for file in files if pattern.search(file.name)]
    # Unpacked copies of the same file may lie beside it.
    matching = [file for file in matching if file.suffix != ".gz" or file.with_suffix("") not in matching]
    if len(matching) == 1:
        return matching[0]
    names = "barcodes.tsv, features.tsv (or genes.tsv) and matrix.mtx, raw or .gz"
    got = joined(file.relative_to(folder) if file.is_relative_to(folder) else file.name for file in files)
    raise UserError(f"{folder}: expected one of each: {names}, got {got}. Pass a folder that holds one matrix.")


def _read_tsv(path: Path) -> list[list[str]]:
    """Reads a table without a header."""
    unpacked_size(path)
    try:
        with _open(path) as file:
            lines = file.read().decode().splitlines()
    except (*UNREADABLE, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable table. {error}. It is damaged.") from None
    return [line.split("\t") for line in lines if line]


def expression_split(path: Path, cells: SparseRows, features: Features) -> Split:
    """Returns the split of a matrix (cells, features) of 10x Genomics. Features other than genes are left out, with a note."""
    import scipy.sparse

    if features.types is None or len(kinds := sorted(set(features.types))) == 1:
        return Split(cells, column_names=features.names)
    if EXPRESSION not in kinds:
        note = f"{path}: its columns are of several types: {joined(kinds)}."
        return Split(cells, column_names=features.names, notes=(note,))
    chosen = np.flatnonzero(np.array(features.types) == EXPRESSION)
    matrix = scipy.sparse.csr_array((cells.data, cells.indices, cells.indptr), shape=cells.shape)[:, chosen]
    others = [f"{features.types.count(kind)} of {kind}" for kind in kinds if kind != EXPRESSION]
    return Split(
        sparse_rows(str(path), cast(SparseMatrix, matrix)),
        column_names=tuple(features.names[i] for i in chosen),
        notes=(f"{path}: the {len(chosen)} columns of {EXPRESSION} are used, and {joined(others)} are not.",),
    )


register(
    Reader(
        "mtx",
        "MatrixMarket files",
        "an .mtx file, raw or gzipped: a sparse matrix of examples by columns",
        _read_mtx,
        endings=(".mtx", ".mtx.gz"),
        starts_with=lambda start: start.startswith(b"%%MatrixMarket"),
    )
)
register(
    Reader(
        "mex",
        "10x Genomics matrices (matrix.mtx)",
        "a folder of 10x Genomics: matrix.mtx, barcodes.tsv and features.tsv (or genes.tsv), raw or gzipped",
        _read_folder,
        recognizes=_is_mex,
        published=("10x Genomics",),
    )
)
