"""Every likelihood sums or integrates to one: outcomes enumerated, densities integrated; and the far tails of the bins."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from vae_jax import likelihoods


def _probabilities(log_prob, parameters, outcomes):
    """A row of probabilities of the outcomes for each row of parameters."""
    over_outcomes = jax.vmap(lambda p, x: log_prob(*p, x), in_axes=(None, 0))
    logs = jax.jit(jax.vmap(over_outcomes, in_axes=(0, None)))(parameters, outcomes)
    return np.exp(np.asarray(logs, np.float64))


def _logistic_parameters(rng, dtype, *shape):
    """Centers inside and outside of [0, 1], scales from far below a bin to far above all."""
    loc = np.concatenate([rng.uniform(-0.5, 1.5, (12, *shape)), rng.choice([-30.0, 0.0, 0.5, 1.0, 30.0], (12, *shape))])
    log_scale = rng.uniform(-7 if dtype == "float32" else -20, 20, (24, *shape))
    log_scale[::2] = rng.uniform(-5, 0, (12, *shape))
    return jnp.asarray(loc, dtype), jnp.asarray(log_scale, dtype)


def _assert_sum_to_one(totals, log_scale, dtype):
    """To rounding: of the sum, and of an edge that two bins share, which moves eps/scale of their mass across."""
    eps = float(jnp.finfo(dtype).eps)
    narrowest = np.exp(-np.asarray(log_scale, np.float64)).reshape(len(totals), -1).max(axis=-1)
    assert np.all(np.abs(totals - 1) < 100 * eps + 8 * eps * narrowest), totals


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("num_bins", [2, 3, 16, 256])
def test_probabilities_of_levels_sum_to_one(num_bins, dtype, x64):
    rng = np.random.default_rng(num_bins)
    levels = jnp.arange(num_bins, dtype=dtype)
    loc, log_scale = _logistic_parameters(rng, dtype)
    one = _probabilities(lambda m, s, x: likelihoods.discretized_logistic_log_prob(m, s, x, num_bins), (loc, log_scale), levels)
    _assert_sum_to_one(one.sum(axis=-1), log_scale, dtype)

    loc, log_scale = _logistic_parameters(rng, dtype, 3)
    parameters = (jnp.asarray(rng.normal(0, 5, (24, 3)), dtype), loc, log_scale)
    mixed = _probabilities(lambda *a: likelihoods.logistic_mixture_log_prob(*a, num_bins), parameters, levels)
    _assert_sum_to_one(mixed.sum(axis=-1), log_scale, dtype)

    logits = jnp.asarray(rng.normal(0, 20, (24, num_bins)), dtype)
    categorical = _probabilities(lambda p, x: likelihoods.categorical_log_prob(p, x), (logits,), levels)
    np.testing.assert_allclose(categorical.sum(axis=-1), 1, rtol=0, atol=100 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("num_bins", [2, 4, 16])
def test_probabilities_of_rgb_pixels_sum_to_one(num_bins, dtype, x64):
    rng = np.random.default_rng(num_bins)
    loc, log_scale = _logistic_parameters(rng, dtype, 3, 2)
    logits, coefficients = jnp.asarray(rng.normal(0, 3, (24, 2)), dtype), jnp.asarray(rng.normal(0, 2, (24, 3, 2)), dtype)
    colors = jnp.array(list(itertools.product(range(num_bins), repeat=3)), dtype)
    parameters = (logits, loc, log_scale, coefficients)
    got = _probabilities(lambda *a: likelihoods.logistic_mixture_rgb_log_prob(*a, num_bins), parameters, colors)
    _assert_sum_to_one(got.sum(axis=-1), log_scale, dtype)


DENSITIES = {
    "gaussian": likelihoods.gaussian_log_prob,
    "laplace": likelihoods.laplace_log_prob,
    **{f"student_{df}": lambda m, s, x, df=df: likelihoods.student_t_log_prob(m, s, x, df) for df in (0.5, 1.0, 4.0, 50.0)},
}


@pytest.mark.parametrize("log_prob", DENSITIES.values(), ids=DENSITIES)
def test_densities_integrate_to_one(log_prob, x64):
    """Trapezoids in t, x = loc +- scale exp(pi/2 sinh t): both sides of a kink, and tails to 1e33 scales."""
    t, step = np.linspace(-4.5, 4.5, 1801, retstep=True)
    distance = np.exp(np.pi / 2 * np.sinh(t))
    weight = step * distance * np.pi / 2 * np.cosh(t)
    for loc, log_scale in ((0.0, -7.0), (0.7, 0.3), (0.0, 15.0)):
        total = 0.0
        for side in (-1, 1):
            x = loc + side * np.exp(log_scale) * distance
            total += float(
                np.sum(_probabilities(log_prob, (jnp.array([loc]), jnp.array([log_scale])), x)[0] * weight) * np.exp(log_scale)
            )
        assert total == pytest.approx(1, abs=1e-9)


def test_the_poisson_sums_to_one(x64):
    rate = np.array([0.01, 1.0, 30.0, 255.0, 3000.0])
    last = 3800
    got = _probabilities(likelihoods.poisson_log_prob, (jnp.log(rate),), jnp.arange(last + 1.0)).sum(axis=-1)
    tail = np.exp((last + 1) - rate + (last + 1) * np.log(rate / (last + 1)))  # P(X > last), Chernoff
    assert np.all(tail < 1e-12)
    np.testing.assert_allclose(got, 1, rtol=0, atol=1e-11)


def test_the_negative_binomial_sums_to_one(x64):
    mean, r = np.array(list(itertools.product((0.01, 1.0, 30.0), (0.05, 1.0, 20.0, 1e6)))).T
    p, last = mean / (mean + r), 30_000
    parameters = jnp.log(mean), jnp.log(r)
    got = _probabilities(likelihoods.negative_binomial_log_prob, parameters, jnp.arange(last + 1.0)).sum(axis=-1)
    ratio = p * np.maximum(1, (last + r) / (last + 1))  # of each term to the one before, from the last on: at most this
    log_last = [oracles.negative_binomial(np.log(m), np.log(d), last) for m, d in zip(mean, r, strict=True)]
    assert np.all(ratio < 1)
    assert np.all(np.exp(log_last) * ratio / (1 - ratio) < 1e-12)
    np.testing.assert_allclose(got, 1, rtol=0, atol=1e-10)


def test_the_zero_inflated_negative_binomial_sums_to_one(x64):
    logit, mean, r = np.array(list(itertools.product((-30.0, -1.0, 0.0, 2.0, 30.0), (0.01, 1.0, 30.0), (0.3, 20.0)))).T
    parameters = jnp.asarray(logit), jnp.log(mean), jnp.log(r)
    counts = jnp.arange(6001.0)  # beyond are less than 1e-12: 30 / (30 + 0.3) to the power of 6,001 is 1e-26
    got = _probabilities(likelihoods.zero_inflated_negative_binomial_log_prob, parameters, counts)
    np.testing.assert_allclose(got.sum(axis=-1), 1, rtol=0, atol=1e-11)
    np.testing.assert_allclose(got @ np.arange(6001.0), mean / (1 + np.exp(logit)), rtol=1e-9)


# The far tails of the discretized logistic.


def _assert_bins(loc, log_scale, level, num_bins, rtol, atol=1e-6):
    loc, log_scale = np.float32(loc), np.float32(log_scale)
    one = jax.jit(jax.vmap(lambda *a: likelihoods.discretized_logistic_log_prob(*a, num_bins)))
    for event in zip(np.asarray(one(loc, log_scale, jnp.float32(level))), loc, log_scale, level, strict=True):
        expected = oracles.discretized_logistic(*event[1:], num_bins)
        assert event[0] == pytest.approx(expected, rel=rtol, abs=atol), (*event[1:], num_bins)


def _beside_bins(num_bins, levels, distances, log_scales, least=0.0):
    """Loc at so many scales (and at least `least`) beyond either end of the bins, float32 neighbors at best."""
    grid = itertools.product(levels, distances, log_scales, (-1, 1))
    level, distance, log_scale, side = np.array(list(grid)).T
    away = 0.5 / (num_bins - 1) + np.maximum(distance * np.exp(log_scale), least)
    return level / (num_bins - 1) + side * away, log_scale, level


NARROW_TO_WIDE = (-20.0, -12.0, -7.0, -3.0, 0.0, 7.0, 20.0)


@pytest.mark.parametrize("num_bins", [2, 3, 17, 257])
def test_levels_that_are_exact_in_float32_are_right_at_any_distance(num_bins):
    """With a power of two bins apart no digit is lost in level - loc, so that only the formula's own rounding counts."""
    levels = sorted({0, 1, num_bins // 2, num_bins - 2, num_bins - 1})
    _assert_bins(*_beside_bins(num_bins, levels, (10, 40, 300, 5e3, 1e6), NARROW_TO_WIDE), num_bins, rtol=3e-4)
    _assert_bins(*_beside_bins(num_bins, levels, (0, 0.1, 1, 3), NARROW_TO_WIDE), num_bins, rtol=3e-6)


@pytest.mark.parametrize("num_bins", [16, 256])
def test_far_tails_of_the_usual_levels(num_bins):
    """k/255 is rounded to 6e-8, which is 1e-4 of a distance of 1e-3: no closer than that for the narrowest scales."""
    levels = (0, 1, num_bins // 2, num_bins - 2, num_bins - 1)
    _assert_bins(*_beside_bins(num_bins, levels, (10, 40, 300, 5e3, 1e6), NARROW_TO_WIDE, least=1e-3), num_bins, rtol=3e-4)
    _assert_bins(*_beside_bins(num_bins, levels, (0, 0.1, 1, 3), (-3.0, 0.0, 7.0, 20.0)), num_bins, rtol=1e-5)


def test_gradients_in_the_far_tails_are_those_of_the_tail():
    """Beyond all bins log P is linear in loc, with slope 1/scale: nothing saturates, where a clipped mass has gradient 0."""
    gradient = jax.jit(jax.vmap(jax.grad(likelihoods.discretized_logistic_log_prob, argnums=(0, 1))))
    for log_scale in (-20.0, -7.0, -2.0):
        for loc, sign in ((-3.0, -1), (4.0, 1)):
            slope, by_scale = gradient(jnp.full(2, loc), jnp.full(2, log_scale), jnp.array([1.0, 254.0]))
            np.testing.assert_allclose(slope, -sign * np.exp(-log_scale), rtol=3e-4)
            distance = np.abs(loc - (np.array([1, 254]) + sign * 0.5) / 255) * np.exp(-log_scale)
            width = np.exp(-log_scale) / 255  # P = exp(-distance) (1 - exp(-width))
            np.testing.assert_allclose(by_scale, distance - width * np.exp(-width) / -np.expm1(-width), rtol=3e-4)
