"""Decoded pictures in the cache folder: when they count, what they hold, and what is left when something fails."""

import errno
import json
import os
import shutil
import signal
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sources import write_pictures

from vae_jax import data
from vae_jax.data.on_disk import Rows
from vae_jax.data.readers import picture_cache, picture_decoding
from vae_jax.data.readers.paths import read_path
from vae_jax.data.readers.registry import ReadOptions
from vae_jax.errors import DataWarning, UserError

LEVELS = {f"{i}.png": 20 * (i + 1) for i in range(10)}
LAST = {"split": "last", "resize": (3, 4)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pictures"


@pytest.fixture
def decoded_files(monkeypatch):
    """The names of the files that were decoded."""
    files, decode = [], picture_decoding.decode

    def record(source, name, options):
        files.append(source.name)
        return decode(source, name, options)

    monkeypatch.setattr(picture_decoding, "decode", record)
    return files


def levels(got):
    return [int(level) for level in [*got.train[:][:, 0, 0, 0], *got.test[:, 0, 0, 0]]]


def entries(cache):
    """Names of everything in the cache but the locks."""
    return [path.name for path in cache.iterdir() if path.suffix != ".lock"] if cache.exists() else []


# When the cache counts


def test_pictures_are_decoded_once(tmp_path, cache, decoded_files, monkeypatch):
    path = write_pictures(tmp_path / "a", LEVELS)
    first = data.load(path, **LAST)
    assert (sorted(decoded_files), levels(first)) == (sorted(LEVELS), list(LEVELS.values()))
    second = data.load(path, **LAST)
    assert len(decoded_files) == 10
    assert second.fingerprint() == first.fingerprint()
    for folder, name in ((tmp_path, "a"), (tmp_path, "./a/"), (tmp_path / "a", ".")):
        monkeypatch.chdir(folder)
        assert data.load(name, **LAST).fingerprint() == first.fingerprint()
    assert len(decoded_files) == 10
    [entry] = entries(cache)
    np.testing.assert_array_equal(np.load(cache / entry / "images.npy"), np.concatenate([first.train, first.test])[..., 0])


def _replace_in_place(folder):
    """With the size and the time of the last change of the file that was there."""
    before = (folder / "3.png").stat()
    write_pictures(folder, {"3.png": 90})
    content = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(content + b"\0" * (before.st_size - len(content)))
    os.utime(folder / "3.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (folder / "3.png").stat().st_size == before.st_size


CHANGES = {
    "added": (lambda folder: write_pictures(folder, {"10.png": 5}), [*LEVELS.values(), 5]),
    "removed": (lambda folder: (folder / "9.png").unlink(), list(LEVELS.values())[:9]),
    "renamed": (lambda folder: (folder / "0.png").rename(folder / "99.png"), [*list(LEVELS.values())[1:], 20]),
    "written anew": (lambda folder: write_pictures(folder, {"3.png": 90}), [20, 40, 60, 90, *range(100, 201, 20)]),
    "replaced in place": (_replace_in_place, [20, 40, 60, 90, *range(100, 201, 20)]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_folder_is_decoded_again_and_replaces_its_earlier_state(tmp_path, cache, change):
    path = write_pictures(tmp_path / "a", LEVELS | {"3.png": 80 * np.eye(3, 4, dtype=np.uint8) + 40})
    write_pictures(tmp_path / "a", {"3.png": 80})
    if change == "replaced in place":
        write_pictures(tmp_path / "a", {"3.png": np.random.default_rng(0).integers(0, 256, (3, 4), dtype=np.uint8)})
    data.load(path, **LAST)
    [before] = entries(cache)
    apply, expected = CHANGES[change]
    apply(tmp_path / "a")
    assert levels(data.load(path, **LAST)) == expected
    [after] = entries(cache)
    assert after != before


def test_each_set_of_options_and_each_folder_has_an_entry(tmp_path, cache):
    path = write_pictures(tmp_path / "a", LEVELS)
    for options in ({"resize": (3, 4)}, {"crop": 2}, {"crop": 2, "resize": 2}, {"resize": (3, 4), "transpose": True}):
        try:
            data.load(path, **options)
        except DataWarning:  # that pictures are stretched
            continue
    assert len(entries(cache)) == 4
    shutil.copytree(path, tmp_path / "b" / "a")  # with the same times
    data.load(tmp_path / "b" / "a", crop=2)
    assert len(entries(cache)) == 5


def test_small_folders_have_no_entry_and_large_ones_do(tmp_path, cache, monkeypatch, decoded_files):
    path = write_pictures(tmp_path / "a", LEVELS)
    plain = data.load(path)
    assert entries(cache) == []
    for limit in ({"_MANY": 9}, {"_LARGE": 119}):
        shutil.rmtree(cache, ignore_errors=True)
        for name, value in limit.items():
            monkeypatch.setattr(picture_cache, name, value)
        assert data.load(path).fingerprint() == plain.fingerprint()
        assert len(entries(cache)) == 1
        monkeypatch.undo()
        monkeypatch.setenv("VAE_JAX_CACHE", str(cache.parent))
    assert data.load(path).fingerprint() == plain.fingerprint()  # an entry that exists is read


@pytest.mark.parametrize("damage", ["images", "short", "notes", "shape", "no notes"])
def test_a_damaged_entry_is_decoded_again(tmp_path, cache, damage):
    path = write_pictures(tmp_path / "a", LEVELS)
    expected = data.load(path, **LAST).fingerprint()
    [entry] = entries(cache)
    images, notes = cache / entry / "images.npy", cache / entry / "pictures.json"
    if damage == "images":
        images.write_bytes(b"\0" * images.stat().st_size)
    elif damage == "short":
        os.truncate(images, images.stat().st_size - 1)
    elif damage == "shape":
        notes.write_text(json.dumps(json.loads(notes.read_text()) | {"shape": [11, 3, 4]}))
    elif damage == "notes":
        notes.write_text("[]")
    else:
        notes.unlink()
    assert data.load(path, **LAST).fingerprint() == expected
    assert entries(cache) == [entry]
    np.load(images)


def test_notes_are_the_same_from_the_cache(tmp_path, decoded_files):
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 3
    folder = tmp_path / "a"
    write_pictures(folder, {"0.png": rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), "1.png": 200, "2.png": 100})
    Image.fromarray(rng.integers(0, 255, (6, 6, 4), dtype=np.uint8)).save(folder / "3.png")
    Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).save(folder / "4.png", exif=exif)
    frames = [Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)) for _ in range(2)]
    frames[0].save(folder / "5.png", save_all=True, append_images=frames[1:])
    notes = []
    for _ in range(2):
        with pytest.warns(DataWarning) as caught:
            got = data.load(folder, resize=4)
        assert got.notes == tuple(str(warning.message) for warning in caught)
        notes.append(got.notes)
    assert notes[0] == notes[1]
    assert len(decoded_files) == 6
    for note, text in zip(
        notes[0],
        (
            "1 of 6 pictures had transparent pixels and were composited on black (the first: 3.png)",
            "1 of 6 pictures were turned upright as their EXIF orientation says (the first: 4.png)",
            "1 of 6 pictures are animated, and only the first frame is used (the first: 5.png)",
            "2 of 6 pictures are gray and got three equal channels, because others such as 0.png have color (the first: 1.png)",
            "2 of 6 pictures were stretched to other proportions",
        ),
        strict=True,
    ):
        assert text in note


# Streaming and memory


@pytest.mark.parametrize("options", [{}, {"split": "last"}, {"validation_fraction": 0.25}, {"crop": 2}])
@pytest.mark.parametrize("prefix", [("", ""), ("train/", "test/")])
def test_streamed_pictures_are_those_in_memory(tmp_path, options, prefix):
    rng = np.random.default_rng(0)
    pixels = {f"{prefix[i > 8]}{i}.png": rng.integers(0, 256, (3, 4, 3), dtype=np.uint8) for i in range(12)}
    path = write_pictures(tmp_path / "a", pixels)
    if prefix[0]:
        options = {name: value for name, value in options.items() if name != "split"}
    streamed, in_memory = data.load(path, stream=True, **options), data.load(path, **options)
    assert isinstance(streamed.train, Rows)
    assert isinstance(in_memory.train, np.ndarray)
    for part in ("train", "validation", "test"):
        if getattr(in_memory, part) is not None:
            np.testing.assert_array_equal(getattr(streamed, part)[:], getattr(in_memory, part))
    assert streamed.fingerprint() == in_memory.fingerprint()
    in_memory.train[0] = 0  # not the file in the cache, which may only be read
    assert data.load(path, **options).fingerprint() == streamed.fingerprint()


def test_memory_holds_a_few_groups_of_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_decoding, "_num_cores", lambda: 2)
    rng = np.random.default_rng(0)
    count = 800
    names = [f"train/{i}.png" for i in range(count)] + ["test/0.png"]
    path = write_pictures(tmp_path / "a", {name: rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for name in names})
    data.load(path, crop=8)  # imports
    tracemalloc.start()
    got = read_path(Path(path), stream=True, options=ReadOptions(resize=(96, 96)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got.train.size == count * 96 * 96 * 3
    assert peak < got.train.size / 2


def test_pictures_that_do_not_fit_into_memory_are_refused_before_they_are_decoded(tmp_path, monkeypatch, decoded_files):
    path = write_pictures(tmp_path / "a", LEVELS)
    monkeypatch.setattr(picture_cache, "memory_size", lambda: 119)
    with pytest.raises(UserError, match=r"10 pictures become .* Pass `stream=True`, which leaves them on disk, or a smaller"):
        data.load(path)
    assert decoded_files == []
    assert levels(data.load(path, stream=True, split="last")) == list(LEVELS.values())
    with pytest.raises(UserError, match="Pass `stream=True`"):  # from the cache too
        data.load(path)
    assert data.load(path, resize=1, split="last", test_fraction=0.5).train.nbytes == 5


# Failures


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage", "bomb"])
def test_a_damaged_picture_is_named_and_nothing_is_left(tmp_path, cache, stream, damage):
    rng = np.random.default_rng(0)
    pixels = {f"{i}.jpg": rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for i in range(100)}
    path = write_pictures(tmp_path / "a", pixels)
    file = tmp_path / "a" / "57.jpg"
    content = file.read_bytes()
    if damage == "bomb":
        size = content.index(b"\xff\xc0") + 5
        content = content[:size] + b"\xff\xff\xff\xff" + content[size + 4 :]
    file.write_bytes({"empty": b"", "truncated": content[: len(content) // 2], "garbage": b"\1" * 99, "bomb": content}[damage])
    for options in ({}, {"resize": 8}):
        with pytest.raises(UserError, match=r"57.jpg: not a readable image"):
            data.load(path, stream=stream, **options)
        assert entries(cache) == []


@pytest.mark.parametrize("installed", [signal.default_int_handler, lambda number, frame: sys.exit(128 + number)])
def test_an_interrupt_leaves_nothing_half_written(tmp_path, cache, monkeypatch, installed):
    """Also where a handler ends the process, as that of the command line does: it finds a clean cache."""
    path = write_pictures(tmp_path / "a", {f"{i}.png": 100 for i in range(300)})
    decode, calls = picture_decoding.decode, []

    def interrupted(source, name, options):
        calls.append(name)
        if len(calls) == 150:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        return decode(source, name, options)

    def handler(number, frame):
        assert entries(cache) == []
        installed(number, frame)

    before = signal.signal(signal.SIGINT, handler)
    with monkeypatch.context() as patch:
        patch.setattr(picture_decoding, "decode", interrupted)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            data.load(path, resize=2)
    assert signal.signal(signal.SIGINT, before) is handler
    assert len(calls) < 300
    assert entries(cache) == []
    assert len(data.load(path, resize=(3, 4)).train) == 240


def test_what_a_killed_process_left_is_removed(tmp_path, cache):
    path = write_pictures(tmp_path / "a", LEVELS)
    data.load(path, **LAST)
    [entry] = entries(cache)
    left = cache / f".{entry.rpartition('-')[0]}.abc"
    (cache / entry).rename(left)
    assert levels(data.load(path, **LAST)) == list(LEVELS.values())
    assert entries(cache) == [entry]


def test_several_starts_at_once_decode_once(tmp_path, cache, decoded_files):
    path = write_pictures(tmp_path / "a", LEVELS)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: levels(data.load(path, **LAST)), range(4)))
    assert results == [list(LEVELS.values())] * 4
    assert len(decoded_files) == 10
    assert len(entries(cache)) == 1


def test_the_cache_may_be_removed_while_its_images_are_used(tmp_path, cache):
    path = write_pictures(tmp_path / "a", LEVELS)
    got = data.load(path, stream=True, **LAST)
    shutil.rmtree(cache.parent)
    assert levels(got) == list(LEVELS.values())
    assert levels(data.load(path, **LAST)) == list(LEVELS.values())


def _no_folder(cache, monkeypatch):
    cache.parent.mkdir()
    cache.write_text("a file in its place")


def _no_room(cache, monkeypatch):
    usage = shutil.disk_usage(cache.parent.parent)._replace(free=1000)
    monkeypatch.setattr(picture_cache.shutil, "disk_usage", lambda path: usage)


def _full(cache, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(picture_cache.os, "fsync", fsync)


def _removed(cache, monkeypatch):
    decode = picture_decoding.decode

    def removing(source, name, options):
        shutil.rmtree(cache, ignore_errors=True)
        return decode(source, name, options)

    monkeypatch.setattr(picture_decoding, "decode", removing)


@pytest.mark.parametrize(
    ("break_cache", "reason"),
    [
        (_no_folder, "File exists"),
        (_no_room, "its disk has 0.0 GiB left"),
        (_full, "No space left on device"),
        (_removed, "No such file or directory"),
    ],
)
def test_without_a_cache_pictures_are_decoded_in_memory_and_cannot_be_streamed(
    tmp_path, cache, monkeypatch, capsys, break_cache, reason
):
    path = write_pictures(tmp_path / "a", LEVELS)
    break_cache(cache, monkeypatch)
    assert levels(data.load(path, **LAST)) == list(LEVELS.values())
    assert f"note: the decoded images could not be cached in {cache}" in (shown := capsys.readouterr().err)
    assert reason in shown
    with pytest.raises(UserError, match=rf"could not be cached .*{reason}.* VAE_JAX_CACHE, or leave out `stream=True`"):
        data.load(path, stream=True, **LAST)
    assert cache.is_file() or entries(cache) == []


def test_a_bar_is_drawn_on_a_terminal_and_a_line_elsewhere_for_many(tmp_path, monkeypatch, capsys):
    path = write_pictures(tmp_path / "a", LEVELS)
    data.load(path)
    assert capsys.readouterr() == ("", "")
    with monkeypatch.context() as patch:
        patch.setattr(picture_decoding, "_MANY", 10)
        data.load(path)
    assert capsys.readouterr().err == f"{path}: decoding 10 pictures, once ...\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    data.load(path)
    assert f"{path}: decoding:   0%|" in capsys.readouterr().err.replace(str(tmp_path / "a"), path)
