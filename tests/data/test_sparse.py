"""Sparse matrices: equal to the dense arrays in everything that is computed from them, and never dense as a whole."""

import numpy as np
import pytest
import scipy.sparse

from vae_jax.data.dataset import Dataset
from vae_jax.data.loading import Interpretation, checked_dataset
from vae_jax.data.moments import train_moments
from vae_jax.data.on_disk import value_range
from vae_jax.data.sparse import SparseRows, csr_rows, sparse_rows
from vae_jax.data.split import Split
from vae_jax.data.splitting import SplitSettings
from vae_jax.data.support import check_support, representative_values
from vae_jax.errors import UserError
from vae_jax.likelihoods import bernoulli, poisson

RNG = np.random.default_rng(0)
PLACES = RNG.random((40, 7)) < 0.3
DENSE = {
    "counts": PLACES * RNG.integers(1, 5000, (40, 7)),
    "binary": PLACES * 1,
    "floats": (PLACES * RNG.normal(size=(40, 7))).astype(np.float32),
    "probabilities": (PLACES * RNG.random((40, 7))).astype(np.float32),
    "signed": PLACES * RNG.integers(-9, 9, (40, 7)),
    "zeros": np.zeros((40, 7), np.int64),
    "full": RNG.integers(1, 9, (40, 7)),
}


def both(dense, **settings):
    """The data set of a dense array with train and test set, and that of the same array as a sparse matrix."""
    matrix = sparse_rows("x", scipy.sparse.csr_array(dense))
    dense = dense.astype(np.float32) if dense.dtype.kind == "f" else dense
    parts = SplitSettings(validation_fraction=0.25)
    labels = np.arange(len(dense))
    return [checked_dataset("x", Split(x, train_labels=labels), parts, Interpretation(**settings)) for x in (dense, matrix)]


@pytest.mark.parametrize("kind", DENSE)
def test_a_sparse_data_set_equals_the_dense_one(kind):
    dense, sparse = both(DENSE[kind])
    assert isinstance(sparse.train, SparseRows)
    assert isinstance(sparse.validation, SparseRows)
    assert isinstance(sparse.test, SparseRows)
    assert sparse.max_level == dense.max_level
    assert sparse.data_shape == dense.data_shape == (7,)
    for part, rows in sparse.images_by_part().items():
        expected = dense.images_by_part()[part]
        assert rows.dtype == expected.dtype
        assert rows.shape == expected.shape
        assert rows.size == expected.size
        np.testing.assert_array_equal(rows[:], expected)
        np.testing.assert_array_equal(rows[3:5], expected[3:5])
        np.testing.assert_array_equal(rows[::-2], expected[::-2])
        order = np.array([4, 0, 4, 2])
        np.testing.assert_array_equal(rows[order], expected[order])
        np.testing.assert_array_equal(rows.view(order)[1:], expected[order[1:]])
        np.testing.assert_array_equal(rows.view(slice(2, 6)).view(slice(1, 3))[:], expected[3:5])
        assert value_range(rows) == value_range(expected)
        assert set(representative_values(rows)[:2]) <= set(expected.ravel())
        assert any(x != round(float(x)) for x in representative_values(rows)) == (expected.dtype.kind == "f")
    np.testing.assert_array_equal(sparse.train_labels, dense.train_labels)
    np.testing.assert_allclose(sparse.train_mean, dense.train_mean, rtol=1e-6)
    np.testing.assert_allclose(sparse.train_std, dense.train_std, rtol=1e-6)
    for counts in (False, True):
        ours, expected = train_moments(sparse, counts), train_moments(dense, counts)
        np.testing.assert_allclose(ours.mean, expected.mean, rtol=1e-6)
        np.testing.assert_allclose(ours.std, expected.std, rtol=1e-6)
        assert np.shape(ours.std) == (7,)


def test_the_fingerprint_changes_with_every_part():
    dataset = both(DENSE["counts"])[1]
    changed = dataset.test.with_data(dataset.test.data + 1)
    moved = SparseRows(dataset.test.data, dataset.test.indices[::-1].copy(), dataset.test.indptr, dataset.test.shape)
    prints = {dataset._replace(test=test).fingerprint() for test in (dataset.test, changed, moved)}
    assert len(prints) == 3
    assert dataset.fingerprint() == both(DENSE["counts"])[1].fingerprint()
    assert dataset._replace(train=dataset.test, test=dataset.train).fingerprint() not in prints


def test_a_view_has_the_moments_of_its_rows():
    x = DENSE["counts"]
    rows = sparse_rows("x", scipy.sparse.csr_array(x))
    index = np.array([5, 5, 30])
    scan = rows.view(index).scan
    np.testing.assert_array_equal(scan.total, x[index].sum(axis=0))
    assert scan.squares == np.square(x[index]).sum()
    deviations = rows.view(index).sum_squared_deviations(x.mean(axis=0))
    np.testing.assert_allclose(deviations, np.square(x[index] - x.mean(axis=0)).sum(axis=0), rtol=1e-12)
    assert np.array_equal(rows.scan.total, x.sum(axis=0))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint32, ">i4", np.float32, np.float64, bool, np.float16])
def test_types_of_whole_numbers_become_counts(dtype):
    matrix = scipy.sparse.csr_array(DENSE["binary"])
    data = np.ones(matrix.nnz, dtype)
    binary = csr_rows("x", data, matrix.indices, matrix.indptr, matrix.shape)
    assert binary.dtype == np.uint8
    np.testing.assert_array_equal(binary[:], DENSE["binary"])
    if dtype is not bool:
        data = data.copy()
        data[3] = 200
        counts = csr_rows("x", data, matrix.indices, matrix.indptr, matrix.shape)
        assert counts.dtype == np.int32
        assert counts.max() == 200


@pytest.mark.parametrize("format", ["csr", "csc", "coo", "bsr", "lil", "dok", "dia"])
def test_every_format_is_read(format):
    matrix = scipy.sparse.csr_array(DENSE["counts"]).asformat(format)
    rows = sparse_rows("x", matrix)
    np.testing.assert_array_equal(rows[:], DENSE["counts"])
    assert rows.indices.dtype == np.int32
    assert rows.indptr.dtype == np.int64


def test_a_matrix_is_made_canonical_without_changing_it():
    """Columns out of order, a stored zero, and 200 + 100 at one place, which overflows in a byte."""
    data, indices = np.array([200, 3, 0, 100, 7], np.uint8), np.array([2, 0, 1, 2, 1], np.int32)
    matrix = scipy.sparse.csr_array((data, indices, np.array([0, 4, 5])), shape=(2, 3))
    rows = sparse_rows("x", matrix)
    np.testing.assert_array_equal(rows[:], [[3, 0, 300], [0, 7, 0]])
    np.testing.assert_array_equal(rows.data, [3, 300, 7])
    np.testing.assert_array_equal(rows.indices, [0, 2, 1])
    np.testing.assert_array_equal(rows.indptr, [0, 2, 3])
    np.testing.assert_array_equal(matrix.data, [200, 3, 0, 100, 7])
    coo = scipy.sparse.coo_array((np.array([200, 100], np.uint8), ([0, 0], [1, 1])), shape=(1, 2))
    np.testing.assert_array_equal(sparse_rows("x", coo)[:], [[0, 300]])


def test_parts_get_one_type():
    """Training counts beside zeros and ones, and beside floats; a dense part becomes sparse as well."""
    counts, binary = (sparse_rows("x", scipy.sparse.csr_array(DENSE[kind])) for kind in ("counts", "binary"))
    dataset = checked_dataset("x", Split(binary, test=counts), SplitSettings(), Interpretation())
    assert dataset.train.dtype == dataset.test.dtype == np.int32
    dataset = checked_dataset("x", Split(counts, test=DENSE["floats"]), SplitSettings(), Interpretation())
    assert dataset.train.dtype == dataset.test.dtype == np.float32
    assert isinstance(dataset.test, SparseRows)
    np.testing.assert_array_equal(dataset.test[:], DENSE["floats"])
    levels = checked_dataset("x", Split(counts), SplitSettings(), Interpretation(max_level=65535))
    assert (levels.max_level, levels.train.dtype) == (65535, np.uint16)


def test_rounding_is_clipped():
    x = DENSE["probabilities"].copy()
    x[3, 2], x[4, 1] = 1 + 5e-7, -5e-7
    dense, sparse = both(x)
    assert sparse.notes == dense.notes
    assert "clipped" in sparse.notes[0]
    np.testing.assert_array_equal(sparse.train[:], dense.train)
    assert np.all(sparse.train.data > 0)


INDPTR, INDICES = np.array([0, 2, 3]), np.array([0, 2, 1])
BAD = {
    "index beyond the columns": (np.ones(3), np.array([0, 3, 1]), INDPTR, "not a readable sparse matrix"),
    "negative index": (np.ones(3), np.array([0, -1, 1]), INDPTR, "not a readable sparse matrix"),
    "pointers that fall": (np.ones(3), INDICES, np.array([0, 4, 3]), "not a readable sparse matrix"),
    "pointers beyond the data": (np.ones(3), INDICES, np.array([0, 2, 9]), "not a readable sparse matrix"),
    "pointers that do not start at 0": (np.ones(3), INDICES, np.array([1, 2, 3]), "not a readable sparse matrix"),
    "too few pointers": (np.ones(3), INDICES, np.array([0, 3]), "not a readable sparse matrix"),
    "fewer numbers than indices": (np.ones(2), INDICES, INDPTR, "not a readable sparse matrix"),
    "float indices": (np.ones(3), INDICES.astype(float), INDPTR, "expected integers for the indices"),
    "matrix of indices": (np.ones(3), INDICES[None], INDPTR, "not a readable sparse matrix"),
    "NaN": (np.array([1, np.nan, 1]), INDICES, INDPTR, "1 others in 1 of 2 examples, the first in .* index 0"),
    "too large": (np.array([1, 2, 1e300]), INDICES, INDPTR, "range of float32.*index 1"),
    "beyond int32": (np.array([1, 2, 2**40]), INDICES, INDPTR, "range of int32"),
    "complex": (np.ones(3) * 1j, INDICES, INDPTR, "complex128"),
}


@pytest.mark.parametrize(("data", "indices", "indptr", "message"), BAD.values(), ids=BAD)
def test_damaged_matrices_are_refused(data, indices, indptr, message):
    with pytest.raises(UserError, match=f"^x: .*{message}"):
        csr_rows("x", data, indices, indptr, (2, 3))


def test_a_damaged_column_matrix_is_refused():
    matrix = scipy.sparse.csc_array((np.ones(3), INDICES, INDPTR), shape=(3, 2))
    matrix.indices[1] = 10**6
    with pytest.raises(UserError, match="not a readable sparse matrix"):
        sparse_rows("x", matrix)


def test_likelihoods_see_the_zeros():
    """Stored numbers that are all 3 are levels 0 and 3 together with the zeros between them."""
    floats, counts = both(DENSE["floats"])[1], both(DENSE["counts"])[1]
    with pytest.raises(UserError, match=r'poisson expects counts.*`array="layers/counts"`'):
        check_support(floats, poisson(), "none")
    check_support(counts, poisson(), "none")
    check_support(both(DENSE["binary"])[1], bernoulli(), "none")
    ones = sparse_rows("x", scipy.sparse.csr_array(np.eye(9)))
    np.testing.assert_array_equal(representative_values(ones), [0, 1])
    np.testing.assert_array_equal(representative_values(ones.with_data(np.full(9, 3, np.int32))), [0, 3])


def test_sparse_rows_refuse_what_would_make_them_dense():
    rows = sparse_rows("x", scipy.sparse.csr_array(DENSE["counts"]))
    with pytest.raises(TypeError, match="read by rows"):
        np.asarray(rows)
    with pytest.raises(UserError, match='`event="image"`'):
        checked_dataset("x", Split(sparse_rows("x", scipy.sparse.eye_array(9))), SplitSettings(), Interpretation(event="image"))


def test_no_dense_copy_is_made():
    """A matrix of 4 TB as a dense array."""
    shape = (10**6, 10**6)
    matrix = scipy.sparse.coo_array((np.arange(1, 1001), (np.arange(1000) * 999, np.arange(1000) * 997)), shape=shape)
    dataset = checked_dataset("x", Split(sparse_rows("x", matrix)), SplitSettings(validation_fraction=0.1), Interpretation())
    assert isinstance(dataset, Dataset)
    assert sum(rows.scan.total.sum() for rows in dataset.images_by_part().values()) == 500_500
    assert len(dataset.fingerprint()) == 64
    moments = train_moments(dataset, counts=True)
    assert moments.std.shape == dataset.train_mean.shape == (10**6,)
    check_support(dataset, poisson(), "none")
