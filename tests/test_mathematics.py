"""One battery for every function of the mathematics: adding a row to `FUNCTIONS` tests a new one.

Tolerances are multiples of the dtype's epsilon times the sum of the absolute terms, the scale of rounding in a sum.
"""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.test_util import check_grads

from vae_jax import divergences, likelihoods


class Row(NamedTuple):
    """A function of the package, its oracle, and a generator of random arguments (as float64 arrays of one event)."""

    function: Any
    oracle: Any
    draw: Any  # (rng, size) -> arguments
    extreme: Any  # list of arguments at the extremes
    differentiable: tuple[int, ...]  # arguments to differentiate


def _binary(rng, size):
    return rng.integers(0, 2, size).astype(np.float64)


def _pairs(values, others):
    grid = np.array([(a, b) for a in values for b in others])
    return tuple(grid.T)


LOGITS = (-1e4, -104.0, -88.0, -20.0, 0.0, 1e-3, 17.0, 88.0, 104.0, 1e4)
SCALES = (-20.0, -1.0, 0.0, 1e-4, 20.0)
FUNCTIONS = {
    "bernoulli_log_prob": Row(
        likelihoods.bernoulli_log_prob,
        oracles.bernoulli,
        lambda rng, n: (rng.normal(0, 5, n), _binary(rng, n)),
        _pairs(LOGITS, (0.0, 1.0)),
        (0,),
    ),
    "gaussian_log_prob": Row(
        likelihoods.gaussian_log_prob,
        oracles.gaussian,
        lambda rng, n: (rng.normal(0, 2, n), rng.normal(0, 1, n), rng.normal(0, 2, n)),
        tuple(np.array([(m, s, x) for m in (-1.0, 0.0) for s in SCALES for x in (-1.0, 0.0, 3.0)]).T),
        (0, 1, 2),
    ),
    "continuous_bernoulli_log_prob": Row(
        likelihoods.continuous_bernoulli_log_prob,
        oracles.continuous_bernoulli,
        lambda rng, n: (rng.normal(0, 3, n), rng.uniform(0, 1, n)),
        _pairs((*LOGITS, 0.4999, 0.5, 0.5001, -1e-6), (0.0, 0.3, 0.5, 1.0)),
        (0, 1),
    ),
    "kl_to_standard_normal": Row(
        divergences.kl_to_standard_normal,
        oracles.kl_to_standard_normal,
        lambda rng, n: (rng.normal(0, 2, n), rng.normal(0, 1, n)),
        _pairs((0.0, 1e-4, 1e4), (-20.0, -0.25, 0.0, 1e-4, 20.0)),
        (0, 1),
    ),
    "kl_diagonal_gaussians": Row(
        divergences.kl_diagonal_gaussians,
        oracles.kl_diagonal_gaussians,
        lambda rng, n: tuple(rng.normal(0, 1, (4, n))),
        tuple(np.array([(m, s, 0.5, t) for m in (0.5, 3.0) for s in SCALES for t in SCALES]).T),
        (0, 1, 2, 3),
    ),
}
rows = pytest.mark.parametrize("row", FUNCTIONS.values(), ids=FUNCTIONS)


def _terms(oracle, arguments):
    """The oracle's value for each dimension alone."""
    return [oracle(*(a[i : i + 1] for a in arguments)) for i in range(len(arguments[0]))]


def assert_matches(function, oracle, arguments, dtype, epsilons=4):
    """The function's value, on arguments rounded to dtype, within `epsilons` machine epsilons of the absolute sum."""
    rounded = tuple(np.asarray(jnp.asarray(a, dtype)).astype(np.float64) for a in arguments)
    terms = _terms(oracle, rounded)
    got = float(function(*(jnp.asarray(a, dtype) for a in arguments)))
    scale = float(np.sum(np.abs(terms)))
    bound = epsilons * float(jnp.finfo(dtype).eps) * scale
    assert abs(got - float(np.sum(terms))) <= bound, (got, float(np.sum(terms)), bound)


@rows
@pytest.mark.parametrize("seed", range(5))
def test_float32_against_the_oracle(row, seed):
    rng = np.random.default_rng(seed)
    assert_matches(row.function, row.oracle, row.draw(rng, 50), jnp.float32, epsilons=12)


@rows
def test_float64_against_the_oracle(row, x64):
    assert_matches(row.function, row.oracle, row.draw(np.random.default_rng(0), 50), jnp.float64, epsilons=12)


@rows
def test_bfloat16_is_right_to_its_own_epsilon(row):
    assert_matches(row.function, row.oracle, row.draw(np.random.default_rng(0), 50), jnp.bfloat16, epsilons=1)


@rows
def test_each_extreme_value_in_float32(row):
    for i in range(len(row.extreme[0])):
        arguments = tuple(np.atleast_1d(a[i]) for a in row.extreme)
        value = row.oracle(*(np.asarray(np.float32(a), np.float64) for a in arguments))
        got = float(row.function(*(jnp.asarray(a, jnp.float32) for a in arguments)))
        # exp() of a large argument has a relative error of |argument| epsilons: 80 at the ends of the KL's range.
        assert got == pytest.approx(value, rel=1e-5, abs=1e-6), arguments


@rows
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_value_and_gradient_are_finite_at_the_extremes(row, dtype):
    arguments = tuple(jnp.asarray(a, dtype) for a in row.extreme)
    value, gradients = jax.value_and_grad(row.function, argnums=row.differentiable)(*arguments)
    assert value.dtype == jnp.dtype(dtype)
    chex.assert_tree_all_finite((value, gradients))


@rows
def test_gradients_by_finite_differences(row, x64):
    arguments = row.draw(np.random.default_rng(3), 6)

    def of_differentiable(*values):
        filled = list(arguments)
        for position, value in zip(row.differentiable, values, strict=True):
            filled[position] = value
        return row.function(*filled)

    points = tuple(jnp.asarray(arguments[i]) for i in row.differentiable)
    check_grads(of_differentiable, points, order=2, modes=("fwd", "rev"), rtol=1e-5, atol=1e-5, eps=1e-4)


@rows
def test_vmap_is_a_loop_and_jit_is_eager(row):
    rng = np.random.default_rng(1)
    batch = tuple(jnp.asarray(np.stack(a), jnp.float32) for a in zip(*(row.draw(rng, 7) for _ in range(4)), strict=True))
    mapped = jax.vmap(row.function)(*batch)
    looped = jnp.stack([row.function(*(a[i] for a in batch)) for i in range(4)])
    np.testing.assert_allclose(mapped, looped, rtol=2e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(row.function))(*batch), mapped, rtol=2e-6)


@rows
def test_any_event_shape_and_order_of_dimensions(row):
    arguments = row.draw(np.random.default_rng(2), 24)
    flat = row.function(*(jnp.asarray(a, jnp.float32) for a in arguments))
    image = row.function(*(jnp.asarray(a[::-1].reshape(2, 3, 4), jnp.float32) for a in arguments))
    assert flat.shape == ()
    np.testing.assert_allclose(image, flat, rtol=1e-5)


@rows
def test_a_batch_by_mistake_is_an_error_that_says_vmap(row):
    arguments = list(row.draw(np.random.default_rng(0), 6))
    with pytest.raises(ValueError, match="vmap"):
        row.function(*(a.reshape(2, 3) for a in arguments[:-1]), arguments[-1][:3])


@rows
def test_the_second_call_does_not_compile(row):
    function = jax.jit(chex.assert_max_traces(row.function, n=1))
    for seed in range(2):
        function(*(jnp.asarray(a, jnp.float32) for a in row.draw(np.random.default_rng(seed), 5)))


# Broken twins: what people get wrong. Each must fail the oracle test that the real formula passes.
def _twin(name, change):
    row = FUNCTIONS[name]

    @functools.wraps(row.function)
    def broken(*arguments):
        return change(row.function, *arguments)

    return broken


MUTANTS = {
    "bernoulli: sign": ("bernoulli_log_prob", lambda f, logits, x: -f(logits, x)),
    "bernoulli: mean for sum": ("bernoulli_log_prob", lambda f, logits, x: f(logits, x) / x.size),
    "bernoulli: outcomes swapped": ("bernoulli_log_prob", lambda f, logits, x: f(logits, 1 - x)),
    "gaussian: sign": ("gaussian_log_prob", lambda f, m, s, x: -f(m, s, x)),
    "gaussian: mean for sum": ("gaussian_log_prob", lambda f, m, s, x: f(m, s, x) / x.size),
    "gaussian: no 2 pi": ("gaussian_log_prob", lambda f, m, s, x: f(m, s, x) + 0.5 * x.size * np.log(2 * np.pi)),
    "gaussian: no log-determinant": ("gaussian_log_prob", lambda f, m, s, x: f(m, s, x) + jnp.sum(s)),
    "gaussian: log-variance for log-scale": ("gaussian_log_prob", lambda f, m, s, x: f(m, s / 2, x)),
    "gaussian: no half": ("gaussian_log_prob", lambda f, m, s, x: 2 * f(m, s, x)),
    "continuous bernoulli: no constant": (
        "continuous_bernoulli_log_prob",
        lambda f, logits, x: likelihoods.bernoulli_log_prob(logits, x),
    ),
    "continuous bernoulli: mean for sum": ("continuous_bernoulli_log_prob", lambda f, logits, x: f(logits, x) / x.size),
    "continuous bernoulli: sign": ("continuous_bernoulli_log_prob", lambda f, logits, x: -f(logits, x)),
    "kl: sign": ("kl_to_standard_normal", lambda f, m, s: -f(m, s)),
    "kl: no half": ("kl_to_standard_normal", lambda f, m, s: 2 * f(m, s)),
    "kl: missing -1": ("kl_to_standard_normal", lambda f, m, s: f(m, s) + 0.5 * m.size),
    "kl: log-variance for log-scale": ("kl_to_standard_normal", lambda f, m, s: f(m, s / 2)),
    "kl: mean for sum": ("kl_to_standard_normal", lambda f, m, s: f(m, s) / m.size),
    "kl of two: reversed": ("kl_diagonal_gaussians", lambda f, a, b, c, d: f(c, d, a, b)),
    "kl of two: scale of p forgotten": ("kl_diagonal_gaussians", lambda f, a, b, c, d: f(a, b, c, jnp.zeros_like(d))),
    "kl of two: no half": ("kl_diagonal_gaussians", lambda f, a, b, c, d: 2 * f(a, b, c, d)),
}


@pytest.mark.parametrize(("name", "change"), MUTANTS.values(), ids=MUTANTS)
def test_the_oracle_test_fails_on_a_broken_copy(name, change):
    row = FUNCTIONS[name]
    with pytest.raises(AssertionError):
        assert_matches(_twin(name, change), row.oracle, row.draw(np.random.default_rng(0), 50), jnp.float32, epsilons=12)
