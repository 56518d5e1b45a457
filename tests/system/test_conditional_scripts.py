"""Conditional runs and runs on missing values by the scripts: killed and resumed, and spread over two devices."""

import signal
import time

import numpy as np
import pytest
from scripts import assert_same_run, rows, run, start

SMALL = ("--hidden", 64, "--latent-dim", 4, "--batch-size", 16, "--epochs", 60, "--validation-fraction", 0.1, "--no-report")


def table(path):
    """A table in which a third of the numbers is missing."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1200, 3)) @ rng.normal(size=(3, 8)) + 0.3 * rng.normal(size=(1200, 8))
    x[rng.random(x.shape) < 1 / 3] = np.nan
    np.save(path, x)
    return path


def settings(kind, folder):
    if kind == "conditional":
        return ("--dataset", "digits", "--condition", "labels", "--prior", "conditional", *SMALL)
    return ("--dataset", table(folder / "x.npy"), "--missing", "nan", "--mask-input", "--likelihood", "gaussian", *SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["conditional", "missing"])
def test_a_killed_run_is_continued_bit_for_bit(kind, tmp_path):
    flags = settings(kind, tmp_path)
    run("train.py", *flags, "--out", tmp_path / "alone")
    out = tmp_path / "killed"
    process = start("train.py", *flags, "--checkpoint-seconds", 0, "--out", out)
    lines, deadline = out / "metrics.jsonl", time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if lines.exists() and lines.read_text().count("\n") >= 5:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    run("train.py", "--no-report", "--out", out, "--resume")
    assert_same_run(tmp_path / "alone", out)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["conditional", "missing"])
def test_two_devices_share_the_batches_of_a_sweep(kind, tmp_path):
    flags = [*settings(kind, tmp_path)[: -len(SMALL)], "--hidden", 16, "--latent-dim", 2, "--epochs", 2, "--no-report"]
    for name, devices in (("one", ("--devices", 1)), ("two", ("--devices", 2, "--data-parallel", 2))):
        run("sweep.py", *flags, "--betas", 0.5, 2, *devices, "--out", tmp_path / name)
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert one["status"] == two["status"] == "finished"
        assert float(one["test_elbo"]) == pytest.approx(float(two["test_elbo"]), rel=1e-4)
