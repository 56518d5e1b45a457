"""CSV and Parquet tables: names, labels, types of columns, and what is refused."""

import gzip
import io
import sys

import numpy as np
import pytest

from vae_jax import data
from vae_jax.data.readers.paths import read_path
from vae_jax.data.readers.registry import ReadOptions
from vae_jax.errors import UserError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

RNG = np.random.default_rng(0)
FLOATS = np.round(RNG.normal(size=(10, 3)), 4)
COUNTS = RNG.integers(0, 4000, (10, 3))
SPECIES = np.array(["setosa", "virginica", "setosa", "versicolor", "virginica"] * 2)


def write(path, columns, delimiter=",", header=True):
    """Writes a table as text: a dict of columns."""
    lines = [delimiter.join(columns)] if header else []
    lines += [delimiter.join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    content = "\r\n".join([*lines, ""]).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def columns(numbers, names="abc"):
    return dict(zip(names, numbers.T, strict=True))


def read(path, label_column=None):
    return read_path(path, options=ReadOptions(label_column=label_column))


@pytest.mark.parametrize(("name", "delimiter"), [("x.csv", ","), ("x.csv", ";"), ("x.tsv", "\t"), ("x.csv.gz", ",")])
def test_a_table_with_names_is_read(tmp_path, name, delimiter):
    split = read(write(tmp_path / name, columns(FLOATS), delimiter))
    np.testing.assert_array_equal(split.train, FLOATS)
    assert split.column_names == ("a", "b", "c")
    assert split.train_labels is None
    dataset = data.load(str(tmp_path / name), split="last")
    assert dataset.data_shape == (3,)
    assert dataset.train.dtype == np.float32
    assert dataset.column_names == ("a", "b", "c")


@pytest.mark.parametrize("numbers", [FLOATS, COUNTS])
def test_a_table_without_names_is_read(tmp_path, numbers):
    split = read(write(tmp_path / "x.csv", columns(numbers), header=False))
    np.testing.assert_array_equal(split.train, numbers)
    assert split.column_names is None


def test_the_mark_that_excel_writes_is_no_name(tmp_path):
    path = write(tmp_path / "x.csv", columns(FLOATS), header=False)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    np.testing.assert_array_equal(read(path).train, FLOATS)
    path = write(tmp_path / "y.csv", columns(FLOATS))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(path).column_names == ("a", "b", "c")


def test_numbers_as_names_of_pandas_are_names(tmp_path):
    split = read(write(tmp_path / "x.csv", columns(FLOATS, "012")))
    np.testing.assert_array_equal(split.train, FLOATS)
    assert split.column_names == ("0", "1", "2")
    text = ",0,1\n0,0.5,3.0\n1,0.25,7.5\n"
    (tmp_path / "y.csv").write_text(text)
    split = read(tmp_path / "y.csv")
    np.testing.assert_array_equal(split.train, [[0.5, 3.0], [0.25, 7.5]])
    assert "the column '' is the index of the rows and is not used" in split.notes[0]


@pytest.mark.parametrize("index", [[7, 3, 5, 3], ["a", "b", "c", "d"], [0, 1, 2, 3]])
def test_the_index_of_a_table_is_not_data(tmp_path, index):
    """Tables are shuffled, filtered and joined before they are saved, so that their index is no range of numbers."""
    text = "".join(f"{name},{row[0]},{row[1]},{label}\n" for name, row, label in zip(index, FLOATS, SPECIES, strict=False))
    for header in ("", "Unnamed: 0"):
        (tmp_path / "x.csv").write_text(f"{header},a,b,label\n{text}")
        split = read(tmp_path / "x.csv")
        np.testing.assert_array_equal(split.train, FLOATS[:4, :2])
        assert split.column_names == ("a", "b")
        assert split.notes[0].startswith(f"{tmp_path}/x.csv: the column {header!r} is the index of the rows and is not used.")
    metadata = {"pandas": '{"index_columns": ["cell"], "columns": []}'}
    table = pa.table({"a": FLOATS[:4, 0], "b": FLOATS[:4, 1], "cell": index}).replace_schema_metadata(metadata)
    parquet.write_table(table, tmp_path / "x.parquet")
    parquet.write_table(table.rename_columns(["a", "b", "__index_level_0__"]), tmp_path / "y.parquet")
    for name in ("x.parquet", "y.parquet"):
        np.testing.assert_array_equal(read(tmp_path / name).train, FLOATS[:4, :2])
        assert "is the index of the rows" in read(tmp_path / name).notes[0]


def test_a_column_of_identifiers_is_named(tmp_path):
    split = read(write(tmp_path / "x.csv", {"id": np.arange(10) * 7, "a": FLOATS[:, 0]}))
    assert split.column_names == ("id", "a")
    assert "the column 'id' has a different number in each row and is used as data" in split.notes[0]
    assert read(write(tmp_path / "x.csv", {"id": np.arange(10) // 2, "a": FLOATS[:, 0]})).notes == ()


def test_tables_of_other_countries_and_machines_are_read(tmp_path):
    path = write(tmp_path / "x.csv", columns(FLOATS) | {"label": SPECIES}, ";")
    path.write_bytes(path.read_bytes().replace(b".", b","))
    np.testing.assert_array_equal(read(path).train, FLOATS)
    np.testing.assert_array_equal(read(path).train_labels, SPECIES)
    path = write(tmp_path / "x.csv", columns(FLOATS) | {"label": SPECIES}, ", ")
    assert read(path).column_names == ("a", "b", "c")
    np.testing.assert_array_equal(read(path).train_labels, SPECIES)
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\r"))
    assert read(path).column_names == ("a", "b", "c")
    np.testing.assert_array_equal(read(path).train, FLOATS)


def test_labels_before_images_without_names_are_asked_for(tmp_path):
    table = RNG.integers(0, 9, (6, 785))
    np.savetxt(tmp_path / "mnist_train.csv", table, fmt="%d", delimiter=",")
    assert 'Pass `label_column="0"` if the first column has the labels' in read(tmp_path / "mnist_train.csv").notes[0]
    with pytest.raises(UserError, match="one more than images of 28 x 28 pixels"):
        data.load(tmp_path / "mnist_train.csv", event="image")
    got = data.load(tmp_path / "mnist_train.csv", event="image", label_column="0", split="last", max_level=255)
    np.testing.assert_array_equal(got.train.reshape(5, -1), table[:5, 1:])
    np.testing.assert_array_equal(got.train_labels, table[:5, 0])


def test_whole_numbers_are_counts_where_all_columns_have_them(tmp_path):
    whole = data.load(str(write(tmp_path / "x.csv", columns(COUNTS))), split="last")
    assert whole.train.dtype == np.int32
    np.testing.assert_array_equal(np.concatenate([whole.train, whole.test]), COUNTS)
    mixed = data.load(str(write(tmp_path / "y.csv", {"n": COUNTS[:, 0], "x": FLOATS[:, 0]})), split="last")
    assert mixed.train.dtype == np.float32
    np.testing.assert_array_equal(mixed.train[:, 0], COUNTS[:8, 0])


def test_labels_that_are_text_get_names(tmp_path):
    path = write(tmp_path / "iris.csv", columns(FLOATS) | {"Species": SPECIES})
    dataset = data.load(str(path), split="last", test_fraction=0.5)
    assert dataset.split == "the last block; labels from the column 'Species'"
    np.testing.assert_array_equal(dataset.train, FLOATS[:5].astype(np.float32))
    np.testing.assert_array_equal(dataset.train_labels, [0, 2, 0, 1, 2])
    np.testing.assert_array_equal(dataset.test_labels, [0, 2, 0, 1, 2])
    assert dataset.label_names == ("setosa", "versicolor", "virginica")
    assert dataset.column_names == ("a", "b", "c")


def test_the_column_of_labels_is_named(tmp_path):
    path = write(tmp_path / "x.csv", {"target": COUNTS[:, 0], "b": COUNTS[:, 1], "kind": SPECIES})
    split = read(path, "kind")
    np.testing.assert_array_equal(split.train, COUNTS[:, :2])
    np.testing.assert_array_equal(split.train_labels, SPECIES)
    with pytest.raises(UserError, match=r"unknown column 'kinds'.*Did you mean 'kind'"):
        read(path, "kinds")
    headless = write(tmp_path / "iris.csv", columns(FLOATS) | {"Species": SPECIES}, header=False)
    split = read(headless, "3")
    np.testing.assert_array_equal(split.train, FLOATS)
    np.testing.assert_array_equal(split.train_labels, SPECIES)
    assert split.column_names is None


def test_the_digits_of_kaggle_are_images(tmp_path):
    """mnist_train.csv: label, then 784 pixels row by row."""
    images = RNG.integers(0, 256, (6, 28, 28))
    pixels = {f"pixel{i}": images.reshape(6, -1)[:, i] for i in range(784)}
    path = write(tmp_path / "mnist_train.csv", {"label": np.arange(6)} | pixels)
    dataset = data.load(str(path), event="image", split="last", test_fraction=0.5)
    assert dataset.max_level == 255
    assert dataset.train.dtype == np.uint8
    np.testing.assert_array_equal(np.concatenate([dataset.train, dataset.test])[..., 0], images)
    np.testing.assert_array_equal(dataset.train_labels, [0, 1, 2])
    vectors = read(path)
    np.testing.assert_array_equal(vectors.train, images.reshape(6, -1))


REFUSED = {
    "text": ({"a": FLOATS[:, 0], "kind": SPECIES}, r"got text in kind.*`label_column=\"kind\"`"),
    "missing": ({"a": FLOATS[:, 0], "b": [1, "", 3, "NA", 5, 6, 7, 8, 9, 10]}, r"2 missing values in b.*df\.dropna"),
    "question mark": ({"a": [1, "?", *range(8)]}, "1 missing values in a"),
    "missing label": ({"a": FLOATS[:, 0], "label": [1, "", *range(8)]}, "1 missing in 'label'"),
    "empty column": ({"a": FLOATS[:, 0], "b": [""] * 10}, "the columns b have no values"),
    "dates": ({"a": FLOATS[:, 0], "t": ["2020-01-01"] * 10}, "got t .date32"),
    "labels alone": ({"label": np.arange(10)}, "expected columns of numbers, got the labels 'label' alone"),
    "huge": ({"a": [2**62, *range(9)]}, "range of int32"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unsuitable_tables_are_refused_with_the_fix(tmp_path, kind):
    table, message = REFUSED[kind]
    with pytest.raises(UserError, match=message):
        data.load(str(write(tmp_path / "x.csv", table)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"a,b\n",
        b"a,b\n1,2\n3\n",
        b"a,a\n1,2\n",
        b"\xff\xfe\x00\x01" * 90,
        b"a,b\n1,\xff\n",
        b"PK\x03\x04" + b"\0" * 99,
    ],
)
def test_damaged_tables_are_refused(tmp_path, content):
    (tmp_path / "x.csv").write_bytes(content)
    (tmp_path / "y.csv.gz").write_bytes(gzip.compress(content)[:-9])
    for name in ("x.csv", "y.csv.gz"):
        with pytest.raises(UserError, match=name):
            data.load(str(tmp_path / name))


def test_text_in_other_encodings_is_refused(tmp_path):
    """Names of columns, and labels, as programs write them on old Windows machines."""
    (tmp_path / "x.csv").write_bytes("größe,kind\n1,a\n2,b\n".encode("latin1"))
    (tmp_path / "y.csv").write_bytes("size,label\n1,köln\n2,bonn\n".encode("latin1"))
    for name in ("x.csv", "y.csv"):
        with pytest.raises(UserError, match=rf"{name}: expected text in UTF-8.*Save it in UTF-8"):
            data.load(str(tmp_path / name))
    (tmp_path / "y.csv").write_text("size,label\n1,köln\n2,bonn\n")
    np.testing.assert_array_equal(read(tmp_path / "y.csv").train_labels, ["köln", "bonn"])


def test_options_of_other_files_are_refused(tmp_path):
    path = write(tmp_path / "x.csv", columns(FLOATS))
    with pytest.raises(UserError, match="`array` has no meaning for CSV"):
        data.load(str(path), array="x")
    with pytest.raises(UserError, match="cannot be read row by row"):
        data.load(str(path), stream=True)


def test_what_unpacks_to_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"1,2\n" * 10**6))
    monkeypatch.setattr("os.sysconf", lambda name: 724)
    with pytest.raises(UserError, match="unpacks to"):
        data.load(str(path))


def test_a_parquet_table_is_read(tmp_path):
    """Typed columns, a dictionary of text as pandas writes categories, and the index that pandas adds."""
    table = pa.table(
        {
            "n": pa.array(COUNTS[:, 0].astype(np.uint16)),
            "x": pa.array(FLOATS[:, 0].astype(np.float32)),
            "flag": pa.array(COUNTS[:, 1] % 2 == 1),
            "kind": pa.array(SPECIES).dictionary_encode(),
        }
    )
    parquet.write_table(table, tmp_path / "x.parquet", compression="zstd")
    split = read(tmp_path / "x.parquet", "kind")
    expected = np.stack([COUNTS[:, 0], FLOATS[:, 0].astype(np.float32), COUNTS[:, 1] % 2], axis=1)
    np.testing.assert_array_equal(split.train, expected)
    np.testing.assert_array_equal(split.train_labels, SPECIES)
    assert split.column_names == ("n", "x", "flag")
    (tmp_path / "x.parquet").rename(tmp_path / "x.bin")
    np.testing.assert_array_equal(read(tmp_path / "x.bin", "kind").train, expected)
    whole = pa.table({"a": COUNTS[:, 0], "b": COUNTS[:, 1], "__index_level_0__": np.arange(10)})
    parquet.write_table(whole.select(["__index_level_0__", "a", "b"]), tmp_path / "y.parquet")
    np.testing.assert_array_equal(read(tmp_path / "y.parquet").train, COUNTS[:, :2])
    assert data.load(str(tmp_path / "x.bin"), label_column="kind").label_names == ("setosa", "versicolor", "virginica")


def test_unsuitable_parquet_files_are_refused(tmp_path):
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"a": [1.0, None, 3.0], "l": [[1], [2], [3]]}), buffer)
    content = buffer.getvalue()
    path = tmp_path / "x.parquet"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"got l .list"):
        data.load(str(path))
    for cut in (content[:4], content[:-30], b"PAR1" + b"\0" * 100, content[:40] + b"\xff" * 40 + content[80:]):
        path.write_bytes(cut)
        with pytest.raises(UserError, match=r"x\.parquet: "):
            data.load(str(path))


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "x.csv", columns(FLOATS))
    monkeypatch.setitem(sys.modules, "pyarrow.csv", None)
    with pytest.raises(UserError, match=r"needs pyarrow. Install it by: pip install 'vae_jax\[tables\]'"):
        data.load(str(path))
