"""One battery for every function of the mathematics: adding a row to `rows.FUNCTIONS` tests a new one.

Tolerances are multiples of the dtype's epsilon times the sum of the absolute terms, the scale of rounding in a sum.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mutants import MUTANTS, SOUND
from rows import FUNCTIONS

rows = pytest.mark.parametrize("row", FUNCTIONS.values(), ids=FUNCTIONS)
SEPARABLE = {name: row for name, row in FUNCTIONS.items() if row.separable}
separable_rows = pytest.mark.parametrize("row", SEPARABLE.values(), ids=SEPARABLE)


def _cast(arguments, dtype):
    return tuple(jnp.asarray(a, dtype) for a in arguments)


def _terms(row, arguments):
    """The oracle's value for each dimension alone, or for the event where it does not add up over dimensions."""
    if not row.separable:
        return [row.oracle(*arguments)]
    return [row.oracle(*(a[i : i + 1] for a in arguments)) for i in range(len(arguments[0]))]


def assert_matches(row, arguments, dtype, epsilons, function=None):
    """The function's value, on arguments rounded to dtype, within `epsilons` machine epsilons of the absolute sum."""
    rounded = tuple(np.asarray(a).astype(np.float64) for a in _cast(arguments, dtype))
    terms = _terms(row, rounded)
    got = float((function or jax.jit(row.function))(*_cast(arguments, dtype)))
    bound = epsilons * float(jnp.finfo(dtype).eps) * float(np.sum(np.abs(terms)))
    assert abs(got - float(np.sum(terms))) <= bound, (got, float(np.sum(terms)), bound)


@rows
def test_float32_against_the_oracle_by_one_compilation(row):
    function = jax.jit(chex.assert_max_traces(row.function, n=1))
    for seed in range(5):
        assert_matches(row, row.draw(np.random.default_rng(seed), 50), jnp.float32, row.epsilons, function)


@rows
def test_float64_against_the_oracle(row, x64):
    assert_matches(row, row.draw(np.random.default_rng(0), 50), jnp.float64, row.epsilons)


@rows
def test_bfloat16_is_right_to_its_own_epsilon(row):
    assert_matches(row, row.draw(np.random.default_rng(0), 50), jnp.bfloat16, epsilons=1)


@rows
def test_each_extreme_value_in_float32(row):
    function = jax.jit(row.function)
    for arguments in row.extremes():
        value = row.oracle(*(np.asarray(np.float32(a), np.float64) for a in arguments))
        got = float(function(*_cast(arguments, jnp.float32)))
        # exp() of a large argument has a relative error of |argument| epsilons: 80 at the ends of the KL's range.
        assert got == pytest.approx(value, rel=row.extreme_rtol, abs=1e-6), arguments


@rows
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_value_and_gradient_are_finite_at_the_extremes(row, dtype):
    function = jax.jit(jax.value_and_grad(row.function, argnums=row.differentiable))
    for event in [row.extreme] if row.separable else row.extreme:
        value, gradients = function(*_cast(event, dtype))
        assert value.dtype == jnp.dtype(dtype)
        chex.assert_tree_all_finite((value, gradients))


@rows
def test_gradients_by_finite_differences(row, x64):
    """Forward and reverse mode, and second derivatives, along random directions."""
    arguments, step = row.draw(np.random.default_rng(3), 6), 1e-4

    def function(points):
        filled = list(arguments)
        for position, value in zip(row.differentiable, points, strict=True):
            filled[position] = value
        return row.function(*filled)

    value, gradient = jax.jit(function), jax.jit(jax.grad(function))
    along = jax.jit(lambda points, v: jax.jvp(jax.value_and_grad(function), (points,), (v,))[1])
    points = [jnp.asarray(arguments[i]) for i in row.differentiable]
    for seed in range(3):
        v = [jax.random.normal(jax.random.key(seed), p.shape) for p in points]
        before, after = ([p + size * d for p, d in zip(points, v, strict=True)] for size in (-step, step))
        slope, curvature = along(points, v)
        by_value = (value(after) - value(before)) / (2 * step)
        by_reverse = sum(jnp.sum(g * d) for g, d in zip(gradient(points), v, strict=True))
        np.testing.assert_allclose([slope, by_reverse], [by_value] * 2, rtol=1e-5, atol=1e-5)
        for got, high, low in zip(curvature, gradient(after), gradient(before), strict=True):
            np.testing.assert_allclose(got, (high - low) / (2 * step), rtol=1e-5, atol=1e-5)


@rows
def test_gradients_in_float32_are_those_in_float64(row, x64):
    arguments = row.draw(np.random.default_rng(4), 50)
    gradient = jax.jit(jax.grad(row.function, argnums=row.differentiable))
    single = gradient(*_cast(arguments, jnp.float32))
    double = gradient(*_cast(_cast(arguments, jnp.float32), jnp.float64))  # at the same, rounded arguments
    for got, expected in zip(single, double, strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6 * float(jnp.max(jnp.abs(expected))))


@rows
def test_vmap_is_a_loop_and_jit_is_eager(row):
    rng = np.random.default_rng(1)
    batch = tuple(jnp.asarray(np.stack(a), jnp.float32) for a in zip(*(row.draw(rng, 7) for _ in range(4)), strict=True))
    mapped = jax.vmap(row.function)(*batch)
    looped = jnp.stack([jax.jit(row.function)(*(a[i] for a in batch)) for i in range(4)])
    np.testing.assert_allclose(mapped, looped, rtol=2e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(row.function))(*batch), mapped, rtol=2e-6)


@separable_rows
def test_any_event_shape_and_order_of_dimensions(row):
    arguments = row.draw(np.random.default_rng(2), 24)
    function = jax.jit(row.function)
    flat = function(*_cast(arguments, jnp.float32))
    image = function(*_cast([a[::-1].reshape(2, 3, 4, *a.shape[1:]) for a in arguments], jnp.float32))
    single = function(*_cast([a[0] for a in arguments], jnp.float32))  # no axis of dimensions at all
    assert flat.shape == single.shape == ()
    np.testing.assert_allclose(image, flat, rtol=1e-5)
    np.testing.assert_allclose(single, function(*_cast([a[:1] for a in arguments], jnp.float32)), rtol=2e-6)


@separable_rows
def test_a_batch_by_mistake_is_an_error_that_says_vmap(row):
    arguments = list(row.draw(np.random.default_rng(0), 6))
    with pytest.raises(ValueError, match="vmap"):
        row.function(*(a.reshape(2, 3, *a.shape[1:]) for a in arguments[:-1]), arguments[-1][:3])


@rows
def test_a_batch_of_any_one_argument_is_an_error_that_says_vmap(row):
    arguments = row.draw(np.random.default_rng(0), 6)
    for position, argument in enumerate(arguments):
        batched = [*arguments[:position], np.stack([argument, argument]), *arguments[position + 1 :]]
        with pytest.raises(ValueError, match="vmap"):
            row.function(*batched)


# Ten times and more above what the real ones must keep: nothing here fails for want of precision only.
TWIN_EPSILONS = 1000


@pytest.mark.parametrize(("name", "change"), MUTANTS.values(), ids=MUTANTS)
def test_the_oracle_test_fails_on_a_broken_copy(name, change):
    row = FUNCTIONS[name]
    arguments = row.draw(np.random.default_rng(0), 50)
    with pytest.raises(AssertionError):
        assert_matches(row, arguments, jnp.float32, TWIN_EPSILONS, functools.partial(change, jax.jit(row.function)))


@pytest.mark.parametrize(("name", "change"), SOUND.values(), ids=SOUND)
def test_the_hand_written_twins_pass_when_nothing_is_wrong(name, change):
    row = FUNCTIONS[name]
    arguments = row.draw(np.random.default_rng(0), 50)
    assert_matches(row, arguments, jnp.float32, TWIN_EPSILONS, functools.partial(change, jax.jit(row.function)))


@rows
def test_every_function_has_broken_copies(row):
    assert sum(FUNCTIONS[name] is row for name, _ in MUTANTS.values()) >= 3
