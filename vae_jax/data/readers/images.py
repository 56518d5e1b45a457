"""Reader of folders of PNG and JPEG files.

Folders named train, val (valid, validation, dev) and test are the splits. Class folders are labels: the first folder below
those, or below the data folder itself where there are none, if every picture is in one and at least two occur. Classes are
numbered in sorted order, as torchvision's `ImageFolder` numbers them. Folders that only number the pictures through, such as
FFHQ's 00000 and 01000, are not classes.

CelebA's list_eval_partition and list_attr_celeba (.txt, or Kaggle's .csv) are read where they lie in the folder, or beside it
if it is named like CelebA. The partition is the split, and the attributes are factors, 0 or 1.

Pictures are decoded in parallel. `crop` cuts out the central square, `resize` then resizes it (see `pictures.fitted`):
`crop=148, resize=64` is the protocol of CelebA. Where pictures are cut, resized or streamed, or are more than 2,000 or than
64 MiB, they are written to the cache folder, and read from there until a file of the folder changes.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vae_jax.data.on_disk import Rows, open_array
from vae_jax.data.readers.celeba import attribute_factors, divide_by_partition, is_list, read_lists
from vae_jax.data.readers.picture_parts import class_labels, divide_by_folders
from vae_jax.data.readers.pictures import Picture as Picture
from vae_jax.data.readers.pictures import is_picture
from vae_jax.data.readers.pictures import picture_from_bytes as picture_from_bytes
from vae_jax.data.readers.pictures import read_picture as read_picture
from vae_jax.data.readers.registry import Reader, Request, register
from vae_jax.data.split import Split
from vae_jax.errors import UserError


def _read_folder(request: Request) -> Split:
    """Reads the pictures of a folder.

    Subfolders named train, val (valid, validation, dev) and test are the splits, or else CelebA's list_eval_partition. Where
    there are only training and validation pictures, the test set is split off the training set. Class folders are labels (see
    `picture_parts.class_labels`), and CelebA's attributes are factors. Gray pictures among color pictures get three equal
    channels. Pictures that are many, resized, cut or streamed are decoded once, into the cache folder.
    """
    # Threads, locks and temporary folders are not imported for a help text that lists the readers.
    from vae_jax.data.readers.picture_cache import decoded
    from vae_jax.data.readers.picture_decoding import Pictures, notes_on_changes

    folder = request.path
    list_files = [file for file in request.files if is_list(file)]
    files = [file for file in request.files if file not in list_files]
    if not files:
        raise UserError(f"{folder}: expected PNG or JPEG images beside {list_files[0].name}, got none.")
    lists = read_lists(folder, list_files)
    parts = divide_by_partition(folder, divide_by_folders(folder, files), lists)
    factors = attribute_factors(folder, parts, lists.attributes)
    labels = class_labels(folder, parts)
    pictures = Pictures(folder, [file for group in parts.files.values() for file in group], request.options)
    images, changes, highest = decoded(pictures, request.stream)
    arrays = _divide(images, {part: len(group) for part, group in parts.files.items()}, request.stream, highest)
    return Split(
        arrays["train"],
        labels.by_part.get("train"),
        _in_memory(arrays.get("validation")),
        _in_memory(arrays.get("test")),
        labels.by_part.get("test"),
        train_factors=factors.by_part.get("train"),
        test_factors=factors.by_part.get("test"),
        validation_factors=factors.by_part.get("validation"),
        factor_names=factors.names,
        part_names=parts.names,
        assumed_level=255 if images.dtype == np.uint8 else None,
        channels_last=True,
        notes=(*lists.notes, *parts.notes, *labels.notes, *factors.notes, *notes_on_changes(pictures, changes)),
        validation_labels=labels.by_part.get("validation"),
        label_names=labels.names,
        conversion=f"labels from {len(labels.names)} class folders" if labels.names else "",
    )


def _divide(images: np.ndarray, sizes: Mapping[str, int], stream: bool, highest: int | None) -> dict[str, np.ndarray | Rows]:
    """Returns the rows of each part, which follow each other. With `stream` the training images stay in their file.

    The training images of a source without a test set stay mapped, because dividing them copies them.
    """
    arrays: dict[str, np.ndarray | Rows] = {}
    first = 0
    for part, size in sizes.items():
        rows = images[first : first + size]
        if isinstance(images, np.memmap) and stream and part == "train":
            path = Path(str(images.filename))
            arrays[part] = open_array(path, rows.shape, rows.dtype, images.offset + first * rows[:1].nbytes, highest)
        elif isinstance(images, np.memmap) and (part != "train" or "test" in sizes):
            arrays[part] = np.array(rows)
        else:
            arrays[part] = np.asarray(rows)
        first += size
    return arrays


def _in_memory(array: np.ndarray | Rows | None) -> np.ndarray | None:
    assert not isinstance(array, Rows)
    return array


def _recognizes(file: Path) -> bool:
    return is_picture(file) or is_list(file)


register(
    Reader(
        "images",
        "PNG/JPEG images",
        "a folder of PNG or JPEG images, perhaps in subfolders train, val and test, in class folders, or with CelebA's lists",
        _read_folder,
        recognizes=_recognizes,
        skips_hidden_folders=True,
        can_stream=True,
        uses=("resize", "crop"),
        published=("CelebA", "FFHQ", "ImageFolder"),
    )
)
