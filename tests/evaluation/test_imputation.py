"""Imputation by importance sampling, against dense float64 algebra, quadrature, and broken copies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from budget import accept, accept_mean
from scipy import stats

from vae_jax import likelihoods, model
from vae_jax.errors import UserError
from vae_jax.evaluation import DataSlice, ImputationSettings, class_values, importance_log_px, impute, impute_dataset
from vae_jax.example import Example, event_of
from vae_jax.networks import Network
from vae_jax.runs.imputed_rows import heavy_tails, num_heavy_tails

SIGMA, COUNT, COLUMNS = 0.6, 300, 6
COLUMN_OF = np.array([0, 0, 0, 1, 1, 1])  # the latent dimension of each entry: posteriors are diagonal for every mask
W = np.zeros((COLUMNS, 2))
W[np.arange(COLUMNS), COLUMN_OF] = [1.5, -0.8, 0.6, 1.0, 0.5, -2.0]
MU = np.array([0.3, -1.0, 2.0, 0.0, 5.0, -0.4])
B = np.random.default_rng(9).normal(size=(COLUMNS, 2))  # of the condition: x = W z + mu + B c + noise


def linear_vae(condition_dim=0, shift=0.0, widen=0.0):
    """p(x|z, c) = N(W z + mu + B c, sigma^2), with the exact posterior given the observed entries, or one that is off."""
    w, b, mu = (jnp.asarray(a, jnp.float32) for a in (W, B, MU))

    def encode(params, masked, *c):
        x, m = masked[:COLUMNS], masked[COLUMNS:]
        center = mu + (b @ c[0] if c else 0)
        precision = 1 + (m * w.T**2).sum(axis=1) / SIGMA**2
        mean = w.T @ (m * (x - center)) / SIGMA**2 / precision
        return mean + shift, -0.5 * jnp.log(precision) + widen

    def decode(params, z, *c):
        return w @ z + mu + (b @ c[0] if c else 0)

    networks = Network(lambda key: (), encode), Network(lambda key: (), decode)
    return model.make_vae(*networks, likelihoods.gaussian(SIGMA), (COLUMNS,), mask_input=True, condition_dim=condition_dim)


PARAMS = {"encoder": (), "decoder": ()}


def examples(condition_dim=0):
    """Rows drawn from the model with half of the entries missing, and their exact conditional means and covariances."""
    rng = np.random.default_rng(3)
    c = rng.normal(size=(COUNT, 2)) if condition_dim else np.zeros((COUNT, 2))
    center = MU + c @ B.T
    x = center + rng.normal(size=(COUNT, 2)) @ W.T + SIGMA * rng.normal(size=(COUNT, COLUMNS))
    mask = rng.random(x.shape) < 0.5
    mask[0], mask[1] = True, False
    x = np.float32(x)
    s = W @ W.T + SIGMA**2 * np.eye(COLUMNS)
    means, covariances, log_px = [], [], []
    for row, m, mid in zip(x.astype(np.float64), mask, center, strict=True):
        gain = s[np.ix_(~m, m)] @ np.linalg.inv(s[np.ix_(m, m)])
        means.append(mid[~m] + gain @ (row[m] - mid[m]))
        covariances.append(s[np.ix_(~m, ~m)] - gain @ s[np.ix_(m, ~m)])
        log_px.append(stats.multivariate_normal.logpdf(row[m], mid[m], s[np.ix_(m, m)]) if m.any() else 0.0)
    condition = jnp.asarray(c, jnp.float32) if condition_dim else None
    # What stands at missing entries must not matter.
    rows = Example(jnp.asarray(np.where(mask, x, 1e6)), condition, jnp.asarray(mask))
    return rows, means, covariances, np.array(log_px)


def imputed(vae, rows, num_samples, num_imputations=0, seed=0, memory_bytes=2**22):
    settings = ImputationSettings(num_samples, num_imputations)
    run = jax.jit(lambda rows: impute_dataset(jax.random.key(seed), vae, PARAMS, rows, settings, memory_bytes=memory_bytes))
    return jax.device_get(run(rows))


@pytest.mark.parametrize("condition_dim", [0, 2])
def test_the_exact_posterior_has_equal_weights_and_the_conditional_mean(condition_dim):
    rows, means, _, log_px = examples(condition_dim)
    found = imputed(linear_vae(condition_dim), rows, 400)
    np.testing.assert_allclose(found.effective_sample_size, 400, rtol=1e-4)
    np.testing.assert_allclose(found.log_px, log_px, atol=2e-4)
    accept_z_scores(found, rows, means)


@pytest.mark.parametrize("condition_dim", [0, 2])
def test_a_wrong_posterior_is_corrected_by_the_weights(condition_dim):
    rows, means, _, log_px = examples(condition_dim)
    found = imputed(linear_vae(condition_dim, shift=0.2, widen=0.3), rows, 4000)
    assert np.max(found.effective_sample_size) < 3900
    accept_z_scores(found, rows, means)
    np.testing.assert_allclose(found.log_px, log_px, atol=0.15)  # the worst of 300, each with an error of 0.02
    unweighted = jax.vmap(lambda x: linear_vae(condition_dim, 0.2).encode(PARAMS, x))(rows)[0] @ W.T.astype(np.float32)
    m = np.asarray(rows.mask)[2:]
    off = np.concatenate([u[~o] for u, o in zip(np.asarray(unweighted)[2:], m, strict=True)])
    assert np.abs(off.mean() - np.concatenate([row[~o] for row, o in zip(found.mean[2:], m, strict=True)]).mean()) > 0.1


def accept_z_scores(found, rows, means):
    """One missing entry of each row, so that the scores are independent: N(0, 1) if the standard errors are right."""
    z = []
    for i, m in enumerate(np.asarray(rows.mask)):
        if not m.all():
            j = np.flatnonzero(~m)[0]
            z.append((found.mean[i, j] - means[i][0]) / found.standard_error[i, j])
    z = np.array(z)
    assert np.mean(np.abs(z) < 3) > 0.98
    accept_mean(z, 0.0, 1.0)
    accept(2 * min(stats.chi2.cdf(np.sum(z**2), len(z)), stats.chi2.sf(np.sum(z**2), len(z))))


@pytest.mark.parametrize(("condition_dim", "widen"), [(0, 0.0), (2, 0.3)])
def test_multiple_imputations_have_the_conditional_mean_and_covariance(condition_dim, widen):
    rows, means, covariances, _ = examples(condition_dim)
    draws = imputed(linear_vae(condition_dim, widen=widen), rows, 3000, num_imputations=3).imputations
    residuals, products = [], []
    for drawn, m, mean, covariance in zip(draws, np.asarray(rows.mask), means, covariances, strict=True):
        if not m.all():
            whitened = np.linalg.solve(np.linalg.cholesky(covariance), (drawn[:, ~m] - mean).T)
            residuals.append(whitened.ravel())
            products += [whitened[i] * whitened[j] for i in range(len(whitened)) for j in range(i)]
    residuals = np.concatenate(residuals)
    accept_mean(residuals, 0.0, 1.0)
    accept_mean(residuals**2, 1.0, 2**0.5)
    accept_mean(np.concatenate(products), 0.0, 1.0)


def test_observed_entries_keep_their_bits_and_a_row_without_any_gets_the_prior_mean():
    rows, *_ = examples()
    found = imputed(linear_vae(), rows, 100, num_imputations=2)
    mask, x = np.asarray(rows.mask), np.asarray(rows.event)
    for values in (found.mean, *np.moveaxis(found.imputations, 1, 0)):
        assert values[mask].tobytes() == x[mask].tobytes()
        assert np.all(np.abs(values[~mask]) < 1e3)
    assert np.all(found.standard_error[mask] == 0)
    assert found.log_px[1] == pytest.approx(0, abs=1e-5)
    np.testing.assert_allclose(found.mean[1], MU, atol=6 * found.standard_error[1].max())


@pytest.mark.slow
def test_results_depend_neither_on_chunks_nor_on_other_rows():
    rows, *_ = examples()
    vae = linear_vae(widen=0.3)
    whole = imputed(vae, rows, 60, num_imputations=2)

    def assert_close(one, other):
        # The tail shape comes from a few large weights, whose rounding it amplifies.
        np.testing.assert_allclose(one.pareto_k, other.pareto_k, atol=1e-3)
        one, other = (result._replace(pareto_k=None) for result in (one, other))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), one, other)

    for memory_bytes in (200, 30_000):
        assert_close(imputed(vae, rows, 60, 2, 0, memory_bytes), whole)
    part = imputed(vae, DataSlice(rows[7:9], 7), 60, num_imputations=2)
    assert_close(part, jax.tree.map(lambda leaf: leaf[7:9], whole))


def test_log_px_is_that_of_importance_log_px():
    rows, *_ = examples()
    vae = linear_vae(widen=0.3)
    other = jax.jit(lambda rows: importance_log_px(jax.random.key(1), vae, PARAMS, rows, num_samples=2000))(rows)
    found = imputed(vae, rows, 2000)
    error = np.sqrt(2) * np.maximum(np.asarray(other.standard_error), 1e-4)
    accept_mean((found.log_px - other.log_px) / error, 0.0, 1.0)
    np.testing.assert_allclose(found.effective_sample_size, other.effective_sample_size, rtol=0.2)


def bernoulli_vae(num_levels=None):
    """p(x|z) of three entries with one latent dimension; q(z|x) is N(0, 1.2^2)."""
    decoder_w = jnp.array([1.5, -2.0, 0.7])
    if num_levels is None:
        likelihood, decode = likelihoods.bernoulli(), lambda z: decoder_w * z[0] + 0.3
    else:
        likelihood = likelihoods.categorical(num_levels)
        decode = lambda z: (decoder_w * z[0])[:, None] * jnp.arange(num_levels) + jnp.arange(num_levels) % 2  # noqa: E731
        if likelihood.log_prob_per_entry is None:
            pytest.skip("the categorical likelihood does not factorize yet")
    encoder = Network(lambda key: (), lambda params, x: (jnp.zeros(1), jnp.log(jnp.full(1, 1.2))))
    return model.make_vae(encoder, Network(lambda key: (), lambda params, z: decode(z)), likelihood, (3,)), decode


@pytest.mark.parametrize("num_levels", [None, 4])
def test_probabilities_of_classes_are_those_of_quadrature(num_levels):
    vae, decode = bernoulli_vae(num_levels)
    k = num_levels or 2
    x, mask = jnp.array([1.0, 0.0, 0.0]), jnp.array([True, False, False])
    settings = ImputationSettings(20_000, 0, class_values(vae.likelihood, (3,)), 500)
    found = jax.jit(lambda key: impute(key, vae, PARAMS, Example(x, mask=mask), settings))(jax.random.key(0))
    z = np.linspace(-9, 9, 4001)
    outputs = np.asarray(jax.vmap(lambda z: decode(z[None]))(z), np.float64)
    logits = outputs if num_levels else np.stack([np.zeros_like(outputs), outputs], axis=-1)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)  # (z, entries, classes)
    weight = stats.norm.pdf(z) * p[:, 0, k - 1]
    expected = np.einsum("z,zdk->kd", weight, p) / weight.sum()
    np.testing.assert_allclose(found.probabilities[:, 1:], expected[:, 1:], atol=0.02)  # 20,000 draws: 5 standard errors
    np.testing.assert_allclose(found.probabilities[:, 0], np.eye(k)[k - 1])
    assert found.mode[0] == 1
    np.testing.assert_allclose(found.mode[1:] * (k - 1), expected[:, 1:].argmax(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.mean[1:], np.arange(k) @ expected[:, 1:] / (k - 1), atol=0.02)


def test_a_likelihood_that_does_not_factorize_or_needs_the_total_is_refused():
    rows = Example(jnp.zeros((2, 3)), mask=jnp.ones((2, 3), bool))
    for likelihood, message in (
        (likelihoods.multinomial(5.0), "cannot leave out missing entries"),
        (likelihoods.gaussian(1.0)._replace(mean_given=lambda output, x: output), "given the total of each example"),
    ):
        vae = model.mlp_vae((3,), likelihood, latent_dim=2, hidden=(4,), standardize=None)
        with pytest.raises(UserError, match=message):
            jax.eval_shape(
                lambda p, vae=vae: impute(jax.random.key(0), vae, p, rows[0]), jax.eval_shape(vae.init, jax.random.key(0))
            )
    with pytest.raises(ValueError, match="num_samples >= 1"):
        impute(jax.random.key(0), linear_vae(), PARAMS, rows[0], ImputationSettings(0))


def test_streamed_sums_are_the_formulas_over_all_draws():
    """With a posterior far off, so that the reference of the sums is far from the mean."""
    vae, k, key = linear_vae(shift=1.5, widen=0.3), 50, jax.random.key(4)
    x = Example(jnp.asarray(MU + 1, jnp.float32), mask=jnp.asarray([True, False, True, False, False, True]))
    found = jax.jit(lambda key: impute(key, vae, PARAMS, x, ImputationSettings(k, draws_at_once=7)))(key)
    mean, log_scale = (np.asarray(a, np.float64) for a in vae.encode(PARAMS, x))
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, 0), i))(jnp.arange(k))
    noise = np.asarray(jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys), np.float64)
    z = mean + np.exp(log_scale) * noise
    decoded, m = z @ W.T + MU, np.asarray(x.mask)
    log_w = stats.norm.logpdf(np.asarray(x.event)[m], decoded[:, m], SIGMA).sum(axis=1)
    log_w += stats.norm.logpdf(z).sum(axis=1) - stats.norm.logpdf(z, mean, np.exp(log_scale)).sum(axis=1)
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    expected = w @ decoded
    error = np.sqrt(w**2 @ (decoded - expected) ** 2 * k / (k - 1))
    np.testing.assert_allclose(found.mean[~m], expected[~m], rtol=1e-4)
    np.testing.assert_allclose(found.standard_error[~m], error[~m], rtol=2e-3)
    np.testing.assert_allclose(found.effective_sample_size, 1 / np.sum(w**2), rtol=1e-3)


def test_heavy_tails_of_the_weights_are_noticed():
    """A proposal with a third of the posterior's scale, and the posterior itself, for x = z + noise with two entries."""
    x = Example(jnp.array([[1.0, 0.0]] * 20), mask=jnp.array([[True, False]] * 20))

    def shapes(narrower):
        scale = jnp.log(0.5**0.5) - narrower
        vae = model.VAE(
            lambda key: {},
            lambda params, x: (event_of(x)[:1] / 2, jnp.full(1, scale)),
            lambda params, z: jnp.tile(z, 2),
            likelihoods.gaussian(1.0),
            (2,),
            1,
        )
        return np.asarray(impute_dataset(jax.random.key(0), vae, {}, x, ImputationSettings(1000)).pareto_k)

    assert (shapes(0.0) == -np.inf).all()
    narrow = shapes(jnp.log(3.0))
    assert num_heavy_tails(narrow, 1000) >= 18  # the tail shape is 1 - 1/9 in the limit
    assert num_heavy_tails(shapes(0.0), 1000) == 0
    assert heavy_tails(1, 20).startswith("1 of 20 rows has importance weights with a heavy tail")
