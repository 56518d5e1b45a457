"""log p(x_observed|z) of every likelihood of the registry and of every place where its second parameter comes from."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from mutants import MASK_MUTANTS
from natural_parameters import BINS, COLUMNS, COMPONENTS, INITIAL, UNIT, natural_parameters
from rows import FUNCTIONS

from vae_jax import likelihoods
from vae_jax.config import Config, TrainingData, entries
from vae_jax.likelihoods import INSIDE, observed_log_prob

SHAPE = (2, COLUMNS)
DATA = TrainingData("data", SHAPE, BINS, 1.0, UNIT, 100, 100, lambda key, n: jnp.zeros((n, *SHAPE)), 9.0)
LEARNED = ("shared", "per_column", "per_pixel")
OUTSIDE = (np.nan, np.inf, -np.inf, -0.37, 1e30)
EXTREMES = (-1e4, -88.0, -10.0, 0.0, 1e-3, 10.0, 88.0, 1e4)


def _bundle(name, setting):
    """The likelihood as the registry makes it, but with the same initial scale or dispersion everywhere."""
    initial = np.full(COLUMNS, INITIAL) if setting == "per_column" else INITIAL
    number = setting if setting in (*LEARNED, None) else float(setting)
    count_options = {"unit": UNIT, "initial_dispersion": initial}
    options = {
        "gaussian": {"scale": number, "initial_scale": initial},
        "laplace": {"scale": number, "initial_scale": initial},
        "student_t": {"scale": number, "initial_scale": initial},
        "discretized_logistic": {"num_bins": BINS, "scale": number, "initial_scale": initial},
        "logistic_mixture": {"num_bins": BINS, "num_components": COMPONENTS, "initial_scale": INITIAL},
        "categorical": {"num_bins": BINS},
        "poisson": {"unit": UNIT},
        "negative_binomial": {"dispersion": number, **count_options},
        "zero_inflated_negative_binomial": {"dispersion": number, **count_options},
    }.get(name, {})
    return getattr(likelihoods, name)(**options)


def _settings(name):
    """The settings of the second parameter that an entry of the registry takes; None without one."""
    names = {setting.name for setting in entries("likelihood")[name].settings}
    if not names & {"scale", "dispersion"}:
        return [None]
    return list(LEARNED) if name == "discretized_logistic" else ["0.7", *LEARNED]


# A likelihood without `log_prob_per_entry` has to say why.
JOINT = ("logistic_mixture_rgb", "multinomial")
SINGLE = {name: entry for name, entry in entries("likelihood").items() if name != "columns"}  # test_mixed_columns has that
CASES = {
    name if setting is None else f"{name}-{setting}": (name, setting)
    for name in SINGLE
    if name not in JOINT
    for setting in _settings(name)
}
cases = pytest.mark.parametrize(("name", "setting"), CASES.values(), ids=CASES)


def _draw(bundle, seed=0, count=None):
    """A decoder output and an example inside the support, or `count` of each."""
    rng, batch = np.random.default_rng(seed), () if count is None else (count,)
    per_dim = (bundle.outputs_per_dim,) if bundle.outputs_per_dim > 1 else ()
    output, shape = rng.normal(0, 1, (*batch, *SHAPE, *per_dim)), (*batch, *SHAPE)
    x = {
        "binary": lambda: rng.integers(0, 2, shape),
        "unit_interval": lambda: rng.uniform(0, 1, shape),
        "levels": lambda: rng.integers(0, BINS, shape) / (BINS - 1),
        "counts": lambda: rng.poisson(2, shape),
        "real": lambda: rng.normal(0, 1, shape),
    }[bundle.support]()
    shared = rng.normal(0, 0.3, len(bundle.shared_start))
    return output, shared, np.asarray(x, np.float64), rng.uniform(size=shape) < 0.5


def _joined(bundle, output, shared):
    return (output, shared) if bundle.shared_start else output


@functools.cache
def _programs(name, setting):
    """The compiled functions that the tests of one likelihood share."""
    bundle = _bundle(name, setting)

    def observed(output, shared, x, mask):
        return observed_log_prob(bundle, _joined(bundle, output, shared), x, mask)

    def per_entry(output, shared, x):
        joined = _joined(bundle, output, shared)
        return bundle.log_prob_per_entry(joined, x), bundle.log_prob(joined, x)

    def batch(*arguments):
        return jax.vmap(jax.value_and_grad(observed, (0, 1)), (0, None, 0, 0))(*arguments)

    with_gradient = jax.jit(batch)
    return bundle, observed, jax.jit(per_entry), with_gradient


def _cast(dtype, *arrays):
    return tuple(jnp.asarray(a, dtype) for a in arrays)


@cases
def test_each_entry_is_its_oracle_in_float64(name, setting, x64):
    bundle = _bundle(name, setting)
    output, shared, x, _ = _draw(bundle)
    got = np.asarray(jax.jit(bundle.log_prob_per_entry)(_joined(bundle, *_cast(jnp.float64, output, shared)), jnp.asarray(x)))
    levels = np.round(x * (BINS - 1)) if bundle.support == "levels" else x
    options = {"num_bins": BINS} if name in ("discretized_logistic", "logistic_mixture") else {}
    parameters = natural_parameters(name, setting, output, shared)
    oracle = FUNCTIONS[f"{name}_log_prob"].oracle
    for entry in np.ndindex(SHAPE):
        expected = oracle(*(a[entry][None] for a in parameters), levels[entry][None], **options)
        assert got[entry] == pytest.approx(expected, rel=1e-12, abs=1e-13), entry
    assert got.shape == SHAPE


@cases
def test_the_sum_of_the_entries_is_the_log_prob(name, setting):
    bundle, _, per_entry, _ = _programs(name, setting)
    epsilons = FUNCTIONS[f"{name}_log_prob"].epsilons
    for seed in range(3):
        output, shared, x, _ = _draw(bundle, seed)
        terms, total = per_entry(*_cast(jnp.float32, output, shared, x))
        terms = np.asarray(terms, np.float64)
        assert abs(terms.sum() - float(total)) <= epsilons * np.finfo(np.float32).eps * np.abs(terms).sum()


def check_masks(bundle, observed):
    """Compares masks of ones, of zeros and of half of the entries with the entries. Missing entries hold nonsense."""
    output, shared, x, masks = _draw(bundle, 1, count=6)
    masks[0], masks[1] = True, False
    joined = [_joined(bundle, *_cast(jnp.float32, one, shared)) for one in output]
    rows = zip(joined, x, masks, strict=True)
    expected = [np.sum(np.asarray(bundle.log_prob_per_entry(o, jnp.float32(row)), np.float64)[m]) for o, row, m in rows]
    hidden = np.where(masks, x, np.resize(OUTSIDE, x.shape))
    value, gradients = observed(*_cast(jnp.float32, output, shared, hidden), jnp.asarray(masks))
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    assert float(value[1]) == 0.0
    chex.assert_tree_all_finite(gradients)
    output_gradients = np.asarray(gradients[0]).reshape(*masks.shape, -1)
    np.testing.assert_array_equal(output_gradients[~masks], 0.0)
    assert np.any(output_gradients[masks] != 0.0)
    np.testing.assert_array_equal(np.asarray(gradients[1])[1], 0.0)


@cases
def test_the_observed_entries_alone_count(name, setting):
    bundle, _, _, with_gradient = _programs(name, setting)
    check_masks(bundle, with_gradient)


@pytest.mark.parametrize("case", ["bernoulli", "gaussian-shared", "poisson"])
@pytest.mark.parametrize("wrong", MASK_MUTANTS.values(), ids=MASK_MUTANTS)
def test_broken_copies_fail(wrong, case):
    bundle, *_ = _programs(*CASES[case])

    def observed(output, shared, x, mask):
        return wrong(bundle, _joined(bundle, output, shared), x, mask)

    with pytest.raises(AssertionError):
        check_masks(bundle, jax.vmap(jax.value_and_grad(observed, (0, 1)), (0, None, 0, 0)))


@cases
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_nan_reaches_a_gradient_at_the_extremes(name, setting, dtype):
    bundle, _, _, with_gradient = _programs(name, setting)
    output, shared, x, masks = _draw(bundle, 2, count=6)
    output = np.resize(np.random.default_rng(0).permutation(np.repeat(EXTREMES, 7)), output.shape)
    if setting == "per_pixel" or name == "logistic_mixture":  # log-scales, at the end, are finite up to 20
        scales = np.s_[..., -(COMPONENTS if name == "logistic_mixture" else 1) :]
        output[scales] = np.clip(output[scales], -20, 20)
    hidden = np.where(masks, x, np.resize(OUTSIDE, x.shape))
    value, gradients = with_gradient(*_cast(dtype, output, shared, hidden), jnp.asarray(masks))
    assert value.dtype == jnp.dtype(dtype)
    chex.assert_tree_all_finite((value, gradients))
    np.testing.assert_array_equal(np.asarray(gradients[0], np.float32).reshape(*masks.shape, -1)[~masks], 0.0)


@cases
def test_a_permutation_of_the_entries_and_vmap(name, setting):
    """Permutes whole rows of the event, within which each column keeps its parameter; `vmap` is a loop."""
    bundle, observed, _, with_gradient = _programs(name, setting)
    output, shared, x, masks = _draw(bundle, 3, count=6)
    arguments = _cast(jnp.float32, output, shared, np.where(masks, x, np.nan))
    value, gradients = with_gradient(*arguments, jnp.asarray(masks))
    compiled = with_gradient._cache_size()
    reverse = [arguments[0][:, ::-1], arguments[1], arguments[2][:, ::-1], jnp.asarray(masks[:, ::-1])]
    reversed_value, reversed_gradients = with_gradient(*reverse)
    assert with_gradient._cache_size() == compiled
    np.testing.assert_allclose(reversed_value, value, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(reversed_gradients[0][:, ::-1], gradients[0], rtol=1e-5, atol=1e-6)
    looped = observed(arguments[0][2], arguments[1], arguments[2][2], jnp.asarray(masks[2]))
    np.testing.assert_allclose(looped, value[2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "case", ["bernoulli", "continuous_bernoulli", "gaussian-per_pixel", "categorical", "negative_binomial-0.7"]
)
def test_second_derivatives_are_those_of_the_observed_entries(case, x64):
    bundle = _bundle(*CASES[case])
    output, shared, x, mask = _draw(bundle, 4)
    point, hidden = jnp.asarray(output), jnp.asarray(np.where(mask, x, np.nan))

    def total(output):
        joined = _joined(bundle, output, jnp.asarray(shared))
        return jnp.sum(bundle.log_prob_per_entry(joined, jnp.asarray(x)) * mask)

    def masked(output):
        return observed_log_prob(bundle, _joined(bundle, output, jnp.asarray(shared)), hidden, jnp.asarray(mask))

    got, expected = (jax.jit(jax.hessian(function))(point) for function in (masked, total))
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_every_likelihood_of_the_registry_factorizes_or_says_why():
    for name, entry in SINGLE.items():
        exposures = ("none", "observed") if "exposure" in {setting.name for setting in entry.settings} else ("none",)
        for exposure in exposures:
            bundle = entry.factory(Config(likelihood=name, exposure=exposure), DATA)
            factorizes = bundle.log_prob_per_entry is not None
            assert factorizes == (name not in JOINT and exposure == "none"), name
            if factorizes:
                assert bundle.dependence == ""
                continue
            assert re.search(r"Use `?\w+", bundle.dependence), f"{name} has no dependence= that says what to use instead"
            with pytest.raises(ValueError, match=f"'{name}' cannot leave out missing entries. {re.escape(bundle.dependence)}"):
                observed_log_prob(bundle, jnp.zeros(SHAPE), jnp.zeros(SHAPE), jnp.ones(SHAPE, bool))


@pytest.mark.parametrize("num_levels", [2, 3, 7, 256])
def test_missing_entries_are_filled_inside_the_support(num_levels):
    for name, entry in SINGLE.items():
        bundle = entry.factory(Config(likelihood=name), DATA._replace(num_levels=num_levels))
        inside = np.full(SHAPE, INSIDE[bundle.support], np.float32)
        assert likelihoods.outside_support(bundle, inside) is None
        assert bundle.support != "unit_interval" or 0 < inside[0, 0] < 1


def test_images_have_a_mask_for_each_channel():
    bundle, rng = likelihoods.bernoulli(), np.random.default_rng(0)
    logits, x, mask = rng.normal(size=(4, 5, 3)), rng.integers(0, 2, (4, 5, 3)), rng.uniform(size=(4, 5, 3)) < 0.5
    got = observed_log_prob(bundle, jnp.float32(logits), jnp.float32(x), jnp.asarray(mask))
    assert float(got) == pytest.approx(oracles.bernoulli(logits[mask], x[mask]), rel=1e-6)
    with pytest.raises(ValueError, match=r"one mask of the event's shape \(4, 5, 3\), got shape \(4, 5\)"):
        observed_log_prob(bundle, jnp.float32(logits), jnp.float32(x), jnp.asarray(mask[..., 0]))


def test_a_mask_of_ones_has_the_bits_of_the_fast_sum():
    """The Bernoulli's sum over observed pixels is that of `bernoulli_log_prob`, with certain pixels for missing ones."""
    bundle, rng = likelihoods.bernoulli(), np.random.default_rng(0)
    logits, x = jnp.float32(rng.normal(0, 4, 784)), jnp.float32(rng.integers(0, 2, 784))
    masked = jax.jit(lambda mask: observed_log_prob(bundle, logits, x, mask))
    np.testing.assert_array_equal(masked(jnp.ones(784, bool)), jax.jit(bundle.log_prob)(logits, x))


def test_likelihoods_of_users():
    def log_normal(mean, x):
        return -0.5 * (jnp.square(jnp.log(x) - mean) + jnp.log(2 * jnp.pi)) - jnp.log(x)

    make = functools.partial(likelihoods.from_log_prob, lambda mean, x: jnp.sum(log_normal(mean, x)), name="log_normal")
    mean, x, mask = jnp.array([0.3, -1.0, 2.0]), jnp.array([0.5, jnp.nan, -1.0]), jnp.array([True, False, False])
    bundle = make(log_prob_per_entry=log_normal, inside=(1.0,))  # 0, which stands for the real numbers, is not inside
    value, gradient = jax.value_and_grad(lambda mean: observed_log_prob(bundle, mean, x, mask))(mean)
    assert float(value) == pytest.approx(float(log_normal(mean[0], x[0])), rel=1e-6)
    np.testing.assert_allclose(gradient, [np.log(0.5) - 0.3, 0, 0], rtol=1e-6)
    with pytest.raises(
        ValueError, match=r"'log_normal' cannot leave out missing entries.* log_prob_per_entry= to from_log_prob"
    ):
        observed_log_prob(make(), mean, x, mask)
    with pytest.raises(ValueError, match=r"log_prob_per_entry to return the shape \(3,\) of the event, got \(\)\. Return"):
        observed_log_prob(make(log_prob_per_entry=lambda mean, x: jnp.sum(log_normal(mean, x))), mean, x, mask)
    with pytest.raises(ValueError, match="log_prob_per_entry"):
        make(log_prob_per_entry=lambda mean: mean)


def test_a_batch_output_gradients_by_mistake_is_an_error_that_says_vmap():
    for name, setting in (("gaussian", "0.7"), ("categorical", None), ("poisson", None)):
        bundle = _bundle(name, setting)
        output, _, x, _ = _draw(bundle, count=4)
        with pytest.raises(ValueError, match="vmap"):
            bundle.log_prob_per_entry(jnp.float32(output), jnp.float32(x[0]))
