"""A module of a user, with every part of a model, from training to the report: killed, resumed, swept, evaluated."""

import json
import shutil
import time

import jax
import numpy as np
import pytest
import user_parts
from scripts import assert_same_run, metrics, run, start, summary

from vae_jax import runs
from vae_jax.cli.user_parts import FOR_MODEL, PartArguments, load_parts
from vae_jax.sweep import load_sweep
from vae_jax.sweep.results import load_states

NAMES = ("network", "prior", "optimizer")
SETTINGS = ("--dataset", "digits", "--latent-dim", 2, "--epochs", 30, "--batch-size", 64, "--learning-rate", 3e-3)
PATIENCE = 200  # seconds


@pytest.mark.slow
def test_parts_of_a_module_from_the_first_step_to_the_report(tmp_path):
    module = tmp_path / "parts.py"
    shutil.copy(user_parts.__file__, module)
    values = {name: f"{module}:make_{name}" for name in NAMES}
    words = [word for name, value in values.items() for word in (f"--{name}", value)]
    alone, killed, sweep = tmp_path / "alone", tmp_path / "killed", tmp_path / "sweep"
    run("train.py", *SETTINGS, *words, "--beta", 2, "--no-report", "--out", alone)

    process = start("train.py", *SETTINGS, *words, "--beta", 2, "--checkpoint-seconds", 0, "--no-report", "--out", killed)
    began = time.monotonic()
    while not (killed / "metrics.jsonl").exists() or len((killed / "metrics.jsonl").read_text().splitlines()) < 3:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)
    assert not (killed / "summary.json").exists()
    refused = run("train.py", "--out", killed, "--resume", check=False)
    (advice,) = refused.stderr.splitlines()
    assert (refused.returncode, advice.partition(" Add ")[2].split()) == (2, words)  # the words that continue the run
    done = run("train.py", "--out", killed, "--resume", "--no-report", *words)
    assert "training make_network of parts.py, 2 latent dimensions" in done.stdout
    assert_same_run(alone, killed)

    run("sweep.py", *SETTINGS, *words, "--betas", 1, 2, "--strategy", "map", "--devices", 1, "--no-report", "--out", sweep)
    model_parts = load_parts(PartArguments(**{**values, "optimizer": ""}), sweep, needed=FOR_MODEL)
    member = runs.load_model(sweep, member=1, **model_parts)
    trained = runs.load_model(alone, **model_parts)
    assert jax.tree.all(jax.tree.map(np.array_equal, member.params, trained.params))
    parts = load_parts(PartArguments(**values), sweep)
    _, state = load_states(load_sweep(sweep), [1], **parts)[1]
    assert not np.array_equal(jax.tree.leaves(state.params)[0], jax.tree.leaves(trained.params)[0])  # the average is evaluated
    assert load_sweep(sweep).rows[1]["test_elbo"] == summary(alone)["test_elbo"]
    assert summary(alone)["test_elbo"] > metrics(alone)[0]["test_elbo"] + 5  # it learns

    run("evaluate.py", alone, *words, "--num-samples", 100)
    numbers = json.loads((alone / "evaluation.json").read_text())
    assert numbers["log_px_mean"] > numbers["test_elbo"]  # the KL to the flow enters both
    run("report.py", alone, sweep, *words)
    for page in (alone / "report.html", sweep / "report.html"):
        assert "make_prior of parts.py" in page.read_text()
