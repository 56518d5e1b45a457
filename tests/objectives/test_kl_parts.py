"""The parts of the aggregate KL, on data so small that the aggregate posterior can be enumerated."""

import itertools

import numpy as np
import pytest
from batch_data import N, densities, float32, posteriors
from scipy import stats

from vae_jax.objectives.batch import kl_parts, log_importance_weights


@pytest.mark.parametrize(("batch", "total"), [(2, 6), (3, 6), (6, 6), (128, 1438)])
def test_rows_of_weights_sum_as_the_paper_says(batch, total):
    np.testing.assert_allclose(np.exp(log_importance_weights(batch, total, "stratified")).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.exp(log_importance_weights(batch, total, "weighted")).sum(axis=1), 1 / total, rtol=1e-5)
    np.testing.assert_allclose(np.exp(np.diagonal(log_importance_weights(batch, total, "stratified"))), 1 / total, rtol=1e-5)


def assert_unbiased(batch, change=lambda weights: weights):
    """The estimate of q(z_i) for every code, averaged over every batch that its example can be in, is q(z_i)."""
    z, mean, log_scale = posteriors()
    table = densities(z, mean, log_scale).prod(axis=2)
    weights = change(np.exp(np.asarray(log_importance_weights(batch, N, "stratified"), np.float64)))
    for i in range(N):
        rest = itertools.combinations([m for m in range(N) if m != i], batch - 1)
        # The example itself takes each place in turn, as it does in a batch.
        estimates = [np.mean([weights[k] @ table[i, [*r[:k], i, *r[k:]]] for k in range(batch)]) for r in rest]
        np.testing.assert_allclose(np.mean(estimates), table[i].mean(), rtol=1e-5)


@pytest.mark.parametrize("batch", [2, 3, 5, 6])
def test_the_stratified_estimate_of_q_is_unbiased(batch):
    assert_unbiased(batch)


def test_the_papers_own_weights_have_the_same_mean_and_more_variance():
    """One other example, by its place in the batch, gets (N - M)/(N M), the rest 1/M each; M = B - 1."""
    z, mean, log_scale = posteriors()
    table = densities(z, mean, log_scale).prod(axis=2)
    batch, m = 4, 3
    paper = np.array([1 / N, 1 / m, 1 / m, (N - m) / (N * m)])
    ours = np.exp(np.asarray(log_importance_weights(batch, N, "stratified"), np.float64))[0]
    assert paper.sum() == pytest.approx(1)
    for i in range(N):
        orders = list(itertools.permutations([k for k in range(N) if k != i], m))
        values = np.array([[paper @ table[i, [i, *rest]], ours @ table[i, [i, *rest]]] for rest in orders])
        np.testing.assert_allclose(values.mean(axis=0), table[i].mean(), rtol=1e-6)
        assert values[:, 1].var() < values[:, 0].var()


def test_the_whole_data_set_as_a_batch_gives_the_exact_decomposition():
    z, mean, log_scale = posteriors()
    table = densities(z, mean, log_scale)
    log_q_given_x = np.log(np.einsum("iid->id", table)).sum(axis=1)
    log_q, log_product = np.log(table.prod(axis=2).mean(axis=1)), np.log(table.mean(axis=1)).sum(axis=1)
    log_p = stats.norm.logpdf(z).sum(axis=1)
    parts = kl_parts(*float32(z, mean, log_scale), num_examples=N)
    for got, expected in zip(parts, (log_q_given_x - log_q, log_q - log_product, log_product - log_p), strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("weights", ["stratified", "weighted"])
def test_the_parts_add_up_to_the_sampled_kl(weights):
    z, mean, log_scale = posteriors()
    parts = kl_parts(*float32(z, mean, log_scale), num_examples=50, weights=weights)
    expected = stats.norm.logpdf(z, mean, np.exp(log_scale)).sum(axis=1) - stats.norm.logpdf(z).sum(axis=1)
    np.testing.assert_allclose(sum(parts), expected, rtol=1e-4, atol=1e-4)
    if weights == "weighted":  # log q(z) as the paper writes it
        table = densities(z, mean, log_scale)
        log_q = np.log(table.prod(axis=2).sum(axis=1) / (50 * N))
        got = np.log(np.einsum("iid->id", table)).sum(axis=1) - np.asarray(parts.mutual_information)
        np.testing.assert_allclose(got, log_q, rtol=1e-4, atol=1e-4)


def _reference_code(w):
    """1/N in the first column of every row rather than on the diagonal, so that one row sums to more than one."""
    m = len(w) - 1
    broken = np.full_like(w, 1 / m)
    broken[:, 0] = 1 / N
    broken[:, 1] = (N - m) / (N * m)
    broken[m - 1, 0] = (N - m) / (N * m)
    return broken


BROKEN_WEIGHTS = {
    "the reference code": _reference_code,
    "uniform": lambda w: np.full_like(w, 1 / len(w)),
    "no weight on its own example": lambda w: w * (1 - np.eye(len(w))),
    "the weighted ones": lambda w: np.full_like(w, 1 / (N * len(w))),
}


@pytest.mark.parametrize("change", BROKEN_WEIGHTS.values(), ids=BROKEN_WEIGHTS)
def test_broken_twins_of_the_weights_fail(change):
    with pytest.raises(AssertionError):
        assert_unbiased(4, change)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match=r"a batch of 6 with num_examples=5"):
        kl_parts(*float32(*posteriors()), num_examples=5)
    with pytest.raises(ValueError, match="'stratified' or 'weighted'"):
        log_importance_weights(3, 6, "other")
