"""train.py and sweep.py say that a run overfits, and what to do."""

import numpy as np
import pytest
from scripts import summary

from vae_jax.sweep.results import Results
from vae_jax.sweep.statistics import Point

SETTINGS = ("--hidden", 128, "--latent-dim", 8, "--batch-size", 10, "--epochs", 40, "--learning-rate", 0.01, "--no-report")
NOTE = "note: overfitting: "
REMEDY = "(--validation-fraction 0.1 --early-stopping 10)"


@pytest.mark.slow
def test_a_run_that_overfits_says_so(tmp_path, script):
    """On pixels without structure all that can be learned of single images is noise."""
    np.save(tmp_path / "noise.npy", (np.random.default_rng(0).random((80, 10, 10)) < 0.3).astype(np.uint8))
    status, stderr = script(
        "train", "--dataset", tmp_path / "noise.npy", *SETTINGS, "--test-fraction", 0.5, "--out", tmp_path / "run"
    )
    assert status == 0
    assert f"{NOTE}the test ELBO was best after epoch " in stderr
    assert f"is {summary(tmp_path / 'run')['test_elbo']:.2f} after epoch 40, while the training ELBO rose" in stderr
    assert REMEDY in stderr


def test_a_sweep_whose_members_overfit_says_so(tmp_path, script, monkeypatch):
    """The members' curves are made up here: what is found in them is tested in test_overfitting."""
    held_out, train = (-20.0, -15.0, -14.0, -15.5, -17.0), (-22.0, -15.0, -13.0, -11.0, -9.0)
    curve = [
        {"member": 0, "epoch": i + 1, "test_elbo": test, "test_elbo_standard_error": 0.5, "train_elbo": own}
        for i, (test, own) in enumerate(zip(held_out, train, strict=True))
    ]
    rows = [{"member": 0, "status": "finished", "evaluated_epoch": 5}]
    results = Results(tmp_path, [], {}, rows, [Point("", {"beta": 1.0}, (), 0, {})], curve, [])
    monkeypatch.setattr("vae_jax.sweep.directory.run_sweep", lambda *arguments, **options: True)
    monkeypatch.setattr("vae_jax.sweep.results.write_results", lambda *arguments: results)
    status, stderr = script("sweep", "--betas", 1, "--no-report", "--no-compilation-cache", "--out", tmp_path / "sweep")
    assert status == 0
    assert f"{NOTE}in 1 of 1 members the test ELBO fell after its best epoch" in stderr
    assert "in member 0, from -14.00 after epoch 3 to -17.00 after epoch 5" in stderr
    assert REMEDY in stderr
