"""Active units, collapse, and the parts of the KL, against NumPy in float64 and exact Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from budget import accept_mean
from scipy import integrate, special, stats

from vae_jax.divergences import kl_to_standard_normal
from vae_jax.evaluation import kl_decomposition
from vae_jax.evaluation.kl_decomposition import decompose_kl
from vae_jax.evaluation.posterior_collapse import active_units, collapse, describe_collapse, is_collapsing


@pytest.fixture(scope="module")
def posteriors():
    """500 overlapping posteriors in 4 dimensions, the last of them at the prior."""
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(500, 4)) * [1.5, 1.0, 0.5, 0.0]
    log_scale = np.log([0.3, 0.6, 0.9, 1.0]) + 0.1 * rng.normal(size=(500, 4)) * [1, 1, 1, 0]
    return mean.astype(np.float32), log_scale.astype(np.float32)


def test_active_units_are_those_of_numpy():
    rng = np.random.default_rng(1)
    means = (rng.normal(size=(300, 30)) * np.geomspace(0.01, 2, 30)).astype(np.float32)
    variances = np.var(means.astype(np.float64), axis=0)
    assert int(active_units(means)) == np.sum(variances > 0.01)
    thresholds = np.geomspace(1e-4, 10, 17)
    curve = active_units(means, thresholds)
    assert curve.tolist() == [int(np.sum(variances > t)) for t in thresholds]
    assert int(active_units(means + 1000.0)) == np.sum(variances > 0.01)  # of the variance, not of the square


def test_collapse_is_its_definition(posteriors):
    mean, log_scale = (np.asarray(a, np.float64) for a in posteriors)
    kl = 0.5 * (mean**2 + np.exp(2 * log_scale) - 1 - 2 * log_scale)
    for epsilon, delta in ((0.01, 0.01), (0.3, 0.4), (0.1, 0.0)):
        got = collapse(*posteriors, epsilon=epsilon, delta=delta)
        np.testing.assert_allclose(got.share_below, np.mean(kl < epsilon, axis=0), atol=1e-6)
        assert got.collapsed.tolist() == (np.mean(kl < epsilon, axis=0) >= 1 - delta).tolist()
    assert collapse(*posteriors).collapsed.tolist() == [False, False, False, True]
    assert describe_collapse(0, 4, 3.0) is None
    assert "1 of 4" in describe_collapse(1, 4, 3.0)
    for num_collapsed in (0, 4):
        assert "posterior collapse: the 4" in describe_collapse(num_collapsed, 4, 0.004)
        assert "`beta`" in describe_collapse(num_collapsed, 4, 0.004)


def test_collapsing_is_what_lasts():
    assert not is_collapsing([2.0, 0.07, 0.06, 0.3, 1.0, 2.0])
    assert not is_collapsing([0.0] * 9)
    assert is_collapsing([2.0, *[0.05] * 10])
    assert not is_collapsing([*[0.05] * 9, 0.11])


@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0])
def test_a_linear_model_collapses_where_the_theory_says(beta):
    """Reverse water-filling (PAPERS section 7.4): unit i of the optimum is collapsed exactly when lambda_i <= beta sigma^2."""
    eigenvalues, sigma2 = np.array([4.0, 2.0, 1.1, 0.9, 0.45, 0.2]), 0.5
    theta = beta * sigma2
    x = np.random.default_rng(0).normal(size=(1000, 6)) * np.sqrt(eigenvalues)
    keeps = eigenvalues > theta
    # The optimal encoder of the linear beta-VAE: N(sqrt(1 - theta/lambda) x/sqrt(lambda), theta/lambda), else the prior.
    ratio = np.where(keeps, theta / eigenvalues, 1.0)
    mean = np.sqrt(1 - ratio) * x / np.sqrt(eigenvalues)
    log_scale = np.broadcast_to(0.5 * np.log(ratio), x.shape)
    got = collapse(jnp.asarray(mean, jnp.float32), jnp.asarray(log_scale, jnp.float32))
    assert got.collapsed.tolist() == (eigenvalues <= theta).tolist()


def enumerated(mean, log_scale, index, z):
    """The parts at draws z of the examples `index`, over all pairs in float64."""
    mean, log_scale, z = (np.asarray(a, np.float64) for a in (mean, log_scale, z))
    pairs = stats.norm.logpdf(z[:, None], mean[None], np.exp(log_scale)[None])  # (draws, N, latent)
    count = len(mean)
    kl = np.sum(0.5 * (mean**2 + np.exp(2 * log_scale) - 1 - 2 * log_scale), axis=1)[index]
    log_q = special.logsumexp(pairs.sum(axis=2), axis=1) - np.log(count)
    log_product = np.sum(special.logsumexp(pairs, axis=1) - np.log(count), axis=1)
    log_p = stats.norm.logpdf(z).sum(axis=1)
    without = pairs.sum(axis=2)
    without[np.arange(len(z)), index] = -np.inf
    upper = kl - (special.logsumexp(without, axis=1) - np.log(count - 1)) + log_p
    return kl, kl - log_q + log_p, log_q - log_product, log_product - log_p, upper


def test_it_equals_full_enumeration(posteriors, monkeypatch):
    drawn = []
    original = kl_decomposition.sample_posterior

    def spy(key, mean, log_scale):
        z = original(key, mean, log_scale)
        jax.debug.callback(lambda *pair: drawn.append(pair), mean, z)
        return z

    monkeypatch.setattr(kl_decomposition, "sample_posterior", spy)
    mean, log_scale = posteriors
    got = decompose_kl(jax.random.key(0), jnp.asarray(mean), jnp.asarray(log_scale), num_draws=500, draws_at_once=1)
    jax.effects_barrier()
    index = np.array([int(np.flatnonzero((mean == m).all(axis=1))[0]) for m, _ in drawn])
    assert sorted(index.tolist()) == list(range(500))  # every example once
    expected = enumerated(mean, log_scale, index, np.array([z for _, z in drawn]))
    order = np.argsort(expected[0])  # the callbacks come in any order
    for name, values, truth in zip(got._fields, got, expected, strict=True):
        np.testing.assert_allclose(np.sort(values), np.sort(truth), atol=2e-4, err_msg=name)
    by_kl = np.argsort(np.asarray(got.kl))
    np.testing.assert_allclose(np.asarray(got.total_correlation)[by_kl], expected[2][order], atol=2e-4)


def test_the_parts_add_up_to_the_kl(posteriors):
    mean, log_scale = map(jnp.asarray, posteriors)
    parts = decompose_kl(jax.random.key(1), mean, log_scale, num_draws=500)
    total = parts.mutual_information + parts.total_correlation + parts.dimension_wise_kl
    np.testing.assert_allclose(total, parts.kl, atol=1e-4)
    np.testing.assert_allclose(np.mean(parts.kl), np.mean(jax.vmap(kl_to_standard_normal)(mean, log_scale)), rtol=1e-5)
    assert np.mean(parts.mutual_information) <= np.log(500)
    assert np.mean(parts.mutual_information_upper) > np.mean(parts.mutual_information)


def test_exact_integrals_in_one_dimension():
    """q(z) of a few examples, integrated numerically."""
    mean, scale = np.array([-1.0, 0.2, 1.5]), np.array([0.5, 1.2, 0.8])

    def q(z):
        return np.mean(stats.norm.pdf(z, mean, scale))

    marginal = integrate.quad(lambda z: q(z) * (np.log(q(z)) - stats.norm.logpdf(z)), -12, 12)[0]
    information = np.mean(0.5 * (mean**2 + scale**2 - 1 - 2 * np.log(scale))) - marginal
    as_codes = (jnp.asarray(a, jnp.float32)[:, None] for a in (mean, np.log(scale)))
    parts = decompose_kl(jax.random.key(2), *as_codes, num_draws=30_000)
    for got, truth in ((parts.mutual_information, information), (parts.dimension_wise_kl, marginal)):
        by_round = np.asarray(got, np.float64).reshape(-1, 3).mean(axis=1)  # every example once: independent
        accept_mean(by_round, truth, deviation=by_round.std(ddof=1), slack=1e-5)
    np.testing.assert_allclose(parts.total_correlation, 0, atol=1e-5)


def test_information_between_its_bounds():
    """X ~ N(0, 1), q(z|x) = N(rho x, 1 - rho^2): I(x; z) = -1/2 log(1 - rho^2) in the source; the cap log N below it."""
    rho = 0.999
    truth = -0.5 * np.log(1 - rho**2)
    x = np.random.default_rng(0).normal(size=(20, 1))
    log_scale = jnp.full((20, 1), 0.5 * np.log(1 - rho**2), jnp.float32)
    few = decompose_kl(jax.random.key(0), jnp.asarray(rho * x, jnp.float32), log_scale, num_draws=200)
    assert np.mean(few.mutual_information) <= np.log(20) + 1e-5
    assert np.mean(few.mutual_information) < truth < np.mean(few.mutual_information_upper)


def test_a_learned_prior():
    mean, log_scale = jnp.array([[0.5], [-0.5]]), jnp.zeros((2, 1))

    def log_prior(z):
        return jnp.sum(-0.5 * jnp.square(z) / 4 - jnp.log(2.0) - 0.5 * jnp.log(2 * jnp.pi))

    parts = decompose_kl(jax.random.key(0), mean, log_scale, num_draws=20_000, prior_log_prob=log_prior)
    exact = np.log(2) + (1 + 0.25) / 8 - 0.5  # KL(N(.5, 1) || N(0, 4))
    accept_mean(np.asarray(parts.kl), exact, deviation=np.std(parts.kl))
    np.testing.assert_allclose(
        parts.mutual_information + parts.total_correlation + parts.dimension_wise_kl, parts.kl, atol=1e-5
    )


def test_bad_shapes():
    with pytest.raises(ValueError, match=r"one shape \(examples >= 2, latent\), got \(1, 2\)"):
        decompose_kl(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros((1, 2)))
