"""New data of a trained model are read as its training data were, and refused in words where they do not fit."""

from pathlib import Path

import jax
import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
import scipy.sparse

from vae_jax import data
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.example import event_of
from vae_jax.runs.trained import TrainedModel, read_new_data

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (1200, 4, 4), dtype=np.uint8)
REALS = RNG.normal(size=(40, 3)).astype(np.float32)
TABLE = pyarrow.table({"a": REALS[:, 0], "b": REALS[:, 1], "label": ["u", "v"] * 20})
MIXED = pyarrow.table({"size": REALS[:, 0], "color": ["red", "blue", "green", "blue"] * 10, "n": RNG.integers(0, 9, 40)})
COUNTS = scipy.sparse.random_array((40, 12), density=0.2, rng=RNG)
COUNTS.data = np.ceil(COUNTS.data * 9)
SMALL = {"hidden": (4,), "latent_dim": 2, "batch_size": 8, "epochs": 1}
GAUSSIAN = {"likelihood": "gaussian", **SMALL}


def model_of(dataset, **settings):
    """The parts of a run and its model, without training."""
    named = {"dataset": str(dataset)} if isinstance(dataset, str | Path) else {}
    built = build(Config(**{**SMALL, **settings, **named}), dataset=None if named else dataset)
    return built, TrainedModel(Path("run"), built.config, built.description, built.vae, {}, 1)


def assert_equal(first, second):
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(one, other)


def in_memory(examples):
    """Examples with their rows read."""
    is_rows = lambda leaf: hasattr(leaf, "shape")  # noqa: E731
    return jax.tree.map(lambda leaf: leaf[:], examples, is_leaf=is_rows)


def save_images(folder):
    np.save(folder / "x.npy", IMAGES)
    return folder / "x.npy"


def save_idx(folder):
    header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in IMAGES.shape)
    (folder / "train-images-idx3-ubyte").write_bytes(header + IMAGES.tobytes())
    return folder


def save_pictures(folder):
    from PIL import Image

    for i, image in enumerate(IMAGES[:12]):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def save_hdf5(folder):
    import h5py

    with h5py.File(folder / "x.h5", "w") as file:
        file["images"] = IMAGES[:40]
    return folder / "x.h5"


def save_matlab(folder):
    import scipy.io

    scipy.io.savemat(folder / "x.mat", {"X": REALS.astype(np.float64)})
    return folder / "x.mat"


def save_missing(folder):
    np.save(folder / "x.npy", np.where(RNG.random(REALS.shape) < 0.2, np.nan, REALS))
    return folder / "x.npy"


def save_table(folder, table=TABLE, name="t.csv"):
    (pyarrow.csv.write_csv if name.endswith("csv") else pyarrow.parquet.write_table)(table, folder / name)
    return folder / name


def save_parts(folder):
    np.savez(folder / "x.npz", x_train=IMAGES[:900], x_test=IMAGES[900:], y_train=np.arange(900) % 3, y_test=np.arange(300) % 3)
    return folder / "x.npz"


SOURCES = {
    "dynamic": (save_images, {"binarize": "dynamic"}),
    "dequantized": (save_images, {**GAUSSIAN, "dequantize": True}),
    "threshold of vectors": (save_images, {"binarize": "threshold", "event": "vector"}),
    "idx": (save_idx, {"likelihood": "continuous_bernoulli"}),
    "pictures": (save_pictures, {"binarize": "dynamic", "resize": (3,), "batch_size": 4}),
    "hdf5": (save_hdf5, {"binarize": "dynamic", "array": "images"}),
    "matlab": (save_matlab, GAUSSIAN),
    "missing": (save_missing, {**GAUSSIAN, "missing": "nan"}),
    "csv": (save_table, {**GAUSSIAN, "condition": "labels"}),
    "parquet": (lambda folder: save_table(folder, TABLE, "t.parquet"), {**GAUSSIAN, "condition": "b"}),
    "mixed": (lambda folder: save_table(folder, MIXED), {"likelihood": "columns", "columns": ("auto",)}),
    "npz": (save_parts, {"binarize": "dynamic", "condition": "labels"}),
    "digits": (lambda folder: "digits", {"binarize": "dynamic"}),
    "sprites": (lambda folder: "sprites", {"condition": "shape"}),
}

NAMES = [name if name != "sprites" else pytest.param(name, marks=pytest.mark.slow) for name in SOURCES]


@pytest.mark.parametrize("name", NAMES)
def test_the_test_set_of_a_run_is_read_as_it_was_prepared(name, tmp_path):
    save, settings = SOURCES[name]
    source = save(tmp_path)
    built, model = model_of(source, **settings)
    new = read_new_data(model, source, part="test")
    assert_equal(new.examples, built.data.test)
    assert_equal(jax.jit(new.to_input)(new.examples), built.data.eval_input(built.data.test))
    if built.dataset.test_labels is not None:
        np.testing.assert_array_equal(new.labels, built.dataset.test_labels)
    if name in ("dynamic", "dequantized"):  # a file with the test set alone has the same draws
        np.save(tmp_path / "test.npy", built.dataset.test)
        assert_equal(read_new_data(model, tmp_path / "test.npy").examples, built.data.test)
    if name in ("dynamic", "dequantized", "idx", "missing", "npz"):
        whole, streamed = (read_new_data(model, source, stream=stream) for stream in (False, True))
        assert not isinstance(event_of(streamed.examples), np.ndarray)
        assert_equal(in_memory(streamed.examples), whole.examples)
        index = np.array([new.num_examples - 1, 3, 0, 3])
        assert_equal(streamed.examples[index], whole.examples[index])


def test_all_parts_come_in_order_and_labels_with_them(tmp_path):
    _, model = model_of(save_parts(tmp_path), binarize="none", likelihood="continuous_bernoulli")
    new = read_new_data(model, tmp_path / "x.npz")
    np.testing.assert_array_equal(new.examples[..., 0], IMAGES)
    np.testing.assert_array_equal(new.labels, np.concatenate([np.arange(900) % 3, np.arange(300) % 3]))


def test_sparse_and_dense_rows_are_the_same_examples():
    counts = COUNTS.astype(np.int64).tocsr()
    dataset = data.from_arrays(counts, column_names=[f"g{i}" for i in range(12)])
    built, model = model_of(dataset, likelihood="poisson")
    sparse, dense = (read_new_data(model, x) for x in (counts, counts.toarray()))
    np.testing.assert_array_equal(sparse.examples[:], counts.toarray())
    np.testing.assert_array_equal(dense.examples, counts.toarray())
    new = read_new_data(model, dataset, part="test")
    np.testing.assert_array_equal(new.to_input(new.examples[:]), built.dataset.test[:])
    order = RNG.permutation(12)
    np.testing.assert_array_equal(sparse.examples.columns(order)[:], counts.toarray()[:, order])


def test_columns_are_found_by_name_and_categories_by_their_text(tmp_path):
    _, model = model_of(save_table(tmp_path), **GAUSSIAN)
    changed = pyarrow.table({"id": ["q", "r"], "b": [1, 2], "a": [4, 3], "label": ["u", None]})
    new = read_new_data(model, save_table(tmp_path, changed, "new.csv"))
    np.testing.assert_array_equal(new.examples, [[4, 1], [3, 2]])
    assert new.labels is None
    assert any("id and label are not used" in note for note in new.notes), new.notes
    np.testing.assert_array_equal(read_new_data(model, changed).examples, new.examples)
    _, model = model_of(save_table(tmp_path, MIXED, "m.csv"), likelihood="columns", columns=("auto",))
    fewer = pyarrow.table({"color": ["red", "green"], "n": [1, 2], "size": [0, 1]})
    np.testing.assert_array_equal(read_new_data(model, save_table(tmp_path, fewer, "few.csv")).examples, [[0, 2, 1], [1, 1, 2]])


def test_conditions_are_files_arrays_or_columns(tmp_path):
    _, model = model_of(save_table(tmp_path), **GAUSSIAN, condition="labels")
    (tmp_path / "c.csv").write_text("label\nv\nu\n")
    for condition in (["v", "u"], {"label": np.array(["v", "u"])}, str(tmp_path / "c.csv")):
        new = read_new_data(model, np.zeros((2, 2)), condition=condition)
        np.testing.assert_array_equal(new.to_input(new.examples).condition, [[0, 1], [1, 0]])


def refusals(folder):
    """A model, a source that does not fit it, arguments, and a phrase of the message."""
    levels = model_of(save_images(folder), likelihood="continuous_bernoulli")[1]
    digits = model_of("digits", binarize="threshold")[1]
    binary = model_of(data.from_arrays((IMAGES > 99).astype(np.uint8)), binarize="none")[1]
    table = model_of(save_table(folder), **GAUSSIAN)[1]
    mixed = model_of(save_table(folder, MIXED, "m.csv"), likelihood="columns", columns=("auto",))[1]
    conditioned = model_of(save_table(folder), **GAUSSIAN, condition="labels")[1]
    counts = model_of(data.from_arrays(COUNTS.toarray().astype(np.int64)), likelihood="poisson")[1]
    unit, x = IMAGES / 255, np.zeros((2, 2))
    yield levels, unit.astype(np.float32), {}, "np.rint(x * 255).astype(np.uint8)"
    yield levels, IMAGES[:, :3], {}, "expected examples of shape (4, 4, 1)"
    yield levels, IMAGES > 3, {}, "booleans"
    yield levels, "digits", {}, "got (8, 8, 1)"
    yield levels, data.from_arrays(IMAGES // 32, max_level=7), {}, "levels from 0 to 7"
    yield levels, IMAGES.reshape(-1, 16), {}, "x.reshape(-1, 4, 4, 1)"
    yield levels, IMAGES, {"condition": np.zeros(1200)}, "has no condition"
    yield levels, folder / "none.npy", {}, "no such file"
    yield digits, np.zeros((3, 8, 8), np.uint8) + 200, {}, "levels up to 200"
    yield digits, np.zeros((3, 8, 8)) + 0.5, {}, "np.rint(x * 16)"
    yield binary, IMAGES, {}, "(x >= 128)"
    yield binary, IMAGES, {"part": "most"}, "unknown part"
    yield binary, (IMAGES > 9).astype(np.uint8), {"part": "test"}, "an array in memory"
    yield table, pyarrow.table({"a": [1.0]}), {}, "lacks the column b"
    yield table, np.array([[1.0, np.nan]]), {}, "NaN"
    yield table, (x > 1), {}, "expected floats"
    yield mixed, pyarrow.table({"color": ["red", "pink"], "n": [1, 2], "size": [0, 1]}), {}, "'pink'"
    yield mixed, pyarrow.table({"color": ["red", "red"], "n": [1.5, 2], "size": [0, 1]}), {}, "'n'"
    yield conditioned, x, {"condition": ["u", "w"]}, "'w'"
    yield conditioned, x, {"condition": ["u"]}, "expected 2 rows"
    yield conditioned, x, {}, "Pass a file or an array"
    yield counts, COUNTS.toarray() * 1.5, {}, "expected whole numbers"
    yield counts, -COUNTS.toarray().astype(np.int64), {}, "poisson expects counts"


def test_data_that_do_not_fit_are_refused_in_words(tmp_path):
    for model, source, arguments, phrase in refusals(tmp_path):
        with pytest.raises(UserError) as error:
            read_new_data(model, source, **arguments)
        assert phrase in str(error.value), (phrase, str(error.value))


def test_missing_real_conditions_get_advice_for_numbers(tmp_path):
    _, model = model_of(save_table(tmp_path), **GAUSSIAN, condition="b")
    for values, fix in (([0.5, np.nan], ".mean()"), ([1.0, np.nan], "'missing'")):
        with pytest.raises(UserError, match="are missing") as error:
            read_new_data(model, np.zeros((2, 1)), condition={"b": np.array(values)})
        assert fix in str(error.value)
