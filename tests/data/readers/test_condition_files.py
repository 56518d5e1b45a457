"""Files with a condition for each example: arrays and tables, for one part or for each of several."""

import datetime
import gzip
import zipfile

import numpy as np
import pytest

from vae_jax import data
from vae_jax.data import sprites
from vae_jax.errors import DataWarning, UserError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3)).astype(np.float32)
SEX = np.array(["f", "m", "m", "f"] * 5)
AGE = np.round(RNG.uniform(20, 80, 20), 3)


@pytest.fixture
def single(tmp_path):
    np.save(tmp_path / "x.npy", X)
    return tmp_path / "x.npy"


@pytest.fixture
def divided(tmp_path):
    np.savez(tmp_path / "x.npz", train=X[:12], validation=X[12:15], test=X[15:])
    return tmp_path / "x.npz"


def write(path, columns):
    pa = pytest.importorskip("pyarrow")
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow.parquet").write_table(pa.table(columns), path)
        return
    delimiter = "\t" if ".tsv" in path.name else ","
    lines = [delimiter.join(columns), *(delimiter.join(map(str, row)) for row in zip(*columns.values(), strict=True)), ""]
    content = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("name", ["c.csv", "c.tsv", "c.csv.gz", "c.parquet", "c.npz"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_row_for_each_example(single, tmp_path, name, stream):
    """The rows are divided with the examples."""
    columns = {"age": AGE, "sex": SEX}
    if name.endswith(".npz"):
        np.savez(tmp_path / name, **columns)
    else:
        write(tmp_path / name, columns)
    options = {"condition": str(tmp_path / name), "stream": stream, "validation_fraction": 0.2, "split_seed": 3}
    dataset = data.load(single, **options)
    assert dataset.condition.describe() == "age, sex (2 categories)"
    for part in ("train", "validation", "test"):
        examples = getattr(dataset, part)[:]
        rows = [int(np.flatnonzero((one == X).all(axis=1))[0]) for one in examples]
        expected = np.stack([AGE[rows], SEX[rows] == "m"], axis=1)
        np.testing.assert_allclose(getattr(dataset, f"{part}_condition"), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("array", "names", "categories"),
    [
        (SEX, ["condition"], [("f", "m")]),
        (AGE[:, None], ["condition"], [None]),
        (np.arange(40).reshape(20, 2) % 3, ["condition_0", "condition_1"], [("0", "1", "2")] * 2),
        (AGE > 50, ["condition"], [("False", "True")]),
        (np.rec.fromarrays([AGE, SEX], names=["age", "sex"]), ["age", "sex"], [None, ("f", "m")]),
    ],
)
def test_arrays(single, tmp_path, array, names, categories):
    np.save(tmp_path / "c.npy", np.asarray(array))
    dataset = data.load(single, condition=str(tmp_path / "c.npy"), split="last")
    assert [column.name for column in dataset.condition.columns] == names
    assert [column.categories for column in dataset.condition.columns] == categories


def test_an_archive_of_one_array_has_its_name(single, tmp_path):
    np.savez(tmp_path / "c.npz", hue=SEX)
    assert data.load(single, condition=str(tmp_path / "c.npz")).condition.columns[0].name == "hue"
    np.savez_compressed(tmp_path / "c.npz", SEX)
    assert data.load(single, condition=str(tmp_path / "c.npz")).condition.columns[0].name == "condition"


def test_conditions_of_each_part(divided, tmp_path):
    parts = {"train": slice(12), "validation": slice(12, 15), "test": slice(15, None)}
    np.savez(tmp_path / "c.npz", **{part: SEX[rows] for part, rows in parts.items()})
    np.savez(
        tmp_path / "two.npz",
        **{f"{part}_{name}": column[rows] for part, rows in parts.items() for name, column in (("age", AGE), ("sex", SEX))},
    )
    (tmp_path / "folder").mkdir()
    for part, rows in parts.items():
        write(tmp_path / "folder" / f"{part[:5].replace('valid', 'val')}.csv", {"age": AGE[rows], "sex": SEX[rows]})
    (tmp_path / "folder" / "README.txt").touch()
    one = data.load(divided, condition=str(tmp_path / "c.npz"))
    two = data.load(divided, condition=str(tmp_path / "two.npz"))
    with pytest.warns(DataWarning, match="README.txt is not used"):
        folder = data.load(divided, condition=str(tmp_path / "folder"))
    for part, rows in parts.items():
        np.testing.assert_array_equal(getattr(one, f"{part}_condition")[:, 0], SEX[rows] == "m")
        np.testing.assert_allclose(getattr(two, f"{part}_condition")[:, 0], AGE[rows], rtol=1e-6)
    assert folder.fingerprint() == two.fingerprint() != one.fingerprint()


def test_sets_of_other_sources_need_the_condition_of_each_part(single, tmp_path):
    np.save(tmp_path / "t.npy", X[:5])
    np.savez(tmp_path / "c.npz", train=SEX, test=SEX[5:10])
    dataset = data.load(single, test_dataset=tmp_path / "t.npy", condition=str(tmp_path / "c.npz"))
    np.testing.assert_array_equal(dataset.test_condition[:, 0], SEX[5:10] == "m")


def save(path, *arrays, **named):
    np.savez(path, *arrays, **named)


@pytest.mark.parametrize(
    ("source", "arrays", "message"),
    [
        ("single", {"c": SEX[:19]}, r"expected 20 rows, one for each of the training examples .* got 19 in 'c'"),
        ("single", {"train": SEX, "test": SEX[:3]}, r"has the condition of test examples, and .* has training examples alone"),
        ("single", {"a": SEX, "train": SEX}, r"the part in the name of every array, as train_age .* got a and train"),
        ("single", {"a": SEX, "b": np.ones((20, 2))}, r"for each example in 'b', got shape \(20, 2\)"),
        ("single", {"a": np.ones((20, 2, 2))}, r"\(examples, columns\), got shape \(20, 2, 2\)"),
        ("single", {"a": np.array(SEX, object)}, r"cannot read the array 'a'"),
        ("single", {"when": np.array(["2020-01-01"] * 20, "datetime64[D]")}, r"'when', got datetime64"),
        (
            "divided",
            {"c": SEX},
            r"each part of .*, training \(12\), validation \(3\) and test \(5\), got one of 20 rows. Save np",
        ),
        ("divided", {"train": SEX[:12], "test": SEX[:5]}, r"has no condition for the validation examples"),
        (
            "divided",
            {"train": SEX[:12], "test": SEX[:4], "val": SEX[:3]},
            r"expected 5 rows, one for each of the test .* got 4",
        ),
        ("divided", {"train": SEX[:12], "test_a": SEX[:5], "val": SEX[:3]}, r"columns condition in all parts, got a in test"),
    ],
)
def test_files_that_do_not_fit_are_refused(request, tmp_path, source, arrays, message):
    np.savez(tmp_path / "c.npz", **arrays)
    with pytest.raises(UserError, match=message):
        data.load(request.getfixturevalue(source), condition=str(tmp_path / "c.npz"))


def test_damaged_and_missing_files_are_refused_in_one_line(single, tmp_path):
    contents = {
        "a.npy": b"\x93NUMPY\x01",
        "b.npz": b"PK\x03\x04 and no more",
        "c.csv": b"a,b\n1,2\n3\n",
        "d.parquet": b"PAR1 and no more",
        "e.csv": b"a\n",
        "f.csv": b"a,a\n" + b"1,2\n" * 20,
        "g.csv.gz": gzip.compress(b"a\n1\n")[:-9],
        "h.csv": b"when\n" + b"2020-01-01\n" * 20,
        "i.csv": b"a\n1\n\n" + b"2\n" * 18,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "j.npz", "w") as archive:
        archive.writestr("train.txt", "no array")
    (tmp_path / "k").mkdir()
    (tmp_path / "l").mkdir()
    (tmp_path / "l" / "rows.csv").write_text("a\n1\n")
    for name in (*contents, "j.npz", "k", "l", "none.csv", "x" * 300 + ".csv"):
        with pytest.raises(UserError) as caught:
            data.load(single, condition=str(tmp_path / name))
        assert "\n" not in str(caught.value)
        assert name[:20] in str(caught.value)


def test_an_index_in_a_table_is_left_out_with_a_note(single, tmp_path):
    write(tmp_path / "c.csv", {"Unnamed: 0": np.arange(20), "sex": SEX})
    with pytest.warns(DataWarning, match="'Unnamed: 0' is the index of the rows and is not used"):
        assert data.load(single, condition=str(tmp_path / "c.csv")).condition.dim == 2


def test_a_file_named_like_a_column_gives_a_note(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "t.csv", {"x": AGE, "z": AGE + 1, "sex.npy": AGE * 2})
    np.save(tmp_path / "sex.npy", SEX)
    for condition in ("sex.npy", str(tmp_path / "sex.npy")):
        with pytest.warns(DataWarning, match="`condition` is the file, and a column has the name 'sex.npy' as well"):
            assert data.load("t.csv", condition=condition).condition.dim == 2
    assert data.load("t.csv", condition='"sex.npy"').column_names == ("x", "z")


def test_files_beside_arrays_and_computed_images(tmp_path):
    np.save(tmp_path / "c.npy", SEX)
    dataset = data.from_arrays(X, condition=str(tmp_path / "c.npy"), split="last")
    np.testing.assert_array_equal(dataset.train_condition[:, 0], SEX[:16] == "m")
    with pytest.raises(UserError, match=r'drawn anew at every step.*`condition="factors"`'):
        data.load("sprites", condition=str(tmp_path / "c.npy"))
    np.savez(tmp_path / "c.npz", train=np.arange(sprites.NUM_IMAGES) % 2, test=np.arange(10_000) % 2)
    assert data.load("sprites_grid", condition=str(tmp_path / "c.npz")).condition.dim == 2


def test_dates_in_tables_are_refused(single, tmp_path):
    write(tmp_path / "c.parquet", {"when": [datetime.date(2020, 1, 1)] * 20})
    with pytest.raises(UserError, match=r"'when', got date32.*days since"):
        data.load(single, condition=str(tmp_path / "c.parquet"))
