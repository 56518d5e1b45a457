"""Published .npz archives: dSprites, MPI3D, MedMNIST, downsampled ImageNet, pythae; the names of arrays; streaming."""

import math
import os
import zipfile

import numpy as np
import pytest

from vae_jax import data
from vae_jax.data.readers import known_archives
from vae_jax.data.readers.factors import grid_factors
from vae_jax.errors import DataWarning, UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 5, 7), dtype=np.uint8)
PARTS = {"split": "last", "test_fraction": 0.25}


def whole(got):
    """All images of a data set whose test set is its last block."""
    return np.concatenate([got.train[:], got.test])


def write_dsprites(path, compressed=True, factors=(1, 3, 2, 2, 2, 2)):
    """Writes dSprites with its names, types and order on a smaller grid, with the pickle of Python objects."""
    classes = np.array(list(np.ndindex(*factors)), np.int64)
    images = RNG.integers(0, 2, (len(classes), 64, 64), dtype=np.uint8)
    values = np.take_along_axis(np.linspace(1, 3, 8)[:, None] ** np.arange(6), classes, axis=0)
    metadata = np.array({"latents_names": ("color", "shape")}, dtype=object)
    write = np.savez_compressed if compressed else np.savez
    write(path, metadata=metadata, imgs=images, latents_classes=classes, latents_values=values)
    return images, classes


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_dsprites(tmp_path, monkeypatch, compressed, stream):
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    images, classes = write_dsprites(path, compressed)
    for _ in range(2):  # the second time from the cache
        with pytest.warns(DataWarning) as caught:
            got = data.load(path, stream=stream, **PARTS)
        [note] = caught
        assert "the factor color has one value in all images and is left out" in str(note.message)
        np.testing.assert_array_equal(whole(got)[..., 0], images)
        np.testing.assert_array_equal(np.concatenate([got.train_factors, got.test_factors]), classes[:, 1:])
    assert got.factor_names == ("shape", "scale", "orientation", "x_position", "y_position")
    assert (got.data_shape, got.max_level, got.train_factors.dtype) == ((64, 64, 1), 1, np.uint8)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == (compressed and stream)


def test_dsprites_with_values_alone(tmp_path):
    _images, classes = write_dsprites(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as archive:
        np.savez(tmp_path / "b.npz", imgs=archive["imgs"], latents_values=archive["latents_values"])
    with pytest.warns(DataWarning, match="factor color"):
        got = data.load(tmp_path / "b.npz", **PARTS)
    np.testing.assert_array_equal(np.concatenate([got.train_factors, got.test_factors]), classes[:, 1:])


def test_dsprites_with_wrong_classes_is_refused(tmp_path):
    images, classes = write_dsprites(tmp_path / "a.npz")
    for wrong in (classes[:-1], classes[:, :5], classes.astype(float), np.zeros(3, np.int64)):
        np.savez(tmp_path / "b.npz", imgs=images, latents_classes=wrong)
        with pytest.raises(UserError, match=r"b.npz: expected (the classes of 6 factors|factors of shape)"):
            data.load(tmp_path / "b.npz")


def test_mpi3d_factors_follow_from_the_number_of_images(tmp_path, monkeypatch):
    grid = (2, 1, 2, 3, 1, 2, 2)
    images = RNG.integers(0, 256, (math.prod(grid), 64, 64, 3), dtype=np.uint8)
    np.savez_compressed(tmp_path / "mpi3d_toy.npz", images=images)
    with pytest.warns(DataWarning, match=r"has no factors, because MPI3D has 1,036,800 or 460,800 images, not 48"):
        assert data.load(tmp_path / "mpi3d_toy.npz").train_factors is None
    with_factors = known_archives.with_mpi3d_factors(tmp_path / "mpi3d_toy.npz", data.Split(images), [grid])
    expected = np.array([index for index in np.ndindex(*grid)])[:, [0, 2, 3, 5, 6]]
    np.testing.assert_array_equal(with_factors.train_factors, expected)
    assert with_factors.factor_names == ("color", "size", "camera_height", "horizontal_axis", "vertical_axis")
    assert "the factors shape and background_color have one value in all images" in with_factors.notes[0]
    np.savez(tmp_path / "other.npz", images=images)
    assert data.load(tmp_path / "other.npz").notes == ()


def test_mpi3d_grids_are_the_published_ones():
    assert sorted(math.prod(grid) for grid in known_archives._MPI3D_GRIDS) == [460_800, 1_036_800]
    # Rows of the real grid by hand: vertical_axis is fastest, then horizontal_axis (40), then background_color.
    factors = grid_factors((4, 4, 2, 3, 3, 40, 40))
    strides = (115_200, 28_800, 14_400, 4_800, 1_600, 40, 1)
    for row in (0, 1, 40, 1_600, 4_799, 14_400, 28_800, 460_799):
        assert factors[row].tolist() == [
            row // stride % size for stride, size in zip(strides, (4, 4, 2, 3, 3, 40, 40), strict=True)
        ]


@pytest.mark.parametrize("channels", [(), (3,)])
def test_medmnist(tmp_path, channels):
    parts = {"train": 9, "val": 4, "test": 5}
    images = {part: RNG.integers(0, 256, (count, 28, 26, *channels), dtype=np.uint8) for part, count in parts.items()}
    labels = {part: RNG.integers(0, 9, (count, 1), dtype=np.uint8) for part, count in parts.items()}
    arrays = {f"{part}_images": array for part, array in images.items()}
    np.savez_compressed(tmp_path / "pathmnist.npz", **arrays, **{f"{part}_labels": array for part, array in labels.items()})
    got = data.load(tmp_path / "pathmnist.npz")
    for part, array in (("train", got.train), ("val", got.validation), ("test", got.test)):
        np.testing.assert_array_equal(array.reshape(images[part].shape), images[part])
    for part, array in (("train", got.train_labels), ("val", got.validation_labels), ("test", got.test_labels)):
        np.testing.assert_array_equal(array, labels[part][:, 0])
    assert got.data_shape == (28, 26, channels[0] if channels else 1)
    assert got.notes == ()


def test_several_labels_for_each_image_are_factors(tmp_path):
    """MedMNIST's chestmnist has 14 labels of zeros and ones for each image."""
    parts = {"train": 9, "val": 4, "test": 5}
    images = {f"{part}_images": RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8) for part, count in parts.items()}
    labels = {f"{part}_labels": RNG.integers(0, 2, (count, 14), dtype=np.uint8) for part, count in parts.items()}
    np.savez_compressed(tmp_path / "chestmnist.npz", **images, **labels)
    with pytest.warns(DataWarning, match="each example has 14 labels of zeros and ones, which are used as factors"):
        got = data.load(tmp_path / "chestmnist.npz")
    np.testing.assert_array_equal(got.train[..., 0], images["train_images"])
    np.testing.assert_array_equal(got.train_factors, labels["train_labels"])
    np.testing.assert_array_equal(got.test_factors, labels["test_labels"])
    assert got.factor_names == tuple(f"label_{i}" for i in range(14))
    assert got.train_labels is got.validation_labels is got.test_labels is None


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_valid", "y_valid", "x_test", "y_test"),
        ("X_train", "Y_train", "X_val", "Y_val", "X_test", "Y_test"),
        ("train", "train_labels", "valid", "valid_labels", "test", "test_labels"),
        ("trainData", "trainLabels", "validData", "validLabels", "testData", "testLabels"),
    ],
)
def test_names_of_parts(tmp_path, names):
    arrays = [IMAGES[:6], np.arange(6), IMAGES[6:8], np.arange(2), IMAGES[8:], np.arange(4)]
    np.savez(tmp_path / "a.npz", **dict(zip(names, arrays, strict=True)))
    got = data.load(tmp_path / "a.npz")
    loaded = (got.train[..., 0], got.train_labels, got.validation[..., 0], got.validation_labels, got.test[..., 0])
    for array, expected in zip((*loaded, got.test_labels), arrays, strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("with_mean", [False, True])
def test_downsampled_imagenet(tmp_path, stream, with_mean):
    """Rows of planes: all of red, then green, then blue, each by rows."""
    images = RNG.integers(0, 256, (10, 16, 16, 3), dtype=np.uint8)
    rows = np.stack([np.concatenate([image[..., c].ravel() for c in range(3)]) for image in images])
    labels = RNG.integers(1, 1001, 10)
    mean = {"mean": rows.mean(axis=0)} if with_mean else {}
    np.savez(tmp_path / "train_data_batch_1.npz", data=rows, labels=labels, **mean)
    got = data.load(tmp_path / "train_data_batch_1.npz", stream=stream, **PARTS)
    np.testing.assert_array_equal(whole(got), images)
    np.testing.assert_array_equal(np.concatenate([got.train_labels, got.test_labels]), labels)
    assert "rows of 768 bytes are three planes of 16 x 16 pixels" in got.split
    assert got.notes == ()
    as_rows = data.load(tmp_path / "train_data_batch_1.npz", stream=stream, event="vector", **PARTS) if not with_mean else None
    if as_rows is not None:
        np.testing.assert_array_equal(whole(as_rows), rows)


def test_pythae_has_its_channels_first(tmp_path):
    images = RNG.random((10, 1, 28, 26)).astype(np.float32)
    np.savez(tmp_path / "train_data.npz", data=images)
    with pytest.warns(DataWarning, match="are taken as channels first"):
        got = data.load(tmp_path / "train_data.npz", **PARTS)
    np.testing.assert_array_equal(whole(got), images.transpose(0, 2, 3, 1))


# Choosing an array


def test_an_array_is_chosen_by_its_name(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {"spectra": IMAGES, "other": IMAGES[:3], "y": np.arange(12), "x_test": IMAGES[:4] + 1, "y_test": np.arange(4)}
    np.savez(path, **arrays)
    with pytest.raises(UserError, match=r"name the array that is meant, such as `array=\"other\"`"):
        data.load(path)
    with pytest.warns(DataWarning, match="the array other is not used"):
        got = data.load(path, array="spectra")
    np.testing.assert_array_equal(got.train[..., 0], IMAGES)
    np.testing.assert_array_equal(got.test[..., 0], IMAGES[:4] + 1)
    np.testing.assert_array_equal(got.train_labels, np.arange(12))
    np.testing.assert_array_equal(got.test_labels, np.arange(4))
    with pytest.warns(DataWarning, match="the arrays spectra, other and y are not used"):
        got = data.load(path, array="x_test", **PARTS)
    np.testing.assert_array_equal(whole(got)[..., 0], IMAGES[:4] + 1)
    np.testing.assert_array_equal(np.concatenate([got.train_labels, got.test_labels]), np.arange(4))
    with pytest.raises(UserError, match=r"unknown array 'spectr'. Did you mean 'spectra'\?"):
        data.load(path, array="spectr")


def test_arrays_that_do_not_belong_to_the_chosen_one_are_not_used(tmp_path):
    np.savez(tmp_path / "a.npz", small=IMAGES[:, :4], y=np.arange(11), x_test=IMAGES, y_test=np.arange(12))
    with pytest.warns(DataWarning, match="the arrays y, x_test and y_test are not used"):
        got = data.load(tmp_path / "a.npz", array="small")
    assert (len(got.train), len(got.test), got.train_labels, got.test_labels) == (10, 2, None, None)


def test_one_of_two_arrays_for_one_part_is_chosen(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, data=IMAGES + 1)
    with pytest.raises(UserError, match=r"got images and data.* or name one, such as `array=\"images\"`"):
        data.load(tmp_path / "a.npz")
    with pytest.warns(DataWarning, match="the array images is not used"):
        np.testing.assert_array_equal(whole(data.load(tmp_path / "a.npz", array="data", **PARTS))[..., 0], IMAGES + 1)


# Streaming


def test_a_stored_array_is_streamed_out_of_its_archive(tmp_path):
    arrays = {"before": np.arange(5), "x_train": IMAGES, "x_test": IMAGES[:3], "y_train": np.arange(12)}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.warns(DataWarning, match="the array before is not used"):
        got, in_memory = (data.load(tmp_path / "a.npz", stream=stream) for stream in (True, False))
    assert isinstance(got.train, data.on_disk.Rows)
    np.testing.assert_array_equal(got.train[:], in_memory.train)
    assert got.fingerprint() == in_memory.fingerprint()


def test_a_packed_array_that_does_not_fit_on_the_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path / "cache"))
    np.savez_compressed(tmp_path / "a.npz", x_train=IMAGES)
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"stream: .*a.npz: cannot unpack .*GiB left\. Set VAE_JAX_CACHE"):
        data.load(tmp_path / "a.npz", stream=True)
    (tmp_path / "cache" / "arrays").rmdir()
    (tmp_path / "cache" / "arrays").touch()
    with pytest.raises(UserError, match=r"cannot unpack the array 'x_train.npy'"):
        data.load(tmp_path / "a.npz", stream=True)


@pytest.mark.parametrize("damage", ["shape", "header", "local", "fortran", "object", "packed"])
def test_damaged_archives_are_refused(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.npz"
    if damage == "packed":
        np.savez_compressed(path, x_train=IMAGES)
        with zipfile.ZipFile(path) as archive:
            start = archive.infolist()[0].header_offset + 80
        content = bytearray(path.read_bytes())
        content[start : start + 50] = bytes(50)
        path.write_bytes(content)
    else:
        array = {"fortran": np.asfortranarray(IMAGES), "object": np.array([{}, {}])}.get(damage, IMAGES)
        np.savez(path, x_train=array)
        content = path.read_bytes()
        if damage == "shape":
            content = content.replace(b"(12, 5, 7)", b"(92, 5, 7)")
        elif damage == "header":
            content = content.replace(b"'descr'", b"'drcse'")
        elif damage == "local":
            content = b"XXXX" + content[4:]
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npz: .*(damaged|C order|pickled|cannot unpack)"):
        data.load(path, stream=True)
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_what_a_killed_process_left_is_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path / "cache"))
    np.savez_compressed(tmp_path / "a.npz", images=IMAGES)
    np.testing.assert_array_equal(whole(data.load(tmp_path / "a.npz", stream=True, **PARTS))[..., 0], IMAGES)
    (cached,) = (tmp_path / "cache" / "arrays").iterdir()
    cached.unlink()
    left, growing = cached.with_name(f".{cached.name}.12345"), cached.with_name(f".{cached.name}.12346")
    for file in (left, growing):
        file.write_bytes(b"half")
    os.utime(left, (0, 0))
    np.testing.assert_array_equal(whole(data.load(tmp_path / "a.npz", stream=True, **PARTS))[..., 0], IMAGES)
    assert sorted(cached.parent.iterdir()) == sorted([cached, growing])
