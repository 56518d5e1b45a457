"""Files of cells: AnnData's .h5ad and the .h5 files of 10x Genomics, written as their programs write them."""

import numpy as np
import pytest
import scipy.sparse

from vae_jax import data
from vae_jax.data import SparseRows, check_support
from vae_jax.data.readers.paths import read_path
from vae_jax.data.readers.registry import ReadOptions
from vae_jax.errors import DataWarning, UserError
from vae_jax.likelihoods import poisson

h5py = pytest.importorskip("h5py")

RNG = np.random.default_rng(0)
COUNTS = (RNG.random((12, 5)) < 0.4) * RNG.integers(1, 3000, (12, 5))  # cells x genes
NORMALIZED = np.log1p(COUNTS / 7).astype(np.float32)
RAW = (RNG.random((12, 7)) < 0.5) * RNG.integers(1, 9, (12, 7))
GENES = ("MT-CO1", "ACTB", "CD3", "CD3", "GÄPDH")
CELL_TYPES = ("B cell", "T cell", "monocyte")
CODES = np.arange(12, dtype=np.int8) % 3
pytestmark = pytest.mark.filterwarnings("ignore:.*obs has the columns.*")


def write_sparse(group, matrix, encoding="csr_matrix", index_type=np.int32):
    """The arrays of a sparse matrix by its rows or columns, with the attributes of anndata."""
    lines = matrix if encoding == "csr_matrix" else matrix.T
    group.attrs.update({"encoding-type": encoding, "encoding-version": "0.1.0", "shape": np.array(matrix.shape)})
    group["data"] = lines[lines != 0].astype(np.float32)
    group["indices"] = np.nonzero(lines)[1].astype(index_type)
    group["indptr"] = np.concatenate([[0], np.cumsum((lines != 0).sum(axis=1))]).astype(index_type)


def write_frame(group, index, columns=()):
    text = h5py.string_dtype()
    group.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"})
    group.attrs["column-order"] = np.array([name for name, _ in columns], dtype=object) if columns else np.zeros(0, "S1")
    group.create_dataset("_index", data=np.array(index, dtype=object), dtype=text)
    for name, values in columns:
        group[name] = values


def write_h5ad(path, x=COUNTS, encoding="csr_matrix", index_type=np.int32):
    """The layout of anndata 0.8 and later."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        if encoding == "array":
            file["X"] = x
            file["X"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        else:
            write_sparse(file.create_group("X"), x, encoding, index_type)
        write_sparse(file.create_group("layers/counts"), COUNTS)
        write_sparse(file.create_group("raw/X"), RAW)
        write_frame(file.create_group("raw/var"), [f"raw{i}" for i in range(7)])
        write_frame(file.create_group("var"), GENES)
        obs = file.create_group("obs")
        write_frame(obs, [f"cell{i}" for i in range(12)], [("n_counts", COUNTS.sum(axis=1)), ("batch", np.arange(12) % 2 == 1)])
        cell_type = obs.create_group("cell_type")
        cell_type.attrs.update({"encoding-type": "categorical", "ordered": False})
        cell_type["codes"] = CODES
        cell_type.create_dataset("categories", data=np.array(CELL_TYPES, dtype=object), dtype=h5py.string_dtype())
        obs.create_dataset("sample", data=np.array(["b", "a"] * 6, dtype=object), dtype=h5py.string_dtype())
    return path


def rows(split):
    assert isinstance(split.train, SparseRows)
    return split.train[:]


@pytest.mark.parametrize("encoding", ["csr_matrix", "csc_matrix"])
@pytest.mark.parametrize("index_type", [np.int32, np.int64])
def test_the_matrix_of_an_h5ad_file_stays_sparse(tmp_path, encoding, index_type):
    split = read_path(write_h5ad(tmp_path / "x.h5ad", encoding=encoding, index_type=index_type))
    np.testing.assert_array_equal(rows(split), COUNTS)
    assert split.train.dtype == np.int32
    assert split.column_names == GENES
    assert "layers/counts and raw/X are not used" in split.notes[0]
    assert "obs has the columns" in split.notes[1]


def test_a_dense_matrix_is_read_and_streamed(tmp_path):
    path = write_h5ad(tmp_path / "x.h5ad", NORMALIZED, "array")
    np.testing.assert_array_equal(read_path(path).train, NORMALIZED)
    np.testing.assert_array_equal(read_path(path, stream=True).train[:], NORMALIZED)
    with pytest.warns(DataWarning, match=r'Pass `array="layers/counts"`'):
        dataset = data.load(str(path), stream=True)
    assert dataset.data_shape == (5,)
    assert dataset.column_names == GENES


@pytest.mark.parametrize(
    ("array", "expected", "names"),
    [
        ("X", COUNTS * 2, GENES),
        ("layers/counts", COUNTS, GENES),
        ("counts", COUNTS, GENES),
        ("raw/X", RAW, tuple(f"raw{i}" for i in range(7))),
        ("raw", RAW, tuple(f"raw{i}" for i in range(7))),
    ],
)
@pytest.mark.filterwarnings("ignore::vae_jax.errors.DataWarning")
def test_a_matrix_is_chosen(tmp_path, array, expected, names):
    path = write_h5ad(tmp_path / "x.h5ad", COUNTS * 2)
    dataset = data.load(str(path), array=array, split="last")
    np.testing.assert_array_equal(np.concatenate([dataset.train[:], dataset.test[:]]), expected)
    assert dataset.column_names == names


def write_nullable(group, name, values, mask, encoding):
    """A column of pandas with missing values, as anndata writes it, newer versions also for strings and the index."""
    column = group.create_group(name)
    column.attrs.update({"encoding-type": f"nullable-{encoding}", "encoding-version": "0.1.0"})
    dtype = h5py.string_dtype() if encoding == "string-array" else None
    column.create_dataset("values", data=np.array(values, dtype=object if dtype else None), dtype=dtype)
    column["mask"] = np.array(mask)


def test_columns_with_missing_values_and_names_in_groups_are_read(tmp_path):
    path = write_h5ad(tmp_path / "x.h5ad")
    with h5py.File(path, "a") as file:
        del file["var/_index"], file["obs/cell_type/categories"]
        write_nullable(file["var"], "_index", GENES, [False] * 5, "string-array")
        write_nullable(file["obs/cell_type"], "categories", CELL_TYPES, [False] * 3, "string-array")
        write_nullable(file["obs"], "donor", CODES, [False] * 12, "integer")
        write_nullable(file["obs"], "site", ["x", "y"] * 6, [False] * 12, "string-array")
        write_nullable(file["obs"], "age", CODES, [True] + [False] * 11, "integer")
        write_nullable(file["obs"], "bad", CODES, [False] * 4, "integer")
    split = read_path(path)
    assert split.column_names == GENES
    for column, expected in (("cell_type", CODES), ("donor", CODES), ("site", ["x", "y"] * 6)):
        split = read_path(path, options=ReadOptions(label_column=column))
        np.testing.assert_array_equal(split.train_labels, expected)
        assert split.label_names == (CELL_TYPES if column == "cell_type" else None)
    for column, message in (("age", "1 of age are missing"), ("bad", "expected a mask of 12 values")):
        with pytest.raises(UserError, match=message):
            read_path(path, options=ReadOptions(label_column=column))


def test_the_only_matrix_is_read_where_there_is_no_x(tmp_path):
    path = write_h5ad(tmp_path / "x.h5ad")
    with h5py.File(path, "a") as file:
        del file["X"], file["raw"]
    np.testing.assert_array_equal(rows(read_path(path)), COUNTS)


def test_an_unknown_matrix_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"unknown array 'layers/count'.*Did you mean 'layers/counts'"):
        data.load(str(write_h5ad(tmp_path / "x.h5ad")), array="layers/count")


@pytest.mark.filterwarnings("ignore::vae_jax.errors.DataWarning")
def test_columns_of_the_cells_become_labels(tmp_path):
    path = write_h5ad(tmp_path / "x.h5ad")
    dataset = data.load(str(path), label_column="cell_type", split="last", test_fraction=0.5)
    assert dataset.label_names == CELL_TYPES
    np.testing.assert_array_equal(dataset.train_labels, CODES[:6])
    np.testing.assert_array_equal(dataset.test_labels, CODES[6:])
    dataset = data.load(str(path), label_column="sample", split="last", test_fraction=0.5)
    assert dataset.label_names == ("a", "b")
    np.testing.assert_array_equal(dataset.train_labels, [1, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(data.load(str(path), label_column="batch", split="last").train_labels, np.arange(10) % 2)
    totals = data.load(str(path), label_column="n_counts", split="last").train_labels
    np.testing.assert_array_equal(totals, COUNTS.sum(axis=1)[:10])
    with pytest.raises(UserError, match=r"unknown column 'celltype'.*Did you mean 'cell_type'"):
        data.load(str(path), label_column="celltype")
    with h5py.File(path, "a") as file:
        file["obs/cell_type/codes"][3] = -1
    with pytest.raises(UserError, match="1 of cell_type are missing"):
        data.load(str(path), label_column="cell_type")


@pytest.mark.filterwarnings("ignore::vae_jax.errors.DataWarning")
def test_columns_of_the_cells_become_conditions(tmp_path):
    path = write_h5ad(tmp_path / "x.h5ad")
    with h5py.File(path, "a") as file:
        file["obs/percent"] = np.linspace(0.5, 9.5, 12)
        write_nullable(file["obs"], "age", CODES, [True] + [False] * 11, "integer")
        write_nullable(file["obs"], "donor", CODES, [False] * 12, "integer")
    names = ("cell_type", "batch", "sample", "percent", "donor")
    dataset = data.load(path, condition=",".join(names), split="last", test_fraction=0.25)
    categories = (tuple(sorted(CELL_TYPES)), ("False", "True"), ("a", "b"), None, ("0", "1", "2"))
    assert tuple((column.name, column.categories) for column in dataset.condition.columns) == tuple(
        zip(names, categories, strict=True)
    )
    expected = np.stack([CODES, np.arange(12) % 2, 1 - np.arange(12) % 2, np.linspace(0.5, 9.5, 12), CODES], axis=1)
    np.testing.assert_allclose(dataset.train_condition, expected[:9], rtol=1e-6)
    np.testing.assert_allclose(dataset.test_condition, expected[9:], rtol=1e-6)
    assert isinstance(dataset.train, SparseRows)
    assert dataset.column_names == GENES
    for condition, message in (
        ("cell_typ,batch", r"unknown column 'cell_typ'. Did you mean 'cell_type'.*columns of obs"),
        ("age", r"condition 'age' for every example, and 1 are missing.*category of their own"),
        ("labels", r"no labels. Name the column that has them by `label_column`"),
    ):
        with pytest.raises(UserError, match=message):
            data.load(path, condition=condition)
    labeled = data.load(path, condition="labels", label_column="cell_type", split="last")
    assert labeled.condition.columns[0][:2] == ("label", CELL_TYPES)
    with h5py.File(path, "a") as file:
        file["obs/cell_type/codes"][3] = -1
    with pytest.raises(UserError, match="'cell_type' for every example, and 1 are missing"):
        data.load(path, condition="cell_type")


def test_files_of_old_versions_are_read(tmp_path):
    """Anndata 0.6: tables as arrays of records, h5sparse's attributes. anndata 0.7: categories beside the columns."""
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        write_sparse(file.create_group("X"), COUNTS)
        for attribute in ("encoding-type", "encoding-version", "shape"):
            del file["X"].attrs[attribute]
        file["X"].attrs.update({"h5sparse_format": b"csr", "h5sparse_shape": np.array(COUNTS.shape)})
        file["var"] = np.array([(name.encode(), 1.0) for name in GENES], [("index", "S10"), ("mean", "f4")])
        file["obs"] = np.array([(b"c", i) for i in range(12)], [("index", "S10"), ("louvain", "i4")])
    split = read_path(tmp_path / "old.h5ad")
    np.testing.assert_array_equal(rows(split), COUNTS)
    assert split.column_names == GENES
    dataset = data.load(str(tmp_path / "old.h5ad"), label_column="louvain", split="last")
    np.testing.assert_array_equal(dataset.train_labels, np.arange(10))
    path = write_h5ad(tmp_path / "middle.h5ad")
    with h5py.File(path, "a") as file:
        del file["obs/cell_type"]
        file["obs/cell_type"] = CODES
        file["obs/__categories/cell_type"] = np.array([name.encode() for name in CELL_TYPES])
    dataset = read_path(path, options=data.readers.registry.ReadOptions(label_column="cell_type"))
    assert dataset.label_names == CELL_TYPES
    np.testing.assert_array_equal(dataset.train_labels, CODES)


def test_likelihoods_of_counts_refuse_normalized_values(tmp_path):
    """As in scanpy's pbmc68k_reduced: X is scaled, raw/X is log-normalized, and there are no counts at all."""
    path = write_h5ad(tmp_path / "pbmc68k_reduced.h5ad", NORMALIZED - NORMALIZED.mean(axis=0), "array")
    with pytest.warns(DataWarning):
        dataset = data.load(str(path))
    with pytest.raises(UserError, match=r'poisson expects counts.*load the raw ones, such as `array="layers/counts"`'):
        check_support(dataset, poisson(), "none")
    with pytest.warns(DataWarning):
        counts = data.load(str(path), array="layers/counts")
    check_support(counts, poisson(), "none")


def write_10x(path, group="matrix", types=None):
    """CellRanger 3: a group "matrix"; CellRanger 2: a group for each genome."""
    with h5py.File(path, "w") as file:
        matrix = file.create_group(group)
        matrix["data"] = COUNTS[COUNTS != 0].astype(np.int32)
        matrix["indices"] = np.nonzero(COUNTS)[1].astype(np.int64)
        matrix["indptr"] = np.concatenate([[0], np.cumsum((COUNTS != 0).sum(axis=1))]).astype(np.int64)
        matrix["shape"] = np.array([5, 12], np.int32)  # genes, cells
        matrix["barcodes"] = np.array([f"AAAC{i}-1".encode() for i in range(12)])
        names = np.array([name.encode() for name in GENES])
        if group != "matrix":
            matrix["gene_names"], matrix["genes"] = names, np.array([b"ENSG"] * 5)
            return path
        matrix["features/name"], matrix["features/id"] = names, np.array([b"ENSG"] * 5)
        matrix["features/feature_type"] = np.array(types or [b"Gene Expression"] * 5)
        matrix["features/genome"] = np.array([b"GRCh38"] * 5)
    return path


@pytest.mark.parametrize("group", ["matrix", "GRCh38"])
def test_files_of_10x_genomics_are_read(tmp_path, group):
    path = write_10x(tmp_path / "filtered_feature_bc_matrix.h5", group)
    split = read_path(path)
    np.testing.assert_array_equal(rows(split), COUNTS)
    assert split.column_names == GENES
    dataset = data.load(str(path), split="last")
    np.testing.assert_array_equal(np.concatenate([dataset.train[:], dataset.test[:]]), COUNTS)
    with pytest.raises(UserError, match="stays in memory"):
        data.load(str(path), stream=True)


def test_genes_and_genomes_are_chosen(tmp_path):
    path = write_10x(tmp_path / "multi.h5", types=[b"Gene Expression"] * 3 + [b"Antibody Capture"] * 2)
    split = read_path(path)
    np.testing.assert_array_equal(rows(split), COUNTS[:, :3])
    assert "2 of Antibody Capture are not" in split.notes[0]
    path = write_10x(tmp_path / "two.h5", "hg19")
    with h5py.File(path, "a") as file:
        file.copy("hg19", "mm10")
        file["mm10/data"][:] = file["mm10/data"][:] + 1
    with pytest.raises(UserError, match=r'expected one genome, got hg19 and mm10.*`array="hg19"`'):
        data.load(str(path))
    dataset = data.load(str(path), array="mm10", split="last")
    np.testing.assert_array_equal(dataset.train[:], (COUNTS + (COUNTS != 0))[:10])
    with pytest.raises(UserError, match="mm11"):
        data.load(str(path), array="mm11")


def damage(path, change):
    with h5py.File(path, "a") as file:
        change(file)
    return str(path)


def replace(name, values):
    def change(file):
        del file[name]
        file[name] = values

    return change


DAMAGED = {
    "no data": lambda file: file.__delitem__("X/data"),
    "no shape": lambda file: file["X"].attrs.__delitem__("shape"),
    "unknown encoding": lambda file: file["X"].attrs.__setitem__("encoding-type", "other"),
    "indices": replace("X/indices", np.full(int((COUNTS != 0).sum()), 50)),
    "pointers": replace("X/indptr", np.arange(12)),
    "wrong shape": lambda file: file["X"].attrs.__setitem__("shape", [12, 1]),
    "negative shape": lambda file: file["X"].attrs.__setitem__("shape", [-12, 5]),
    "text": replace("X/data", np.array([b"a"] * int((COUNTS != 0).sum()))),
}


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("encoding", ["csr_matrix", "csc_matrix"])
def test_damaged_matrices_are_refused(tmp_path, kind, encoding):
    with pytest.raises(UserError, match=r"x\.h5ad: "):
        data.load(damage(write_h5ad(tmp_path / "x.h5ad", encoding=encoding), DAMAGED[kind]))


def test_damaged_files_of_10x_genomics_are_refused(tmp_path):
    changes = [replace("matrix/shape", [5, 11]), replace("matrix/shape", [4, 12]), replace("matrix/features/name", [b"a"])]
    for change in changes:
        with pytest.raises(UserError, match=r"x\.h5: "):
            data.load(damage(write_10x(tmp_path / "x.h5"), change))


def test_a_large_matrix_is_never_dense(tmp_path):
    """A matrix of 8 TB as a dense array."""
    with h5py.File(tmp_path / "x.h5ad", "w") as file:
        places = np.arange(1000) * 1999
        matrix = scipy.sparse.coo_array((np.ones(1000), (np.arange(1000), places)), shape=(10**6, 2 * 10**6)).tocsr()
        group = file.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "shape": np.array(matrix.shape)})
        group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices, matrix.indptr
        file.create_group("obs")
        file.create_group("var")
    dataset = data.load(str(tmp_path / "x.h5ad"))
    assert dataset.train.scan.total.sum() + dataset.test.scan.total.sum() == 1000
