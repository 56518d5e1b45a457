"""Likelihoods of counts given the total of the row: the multinomial, and rates that are shares of the observed total."""

import functools
import itertools
import math

import budget
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from vae_jax import likelihoods
from vae_jax.likelihoods import multinomial_log_prob, poisson_log_prob

EPS = float(jnp.finfo(jnp.float32).eps)
LOGITS = np.array([0.3, -1.0, 2.0, 0.0])
SHARES = special.softmax(LOGITS)
BUNDLES = {
    "poisson": likelihoods.poisson,
    "negative_binomial": functools.partial(likelihoods.negative_binomial, 0.7),
    "zero_inflated": functools.partial(likelihoods.zero_inflated_negative_binomial, 0.7),
}
bundles = pytest.mark.parametrize("name", BUNDLES)
LOGIT_ZERO = -0.4
NB_OF_MEANS = jax.jit(jax.vmap(likelihoods.negative_binomial_log_prob, in_axes=(0, None, None)))


def rows_with_total(total, dims):
    """All rows of `dims` counts with a sum."""
    return [row for row in itertools.product(range(total + 1), repeat=dims) if sum(row) == total]


def raw_output(name, logits):
    """The decoder output of a bundle at these logits of the proportions."""
    logits = np.asarray(logits, np.float32)
    return np.stack([logits, np.full_like(logits, LOGIT_ZERO)], axis=-1) if name == "zero_inflated" else logits


def scipys_log_prob(name, rates, x):
    """The sum of SciPy's log-probabilities at these rates."""
    if name == "poisson":
        return stats.poisson.logpmf(x, rates).sum()
    counts = stats.nbinom.logpmf(x, 0.7, 0.7 / (0.7 + rates))
    if name == "negative_binomial":
        return counts.sum()
    inflated = special.expit(LOGIT_ZERO)
    return np.log(np.where(np.equal(x, 0), inflated, 0) + (1 - inflated) * np.exp(counts)).sum()


@pytest.mark.parametrize("total", [0, 1, 7])
def test_the_multinomial_sums_to_one_over_the_rows_with_a_total(total, x64):
    rows = jnp.array(rows_with_total(total, 4), float)
    logits = jnp.array([LOGITS, np.zeros(4), [50.0, -50.0, 0.0, 1.0]])
    logs = jax.jit(jax.vmap(jax.vmap(multinomial_log_prob, in_axes=(None, 0)), in_axes=(0, None)))(logits, rows)
    np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1, rtol=1e-12)


def test_it_is_scipys_multinomial_for_events_of_any_shape():
    x = np.array([[3, 0, 11], [1, 70, 2]])
    logits = np.random.default_rng(0).normal(0, 2, x.shape).astype(np.float32)
    expected = stats.multinomial.logpmf(x.ravel(), x.sum(), special.softmax(logits.astype(np.float64)).ravel())
    assert float(jax.jit(multinomial_log_prob)(logits, x)) == pytest.approx(expected, rel=12 * EPS)
    assert float(jax.jit(likelihoods.multinomial().log_prob)(logits, x)) == pytest.approx(expected, rel=12 * EPS)


def test_it_is_the_loss_of_mult_vae_and_the_coefficient():
    """Liang et al. minimize -sum_i x_i log softmax(f(z))_i; a binary row of n items has the coefficient log n!."""
    logits, x = np.random.default_rng(1).normal(size=50), np.zeros(50)
    x[[3, 10, 44]] = 1
    theirs = -np.sum(x * special.log_softmax(logits))
    got, ours = jax.jit(jax.value_and_grad(multinomial_log_prob))(logits.astype(np.float32), x.astype(np.float32))
    assert float(got) == pytest.approx(math.log(6) - theirs, rel=1e-6)
    np.testing.assert_allclose(ours, x - 3 * special.softmax(logits), atol=1e-6)


@pytest.mark.parametrize(("total", "bound"), [(10**4, 1e-6), (10**6, 3e-5), (10**7, 3e-4)])
def test_large_totals_have_the_stated_precision(total, bound):
    """The multinomial, where sums of log-factorials in float32 would be off by whole nats."""
    rng = np.random.default_rng(total)
    logits = rng.normal(0, 2, 200).astype(np.float32)
    shares = special.softmax(logits.astype(np.float64))
    x = rng.multinomial(total, shares)
    expected = stats.multinomial.logpmf(x, total, shares / shares.sum())
    assert float(jax.jit(multinomial_log_prob)(logits, x)) == pytest.approx(expected, rel=bound)


@pytest.mark.parametrize("r", [1e-3, 0.1, 10.0, 1e4])
@pytest.mark.parametrize("x", [1e4, 1e6, 1e7])
def test_counts_up_to_ten_million_have_the_stated_precision(x, r):
    """The negative binomial to 1e-5 of its value, where a difference of log-gamma functions loses everything."""
    factors = np.array([0.5, 0.99, 1.0, 1.01, 3.0])
    log_mean, log_r = np.log(x * factors).astype(np.float32), np.float32(np.log(r))
    mean, total_count = np.exp(log_mean.astype(np.float64)), np.exp(np.float64(log_r))
    got = NB_OF_MEANS(log_mean, log_r, np.float32(x))
    np.testing.assert_allclose(got, stats.nbinom.logpmf(x, total_count, total_count / (total_count + mean)), rtol=1e-5)


@bundles
@pytest.mark.parametrize("x", [(0, 0, 0, 0), (1, 0, 0, 0), (4, 0, 31, 2)])
def test_the_rate_is_the_share_of_the_rows_total(name, x):
    bundle = BUNDLES[name](exposure="observed")
    expected = scipys_log_prob(name, sum(x) * SHARES, np.array(x))
    got = jax.jit(bundle.log_prob)(raw_output(name, LOGITS), jnp.array(x, jnp.float32))
    assert float(got) == pytest.approx(expected, rel=12 * EPS, abs=1e-6)


@bundles
def test_a_unit_scales_the_proportions(name):
    unit, x = np.array([1.0, 2.0, 0.5, 3.0]), np.array([4, 0, 31, 2], np.float32)
    scaled = jax.jit(BUNDLES[name](unit=unit, exposure="observed").log_prob)(raw_output(name, LOGITS - np.log(unit)), x)
    expected = jax.jit(BUNDLES[name](exposure="observed").log_prob)(raw_output(name, LOGITS), x)
    np.testing.assert_allclose(scaled, expected, rtol=1e-6)


def test_a_unit_scales_the_proportions_of_the_multinomial():
    unit, x = np.array([1.0, 2.0, 0.5, 3.0]), np.array([4, 0, 31, 2], np.float32)
    scaled = jax.jit(likelihoods.multinomial(unit=unit).log_prob)((LOGITS - np.log(unit)).astype(np.float32), x)
    np.testing.assert_allclose(scaled, jax.jit(multinomial_log_prob)(LOGITS.astype(np.float32), x), rtol=1e-6)


def test_the_exposed_poisson_is_the_multinomial_times_the_poisson_of_the_total():
    x = jnp.array([4.0, 0, 31, 2])
    exposed = jax.jit(likelihoods.poisson(exposure="observed").log_prob)(LOGITS.astype(np.float32), x)
    parts = jax.jit(multinomial_log_prob)(LOGITS.astype(np.float32), x) + stats.poisson.logpmf(37, 37)
    assert float(exposed) == pytest.approx(float(parts), rel=1e-6)


@bundles
def test_it_sums_to_one_for_a_fixed_total_as_covariate(name):
    """Over all counts of a column, at the rate of a total that does not depend on them."""
    rates, x = 9 * SHARES[:1], np.arange(400.0)
    total = sum(math.exp(scipys_log_prob(name, rates, np.array([count]))) for count in x)
    assert total == pytest.approx(1, abs=1e-6)
    # Where the other columns make the total 9, the bundle has the same terms.
    row = jnp.array([2.0, 3.0, 4.0, 0.0])
    got = jax.jit(BUNDLES[name](exposure="observed").log_prob)(raw_output(name, LOGITS), row)
    assert float(got) == pytest.approx(scipys_log_prob(name, 9 * SHARES, np.array(row)), rel=1e-6)


@bundles
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_row_of_zeros_has_a_finite_value_and_gradient(name, dtype):
    value_and_grad = jax.jit(jax.value_and_grad(BUNDLES[name](exposure="observed").log_prob))
    for logits in (LOGITS, [1e4, -1e4, 0, 0]):
        output = raw_output(name, logits).astype(dtype)
        value, gradient = value_and_grad(output, np.zeros(4, np.float32))
        assert float(value) == 0
        assert np.all(np.asarray(gradient) == 0)
        for x in ([1e7, 0, 0, 0], [0, 1, 0, 3]):
            both = value_and_grad(output, np.array(x, np.float32))
            assert all(np.all(np.isfinite(np.asarray(a, np.float32))) for a in both)


@pytest.mark.parametrize("name", [*BUNDLES, "multinomial"])
def test_the_output_bias_predicts_the_mean_proportions(name):
    mean, unit = np.array([0.01, 2.0, 7.0, 30.0], np.float32), np.array([0.01, 2.0, 7.0, 60.0])
    options = {"total": 39.01, "unit": unit}
    make = likelihoods.multinomial if name == "multinomial" else functools.partial(BUNDLES[name], exposure="observed")
    bundle = make(**options)
    predicted = np.asarray(jax.jit(lambda mean: bundle.mean(bundle.output_for_mean(mean)))(mean))
    np.testing.assert_allclose(predicted / predicted.sum(), mean / 39.01, rtol=1e-5)
    assert predicted.sum() == pytest.approx(39.01 / (1 + math.exp(-3)) if name == "zero_inflated" else 39.01, rel=1e-3)
    if name != "zero_inflated":
        scaled = bundle.mean(bundle.scale_mean(np.zeros(4, np.float32), np.array([3, 1, 1, 1], np.float32)))
        weights = unit * np.array([3, 1, 1, 1])
        np.testing.assert_allclose(scaled / scaled.sum(), weights / weights.sum(), rtol=1e-5)


def _draws(bundle, output, number):
    keys = jax.random.split(jax.random.key(0), number)
    return np.asarray(jax.jit(jax.vmap(bundle.sample, in_axes=(0, None)))(keys, output), np.float64)


def accept_rows(draws, total, shares):
    rows = rows_with_total(total, len(shares))
    index = {row: i for i, row in enumerate(rows)}
    frequencies = np.bincount([index[tuple(row)] for row in draws.astype(int)], minlength=len(rows))
    budget.accept_frequencies(frequencies, stats.multinomial.pmf(rows, total, shares))


def test_rows_are_drawn_from_the_multinomial():
    bundle = likelihoods.multinomial(5.0)
    draws = _draws(bundle, jnp.asarray(LOGITS, jnp.float32), 20_000)
    assert np.all(draws.sum(axis=1) == 5)
    accept_rows(draws, 5, SHARES)
    np.testing.assert_allclose(bundle.mean(jnp.asarray(LOGITS, jnp.float32)), 5 * SHARES, rtol=1e-6)


def test_long_rows_are_drawn_in_several_parts():
    """3,000 draws in three loops, the last one cut short, and an entry with probability 0."""
    logits = jnp.array([[0.3, -1.0], [2.0, -jnp.inf]])
    draws = _draws(likelihoods.multinomial(3000.0), logits, 2000)
    assert draws.shape == (2000, 2, 2)
    assert np.all(draws.sum(axis=(1, 2)) == 3000)
    assert np.all(draws[:, 1, 1] == 0)
    shares = special.softmax(np.asarray(logits, np.float64))
    for i, j in ((0, 0), (0, 1), (1, 0)):
        budget.accept_mean(draws[:, i, j], 3000 * shares[i, j], np.sqrt(3000 * shares[i, j] * (1 - shares[i, j])), slack=1e-3)
        square = (draws[:, i, j] - 3000 * shares[i, j]) ** 2
        budget.accept_mean(square, 3000 * shares[i, j] * (1 - shares[i, j]), slack=0.1)


@bundles
def test_exposed_draws_have_the_mean_total(name):
    bundle = BUNDLES[name](exposure="observed", total=40.0)
    output = raw_output(name, LOGITS)
    draws, mean = _draws(bundle, output, 5000), np.asarray(bundle.mean(output), np.float64)
    left = 1 - special.expit(LOGIT_ZERO) if name == "zero_inflated" else 1
    np.testing.assert_allclose(mean, 40 * SHARES * left, rtol=1e-5)
    for column in range(4):
        budget.accept_mean(draws[:, column], mean[column])


def test_a_wrong_sampler_of_rows_is_caught(monkeypatch):
    monkeypatch.setattr(budget, "_spent", 0)
    rng = np.random.default_rng(0)
    tempered = special.softmax(LOGITS * 1.05)
    with pytest.raises(AssertionError, match="p-value"):
        accept_rows(rng.multinomial(5, tempered, 20_000), 5, SHARES)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="poisson: expected exposure to be 'none' or 'observed', got 'total'"):
        likelihoods.poisson(exposure="total")
    for make in (*BUNDLES.values(), likelihoods.multinomial):
        with pytest.raises(ValueError, match="expected total to be a positive number"):
            make(total=0.0)
    with pytest.raises(ValueError, match="vmap"):
        multinomial_log_prob(np.zeros((2, 3)), np.zeros(3))
    assert poisson_log_prob(np.zeros(3), np.zeros(3)).shape == ()


def bundle_given_totals(name):
    return likelihoods.multinomial(9.0) if name == "multinomial" else BUNDLES[name](exposure="observed", total=9.0)


@pytest.mark.parametrize("name", [*BUNDLES, "multinomial"])
def test_means_and_draws_have_the_total_of_an_example(name):
    bundle, output = bundle_given_totals(name), raw_output(name, LOGITS)
    x = jnp.array([3.0, 0.0, 17.0, 20.0])
    kept = special.expit(-LOGIT_ZERO) if name == "zero_inflated" else 1
    expected = 40 * SHARES * kept
    np.testing.assert_allclose(bundle.mean_given(output, x), expected, rtol=1e-5)
    np.testing.assert_allclose(bundle.mean(output), 9 * SHARES * kept, rtol=1e-5)
    draws = jax.jit(jax.vmap(lambda key: bundle.sample_given(key, output, x)))(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(draws.mean(axis=0), expected, atol=6 * np.asarray(draws).std(axis=0).max() / 4000**0.5)
    empty = jnp.zeros(4)
    assert not bundle.mean_given(output, empty).any()
    assert not bundle.sample_given(jax.random.key(1), output, empty).any()
    if name == "multinomial":
        assert set(np.asarray(draws).sum(axis=1)) == {40}


@bundles
def test_only_likelihoods_given_a_total_depend_on_that_of_an_example(name):
    bundle = BUNDLES[name]()
    assert bundle.mean_given is None
    assert bundle.sample_given is None
