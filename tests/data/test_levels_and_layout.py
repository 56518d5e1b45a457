"""The highest level of integer images, the axis of the channels, and floats that leave [0, 1] by rounding."""

import io

import numpy as np
import pytest
from PIL import Image
from sources import write_idx, write_pictures, write_tfds

from vae_jax import data, likelihoods
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.errors import DataWarning, UserError

RNG = np.random.default_rng(0)


def save(folder, array, name="x.npy"):
    np.save(folder / name, array)
    return str(folder / name)


def source(folder, kind, images):
    """Writes images of integer levels (examples, height, width) as a source of this kind; returns what loads them."""
    if kind == "npy":
        return save(folder, images), {}
    if kind == "streamed":
        return save(folder, images.astype(np.int64)), {"stream": True}
    if kind == "npz":
        np.savez(folder / "x.npz", x_train=images[:-2], x_test=images[-2:])
        return str(folder / "x.npz"), {}
    if kind == "idx":
        write_idx(folder / "idx" / "train-images-idx3-ubyte", images)
        return str(folder / "idx"), {}
    if kind == "pictures":
        return write_pictures(folder / "pictures", {f"{i}.png": image for i, image in enumerate(images)}), {}
    return None


SOURCES = ("npy", "streamed", "npz", "idx", "pictures")


# Levels


@pytest.mark.parametrize("kind", SOURCES)
def test_levels_far_below_the_assumed_top_give_a_note_and_what_it_says_helps(tmp_path, kind):
    """Label maps of 5 classes: nearly black as 0..255, and on their own scale with the option of the note."""
    images = RNG.integers(0, 5, (20, 3, 4), dtype=np.uint8)
    images[0, 0, 0] = 4
    path, options = source(tmp_path, kind, images)
    with pytest.warns(DataWarning, match=r"the largest level is 4, .* from 0 to 255.*`max_level=4`") as caught:
        assumed = data.load(path, **options)
    assert assumed.notes == (str(caught[0].message),)
    assert assumed.max_level == 255
    given = data.load(path, max_level=4, **options)
    assert (given.max_level, given.notes) == (4, ())
    assert given.fingerprint() == assumed.fingerprint()
    prepared = data.prepare(given)
    assert prepared.eval_input(prepared.test).max() <= 1
    np.testing.assert_allclose(given.train_mean, given.train[:].mean(axis=0) / 4, rtol=1e-6)
    with pytest.raises(UserError, match=r"`max_level=3` is below the largest level, 4. Give at least 4."):
        data.load(path, max_level=3, **options)


def test_levels_of_a_tfds_set_give_a_note_too(tmp_path, monkeypatch):
    records = []
    for level in range(8):
        content = io.BytesIO()
        Image.fromarray(np.full((28, 28), level, np.uint8)).save(content, "png")
        records.append({"image": content.getvalue(), "label": 0})
    write_tfds("mnist", tmp_path, {"train": records})
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path / "cache"))
    with pytest.warns(DataWarning, match="the largest level is 7"):
        data.load("mnist", data_dir=str(tmp_path))
    assert data.load("mnist", data_dir=str(tmp_path), max_level=7).max_level == 7


@pytest.mark.parametrize(
    ("largest", "dtype", "max_level"), [(1, np.uint8, 1), (1, bool, 1), (26, np.uint8, 255), (255, np.int32, 255)]
)
def test_the_highest_level_is_inferred_as_before_without_a_note(tmp_path, largest, dtype, max_level):
    got = data.load(save(tmp_path, np.full((10, 2, 2), largest, dtype)))
    assert (got.max_level, got.notes) == (max_level, ())


def test_a_label_map_gets_as_many_outputs_as_it_has_classes(tmp_path):
    path = save(tmp_path, RNG.permutation(np.arange(20 * 3 * 4) % 5).reshape(20, 3, 4))
    config = Config(dataset=path, likelihood="categorical", max_level=4, hidden=(8,), latent_dim=2, batch_size=4)
    built = build(config)
    assert built.vae.likelihood.outputs_per_dim == built.vae.likelihood.num_levels == 5
    data.check_support(built.dataset, likelihoods.categorical(5), "none")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: ("digits", 255), r"digits: `max_level=255` .*levels run from 0 to 16. Leave it out."),
        (lambda folder: ("sprites", 16), r"sprites: `max_level=16` .*levels run from 0 to 1. Leave it out."),
        (
            lambda folder: (save(folder, np.ones((9, 2, 2)) * 16), 16),
            r"are floats. .*save x / 16, or save x.astype",
        ),
        (
            lambda folder: (save(folder, np.ones((9, 2, 2), int)), 0),
            "max_level: expected a whole number from 1 to 65535, got 0",
        ),
        (lambda folder: (save(folder, np.ones((9, 2, 2), int)), 65536), "max_level: expected a whole number from 1 to 65535"),
        (lambda folder: (save(folder, np.ones((9, 2, 2), int)), 2.5), "max_level: expected a whole number from 1 to 65535"),
    ],
)
def test_a_highest_level_that_cannot_be_is_refused(tmp_path, make, words):
    name, max_level = make(tmp_path)
    with pytest.raises(UserError, match=words):
        data.load(name, max_level=max_level)


@pytest.mark.parametrize("name", ["digits", "sprites"])
def test_the_known_highest_level_may_be_given(name):
    assert data.load(name, max_level=16 if name == "digits" else 1).notes == ()


def test_settings_of_the_reader_are_checked_without_data():
    with pytest.raises(UserError, match=r"max_level: expected a level from 1 to 65535, got 65536"):
        Config(max_level=65536).validate()
    with pytest.raises(UserError, match="layout: expected"):
        Config(layout="first").validate()


# Layout


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 8, 6), (4, 5, 7)])
def test_channels_first_becomes_channels_last(tmp_path, shape, dtype, stream):
    """The same data, bit for bit, as the array that a user would have transposed."""
    images = RNG.integers(0, 256, (40, *shape)).astype(dtype)
    images = images if dtype == np.uint8 else images / 255
    path, options = save(tmp_path, images), {"validation_fraction": 0.1, "stream": stream}
    with pytest.warns(DataWarning, match=r'taken as channels first and become .*`layout="channels_last"`'):
        got = data.load(path, **options)
    stated = data.load(path, layout="channels_first", **options)
    kept = data.load(path, layout="channels_last", **options)
    expected = data.load(save(tmp_path, np.ascontiguousarray(images.transpose(0, 2, 3, 1)), "last.npy"), **options)
    assert got.data_shape == (*shape[1:], shape[0])
    assert expected.notes == stated.notes == kept.notes == ()
    assert kept.data_shape == shape
    assert got.fingerprint() == stated.fingerprint() == expected.fingerprint() != kept.fingerprint()
    np.testing.assert_array_equal(got.train_mean, expected.train_mean)
    index, out = np.array([5, 3, 11]), [np.empty((3, np.prod(shape)), got.train.dtype) for _ in range(2)]
    for dataset, rows in zip((got, expected), out, strict=True):
        dataset.train.gather(index, rows) if stream else np.copyto(rows, dataset.train[index].reshape(3, -1))
    np.testing.assert_array_equal(*out)


@pytest.mark.parametrize(
    "shape",
    [(28, 28, 1), (64, 64, 3), (3, 64, 3), (1, 8, 1), (3, 3, 8), (4, 64, 4), (3, 64, 2), (1, 1, 9), (6, 5, 2), (8, 16, 12)],
)
def test_channels_last_and_what_may_be_are_left_as_they_are(tmp_path, shape):
    images = RNG.integers(100, 256, (10, *shape), dtype=np.uint8)
    got = data.load(save(tmp_path, images), split="last")
    np.testing.assert_array_equal(got.train, images[:8])
    assert got.notes == ()


def test_an_unusual_number_of_channels_gives_a_note(tmp_path):
    path = save(tmp_path, RNG.integers(100, 256, (10, 13, 32, 32), dtype=np.uint8))
    with pytest.warns(DataWarning, match=r'taken as 13 x 32 with 32 channels. .*`layout="channels_first"`'):
        assert data.load(path).data_shape == (13, 32, 32)
    assert data.load(path, layout="channels_first").data_shape == (32, 32, 13)


@pytest.mark.parametrize("shape", [(1, 64, 3), (1, 8, 4), (3, 6, 4)])
def test_images_one_row_high_may_be_channels_first_and_give_a_note(tmp_path, shape):
    path = save(tmp_path, RNG.integers(100, 256, (10, *shape), dtype=np.uint8))
    with pytest.warns(
        DataWarning, match=rf'taken as {shape[0]} x {shape[1]} with {shape[2]} channels.*`layout="channels_first"`'
    ):
        assert data.load(path).data_shape == shape
    assert data.load(path, layout="channels_first").data_shape == (*shape[1:], shape[0])
    assert data.load(path, layout="channels_last").notes == ()


def test_every_part_is_converted(tmp_path):
    images = RNG.integers(100, 256, (9, 3, 8, 6), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images[:4], x_val=images[4:6], x_test=images[6:])
    with pytest.warns(DataWarning, match="channels first"):
        got = data.load(tmp_path / "a.npz")
    for part, rows in ((got.train, images[:4]), (got.validation, images[4:6]), (got.test, images[6:])):
        np.testing.assert_array_equal(part, np.moveaxis(rows, 1, -1))


def test_layout_has_no_effect_on_three_axes_and_is_refused_where_channels_are_last(tmp_path):
    path = save(tmp_path, RNG.integers(100, 256, (10, 3, 8), dtype=np.uint8))
    for stream in (False, True):
        assert data.load(path, layout="channels_first", stream=stream).data_shape == (3, 8, 1)
    folder = write_pictures(tmp_path / "pictures", {"a.png": 50, "b.png": 60, "c.png": 70})
    assert data.load(folder, layout="channels_last").data_shape == (3, 4, 1)
    for name in ("digits", "sprites", folder):
        with pytest.raises(UserError, match=r'its channels are last. Leave out `layout="channels_first"`'):
            data.load(name, layout="channels_first")


# Floats


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0000001), (-1e-7, 1.0), (-3e-7, 0.5)])
def test_rounding_beyond_zero_and_one_is_clipped(tmp_path, low, high, stream):
    """One pixel of float32, in the part that is trained on."""
    images = RNG.random((50, 2, 2), np.float32) * np.float32(min(high, 1))
    images[3, 0, 0], images[4, 0, 0] = low, high
    with pytest.warns(DataWarning, match="leave .0, 1. by rounding alone and were clipped"):
        got = data.load(save(tmp_path, images), split="last", stream=stream)
    np.testing.assert_array_equal(got.train[:][..., 0], images[:40].clip(0, 1))
    data.check_support(got, likelihoods.continuous_bernoulli(), "none")
    data.check_support(got, likelihoods.bernoulli(), "dynamic")


@pytest.mark.parametrize(("low", "high"), [(0, 1.00001), (-1e-5, 1), (-1e-8, 1e-8), (-1, 1), (0, 255), (-1e-7, 3)])
def test_other_floats_are_not_clipped(tmp_path, low, high):
    images = np.linspace(low, high, 40, dtype=np.float32).reshape(10, 2, 2)
    got = data.load(save(tmp_path, images), split="last")
    np.testing.assert_array_equal(got.train[..., 0], images[:8])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0, 1.0000001], "expects values in [0, 1], got 0 to 1.00000012"),
        ([-1e-9, 1], "got -1e-09 to 1"),
        ([0, 3], "got 0 to 3"),
    ],
)
def test_a_number_outside_is_shown_in_enough_digits(values, words):
    assert words in likelihoods.outside_support(likelihoods.continuous_bernoulli(), np.array(values, np.float32))
