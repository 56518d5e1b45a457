"""Reader of folders of PNG and JPEG files."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vae_jax.data.readers.listing import PARTS, UNREADABLE, folder_part, joined, silence
from vae_jax.data.readers.registry import Reader, Request, register
from vae_jax.data.split import Split
from vae_jax.errors import UserError

if TYPE_CHECKING:  # Pillow is imported when a picture is read
    from PIL.Image import Image

ENDINGS = (".png", ".jpg", ".jpeg")
_ORIENTATION = 0x0112  # the EXIF tag


class Picture(NamedTuple):
    """Pixels of a picture, and the changes that were made in reading it.

    Attributes:
      pixels: (height, width) for gray pictures, (height, width, 3) for color, uint8.
      was_transparent: some pixels were transparent, and were composited on black.
      was_turned: it was turned as its EXIF orientation says.
      was_animated: it has several frames, of which the first was read.
      was_deep: it has 16 bits per channel, of which the upper 8 were read.
    """

    pixels: np.ndarray
    was_transparent: bool
    was_turned: bool
    was_animated: bool
    was_deep: bool


def is_picture(file: Path) -> bool:
    """Returns whether a file is named like a PNG or JPEG file."""
    return file.suffix.lower() in ENDINGS


def read_picture(file: Path) -> Picture:
    """Reads a PNG or JPEG file as a viewer shows it: turned as its EXIF orientation says, transparency composited on black.

    Black is level 0, the background of digits and sprites. Files whose transparent pixels are stored as zeros, as most
    programs write them, keep their pixels where they are fully transparent or fully opaque.
    """
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
        with silence(), Image.open(file, formats=("PNG", "JPEG")) as image:  # other formats may run programs
            if image.mode.startswith(("I", "F")):
                raise UserError(
                    f"{file}: expected 8 bits per channel, got image mode {image.mode}. Convert it, for example with "
                    "Image.fromarray((np.asarray(image) // 257).astype(np.uint8)) for 16 bits."
                )
            is_deep = ";16" in str(getattr(image, "tile", ""))
            is_animated = image.format == "PNG" and getattr(image, "n_frames", 1) > 1
            turn = turns.get(_orientation(image) or 1)
            pixels, is_transparent = _composited(image if turn is None else image.transpose(turn))
            return Picture(pixels, is_transparent, turn is not None, is_animated, is_deep)
    except UserError:
        raise
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise UserError(f"{file}: not a readable image. {error}") from None


def _orientation(image: "Image") -> int | None:
    """Returns the EXIF orientation, 1 to 8; None where the picture has none that can be read."""
    try:
        return image.getexif().get(_ORIENTATION)
    except UNREADABLE:
        return None


def _composited(image: "Image") -> tuple[np.ndarray, bool]:
    """Returns the pixels on a black background, and whether some were transparent."""
    gray = image.mode in ("1", "L", "LA")
    if not image.has_transparency_data:
        return np.asarray(image.convert("L" if gray else "RGB")), False
    pixels = np.asarray(image.convert("RGBA"))
    color, alpha = pixels[..., :1] if gray else pixels[..., :3], pixels[..., 3:]
    if transparent := bool((alpha < 255).any()):
        color = ((color.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)  # rounded; color itself where alpha is 255
    return color[..., 0] if gray else color, transparent


def _read_folder(request: Request) -> Split:
    """Reads the pictures of a folder. Subfolders named train, val (valid, validation, dev) and test are the splits.

    Where there are only training and validation pictures, the test set is split off the training set. Gray pictures among
    color pictures get three equal channels.
    """
    folder = request.path
    parts, part_names, notes = _divide_by_folders(folder, request.files)
    pictures = {part: [read_picture(file) for file in files] for part, files in parts.items()}
    named = [(file, picture) for part in parts for file, picture in zip(parts[part], pictures[part], strict=True)]
    _check_sizes(folder, named)
    colored = [file for file, picture in named if picture.pixels.ndim == 3]
    is_mixed = 0 < len(colored) < len(named)

    def stack(pictures: Iterable[Picture]) -> np.ndarray:
        arrays = [picture.pixels for picture in pictures]
        if is_mixed:
            arrays = [array if array.ndim == 3 else np.repeat(array[..., np.newaxis], 3, axis=-1) for array in arrays]
        return np.stack(arrays)

    arrays = {part: stack(pictures[part]) for part in pictures}
    return Split(
        arrays["train"],
        validation=arrays.get("validation"),
        test=arrays.get("test"),
        part_names=part_names,
        assumed_level=255,
        channels_last=True,
        notes=(*notes, *_changes(folder, named, colored if is_mixed else [])),
    )


def _divide_by_folders(
    folder: Path, files: Sequence[Path]
) -> tuple[dict[str, Sequence[Path]], dict[str, str] | None, list[str]]:
    """Returns the files of each part, the names of the folders of each part, and notes."""
    parts_of_files = {file: folder_part(file, folder) for file in files}
    folders: dict[str, list[Path]] = {part: [] for part in PARTS}
    for match in parts_of_files.values():
        if match and match[1] not in folders[match[0]]:
            folders[match[0]].append(match[1])
    held_out = [subfolder for part in ("validation", "test") for subfolder in folders[part]]
    if not held_out:
        return {"train": files}, None, []
    if not folders["train"]:
        note = (
            f"{folder}: {_joined_folders(held_out)} {'is' if len(held_out) == 1 else 'are'} pooled with all other pictures, "
            "because no folder is named train. Rename the folder of the training pictures to train to keep them apart."
        )
        return {"train": files}, None, [note]
    _check_one_folder_for_each_part(folder, folders)
    parts: dict[str, Sequence[Path]] = {
        part: [file for file, match in parts_of_files.items() if match and match[0] == part] for part in PARTS if folders[part]
    }
    part_names = {part: _joined_folders(folders[part]) for part in parts}
    rest = [file.relative_to(folder) for file, match in parts_of_files.items() if match is None]
    if not rest:
        return parts, part_names, []
    verb = "picture is" if len(rest) == 1 else "pictures are"
    note = f"{folder}: {len(rest)} {verb} not used, being outside {joined(part_names.values())}: {joined(rest)}."
    return parts, part_names, [note]


def _check_one_folder_for_each_part(folder: Path, folders: dict[str, list[Path]]) -> None:
    """Raises `UserError` where two folders in one parent have names of the same part."""
    for part, subfolders in folders.items():
        for parent, count in Counter(subfolder.parent for subfolder in subfolders).items():
            if count > 1:
                siblings = [subfolder for subfolder in subfolders if subfolder.parent == parent]
                raise UserError(
                    f"{folder}: expected one folder of {PARTS[part]} pictures, got {_joined_folders(siblings)}. Merge them, or "
                    "move those that are not meant elsewhere."
                )


def _joined_folders(folders: Iterable[Path]) -> str:
    return joined(f"{folder}/" for folder in folders)


def _check_sizes(folder: Path, named: list[tuple[Path, Picture]]) -> None:
    first, size = named[0][0], named[0][1].pixels.shape[:2]
    odd = next(((file, picture) for file, picture in named if picture.pixels.shape[:2] != size), None)
    if odd is None:
        return
    file, picture = odd
    turned = " (turned as EXIF says)" if picture.was_turned else ""
    raise UserError(
        f"{folder}: expected images of one size (height, width), got {size} ({first.name}) and {picture.pixels.shape[:2]} "
        f"({file.name}){turned}. Resize them first, for example with Pillow's ImageOps.fit(image, ({size[1]}, {size[0]}))."
    )


def _changes(folder: Path, named: list[tuple[Path, Picture]], colored: list[Path]) -> list[str]:
    """Returns notes on the pictures that were changed in reading them.

    Args:
      folder: the data set.
      named: all pictures with their files.
      colored: the color pictures, where there are gray ones too.
    """
    total = len(named)
    notes = []

    def add(chosen: list[Path], change: str) -> None:
        if chosen:
            noun = "picture" if total == 1 else "pictures"
            notes.append(f"{folder}: {len(chosen)} of {total} {noun} {change} (the first: {chosen[0].relative_to(folder)}).")

    def files_where(field: str) -> list[Path]:
        return [file for file, picture in named if getattr(picture, field)]

    add(files_where("was_transparent"), "had transparent pixels and were composited on black")
    add(files_where("was_turned"), "were turned upright as their EXIF orientation says")
    add(files_where("was_animated"), "are animated, and only the first frame is used")
    add(files_where("was_deep"), "have 16 bits per channel, of which the upper 8 are used")
    if colored:
        gray = [file for file, picture in named if picture.pixels.ndim == 2]
        add(gray, f"are gray and got three equal channels, because others such as {colored[0].relative_to(folder)} have color")
    return notes


register(
    Reader(
        "images",
        "PNG/JPEG images",
        "a folder of PNG or JPEG images of one size, perhaps in subfolders train, val and test",
        _read_folder,
        recognizes=is_picture,
        skips_hidden_folders=True,
    )
)
