"""Several members on streamed data: each is the run alone, whatever the layout, and one reader reads their batches."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from vae_jax import data, training
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.data import Rows, prefetch
from vae_jax.errors import DivergenceWarning, UserError
from vae_jax.sweep import grid
from vae_jax.sweep.directory import Launch, read_sweep, run_sweep
from vae_jax.training import Callbacks
from vae_jax.training.placement import place

SEEDS = (3, 5, 3)
BETAS = (1.0, 0.5, 4.0)
SMALL = Config(epochs=2, hidden=(16,), latent_dim=2, batch_size=16, learning_rate=3e-3, split="last", stream=True)
DEVICES = jax.local_devices()


@pytest.fixture(autouse=True)
def _three_steps_to_a_chunk(monkeypatch):
    """For one order of bytes; for two orders too, because their items may be twice as large."""
    monkeypatch.setattr(prefetch, "CHUNK_BYTES", 3 * 16 * 16)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "bytes.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (250, 4, 4), dtype=np.uint8))
    return str(path)


@pytest.fixture(scope="module")
def built(file):
    return build(dataclasses.replace(SMALL, dataset=file))


@pytest.fixture(scope="module")
def alone(built):
    """The runs that the members are, one at a time."""

    def one(seed, beta):
        hyperparams = built.fit_arguments["hyperparams"]._replace(beta=beta)
        return training.fit(built.vae, built.data, **(built.fit_arguments | {"seed": seed, "hyperparams": hyperparams}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefetch, "CHUNK_BYTES", 3 * 16 * 16)
        return [one(seed, beta) for seed, beta in zip(SEEDS, BETAS, strict=True)]


def fit_all(built, placement=None, callbacks=None, start=None, **changes):
    """All members in one program."""
    options = training.FitOptions.from_keywords(built.fit_arguments)
    hyperparams = built.fit_arguments["hyperparams"]._replace(beta=np.float32(BETAS), **changes)
    placement = placement or place(len(SEEDS), "map", devices=DEVICES[:1])
    arguments = {"hyperparams": hyperparams, "placement": placement, "callbacks": callbacks, "start": start}
    return training.fit_members(built.vae, built.data, options, seeds=SEEDS, **arguments)


def member(fit, i):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[i], fit.progress.members)


def histories(fit):
    return [tuple(epoch._replace(seconds=0) for epoch in history) for history in fit.progress.histories]


def assert_are_the_runs_alone(together, alone, compare=chex.assert_trees_all_equal):
    for i, run in enumerate(alone):
        compare(member(together, i).state, jax.device_get(run.progress.state))
        compare(histories(together)[i], tuple(epoch._replace(seconds=0) for epoch in run.progress.history))
    assert together.status == tuple(run.status for run in alone)


def test_members_are_the_runs_alone_and_those_in_memory(built, alone, file, monkeypatch):
    """Members 0 and 2 have the same seed: their batches are read once."""
    rows_read = []
    gather = Rows.gather

    def counted(rows, index, out):
        rows_read.append(len(index))
        gather(rows, index, out)

    monkeypatch.setattr(Rows, "gather", counted)
    together = fit_all(built)
    assert sum(rows_read) == 2 * 2 * 12 * 16  # orders, epochs, steps, batch size
    assert_are_the_runs_alone(together, alone)
    in_memory = fit_all(build(dataclasses.replace(SMALL, dataset=file, stream=False)))
    # The same bits where XLA fuses nothing, as in all tests but the slow ones.
    exact = jax.config.read("jax_disable_most_optimizations")
    compare = chex.assert_trees_all_equal if exact else lambda *trees: chex.assert_trees_all_close(*trees, rtol=1e-4, atol=1e-5)
    compare(jax.device_get(together.progress.members), jax.device_get(in_memory.progress.members))
    compare(histories(together), histories(in_memory))


LAYOUTS = {
    "vmap": ("vmap", None, 1),
    "vmap, chunks of two": ("vmap", 2, 1),
    "map, two devices": ("map", None, 2),
    "vmap, two devices": ("vmap", None, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_layout_changes_nothing(built, alone, layout):
    strategy, chunk, num_devices = layout
    if len(DEVICES) < num_devices:
        pytest.skip("needs two devices")
    together = fit_all(built, place(len(SEEDS), strategy, chunk=chunk, devices=DEVICES[:num_devices]))
    if strategy == "map":
        assert_are_the_runs_alone(together, alone)
    else:
        assert_are_the_runs_alone(together, alone, lambda *trees: chex.assert_trees_all_close(*trees, rtol=1e-4, atol=1e-5))


def test_a_batch_is_shared_by_two_devices(built, alone):
    if len(DEVICES) < 2:
        pytest.skip("needs two devices")
    together = fit_all(built, place(len(SEEDS), "map", data_parallel=2, devices=DEVICES[:2]))
    assert_are_the_runs_alone(together, alone, lambda *trees: chex.assert_trees_all_close(*trees, rtol=1e-4, atol=1e-5))


@pytest.mark.slow
def test_a_member_that_diverges_stops_at_its_last_good_step(built, alone):
    """Its learning rate is so large that its parameters overflow within the first epoch."""
    rates = np.float32([3e-3, 1e38, 3e-3])
    together = fit_all(built, learning_rate=rates)
    hyperparams = built.fit_arguments["hyperparams"]._replace(learning_rate=1e38, beta=BETAS[1])
    with pytest.warns(DivergenceWarning):
        lost = training.fit(built.vae, built.data, **(built.fit_arguments | {"seed": SEEDS[1], "hyperparams": hyperparams}))
    assert lost.status == "diverged"
    assert int(lost.progress.state.step) < 12
    assert_are_the_runs_alone(together, [alone[0], lost, alone[2]])


@pytest.mark.slow
def test_members_stop_early_one_by_one(file):
    built = build(dataclasses.replace(SMALL, dataset=file, validation_fraction=0.1, early_stopping=1, epochs=6))
    rates = np.float32([3e-3, 0.5, 1e-30])  # the last one never gets better after its first epoch
    together = fit_all(built, learning_rate=rates)
    i = 1
    hyperparams = built.fit_arguments["hyperparams"]._replace(beta=BETAS[i], learning_rate=float(rates[i]))
    run = training.fit(built.vae, built.data, **(built.fit_arguments | {"seed": SEEDS[i], "hyperparams": hyperparams}))
    assert (together.status[i], together.epochs[i]) == (run.status, run.epoch)
    chex.assert_trees_all_equal(member(together, i), jax.device_get(training.epoch.MemberState(*run.progress[:2])))
    assert len({len(history) for history in together.progress.histories}) > 1


def test_an_interrupted_sweep_continues_from_its_last_whole_epoch(built, alone):
    """Interrupted in the second epoch, after the first member has ended it."""
    seen, kept = [], []

    def on_chunk(steps, progress):
        seen.append(steps)
        assert progress() is None
        return len(seen) == 10

    callbacks = Callbacks(lambda progress: kept.append(jax.device_get(progress)), on_chunk)
    with pytest.raises(training.EpochInterrupted):
        fit_all(built, callbacks=callbacks)
    assert seen == [3, 6, 9, 3, 6, 9, 3, 6, 9, 3]  # members 0 and 2 together, then member 1
    rest = fit_all(built, start=kept[0])
    assert_are_the_runs_alone(rest, alone)
    middle = kept[0]._replace(partial=training.PartialEpoch(3, (), 0.0))
    with pytest.raises(UserError, match="Only a single member can resume there"):
        fit_all(built, start=middle)


@pytest.mark.slow
def test_a_sweep_directory_continues_after_an_interruption(file, tmp_path):
    members = grid(dataclasses.replace(SMALL, dataset=file), beta=[0.5, 2.0], seed=[0, 1])
    assert run_sweep(members, tmp_path / "whole")
    calls = []

    def should_stop():
        calls.append(1)
        return len(calls) in (2, 11)

    launch = Launch(should_stop=should_stop)
    assert not run_sweep(members, tmp_path / "parts", launch=launch, checkpoint_seconds=0.0)
    assert not list((tmp_path / "parts").glob("blocks/*/checkpoints/[0-9]*"))  # no epoch has ended
    ticks = []
    arguments = {
        "resume": True,
        "launch": launch,
        "on_progress": lambda tick: ticks.append(tick.done),
        "checkpoint_seconds": 0.0,
    }
    assert not run_sweep(members, tmp_path / "parts", **arguments)
    assert run_sweep(members, tmp_path / "parts", **arguments)
    assert ticks == [4, 8]
    results = [(tmp_path / name / "blocks" / "0000" / "result.json").read_text() for name in ("whole", "parts")]
    assert _without_seconds(results[0]) == _without_seconds(results[1])
    assert read_sweep(tmp_path / "parts")[0] == members


def _without_seconds(text):
    return [line for line in text.splitlines() if "second" not in line and "placement" not in line]


@pytest.mark.slow
def test_a_prior_made_of_streamed_examples(file):
    """The initial parameters of each member are read from disk, for its seed."""
    config = dataclasses.replace(SMALL, dataset=file, prior="vamp", prior_components=3, binarize="threshold", epochs=1)
    built = build(config)
    assert isinstance(built.data.train, Rows)
    together = fit_all(built)
    run = training.fit(built.vae, built.data, **(built.fit_arguments | {"seed": SEEDS[0]}))
    chex.assert_trees_all_equal(member(together, 0).state, jax.device_get(run.progress.state))
    assert data.load(file).train.shape == (200, 4, 4, 1)
