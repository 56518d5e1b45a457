"""Sweeps through the script: the table, kills, added members, devices, processes, bad input."""

import csv
import fcntl
import itertools
import json
import os
import shlex
import signal
import socket
import struct
import subprocess
import termios
import time

import pytest
from scripts import assert_same_sweep, command, curves, rows, run, start

QUICK = ("--hidden", 16, "--latent-dim", 3, "--epochs", 3, "--no-report")
BETAS = ("--betas", 0.5, 4, "--seeds", 0, 1)
# Long enough to be killed in the middle: about ten seconds of training after the start.
LONG = ("--hidden", 64, "--latent-dim", 3, "--batch-size", 16, "--epochs", 60, "--no-report", "--checkpoint-seconds", 0)


def sweep(out, *arguments, **options):
    return run("sweep.py", "--out", out, *arguments, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "four"
    sweep(out, *QUICK, *BETAS, "--devices", 1)
    return out


def test_the_directory_has_what_scripts_rely_on(finished):
    with (finished / "results.csv").open() as file:
        header = next(csv.reader(file))
    assert [name for name in header if name != "group"][:8] == [
        "member", "beta", "seed", "learning_rate", "status", "test_elbo", "test_log_likelihood", "test_kl",
    ]  # fmt: skip
    assert {"rate", "distortion", "active_units", "test_bits_per_dim", "wall_seconds"} <= set(header)
    assert [(r["member"], r["beta"], r["seed"], r["status"]) for r in rows(finished)] == [
        ("0", "0.5", "0", "finished"),
        ("1", "0.5", "1", "finished"),
        ("2", "4.0", "0", "finished"),
        ("3", "4.0", "1", "finished"),
    ]
    summary = json.loads((finished / "summary.json").read_text())
    assert (summary["status"], summary["members"], summary["diverged"]) == ("finished", 4, [])
    assert [(point["beta"], point["rate"]["n"]) for point in summary["points"]] == [(0.5, 2), (4.0, 2)]
    assert len(curves(finished).splitlines()) == 1 + 4 * 3


@pytest.mark.slow
def test_a_row_is_the_run_of_train(finished, tmp_path):
    run("train.py", "--out", tmp_path / "run", *QUICK, "--beta", 4, "--seed", 1)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    row = rows(finished)[3]
    for name in ("test_elbo", "test_log_likelihood", "test_kl", "test_elbo_standard_error", "test_bits_per_dim"):
        assert float(row[name]) == summary[name]


@pytest.mark.slow
def test_members_are_added_and_none_is_repeated(finished, tmp_path):
    out = tmp_path / "more"
    sweep(out, *QUICK, "--betas", 0.5, "--seeds", 0, 1, "--devices", 1)
    before = {path: path.stat().st_mtime_ns for path in (out / "blocks" / "0000").iterdir()}
    done = sweep(out, "--resume", "--betas", 4)  # the seeds and all else come from the directory
    assert "2 members" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (out / "blocks" / "0000").iterdir()} == before
    assert_same_sweep(finished, out)
    again = sweep(out, "--resume")  # nothing is left to do
    assert "members, 3 epochs" not in again.stdout
    assert_same_sweep(finished, out)


@pytest.mark.slow
def test_a_diverging_member_leaves_the_others_rows_as_they_are(finished, tmp_path):
    points = tmp_path / "points.csv"
    points.write_text("beta,learning_rate,seed\n0.5,1e-3,0\n0.5,1e-3,1\n1,1e3,0\n4,1e-3,0\n4,1e-3,1\n")
    done = sweep(tmp_path / "out", *QUICK, "--points", points, "--devices", 1)
    table = rows(tmp_path / "out")
    assert table[2]["status"].startswith("diverged at step ")
    assert table[2]["test_elbo"] == ""
    others = [{name: value for name, value in row.items() if name != "member"} for row in (*table[:2], *table[3:])]
    assert others == [{name: value for name, value in row.items() if name != "member"} for row in rows(finished)]
    assert "member 2 (diverged at step" in done.stderr
    explained = run("postmortem.py", tmp_path / "out", "--member", 2)
    assert f"{table[2]['status'].removeprefix('diverged at ')} (epoch 1), learning_rate 1000, beta 1, " in explained.stdout
    assert "first not finite: " in explained.stdout
    for flags in ((), ("--member", 1)):
        refused = run("postmortem.py", tmp_path / "out", *flags, check=False)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert "--member: expected one that diverged, 2, got" in refused.stderr


@pytest.mark.parametrize(
    "layout", [("--devices", 2), pytest.param(("--devices", 8), marks=pytest.mark.slow)], ids=["2 devices", "8 devices"]
)
@pytest.mark.slow
def test_devices_change_no_bit_of_the_table(finished, tmp_path, layout):
    sweep(tmp_path / "out", *QUICK, *BETAS, *layout)
    assert_same_sweep(finished, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "tolerance"),
    [
        (("--devices", 2, "--data-parallel", 2), 1e-5),
        (("--devices", 4, "--data-parallel", 2), 1e-5),
        (("--devices", 2, "--strategy", "vmap"), 1e-3),
        (("--strategy", "vmap", "--chunk", 3), 1e-3),
    ],
    ids=["shared batches", "both axes", "vmap", "vmap in chunks"],
)
def test_other_layouts_agree(finished, tmp_path, layout, tolerance):
    sweep(tmp_path / "out", *QUICK, *BETAS, *layout)
    for one, other in zip(rows(finished), rows(tmp_path / "out"), strict=True):
        assert float(other["test_elbo"]) == pytest.approx(float(one["test_elbo"]), rel=tolerance)
        assert float(other["test_kl"]) == pytest.approx(float(one["test_kl"]), rel=10 * tolerance)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "sweep"
    sweep(out, *LONG, *BETAS, "--devices", 1)
    return out


def wait_for_checkpoints(out, count, processes):
    """Until so many blocks have one, and then a moment longer, into the writing of the next."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and all(process.poll() is None for process in processes):
        if len({path.parent for path in out.glob("blocks/*/checkpoints/[0-9]*")}) >= count:
            break
        time.sleep(0.05)
    time.sleep(0.7)


@pytest.mark.slow
def test_killed_in_the_middle_and_resumed_the_table_is_the_same(undisturbed, tmp_path):
    out = tmp_path / "killed"
    process = start("sweep.py", "--out", out, *LONG, *BETAS, "--devices", 1)
    wait_for_checkpoints(out, 1, [process])
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "results.csv").exists()
    done = sweep(out, "--resume")
    assert "resuming after epoch" in done.stdout
    assert_same_sweep(undisturbed, out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "layout"),
    [(signal.SIGINT, ("--devices", 1)), (signal.SIGTERM, ("--devices", 2, "--data-parallel", 2))],
    ids=["Ctrl-C", "SIGTERM, shared batches"],
)
def test_interrupted_it_saves_and_says_how_to_go_on(undisturbed, tmp_path, number, layout):
    """By the command that it prints, with the bits of the layout that it began with."""
    alone, out = undisturbed, tmp_path / "inter rupted"
    if "--data-parallel" in layout:
        alone = tmp_path / "alone"
        sweep(alone, *LONG, *BETAS, *layout)
    process = start("sweep.py", "--out", out, *LONG, *BETAS, *layout)
    wait_for_checkpoints(out, 1, [process])
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in stderr
    command = shlex.split(stdout[stdout.index("continue with:") :].splitlines()[1])
    assert "--resume" in command
    subprocess.run([*command, "--no-report"], check=True, capture_output=True, timeout=300)
    assert_same_sweep(alone, out)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_two(out, *arguments, second=None):
    """The two processes of a sweep; `second` are the arguments of process 1 where they differ."""
    address = f"127.0.0.1:{free_port()}"
    return [
        start(
            "sweep.py", "--out", out, *chosen, "--coordinator", address, "--num-processes", 2, "--process-id", i, "--devices", 1
        )
        for i, chosen in enumerate((arguments, second or arguments))
    ]


def outcome(process):
    stdout, stderr = process.communicate(timeout=180)
    return process.returncode, stdout, stderr


@pytest.mark.slow
def test_two_processes_make_the_same_table(undisturbed, tmp_path):
    out = tmp_path / "two"
    for status, _, stderr in map(outcome, start_two(out, *LONG, *BETAS)):
        assert status == 0, stderr
    assert len(list(out.glob("blocks/*"))) == 2  # each wrote its own
    assert_same_sweep(undisturbed, out)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_processes_killed(undisturbed, tmp_path, victim):
    out = tmp_path / "two"
    processes = start_two(out, *LONG, *BETAS)
    wait_for_checkpoints(out, 2, processes)
    processes[victim].send_signal(signal.SIGKILL)
    began = time.monotonic()
    status, _, stderr = outcome(processes[1 - victim])
    processes[victim].communicate(timeout=60)
    assert time.monotonic() - began < 60
    assert status == 1
    assert [line for line in stderr.splitlines() if line.startswith("error: ")] == stderr.splitlines()[-1:]
    assert "another process of the sweep died" in stderr
    assert "--resume" in stderr
    for status, _, stderr in map(outcome, start_two(out, "--resume")):
        assert status == 0, stderr
    assert_same_sweep(undisturbed, out)


@pytest.mark.slow
def test_one_process_finishes_what_two_began(undisturbed, tmp_path):
    out = tmp_path / "two"
    processes = start_two(out, *LONG, *BETAS)
    wait_for_checkpoints(out, 2, processes)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.communicate(timeout=60)
    sweep(out, "--resume")
    assert_same_sweep(undisturbed, out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (("--betas", 1, 2), ("--betas", 1, 3), "a different configuration from process 0 (arguments.betas.1: 3.0, not 2.0)"),
        pytest.param(("--betas", 1), None, "at most one process a member, got 2 for 1", marks=pytest.mark.slow),
    ],
    ids=["different configurations", "more processes than members"],
)
def test_processes_that_do_not_fit_together_are_refused(tmp_path, first, second, message):
    out = tmp_path / "out"
    for status, _, stderr in map(outcome, start_two(out, *first, second=second)):
        assert status == 2, stderr
        assert message in stderr
        assert len(stderr.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize("process_id", [0, 1])
@pytest.mark.slow
def test_a_missing_process_is_waited_for_and_named(tmp_path, process_id):
    join = ("--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", 2, "--process-id", process_id)
    done = sweep(tmp_path / "out", *BETAS, *join, "--coordinator-timeout", 2, check=False)
    assert done.returncode == 2
    assert "within 2 s" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


BAD = [
    (("--betas",), "--betas: expected at least one value"),
    (("--betas", 1, 1), "members 0 and 1 are the same run"),
    (("--betas", -1), "--beta: expected a number >= 0, got -1"),
    (("--betas", 1, "nan"), "--beta: expected a number >= 0, got nan"),
    (("--over", "betas=1,2"), "unknown setting to sweep 'betas'. Did you mean 'beta'"),
    (("--over", "latent_dim=2,4"), "latent_dim is static"),
    (("--groups", "beta=1,2"), "beta is traced"),
    (("--groups", "dataset=mnist,digits"), "dataset cannot be swept"),
    (("--over", "beta"), "expected NAME=VALUE"),
    (("--betas", 1, "--over", "beta=2"), "beta is swept twice"),
    (("--betas", 1, "--ranges", "beta=1:2"), "beta is swept twice"),
    (("--ranges", "beta=2:1"), "expected low < high"),
    (("--ranges", "beta=1:2", "beta=3:4"), "expected each name once"),
    (("--ranges", "beta=1:2", "--num-points", 10**12), "at most 100,000 members"),
    (("--ranges", "beta=1:2", "--design", "random", "--design-seed", -1), "--design-seed: expected a whole number >= 0"),
    (("--betas", 1, "--design", "sobol"), "place members in --ranges"),
    (("--betas", 1, "--likelihood", "gaussian", "--groups", "scale=1,1.0"), "members 0 and 1 are the same run"),
    (("--betas", 1, "--coordinator-timeout", "nan"), "--coordinator-timeout: expected seconds >= 0"),
    (("--points", "nowhere.csv"), "cannot be read as CSV"),
    ((), "nothing to sweep"),
    (("--betas", 1, "--chunk", 2), "--chunk: expected --strategy vmap"),
    (("--betas", 1, "--devices", 0), "--devices: expected a whole number"),
    (("--betas", 1, "--data-parallel", 7), "--data-parallel: expected a divisor"),
    (("--betas", 1, "--num-processes", 2), "belong together"),
    (("--betas", 1, "--coordinator", "nowhere", "--num-processes", 2, "--process-id", 1), "expected HOST:PORT"),
    (("--betas", 1, "--coordinator", "a:1", "--num-processes", 2, "--process-id", 2), "expected a number below"),
    (("--betas", 1, "--likelihood", "gausian"), "Did you mean 'gaussian'"),
    (("--groups", "likelihood=bernoulli,gausian"), "Did you mean 'gaussian'"),
    (("--betas", 1, "--beta-warmup-steps", 10**6), "would not end within the run"),
]


POINTS = {
    "a name twice": (b"beta,beta\n1,2\n", (), "expected each name once in the header, got beta, beta"),
    "a value twice": (b"beta\n3\n4\n", ("--betas", 1), "--points: beta is swept twice"),
    "a cell too many": (b"beta\n3,4\n", (), "line 2 has a different number of values from the header"),
    "no text": (b"\xff\xfeb\0", (), "cannot be read as CSV"),
    "nothing": (b"", (), "expected a header of names"),
    "a pipe": (None, (), "cannot be read as CSV: it is not a regular file"),
}


@pytest.mark.parametrize(("content", "flags", "message"), POINTS.values(), ids=POINTS)
def test_lists_of_members_that_are_none(content, flags, message, script, tmp_path):
    if content is None:
        os.mkfifo(tmp_path / "points.csv")
    else:
        (tmp_path / "points.csv").write_bytes(content)
    status, stderr = script("sweep", "--points", tmp_path / "points.csv", *flags, "--out", tmp_path / "out")
    assert (status, stderr.count("\n")) == (2, 1), stderr
    assert message in stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(map(str, arguments)) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_writes_nothing(script, tmp_path, arguments, message):
    if "--coordinator" in arguments:  # forks, which this process, full of threads, must not
        done = sweep(tmp_path / "out", *arguments, check=False)
        status, stderr = done.returncode, done.stderr
    else:
        status, stderr = script("sweep", "--out", tmp_path / "out", *arguments)
    assert status == 2
    assert message in stderr
    assert len(stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_directory_that_is_no_sweep_is_left_alone(script, finished, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for arguments, message in (
        (("--out", tmp_path), "exists and is not empty"),
        (("--out", tmp_path, "--resume"), "not a sweep directory"),
        (("--out", tmp_path / "notes.txt" / "x"), "cannot be written"),
        (("--out", finished), "exists and is not empty"),
        (("--out", finished, "--resume", "--strategy", "map", "--test-seed", 1), "test_seed = 0, not 1"),
    ):
        status, stderr = script("sweep", *BETAS, *arguments)
        assert (status, message in stderr, len(stderr.splitlines())) == (2, True, 1), stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_thirty_members_in_under_three_minutes(tmp_path):
    """The acceptance command itself, with its report; rate falls and distortion rises with beta within the intervals."""
    betas = (0.25, 0.5, 1, 2, 4, 8)
    began = time.monotonic()
    run("sweep.py", "--dataset", "digits", "--betas", *betas, "--seeds", *range(5), "--out", tmp_path / "sweep")
    assert time.monotonic() - began < 180
    points = json.loads((tmp_path / "sweep" / "summary.json").read_text())["points"]
    assert [point["beta"] for point in points] == list(betas)
    for lower, higher in itertools.pairwise(points):
        assert higher["rate"]["low"] <= lower["rate"]["high"]
        assert higher["distortion"]["high"] >= lower["distortion"]["low"]
    # and clearly so over the whole range, where the curve is not yet flat
    assert points[0]["rate"]["low"] > points[2]["rate"]["high"] > points[4]["rate"]["high"]
    assert (tmp_path / "sweep" / "rate_distortion.png").stat().st_size > 10_000
    assert (tmp_path / "sweep" / "report.html").stat().st_size > 100_000


@pytest.mark.slow
def test_a_bar_is_drawn_on_a_terminal(tmp_path):
    """Members per second and the time left, on a pseudo-terminal."""
    parent, child = os.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    process = subprocess.Popen(
        command("sweep.py", "--out", tmp_path / "out", *QUICK, "--betas", 1, 2),
        stdout=subprocess.DEVNULL,
        stderr=child,
    )
    os.close(child)
    seen = b""
    try:
        while chunk := os.read(parent, 4096):
            seen += chunk
    except OSError:  # the other side has ended
        pass
    assert process.wait(timeout=60) == 0
    assert b"members/s" in seen
    assert b"6/6" in seen
