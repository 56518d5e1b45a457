"""Sources of data that cannot be read, and messages that say why."""

import os
import struct

import numpy as np
import pytest
from PIL import Image
from sources import write_idx

from vae_jax import data
from vae_jax.errors import UserError


def _bad(tmp_path, name):
    """Writes one bad source and returns what to load."""
    path = tmp_path / f"{name}.npy"
    array = np.zeros((10, 2, 2))
    if name == "nan":
        array[3, 1, 1] = np.nan
    elif name == "axes":
        array = np.zeros((10, 2, 2, 2, 2))
    elif name == "pickled":
        array = np.array([{"a": 1}, {}], dtype=object)
    elif name == "empty":
        array = np.zeros((0, 2, 2))
    elif name == "levels":
        array = np.full((10, 2, 2), 2**31)
    elif name == "labels":
        path = tmp_path / "labels.npz"
        np.savez(path, x_train=array, y_train=np.arange(9))
        return str(path)
    elif name == "text":
        array = np.full((10, 2, 2), "x")
    np.save(path, array, allow_pickle=True)
    if name == "truncated":
        path.write_bytes(path.read_bytes()[:150])
    if name in ("emptyfolder", "damagedidx", "notidx", "sizes", "notimage"):
        path = tmp_path / name
        path.mkdir()
    if name == "damagedidx":
        (path / "train-images-idx3-ubyte").write_bytes(struct.pack(">HBBIII", 0, 8, 3, 4, 2, 2) + b"\0" * 9)
    if name == "notidx":
        (path / "train-images-idx3-ubyte.gz").write_bytes(b"hello")
    if name == "sizes":
        Image.new("L", (3, 3)).save(path / "a.png")
        Image.new("L", (3, 4)).save(path / "b.png")
    if name == "notimage":
        (path / "a.png").write_bytes(b"no picture")
    if name == "noarray":
        path = tmp_path / "x.npz"
        np.savez(path, weights=np.zeros(3))
    if name == "garbage":
        path.write_bytes(b"garbage" * 100)
    if name == "huge":
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999, 28, 28)}"
        path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n")
    if name == "truncatedzip":
        path = tmp_path / "t.npz"
        np.savez(path, x=np.zeros((10, 20, 20)))
        path.write_bytes(path.read_bytes()[:500])
    if name == "hugeidx":
        path = tmp_path / "hugeidx"
        path.mkdir()
        (path / "train-images-idx3-ubyte").write_bytes(struct.pack(">HBBIII", 0, 8, 3, *[2**32 - 1] * 3))
    if name == "loop":
        path = tmp_path / "loop"
        path.mkdir()
        (path / "again").symlink_to(path, target_is_directory=True)
        (path / "a.png").symlink_to(path / "a.png")
    if name == "sixteen":
        path = tmp_path / "sixteen"
        path.mkdir()
        Image.fromarray(np.full((3, 3), 60000, np.uint16)).save(path / "a.png")
        Image.fromarray(np.full((3, 3), 200, np.uint8)).save(path / "b.png")
    if name == "missing":
        path = tmp_path / "nothing.npy"
    if name == "ending":
        path = tmp_path / "x.unknown"
        path.write_text("hello")
    return str(path)


BAD = {
    "nan": "got 1 NaN",
    "axes": r"3 or 4 axes.*\(10, 2, 2, 2, 2\)",
    "pickled": "pickled code",
    "empty": "at least one example",
    "levels": "within the range of int32, got 2147483648",
    "text": "dtype",
    "labels": r"one label for each of 10 examples, got labels of shape \(9,\)",
    "truncated": "not a readable array",
    "emptyfolder": "IDX files, PNG",
    "damagedidx": "expected 16 bytes .* got 9",
    "notidx": "not a readable IDX",
    "sizes": "one size.*a.png.*b.png",
    "notimage": "not a readable image",
    "noarray": r"x_train.*\['weights'\]",
    "missing": "no such file",
    "garbage": "not a readable array",
    "huge": "not a readable array",
    "truncatedzip": "not a readable array",
    "hugeidx": "unpacks to",
    "sixteen": "8 bits per channel",
    "loop": "IDX files, PNG/JPEG images.*, found none among 0 files",
    "ending": r"a file ending in .*\.npy, .*\.npz, ",
}


@pytest.mark.parametrize(("name", "message"), BAD.items(), ids=BAD)
def test_bad_sources_are_refused(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        data.load(_bad(tmp_path, name))


def test_what_unpacks_to_more_than_the_memory_is_refused_before(tmp_path, monkeypatch):
    """A megabyte of zeros in a kilobyte, on a machine of half a megabyte."""
    np.savez_compressed(tmp_path / "bomb.npz", x_train=np.zeros((100, 100, 100), np.uint8))
    assert (tmp_path / "bomb.npz").stat().st_size < 10_000
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", np.zeros((100, 100, 100), np.uint8))
    assert data.load(str(tmp_path / "bomb.npz")).data_shape == (100, 100, 1)
    monkeypatch.setattr(os, "sysconf", lambda name: 724)
    for path in (tmp_path / "bomb.npz", tmp_path):
        with pytest.raises(UserError, match=r"unpacks to 0 GiB, and this machine has 0 GiB of memory.*`stream=True`"):
            data.load(str(path))
