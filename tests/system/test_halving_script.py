"""Successive halving from the command line: killed and continued it has the same bits, and its report can be read."""

import json
import signal
import time

import pytest
from scripts import assert_same_sweep, run, start

SETTINGS = (
    *("--hidden", 64, "--latent-dim", 4, "--batch-size", 16, "--epochs", 18, "--validation-fraction", 0.1, "--devices", 1),
    *("--ranges", "beta=0.1:10:log", "learning_rate=1e-4:1e-1:log", "--design", "random", "--num-points", 12),
    *("--halving", 3, "--min-epochs", 2),
)


@pytest.mark.slow
def test_killed_and_continued(tmp_path):
    done = run("sweep.py", *SETTINGS, "--out", tmp_path / "alone")
    assert "rung 0, epoch 2: " in done.stdout
    page = (tmp_path / "alone" / "report.html").read_text()
    assert "stopped by successive halving" in page
    assert "--halving 3 --min-epochs 2 --halving-by validation_elbo" in page
    killed = tmp_path / "killed"
    process = start("sweep.py", *SETTINGS, "--no-report", "--checkpoint-seconds", 0, "--out", killed)
    metrics = killed / "blocks" / "0000" / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_bytes().count(b"\n") < 30):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    run("sweep.py", "--no-report", "--out", killed, "--resume")
    assert_same_sweep(tmp_path / "alone", killed)
    content = [json.loads((folder / "sweep.json").read_text())["halving"] for folder in (tmp_path / "alone", killed)]
    assert content[0] == content[1] == {"eta": 3, "min_epochs": 2, "by": "validation_elbo", "num_concurrent": None}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--min-epochs", 2), "--min-epochs belongs to --halving"),
        (("--halving", 3, "--validation-fraction", 0), "--halving: "),
        (("--halving", 3, "--seeds", 0, 1, "--validation-fraction", 0.1), "--halving: "),
    ],
)
def test_refused_flags(flags, message, tmp_path):
    ranges = ("--ranges", "beta=0.1:10:log", "--design", "random", "--epochs", 9)
    done = run("sweep.py", *ranges, *flags, "--out", tmp_path / "sweep", check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "sweep").exists()
