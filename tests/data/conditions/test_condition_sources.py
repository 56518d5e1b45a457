"""Labels and factors as conditions, in every format that has them, in all parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_files import NORB, norb_bytes
from sources import write_idx, write_pictures, write_tfds

from vae_jax import data
from vae_jax.data import sprites
from vae_jax.errors import DataWarning, UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (30, 4, 4), dtype=np.uint8)
LABELS = np.arange(30) % 3
PARTS = ("train", "validation", "test")


def names_of(dataset, part):
    """The name of the category of each example, for a condition of one column."""
    categories = dataset.condition.columns[0].categories
    return [categories[int(code)] for code in getattr(dataset, f"{part}_condition")[:, 0]]


def check_labels(dataset):
    """The condition of every part is its labels."""
    assert [column.name for column in dataset.condition.columns] == ["label"]
    for part in PARTS:
        labels = getattr(dataset, f"{part}_labels")
        assert (getattr(dataset, part) is None) == (labels is None) == (getattr(dataset, f"{part}_condition") is None)
        if labels is not None:
            names = dataset.label_names
            assert names_of(dataset, part) == [names[one] if names else str(one) for one in labels.tolist()]
    return dataset


def test_digits():
    dataset = check_labels(data.load("digits", condition="labels", validation_fraction=0.1))
    assert dataset.condition.columns[0].categories == tuple("0123456789")
    assert dataset.validation is not None
    plain = data.load("digits", validation_fraction=0.1)
    assert plain.condition is None
    assert plain.fingerprint() != dataset.fingerprint()
    np.testing.assert_array_equal(plain.train, dataset.train)


def idx(folder):
    write_idx(folder / "train-images-idx3-ubyte", IMAGES)
    write_idx(folder / "train-labels-idx1-ubyte", LABELS)
    write_idx(folder / "t10k-images-idx3-ubyte", IMAGES[:6])
    write_idx(folder / "t10k-labels-idx1-ubyte", LABELS[:6])
    return folder


def npz(folder):
    labels = {"y_train": LABELS, "y_val": LABELS[:4], "y_test": LABELS[:5]}
    np.savez(folder / "x.npz", x_train=IMAGES, x_val=IMAGES[:4], x_test=IMAGES[:5], **labels)
    return folder / "x.npz"


def cifar(folder):
    for name in ("data_batch_1", "test_batch"):
        records = RNG.integers(0, 256, (12, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(12) % 3
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("plane\ncar\nbird\n")
    return folder


def class_folders(folder):
    pictures = {f"{part}/{name}/{i}.png": 90 * i + 10 for part in ("train", "val") for name in ("cat", "ant") for i in range(3)}
    write_pictures(folder, pictures)
    return folder


SOURCES = {"idx": idx, "npz": npz, "cifar": cifar, "class folders": class_folders}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("stream", [False, True])
def test_labels_of_files(tmp_path, name, stream):
    if stream and name == "cifar":
        return  # its records are not read row by row
    dataset = check_labels(data.load(SOURCES[name](tmp_path), condition="labels", stream=stream))
    if name == "cifar":
        assert dataset.condition.columns[0].categories == ("plane", "car", "bird")
    if name == "class folders":
        assert dataset.condition.columns[0].categories == ("ant", "cat")


@pytest.mark.parametrize("stream", [False, True])
def test_labels_of_tfds(tmp_path, monkeypatch, stream):
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path / "cache"))
    write_pictures(tmp_path, {f"{i}.png": RNG.integers(0, 256, (28, 28), dtype=np.uint8) for i in range(30)})
    records = [{"image": (tmp_path / f"{i}.png").read_bytes(), "label": i % 10} for i in range(30)]
    write_tfds("mnist", tmp_path, {"train": records, "test": records})
    options = {"data_dir": str(tmp_path), "stream": stream, "condition": "labels", "validation_fraction": 0.1}
    dataset = check_labels(data.load("mnist", **options))
    assert dataset.condition.columns[0].categories == tuple("0123456789")


def test_labels_of_sets_of_other_sources_have_one_numbering(tmp_path):
    for part, names in (("train", ("cat", "ant")), ("test", ("ant", "cat"))):
        for i, name in enumerate(names):
            write_pictures(tmp_path / part, {f"{name}/{j}.png": 60 * i + 30 * j for j in range(4)})
    np.savez(tmp_path / "v.npz", x=np.zeros((2, 3, 4), np.uint8), y=np.array(["cat", "cat"]))
    options = {"validation_dataset": tmp_path / "v.npz", "test_dataset": tmp_path / "test"}
    dataset = check_labels(data.load(tmp_path / "train", condition="labels", **options))
    assert names_of(dataset, "validation") == ["cat", "cat"]
    assert names_of(dataset, "test") == ["ant"] * 4 + ["cat"] * 4


@pytest.mark.parametrize(
    ("arrays", "condition", "message"),
    [
        ({}, "labels", "training examples have no labels. .*`label_column`.*labels.npy"),
        ({"x_test": IMAGES[:3], "y": LABELS}, "labels", "test examples have no labels. Save labels .* training examples have"),
        ({"x_val": IMAGES[:3], "y": LABELS}, "labels", "validation examples have no labels"),
        ({"y": LABELS}, "factors", 'training examples have no factors. Expected sprites.*It has labels: `condition="labels"`'),
        ({"y": LABELS}, "label", "unknown column or factor 'label'. Did you mean 'labels'"),
        ({}, "age", "has no column 'age', and neither labels nor factors. Pass a file"),
        ({"factors": LABELS[:, None]}, "labels", "no labels. Use its factors"),
        ({"factors": LABELS[:, None], "x_test": IMAGES[:3]}, "factors", "test examples have no factors. Save test_factors"),
        ({"factors": LABELS[:, None], "factor_names": ["hue"]}, "hu", "unknown column or factor 'hu'. Did you mean 'hue'"),
    ],
)
def test_sources_without_them_are_refused(tmp_path, arrays, condition, message):
    np.savez(tmp_path / "x.npz", x=IMAGES, **arrays)
    with pytest.raises(UserError, match=message):
        data.load(tmp_path / "x.npz", condition=condition)


def test_unlabeled_examples_are_refused_where_labels_have_names():
    labels = np.where(np.arange(30) < 4, -1, LABELS)
    dataset = data.from_arrays(IMAGES, labels=labels, condition="labels", split="last")
    assert dataset.condition.columns[0].categories == ("-1", "0", "1", "2")
    with pytest.raises(UserError, match="label_names"):
        data.from_arrays(IMAGES, labels=labels, label_names=["a", "b", "c"], condition="labels")


# Factors


def factors_npz(folder, **more):
    """dSprites, small: shape, scale and position, of which the color never varies."""
    classes = np.stack([np.zeros(30, int), np.arange(30) % 3, np.arange(30) % 2, *np.zeros((2, 30), int), np.arange(30) // 15])
    np.savez(folder / "d.npz", imgs=IMAGES // 128, latents_classes=classes.T, metadata=np.zeros(1), **more)
    return folder / "d.npz"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("condition", "names"),
    [("factors", ["shape", "scale", "y_position"]), ("scale", ["scale"]), ("y_position, shape", ["y_position", "shape"])],
)
@pytest.mark.filterwarnings("ignore:.*have one value in all images")
def test_factors_of_dsprites(tmp_path, condition, names, stream):
    options = {"condition": condition, "stream": stream, "split": "random", "validation_fraction": 0.2}
    dataset = data.load(factors_npz(tmp_path), **options)
    assert [column.name for column in dataset.condition.columns] == names
    columns = [dataset.factor_names.index(name) for name in names]
    for part in PARTS:
        factors, stored = getattr(dataset, f"{part}_factors"), getattr(dataset, f"{part}_condition")
        assert len(factors) == len(getattr(dataset, part))
        np.testing.assert_array_equal(stored, factors[:, columns])


def test_validation_factors_of_their_own(tmp_path):
    factors = np.stack([LABELS, np.arange(30) // 10], axis=1)
    arrays = {"x_train": IMAGES, "x_val": IMAGES[:5], "x_test": IMAGES[:6]}
    codes = {"factors": factors, "val_factors": factors[20:25], "test_factors": factors[3:9]}
    np.savez(tmp_path / "x.npz", **arrays, **codes)
    in_file = data.load(tmp_path / "x.npz", condition="factors")
    in_memory = data.from_arrays(
        IMAGES,
        IMAGES[:6],
        validation=IMAGES[:5],
        factors=factors,
        validation_factors=factors[20:25],
        test_factors=factors[3:9],
        condition="factors",
    )
    for dataset in (in_file, in_memory):
        assert [column.name for column in dataset.condition.columns] == ["factor_0", "factor_1"]
        np.testing.assert_array_equal(dataset.validation_factors, factors[20:25])
        np.testing.assert_array_equal(dataset.validation_condition, factors[20:25])
    assert in_file.fingerprint() == in_memory.fingerprint()
    np.savez(tmp_path / "x.npz", **arrays, **{**codes, "val_factors": factors[20:24]})
    with pytest.raises(UserError, match=r"a row for each of 5 examples, got shape \(4, 2\)"):
        data.load(tmp_path / "x.npz")


@pytest.mark.filterwarnings("ignore:.*one value in all images")
def test_factors_of_small_norb(tmp_path):
    """Both parts, with categories that both have."""
    for part, name in enumerate(NORB):
        information = np.stack([np.arange(10) % 5, np.arange(10) % 2, 2 * (np.arange(10) % 3), np.arange(10) % 6], axis=1)
        files = {"dat": RNG.integers(0, 256, (10, 2, 4, 4), np.uint8), "cat": np.arange(10) % 5, "info": information}
        for kind, array in files.items():
            stored = array if kind == "dat" else array.astype(np.int32)
            (tmp_path / f"{name}-{kind}.mat").write_bytes(norb_bytes(stored[part:] if part else stored))
    dataset = data.load(tmp_path, condition="azimuth,category")
    assert [column.name for column in dataset.condition.columns] == ["azimuth", "category"]
    np.testing.assert_array_equal(dataset.train_condition[:, 0], np.arange(10) % 3)
    np.testing.assert_array_equal(dataset.test_condition[:, 1], np.arange(1, 10) % 5)


def test_factors_of_3d_shapes(tmp_path):
    h5py = pytest.importorskip("h5py")
    labels = np.stack([np.arange(12) % 3 / 10, np.arange(12) % 2 * 30.0, *RNG.random((4, 12))], axis=1)
    with h5py.File(tmp_path / "3dshapes.h5", "w") as file:
        file["images"], file["labels"] = RNG.integers(0, 256, (12, 64, 64, 3), np.uint8), labels
    for stream in (False, True):
        dataset = data.load(tmp_path / "3dshapes.h5", condition="wall_hue, floor_hue", split="last", stream=stream)
        np.testing.assert_array_equal(dataset.train_condition, np.stack([np.arange(10) % 2, np.arange(10) % 3], axis=1))


def test_drawn_sprites_have_the_condition_of_the_row_that_is_drawn():
    dataset = data.load("sprites", condition="shape,x_position", validation_fraction=0.001)
    assert dataset.condition.describe() == "shape (3 categories), x_position (32 categories)"
    np.testing.assert_array_equal(dataset.validation_condition, dataset.validation_factors[:, [0, 3]])
    np.testing.assert_array_equal(dataset.validation_factors, dataset.validation)
    np.testing.assert_array_equal(dataset.test_condition, dataset.test_factors[:, [0, 3]])
    prepared = data.prepare(dataset)
    batch = jax.jit(prepared.train_input)(jax.random.key(3), prepared.train_rows(jnp.arange(200)))
    shape, x_position = np.split(np.asarray(batch.condition), [3], axis=1)
    assert (shape.sum(axis=1) == 1).all()
    assert (x_position.sum(axis=1) == 1).all()
    # Squares and ellipses are symmetric about their center, so the mean column of their pixels tells the position.
    image = np.asarray(batch.event)[..., 0]
    across = (image.sum(axis=1) * np.arange(64)).sum(axis=1) / image.sum(axis=(1, 2))
    error = np.abs(across - (x_position.argmax(axis=1) + 16))
    assert error[shape[:, 2] == 0].max() < 0.6
    assert len(np.unique(x_position.argmax(axis=1))) > 25
    # The image itself is the one of a run without a condition.
    plain = data.prepare(data.load("sprites", validation_fraction=0.001))
    np.testing.assert_array_equal(batch.event, plain.train_input(jax.random.key(3), plain.train[:200]))


def test_the_grid_of_sprites_has_stored_factors():
    dataset = data.load("sprites_grid", condition="factors")
    assert dataset.condition.dim == sum(sprites.FACTOR_SIZES)
    np.testing.assert_array_equal(dataset.train_condition[:2000], sprites.grid()[:2000])


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("labels", 'Use its factors: `condition="factors"`, or some'),
        ("hue", "unknown column or factor 'hue'"),
        ("c.npy", "no such file"),
    ],
)
def test_other_conditions_of_sprites_are_refused(condition, message):
    with pytest.raises(UserError, match=message):
        data.load("sprites", condition=condition)


def test_a_factor_named_like_a_kind_of_condition_gives_a_note(tmp_path):
    np.savez(tmp_path / "x.npz", x=IMAGES, y=LABELS, factors=LABELS[:, None], factor_names=["labels"])
    with pytest.warns(DataWarning, match="`condition` is the labels, and a column has the name 'labels' as well"):
        assert data.load(tmp_path / "x.npz", condition="labels").condition.columns[0].name == "label"
    assert data.load(tmp_path / "x.npz", condition='"labels"').condition.columns[0].name == "labels"
