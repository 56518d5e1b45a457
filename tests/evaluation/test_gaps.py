"""The approximation and the amortization gap, on linear-Gaussian models where both are KL divergences in closed form."""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from budget import accept, accept_mean
from scipy import stats
from speed import slow_but

from vae_jax import likelihoods
from vae_jax.evaluation import DataSlice
from vae_jax.evaluation.gaps import GapSettings, fit_posterior, gaps, gaps_dataset
from vae_jax.model import VAE
from vae_jax.priors import gaussian_mixture

module = sys.modules["vae_jax.evaluation.gaps"]  # the package's attribute of that name is the function
SIGMA, LATENT, DATA_DIM, COUNT = 0.5, 3, 5, 24


def kl(mean_q, covariance_q, mean_p, covariance_p):
    """KL of two Gaussians by dense algebra."""
    precision = np.linalg.inv(covariance_p)
    distance = mean_p - mean_q
    log_determinants = np.linalg.slogdet(covariance_p)[1] - np.linalg.slogdet(covariance_q)[1]
    return 0.5 * (np.trace(precision @ covariance_q) + distance @ precision @ distance - len(mean_q) + log_determinants)


class Linear:
    """X = W z + noise, z ~ N(0, I) or N(prior_mean, prior_scale^2); the encoder is off by (shift, log_factor)."""

    def __init__(self, rotated, shift=0.0, log_factor=0.0, prior_mean=0.0, prior_scale=1.0, prior=None):
        rng = np.random.default_rng(0)
        rotation = stats.special_ortho_group(LATENT, seed=3).rvs() if rotated else np.eye(LATENT)
        weights = np.linalg.qr(rng.normal(size=(DATA_DIM, LATENT)))[0] * np.array([1.5, 0.8, 0.3]) @ rotation
        prior_precision = np.eye(LATENT) / prior_scale**2
        self.precision = weights.T @ weights / SIGMA**2 + prior_precision
        self.covariance = np.linalg.inv(self.precision)
        z = prior_mean + prior_scale * rng.normal(size=(COUNT, LATENT))
        self.x = z @ weights.T + SIGMA * rng.normal(size=(COUNT, DATA_DIM))
        self.means = (self.x @ weights / SIGMA**2 + prior_mean / prior_scale**2) @ self.covariance
        marginal = prior_scale**2 * weights @ weights.T + SIGMA**2 * np.eye(DATA_DIM)
        self.log_px = stats.multivariate_normal(weights @ np.full(LATENT, prior_mean), marginal).logpdf(self.x)
        self.variance_q = np.exp(2 * log_factor) * np.diag(self.covariance)
        self.means_q = self.means + shift
        # The best diagonal Gaussian has the mean, and in each dimension the precision, of the posterior.
        self.best_variance = 1 / np.diag(self.precision)
        w, gain = jnp.asarray(weights, jnp.float32), jnp.asarray(weights @ self.covariance / SIGMA**2, jnp.float32)
        offset = jnp.asarray(self.covariance @ np.full(LATENT, prior_mean / prior_scale**2) + shift, jnp.float32)
        log_scale = jnp.asarray(np.log(self.variance_q) / 2, jnp.float32)
        self.vae = VAE(
            lambda key: {},
            lambda params, x: (x @ gain + offset, log_scale),
            lambda params, z: w @ z,
            likelihoods.gaussian(SIGMA),
            (DATA_DIM,),
            LATENT,
            prior,
        )

    def run(self, params=None, first=0, log_jacobian=0.0, **settings):
        x, log_px = jnp.asarray(self.x, jnp.float32), jnp.asarray(self.log_px, jnp.float32)

        def compute(key):
            part, options = DataSlice(x, first), GapSettings(**settings)
            return gaps_dataset(key, self.vae, params or {}, part, log_px, options, log_jacobian=log_jacobian)

        return jax.jit(compute)(jax.random.key(0))

    def kl_of_encoder(self):
        return np.array(
            [kl(m, np.diag(self.variance_q), p, self.covariance) for m, p in zip(self.means_q, self.means, strict=True)]
        )

    def kl_of_best(self):
        return kl(np.zeros(LATENT), np.diag(self.best_variance), np.zeros(LATENT), self.covariance)


OFF = {"shift": 0.25, "log_factor": 0.3}


def assert_closed_forms(rotated):
    """Every elbo and both gaps against KL divergences, by z-tests of the examples' means in units of their standard errors."""
    model = Linear(rotated, **OFF)
    found = model.run()
    approximation, amortization = model.kl_of_best(), model.kl_of_encoder() - model.kl_of_best()
    assert np.all(amortization > 0.1)
    fit = 1e-3  # of the KL: what so many steps leave
    for got, expected, error, slack in (
        (found.elbo, model.log_px - model.kl_of_encoder(), found.elbo_standard_error, 1e-5),
        (found.best_elbo, model.log_px - approximation, found.best_elbo_standard_error, fit),
        (found.approximation_gap, approximation, found.best_elbo_standard_error, fit),
        (found.amortization_gap, amortization, found.amortization_gap_standard_error, fit),
    ):
        difference, error = np.asarray(got, np.float64) - expected, np.asarray(error, np.float64)
        assert np.all(error > 0)
        # Independent over the examples, with errors that are known.
        z = max(abs(np.sum(difference)) - COUNT * slack, 0) / np.sqrt(np.sum(error**2))
        accept(2 * stats.norm.sf(z))
        accept(stats.chi2.sf(np.sum((np.maximum(np.abs(difference) - slack, 0) / error) ** 2), COUNT))
    np.testing.assert_allclose(found.mean, model.means, atol=0.02)
    np.testing.assert_allclose(found.log_scale, np.tile(np.log(model.best_variance) / 2, (COUNT, 1)), atol=0.02)
    return found, approximation


@pytest.mark.slow
def test_with_a_diagonal_posterior_nothing_is_lost_to_the_family():
    found, approximation = assert_closed_forms(rotated=False)
    assert approximation == pytest.approx(0, abs=1e-12)
    assert abs(np.mean(found.approximation_gap)) < 0.05


def test_a_rotated_decoder_loses_the_kl_of_the_best_diagonal_gaussian():
    found, approximation = assert_closed_forms(rotated=True)
    assert approximation > 0.1
    assert np.mean(found.approximation_gap) > approximation / 2


SHORT = {"num_steps": 20, "num_evaluation_samples": 40}


@pytest.fixture(scope="module")
def short():
    """A model whose posterior is not diagonal, and its gaps after short fits."""
    model = Linear(rotated=True, **OFF)
    return model, model.run(**SHORT)


def test_the_two_gaps_add_up(short):
    model, found = short
    np.testing.assert_allclose(
        found.approximation_gap + found.amortization_gap,
        model.log_px - np.asarray(found.elbo, np.float64),
        rtol=1e-5,
        atol=1e-5,
    )
    np.testing.assert_allclose(found.log_px, model.log_px, rtol=1e-6)


def test_the_encoder_is_kept_where_the_fit_is_no_better():
    """An encoder that is the true posterior, and a fit whose steps are far too long."""
    model = Linear(rotated=False)
    found = model.run(num_steps=3, learning_rate=5.0, num_evaluation_samples=100)
    np.testing.assert_array_equal(found.amortization_gap, 0)
    np.testing.assert_allclose(found.amortization_gap_standard_error, 0, atol=1e-6)  # equal numbers, but for rounding
    np.testing.assert_allclose(found.mean, model.means, rtol=1e-4, atol=1e-5)


def test_a_learned_prior_has_its_kl_sampled():
    prior = gaussian_mixture(LATENT, 1)
    model = Linear(rotated=False, **OFF, prior_mean=0.5, prior_scale=0.7, prior=prior)
    params = {
        "prior": {
            "logits": jnp.zeros(1),
            "means": jnp.full((1, LATENT), 0.5),
            "log_scales": jnp.full((1, LATENT), math.log(0.7)),
        }
    }
    found = model.run(params, num_evaluation_samples=2000)
    amortization = model.kl_of_encoder()
    error = np.asarray(found.amortization_gap_standard_error, np.float64)
    difference = np.asarray(found.amortization_gap, np.float64) - amortization
    z = max(abs(np.sum(difference)) - COUNT * 1e-3, 0) / np.sqrt(np.sum(error**2))
    accept(2 * stats.norm.sf(z))
    # At the true posterior each draw of log p(x, z) - log q(z|x) is log p(x).
    np.testing.assert_allclose(found.approximation_gap, 0, atol=0.02)
    assert np.all(np.asarray(found.best_elbo_standard_error) < 0.05 * np.asarray(found.elbo_standard_error))


def test_standard_errors_are_those_of_repetition():
    model = Linear(rotated=True, **OFF)
    x, posterior = jnp.asarray(model.x[0], jnp.float32), model.vae.encode({}, jnp.asarray(model.x[0], jnp.float32))

    def one(key):
        return gaps(
            key,
            posterior,
            lambda z: model.vae.decode({}, z),
            model.vae.likelihood.log_prob,
            x,
            jnp.zeros(()),
            GapSettings(num_steps=30, num_evaluation_samples=50),
        )

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 2000))
    expected = float(model.log_px[0] - model.kl_of_encoder()[0])
    accept_mean(found.elbo, expected, slack=1e-5)
    assert np.mean(found.elbo_standard_error) == pytest.approx(np.std(np.asarray(found.elbo)), rel=0.1)
    # The fits differ from one another as well, so here only roughly; the draws in common make it less than that of an elbo.
    assert np.mean(found.amortization_gap_standard_error) == pytest.approx(np.std(np.asarray(found.amortization_gap)), rel=0.3)
    assert np.mean(found.amortization_gap_standard_error) < 0.7 * np.mean(found.elbo_standard_error)


@pytest.mark.parametrize("rotated", [False, True])
def test_the_fit_finds_the_best_diagonal_gaussian_from_far_away(rotated):
    model = Linear(rotated)
    start = (jnp.full(LATENT, 3.0), jnp.full(LATENT, -4.0))

    def fit(key, x):
        decode = lambda z: model.vae.decode({}, z)  # noqa: E731
        return fit_posterior(key, start, decode, model.vae.likelihood.log_prob, x)

    keys, x = jax.random.split(jax.random.key(0), COUNT), jnp.asarray(model.x, jnp.float32)
    mean, log_scale = jax.jit(jax.vmap(fit))(keys, x)
    lost = [
        kl(m, np.diag(np.exp(2 * s)), p, model.covariance) - model.kl_of_best()
        for m, s, p in zip(np.asarray(mean, np.float64), np.asarray(log_scale, np.float64), model.means, strict=True)
    ]
    assert np.max(lost) < 5e-3
    assert np.mean(lost) < 1e-3


def test_the_batch_size_changes_nothing_nor_does_a_part_and_the_jacobian_is_added(short):
    model, whole = Linear(rotated=True, **OFF), short[1]
    model.x, model.log_px = model.x[3:], model.log_px[3:]
    part = model.run(**SHORT, batch_size=5, log_jacobian=-50.0, first=3)
    np.testing.assert_allclose(part.log_px, whole.log_px[3:], rtol=1e-6)
    np.testing.assert_allclose(part.elbo, whole.elbo[3:] - 50, rtol=1e-5)
    np.testing.assert_allclose(part.best_elbo, whole.best_elbo[3:] - 50, rtol=1e-5)
    np.testing.assert_allclose(part.mean, whole.mean[3:], atol=1e-4)
    np.testing.assert_allclose(part.amortization_gap, whole.amortization_gap[3:], atol=1e-3)


def kl_forgotten(real):
    return lambda mean, log_scale: jnp.zeros(())


def kl_of_log_variance(real):
    return lambda mean, log_scale: real(mean, log_scale / 2)


def kl_doubled(real):
    return lambda mean, log_scale: 2 * real(mean, log_scale)


@pytest.mark.parametrize("broken", slow_but((kl_forgotten,), [kl_forgotten, kl_of_log_variance, kl_doubled]))
def test_broken_twins_of_the_bound_fail(broken, monkeypatch):
    monkeypatch.setattr(module, "kl_to_standard_normal", broken(module.kl_to_standard_normal))
    with pytest.raises(AssertionError, match="p-value"):
        assert_closed_forms(rotated=True)


def test_a_fit_of_the_mean_alone_fails(monkeypatch):
    real = module.fit_posterior
    monkeypatch.setattr(module, "fit_posterior", lambda key, q, *a, **o: (real(key, q, *a, **o)[0], q[1]))
    with pytest.raises(AssertionError, match="p-value"):
        assert_closed_forms(rotated=False)


def test_arguments_are_checked():
    model = Linear(rotated=False)
    with pytest.raises(ValueError, match="num_steps >= 1, got 0"):
        model.run(num_steps=0)
    with pytest.raises(ValueError, match="num_evaluation_samples >= 2, got 1"):
        model.run(num_evaluation_samples=1)
    with pytest.raises(ValueError, match=r"each of the 24 examples, got shape \(3,\)"):
        gaps_dataset(jax.random.key(0), model.vae, {}, jnp.asarray(model.x), jnp.zeros(3))
