"""Decoding of many pictures in parallel into one array, whose shape and type are known from their headers."""

import contextlib
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from vae_jax.data.readers.listing import silence
from vae_jax.data.readers.pictures import Header, Picture, check_crop, decode, read_header, read_picture
from vae_jax.data.readers.registry import ReadOptions
from vae_jax.errors import UserError

if TYPE_CHECKING:
    from tqdm import tqdm

_MAX_IN_GROUP = 32  # pictures that a thread decodes at a time
_GROUP_BYTES = 2**22
_MANY = 20_000  # from as many pictures on, a line is printed where there is no terminal for a bar
Item = TypeVar("Item")
Result = TypeVar("Result")


class Pictures(NamedTuple):
    """Files to decode.

    Attributes:
      folder: the folder that they are in, for messages.
      files: the files in the order of their rows.
      options: `resize`, `crop` and `transpose`.
    """

    folder: Path
    files: Sequence[Path]
    options: ReadOptions

    def name(self, file: Path) -> str:
        """Returns the path of a file within the folder."""
        return str(file.relative_to(self.folder))


class Plan(NamedTuple):
    """Array that the pictures of a folder become.

    Attributes:
      shape: (pictures, height, width) for gray pictures, (pictures, height, width, 3) for color.
      dtype: uint8 or uint16.
      smallest_side: shortest side of all pictures in pixels.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    smallest_side: int

    @property
    def num_bytes(self) -> int:
        """Size of the array in bytes."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


class Change(NamedTuple):
    """Pictures that were changed in one way.

    Attributes:
      total: their number.
      first: path of the first one within the folder.
    """

    total: int
    first: str


Changes = dict[str, Change]  # keys are fields of `Picture`, "was_gray" for gray among color, and "has_color" for those others
_CHANGES = (*(field for field in Picture._fields if field.startswith("was_")), "was_gray", "has_color")


def plan(pictures: Pictures) -> Plan:
    """Returns the array that the pictures become, from their headers, of which it reads all.

    Raises:
      UserError: an unreadable header, pictures of several sizes that no option makes equal, gray of 8 and of 16 bits, or a
        picture smaller than the square that is to be cut out of it.
    """
    _, files, options = pictures
    with silence(), contextlib.closing(_in_order(_read_headers, files, _MAX_IN_GROUP)) as results:
        headers = [header for group in results for header in group]
    _check_depths(pictures, headers)
    smallest = min(range(len(files)), key=lambda index: min(headers[index][:2]))
    smallest_side = min(headers[smallest][:2])
    if options.crop is not None and options.crop > smallest_side:
        upright = read_picture(files[smallest], ReadOptions(transpose=options.transpose)).pixels
        check_crop(str(files[smallest]), options.crop, upright.shape[0], upright.shape[1])
    if options.resize is not None:
        height, width = options.resize
    elif options.crop is not None:
        height = width = options.crop
    else:
        height, width = read_picture(files[0], options).pixels.shape[:2]
        sides = {height, width}
        odd = next((file for file, header in zip(files, headers, strict=True) if {*header[:2]} != sides), None)
        if odd is not None:  # whichever way it is turned
            raise _several_sizes(pictures, (height, width), odd, read_picture(odd, options), smallest_side)
    channels = () if all(header.is_gray for header in headers) else (3,)
    dtype = np.dtype(np.uint16 if headers[0].bits == 16 else np.uint8)
    return Plan((len(files), height, width, *channels), dtype, smallest_side)


def _read_headers(files: Sequence[Path]) -> list[Header]:
    return [read_header(file) for file in files]


def _check_depths(pictures: Pictures, headers: Sequence[Header]) -> None:
    """Raises `UserError` where gray pictures of 16 bits are among others."""
    deep = next((file for file, header in zip(pictures.files, headers, strict=True) if header.bits == 16), None)
    other = next((file for file, header in zip(pictures.files, headers, strict=True) if header.bits == 8), None)
    if deep is None or other is None:
        return
    raise UserError(
        f"{deep}: expected 8 bits per channel, as in {pictures.name(other)}, got gray of 16 bits. Convert it, "
        "for example with Image.fromarray((np.asarray(image) // 257).astype(np.uint8))."
    )


def _several_sizes(pictures: Pictures, size: tuple[int, int], file: Path, picture: Picture, smallest_side: int) -> UserError:
    """Returns the error for a picture whose size, (height, width), is not `size`, that of the first picture."""
    turned = " (turned as EXIF says)" if picture.was_turned else ""
    side = smallest_side
    return UserError(
        f"{pictures.folder}: expected images of one size (height, width), got {size} ({pictures.name(pictures.files[0])}) and "
        f"{picture.pixels.shape[:2]} ({pictures.name(file)}){turned}. Pass `crop={side}` to cut the central square of "
        f"{side} x {side} pixels out of each, `resize={side}` to stretch each to that size, or both with sizes of your choice."
    )


def decode_all(pictures: Pictures, plan: Plan, keep: Callable[[int, np.ndarray], None]) -> Changes:
    """Decodes pictures in threads, and passes the index and the pixels of each to `keep`, in order.

    Pillow lets other threads run while it decodes and resizes. A few groups of pictures are in memory at a time.

    Returns:
      The changes that were made to the pictures.

    Raises:
      UserError: a damaged picture, or one whose size is not that of `plan`.
    """
    options, files = pictures.options, pictures.files
    counts: dict[str, int] = dict.fromkeys(_CHANGES, 0)
    first: dict[str, str] = {}
    has_channels = len(plan.shape) == 4

    def decode_group(group: Sequence[Path]) -> list[tuple[Picture, np.ndarray]]:
        decoded = [decode(file, str(file), options) for file in group]
        return [(picture, _as_planned(picture.pixels, has_channels, plan.dtype)) for picture in decoded]

    group_size = max(1, min(_MAX_IN_GROUP, _GROUP_BYTES * len(files) // max(plan.num_bytes, 1)))
    with (
        silence(),
        _progress(pictures) as bar,
        contextlib.closing(_in_order(decode_group, files, group_size)) as results,
    ):
        for index, (picture, pixels) in enumerate(itertools.chain.from_iterable(results)):
            if pixels.shape != plan.shape[1:]:
                raise _several_sizes(pictures, (plan.shape[1], plan.shape[2]), files[index], picture, plan.smallest_side)
            keep(index, pixels)
            is_gray = picture.pixels.ndim == 2
            facts = {**picture._asdict(), "was_gray": is_gray and has_channels, "has_color": not is_gray}
            for change in filter(facts.__getitem__, _CHANGES):
                counts[change] += 1
                first.setdefault(change, pictures.name(files[index]))
            bar.update()
    if not counts["was_gray"]:
        counts["has_color"] = 0
    return {change: Change(count, first[change]) for change, count in counts.items() if count}


def _as_planned(pixels: np.ndarray, has_channels: bool, dtype: np.dtype) -> np.ndarray:
    if has_channels and pixels.ndim == 2:
        pixels = np.repeat(pixels[..., np.newaxis], 3, axis=-1)
    return np.ascontiguousarray(pixels, dtype)


def _in_order(
    function: Callable[[Sequence[Item]], Result], items: Sequence[Item], group_size: int
) -> Generator[Result, None, None]:
    """Yields the results of a function of groups of items, computed in threads, at most two groups a thread at a time."""
    threads = min(32, _num_cores())
    groups = (items[first : first + group_size] for first in range(0, len(items), group_size))
    with ThreadPoolExecutor(threads, "pictures") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for group in groups:
                waiting.append(pool.submit(function, group))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _num_cores() -> int:
    with contextlib.suppress(AttributeError):  # not on this system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _progress(pictures: Pictures) -> "tqdm":
    """Returns a bar on stderr, if that is a terminal. Elsewhere a line is printed for many pictures."""
    from tqdm import tqdm

    count, description = len(pictures.files), f"{pictures.folder}: decoding"
    if not sys.stderr.isatty() and count >= _MANY:
        print(f"{description} {count} pictures, once ...", file=sys.stderr, flush=True)
    return tqdm(total=count, desc=description, unit=" pictures", disable=None, leave=False, dynamic_ncols=True)


def notes_on_changes(pictures: Pictures, changes: Changes) -> list[str]:
    """Returns a note on each kind of change that was made to some of the pictures."""
    color = changes["has_color"].first if "has_color" in changes else ""
    texts = {
        "was_transparent": "had transparent pixels and were composited on black",
        "was_turned": "were turned upright as their EXIF orientation says",
        "was_animated": "are animated, and only the first frame is used",
        "was_deep": "have 16 bits per channel, of which the upper 8 are used",
        "was_gray": f"are gray and got three equal channels, because others such as {color} have color",
        "was_stretched": "were stretched to other proportions by `resize`; `crop` cuts the central square out first",
    }
    total = len(pictures.files)
    noun = "picture" if total == 1 else "pictures"
    return [
        f"{pictures.folder}: {changes[name].total} of {total} {noun} {text} (the first: {changes[name].first})."
        for name, text in texts.items()
        if name in changes
    ]
