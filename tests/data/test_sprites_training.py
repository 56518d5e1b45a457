"""Training on sprites, whose images are rendered in every step and stored nowhere."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import data, runs, training
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.data import sprites
from vae_jax.errors import UserError
from vae_jax.report import write_report
from vae_jax.report.run.content import views
from vae_jax.training import epoch as epochs

# Training


def test_batches_are_drawn_by_their_key_alone_and_compiled_once():
    prepared = data.prepare(data.load("sprites"))
    draw = jax.jit(chex.assert_max_traces(prepared.train_input, n=1))
    first, again, other = (np.asarray(draw(jax.random.key(key), prepared.train[:64])) for key in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.mean(np.any(first != other, axis=(1, 2, 3))) > 0.9
    assert len(np.unique(first.reshape(64, -1), axis=0)) > 60
    shuffled = draw(jax.random.key(0), prepared.train[63::-1])  # each draw belongs to its number
    np.testing.assert_array_equal(shuffled, first[::-1])


@pytest.mark.parametrize("name", ["sprites", "sprites_grid"])
def test_no_image_is_stored_anywhere(name):
    prepared = data.prepare(data.load(name), binarization="dynamic")
    assert prepared.train.nbytes + prepared.test.nbytes <= 5 * 747_280
    for program in (
        jax.make_jaxpr(prepared.train_input)(jax.random.key(0), prepared.train[:8]),
        jax.make_jaxpr(prepared.eval_input)(prepared.test[:8]),
    ):
        assert sum(np.asarray(const).nbytes for const in program.consts) < 1000  # 40 sines and cosines, 18 extents


def small(name, count=96, test=20):
    dataset = data.load(name)
    return data.prepare(dataset._replace(train=dataset.train[:count], test=dataset.test[:test]), binarization="dynamic")


@pytest.mark.parametrize("name", ["sprites", "sprites_grid"])
def test_epochs_see_new_draws_or_each_image_once(name):
    """A train step that writes down what it sees: the sums of the images' columns, by batch."""
    prepared = small(name)
    keys = epochs.run_keys(0)

    def step(state, key, batch, hyperparams):
        x = prepared.train_input(jax.random.split(key, batch.shape[0] + 1)[0], batch)
        return state._replace(step=state.step + 1), training.StepMetrics(
            x.sum(), x.sum(), x.sum(), {"x": x.sum(axis=(0, 1, 3))}
        )

    state = training.TrainState(jnp.zeros((), jnp.int32), {"w": jnp.zeros(1)}, ())
    run = jax.jit(epochs.make_epoch(step, 32))
    first, second, again = (
        np.asarray(run(state, keys, jnp.int32(epoch), prepared.train, None)[1].extra["x"]) for epoch in (0, 1, 1)
    )
    np.testing.assert_array_equal(second, again)
    if name == "sprites":
        assert not np.allclose(first, second)
    else:  # another order of the same 96 images
        whole = np.asarray(prepared.eval_input(prepared.train)).sum(axis=(0, 1, 3)) / 3
        np.testing.assert_allclose(first, whole, rtol=1e-6)
        np.testing.assert_allclose(second, whole, rtol=1e-6)


@pytest.fixture
def short_epochs(monkeypatch):
    monkeypatch.setattr(sprites, "DRAWS", 1024)
    monkeypatch.setattr(sprites, "_TEST", 100)
    as_before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", as_before)


SETTINGS = Config(dataset="sprites", hidden=(8,), latent_dim=3, epochs=2, batch_size=128, eval_batch_size=100)


@pytest.mark.slow
def test_a_run_is_resumed_bit_for_bit_and_reported(short_epochs, tmp_path, monkeypatch):
    whole, _ = runs.train(build(SETTINGS), tmp_path / "whole")
    runs.train(build(SETTINGS), tmp_path / "parts", on_epoch=lambda line: True)
    resumed, summary = runs.train(build(SETTINGS), tmp_path / "parts", resume=True)
    assert len(resumed.progress.history) == 2
    chex.assert_trees_all_equal(whole.params, resumed.params)
    assert whole.test == resumed.test
    elbos = [epoch.test.elbo for epoch in whole.progress.history]
    assert elbos[1] > elbos[0]
    assert summary["num_test_examples"] == 100
    run = runs.load_run(tmp_path / "whole")
    assert write_report(run).exists()
    shown = views(run.built)
    np.testing.assert_array_equal(shown.stored, shown.originals)
    assert shown.stored.shape == (24, 64, 64, 1)
    real = sprites._rendering
    monkeypatch.setattr(sprites, "_rendering", lambda is_drawn: real(is_drawn)._replace(name="sprites 2"))
    with pytest.raises(UserError, match="differs from the one that the run was trained on"):  # other images under the same name
        runs.load_run(tmp_path / "whole")
