"""A run that is killed at any moment and continued is, bit for bit, the run that was left alone."""

import os
import random
import signal
import subprocess
import time
from collections import Counter

import pytest
from scripts import assert_same_run, assert_same_sweep, run, start

# Checkpoints after every epoch, so that kills fall into epochs, into evaluation and into writing alike.
SETTINGS = ("--hidden", 64, "--latent-dim", 4, "--batch-size", 16, "--epochs", 120, "--validation-fraction", 0.1)
OPTIONS = ("--checkpoint-seconds", 0, "--no-report")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    run("train.py", *SETTINGS, "--no-report", "--out", out)
    return out


# Of each script; `VAE_JAX_KILLS=100 make test-slow ARGS="-k random_moments"` is the figure of the README.
KILLS = int(os.environ.get("VAE_JAX_KILLS", "3"))
SWEEP = ("--betas", 0.5, 4, "--seeds", 0, 1, "--hidden", 64, "--latent-dim", 4, "--batch-size", 16, "--epochs", 30)
SCRIPTS = {
    "train.py": ((*SETTINGS, "--checkpoint-seconds", 0), assert_same_run),
    "sweep.py": ((*SWEEP, "--checkpoint-seconds", 0, "--devices", 1), assert_same_sweep),
}


def moment(out, half_written):
    """What the process was doing when it was killed; `half_written`: checkpoints that earlier kills left so."""
    if not any(out.glob("*.json")):
        return "start-up"
    if new := set(out.rglob("*orbax-checkpoint-tmp*")) - half_written:
        half_written |= new
        return "a checkpoint's write"
    return "the report" if (out / "summary.json").exists() else "training"


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_killed_at_random_moments(script, tmp_path):
    """Anywhere from the start-up to the report; a run that comes to its end is compared, and the next one begins."""
    settings, assert_same = SCRIPTS[script]
    began, rng, kills, ends = time.monotonic(), random.Random(script), [], 0
    half_written = set()
    run(script, *settings, "--out", tmp_path / "alone")
    patience = 1.1 * (time.monotonic() - began)
    while len(kills) < KILLS or not ends:
        out = tmp_path / f"run{ends}"
        process = start(script, *settings, "--out", out, "--resume")
        try:
            _, stderr = process.communicate(timeout=rng.uniform(0, patience) if len(kills) < KILLS else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate(timeout=60)
            kills.append(moment(out, half_written))
            patience *= 1.03  # so that about three are killed for one that ends, however fast it is
            continue
        assert process.returncode == 0, stderr
        assert_same(tmp_path / "alone", out)
        assert (out / "report.html").stat().st_size > 10_000
        ends, patience = ends + 1, 0.9 * patience
    print(f"{script}: {len(kills)} kills {dict(Counter(kills))}, {ends} runs")


@pytest.mark.slow
def test_killed_before_anything_was_written(undisturbed, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.json.12345").write_text('{"half')
    done = run("train.py", *SETTINGS, "--no-report", "--out", tmp_path / "run", "--resume")
    assert "starting from the beginning" in done.stderr
    assert_same_run(undisturbed, tmp_path / "run")


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(undisturbed, tmp_path):
    process = start("train.py", *SETTINGS, *OPTIONS, "--out", tmp_path / "run")
    folder, unfinished = tmp_path / "run" / "checkpoints", []
    while not unfinished and process.poll() is None:
        unfinished = list(folder.glob("*orbax-checkpoint-tmp*")) if (folder / "3").exists() or (folder / "4").exists() else []
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    run("train.py", *OPTIONS, "--out", tmp_path / "run", "--resume")
    assert_same_run(undisturbed, tmp_path / "run")
