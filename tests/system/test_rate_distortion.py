"""The linear beta-VAE and pPCA of experiments/reproductions/linear, against the optimum of each direction by itself."""

import importlib.util
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from paths import ROOT
from scipy import optimize

from vae_jax import evaluation

SCRIPT = ROOT / "experiments" / "reproductions" / "linear" / "run.py"
BETAS = (0.25, 0.5, 1.0, 2.0, 4.0)  # no eigenvalue within a third of one
STEPS = 10_000


@pytest.fixture(scope="module")
def linear():
    spec = importlib.util.spec_from_file_location("linear_reproduction", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for themselves
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def x(linear):
    x = linear.data()
    found = np.linalg.eigvalsh(np.cov(np.asarray(x, np.float64).T, bias=True))
    np.testing.assert_allclose(found[::-1], linear.EIGENVALUES, rtol=1e-5)
    np.testing.assert_allclose(np.mean(x, axis=0), 0, atol=1e-6)
    return x


@pytest.fixture(scope="module")
def trained(linear, x):
    vae = linear.linear_vae(6, learned_scale=False)
    return vae, jax.device_get(linear.train(vae, x, BETAS, (0,), STEPS))


def best_of_one(eigenvalue, beta):
    """(KL, squared error) of the best linear code of one Gaussian direction, found numerically: the error is what is chosen."""

    def rate(error):
        return 0.5 * math.log(eigenvalue / error)

    found = optimize.minimize_scalar(
        lambda error: error / 2 + beta * rate(error), bounds=(1e-6, eigenvalue), method="bounded", options={"xatol": 1e-10}
    )
    return rate(found.x), found.x


@pytest.mark.slow
@pytest.mark.parametrize("i", range(len(BETAS)), ids=[f"beta {beta:g}" for beta in BETAS])
def test_training_lands_on_the_curve(i, linear, x, trained):
    vae, params = trained
    params = jax.tree.map(lambda leaf: leaf[i, 0], params)
    rates, errors = np.transpose([best_of_one(eigenvalue, BETAS[i]) for eigenvalue in linear.EIGENVALUES])
    got, num_collapsed = linear.measure(vae, params, x)
    assert got.rate == pytest.approx(rates.sum(), abs=1e-2)  # nats
    assert got.error / 2 == pytest.approx(errors.sum() / 2, abs=1e-2)  # distortion but for its constant
    np.testing.assert_allclose(got.units, np.sort(rates)[::-1], atol=1e-2)
    # Collapsed are those units with an eigenvalue below theta, and no others.
    assert num_collapsed == np.sum(got.units < 1e-2) == np.sum(BETAS[i] >= linear.EIGENVALUES)
    exact = linear.water_filling(6, BETAS[i])
    assert (exact.rate, exact.error) == pytest.approx((rates.sum(), errors.sum()), abs=1e-4)
    if BETAS[i] == 1:  # the ELBO of the optimum is the log-likelihood of the model's marginal, so sigma^2 = 1 leaves no gap
        weights = np.asarray(jax.jacobian(lambda z: vae.decode(params, z))(jnp.zeros(6)), np.float64)
        assert got.elbo == pytest.approx(log_likelihood(x, weights, 1.0), abs=1e-2)


def log_likelihood(x, weights, scale):
    """Mean log p(x) of x ~ N(0, W W' + sigma^2 I)."""
    covariance = weights @ weights.T + scale**2 * np.eye(len(weights))
    sign, log_det = np.linalg.slogdet(2 * np.pi * covariance)
    assert sign == 1
    return -0.5 * (log_det + np.mean(np.sum(np.asarray(x) @ np.linalg.inv(covariance) * np.asarray(x), axis=1)))


@pytest.mark.slow
def test_the_measured_numbers_are_those_of_sampling(linear, x, trained):
    """Within 4.5 standard errors over the draws: fails for 1 in 100,000 keys."""
    vae, params = trained
    params = jax.tree.map(lambda leaf: leaf[2, 0], params)
    got, _ = linear.measure(vae, params, x)
    keys = jax.random.split(jax.random.key(1), 100)

    def sampled(key):
        found = evaluation.evaluate(key, vae, params, x, batch_size=500)
        return jnp.mean(found.log_likelihood - found.kl)

    draws = jax.jit(jax.vmap(sampled))(keys)
    error = float(np.std(draws, ddof=1)) / 10
    assert 0 < error < 0.02
    assert float(np.mean(draws)) == pytest.approx(float(got.elbo), abs=4.5 * error)


@pytest.mark.slow
def test_the_elbo_of_a_learned_scale_is_the_likelihood_of_ppca(linear, x):
    vae, exact = linear.linear_vae(2, learned_scale=True), linear.ppca(2)
    params = jax.device_get(linear.train(vae, x, (1.0,), (0,), STEPS))
    got, num_collapsed = linear.measure(vae, jax.tree.map(lambda leaf: leaf[0, 0], params), x)
    assert num_collapsed == 0
    # Tipping & Bishop's solution by hand: W = U (Lambda - sigma^2)^(1/2) of the two largest, sigma^2 the mean of the others.
    values, vectors = np.linalg.eigh(np.cov(np.asarray(x, np.float64).T, bias=True))
    variance = values[:4].mean()
    assert got.scale == pytest.approx(math.sqrt(variance), abs=2e-3)
    best = log_likelihood(x, vectors[:, 4:] * np.sqrt(values[4:] - variance), math.sqrt(variance))
    assert exact.elbo == pytest.approx(best, abs=1e-4)
    assert got.elbo == pytest.approx(best, abs=1e-2)
    assert got.elbo < best + 1e-4
