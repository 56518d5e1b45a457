"""Annealing, gaps, imputation and the parts of the KL with posteriors that are not diagonal, against exact answers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp
from two_layers import BELOW, TOP, two_layers

from vae_jax import likelihoods, posteriors
from vae_jax.errors import UserError
from vae_jax.evaluation.annealed_importance import ais, bdmc
from vae_jax.evaluation.annealing import Annealing
from vae_jax.evaluation.gaps import GapSettings, gaps_dataset
from vae_jax.evaluation.imputation import ImputationSettings, impute
from vae_jax.evaluation.kl_decomposition import decompose_posterior_kl
from vae_jax.example import Example
from vae_jax.model import VAE

LATENT, DATA_DIM, SIGMA, COUNT = 3, 4, 0.5, 5
KEY = jax.random.key(0)
FULL = posteriors.full(LATENT)
PLANAR = posteriors.planar(LATENT, num_flows=1)
FEW = Annealing(num_temperatures=3, num_chains=2, num_leapfrog=2, num_adaptation=20)


class Linear:
    """X = W z + noise, z ~ N(0, I), whose posterior is correlated; the encoder returns it, shifted and stretched."""

    def __init__(self, observed=slice(None)):
        rng = np.random.default_rng(0)
        self.weights = rng.normal(size=(DATA_DIM, LATENT))
        self.x = rng.normal(size=(COUNT, LATENT)) @ self.weights.T + SIGMA * rng.normal(size=(COUNT, DATA_DIM))
        seen = self.weights[observed]
        self.covariance = np.linalg.inv(seen.T @ seen / SIGMA**2 + np.eye(LATENT))
        self.gain = self.covariance @ seen.T / SIGMA**2
        self.means = self.x[:, observed] @ self.gain.T
        marginal = seen @ seen.T + SIGMA**2 * np.eye(len(seen))
        self.log_px = stats.multivariate_normal(np.zeros(len(seen)), marginal).logpdf(self.x[:, observed])

    def vae(self, shift=0.0, log_factor=0.0):
        cholesky = np.linalg.cholesky(self.covariance)
        scale = np.diag(cholesky)
        extra = jnp.asarray((cholesky / scale[:, None])[np.tril_indices(LATENT, -1)], jnp.float32)
        log_scale = jnp.asarray(np.log(scale) + log_factor, jnp.float32)
        w, gain = jnp.asarray(self.weights, jnp.float32), jnp.asarray(self.gain, jnp.float32)

        def encode(params, x):
            event = x.event[jnp.asarray([0, 1, 3])] if isinstance(x, Example) else x
            return gain @ event + shift, log_scale, extra

        shape = (DATA_DIM,)
        return VAE(lambda key: {}, encode, lambda params, z: w @ z, likelihoods.gaussian(SIGMA), shape, LATENT, posterior=FULL)


LINEAR = Linear()
X = jnp.asarray(LINEAR.x, jnp.float32)


def test_annealing_from_the_exact_posterior_has_no_error():
    vae = LINEAR.vae()

    @jax.jit
    def run(x):
        z = jnp.ones(LATENT)  # for the exact posterior, the upper bound too is exact at any code
        return ais(KEY, vae, {}, x, FEW), bdmc(KEY, vae, {}, x, z, FEW)

    annealed, bounds = jax.vmap(run)(X)
    for estimate in (annealed, bounds.lower, bounds.upper):
        np.testing.assert_allclose(estimate.log_px, LINEAR.log_px, atol=1e-4)
        assert np.all(np.asarray(estimate.standard_error) < 1e-4)


def test_annealing_without_a_density_starts_from_the_prior_only():
    outputs = jnp.zeros(LATENT), jnp.zeros(LATENT), jnp.zeros(PLANAR.num_extra)
    vae = LINEAR.vae()._replace(posterior=PLANAR, encode=lambda params, x: outputs)
    with pytest.raises(UserError, match='Start from the prior by `ais_start="prior"`'):
        ais(KEY, vae, {}, X[0], FEW)
    assert jax.eval_shape(lambda x: ais(KEY, vae, {}, x, FEW._replace(start="prior")), X[0]).log_px.shape == ()


@pytest.fixture(scope="module")
def local_posteriors():
    """Gaps of the exact encoder and of one that is off, from one program."""
    settings = GapSettings(num_steps=400, num_samples=8, num_evaluation_samples=2000)
    log_px = jnp.asarray(LINEAR.log_px, jnp.float32)

    @jax.jit
    def run(shift, log_factor):
        return gaps_dataset(KEY, LINEAR.vae(shift, log_factor), {}, X, log_px, settings)

    return jax.device_get([run(0.0, 0.0), run(0.4, 0.3)])


def test_the_gaps_of_the_exact_posterior_are_zero(local_posteriors):
    exact, _ = local_posteriors
    assert np.all(np.abs(exact.approximation_gap) < 5.5 * exact.best_elbo_standard_error)
    np.testing.assert_allclose(exact.amortization_gap, 0, atol=1e-3)


def test_the_best_full_gaussian_is_the_posterior_and_amortization_costs_the_kl(local_posteriors):
    _, off = local_posteriors
    precision = np.linalg.inv(LINEAR.covariance)
    shift = np.full(LATENT, 0.4)
    kl = 0.5 * (LATENT * (math.exp(0.6) - 1 - 0.6) + shift @ precision @ shift)
    assert np.all(np.abs(off.approximation_gap) < 5.5 * off.best_elbo_standard_error)
    error = 5.5 * np.asarray(off.amortization_gap_standard_error) + 0.02
    assert np.all(np.abs(off.amortization_gap - kl) < error)
    np.testing.assert_allclose(off.mean, LINEAR.means, atol=0.02)
    deviations = np.sqrt(np.diag(LINEAR.covariance))
    np.testing.assert_allclose(np.exp(off.log_scale), np.tile(deviations, (COUNT, 1)), rtol=0.03)


def test_imputation_with_the_exact_posterior_is_exact():
    observed, missing = np.array([0, 1, 3]), 2
    linear = Linear(observed)
    mask = np.isin(np.arange(DATA_DIM), observed)
    x = Example(jnp.where(mask, X[0], 0), mask=jnp.asarray(mask))
    imputed = jax.jit(lambda x: impute(KEY, linear.vae(), {}, x, ImputationSettings(2000, 2)))(x)
    assert float(imputed.effective_sample_size) == pytest.approx(2000, rel=1e-3)
    assert float(imputed.log_px) == pytest.approx(linear.log_px[0], abs=1e-3)
    error = float(imputed.standard_error[missing])
    assert abs(float(imputed.mean[missing]) - linear.weights[missing] @ linear.means[0]) < 5.5 * error
    spread = math.sqrt(linear.weights[missing] @ linear.covariance @ linear.weights[missing] / 2000)
    assert error == pytest.approx(spread, rel=0.1)


def outputs_of(num_extra, count=COUNT):
    rng = np.random.default_rng(1)
    arrays = (rng.normal(size=(count, LATENT)), rng.normal(-0.5, 0.3, (count, LATENT)), rng.normal(size=(count, num_extra)))
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


def draws_behind(posterior, outputs, weights, num_draws):
    """The example and the code of each draw of `decompose_posterior_kl` of at most COUNT draws."""
    key_order, key_z = jax.random.split(KEY)
    index = jax.random.permutation(jax.random.split(key_order, 1)[0], COUNT)[:num_draws]
    q = jax.tree.map(lambda leaf: leaf[index], outputs)
    z, log_q = jax.vmap(lambda key, q: posterior.sample_and_log_prob(key, (*q, *weights)))(
        jax.random.split(key_z, num_draws), q
    )
    return np.asarray(index), np.asarray(z, np.float64), np.asarray(log_q, np.float64)


def test_the_parts_of_the_kl_of_full_gaussians_are_those_of_a_dense_mixture():
    outputs = outputs_of(FULL.num_extra)
    parts = jax.jit(lambda outputs: decompose_posterior_kl(KEY, FULL, outputs, num_draws=COUNT))(outputs)
    index, z, _ = draws_behind(FULL, outputs, (), COUNT)
    factors = np.asarray(jax.vmap(FULL.factor)(outputs), np.float64)
    covariance, mean = factors @ np.swapaxes(factors, 1, 2), np.asarray(outputs[0], np.float64)
    dense = np.array(
        [[stats.multivariate_normal(m, c).logpdf(one) for m, c in zip(mean, covariance, strict=True)] for one in z]
    )
    log_q, log_p = logsumexp(dense, axis=1) - math.log(COUNT), stats.norm.logpdf(z).sum(axis=1)
    deviation = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    marginals = stats.norm.logpdf(z[:, None], mean[None], deviation[None])
    log_product = np.sum(logsumexp(marginals, axis=1) - math.log(COUNT), axis=1)
    squares = np.sum(np.diagonal(covariance, axis1=1, axis2=2) + mean**2 - 1, axis=1)
    kl = (0.5 * (squares - np.linalg.slogdet(covariance)[1]))[index]
    without = np.where(np.arange(COUNT)[None] == index[:, None], -np.inf, dense)
    upper = kl - (logsumexp(without, axis=1) - math.log(COUNT - 1) - log_p)
    expected = (kl, kl - (log_q - log_p), log_q - log_product, log_product - log_p, upper)
    for got, value in zip(parts, expected, strict=True):
        np.testing.assert_allclose(got, value, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(parts.marginal_kl, log_q - log_p, atol=2e-4)


def test_a_flow_has_mutual_information_but_no_total_correlation():
    iaf = posteriors.iaf(LATENT, num_flows=2, hidden=(4,), context_dim=2)
    weights = (jax.tree.map(lambda leaf: 3 * leaf, iaf.init(jax.random.key(5))),)
    outputs = outputs_of(2)
    parts = jax.jit(lambda outputs: decompose_posterior_kl(KEY, iaf, outputs, weights, num_draws=3))(outputs)
    assert parts.total_correlation is None
    assert parts.dimension_wise_kl is None
    _, z, log_q_given_x = draws_behind(iaf, outputs, weights, 3)
    densities = jax.jit(jax.vmap(lambda z: jax.vmap(lambda row: iaf.log_prob((*row, *weights), z))(outputs)))
    log_q = logsumexp(np.asarray(densities(jnp.asarray(z, jnp.float32)), np.float64), axis=1) - math.log(COUNT)
    np.testing.assert_allclose(parts.mutual_information, log_q_given_x - log_q, atol=2e-4)
    np.testing.assert_allclose(parts.marginal_kl, log_q - stats.norm.logpdf(z).sum(axis=1), atol=5e-4)
    with pytest.raises(UserError, match="has that of its own draws only"):
        decompose_posterior_kl(KEY, PLANAR, outputs_of(PLANAR.num_extra))


def test_local_posteriors_of_several_layers_keep_their_weights():
    """The decoder ignores the code, so the best q is the one with the least KL. Its upper layer has the variance 1 / 1.5."""
    weights = jnp.full((BELOW, TOP), 0.5)
    outputs = jnp.asarray([0.8, 0.3, -0.2]), jnp.full(TOP + BELOW, -0.4)
    vae = VAE(
        lambda key: {"posterior": weights},
        lambda params, x: outputs,
        lambda params, z: jnp.zeros(2),
        likelihoods.gaussian(1.0),
        (2,),
        TOP + BELOW,
        posterior=two_layers(),
    )
    log_px = jnp.full(1, stats.norm.logpdf([0.3, -0.2]).sum())
    settings = GapSettings(num_steps=400, num_samples=8, num_evaluation_samples=500)
    x = jnp.asarray([[0.3, -0.2]])
    result = jax.jit(lambda x: gaps_dataset(KEY, vae, {"posterior": weights}, x, log_px, settings))(x)
    # The lower layer has the mean 0.5 z_1 in both dimensions, so the least KL is that of 0.5 (v - 1 - log v) + 0.25 v in v.
    error = 5.5 * float(result.best_elbo_standard_error[0])
    assert abs(float(result.approximation_gap[0]) - 0.5 * math.log(1.5)) < error + 0.01
    assert error < 0.2
    assert float(result.amortization_gap[0]) > 0.3
