"""sweep.py --stream as a user runs it: a sweep that is killed or interrupted continues to the same table."""

import signal
import time

import numpy as np
import pytest
from scripts import assert_same_sweep, run, start

SETTINGS = ("--stream", "--hidden", 64, "--latent-dim", 2, "--batch-size", 16, "--epochs", 4, "--betas", 0.5, 2)
OPTIONS = ("--seeds", 0, 1, "--split", "last", "--checkpoint-seconds", 0, "--devices", 1, "--no-report")


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Images that take several chunks in an epoch."""
    path = tmp_path_factory.mktemp("data") / "bytes.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (5000, 64, 64), dtype=np.uint8))
    return ("--dataset", path, *SETTINGS, *OPTIONS)


@pytest.fixture(scope="module")
def undisturbed(flags, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "sweep"
    run("sweep.py", *flags, "--out", out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_streamed_sweep_continues_to_the_same_table(flags, undisturbed, tmp_path, sent):
    """After its first epoch: SIGKILL at once, SIGINT a moment later, within the next epoch."""
    out = tmp_path / "sweep"
    process, deadline = start("sweep.py", *flags, "--out", out), time.monotonic() + 200
    checkpoints = out / "blocks" / "0000" / "checkpoints"
    while not any(path.name.isdigit() for path in checkpoints.glob("*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.1 if sent == signal.SIGINT else 0)
    process.send_signal(sent)
    process.communicate(timeout=100)
    assert process.returncode != 0
    assert not (out / "results.csv").exists()
    assert len((out / "blocks" / "0000" / "metrics.jsonl").read_text().splitlines()) < 4 * 4
    run("sweep.py", *flags, "--out", out, "--resume")
    assert_same_sweep(undisturbed, out)
