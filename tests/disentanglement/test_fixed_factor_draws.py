"""The rows that the disentanglement metrics draw: uniform, and with a factor in common."""

import budget
import jax
import numpy as np
import pytest
from disentanglement_loops import KEY

from vae_jax import disentanglement as dis
from vae_jax.disentanglement import Settings
from vae_jax.errors import UserError


# The draws.
def test_rows_are_uniform_with_replacement_and_apart_without():
    train, evaluation = dis.draw_rows(KEY, 300, Settings(num_points=300, num_eval=200))
    assert len(np.unique(train)) < 300
    for rows in (train, evaluation):
        budget.accept_frequencies(np.bincount(rows, minlength=300), np.full(300, 1 / 300))
    apart = dis.draw_rows(KEY, 500, Settings(num_points=300, num_eval=200, replace=False))
    np.testing.assert_array_equal(np.sort(np.concatenate(apart)), np.arange(500))
    assert np.any(np.diff(apart.train) < 0)
    with pytest.raises(UserError, match=r"at least 501 rows \(num_points \+ num_eval\) in draw_rows, got 500"):
        dis.draw_rows(KEY, 500, Settings(num_points=301, num_eval=200, replace=False))


def ragged():
    """Values of unequal frequencies, and an example of a value that comes once."""
    rng = np.random.default_rng(1)
    factors = np.stack([rng.choice(3, 60, p=[0.6, 0.3, 0.1]), rng.choice(4, 60)], axis=1) * 5
    factors[17, 0] = 99
    return factors


def assert_pairs():
    factors = ragged()
    pairs, evaluation = dis.beta_vae_draws(KEY, factors, Settings(num_points=3000, num_eval=100, batch_size=8))
    assert evaluation.first.shape == (100, 8)
    budget.accept_frequencies(np.bincount(pairs.factor, minlength=2), [0.5, 0.5])
    for f in range(2):
        first, second = (rows[pairs.factor == f].ravel() for rows in (pairs.first, pairs.second))
        np.testing.assert_array_equal(factors[first, f], factors[second, f])
        # The second row of a pair is as uniform as the first, and within a value independent of it.
        budget.accept_frequencies(np.bincount(first, minlength=60), np.full(60, 1 / 60))
        budget.accept_frequencies(np.bincount(second, minlength=60), np.full(60, 1 / 60))
        members = np.flatnonzero(factors[:, f] == factors[0, f])
        partners = np.searchsorted(members, second[first == members[0]])
        uniform = np.full(len(members), 1 / len(members))
        budget.accept_frequencies(np.bincount(partners, minlength=len(members)), uniform, least=5)


def test_pairs_agree_in_their_factor_and_are_uniform_otherwise():
    assert_pairs()


def test_batches_agree_in_their_factor_and_are_uniform_otherwise():
    factors = ragged()
    settings = Settings(num_points=3000, num_eval=100, num_variance_points=60, batch_size=8)
    rows, batches, evaluation = dis.factor_vae_draws(KEY, factors, settings)
    assert rows.shape == (60,)
    assert evaluation.rows.shape == (100, 8)
    values = factors[batches.rows, batches.factor[:, None]]
    np.testing.assert_array_equal(values, np.repeat(values[:, :1], 8, axis=1))
    # One row of each batch: those of a batch are not independent of each other.
    budget.accept_frequencies(np.bincount(batches.rows[:, 3], minlength=60), np.full(60, 1 / 60), least=5)
    assert np.all((np.ptp(batches.rows, axis=1) > 0) | (values[:, 0] == 99))
    apart = dis.factor_vae_draws(KEY, factors, settings._replace(replace=False))[0]
    np.testing.assert_array_equal(np.sort(apart), np.arange(60))


def test_draws_do_not_depend_on_the_width_of_numbers():
    settings = Settings(num_points=20, num_eval=10, batch_size=4)
    draw = lambda: jax.tree.leaves((dis.draw_rows(KEY, 60, settings), dis.beta_vae_draws(KEY, ragged(), settings)))  # noqa: E731
    narrow = draw()
    with jax.enable_x64(True):
        wide = draw()
    for a, b in zip(narrow, wide, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == np.int64


@pytest.mark.parametrize(
    "broken",
    [
        lambda real, key, groups, factor, rows: rows,  # each row with itself
        lambda real, key, groups, factor, rows: real(key, groups, 1 - factor, rows),  # that agree in another factor
        lambda real, key, groups, factor, rows: real(key, groups, factor, rows[:, ::-1]),  # of another pair
    ],
)
def test_broken_twins_of_the_pairs_fail(broken, monkeypatch):
    from vae_jax.disentanglement import draws

    real = draws._rows_that_agree
    monkeypatch.setattr(draws, "_rows_that_agree", lambda *arguments: broken(real, *arguments))
    with pytest.raises(AssertionError):
        assert_pairs()
