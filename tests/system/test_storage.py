"""Full disks, folders that may not be written, damaged files: one line, nothing good lost, and the run goes on where it was."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from scripts import assert_same_run, assert_same_sweep, command, run

SETTINGS = ("--hidden", 64, "--latent-dim", 4, "--batch-size", 256, "--epochs", 3)
SWEEP = ("--betas", 0.5, 4, "--hidden", 64, "--latent-dim", 4, "--batch-size", 256, "--epochs", 3, "--devices", 1)
LIMITED = (
    "import os, resource, sys; limit = int(sys.argv[2]); resource.setrlimit(getattr(resource, sys.argv[1]), (limit, limit)); "
    "os.execv(sys.argv[3], sys.argv[3:])"
)  # a process of its own: a preexec_fn would fork this one, where JAX has threads

ABOVE_CONFIG = "config.json fits, and nothing larger"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run and a sweep, each with two checkpoints."""
    out = tmp_path_factory.mktemp("alone")
    run("train.py", *SETTINGS, "--checkpoint-seconds", 0, "--no-report", "--out", out / "run")
    run("sweep.py", *SWEEP, "--checkpoint-seconds", 0, "--no-report", "--out", out / "sweep")
    return out


def in_bytes(limit, undisturbed):
    """The limit, which may be given by what fits: `config.json` grows with every new setting."""
    return (undisturbed / "run" / "config.json").stat().st_size + 500 if limit == ABOVE_CONFIG else limit


def limited(script, limit, *arguments, resource="RLIMIT_FSIZE"):
    """The script with no file growing over `limit` bytes: what a full disk does, wherever in a write it becomes full."""
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}  # JAX would warn that it cannot write there either
    whole = [sys.executable, "-c", LIMITED, resource, str(limit), *command(script, *arguments)]
    return subprocess.run(whole, capture_output=True, text=True, timeout=300, env=environment)


def assert_one_line(done, status=1):
    assert (done.returncode, done.stderr.count("\n")) == (status, 1), done.stderr
    assert done.stderr.startswith("error: ")


def hidden_files(out):
    return [path for path in out.rglob(".*") if path.name != ".lock"]


@pytest.mark.slow
def test_a_network_that_does_not_fit_into_memory(tmp_path):
    flags = ("--hidden", 1_000_000, 1_000_000, "--out", tmp_path / "run")
    done = limited("train.py", 2**36, *flags, resource="RLIMIT_AS")  # where the system promises more memory than there is
    assert_one_line(done)
    assert done.stderr.startswith("error: out of memory: ")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]  # nothing that a smaller one would have to remove


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "what"),
    [(200, "config.json: File too large"), (ABOVE_CONFIG, "checkpoints: a checkpoint could not be written: File too large"),
     (20_000, "checkpoints: a checkpoint could not be written: File too large"), (200_000, "report.html: File too large")],
)  # fmt: skip
def test_a_full_disk_and_then_room_again(limit, what, undisturbed, tmp_path):
    flags = (*SETTINGS, "--checkpoint-seconds", 0, "--no-compilation-cache", "--out", tmp_path / "run")
    done = limited("train.py", in_bytes(limit, undisturbed), *flags)
    assert_one_line(done)
    assert done.stderr == f"error: {tmp_path / 'run'}/{what}\n"
    assert not hidden_files(tmp_path / "run")
    run("train.py", *flags, "--resume", "--no-report")
    assert_same_run(undisturbed / "run", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "limit", "flags"), [("train", ABOVE_CONFIG, SETTINGS), ("sweep", 20_000, SWEEP)])
def test_a_full_disk_at_the_only_checkpoint(name, limit, flags, undisturbed, tmp_path):
    flags = (*flags, "--epochs", 1, "--no-compilation-cache", "--out", tmp_path / "out")
    done = limited(f"{name}.py", in_bytes(limit, undisturbed), *flags)
    assert_one_line(done)
    assert "checkpoints: a checkpoint could not be written: File too large" in done.stderr


@pytest.mark.slow
def test_no_room_for_the_folder_of_a_checkpoint(undisturbed, tmp_path):
    """Orbax's threads wait for it for ever; the process ends all the same."""
    out = shutil.copytree(undisturbed / "run", tmp_path / "run")
    shutil.rmtree(out / "checkpoints")
    (out / "checkpoints").touch()
    assert_one_line(run("train.py", "--out", out, "--resume", "--no-report", check=False))


@pytest.mark.slow
@pytest.mark.parametrize("limit", [200, 20_000, 100_000])
def test_a_full_disk_below_a_sweep(limit, undisturbed, tmp_path):
    flags = (*SWEEP, "--checkpoint-seconds", 0, "--no-compilation-cache", "--out", tmp_path / "sweep")
    assert_one_line(limited("sweep.py", limit, *flags))
    run("sweep.py", *flags, "--resume", "--no-report")
    assert_same_sweep(undisturbed / "sweep", tmp_path / "sweep")


@pytest.mark.slow
def test_what_was_evaluated_before_stays(undisturbed, tmp_path):
    out = shutil.copytree(undisturbed / "run", tmp_path / "run")
    run("evaluate.py", out, "--num-samples", 10)
    before = {path: path.read_bytes() for path in out.glob("evaluation.*")}
    assert len(before) == 2
    assert_one_line(limited("evaluate.py", 500, out, "--num-samples", 20))
    assert {path: path.read_bytes() for path in out.glob("evaluation.*")} == before
    assert not hidden_files(out)


def test_a_folder_that_may_not_be_written(script, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o555)
    places = ["/proc/vae_jax"]  # not even root may
    if not os.access(tmp_path / "closed", os.W_OK):
        places.append(tmp_path / "closed" / "run")
    for place in places:
        for name, flags in (("train", ("--epochs", 1)), ("sweep", ("--betas", 1, "--epochs", 1))):
            status, stderr = script(name, *flags, "--out", place)
            assert (status, stderr.count("\n")) == (2, 1), stderr
            assert f"--out: {place} cannot be written" in stderr


def _flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x80]) + content[middle + 1 :]


DAMAGES = {
    "emptied": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "flipped": _flipped,
    "garbage": lambda content: bytes(range(256)) * 4,
    "other json": lambda content: b'{"a": [1, 2]}\n',
    "removed": None,
}


# A checkpoint has many files, so each is damaged in one way, the next one in the next; `VAE_JAX_DAMAGES=all`: in every way.
ALL = os.environ.get("VAE_JAX_DAMAGES") == "all"


def damaged_copies(whole, place, names):
    """(name of a file, what was done to it, a copy of the directory with that)."""
    for number, name in enumerate(names):
        for damage in [list(DAMAGES)[number % len(DAMAGES)]] if "checkpoints" in name and not ALL else DAMAGES:
            change = DAMAGES[damage]
            copy = shutil.copytree(whole, place / "copy")
            if change is None:
                (copy / name).unlink()
            else:
                (copy / name).write_bytes(change((copy / name).read_bytes()))
            yield name, damage, copy
            shutil.rmtree(copy)


def _files(whole, pattern):
    return sorted(str(path.relative_to(whole)) for path in whole.glob(pattern) if path.is_file() and path.name != ".lock")


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["*", "checkpoints/3/**/*"])
def test_any_damaged_file_of_a_run(pattern, script, tmp_path):
    """Continued as it was, or refused in a line; read as it was, or refused in a line. The other files stay as they are."""
    whole, went_on = tmp_path / "run", 0
    assert script("train", *SETTINGS, "--checkpoint-seconds", 0, "--no-report", "--out", whole)[0] == 0
    for name, damage, copy in damaged_copies(whole, tmp_path, _files(whole, pattern)):
        if "checkpoints" not in name:
            status, stderr = script("evaluate", copy, "--num-samples", 2)
            assert status == 0 or (status, stderr.count("\n")) == (2, 1), (name, damage, stderr)
        status, stderr = script("train", "--out", copy, "--resume", "--no-report")
        assert status == 0 or (status, stderr.count("\n")) == (2, 1), (name, damage, stderr)
        if status == 0:
            went_on += 1
            assert_same_run(whole, copy)
        elif name != "config.json":
            assert json.loads((copy / "config.json").read_text()) == json.loads((whole / "config.json").read_text())
    assert went_on


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["*", "blocks/0000/*", "blocks/0000/checkpoints/3/**/*"])
def test_any_damaged_file_of_a_sweep(pattern, script, tmp_path):
    whole, went_on = tmp_path / "sweep", 0
    assert script("sweep", *SWEEP, "--checkpoint-seconds", 0, "--no-report", "--out", whole)[0] == 0
    for name, damage, copy in damaged_copies(whole, tmp_path, _files(whole, pattern)):
        if "checkpoints" in name:
            (copy / "blocks" / "0000" / "result.json").unlink()  # otherwise nobody reads them
        status, stderr = script("sweep", "--out", copy, "--resume", "--no-report")
        assert status == 0 or (status, stderr.count("\n")) == (2, 1), (name, damage, stderr)
        if status == 0:
            went_on += 1
            assert_same_sweep(whole, copy)
    assert went_on
