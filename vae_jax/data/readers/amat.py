"""Reader of .amat files, text with a row of numbers for each image, in which binarized MNIST is distributed."""

import io
import math

import numpy as np

from vae_jax.data.readers.listing import check_fits_in_memory, silence
from vae_jax.data.readers.registry import Reader, Request, register
from vae_jax.data.split import Split
from vae_jax.errors import UserError


def _read_amat(request: Request) -> Split:
    """Reads rows of numbers: zeros and ones as uint8, other numbers as float32.

    Rows of as many numbers as a square has become square images, unless `event` says otherwise. A further column of whole
    numbers, as in the files of Larochelle et al. (2007), has the labels.
    """
    path = request.path
    try:
        check_fits_in_memory(path, 3 * path.stat().st_size)
        text = path.read_bytes()
        numbers = _as_bits(text)
        if numbers is None:
            with silence():
                numbers = np.loadtxt(io.BytesIO(text), dtype=np.float32, ndmin=2)
            if np.isin(numbers, (0, 1)).all():
                numbers = numbers.astype(np.uint8)
    except (OSError, ValueError, MemoryError, UnicodeError) as error:
        reason = " ".join(str(error).split(";")[0].split())[:160]
        raise UserError(f"{path}: expected rows of numbers of one length. {reason}. The file is damaged.") from None
    if not numbers.size:
        raise UserError(f"{path}: expected rows of numbers, got none. The file is empty.")
    columns, labels, conversion = numbers.shape[1], None, ""
    if columns > 64 and _is_square(columns - 1) and (numbers[:, -1] == np.round(numbers[:, -1])).all():
        numbers, labels = numbers[:, :-1], numbers[:, -1].astype(np.int64)
        columns, conversion = columns - 1, "the last column has the labels"
    if request.options.event not in ("auto", "image") or not _is_square(columns):
        return Split(numbers, labels, conversion=conversion)
    side = math.isqrt(columns)
    return Split(numbers.reshape(-1, side, side), labels, conversion=conversion)


def _is_square(count: int) -> bool:
    return count > 1 and math.isqrt(count) ** 2 == count


def _as_bits(text: bytes) -> np.ndarray | None:
    """Returns the numbers of a text of zeros and ones with one space between them; None for any other text."""
    first = text[: text.find(b"\n") + 1] or text + b"\n"
    missing = -len(text) % len(first)  # the last line may end without a line feed
    if missing:
        if first[-missing:].strip():
            return None
        text += first[-missing:]
    length = len(first.rstrip())
    table = np.frombuffer(text, np.uint8).reshape(-1, len(first))
    bits, gaps = table[:, :length:2] - np.uint8(ord("0")), table[:, 1:length:2]
    ends = np.frombuffer(first[length:], np.uint8)
    if not bits.size or (bits > 1).any() or (gaps != ord(" ")).any() or (table[:, length:] != ends).any():
        return None
    return bits


register(
    Reader(
        "amat",
        ".amat files",
        "an .amat file: a row of numbers for each image, as of binarized MNIST",
        _read_amat,
        endings=(".amat",),
        published=("binarized MNIST",),
    )
)
