"""`load(name)`: finds a data set, checks it, converts its images, and splits it where the source has no split."""

import numbers
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_jax.data import tfds
from vae_jax.data.annotations import check_factors, with_checked_labels
from vae_jax.data.conditions.columns import Condition, make_condition, notes_on_condition
from vae_jax.data.conditions.setting import parse_condition
from vae_jax.data.conditions.sources import label_categories, with_condition
from vae_jax.data.dataset import Dataset
from vae_jax.data.events import EVENTS, Event, event_shape
from vae_jax.data.levels import LAYOUTS, Layout, check_layout_of_known_format, clip_rounding, convert, name_of_part, top_level
from vae_jax.data.masks import MISSING, Missing, masks_as_events, notes_on_unobserved, with_complete_parts, with_masks
from vae_jax.data.on_disk import Rows
from vae_jax.data.part_types import with_common_types
from vae_jax.data.pipeline_checks import check_pipeline_argument
from vae_jax.data.readers import combining, registry
from vae_jax.data.readers.paths import check_options, is_path, read_path, usable_options
from vae_jax.data.readers.registry import ReadOptions
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
    event: Event = "auto",
    resize: tuple[int, ...] = (),
    crop: int | None = None,
    transpose: bool = False,
    array: str = "",
    label_column: str = "",
    validation_dataset: str | os.PathLike[str] = "",
    test_dataset: str | os.PathLike[str] = "",
    condition: str = "",
    missing: Missing = "refuse",
    mixed: bool | Sequence[str] = False,
) -> Dataset:
    """Loads a data set by name or path.

    All files and arrays of a source are used, or a `DataWarning` (and `Dataset.notes`) names them. `data.readers.help_lines()`
    lists all formats, and `data.readers.register` adds one. `Dataset` states what every type of number means. The docstring of
    `data.readers` says which files and arrays of a folder or an archive are the parts, labels, factors and masks.

    Args:
      name: "digits" (scikit-learn's 8x8 digits, inside its wheel), "sprites" or "sprites_grid" (computed, see `sprites`), a
        TFDS name such as "mnist", or a file or folder in one of the formats that `data.readers.help_lines()` lists.
      data_dir: folder in which TFDS finds or keeps prepared data.
      split: how to split where the source has no test set: "random" (seeded) or "last" (the last block).
      test_fraction: share of the examples that such a split puts into the test set, in [0, 1).
      validation_fraction: share of the training examples held out for validation, in [0, 1), unless the source has its own
        validation set.
      split_seed: seed of a random split, a whole number >= 0.
      stream: leave the training images on disk, as `Rows`: of an .npy file, of raw IDX files, of an .npz file without
        compression, or of sources that are unpacked or decoded into an .npy file in the cache folder: other .npz files, Cars3D,
        TFDS, folders of images. They are read through once. Nothing else differs.
      max_level: the highest level of integers, 1 to 65535. By default 1 for arrays of zeros and ones, else 255 for images with
        levels up to 255 and for bytes, and 65535 for larger levels that are stored as uint16. Other integers are counts.
      layout: "channels_first" where arrays in files are (examples, channels, height, width), or "channels_last". "auto" takes
        (examples, a, b, c) as channels first where a is 1, 3 or 4, b and c are larger than a, and c is not 1, 3 or 4.
      event: the kind of example. "auto" takes (examples, columns) as vectors, (examples, height, width) as gray images, and
        (examples, height, width, channels) as images. "series" takes (examples, time, channels) as series, "vector" flattens
        each example, and "image" takes (examples, side * side) as square images.
      resize: side, or (height, width), to which pictures of a folder are resized, and stretched if need be. (): as they are.
      crop: side of the central square that is cut out of each picture before it is resized. None: the whole picture.
      transpose: exchange the height and the width of each image, for files such as those of EMNIST.
      array: name of the array to read from a file that has several, such as "layers/counts" of an .h5ad file, or of the data
        set in a folder of IDX files, such as "emnist-letters".
      label_column: name of the column of a table that has the labels, or "coarse" for those of CIFAR-100.
      validation_dataset, test_dataset: name or path of the validation and of the test set, where they have their own files.
      condition: what a model is conditioned on: "labels"; "factors"; a file with a row for each example (see
        `readers.condition_files`); or names with commas between them, of columns of a table or of `obs` of an .h5ad file, which
        then leave the examples, or of factors. Whole numbers, booleans and words become categories; others are standardized.
      missing: "nan" takes NaN and empty fields of tables as missing entries, which log-likelihoods leave out; "refuse" refuses
        them. Masks in files are used under both.
      mixed: read text (as category codes), booleans and missing values of tables, for `likelihoods.columns`; or the names of
        columns that are no labels. Other formats ignore it.

    Returns:
      Checked examples of all parts, on the host.

    Raises:
      UserError: unknown name, missing path, unreadable or unsuitable data. Nothing from a file is ever executed.
    """
    check_pipeline_argument("data.load", name, (str, os.PathLike))
    name = os.fspath(name)
    settings = SplitSettings(split, test_fraction, validation_fraction, split_seed)
    check_settings(name, settings, max_level, layout, missing)
    options = read_options(event, resize, crop, transpose, array, label_column)
    options = options._replace(condition=parse_condition(condition).names, missing=missing, mixed=names_of_mixed(mixed))
    others = {"validation": os.fspath(validation_dataset), "test": os.fspath(test_dataset)}
    source = _read(name, data_dir, stream, options)
    source = combining.with_other_sources(source, name, others, lambda other: read_similar(other, data_dir, options))
    meaning = Interpretation(layout, event, max_level, transpose, condition, missing)
    return with_warnings(checked_dataset(name, with_common_types(source, missing), settings, meaning))


def with_warnings(dataset: Dataset) -> Dataset:
    """Gives the notes of a data set as warnings to the caller of the function that calls this one, and returns the data set."""
    for note in dataset.notes:
        warnings.warn(note, DataWarning, stacklevel=3)
    return dataset


def names_of_mixed(mixed: bool | Sequence[str]) -> tuple[str, ...] | None:
    """Returns the argument `mixed` of `load` as the option of the readers."""
    if isinstance(mixed, bool):
        return () if mixed else None
    return tuple(map(str, mixed))


def check_settings(name: str, settings: SplitSettings, max_level: int | None, layout: str, missing: str) -> None:
    """Raises `UserError` for settings of `load` that no data can have."""
    if not name:
        raise UserError("expected the name or path of a data set, got an empty one.")
    settings.validate()
    if layout not in LAYOUTS:
        raise unknown("layout", layout, LAYOUTS)
    if missing not in MISSING:
        raise unknown("missing", missing, MISSING)
    if not (max_level is None or (isinstance(max_level, numbers.Integral) and 1 <= max_level <= 65535)):
        raise UserError(field="max_level", expected="a whole number from 1 to 65535", got=repr(max_level))


class Interpretation(NamedTuple):
    """The arguments of `data.load` that say what the numbers of an array mean."""

    layout: Layout = "auto"
    event: Event = "auto"
    max_level: int | None = None
    transpose: bool = False
    condition: str = ""
    missing: Missing = "refuse"


def read_options(
    event: Event, resize: tuple[int, ...], crop: int | None, transpose: bool, array: str, label_column: str
) -> ReadOptions:
    """Returns the checked options of the readers."""
    if event not in EVENTS:
        raise unknown("event", event, EVENTS)
    sides = (resize,) if isinstance(resize, numbers.Integral) else tuple(resize)
    is_whole = all(isinstance(side, numbers.Integral) and int(side) >= 1 for side in (*sides, 1 if crop is None else crop))
    if len(sides) > 2 or not is_whole:
        field, got = ("resize", resize) if len(sides) > 2 or crop is None or crop >= 1 else ("crop", crop)
        raise UserError(field=field, expected="a side, or a height and a width, of at least 1 pixel", got=repr(got))
    height_and_width = (int(sides[0]), int(sides[-1])) if sides else None
    if height_and_width and transpose:  # the images are transposed after they have been resized
        height_and_width = height_and_width[1], height_and_width[0]
    return ReadOptions(event, height_and_width, crop, transpose, array or None, label_column or None)


def _read(name: str, data_dir: str | None, stream: bool, options: ReadOptions) -> Split:
    """Reads the source with this name: a bundled data set, a path, or a TFDS data set."""
    bundled = registry.bundled()
    if name in bundled:
        if stream:
            raise UserError(f"{name} is not read from files. Leave out `stream=True`.", field="stream")
        check_options(name, "data sets that are not read from files", (), options)
        return bundled[name].read()
    if is_path(name):
        return read_path(Path(name), stream, options)
    try:
        source = tfds.read(name, data_dir, stream)
    except tfds.UnknownName as error:
        if "/" in name:
            raise UserError(f"{name}: no such file or folder, and no TFDS data set of that name.") from None
        hint = f" Expected {', '.join(bundled)}, a TFDS name, or the path of {registry.expected_paths()}."
        raise unknown("data set", name, [*bundled, *error.near], hint, list_all=False) from None
    check_options(name, "TFDS data sets", (), options)
    return source


def read_similar(name: str, data_dir: str | None, options: ReadOptions, stream: bool = False) -> Split:
    """Reads a source beside the training set, with those options of the training set that its format has."""
    usable = usable_options(Path(name), options) if is_path(name) else ReadOptions(event=options.event)
    return _read(name, data_dir, stream, usable)


def as_events(name: str, source: Split, meaning: Interpretation) -> tuple[Split, list[str]]:
    """Checks the arrays of a source and converts its examples and masks to events, for training as for new data.

    Args:
      name: the data set, for messages.
      source: arrays as stored.
      meaning: of the numbers.

    Returns:
      The source with the columns of its condition as they are stored, and notes.

    Raises:
      UserError: arrays that are unsuitable or do not fit each other.
    """
    layout, event, max_level, transpose, condition, missing = meaning
    if source.rendering is None:
        for part, array in source.images_by_part().items():
            event_shape(name_of_part(name, part), array.shape, event)  # refuses shapes that no event has
    source = with_checked_labels(name, source)
    check_factors(name, source)
    source = with_condition(name, source, condition)
    source, mask_notes = with_masks(name, source, missing, layout)
    if source.rendering:
        check_layout_of_known_format(name, layout)
        if transpose:
            raise UserError(f"{name}: its images are computed. Leave out `transpose=True`.", field="transpose")
        return source, mask_notes
    arrays, notes = convert(name, source, layout, event, max_level, transpose)
    masks = masks_as_events(source, layout, event, transpose)
    converted = source._replace(**arrays, **masks)
    if isinstance(converted.train, Rows):
        converted = converted._replace(train_mask=converted.train.mask)
    return converted, [*notes, *mask_notes]


def checked_dataset(name: str, source: Split, settings: SplitSettings, meaning: Interpretation) -> Dataset:
    """Checks and converts the arrays of a source, and splits off the parts that it lacks."""
    converted, notes = as_events(name, source, meaning)
    parts = split_off_parts(name, converted, settings)
    if isinstance(parts.train, Rows):
        check_rows(name, parts.train, converted.train)
    parts = with_complete_parts(parts)
    if converted.rendering is None:
        parts, clip_notes = clip_rounding(name, parts)
        notes += clip_notes
    top, level_notes = top_level(name, parts, meaning.max_level)
    assert parts.test is not None
    made, conditions, condition_notes = _condition(name, parts, meaning.condition)
    masks = parts.by_part("mask")
    dataset = Dataset(
        name,
        parts.train,
        parts.validation,
        parts.test,
        parts.test_labels,
        top,
        parts.split,
        parts.train_factors,
        parts.test_factors,
        converted.factor_names,
        converted.rendering,
        (*converted.notes, *notes_on_unused_settings(converted, settings), *notes, *level_notes, *condition_notes),
        parts.train_labels,
        parts.validation_labels,
        parts.label_names,
        parts.column_names,
        made,
        *(conditions.get(part) for part in ("train", "validation", "test")),
        *(masks.get(part) for part in ("train", "validation", "test")),
        validation_factors=parts.validation_factors,
        missing_on_disk=isinstance(parts.train, Rows) and parts.train.nan_is_missing and parts.train.scan.observed is not None,
        column_types=parts.column_types,
    )
    more = notes_on_unobserved(name, dataset.train_counts, dataset.column_names)
    return dataset._replace(notes=(*dataset.notes, *more)) if more else dataset


def _condition(name: str, parts: Split, text: str) -> tuple[Condition | None, dict[str, np.ndarray], list[str]]:
    """Returns the condition of a source, the stored conditions of its parts, and notes."""
    by_part = parts.by_part("condition")
    if not by_part:
        return None, {}, []
    made, stored = make_condition(name, by_part, label_categories(text, parts))
    is_drawn = parts.rendering is not None and parts.rendering.draw is not None
    notes = [] if is_drawn else notes_on_condition(name, made, stored["train"])
    if is_drawn:  # the condition of a training example follows from the row that is drawn
        del stored["train"]
    return made, stored, notes
