"""`read_new_data`: examples of a user in the unit and order of a trained model's data, without these data."""

import functools
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.build.model import sees_counts
from vae_jax.data.dataset import Dataset
from vae_jax.data.held_out import DrawnRows, as_stored, held_out_input, with_companions
from vae_jax.data.lazy_rows import CompleteRows, JoinedRows
from vae_jax.data.masks import Missing
from vae_jax.data.new_examples import PARTS, check_values, checked_events, stored_conditions
from vae_jax.data.on_disk import Rows
from vae_jax.data.sparse import SparseRows
from vae_jax.data.split import Rendering, Split
from vae_jax.errors import UserError, unknown
from vae_jax.example import Example, Examples
from vae_jax.likelihoods import check_factorizes
from vae_jax.runs.trained.model import TrainedModel
from vae_jax.runs.trained.reading import Part, Reading, Source, as_source, one_part

_ToInput: TypeAlias = Callable[[Examples], Examples]
StoredEvents: TypeAlias = np.ndarray | Rows | SparseRows | CompleteRows | JoinedRows


@short_repr
class NewData(NamedTuple):
    """Examples that a trained model takes, in the order of their source.

    Attributes:
      name: of the file or data set, for messages.
      examples: as they are stored, with a leading axis: an array of NumPy, rows that are read from disk or drawn when they are
        indexed (`data.Rows`, `data.DrawnRows`), `data.SparseRows`, or an `Example` of one of them with conditions and masks.
        Images that the model binarizes or dequantizes are drawn once, as those of the test set are.
      to_input: (batch of `examples` on the device) -> floats for the model. It can be jitted.
      labels: a label for each example, where the source has labels; else None.
      label_names: the name of each label 0, 1, 2, ...
      notes: sentences for the user.
      stored: the events before anything is drawn; 0 at missing entries. None: those of `examples`.
    """

    name: str
    examples: Examples
    to_input: Callable[[Examples], Examples]
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    stored: StoredEvents | None = None

    @property
    def num_examples(self) -> int:
        """Number of examples."""
        event = self.examples.event if isinstance(self.examples, Example) else self.examples
        return event.shape[0]


def read_new_data(
    model: TrainedModel,
    source: Source,
    *,
    condition: Examples | str | None = None,
    part: Part = "all",
    stream: bool = False,
    data_dir: str | None = None,
    missing: Missing | None = None,
) -> NewData:
    """Reads examples as the training data of a model were read, and refuses those that do not fit them.

    Args:
      model: from `load_model`.
      source: path or name of a data set that `data.load` knows, an array of NumPy or JAX, a table of pandas or pyarrow, a
        sparse matrix of SciPy, or a `Dataset` of `data.load` or `data.from_arrays`. Columns of tables are found by their names.
      condition: the condition of each example, for a model with one: a file, an array (examples,) or (examples, columns), a
        dictionary of arrays by the name of the column, or a table. None: it is read from the source, as in training.
      part: "all": all examples in the order of the source, with its training, validation and test set one after the other. Or
        one of these sets. Of a source without a test set these are those of the run's own split.
      stream: leave the examples on disk. Files of a single array above 1 GiB always stay there.
      data_dir: where TFDS finds or keeps prepared data.
      missing: "nan" takes NaN and empty fields of tables as missing entries, "refuse" refuses them. None: as in training.

    Returns:
      `NewData`, with the examples in the order of the source.

    Raises:
      UserError: a source that cannot be read, or that does not fit the training data: a different shape or type, levels of
        another range, missing columns, unseen categories, values that the likelihood does not allow.
    """
    if part not in ("all", *PARTS):
        raise unknown("part", part, ("all", *PARTS))
    reading = Reading(model, condition, missing, data_dir, stream)
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    name = name if isinstance(name, str) and name else "the new data"
    if isinstance(source, Dataset):
        split, notes = one_part(name, as_source(source), part), []
        split = checked_events(name, reading.with_given_condition(name, split), reading.trained)
    else:
        split, notes = reading.read(name, source, part)
    return _new_data(name, split, [*split.notes, *notes], reading)


def _new_data(name: str, split: Split, notes: list[str], reading: Reading) -> NewData:
    """Joins the parts of a converted source and prepares them for the model."""
    model, config, trained = reading.model, reading.config, reading.trained
    likelihood, has_missing = model.vae.likelihood, model.description.has_missing
    parts = split.images_by_part()
    conditions = stored_conditions(name, split, trained)
    if trained.condition is not None and set(conditions) != set(parts):
        raise UserError(f"{name}: has no condition for all of its examples.", field="condition")
    masks = {part: mask for part, mask in split.by_part("mask").items() if isinstance(mask, np.ndarray)}
    if split.rendering is None:
        dequantized = config.dequantize
        check_values(name, parts, masks, likelihood, trained, config.binarization != "none", dequantized)
    lacks = bool(masks) or any(isinstance(array, Rows) and _lacks(array) for array in parts.values())
    if lacks:
        check_factorizes(likelihood)
    stored, mask = _joined(parts, masks, lacks, lacks or has_missing)
    held_out = held_out_input(
        1 if split.rendering is not None else trained.max_level,
        config.binarization,
        config.dequantize,
        sees_counts(config, likelihood),
    )
    images = _images(split.rendering)
    event: Examples = stored
    if held_out.draw is not None:
        drawn = DrawnRows(event, held_out.draw, stream(config.test_seed, Stream.TEST_SET), held_out.dtype, images)
        event, images = (
            drawn if isinstance(event, Rows | CompleteRows | JoinedRows) else drawn.in_memory(name),
            as_stored,
        )
    event_input = _event_input(held_out.to_input, images)
    condition = np.concatenate([conditions[part] for part in parts]) if conditions else None
    labels = split.by_part("labels")
    return NewData(
        name,
        event if condition is None and mask is None else Example(event, condition, mask),
        event_input if condition is None and mask is None else _with_companions(event_input, trained.condition),
        np.concatenate([labels[part] for part in parts]) if set(labels) == set(parts) else None,
        split.label_names if set(labels) == set(parts) else None,
        tuple(dict.fromkeys(notes)),
        stored,
    )


# The same functions for each file, so that programs that are compiled for one of them serve all files of a model.
@functools.lru_cache(maxsize=32)
def _event_input(
    to_input: Callable[[Examples], Examples], images: Callable[[Examples], Examples]
) -> Callable[[Examples], Examples]:
    return lambda rows: to_input(jnp.asarray(images(rows)))


_with_companions = functools.lru_cache(maxsize=32)(with_companions)


def _images(rendering: Rendering | None) -> Callable[[Examples], Examples]:
    """Returns the function from a batch of stored rows to images."""
    if rendering is None:
        return as_stored
    import jax

    return lambda rows: jax.vmap(rendering.render)(jnp.asarray(rows))


def _lacks(rows: Rows) -> bool:
    """Returns whether entries of rows on disk are missing."""
    return (rows.mask is not None or rows.nan_is_missing) and rows.scan.observed is not None


def _joined(
    parts: Mapping[str, np.ndarray | Rows | SparseRows], masks: Mapping[str, np.ndarray], lacks: bool, with_mask: bool
) -> tuple[Examples, Examples]:
    """Returns the events of all parts, one after the other, and their masks, or None."""
    arrays: list[Examples] = [CompleteRows(one) if lacks and isinstance(one, Rows) else one for one in parts.values()]
    complete = np.bool_(True)
    observed: list[Examples] = [
        CompleteRows(one, is_mask=True) if isinstance(one, Rows) else masks.get(part, np.broadcast_to(complete, one.shape))
        for part, one in parts.items()
    ]
    mask = None if not with_mask else _join(observed)
    return _join(arrays), mask


def _join(arrays: list[Examples]) -> Examples:
    if len(arrays) == 1:
        return arrays[0]
    if all(isinstance(array, np.ndarray) for array in arrays):
        return np.concatenate(arrays)
    if all(isinstance(array, SparseRows) for array in arrays):
        from vae_jax.data.readers.combining import joined_examples

        return joined_examples("the parts", arrays)
    return JoinedRows(arrays)
