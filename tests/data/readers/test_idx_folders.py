"""IDX folders as torchvision leaves them: MNIST, EMNIST with several data sets in one folder, QMNIST with wide labels."""

import struct

import numpy as np
import pytest
from sources import write_idx

from vae_jax import data
from vae_jax.errors import UserError

RNG = np.random.default_rng(0)
TRAIN, TEST = (RNG.integers(0, 256, (count, 5, 7), dtype=np.uint8) for count in (12, 4))
TRAIN_LABELS, TEST_LABELS = (RNG.integers(0, 10, count, dtype=np.uint8) for count in (12, 4))


def write_emnist(folder, name, shift=0):
    """Writes the four files of one EMNIST data set, raw and gzipped."""
    for ending in ("", ".gz"):
        write_idx(folder / f"emnist-{name}-train-images-idx3-ubyte{ending}", TRAIN + shift)
        write_idx(folder / f"emnist-{name}-train-labels-idx1-ubyte{ending}", TRAIN_LABELS)
        write_idx(folder / f"emnist-{name}-test-images-idx3-ubyte{ending}", TEST + shift)
        write_idx(folder / f"emnist-{name}-test-labels-idx1-ubyte{ending}", TEST_LABELS)
    return folder


def check(got, train, test):
    np.testing.assert_array_equal(got.train[:][..., 0], train)
    np.testing.assert_array_equal(got.test[..., 0], test)
    np.testing.assert_array_equal(got.train_labels, TRAIN_LABELS)
    np.testing.assert_array_equal(got.test_labels, TEST_LABELS)
    assert got.notes == ()


@pytest.mark.parametrize("stream", [False, True])
def test_torchvisions_folder_of_raw_and_packed_files(tmp_path, stream):
    folder = tmp_path / "MNIST" / "raw"
    for ending in ("", ".gz"):
        write_idx(folder / f"train-images-idx3-ubyte{ending}", TRAIN)
        write_idx(folder / f"train-labels-idx1-ubyte{ending}", TRAIN_LABELS)
        write_idx(folder / f"t10k-images-idx3-ubyte{ending}", TEST)
        write_idx(folder / f"t10k-labels-idx1-ubyte{ending}", TEST_LABELS)
    check(data.load(folder, stream=stream), TRAIN, TEST)


@pytest.mark.parametrize("stream", [False, True])
def test_emnist_is_transposed_on_request(tmp_path, stream):
    folder = write_emnist(tmp_path / "EMNIST" / "raw", "balanced")
    got = data.load(folder, stream=stream, transpose=True)
    assert got.data_shape == (7, 5, 1)
    check(got, TRAIN.swapaxes(1, 2), TEST.swapaxes(1, 2))
    as_stored = data.load(folder, stream=stream)
    check(as_stored, TRAIN, TEST)
    assert "transposed, as EMNIST stores them (`transpose=True` turns them)" in as_stored.split
    assert "transposed" not in got.split
    if stream:
        assert got.fingerprint() == data.load(folder, transpose=True).fingerprint()
        index = np.array([7, 2, 2])
        rows = np.empty((3, 7, 5, 1), np.uint8)
        got.train.gather(index, rows)
        np.testing.assert_array_equal(rows[..., 0], TRAIN.swapaxes(1, 2)[index])


def test_several_emnist_data_sets_in_one_folder(tmp_path):
    write_emnist(tmp_path, "balanced")
    write_emnist(tmp_path, "letters", shift=1)
    with pytest.raises(UserError, match=r"name the one that is meant \(emnist-balanced and emnist-letters\), such as `array="):
        data.load(tmp_path)
    check(data.load(tmp_path, array="emnist-letters", transpose=True), (TRAIN + 1).swapaxes(1, 2), (TEST + 1).swapaxes(1, 2))
    with pytest.raises(UserError, match=r"unknown array 'emnist-leters'. Did you mean 'emnist-letters'"):
        data.load(tmp_path, array="emnist-leters")


def test_qmnist_has_labels_of_eight_integers(tmp_path):
    for part, images, labels in (("train", TRAIN, TRAIN_LABELS), ("test", TEST, TEST_LABELS)):
        write_idx(tmp_path / f"qmnist-{part}-images-idx3-ubyte", images)
        rows = RNG.integers(0, 60000, (len(labels), 8)).astype(">i4")
        rows[:, 0] = labels
        header = struct.pack(">HBBII", 0, 0x0C, 2, *rows.shape)
        (tmp_path / f"qmnist-{part}-labels-idx2-int").write_bytes(header + rows.tobytes())
    check(data.load(tmp_path), TRAIN, TEST)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_images_of_an_array_are_transposed(tmp_path, stream, flat):
    side = RNG.integers(0, 256, (10, 6, 6), dtype=np.uint8)
    np.save(tmp_path / "x.npy", side.reshape(10, 36) if flat else side)
    options = {"event": "image"} if flat else {}
    got = data.load(tmp_path / "x.npy", stream=stream, transpose=True, split="last", validation_fraction=0.25, **options)
    images = np.concatenate([got.train[:], got.validation, got.test])
    np.testing.assert_array_equal(images[..., 0], side.swapaxes(1, 2))


@pytest.mark.parametrize("stream", [False, True])
def test_channels_first_images_are_transposed(tmp_path, stream):
    images = RNG.random((10, 3, 6, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", images)
    got = data.load(tmp_path / "x.npy", stream=stream, layout="channels_first", transpose=True, split="last")
    np.testing.assert_array_equal(np.concatenate([got.train[:], got.test]), images.transpose(0, 3, 2, 1))


def test_transposing_vectors_or_computed_images_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((10, 6)))
    with pytest.raises(UserError, match=r"`transpose=True` is for images, got examples of shape \(6,\)"):
        data.load(tmp_path / "x.npy", transpose=True)
    with pytest.raises(UserError, match="its images are computed"):
        data.load("sprites", transpose=True)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_file_alone_is_read_without_its_folder(tmp_path, ending):
    file = tmp_path / f"t10k-images-idx3-ubyte{ending}"
    write_idx(file, TEST)
    got = data.load(file, test_fraction=0.25)
    assert got.train.shape == (3, 5, 7, 1)
    assert sorted(map(bytes, np.concatenate([got.train[:], got.test]))) == sorted(map(bytes, TEST))
    if not ending:
        assert data.load(file, test_fraction=0.25, stream=True).train.shape == (3, 5, 7, 1)
    with pytest.raises(UserError, match=rf"To read one file alone, name it: .*t10k-images-idx3-ubyte{ending}\."):
        data.load(tmp_path)
    write_idx(tmp_path / "labels-idx1-ubyte", TEST_LABELS)
    with pytest.raises(UserError, match="Pass the folder that it is in"):
        data.load(tmp_path / "labels-idx1-ubyte")
