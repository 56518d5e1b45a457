"""Reader of folders of PNG and JPEG files."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vae_jax.data.readers.listing import PARTS, UNREADABLE, joined, part_of_folders, silence
from vae_jax.data.split import Split
from vae_jax.errors import UserError

ENDINGS = (".png", ".jpg", ".jpeg")
_ORIENTATION = 0x0112  # the EXIF tag


class Picture(NamedTuple):
    """The pixels of a picture, and what was changed or left out in reading it."""

    pixels: np.ndarray  # (height, width) of grey pictures, (height, width, 3) of color, uint8
    transparent: bool  # some pixels were, and were composited on black
    turned: bool  # by its EXIF orientation
    animated: bool  # and only the first frame is here
    deep: bool  # 16 bits per channel, of which the upper 8 are here


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
            deep = ";16" in str(getattr(image, "tile", ""))
            animated = image.format == "PNG" and getattr(image, "n_frames", 1) > 1
            turn = turns.get(_orientation(image))
            pixels, transparent = _composited(image if turn is None else image.transpose(turn))
            return Picture(pixels, transparent, turn is not None, animated, deep)
    except UserError:
        raise
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise UserError(f"{file}: not a readable image. {error}") from None


def _orientation(image: Any) -> Any:
    """The EXIF orientation, 1 to 8; None where the picture has none that can be read."""
    try:
        return image.getexif().get(_ORIENTATION)
    except UNREADABLE:
        return None


def _composited(image: Any) -> tuple[np.ndarray, bool]:
    """(pixels on a black background, whether some were transparent)."""
    grey = image.mode in ("1", "L", "LA")
    if not image.has_transparency_data:
        return np.asarray(image.convert("L" if grey else "RGB")), False
    pixels = np.asarray(image.convert("RGBA"))
    color, alpha = pixels[..., :1] if grey else pixels[..., :3], pixels[..., 3:]
    if transparent := bool((alpha < 255).any()):
        color = ((color.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)  # rounded; color itself where alpha is 255
    return color[..., 0] if grey else color, transparent


def read_folder(folder: Path, files: list[Path]) -> Split:
    """Reads the pictures of a folder; subfolders named train, val (valid, validation, dev) and test are the splits.

    Where there are only training and validation pictures, the test set is split off the training set. Grey pictures among
    color pictures get three equal channels.
    """
    parts, where, notes = _parts(folder, files)
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
        where=where,
        assumed_level=255,
        channels_last=True,
        notes=(*notes, *_changes(folder, named, colored if is_mixed else [])),
    )


def _parts(folder: Path, files: list[Path]) -> tuple[dict[str, list[Path]], dict[str, str] | None, list[str]]:
    """(files of each part, the folders of each part, notes)."""
    owners = {file: part_of_folders(file, folder) for file in files}
    folders: dict[str, list[Path]] = {part: [] for part in PARTS}
    for owner in owners.values():
        if owner and owner[1] not in folders[owner[0]]:
            folders[owner[0]].append(owner[1])
    held = [place for part in ("validation", "test") for place in folders[part]]
    if not held:
        return {"train": files}, None, []
    if not folders["train"]:
        note = (
            f"{folder}: {_places(held)} {'is' if len(held) == 1 else 'are'} pooled with all other pictures, because no folder "
            "is named train. Rename the folder of the training pictures to train to keep them apart."
        )
        return {"train": files}, None, [note]
    for part, places in folders.items():
        for parent, count in Counter(place.parent for place in places).items():
            if count > 1:
                same = [place for place in places if place.parent == parent]
                raise UserError(
                    f"{folder}: expected one folder of {PARTS[part]} pictures, got {_places(same)}. Merge them, or move those "
                    "that are not meant elsewhere."
                )
    parts = {part: [file for file, owner in owners.items() if owner and owner[0] == part] for part in PARTS if folders[part]}
    where = {part: _places(folders[part]) for part in parts}
    rest = [file.relative_to(folder) for file, owner in owners.items() if owner is None]
    if not rest:
        return parts, where, []
    verb = "picture is" if len(rest) == 1 else "pictures are"
    note = f"{folder}: {len(rest)} {verb} not used, being outside {joined(where.values())}: {joined(rest)}."
    return parts, where, [note]


def _places(folders: Iterable[Path]) -> str:
    return joined(f"{place}/" for place in folders)


def _check_sizes(folder: Path, named: list[tuple[Path, Picture]]) -> None:
    first, size = named[0][0], named[0][1].pixels.shape[:2]
    odd = next(((file, picture) for file, picture in named if picture.pixels.shape[:2] != size), None)
    if odd is None:
        return
    file, picture = odd
    turned = " (turned as EXIF says)" if picture.turned else ""
    raise UserError(
        f"{folder}: expected images of one size (height, width), got {size} ({first.name}) and {picture.pixels.shape[:2]} "
        f"({file.name}){turned}. Resize them first, for example with Pillow's ImageOps.fit(image, ({size[1]}, {size[0]}))."
    )


def _changes(folder: Path, named: list[tuple[Path, Picture]], colored: list[Path]) -> list[str]:
    """Notes on the pictures that were changed in reading; `colored` has the color pictures where there are grey ones too."""
    total = len(named)
    notes = []

    def add(chosen: list[Path], words: str) -> None:
        if chosen:
            verb = "picture" if total == 1 else "pictures"
            notes.append(f"{folder}: {len(chosen)} of {total} {verb} {words} (the first: {chosen[0].relative_to(folder)}).")

    def having(field: str) -> list[Path]:
        return [file for file, picture in named if getattr(picture, field)]

    add(having("transparent"), "had transparent pixels and were composited on black")
    add(having("turned"), "were turned upright as their EXIF orientation says")
    add(having("animated"), "are animated, and only the first frame is used")
    add(having("deep"), "have 16 bits per channel, of which the upper 8 are used")
    if colored:
        grey = [file for file, picture in named if picture.pixels.ndim == 2]
        add(grey, f"are grey and got three equal channels, because others such as {colored[0].relative_to(folder)} have color")
    return notes
