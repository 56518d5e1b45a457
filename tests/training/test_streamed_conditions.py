"""Conditions beside training images on disk: the run in memory, alone and in a sweep, resumed within an epoch."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from vae_jax import data, runs, training
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.data import Rows, prefetch
from vae_jax.example import Example
from vae_jax.training.placement import place

COUNT = 250
SEEDS, BETAS = (3, 5, 3), (1.0, 0.5, 4.0)
SMALL = Config(
    epochs=2,
    hidden=(16,),
    latent_dim=2,
    batch_size=16,
    learning_rate=3e-3,
    validation_fraction=0.1,
    prior="conditional",
    prior_hidden=(4,),
)


@pytest.fixture(autouse=True)
def _three_steps_to_a_chunk(monkeypatch):
    """Of 16 bytes of an image and two floats of its condition."""
    monkeypatch.setattr(prefetch, "CHUNK_BYTES", 3 * 16 * 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    np.save(folder / "x.npy", rng.integers(0, 256, (COUNT, 4, 4), dtype=np.uint8))
    np.savez(folder / "c.npz", kind=np.arange(COUNT) % 3, age=rng.normal(40, 9, COUNT))
    return folder


@pytest.fixture(scope="module")
def built(folder):
    """The same run on data in memory and on disk."""
    config = dataclasses.replace(SMALL, dataset=str(folder / "x.npy"), condition=str(folder / "c.npz"))
    return [build(dataclasses.replace(config, stream=stream)) for stream in (False, True)]


@pytest.fixture(scope="module")
def whole(built):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefetch, "CHUNK_BYTES", 3 * 16 * 24)
        return [training.fit(one.vae, one.data, **one.fit_arguments) for one in built]


def without_seconds(fit):
    return fit.progress._replace(history=[epoch._replace(seconds=0) for epoch in fit.progress.history])


def test_a_streamed_run_is_the_run_in_memory(built, whole):
    """The same bits where XLA fuses nothing; else equal up to rounding, which Adam magnifies."""
    in_memory, on_disk = built
    assert isinstance(on_disk.data.train, Example)
    assert isinstance(on_disk.data.train.event, Rows)
    assert isinstance(on_disk.data.train.condition, np.ndarray)
    assert on_disk.data.condition_dim == 4
    assert on_disk.dataset.fingerprint() == in_memory.dataset.fingerprint()
    expected, got = map(without_seconds, whole)
    if jax.config.read("jax_disable_most_optimizations"):
        chex.assert_trees_all_equal(got, expected)
    else:
        chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-5)


def test_chunks_have_the_conditions_of_their_rows(built):
    rows, order = built[1].data.train, np.random.default_rng(0).permutation(len(built[1].data.train))[:160].reshape(10, 16)
    items = list(prefetch.chunks(rows, [order], 3, lambda item: item))
    events, conditions = (np.concatenate([getattr(item, name)[0] for item in items])[:10] for name in ("event", "condition"))
    for event, condition, index in zip(events, conditions, order, strict=True):
        np.testing.assert_array_equal(event.reshape(16, 4, 4), rows.event[index][..., 0])
        np.testing.assert_array_equal(condition, built[0].dataset.train_condition[index])


@pytest.mark.slow
def test_members_are_the_runs_alone(built):
    streamed = built[1]
    options = training.FitOptions.from_keywords(streamed.fit_arguments)
    hyperparams = streamed.fit_arguments["hyperparams"]
    arguments = {
        "hyperparams": hyperparams._replace(beta=np.float32(BETAS)),
        "placement": place(len(SEEDS), "map", devices=jax.local_devices()[:1]),
    }
    together = training.fit_members(streamed.vae, streamed.data, options, seeds=SEEDS, **arguments)
    for i in (1, 2):
        changed = {"seed": SEEDS[i], "hyperparams": hyperparams._replace(beta=BETAS[i])}
        alone = training.fit(streamed.vae, streamed.data, **(streamed.fit_arguments | changed))
        state = jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], together.progress.members.state)
        chex.assert_trees_all_equal(state, jax.device_get(alone.progress.state))


@pytest.mark.slow
def test_resuming_within_an_epoch_is_bit_for_bit(built, whole, tmp_path):
    seen = []

    def on_chunk(share):
        seen.append(share)
        return len(seen) == 5

    part, _ = runs.train(built[1], tmp_path / "run", on_chunk=on_chunk)
    assert part.status == "interrupted"
    assert part.progress.partial.steps > 0
    rest, summary = runs.train(built[1], tmp_path / "run", resume=True)
    chex.assert_trees_all_equal(rest.progress.state, whole[1].progress.state)
    assert summary["test_elbo"] == whole[1].test.elbo
    loaded = runs.load_run(tmp_path / "run")
    assert loaded.built.data.condition == built[1].data.condition
    chex.assert_trees_all_equal(loaded.params, jax.device_get(whole[1].params))


def test_drawn_images_with_their_factors_are_never_streamed():
    with pytest.raises(ValueError, match="not read from files"):
        data.load("sprites", condition="factors", stream=True)
