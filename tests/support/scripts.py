"""Runs the scripts as a user does: as processes."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

from paths import ROOT

EXPERIMENTS = ROOT / "experiments"
TIMES = ("seconds", "wall_seconds", "train_examples_per_second")  # what may differ between two equal runs
_started: list[subprocess.Popen] = []


def command(script, *arguments):
    return [sys.executable, str(EXPERIMENTS / script), *map(str, arguments)]


def run(script, *arguments, check=True, **options):
    done = subprocess.run(command(script, *arguments), capture_output=True, text=True, timeout=300, **options)
    assert not check or done.returncode == 0, done.stderr
    return done


def start(script, *arguments):
    process = subprocess.Popen(
        command(script, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    _started.append(process)
    return process


def end_started():
    """Kills what a test that failed left running, so that the tests after it have the machine to themselves."""
    while _started:
        with _started.pop() as process:
            process.kill()


def summary(out):
    return without_times(json.loads((Path(out) / "summary.json").read_text()))


def metrics(out):
    return [without_times(json.loads(line)) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


def without_times(values):
    return {name: value for name, value in values.items() if name not in TIMES}


def parameters(out):
    """The checksum of the last checkpoint: over the bytes of every array of the state."""
    last = max((Path(out) / "checkpoints").iterdir(), key=lambda folder: int(folder.name))
    return json.loads((last / "meta" / "metadata").read_text())["sha256"]


def assert_same_run(one, other):
    assert summary(one) == summary(other)
    assert metrics(one) == metrics(other)
    assert parameters(one) == parameters(other)


def rows(out):
    """A sweep's results.csv without what may differ between equal sweeps."""
    with (out / "results.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "wall_seconds"} for row in csv.DictReader(file)]


def curves(out):
    return (out / "curves.csv").read_text()


def assert_same_sweep(one, other):
    assert rows(one) == rows(other)
    assert curves(one) == curves(other)
