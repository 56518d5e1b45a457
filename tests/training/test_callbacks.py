"""`on_epoch(metrics)`: one contract for `fit`, run directories and sweeps."""

import io

import numpy as np
import pytest

from vae_jax import data, likelihoods, model, runs, training
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.data import from_arrays
from vae_jax.sweep import grid, sweep
from vae_jax.sweep.directory import run_sweep

TIMES = ("seconds", "wall_seconds", "train_examples_per_second")
X = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
CONFIG = Config(likelihood="gaussian", hidden=(4,), latent_dim=2, batch_size=16, epochs=3, validation_fraction=0.0)


def dataset():
    return from_arrays(X, name="floats")


def without_times(lines):
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


class Tracker:
    """Keeps the metrics, and ends the run after an epoch."""

    def __init__(self, last_epoch=None):
        self.lines, self.last_epoch = [], last_epoch

    def __call__(self, metrics):
        self.lines.append(dict(metrics))
        return metrics["epoch"] == self.last_epoch


@pytest.mark.slow
def test_fit_and_run_directories_pass_the_lines_of_metrics(tmp_path):
    built = build(CONFIG, dataset=dataset())
    tracker, progresses = Tracker(last_epoch=2), []
    fit = training.fit(built.vae, built.data, **built.fit_arguments, on_epoch=tracker, on_progress=progresses.append)
    assert (fit.status, len(progresses), progresses[-1].history) == ("interrupted", 2, fit.progress.history)
    assert {type(value) for line in tracker.lines for value in line.values()} <= {int, float}
    last = fit.progress.history[-1]
    assert tracker.lines[-1]["test_elbo"] == last.test.elbo
    assert tracker.lines[-1]["train_loss"] == last.train.loss
    assert tracker.lines[-1]["train_elbo"] == last.train.log_likelihood - last.train.kl

    recorded = Tracker(last_epoch=2)
    runs.train(built, tmp_path / "run", on_epoch=recorded)
    assert recorded.lines == runs.read_metrics(tmp_path / "run")
    assert without_times(recorded.lines) == without_times(tracker.lines)
    resumed = Tracker()
    runs.train(built, tmp_path / "run", resume=True, on_epoch=resumed)
    assert [line["epoch"] for line in resumed.lines] == [3]
    assert recorded.lines + resumed.lines == runs.read_metrics(tmp_path / "run")


def test_on_progress_ends_a_run_and_on_epoch_still_gets_its_last_epoch():
    built, tracker = build(CONFIG, dataset=dataset()), Tracker()
    fit = training.fit(built.vae, built.data, **built.fit_arguments, on_epoch=tracker, on_progress=lambda progress: True)
    assert (fit.status, [line["epoch"] for line in tracker.lines]) == ("interrupted", [1])


def test_sweeps_pass_the_metrics_of_each_member(tmp_path):
    members = grid(CONFIG, beta=[0.5, 2.0])
    tracker, epochs = Tracker(), []
    result = sweep(members, dataset=dataset(), on_epoch=tracker, on_progress=lambda _, progress: epochs.append(progress.epoch))
    assert epochs == [1, 2, 3]
    assert [(line["epoch"], line["member"], line["beta"]) for line in tracker.lines] == [
        (epoch, member, beta) for epoch in (1, 2, 3) for member, beta in ((0, 0.5), (1, 2.0))
    ]
    assert "learning_rate" not in tracker.lines[0]  # all members share it
    assert [line["test_elbo"] for line in tracker.lines] == result.curves["test_elbo"].T.ravel().tolist()

    ended, ticks = Tracker(last_epoch=2), []
    assert not run_sweep(members, tmp_path / "sweep", dataset=dataset(), on_epoch=ended, on_progress=ticks.append)
    assert without_times(ended.lines) == without_times(tracker.lines)[:4]
    assert [tick.done for tick in ticks] == [2, 4]
    recorded = runs.read_metrics(tmp_path / "sweep" / "blocks" / "0000")
    assert [{**line, "beta": members[line["member"]].beta} for line in recorded] == ended.lines


@pytest.mark.parametrize(("first", "num_members"), [(1, 1), (4, 1), (1, 2)])
def test_the_bar_counts_epochs(monkeypatch, first, num_members):
    screen = io.StringIO()
    monkeypatch.setattr("sys.stdout", screen)
    show = training.progress_bar(5, num_members)
    for epoch in range(first, 6):
        for _ in range(num_members):
            assert not show({"epoch": epoch, "test_elbo": -12.3456, "test_kl": 2.0})
    last = screen.getvalue().rstrip().rsplit("\r", 1)[-1]
    assert "100%" in last
    assert f"{5 * num_members}/{5 * num_members}" in last
    assert "test ELBO -12.35, KL 2.00" in last


@pytest.mark.slow
def test_tensorboard_gets_the_metrics_of_fit(tmp_path):
    from tensorboardX import SummaryWriter

    digits = data.load("digits")
    vae = model.mlp_vae(digits.data_shape, likelihoods.bernoulli(), latent_dim=2, hidden=(4,))
    with SummaryWriter(str(tmp_path / "log")) as writer:

        def log(metrics):
            for name, value in metrics.items():
                writer.add_scalar(name, value, metrics["step"])

        training.fit(vae, data.prepare(digits, binarization="dynamic"), epochs=1, batch_size=128, seed=0, on_epoch=log)
    (events,) = (tmp_path / "log").iterdir()
    assert b"test_elbo" in events.read_bytes()
