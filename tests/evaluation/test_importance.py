"""Importance-weighted bounds and gradient estimators, on linear-Gaussian models where log p(x) and the posterior are exact.

Statistical tests compare with 5.5 standard errors; with the 60 or so comparisons here a false failure has a chance below 3e-6.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from speed import slow_but

from vae_jax.likelihoods import gaussian_log_prob
from vae_jax.objectives import ciwae, elbo, iwae, log_mean_exp_k, miwae, piwae

SIGMA, X_1D = 0.5, 1.3
FUNCTIONS = {
    "elbo": lambda *a, estimator: elbo(*a, num_samples=6, estimator=estimator),
    "iwae": lambda *a, estimator: iwae(*a, num_samples=6, estimator=estimator),
    "miwae": lambda *a, estimator: miwae(*a, num_groups=2, num_samples=3, estimator=estimator),
    "ciwae": lambda *a, estimator: ciwae(*a, elbo_weight=0.3, num_samples=6, estimator=estimator),
}


def linear_model(seed=0, count=7):
    """X = W z + noise with orthogonal columns (so that the posterior is diagonal), several x, and exact log p(x)."""
    rng = np.random.default_rng(seed)
    weights = np.linalg.qr(rng.normal(size=(5, 2)))[0] * np.array([2.0, 0.7])
    x = rng.normal(size=(count, 5))
    log_px = stats.multivariate_normal(np.zeros(5), weights @ weights.T + SIGMA**2 * np.eye(5)).logpdf(x)
    variance = SIGMA**2 / (np.sum(weights**2, axis=0) + SIGMA**2)
    encoder = {"w": jnp.asarray(variance[:, None] * weights.T / SIGMA**2), "s": jnp.asarray(np.log(variance) / 2)}
    return jnp.asarray(weights), encoder, jnp.asarray(x), log_px


def linear_loss(function, key, encoder, weights, x, **options):
    def encode(x):
        return encoder["w"] @ x, encoder["s"]

    def log_prob(output, x):
        return gaussian_log_prob(output, math.log(SIGMA), x)

    return function(key, encode, lambda z: weights @ z, log_prob, x, **options).loss


@pytest.mark.parametrize("estimator", ["stl", "dreg"])
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_at_the_true_posterior_every_draw_gives_log_p_and_no_encoder_gradient(function, estimator, x64):
    weights, encoder, x, log_px = linear_model()

    def loss(encoder, key, x):
        return linear_loss(function, key, encoder, weights, x, estimator=estimator)

    keys = jax.random.split(jax.random.key(0), len(x))
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(loss), in_axes=(None, 0, 0)))(encoder, keys, x)
    np.testing.assert_allclose(-values, log_px, rtol=0, atol=1e-10)
    for leaf in jax.tree.leaves(gradients):
        np.testing.assert_allclose(leaf, 0, atol=1e-9)


def test_the_plain_estimators_gradient_is_not_zero_there(x64):
    weights, encoder, x, _ = linear_model()
    gradient = jax.jit(jax.grad(lambda e: linear_loss(iwae, jax.random.key(0), e, weights, x[0], num_samples=6)))(encoder)
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(gradient)) > 1e-2


# One latent, p(z) = N(0, 1), p(x|z) = N(z, 1), x = 1.3; q = N(0.2, 0.8).
def one_dimensional(function, q, theta, key, **options):
    def encode(x):
        return q[:1], q[1:]

    return function(
        key, encode, lambda z: z + theta, lambda out, x: gaussian_log_prob(out, 0.0, x), jnp.array([X_1D]), **options
    )


def compiled(function, q, key, **options):
    """Returns the terms for one key, as one program: op by op, dispatch would take most of the time."""
    return jax.jit(lambda q, key: one_dimensional(function, q, jnp.zeros(1), key, **options))(q, key)


Q = jnp.array([0.2, math.log(0.8) / 2])
LOG_PX = stats.norm(0, math.sqrt(2)).logpdf(X_1D)


def replicate(function, count, *, with_gradient=False, seed=0, **options):
    keys = jax.random.split(jax.random.key(seed), count)
    one = lambda q, theta, key: one_dimensional(function, q, theta, key, **options).loss  # noqa: E731
    run = jax.value_and_grad(one, argnums=(0, 1)) if with_gradient else one
    return jax.jit(jax.vmap(run, in_axes=(None, None, 0)))(Q, jnp.zeros(1), keys)


@pytest.mark.slow
def test_the_bound_does_not_fall_with_k_and_its_gap_tends_to_chi_square_over_2k():
    assert_bounds(200_000)


def assert_bounds(count):
    s_q, s_p, m_q, m_p = math.sqrt(0.8), math.sqrt(0.5), 0.2, X_1D / 2
    spread = 2 * s_q**2 - s_p**2
    chi_square = s_q**2 / (s_p * math.sqrt(spread)) * math.exp((m_p - m_q) ** 2 / spread) - 1
    bounds, errors = [], []
    for k in (1, 4, 16, 32, 64):
        values = -np.asarray(replicate(iwae, count, num_samples=k), np.float64)
        bounds.append(values.mean())
        errors.append(values.std() / math.sqrt(len(values)))
    bounds, errors = np.array(bounds), np.array(errors)
    assert bounds[0] == pytest.approx(-1.955510, abs=5.5 * errors[0])  # the ELBO, in closed form
    assert np.all(np.diff(bounds) > -5.5 * np.hypot(errors[1:], errors[:-1]))
    assert np.all(bounds < LOG_PX + 5.5 * errors)
    gap = LOG_PX - bounds
    for k, got, error in zip((32, 64), gap[-2:], errors[-2:], strict=True):
        # The next term of the expansion is of order 1/k^2.
        assert abs(got - chi_square / (2 * k)) < 5.5 * error + 2 / k**2


@functools.cache
def plain_gradients(name):
    return replicate(FUNCTIONS[name], 50_000, with_gradient=True, estimator="reparam")[1]


@pytest.mark.parametrize("name", slow_but(("iwae", "miwae"), FUNCTIONS))
def test_the_estimators_agree_in_expectation(name):
    """z-test of the encoder's gradient; stl at one draw only, beyond which it is biased, as it says."""
    plain_q, plain_theta = plain_gradients(name)
    _, (dreg_q, dreg_theta) = replicate(FUNCTIONS[name], 50_000, with_gradient=True, estimator="dreg", seed=1)
    for plain, dreg in ((plain_q, dreg_q), (plain_theta, dreg_theta)):
        plain, dreg = np.asarray(plain, np.float64), np.asarray(dreg, np.float64)
        error = np.sqrt((plain.var(axis=0) + dreg.var(axis=0)) / len(plain))
        assert np.all(np.abs(plain.mean(axis=0) - dreg.mean(axis=0)) < 5.5 * error)


def test_stl_is_unbiased_for_one_draw_and_biased_for_more():
    def difference(k):
        _, (plain, _) = replicate(iwae, 200_000, with_gradient=True, num_samples=k)
        _, (stl, _) = replicate(iwae, 200_000, with_gradient=True, num_samples=k, estimator="stl", seed=1)
        error = np.sqrt((np.var(plain, axis=0) + np.var(stl, axis=0)) / len(plain))
        return np.abs(np.mean(plain, axis=0) - np.mean(stl, axis=0)) / error

    assert np.all(difference(1) < 5.5)
    assert np.any(difference(8) > 10)


@pytest.mark.parametrize("name", slow_but(("elbo", "miwae"), FUNCTIONS))
def test_the_decoders_gradient_and_the_value_do_not_depend_on_the_estimator(name):
    function = FUNCTIONS[name]
    results = [replicate(function, 5, with_gradient=True, estimator=e) for e in ("stl", "dreg")]
    for value, (_, theta) in results:
        np.testing.assert_allclose(value, results[0][0], rtol=1e-6)
        np.testing.assert_allclose(theta, results[0][1][1], rtol=1e-5)
    if name != "elbo":  # whose plain loss has the KL in closed form
        value, (_, theta) = replicate(function, 5, with_gradient=True, estimator="reparam")
        np.testing.assert_allclose(value, results[0][0], rtol=1e-6)
        np.testing.assert_allclose(theta, results[0][1][1], rtol=1e-5)


def test_the_dreg_gradient_is_its_formula():
    """sum_k v_k^2 (d log w_k / d z_k)(d z_k / d phi), by hand: here d log w/dz = (x - z) - z + (z - m)/s^2."""
    keys = jax.random.split(jax.random.key(3), 5)
    z = jax.vmap(lambda key: Q[0] + jnp.exp(Q[1]) * jax.random.normal(key, (1,)))(keys)[:, 0]
    z = np.asarray(z, np.float64)
    m, s = float(Q[0]), math.sqrt(0.8)
    log_w = stats.norm.logpdf(X_1D, z, 1) + stats.norm.logpdf(z) - stats.norm.logpdf(z, m, s)
    v = np.exp(log_w - log_w.max())
    v /= v.sum()
    slope = (X_1D - z) - z + (z - m) / s**2
    expected = [np.sum(v**2 * slope), np.sum(v**2 * slope * (z - m))]
    loss = lambda q: one_dimensional(iwae, q, jnp.zeros(1), jax.random.key(3), num_samples=5, estimator="dreg").loss  # noqa: E731
    got = jax.jit(jax.grad(loss))(Q)
    np.testing.assert_allclose(-got, expected, rtol=1e-5)


@pytest.mark.slow
def test_the_signal_to_noise_of_dreg_grows_with_k_where_the_plain_ones_falls():
    def ratio(estimator, k):
        _, (gradient, _) = replicate(iwae, 100_000, with_gradient=True, num_samples=k, estimator=estimator)
        # Of the mean; in its scale this q is close to where chi^2 is stationary, and there is no signal to speak of.
        values = np.asarray(gradient[:, 0], np.float64)
        return abs(values.mean()) / values.std()

    plain, dreg = ([ratio(estimator, k) for k in (4, 16, 64)] for estimator in ("reparam", "dreg"))
    assert plain[2] == pytest.approx(plain[0] / 4, rel=0.3)  # falls as 1/sqrt(k)
    assert dreg[2] == pytest.approx(dreg[0] * 4, rel=0.2)  # grows as sqrt(k)


def test_one_draw_is_the_elbo_with_the_same_key():
    reference = compiled(elbo, Q, jax.random.key(5), estimator="stl")
    for function, options in (
        (iwae, {}),
        (miwae, {"num_groups": 1}),
        (ciwae, {"elbo_weight": 0.7}),
        (piwae, {"num_groups": 1}),
    ):
        terms = compiled(function, Q, jax.random.key(5), num_samples=1, **options)
        np.testing.assert_allclose(terms.loss, reference.loss, rtol=1e-6)
        np.testing.assert_allclose(terms.log_likelihood, reference.log_likelihood, rtol=1e-6)
        np.testing.assert_allclose(terms.kl, reference.kl, rtol=1e-6)


def test_the_family_has_its_members_at_the_ends():
    def run(function, **options):
        return compiled(function, Q, jax.random.key(2), **options)

    iwae_of_six = run(iwae, num_samples=6)
    np.testing.assert_allclose(run(miwae, num_groups=1, num_samples=6).loss, iwae_of_six.loss)
    mean_of_one = run(miwae, num_groups=6, num_samples=1)
    np.testing.assert_allclose(mean_of_one.loss, run(elbo, num_samples=6, estimator="stl").loss, rtol=1e-6)
    np.testing.assert_allclose(run(ciwae, elbo_weight=0.0, num_samples=6).loss, iwae_of_six.loss, rtol=1e-6)
    np.testing.assert_allclose(run(ciwae, elbo_weight=1.0, num_samples=6).loss, mean_of_one.loss, rtol=1e-6)


def test_piwae_trains_the_decoder_as_iwae_and_the_encoder_as_miwae():
    def gradients(function, **options):
        loss = lambda q, theta: one_dimensional(function, q, theta, jax.random.key(7), **options).loss  # noqa: E731
        return jax.jit(jax.grad(loss, argnums=(0, 1)))(Q, jnp.zeros(1))

    encoder, decoder = gradients(piwae, num_groups=3, num_samples=4)
    of_iwae = gradients(iwae, num_samples=12)
    np.testing.assert_allclose(encoder, gradients(miwae, num_groups=3, num_samples=4)[0], rtol=1e-5)
    np.testing.assert_allclose(decoder, of_iwae[1], rtol=1e-5)
    assert not np.allclose(encoder, of_iwae[0], rtol=1e-2)


def test_piwae_reaches_the_encoder_from_groups_of_no_weight_at_all():
    """Weights that differ by 300 nats, as between a good and a bad draw of an image: the bad group's encoder still learns."""

    def run(function, scale, **options):
        def loss(q):
            log_prob = lambda output, x: -scale * jnp.sum(jnp.square(output - x))  # noqa: E731
            return function(
                jax.random.key(0), lambda x: (q[:1], q[1:]), lambda z: z, log_prob, jnp.array([X_1D]), **options
            ).loss

        return jax.jit(jax.grad(loss))(Q)

    np.testing.assert_allclose(
        run(piwae, 300.0, num_groups=2, num_samples=1), run(miwae, 300.0, num_groups=2, num_samples=1), rtol=1e-4
    )


def test_another_prior_enters_the_weights():
    """With the prior N(1, 1) and the likelihood as above, x ~ N(1, 2); at its posterior each draw gives log p(x)."""
    prior = lambda z: gaussian_log_prob(jnp.ones(1), 0.0, z)  # noqa: E731
    q = jnp.array([(X_1D + 1) / 2, math.log(0.5) / 2])
    for function, options in (
        (elbo, {"estimator": "stl"}),
        (iwae, {"num_samples": 4}),
        (ciwae, {"num_samples": 4, "elbo_weight": 0.5}),
    ):
        terms = compiled(function, q, jax.random.key(0), prior_log_prob=prior, **options)
        assert -float(terms.loss) == pytest.approx(stats.norm(1, math.sqrt(2)).logpdf(X_1D), abs=1e-5)


@pytest.mark.parametrize(
    "broken",
    [
        lambda log_w: jax.nn.logsumexp(log_w, axis=-1),  # no log K
        lambda log_w: jnp.mean(log_w, axis=-1),  # the mean of logs is the ELBO
        pytest.param(lambda log_w: -log_mean_exp_k(-log_w), marks=pytest.mark.slow),  # a harmonic mean: the sign of the weights
        pytest.param(lambda log_w: jnp.max(log_w, axis=-1), marks=pytest.mark.slow),
    ],
)
def test_broken_twins_of_the_bound_fail(broken, monkeypatch):
    monkeypatch.setattr("vae_jax.objectives.importance.log_mean_exp_k", broken)
    with pytest.raises(AssertionError):
        assert_bounds(20_000)


@pytest.mark.parametrize("factor", [jnp.ones_like, lambda v: 2 * v, lambda v: jnp.square(v)])
def test_broken_twins_of_dreg_fail(factor, monkeypatch):
    """Weights not squared (STL), doubled, or cubed instead of squared."""
    real = jax.nn.softmax
    monkeypatch.setattr("vae_jax.objectives.importance.jax.nn.softmax", lambda log_w: factor(real(log_w)))
    with pytest.raises(AssertionError):
        test_the_estimators_agree_in_expectation("iwae")


def test_numbers_of_draws_and_estimators_are_checked():
    for function, options in (
        (iwae, {"num_samples": 0}),
        (miwae, {"num_samples": 1, "num_groups": 0}),
        (ciwae, {"num_samples": 0, "elbo_weight": 0.5}),
        (piwae, {"num_samples": 2, "num_groups": -1}),
    ):
        with pytest.raises(ValueError, match=r"expected num_(samples|groups) >= 1"):
            one_dimensional(function, Q, jnp.zeros(1), jax.random.key(0), **options)
    with pytest.raises(ValueError, match=r"'reparam', 'stl' or 'dreg', got 'score'"):
        one_dimensional(iwae, Q, jnp.zeros(1), jax.random.key(0), estimator="score")
