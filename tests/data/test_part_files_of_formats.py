"""Folders with files for each part: static MNIST, SVHN, downsampled ImageNet, pythae, the Hub, tables; labels of all parts."""

import io

import numpy as np
import pytest
import scipy.io
from PIL import Image
from sources import write_tfds

from vae_jax import data
from vae_jax.errors import DataWarning, UserError

RNG = np.random.default_rng(0)


def levels(*shape, high=256):
    return RNG.integers(0, high, shape, dtype=np.uint8)


def test_static_mnist(tmp_path):
    """A row of 784 tokens for each image."""
    parts = {"train": levels(6, 28, 28, high=2), "valid": levels(3, 28, 28, high=2), "test": levels(4, 28, 28, high=2)}
    for name, images in parts.items():
        np.savetxt(tmp_path / f"binarized_mnist_{name}.amat", images.reshape(-1, 784), fmt="%d")
    got = data.load(tmp_path)
    for part, name in (("train", "train"), ("validation", "valid"), ("test", "test")):
        np.testing.assert_array_equal(getattr(got, part)[..., 0], parts[name])
    assert got.max_level == 1
    single = tmp_path / "binarized_mnist_train.amat"
    with pytest.warns(DataWarning, match="its validation set is used, and its training set and test set are not"):
        named = data.load(single, test_dataset=tmp_path / "binarized_mnist_test.amat", validation_dataset=tmp_path)
    assert named.fingerprint() == got.fingerprint()


def test_svhn(tmp_path):
    """X is (32, 32, 3, N), and label 10 stands for the digit 0."""
    images, labels = levels(9, 32, 32, 3), np.array([10, 1, 2, 10, 3, 4, 9, 8, 7], np.uint8)
    for name, rows in (("train", slice(0, 4)), ("test", slice(4, 6)), ("extra", slice(6, 9))):
        content = {"X": images[rows].transpose(1, 2, 3, 0), "y": labels[rows, None]}
        scipy.io.savemat(tmp_path / f"{name}_32x32.mat", content)
    with pytest.warns(DataWarning, match=r"extra_32x32.mat is not used. To train on more examples"):
        got = data.load(tmp_path)
    np.testing.assert_array_equal(got.train, images[:4])
    np.testing.assert_array_equal(got.test, images[4:6])
    assert (got.train_labels.tolist(), got.test_labels.tolist()) == ([0, 1, 2, 0], [3, 4])


def test_downsampled_imagenet(tmp_path):
    """Ten files of planes (N, 3072) with labels from 1, in the order of their numbers, and one for validation."""
    images, labels = levels(23, 8, 8, 3), RNG.integers(1, 1001, 23)
    train, val = tmp_path / "Imagenet8_train_npz", tmp_path / "Imagenet8_val_npz"
    train.mkdir()
    val.mkdir()
    for number in range(1, 12):
        rows = slice(2 * number - 2, 2 * number) if number < 11 else slice(20, 23)
        path = train / f"train_data_batch_{number}.npz" if number < 11 else val / "val_data.npz"
        planes = images[rows].transpose(0, 3, 1, 2).reshape(-1, 192)
        np.savez(path, data=planes, labels=labels[rows], mean=np.zeros(192))
    got = data.load(tmp_path, split="last", test_fraction=0.2)
    np.testing.assert_array_equal(np.concatenate([got.train, got.test]), images[:20])
    np.testing.assert_array_equal(got.validation, images[20:])
    np.testing.assert_array_equal(np.concatenate([got.train_labels, got.test_labels]), labels[:20])
    np.testing.assert_array_equal(got.validation_labels, labels[20:])
    assert got.notes == ()


def test_pythae(tmp_path):
    """One array data, (N, C, H, W)."""
    train, held_out = levels(6, 3, 9, 7), levels(2, 3, 9, 7)
    np.savez(tmp_path / "train_data.npz", data=train)
    np.savez(tmp_path / "eval_data.npz", data=held_out)
    with pytest.warns(DataWarning, match=r"images of shape \(3, 9, 7\) are taken as channels first"):
        got = data.load(tmp_path, split="last")
    np.testing.assert_array_equal(np.concatenate([got.train, got.test]), train.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(got.validation, held_out.transpose(0, 2, 3, 1))


def png(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


def test_shards_of_the_hub(tmp_path):
    """Parquet with a column image of {bytes, path}, in data/."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images, labels = levels(7, 6, 5, 3), np.arange(7) % 3
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("---\n")
    names = {"train-00000-of-00002": slice(0, 3), "train-00001-of-00002": slice(3, 5), "test-00000-of-00001": slice(5, 7)}
    for name, rows in names.items():
        table = {"image": [{"bytes": png(image), "path": None} for image in images[rows]], "label": labels[rows]}
        parquet.write_table(pyarrow.table(table), tmp_path / "data" / f"{name}.parquet")
    with pytest.warns(DataWarning, match=r"README.md is left out"):
        got = data.load(tmp_path)
    np.testing.assert_array_equal(got.train, images[:5])
    np.testing.assert_array_equal(got.test, images[5:])
    assert (got.train_labels.tolist(), got.test_labels.tolist()) == ([0, 1, 2, 0, 1], [2, 0])


def write_csv(path, header, rows):
    path.write_text("\n".join([",".join(header), *(",".join(map(str, row)) for row in rows)]) + "\n")


def test_tables_with_words_as_labels(tmp_path):
    pytest.importorskip("pandas")
    columns, words = RNG.normal(size=(8, 2)).round(3), np.array(list("bbacacab"))
    header = ["length", "width", "species"]
    for name, rows in (("train", slice(0, 5)), ("test", slice(5, 8))):
        content = [(*values, word) for values, word in zip(columns[rows], words[rows], strict=True)]
        write_csv(tmp_path / f"iris_{name}.csv", header, content)
    got = data.load(tmp_path, label_column="species")
    np.testing.assert_array_equal(np.concatenate([got.train, got.test]), columns.astype(np.float32))
    assert (got.column_names, got.label_names) == (("length", "width"), ("a", "b", "c"))
    assert (got.train_labels.tolist(), got.test_labels.tolist()) == ([1, 1, 0, 2, 0], [2, 0, 1])
    paths = tmp_path / "iris_train.csv", tmp_path / "iris_test.csv"
    assert data.load(paths[0], test_dataset=paths[1], label_column="species").fingerprint() == got.fingerprint()
    np.save(tmp_path / "iris_test.npy", columns[5:, ::-1])
    got = data.load(paths[0], test_dataset=tmp_path / "iris_test.npy", label_column="species")  # which has no columns
    assert got.test_labels is None
    write_csv(paths[1], ["width", "length", "species"], [(1.0, 2.0, "a")])
    with pytest.raises(UserError, match=r"expected the columns of .*, in the same order, got first 'length' and 'width'"):
        data.load(paths[0], test_dataset=paths[1], label_column="species")


def test_labels_of_all_parts_of_a_tfds_set_and_their_names(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path / "cache"))
    images = levels(6, 28, 28)
    splits = {"train": (0, 1, 2), "validation": (3,), "test": (4, 5)}
    records = {split: [{"image": png(images[i]), "label": i + 3} for i in rows] for split, rows in splits.items()}
    write_tfds("fashion_mnist", tmp_path, records)
    for stream in (False, True):
        got = data.load("fashion_mnist", data_dir=str(tmp_path), stream=stream)
        labels = (got.train_labels, got.validation_labels, got.test_labels)
        assert [part.tolist() for part in labels] == [[3, 4, 5], [6], [7, 8]]
        assert got.label_names[3:6] == ("Dress", "Coat", "Sandal")
    np.save(tmp_path / "x.npy", images[:2, :, :, None])
    with pytest.warns(DataWarning, match="its test set is used, and its training set and validation set are not"):
        named = data.load(tmp_path / "x.npy", test_dataset="fashion_mnist", data_dir=str(tmp_path))
    np.testing.assert_array_equal(named.test[..., 0], images[4:])
    assert named.test_labels.tolist() == [7, 8]


def test_labels_of_bundled_data():
    digits = data.load("digits", validation_fraction=0.1)
    for part in ("train", "validation", "test"):
        assert len(getattr(digits, f"{part}_labels")) == len(getattr(digits, part))
    assert data.load("sprites").train_labels is None
