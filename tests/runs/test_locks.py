"""One process alone writes a run directory or a sweep directory."""

import json

import pytest

from vae_jax import runs, sweep
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.storage.directories import check_out, exclusive, is_fresh
from vae_jax.sweep.directory import run_sweep

CONFIG = Config(epochs=1, hidden=(8,), latent_dim=2, batch_size=256)


def test_a_second_writer_is_refused_and_changes_nothing(tmp_path):
    built, out = build(CONFIG), tmp_path / "run"
    refused = "another process is writing to"
    with exclusive(out):
        for resume in (False, True):
            with pytest.raises(UserError, match=refused):
                runs.train(built, out, resume=resume)
            with pytest.raises(UserError, match=refused):
                run_sweep(sweep.grid(CONFIG, seed=range(2)), out, resume=resume)
        assert [path.name for path in out.iterdir()] == [".lock"]
        assert is_fresh(out)
    runs.train(built, out)
    before = json.loads((out / "summary.json").read_text())
    with exclusive(out), pytest.raises(UserError, match=refused):
        runs.train(built, out, resume=True)
    assert json.loads((out / "summary.json").read_text()) == before
    runs.load_run(out)
    with exclusive(out):
        runs.load_run(out)  # reading is free


def test_a_writer_that_fails_lets_go(tmp_path):
    def fail(line):
        raise RuntimeError("stop")

    built = build(CONFIG)
    with pytest.raises(RuntimeError):
        runs.train(built, tmp_path / "run", on_epoch=fail)
    runs.train(built, tmp_path / "run", resume=True)


def test_where_the_file_system_has_no_locks_it_goes_without(tmp_path, monkeypatch):
    import filelock

    def cannot(self, *args, **kwargs):
        raise NotImplementedError("no flock here")

    monkeypatch.setattr(filelock.FileLock, "acquire", cannot)
    with exclusive(tmp_path / "a"), exclusive(tmp_path / "a"):
        pass


def test_what_cannot_be_written_is_refused_before(tmp_path):
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "run", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match=r"out: .* cannot be written"), exclusive(out):
            pass
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"exists and is not empty\. Add `resume=True` to continue it"):
        check_out(tmp_path / "mine", False, runs.read_config)
    with pytest.raises(UserError, match="not a run directory"):
        check_out(tmp_path / "mine", True, runs.read_config)
