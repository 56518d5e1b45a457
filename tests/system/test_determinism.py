"""The same command gives the same bytes, whatever the hash seed and the order of files; a long run stays flat."""

import contextlib
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import TIMES, metrics, parameters, run, start

SMALL = ("--hidden", 16, "--latent-dim", 2, "--batch-size", 32, "--epochs", 3, "--no-report")


def _bytes_without_times(out):
    """summary.json as it is on the disk, without the lines of its times."""
    lines = (Path(out) / "summary.json").read_text().splitlines()
    return [line for line in lines if not any(f'"{name}"' in line for name in TIMES)]


@pytest.mark.slow
def test_hash_seeds_and_the_order_of_files(tmp_path):
    rng = np.random.default_rng(0)
    images = {f"{i:03d}.png": Image.fromarray(rng.integers(0, 256, (5, 6), dtype=np.uint8)) for i in range(80)}
    outs = []
    for number, names in enumerate((sorted(images), sorted(images, reverse=True))):
        folder = tmp_path / f"copy{number}" / "images"
        folder.mkdir(parents=True)
        for name in names:
            images[name].save(folder / name)
        outs.append(tmp_path / f"run{number}")
        environment = {**os.environ, "PYTHONHASHSEED": str(number)}
        run("train.py", *SMALL, "--dataset", folder, "--out", outs[-1], env=environment)
    assert _bytes_without_times(outs[0]) == _bytes_without_times(outs[1])
    assert metrics(outs[0]) == metrics(outs[1])
    assert parameters(outs[0]) == parameters(outs[1])
    hashes = {json.loads((out / "config.json").read_text())["data"]["sha256"] for out in outs}
    assert len(hashes) == 1


# How long to watch; `VAE_JAX_LONG_RUN=7200` watches for two hours.
SECONDS = float(os.environ.get("VAE_JAX_LONG_RUN", "40"))


def _of_process(number):
    """(resident MiB, open file descriptors, threads); None if the process ends just then: its memory goes first."""
    with contextlib.suppress(OSError):
        descriptors = len(os.listdir(f"/proc/{number}/fd"))
        status = dict(line.split(":", 1) for line in Path(f"/proc/{number}/status").read_text().splitlines())
        if "VmRSS" in status:
            return int(status["VmRSS"].split()[0]) / 1024, descriptors, int(status["Threads"])
    return None


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
def test_a_long_run_stays_flat_and_can_be_read(tmp_path):
    flags = ("--hidden", 16, "--latent-dim", 2, "--batch-size", 256, "--checkpoint-seconds", 1, "--no-report")
    out, began, seen, reports, num_lines, position = tmp_path / "run", time.monotonic(), [], 0, 0, 0
    process = start("train.py", *flags, "--epochs", 10_000_000, "--out", out)
    while process.poll() is None and time.monotonic() - began < SECONDS:
        time.sleep(0.1)
        if (out / "metrics.jsonl").exists():
            with (out / "metrics.jsonl").open() as file:
                file.seek(position)
                # Linux shows a part of a line to readers while the line is being written across the end of a memory page.
                lines = [line for line in file.read().splitlines(keepends=True) if line.endswith("\n")]
                position += sum(map(len, lines))
            epochs = [json.loads(line)["epoch"] for line in lines]
            assert epochs == list(range(num_lines + 1, num_lines + 1 + len(lines)))
            num_lines += len(lines)
        if num_lines > 20 and (figures := _of_process(process.pid)):
            seen.append((num_lines, *figures))
        if not reports and num_lines > 200 and (out / "checkpoints").exists():
            run("report.py", out)
            assert (out / "report.html").stat().st_size > 10_000
            shutil.rmtree(out / "figures")
            reports += 1
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=120)
    assert reports == 1
    assert len(seen) >= 40
    # Checkpoints are written behind: their buffers, files and threads come and go within seconds. A leak raises the median of
    # the last quarter above that of the quarter before.
    quarter = len(seen) // 4
    before, last = np.median(seen[-2 * quarter : -quarter], axis=0), np.median(seen[-quarter:], axis=0)
    print(f"{seen[-1][0]} epochs; resident MiB, descriptors, threads: {before[1:]}, then {last[1:]}")
    assert last[1] <= before[1] * 1.05 + 5
    assert last[2] <= before[2] + 10
    assert last[3] <= before[3] + 10
