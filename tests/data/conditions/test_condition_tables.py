"""Columns of tables, of `obs` of .h5ad files and of arrays with names as conditions."""

import datetime

import numpy as np
import pytest

from vae_jax import data
from vae_jax.errors import DataWarning, UserError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
csv = pytest.importorskip("pyarrow.csv")

RNG = np.random.default_rng(0)
N = 20
COLUMNS = {
    "x": np.round(RNG.normal(size=N), 4),
    "z": np.round(RNG.normal(size=N), 4),
    "age": np.round(RNG.uniform(20, 80, N), 2),
    "cell type": np.array(["T", "B", "NK", "T"] * 5),
    "batch": np.arange(N) % 3,
    "is_old": np.arange(N) % 2 == 0,
    "species": np.array(["cat", "ant"] * 10),
}
CONDITION = "age,cell type,batch,is_old"
EXPECTED = (("age", None), ("cell type", ("B", "NK", "T")), ("batch", ("0", "1", "2")), ("is_old", ("False", "True")))


def write(path, columns=COLUMNS):
    table = pa.table(columns)
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    else:
        csv.write_csv(table, path, csv.WriteOptions(delimiter="\t" if path.suffix == ".tsv" else ","))
    return path


def check(dataset, order=None):
    assert tuple((column.name, column.categories) for column in dataset.condition.columns) == EXPECTED
    assert dataset.column_names == ("x", "z")
    order = slice(None) if order is None else order
    np.testing.assert_allclose(dataset.train, np.stack([COLUMNS["x"], COLUMNS["z"]], axis=1)[order], rtol=1e-6)
    stored = dataset.train_condition
    np.testing.assert_allclose(stored[:, 0], COLUMNS["age"][order], rtol=1e-6)
    assert [EXPECTED[1][1][int(code)] for code in stored[:, 1]] == COLUMNS["cell type"][order].tolist()
    np.testing.assert_array_equal(stored[:, 2], COLUMNS["batch"][order])
    np.testing.assert_array_equal(stored[:, 3], COLUMNS["is_old"][order])


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet"])
def test_columns_of_a_file(tmp_path, name):
    path = write(tmp_path / name)
    dataset = data.load(path, condition=CONDITION, split="last")
    check(dataset, slice(16))
    assert dataset.test_condition.shape == (4, 4)
    assert dataset.label_names == ("ant", "cat")
    assert dataset.train_labels is not None


def test_the_column_of_labels_may_be_named_too(tmp_path):
    numbers = {name: COLUMNS[name] for name in ("x", "z", "species")}
    path = write(tmp_path / "t.csv", numbers)
    for condition, name in (("species", "species"), ("labels", "label")):
        dataset = data.load(path, condition=condition, split="last")
        assert dataset.condition.columns[0][:2] == (name, ("ant", "cat"))
        assert dataset.column_names == ("x", "z")
        assert dataset.train_labels.tolist() == dataset.train_condition[:, 0].tolist()


def test_tables_in_memory():
    table = pa.table({**COLUMNS, "cell type": pa.array(COLUMNS["cell type"]).dictionary_encode()})
    options = {"labels": "species", "condition": CONDITION}
    dataset = data.from_arrays(table, table.slice(0, 5), validation=table.slice(5, 4), **options)
    check(dataset)
    np.testing.assert_array_equal(dataset.validation_condition, dataset.train_condition[5:9])
    np.testing.assert_array_equal(dataset.test_condition, dataset.train_condition[:5])
    assert dataset.train_labels.tolist() == [1, 0] * 10
    named = data.from_arrays(table, labels="species", condition="species,cell type,batch,is_old", split="last")
    assert named.condition.columns[0].name == "species"


def test_frames_of_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(COLUMNS).astype({"cell type": "category", "batch": "Int64", "is_old": "boolean"})
    options = {"labels": "species", "condition": CONDITION}
    check(data.from_arrays(frame, frame[:5], **options))
    frame.loc[3, "batch"] = pandas.NA
    with pytest.raises(UserError, match="1 are missing"):
        data.from_arrays(frame, **options)
    conditions = pandas.DataFrame({"when": pandas.to_datetime(["2020-01-01"] * N)})
    with pytest.raises(UserError, match=r"got datetime64"):
        data.from_arrays(COLUMNS["x"][:, None], condition=conditions)


def test_arrays_with_names_of_columns():
    array = np.stack([COLUMNS["x"], COLUMNS["age"], COLUMNS["z"]], axis=1)
    dataset = data.from_arrays(array, array[:3], column_names=["x", "age", "z"], condition="age")
    assert dataset.column_names == ("x", "z")
    np.testing.assert_allclose(dataset.train_condition[:, 0], COLUMNS["age"], rtol=1e-6)
    np.testing.assert_allclose(dataset.test, array[:3, [0, 2]], rtol=1e-6)


def test_names_with_commas_stand_in_quotes(tmp_path):
    columns = {"x": COLUMNS["x"], "z": COLUMNS["z"], "height, cm": COLUMNS["age"], "labels": COLUMNS["batch"]}
    path = write(tmp_path / "t.parquet", columns)
    dataset = data.load(path, condition='"height, cm","labels"', split="last")
    assert [column.name for column in dataset.condition.columns] == ["height, cm", "labels"]


def test_a_table_of_each_part(tmp_path):
    for part, rows in (("train", slice(12)), ("val", slice(12, 16)), ("test", slice(16, None))):
        write(tmp_path / f"{part}.csv", {name: values[rows] for name, values in COLUMNS.items()})
    folder = data.load(tmp_path, condition="batch, is_old,cell type,age")
    files = {"validation_dataset": tmp_path / "val.csv", "test_dataset": tmp_path / "test.csv"}
    single = data.load(tmp_path / "train.csv", condition="batch,is_old,cell type,age", **files)
    for dataset in (folder, single):
        np.testing.assert_array_equal(dataset.validation_condition[:, 0], COLUMNS["batch"][12:16])
        np.testing.assert_array_equal(dataset.test_condition[:, 1], COLUMNS["is_old"][16:])
    assert folder.fingerprint() == single.fingerprint()
    with pytest.warns(DataWarning, match="its own test set is not used"):
        other = data.load(tmp_path, condition="batch,is_old,cell type,age", test_dataset=tmp_path / "train.csv")
    np.testing.assert_array_equal(other.validation_condition, folder.validation_condition)
    np.testing.assert_array_equal(other.test_condition, folder.train_condition)
    np.savez(tmp_path / "other.npz", x=np.zeros((3, 2)))
    with pytest.raises(UserError, match=r"its test examples have no condition. Save these columns"):
        data.load(tmp_path / "train.csv", condition="age,cell type,batch,is_old", test_dataset=tmp_path / "other.npz")


def test_several_files_of_one_part_are_joined(tmp_path):
    for i, rows in enumerate((slice(8), slice(8, 16))):
        write(tmp_path / f"train_{i}.csv", {name: values[rows] for name, values in COLUMNS.items()})
    write(tmp_path / "test.csv", {name: values[16:] for name, values in COLUMNS.items()})
    check(data.load(tmp_path, condition=CONDITION), slice(16))
    write(tmp_path / "train_1.csv", {**{name: values[8:16] for name, values in COLUMNS.items()}, "batch": np.full(8, 0.5)})
    with pytest.raises(UserError, match=r"one type of the condition 'batch' in all files, got floats and integers"):
        data.load(tmp_path, condition=CONDITION)


@pytest.mark.parametrize(
    ("columns", "condition", "message"),
    [
        ({}, "aeg,batch", r"unknown column 'aeg'. Did you mean 'age'.*`condition` expects columns"),
        ({"batch": pa.array([1, None] * 10)}, CONDITION, r"condition 'batch' for every example, and 10 are missing"),
        ({"cell type": pa.array(["a", None] * 10)}, CONDITION, r"'cell type' .* 10 are missing.*category of their own"),
        (
            {"age": np.where(np.arange(N) == 3, np.nan, COLUMNS["age"])},
            CONDITION,
            r"'age' for every example, and 1 are missing",
        ),
        ({"age": pa.array([datetime.date(2020, 1, 1)] * N)}, CONDITION, r"'age', got date32"),
        ({"age": pa.array([datetime.datetime(2020, 1, 1)] * N)}, CONDITION, r"'age', got timestamp"),
        ({"age": pa.array([[1, 2]] * N)}, CONDITION, r"'age', got list"),
        ({}, "x,z," + CONDITION, r"the condition takes all columns"),
    ],
)
def test_columns_that_cannot_be_conditions_are_refused(tmp_path, columns, condition, message):
    path = write(tmp_path / "t.parquet", {**COLUMNS, **columns})
    with pytest.raises(UserError, match=message):
        data.load(path, condition=condition)


def test_a_table_without_names_has_numbers_as_names(tmp_path):
    (tmp_path / "t.csv").write_text("".join(f"{x},{i % 2},{x + 1}\n" for i, x in enumerate(COLUMNS["x"])))
    dataset = data.load(tmp_path / "t.csv", condition="1", split="last")
    assert dataset.condition.columns[0][:2] == ("1", ("0", "1"))
    assert dataset.data_shape == (2,)


def test_ratings_have_no_condition_by_columns(tmp_path):
    (tmp_path / "r.csv").write_text("userId,movieId,rating\n" + "".join(f"{i // 6},{i % 6},5\n" for i in range(60)))
    with pytest.raises(UserError, match=r"its rows are ratings.*Pass a file with a row for each user"):
        data.load(tmp_path / "r.csv", condition="rating")


def test_texts_beside_arrays_of_a_part_are_refused():
    x, c = np.zeros((6, 2), np.float32), np.arange(6) % 2
    with pytest.raises(UserError, match="expected arrays as test_condition, or a text"):
        data.from_arrays(x, x, condition="labels", labels=c, test_labels=c, test_condition=c)
    with pytest.raises(UserError, match="expected arrays as test_condition"):
        data.from_arrays(x, x, condition=c, test_condition="labels")
    with pytest.raises(UserError, match=r"test examples have no condition. Pass test_condition"):
        data.from_arrays(x, x, condition=c)
    with pytest.raises(UserError, match="got test_condition without test examples"):
        data.from_arrays(x, condition=c, test_condition=c)


@pytest.mark.parametrize("condition", ["x,z", "x,z,species"])
def test_a_condition_of_all_columns_leaves_none_as_examples(tmp_path, condition):
    path = write(tmp_path / "t.csv", {name: COLUMNS[name] for name in ("x", "z", "species")})
    with pytest.raises(UserError, match=r"condition: .*t\.csv: the condition takes all columns\. Leave some as examples"):
        data.load(path, condition=condition, split="last")
