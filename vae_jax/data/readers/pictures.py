"""Pixels of one PNG or JPEG picture: upright, on black, cut out, resized."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vae_jax.data.readers.listing import UNREADABLE, silence
from vae_jax.data.readers.registry import ReadOptions
from vae_jax.errors import UserError

if TYPE_CHECKING:  # Pillow is imported when a picture is read
    from PIL.Image import Image

ENDINGS = (".png", ".jpg", ".jpeg")
_FORMATS = ("PNG", "JPEG")  # other formats may run programs
_ORIENTATION = 0x0112  # the EXIF tag
_GRAY_MODES = ("1", "L", "LA")
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # gray of 16 bits; "I" in some versions of Pillow
_NO_OPTIONS = ReadOptions()


class Picture(NamedTuple):
    """Pixels of a picture, and the changes that were made in reading it.

    Attributes:
      pixels: (height, width) for gray pictures, (height, width, 3) for color; uint8, or uint16 for gray of 16 bits.
      was_transparent: some pixels were transparent, and were composited on black.
      was_turned: it was turned as its EXIF orientation says.
      was_animated: it has several frames, of which the first was read.
      was_deep: it has color or transparency with 16 bits per channel, of which the upper 8 were read.
      was_stretched: resizing changed its proportions by more than rounding.
    """

    pixels: np.ndarray
    was_transparent: bool
    was_turned: bool
    was_animated: bool
    was_deep: bool
    was_stretched: bool = False


class Header(NamedTuple):
    """Properties of a picture that are known before it is decoded.

    Attributes:
      height, width: sides as stored, before the picture is turned upright.
      is_gray: it has one channel, perhaps with transparency.
      bits: of the levels that are read, 8 or 16.
    """

    height: int
    width: int
    is_gray: bool
    bits: int


def is_picture(file: Path) -> bool:
    """Returns whether a file is named like a PNG or JPEG file."""
    return file.suffix.lower() in ENDINGS


def read_picture(file: Path, options: ReadOptions = _NO_OPTIONS) -> Picture:
    """Reads a PNG or JPEG file as a viewer shows it: turned as its EXIF orientation says, transparency composited on black.

    Black is level 0, the background of digits and sprites. Files whose transparent pixels are stored as zeros, as most
    programs write them, keep their pixels where they are fully transparent or fully opaque. Then the picture is transposed,
    cut and resized as the options say (see `fitted`).

    Raises:
      UserError: a file that is damaged or of a different format, or a picture smaller than `options.crop`.
    """
    with silence():
        return decode(file, str(file), options)


def picture_from_bytes(content: bytes, name: str, options: ReadOptions = _NO_OPTIONS) -> Picture:
    """Reads the content of a PNG or JPEG file as `read_picture` does.

    Args:
      content: the bytes of the file.
      name: where the bytes come from, for messages.
      options: `transpose`, `crop` and `resize`.
    """
    with silence():
        return decode(io.BytesIO(content), name, options)


def read_header(file: Path) -> Header:
    """Reads sides, channels and depth of a file without decoding it.

    Threads may call it, because unlike `read_picture` it does not change the filters of warnings.
    """
    from PIL import Image

    try:
        with Image.open(file, formats=_FORMATS) as image:
            is_deep = image.mode in _DEEP_MODES
            return Header(image.height, image.width, is_deep or image.mode in _GRAY_MODES, 16 if is_deep else 8)
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise _unreadable(str(file), error) from None


def decode(source: Path | io.BytesIO, name: str, options: ReadOptions) -> Picture:
    """Reads a picture. Threads may call it, because unlike `read_picture` it does not change the filters of warnings."""
    from PIL import Image

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    try:
        with Image.open(source, formats=_FORMATS) as image:
            is_deep = ";16" in str(getattr(image, "tile", "")) and image.mode not in _DEEP_MODES
            is_animated = image.format == "PNG" and getattr(image, "n_frames", 1) > 1
            turn = turns.get(_orientation(image) or 1)
            pixels, is_transparent = _composited(image if turn is None else image.transpose(turn))
            pixels, is_stretched = fitted(pixels, options, name)
            return Picture(pixels, is_transparent, turn is not None, is_animated, is_deep, is_stretched)
    except UserError:
        raise
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise _unreadable(name, error) from None


def fitted(pixels: np.ndarray, options: ReadOptions, name: str) -> tuple[np.ndarray, bool]:
    """Transposes, cuts and resizes a picture, in this order.

    With a side c of the square and a picture of height h and width w, the rows from round((h - c) / 2) on are kept, c of them,
    and the columns from round((w - c) / 2) on, where round takes halves to the even number. This is torchvision's
    `CenterCrop(c)`. The square is resized by Pillow's bilinear filter, which averages over all pixels that an output pixel
    covers (antialiasing), as torchvision's `Resize((height, width))` does by default. Gray of 16 bits is resized in float32
    and rounded to the nearest level.

    Args:
      pixels: (height, width) or (height, width, 3), uint8 or uint16.
      options: `transpose`, `crop` and `resize`.
      name: the picture, for messages.

    Returns:
      The pixels, and whether resizing changed the proportions by more than rounding.

    Raises:
      UserError: the picture is smaller than the square.
    """
    if options.transpose:
        pixels = np.swapaxes(pixels, 0, 1)
    height, width = pixels.shape[:2]
    if (side := options.crop) is not None:
        check_crop(name, side, height, width)
        top, left = round((height - side) / 2), round((width - side) / 2)
        pixels = pixels[top : top + side, left : left + side]
        height = width = side
    if options.resize is None:
        return np.ascontiguousarray(pixels), False
    new_height, new_width = options.resize
    # A side that keeps the proportions may be rounded down or to the nearest pixel.
    keeps = -1 < new_width - width * new_height / height <= 0.5 or -1 < new_height - height * new_width / width <= 0.5
    return _resized(np.ascontiguousarray(pixels), new_height, new_width), not keeps


def check_crop(name: str, side: int, height: int, width: int) -> None:
    """Raises `UserError` where a square is larger than the picture that it is to be cut out of."""
    if side <= min(height, width):
        return
    raise UserError(
        f"{name}: `crop={side}` needs pictures of at least {side} x {side} pixels, got {height} x {width}. Pass a `crop` of at "
        f"most {min(height, width)}, or `resize` alone.",
        field="crop",
    )


def _resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image

    is_deep = pixels.dtype == np.uint16
    image = Image.fromarray(pixels.astype(np.float32) if is_deep else pixels)
    resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return np.clip(np.rint(resized), 0, 65535).astype(np.uint16) if is_deep else resized


def _unreadable(name: str, error: BaseException) -> UserError:
    return UserError(f"{name}: not a readable image. {error}")


def _orientation(image: "Image") -> int | None:
    """Returns the EXIF orientation, 1 to 8; None where the picture has none that can be read."""
    try:
        return image.getexif().get(_ORIENTATION)
    except UNREADABLE:
        return None


def _composited(image: "Image") -> tuple[np.ndarray, bool]:
    """Returns the pixels on a black background, and whether some were transparent."""
    if image.mode in _DEEP_MODES:
        levels = np.asarray(image).astype(np.uint16)
        hidden = levels == image.info.get("transparency", -1)  # one level, which is transparent
        return np.where(hidden, np.uint16(0), levels), bool(hidden.any())
    gray = image.mode in _GRAY_MODES
    if not image.has_transparency_data:
        return np.asarray(image.convert("L" if gray else "RGB")), False
    pixels = np.asarray(image.convert("RGBA"))
    color, alpha = pixels[..., :1] if gray else pixels[..., :3], pixels[..., 3:]
    if transparent := bool((alpha < 255).any()):
        color = ((color.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)  # rounded; color itself where alpha is 255
    return color[..., 0] if gray else color, transparent
