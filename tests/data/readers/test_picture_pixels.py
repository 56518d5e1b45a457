"""Pictures that are cut, resized and transposed, and gray of 16 bits, against Pillow's calls and arithmetic in floats."""

import numpy as np
import pytest
from PIL import Image
from sources import write_pictures

from vae_jax import data
from vae_jax.data.readers.images import picture_from_bytes, read_picture
from vae_jax.data.readers.pictures import fitted
from vae_jax.data.readers.registry import ReadOptions
from vae_jax.errors import DataWarning, UserError

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("VAE_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))


def center_crop_and_resize(image, crop, resize):
    """The definition in torchvision 0.24: F.center_crop, then F.resize of a PIL image (BILINEAR by default), written out."""
    width, height = image.size
    top, left = int(round((height - crop) / 2.0)), int(round((width - crop) / 2.0))  # noqa: RUF046
    image = image.crop((left, top, left + crop, top + crop))
    return np.asarray(image.resize((resize, resize), Image.Resampling.BILINEAR))


def test_the_protocol_of_celeba_has_the_pixels_of_torchvision(tmp_path):
    images = [Image.fromarray(RNG.integers(0, 256, (218, 178, 3), dtype=np.uint8)) for _ in range(5)]
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i:06d}.jpg")
    expected = [center_crop_and_resize(Image.open(tmp_path / f"{i:06d}.jpg"), 148, 64) for i in range(5)]
    got = data.load(tmp_path, crop=148, resize=64, split="last")
    np.testing.assert_array_equal(np.concatenate([got.train, got.test]), expected)


@pytest.mark.parametrize(("height", "width", "side"), [(9, 10, 4), (8, 13, 6), (7, 7, 2), (5, 12, 5), (6, 11, 1), (6, 6, 6)])
def test_odd_differences_are_cut_as_torchvision_cuts_them(height, width, side):
    """Differences of 1, 3, 5 and 7 pixels cut 0, 2, 2 and 4 at the top or the left: halves are rounded to even."""
    pixels = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    top, left = ({0: 0, 1: 0, 2: 1, 3: 2, 4: 2, 5: 2, 6: 3, 7: 4, 10: 5}[size - side] for size in (height, width))
    got, is_stretched = fitted(pixels, ReadOptions(crop=side), "a")
    np.testing.assert_array_equal(got, pixels[top : top + side, left : left + side])
    assert not is_stretched


def test_resize_takes_height_and_width_and_averages_over_what_a_pixel_covers():
    """A bilinear filter of one fifth of the size has a support of 10 pixels, so that a lone pixel is not lost."""
    pixels = np.zeros((20, 30), np.uint8)
    pixels[7, 11] = 255
    got, _ = fitted(pixels, ReadOptions(resize=(4, 6)), "a")
    weights = {size: _triangle(size, size // 5) for size in (20, 30)}
    np.testing.assert_allclose(got, weights[20] @ pixels.astype(float) @ weights[30].T, atol=1)
    assert got.max() > 5


def _triangle(size, new_size):
    """Weights of the bilinear filter with antialiasing, (new_size, size)."""
    scale = size / new_size
    centers = (np.arange(new_size) + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs((np.arange(size) + 0.5)[None] - centers[:, None]) / scale)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("stream", [False, True])
def test_pictures_are_transposed_once(tmp_path, stream):
    pixels = RNG.integers(0, 256, (10, 6, 10), dtype=np.uint8)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    options = {"transpose": True, "split": "last", "stream": stream}

    def loaded(**others):
        got = data.load(tmp_path, **options, **others)
        return np.concatenate([got.train[:], got.test])[..., 0]

    np.testing.assert_array_equal(loaded(), pixels.swapaxes(1, 2))
    np.testing.assert_array_equal(loaded(crop=4), pixels.swapaxes(1, 2)[:, 3:7, 1:5])
    resized = [np.asarray(Image.fromarray(picture).resize((5, 3), Image.Resampling.BILINEAR)) for picture in pixels]
    np.testing.assert_array_equal(loaded(resize=(5, 3)), np.swapaxes(resized, 1, 2))


def test_the_square_is_cut_out_of_the_upright_picture(tmp_path):
    upright = np.arange(72, dtype=np.uint8).reshape(6, 12)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    for i in range(4):
        Image.fromarray(np.rot90(upright).copy()).save(tmp_path / f"{i}.png", exif=exif)
    with pytest.warns(DataWarning, match="4 of 4 pictures were turned upright"):
        got = data.load(tmp_path, crop=4)
    np.testing.assert_array_equal(got.train[0, ..., 0], upright[1:5, 4:8])


def test_pictures_of_several_sizes_are_resized_and_the_stretched_ones_named(tmp_path):
    sizes = {"a.png": (8, 16), "b.png": (20, 40), "c.png": (8, 8), "d.png": (16, 32), "e.png": (15, 31)}
    pixels = {name: RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in sizes.items()}
    path = write_pictures(tmp_path, pixels)
    with pytest.warns(DataWarning, match=r"1 of 5 pictures were stretched .* by `resize`; `crop` cuts .* \(the first: c.png\)"):
        got = data.load(path, resize=(4, 8), split="last")
    for image, name in zip(np.concatenate([got.train, got.test]), sizes, strict=True):
        np.testing.assert_array_equal(image, Image.fromarray(pixels[name]).resize((8, 4), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("size", [(7, 12), (12, 7)])
def test_a_square_larger_than_a_picture_is_refused_and_the_fix_works(tmp_path, size):
    path = write_pictures(tmp_path, {"a.png": np.zeros((20, 20), np.uint8), "b.png": np.full(size, 200, np.uint8)})
    with pytest.raises(UserError, match=rf"b.png: `crop=8` .* got {size[0]} x {size[1]}. Pass a `crop` of at most 7"):
        data.load(path, crop=8, test_fraction=0.5)
    assert data.load(path, crop=7, test_fraction=0.5).data_shape == (7, 7, 1)


# 16 bits


def test_gray_of_16_bits_keeps_its_levels(tmp_path):
    deep = RNG.integers(0, 2**16, (5, 4, 6), dtype=np.uint16)
    path = write_pictures(tmp_path, {f"{i}.png": image for i, image in enumerate(deep)})
    got = data.load(path, split="last")
    assert (got.train.dtype, got.max_level) == (np.uint16, 65535)
    np.testing.assert_array_equal(np.concatenate([got.train, got.test])[..., 0], deep)
    assert data.load(path, split="last", stream=True).train[:].tolist() == got.train.tolist()


def test_gray_of_16_bits_is_turned_and_its_transparent_level_becomes_black(tmp_path):
    deep = RNG.integers(1, 2**16, (3, 5), dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(deep).copy()).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").pixels, deep)
    Image.fromarray(deep).save(tmp_path / "b.png", transparency=int(deep[1, 2]))
    got = read_picture(tmp_path / "b.png")
    deep[1, 2] = 0
    np.testing.assert_array_equal(got.pixels, deep)
    assert got.was_transparent


def test_resizing_16_bits_rounds_to_the_nearest_level():
    """Levels above 255 and odd ones, which a detour through 8 bits would lose."""
    deep = RNG.integers(0, 2**16, (12, 18), dtype=np.uint16)
    got, _ = fitted(deep, ReadOptions(resize=(4, 6)), "a")
    exact = _triangle(12, 4) @ deep.astype(float) @ _triangle(18, 6).T
    assert got.dtype == np.uint16
    np.testing.assert_allclose(got, exact, atol=0.51)
    constant, _ = fitted(np.full((9, 9), 65535, np.uint16), ReadOptions(resize=(4, 4)), "a")
    assert (constant == 65535).all()


# Bytes


def test_pictures_are_read_from_bytes_as_from_files(tmp_path):
    image = RNG.integers(0, 256, (9, 7, 4), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for options in (ReadOptions(), ReadOptions(crop=4, resize=(2, 3))):
        got, expected = picture_from_bytes(content, "row 3", options), read_picture(tmp_path / "a.png", options)
        np.testing.assert_array_equal(got.pixels, expected.pixels)
        assert got[1:] == expected[1:]
    for damaged in (b"", content[:60], b"GIF89a" + content):
        with pytest.raises(UserError, match="row 3: not a readable image"):
            picture_from_bytes(damaged, "row 3")
