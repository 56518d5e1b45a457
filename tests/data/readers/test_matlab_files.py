"""MATLAB files: Omniglot, the Caltech silhouettes, the Frey faces, SVHN, Cars3D, and other arrays, written by SciPy."""

import struct

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from vae_jax import data
from vae_jax.data.readers import cars3d, matlab
from vae_jax.errors import DataWarning, UserError

RNG = np.random.default_rng(0)
LAST = {"split": "last", "test_fraction": 0.25}


def whole(got, field=""):
    """All images (or labels, or factors) of a data set whose test set is its last block."""
    parts = (getattr(got, f"train{field}"), getattr(got, f"test{field}"))
    return np.concatenate([parts[0][:], parts[1]])


def by_columns(images):
    """Returns square images as rows, as MATLAB flattens them: down the first column, then the next."""
    return np.stack([np.concatenate([image[:, column] for column in range(image.shape[1])]) for image in images])


@pytest.mark.parametrize("compressed", [False, True])
def test_omniglot(tmp_path, compressed):
    images, test_images = (RNG.random((count, 28, 28)) for count in (12, 5))
    alphabets, test_alphabets = RNG.integers(0, 50, 12), RNG.integers(0, 50, 5)
    arrays = {
        "data": by_columns(images).T,
        "testdata": by_columns(test_images).T,
        "target": np.eye(50)[alphabets].T,
        "testtarget": np.eye(50)[test_alphabets].T,
        "targetchar": RNG.integers(1, 50, (1, 12)).astype(float),
        "testtargetchar": RNG.integers(1, 50, (1, 5)).astype(float),
    }
    savemat(tmp_path / "chardata.mat", arrays, do_compression=compressed)
    got = data.load(tmp_path / "chardata.mat")
    np.testing.assert_array_equal(got.train[..., 0], images.astype(np.float32))
    np.testing.assert_array_equal(got.test[..., 0], test_images.astype(np.float32))
    np.testing.assert_array_equal(got.train_labels, alphabets)
    np.testing.assert_array_equal(got.test_labels, test_alphabets)
    assert "training data, test testdata); each column of the file is an image with its pixels by columns" in got.split


def test_caltech_silhouettes_are_inverted(tmp_path):
    shapes = {"train": 9, "val": 4, "test": 5}
    black = {part: RNG.integers(0, 2, (count, 28, 28), dtype=np.uint8) for part, count in shapes.items()}
    labels = {part: RNG.integers(1, 102, (count, 1), dtype=np.uint8) for part, count in shapes.items()}
    arrays = {f"{part}_data": by_columns(images) for part, images in black.items()}
    classes = np.array([["accordion", "airplane"]], dtype=object)
    arrays |= {f"{part}_labels": array for part, array in labels.items()} | {"classnames": classes}
    savemat(tmp_path / "caltech101_silhouettes_28_split1.mat", arrays)
    got = data.load(tmp_path / "caltech101_silhouettes_28_split1.mat")
    for part, array in (("train", got.train), ("val", got.validation), ("test", got.test)):
        np.testing.assert_array_equal(array[..., 0], 1 - black[part])
    for part, array in (("train", got.train_labels), ("val", got.validation_labels), ("test", got.test_labels)):
        np.testing.assert_array_equal(array, labels[part][:, 0])
    assert got.max_level == 1
    assert "inverted to 1 - x as in the literature, pixels by columns" in got.split
    savemat(tmp_path / "digits.mat", {name: array for name, array in arrays.items() if name != "classnames"})
    as_stored = data.load(tmp_path / "digits.mat", event="image", transpose=True)  # by its names alone, nothing is inverted
    np.testing.assert_array_equal(as_stored.train[..., 0], black["train"])


def test_frey_faces(tmp_path):
    images = RNG.integers(0, 256, (12, 28, 20), dtype=np.uint8)
    savemat(tmp_path / "frey_rawface.mat", {"ff": images.reshape(12, 560).T})
    got = data.load(tmp_path / "frey_rawface.mat", **LAST)
    np.testing.assert_array_equal(whole(got)[..., 0], images)
    assert got.split == "the last block; each column of the file is an image of 28 x 20 pixels"


def test_svhn(tmp_path):
    images = RNG.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    digits = np.array([*range(10), 3, 0])
    stored = np.where(digits == 0, 10, digits).astype(np.uint8)[:, None]
    savemat(tmp_path / "train_32x32.mat", {"X": np.moveaxis(images, 0, -1), "y": stored}, do_compression=True)
    got = data.load(tmp_path / "train_32x32.mat", **LAST)
    np.testing.assert_array_equal(whole(got), images)
    np.testing.assert_array_equal(whole(got, "_labels"), digits)
    assert "the label 10 is the digit 0" in got.split


# Cars3D


def write_cars(folder, sizes=((10, 12),) * 3):
    """Writes a file for each car; pictures[car, azimuth, elevation]."""
    folder.mkdir(parents=True)
    pictures = [RNG.integers(0, 256, (24, 4, *size, 3), dtype=np.uint8) for size in sizes]
    for index, car in enumerate(pictures):
        savemat(folder / f"car_{index + 8}_mesh.mat", {"im": car.transpose(2, 3, 4, 0, 1)}, do_compression=True)
    return pictures


def resized(picture, height, width):
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def test_cars3d(tmp_path):
    pictures = write_cars(tmp_path / "data" / "cars")
    got = data.load(tmp_path, **LAST)
    images, factors = whole(got), whole(got, "_factors")
    assert images.shape == (3 * 96, 64, 64, 3)
    assert got.factor_names == ("elevation", "azimuth", "object")
    row = 0
    for car in range(3):  # in the order of numbers: 8, 9, 10
        for azimuth in range(24):
            for elevation in range(4):
                assert factors[row].tolist() == [elevation, azimuth, car]
                if row % 31 == 0:
                    np.testing.assert_array_equal(images[row], resized(pictures[car][azimuth, elevation], 64, 64))
                row += 1
    assert "resized to 64 x 64 by Pillow's Lanczos filter" in got.split


def test_cars3d_in_another_size(tmp_path):
    pictures = write_cars(tmp_path / "cars", sizes=((10, 12), (14, 12)))
    got = data.load(tmp_path / "cars", resize=(8, 6), **LAST)
    np.testing.assert_array_equal(whole(got)[97], resized(pictures[1][0, 1], 8, 6))
    assert data.load(tmp_path / "cars", resize=(10, 12), **LAST).train.shape[1:] == (10, 12, 3)
    with pytest.warns(DataWarning, match="the factor object has one value in all images and is left out"):
        one = data.load(tmp_path / "cars" / "car_8_mesh.mat", resize=(10, 12), **LAST)
    np.testing.assert_array_equal(whole(one), pictures[0].reshape(96, 10, 12, 3))
    assert one.factor_names == ("elevation", "azimuth")


@pytest.mark.parametrize("stream", [False, True])
def test_many_cars_are_resized_once_into_the_cache(tmp_path, monkeypatch, stream):
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cars3d, "_MANY", 2)
    write_cars(tmp_path / "cars")
    monkeypatch.setattr(cars3d, "check_fits_in_memory", lambda path, size: None)
    first = data.load(tmp_path / "cars", stream=stream, **LAST)
    [cached] = (tmp_path / "cache" / "arrays").iterdir()
    monkeypatch.setattr(cars3d, "_resized", lambda *_: pytest.fail("resized again"))
    second = data.load(tmp_path / "cars", stream=stream, **LAST)
    assert isinstance(first.train, data.on_disk.Rows) == stream
    np.testing.assert_array_equal(whole(first), whole(second))
    np.testing.assert_array_equal(whole(first, "_factors"), whole(second, "_factors"))
    monkeypatch.undo()
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path / "cache"))
    np.testing.assert_array_equal(whole(first), whole(data.load(tmp_path / "cars", **LAST)))
    if not stream:
        cached.write_bytes(cached.read_bytes()[:500])  # a damaged cache is written again
        monkeypatch.setattr(cars3d, "_MANY", 2)
        np.testing.assert_array_equal(whole(first), whole(data.load(tmp_path / "cars", **LAST)))
        assert cached.stat().st_size > 500


def test_cars_without_a_cache_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "cache").touch()
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cars3d, "_MANY", 2)
    write_cars(tmp_path / "cars")
    assert len(data.load(tmp_path / "cars", **LAST).train) == 216
    assert "note: an array could not be cached in" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"stream: .*arrays: cannot be written: .*Set VAE_JAX_CACHE"):
        data.load(tmp_path / "cars", stream=True)


def test_a_damaged_car_is_not_left_out(tmp_path):
    write_cars(tmp_path / "cars")
    path = tmp_path / "cars" / "car_9_mesh.mat"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"car_9_mesh.mat: (not a readable MATLAB file|expected an array im)"):
        data.load(tmp_path / "cars")
    savemat(path, {"im": np.zeros((3, 3, 3, 24, 4))})
    with pytest.raises(UserError, match=r"car_9_mesh.mat: expected an array im of bytes .* got float64 \(3, 3, 3, 24, 4\)"):
        data.load(tmp_path / "cars")


def test_the_directions_of_a_car_are_those_of_disentanglement_lib():
    stored = RNG.integers(0, 256, (64, 64, 3, 24, 4), dtype=np.uint8)
    got = cars3d.cars_images("cars", ["a"], lambda _: stored)
    np.testing.assert_array_equal(got.train, np.einsum("abcde->deabc", stored).reshape(-1, 64, 64, 3))
    expected = np.transpose([np.tile(range(4), 24), np.repeat(range(24), 4)])
    np.testing.assert_array_equal(got.train_factors, expected)


# Other files


def test_the_only_array_is_read(tmp_path):
    table = RNG.normal(size=(12, 5))
    savemat(tmp_path / "a.mat", {"measurements": table, "rate": 44100.0, "when": np.arange(12.0)})
    with pytest.warns(DataWarning, match="the arrays rate and when are not used"):
        got = data.load(tmp_path / "a.mat", **LAST)
    np.testing.assert_array_equal(whole(got), table.astype(np.float32))
    assert "measurements is read as (examples, rows)" in got.split


def test_arrays_with_known_names_are_read(tmp_path):
    images = RNG.integers(0, 256, (12, 3, 4), dtype=np.uint8)
    arrays = {"X_train": images[:8], "y_train": np.arange(8), "X_test": images[8:], "y_test": np.arange(4)[:, None]}
    savemat(tmp_path / "a.mat", arrays)
    got = data.load(tmp_path / "a.mat")
    np.testing.assert_array_equal(got.train[..., 0], images[:8])
    np.testing.assert_array_equal(got.test[..., 0], images[8:])
    np.testing.assert_array_equal(got.train_labels, np.arange(8))  # stored as a matrix with one row
    np.testing.assert_array_equal(got.test_labels, np.arange(4))


def test_an_array_is_chosen_by_its_name(tmp_path):
    tables = {"a": RNG.normal(size=(12, 5)), "b": RNG.normal(size=(8, 9))}
    savemat(tmp_path / "t.mat", tables)
    with pytest.raises(UserError, match=r"expected one array of examples, got a \(12, 5\) and b \(8, 9\).* `array=\"a\"`"):
        data.load(tmp_path / "t.mat")
    with pytest.warns(DataWarning, match="the array a is not used"):
        got = data.load(tmp_path / "t.mat", array="b", **LAST)
    np.testing.assert_array_equal(whole(got), tables["b"].astype(np.float32))
    with pytest.raises(UserError, match="unknown array 'c'"):
        data.load(tmp_path / "t.mat", array="c")
    with pytest.warns(DataWarning) as caught:
        assert data.load(tmp_path / "t.mat", array="b", event="image", **LAST).data_shape == (3, 3, 1)
    assert "MATLAB flattens images by columns. If they lie on their side, pass `transpose=True`" in str(caught[1].message)


def test_text_cells_and_structures_are_never_read(tmp_path):
    savemat(tmp_path / "a.mat", {"name": "abc", "cell": np.array([1, "x"], dtype=object), "s": {"x": np.zeros((3, 4))}})
    with pytest.raises(UserError, match=r"expected one array of examples, got no numeric array\. Save the examples as"):
        data.load(tmp_path / "a.mat")


def test_version_4_is_read_and_version_7_3_is_refused(tmp_path):
    table = RNG.normal(size=(12, 5))
    savemat(tmp_path / "a.mat", {"x": table}, format="4")
    np.testing.assert_array_equal(whole(data.load(tmp_path / "a.mat", **LAST)), table.astype(np.float32))
    text = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Nov 30 2026 HDF5 schema 1.00 .".ljust(116)
    (tmp_path / "b.mat").write_bytes(text + bytes(8) + struct.pack("<H", 0x0200) + b"IM" + bytes(384) + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(UserError, match=r"got version 7.3, which is HDF5. Save it in MATLAB by save\(file, '-v7'\)"):
        data.load(tmp_path / "b.mat")


def test_damaged_and_too_large_files_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.mat"
    savemat(path, {"x": RNG.normal(size=(40, 30))}, do_compression=True)
    content = path.read_bytes()
    for length in (*range(0, 200, 13), 300, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"a\.mat: "):
            data.load(path)
    for place in range(128, 600, 7):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            data.load(path)
        except UserError as error:
            assert "a.mat" in str(error)  # noqa: PT017
    path.write_bytes(content)
    monkeypatch.setattr("os.sysconf", lambda name: 90)
    with pytest.raises(UserError, match="unpacks to 0 GiB, and this machine has 0 GiB"):
        data.load(path)


def test_resizing_is_for_cars_alone(tmp_path):
    savemat(tmp_path / "a.mat", {"x": np.zeros((10, 5, 6))})
    with pytest.raises(UserError, match="`resize` is for the images of Cars3D"):
        data.load(tmp_path / "a.mat", resize=8)


def test_classes_that_are_read_are_numbers():
    assert {kind: size for kind, size in matlab._NUMERIC.items() if kind.endswith(("8", "64"))} == {
        "int8": 1,
        "uint8": 1,
        "int64": 8,
        "uint64": 8,
    }
