"""Values of conditions: categories, real numbers, and what is refused."""

import datetime
import decimal

import numpy as np
import pytest

from vae_jax import data
from vae_jax.data.conditions.columns import make_condition
from vae_jax.errors import DataWarning, UserError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype(np.float32)
TEST = RNG.normal(size=(4, 3)).astype(np.float32)


def load(train, test, name="c"):
    return data.from_arrays(X[: len(train)], TEST[: len(test)], condition={name: train}, test_condition={name: test})


@pytest.mark.parametrize(
    ("train", "test", "categories", "codes"),
    [
        ([10, -2, 9] * 4, [9, 10], ("-2", "9", "10"), [1, 2]),
        (["b", "a", "c"] * 4, ["c", "a"], ("a", "b", "c"), [2, 0]),
        ([True, False] * 6, [True, True], ("False", "True"), [1, 1]),
        (np.array([3, 200] * 6, np.uint8), np.array([200, 3], np.int64), ("3", "200"), [1, 0]),
        (np.array(["b", "a"] * 6, object), np.array(["a"], object), ("a", "b"), [0]),
        (np.array([b"b", b"a"] * 6), ["a", "b"], ("a", "b"), [0, 1]),
        (np.array([2, 1] * 6, object), [1, 2], ("1", "2"), [0, 1]),
        (np.array([2**63, 1] * 6, np.uint64), [1], ("1", str(2**63)), [0]),
    ],
)
def test_whole_numbers_words_and_booleans_are_categories(train, test, categories, codes):
    dataset = load(train, test)
    (column,) = dataset.condition.columns
    assert (column.name, column.categories, dataset.condition.dim) == ("c", categories, len(categories))
    assert dataset.test_condition[:, 0].tolist() == codes
    assert [categories[int(code)] for code in dataset.train_condition[:, 0]] == [
        one.decode() if isinstance(one, bytes) else str(one) for one in np.asarray(train).tolist()
    ]
    expanded = np.asarray(dataset.condition.expand(dataset.test_condition))
    np.testing.assert_array_equal(expanded, np.eye(len(categories), dtype=np.float32)[codes])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, object])
def test_real_numbers_are_standardized_by_training_moments(dtype):
    train, test = np.linspace(3, 8, 12).astype(np.float16).astype(dtype), np.array([0.5, 100]).astype(dtype)
    dataset = load(train, test)
    numbers = train.astype(np.float64)
    expected = (test.astype(np.float64) - numbers.mean()) / numbers.std()
    np.testing.assert_allclose(dataset.condition.expand(dataset.test_condition)[:, 0], expected, rtol=1e-5)
    standardized = np.asarray(dataset.condition.expand(dataset.train_condition), np.float64)
    assert abs(standardized.mean()) < 1e-6
    assert standardized.std() == pytest.approx(1, abs=1e-6)


def test_the_moments_are_those_of_the_training_part_alone():
    values = np.concatenate([np.arange(8) + 0.5, np.full(4, 1e6)])
    dataset = data.from_arrays(X, condition=values, split="last", test_fraction=1 / 3)
    assert dataset.condition.columns[0].mean == pytest.approx(4.0)


def test_several_columns_are_joined_in_their_order():
    columns = {"age": np.linspace(1.5, 7.5, 12), "sex": ["f", "m"] * 6, "batch": np.arange(12) % 3}
    dataset = data.from_arrays(X, condition=columns, split="last", test_fraction=0.25)
    assert dataset.condition.describe() == "age, sex (2 categories), batch (3 categories)"
    expanded = np.asarray(dataset.condition.expand(dataset.train_condition))
    assert expanded.shape == (9, 6)
    np.testing.assert_array_equal(expanded[:, 1:3], np.eye(2)[np.arange(9) % 2])
    np.testing.assert_array_equal(expanded[:, 3:], np.eye(3)[np.arange(9) % 3])


def test_a_thousand_categories():
    values = np.arange(3000) % 1000
    dataset = data.from_arrays(np.zeros((3000, 1), np.float32), condition=values, split="last", test_fraction=1 / 3)
    assert dataset.condition.dim == 1000
    np.testing.assert_array_equal(np.argmax(dataset.condition.expand(dataset.test_condition), axis=1), np.arange(1000))


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 1] * 6, [1, 7, 7, 0], r"1 category in 2 of 4 test examples that no training example has: '7'.*quantities"),
        (["a"] * 11 + ["b"], ["a", "x", "y"], r"2 categories in 2 of 3 test examples .*'x', 'y'. Leave out these 2 examples"),
        ([0, 1] * 6, list(range(100, 104)), r"'100', '101', '102', '103'"),
        ([0, 1] * 6, [0.0, 1.0], r"categories in training and real numbers such as 0.0 in test"),
        ([0.5, 1.5] * 6, ["a"], r"expected numbers .* of test, as in training, got 'a'"),
        ([0.5, np.nan] * 6, [0.5], r"every example, and 6 are missing. Leave these rows out.*mean"),
        ([0.5, 1.5] * 6, [np.nan], r"test examples.*1 are missing"),
        ([0.5, np.inf] * 6, [0.5], r"finite numbers .* got inf in training, and 6 such"),
        ([0.5, 1e39] * 6, [0.5], r"within the range of float32"),
        (np.array(["a", None] * 6, object), ["a"], r"6 are missing"),
        (np.array(["a", float("nan")] * 6, object), ["a"], r"6 are missing"),
        (np.array(["a", 1] * 6, object), ["a"], r"got values of type int and str"),
        (np.array(["2020-01-01"] * 12, "datetime64[D]"), ["a"], r"got datetime64\[D\]. Convert it: .*days"),
        (np.array([datetime.date(2020, 1, 1)] * 12, object), ["a"], r"got values of type date"),
        (np.array([decimal.Decimal(1)] * 12, object), ["a"], r"got values of type Decimal"),
        (np.array([1j] * 12), [1j], r"got complex128"),
        (np.arange(12) * 1e-3 + 1e9, [1e9], r"float32 does not resolve. Subtract the mean"),
        (np.arange(24).reshape(12, 2), [1], r"shape \(12, 2\)"),
        ([0, 1], [1], r"expected 12 values of the condition 'c', one for each of the training examples, got 2"),
    ],
)
def test_unsuitable_values_are_refused(train, test, message):
    with pytest.raises(UserError, match=message) as caught:
        data.from_arrays(X, TEST[: len(test)], condition={"c": train}, test_condition={"c": test})
    assert caught.value.field == "condition"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a"] * 12, "has a single value"),
        (np.full(12, 2.5), "has a single value"),
        (np.arange(12) % 4 * 1.0, "whole numbers stored as floats.*categories save them as integers"),
        (["a", "nan"] * 6, "category 'nan'. If it stands for missing"),
        (np.arange(12) % 9, "9 categories for 12 training examples"),
    ],
)
def test_values_that_may_be_meant_differently_give_a_note(values, message):
    with pytest.warns(DataWarning, match=message):
        dataset = data.from_arrays(X, X[:2], condition={"c": values}, test_condition={"c": values[:2]})
    expanded = np.asarray(dataset.condition.expand(dataset.train_condition))
    assert np.isfinite(expanded).all()
    if len(set(np.asarray(values).tolist())) == 1:
        np.testing.assert_array_equal(expanded, np.full((12, 1), float(isinstance(values, list))))


def test_names_of_codes_are_the_categories():
    """In the order of the codes, without those that no training example has, which are refused in other parts by name."""
    by_part = {"train": {"label": np.array([2, 0, 2])}, "test": {"label": np.array([0])}}
    names = {"label": ("zebra", "ant", "cat")}
    condition, stored = make_condition("x", by_part, names)
    assert condition.columns[0].categories == ("zebra", "cat")
    assert stored["train"][:, 0].tolist() == [1, 0, 1]
    assert stored["test"].dtype == np.float32
    with pytest.raises(UserError, match="'ant'"):
        make_condition("x", {**by_part, "test": {"label": np.array([1])}}, names)
    condition, _ = make_condition("x", by_part, {"label": ("same", "same", "cat")})
    assert condition.columns[0].categories == ("0", "2")


def test_the_fingerprint_has_the_condition():
    values = np.arange(12) % 2
    plain, *others = (
        data.from_arrays(X, X[:2], condition=condition, test_condition=None if condition is None else test).fingerprint()
        for condition, test in (
            (None, None),
            ({"a": values}, {"a": values[:2]}),
            ({"b": values}, {"b": values[:2]}),
            ({"a": 1 - values}, {"a": values[:2]}),
            ({"a": values}, {"a": values[1:3]}),
            ({"a": values + 1}, {"a": values[:2] + 1}),
            ({"a": values + 0.5}, {"a": values[:2] + 0.5}),
        )
    )
    assert plain == data.from_arrays(X, X[:2]).fingerprint()
    assert len({plain, *others}) == 7
