"""Hidden entries: which are hidden, the scores of imputations by hand, and the baselines."""

import numpy as np
import pytest

from vae_jax.errors import UserError
from vae_jax.evaluation.hidden_entries import (
    Table,
    baselines,
    gaussian_imputation,
    hide,
    iterative_imputation,
    mean_imputation,
    score,
)


def test_the_same_entries_are_hidden_everywhere():
    mask = np.ones((200, 7), bool)
    mask[::3, 2] = False
    hidden = hide(5, mask, 0.3)
    assert not hidden[~mask].any()
    assert hidden.mean() == pytest.approx(0.3 * mask.mean(), abs=0.03)
    np.testing.assert_array_equal(hidden, mask & (np.random.default_rng(5).random(mask.shape) < 0.3))
    assert np.all(hide(5, mask, 0.6)[hidden])  # a larger share hides these and more
    assert np.any(hide(6, mask, 0.3) != hidden)
    assert list(np.flatnonzero(hide(0, np.ones(20, bool), 0.2))) == [2, 3, 11, 13, 15]  # of NumPy's generator, on any machine


def test_shares_that_hide_nothing_or_everything_are_refused():
    for share in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="above 0 and below 1"):
            hide(0, np.ones((2, 2), bool), share)
    with pytest.raises(UserError, match="none of 0 observed entries"):
        hide(0, np.zeros((2, 2), bool), 0.5)


def small_table():
    train = np.array([[0.0, 1, 0], [2, 3, 1], [4, np.nan, 1], [6, 8, np.nan]])
    test = np.array([[1.0, 2, 1], [5, 6, 0], [np.nan, 4, 1]])
    hidden = np.array([[True, False, True], [True, True, True], [False, True, False]])
    return Table(train, test, hidden, ("real", "count", "class"))


def test_scores_are_those_by_hand():
    table = small_table()
    imputed = np.array([[2.0, 9, 1], [2, 4, 1], [7, 3, 9]])
    scores = score(table, imputed)
    std = np.std([0, 2, 4, 6])
    assert scores.by_kind["real"].value == pytest.approx(np.sqrt((1 + 9) / 2) / std)
    assert scores.by_kind["count"].value == pytest.approx((2 + 1) / 2)
    assert scores.by_kind["class"].value == pytest.approx(0.5)
    assert [one.num_entries for one in scores.by_kind.values()] == [2, 2, 2]
    np.testing.assert_allclose(scores.by_column, [np.sqrt(5), 1.5, 0.5])


def test_standard_errors_are_over_examples():
    rng = np.random.default_rng(1)
    values = []
    for _ in range(300):
        effect = rng.normal(size=(60, 1))  # entries of one example are alike
        test = np.repeat(effect, 8, axis=1)
        table = Table(rng.normal(size=(50, 8)), test, rng.random(test.shape) < 0.5, ("real",) * 8, 1.0)
        one = score(table, np.zeros_like(test)).by_kind["real"]
        values.append((one.value, one.standard_error))
    values = np.array(values)
    assert np.mean(values[:, 1]) == pytest.approx(np.std(values[:, 0]), rel=0.25)  # 480 entries as independent: 0.4 of it


def test_the_mean_and_the_mode_are_those_of_observed_training_entries():
    table = small_table()
    np.testing.assert_allclose(mean_imputation(table), [[3, 2, 1], [3, 4, 1], [3, 4, 1]])


def test_other_methods_use_the_correlation_and_only_what_is_observed():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 1))
    x = np.concatenate([z, 2 * z + 5, (z > 0) * 1.0], axis=1) + [0.05, 0.05, 0] * rng.normal(size=(300, 3))
    hidden = np.zeros((100, 3), bool)
    hidden[:, 1], hidden[::2, 2] = True, True
    train = x[:200].copy()
    train[::5, 0] = np.nan
    table = Table(train, x[200:], hidden, ("real", "real", "class"))
    altered = table._replace(test=np.where(hidden, 7.0, table.test))
    for method in (gaussian_imputation, iterative_imputation):
        completed = method(table)
        scores = score(table, completed)
        assert scores.by_kind["real"].value < 0.1 < score(table, mean_imputation(table)).by_kind["real"].value
        assert scores.by_kind["class"].value > 0.8
        assert set(np.unique(completed[:, 2])) == {0.0, 1.0}
        assert completed[table.observed].tobytes() == table.test[table.observed].tobytes()
        np.testing.assert_array_equal(method(altered)[hidden], completed[hidden])


def test_wide_data_are_compared_with_the_mean_alone():
    train = np.zeros((3, 201))
    table = Table(train, train, np.ones(train.shape, bool), ("real",) * 201)
    imputed, notes = baselines(table)
    assert list(imputed) == ["mean"]
    assert "201 columns" in notes[0]
