"""`Dataset`, and `load(name)`, which finds and checks one and splits it where the source has no split."""

import hashlib
import numbers
import os
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax._short_repr import short_repr
from vae_jax.data import sources, sprites, tfds_source
from vae_jax.data.expect import check_given
from vae_jax.data.rows import Rows, check_shape, check_values, chunks, header, level_type, sum_images, sum_squares
from vae_jax.data.sources import Rendering, Split
from vae_jax.errors import UserError, unknown

BUNDLED = {"digits": sources.digits, "sprites": sprites.sprites, "sprites_grid": sprites.sprites_grid}


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
    test_fraction: float = 0.2,
    validation_fraction: float = 0.0,
    split_seed: int = 0,
    stream: bool = False,
) -> Dataset:
    """Loads a data set by name or path.

    Args:
      name: "digits" (scikit-learn's 8x8 digits, inside its wheel); "sprites" or "sprites_grid" (computed, see `sprites`); a
        TFDS name such as "mnist"; an .npy or .npz file; a folder of IDX files (raw or .gz) or of PNG/JPEG images. An .npz file
        may hold `factors` of `train` and `test_factors`, integers (examples, factors), and their `factor_names`.
      data_dir: where TFDS finds or keeps prepared data.
      split: how to split where the source has no test set: "random" (seeded) or "last" (the last block, for video frames).
      test_fraction: share of the examples that such a split puts into the test set.
      validation_fraction: share of the training examples held out for validation, unless the source has its own.
      split_seed: seed of a random split.
      stream: leave the training images on disk, as `Rows`: of an .npy file, of raw IDX files, or of a TFDS data set, which is
        decoded into an .npy file in the cache folder. They are read through once. Nothing else differs.

    Raises:
      UserError: unknown name, missing path, unreadable or unsuitable data. Nothing from a file is ever executed.
    """
    check_given("data.load", name, (str, os.PathLike))
    name = os.fspath(name)
    if not name:
        raise UserError("expected the name or path of a data set, got an empty one.")
    for what, value in (("test_fraction", test_fraction), ("validation_fraction", validation_fraction)):
        if not (isinstance(value, numbers.Real) and 0 <= value < 1):
            raise UserError(f"{what}: expected a number from 0 to 1, got {value!r}.")
    if split not in ("random", "last"):
        raise unknown("split", split, ("random", "last"))
    if not (isinstance(split_seed, numbers.Integral) and split_seed >= 0):
        raise UserError(f"split_seed: expected a whole number >= 0, got {split_seed!r}.")
    if name in BUNDLED:
        if stream:
            raise UserError(f"--stream: {name} is computed, not read from disk. Leave it out.")
        found = BUNDLED[name]()
    elif _is_path(name):
        found = sources.from_path(Path(name), stream)
    else:
        try:
            found = tfds_source.load(name, data_dir, stream)
        except tfds_source.UnknownName as error:
            if "/" in name:
                raise UserError(f"{name}: no such file or folder, and no TFDS data set of that name.") from None
            raise unknown(
                "data set",
                name,
                [*BUNDLED, *error.known],
                " Expected digits, sprites, a TFDS name, or a path to .npy, .npz or a folder.",
            ) from None

    for images, given in ((found.train, found.train_labels), (found.test, found.test_labels)):
        if images is not None and found.rendering is None:
            check_shape(name, images.shape)
        if images is not None and given is not None and given.shape != images.shape[:1]:
            raise UserError(f"{name}: expected one label for each of {len(images)} images, got labels of shape {given.shape}.")
    _check_factors(name, found)
    train, validation, test = found.train, found.validation, found.test
    if found.rendering is None:
        train = train if isinstance(train, Rows) else _as_levels(name, train)  # rows are looked at once they are split
        validation, test = (None if array is None else _as_levels(name, array) for array in (validation, test))
    words, labels = found.split, found.test_labels
    train_factors, test_factors = found.train_factors, found.test_factors
    if test is None:
        words = _describe(split, split_seed)
        rest, held = _split(len(train), test_fraction, split, split_seed, name)
        labels = None if found.train_labels is None else found.train_labels[held]
        train, test = _part(name, train, rest, held)
        if train_factors is not None:
            train_factors, test_factors = train_factors[rest], train_factors[held]
    if validation is None and validation_fraction > 0:
        rest, held = _split(len(train), validation_fraction, split, split_seed + 1, name)
        if found.rendering and found.rendering.draw:
            words += f"; {len(held)} validation images drawn once as well, with seed {split_seed}"
            draw = jax.vmap(found.rendering.draw, in_axes=(None, 0))
            validation = np.asarray(draw(jax.random.key(split_seed + 1), jnp.asarray(train[held])))
        else:
            words += f"; validation {_describe(split, split_seed)} from the training set"
            train, validation = _part(name, train, rest, held)
            train_factors = None if train_factors is None else train_factors[rest]
    if isinstance(train, Rows):
        check_values(name, *train.scan[:3], train.dtype)
    arrays = [array for array in (train, validation, test) if array is not None]
    max_level = found.max_level if found.rendering else _max_level(found, arrays)
    if labels is not None:
        labels = np.unique(labels, return_inverse=True)[1] if labels.dtype.kind not in "iu" else labels
    return Dataset(
        name,
        train,
        validation,
        test,
        labels,
        max_level,
        words,
        train_factors,
        test_factors,
        found.factor_names,
        found.rendering,
    )


def _check_factors(name: str, found: Split) -> None:
    given = ((found.train, found.train_factors), (found.test, found.test_factors))
    arrays = [(rows, factors) for rows, factors in given if factors is not None]
    for rows, factors in arrays:
        count = 0 if rows is None else len(rows)
        if factors.ndim != 2 or len(factors) != count or factors.dtype.kind not in "ui":
            raise UserError(
                f"{name}: expected factors as integers of shape (examples, factors), a row for each of {count} examples, got "
                f"shape {factors.shape} and dtype {factors.dtype}."
            )
    columns = {factors.shape[1] for _, factors in arrays} | ({len(found.factor_names)} if found.factor_names else set())
    if len(columns) > 1:
        raise UserError(f"{name}: expected the same factors for training and test, each with its name, got {sorted(columns)}.")


def _is_path(name: str) -> bool:
    looks_like_one = name.endswith((".npy", ".npz")) or name.startswith((".", "~", "/"))
    try:
        return looks_like_one or Path(name).exists()
    except OSError:  # a name too long for a path
        return False


def _as_levels(name: str, array: np.ndarray) -> np.ndarray:
    """uint8 levels or finite float32, with four axes; or a `UserError`."""
    check_shape(name, array.shape)
    kind = level_type(name, array.dtype)
    if array.ndim == 3:
        array = array[..., np.newaxis]
    low, high = (array.min(), array.max()) if kind == np.uint8 and array.dtype != np.uint8 else (0, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        levels = np.ascontiguousarray(array, dtype=kind)
    bad = 0 if kind == np.uint8 else int(levels.size - np.count_nonzero(np.isfinite(levels)))
    check_values(name, bad, low, high, kind)
    return levels


def _part(name: str, images: np.ndarray | Rows, rest: np.ndarray, held: np.ndarray) -> tuple[np.ndarray | Rows, np.ndarray]:
    """(what stays, what is held out); of rows on disk a view, and what is held out of them in memory."""
    if isinstance(images, Rows):
        return images.view(rest), _as_levels(name, images.stored(held))
    return images[rest], images[held]


def _max_level(found: Split, arrays: list[np.ndarray | Rows]) -> int | None:
    kinds = {array.dtype for array in arrays}
    if len(kinds) > 1 or len({array.shape[1:] for array in arrays}) > 1:
        raise UserError(
            "expected training and test images of one shape and dtype, got "
            + " and ".join(f"{array.shape[1:]} {array.dtype}" for array in arrays)
        )
    if np.dtype(np.float32) in kinds:
        return None
    if found.max_level is not None:
        return found.max_level
    return 1 if max(int(array.max()) for array in arrays) <= 1 else 255


def _describe(split: str, seed: int) -> str:
    return f"random with seed {seed}" if split == "random" else "the last block"


def _split(count: int, fraction: float, split: str, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices of what stays and of what is held out, each in the source's order."""
    held_out = round(count * fraction)
    if not 0 < held_out < count:
        raise UserError(f"{name}: a split of {count} examples with fraction {fraction} leaves one side empty.")
    order = np.random.default_rng(seed).permutation(count) if split == "random" else np.arange(count)
    return np.sort(order[:-held_out]), np.sort(order[-held_out:])
