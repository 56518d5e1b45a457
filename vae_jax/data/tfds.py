"""Images from TensorFlow Datasets, read without TensorFlow; preparing them needs it."""

import contextlib
import difflib
import hashlib
import importlib.util
import io
import logging
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.data.on_disk import Rows
from vae_jax.data.readers.listing import UNREADABLE, joined
from vae_jax.data.readers.numpy_files import rows_of_npy
from vae_jax.data.split import Split
from vae_jax.errors import UserError
from vae_jax.storage.atomic import write_arrays
from vae_jax.storage.cache import cache_dir

# Data sets made from factors, in the order in which they were published; feature label_<name> holds each.
_FACTORS = (
    ("shape", "scale", "orientation", "x_position", "y_position"),  # dSprites
    ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation"),  # 3D Shapes
)


class UnknownName(Exception):
    """TFDS has no such data set; `near` are similar names of image data sets that can be read."""

    def __init__(self, near: list[str]):
        super().__init__()
        self.near = near


def load(name: str, data_dir: str | None, stream: bool = False) -> Split:
    """All splits of a TFDS image data set, decoded once and then kept as plain arrays in the cache folder.

    With `stream` the training images stay there.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS thinks aloud about folders
    import tensorflow_datasets as tfds

    if data_dir is not None and not Path(data_dir).is_dir():
        raise UserError(f"--data-dir {data_dir}: no such folder. Create it, or leave the option out.")
    known = tfds.list_builders(with_community_datasets=False)
    if name.split(":")[0].split("/")[0] not in known:
        raise UnknownName(_near(tfds, name, known, data_dir))
    builder = _open(tfds, name, data_dir)
    image, label = _features(tfds, builder, name)  # before anything is downloaded
    if not builder.is_prepared():
        _prepare(tfds, builder, name, data_dir)

    factors = _factors(builder)
    if builder.info.splits.get("train") is None:
        raise UserError(
            f"TFDS data set {name!r}: expected a train split, got only {joined(sorted(builder.info.splits))}. Choose a data "
            "set with training images."
        )
    read = {}
    for split in ("train", "validation", "test"):
        if split in builder.info.splits:
            read[split] = (_on_disk if stream and split == "train" else _read)(builder, split, image, label, factors)
    (train, train_labels, train_factors), nothing = read["train"], (None, None, None)
    test, test_labels, test_factors = read.get("test", nothing)
    return Split(
        train,
        train_labels,
        read.get("validation", nothing)[0],
        test,
        test_labels,
        train_factors=train_factors,
        test_factors=test_factors,
        factor_names=factors,
        channels_last=True,
        notes=_unused(tfds, builder, name, image, list(read)),
    )


def _open(tfds, name: str, data_dir: str | None) -> Any:
    try:
        # Builders that need TensorFlow or another package print a banner before they fail.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except Exception as error:  # an unknown configuration or version, a damaged folder: TFDS raises many kinds
        raise UserError(f"TFDS cannot open {name!r}: {_one_line(error)}") from None


def _near(tfds, name: str, known: list[str], data_dir: str | None) -> list[str]:
    """At most three names like `name` of data sets whose images can be read; making a builder takes milliseconds."""
    near: list[str] = []
    for candidate in difflib.get_close_matches(name.lower(), known, n=20, cutoff=0.5):
        with contextlib.suppress(UserError):
            _features(tfds, _open(tfds, candidate, data_dir), candidate)
            near.append(candidate)
        if len(near) == 3:
            break
    return near


def _unused(tfds, builder, name: str, image: str, splits: list[str]) -> tuple[str, ...]:
    """Notes on splits and on images beside the first that the data set has and that are not read."""
    rest = [split for split in builder.info.splits if split not in splits]
    kinds = (tfds.features.Image, tfds.features.Video)
    images = [key for key, feature in builder.info.features.items() if isinstance(feature, kinds) and key != image]
    notes = []
    for what, names in (("split", rest), ("image feature", images)):
        if names:
            plural, verb = ("", "is") if len(names) == 1 else ("s", "are")
            notes.append(f"TFDS data set {name!r}: the {what}{plural} {joined(names)} {verb} not used.")
    return tuple(notes)


def _prepare(tfds, builder, name: str, data_dir: str | None) -> None:
    place = data_dir or "the default TFDS folder"
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"TFDS data set {name!r} is not prepared in {place} as array_record. Preparing it (once) needs TensorFlow: "
            "pip install 'vae_jax[tfds-prepare]', or pass --data-dir with a folder where it is prepared."
        )
    downloads = Path(data_dir or Path.home() / "tensorflow_datasets") / "downloads"
    if not downloads.is_dir():  # else the files may be there already, in downloads/manual or from an earlier attempt
        _check_reachable(name, builder, downloads)
    print(f"TFDS: downloading and preparing {name} into {place} ...", file=sys.stderr, flush=True)
    try:
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # whatever a download, an archive or a builder throws: the user needs one line
        raise UserError(f"TFDS could not fetch and prepare {name!r}: {_one_line(error)}") from None


def _check_reachable(name: str, builder, downloads: Path) -> None:
    """Fails at once where TFDS itself would try for over three minutes."""
    for url in list(builder.url_infos)[:1]:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
        except urllib.error.HTTPError:
            pass  # the host answers; let TFDS say what it thinks of the file
        except OSError as error:
            raise UserError(
                f"TFDS data set {name!r} is not prepared and cannot be fetched: {url}: {error}. Put its files into "
                f"{downloads / 'manual'}, or pass --data-dir with a folder where it is prepared."
            ) from None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text[:200] + " ...") if len(text) > 200 else text or type(error).__name__


def _features(tfds, builder, name: str) -> tuple[str, str | None]:
    """Names of the image feature and, where there is one, of an integer label."""
    features = builder.info.features
    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    if not images:
        raise UserError(
            f"TFDS data set {name!r}: expected images, got features {joined(sorted(features))}. Choose an image data set."
        )
    if None in (shape := features[images[0]].shape):
        raise UserError(
            f"TFDS data set {name!r}: expected images of one fixed size, got shape {shape}. Resize them to one size, save them "
            "as one .npy array, and pass its path."
        )
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    return images[0], "label" if "label" in labels else labels[0] if labels else None


def _factors(builder) -> tuple[str, ...] | None:
    """The factors of the data set, in their published order; None for one without."""
    features = set(builder.info.features)
    return next((names for names in _FACTORS if features.issuperset(f"label_{name}" for name in names)), None)


def _read(
    builder, split: str, image: str, label: str | None, factors: tuple[str, ...] | None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    cached = _cached(builder, split, ".npz")
    try:
        with np.load(cached, allow_pickle=False) as archive:
            # One written without the factors that are there counts as damaged.
            return archive["images"], archive.get("labels"), archive["factors"] if factors else None
    except UNREADABLE:
        pass  # no cache yet, or a damaged one: decode again
    shape, dtype = _stored(builder, split, image)
    images = np.empty(shape, dtype)

    def keep(index: int, pixels: np.ndarray) -> None:
        images[index] = pixels

    labels, rows = _decode(builder, split, image, label, factors, keep)
    _write_cache(cached, _present(images=images, labels=labels, factors=rows))
    return images, labels, rows


def _on_disk(
    builder, split: str, image: str, label: str | None, factors: tuple[str, ...] | None
) -> tuple[Rows, np.ndarray | None, np.ndarray | None]:
    """The same with the images left in an .npy file of the cache folder, which has to be writable for it."""
    cached, beside = _cached(builder, split, ".npy"), _cached(builder, split, "-rows.npz")
    try:
        with np.load(beside, allow_pickle=False) as archive:
            return rows_of_npy(cached), archive.get("labels"), archive["factors"] if factors else None
    except (*UNREADABLE, UserError):
        pass
    cached.parent.mkdir(parents=True, exist_ok=True)
    shape, dtype = _stored(builder, split, image)
    # Written, not mapped: on a full disk a write raises an error, a mapped page kills the process.
    temporary = cached.with_name(f".{cached.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            keep: Callable[[int, np.ndarray], Any] = lambda _, pixels: file.write(pixels.astype(dtype).tobytes())  # noqa: E731
            labels, rows = _decode(builder, split, image, label, factors, keep)
        os.replace(temporary, cached)
    finally:
        temporary.unlink(missing_ok=True)
    _write_cache(beside, _present(labels=labels, factors=rows))
    return rows_of_npy(cached), labels, rows


def _cached(builder, split: str, ending: str) -> Path:
    files = sorted(Path(builder.data_dir).glob(f"*-{split}.array_record*"))
    stamp = "-".join(f"{file.stat().st_size}_{file.stat().st_mtime_ns}" for file in files)
    name = f"{builder.info.full_name.replace('/', '-')}-{split}-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}"
    return cache_dir() / "tfds" / f"{name}{ending}"


def _stored(builder, split: str, image: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of all images of a split."""
    feature = builder.info.features[image]
    return (builder.info.splits[split].num_examples, *feature.shape), np.dtype(feature.np_dtype)


def _decode(
    builder,
    split: str,
    image: str,
    label: str | None,
    factors: tuple[str, ...] | None,
    keep: Callable[[int, np.ndarray], Any],
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Hands every image to `keep`, in order; returns the labels and the factors."""
    name = builder.info.full_name
    with _reading(name, builder.data_dir):
        source = builder.as_data_source(split=split)
        count = len(source)
    if sys.stderr.isatty() or count > 20_000:
        print(f"TFDS: decoding {count} images of {name} ({split}), once ...", file=sys.stderr, flush=True)
    labels = np.empty(count, np.int64) if label else None
    rows = np.empty((count, len(factors)), np.uint8) if factors else None
    for index in range(count):
        with _reading(name, builder.data_dir):
            record = source[index]
        keep(index, record[image])
        if labels is not None:
            labels[index] = record[label]
        if rows is not None and factors is not None:
            rows[index] = [record[f"label_{name}"] for name in factors]
    return labels, rows


@contextlib.contextmanager
def _reading(name: str, folder: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of array_record, of Pillow
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{name}: its prepared files are damaged or incomplete: {reason}. Remove {folder} to prepare them again."
        ) from None


def _present(**arrays: np.ndarray | None) -> dict[str, np.ndarray]:
    return {name: array for name, array in arrays.items() if array is not None}


def _write_cache(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Atomically; a cache that cannot be written costs time, not the run."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(path, arrays)
    except OSError as error:
        print(f"note: the decoded images could not be cached in {path.parent}: {error}", file=sys.stderr)
