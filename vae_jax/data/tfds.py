"""Images from TensorFlow Datasets, read without TensorFlow. Preparing a data set needs it."""

import contextlib
import difflib
import importlib.util
import io
import logging
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from vae_jax.data.on_disk import Rows
from vae_jax.data.readers.listing import joined
from vae_jax.data.split import Split
from vae_jax.data.tfds_records import Builder, Features, Records, read_in_memory, read_on_disk
from vae_jax.errors import UserError

# Data sets made from factors, in the order in which they were published; feature label_<name> holds each.
_FACTOR_NAMES = (
    ("shape", "scale", "orientation", "x_position", "y_position"),  # dSprites
    ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation"),  # 3D Shapes
)


class UnknownName(Exception):
    """TFDS has no such data set; `near` are similar names of image data sets that can be read."""

    def __init__(self, near: list[str]):
        super().__init__()
        self.near = near


def read(name: str, data_dir: str | None, stream: bool = False) -> Split:
    """Reads all splits of a TFDS image data set, which are decoded once and kept as plain arrays in the cache folder.

    Args:
      name: name of the data set, perhaps with configuration and version, as `tfds.builder` takes it.
      data_dir: folder in which TFDS finds or keeps prepared data; None for its default.
      stream: leave the training images in the cache folder, as `Rows`.

    Raises:
      UnknownName: TFDS has no data set with this name.
      UserError: a data set that has no usable images, or that is not prepared and cannot be.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("absl").setLevel(logging.ERROR)  # TFDS logs messages about folders
    import tensorflow_datasets as tfds

    if data_dir is not None and not Path(data_dir).is_dir():
        raise UserError(f"{data_dir}: no such folder. Create it, or leave out `data_dir`.", field="data_dir")
    known = tfds.list_builders(with_community_datasets=False)
    if name.split(":")[0].split("/")[0] not in known:
        raise UnknownName(_near_names(name, known, data_dir))
    builder = _open(name, data_dir)
    features = _features(builder, name)  # before anything is downloaded
    if not builder.is_prepared():
        _prepare(builder, name, data_dir)
    if builder.info.splits.get("train") is None:
        raise UserError(
            f"TFDS data set {name!r}: expected a train split, got only {joined(sorted(builder.info.splits))}. Choose a data "
            "set with training images."
        )
    records = {}
    for split in ("train", "validation", "test"):
        if split in builder.info.splits:
            records[split] = (read_on_disk if stream and split == "train" else read_in_memory)(builder, split, features)
    return _to_split(records, features, _notes_on_unused(builder, name, features.image, list(records)))


def _to_split(records: dict[str, Records], features: Features, notes: tuple[str, ...]) -> Split:
    train, validation, test = (records.get(split) for split in ("train", "validation", "test"))
    assert train is not None
    validation_images, test_images = (part.images if part else None for part in (validation, test))
    assert not isinstance(validation_images, Rows)
    assert not isinstance(test_images, Rows)
    return Split(
        train.images,
        train.labels,
        validation_images,
        test_images,
        test.labels if test else None,
        train_factors=train.factors,
        test_factors=test.factors if test else None,
        validation_factors=validation.factors if validation else None,
        factor_names=features.factors,
        channels_last=True,
        notes=notes,
        validation_labels=validation.labels if validation else None,
        label_names=features.label_names,
    )


def _open(name: str, data_dir: str | None) -> Builder:
    import tensorflow_datasets as tfds

    try:
        # Builders that need TensorFlow or another package print a banner before they fail.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return cast(Builder, tfds.builder(name, data_dir=data_dir, file_format="array_record"))
    except Exception as error:  # an unknown configuration or version, a damaged folder: TFDS raises many kinds
        raise UserError(f"TFDS cannot open {name!r}: {_one_line(error)}") from None


def _near_names(name: str, known: list[str], data_dir: str | None) -> list[str]:
    """Returns at most three names like `name` of data sets whose images can be read. Opening each takes milliseconds."""
    near: list[str] = []
    for candidate in difflib.get_close_matches(name.lower(), known, n=20, cutoff=0.5):
        with contextlib.suppress(UserError):
            _features(_open(candidate, data_dir), candidate)
            near.append(candidate)
        if len(near) == 3:
            break
    return near


def _notes_on_unused(builder: Builder, name: str, image: str, splits: Sequence[str]) -> tuple[str, ...]:
    """Returns notes on splits, and on images beside the first, that the data set has and that are not read."""
    import tensorflow_datasets as tfds

    rest = [split for split in builder.info.splits if split not in splits]
    kinds = (tfds.features.Image, tfds.features.Video)
    images = [key for key, feature in builder.info.features.items() if isinstance(feature, kinds) and key != image]
    notes = []
    for noun, names in (("split", rest), ("image feature", images)):
        if names:
            plural, verb = ("", "is") if len(names) == 1 else ("s", "are")
            notes.append(f"TFDS data set {name!r}: the {noun}{plural} {joined(names)} {verb} not used.")
    return tuple(notes)


def _prepare(builder: Builder, name: str, data_dir: str | None) -> None:
    folder = data_dir or "the default TFDS folder"
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"TFDS data set {name!r} is not prepared in {folder} as array_record. Preparing it (once) needs TensorFlow: "
            "pip install 'vae_jax[tfds-prepare]', or pass as `data_dir` a folder where it is prepared."
        )
    downloads = Path(data_dir or Path.home() / "tensorflow_datasets") / "downloads"
    if not downloads.is_dir():  # otherwise the files may be there, in downloads/manual or from an earlier attempt
        _check_reachable(name, builder, downloads)
    print(f"TFDS: downloading and preparing {name} into {folder} ...", file=sys.stderr, flush=True)
    try:
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # a download, an archive or a builder may raise anything; the user needs one line
        raise UserError(f"TFDS could not fetch and prepare {name!r}: {_one_line(error)}") from None


def _check_reachable(name: str, builder: Builder, downloads: Path) -> None:
    """Raises `UserError` at once where TFDS itself would try for over three minutes."""
    for url in list(builder.url_infos)[:1]:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
        except urllib.error.HTTPError:
            pass  # the host answers, so TFDS itself can report the error
        except OSError as error:
            raise UserError(
                f"TFDS data set {name!r} is not prepared and cannot be fetched: {url}: {error}. Put its files into "
                f"{downloads / 'manual'}, or pass as `data_dir` a folder where it is prepared."
            ) from None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text[:200] + " ...") if len(text) > 200 else text or type(error).__name__


def _features(builder: Builder, name: str) -> Features:
    """Returns the features to read: the first image, a label and known factors where there are any."""
    import tensorflow_datasets as tfds

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
    label = "label" if "label" in labels else labels[0] if labels else None
    factors = next((names for names in _FACTOR_NAMES if set(features).issuperset(f"label_{name}" for name in names)), None)
    return Features(images[0], label, factors, tuple(features[label].names) if label else None)
