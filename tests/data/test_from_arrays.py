"""Data sets from memory: arrays of NumPy and JAX, tables of pandas and pyarrow, sparse matrices of scipy."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import data
from vae_jax.errors import DataWarning, UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (11, 5, 7), dtype=np.uint8)
TEST = RNG.integers(0, 256, (4, 5, 7), dtype=np.uint8)
TABLE = RNG.normal(size=(10, 3))
COUNTS = RNG.poisson(0.7, (9, 6))


def same(first, second):
    """Compares everything that a data set holds."""
    assert first._replace(name="", split="").fingerprint() == second.fingerprint()
    for field in ("test_labels", "train_labels", "validation_labels", "train_factors", "test_factors"):
        one, other = getattr(first, field), getattr(second, field)
        assert (one is None) == (other is None)
        assert one is None or np.array_equal(one, other), field
    fields = ("max_level", "split", "label_names", "column_names", "factor_names", "data_shape", "notes")
    assert [getattr(first, field) for field in fields] == [getattr(second, field) for field in fields]


@pytest.mark.parametrize("options", [{}, {"split": "last", "test_fraction": 0.5, "validation_fraction": 0.4, "split_seed": 3}])
@pytest.mark.parametrize("array", [IMAGES, IMAGES / 255, IMAGES[:, None] + 0, TABLE, COUNTS, IMAGES.astype(np.uint16) * 200])
def test_an_array_means_what_it_means_in_a_file(tmp_path, array, options):
    np.save(tmp_path / "x.npy", array)
    options |= {"layout": "channels_first"} if array.ndim == 4 else {}
    same(data.from_arrays(array, **options), data.load(tmp_path / "x.npy", **options))


def test_all_parts_with_labels_and_factors(tmp_path):
    labels, test_labels = np.arange(11) % 3, np.array([2, 1, 0, 2])
    factors, test_factors = RNG.integers(0, 4, (11, 2)), RNG.integers(0, 4, (4, 2))
    np.savez(
        tmp_path / "x.npz",
        **{"x_train": IMAGES, "x_test": TEST, "x_val": TEST[:2], "y_train": labels, "y_test": test_labels},
        **{"factors": factors, "test_factors": test_factors, "factor_names": np.array(["size", "hue"])},
    )
    got = data.from_arrays(
        IMAGES,
        TEST,
        validation=TEST[:2],
        labels=labels,
        validation_labels=[1, 0],
        test_labels=test_labels,
        factors=factors,
        test_factors=test_factors,
        factor_names=["size", "hue"],
        label_names=["a", "b", "c"],
        name="mine",
    )
    assert (got.name, got.label_names, got.validation_labels.tolist()) == ("mine", ("a", "b", "c"), [1, 0])
    loaded = data.load(tmp_path / "x.npz")
    assert loaded.split == "the source's own (training x_train, validation x_val, test x_test)"
    same(got, loaded._replace(validation_labels=np.array([1, 0]), label_names=("a", "b", "c"), split=got.split))


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray, np.ndarray.tolist, np.asfortranarray, memoryview])
def test_kinds_of_arrays(kind):
    assert data.from_arrays(kind(IMAGES), max_level=255).fingerprint() == data.from_arrays(IMAGES).fingerprint()


def test_bfloat16_of_jax_is_kept_as_float32():
    got = data.from_arrays(jnp.asarray(TABLE, jnp.bfloat16), TABLE.astype(np.float32))
    assert got.train.dtype == np.float32
    np.testing.assert_array_equal(got.train, np.asarray(jnp.asarray(TABLE, jnp.bfloat16).astype(jnp.float32)))


# Tables

WORDS = np.array(["setosa", "virginica", "setosa", "versicolor", "setosa"] * 2)


def frame(kind, columns, words):
    """Returns a table of pandas or pyarrow with named columns and a column "species" between them."""
    names = list(columns)
    content = {names[0]: columns[names[0]], "species": words, **{name: columns[name] for name in names[1:]}}
    return pytest.importorskip(kind).DataFrame(content) if kind == "pandas" else pytest.importorskip("pyarrow").table(content)


COLUMNS = {"length": TABLE[:, 0], "width": TABLE[:, 1].astype(np.float32), "count": np.arange(10)}


@pytest.mark.parametrize("kind", ["pandas", "pyarrow"])
def test_the_columns_of_a_table(kind):
    got = data.from_arrays(frame(kind, COLUMNS, WORDS), labels="species", split="last")
    expected = np.stack([TABLE[:, 0], TABLE[:, 1], np.arange(10)], axis=1).astype(np.float32)
    np.testing.assert_array_equal(np.concatenate([got.train, got.test]), expected)
    assert got.column_names == ("length", "width", "count")
    assert got.label_names == ("setosa", "versicolor", "virginica")
    assert got.train_labels.tolist() == [0, 2, 0, 1, 0, 0, 2, 0]
    assert got.test_labels.tolist() == [1, 0]


@pytest.mark.parametrize("kind", ["pandas", "pyarrow"])
def test_the_label_column_is_that_of_all_parts(kind):
    test = frame(kind, {name: column[:3] for name, column in COLUMNS.items()}, WORDS[2:5])
    got = data.from_arrays(frame(kind, COLUMNS, WORDS), test, labels="species")
    assert (got.test_labels.tolist(), got.test.shape) == ([0, 1, 0], (3, 3))
    got = data.from_arrays(
        frame(kind, COLUMNS, WORDS), test, labels="species", label_names=["virginica", "setosa", "versicolor"]
    )
    assert (got.test_labels.tolist(), got.train_labels.tolist()) == ([1, 2, 1], [1, 0, 1, 2, 1] * 2)
    other = frame(kind, {"width": np.ones(3), "length": np.ones(3), "count": np.ones(3)}, WORDS[:3])
    with pytest.raises(UserError, match=r"arrays: test: expected the columns of arrays, .* got first 'length' and 'width'"):
        data.from_arrays(frame(kind, COLUMNS, WORDS), other, labels="species")


@pytest.mark.parametrize("kind", ["pandas", "pyarrow"])
def test_columns_that_are_not_numbers_are_refused_with_a_fix_that_works(kind):
    table = frame(kind, COLUMNS, WORDS)
    with pytest.raises(UserError, match="expected columns of numbers, got species with values such as setosa") as refused:
        data.from_arrays(table)
    fix = str(refused.value).split("Leave them out: ")[1].split(". Or")[0]
    assert data.from_arrays(eval(fix, {"table": table})).column_names == ("length", "width", "count")
    option = str(refused.value).split("pass ")[1].rstrip(".")
    assert eval(f"data.from_arrays(table, {option})", {"data": data, "table": table}).label_names[0] == "setosa"
    with pytest.raises(UserError, match=r"has no column 'kind' for the labels. It has length, species, width and count"):
        data.from_arrays(table, labels="kind")


def test_types_of_pandas():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(
        {
            "a": pandas.array([1, 2, 3, 4], "Int64"),
            "b": pandas.array([True, False, True, False], "boolean"),
            "c": pandas.arrays.SparseArray([0.0, 0.5, 0.0, 0.0]),
            "d": pandas.array([1, 2, 3, 4], dtype="int64[pyarrow]"),
            5: [5, 6, 7, 8],
        },
        index=[9, 3, 3, 1],
    )
    got = data.from_arrays(table, split="last", labels=pandas.Categorical(["x", "y", "x", "y"]))
    assert got.train.tolist() == [[1, 1, 0, 1, 5], [2, 0, 0.5, 2, 6], [3, 1, 0, 3, 7]]
    assert (got.column_names, got.label_names) == (("a", "b", "c", "d", "5"), ("x", "y"))
    with pytest.raises(UserError, match=r"got 1 NaN or infinite values in 1 of 4 .* index 2"):
        data.from_arrays(pandas.DataFrame({"a": pandas.array([1, 2, None, 4], "Int64")}))
    with pytest.raises(UserError, match="expected columns of different names, got a several times"):
        data.from_arrays(pandas.DataFrame(TABLE, columns=["a", "b", "a"]))
    factors = pandas.DataFrame({"size": [0, 1, 2, 0], "hue": [0, 0, 1, 1]})
    assert data.from_arrays(TABLE[:4], factors=factors).factor_names == ("size", "hue")


def test_no_library_is_imported_for_arrays():
    code = "import sys, numpy; from vae_jax import data; data.from_arrays(numpy.ones((9, 3)))"
    code += "; print([name for name in ('pandas', 'pyarrow', 'scipy.sparse', 'h5py') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# Sparse matrices


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil"])
def test_sparse_matrices_stay_sparse(form):
    sparse = pytest.importorskip("scipy.sparse")
    got = data.from_arrays(sparse.csr_array(COUNTS).asformat(form), labels=np.arange(9), split="last")
    assert isinstance(got.train, data.SparseRows)
    dense = data.from_arrays(COUNTS, split="last")
    np.testing.assert_array_equal(got.train[:], dense.train)
    np.testing.assert_array_equal(got.test[:], dense.test)
    assert got.test_labels.tolist() == [7, 8]


# Refusals


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: data.from_arrays("x.npy"),
            r"arrays: expected arrays, got 'x.npy'. For a name or path use data.load\('x.npy'\)",
        ),
        (lambda: data.from_arrays(data.from_arrays(IMAGES)), r"got a Dataset. It is loaded already"),
        (lambda: data.from_arrays(3.5), r"expected an array of examples, got a float"),
        (lambda: data.from_arrays([[1, 2], [3]]), r"expected an array, got a list"),
        (lambda: data.from_arrays(np.array([[{}, {}]])), r"dtype object"),
        (lambda: data.from_arrays(IMAGES, labels="species"), r"labels='species' names a column, and a ndarray has no names"),
        (
            lambda: data.from_arrays(IMAGES, labels=np.arange(10)),
            r"one label for each of 11 examples, got labels of shape \(10,\)",
        ),
        (lambda: data.from_arrays(IMAGES, test_labels=np.arange(4)), r"got test_labels without test examples. Pass test= as"),
        (lambda: data.from_arrays(IMAGES, test_factors=np.ones((4, 2), int)), r"got test_factors without test examples"),
        (lambda: data.from_arrays(IMAGES, labels=[0, "a"] + [None] * 9), r"labels of one kind, got NoneType, int and str"),
        (lambda: data.from_arrays(IMAGES, labels=["a"] * 11, label_names=["b"]), r"label_names lacks a"),
        (
            lambda: data.from_arrays(IMAGES, labels=range(11), label_names=["b"]),
            r"from 0 to 0, because there are 1 label_names",
        ),
        (
            lambda: data.from_arrays(IMAGES, TEST[:, 1:]),
            r"of one shape and dtype, got train \(5, 7, 1\) uint8 and test \(4, 7, 1\)",
        ),
        (lambda: data.from_arrays(TABLE, column_names=["a"]), r"column_names for the columns of vectors, got 1 names"),
        (lambda: data.from_arrays(IMAGES, column_names=["a"]), r"column_names for the columns of vectors"),
        (lambda: data.from_arrays(IMAGES, factors=np.ones((11, 1))), r"expected factors as integers"),
        (lambda: data.from_arrays(IMAGES, name=""), r"name: expected a name"),
        (lambda: data.from_arrays(IMAGES, event="picture"), r"picture"),
        (lambda: data.from_arrays(IMAGES, layout="picture"), r"picture"),
        (lambda: data.from_arrays(IMAGES, test_fraction=1), r"test_fraction: expected"),
        (lambda: data.from_arrays(IMAGES, max_level=0), r"max_level: expected"),
    ],
)
def test_unsuitable_arguments_are_refused(call, text):
    with pytest.raises(UserError, match=text):
        call()


def test_what_was_changed_is_a_warning():
    with pytest.warns(DataWarning, match=r"arrays: images of shape \(3, 5, 7\) are taken as channels first"):
        got = data.from_arrays(RNG.random((5, 3, 5, 7)))
    assert len(got.notes) == 1
