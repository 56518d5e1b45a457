"""Sources, splits and preprocessing, and every refusal with its message."""

import functools
import importlib.util
import io
import operator
import os
import shutil
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sources import write_idx, write_tfds

from vae_jax import data, likelihoods
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


def _bad(tmp_path, name):
    """Writes one bad source and returns what to load."""
    path = tmp_path / f"{name}.npy"
    array = np.zeros((10, 2, 2))
    if name == "nan":
        array[3, 1, 1] = np.nan
    elif name == "axes":
        array = np.zeros((10, 4))
    elif name == "pickled":
        array = np.array([{"a": 1}, {}], dtype=object)
    elif name == "empty":
        array = np.zeros((0, 2, 2))
    elif name == "levels":
        array = np.full((10, 2, 2), 300)
    elif name == "labels":
        path = tmp_path / "labels.npz"
        np.savez(path, x_train=array, y_train=np.arange(9))
        return str(path)
    elif name == "text":
        array = np.full((10, 2, 2), "x")
    np.save(path, array, allow_pickle=True)
    if name == "truncated":
        path.write_bytes(path.read_bytes()[:150])
    if name in ("emptyfolder", "damagedidx", "notidx", "sizes", "notimage"):
        path = tmp_path / name
        path.mkdir()
    if name == "damagedidx":
        (path / "train-images-idx3-ubyte").write_bytes(struct.pack(">HBBIII", 0, 8, 3, 4, 2, 2) + b"\0" * 9)
    if name == "notidx":
        (path / "train-images-idx3-ubyte.gz").write_bytes(b"hello")
    if name == "sizes":
        Image.new("L", (3, 3)).save(path / "a.png")
        Image.new("L", (3, 4)).save(path / "b.png")
    if name == "notimage":
        (path / "a.png").write_bytes(b"no picture")
    if name == "noarray":
        path = tmp_path / "x.npz"
        np.savez(path, weights=np.zeros(3))
    if name == "garbage":
        path.write_bytes(b"garbage" * 100)
    if name == "huge":
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999, 28, 28)}"
        path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n")
    if name == "truncatedzip":
        path = tmp_path / "t.npz"
        np.savez(path, x=np.zeros((10, 20, 20)))
        path.write_bytes(path.read_bytes()[:500])
    if name == "hugeidx":
        path = tmp_path / "hugeidx"
        path.mkdir()
        (path / "train-images-idx3-ubyte").write_bytes(struct.pack(">HBBIII", 0, 8, 3, *[2**32 - 1] * 3))
    if name == "loop":
        path = tmp_path / "loop"
        path.mkdir()
        (path / "again").symlink_to(path, target_is_directory=True)
        (path / "a.png").symlink_to(path / "a.png")
    if name == "sixteen":
        path = tmp_path / "sixteen"
        path.mkdir()
        Image.fromarray(np.full((3, 3), 60000, np.uint16)).save(path / "a.png")
    if name == "missing":
        path = tmp_path / "nothing.npy"
    if name == "ending":
        path = tmp_path / "x.txt"
        path.write_text("hello")
    return str(path)


BAD = {
    "nan": "got 1 NaN",
    "axes": r"3 or 4 axes.*\(10, 4\)",
    "pickled": "pickled code",
    "empty": "at least one example",
    "levels": "0 to 255, got 300",
    "text": "dtype",
    "labels": r"one label for each of 10 images, got labels of shape \(9,\)",
    "truncated": "not a readable array",
    "emptyfolder": "IDX files or PNG",
    "damagedidx": "expected 16 bytes .* got 9",
    "notidx": "not a readable IDX",
    "sizes": "one size.*a.png.*b.png",
    "notimage": "not a readable image",
    "noarray": r"x_train.*\['weights'\]",
    "missing": "no such file",
    "garbage": "not a readable array",
    "huge": "not a readable array",
    "truncatedzip": "not a readable array",
    "hugeidx": "unpacks to",
    "sixteen": "8 bits per channel",
    "loop": "IDX files or PNG/JPEG images, found none among 0 files",
    "ending": r"\.npy or \.npz",
}


@pytest.mark.parametrize(("name", "message"), BAD.items(), ids=BAD)
def test_bad_sources_are_refused(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        data.load(_bad(tmp_path, name))


def test_what_unpacks_to_more_than_the_memory_is_refused_before(tmp_path, monkeypatch):
    """A megabyte of zeros in a kilobyte, on a machine of half a megabyte."""
    np.savez_compressed(tmp_path / "bomb.npz", x_train=np.zeros((100, 100, 100), np.uint8))
    assert (tmp_path / "bomb.npz").stat().st_size < 10_000
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", np.zeros((100, 100, 100), np.uint8))
    assert data.load(str(tmp_path / "bomb.npz")).data_shape == (100, 100, 1)
    monkeypatch.setattr(os, "sysconf", lambda name: 724)
    for path in (tmp_path / "bomb.npz", tmp_path):
        with pytest.raises(UserError, match=r"unpacks to 0 GiB, and this machine has 0 GiB of memory.*`stream=True`"):
            data.load(str(path))


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
            r"the same factors for training and test, .*got \[1, 2\]",
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


def test_idx_refuses_what_is_not_bytes(tmp_path):
    (tmp_path / "a").write_bytes(struct.pack(">HBBI", 0, 0x0D, 1, 1) + b"\0\0\0\0")  # floats
    with pytest.raises(UserError, match="unsigned bytes"):
        read_idx(tmp_path / "a")


# Preprocessing


def _dataset(train, test=None, max_level=255):
    return data.Dataset("x", train, None, train if test is None else test, None, max_level, "by hand")


def test_binarization_has_the_pixels_as_means():
    """Each of 256 levels within 5.5 standard errors of level/255; exactly 0 and 1 at the ends (false failure below 1e-5)."""
    levels = jnp.tile(jnp.arange(256, dtype=jnp.uint8), (40_000, 1))
    draws = data.binarize(jax.random.key(0), levels, 255)
    means, expected = np.asarray(draws).mean(0, dtype=np.float64), np.arange(256) / 255
    assert set(np.unique(draws)) == {0.0, 1.0}
    assert means[0] == 0
    assert means[255] == 1
    assert np.all(np.abs(means - expected) <= 5.5 * np.sqrt(expected * (1 - expected) / 40_000) + 2e-5)


def test_dynamic_binarization_changes_with_the_key_and_the_test_set_does_not():
    digits = data.load("digits")
    prepared, again = (data.prepare(digits, binarization="dynamic", seed=3) for _ in range(2))
    np.testing.assert_array_equal(prepared.test, again.test)
    assert set(np.unique(prepared.test)) == {0, 1}
    batch = prepared.train[:64]
    first, second = (prepared.train_input(jax.random.key(k), batch) for k in (0, 1))
    assert not np.array_equal(first, second)
    assert not np.array_equal(prepared.test, data.prepare(digits, binarization="dynamic", seed=4).test)


def test_fixed_threshold_and_scaled():
    digits = data.load("digits")
    fixed = data.prepare(digits, binarization="fixed")
    batch = fixed.train[:8]
    np.testing.assert_array_equal(fixed.train_input(jax.random.key(0), batch), fixed.train_input(jax.random.key(1), batch))
    threshold = data.prepare(digits, binarization="threshold")
    np.testing.assert_array_equal(threshold.train, digits.train >= 8)
    scaled = data.prepare(digits)
    np.testing.assert_allclose(scaled.eval_input(scaled.test), digits.test / 16, rtol=1e-6)


def test_dequantized_levels_stay_in_their_bin_and_the_jacobian_is_that_of_the_scaling():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 4, 4, 1)
    prepared = data.prepare(_dataset(levels), dequantize=True)
    x = prepared.train_input(jax.random.key(0), prepared.train)
    np.testing.assert_array_equal(np.floor(np.asarray(x, np.float64) * 256), levels)
    assert prepared.log_jacobian == pytest.approx(-16 * np.log(256))
    # A uniform density on [0, 1] gives each of 256 levels the probability 1/256.
    assert np.exp(prepared.log_jacobian / 16) == pytest.approx(1 / 256)


def test_binary_data_stay_as_they_are_under_any_binarization():
    images = np.random.default_rng(0).integers(0, 2, (50, 4, 4, 1), dtype=np.uint8)
    for binarization in ("none", "dynamic", "fixed", "threshold"):
        prepared = data.prepare(_dataset(images, max_level=1), binarization=binarization)
        for x in (prepared.eval_input(prepared.test), prepared.train_input(jax.random.key(0), prepared.train)):
            assert x.dtype == jnp.float32
            np.testing.assert_array_equal(x, images)
        assert prepared.description == "binary as stored"


def test_support_is_checked():
    grey = _dataset(np.full((4, 2, 2, 1), 100, np.uint8))
    with pytest.raises(UserError, match=r'grey values.*`binarize="dynamic"`.*continuous_bernoulli'):
        data.check_support(grey, likelihoods.bernoulli(), "none")
    data.check_support(grey, likelihoods.bernoulli(), "dynamic")
    data.check_support(_dataset(np.zeros((4, 2, 2, 1), np.uint8) + 255), likelihoods.bernoulli(), "none")
    wide = _dataset(np.full((4, 2, 2, 1), -1.5, np.float32), max_level=None)
    with pytest.raises(UserError, match=r"\[0, 1\], got -1.5"):
        data.check_support(wide, likelihoods.continuous_bernoulli(), "none")
    data.check_support(wide, likelihoods.gaussian(), "none")
    with pytest.raises(UserError, match=r"categorical expects integer levels, got floats"):
        data.check_support(wide, likelihoods.categorical(2), "none")
    with pytest.raises(UserError, match=r"poisson expects counts .*got -1.5 to -1.5 with fractions"):
        data.check_support(wide, likelihoods.poisson(), "none")
    with pytest.raises(UserError, match=r"dequantize: .* need a density, and categorical takes the integers"):
        data.check_support(grey, likelihoods.categorical(256), "none", dequantize=True)
    fine = _dataset(np.zeros((4, 2, 2, 1), np.uint8))
    with pytest.raises(UserError, match="grey values"):  # in the validation data alone
        data.check_support(fine._replace(validation=grey.train), likelihoods.bernoulli(), "none")
    with pytest.raises(UserError, match="integer levels"):
        data.prepare(wide, dequantize=True)


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
