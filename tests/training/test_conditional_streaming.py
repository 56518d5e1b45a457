"""Streamed runs with a condition: the run in memory, and resumed in the middle of an epoch bit for bit."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from vae_jax import training
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.data import Rows, prefetch

SMALL = Config(epochs=2, hidden=(8,), latent_dim=2, batch_size=16, learning_rate=3e-3, split="last", condition="labels")


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Labels beside bytes, and three steps to a chunk, or fewer with the conditions."""
    monkeypatch.setattr(prefetch, "CHUNK_BYTES", 3 * 16 * 16)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 250)
    levels = np.clip(rng.normal(60 + 60 * labels[:, None, None], 30, (250, 4, 4)), 0, 255).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x_train=levels, y_train=labels)
    return dataclasses.replace(SMALL, dataset=str(tmp_path / "data.npz"))


def fit(parts, **changes):
    return training.fit(parts.vae, parts.data, **(parts.fit_arguments | changes))


def state(run):
    return jax.device_get((run.progress.state, run.progress.best))


def numbers(run):
    return [epoch._replace(seconds=0) for epoch in run.progress.history]


@pytest.mark.slow
def test_a_streamed_conditional_run_resumes_within_an_epoch(config):
    parts = build(dataclasses.replace(config, stream=True))
    assert isinstance(parts.data.train.event, Rows)
    assert parts.data.condition_dim == 3
    whole = fit(parts)
    kept = []

    def stop(steps, progress):
        if len(kept) == 0 and steps >= 6:
            kept.append((steps, progress()))
            return True
        return False

    stopped = fit(parts, on_chunk=stop)
    assert stopped.status == "interrupted"
    [(steps, progress)] = kept
    assert 0 < steps < 12
    assert progress.partial.steps == steps
    resumed = fit(parts, start=progress)
    chex.assert_trees_all_equal(state(resumed), state(whole))
    assert numbers(resumed) == numbers(whole)
    in_memory = fit(build(config))
    if jax.config.read("jax_disable_most_optimizations"):
        chex.assert_trees_all_equal(state(in_memory), state(whole))
    else:
        chex.assert_trees_all_close(state(in_memory), state(whole), rtol=1e-4, atol=1e-5)
