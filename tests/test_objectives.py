"""The ELBO against exact answers: a linear-Gaussian VAE whose log p(x) and posterior are known in closed form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vae_jax.likelihoods import gaussian_log_prob
from vae_jax.objectives import elbo

SIGMA = 0.5


def linear_gaussian(seed=0):
    """A model x = W z + noise, the columns of W orthogonal so that the posterior is diagonal; log p by linear algebra."""
    rng = np.random.default_rng(seed)
    weights = np.linalg.qr(rng.normal(size=(5, 2)))[0] * np.array([2.0, 0.7])
    variance = SIGMA**2 / (np.sum(weights**2, axis=0) + SIGMA**2)
    x = rng.normal(size=5)
    log_px = stats.multivariate_normal(np.zeros(5), weights @ weights.T + SIGMA**2 * np.eye(5)).logpdf(x)
    mean = variance * (weights.T @ x) / SIGMA**2
    return weights, x, log_px, mean, np.log(variance) / 2


def estimate(offset, *, num_samples=1, beta=1.0, count=20_000):
    weights, x, log_px, mean, log_scale = linear_gaussian()
    terms = jax.vmap(
        lambda key: elbo(
            key,
            lambda x: (jnp.asarray(mean + offset, jnp.float32), jnp.asarray(log_scale, jnp.float32)),
            lambda z: jnp.asarray(weights, jnp.float32) @ z,
            lambda output, x: gaussian_log_prob(output, math.log(SIGMA), x),
            jnp.asarray(x, jnp.float32),
            beta=beta,
            num_samples=num_samples,
        )
    )(jax.random.split(jax.random.key(0), count))
    gap = 0.5 * np.sum((offset / np.exp(log_scale)) ** 2)  # KL(q || true posterior), of equal scales
    return terms, float(log_px), float(gap)


@pytest.mark.parametrize("num_samples", [1, 3])
@pytest.mark.parametrize("offset", [0.0, 0.4])
def test_the_elbo_is_log_p_minus_the_kl_to_the_true_posterior(offset, num_samples):
    """Within 5.5 standard errors (4 cases: false failure below 2e-7 each)."""
    terms, log_px, gap = estimate(offset, num_samples=num_samples)
    values = np.asarray(terms.elbo, np.float64)
    assert abs(values.mean() - (log_px - gap)) < 5.5 * values.std() / math.sqrt(len(values)) + 1e-5


def test_more_samples_reduce_the_variance():
    one, _, _ = estimate(0.2, num_samples=1)
    nine, _, _ = estimate(0.2, num_samples=9)
    assert np.var(one.log_likelihood) / np.var(nine.log_likelihood) == pytest.approx(9, rel=0.15)


def test_beta_weights_the_loss_and_nothing_else():
    one, _, _ = estimate(0.2, beta=1.0, count=10)
    four, _, _ = estimate(0.2, beta=4.0, count=10)
    np.testing.assert_allclose(one.loss, -one.elbo, rtol=1e-6)
    np.testing.assert_allclose(four.loss, -(four.log_likelihood - 4 * four.kl), rtol=1e-6)
    np.testing.assert_array_equal(one.elbo, four.elbo)


def test_a_log_prob_that_is_no_scalar_and_no_samples_are_refused():
    def encode(x):
        return jnp.zeros(2), jnp.zeros(2)

    with pytest.raises(ValueError, match=r"scalar.*shape \(3,\)"):
        elbo(jax.random.key(0), encode, lambda z: jnp.zeros(3), lambda output, x: output, jnp.zeros(3))
    with pytest.raises(ValueError, match="num_samples"):
        elbo(jax.random.key(0), encode, lambda z: z, lambda output, x: jnp.sum(output), jnp.zeros(3), num_samples=0)
