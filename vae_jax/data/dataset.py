"""`Dataset`, and `load(name)`, which finds and checks one and splits it where the source has no split."""

import hashlib
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax.data import sources, sprites, tfds_source
from vae_jax.data.sources import Rendering, Split
from vae_jax.errors import UserError, unknown

BUNDLED = {"digits": sources.digits, "sprites": sprites.sprites, "sprites_grid": sprites.sprites_grid}


class Dataset(NamedTuple):
    """Images on the host, (examples, height, width, channels), as stored: integer levels in uint8, or float32.

    Levels run from 0 to `max_level` (255 for photographs, 16 for the digits, 1 for binary images); None for floats.
    With a `rendering` the splits hold a row of integers for each image instead; `images` makes either into images.
    """

    name: str
    train: np.ndarray
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
        mean = self.train.mean(axis=0, dtype=np.float64)
        return (mean / (self.max_level or 1)).astype(np.float32)

    @property
    def train_std(self) -> float:
        """Standard deviation of the training pixels about the mean image, on the same scale; positive for constant data too."""
        if self.rendering:
            mean = self.rendering.mean()
            return max(float(np.sqrt((mean - np.square(mean)).mean())), 1e-3)  # of zeros and ones, whose squares they are
        chunks = (self.train[i : i + 1024] for i in range(0, len(self.train), 1024))  # no float copy of the data set
        square = sum(float(np.square(chunk, dtype=np.float64).sum()) for chunk in chunks) / self.train.size
        variance = square - float(np.square(self.train.mean(axis=0, dtype=np.float64)).mean())
        std = float(np.sqrt(max(variance, 0.0))) / (self.max_level or 1)
        return max(std, 1e-3 if self.max_level else 1e-6 * float(np.abs(self.train).max()), 1e-30)

    def fingerprint(self) -> str:
        """SHA-256 over the arrays of all splits, with shapes and dtypes, and the name of what renders them."""
        digest = hashlib.sha256(self.rendering.name.encode() if self.rendering else b"")
        for array in (self.train, self.validation, self.test):
            if array is not None:
                digest.update(f"{array.shape}{array.dtype}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def load(
    name: str,
    *,
    data_dir: str | None = None,
    split: Literal["random", "last"] = "random",
    test_fraction: float = 0.2,
    validation_fraction: float = 0.0,
    split_seed: int = 0,
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

    Raises:
      UserError: unknown name, missing path, unreadable or unsuitable data. Nothing from a file is ever executed.
    """
    if not name:
        raise UserError("expected the name or path of a data set, got an empty one.")
    if name in BUNDLED:
        found = BUNDLED[name]()
    elif _is_path(name):
        found = sources.from_path(Path(name))
    else:
        try:
            found = tfds_source.load(name, data_dir)
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
        if images is not None and given is not None and given.shape != images.shape[:1]:
            raise UserError(f"{name}: expected one label for each of {len(images)} images, got labels of shape {given.shape}.")
    _check_factors(name, found)
    given = (found.train, found.validation, found.test)
    if found.rendering is None:
        train, validation, test = (None if array is None else _as_levels(name, array) for array in given)
        max_level = _max_level(found, [array for array in (train, validation, test) if array is not None])
    else:
        (train, validation, test), max_level = given, found.max_level
    assert train is not None
    words, labels = found.split, found.test_labels
    train_factors, test_factors = found.train_factors, found.test_factors
    if test is None:
        words = _describe(split, split_seed)
        rest, held = _split(len(train), test_fraction, split, split_seed, name)
        labels = None if found.train_labels is None else found.train_labels[held]
        train, test = train[rest], train[held]
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
            train, validation = train[rest], train[held]
            train_factors = None if train_factors is None else train_factors[rest]
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
        if factors.ndim != 2 or len(factors) != count or not np.issubdtype(factors.dtype, np.integer):
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
    if array.ndim not in (3, 4):
        raise UserError(
            f"{name}: expected images with 3 or 4 axes (examples, height, width[, channels]), got shape {array.shape}."
        )
    if array.size == 0:
        raise UserError(f"{name}: expected at least one example and one pixel, got shape {array.shape}.")
    if array.ndim == 3:
        array = array[..., np.newaxis]
    if np.issubdtype(array.dtype, np.floating):
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(array, dtype=np.float32)
        bad = int(np.size(array) - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise UserError(f"{name}: expected finite numbers, got {bad} NaN or infinite values. Clean the data first.")
        return array
    if array.dtype == np.bool_ or np.issubdtype(array.dtype, np.integer):
        if array.dtype != np.uint8 and (array.min() < 0 or array.max() > 255):
            raise UserError(
                f"{name}: expected integer levels from 0 to 255, got {array.min()} to {array.max()}. Convert to float or uint8."
            )
        return np.ascontiguousarray(array, dtype=np.uint8)
    raise UserError(f"{name}: expected uint8 or float images, got dtype {array.dtype}.")


def _max_level(found: Split, arrays: list[np.ndarray]) -> int | None:
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
