"""Reader of the binary version of CIFAR-10 and CIFAR-100 (Krizhevsky 2009)."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vae_jax.data.readers.listing import check_fits_in_memory, joined
from vae_jax.data.readers.registry import Reader, Request, register
from vae_jax.data.split import Split
from vae_jax.errors import UserError, unknown

_NAME = re.compile(r"(data_batch_\d+|test_batch|train|test)\.bin", re.IGNORECASE)
_LABEL_FILES = ("batches.meta.txt", "coarse_label_names.txt", "fine_label_names.txt")
_PIXELS = 3 * 32 * 32
_LABELS_OF_100 = ("coarse", "fine")  # the two bytes before each image


def is_cifar(file: Path) -> bool:
    """Returns whether a file is named like one of the binary version."""
    return _NAME.fullmatch(file.name) is not None or file.name.lower() in _LABEL_FILES


def _read_folder(request: Request) -> Split:
    """Reads records of one label (CIFAR-10) or two (CIFAR-100: coarse and fine), and 32 x 32 pixels in planes R, G, B."""
    folder = request.path
    data_files = [file for file in request.files if _NAME.fullmatch(file.name)]
    tens = [file for file in data_files if "batch" in file.name.lower()]
    hundreds = [file for file in data_files if file not in tens]
    if tens and hundreds:
        both = joined((tens[0].relative_to(folder), hundreds[0].relative_to(folder)))
        raise UserError(
            f"{folder}: expected the files of CIFAR-10 or of CIFAR-100, got {both}. Pass a folder with one of them."
        )
    if len({file.name.lower() for file in data_files}) < len(data_files):
        raise UserError(f"{folder}: expected each file once, got several of one name. Pass a folder that holds one data set.")
    train_files = [file for file in data_files if not file.name.lower().startswith("test")]
    test_files = [file for file in data_files if file not in train_files]
    if not train_files:
        raise UserError(
            f"{folder}: expected training images (data_batch_1.bin to data_batch_5.bin, or train.bin), got "
            f"{joined(file.relative_to(folder) for file in request.files)}. Add them."
        )
    column, names_file = _label_column(request, num_labels=1 if tens else 2)
    train, train_labels = _read_files(train_files, 1 if tens else 2, column)
    test, test_labels = _read_files(test_files, 1 if tens else 2, column) if test_files else (None, None)
    return Split(
        train,
        train_labels,
        test=test,
        test_labels=test_labels,
        part_names={"train": _names(folder, train_files), **({"test": _names(folder, test_files)} if test_files else {})},
        channels_last=True,
        label_names=_label_names(request.files, names_file, [train_labels, test_labels]),
        conversion="" if tens else f"labels are the {_LABELS_OF_100[column]} ones",
    )


def _label_column(request: Request, num_labels: int) -> tuple[int, str]:
    """Returns which of the labels of a record is used, and the name of the file that has the names of its classes."""
    chosen = request.options.label_column
    if num_labels == 1:
        if chosen is not None:
            raise UserError(f"{request.path}: CIFAR-10 has one label for each image. Leave it out.", field="label_column")
        return 0, "batches.meta.txt"
    if chosen is not None and chosen not in _LABELS_OF_100:
        raise unknown("label column", chosen, _LABELS_OF_100)
    chosen = chosen or "fine"
    return _LABELS_OF_100.index(chosen), f"{chosen}_label_names.txt"


def _read_files(files: Sequence[Path], num_labels: int, column: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images, (examples, 32, 32, 3), and one of the labels of each."""
    record = num_labels + _PIXELS
    try:
        sizes = [file.stat().st_size for file in files]
        for file, size in zip(files, sizes, strict=True):
            if not size or size % record:
                raise UserError(
                    f"{file}: expected records of {record} bytes ({num_labels} for labels and {_PIXELS} pixels), got a file of "
                    f"{size} bytes. It is damaged, or not of CIFAR."
                )
        check_fits_in_memory(files[0], 2 * sum(sizes))
        records = np.concatenate([np.fromfile(file, np.uint8).reshape(-1, record) for file in files])
    except (OSError, ValueError, MemoryError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{files[0]}: cannot be read. {error}") from None
    images = np.moveaxis(records[:, num_labels:].reshape(-1, 3, 32, 32), 1, -1)
    return images, records[:, column]


def _label_names(files: Sequence[Path], name: str, labels: Sequence[np.ndarray | None]) -> tuple[str, ...] | None:
    """Returns the names of the classes, where a file beside the images has one for each."""
    file = next((file for file in files if file.name.lower() == name), None)
    if file is None:
        return None
    try:
        names = tuple(file.read_text(errors="replace").split())
    except OSError as error:
        raise UserError(f"{file}: cannot be read. {error}") from None
    largest = max(int(part.max()) for part in labels if part is not None)
    return names if largest < len(names) else None


def _names(folder: Path, files: Sequence[Path]) -> str:
    return joined((file.relative_to(folder) for file in files), limit=3)


register(
    Reader(
        "cifar",
        "CIFAR's binary files",
        "a folder of the binary version of CIFAR-10 or CIFAR-100, with labels",
        _read_folder,
        recognizes=is_cifar,
        uses=("label_column",),
        published=("CIFAR-10", "CIFAR-100"),
    )
)
