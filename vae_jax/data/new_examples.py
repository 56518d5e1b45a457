"""Examples that were not trained on, converted as the training data were, and refused where they do not fit them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from vae_jax.data.checks import check_finite
from vae_jax.data.column_support import outside_columns
from vae_jax.data.column_types import ColumnType
from vae_jax.data.conditions.columns import Condition, store_column
from vae_jax.data.conditions.sources import LABEL
from vae_jax.data.events import event_kind
from vae_jax.data.levels import clip_rounding
from vae_jax.data.loading import Interpretation, as_events
from vae_jax.data.on_disk import Rows
from vae_jax.data.readers.listing import be, joined
from vae_jax.data.readers.mixed_tables import recoded
from vae_jax.data.sparse import SparseRows
from vae_jax.data.split import Split
from vae_jax.data.support import representative_values
from vae_jax.errors import UserError
from vae_jax.likelihoods import Likelihood, outside_support

Stored = np.ndarray | Rows | SparseRows
Fields: TypeAlias = dict[str, Any]  # of a `Split`, to replace
PARTS = ("train", "validation", "test")  # in the order in which all of them are joined


class TrainedAs(NamedTuple):
    """Facts about training data with which new examples are compared.

    Attributes:
      data_shape: shape of an event.
      max_level, column_names, column_types, label_names, condition: see `data.Dataset`.
      dtype: the type in which the training examples are kept.
      known_columns: names of all columns of the training table, also of those that were left out.
      is_in_unit_interval: whether the model takes floats in [0, 1] alone, which rounding may leave.
    """

    data_shape: tuple[int, ...]
    max_level: int | None
    dtype: np.dtype
    column_names: tuple[str, ...] | None = None
    column_types: tuple[ColumnType, ...] | None = None
    label_names: tuple[str, ...] | None = None
    condition: Condition | None = None
    known_columns: tuple[str, ...] = ()
    is_in_unit_interval: bool = False


def new_events(name: str, source: Split, trained: TrainedAs, meaning: Interpretation) -> tuple[Split, list[str]]:
    """Converts the arrays of a source to events of the type and order of the training data.

    Args:
      name: the source, for messages.
      source: arrays as stored.
      trained: facts about the training data.
      meaning: of the numbers, as in training.

    Returns:
      The source with converted arrays, and notes.

    Raises:
      UserError: columns, shapes, types or levels that do not fit the training data.
    """
    source, notes = _with_trained_columns(name, source, trained)
    source = _with_trained_types(name, source, trained, meaning)
    levels = None if source.rendering is not None or trained.dtype.kind == "f" else trained.max_level
    converted, more = as_events(name, source, meaning._replace(max_level=levels))
    return checked_events(name, converted, trained), [*notes, *more]


def checked_events(name: str, source: Split, trained: TrainedAs) -> Split:
    """Returns a converted source in the type of the training data.

    Raises:
      UserError: examples of another shape, or numbers of another kind or range.
    """
    if source.rendering is not None:
        shape, top = source.rendering.data_shape, 1
    else:
        shape, top = source.train.shape[1:], source.max_level
    if shape != trained.data_shape:
        raise UserError(
            f"{name}: expected examples of shape {trained.data_shape}, as the model was trained on, got {shape}.",
            fix=_reshape(shape, trained.data_shape),
            field="data",
        )
    if top is not None and top != trained.max_level:
        got = f"levels from 0 to {top}"
        fix = f"Save np.rint(x / {top} * {trained.max_level}).astype({_type(trained)})." if trained.max_level else ""
        raise _other_numbers(name, trained, got, fix or f"Save x.astype(np.float32) / {top} where the model takes [0, 1].")
    if source.rendering is not None:
        return source
    changed: Fields = {part: _as_kept(name, array, trained) for part, array in source.images_by_part().items()}
    source = source._replace(**changed)
    return clip_rounding(name, source)[0] if trained.is_in_unit_interval else source


def _reshape(shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if np.prod(shape) == np.prod(wanted):
        return f"Save x.reshape(-1, {', '.join(map(str, wanted))}) where the entries are in this order."
    return "Resize or cut them, or choose the columns or the array that the model was trained on."


def _with_trained_columns(name: str, source: Split, trained: TrainedAs) -> tuple[Split, list[str]]:
    """Returns the source with the columns and the category codes of the training data, where both have names."""
    names, wanted, notes = source.column_names, trained.column_names, []
    if wanted and names and tuple(names) != tuple(wanted):
        if absent := [column for column in wanted if column not in names]:
            noun = "the column" if len(absent) == 1 else "the columns"
            raise UserError(f"{name}: lacks {noun} {joined(absent)}, on which the model was trained.", field="data")
        unused = [column for column in names if column not in wanted and column not in trained.known_columns]
        if unused:
            them = "it" if len(unused) == 1 else "them"
            text = f"{joined(unused)} {be(unused)} not used, because the model was trained without {them}."
            notes.append(f"{name}: {text}")
        place = {column: i for i, column in enumerate(names)}
        order = [place[column] for column in wanted]
        changed: Fields = {part: _columns(name, array, order) for part, array in source.images_by_part().items()}
        for part, mask in source.by_part("mask").items():
            changed[f"{part}_mask"] = _columns(name, mask, order)
        if source.column_types is not None:
            changed["column_types"] = tuple(source.column_types[i] for i in order)
        source = source._replace(**changed, column_names=wanted)
    return _with_trained_categories(name, source, trained), notes


def _columns(name: str, array: Stored, order: list[int]) -> np.ndarray | SparseRows:
    if isinstance(array, SparseRows):
        return array.columns(order)
    if isinstance(array, Rows):
        raise UserError(f"{name}: its columns are in a different order, so it is not read row by row.", field="stream")
    return array[:, order]


def _with_trained_categories(name: str, source: Split, trained: TrainedAs) -> Split:
    """Returns the source with the codes that text has in the training data."""
    types, wanted = source.column_types, trained.column_types
    if wanted is None:
        text = [kind.name for kind in types or () if kind.categories is not None]
        if text:
            got = f"text in {joined(text)}"
            raise UserError(f"{name}: expected columns of numbers, as the model was trained on, got {got}.", field="data")
        return source
    if types is None:
        return source
    changed: Fields = {}
    for part, array in source.images_by_part().items():
        assert isinstance(array, np.ndarray)
        for j, (kind, known) in enumerate(zip(types, wanted, strict=True)):
            if kind.categories is None or known.categories is None:
                continue
            codes = array[:, j]
            used = np.unique(codes[~np.isnan(codes)]).astype(int)
            allowed = set(known.categories[: known.num_known])
            if unseen := [kind.categories[code] for code in used if kind.categories[code] not in allowed]:
                raise UserError(
                    f"{name}: the column {known.name!r} has {'a category' if len(unseen) == 1 else 'categories'} that the "
                    f"training data do not have: {joined(map(repr, unseen))}.",
                    field="data",
                    fix="Leave these rows out, or replace the text by one of "
                    f"{joined(map(repr, known.categories[: known.num_known]))}.",
                )
        pairs = zip(types, wanted, strict=True)
        seen = tuple(kind._replace(categories=_only_known(kind.categories, known.categories)) for kind, known in pairs)
        changed[part] = recoded(name, array, seen, wanted)
    return source._replace(**changed, column_types=wanted)


def _only_known(categories: tuple[str, ...] | None, known: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Returns categories with a known one in place of those that no row has."""
    if categories is None or not known:
        return categories
    return tuple(text if text in known else known[0] for text in categories)


def _with_trained_types(name: str, source: Split, trained: TrainedAs, meaning: Interpretation) -> Split:
    """Returns the source with the numbers as stored in a type that becomes that of the training data.

    Raises:
      UserError: levels where floats were trained on, floats where levels were, and the like.
    """
    if source.rendering is not None:
        return source
    changed: Fields = {}
    is_table = source.column_names is not None
    for part, array in source.images_by_part().items():
        kind, is_bytes = array.dtype.kind, array.dtype in (np.bool_, np.uint8)
        if kind not in "fbui":
            continue  # refused with the types
        if trained.dtype.kind == "f":
            if kind == "f" or isinstance(array, SparseRows):
                continue
            is_image = len(trained.data_shape) == 3
            if (is_bytes or is_image) and not is_table:
                got = f"{array.dtype}, which are levels"
                raise _other_numbers(name, trained, got, _to_floats(array))
            if isinstance(array, np.ndarray):
                changed[part] = array.astype(np.float64)
        elif kind == "f" and isinstance(array, np.ndarray):
            changed |= _whole(name, part, array, source, trained, meaning)
        elif kind == "f" and not isinstance(array, SparseRows):
            raise _other_numbers(name, trained, "floats", _to_integers(trained, array))
        elif trained.max_level is not None:
            if array.dtype == np.bool_ and trained.max_level > 1:
                got = "booleans, which are levels 0 and 1"
                raise _other_numbers(name, trained, got, f"Save x.astype({_type(trained)}) * {trained.max_level}.")
            if array.dtype == np.uint8 and trained.max_level > 255:
                fix = f"Save x.astype(np.uint16) * {trained.max_level // 255} for levels from 0 to 255, or x.astype(np.uint16)."
                raise _other_numbers(name, trained, "bytes", fix)
    return source._replace(**changed)


def _whole(
    name: str, part: str, array: np.ndarray, source: Split, trained: TrainedAs, meaning: Interpretation
) -> dict[str, np.ndarray]:
    """Returns floats that are whole numbers as integers, with a mask where NaN marks missing entries."""
    is_missing = np.isnan(array)
    if is_missing.any() and meaning.missing == "refuse":
        return {}  # refused with the numbers
    mask = getattr(source, f"{part}_mask")
    if mask is not None:
        is_missing = is_missing | ~np.asarray(mask, bool).reshape(array.shape) if mask.size == array.size else is_missing
    numbers = np.where(is_missing, 0, array)
    has_fractions = not np.array_equal(numbers, np.round(numbers)) or np.abs(numbers).max(initial=0) >= 2**53
    is_level = trained.max_level is not None
    if has_fractions or (is_level and not is_missing.any() and source.column_names is None):
        raise _other_numbers(name, trained, _range(numbers), _to_integers(trained, numbers))
    changed: dict[str, np.ndarray] = {part: numbers.astype(np.int64)}
    if is_missing.any():
        changed[f"{part}_mask"] = ~is_missing
    return changed


def _range(numbers: np.ndarray) -> str:
    return f"floats from {numbers.min():.6g} to {numbers.max():.6g}"


def _type(trained: TrainedAs) -> str:
    return f"np.{trained.dtype}"


def _to_floats(array: Stored) -> str:
    return (
        "Save x.astype(np.float32) on the scale of the training data, such as x.astype(np.float32) / 255 where these are in "
        "[0, 1]."
    )


def _to_integers(trained: TrainedAs, array: np.ndarray | Rows) -> str:
    top = trained.max_level
    if top is None:
        return f"Save np.rint(x).astype({_type(trained)}) if rounding does no harm."
    in_unit = isinstance(array, np.ndarray) and array.size and array.min() >= 0 and array.max() <= 1
    if in_unit or not isinstance(array, np.ndarray):
        fix = f"Save np.rint(x * {top}).astype({_type(trained)}) if they are in [0, 1]" if top > 1 else ""
        return f"{fix or f'Save np.rint(x).astype({_type(trained)})'}."
    return f"Save np.rint(x).astype({_type(trained)}) if they are levels from 0 to {top}."


def _other_numbers(name: str, trained: TrainedAs, got: str, fix: str) -> UserError:
    """Returns the error for numbers of another kind than those of the training data."""
    if trained.max_level is not None:
        expected = f"integer levels from 0 to {trained.max_level}"
    else:
        expected = "floats" if trained.dtype.kind == "f" else "whole numbers"
    return UserError(f"{name}: expected {expected}, as the model was trained on, got {got}.", field="data", fix=fix)


def _as_kept(name: str, array: Stored, trained: TrainedAs) -> Stored:
    """Returns converted examples in the type of the training data, after checks of their range."""
    top = trained.max_level
    if trained.dtype.kind == "f":
        if array.dtype.kind != "f":
            array = _converted(array, trained.dtype)
        if isinstance(array, Rows):
            check_finite(name, array.scan.non_finite, len(array))
        return array
    if array.dtype.kind == "f":  # sparse rows
        raise _other_numbers(name, trained, "floats", _to_integers(trained, np.zeros(0)))
    if top is not None and (trained.dtype != np.uint8 or top < 255 or array.dtype != np.uint8):
        largest = int(array.max())
        if largest > top:
            highest = 255 if largest <= 255 else largest
            scaled = f"(x >= {(highest + 1) // 2})" if top == 1 else f"np.rint(x / {highest} * {top})"
            fix = f"Save {scaled}.astype({_type(trained)}) if their levels run from 0 to {highest}."
            raise _other_numbers(name, trained, f"levels up to {largest}", fix)
    return array if array.dtype == trained.dtype else _converted(array, trained.dtype)


def _converted(array: Stored, dtype: np.dtype) -> Stored:
    if isinstance(array, Rows):
        return array.as_events(event_kind(array.shape[1:]), dtype)
    return array.with_data(array.data.astype(dtype)) if isinstance(array, SparseRows) else array.astype(dtype)


def stored_conditions(name: str, source: Split, trained: TrainedAs) -> dict[str, np.ndarray]:
    """Returns the condition of each example as the training data store it, by part.

    Raises:
      UserError: a column is missing, or has a category that the training data do not have.
    """
    if trained.condition is None:
        return {}
    stored: dict[str, np.ndarray] = {}
    for part, columns in source.by_part("condition").items():
        if len(columns) == len(trained.condition.columns) == 1:
            columns = {trained.condition.columns[0].name: next(iter(columns.values()))}
        names = [column.name for column in trained.condition.columns]
        if absent := [column for column in names if column not in columns]:
            raise UserError(f"{name}: lacks the columns {joined(absent)} of the condition.", field="condition")
        known = source.label_names or trained.label_names
        values = [(column, _named(columns[column.name], column.name, known)) for column in trained.condition.columns]
        stored[part] = np.stack([store_column(name, column, given, "new") for column, given in values], axis=1)
    return stored


def _named(values: np.ndarray, column: str, label_names: Sequence[str] | None) -> np.ndarray:
    """Returns the names of labels that are numbered."""
    values = np.asarray(values)
    if column != LABEL or not label_names or values.dtype.kind not in "iu" or len(set(label_names)) < len(label_names):
        return values
    if values.size and not 0 <= values.min() <= values.max() < len(label_names):
        return values
    return np.array(label_names, dtype=np.str_)[values]


def check_values(
    name: str,
    parts: Mapping[str, Stored],
    masks: Mapping[str, np.ndarray],
    likelihood: Likelihood,
    trained: TrainedAs,
    is_binarized: bool,
    is_dequantized: bool,
) -> None:
    """Raises `UserError` for examples that the likelihood, after the preprocessing of the model, is no distribution over."""
    if is_dequantized or (likelihood.support == "real" and not is_binarized):
        return
    for part, array in parts.items():
        mask = masks.get(part)
        if likelihood.support == "mixed" and not is_binarized:
            assert isinstance(array, np.ndarray)
            if problem := outside_columns(likelihood, array, mask, trained.column_names):
                raise UserError(f"{name}: {problem}.", field="data", fix="Leave out these rows, or correct them.")
            continue
        if is_binarized and trained.max_level is not None:
            continue
        if array.dtype == np.uint8 and trained.max_level == 255 and likelihood.support in ("unit_interval", "counts"):
            continue
        numbers = representative_values(array, mask).astype(np.float32)
        if is_binarized:
            if numbers.min() < 0 or numbers.max() > 1:
                got = f"numbers from {numbers.min():.6g} to {numbers.max():.6g}"
                raise UserError(
                    f"{name}: expected probabilities in [0, 1], which the model binarizes, got {got}.", field="data"
                )
            continue
        scale = 1 if likelihood.support == "counts" else trained.max_level or 1
        if problem := outside_support(likelihood, numbers / scale):
            fix = "Binarize them as the training data were, such as (x >= 0.5)." if likelihood.support == "binary" else ""
            raise UserError(f"{name}: {problem}.", field="data", fix=fix or "Bring them to the scale of the training data.")
