"""The interval of log p(x) on weights whose log p(x) is known to be 0: an upper end only where it holds."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from budget import accept
from scipy import optimize, special, stats
from test_log_px import NONE, linear_vae

from vae_jax.evaluation import (
    Evaluation,
    LogPx,
    importance_log_px,
    log_px_from_weights,
    log_px_means,
    means,
    pareto_k,
    pareto_k_limit,
    standard_error,
)

of_weights = jax.jit(jax.vmap(log_px_from_weights))
shape_of = jax.jit(pareto_k)


def scaled(rng, dims, scale, examples, num_samples):
    """Log weights of p = N(0, I) under q = N(0, scale^2 I), whose mean weight is 1."""
    return dims * np.log(scale) + (1 - scale**2) / 2 * rng.chisquare(dims, (examples, num_samples))


def shifted(rng, by, examples, num_samples):
    """Log weights of p = N(0, 1) under q = N(by, 1)."""
    return by * rng.normal(size=(examples, num_samples)) - by**2 / 2


def narrow(dims, kl):
    """The scale below 1 at which KL(q||p) is this many nats."""
    return optimize.brentq(lambda s: dims * ((s * s - 1) / 2 - np.log(s)) - kl, 1e-9, 1)


def means_of(log_w):
    return log_px_means(of_weights(jnp.asarray(log_w, jnp.float32)), log_w.shape[1])


def always_closed(found):
    return found.log_px + 3 * found.monte_carlo_error + 2 * found.bias


def test_a_q_narrower_than_the_posterior_leaves_the_upper_end_open():
    found = means_of(scaled(np.random.default_rng(0), 10, narrow(10, 10.0), 20, 5000))
    assert always_closed(found) < -3  # nats below the truth
    assert found.interval[0] < 0
    assert found.interval[1] == math.inf
    assert found.pareto_k_above_limit == 1


@pytest.mark.parametrize(
    "log_w",
    [
        lambda rng: scaled(rng, 20, 2.5, 20, 1000),  # far too wide in many dimensions: hardly a draw is in p
        lambda rng: scaled(rng, 2, 0.2, 50, 1000) + scaled(rng, 3, 1.5, 50, 1000),
        # Two bad ones among a hundred: their share of the mean is more than the interval's width.
        lambda rng: np.concatenate([scaled(rng, 5, 1.1, 98, 1000), scaled(rng, 10, narrow(10, 5.0), 2, 1000)]),
    ],
    ids=["wide", "of several widths", "few"],
)
def test_other_bad_q_leave_it_open_too(log_w):
    found = means_of(log_w(np.random.default_rng(1)))
    assert always_closed(found) < 0
    assert found.interval[0] < 0
    assert found.interval[1] == math.inf


@pytest.mark.parametrize(
    "log_w",
    [
        lambda rng: scaled(rng, 5, 1.3, 50, 1000),
        lambda rng: scaled(rng, 10, narrow(10, 0.01), 50, 5000),
        lambda rng: shifted(rng, 0.3, 50, 1000),
        lambda rng: np.zeros((50, 25)),  # the exact posterior, whose weights have no tail
    ],
    ids=["wider", "slightly narrower", "slightly shifted", "exact"],
)
def test_a_good_q_keeps_both_ends(log_w):
    found = means_of(log_w(np.random.default_rng(2)))
    assert found.interval == (found.log_px - 3 * found.monte_carlo_error, always_closed(found))
    assert found.interval[0] <= 0 <= found.interval[1] < 0.05
    assert found.pareto_k_above_limit == 0


@pytest.mark.parametrize("num_samples", [1, 2, 24])
def test_too_few_samples_say_nothing_of_the_tail(num_samples):
    found = means_of(scaled(np.random.default_rng(7), 5, 1.1, 50, num_samples))
    assert found.interval[1] == math.inf
    assert np.isnan([found.pareto_k_above, found.pareto_k_above_limit]).all()
    assert np.isnan(found.interval[0]) == (num_samples == 1)  # one draw has no error


def test_closed_intervals_hold_at_the_rate_they_claim():
    """Mixtures of better and worse q, most of them closed: 3 errors either way, where at most 1 % may miss."""
    rng, sets, examples, num_samples = np.random.default_rng(8), 150, 30, 200
    by = np.abs(rng.normal(scale=0.35, size=(sets, examples, 1)))
    log_w = jnp.asarray(by * rng.normal(size=(sets, examples, num_samples)) - by**2 / 2, jnp.float32)
    found = jax.device_get(jax.jit(jax.vmap(jax.vmap(log_px_from_weights)))(log_w))
    intervals = [log_px_means(LogPx(*(leaf[i] for leaf in found)), num_samples).interval for i in range(sets)]
    closed = [(low, high) for low, high in intervals if high < math.inf]
    assert len(closed) > sets / 3
    accept(stats.binom.sf(sum(not low <= 0 <= high for low, high in closed) - 1, len(closed), 0.01))


def estimates(shapes, half=0.0, error=0.0):
    n = len(shapes)
    full = lambda value: np.full(n, value, np.float32)  # noqa: E731
    return LogPx(full(0.0), full(-half), full(error), full(50.0), np.asarray(shapes, np.float32))


@pytest.mark.parametrize(
    ("num_above", "bias", "is_closed"),
    [
        (0, 0.0, True),
        (1, 0.0, False),
        (1, 0.0016, True),
        (1, 0.0014, False),
        (10, 0.016, True),
        (10, 0.014, False),
        (11, 9.0, False),
    ],
)
def test_the_upper_end_by_hand(num_above, bias, is_closed):
    """Of 1,000 examples at most 10 may be above the limit, and 3 nats of each must fit into twice the bias."""
    found = log_px_means(estimates([0.61] * num_above + [0.59] * (1000 - num_above), half=bias), 5000)
    assert found.pareto_k_above_limit == num_above / 1000
    assert (found.interval[1] == pytest.approx(2 * bias, rel=1e-6)) == is_closed
    assert (found.interval[1] == math.inf) != is_closed


def test_the_limit_depends_on_the_number_of_samples():
    got = [pareto_k_limit(k) for k in (10, 25, 100, 316, 317, 10**6)]
    np.testing.assert_allclose(got, [0, 1 - 1 / math.log10(25), 0.5, 1 - 1 / math.log10(316), 0.6, 0.6])
    shapes = [0.55] * 100
    assert log_px_means(estimates(shapes), 100).interval[1] == math.inf  # more than 100 draws can tell
    assert log_px_means(estimates(shapes), 1000).interval[1] < math.inf


@pytest.mark.parametrize(("dims", "sigma"), [(6, 0.5), (64, 0.1), (784, 0.5)])
def test_rounding_has_no_shape(dims, sigma):
    """With the exact posterior for q all weights are p(x); in float32 they differ by rounding."""
    rng = np.random.default_rng(9)
    w = np.linalg.qr(rng.normal(size=(dims, 3)))[0] * [2.0, 1.0, 0.5]
    precision = np.sum(w**2, axis=0) / sigma**2 + 1
    x = jnp.asarray(rng.normal(size=(20, 3)) @ w.T + sigma * rng.normal(size=(20, dims)), jnp.float32)
    to_mean, log_scale = jnp.asarray(w / sigma**2 / precision, jnp.float32), jnp.asarray(-0.5 * np.log(precision), jnp.float32)
    vae = linear_vae(w, np.zeros(dims), lambda x: (x @ to_mean, log_scale), sigma)
    found = jax.jit(lambda: importance_log_px(jax.random.key(0), vae, NONE, x, num_samples=300))()
    exact = stats.multivariate_normal.logpdf(x, np.zeros(dims), w @ w.T + sigma**2 * np.eye(dims))
    np.testing.assert_allclose(found.log_px, exact, rtol=1e-5, atol=1e-4)
    assert np.max(found.standard_error) > 0  # the weights do differ
    assert np.isneginf(found.pareto_k).all()
    summary = log_px_means(found, 300)
    assert summary.pareto_k_above == summary.pareto_k_above_limit == 0
    assert summary.interval[1] < math.inf


def zhang_stephens(w):
    """The profile posterior mean of the shape, shrunk as by ten draws at 0.5, in float64 and by SciPy's functions."""
    m = int(min(len(w) / 5, 3 * math.sqrt(len(w))))
    x = np.sort(w)[-m:] - np.sort(w)[-m - 1]
    grid = np.arange(1, 31 + int(math.sqrt(m))) - 0.5
    theta = 1 / x[-1] + (1 - np.sqrt((30 + int(math.sqrt(m))) / grid)) / (3 * x[int(m / 4 + 0.5) - 1])
    shape = np.array([np.mean(np.log1p(-t * x)) for t in theta])
    t = np.sum(theta * special.softmax(m * (np.log(-theta / shape) - shape - 1)))
    return (m * np.mean(np.log1p(-t * x)) + 5) / (m + 10)


@pytest.mark.parametrize("at", [0.0, -100.0, 5000.0])
def test_small_differences_that_are_no_rounding_keep_their_shape(at):
    """A tail some hundred units in the last place wide is fitted as ever."""
    rng = np.random.default_rng(10)
    spread = 1e3 * np.finfo(np.float32).eps * max(abs(at), 10)
    log_w = (at + spread * rng.exponential(size=500)).astype(np.float32)
    np.testing.assert_allclose(shape_of(jnp.asarray(log_w)), zhang_stephens(np.exp(log_w.astype(np.float64) - at)), atol=0.05)
    assert np.isneginf(shape_of(jnp.asarray((at + spread / 1e3 * rng.exponential(size=500)).astype(np.float32))))


def test_no_standard_error_over_one_example():
    values = [-3.0, 1.5, 0.25, 7.0]
    assert standard_error(values) == pytest.approx(stats.sem(values), rel=1e-15)
    assert math.isnan(standard_error(values[:1]))
    one = means(Evaluation(np.float32([-3.0]), np.float32([1.0])))
    assert one[:3] == (-4.0, -3.0, 1.0)
    assert math.isnan(one.elbo_standard_error)
    found = log_px_means(estimates([0.1], half=0.01, error=0.1), 100)
    assert math.isnan(found.standard_error)
    assert found.interval == pytest.approx((-0.3, 0.32))  # over the draws of one example there is an error


def strictly(text):
    """JSON as the standard has it, without NaN and Infinity."""

    def refuse(name):
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


def test_what_is_not_defined_is_null_in_the_record_and_nan_when_read(tmp_path):
    from vae_jax.evaluation import Means
    from vae_jax.runs import metrics_file as record
    from vae_jax.training import Epoch, TrainMeans

    one = Means(-4.0, -3.0, 1.0, math.nan, 1)
    epoch = Epoch(1, 5, TrainMeans(4.0, -3.0, 1.0, {}), one, one._replace(elbo=-math.inf), 0.5)
    line = record.to_line(epoch, 40, 0.5)
    record.append_metrics(tmp_path, line)
    written = strictly((tmp_path / "metrics.jsonl").read_text())
    assert (written["test_elbo_standard_error"], written["validation_elbo"], written["test_elbo"]) == (None, None, -4.0)
    (read,) = record.read_metrics(tmp_path)
    assert math.isnan(read["test_elbo_standard_error"])
    assert read["test_num_examples"] == 1
    again = record.to_epoch(read)
    assert math.isnan(again.test.elbo_standard_error)
    assert (again.test[:3], again.train, again.step) == (one[:3], epoch.train, 5)
    record.rewrite_metrics(tmp_path, [read])
    assert strictly((tmp_path / "metrics.jsonl").read_text()) == written
    # What older versions wrote: 0.0 for one example, NaN for a mean that was not finite. And what is no number is no line.
    old = json.dumps({**line, "test_elbo_standard_error": 0.0, "validation_elbo": math.nan})
    (tmp_path / "metrics.jsonl").write_text(f"{old}\n{json.dumps({**line, 'step': None}, default=str)}\n")
    (read,) = record.read_metrics(tmp_path)
    assert read["test_elbo_standard_error"] == 0.0
    assert math.isnan(read["validation_elbo"])
