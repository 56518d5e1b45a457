"""Divergences and posteriors beyond the battery of test_mathematics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from vae_jax import divergences, posteriors

floats = st.floats(-20, 20, width=32)


def test_relative_precision_near_zero():
    tiny = jnp.full(1, 1e-4)
    assert float(divergences.kl_to_standard_normal(tiny, tiny)) == pytest.approx(1.5001e-8, rel=1e-4)
    assert float(divergences.kl_to_standard_normal(jnp.zeros(1), tiny)) == pytest.approx(1.00007e-8, rel=1e-5)
    assert float(divergences.kl_to_standard_normal(jnp.zeros(3), jnp.zeros(3))) == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(floats, floats, floats, floats), min_size=1, max_size=3))
def test_kl_is_never_negative_and_zero_for_equal(values):
    mean_q, log_scale_q, mean_p, log_scale_p = (jnp.array(v, jnp.float32) for v in zip(*values, strict=True))
    assert float(divergences.kl_diagonal_gaussians(mean_q, log_scale_q, mean_p, log_scale_p)) >= 0
    assert float(divergences.kl_to_standard_normal(mean_q, log_scale_q)) >= 0
    assert float(divergences.kl_diagonal_gaussians(mean_q, log_scale_q, mean_q, log_scale_q)) == 0


def test_kl_by_quadrature(x64):
    q, p = stats.norm(0.3, 0.5), stats.norm(-0.2, 1.7)
    expected, _ = integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -6, 6)
    got = divergences.kl_diagonal_gaussians(*(jnp.array([v]) for v in (0.3, np.log(0.5), -0.2, np.log(1.7))))
    assert float(got) == pytest.approx(expected, rel=1e-9)


def test_per_dimension_adds_up():
    mean, log_scale = jax.random.normal(jax.random.key(0), (2, 7))
    per_dimension = divergences.kl_per_dimension(mean, log_scale)
    assert per_dimension.shape == (7,)
    np.testing.assert_allclose(per_dimension.sum(), divergences.kl_to_standard_normal(mean, log_scale), rtol=1e-6)


def test_samples_have_the_posteriors_distribution():
    """Kolmogorov-Smirnov at p > 1e-7; the key was not chosen."""
    mean, log_scale = jnp.array([2.0]), jnp.array([-1.0])
    draws = jax.vmap(posteriors.sample_posterior, in_axes=(0, None, None))(
        jax.random.split(jax.random.key(0), 20_000), mean, log_scale
    )
    assert stats.kstest(np.asarray(draws[:, 0], np.float64), stats.norm(2, np.exp(-1)).cdf).pvalue > 1e-7


def test_gradients_flow_through_the_sample():
    key, mean, log_scale = jax.random.key(1), jnp.array([0.5]), jnp.array([-0.5])
    noise = jax.random.normal(key, (1,))
    gradient = jax.grad(lambda m, s: posteriors.sample_posterior(key, m, s)[0], argnums=(0, 1))(mean, log_scale)
    np.testing.assert_allclose(gradient[0], [1.0])
    np.testing.assert_allclose(gradient[1], jnp.exp(log_scale) * noise, rtol=1e-6)


def test_posterior_log_prob_is_scipys():
    mean, log_scale, z = np.random.default_rng(0).normal(size=(3, 5))
    expected = stats.norm.logpdf(z, mean, np.exp(log_scale)).sum()
    assert float(posteriors.posterior_log_prob(mean, log_scale, z)) == pytest.approx(expected, rel=1e-6)
