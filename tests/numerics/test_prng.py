"""Other generators for the noise of steps: the same start and order, other noise, and a run that still repeats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import data, likelihoods, model, training


@pytest.fixture(scope="module")
def problem():
    digits = data.load("digits")
    small = digits._replace(train=digits.train[:256], test=digits.test[:64])
    vae = model.mlp_vae(digits.data_shape, likelihoods.bernoulli(), latent_dim=2, hidden=(8,))
    return vae, data.prepare(small, binarization="dynamic")


@pytest.mark.parametrize("prng", ["rbg", "unsafe_rbg"])
def test_only_the_steps_draw_from_another_generator(prng):
    keys, threefry = training.run_keys(3, prng), training.run_keys(3)
    for name in ("init", "data"):
        np.testing.assert_array_equal(*(jax.random.key_data(getattr(k, name)) for k in (keys, threefry)))
    assert jax.random.key_data(keys.step).shape == (4,)
    assert str(jax.random.key_impl(keys.step)) == prng


@pytest.mark.slow
@pytest.mark.parametrize("prng", ["rbg", "unsafe_rbg"])
def test_a_run_with_another_generator_learns_repeats_and_resumes(problem, prng):
    options = dict(batch_size=64, seed=0, prng=prng)
    first = training.fit(*problem, epochs=3, **options)
    default = training.fit(*problem, epochs=1, batch_size=64, seed=0)
    losses = [epoch.train.loss for epoch in first.progress.history]
    assert losses[-1] < losses[0]
    assert losses[0] != default.progress.history[0].train.loss
    half = training.fit(*problem, epochs=1, **options)
    assert half.progress.history[0].train == first.progress.history[0].train
    resumed = training.fit(*problem, epochs=3, start=jax.tree.map(jnp.copy, half.progress), **options)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, first.params)
