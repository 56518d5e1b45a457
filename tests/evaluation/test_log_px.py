"""Importance-weighted log p(x): exact models, the published expansion of its bias, chunks, the Pareto shape."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from budget import accept, accept_mean
from scipy import special, stats

from vae_jax import likelihoods, model, objectives
from vae_jax.evaluation import importance_log_px, log_px_from_weights, log_px_means, pareto_k
from vae_jax.evaluation.importance import chunk_sizes
from vae_jax.networks import Network

SIGMA = 0.5
NONE = {"encoder": (), "decoder": ()}  # params of a linear model


def linear_vae(w, mu, posterior, sigma=SIGMA):
    """p(x|z) = N(W z + mu, sigma^2); posterior maps x to (mean, log_scale)."""
    encoder = Network(lambda key: (), lambda params, x: posterior(x))
    decoder = Network(lambda key: (), lambda params, z: jnp.asarray(w, jnp.float32) @ z + jnp.asarray(mu, jnp.float32))
    return model.make_vae(encoder, decoder, likelihoods.gaussian(sigma), (len(mu),))


@pytest.fixture(scope="module")
def linear():
    """A model with orthogonal columns, so that its exact posterior is diagonal; data from it; the exact log p(x) in float64."""
    rng = np.random.default_rng(0)
    w = np.linalg.qr(rng.normal(size=(6, 3)))[0] * [2.0, 1.0, 0.5]
    mu = rng.normal(size=6)
    x = mu + rng.normal(size=(40, 3)) @ w.T + SIGMA * rng.normal(size=(40, 6))
    exact = stats.multivariate_normal.logpdf(x, mu, w @ w.T + SIGMA**2 * np.eye(6))
    precision = np.sum(w**2, axis=0) / SIGMA**2 + 1

    def posterior(x, shift=0.0, widen=1.0):
        mean = (x - mu.astype(np.float32)) @ jnp.asarray(w / SIGMA**2 / precision, jnp.float32) + shift
        return mean, jnp.asarray(-0.5 * np.log(precision) + np.log(widen), jnp.float32)

    return w, mu, jnp.asarray(x, jnp.float32), exact, posterior


@pytest.mark.parametrize("num_samples", [1, 2, 50])
def test_with_the_exact_posterior_every_draw_is_the_answer(linear, num_samples):
    w, mu, x, exact, posterior = linear
    got = importance_log_px(jax.random.key(0), linear_vae(w, mu, posterior), NONE, x, num_samples=num_samples)
    np.testing.assert_allclose(got.log_px, exact, atol=2e-5)
    if num_samples > 1:
        assert np.max(got.standard_error) < 1e-5
        np.testing.assert_allclose(got.effective_sample_size, num_samples, rtol=1e-5)
        np.testing.assert_allclose(got.log_px_half, exact, atol=2e-5)


@pytest.mark.parametrize(("shift", "widen"), [(0.1, 1.3), (0.2, 1.0), (0.0, 2.0)])
def test_the_interval_has_the_exact_value(linear, shift, widen):
    w, mu, x, exact, posterior = linear
    vae = linear_vae(w, mu, lambda x: posterior(x, shift, widen))
    got = importance_log_px(jax.random.key(1), vae, NONE, x, num_samples=2000)
    means = log_px_means(got, 2000)
    low, high = means.interval
    assert low < exact.mean() < high
    assert high - low < 0.1
    # each example by itself, in units of its own error
    accept_mean((np.asarray(got.log_px) - exact) / np.asarray(got.standard_error), 0.0, deviation=1.1)
    np.testing.assert_allclose(means.standard_error, np.std(got.log_px, ddof=1) / np.sqrt(40), rtol=1e-5)


@pytest.mark.slow
def test_the_bias_is_chi_squared_over_two_k():
    """PAPERS section 7.6: p(z) = N(0, 1), p(x|z) = N(z, 1), x = 1.3, q = N(.2, .8^2)."""
    x, mean, scale = 1.3, 0.2, 0.8
    exact = stats.norm.logpdf(x, 0, np.sqrt(2))
    mean_p, var_p, var_q = x / 2, 0.5, scale**2
    denominator = 2 * var_q - var_p
    chi_squared = var_q / np.sqrt(var_p * denominator) * np.exp((mean_p - mean) ** 2 / denominator) - 1
    vae = linear_vae([[1.0]], [0.0], lambda x: (jnp.full(1, mean), jnp.full(1, np.log(scale), jnp.float32)), sigma=1.0)
    data = jnp.full((200_000, 1), x)
    for k, tolerance in ((16, 6e-4), (64, 1e-4)):  # of the next term of the expansion, O(1/K^2)
        run = jax.jit(lambda key, k=k: importance_log_px(key, vae, NONE, data, num_samples=k))
        got = run(jax.random.key(2))
        accept_mean(exact - np.asarray(got.log_px, np.float64), chi_squared / (2 * k), slack=tolerance)
        # and what is estimated without knowing the answer is the same
        accept_mean(
            np.asarray(got.log_px, np.float64) - np.asarray(got.log_px_half), chi_squared / (2 * k), slack=6 * tolerance
        )


def test_the_standard_error_is_that_of_repetitions(linear):
    w, mu, x, _, posterior = linear
    vae = linear_vae(w, mu, lambda x: posterior(x, 0.2, 1.2))
    again = jnp.repeat(x[:1], 3000, axis=0)  # every copy has draws of its own
    got = importance_log_px(jax.random.key(3), vae, NONE, again, num_samples=200)
    ratio = np.var(got.log_px, ddof=1) / np.mean(np.square(got.standard_error))
    accept(2 * stats.norm.sf(max(abs(ratio - 1) - 0.03, 0) / np.sqrt(2 / 3000)))


@pytest.fixture(scope="module")
def mlp():
    vae = model.mlp_vae((3, 3, 1), likelihoods.bernoulli(), latent_dim=2, hidden=(8,))
    params = jax.tree.map(lambda leaf: 2 * leaf, vae.init(jax.random.key(0)))
    x = (jax.random.uniform(jax.random.key(1), (23, 3, 3, 1)) < 0.5).astype(jnp.float32)
    return vae, params, x


def test_it_is_the_plain_loop(mlp):
    vae, params, x = mlp
    decode = jax.jit(vae.decode)
    got = importance_log_px(jax.random.key(5), vae, params, x, num_samples=30, log_jacobian=-2.0)
    for i in (0, 11, 22):
        key_x = jax.random.fold_in(jax.random.key(5), i)
        mean, log_scale = (np.asarray(p, np.float64) for p in vae.encode(params, x[i]))
        log_w = []
        for k in range(30):
            z = np.asarray(jax.random.normal(jax.random.fold_in(key_x, k), (2,)), np.float64) * np.exp(log_scale) + mean
            logits = np.asarray(decode(params, jnp.asarray(z, jnp.float32)), np.float64)
            log_p = np.sum(special.log_expit(np.where(np.asarray(x[i]) > 0, logits, -logits))) + stats.norm.logpdf(z).sum()
            log_w.append(log_p - stats.norm.logpdf(z, mean, np.exp(log_scale)).sum())
        np.testing.assert_allclose(got.log_px[i], special.logsumexp(log_w) - np.log(30) - 2, atol=1e-4)
        halves = [special.logsumexp(part) - np.log(15) for part in (log_w[:15], log_w[15:])]
        np.testing.assert_allclose(got.log_px_half[i], np.mean(halves) - 2, atol=1e-4)
        w = np.exp(log_w - np.max(log_w))
        np.testing.assert_allclose(got.effective_sample_size[i], w.sum() ** 2 / (w**2).sum(), rtol=1e-4)
        np.testing.assert_allclose(got.standard_error[i], np.std(w, ddof=1) / np.sqrt(30) / w.mean(), rtol=1e-4)


@pytest.fixture(scope="module")
def in_one_chunk(mlp):
    vae, params, x = mlp
    return importance_log_px(jax.random.key(0), vae, params, x, num_samples=37)


@pytest.mark.parametrize("memory_bytes", [1, 5_000, 60_000, 2**26])
def test_chunks_change_nothing(mlp, in_one_chunk, memory_bytes):
    vae, params, x = mlp
    parts = importance_log_px(jax.random.key(0), vae, params, x, num_samples=37, memory_bytes=memory_bytes)
    chex.assert_trees_all_close(parts, in_one_chunk, atol=1e-4, rtol=1e-4)
    assert parts.log_px.shape == (23,)


def test_a_learned_prior_is_the_one_that_is_used(mlp):
    from vae_jax import priors

    vae = model.mlp_vae((3, 3, 1), likelihoods.bernoulli(), latent_dim=2, hidden=(8,), prior=priors.gaussian_mixture(2, 4))
    params = vae.init(jax.random.key(4))
    x = mlp[2][:3]
    got = importance_log_px(jax.random.key(0), vae, params, x, num_samples=5)

    @jax.jit
    def log_weight(key, x):
        decode, prior = lambda z: vae.decode(params, z), model.prior_log_prob(vae, params)
        return objectives.draw(key, vae.encode(params, x), decode, vae.likelihood.log_prob, x, prior_log_prob=prior).log_weight

    for i in range(3):
        key_x = jax.random.fold_in(jax.random.key(0), i)
        log_w = [float(log_weight(jax.random.fold_in(key_x, k), x[i])) for k in range(5)]
        np.testing.assert_allclose(got.log_px[i], special.logsumexp(log_w) - np.log(5), atol=1e-5)


def test_one_compilation_and_a_bound_on_memory(mlp):
    vae, params, x = mlp
    run = jax.jit(chex.assert_max_traces(lambda p: importance_log_px(jax.random.key(0), vae, p, x, num_samples=40), n=1))
    run(params), run(jax.tree.map(lambda leaf: leaf + 1, params))
    big = lambda k: jax.jit(  # noqa: E731
        lambda p: importance_log_px(jax.random.key(0), vae, p, x, num_samples=k, memory_bytes=10**5)
    ).lower(params)
    use = [big(k).compile().memory_analysis().temp_size_in_bytes for k in (100, 10_000)]
    assert use[1] < use[0] + 12 * 4 * 10_000  # the weights of one image, and no more


def test_chunk_sizes():
    assert chunk_sizes(100, 10, 7, 1) == (1, 1)
    assert chunk_sizes(100, 10, 7, 1400) == (2, 7)
    assert chunk_sizes(100, 10, 7, 10**9) == (10, 7)
    assert chunk_sizes(100, 10, 5000, 100 * 2999) == (1, 2500)  # two even chunks, not 2999 and 2001


pareto_k_of_each = jax.jit(jax.vmap(pareto_k))


@pytest.mark.parametrize("shape", [-0.5, 0.0, 0.4, 0.9])
def test_the_pareto_shape_is_found(shape):
    """Weights that are generalized Pareto have its shape in every tail."""
    rng = np.random.default_rng(1)
    w = 5 + stats.genpareto.rvs(shape, size=(200, 20_000), random_state=rng)
    got = np.asarray(pareto_k_of_each(jnp.log(jnp.asarray(w, jnp.float32))), np.float64)
    m = 3 * np.sqrt(20_000)
    shrunk = (m * shape + 5) / (m + 10)
    # the estimator's spread is (1 + shape)/sqrt(M), at least; its bias about as much as one tenth of that
    assert abs(got.mean() - shrunk) < 0.05
    assert 0.3 < got.std() * np.sqrt(m) / (1 + shape) < 2.5


def test_the_pareto_fit_is_that_of_an_independent_implementation():
    """Zhang & Stephens's estimator on the tail, written out in NumPy with loops."""

    def fit(w):
        m = int(min(len(w) / 5, 3 * np.sqrt(len(w))))
        ordered = np.sort(w)
        x = ordered[-m:] - ordered[-m - 1]
        grid = 30 + int(np.sqrt(m))
        theta, profile = [], []
        for i in range(1, grid + 1):
            t = 1 / x[-1] + (1 - np.sqrt(grid / (i - 0.5))) / (3 * x[int(m / 4 + 0.5) - 1])
            k = -np.mean(np.log(1 - t * x))
            theta.append(t)
            profile.append(m * (np.log(t / k) + k - 1))
        weights = [1 / sum(np.exp(other - own) for other in profile) for own in profile]
        t = float(np.dot(weights, theta))
        return (m * np.mean(np.log(1 - t * x)) + 5) / (m + 10)

    rng = np.random.default_rng(2)
    for size in (25, 100, 5000):
        log_w = rng.normal(scale=1.5, size=size) - 90
        np.testing.assert_allclose(jax.jit(pareto_k)(jnp.asarray(log_w, jnp.float32)), fit(np.exp(log_w + 90)), atol=5e-3)


def test_extremes():
    few = log_px_from_weights(jnp.array([-3.0]))
    assert few.log_px == -3
    assert np.isnan(few.standard_error)
    assert np.isnan(few.pareto_k)
    same = log_px_from_weights(jnp.full(100, -500.0))
    assert (same.log_px, same.standard_error, same.pareto_k) == (-500, 0, -jnp.inf)
    one = log_px_from_weights(jnp.full(100, -1e4).at[3].set(0.0))
    np.testing.assert_allclose(one.log_px, -np.log(100), rtol=1e-6)
    np.testing.assert_allclose(one.effective_sample_size, 1, rtol=1e-6)
    assert np.isfinite(one.standard_error)
    with pytest.raises(ValueError, match="num_samples >= 1, got 0"):
        importance_log_px(jax.random.key(0), None, None, jnp.zeros((1, 1)), num_samples=0)
