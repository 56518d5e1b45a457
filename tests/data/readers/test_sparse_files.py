"""Sparse matrices in files: scipy's .npz, MatrixMarket, and the folders of 10x Genomics."""

import gzip

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from vae_jax import data
from vae_jax.data import SparseRows
from vae_jax.data.readers.paths import read_path
from vae_jax.errors import DataWarning, UserError

RNG = np.random.default_rng(0)
COUNTS = (RNG.random((12, 5)) < 0.4) * RNG.integers(1, 3000, (12, 5))  # cells x genes
COUNTS[3] = 0
GENES = ("MT-CO1", "ACTB", "CD3", "CD3", "GAPDH")
IDS = [f"ENSG{i:011d}" for i in range(5)]
CELLS = [f"AAACCTGAG{i}-1" for i in range(12)]


def coordinate(matrix, field="integer", comment="% a comment"):
    """The text of a MatrixMarket file in the format coordinate, with indices from 1."""
    entries = [f"{row + 1} {column + 1} {matrix[row, column]}" for row, column in zip(*np.nonzero(matrix), strict=True)]
    size = f"{matrix.shape[0]} {matrix.shape[1]} {len(entries)}"
    return "\n".join([f"%%MatrixMarket matrix coordinate {field} general", comment, size, *entries, ""])


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_mex(folder, gz=True, features="features", types=None, prefix=""):
    end = ".gz" if gz else ""
    write(folder / f"{prefix}matrix.mtx{end}", coordinate(COUNTS.T))
    write(folder / f"{prefix}barcodes.tsv{end}", "".join(f"{cell}\n" for cell in CELLS))
    rows = [[i, name] + ([kind] if types else []) for i, name, kind in zip(IDS, GENES, types or GENES, strict=True)]
    write(folder / f"{prefix}{features}.tsv{end}", "".join("\t".join(row) + "\n" for row in rows))
    return folder


def read(path):
    split = read_path(path)
    assert isinstance(split.train, SparseRows)
    return split.train[:], split


@pytest.mark.parametrize("format", ["csr", "csc", "coo", "bsr"])
def test_a_sparse_npz_archive_is_read(tmp_path, format):
    scipy.sparse.save_npz(tmp_path / "counts.npz", scipy.sparse.csr_matrix(COUNTS).asformat(format))
    rows, split = read(tmp_path / "counts.npz")
    np.testing.assert_array_equal(rows, COUNTS)
    assert split.train.dtype == np.int32
    dataset = data.load(str(tmp_path / "counts.npz"), split="last")
    assert dataset.max_level is None
    np.testing.assert_array_equal(np.concatenate([dataset.train[:], dataset.test[:]]), COUNTS)


def test_the_arrays_of_a_sparse_archive_are_those_of_its_keys(tmp_path):
    """The layout of `save_npz`, written array by array and compressed."""
    indptr = np.concatenate([[0], np.cumsum((COUNTS > 0).sum(axis=1))]).astype(np.int32)
    arrays = {
        "indices": np.nonzero(COUNTS)[1].astype(np.int32),
        "indptr": indptr,
        "data": COUNTS[COUNTS > 0].astype(np.float32),
    }
    np.savez_compressed(tmp_path / "a.npz", format=np.array(b"csr"), shape=np.array([12, 5]), **arrays)
    np.testing.assert_array_equal(read(tmp_path / "a.npz")[0], COUNTS)
    np.savez_compressed(
        tmp_path / "b.npz", format=np.array(b"csr"), shape=np.array([12, 5]), **arrays | {"indptr": indptr[:-1]}
    )
    with pytest.raises(UserError, match=r"b\.npz: not a readable sparse matrix"):
        data.load(str(tmp_path / "b.npz"))
    arrays["indices"] = arrays["indices"] + 1
    np.savez_compressed(tmp_path / "c.npz", format=np.array(b"csr"), shape=np.array([12, 5]), **arrays)
    with pytest.raises(UserError, match=r"c\.npz: not a readable sparse matrix"):
        data.load(str(tmp_path / "c.npz"))
    (tmp_path / "d.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:400])
    with pytest.raises(UserError, match=r"d\.npz"):
        data.load(str(tmp_path / "d.npz"))


def test_pickles_in_a_sparse_archive_are_not_loaded(tmp_path):
    shape, objects = np.array([1, 2]), np.array([{"a": 1}, 2], dtype=object)
    np.savez(tmp_path / "x.npz", format=np.array(b"csr"), shape=shape, data=objects, indices=[0, 1], indptr=[0, 2])
    with pytest.raises(UserError, match=r"x\.npz: not a readable sparse matrix"):
        data.load(str(tmp_path / "x.npz"))


@pytest.mark.parametrize("name", ["counts.mtx", "counts.mtx.gz", "counts.txt"])
def test_a_matrix_market_file_is_read_by_its_content(tmp_path, name):
    path = write(tmp_path / name, coordinate(COUNTS))
    rows, split = read(path)
    np.testing.assert_array_equal(rows, COUNTS)
    assert split.column_names is None


def test_other_fields_of_matrix_market(tmp_path):
    real = np.round(COUNTS * 0.25, 2)
    np.testing.assert_allclose(read(write(tmp_path / "real.mtx", coordinate(real, "real")))[0], real)
    pattern = coordinate(COUNTS > 0).replace("integer", "pattern").replace(" True", "")
    rows, split = read(write(tmp_path / "pattern.mtx", pattern))
    np.testing.assert_array_equal(rows, COUNTS > 0)
    assert split.train.dtype == np.uint8
    dense = "%%MatrixMarket matrix array real general\n12 5\n" + "".join(f"{x}\n" for x in COUNTS.T.ravel())
    np.testing.assert_array_equal(read_path(write(tmp_path / "dense.mtx", dense)).train, COUNTS)


DAMAGED = {
    "cut": coordinate(COUNTS)[:-30],
    "promises": "%%MatrixMarket matrix coordinate real general\n9 9 99999999999\n1 1 1\n",
    "promises a dense one": "%%MatrixMarket matrix array real general\n999999 9999999\n1\n",
    "index": "%%MatrixMarket matrix coordinate real general\n2 2 1\n3 1 1\n",
    "letters": "%%MatrixMarket matrix coordinate real general\n2 2 1\n1 x 1\n",
    "nothing": "%%MatrixMarket matrix coordinate real general\n",
    "negative": "%%MatrixMarket matrix coordinate real general\n-2 2 1\n1 1 1\n",
    "complex": "%%MatrixMarket matrix coordinate complex general\n2 2 1\n1 1 1 1\n",
    "empty": "%%MatrixMarket matrix coordinate real general\n0 0 0\n",
    "NaN": "%%MatrixMarket matrix coordinate real general\n2 2 1\n1 1 nan\n",
}


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("ending", [".mtx", ".mtx.gz"])
def test_damaged_matrix_market_files_are_refused(tmp_path, kind, ending):
    path = write(tmp_path / f"x{ending}", DAMAGED[kind])
    with pytest.raises(UserError, match=r"x\.mtx"):
        data.load(str(path))


@pytest.mark.parametrize("ending", [".mtx", ".mtx.gz"])
def test_a_header_that_is_no_text_is_refused(tmp_path, ending):
    """SciPy 1.17.1 ends the process for such a header in a file that it can seek in."""
    content = coordinate(COUNTS).encode().replace(b"coordinate", b"coo\xb9dinate")
    (tmp_path / f"x{ending}").write_bytes(gzip.compress(content) if ending == ".mtx.gz" else content)
    with pytest.raises(UserError, match=r"x\.mtx.*: not a readable MatrixMarket file"):
        data.load(str(tmp_path / f"x{ending}"))


def test_a_damaged_gzip_file_is_refused(tmp_path):
    path = write(tmp_path / "x.mtx.gz", coordinate(RNG.integers(1, 10**6, (90, 90))))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"x\.mtx\.gz: not a readable gzip file"):
        data.load(str(path))


@pytest.mark.parametrize(("gz", "features"), [(True, "features"), (False, "genes")])
@pytest.mark.parametrize("prefix", ["", "GSM3489182_"])
def test_the_folder_of_10x_genomics_is_read(tmp_path, gz, features, prefix):
    folder = write_mex(tmp_path / "filtered_feature_bc_matrix", gz, features, prefix=prefix)
    rows, split = read(folder)
    np.testing.assert_array_equal(rows, COUNTS)
    assert split.column_names == GENES
    dataset = data.load(str(folder))
    assert dataset.column_names == GENES
    assert len(dataset.train) + len(dataset.test) == 12
    matrix = next(file for file in folder.iterdir() if "matrix" in file.name)
    np.testing.assert_array_equal(read(matrix)[0], COUNTS)
    for file in list(folder.iterdir()):
        if file.name.startswith(f"{prefix}barcodes"):
            write(file, "".join(f"{cell}\n" for cell in CELLS[:-1]))
    with pytest.raises(UserError, match=r"expected 5 genes .* and 11 cells"):
        data.load(str(folder))


def test_features_other_than_genes_are_left_out_with_a_note(tmp_path):
    types = ["Gene Expression", "Antibody Capture", "Gene Expression", "Gene Expression", "Custom"]
    folder = write_mex(tmp_path / "mex", types=types)
    with pytest.warns(
        DataWarning, match="3 columns of Gene Expression are used, and 1 of Antibody Capture and 1 of Custom are not"
    ):
        dataset = data.load(str(folder), split="last")
    np.testing.assert_array_equal(np.concatenate([dataset.train[:], dataset.test[:]]), COUNTS[:, [0, 2, 3]])
    assert dataset.column_names == ("MT-CO1", "CD3", "CD3")


def test_incomplete_folders_are_refused(tmp_path):
    folder = write_mex(tmp_path / "mex")
    (folder / "features.tsv.gz").unlink()
    with pytest.raises(
        UserError, match=r"expected one of each: barcodes.tsv, features.tsv .*got barcodes.tsv.gz and matrix.mtx.gz"
    ):
        data.load(str(folder))
    write_mex(tmp_path / "raw")
    write_mex(tmp_path / "mex")
    with pytest.raises(UserError, match="Pass a folder that holds one matrix"):
        data.load(str(tmp_path))


def test_sparse_matrices_are_not_streamed(tmp_path):
    scipy.sparse.save_npz(tmp_path / "counts.npz", scipy.sparse.csr_matrix(COUNTS))
    scipy.io.mmwrite(tmp_path / "counts.mtx", scipy.sparse.csr_matrix(COUNTS))
    for path in (tmp_path / "counts.mtx", write_mex(tmp_path / "mex")):
        with pytest.raises(UserError, match=r"cannot be read row by row|stays in memory"):
            data.load(str(path), stream=True)
