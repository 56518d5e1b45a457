"""Divergences, posteriors and priors beyond the battery of test_mathematics."""

import budget
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from vae_jax import divergences, posteriors, priors

MAX = float(jnp.finfo(jnp.float32).max)
quickly = settings(max_examples=100, deadline=None, derandomize=True)


def _floats(low=-MAX, high=MAX):
    return st.floats(low, high, width=32, allow_subnormal=False)


def _vectors(*elements, size=2):
    """Vectors of `size`, one for each strategy of elements."""
    return st.tuples(*(st.lists(e, min_size=size, max_size=size) for e in elements))


def _factors(diagonal, below, size=3):
    """Lower triangular matrices."""
    entries = st.tuples(*(diagonal if i == j else below for i in range(size) for j in range(i + 1)))
    return entries.map(lambda values: _fill(values, size))


def _fill(values, size=3):
    matrix = np.zeros((size, size), np.float32)
    matrix[np.tril_indices(size)] = values
    return matrix


kl_standard = jax.jit(divergences.kl_to_standard_normal)
kl_diagonal = jax.jit(divergences.kl_diagonal_gaussians)
kl_full = jax.jit(divergences.kl_full_gaussians)


def _float32(*arrays):
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


def _assert_not_negative(function, oracle, arguments):
    """>= 0, and a number wherever the exact value is one of float32."""
    got, exact = float(function(*arguments)), oracle(*(np.asarray(a, np.float64) for a in arguments))
    assert got >= 0 or (np.isnan(got) and exact > MAX), (got, exact)


# Relative precision near zero.


def test_relative_precision_near_zero():
    tiny, zero = jnp.full(1, 1e-4), jnp.zeros(1)
    assert float(kl_standard(tiny, tiny)) == pytest.approx(1.5001e-8, rel=1e-4)
    assert float(kl_standard(zero, tiny)) == pytest.approx(1.00007e-8, rel=1e-5)
    assert float(kl_standard(jnp.zeros(3), jnp.zeros(3))) == 0
    assert float(kl_diagonal(tiny, tiny, zero, zero)) == pytest.approx(1.5001e-8, rel=1e-4)


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("k", [1, 5])
def test_relative_precision_of_full_covariances_near_zero(k, size):
    rng = np.random.default_rng(k)
    base = 0.3 * np.tril(rng.normal(size=(k, k)), -1) + np.diag(rng.uniform(0.5, 2, k))
    for p in (np.eye(k), base):
        q = p + size * np.tril(rng.normal(size=(k, k)))
        arguments = _float32(size * rng.normal(size=k), q, np.zeros(k), p)
        exact = oracles.kl_full_gaussians(*arguments)
        assert float(kl_full(*arguments)) == pytest.approx(exact, rel=1e-5, abs=0)


@quickly
@given(_vectors(_floats(-10, 10), _floats(-10, 10), _floats(-(2**-8), 2**-8), _floats(-(2**-8), 2**-8)))
def test_relative_precision_near_any_diagonal_gaussian(values):
    mean, log_scale, shift, widening = (np.array(v, np.float32) for v in values)
    arguments = _float32(mean + shift, log_scale + widening, mean, log_scale)
    exact = oracles.kl_diagonal_gaussians(*arguments)
    assert float(kl_diagonal(*arguments)) == pytest.approx(exact, rel=1e-5, abs=1e-35)


@quickly
@given(
    _factors(_floats(0.5, 2), _floats(-1, 1)),
    _factors(_floats(-(2**-8), 2**-8), _floats(-(2**-8), 2**-8)),
    _vectors(_floats(-(2**-8), 2**-8), size=3),
)
def test_relative_precision_near_any_full_gaussian(factor, change, shift):
    arguments = _float32(shift[0], factor + change, np.zeros(3), factor)
    assert float(kl_full(*arguments)) == pytest.approx(oracles.kl_full_gaussians(*arguments), rel=2e-5, abs=1e-35)


# Never negative, and zero for equal, over the range of float32.


@quickly
@given(_vectors(_floats(), _floats()))
def test_kl_to_the_standard_normal_is_never_negative(values):
    _assert_not_negative(kl_standard, oracles.kl_to_standard_normal, _float32(*values))


@quickly
@given(_vectors(*([_floats(-20, 20)] * 4)) | _vectors(*([_floats(-(2.0**126), 2.0**126)] * 4)))
@example(([1e-3, 0], [-100, 0], [1e-3, 0], [-100, 0]))
@example(([0, 0], [50, -100], [0, 0], [50, -100]))
def test_kl_of_diagonal_gaussians_is_never_negative(values):
    _assert_not_negative(kl_diagonal, oracles.kl_diagonal_gaussians, _float32(*values))


WIDE = (_floats(2.0**-20, 2.0**20), _floats(-(2.0**20), 2.0**20))


@quickly
@given(_factors(*WIDE), _factors(*WIDE), _vectors(_floats(-(2.0**20), 2.0**20), size=3))
@example(2.0**-16 * np.eye(3), 2.0**16 * np.eye(3), ([0, 0, 0],))
def test_kl_of_full_gaussians_is_never_negative(factor_q, factor_p, mean):
    _assert_not_negative(kl_full, oracles.kl_full_gaussians, _float32(mean[0], factor_q, np.zeros(3), factor_p))


@quickly
@given(_vectors(_floats(), _floats()))
@example(([0, 1e30], [-100, 100]))
def test_kl_is_exactly_zero_for_equal_diagonal_gaussians(values):
    q = _float32(*values)
    assert float(kl_diagonal(*q, *q)) == 0


@quickly
@given(_factors(_floats(2.0**-126), _floats()), _vectors(_floats(), size=3))
def test_kl_is_exactly_zero_for_equal_full_gaussians(factor, mean):
    q = _float32(mean[0], factor)
    assert float(kl_full(*q, *q)) == 0


# Values.


def test_kl_by_quadrature(x64):
    q, p = stats.norm(0.3, 0.5), stats.norm(-0.2, 1.7)
    expected, _ = integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -6, 6)
    got = divergences.kl_diagonal_gaussians(*(jnp.array([v]) for v in (0.3, np.log(0.5), -0.2, np.log(1.7))))
    assert float(got) == pytest.approx(expected, rel=1e-9)
    full = divergences.kl_full_gaussians(jnp.array([0.3]), jnp.array([[0.5]]), jnp.array([-0.2]), jnp.array([[1.7]]))
    assert float(full) == pytest.approx(expected, rel=1e-9)


def _gaussians(k, seed=0):
    """Two Gaussians with full covariances, as means and factors."""
    rng = np.random.default_rng(seed)
    factors = (np.linalg.cholesky(a @ a.T / k + 0.2 * np.eye(k)) for a in rng.normal(size=(2, k, k)))
    means = rng.normal(size=(2, k))
    return tuple(part for pair in zip(means, factors, strict=True) for part in pair)


@pytest.mark.parametrize("k", [1, 2, 20])
def test_kl_of_full_gaussians_is_that_of_dense_linear_algebra(k, x64):
    mean_q, factor_q, mean_p, factor_p = _gaussians(k)
    q, p = factor_q @ factor_q.T, factor_p @ factor_p.T
    log_determinants = np.linalg.slogdet(p)[1] - np.linalg.slogdet(q)[1]
    trace, distance = np.trace(np.linalg.solve(p, q)), (mean_p - mean_q) @ np.linalg.solve(p, mean_p - mean_q)
    expected = 0.5 * (trace + distance - k + log_determinants)
    assert float(kl_full(mean_q, factor_q, mean_p, factor_p)) == pytest.approx(expected, rel=1e-11)


def test_diagonal_factors_are_diagonal_gaussians():
    mean_q, log_scale_q, mean_p, log_scale_p = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    diagonal = divergences.kl_diagonal_gaussians(mean_q, log_scale_q, mean_p, log_scale_p)
    full = divergences.kl_full_gaussians(mean_q, jnp.diag(jnp.exp(log_scale_q)), mean_p, jnp.diag(jnp.exp(log_scale_p)))
    np.testing.assert_allclose(full, diagonal, rtol=2e-6)


@pytest.mark.parametrize("wrong", [(3, 4), (2, 2), (3,), (3, 1), (2, 3, 3)])
@pytest.mark.parametrize("position", [1, 3])
def test_a_factor_of_the_wrong_shape_is_refused(position, wrong):
    arguments = [jnp.zeros(3), jnp.eye(3), jnp.zeros(3), jnp.eye(3)]
    arguments[position] = jnp.ones(wrong)
    with pytest.raises(ValueError, match="vmap"):
        divergences.kl_full_gaussians(*arguments)


def test_per_dimension_adds_up():
    mean, log_scale = jax.random.normal(jax.random.key(0), (2, 7))
    per_dimension = divergences.kl_per_dimension(mean, log_scale)
    assert per_dimension.shape == (7,)
    np.testing.assert_allclose(per_dimension.sum(), divergences.kl_to_standard_normal(mean, log_scale), rtol=1e-6)


# Estimates: within their standard errors of exact values, from the budget of the suite.


def test_kl_of_full_gaussians_is_the_mean_log_ratio():
    mean_q, factor_q, mean_p, factor_p = _gaussians(4)
    z = mean_q + np.random.default_rng(0).normal(size=(200_000, 4)) @ factor_q.T
    q, p = (stats.multivariate_normal(m, f @ f.T) for m, f in ((mean_q, factor_q), (mean_p, factor_p)))
    budget.accept_mean(q.logpdf(z) - p.logpdf(z), float(kl_full(*_float32(mean_q, factor_q, mean_p, factor_p))), slack=1e-5)


def _estimates(parameters, log_prob_p, num_samples, count=20_000):
    """Many independent estimates of KL(N(mean, scale) || p), and their gradients by the mean."""

    def estimate(mean, key):
        return divergences.kl_monte_carlo(
            key,
            lambda key: posteriors.sample_posterior(key, mean, parameters[1]),
            lambda z: posteriors.posterior_log_prob(mean, parameters[1], z),
            log_prob_p,
            num_samples=num_samples,
        )

    keys = jax.random.split(jax.random.key(0), count)
    return jax.jit(jax.vmap(jax.value_and_grad(estimate), in_axes=(None, 0)))(parameters[0], keys)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_monte_carlo_is_unbiased(num_samples):
    mean, log_scale = jnp.array([0.5, -1.0]), jnp.array([-0.7, 0.2])
    standard = (jnp.zeros(2), jnp.zeros(2))
    values, gradients = _estimates((mean, log_scale), lambda z: posteriors.posterior_log_prob(*standard, z), num_samples)
    budget.accept_mean(values, float(kl_standard(mean, log_scale)), slack=1e-5)
    for i in range(2):  # the gradient of m^2 / 2
        budget.accept_mean(gradients[:, i], float(mean[i]), slack=1e-5)


def test_monte_carlo_takes_independent_samples():
    """With log q = z ~ N(0, 1) and log p = 0, sqrt(K) times the estimate is a standard normal."""

    def estimate(key):
        return divergences.kl_monte_carlo(key, jax.random.normal, lambda z: z, lambda z: jnp.zeros(()), num_samples=9)

    values = jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(1), 20_000))
    budget.accept(stats.kstest(3 * np.asarray(values, np.float64), stats.norm.cdf).pvalue)


def test_monte_carlo_of_equal_distributions_is_zero_and_is_given_the_key():
    mean = jnp.array([0.3])

    def log_prob(z):
        return posteriors.posterior_log_prob(mean, mean, z)

    def draw(key):
        return posteriors.sample_posterior(key, mean, mean)

    assert float(divergences.kl_monte_carlo(jax.random.key(0), draw, log_prob, log_prob, num_samples=10)) == 0
    one, other = (divergences.kl_monte_carlo(jax.random.key(i), draw, log_prob, lambda z: z[0]) for i in range(2))
    assert one.shape == ()
    assert float(one) != float(other)


MIXTURE = (np.array([0.3, -1.0, 2.0]), np.array([[-2.0], [0.0], [1.5]]), np.array([[-1.0], [0.5], [0.1]]))


def test_monte_carlo_against_quadrature_for_a_mixture_prior():
    mean, scale = 0.4, 0.8
    q = stats.norm(mean, scale)
    expected, _ = integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - oracles.gaussian_mixture([z], *MIXTURE)), -8, 8)
    mixture = _float32(*MIXTURE)
    parameters = (jnp.array([mean]), jnp.log(jnp.array([scale])))
    values, _ = _estimates(parameters, lambda z: priors.gaussian_mixture_log_prob(z, *mixture), 1)
    budget.accept_mean(values, expected, slack=1e-5)


def test_samples_have_the_posteriors_distribution():
    mean, log_scale = jnp.array([2.0]), jnp.array([-1.0])
    draws = jax.vmap(posteriors.sample_posterior, in_axes=(0, None, None))(
        jax.random.split(jax.random.key(0), 20_000), mean, log_scale
    )
    budget.accept(stats.kstest(np.asarray(draws[:, 0], np.float64), stats.norm(2, np.exp(-1)).cdf).pvalue)


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


# The mixture prior.


def test_a_gaussian_mixture_integrates_to_one(x64):
    rng = np.random.default_rng(0)
    grid, step = np.linspace(-15, 15, 601, retstep=True)
    plane = jnp.asarray(np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2))
    parameters = rng.normal(0, 2, 3), rng.normal(0, 2, (3, 2)), rng.uniform(-1, 0.5, (3, 2))
    values = jax.jit(jax.vmap(lambda z: priors.gaussian_mixture_log_prob(z, *parameters)))(plane)
    assert float(jnp.sum(jnp.exp(values))) * step**2 == pytest.approx(1, abs=1e-9)


def test_one_component_is_the_gaussian_and_logits_have_no_level():
    z, mean, log_scale = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    one = priors.gaussian_mixture_log_prob(z, jnp.array([7.0]), mean[None], log_scale[None])
    np.testing.assert_allclose(one, posteriors.posterior_log_prob(mean, log_scale, z), rtol=1e-6)
    logits, means, log_scales = _float32(*MIXTURE)
    shifted = priors.gaussian_mixture_log_prob(z[:1], logits + 50, means, log_scales)
    np.testing.assert_allclose(priors.gaussian_mixture_log_prob(z[:1], logits, means, log_scales), shifted, rtol=1e-5)
