"""Sources, splits and preprocessing, and every refusal with its message."""

import functools
import importlib.util
import io
import operator
import shutil
import struct

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sources import write_idx, write_tfds

from vae_jax import data
from vae_jax.data.readers import bundled
from vae_jax.data.readers.idx import read_idx
from vae_jax.errors import UserError


@pytest.mark.parametrize("with_file", [True, False])
def test_digits_are_scikit_learns(with_file, monkeypatch):
    if not with_file:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found, expected = bundled.digits(), load_digits()
    np.testing.assert_array_equal(found.train, expected.images)
    np.testing.assert_array_equal(found.train_labels, expected.target)


def test_digits():
    digits = data.load("digits")
    assert digits.train.shape == (1438, 8, 8, 1)
    assert digits.test.shape == (359, 8, 8, 1)
    assert digits.train.dtype == np.uint8
    assert digits.max_level == digits.train.max() == 16
    assert len(digits.test_labels) == 359
    assert digits.fingerprint() == data.load("digits").fingerprint()
    assert digits.fingerprint() != data.load("digits", split_seed=1).fingerprint()
    scaled = digits.train.astype(float) / 16
    np.testing.assert_allclose(digits.train_mean, scaled.mean(0), rtol=1e-6)
    np.testing.assert_allclose(digits.train_std, np.sqrt(scaled.var(axis=0).mean()), rtol=1e-9)


def test_splits_are_seeded_disjoint_and_complete(tmp_path):
    everything = np.arange(100, dtype=np.uint8).reshape(100, 1, 1)
    np.save(tmp_path / "x.npy", everything)
    path = str(tmp_path / "x.npy")
    split = data.load(path, test_fraction=0.3, validation_fraction=0.1, split_seed=4)
    parts = [part.ravel().tolist() for part in (split.train, split.validation, split.test)]
    assert [len(part) for part in parts] == [63, 7, 30]
    assert sorted(functools.reduce(operator.iadd, parts, [])) == list(range(100))
    assert parts[2] != data.load(path, test_fraction=0.3, split_seed=5).test.ravel().tolist()
    last = data.load(path, split="last", test_fraction=0.3)
    assert last.test.ravel().tolist() == list(range(70, 100))
    assert "last block" in last.split
    assert "seed 4" in split.split


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_folder_of_idx_files(tmp_path, ending):
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 256, (30, 5, 4), dtype=np.uint8), rng.integers(0, 256, (10, 5, 4), dtype=np.uint8)
    write_idx(tmp_path / f"train-images-idx3-ubyte{ending}", train)
    write_idx(tmp_path / f"t10k-images-idx3-ubyte{ending}", test)
    write_idx(tmp_path / f"t10k-labels-idx1-ubyte{ending}", np.arange(10, dtype=np.uint8))
    got = data.load(str(tmp_path))
    np.testing.assert_array_equal(got.train[..., 0], train)
    np.testing.assert_array_equal(got.test[..., 0], test)
    assert got.test_labels.tolist() == list(range(10))
    assert got.max_level == 255
    assert got.split == f"the source's own (training train-images-idx3-ubyte{ending}, test t10k-images-idx3-ubyte{ending})"


def test_npz_and_float_and_binary_arrays(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", x_train=rng.random((20, 3, 3, 2)), x_test=rng.random((5, 3, 3, 2)), y_test=np.arange(5))
    floats = data.load(str(tmp_path / "a.npz"))
    assert floats.train.dtype == np.float32
    assert floats.max_level is None
    assert floats.test_labels.tolist() == [0, 1, 2, 3, 4]
    np.save(tmp_path / "b.npy", rng.integers(0, 2, (20, 3, 3)).astype(bool))
    assert data.load(str(tmp_path / "b.npy")).max_level == 1
    np.save(tmp_path / "c.npy", rng.integers(0, 200, (20, 3, 3)))
    assert data.load(str(tmp_path / "c.npy")).max_level == 255


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_a_folder_of_images(tmp_path, mode, channels):
    shape = (6, 5) if channels == 1 else (6, 5, 3)
    for i in range(10):
        Image.fromarray(np.full(shape, i * 20, np.uint8), mode).save(tmp_path / f"{i}.png")
    got = data.load(str(tmp_path), split="last")
    assert got.train.shape == (8, 6, 5, channels)
    assert got.train[:, 0, 0, 0].tolist() == [i * 20 for i in range(8)]
    for part in ("train", "test"):
        (tmp_path / "parts" / part).mkdir(parents=True)
        Image.fromarray(np.full(shape, 100, np.uint8), mode).save(tmp_path / "parts" / part / "0.jpg")
    assert data.load(str(tmp_path / "parts")).split == "the source's own (training train/, test test/)"


def test_unknown_names_offer_the_near_ones():
    with pytest.raises(UserError, match="'digits'"):
        data.load("digit")
    with pytest.raises(UserError, match="'mnist'"):
        data.load("mnits")


def test_near_names_do_not_mind_the_case():
    with pytest.raises(UserError, match="Did you mean 'mnist'"):
        data.load("MNIST")


def test_text_labels_become_numbers(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=np.zeros((4, 2, 2)), x_test=np.zeros((3, 2, 2)), y_test=np.array(["b", "a", "b"]))
    assert data.load(str(tmp_path / "a.npz")).test_labels.tolist() == [1, 0, 1]


def test_factors_beside_the_images_are_split_with_them(tmp_path):
    """Each image has the value of its second factor."""
    factors = np.stack([np.arange(40) // 20, np.arange(40)], axis=1)
    images = np.broadcast_to(factors[:, 1, None, None], (40, 3, 3)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", train=images, factors=factors, factor_names=np.array(["half", "level"]))
    got = data.load(str(tmp_path / "a.npz"), validation_fraction=0.25)
    assert got.factor_names == ("half", "level")
    assert (got.train_factors.shape, got.test_factors.shape) == ((24, 2), (8, 2))
    for rows, values in ((got.train, got.train_factors), (got.test, got.test_factors)):
        np.testing.assert_array_equal(rows[:, 0, 0, 0], values[:, 1])
    np.savez(tmp_path / "b.npz", x_train=images, x_test=images[:5], test_factors=factors[:5])
    got = data.load(str(tmp_path / "b.npz"))
    assert got.train_factors is None
    assert got.factor_names is None
    np.testing.assert_array_equal(got.test_factors, factors[:5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factors": np.zeros((9, 2), int)}, r"a row for each of 10 examples, got shape \(9, 2\)"),
        ({"factors": np.zeros(10, int)}, r"shape \(examples, factors\).* got shape \(10,\)"),
        ({"factors": np.zeros((10, 2))}, "expected factors as integers.* dtype float64"),
        ({"test_factors": np.zeros((10, 2), int)}, "a row for each of 0 examples"),
        ({"factors": np.zeros((10, 2), int), "factor_names": np.array(["a"])}, r"each with its name, got \[1, 2\]"),
        (
            {"factors": np.zeros((10, 2), int), "test": np.zeros((3, 2, 2)), "test_factors": np.zeros((3, 1), int)},
            r"the same factors in all parts, .*got \[1, 2\]",
        ),
    ],
)
def test_factors_that_do_not_fit_are_refused(tmp_path, changes, message):
    np.savez(tmp_path / "a.npz", **({"train": np.zeros((10, 2, 2))} | changes))
    with pytest.raises(UserError, match=message):
        data.load(str(tmp_path / "a.npz"))


TFDS_FACTORS = {
    "dsprites": ("shape", "scale", "orientation", "x_position", "y_position"),
    "shapes3d": ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation"),
}


@pytest.mark.parametrize(("name", "names"), TFDS_FACTORS.items(), ids=TFDS_FACTORS)
def test_tfds_sets_made_from_factors_bring_them_in_their_published_order(tmp_path, monkeypatch, name, names):
    """The real builders' features, ten records of our own; the second time from the cache, damaged in between."""
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 3, (10, len(names)))
    shape = (64, 64) if name == "dsprites" else (64, 64, 3)
    images = rng.integers(0, 2, (10, *shape), dtype=np.uint8)
    records = []
    for image, row in zip(images, factors, strict=True):
        content = io.BytesIO()
        Image.fromarray(image).save(content, "png")
        labels = {f"label_{factor}": int(value) for factor, value in zip(names, row, strict=True)}
        records.append({"image": content.getvalue()} | labels)
    write_tfds(name, tmp_path, {"train": records})
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path / "cache"))
    for attempt in range(3):
        got = data.load(name, data_dir=str(tmp_path), split="last", test_fraction=0.3)
        assert got.factor_names == names
        np.testing.assert_array_equal(got.train_factors, factors[:7])
        np.testing.assert_array_equal(got.test_factors, factors[7:])
        np.testing.assert_array_equal(got.train, images[:7].reshape(7, 64, 64, -1))
        assert got.test_labels.shape == (3,)
        assert got.max_level == 1
        [cached] = (tmp_path / "cache" / "tfds").glob(f"{name}-*.npz")
        if attempt == 1:
            np.savez(cached, images=images)  # as one that was written without factors
    with np.load(cached) as archive:
        np.testing.assert_array_equal(archive["factors"], factors)


def test_an_unprepared_tfds_name_says_what_to_install_at_once(tmp_path):
    with pytest.raises(UserError, match="tfds-prepare"):
        data.load("fashion_mnist", data_dir=str(tmp_path))


def test_idx_refuses_a_type_that_does_not_exist(tmp_path):
    (tmp_path / "a").write_bytes(struct.pack(">HBBI", 0, 0x0A, 1, 1) + b"\0\0\0\0")  # a type that does not exist
    with pytest.raises(UserError, match="unsigned bytes"):
        read_idx(tmp_path / "a")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"test_fraction": float("nan")}, "test_fraction: expected a number from 0 to below 1, got nan"),
        ({"validation_fraction": -0.5}, "validation_fraction: expected a number from 0 to below 1, got -0.5"),
        ({"split": "first"}, "unknown split 'first'"),
        ({"split_seed": -1}, "split_seed: expected a whole number >= 0, got -1"),
    ],
)
def test_a_split_that_cannot_be(options, words):
    with pytest.raises(UserError, match=words):
        data.load("digits", **options)


def test_a_path_is_a_name(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((10, 2, 2)))
    assert data.load(tmp_path / "x.npy").data_shape == (2, 2, 1)


def test_mnist_from_idx_files_is_mnist(shared_data):
    mnist = data.load(str(shared_data / "mnist"))
    assert (mnist.train.shape, mnist.test.shape) == ((60000, 28, 28, 1), (10000, 28, 28, 1))
    assert int(mnist.train.sum(dtype=np.int64)) == 1567298545
    assert mnist.test_labels[:5].tolist() == [7, 2, 1, 0, 4]


@pytest.mark.slow
def test_mnist_through_tfds_is_mnist(shared_data, tmp_path, monkeypatch):
    """The real builder and files, read without TensorFlow; the second time from the cache, then from another folder."""
    direct = data.load(str(shared_data / "mnist"))
    for _ in range(2):
        through_tfds = data.load("mnist", data_dir=str(shared_data / "tfds"))
        for one, other in ((direct.train, through_tfds.train), (direct.test, through_tfds.test)):
            # TFDS shuffles when it prepares: compare the sets of images
            assert sorted(hash(image.tobytes()) for image in one) == sorted(hash(image.tobytes()) for image in other)
        assert np.bincount(through_tfds.test_labels).tolist() == np.bincount(direct.test_labels).tolist()
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path / "cache"))
    elsewhere = data.load("mnist", data_dir=str(shutil.copytree(shared_data / "tfds", tmp_path / "elsewhere")))
    for name in ("train", "test", "test_labels"):
        np.testing.assert_array_equal(getattr(elsewhere, name), getattr(through_tfds, name))  # in one order
