"""`load(name)`: finds a data set, checks it, converts its images, and splits it where the source has no split."""

import numbers
import os
import warnings
from pathlib import Path

from vae_jax.data import tfds
from vae_jax.data.annotations import check_factors, integer_labels, with_checked_labels
from vae_jax.data.checks import check_shape
from vae_jax.data.dataset import Dataset
from vae_jax.data.levels import (
    LAYOUTS,
    Layout,
    as_levels,
    channels_last,
    check_layout_of_known_format,
    clip_rounding,
    top_level,
)
from vae_jax.data.on_disk import Rows
from vae_jax.data.pipeline_checks import check_pipeline_argument
from vae_jax.data.readers import registry
from vae_jax.data.readers.listing import PARTS
from vae_jax.data.readers.paths import is_path, read_path
from vae_jax.data.split import Split
from vae_jax.data.splitting import (
    DEFAULT_TEST_FRACTION,
    SplitMethod,
    SplitSettings,
    check_rows,
    notes_on_unused_settings,
    split_off_parts,
)
from vae_jax.errors import DataWarning, UserError, unknown


def load(
    name: str | os.PathLike[str],
    *,
    data_dir: str | None = None,
    split: SplitMethod = "random",
    test_fraction: float = DEFAULT_TEST_FRACTION,
    validation_fraction: float = 0.0,
    split_seed: int = 0,
    stream: bool = False,
    max_level: int | None = None,
    layout: Layout = "auto",
) -> Dataset:
    """Loads a data set by name or path.

    All files and arrays of a source are used, or a `DataWarning` (and `Dataset.notes`) names them. Floats that leave [0, 1]
    by rounding alone, at most 1e-6, are clipped to it. `data.readers.help_lines()` lists all formats, and
    `data.readers.register` adds one.

    An .npz file may hold x_train, x_validation and x_test (also X_train, train_images, val, valid ...), labels of each,
    `factors` of the training images and `test_factors`, integers (examples, factors), and their `factor_names`. Folders in a
    folder of images that are named train, val (valid, validation, dev) and test are the splits. Without test/ the test set is
    split off train/. Files are in the order of their names, with numbers in names compared by value. Images are turned as
    their EXIF orientation says, transparent pixels are composited on black (level 0, as the background of digits and sprites),
    and gray images among color images get three equal channels.

    Args:
      name: "digits" (scikit-learn's 8x8 digits, inside its wheel), "sprites" or "sprites_grid" (computed, see `sprites`), a
        TFDS name such as "mnist", an .npy or .npz file, or a folder of IDX files (raw or .gz) or of PNG/JPEG images.
      data_dir: folder in which TFDS finds or keeps prepared data.
      split: how to split where the source has no test set: "random" (seeded) or "last" (the last block, for video frames).
      test_fraction: share of the examples that such a split puts into the test set, in [0, 1).
      validation_fraction: share of the training examples held out for validation, in [0, 1), unless the source has its own
        validation set.
      split_seed: seed of a random split, a whole number >= 0.
      stream: leave the training images on disk, as `Rows`: of an .npy file, of raw IDX files, or of a TFDS data set, which is
        decoded into an .npy file in the cache folder. They are read through once. Nothing else differs.
      max_level: the highest level of integer images, 1 to 255. By default 1 for arrays of zeros and ones, and else 255.
      layout: "channels_first" where arrays in files are (examples, channels, height, width), "channels_last" where they are
        (examples, height, width, channels). "auto" takes (examples, a, b, c) as channels first where a is 1, 3 or 4, b and c
        are larger than a, and c is not 1, 3 or 4. The result has its channels last.

    Returns:
      Checked images of all parts, on the host.

    Raises:
      UserError: unknown name, missing path, unreadable or unsuitable data. Nothing from a file is ever executed.
    """
    check_pipeline_argument("data.load", name, (str, os.PathLike))
    name = os.fspath(name)
    settings = SplitSettings(split, test_fraction, validation_fraction, split_seed)
    _check_settings(name, settings, max_level, layout)
    source = _read(name, data_dir, stream)
    dataset = _checked_dataset(name, source, settings, max_level, layout)
    for note in dataset.notes:
        warnings.warn(note, DataWarning, stacklevel=2)
    return dataset


def _check_settings(name: str, settings: SplitSettings, max_level: int | None, layout: str) -> None:
    if not name:
        raise UserError("expected the name or path of a data set, got an empty one.")
    settings.validate()
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    if not (max_level is None or (isinstance(max_level, numbers.Integral) and 1 <= max_level <= 255)):
        raise UserError(field="max_level", expected="a whole number from 1 to 255", got=repr(max_level))


def _read(name: str, data_dir: str | None, stream: bool) -> Split:
    """Reads the source with this name: a bundled data set, a path, or a TFDS data set."""
    bundled = registry.bundled()
    if name in bundled:
        if stream:
            raise UserError(f"{name} is not read from files. Leave out `stream=True`.", field="stream")
        return bundled[name].read()
    if is_path(name):
        return read_path(Path(name), stream)
    try:
        return tfds.read(name, data_dir, stream)
    except tfds.UnknownName as error:
        if "/" in name:
            raise UserError(f"{name}: no such file or folder, and no TFDS data set of that name.") from None
        hint = f" Expected {', '.join(bundled)}, a TFDS name, or the path of {registry.expected_paths()}."
        raise unknown("data set", name, [*bundled, *error.near], hint, list_all=False) from None


def _checked_dataset(name: str, source: Split, settings: SplitSettings, max_level: int | None, layout: Layout) -> Dataset:
    """Checks and converts the arrays of a source, and splits off the parts that it lacks."""
    if source.rendering is None:
        for part, array in source.images_by_part().items():
            check_shape(_name_of_part(name, part), array.shape)
    source = with_checked_labels(name, source)
    check_factors(name, source)
    if source.rendering:
        check_layout_of_known_format(name, layout)
        converted, notes = source, []
    else:
        converted, notes = _convert(name, source, layout)
    parts = split_off_parts(name, converted, settings)
    if isinstance(parts.train, Rows):
        check_rows(name, parts.train, converted.train)
    if source.rendering is None:
        parts, clip_notes = clip_rounding(name, parts)
        notes += clip_notes
    top, level_notes = top_level(name, parts, max_level)
    assert parts.test is not None
    return Dataset(
        name,
        parts.train,
        parts.validation,
        parts.test,
        integer_labels(parts.test_labels),
        top,
        parts.split,
        parts.train_factors,
        parts.test_factors,
        source.factor_names,
        source.rendering,
        (*source.notes, *notes_on_unused_settings(source, settings), *notes, *level_notes),
    )


def _name_of_part(name: str, part: str) -> str:
    """Returns the name of a part in messages. The training images have the name of the data set."""
    return name if part == "train" else f"{name}: {PARTS[part]} images"


def _convert(name: str, source: Split, layout: Layout) -> tuple[Split, list[str]]:
    """Moves the channels last and converts images in memory to levels or float32; returns notes as well."""
    images, notes = channels_last(name, source, layout)
    for part, array in images.items():
        if not isinstance(array, Rows):  # rows on disk are checked after the split
            images[part] = as_levels(_name_of_part(name, part), array)
    return source._replace(**images), notes
