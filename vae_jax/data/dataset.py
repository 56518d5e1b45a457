"""`Dataset`, and `load(name)`, which finds and checks one and splits it where the source has no split."""

import hashlib
import numbers
import os
import warnings
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax._numerics import keys
from vae_jax._numerics.short_repr import short_repr
from vae_jax.data import sprites
from vae_jax.data import tfds as tfds_source
from vae_jax.data.checks import check_finite, check_range, check_shape
from vae_jax.data.expect import check_given
from vae_jax.data.levels import LAYOUTS, Layout, as_levels, channels_last, clipped, image_parts, top_level
from vae_jax.data.on_disk import Rows, chunks, header, sum_images, sum_squares
from vae_jax.data.readers import sources
from vae_jax.data.readers.listing import PARTS
from vae_jax.data.split import Rendering, Split
from vae_jax.errors import DataWarning, UserError, unknown

BUNDLED = {"digits": sources.digits, "sprites": sprites.sprites, "sprites_grid": sprites.sprites_grid}
_TEST_FRACTION = 0.2


@short_repr
class Dataset(NamedTuple):
    """Images on the host, (examples, height, width, channels), as stored: integer levels in uint8, or float32.

    Levels run from 0 to `max_level` (255 for photographs, 16 for the digits, 1 for binary images); None for floats.
    With a `rendering` the splits hold a row of integers for each image instead; `images` makes either into images.
    """

    name: str
    train: np.ndarray | Rows  # `Rows` stay on disk
    validation: np.ndarray | None
    test: np.ndarray
    test_labels: np.ndarray | None  # (examples,), integers; for figures only
    max_level: int | None
    split: str  # how the splits came about, in words
    train_factors: np.ndarray | None = None  # (examples, factors), integers: what varies in the images, where it is known
    test_factors: np.ndarray | None = None
    factor_names: tuple[str, ...] | None = None
    rendering: Rendering | None = None  # None: images are stored
    notes: tuple[str, ...] = ()  # what the source holds and is not used, and what was changed in reading it

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.rendering.data_shape if self.rendering else self.train.shape[1:]

    @property
    def num_different(self) -> int:
        """Number of training images that an epoch goes through, or draws from where it draws them anew."""
        return self.rendering.num_images if self.rendering and self.rendering.draw else len(self.train)

    def images(self, rows: Array | np.ndarray) -> Array | np.ndarray:
        """Images of stored rows (examples, ...), as levels or floats: of validation or test; of train unless it is drawn."""
        return rows if self.rendering is None else jax.vmap(self.rendering.render)(jnp.asarray(rows))

    @property
    def train_mean(self) -> np.ndarray:
        """Mean training image in [0, 1] (or of the floats as they are), shape `data_shape`."""
        if self.rendering:
            return self.rendering.mean().astype(np.float32)
        return (self._mean / (self.max_level or 1)).astype(np.float32)

    @property
    def _mean(self) -> np.ndarray:
        train = self.train
        total = train.scan.total if isinstance(train, Rows) else sum(map(sum_images, chunks(train)), np.zeros(train.shape[1:]))
        return total / len(train)

    @property
    def train_std(self) -> float:
        """Standard deviation of the training pixels about the mean image, on the same scale; positive for constant data too."""
        if self.rendering:
            mean = self.rendering.mean()
            return max(float(np.sqrt((mean - np.square(mean)).mean())), 1e-3)  # of zeros and ones, whose squares they are
        train = self.train  # in chunks: no float copy of the data set
        squares = train.scan.squares if isinstance(train, Rows) else sum(map(sum_squares, chunks(train)))
        variance = squares / train.size - float(np.square(self._mean).mean())
        std = float(np.sqrt(max(variance, 0.0))) / (self.max_level or 1)
        if self.max_level:
            return max(std, 1e-3)
        low, high = train.scan[1:3] if isinstance(train, Rows) else (train.min(), train.max())
        return max(std, 1e-6 * float(max(-low, high)), 1e-30)

    def fingerprint(self) -> str:
        """SHA-256 over the arrays of all splits, with shapes and dtypes, and the name of what renders them."""
        digest = hashlib.sha256(self.rendering.name.encode() if self.rendering else b"")
        for array in (self.train, self.validation, self.test):
            if isinstance(array, Rows):  # only the first of them ever is, and never with a rendering
                digest = array.scan.digest.copy()
            elif array is not None:
                digest.update(header(array))
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def load(
    name: str | os.PathLike[str],
    *,
    data_dir: str | None = None,
    split: Literal["random", "last"] = "random",
    test_fraction: float = _TEST_FRACTION,
    validation_fraction: float = 0.0,
    split_seed: int = 0,
    stream: bool = False,
    max_level: int | None = None,
    layout: Layout = "auto",
) -> Dataset:
    """Loads a data set by name or path.

    All files and arrays of a source are used, or a `DataWarning` (and `Dataset.notes`) names them. Floats that leave [0, 1]
    by rounding alone, at most 1e-6, are clipped to it.

    Args:
      name: "digits" (scikit-learn's 8x8 digits, inside its wheel); "sprites" or "sprites_grid" (computed, see `sprites`); a
        TFDS name such as "mnist"; an .npy or .npz file; a folder of IDX files (raw or .gz) or of PNG/JPEG images. An .npz file
        may hold x_train, x_validation and x_test (also X_train, train_images, val, valid ...), labels of each, `factors` of
        the training images and `test_factors`, integers (examples, factors), and their `factor_names`. Folders in a folder of
        images that are named train, val (valid, validation, dev) and test are the splits. Without test/ the test set is split
        off train/. Files are in the order of their names, with numbers in names compared by value. Images are turned as their
        EXIF orientation says, transparent pixels are composited on black (level 0, as the background of digits and sprites),
        and grey images among color images get three equal channels.
      data_dir: where TFDS finds or keeps prepared data.
      split: how to split where the source has no test set: "random" (seeded) or "last" (the last block, for video frames).
      test_fraction: share of the examples that such a split puts into the test set.
      validation_fraction: share of the training examples held out for validation, unless the source has its own.
      split_seed: seed of a random split.
      stream: leave the training images on disk, as `Rows`: of an .npy file, of raw IDX files, or of a TFDS data set, which is
        decoded into an .npy file in the cache folder. They are read through once. Nothing else differs.
      max_level: the highest level of integer images, 1 to 255. By default 1 for arrays of zeros and ones, and else 255.
      layout: "channels_first" where arrays in files are (examples, channels, height, width), "channels_last" where they are
        (examples, height, width, channels). "auto" takes (examples, a, b, c) as channels first where a is 1, 3 or 4, b and c
        are larger than a, and c is not 1, 3 or 4; the result has its channels last.

    Raises:
      UserError: unknown name, missing path, unreadable or unsuitable data. Nothing from a file is ever executed.
    """
    name = _check_arguments(name, split, test_fraction, validation_fraction, split_seed, max_level, layout)
    found = _find(name, data_dir, stream)
    if found.rendering is None:
        for part, array in image_parts(found).items():
            check_shape(_named(name, part), array.shape)
    found = _with_labels(name, found)
    _check_factors(name, found)
    if found.rendering is not None and layout == "channels_first":
        raise UserError(f"{name}: its channels are last. Leave out layout='channels_first' (--layout channels_first).")
    found, notes = (found, []) if found.rendering else _kept(name, found, layout)
    divided = _divided(name, found, split, test_fraction, validation_fraction, split_seed)
    if isinstance(divided.train, Rows):
        _check_rows(name, divided.train, found.train)
    if found.rendering is None:
        divided, clip_notes = clipped(name, divided)
        notes += clip_notes
    top, level_notes = top_level(name, divided, max_level)
    assert divided.test is not None
    labels = divided.test_labels
    if labels is not None and labels.dtype.kind not in "iu":
        labels = np.unique(labels, return_inverse=True)[1]
    notes = (*found.notes, *_unused_settings(found, split, test_fraction, validation_fraction), *notes, *level_notes)
    for note in notes:
        warnings.warn(note, DataWarning, stacklevel=2)
    return Dataset(
        name,
        divided.train,
        divided.validation,
        divided.test,
        labels,
        top,
        divided.split,
        divided.train_factors,
        divided.test_factors,
        found.factor_names,
        found.rendering,
        notes,
    )


def _check_arguments(
    name: str | os.PathLike[str],
    split: str,
    test_fraction: float,
    validation_fraction: float,
    split_seed: int,
    max_level: int | None,
    layout: str,
) -> str:
    """Returns the name as a string; raises `UserError` for arguments that cannot be."""
    check_given("data.load", name, (str, os.PathLike))
    name = os.fspath(name)
    if not name:
        raise UserError("expected the name or path of a data set, got an empty one.")
    for what, value in (("test_fraction", test_fraction), ("validation_fraction", validation_fraction)):
        if not (isinstance(value, numbers.Real) and 0 <= value < 1):
            raise UserError(f"{what}: expected a number from 0 to below 1, got {value!r}.")
    for what, value, options in (("split", split, ("random", "last")), ("layout", layout, LAYOUTS)):
        if value not in options:
            raise unknown(what, value, options)
    if not (isinstance(split_seed, numbers.Integral) and split_seed >= 0):
        raise UserError(f"split_seed: expected a whole number >= 0, got {split_seed!r}.")
    if not (max_level is None or (isinstance(max_level, numbers.Integral) and 1 <= max_level <= 255)):
        raise UserError(f"max_level: expected a whole number from 1 to 255, got {max_level!r}.")
    return name


def _find(name: str, data_dir: str | None, stream: bool) -> Split:
    """Reads the source of this name: a bundled one, a path, or a TFDS name."""
    if name in BUNDLED:
        if stream:
            raise UserError(f"--stream: {name} is computed, not read from disk. Leave it out.")
        return BUNDLED[name]()
    if _is_path(name):
        return sources.from_path(Path(name), stream)
    try:
        return tfds_source.load(name, data_dir, stream)
    except tfds_source.UnknownName as error:
        if "/" in name:
            raise UserError(f"{name}: no such file or folder, and no TFDS data set of that name.") from None
        hint = " Expected digits, sprites, sprites_grid, a TFDS name, or a path to .npy, .npz or a folder."
        raise unknown("data set", name, [*BUNDLED, *error.near], hint, list_all=False) from None


def _with_labels(name: str, found: Split) -> Split:
    """The source with a label for each image, (examples,); or a `UserError`."""
    for part in ("train", "test"):
        images, labels = getattr(found, part), getattr(found, f"{part}_labels")
        if images is None or labels is None or labels.shape == images.shape[:1]:
            continue
        if labels.shape == (len(images), 1):
            found = found._replace(**{f"{part}_labels": labels[:, 0]})
            continue
        fix = "Save one for each image, or leave the labels out."
        if labels.ndim == 2 and len(labels) == len(images):
            fix = "For one-hot labels save labels.argmax(axis=1)."
        raise UserError(
            f"{name}: expected one label for each of {len(images)} images, got labels of shape {labels.shape}. {fix}"
        )
    return found


def _check_factors(name: str, found: Split) -> None:
    given = ((found.train, found.train_factors), (found.test, found.test_factors))
    arrays = [(rows, factors) for rows, factors in given if factors is not None]
    for rows, factors in arrays:
        count = 0 if rows is None else len(rows)
        if factors.ndim != 2 or len(factors) != count or factors.dtype.kind not in "ui":
            fix = "Save a row for each image, and test_factors only with a test array."
            if len(factors) == count and factors.ndim == 1:
                fix = "For a single factor save factors[:, None]."
            elif len(factors) == count and factors.ndim == 2:
                fix = "Number the values of each column by np.unique(column, return_inverse=True)[1]."
            raise UserError(
                f"{name}: expected factors as integers of shape (examples, factors), a row for each of {count} examples, got "
                f"shape {factors.shape} and dtype {factors.dtype}. {fix}"
            )
    columns = {factors.shape[1] for _, factors in arrays} | ({len(found.factor_names)} if found.factor_names else set())
    if len(columns) > 1:
        raise UserError(
            f"{name}: expected the same factors for training and test, each with its name, got {sorted(columns)} of them. Save "
            "as many columns, and as many factor_names, for both."
        )


def _is_path(name: str) -> bool:
    looks_like_one = name.endswith((".npy", ".npz")) or name.startswith((".", "~", "/"))
    try:
        return looks_like_one or Path(name).exists()
    except OSError:  # a name too long for a path
        return False


def _named(name: str, part: str) -> str:
    """The name of a part in a message: the training images have that of the data set."""
    return name if part == "train" else f"{name}: {PARTS[part]} images"


def _kept(name: str, found: Split, layout: Layout) -> tuple[Split, list[str]]:
    """The source with its channels last and its images in memory as levels or float32, and notes."""
    moved, notes = channels_last(name, found, layout)
    for part, array in moved.items():
        if not isinstance(array, Rows):  # which are looked at once they are split
            moved[part] = as_levels(_named(name, part), array)
    return found._replace(**moved), notes


def _divided(name: str, found: Split, split: str, test_fraction: float, validation_fraction: float, seed: int) -> Split:
    """The source with a test set, and with a validation set where one is asked for, split off the training set."""
    words = _own_words(found)
    if found.test is None:
        rest, held = _split(len(found.train), test_fraction, split, seed, name, "test_fraction")
        train, test = _part(name, found.train, rest, held)
        labels, factors = (None if rows is None else rows[held] for rows in (found.train_labels, found.train_factors))
        found = found._replace(train=train, test=test, test_labels=labels)
        if found.train_factors is not None:
            found = found._replace(train_factors=found.train_factors[rest], test_factors=factors)
        words = _describe(split, seed) + words
    if found.validation is None and validation_fraction > 0:
        rest, held = _split(len(found.train), validation_fraction, split, seed + 1, name, "validation_fraction")
        if found.rendering and found.rendering.draw:
            words += f"; {len(held)} validation images drawn once as well, with seed {seed}"
            draw = jax.vmap(found.rendering.draw, in_axes=(None, 0))
            drawn = draw(keys.stream(seed, keys.Stream.RENDERED_VALIDATION), jnp.asarray(found.train[held]))
            found = found._replace(validation=np.asarray(drawn))
        else:
            words += f"; validation {_describe(split, seed)} from the training set"
            train, validation = _part(name, found.train, rest, held)
            factors = None if found.train_factors is None else found.train_factors[rest]
            found = found._replace(train=train, validation=validation, train_factors=factors)
    return found._replace(split=words)


def _own_words(found: Split) -> str:
    """The source's own parts with their names."""
    names = "" if found.where is None else ", ".join(f"{PARTS[part]} {name}" for part, name in found.where.items())
    if found.test is not None:
        return found.split + (f" ({names})" if names else "")
    return "" if found.validation is None else f"; the source's own {names or 'validation set'}"


def _unused_settings(found: Split, split: str, test_fraction: float, validation_fraction: float) -> list[str]:
    """Notes on options of the split that the source's own parts leave without effect."""
    notes = []
    if found.validation is not None and validation_fraction > 0:
        notes.append(("its own validation set", {"validation_fraction": validation_fraction}))
    changed = {"split": (split, "random"), "test_fraction": (test_fraction, _TEST_FRACTION)}
    options = {option: value for option, (value, default) in changed.items() if value != default}
    if found.test is not None and (found.validation is not None or not validation_fraction):
        notes.append(("its own test set", options))
    elif found.test is not None:  # the way to split is that of the validation set
        notes.append(("its own test set", {option: value for option, value in options.items() if option != "split"}))
    return [
        f"{option}={value!r} (--{option.replace('_', '-')} {value}) has no effect: the source has {own}."
        for own, options in notes
        for option, value in options.items()
    ]


def _part(name: str, images: np.ndarray | Rows, rest: np.ndarray, held: np.ndarray) -> tuple[np.ndarray | Rows, np.ndarray]:
    """(what stays, what is held out); of rows on disk a view, and what is held out of them in memory."""
    if not isinstance(images, Rows):
        return images[rest], images[held]
    try:
        return images.view(rest), as_levels(name, images.stored(held), images.places(held))
    except UserError:
        _check_rows(name, images, images)
        raise


def _check_rows(name: str, rows: Rows, source: np.ndarray | Rows) -> None:
    """Raises `UserError` where numbers of the rows are unsuitable, and then counts those of the whole source."""
    assert isinstance(source, Rows)
    if rows.dtype == np.uint8:
        if rows.scan.low < 0 or rows.scan.high > 255:
            check_range(name, source.scan.low, source.scan.high)
    elif rows.scan.bad.numbers:
        check_finite(name, source.scan.bad, len(source))


def _describe(split: str, seed: int) -> str:
    return f"random with seed {seed}" if split == "random" else "the last block"


def _split(count: int, fraction: float, split: str, seed: int, name: str, option: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices of what stays and of what is held out, each in the source's order."""
    held_out = round(count * fraction)
    if not 0 < held_out < count:
        raise UserError(
            f"{name}: {option}={fraction} (--{option.replace('_', '-')} {fraction}) splits {count} examples into "
            f"{count - held_out} and {held_out}. Each side needs at least one."
        )
    order = np.random.default_rng(seed).permutation(count) if split == "random" else np.arange(count)
    return np.sort(order[:-held_out]), np.sort(order[-held_out:])
