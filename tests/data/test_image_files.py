"""PNG and JPEG files as a viewer shows them: transparency, orientation, gray among color, sizes, depth."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from sources import write_pictures

from vae_jax import data
from vae_jax.data.readers.images import read_picture
from vae_jax.errors import DataWarning, UserError

RNG = np.random.default_rng(0)
RGBA = RNG.integers(0, 256, (4, 5, 4), dtype=np.uint8)
GREY = np.arange(100, 120, dtype=np.uint8).reshape(4, 5)


def on_black(color, alpha):
    """The definition, in floats."""
    return np.rint(color.astype(np.float64) * alpha[..., np.newaxis].astype(np.float64) / 255)


def read(path, image, **options):
    image.save(path, **options)
    return read_picture(path)


# Transparency


def test_alpha_of_color_is_composited_on_black(tmp_path):
    got = read(tmp_path / "a.png", Image.fromarray(RGBA))
    assert got.was_transparent
    np.testing.assert_array_equal(got.pixels, on_black(RGBA[..., :3], RGBA[..., 3]))
    hidden = RGBA.copy()
    hidden[..., 3] = 0  # colors that nobody ever saw
    assert not read(tmp_path / "a.png", Image.fromarray(hidden)).pixels.any()


def test_alpha_of_gray_is_composited_and_it_stays_gray(tmp_path):
    got = read(tmp_path / "a.png", Image.fromarray(RGBA[..., :2].copy(), "LA"))
    assert got.was_transparent
    np.testing.assert_array_equal(got.pixels, on_black(RGBA[..., :1], RGBA[..., 1])[..., 0])


def test_one_transparent_level_or_color_becomes_black(tmp_path):
    got = read(tmp_path / "a.png", Image.fromarray(GREY), transparency=103)
    np.testing.assert_array_equal(got.pixels, np.where(GREY == 103, 0, GREY))
    color = RGBA[..., :3].copy()
    got = read(tmp_path / "a.png", Image.fromarray(color), transparency=tuple(color[1, 2].tolist()))
    color[1, 2] = 0
    np.testing.assert_array_equal(got.pixels, color)
    bits = GREY % 3 == 0
    got = read(tmp_path / "a.png", Image.fromarray(bits), transparency=1)
    assert got.was_transparent
    assert not got.pixels.any()


@pytest.mark.parametrize("form", ["one color", "an alpha for each color"])
def test_transparency_of_a_palette_is_composited(tmp_path, form):
    palette, index = RNG.integers(0, 256, (20, 3), dtype=np.uint8), np.arange(20, dtype=np.uint8).reshape(4, 5)
    image = Image.fromarray(index).convert("P")
    image.putpalette(palette.tobytes())
    alpha = np.full(20, 255, np.uint8)
    if form == "one color":
        alpha[2], transparency = 0, 2
    else:
        alpha[:7], transparency = RNG.integers(0, 255, 7), None
    got = read(tmp_path / "a.png", image, transparency=alpha.tobytes() if transparency is None else transparency)
    assert got.was_transparent
    np.testing.assert_array_equal(got.pixels, on_black(palette[index], alpha[index]))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_opaque_pictures_keep_their_pixels(tmp_path, mode):
    """Also those whose palette or transparent color no pixel uses."""
    opaque = RGBA.copy()
    opaque[..., 3] = 255
    expected, options = opaque[..., :3], {}
    image = Image.fromarray(opaque)
    if mode in ("LA", "L"):
        image, expected = Image.fromarray(GREY).convert(mode), GREY
        options = {"transparency": 3} if mode == "L" else {}
    elif mode == "P":
        image, expected = Image.fromarray(GREY).convert("P"), np.repeat(GREY[..., np.newaxis], 3, axis=-1)
        options = {"transparency": bytes([0] * 100 + [255] * 156)}
    elif mode == "RGB":
        image, options = Image.fromarray(opaque[..., :3].copy()), {"transparency": (1, 2, 3)}
    got = read(tmp_path / "a.png", image, **options)
    assert not got.was_transparent
    np.testing.assert_array_equal(got.pixels, expected)


def test_a_folder_says_how_many_pictures_were_transparent(tmp_path):
    for i in range(10):
        image = RGBA.copy()
        image[..., :3], image[..., 3] = 200, 255 if i < 8 else 100
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    with pytest.warns(DataWarning, match=r"2 of 10 pictures had transparent pixels .* on black \(the first: 8.png\)") as caught:
        got = data.load(str(tmp_path), split="last")
    assert got.notes == (str(caught[0].message),)
    assert (got.train[0, 0, 0, 0], got.test[0, 0, 0, 0]) == (200, round(200 * 100 / 255))


# Orientation

# EXIF's eight orientations, from an upright image to what is stored: the inverse of each is what a viewer does.
STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[::-1],
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[:, ::-1],
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_pictures_are_turned_upright(tmp_path, orientation, ending):
    """Blocks of 8 pixels, which JPEG keeps: a wide picture with another color in each corner."""
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8, 0], upright[:8, 16:, 1], upright[8:, :8, 2], upright[8:, 16:] = 250, 250, 250, 250
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](upright))
    got = read(tmp_path / f"a.{ending}", Image.fromarray(stored), exif=exif, **({"subsampling": 0} if ending == "jpg" else {}))
    assert got.was_turned == (orientation > 1)
    assert got.pixels.shape == upright.shape
    np.testing.assert_allclose(got.pixels.astype(int), upright, atol=8 if ending == "jpg" else 0)


def test_transparency_is_kept_when_a_picture_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    got = read(tmp_path / "a.png", Image.fromarray(RGBA), exif=exif)
    np.testing.assert_array_equal(got.pixels, on_black(RGBA[..., :3], RGBA[..., 3])[::-1, ::-1])


def test_a_damaged_orientation_is_none(tmp_path):
    got = read(tmp_path / "a.jpg", Image.fromarray(GREY), exif=b"Exif\0\0not a TIFF header")
    assert (got.was_turned, got.pixels.shape) == (False, (4, 5))


def test_a_folder_says_how_many_pictures_were_turned_and_sizes_are_those_after_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    for i in range(4):
        Image.fromarray(GREY if i else np.rot90(GREY, -1).copy()).save(tmp_path / f"{i}.png", exif=None if i else exif)
    with pytest.warns(DataWarning, match=r"1 of 4 pictures were turned upright as their EXIF orientation says \(.*0.png"):
        got = data.load(str(tmp_path), split="last")
    np.testing.assert_array_equal(got.train[..., 0], [GREY] * 3)
    Image.fromarray(GREY).save(tmp_path / "5.png", exif=exif)
    with pytest.raises(UserError, match=r"one size.*got \(4, 5\) \(0.png\) and \(5, 4\) \(5.png\) \(turned as EXIF says\)"):
        data.load(str(tmp_path))


# Mixed folders


@pytest.mark.parametrize("color", ["RGB", "RGBA", "P"])
def test_gray_pictures_among_color_get_three_channels(tmp_path, color):
    """Of every part, for a source that was refused before."""
    colored = Image.fromarray(RGBA[..., :3].copy()).convert(color)
    pixels = np.asarray(colored.convert("RGB"))
    for name, image in (("train/0", colored), ("train/1", Image.fromarray(GREY)), ("test/0", Image.fromarray(GREY))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image.save(tmp_path / f"{name}.png")
    with pytest.warns(DataWarning, match=r"2 of 3 pictures are gray and got three equal .* such as train/0.png have color"):
        got = data.load(str(tmp_path))
    np.testing.assert_array_equal(got.train[0], pixels)
    for image in (got.train[1], got.test[0]):
        np.testing.assert_array_equal(image, np.repeat(GREY[..., np.newaxis], 3, axis=-1))


def test_what_the_message_on_sizes_says_helps(tmp_path):
    path = write_pictures(tmp_path, {"a.png": GREY, "b.png": GREY, "train.png": GREY.T.copy()})
    with pytest.raises(UserError, match=r"\(4, 5\) \(a.png\) and \(5, 4\) \(train.png\). Pass `crop=4` .* `resize=4`"):
        data.load(path)
    assert data.load(path, crop=4).data_shape == (4, 4, 1)
    with pytest.warns(DataWarning, match="3 of 3 pictures were stretched to other proportions by `resize`"):
        assert data.load(path, resize=4).data_shape == (4, 4, 1)


def _png_of_16_bits(color):
    """A PNG file of 16 bits per channel, which Pillow writes for gray only."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in color)
    header = struct.pack(">2I5B", color.shape[1], color.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_what_is_left_out_of_a_picture_is_named(tmp_path):
    """Frames after the first, and the lower 8 of 16 bits."""
    frames = [Image.fromarray(RGBA[..., :3].copy()), Image.fromarray(RGBA[..., 1:].copy())]
    frames[0].save(tmp_path / "animated.png", save_all=True, append_images=frames[1:])
    deep = RNG.integers(0, 2**16, (4, 5, 3))
    (tmp_path / "deep.png").write_bytes(_png_of_16_bits(deep))
    frames[0].save(tmp_path / "plain.png")
    with pytest.warns(DataWarning) as caught:
        got = data.load(str(tmp_path), split="last", test_fraction=0.3)
    first, second = (str(warning.message) for warning in caught)
    assert "1 of 3 pictures are animated, and only the first frame is used (the first: animated.png)" in first
    assert "1 of 3 pictures have 16 bits per channel, of which the upper 8 are used (the first: deep.png)" in second
    np.testing.assert_array_equal(got.train, [RGBA[..., :3], deep // 256])


def test_sixteen_bits_among_eight_are_refused_and_what_the_message_says_helps(tmp_path):
    write_pictures(tmp_path, {"a.png": 100, "b.png": 200})
    deep = RNG.integers(0, 2**16, (3, 4), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "c.png")
    with pytest.raises(
        UserError, match=r"c.png: expected 8 bits .* a.png, got gray of 16 bits. .*\(np.asarray\(image\) // 257\)"
    ):
        data.load(str(tmp_path))
    with Image.open(tmp_path / "c.png") as image:
        reduced = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    reduced.save(tmp_path / "c.png")
    assert data.load(str(tmp_path)).data_shape == (3, 4, 1)
