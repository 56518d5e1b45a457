"""Reading of mixed tables: text, booleans and missing values as numbers, and back into tables of the same types."""

import json

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from mixed_csv import content, write_csv

from vae_jax import data
from vae_jax.data.column_proposals import parse_columns, plan_columns, propose
from vae_jax.data.column_types import ColumnType, to_table, write_table
from vae_jax.data.moments import column_moments
from vae_jax.errors import UserError

PROPOSED = {
    "id": "none", "city, town": "categorical", "owner": "bernoulli", "hidden": "bernoulli", "smokes": "bernoulli",
    "rating": "categorical", "visits": "negative_binomial", "height": "gaussian", "change": "gaussian", "large": "gaussian",
    "note": "none", "same": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = write_csv(tmp_path_factory.mktemp("tables") / "people.csv", content())
    return path, data.load(path, mixed=True, missing="nan", split="last")


def rows_of(dataset, part="train"):
    rows, mask = getattr(dataset, part).astype(float), getattr(dataset, f"{part}_mask")
    return rows if mask is None else np.where(mask, rows, np.nan)


def test_types_and_categories_come_from_the_table(table):
    _, dataset = table
    kinds = {kind.name: kind for kind in dataset.column_types}
    assert list(kinds) == list(content()) == list(dataset.column_names)
    assert kinds["city, town"].categories == ('New "York"', "Oslo", "Rome, old")
    assert {name: kind.dtype for name, kind in kinds.items() if kind.categories is None} == {
        **dict.fromkeys(["id", "smokes", "rating", "visits", "change", "large", "same"], "int64"),
        **{"owner": "bool", "hidden": "bool", "height": "float64"},
    }


def test_a_table_comes_back_as_it_was(table):
    path, dataset = table
    rows = np.concatenate([rows_of(dataset), rows_of(dataset, "test")])
    back, original = to_table(dataset.column_types, rows), pyarrow.csv.read_csv(
        path, convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True)
    )  # fmt: skip
    assert back.schema.equals(original.schema)
    for name in set(back.column_names) - {"height", "large"}:
        assert back[name].to_pylist() == original[name].to_pylist(), name
    for name in ("height", "large"):  # float32
        expected = np.array(original[name].to_pylist(), float)
        np.testing.assert_allclose(np.array(back[name].to_pylist(), float), expected, rtol=6e-8)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_written_tables_are_read_again(table, tmp_path, ending):
    _, dataset = table
    rows = np.concatenate([rows_of(dataset), rows_of(dataset, "test")])
    path = write_table(to_table(dataset.column_types, rows), tmp_path / f"out.{ending}")
    again = data.load(path, mixed=True, missing="nan", split="last")
    assert again.column_types == dataset.column_types
    np.testing.assert_array_equal(rows_of(again), rows_of(dataset))


def test_a_likelihood_is_proposed_for_each_kind_of_column(table):
    _, dataset = table
    plans = propose(dataset)
    assert {plan.name: plan.likelihood for plan in plans} == PROPOSED
    seen = {plan.name: plan.seen for plan in plans}
    assert seen["city, town"] == '3 categories: New "York", Oslo and Rome, old, some missing'
    assert seen["rating"] == "5 integers from 1 to 5"
    assert seen["smokes"] == "integers 0, 1"
    assert "integers from −50 to 49" in seen["change"]
    reasons = {plan.name: plan.reason for plan in plans if plan.reason}
    assert set(reasons) == {"id", "large", "note", "same"}
    assert "2^24" in reasons["large"]


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (np.arange(100) % 12, "int64", "negative_binomial"),  # 12 values, but not 20 rows of each
        (np.arange(240) % 12, "int64", "categorical"),
        (np.arange(260) % 13, "int64", "negative_binomial"),
        (np.arange(240) % 12 - 3, "int64", "categorical"),
        (np.arange(30) + 100, "int64", "none"),  # consecutive: identifies the rows
        (np.arange(30) ** 2, "int64", "negative_binomial"),  # all different, but a number of something
        (np.arange(19), "int64", "negative_binomial"),
        (np.arange(240.0) % 2, "float64", "bernoulli"),
        (np.arange(240.0) % 2 + 1, "float64", "gaussian"),
        (np.arange(30) % 2 * 2**25, "int64", "gaussian"),
    ],
)
def test_rules_of_the_proposal_at_their_bounds(values, dtype, expected):
    dataset = data.from_arrays(np.stack([values, values], axis=1).astype(np.float32), split="last", column_names=["a", "b"])
    typed = dataset._replace(column_types=tuple(ColumnType(name, None, dtype) for name in "ab"))
    assert [plan.likelihood for plan in propose(typed)] == [expected] * 2


def test_whole_reals_with_missing_values_count_as_integers():
    values = np.where(np.arange(300) % 7 == 0, np.nan, np.arange(300) % 5)[:, None].astype(np.float64)
    dataset = data.from_arrays(np.hstack([values, values + 0.5]), missing="nan", split="last")
    assert [plan.likelihood for plan in propose(dataset)] == ["categorical", "gaussian"]


def test_likelihoods_are_changed_by_words_and_by_a_file(table, tmp_path):
    _, dataset = table
    path = tmp_path / "choice.json"
    path.write_text(json.dumps({"rating": "poisson", "height": "student_t:3", "owner": "none"}))
    plans = {plan.name: plan.likelihood for plan in plan_columns(dataset, [str(path), "city, town=categorical"])}
    assert plans == {**PROPOSED, "rating": "poisson", "height": "student_t:3", "owner": "none"}
    resolved = [f"{name}={likelihood}" for name, likelihood in plans.items()]
    assert [plan.setting for plan in plan_columns(dataset, resolved)] == resolved


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["colour=gaussian"], "colour.*Expected a column"),
        (["height=gausian"], "gausian.*Did you mean 'gaussian'.*column 'height'"),
        (["height=bernoulli"], "the column 'height' has .* with fractions, and bernoulli expects zeros and ones"),
        (["change=poisson"], "the column 'change' has -50 to 49, and poisson expects counts"),
        (["city, town=gaussian"], "the column 'city, town' has text, and gaussian expects numbers"),
        (["height=categorical"], "the column 'height' has numbers with fractions"),
        (["height=continuous_bernoulli"], r"expects numbers in \[0, 1\]"),
        (["height=gaussian:2"], "gaussian without a number"),
        (["height=student_t:-1"], "degrees of freedom > 0"),
        (["rating=poisson", "rating=gaussian"], "two likelihoods, poisson and gaussian"),
        (["missing.json"], "which is not a file"),
        ([f"{name}=none" for name in content()], "every column is left out"),
    ],
)
def test_bad_choices_are_one_error(table, words, message):
    with pytest.raises(UserError, match=message):
        plan_columns(table[1], words)


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}', "", '"' * 3])
def test_damaged_files_of_choices_are_one_error(tmp_path, text):
    path = tmp_path / "choice.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"choice\.json"):
        parse_columns([str(path)])


def test_missing_values_need_the_option_and_the_columns_are_named(table):
    with pytest.raises(UserError, match=r'missing values in city, town, hidden, visits and height\. Pass `missing="nan"`'):
        data.load(table[0], mixed=True)
    with pytest.raises(UserError, match=r'missing values in hidden, visits and height\. Pass `missing="nan"`'):
        data.from_arrays(pyarrow.csv.read_csv(table[0]), mixed=True)


def test_text_is_refused_where_columns_are_numbers(table):
    with pytest.raises(UserError, match=r'text in .*`likelihood="columns"`'):
        data.load(table[0])


def test_columns_of_other_types_are_refused(tmp_path):
    dates = pyarrow.array(np.arange(20, dtype=np.int32), pyarrow.date32())
    pyarrow.parquet.write_table(pyarrow.table({"a": list(range(20)), "when": dates}), tmp_path / "dates.parquet")
    with pytest.raises(UserError, match=r"got when \(date32"):
        data.load(tmp_path / "dates.parquet", mixed=True)


def test_a_column_of_labels_is_data_only_where_it_is_named(tmp_path):
    columns = {"length": [str(i) for i in range(40)], "species": ["a", "b"] * 20}
    path = write_csv(tmp_path / "flowers.csv", columns)
    dataset = data.load(path, mixed=True, split="last")
    assert dataset.column_names == ("length",)
    assert dataset.label_names == ("a", "b")
    dataset = data.load(path, mixed=["species"], split="last")
    assert dataset.column_names == ("length", "species")
    assert dataset.train_labels is None


def test_categories_of_a_test_file_are_those_of_the_training_file(tmp_path):
    for part, letters in (("train", "cab"), ("test", "bc")):
        rows = 30 if part == "train" else 20
        write_csv(tmp_path / f"{part}.csv", {"x": [letters[i % len(letters)] for i in range(rows)], "n": list(range(rows))})
    dataset = data.load(tmp_path, mixed=True)
    assert dataset.column_types[0].categories == ("a", "b", "c")
    assert dataset.test[:2, 0].tolist() == [1, 2]
    write_csv(tmp_path / "test.csv", {"x": ["b", "d"] * 10, "n": list(range(20))})
    with pytest.raises(UserError, match="the column 'x' has categories that the training set does not have: d"):
        data.load(tmp_path, mixed=True)


def test_arrow_tables_keep_the_order_of_their_categories():
    sizes = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([2, 0, None, 1] * 10, "int32"), ["small", "medium", "large"], ordered=True
    )
    table = pyarrow.table({"size": sizes, "count": pyarrow.array(list(range(40)), pyarrow.int16()), "kind": ["u", "v"] * 20})
    dataset = data.from_arrays(table, labels="kind", mixed=True, missing="nan", split="last")
    assert dataset.column_types == (
        ColumnType("size", ("small", "medium", "large"), "category"),
        ColumnType("count", None, "int16"),
    )
    assert dataset.label_names == ("u", "v")
    assert dataset.train_mask[:4, 0].tolist() == [True, True, False, True]
    back = to_table(dataset.column_types, rows_of(dataset))
    assert back.schema.equals(table.drop_columns("kind").schema)
    assert back.column(0).to_pylist() == ["large", "small", None, "medium"] * 8
    with pytest.raises(UserError, match="expected a table of pandas or pyarrow"):
        data.from_arrays(np.zeros((4, 2)), mixed=True)


def test_numbers_are_rounded_into_the_range_of_their_type():
    kinds = [ColumnType("a", None, "int8"), ColumnType("b", None, "bool"), ColumnType("c", ("x", "y"), "string")]
    table = to_table(kinds, np.array([[1e9, 0.4, 9.0], [-1.6, 0.6, -2.0], [np.nan] * 3]))
    assert table.to_pydict() == {"a": [127, -2, None], "b": [False, True, None], "c": ["y", "x", None]}
    with pytest.raises(UserError, match=r"shape \(examples, 3\)"):
        to_table(kinds, np.zeros((2, 2)))
    with pytest.raises(UserError, match=r"ending in \.csv or \.parquet"):
        write_table(table, "table.xlsx")


def test_moments_keep_their_digits_where_the_first_example_lacks_entries():
    x = 16_000_000 + np.arange(40).reshape(-1, 1) % 7
    mask = np.arange(40).reshape(-1, 1) > 0
    columns = np.hstack([x, x])
    dataset = data.from_arrays(columns, columns[:2], mask=np.hstack([mask, mask]), test_mask=np.ones((2, 2), bool))
    moments = column_moments(dataset)
    np.testing.assert_allclose(moments.std, np.std(x[1:]) * np.ones(2), rtol=1e-6)
