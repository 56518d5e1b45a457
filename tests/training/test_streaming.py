"""Training images on disk: the same run as in memory, resumed within an epoch, compiled once; every refusal."""

import dataclasses
import gzip
import os
import pathlib
import threading
import time

import chex
import jax
import numpy as np
import pytest

from vae_jax import data, likelihoods, objectives, runs, training
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.data import Rows
from vae_jax.data import prefetch as stream
from vae_jax.data.on_disk import chunks
from vae_jax.data.readers.numpy_files import open_npy
from vae_jax.errors import DivergenceWarning, UserError

SLOW = pytest.mark.slow
COUNT = 250
SMALL = Config(epochs=2, hidden=(16,), latent_dim=2, batch_size=16, learning_rate=3e-3)


@pytest.fixture(autouse=True)
def _three_steps_to_a_chunk(monkeypatch):
    """Of bytes; floats take four times as much, so that a chunk of them is one step."""
    monkeypatch.setattr(stream, "CHUNK_BYTES", 3 * 16 * 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    np.save(folder / "bytes.npy", rng.integers(0, 256, (COUNT, 4, 4), dtype=np.uint8))
    np.save(folder / "floats.npy", rng.normal(2, 3, (COUNT, 4, 4, 1)))
    return folder


def both(folder, name, **settings):
    """The same run on data in memory and on disk, built."""
    config = dataclasses.replace(SMALL, dataset=str(folder / f"{name}.npy"), **settings)
    return [build(dataclasses.replace(config, stream=stream)) for stream in (False, True)]


def fit(built, **options):
    return training.fit(built.vae, built.data, **(built.fit_arguments | options))


def without_seconds(history):
    return [epoch._replace(seconds=0) for epoch in history]


SETTINGS = [
    ("bytes", {"binarize": "dynamic", "split": "random", "validation_fraction": 0.1}),
    pytest.param("floats", {"likelihood": "gaussian", "scale": "shared", "split": "last"}, marks=SLOW),
    pytest.param("bytes", {"binarize": "threshold", "prior": "vamp", "prior_components": 3, "split": "last"}, marks=SLOW),
    pytest.param("floats", {"likelihood": "gaussian", "split": "random", "objective": "beta_tcvae"}, marks=SLOW),
]


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=["dynamic", "floats", "threshold", "objective"])
def test_a_streamed_run_is_the_run_in_memory(folder, name, settings):
    """200 or 180 examples: twelve steps or eleven, so that the last chunk of three is not full, or one step to a chunk.

    The same bits where XLA fuses nothing, as in all tests but the slow ones; else equal up to rounding, which Adam magnifies.
    """
    in_memory, on_disk = both(folder, name, **settings)
    assert isinstance(on_disk.data.train, Rows)
    assert on_disk.dataset.fingerprint() == in_memory.dataset.fingerprint()
    expected, got = fit(in_memory), fit(on_disk)
    ours, theirs = ((fit.progress._replace(history=without_seconds(fit.progress.history))) for fit in (got, expected))
    if jax.config.read("jax_disable_most_optimizations"):
        chex.assert_trees_all_equal(ours, theirs)
    else:
        chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_chunks_have_the_batches_of_the_orders(folder):
    rows = data.load(str(folder / "bytes.npy"), stream=True).train
    rng = np.random.default_rng(1)
    orders = [rng.permutation(len(rows))[:160].reshape(10, 16) for _ in range(2)]
    assert [stream.steps_of_chunk(rows, 16, count) for count in (1, 2, 8)] == [3, 3, 1]
    got = list(stream.chunks(rows, orders, 3, lambda item: item))
    assert [item.shape for item in got] == [(2, 3, 16, 16)] * 4
    for batches, order in zip(np.concatenate(got, axis=1), orders, strict=True):
        np.testing.assert_array_equal(batches[:10], rows[order.ravel()].reshape(10, 16, 16))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool, np.float64, np.float32])
def test_rows_are_what_load_gives_in_memory(tmp_path, dtype):
    """More than one chunk of the scan: values, levels, moments and fingerprint, the same bits."""
    rng = np.random.default_rng(0)
    images = rng.normal(0, 9, (3000, 3, 3)) if np.issubdtype(dtype, np.floating) else rng.integers(0, 2, (3000, 3, 3))
    np.save(tmp_path / "x.npy", images.astype(dtype))
    options = {"validation_fraction": 0.1, "test_fraction": 0.1}
    memory, disk = (data.load(str(tmp_path / "x.npy"), stream=stream, **options) for stream in (False, True))
    assert (disk.train.shape, disk.train.dtype, len(disk.train)) == (memory.train.shape, memory.train.dtype, 2430)
    index = rng.permutation(2430)[:50]
    np.testing.assert_array_equal(disk.train[index], memory.train[index])
    np.testing.assert_array_equal(disk.train[:7], memory.train[:7])
    for part in ("validation", "test"):
        np.testing.assert_array_equal(getattr(disk, part), getattr(memory, part))
    assert len(list(chunks(memory.train))) == 3
    np.testing.assert_array_equal(disk.train_mean, memory.train_mean)
    assert disk.train_std == memory.train_std
    assert (disk.max_level, disk.split) == (memory.max_level, memory.split)
    assert disk.fingerprint() == memory.fingerprint()
    for likelihood in (likelihoods.bernoulli(), likelihoods.poisson(1.0), likelihoods.continuous_bernoulli()):
        messages = []
        for dataset in (memory, disk):
            try:
                data.check_support(dataset, likelihood, "none")
            except UserError as error:
                messages.append(str(error))
        assert len(messages) in (0, 2)
        assert len(set(messages)) <= 1


def test_a_folder_of_raw_idx_files_is_read_from_disk(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 5, 4), dtype=np.uint8)
    head = b"\x00\x00\x08\x03" + b"".join(size.to_bytes(4, "big") for size in images.shape)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(head + images.tobytes())
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + images.tobytes()))
    got = data.load(str(tmp_path), stream=True)
    np.testing.assert_array_equal(got.train[:][..., 0], images)
    np.testing.assert_array_equal(got.test[..., 0], images)
    assert got.fingerprint() == data.load(str(tmp_path)).fingerprint()
    os.rename(tmp_path / "t10k-images-idx3-ubyte.gz", tmp_path / "train-images-idx3-ubyte.gz")
    (tmp_path / "train-images-idx3-ubyte").unlink()
    with pytest.raises(UserError, match="gunzip"):
        data.load(str(tmp_path), stream=True)


def interrupted(built, out, chunks_before, **options):
    """Trains into `out` until so many chunks have been trained on."""
    seen = []

    def on_chunk(done):
        assert 0 < done < 1
        seen.append(threading.active_count())
        return len(seen) == chunks_before

    return runs.train(built, out, on_chunk=on_chunk, **options)[0]


@pytest.mark.slow
def test_going_on_within_an_epoch_is_bit_for_bit(folder, tmp_path, monkeypatch):
    """Eleven steps an epoch, stopped after six of the second epoch; by way of the files.

    Then the chunks are cut otherwise, as another version may.
    """
    _, built = both(folder, "bytes", validation_fraction=0.1)
    whole = fit(built)
    part = interrupted(built, tmp_path / "run", 5)
    assert (part.status, len(part.progress.history), part.progress.partial.steps) == ("interrupted", 1, 6)
    with pytest.raises(UserError, match="no checkpoint yet"):
        runs.load_run(tmp_path / "run")  # of a whole epoch, which is what is evaluated
    monkeypatch.setattr(stream, "CHUNK_BYTES", 4 * 16 * 16)
    rest, summary = runs.train(built, tmp_path / "run", resume=True)
    chex.assert_trees_all_equal(rest.progress.state, whole.progress.state)
    chex.assert_trees_all_equal(rest.progress.best, whole.progress.best)
    assert without_seconds(rest.progress.history) == without_seconds(whole.progress.history)
    assert summary["test_elbo"] == whole.test.elbo
    assert runs.load_run(tmp_path / "run").epoch == 2
    assert not (tmp_path / "run" / "partial").exists()


@pytest.mark.slow
def test_a_checkpoint_within_an_epoch_that_is_damaged_is_passed_over(folder, tmp_path):
    _, built = both(folder, "bytes", objective="beta_tcvae")
    whole, _ = runs.train(built, tmp_path / "whole")
    part = interrupted(built, tmp_path / "parts", 6, checkpoint_seconds=0.0)
    assert (len(part.progress.history), part.progress.partial.steps) == (1, 9)
    for file in (tmp_path / "parts" / "partial").rglob("*"):
        if file.is_file() and "tree" in file.parts:
            file.write_bytes(b"damaged")
    notes, seen = [], []
    part = interrupted(built, tmp_path / "parts", 1, resume=True, on_start=lambda start, new_notes: notes.extend(new_notes))
    assert "damaged" in notes[0]
    assert (len(part.progress.history), part.progress.partial.steps) == (1, 3)
    rest, _ = runs.train(built, tmp_path / "parts", resume=True, on_start=lambda *arguments: seen.extend(arguments))
    assert seen[0].partial.steps == 3  # not the damaged one again
    assert seen[1] == []
    chex.assert_trees_all_equal(rest.progress.state, whole.progress.state)


def test_nothing_compiles_after_the_first_chunk(folder):
    compilations, seen = [], []

    def listen(name, seconds, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            compilations.append(seconds)

    def on_chunk(steps, progress):
        assert progress() is not None
        seen.append(len(compilations))

    _, built = both(folder, "bytes", validation_fraction=0.1)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        fit(built, on_chunk=on_chunk, epochs=3)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert seen[0] > 0
    # After each chunk but the last of an epoch; what on_epoch is given is copied by a program of its own.
    assert seen == [seen[0]] * 3 + [seen[0] + 1] * 6


def poisoned(key, encode, decode, log_prob, x, hyperparams):
    """Not finite for an image that is all ones."""
    terms = objectives.elbo(key, encode, decode, log_prob, x)
    return terms._replace(loss=jax.numpy.where(jax.numpy.min(x) > 0.5, jax.numpy.nan, terms.loss))


@pytest.mark.slow
@pytest.mark.parametrize(
    "look", [pytest.param(False, marks=SLOW), True], ids=["rerun_from_the_start", "rerun_from_the_last_look"]
)
def test_a_run_that_diverges_in_a_chunk_stops_where_it_does_in_memory(folder, tmp_path, look):
    images = np.load(folder / "bytes.npy")
    in_memory, on_disk = both(folder, "bytes")
    order = np.asarray(training.epoch_order(training.run_keys(0), 1, len(in_memory.dataset.train), 16))
    # An image of the second epoch that the first one leaves out: 200 examples, 12 steps of 16.
    first = set(np.asarray(training.epoch_order(training.run_keys(0), 0, len(in_memory.dataset.train), 16)).ravel().tolist())
    step, place = next((step, i) for step in range(3, 12) for i in order[step] if i not in first)
    images[on_disk.data.train.indices_in_file(np.array([place]))] = 255
    np.save(tmp_path / "bytes.npy", images)
    in_memory, on_disk = both(tmp_path, "bytes", binarize="threshold")
    looks = []
    with pytest.warns(DivergenceWarning):
        expected = fit(in_memory, objective=poisoned)
    with pytest.warns(DivergenceWarning):
        got = fit(on_disk, objective=poisoned, on_chunk=lambda steps, progress: looks.append(progress()) if look else None)
    assert expected.status == got.status == "diverged"
    assert int(got.progress.state.step) == 12 + step
    assert got.progress.partial is None
    chex.assert_trees_all_equal(got.progress.state, expected.progress.state)
    assert without_seconds(got.progress.history) == without_seconds(expected.progress.history)
    assert all(progress is None or int(progress.state.step) <= 12 + step for progress in looks)


def test_a_file_that_changes_under_the_run_is_not_read_further(folder, tmp_path):
    path, content = tmp_path / "x.npy", (folder / "bytes.npy").read_bytes()

    def rows():
        path.write_bytes(content)
        return data.load(str(path), stream=True).train

    shorter = rows()
    os.truncate(path, 1000)
    with pytest.raises(OSError, match="became shorter while it was read"):
        shorter.gather(np.arange(3), np.empty((3, 16), np.uint8))
    changed = rows()
    os.utime(path, ns=(0, 0))
    with pytest.raises(OSError, match="was changed while it was read"):
        changed[:3]
    removed = rows()
    path.unlink()
    assert removed[:3].shape == (3, 4, 4, 1)  # it is still open


def test_an_error_of_the_disk_reaches_the_caller_and_leaves_no_thread(folder, monkeypatch):
    _, built = both(folder, "bytes")
    read = Rows.gather

    def failing(rows, index, out):
        if failing.count == 2:
            raise OSError(5, "Input/output error")
        failing.count += 1
        read(rows, index, out)

    failing.count = 0
    monkeypatch.setattr(Rows, "gather", failing)
    with pytest.raises(OSError, match="Input/output error"):
        fit(built)
    deadline = time.monotonic() + 10
    while readers := [thread for thread in threading.enumerate() if "grain" in thread.name]:
        assert time.monotonic() < deadline, readers
        time.sleep(0.01)


def _refused(tmp_path, kind):
    path, images = tmp_path / "x", np.zeros((20, 2, 2), np.uint8)
    if kind == "renamed":
        np.savez(tmp_path / "x.npz", x=images)
        return str((tmp_path / "x.npz").rename(tmp_path / "x.npy")), {}
    if kind == "pictures":
        path.mkdir()
        (path / "a.png").write_bytes(b"")
        return str(path), {}
    changes = {
        "fortran": np.asfortranarray(np.zeros((20, 2, 3), np.uint8)),
        "nan": np.full((20, 2, 2), np.nan),
        "levels": np.full((20, 2, 2), -300),
        "axes": np.zeros((20, 2, 2, 2, 2)),
        "text": np.full((20, 2, 2), "x"),
    }
    np.save(tmp_path / "x.npy", changes.get(kind, images))
    if kind == "truncated":
        os.truncate(tmp_path / "x.npy", 150)
    return str(tmp_path / "x.npy"), {"binarize": "fixed"} if kind == "fixed" else {}


REFUSED = {
    "renamed": "archive of arrays",
    "pictures": r"a\.png: not a readable image",
    "fortran": "C order",
    "nan": "finite numbers, got 80 NaN",
    "levels": "integer levels >= 0, got -300",
    "axes": "3 or 4 axes",
    "text": "dtype",
    "truncated": "not a readable array",
    "fixed": "use dynamic or threshold",
}


@pytest.mark.parametrize(("kind", "message"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_be_streamed_is_refused(tmp_path, kind, message):
    name, settings = _refused(tmp_path, kind)
    with pytest.raises(UserError, match=message):
        build(Config(dataset=name, stream=True, batch_size=4, test_fraction=0.2, likelihood="gaussian", **settings))


def test_streaming_is_for_files(folder):
    with pytest.raises(UserError, match="stream: digits is not read from files"):
        data.load("digits", stream=True)
    dataset = data.load(str(folder / "bytes.npy"), stream=True)
    with pytest.raises(UserError, match='`binarize="fixed"` draws the whole training set'):
        data.prepare(dataset, binarization="fixed")
    with pytest.raises(TypeError, match="index them"):
        np.asarray(dataset.train)


def test_a_run_in_the_middle_of_an_epoch_resumes_with_streamed_data_only(folder):
    in_memory, _ = both(folder, "bytes")
    with pytest.raises(UserError, match=r"^start: this state is from the middle of an epoch\. Only streamed"):
        fit(in_memory, start=training.Progress((), (), (), training.PartialEpoch(3, (), 0.0)))


def test_tfds_images_are_decoded_into_a_file(tmp_path, monkeypatch):
    """A stand-in for the reader of records: the images of its `train` come back as rows of a file in the cache folder."""
    from vae_jax.data import tfds_records

    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)
    reads = []

    def decode(builder, split, features, keep):
        reads.append(split)
        for i, pixels in enumerate(images):
            keep(i, pixels)
        return np.arange(30), None

    monkeypatch.setattr(tfds_records, "_decode", decode)
    monkeypatch.setattr(tfds_records, "_stored", lambda *_: (images.shape, images.dtype))
    monkeypatch.setattr(tfds_records, "_cached", lambda builder, split, ending: tmp_path / "cache" / f"x-{split}{ending}")
    features = tfds_records.Features("image", "label", None)
    for _ in range(2):
        rows, labels, factors = tfds_records.read_on_disk(None, "train", features)
        np.testing.assert_array_equal(rows[:], images)
        assert (labels.tolist(), factors) == (list(range(30)), None)
    assert reads == ["train"]  # once
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["x-train-rows.npz", "x-train.npy"]
    (tmp_path / "cache" / "x-train.npy").write_bytes(b"damaged")
    np.testing.assert_array_equal(tfds_records.read_on_disk(None, "train", features).images[:], images)
    assert reads == ["train", "train"]
    assert isinstance(open_npy(pathlib.Path(tmp_path / "cache" / "x-train.npy")), Rows)
