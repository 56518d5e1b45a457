"""The disentanglement metrics, against loops over SciPy and scikit-learn, known ceilings, and codes whose scores are known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disentanglement_loops import (
    KEY,
    SMALL,
    assert_mutual_information,
    beta_vae_by_loops,
    dci_by_loops,
    explicitness_by_ranks,
    factor_vae_by_loops,
    full_grid,
    sap_by_loops,
)
from scipy import linalg, stats

from vae_jax import disentanglement as dis


# Each metric is the loop.
def test_mutual_information_mig_and_modularity_are_the_loops(table):
    assert_mutual_information(table)


def test_dead_codes_count_zero_in_modularity_and_nearly_dead_ones_do_not():
    factors = full_grid((4, 5, 30))
    codes = factors.astype(float)
    assert dis.modularity(codes, factors) == pytest.approx(1, abs=1e-12)
    dead = np.concatenate([codes, np.full((600, 3), 0.1)], axis=1)
    assert dis.modularity(dead, factors) == pytest.approx(0.5, abs=1e-12)
    nearly = np.concatenate([codes, 1e-6 * np.random.default_rng(0).normal(size=(600, 3))], axis=1)
    assert dis.modularity(nearly, factors) > 0.55


def test_the_beta_vae_score_is_the_loop(table):
    codes, factors = table
    expected = beta_vae_by_loops(codes, dis.beta_vae_draws(KEY, factors, SMALL))
    assert dis.beta_vae_score(KEY, codes, factors, SMALL) == pytest.approx(expected, abs=1e-6)
    assert 0.5 < expected < 1


def test_the_factor_vae_score_is_the_loop(table):
    codes, factors = table
    expected, active = factor_vae_by_loops(codes, factors, dis.factor_vae_draws(KEY, factors, SMALL))
    assert active == [1, 2, 3, 4, 5]  # neither the code that hardly moves nor the constant one
    assert dis.factor_vae_score(KEY, codes, factors, SMALL) == pytest.approx(expected, abs=1e-6)
    assert 0.5 < expected < 1
    votes = dis.factor_vae_votes(KEY, codes, factors, SMALL)
    assert votes.train.sum() == 400
    assert votes.evaluation.shape == (3, 5)
    np.testing.assert_array_equal(np.flatnonzero(votes.active), active)
    without_pruning = dis.factor_vae_votes(KEY, codes, factors, SMALL._replace(least_std=0.0))
    np.testing.assert_array_equal(np.flatnonzero(without_pruning.active), range(6))  # a constant code never votes


def test_the_majority_is_that_of_the_training_votes(table):
    """Codes that tell nothing, and few votes: the majorities of the two sets differ."""
    factors = table[1]
    noise = np.random.default_rng(0).normal(size=(700, 4))
    settings = SMALL._replace(num_points=20, num_eval=10, batch_size=4)
    votes = dis.factor_vae_votes(KEY, noise, factors, settings)
    assert np.any(np.argmax(votes.train, axis=0) != np.argmax(votes.evaluation, axis=0))
    expected, _ = factor_vae_by_loops(noise, factors, dis.factor_vae_draws(KEY, factors, settings))
    assert dis.factor_vae_score(KEY, noise, factors, settings) == pytest.approx(expected, abs=1e-6)


def test_large_tables_are_worked_through_in_parts(table, monkeypatch):
    codes, factors = table
    whole = [f(KEY, codes, factors, SMALL) for f in (dis.beta_vae_score, dis.factor_vae_score)]
    monkeypatch.setattr("vae_jax.disentanglement.fixed_factor._MAX_ENTRIES", 8 * 7 * 33)
    assert [f(KEY, codes, factors, SMALL) for f in (dis.beta_vae_score, dis.factor_vae_score)] == whole


def test_sap_is_the_loop(table):
    codes, factors = table
    expected = sap_by_loops(codes, factors, dis.draw_rows(KEY, 700, SMALL))
    assert dis.sap(KEY, codes, factors, SMALL) == pytest.approx(expected, abs=1e-6)
    assert expected > 0.01


@pytest.mark.slow
def test_dci_is_the_loop(table):
    codes, factors = table
    key_rows, key_trees = jax.random.split(KEY)
    seeds = [int(jax.random.bits(jax.random.fold_in(key_trees, f), (), jnp.uint32)) for f in range(3)]
    got = dis.dci(KEY, codes, factors, SMALL)
    expected = dci_by_loops(codes, factors, dis.draw_rows(key_rows, 700, SMALL), seeds)
    np.testing.assert_allclose(got[:3], expected, atol=1e-6)
    assert got.importance.shape == (7, 3)
    np.testing.assert_allclose(got.importance.sum(axis=0), 1, rtol=1e-9)
    np.testing.assert_array_equal(got.importance[-1], 0)  # the constant code


def test_explicitness_is_the_area_from_ranks(table):
    codes, factors = table
    expected = explicitness_by_ranks(codes, factors, dis.draw_rows(KEY, 700, SMALL))
    assert dis.explicitness(KEY, codes, factors, SMALL) == pytest.approx(expected, abs=1e-6)
    assert 0.7 < expected < 1


@pytest.mark.parametrize("seed", range(5))
def test_the_correlations_of_a_gaussian_are_those_of_dense_algebra(seed):
    rng = np.random.default_rng(seed)
    codes = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)) * np.exp(rng.normal(size=6)) + 3
    s = sum(np.outer(row, row) for row in codes - codes.mean(axis=0)) / 49
    d = np.diag(np.diag(s))
    kl = (np.trace(np.linalg.inv(d) @ s) - 6 + np.log(np.linalg.det(d) / np.linalg.det(s))) / 2
    assert dis.gaussian_total_correlation(codes) == pytest.approx(kl, rel=1e-8)
    root = linalg.sqrtm(d)
    distance = np.trace(s + d - 2 * linalg.sqrtm(root @ s @ root).real)
    got = dis.gaussian_wasserstein_correlation(codes)
    assert got.squared_distance == pytest.approx(distance, rel=1e-8)
    assert got.normalized == pytest.approx(distance / np.trace(s), rel=1e-8)
    with_constant = np.concatenate([codes, np.full((50, 2), 0.1)], axis=1)
    assert dis.gaussian_total_correlation(with_constant) == pytest.approx(kl, rel=1e-8)
    assert dis.gaussian_wasserstein_correlation(with_constant).normalized == pytest.approx(got.normalized, rel=1e-8)


def test_scaling_codes_changes_what_it_should():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 3))
    plain, scaled = (dis.gaussian_wasserstein_correlation(c) for c in (codes, 7 * codes))
    assert scaled.squared_distance == pytest.approx(49 * plain.squared_distance, rel=1e-9)
    assert scaled.normalized == pytest.approx(plain.normalized, rel=1e-9)
    each = codes * np.array([1e-9, 1.0, 1e9])
    assert dis.gaussian_total_correlation(each) == pytest.approx(dis.gaussian_total_correlation(codes), rel=1e-6)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_copies_of_one_code(count):
    codes = np.repeat(np.random.default_rng(0).normal(size=(40, 1)), count, axis=1)
    assert dis.gaussian_wasserstein_correlation(codes).normalized == pytest.approx(2 - 2 / math.sqrt(count), abs=1e-6)
    floor = count * np.finfo(float).eps
    expected = -((count - 1) * math.log(floor) + math.log(count)) / 2
    assert dis.gaussian_total_correlation(codes) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("part", "broken"),
    [
        ("bin_codes", lambda real, codes, bins: real(codes, 2 * bins)),
        ("bin_codes", lambda real, codes, bins: real(stats.rankdata(codes, axis=0), bins)),  # of equal counts, not widths
        ("mutual_information_matrix", lambda real, a, b: real(a, b) / np.log(2)),  # bits
        ("mutual_information_matrix", lambda real, a, b: real(b, a)),  # transposed
        ("entropies", lambda real, labels: real(labels) / np.log(2)),
        ("entropies", lambda real, labels: np.log(1 + labels.max(axis=0))),  # of the uniform distribution
    ],
)
def test_broken_twins_of_the_gap_fail(table, part, broken, monkeypatch):
    real = getattr(dis, part)
    monkeypatch.setattr(f"vae_jax.disentanglement.mutual_information.{part}", lambda *arguments: broken(real, *arguments))
    with pytest.raises((AssertionError, ValueError)):
        assert_mutual_information(table)
