"""The sum along an annealed path, step by step in NumPy, with transitions that are not random, in both directions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vae_jax import likelihoods
from vae_jax.evaluation import annealed_importance as annealed
from vae_jax.evaluation.annealed_importance import bdmc
from vae_jax.evaluation.annealing import Annealing
from vae_jax.evaluation.hmc import point_at
from vae_jax.model import VAE

# Uneven from either end, so that no temperature and no difference can stand for another.
TEMPERATURES = np.array([0.0, 0.05, 0.25, 0.6, 1.0])
X, TRUE_CODE, MEAN, SCALE, NOISE = 1.3, 0.9, 0.2, 0.8, 0.5


def model():
    """p(z) = N(0, 1), p(x|z) = N(z, NOISE^2), q(z|x) = N(MEAN, SCALE^2)."""
    posterior = (jnp.full(1, MEAN), jnp.full(1, math.log(SCALE), jnp.float32))
    return VAE(lambda key: {}, lambda params, x: posterior, lambda params, z: z, likelihoods.gaussian(NOISE), (1,), 1)


def log_ratio(z, start):
    """Log p(x, z) - log p_0(z), by SciPy."""
    log_likelihood = stats.norm.logpdf(X, z, NOISE)
    return log_likelihood if start == "prior" else log_likelihood + stats.norm.logpdf(z) - stats.norm.logpdf(z, MEAN, SCALE)


CHAINS = 2


def shift(z, t, chain):
    """A transition that depends on where it is, on its temperature and on its chain, so that no two weights are equal."""
    return 0.8 * z + t * t + 0.3 * chain


@pytest.fixture
def fixed_path(monkeypatch):
    """Transitions as `shift`; chains start at 0.3; uneven temperatures. Nothing adapts step sizes, which nobody needs."""

    def move_chains(keys, path, t, points, *rest):
        moved = jax.vmap(lambda z, t, chain: point_at(path, shift(z, t, chain)))(points.z, t, jnp.arange(len(t)) % CHAINS)
        return moved, jnp.full(t.shape, 0.5)

    def start(keys, problem):
        return jax.vmap(lambda key: point_at(problem.path, jnp.full(1, 0.3)))(keys)

    monkeypatch.setattr(Annealing, "temperatures", lambda self: TEMPERATURES)
    monkeypatch.setattr(annealed, "adapt_step_sizes", lambda *args, **options: lambda number: 1.0 + 0.0 * number)
    monkeypatch.setattr(annealed, "move_chains", move_chains)
    monkeypatch.setattr(annealed, "_start", start)


def assert_both_sums(start):
    settings = Annealing(start=start, num_temperatures=len(TEMPERATURES) - 1, num_chains=CHAINS)
    x, z = jnp.full(1, X), jnp.full(1, TRUE_CODE)
    bounds = jax.jit(lambda key: bdmc(key, model(), {}, x, z, settings))(jax.random.key(0))
    weights, inverses = [], []
    for chain in range(CHAINS):
        log_w, code = 0.0, 0.3
        for i in range(1, len(TEMPERATURES)):  # z_(i-1) is weighed on the way from t_(i-1) to t_i, and then moved at t_i
            log_w += (TEMPERATURES[i] - TEMPERATURES[i - 1]) * log_ratio(code, start)
            code = shift(code, TEMPERATURES[i], chain)
        weights.append(math.exp(log_w))
        log_w, code = 0.0, TRUE_CODE
        for i in range(len(TEMPERATURES) - 2, -1, -1):  # and backwards: weighed from t_(i+1) down to t_i, then moved at t_i
            log_w += (TEMPERATURES[i + 1] - TEMPERATURES[i]) * log_ratio(code, start)
            code = shift(code, TEMPERATURES[i], chain)
        inverses.append(math.exp(-log_w))
    assert len({*np.round(weights, 2), *np.round(1 / np.array(inverses), 2)}) == 2 * CHAINS
    np.testing.assert_allclose(bounds.lower.log_px, math.log(np.mean(weights)), rtol=1e-4)
    np.testing.assert_allclose(bounds.upper.log_px, -math.log(np.mean(inverses)), rtol=1e-4)
    np.testing.assert_allclose([side.acceptance_rate for side in bounds], 0.5, rtol=1e-6)


@pytest.mark.parametrize("start", ["posterior", "prior"])
def test_weights_are_the_sums_along_the_path_in_both_directions(start, fixed_path):
    assert_both_sums(start)


def without_differences(monkeypatch):
    monkeypatch.setattr(annealed, "_increments", lambda t: np.full_like(t[1:], 1 / (len(t) - 1)))


def differences_of_the_step_after(monkeypatch):
    monkeypatch.setattr(annealed, "_increments", lambda t: np.roll(np.diff(t), -1))


def moves_at_the_temperature_after(monkeypatch):
    real = annealed.move_chains
    monkeypatch.setattr(annealed, "move_chains", lambda keys, path, t, *rest: real(keys, path, t + 0.1, *rest))


@pytest.mark.parametrize("broken", [without_differences, differences_of_the_step_after, moves_at_the_temperature_after])
def test_broken_copies_of_the_path_fail(broken, fixed_path, monkeypatch):
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        assert_both_sums("prior")


@pytest.mark.parametrize("reverse", [False, True])
def test_estimate_and_error_over_few_chains_are_those_of_a_mean(reverse):
    """Compares with SciPy, for the weights of three chains, or for their inverses in reverse."""
    weights = np.array([0.5, 1.0, 3.0])
    found = annealed._summary(jnp.log(jnp.asarray(weights, jnp.float32)), jnp.array([0.2, 0.4, 0.9]), reverse=reverse)
    of_mean = 1 / weights if reverse else weights
    expected = -math.log(of_mean.mean()) if reverse else math.log(of_mean.mean())
    assert float(found.log_px) == pytest.approx(expected, rel=1e-5)
    assert float(found.standard_error) == pytest.approx(stats.sem(of_mean) / of_mean.mean(), rel=1e-5)
    assert float(found.effective_sample_size) == pytest.approx(of_mean.sum() ** 2 / (of_mean**2).sum(), rel=1e-5)
    assert float(found.acceptance_rate) == pytest.approx(0.5)
