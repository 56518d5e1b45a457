"""Annealed importance sampling of whole data sets: batches, simulated data, memory, schedules and settings."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from annealed_models import DATA_DIM, POSTERIOR_FIRST, QUARTIC, Linear, float64
from budget import accept_mean
from scipy import integrate, special, stats

from vae_jax import likelihoods
from vae_jax.evaluation import DataSlice
from vae_jax.evaluation import annealed_importance as annealed
from vae_jax.evaluation.annealed_importance import ais, ais_dataset, bdmc_simulated
from vae_jax.evaluation.annealing import Annealing, temperatures
from vae_jax.evaluation.hmc import leapfrog, point_at
from vae_jax.model import VAE


def smooth_vae():
    """A Bernoulli decoder with a hidden layer of tanh, and gray bytes as they are stored."""
    rng = np.random.default_rng(0)
    inner, outer, encoder = (jnp.asarray(0.5 * rng.normal(size=shape)) for shape in ((8, 2), (9, 8), (2, 9)))
    vae = VAE(
        lambda key: {"inner": inner},
        lambda params, x: (encoder @ x.ravel() / 9, jnp.full(2, -0.1, encoder.dtype)),
        lambda params, z: (outer @ jnp.tanh(params["inner"] @ z)).reshape(3, 3, 1),
        likelihoods.bernoulli(),
        (3, 3, 1),
        2,
    )
    return vae, vae.init(jax.random.key(0)), jnp.asarray(255 * rng.integers(0, 2, (11, 3, 3, 1)), jnp.uint8)


def to_float(x):
    return x.astype(float) / 255


@pytest.mark.slow
@pytest.mark.parametrize("start", POSTERIOR_FIRST)
def test_the_batch_size_changes_nothing_nor_does_a_part_and_the_jacobian_is_added(start, x64):
    """In float64: the rounding of a matrix product depends on its shape, and what chains make of it on the decoder."""
    vae, params, data = smooth_vae()
    settings = Annealing(start=start, num_temperatures=20, num_chains=3, num_leapfrog=4, num_adaptation=20)
    traces = []

    def run(params, data, log_jacobian, first, batch_size=1000):
        traces.append(1)
        options = {"to_input": to_float, "log_jacobian": log_jacobian, "batch_size": batch_size}
        return ais_dataset(jax.random.key(0), vae, params, DataSlice(data, first), settings, **options)

    run = jax.jit(run, static_argnames="batch_size")
    whole = run(params, data, 0.0, 0)
    other = run(jax.tree.map(lambda leaf: leaf / 2, params), data, 0.0, 0)
    assert len(traces) == 1  # other parameters do not compile again
    assert np.all(np.abs(other.log_px - whole.log_px) > 1e-3)
    assert all(leaf.shape == (11,) for leaf in whole)
    part = run(params, data[2:], -50.0, 2, batch_size=4)
    np.testing.assert_allclose(part.log_px, whole.log_px[2:] - 50, atol=1e-6)
    for leaf, of_part in zip(whole[1:], part[1:], strict=True):
        np.testing.assert_allclose(of_part, leaf[2:], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("start", POSTERIOR_FIRST)
def test_a_posterior_that_is_not_gaussian_by_quadrature(start):
    """One latent, a Bernoulli decoder with a hidden layer: log p(x) by SciPy, all bounds within their errors."""
    rng = np.random.default_rng(0)
    inner, outer, bias = rng.normal(size=4) * 2, rng.normal(size=(5, 4)) * 2, rng.normal(size=5)
    x = rng.integers(0, 2, (300, 5))
    inner32, outer32, bias32 = (jnp.asarray(a, jnp.float32) for a in (inner, outer, bias))

    def log_joint(z, x):
        logits = outer @ np.tanh(inner * z) + bias
        return np.sum(x * special.log_expit(logits) + (1 - x) * special.log_expit(-logits)) + stats.norm.logpdf(z)

    kinds = np.unique(x, axis=0)
    exact = {tuple(k): math.log(integrate.quad(lambda z, k=k: math.exp(log_joint(z, k)), -12, 12, limit=200)[0]) for k in kinds}
    log_px = np.array([exact[tuple(row)] for row in x])
    vae = VAE(
        lambda key: {},
        lambda params, x: (jnp.full(1, 0.2), jnp.full(1, -0.3)),
        lambda params, z: outer32 @ jnp.tanh(inner32 * z) + bias32,
        likelihoods.bernoulli(),
        (5,),
        1,
    )
    settings = Annealing(start=start, num_temperatures=30, num_chains=8, num_leapfrog=5, num_adaptation=50)
    got = jax.jit(lambda key, s=settings: ais_dataset(key, vae, {}, jnp.asarray(x, jnp.float32), s))(jax.random.key(0))
    accept_mean(np.exp(float64(got.log_px) - log_px), 1.0)
    assert np.mean(np.abs(float64(got.log_px) - log_px)) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(250,), pytest.param((250, 70), marks=pytest.mark.slow)], ids=str)
def test_simulated_data_are_of_the_model(sizes):
    """Their mean log p(x) is minus the entropy of the marginal; in float32 batches of another size give the same to 1e-4."""
    model = Linear(shift=0.1)
    settings = Annealing(num_temperatures=10, num_chains=4, num_leapfrog=3, num_adaptation=20)
    whole, *parts = (
        jax.jit(lambda key, size=size: bdmc_simulated(key, model.vae, {}, 250, settings, batch_size=size))(jax.random.key(0))
        for size in sizes
    )
    for side in whole:
        slack = float(np.mean(side.standard_error))
        accept_mean(side.log_px, -model.marginal.entropy(), deviation=math.sqrt(DATA_DIM / 2), slack=slack)
    for of_parts in parts:
        for side, part in zip(whole, of_parts, strict=True):
            np.testing.assert_allclose(part.log_px, side.log_px, atol=1e-4)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_temperatures():
    model = Linear()
    _, x, _ = model.draw(50)

    def bytes_for(num_temperatures):
        settings = Annealing(num_temperatures=num_temperatures, num_chains=2, num_leapfrog=2)
        run = jax.jit(lambda key, x: ais_dataset(key, model.vae, {}, x, settings))
        return run.lower(jax.random.key(0), x).compile().memory_analysis().temp_size_in_bytes

    # The temperatures themselves: a few numbers each, whatever the examples and the chains.
    assert bytes_for(3000) - bytes_for(30) < 16 * 3000


def test_sums_of_thousands_of_float32_terms_keep_their_digits():
    terms = np.full(10_000, 0.07, np.float32)

    def sum_with(add):
        return jax.jit(lambda x: jax.lax.scan(lambda c, x: (add(*c, x), None), (jnp.float32(0), jnp.float32(0)), x)[0])(terms)

    exact = np.sum(terms.astype(np.float64))
    assert abs(float(sum_with(annealed._add)[0]) - exact) < 1e-4
    assert abs(float(sum_with(lambda total, lost, x: (total + x, lost))[0]) - exact) > 1e-3  # what it is there for


@pytest.mark.parametrize("schedule", ["linear", "sigmoid"])
@pytest.mark.parametrize("n", [1, 2, 10, 10_000])
def test_temperatures_rise_from_zero_to_one_evenly_to_both_sides(n, schedule):
    t = temperatures(n, schedule)
    assert len(t) == n + 1
    assert t[0] == 0
    assert t[-1] == 1
    assert np.all(np.diff(t) > 0)
    assert np.all(np.diff(t.astype(np.float32)) > 0)
    np.testing.assert_allclose(t + t[::-1], 1, atol=1e-15)
    if schedule == "sigmoid":
        u = np.linspace(-4, 4, n + 1)
        low, high = special.expit(-4), special.expit(4)
        np.testing.assert_allclose(t, (special.expit(u) - low) / (high - low), atol=1e-15)


def test_each_start_has_its_schedule():
    np.testing.assert_array_equal(Annealing(start="posterior", num_temperatures=7).temperatures(), temperatures(7, "linear"))
    np.testing.assert_array_equal(Annealing(start="prior", num_temperatures=7).temperatures(), temperatures(7, "sigmoid"))
    chosen = Annealing(start="prior", num_temperatures=7, schedule="linear").temperatures()
    np.testing.assert_array_equal(chosen, temperatures(7, "linear"))


def test_settings_are_checked():
    model = Linear()
    _, x, _ = model.draw(1)
    for wrong, message in (
        ({"num_temperatures": 0}, "num_temperatures >= 1, got 0"),
        ({"num_chains": 0}, "num_chains >= 1, got 0"),
        ({"num_leapfrog": -1}, "num_leapfrog >= 1, got -1"),
        ({"num_adaptation": 0}, "num_adaptation >= 1"),
        ({"start": "encoder"}, "'posterior' or 'prior', got 'encoder'"),
        ({"schedule": "cosine"}, "'linear' or 'sigmoid', got 'cosine'"),
        ({"target_acceptance": 1.0}, "target_acceptance between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            ais(jax.random.key(0), model.vae, {}, x[0], Annealing(**wrong))
    with pytest.raises(ValueError, match="num_steps >= 1"):
        leapfrog(QUARTIC, 1.0, point_at(QUARTIC, jnp.zeros(3)), jnp.zeros(3), 0.1, 1.0, 0)
