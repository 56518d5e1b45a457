"""Records of a prepared TFDS data set, decoded once and kept as plain arrays in the cache folder."""

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from vae_jax.data.on_disk import Rows
from vae_jax.data.readers.listing import UNREADABLE
from vae_jax.data.readers.numpy_files import open_npy
from vae_jax.errors import UserError
from vae_jax.storage.atomic import write_arrays
from vae_jax.storage.cache import cache_dir


class Feature(Protocol):
    """The attributes of a TFDS feature that are used here."""

    shape: tuple[int | None, ...]
    np_dtype: np.dtype
    names: Sequence[str]  # of a `ClassLabel`


class SplitInfo(Protocol):
    """The attributes of a TFDS split that are used here."""

    num_examples: int


class DatasetInfo(Protocol):
    """The attributes of `tfds.core.DatasetInfo` that are used here."""

    full_name: str
    features: Mapping[str, Feature]
    splits: Mapping[str, SplitInfo]


class Builder(Protocol):
    """The part of `tfds.core.DatasetBuilder` that is used here; the types of TFDS itself are too wide to be of use."""

    info: DatasetInfo
    data_dir: str
    url_infos: Iterable[str]

    def is_prepared(self) -> bool:
        """Returns whether the files are prepared."""
        ...

    def download_and_prepare(self, *, file_format: str) -> None:
        """Fetches and prepares the files."""
        ...

    def as_data_source(self, split: str) -> Sequence[Mapping[str, np.ndarray]]:
        """Returns the records of a split, which are decoded when they are read."""
        ...


class Features(NamedTuple):
    """Names of the features that are read from each record.

    Attributes:
      image: the image.
      label: an integer label, where there is one.
      factors: the factors that the image was made from, in their published order, where there are any.
      label_names: the name of each label 0, 1, 2, ...
    """

    image: str
    label: str | None
    factors: tuple[str, ...] | None
    label_names: tuple[str, ...] | None = None


class Records(NamedTuple):
    """Records of one split, decoded.

    Attributes:
      images: (examples, height, width, channels); `Rows` where they are left in the cache folder.
      labels: (examples,), integers.
      factors: (examples, factors), uint8.
    """

    images: np.ndarray | Rows
    labels: np.ndarray | None
    factors: np.ndarray | None


def read_in_memory(builder: Builder, split: str, features: Features) -> Records:
    """Reads a split from the cache folder, or decodes it and writes it there."""
    cached = _cached(builder, split, ".npz")
    try:
        with np.load(cached, allow_pickle=False) as archive:
            # A file written without the factors that the data set has counts as damaged.
            return Records(archive["images"], archive.get("labels"), archive["factors"] if features.factors else None)
    except UNREADABLE:
        pass  # no cache yet, or a damaged one: decode again
    shape, dtype = _stored(builder, split, features.image)
    images = np.empty(shape, dtype)

    def keep(index: int, pixels: np.ndarray) -> None:
        images[index] = pixels

    labels, factors = _decode(builder, split, features, keep)
    _write_cache(cached, _present(images=images, labels=labels, factors=factors))
    return Records(images, labels, factors)


def read_on_disk(builder: Builder, split: str, features: Features) -> Records:
    """Reads a split with its images left in an .npy file of the cache folder, which has to be writable."""
    cached, beside = _cached(builder, split, ".npy"), _cached(builder, split, "-rows.npz")
    try:
        with np.load(beside, allow_pickle=False) as archive:
            return Records(open_npy(cached), archive.get("labels"), archive["factors"] if features.factors else None)
    except (*UNREADABLE, UserError):
        pass
    cached.parent.mkdir(parents=True, exist_ok=True)
    shape, dtype = _stored(builder, split, features.image)
    # Written, not mapped: on a full disk a write raises an error, and a mapped page kills the process.
    temporary = cached.with_name(f".{cached.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)

            def keep(index: int, pixels: np.ndarray) -> None:
                file.write(pixels.astype(dtype).tobytes())

            labels, factors = _decode(builder, split, features, keep)
        os.replace(temporary, cached)
    finally:
        temporary.unlink(missing_ok=True)
    _write_cache(beside, _present(labels=labels, factors=factors))
    return Records(open_npy(cached), labels, factors)


def _cached(builder: Builder, split: str, ending: str) -> Path:
    """Returns the path of a split's file in the cache folder; its name changes with the prepared files."""
    files = sorted(Path(builder.data_dir).glob(f"*-{split}.array_record*"))
    stamp = "-".join(f"{file.stat().st_size}_{file.stat().st_mtime_ns}" for file in files)
    name = f"{builder.info.full_name.replace('/', '-')}-{split}-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}"
    return cache_dir() / "tfds" / f"{name}{ending}"


def _stored(builder: Builder, split: str, image: str) -> tuple[tuple[int, ...], np.dtype]:
    """Returns shape and type of all images of a split."""
    feature = builder.info.features[image]
    return (builder.info.splits[split].num_examples, *(size or 0 for size in feature.shape)), np.dtype(feature.np_dtype)


def _decode(
    builder: Builder, split: str, features: Features, keep: Callable[[int, np.ndarray], None]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Passes the index and the pixels of every image to `keep`, in order, and returns the labels and the factors."""
    name = builder.info.full_name
    with _damage_reported(name, builder.data_dir):
        source = builder.as_data_source(split=split)
        count = len(source)
    if sys.stderr.isatty() or count > 20_000:
        print(f"TFDS: decoding {count} images of {name} ({split}), once ...", file=sys.stderr, flush=True)
    labels = np.empty(count, np.int64) if features.label else None
    factors = np.empty((count, len(features.factors)), np.uint8) if features.factors else None
    for index in range(count):
        with _damage_reported(name, builder.data_dir):
            record = source[index]
        keep(index, record[features.image])
        if labels is not None and features.label is not None:
            labels[index] = record[features.label]
        if factors is not None and features.factors is not None:
            factors[index] = [record[f"label_{name}"] for name in features.factors]
    return labels, factors


@contextlib.contextmanager
def _damage_reported(name: str, folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turns exceptions of array_record and Pillow into a `UserError` that names the folder."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{name}: its prepared files are damaged or incomplete: {reason}. Remove {folder} to prepare them again."
        ) from None


def _present(**arrays: np.ndarray | None) -> dict[str, np.ndarray]:
    return {name: array for name, array in arrays.items() if array is not None}


def _write_cache(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays atomically. A cache that cannot be written costs time and does not end the run."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(path, arrays)
    except OSError as error:
        print(f"note: the decoded images could not be cached in {path.parent}: {error}", file=sys.stderr)
