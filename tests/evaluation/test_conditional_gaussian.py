"""The Gaussian fitted by EM and its conditional means, against closed forms, direct maximization and SciPy."""

import numpy as np
import pytest
from scipy import optimize, stats

from vae_jax.evaluation.conditional_gaussian import FittedGaussian, conditional_means, fit_gaussian, observed_log_px

RNG = np.random.default_rng(0)
COVARIANCE = np.array([[2.0, 1.2, -0.5], [1.2, 1.5, 0.1], [-0.5, 0.1, 1.0]])
MEAN = np.array([3.0, -2.0, 100.0])
X = RNG.multivariate_normal(MEAN, COVARIANCE, 40)
MASK = RNG.random(X.shape) < 0.6


def test_complete_data_have_the_closed_form():
    fitted = fit_gaussian(X)
    np.testing.assert_allclose(fitted.mean, X.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(fitted.covariance, np.cov(X.T, bias=True), atol=3e-6)
    assert fitted.num_steps == 0


def test_observed_log_px_is_the_density_of_the_observed_entries():
    fitted = FittedGaussian(MEAN, COVARIANCE, 0, True)
    found = observed_log_px(X, MASK, fitted)
    for i, m in enumerate(MASK):
        expected = stats.multivariate_normal.logpdf(X[i, m], MEAN[m], COVARIANCE[np.ix_(m, m)]) if m.any() else 0.0
        assert found[i] == pytest.approx(expected, abs=1e-10)


def test_conditional_means_are_those_of_dense_algebra():
    fitted = FittedGaussian(MEAN, COVARIANCE, 0, True)
    found = conditional_means(np.where(MASK, X, np.nan), MASK, fitted)
    assert found[MASK].tobytes() == X[MASK].tobytes()
    for i, m in enumerate(MASK):
        gain = COVARIANCE[np.ix_(~m, m)] @ np.linalg.inv(COVARIANCE[np.ix_(m, m)])
        np.testing.assert_allclose(found[i, ~m], MEAN[~m] + gain @ (X[i, m] - MEAN[m]), rtol=1e-10)


def test_em_reaches_the_maximum_of_the_observed_likelihood():
    x, mask = X[:, :2], MASK[:, :2]

    def loss(theta):
        factor = np.array([[np.exp(theta[2]), 0], [theta[3], np.exp(theta[4])]])
        return -observed_log_px(x, mask, FittedGaussian(theta[:2], factor @ factor.T, 0, True)).sum()

    start = np.array([*x.mean(axis=0), 0.0, 0.0, 0.0])
    best = optimize.minimize(loss, start, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9})
    fitted = fit_gaussian(x, mask, tolerance=1e-13, max_steps=5000)
    factor = np.array([[np.exp(best.x[2]), 0], [best.x[3], np.exp(best.x[4])]])
    assert fitted.converged
    np.testing.assert_allclose(fitted.mean, best.x[:2], atol=1e-4)
    np.testing.assert_allclose(fitted.covariance, factor @ factor.T, atol=1e-3)
    assert observed_log_px(x, mask, fitted).sum() == pytest.approx(-best.fun, abs=1e-4)
    # Means imputed without their conditional covariance give less variance than the maximum has.
    completed = conditional_means(x, mask, fitted)
    assert np.all(completed.var(axis=0) < np.diag(fitted.covariance) - 0.05)


def test_degenerate_columns_give_finite_numbers():
    x = np.stack([np.full(6, 5.0), np.arange(6.0), 2 * np.arange(6.0), np.zeros(6)], axis=1)
    mask = np.ones(x.shape, bool)
    mask[:, 3] = mask[2, 1] = mask[4] = False
    fitted = fit_gaussian(x, mask)
    completed = conditional_means(x, mask, fitted)
    assert np.isfinite(completed).all()
    assert completed[2, 1] == pytest.approx(2.0, abs=0.05)  # half of the third column
    np.testing.assert_allclose(completed[4], fitted.mean)
