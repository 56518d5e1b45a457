"""Runs on missing entries: what a mask of ones, a mask of zeros, a permutation and the numbers at missing entries change."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conditional_data import COUNT, DATA_DIM, arrays, built

from vae_jax import data, likelihoods, training
from vae_jax.build import build
from vae_jax.config import Config, Hyperparams
from vae_jax.example import Example
from vae_jax.model import mlp_vae
from vae_jax.training import make_train_step

CONFIG = Config(hidden=(6,), latent_dim=2, epochs=1, batch_size=32, output_bias="zeros")


def fit(parts, **changes):
    return training.fit(parts.vae, parts.data, **(parts.fit_arguments | changes))


def assert_same_bits(one, other):
    chex.assert_trees_all_equal(*(jax.device_get((run.progress.state, run.progress.best)) for run in (one, other)))
    assert one.test == other.test
    assert [epoch.train for epoch in one.progress.history] == [epoch.train for epoch in other.progress.history]


@pytest.fixture(scope="module")
def unmasked():
    x, _ = arrays("plain")
    return fit(build(CONFIG, dataset=data.from_arrays(x, split="last")))


def test_a_mask_of_ones_gives_the_bits_of_the_run_without(unmasked):
    x, _ = arrays("plain")
    parts = build(CONFIG, dataset=data.from_arrays(x, mask=np.ones(x.shape, bool), split="last"))
    assert not parts.data.has_missing
    assert_same_bits(fit(parts), unmasked)


@pytest.mark.parametrize("likelihood", ["bernoulli", pytest.param("gaussian", marks=pytest.mark.slow)])
def test_missing_test_entries_do_not_change_a_bit_of_training(likelihood, unmasked):
    """One entry of the test set is missing, and none of the training set, which has no mask then."""
    x, _ = arrays("plain")
    mask = np.ones(x.shape, bool)
    mask[-1, 0] = False
    config = dataclasses.replace(CONFIG, likelihood=likelihood)
    parts = build(config, dataset=data.from_arrays(x, mask=mask, split="last"))
    assert parts.data.has_missing
    assert parts.data.train.mask is None
    without = unmasked if likelihood == "bernoulli" else fit(build(config, dataset=data.from_arrays(x, split="last")))
    masked = fit(parts)
    states = (jax.device_get(run.progress.state.params) for run in (masked, without))
    chex.assert_trees_all_equal(*states)
    assert masked.test.log_likelihood > without.test.log_likelihood + 0.01  # one entry less


def test_with_a_mask_of_zeros_the_kl_goes_to_zero():
    """The condition is all that the encoder sees then, so the KL starts above zero."""
    parts = built("both")
    splits = {}
    for part in ("train", "test"):
        rows = getattr(parts.data, part)
        splits[part] = dataclasses.replace(rows, mask=jnp.zeros_like(rows.mask))
    prepared = parts.data._replace(**splits)
    rate = parts.fit_arguments["hyperparams"]._replace(learning_rate=3e-2)
    run = training.fit(parts.vae, prepared, **(parts.fit_arguments | {"epochs": 150, "hyperparams": rate}))
    assert all(epoch.train.log_likelihood == 0 for epoch in run.progress.history)
    assert run.test.log_likelihood == 0
    assert run.progress.history[0].test.kl > 1e-3
    assert run.test.kl < 1e-5
    # The decoder has no gradient at all, so it is where it was.
    start = training.init_state(parts.vae, parts.optimizer, training.run_keys(0).init, parts.objective)
    chex.assert_trees_all_equal(jax.device_get(run.progress.state.params["decoder"]), jax.device_get(start.params["decoder"]))


def test_the_numbers_at_missing_entries_change_no_bit():
    """NaN, zeros and numbers that are far away, in arrays of integers and of floats, and in the arrays of a device."""
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, (COUNT, DATA_DIM)).astype(np.float32)
    mask = rng.random(x.shape) < 0.6
    config = dataclasses.replace(CONFIG, likelihood="gaussian", mask_input=True, output_bias="train_mean")
    runs = []
    for value in (np.nan, 1e30, -7.0):
        dataset = data.from_arrays(np.where(mask, x, np.float32(value)), mask=mask, split="last")
        runs.append(build(config, dataset=dataset))
    first = fit(runs[0])
    for parts in runs[1:]:
        assert parts.dataset.fingerprint() == runs[0].dataset.fingerprint()
        chex.assert_trees_all_equal(*(jax.device_get(one.data.train) for one in (parts, runs[0])))
    moved = runs[0].data._replace(
        **{
            part: dataclasses.replace(rows, event=jnp.where(rows.mask, rows.event, jnp.nan))
            for part, rows in (("train", runs[0].data.train), ("test", runs[0].data.test))
        }
    )
    assert np.isnan(moved.train.event).any()
    assert_same_bits(training.fit(runs[0].vae, moved, **runs[0].fit_arguments), first)
    # With NaN as the mark of a missing entry.
    marked = build(config, dataset=data.from_arrays(np.where(mask, x, np.float32(np.nan)), missing="nan", split="last"))
    chex.assert_trees_all_equal(*(jax.device_get(one.data.test) for one in (marked, runs[0])))
    chex.assert_trees_all_equal(*(jax.device_get(one.data.train) for one in (marked, runs[0])))


def test_permuting_the_entries_permutes_the_result():
    """The columns of x and of the mask, the rows of the encoder's first layer, and the columns of the decoder's last one."""
    vae = mlp_vae((DATA_DIM,), likelihoods.bernoulli(), latent_dim=2, hidden=(6,), mask_input=True)
    x, companions = arrays("masked")
    batch = Example(jnp.asarray(x, jnp.float32), mask=jnp.asarray(companions["mask"]))
    order = np.array([3, 0, 4, 1, 2])
    steps = jax.jit(make_train_step(vae, optimizer=optax.sgd))

    def permuted(params, order):
        params = jax.tree.map(lambda leaf: leaf, jax.device_get(params))
        first, last = params["encoder"]["_Hidden_0"]["Dense_0"], params["decoder"]["Dense_0"]
        first["kernel"] = np.concatenate([first["kernel"][:DATA_DIM][order], first["kernel"][DATA_DIM:][order]])
        last["kernel"], last["bias"] = last["kernel"][:, order], last["bias"][order]
        return params

    state = training.init_state(vae, optax.sgd, jax.random.key(0))
    other = state._replace(params=permuted(state.params, order))
    moved = batch.map(lambda array: array[:, order])
    for i in range(3):
        key = jax.random.key(i)
        state, metrics = steps(state, key, batch, Hyperparams(learning_rate=0.1))
        other, other_metrics = steps(other, key, moved, Hyperparams(learning_rate=0.1))
        chex.assert_trees_all_close(metrics, other_metrics, rtol=1e-5)
    chex.assert_trees_all_close(permuted(state.params, order), jax.device_get(other.params), rtol=1e-5, atol=1e-6)
    # A different choice of missing entries is a different result.
    elsewhere, _ = steps(state, key, dataclasses.replace(batch, mask=batch.mask[:, order]), Hyperparams(learning_rate=0.1))
    same, _ = steps(state, key, batch, Hyperparams(learning_rate=0.1))
    assert np.max(np.abs(elsewhere.params["decoder"]["Dense_0"]["bias"] - same.params["decoder"]["Dense_0"]["bias"])) > 1e-4
