"""`train --prior refit`, `refit` and `evaluate` as a user runs them."""

import json

import pytest
from scripts import run


@pytest.mark.slow
def test_a_prior_is_fitted_by_training_and_by_the_command(tmp_path):
    out = tmp_path / "run"
    options = ["--dataset", "digits", "--epochs", "2", "--hidden", "8", "--latent-dim", "2", "--no-report"]
    trained = run("train.py", *options, "--prior", "refit", "--prior-components", "2", "--out", str(out))
    assert trained.returncode == 0
    assert "refitted prior: a mixture of" in trained.stdout
    first = (out / "prior.safetensors").read_bytes()
    again = run("refit.py", str(out), "--kind", "realnvp", "--num-layers", "2", "--hidden", "8")
    assert again.returncode == 0
    assert "a RealNVP of 2 couplings" in again.stdout
    assert (out / "prior.safetensors").read_bytes() != first
    evaluated = run("evaluate.py", str(out), "--num-samples", "20")
    assert "refitted prior (realnvp): log p(x)" in evaluated.stdout
    assert json.loads((out / "evaluation.json").read_text())["refit"]["kind"] == "realnvp"
    (out / "prior.safetensors").write_bytes(first[:50])
    damaged = run("evaluate.py", str(out), check=False)
    assert damaged.returncode == 2
    assert "prior.safetensors: cannot be read" in damaged.stderr
    assert "Traceback" not in damaged.stderr
