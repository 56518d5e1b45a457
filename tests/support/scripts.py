"""Runs the scripts as a user does: as processes."""

import csv
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import script_server
from paths import ROOT

EXPERIMENTS = ROOT / "experiments"
TIMES = ("seconds", "wall_seconds", "train_examples_per_second")  # what may differ between two equal runs
_started: list[subprocess.Popen] = []


def command(script, *arguments):
    return [sys.executable, str(EXPERIMENTS / script), *map(str, arguments)]


def run(script, *arguments, check=True, **options):
    if options or _environment_of_imports() != _server_environment():
        done = subprocess.run(command(script, *arguments), capture_output=True, text=True, timeout=300, **options)
    else:
        done = _run_in_a_fork(command(script, *arguments)[1:])
    assert not check or done.returncode == 0, done.stderr
    return done


def _environment_of_imports():
    return {name: value for name, value in os.environ.items() if name.startswith(script_server.PREFIXES)}


@functools.cache
def _server_environment():
    return _environment_of_imports()


@functools.cache
def _server():
    """Starts a process that forks scripts; it ends with this one, when its connection closes."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        program = [sys.executable, script_server.__file__, str(theirs.fileno())]
        process = subprocess.Popen(program, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    ours.settimeout(300)
    return ours, process


def _run_in_a_fork(arguments):
    connection, _ = _server()
    request = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as stdout, tempfile.TemporaryFile("w+", encoding="utf-8") as stderr:
        socket.send_fds(connection, [json.dumps(request).encode()], [stdout.fileno(), stderr.fileno()])
        pid = int(connection.recv(100))
        try:
            status = int(connection.recv(100))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            connection.recv(100)
            raise
        for file in (stdout, stderr):
            file.seek(0)
        return subprocess.CompletedProcess(arguments, status, stdout.read(), stderr.read())


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
    complete = [folder for folder in (Path(out) / "checkpoints").iterdir() if folder.name.isdecimal()]  # not what a kill left
    last = max(complete, key=lambda folder: int(folder.name))
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
