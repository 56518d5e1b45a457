"""Every bundle's `sample` and `mean` against its own `log_prob`: goodness of fit, moments, independence.

`log_prob` itself is held to oracles in test_mathematics and test_likelihoods. Outcomes are enumerated where there are finitely
many, densities integrated on a grid. The p-values draw on the one budget of the suite (see budget.py).
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import budget
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from vae_jax import likelihoods

DRAWS = 20_000
# Compiled once and run once: without optimization that takes half of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Case(NamedTuple):
    """A bundle, and the decoder's output: a start for each dimension of the event, and noise on all outputs."""

    bundle: Any
    start: Any = (0.1, 0.3, 0.6, 0.9)  # means of the dimensions (the first is there twice, for a test of independence)
    noise: Any = 0.5  # or one for each part of the decoder's outputs
    mean_within: float = 1e-4  # of `mean` to the exact mean, in standard deviations


COUNTS = (0.5, 3.0, 20.0)
CASES = {
    "bernoulli": Case(likelihoods.bernoulli()),
    "continuous_bernoulli": Case(likelihoods.continuous_bernoulli(), (0.02, 0.3, 0.5, 0.9)),
    **{
        f"{name}_{scale}": Case(getattr(likelihoods, name)(scale, **more), (-3.0, 0.0, 0.5))
        for name in ("gaussian", "laplace", "student_t")
        for scale, more in ((0.3, {}), ("shared", {"initial_scale": 0.2}), ("per_pixel", {"initial_scale": 3.0}))
    },
    "student_t_of_2.5": Case(likelihoods.student_t(0.1, degrees_of_freedom=2.5), (-3.0, 0.0)),
    **{
        f"discretized_logistic_{num_bins}_{scale}": Case(
            likelihoods.discretized_logistic(num_bins, scale=scale, initial_scale=initial_scale), noise=0.2
        )
        for num_bins, scale, initial_scale in (
            (256, "shared", 0.05),
            (256, "per_pixel", 0.02),
            (8, "shared", 0.1),
            (2, "per_pixel", 0.5),
        )
    },
    "logistic_mixture_256": Case(likelihoods.logistic_mixture(256, initial_scale=0.03)),
    "logistic_mixture_4": Case(likelihoods.logistic_mixture(4, num_components=3)),
    # The mean of colors is carried from channel to channel: documented as exact but for mass beyond the ends.
    "logistic_mixture_rgb_16": Case(
        likelihoods.logistic_mixture_rgb(16, num_components=2, initial_scale=0.05), (0.5, 0.45), (1, 0.1, 0.2, 1), 0.01
    ),
    "logistic_mixture_rgb_4": Case(likelihoods.logistic_mixture_rgb(4, num_components=3), mean_within=math.inf),
    "logistic_mixture_rgb_2": Case(
        likelihoods.logistic_mixture_rgb(2, num_components=1, initial_scale=0.5), (0.5,), mean_within=math.inf
    ),
    "categorical_256": Case(likelihoods.categorical(256)),
    "categorical_3": Case(likelihoods.categorical(3)),
    "poisson": Case(likelihoods.poisson(), COUNTS),
    "negative_binomial_shared": Case(likelihoods.negative_binomial("shared", initial_dispersion=2.0), COUNTS),
    "negative_binomial_per_pixel": Case(likelihoods.negative_binomial("per_pixel", initial_dispersion=2.0), COUNTS),
    "negative_binomial_0.4": Case(likelihoods.negative_binomial(0.4), COUNTS),
    "zero_inflated_shared": Case(likelihoods.zero_inflated_negative_binomial(initial_dispersion=2.0), COUNTS),
    "zero_inflated_per_pixel": Case(likelihoods.zero_inflated_negative_binomial("per_pixel"), COUNTS),
}
names = pytest.mark.parametrize("name", CASES)


def _decoder_output(case):
    """The decoder's array (the leading axis runs over pixels, of which the first two are alike) and the learned numbers."""
    bundle, start = case.bundle, jnp.array((case.start[0], *case.start))
    if "rgb" in bundle.name:
        start = jnp.broadcast_to(start[:, None], (len(start), 3))
    if "rgb" in bundle.name:  # [logits | locations | log-scales | coefficients]
        locations = jnp.arange(bundle.outputs_per_dim) // (bundle.outputs_per_dim // 4) == 1
        values = start[..., None] * locations
    else:
        values = jit(bundle.output_for_mean)(start)
    noise = jax.random.normal(jax.random.key(0), values.shape)
    size = jnp.repeat(jnp.array(case.noise), values.shape[-1] // np.size(case.noise))
    values = values + size * noise.at[1].set(noise[0])
    return (values, jnp.array(bundle.shared_start)) if bundle.shared_start else values


def _draws(sample, output):
    keys = jax.random.split(jax.random.key(1), DRAWS)
    draws = np.asarray(jit(jax.vmap(sample, in_axes=(0, None)))(keys, output), np.float64)
    return draws.reshape(DRAWS, draws.shape[1], -1)  # (draws, pixels, channels)


class Exact(NamedTuple):
    """Outcomes of one pixel with their probabilities; the distribution function where they stand for a density."""

    outcomes: np.ndarray  # (outcomes, channels)
    probabilities: np.ndarray
    cumulative: np.ndarray | None = None

    def moments(self, function):
        """Mean and standard deviation of function(x), for each channel."""
        values, p = function(self.outcomes), self.probabilities[:, None] / self.probabilities.sum()
        mean = np.sum(p * values, axis=0)
        return mean, np.sqrt(np.sum(p * (values - mean) ** 2, axis=0))


def _grid(bundle, draws):
    """All outcomes of one pixel, or points for an integral, with their weights."""
    if bundle.support == "real":  # x = center + width sinh(t): dense in the middle, and far out
        center, t = np.median(draws), np.linspace(-18, 18, 6001)
        width = np.median(np.abs(draws - center))
        return center + width * np.sinh(t), width * np.cosh(t) * (t[1] - t[0])
    if bundle.support == "unit_interval":
        x, weights = np.linspace(0, 1, 6001), np.full(6001, 1 / 6000)
        weights[[0, -1]] /= 2
        return x, weights
    if bundle.support == "counts":
        return np.arange(2 * draws.max() + 50), None
    levels = np.linspace(0, 1, bundle.num_levels or 2)
    return np.array(list(itertools.product(levels, repeat=draws.shape[-1]))).squeeze(), None


@functools.cache
def _prepared(name):
    """The decoder's output of a case, its draws, and the exact distribution of each pixel by `log_prob`."""
    case = CASES[name]
    bundle, output = case.bundle, _decoder_output(case)
    draws, distributions = _draws(bundle.sample, output), []
    log_probs = jit(jax.vmap(bundle.log_prob, in_axes=(None, 0)))
    for i in range(draws.shape[1]):
        pixel = (output[0][i : i + 1], output[1]) if isinstance(output, tuple) else output[i : i + 1]
        x, weights = _grid(bundle, draws if bundle.support == "counts" else draws[:, i])
        probabilities = np.exp(np.asarray(log_probs(pixel, jnp.asarray(x, jnp.float32)[:, None]), np.float64))
        cumulative = None
        if weights is not None:
            probabilities = probabilities * weights
            cumulative = integrate.cumulative_trapezoid(probabilities, initial=0.0)
        distributions.append(Exact(x.reshape(len(x), -1), probabilities, cumulative))
    return output, draws, distributions


def _accept_fit(exact, draws):
    """Goodness of fit of one pixel's draws: Kolmogorov-Smirnov for densities, chi-square for probabilities."""
    if exact.cumulative is not None:
        x, cumulative = exact.outcomes[:, 0], exact.cumulative / exact.cumulative[-1]
        budget.accept(stats.kstest(draws[:, 0], lambda v: np.interp(v, x, cumulative)).pvalue)
        return
    values = np.unique(exact.outcomes[:, 0])  # equally spaced from 0
    steps = np.round(draws / values[1]).astype(int)
    index = np.ravel_multi_index(steps.T, (len(values),) * draws.shape[1])
    budget.accept_frequencies(np.bincount(index, minlength=len(exact.outcomes)), exact.probabilities)


def _accept(draws, distributions, known_deviation):
    """All that draws are held to."""
    for i, exact in enumerate(distributions):
        _accept_fit(exact, draws[:, i])
        mean, deviation = exact.moments(lambda x: x)
        # The root of the distance has twice the moments: enough for a normal mean even of a Student's t.
        spread, of_spread = exact.moments(lambda x, mean=mean: np.sqrt(np.abs(x - mean)))
        for c in range(draws.shape[2]):
            x = draws[:, i, c]
            budget.accept_mean(
                x, mean[c], deviation[c] if known_deviation else None, slack=1e-5 * (deviation[c] + abs(mean[c]))
            )
            budget.accept_mean(np.sqrt(np.abs(x - mean[c])), spread[c], of_spread[c], slack=1e-4 * of_spread[c])
    for c in range(draws.shape[2]):  # two pixels with the same distribution are still two draws
        correlation = stats.spearmanr(draws[:, 0, c], draws[:, 1, c]).statistic
        budget.accept(2 * stats.norm.sf(abs(correlation) * math.sqrt(DRAWS - 1)))


@names
def test_samples_have_the_distribution_of_log_prob(name):
    _, draws, distributions = _prepared(name)
    for exact in distributions:
        assert exact.probabilities.sum() == pytest.approx(1, abs=1e-4)
    _accept(draws, distributions, CASES[name].bundle.support != "real")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.mean_within < math.inf])
def test_the_mean_is_that_of_log_prob(name):
    output, draws, distributions = _prepared(name)
    means = np.asarray(jit(CASES[name].bundle.mean)(output)).reshape(draws.shape[1:])
    for exact, mean in zip(distributions, means, strict=True):
        expected, deviation = exact.moments(lambda x: x)
        np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=CASES[name].mean_within * deviation.max())


@names
def test_samples_lie_in_the_support_and_have_the_shape_of_the_data(name):
    bundle, (output, draws, _) = CASES[name].bundle, _prepared(name)
    one, mean = jax.eval_shape(bundle.sample, jax.random.key(0), output), jax.eval_shape(bundle.mean, output)
    shape = (output[0] if isinstance(output, tuple) else output).shape
    assert one.shape == mean.shape == (shape[:-1] if bundle.outputs_per_dim > 1 else shape)
    assert bundle.outputs_per_dim == 1 or shape[-1] == bundle.outputs_per_dim
    assert one.dtype == mean.dtype == jnp.float32
    assert jax.eval_shape(bundle.log_prob, output, one).shape == ()
    assert np.all(np.isfinite(draws))
    if bundle.support != "real":
        assert draws.min() >= 0
    if bundle.support in ("binary", "unit_interval", "levels"):
        assert draws.max() <= 1
    if bundle.support in ("binary", "levels", "counts"):
        steps = draws * ((bundle.num_levels or 2) - 1 if bundle.support == "levels" else 1)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)


def test_the_colors_of_256_levels_have_their_mean():
    """Too many colors to enumerate."""
    case = Case(likelihoods.logistic_mixture_rgb(initial_scale=0.03), (0.5, 0.45), (1, 0.1, 0.2, 1))
    output = _decoder_output(case)
    draws, mean = _draws(case.bundle.sample, output), np.asarray(case.bundle.mean(output), np.float64)
    for i, c in np.ndindex(mean.shape):
        deviation = draws[:, i, c].std()
        budget.accept_mean(draws[:, i, c], mean[i, c], deviation, slack=0.002 * deviation)


# Samplers that are wrong by as much as people get them wrong: the budget leaves the power to see it.


def _scaled(factor):
    return lambda sample, key, output: output + factor * (sample(key, output) - output)


WRONG = {
    "one key for all pixels": (
        "gaussian_0.3",
        lambda sample, key, output: jax.vmap(lambda value: sample(key, value))(output),
    ),
    "5 % too wide": ("gaussian_0.3", _scaled(1.05)),
    "the variance for the scale": ("gaussian_0.3", _scaled(0.3)),
    "the Bernoulli for the continuous one": (
        "continuous_bernoulli",
        lambda _, key, logits: jax.random.bernoulli(key, jax.nn.sigmoid(logits)).astype(jnp.float32),
    ),
    "rounded down": (
        "discretized_logistic_8_shared",
        lambda sample, key, output: jnp.maximum(sample(key, output) - jax.random.bernoulli(key, 0.5, output[0].shape) / 7, 0),
    ),
    "no levels at the ends": (
        "discretized_logistic_8_shared",
        lambda sample, key, output: jnp.clip(sample(key, output), 1 / 7, 6 / 7),
    ),
    "Poisson for the negative binomial": (
        "negative_binomial_0.4",
        lambda _, key, output: jax.random.poisson(key, CASES["negative_binomial_0.4"].bundle.mean(output)).astype(jnp.float32),
    ),
    "no additional zeros": (
        "zero_inflated_shared",
        lambda _, key, output: likelihoods.negative_binomial().sample(key, (output[0][..., 0], output[1])),
    ),
    "a component for each channel": (
        "logistic_mixture_rgb_4",
        lambda sample, key, output: jnp.stack([sample(k, output)[:, c] for c, k in enumerate(jax.random.split(key, 3))], -1),
    ),
}


@pytest.mark.parametrize(("name", "wrong"), WRONG.values(), ids=WRONG)
def test_a_wrong_sampler_is_found(name, wrong, monkeypatch):
    monkeypatch.setattr(budget, "_spent", 0)  # refusals are no false failures
    output, _, distributions = _prepared(name)
    draws = _draws(functools.partial(wrong, CASES[name].bundle.sample), output)
    with pytest.raises(AssertionError, match="p-value"):
        _accept(draws, distributions, CASES[name].bundle.support != "real")
