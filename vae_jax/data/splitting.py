"""Division of a source into training, validation and test set, as far as it does not bring them."""

import numbers
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax._numerics import keys
from vae_jax.data.checks import check_finite
from vae_jax.data.levels import as_kept
from vae_jax.data.on_disk import Rows
from vae_jax.data.readers.listing import PARTS
from vae_jax.data.sparse import SparseRows
from vae_jax.data.split import Split
from vae_jax.errors import UserError, unknown

SplitMethod = Literal["random", "last"]
DEFAULT_TEST_FRACTION = 0.2


class SplitSettings(NamedTuple):
    """Settings of `data.load` that say how parts are split off the training set.

    Attributes:
      split: "random", or "last" for the last block of examples.
      test_fraction: share of the examples that becomes the test set, where the source has none; in [0, 1).
      validation_fraction: share of the remaining examples that becomes the validation set, where the source has none; in
        [0, 1). 0: no validation set.
      split_seed: seed of a random split; a whole number >= 0.
    """

    split: SplitMethod = "random"
    test_fraction: float = DEFAULT_TEST_FRACTION
    validation_fraction: float = 0.0
    split_seed: int = 0

    def validate(self) -> None:
        """Raises `UserError` for settings outside of their range."""
        for field, value in (("test_fraction", self.test_fraction), ("validation_fraction", self.validation_fraction)):
            if not (isinstance(value, numbers.Real) and 0 <= value < 1):
                raise UserError(field=field, expected="a number from 0 to below 1", got=repr(value))
        if self.split not in (methods := ("random", "last")):
            raise unknown("split", self.split, methods)
        if not (isinstance(self.split_seed, numbers.Integral) and self.split_seed >= 0):
            raise UserError(field="split_seed", expected="a whole number >= 0", got=repr(self.split_seed))

    def describe(self) -> str:
        """Returns how the examples of a part are chosen, as a phrase."""
        return f"random with seed {self.split_seed}" if self.split == "random" else "the last block"


def split_off_parts(name: str, source: Split, settings: SplitSettings) -> Split:
    """Splits a test set and, where one is asked for, a validation set off the training set, unless the source has them.

    Args:
      name: the data set, for messages.
      source: images with their channels last. The training images may be `Rows`, which stay on disk. Images that are held out
        of them are read into memory.
      settings: how to split.

    Returns:
      The parts, with `split` as a phrase that says how they came about.

    Raises:
      UserError: a fraction that leaves one side without examples; unsuitable numbers in rows that are held out.
    """
    description = _describe_source(source) + (f"; {source.conversion}" if source.conversion else "")
    if source.test is None:
        rest, held_out = _divide(name, len(source.train), "test_fraction", settings)
        train, test = _take_out(name, source.train, rest, held_out)
        source = source._replace(train=train, test=test)
        if (labels := source.train_labels) is not None:
            source = source._replace(train_labels=labels[rest], test_labels=labels[held_out])
        if (factors := source.train_factors) is not None:
            source = source._replace(train_factors=factors[rest], test_factors=factors[held_out])
        source = _divide_companions(source, "test", rest, held_out)
        description = settings.describe() + description
    if source.validation is None and settings.validation_fraction > 0:
        source, phrase = _with_validation(name, source, settings)
        description += phrase
    return source._replace(split=description)


def _divide_companions(source: Split, part: str, rest: np.ndarray, held_out: np.ndarray) -> Split:
    """Splits the conditions and the masks of a part off those of the training set."""
    if (columns := source.train_condition) is not None:
        taken = [{name: values[index] for name, values in columns.items()} for index in (rest, held_out)]
        source = source._replace(**{"train_condition": taken[0], f"{part}_condition": taken[1]})
    if (mask := source.train_mask) is not None:
        kept = mask.view(rest) if isinstance(mask, Rows) else mask[rest]
        source = source._replace(**{"train_mask": kept, f"{part}_mask": mask[held_out]})
    return source


def _with_validation(name: str, source: Split, settings: SplitSettings) -> tuple[Split, str]:
    """Splits a validation set off the training set, or draws it where training images are drawn; returns a phrase as well."""
    seed = settings.split_seed
    rest, held_out = _divide(name, len(source.train), "validation_fraction", settings._replace(split_seed=seed + 1))
    if source.rendering and source.rendering.draw:
        key = keys.stream(seed, keys.Stream.RENDERED_VALIDATION)
        draw = jax.vmap(source.rendering.draw, in_axes=(None, 0))
        validation = np.asarray(draw(key, jnp.asarray(source.train[held_out])))
        phrase = f"; {len(held_out)} validation images drawn once as well, with seed {seed}"
        companions: dict[str, Any] = {"validation_factors": validation if source.factor_names else None}
        if source.train_condition is not None:
            assert source.factor_names is not None
            index = {name: source.factor_names.index(name) for name in source.train_condition}
            companions["validation_condition"] = {name: validation[:, column] for name, column in index.items()}
        return source._replace(validation=validation, **companions), phrase
    train, validation = _take_out(name, source.train, rest, held_out)
    if (factors := source.train_factors) is not None:
        source = source._replace(train_factors=factors[rest], validation_factors=factors[held_out])
    if (labels := source.train_labels) is not None:
        source = source._replace(train_labels=labels[rest], validation_labels=labels[held_out])
    source = _divide_companions(source, "validation", rest, held_out)
    phrase = f"; validation {settings.describe()} from the training set"
    return source._replace(train=train, validation=validation), phrase


def _describe_source(source: Split) -> str:
    """Returns the parts that the source brings as a phrase with their names; empty where it has training images alone."""
    part_names = source.part_names or {}
    names = ", ".join(f"{PARTS[part]} {name}" for part, name in part_names.items())
    if source.test is not None:
        return source.split + (f" ({names})" if names else "")
    if source.validation is None:
        return ""
    if source.split != Split._field_defaults["split"]:  # a phrase for a validation set of another source
        return f"; {source.split}" + (f" ({names})" if names else "")
    return f"; the source's own {names or 'validation set'}"


def notes_on_unused_settings(source: Split, settings: SplitSettings) -> list[str]:
    """Returns a note for each setting that has no effect, because the source brings the part that it is for."""
    changed = {"split": (settings.split, "random"), "test_fraction": (settings.test_fraction, DEFAULT_TEST_FRACTION)}
    for_test = {field: value for field, (value, default) in changed.items() if value != default}
    unused: list[tuple[str, dict[str, str | float]]] = []
    if source.validation is not None and settings.validation_fraction > 0:
        unused.append(("validation", {"validation_fraction": settings.validation_fraction}))
    if source.test is not None:
        if source.validation is None and settings.validation_fraction:
            for_test.pop("split", None)  # the validation set is split off in this way
        unused.append(("test", for_test))
    return [
        f"`{field}={_shown(value)}` has no effect: the source has its own {part} set."
        for part, fields in unused
        for field, value in fields.items()
    ]


def _shown(value: str | float) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _take_out(
    name: str, images: np.ndarray | Rows | SparseRows, rest: np.ndarray, held_out: np.ndarray
) -> tuple[np.ndarray | Rows | SparseRows, np.ndarray | SparseRows]:
    """Returns the images that stay, and those that are held out, which are in memory even where the others are on disk."""
    if isinstance(images, SparseRows):
        return images.view(rest), images.view(held_out)
    if not isinstance(images, Rows):
        return images[rest], images[held_out]
    try:
        return images.view(rest), _read_rows(name, images, held_out)
    except UserError:
        check_rows(name, images, images)
        raise


def _read_rows(name: str, rows: Rows, index: np.ndarray) -> np.ndarray:
    stored = rows.stored(index).reshape(-1, *rows.shape[1:])
    if rows.mask is not None:  # what stands at missing entries may be anything
        stored = np.where(rows.mask[index], stored, np.zeros((), stored.dtype))
    return as_kept(name, stored, rows.dtype, rows.indices_in_file(index), rows.nan_is_missing)


def check_rows(name: str, rows: Rows, source: np.ndarray | Rows | SparseRows) -> None:
    """Raises `UserError` where numbers of the rows are unsuitable, with counts over the whole source.

    Args:
      name: the data set, for messages.
      rows: rows of the source that are used.
      source: all rows of the source.
    """
    assert isinstance(source, Rows)
    if rows.dtype == np.float32 and rows.scan.non_finite.numbers:
        check_finite(name, source.scan.non_finite, len(source))


def _divide(
    name: str, num_examples: int, field: Literal["test_fraction", "validation_fraction"], settings: SplitSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the examples that stay and of those that are held out, each in the order of the source."""
    fraction = settings.test_fraction if field == "test_fraction" else settings.validation_fraction
    num_held_out = round(num_examples * fraction)
    if not 0 < num_held_out < num_examples:
        raise UserError(
            f"{name}: `{field}={fraction}` splits {num_examples} examples into {num_examples - num_held_out} and "
            f"{num_held_out}. Each side needs at least one."
        )
    is_random = settings.split == "random"
    order = np.random.default_rng(settings.split_seed).permutation(num_examples) if is_random else np.arange(num_examples)
    return np.sort(order[:-num_held_out]), np.sort(order[-num_held_out:])
