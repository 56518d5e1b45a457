""".amat text, smallNORB, the binary version of CIFAR, and the formats that are refused."""

import gzip
import pickle
import struct

import numpy as np
import pytest
from published_files import NORB, cifar_bytes, norb_bytes

from vae_jax import data
from vae_jax.data.readers import amat
from vae_jax.errors import DataWarning, UserError

RNG = np.random.default_rng(0)
LAST = {"split": "last", "test_fraction": 0.25}


def whole(got, field=""):
    """All images (or labels) of a data set whose test set is its last block."""
    return np.concatenate([getattr(got, f"train{field}")[:], getattr(got, f"test{field}")])


# .amat


@pytest.mark.parametrize("ending", ["\n", " \n", "\r\n"])
@pytest.mark.parametrize("closed", [False, True])
def test_binarized_mnist(tmp_path, ending, closed):
    images = RNG.integers(0, 2, (12, 28, 28), dtype=np.uint8)
    text = ending.join(" ".join(map(str, image.ravel())) for image in images) + (ending if closed else "")
    path = tmp_path / "binarized_mnist_train.amat"
    path.write_text(text, newline="")
    got = data.load(path, **LAST)
    np.testing.assert_array_equal(whole(got)[..., 0], images)
    assert (got.max_level, got.train.dtype, got.notes) == (1, np.uint8, ())
    vectors = data.load(path, event="vector", **LAST)
    np.testing.assert_array_equal(whole(vectors), images.reshape(12, 784))


def test_amat_with_floats_and_labels(tmp_path):
    """The layout of Larochelle et al. (2007): 784 floats, then the label."""
    images, labels = RNG.random((12, 28, 28)).astype(np.float32), RNG.integers(0, 10, 12)
    np.savetxt(tmp_path / "a.amat", np.column_stack([images.reshape(12, -1), labels]), fmt="%.9e", delimiter="   ")
    got = data.load(tmp_path / "a.amat", **LAST)
    np.testing.assert_array_equal(whole(got)[..., 0], images)
    np.testing.assert_array_equal(whole(got, "_labels"), labels)
    assert "the last column has the labels" in got.split
    vectors = data.load(tmp_path / "a.amat", event="vector", **LAST)
    np.testing.assert_array_equal(whole(vectors), images.reshape(12, -1))
    np.testing.assert_array_equal(whole(vectors, "_labels"), labels)
    np.savetxt(tmp_path / "b.amat", images[:, :2, :5].reshape(12, 10))
    np.testing.assert_allclose(whole(data.load(tmp_path / "b.amat", **LAST)), images[:, :2, :5].reshape(12, 10))


def test_zeros_and_ones_are_read_without_parsing():
    assert amat._as_bits(b"0 1 1\n1 0 0\n").tolist() == [[0, 1, 1], [1, 0, 0]]
    assert amat._as_bits(b"0 1 1 \r\n1 0 0").tolist() == [[0, 1, 1], [1, 0, 0]]
    for other in (b"0 2 1\n", b"0 1\n1 01\n", b"0,1\n1 0\n", b"0 1\n1 0 1\n", b"10 1\n", b"\n", b"0 1\n1"):
        assert amat._as_bits(other) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 1 0 1\n0 1 0\n1 1 1 1\n", "rows of numbers of one length.*number of columns changed from 4 to 3"),
        ("0 1 0 x\n0 1 0 1\n", "expected rows of numbers of one length"),
        ("", "got none. The file is empty"),
        ("\n\n", "got none. The file is empty"),
        ("0 1 0 nan\n0 1 0 1\n" * 5, "expected finite numbers"),
    ],
)
def test_damaged_amat(tmp_path, text, words):
    (tmp_path / "a.amat").write_text(text)
    with pytest.raises(UserError, match=rf"a\.amat: .*{words}"):
        data.load(tmp_path / "a.amat")


# smallNORB


def write_norb(folder, ending=""):
    """Writes both parts; returns the pairs of images and the factors of each."""
    written = []
    for name, instances, count in zip(NORB, ((4, 6, 7, 8, 9), (0, 1, 2, 3, 5)), (14, 10), strict=True):
        pairs = RNG.integers(0, 256, (count, 2, 9, 7), dtype=np.uint8)
        categories = RNG.integers(0, 5, count).astype(np.int32)
        columns = (
            RNG.choice(instances, count),
            RNG.integers(0, 9, count),
            RNG.integers(0, 18, count),
            RNG.integers(0, 6, count),
        )
        info = np.stack(columns, axis=1).astype(np.int32)
        on_disk = info * [1, 1, 2, 1]  # azimuths are stored as 0, 2, 4, ..., 34
        for kind, array in (("dat", pairs), ("cat", categories), ("info", on_disk.astype(np.int32))):
            content = norb_bytes(array)
            (folder / f"{name}-{kind}.mat{ending}").write_bytes(gzip.compress(content) if ending else content)
        written.append((pairs, np.column_stack([categories, info])))
    return written


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_small_norb(tmp_path, ending):
    (pairs, factors), (test_pairs, test_factors) = write_norb(tmp_path, ending)
    got = data.load(tmp_path)
    np.testing.assert_array_equal(got.train[..., 0], pairs[:, 0])
    np.testing.assert_array_equal(got.test[..., 0], test_pairs[:, 0])
    np.testing.assert_array_equal(got.train_factors, factors)
    np.testing.assert_array_equal(got.test_factors, test_factors)
    np.testing.assert_array_equal(got.train_labels, factors[:, 0])
    np.testing.assert_array_equal(got.test_labels, test_factors[:, 0])
    assert got.factor_names == ("category", "instance", "elevation", "azimuth", "lighting")
    assert got.label_names == ("animal", "human", "airplane", "truck", "car")
    assert (got.data_shape, got.max_level, got.notes) == ((9, 7, 1), 255, ())
    assert got.split.endswith("the left camera of each pair, as in disentanglement_lib")


def test_one_file_of_small_norb_is_known_by_its_content(tmp_path):
    (pairs, factors), _ = write_norb(tmp_path)
    path = tmp_path / f"{NORB[0]}-dat.mat"
    got = data.load(path, **LAST)
    np.testing.assert_array_equal(whole(got)[..., 0], pairs[:, 0])
    np.testing.assert_array_equal(whole(got, "_factors"), factors)
    path.rename(tmp_path / "images.dat")
    got = data.load(tmp_path / "images.dat", **LAST)
    np.testing.assert_array_equal(whole(got)[..., 0], pairs[:, 0])
    assert got.train_factors is None


def test_packed_files_of_small_norb_beside_unpacked_ones(tmp_path):
    (pairs, _), _ = write_norb(tmp_path)
    write_norb(tmp_path, ".gz")
    np.testing.assert_array_equal(data.load(tmp_path).train[..., 0], pairs[:, 0])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "training-dat",
            norb_bytes(np.zeros((4, 2, 3, 3), np.uint8))[:-1],
            r"expected 72 bytes for shape \(4, 2, 3, 3\), got 71",
        ),
        ("training-dat", struct.pack("<6i", 507333717, 4, *[2**31 - 1] * 4), "unpacks to"),
        ("training-dat", struct.pack("<6i", 507333717, 4, 4, 2, -3, 3), "has the sizes"),
        ("training-dat", b"MATLAB 5.0 MAT-file", "header is not that of an array"),
        ("training-dat", b"\x55", "not a readable file of smallNORB"),
        ("training-dat", norb_bytes(np.zeros((4, 3, 3), np.uint8)), "expected bytes of shape .*, got uint8"),
        ("training-cat", norb_bytes(np.zeros(5, np.int32)), r"expected a row of integers for each of 4 images, got \(5,\)"),
        ("training-cat", norb_bytes(np.full(4, 5, np.int32)), "expected categories from 0 to 4, got 5 to 5"),
        ("training-info", norb_bytes(np.zeros((4, 3), np.int32)), r"expected 4 columns, got shape \(4, 3\)"),
    ],
)
def test_damaged_small_norb(tmp_path, name, content, words):
    for kind, array in (("dat", np.zeros((4, 2, 3, 3), np.uint8)), ("cat", np.zeros(4, np.int32))):
        (tmp_path / f"a-training-{kind}.mat").write_bytes(norb_bytes(array))
    (tmp_path / f"a-{name}.mat").write_bytes(content)
    with pytest.raises(UserError, match=words):
        data.load(tmp_path)


def test_small_norb_without_images_is_refused(tmp_path):
    (tmp_path / "a-training-cat.mat").write_bytes(norb_bytes(np.zeros(5, np.int32)))
    with pytest.raises(UserError, match=r"expected the training images \(a file ending in -dat.mat\), got a-training-cat.mat"):
        data.load(tmp_path)


# CIFAR


IMAGES, TEST_IMAGES = (RNG.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for count in (12, 5))


def test_cifar_10(tmp_path):
    labels, test_labels = RNG.integers(0, 10, 12), RNG.integers(0, 10, 5)
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    for batch in (10, 2, 1):  # data_batch_10 comes after data_batch_2
        part = {1: slice(0, 5), 2: slice(5, 8), 10: slice(8, 12)}[batch]
        (tmp_path / f"data_batch_{batch}.bin").write_bytes(cifar_bytes(IMAGES[part], labels[part]))
    (tmp_path / "test_batch.bin").write_bytes(cifar_bytes(TEST_IMAGES, test_labels))
    (tmp_path / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    got = data.load(tmp_path)
    for loaded, expected in (
        (got.train, IMAGES),
        (got.test, TEST_IMAGES),
        (got.train_labels, labels),
        (got.test_labels, test_labels),
    ):
        np.testing.assert_array_equal(loaded, expected)
    assert (got.label_names, got.notes) == (names, ())
    assert "training data_batch_1.bin, data_batch_2.bin and data_batch_10.bin, test test_batch.bin" in got.split
    with pytest.raises(UserError, match=r"label_column: .*CIFAR-10 has one label"):
        data.load(tmp_path, label_column="fine")


@pytest.mark.parametrize("column", ["", "coarse"])
def test_cifar_100(tmp_path, column):
    fine, test_fine = RNG.integers(20, 100, 12), RNG.integers(20, 100, 5)
    (tmp_path / "train.bin").write_bytes(cifar_bytes(IMAGES, fine // 5, fine))
    (tmp_path / "test.bin").write_bytes(cifar_bytes(TEST_IMAGES, test_fine // 5, test_fine))
    (tmp_path / "fine_label_names.txt").write_text("".join(f"fine_{i}\n" for i in range(100)))
    (tmp_path / "coarse_label_names.txt").write_text("".join(f"coarse_{i}\n" for i in range(20)))
    got = data.load(tmp_path, label_column=column)
    divisor, name = (5, "coarse") if column else (1, "fine")
    for loaded, expected in (
        (got.train, IMAGES),
        (got.test, TEST_IMAGES),
        (got.train_labels, fine // divisor),
        (got.test_labels, test_fine // divisor),
    ):
        np.testing.assert_array_equal(loaded, expected)
    assert got.label_names[:2] == (f"{name}_0", f"{name}_1")
    assert f"labels are the {name} ones" in got.split
    with pytest.raises(UserError, match="unknown label column 'fin'"):
        data.load(tmp_path, label_column="fin")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"data_batch_1.bin": 3072}, r"data_batch_1.bin: expected records of 3073 bytes .* got a file of 3072 bytes"),
        ({"train.bin": 0}, "got a file of 0 bytes"),
        ({"test_batch.bin": 3073}, r"expected training images \(data_batch_1.bin"),
        (
            {"train.bin": 3074, "data_batch_1.bin": 3073},
            "files of CIFAR-10 or of CIFAR-100, got data_batch_1.bin and train.bin",
        ),
        ({"a/train.bin": 3074, "b/train.bin": 3074}, "expected each file once"),
        ({"batches.meta.txt": 3}, "expected training images"),
    ],
)
def test_incomplete_cifar(tmp_path, files, words):
    for name, size in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    with pytest.raises(UserError, match=words):
        data.load(tmp_path)


def test_one_file_of_cifar_says_what_to_pass(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3073))
    with pytest.raises(UserError, match=r"ending in '.bin'. Pass the folder that it is in"):
        data.load(tmp_path / "data_batch_1.bin")


# Refused formats


class Trap:
    """Unpickles by an action that a test can see."""

    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was loaded')",)


PICKLE = pickle.dumps({b"data": Trap()}, protocol=2)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["data_batch_1", "test_batch", "batches.meta"], "python version of CIFAR is pickled.*cifar-10-binary.tar.gz"),
        (["train", "test", "meta"], "python version of CIFAR is pickled.* cifar-100-binary.tar.gz"),
        (["train_images.pt"], r"PyTorch are pickled.* np.save\('images.npy', tensor.numpy\(\)\)"),
        (["freyfaces.pkl"], r"a pickle is never loaded.* np.save\('images.npy', images\)"),
        (["data.mdb", "lock.mdb"], "LMDB databases are not read"),
        (["shard-000000.tar"], "WebDataset shards among them, are not read.* Unpack it"),
        (["cifar-10-python.tar.gz"], "Unpack it into a folder"),
        (["ptb.train.txt", "ptb.test.txt"], r'text is not read.* \(examples, length, symbols\), read with `event="series"`'),
        (["zinc.smi"], "text is not read"),
        (["x.tfrecord-00000-of-00001"], "TensorFlow Datasets alone"),
    ],
)
@pytest.mark.parametrize("in_folder", [False, True])
def test_refused_formats_say_the_way_out(tmp_path, files, words, in_folder):
    for name in files:
        (tmp_path / name).write_bytes(PICKLE)
    with pytest.raises(UserError, match=rf"^\S+: .*{words}"):
        data.load(tmp_path if in_folder else tmp_path / files[0])


def test_a_note_names_files_that_are_left_out(tmp_path):
    (tmp_path / "train.bin").write_bytes(bytes(3074 * 10))
    (tmp_path / "train.pkl").write_bytes(PICKLE)
    with pytest.warns(DataWarning, match="train.pkl is left out, because only CIFAR's binary files are read"):
        assert len(data.load(tmp_path).train) == 8
