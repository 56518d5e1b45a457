"""Data, settings and checkpoints are never executed; names are escaped; nothing is written elsewhere."""

import io
import json
import os
import pickle
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scripts import run

from vae_jax.storage import cache

SMALL = ("--hidden", 8, "--latent-dim", 2, "--batch-size", 16, "--epochs", 1)


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.fixture
def marker(tmp_path):
    """The payload's file; it must not exist at the end."""
    path = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(path)))
    assert path.exists()  # the payload works
    path.unlink()
    yield path
    assert not path.exists()


def test_data_files_with_code_in_them(marker, script, tmp_path):
    code = np.array([Payload(marker)], dtype=object)
    np.save(tmp_path / "a.npy", code)
    np.savez(tmp_path / "b.npz", x_train=code)
    np.savez(tmp_path / "c.npz", x_train=np.zeros((9, 4, 4), np.uint8), y_train=code)
    (tmp_path / "d.npy").write_bytes(pickle.dumps(Payload(marker)))
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        archive.writestr("x_train.npy", pickle.dumps(Payload(marker)))
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "b.jpg"):
        (images / name).write_bytes(pickle.dumps(Payload(marker)))
    idx = tmp_path / "idx"
    idx.mkdir()
    (idx / "train-images-idx3-ubyte").write_bytes(pickle.dumps(Payload(marker)))
    # A header is an expression that NumPy parses; it must not be evaluated.
    call = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({call}, 2)}}\n".encode()
    (tmp_path / "f.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    for path in (*sorted(tmp_path.glob("?.np?")), images, idx):
        status, stderr = script("train", *SMALL, "--dataset", path, "--out", tmp_path / "run", "--no-report")
        assert (status, stderr.count("\n")) == (2, 1), (path, stderr)
        assert not (tmp_path / "run").exists()


def test_a_picture_in_a_language_of_programs(script, tmp_path, monkeypatch):
    """PostScript under the name of a PNG: Pillow would call Ghostscript."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    status, stderr = script("train", *SMALL, "--dataset", tmp_path / "images", "--out", tmp_path / "run")
    assert (status, stderr.count("\n")) == (2, 1)
    assert "a.png: not a readable image" in stderr
    assert not (tmp_path / "called").exists()


def test_settings_with_code_in_them(marker, script, tmp_path):
    call = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    for flags in (
        ("--likelihood", call),
        ("--scale", call),
        ("--activation", call),
        ("--hidden", call),
        ("--dataset", call),
        ("--dispersion", call),
        ("--optimizer", call),
    ):
        assert script("train", *SMALL, *flags, "--out", tmp_path / "new")[0] == 2
    points = tmp_path / "points.csv"
    points.write_text(f'beta,seed\n"{call}",0\n')
    assert script("sweep", *SMALL, "--points", points, "--out", tmp_path / "new")[0] == 2
    assert script("sweep", *SMALL, "--over", f"beta={call}", "--out", tmp_path / "new")[0] == 2


def test_compiled_programs_are_kept_where_nobody_else_writes(tmp_path, monkeypatch):
    """Of a user without a home, as in many containers; programs from the cache are run."""
    for name in ("VAE_JAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cache._temporary_cache.cache_clear()
    folder = cache.cache_dir()
    assert (folder.parent, folder.stat().st_mode & 0o777) == (tmp_path, 0o700)
    assert cache.cache_dir() == folder
    cache._temporary_cache.cache_clear()


@pytest.mark.slow
def test_run_directories_with_code_in_them(marker, script, tmp_path):
    whole = tmp_path / "run"
    assert script("train", *SMALL, "--no-report", "--out", whole)[0] == 0
    for path in sorted(path for path in whole.rglob("*") if path.is_file() and path.name != ".lock"):
        copy = shutil.copytree(whole, tmp_path / "copy")
        (copy / path.relative_to(whole)).write_bytes(pickle.dumps(Payload(marker)))
        assert script("evaluate", copy, "--num-samples", 2)[0] in (0, 2), path
        shutil.rmtree(copy)
    config = json.loads((whole / "config.json").read_text())
    for name in ("likelihood", "activation", "dataset", "optimizer", "network"):
        copy = shutil.copytree(whole, tmp_path / "copy")
        changed = {**config, "config": {**config["config"], name: f"__import__('pathlib').Path({str(marker)!r}).touch()"}}
        (copy / "config.json").write_text(json.dumps(changed))
        assert script("evaluate", copy, "--num-samples", 2)[0] == 2
        shutil.rmtree(copy)


@pytest.mark.slow
def test_the_report_escapes_names_and_nothing_is_written_elsewhere(tmp_path):
    """A data set with HTML in its name; the run in an empty home, an empty working folder."""
    name = '<script>alert("1")</script><b>'.replace("/", "_") + ".npy"
    for folder in ("home", "work", "tmp", "cache", "data"):
        (tmp_path / folder).mkdir()
    content = io.BytesIO()
    np.save(content, np.random.default_rng(0).integers(0, 256, (60, 6, 6), dtype=np.uint8))
    (tmp_path / "data" / name).write_bytes(content.getvalue())
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "MPL"))},
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "VAE_JAX_CACHE": str(tmp_path / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    flags = (*SMALL, "--dataset", tmp_path / "data" / name, "--out", tmp_path / "out")
    run("train.py", *flags, env=environment, cwd=tmp_path / "work")
    run("evaluate.py", tmp_path / "out", "--num-samples", 2, env=environment, cwd=tmp_path / "work")
    run("report.py", tmp_path / "out", env=environment, cwd=tmp_path / "work")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    elsewhere = {path for path in written if path.parts[0] not in ("out", "cache", "data")}
    assert not [path for path in elsewhere if path.parts[:2] != ("home", ".cache")], elsewhere  # Matplotlib's fonts
