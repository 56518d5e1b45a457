"""Run and sweep directories that earlier versions wrote (fixtures/) are read, evaluated and gone on with."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from vae_jax import runs
from vae_jax.sweep.results import load_params, load_sweep

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def old(tmp_path):
    return shutil.copytree(FIXTURES, tmp_path / "fixtures")


def elbo(run):
    return json.loads((run / "summary.json").read_text())["test_elbo"]


@pytest.mark.slow
def test_an_old_run(old, script):
    run = runs.load_run(old / "old_run")
    assert (run.epoch, run.built.config.hidden, run.built.config.prior) == (2, (4,), "normal")
    before = elbo(old / "old_run")
    assert script("evaluate", old / "old_run", "--num-samples", 1, "--elbo-samples", 1)[0] == 0
    found = json.loads((old / "old_run" / "evaluation.json").read_text())
    assert found["test_elbo"] == pytest.approx(before, abs=0.5)  # that version binarized with other draws
    status, stderr = script("train", "--out", old / "old_run", "--resume", "--no-report")
    assert status == 0, stderr
    assert elbo(old / "old_run") == pytest.approx(before, abs=0.5)


def test_an_old_sweep(old, script):
    results = load_sweep(old / "old_sweep")
    assert [row["beta"] for row in results.rows] == [1.0, 4.0]
    built, params = load_params(results, [1])[1]
    assert built.vae.decode(params, np.zeros(2, np.float32)).shape == (8, 8, 1)
    status, stderr = script("sweep", "--out", old / "old_sweep", "--resume", "--seeds", 0, 1, "--no-report")
    assert status == 0, stderr
    again = load_sweep(old / "old_sweep")
    assert len(again.rows) == 4
    assert again.rows[:2] == results.rows


def test_settings_of_a_newer_version_are_refused(old, script):
    path = old / "old_run" / "config.json"
    content = json.loads(path.read_text())
    content["config"]["entropy"] = 3
    path.write_text(json.dumps(content))
    for name, flags in (("train", ("--resume", "--out")), ("evaluate", ()), ("report", ())):
        status, stderr = script(name, *flags, old / "old_run")
        assert (status, stderr.count("\n")) == (2, 1)
        assert "unknown settings ['entropy']: written by a newer version?" in stderr
