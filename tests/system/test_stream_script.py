"""train.py --stream as a user runs it: data that memory does not hold, and a kill in the middle of an epoch."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from scripts import EXPERIMENTS, assert_same_run, run, start

SETTINGS = (
    "--hidden",
    16,
    "--latent-dim",
    2,
    "--batch-size",
    256,
    "--test-fraction",
    0.01,
    "--eval-batch-size",
    50,
    "--no-report",
)


def write(path, count, side):
    """Random bytes in every tenth image, and holes, which take no room on the disk, in between."""
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, side, side))
    images[::10] = np.random.default_rng(0).integers(0, 256, (1, side, side), dtype=np.uint8)
    images.flush()


def within(megabytes, *flags):
    """Runs train.py in a process that may take so much memory beyond that of the libraries, which are loaded first."""
    code = f"""
import resource, runpy, sys
import jax, grain, orbax.checkpoint, tyro, tqdm, vae_jax.runs
script = {str(EXPERIMENTS / "train.py")!r}
sys.argv, sys.path[0] = [script, *{[str(flag) for flag in flags]}], {str(EXPERIMENTS)!r}
jax.jit(lambda x: x @ x)(jax.numpy.zeros((100, 100))).block_until_ready()
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + {megabytes} * 10**6,) * 2)
runpy.run_path(script, run_name="__main__")
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA and /proc are Linux's")
def test_data_that_do_not_fit_into_memory(tmp_path):
    """1,500 MB of images in 1,200 MB, of which threads, compiler and chunks take 800; file-backed pages do not count."""
    write(tmp_path / "x.npy", 91_600, 128)
    flags = ("--dataset", tmp_path / "x.npy", *SETTINGS, "--likelihood", "gaussian", "--epochs", 1)
    refused = within(1200, *flags, "--out", tmp_path / "memory")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "does not fit into memory" in refused.stderr
    assert "Use --stream" in refused.stderr
    assert not (tmp_path / "memory").exists()
    done = within(1200, *flags, "--stream", "--out", tmp_path / "disk")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "disk" / "summary.json").read_text())["steps"] == 90_684 // 256
    run("evaluate.py", tmp_path / "disk", "--num-samples", 1, "--elbo-samples", 1)


@pytest.mark.slow
def test_killed_in_the_middle_of_an_epoch(tmp_path):
    write(tmp_path / "x.npy", 10_000, 64)
    flags = ("--dataset", tmp_path / "x.npy", *SETTINGS, "--epochs", 2, "--stream")
    alone = run("train.py", *flags, "--out", tmp_path / "alone")
    process = start("train.py", *flags, "--out", tmp_path / "killed", "--checkpoint-seconds", 0)
    folder = tmp_path / "killed" / "partial"
    while not any(path.name.isdigit() for path in folder.glob("*")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "metrics.jsonl").read_text()  # in the first epoch
    resumed = run("train.py", "--out", tmp_path / "killed", "--resume", "--no-report")
    steps = int(resumed.stdout.split("resuming after epoch 0 and ")[1].split()[0])
    assert 0 < steps < 9_900 // 256
    assert_same_run(tmp_path / "alone", tmp_path / "killed")

    def last_line(done):
        return next(line for line in done.stdout.splitlines() if line.startswith("test ELBO")).split("finished")[0]

    assert last_line(resumed) == last_line(alone)


@pytest.mark.slow
def test_a_signal_ends_the_run_within_the_epoch(tmp_path):
    write(tmp_path / "x.npy", 100_000, 64)
    flags = ("--dataset", tmp_path / "x.npy", *SETTINGS, "--hidden", 128, "--batch-size", 64, "--epochs", 2, "--stream")
    process = start("train.py", *flags, "--out", tmp_path / "run", "--checkpoint-seconds", 0)
    while not any(path.name.isdigit() for path in (tmp_path / "run" / "partial").glob("*")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, stderr
    assert "finishing these steps, then saving" in stderr
    assert "saved after epoch 0 of 2 and " in stdout


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path):
    done = run("benchmarks/streaming.py", "--megabytes", 5, "--epochs", 2, "--folder", tmp_path, "--out", tmp_path / "x.json")
    results = json.loads((tmp_path / "x.json").read_text())
    streamed, in_memory = results["rows"]
    assert (streamed["way"], in_memory["ratio"]) == ("streamed", 1)
    assert streamed["test_elbo"] == in_memory["test_elbo"]
    assert all(row["examples_per_second"] > 0 < row["peak_anonymous_bytes"] for row in results["rows"])
    assert sum(line.startswith("| ") for line in done.stdout.splitlines()) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
