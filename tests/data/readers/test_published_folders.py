"""Folders in which the parts of published data sets lie in several files."""

import numpy as np
import pytest
from published_files import NORB, norb_bytes
from scipy.io import savemat

from vae_jax import data
from vae_jax.errors import DataWarning

RNG = np.random.default_rng(0)


def test_binarized_mnist(tmp_path):
    images = {
        part: RNG.integers(0, 2, (count, 28, 28), dtype=np.uint8) for part, count in (("train", 9), ("valid", 4), ("test", 5))
    }
    for part, array in images.items():
        np.savetxt(tmp_path / f"binarized_mnist_{part}.amat", array.reshape(-1, 784), fmt="%d")
    got = data.load(tmp_path)
    for part, array in (("train", got.train), ("valid", got.validation), ("test", got.test)):
        np.testing.assert_array_equal(array[..., 0], images[part])
    assert (got.max_level, got.notes) == (1, ())


def test_svhn(tmp_path):
    images = {part: RNG.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for part, count in (("train", 9), ("test", 5))}
    digits = {part: RNG.integers(0, 10, len(array)) for part, array in images.items()}
    for part, array in (*images.items(), ("extra", images["train"])):
        labels = digits[part if part in digits else "train"]
        stored = np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)
        savemat(tmp_path / f"{part}_32x32.mat", {"X": np.moveaxis(array, 0, -1), "y": stored})
    with pytest.warns(DataWarning, match=r"extra_32x32.mat is not used"):
        got = data.load(tmp_path)
    for part, array, labels in (("train", got.train, got.train_labels), ("test", got.test, got.test_labels)):
        np.testing.assert_array_equal(array, images[part])
        np.testing.assert_array_equal(labels, digits[part])
    assert "the label 10 is the digit 0" in got.split


def test_downsampled_imagenet(tmp_path):
    """Ten files of training images in one folder, and the validation images in another."""
    images, labels = RNG.integers(0, 256, (30, 16, 16, 3), dtype=np.uint8), RNG.integers(1, 1001, 30)
    rows = images.transpose(0, 3, 1, 2).reshape(30, -1)
    (tmp_path / "Imagenet16_train_npz").mkdir()
    (tmp_path / "Imagenet16_val_npz").mkdir()
    for batch in range(10):
        part = slice(2 * batch, 2 * batch + 2)
        path = tmp_path / "Imagenet16_train_npz" / f"train_data_batch_{batch + 1}.npz"
        np.savez(path, data=rows[part], labels=labels[part], mean=rows.mean(axis=0))
    np.savez(tmp_path / "Imagenet16_val_npz" / "val_data.npz", data=rows[20:], labels=labels[20:])
    got = data.load(tmp_path, split="last", test_fraction=0.25)
    np.testing.assert_array_equal(np.concatenate([got.train, got.test]), images[:20])
    np.testing.assert_array_equal(np.concatenate([got.train_labels, got.test_labels]), labels[:20])
    np.testing.assert_array_equal(got.validation, images[20:])
    np.testing.assert_array_equal(got.validation_labels, labels[20:])
    assert got.notes == ()


def test_pythae(tmp_path):
    images = {part: RNG.random((count, 3, 8, 10)).astype(np.float32) for part, count in (("train", 9), ("eval", 4))}
    for part, array in images.items():
        np.savez(tmp_path / f"{part}_data.npz", data=array)
    with pytest.warns(DataWarning, match="are taken as channels first"):
        got = data.load(tmp_path, split="last")
    np.testing.assert_array_equal(np.concatenate([got.train, got.test]), images["train"].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(got.validation, images["eval"].transpose(0, 2, 3, 1))


def test_small_norbs_parts_as_two_sources(tmp_path):
    pairs = [RNG.integers(0, 256, (count, 2, 9, 7), dtype=np.uint8) for count in (6, 3)]
    for name, array in zip(NORB, pairs, strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}-dat.mat").write_bytes(norb_bytes(array))
    got = data.load(tmp_path / NORB[0], test_dataset=tmp_path / NORB[1])
    np.testing.assert_array_equal(got.train[..., 0], pairs[0][:, 0])
    np.testing.assert_array_equal(got.test[..., 0], pairs[1][:, 0])
