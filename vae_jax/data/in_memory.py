"""`from_arrays`: a data set from arrays, tables and sparse matrices in memory."""

import contextlib
import os
from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np

from vae_jax.data.conditions.arguments import as_values, check_condition_arguments, without_condition
from vae_jax.data.conditions.setting import parse_condition
from vae_jax.data.dataset import Dataset
from vae_jax.data.events import EVENTS, Event
from vae_jax.data.levels import Layout
from vae_jax.data.loading import Interpretation, check_settings, checked_dataset, with_warnings
from vae_jax.data.masks import Missing
from vae_jax.data.readers.combining import Piece, assemble
from vae_jax.data.readers.condition_columns import check_columns_exist
from vae_jax.data.readers.condition_files import named_columns
from vae_jax.data.readers.listing import PARTS, joined
from vae_jax.data.readers.table_columns import check_complete
from vae_jax.data.sparse import SparseMatrix, SparseRows, is_sparse, sparse_rows
from vae_jax.data.split import Split
from vae_jax.data.splitting import DEFAULT_TEST_FRACTION, SplitMethod, SplitSettings
from vae_jax.data.tables_in_memory import Examples, TableColumns, as_mixed_table, as_table, stacked_columns
from vae_jax.errors import UserError, unknown


def from_arrays(
    train: Examples,
    test: Examples | None = None,
    *,
    validation: Examples | None = None,
    labels: Examples | str | None = None,
    validation_labels: Examples | None = None,
    test_labels: Examples | None = None,
    factors: Examples | None = None,
    test_factors: Examples | None = None,
    validation_factors: Examples | None = None,
    factor_names: Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
    column_names: Sequence[str] | None = None,
    condition: Examples | None = None,
    validation_condition: Examples | None = None,
    test_condition: Examples | None = None,
    mask: Examples | None = None,
    validation_mask: Examples | None = None,
    test_mask: Examples | None = None,
    missing: Missing = "refuse",
    mixed: bool = False,
    name: str = "arrays",
    split: SplitMethod = "random",
    test_fraction: float = DEFAULT_TEST_FRACTION,
    validation_fraction: float = 0.0,
    split_seed: int = 0,
    max_level: int | None = None,
    layout: Layout = "auto",
    event: Event = "auto",
) -> Dataset:
    """Makes a data set from memory. Shapes and numbers mean what they mean in files, see `load`.

    Pass the result to `build(config, dataset=...)`, `sweep.sweep(members, dataset=...)` and `runs.load_run(path, dataset=...)`.
    A run directory records the name and the fingerprint, not the arrays.

    Args:
      train: training examples, (examples, ...): an array of NumPy or JAX, a DataFrame of pandas, a table of pyarrow, or a
        sparse matrix of scipy, which stays sparse. The columns of a table are numbers. An array is not always copied, so it
        must not be changed afterwards.
      test: test examples. None: split off the training examples.
      validation: validation examples. None: see `validation_fraction`.
      labels: a label for each training example, (examples,), numbers or words; or, for tables, the name of the column that has
        the labels in all parts.
      factors: the factors that the training examples were made from, (examples, factors), integers.
      label_names: the name of each label 0, 1, 2, ...; for labels that are words, their order.
      factor_names, column_names: a name for each column of the factors, and of vectors. Tables bring theirs.
      condition: what a model is conditioned on: an array (examples,) or (examples, columns), a dictionary of arrays by the name
        of the column, or a table; or a text as for `load`, for all parts.
      mask: True or 1 where a training entry is observed, of the shape of the examples or, for images with channels, (examples,
        height, width). A masked array of NumPy as `train` brings its mask.
      validation_*, test_*: labels, factors, conditions and masks of the other parts.
      mixed: the examples are tables of pandas or pyarrow with text, booleans or missing values, for `likelihoods.columns` (see
        `load`). Categorical columns of pandas keep the order of their categories.
      name: name of the data set in messages, reports and run directories.
      missing, split, test_fraction, validation_fraction, split_seed, max_level, layout, event: as for `load`.

    Returns:
      Checked examples of all parts, on the host.

    Raises:
      UserError: arrays that are unsuitable or do not fit each other.

    Example:
      >>> import numpy as np
      >>> dataset = from_arrays(np.arange(20.0).reshape(10, 2), labels=["a", "b"] * 5, split="last")
      >>> dataset.data_shape, len(dataset.train), dataset.test_labels, dataset.label_names
      ((2,), 8, array([0, 1]), ('a', 'b'))
    """
    given = _Given(
        _by_part(train, validation, test),
        _by_part(labels, validation_labels, test_labels),
        _by_part(factors, validation_factors, test_factors),
        _by_part(condition, validation_condition, test_condition),
        _by_part(mask, validation_mask, test_mask),
        (label_names, factor_names, column_names),
        mixed,
    )
    settings = SplitSettings(split, test_fraction, validation_fraction, split_seed)
    return with_warnings(_dataset(name, given, settings, Interpretation(layout, event, max_level, missing=missing)))


class _Given(NamedTuple):
    """Arguments of `from_arrays`, by part; keys train, validation, test."""

    examples: dict[str, Examples]
    labels: dict[str, Examples]
    factors: dict[str, Examples]
    conditions: dict[str, Examples]
    masks: dict[str, Examples]
    names: tuple[Sequence[str] | None, Sequence[str] | None, Sequence[str] | None]  # of labels, factors and columns
    mixed: bool


def _by_part(train: Examples, validation: Examples, test: Examples) -> dict[str, Examples]:
    return {"train": train, "validation": validation, "test": test}


def _dataset(name: str, given: _Given, settings: SplitSettings, meaning: Interpretation) -> Dataset:
    """Returns the data set of `from_arrays`."""
    if not isinstance(name, str) or not name:
        raise UserError(field="name", expected="a name", got=repr(name))
    check_settings(name, settings, meaning.max_level, meaning.layout, meaning.missing)
    if meaning.event not in EVENTS:
        raise unknown("event", meaning.event, EVENTS)
    text = check_condition_arguments(name, given.conditions)
    for field, values in (("labels", given.labels), ("factors", given.factors), ("condition", given.conditions)):
        _check_belong(name, given.examples, field, values)
    pieces: dict[str, Piece] = {}
    for part, examples in given.examples.items():
        if examples is not None:
            labels = given.labels[part]
            if labels is None and isinstance(given.labels["train"], str):
                labels = given.labels["train"]
            rows = as_mixed_table(name if part == "train" else f"{name}: {part}", examples) if given.mixed else examples
            piece = pieces[part] = _piece(name, part, rows, labels, given.factors[part], parse_condition(text).names)
            if given.mixed and meaning.missing == "refuse" and given.masks[part] is None:
                counts = np.isnan(np.asarray(piece.examples)).sum(axis=0).tolist()
                check_complete(piece.name, dict(zip(piece.source.column_names or (), counts, strict=True)))
    source = _with_names(name, assemble(pieces, pieces["train"].source), *given.names)
    source = without_condition(name, source, parse_condition(text).names)
    if not text:
        source = source._replace(**condition_columns(name, given.conditions))
    source = source._replace(**_masks(name, given.examples, given.masks))
    return checked_dataset(name, source, settings, meaning._replace(condition=text))


def source_of_array(
    name: str, examples: Examples, columns: Sequence[str] | None, condition: Sequence[str] = (), mixed: bool = False
) -> Split:
    """Returns examples in memory as a source of one part.

    Args:
      name: the data set, for messages.
      examples: as the argument `train` of `from_arrays`.
      columns: names of the columns of a table to take beside those of the condition; None: all.
      condition: names of the columns of a table that are the condition.
      mixed: tables have text, booleans or missing values.
    """
    rows: Examples = as_table(name, examples)
    if rows is not None:
        rows = as_mixed_table(name, examples) if mixed else rows
        if columns is not None:
            wanted = list(dict.fromkeys([*columns, *condition]))
            if absent := [column for column in wanted if column not in rows.columns]:
                noun = "the column" if len(absent) == 1 else "the columns"
                raise UserError(f"{name}: lacks {noun} {joined(absent)}, on which the model was trained.", field="data")
            rows = rows._replace(columns={column: rows.columns[column] for column in wanted})
    piece = _piece(name, "train", examples if rows is None else rows, None, None, condition)
    source = assemble({"train": piece}, piece.source)
    return source._replace(**_masks(name, {"train": examples}, {"train": None}))


def _masks(name: str, parts: dict[str, Examples], given: dict[str, Examples]) -> dict[str, np.ndarray]:
    """Returns the masks of the parts by the field of a `Split`. Masked arrays, True at missing entries, bring theirs."""
    masks: dict[str, np.ndarray] = {}
    for part, examples in parts.items():
        if given[part] is not None and examples is None:
            fix = f"Pass {part}= as well, or all masks as mask= where the {PARTS[part]} set is split off train."
            raise UserError(f"{name}: got {part}_mask without {PARTS[part]} examples. {fix}", field="mask")
        if isinstance(examples, np.ma.MaskedArray):
            if given[part] is not None:
                raise UserError(
                    f"{name}: the {PARTS[part]} examples are a masked array already. Leave out the mask.", field="mask"
                )
            masks[f"{part}_mask"] = ~np.ma.getmaskarray(examples)
        elif given[part] is not None:
            masks[f"{part}_mask"] = np.asarray(given[part])
    return masks


def condition_columns(name: str, conditions: dict[str, Examples]) -> dict[str, dict[str, np.ndarray]]:
    """Returns the conditions of the parts as columns by name, by the field of a `Split`."""
    return {f"{part}_condition": _columns_of(name, given) for part, given in conditions.items() if given is not None}


def _columns_of(name: str, given: Examples) -> dict[str, np.ndarray]:
    """Returns the condition of a part as columns by name."""
    table = as_table(f"{name}: condition", given)
    if table is not None:
        return {column: as_values(values) for column, values in table.columns.items()}
    if isinstance(given, dict):
        return {str(column): np.asarray(values) for column, values in given.items()}
    return named_columns(name, np.asarray(given))


def _check_belong(name: str, parts: dict[str, Examples], field: str, values: dict[str, Examples]) -> None:
    """Raises `UserError` for labels, factors or a condition of a part that is not there."""
    for part, array in values.items():
        if array is not None and parts[part] is None:
            fix = f"Pass {part}= as well, or all {field} as {field}= where the {PARTS[part]} set is split off train."
            raise UserError(f"{name}: got {part}_{field} without {PARTS[part]} examples. {fix}")


def _piece(
    name: str,
    part: str,
    examples: Examples,
    labels: Examples | str | None,
    factors: Examples | None,
    condition: Sequence[str] = (),
) -> Piece:
    """Converts the examples, labels and factors of one part, and takes the named columns of a table as its condition."""
    text = name if part == "train" else f"{name}: {part}"
    table = examples if isinstance(examples, TableColumns) else as_table(text, examples)
    columns = None
    if table is not None and condition:
        check_columns_exist(text, condition, list(table.columns))
        columns = {column: as_values(table.columns[column]) for column in condition}
        for column in condition:
            table = table if column == labels else table.without(column)
    if isinstance(labels, str):
        if table is None:
            raise UserError(
                f"{text}: labels={labels!r} names a column, and a {type(examples).__name__} has no names. Pass the labels "
                "themselves, as an array."
            )
        if labels not in table.columns:
            raise UserError(f"{text}: has no column {labels!r} for the labels. It has {joined(table.columns)}.")
        label_array = _as_labels(text, table.labels(labels))
        table = table.without(labels)
    else:
        label_array = None if labels is None else _as_labels(text, labels)
    if table is None:
        array, column_names = _as_array(text, examples), None
    else:
        array, column_names = stacked_columns(text, table), tuple(table.columns)
    types = None if table is None or table.mixed is None else tuple(map(table.mixed.__getitem__, table.columns))
    factor_table = None if factors is None else as_table(f"{text}: factors", factors)
    factor_names = None if factor_table is None else tuple(factor_table.columns)
    factor_array = None
    if factors is not None:
        factor_array = stacked_columns(text, factor_table) if factor_table else _as_array(f"{text}: factors", factors)
        if isinstance(factor_array, SparseRows):
            raise UserError(f"{text}: expected factors as a dense array, got a sparse matrix. Pass factors.toarray().")
    source = Split(np.zeros(0), column_names=column_names, factor_names=factor_names, column_types=types)
    return Piece(text, array, label_array, factor_array, source, condition=columns)


def _as_array(name: str, examples: Examples) -> np.ndarray | SparseRows:
    """Returns examples as an array of NumPy, or as rows of a sparse matrix."""
    if is_sparse(examples):
        return sparse_rows(name, cast(SparseMatrix, examples))
    if isinstance(examples, str | bytes | os.PathLike):
        raise UserError(f"{name}: expected arrays, got {examples!r}. For a name or path use data.load({str(examples)!r}).")
    if isinstance(examples, Dataset):
        raise UserError(f"{name}: expected arrays, got a Dataset. It is loaded already: leave from_arrays out.")
    try:
        array = np.asarray(examples)
    except (ValueError, TypeError) as error:  # a ragged list; a tensor on another device
        raise UserError(f"{name}: expected an array, got a {type(examples).__name__}: {error}") from None
    if array.dtype.kind == "V" and array.dtype.names is None:  # JAX's types of 8 and 16 bits, such as bfloat16
        with contextlib.suppress(ValueError, TypeError):  # other types are refused later
            array = array.astype(np.float32)
    if not array.ndim:
        raise UserError(f"{name}: expected an array of examples, got a {type(examples).__name__}. Pass np.stack(examples).")
    return array


def _as_labels(name: str, labels: Examples) -> np.ndarray:
    """Returns labels as numbers or strings."""
    array = np.asarray(labels)
    if array.dtype.kind == "O":
        if len({type(label) for label in array.ravel()}) > 1:
            kinds = joined(sorted({type(label).__name__ for label in array.ravel()}))
            raise UserError(f"{name}: expected labels of one kind, got {kinds}. Leave out examples without a label.")
        return array.astype(str)
    return array


def _with_names(
    name: str,
    source: Split,
    label_names: Sequence[str] | None,
    factor_names: Sequence[str] | None,
    column_names: Sequence[str] | None,
) -> Split:
    """Returns the source with the names that the user gives, which number labels that are words."""
    if factor_names is not None:
        source = source._replace(factor_names=tuple(map(str, factor_names)))
    if column_names is not None:
        source = source._replace(column_names=tuple(map(str, column_names)))
        if len(source.train.shape) != 2 or len(source.column_names or ()) != source.train.shape[1]:
            raise UserError(
                f"{name}: expected column_names for the columns of vectors, got {len(column_names)} names and examples of "
                f"shape {source.train.shape[1:]}."
            )
    if label_names is None:
        return source
    names = tuple(map(str, label_names))
    numbered: dict[str, np.ndarray] = {}
    for part in PARTS:
        labels = getattr(source, field := f"{part}_labels")
        if labels is None:
            continue
        if labels.dtype.kind in "US":
            unknown_labels = sorted(set(labels.ravel().tolist()) - set(names))
            if unknown_labels:
                raise UserError(f"{name}: label_names lacks {joined(unknown_labels)}, which are among the {field}.")
            numbered[field] = np.array([names.index(label) for label in labels.ravel().tolist()])
        elif labels.dtype.kind not in "iub" or (labels.size and not 0 <= labels.min() <= labels.max() < len(names)):
            raise UserError(
                f"{name}: expected {field} from 0 to {len(names) - 1}, because there are {len(names)} label_names, got "
                f"{labels.min()} to {labels.max()}."
            )
    return source._replace(**numbered, label_names=names)
