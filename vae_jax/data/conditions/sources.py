"""The condition of a source: its labels, its factors, columns that its reader took, or a file with a row for each example."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vae_jax.data.conditions.setting import ConditionText, parse_condition
from vae_jax.data.readers.condition_files import read_condition_file
from vae_jax.data.readers.listing import PARTS, joined
from vae_jax.data.split import Split
from vae_jax.errors import UserError, unknown

Columns = Mapping[str, np.ndarray]
LABEL = "label"  # name of the column that has the labels


def with_condition(name: str, source: Split, text: str) -> Split:
    """Returns the source with the columns of its condition in all parts.

    Args:
      name: the data set, for messages.
      source: with checked labels and factors, and with the columns that its reader took out of the examples.
      text: the argument `condition` of `data.load`; "" where the columns are there already, or where there is no condition.

    Raises:
      UserError: the source has no such labels, factors or columns in some part, or a file does not fit the examples.
    """
    meaning = parse_condition(text)
    if meaning.kind == "none":
        if not source.by_part("condition"):
            return source
        columns = source.by_part("condition")
    elif meaning.kind == "file":
        columns, notes = _from_file(name, source, meaning.path)
        source = source._replace(notes=(*source.notes, *notes))
    elif meaning.kind == "labels":
        columns = _from_labels(name, source)
    elif meaning.kind == "factors" or not source.by_part("condition"):
        columns = _from_factors(name, source, meaning)
    else:
        columns = source.by_part("condition")
    source = source._replace(notes=(*source.notes, *_notes_on_names(name, source, text, meaning)))
    fix = "Pass {part}_condition as well." if meaning.kind == "none" else "Save these columns for them as well."
    checked = {f"{part}_condition": _checked(name, source, part, columns, fix) for part in source.images_by_part()}
    return source._replace(**checked)


def _checked(name: str, source: Split, part: str, by_part: Mapping[str, Columns], fix: str) -> Columns:
    """Returns the columns of a part, which are there and have a value for each example."""
    columns = by_part.get(part)
    if not columns:
        fix = fix.format(part=part)
        raise UserError(f"{name}: its {PARTS[part]} examples have no condition.", field="condition", fix=fix)
    count = len(source.images_by_part()[part])
    for column, values in columns.items():
        if len(values) != count:
            raise UserError(
                f"{name}: expected {count} values of the condition {column!r}, one for each of the {PARTS[part]} examples, got "
                f"{len(values)}.",
                field="condition",
            )
    return columns


def _from_labels(name: str, source: Split) -> dict[str, Columns]:
    columns: dict[str, Columns] = {}
    for part in source.images_by_part():
        labels = getattr(source, f"{part}_labels")
        if labels is None:
            raise _no_labels(name, source, part)
        if source.label_names is not None and len(labels) and not 0 <= labels.min() <= labels.max() < len(source.label_names):
            num_outside = int(((labels < 0) | (labels >= len(source.label_names))).sum())
            raise UserError(
                f"{name}: {num_outside} of {len(labels)} {PARTS[part]} labels have none of the {len(source.label_names)} "
                "names, such as those of unlabeled examples.",
                field="condition",
                fix="Leave these examples out.",
            )
        columns[part] = {LABEL: labels}
    return columns


def _no_labels(name: str, source: Split, part: str) -> UserError:
    labeled = source.by_part("labels")
    if source.rendering is not None and source.factor_names:
        fix = f'Use its factors: `condition="factors"`, or some of them, such as `condition="{source.factor_names[0]}"`.'
    elif labeled:
        fix = f"Save labels for them as well, as the {joined(f'{PARTS[other]} examples' for other in labeled)} have."
    else:
        fix = "Name the column that has them by `label_column`, pass a file with a row for each example, such as "
        fix += '`condition="labels.npy"`, or leave `condition` out.'
        if source.by_part("factors"):
            fix = f'Use its factors: `condition="factors"`. {fix}'
    return UserError(f"{name}: its {PARTS[part]} examples have no labels.", field="condition", fix=fix)


def _from_factors(name: str, source: Split, meaning: ConditionText) -> dict[str, Columns]:
    """Returns the columns of all factors, or of those that are named."""
    factors = source.by_part("factors")
    some = next(iter(factors.values()), None)
    known: Sequence[str] = source.factor_names or (() if some is None else tuple(f"factor_{i}" for i in range(some.shape[1])))
    names = known if meaning.kind == "factors" else meaning.names
    for wanted in names:
        if wanted not in known:
            raise _unknown_name(name, source, wanted, known)
    is_drawn = source.rendering is not None and source.rendering.draw is not None
    columns: dict[str, Columns] = {}
    for part in source.images_by_part():
        if is_drawn and part == "train":
            # Stand-ins with all values that a training example can have: its condition follows from the row that is drawn.
            assert source.rendering is not None
            sizes = [source.rendering.sizes[known.index(column)] for column in names]
            values = [np.resize(np.arange(size), len(source.train)) for size in sizes]
            columns[part] = dict(zip(names, values, strict=True))
        elif (array := factors.get(part)) is None:
            raise _no_factors(name, source, part, bool(factors))
        else:
            columns[part] = {column: array[:, known.index(column)] for column in names}
    return columns


def _no_factors(name: str, source: Split, part: str, has_some: bool) -> UserError:
    if has_some:
        fix = f"Save {part}_factors as well, or split the {PARTS[part]} set off the training examples."
    else:
        fix = "Expected sprites, dSprites, MPI3D, smallNORB, Cars3D or an .npz file with `factors`."
        if source.by_part("labels"):
            fix += ' It has labels: `condition="labels"`.'
    return UserError(f"{name}: its {PARTS[part]} examples have no factors.", field="condition", fix=fix)


def _unknown_name(name: str, source: Split, wanted: str, known: Sequence[str]) -> UserError:
    options = list(known)
    if source.by_part("labels"):
        options.append("labels")
    if options:
        return unknown("column or factor", wanted, options, f" `condition` expects a name of {name}, or a file.")
    return UserError(
        f"{name}: has no column {wanted!r}, and neither labels nor factors.",
        field="condition",
        fix='Pass a file with a row for each example, such as `condition="conditions.csv"`.',
    )


def _from_file(name: str, source: Split, path: str) -> tuple[Mapping[str, Columns], list[str]]:
    """Returns the columns of a file by part."""
    by_part, notes = read_condition_file(path)
    counts = {part: len(examples) for part, examples in source.images_by_part().items()}
    if source.rendering is not None and source.rendering.draw is not None:
        raise UserError(
            f"{name}: its training images are drawn anew at every step, so no row of {path} belongs to them.",
            field="condition",
            fix='Use its factors: `condition="factors"`.',
        )
    if list(by_part) == [""]:
        if len(counts) > 1:
            sizes = joined(f"{PARTS[part]} ({count})" for part, count in counts.items())
            arrays = ", ".join(f"{part}=..." for part in counts)
            raise UserError(
                f"{path}: expected the condition of each part of {name}, {sizes}, got one of {_length(by_part[''])} rows.",
                field="condition",
                fix=f"Save np.savez('condition.npz', {arrays}), or a folder with a table for each part, such as train.csv.",
            )
        by_part = {"train": by_part[""]}
    for part, columns in by_part.items():
        if part not in counts:
            raise UserError(
                f"{path}: has the condition of {PARTS[part]} examples, and {name} has {joined(PARTS[one] for one in counts)} "
                "examples alone.",
                field="condition",
                fix="Save one row for each of its examples, in their order. Parts that are split off take theirs with them.",
            )
        for column, values in columns.items():
            if len(values) != counts[part]:
                raise UserError(
                    f"{path}: expected {counts[part]} rows, one for each of the {PARTS[part]} examples of {name}, got "
                    f"{len(values)} in {column!r}.",
                    field="condition",
                    fix="Save one row for each example, in their order.",
                )
    if missing := [part for part in counts if part not in by_part]:
        raise UserError(
            f"{path}: has no condition for the {PARTS[missing[0]]} examples of {name}.",
            field="condition",
            fix=f"Save an array or a table for {missing[0]} as well.",
        )
    return by_part, notes


def _length(columns: Columns) -> int:
    return len(next(iter(columns.values())))


def _notes_on_names(name: str, source: Split, text: str, meaning: ConditionText) -> list[str]:
    """Returns a note where the text of a condition is the name of a column or of a factor as well."""
    names = {*(source.column_names or ()), *(source.factor_names or ())}
    same = {text, Path(text).name} & names
    if meaning.kind not in ("labels", "factors", "file") or not same:
        return []
    column = min(same)
    kind = {"labels": "the labels", "factors": "the factors"}.get(meaning.kind, "the file")
    return [f"{name}: `condition` is {kind}, and a column has the name {column!r} as well. For the column pass '\"{column}\"'."]


def label_categories(text: str, source: Split) -> Mapping[str, Sequence[str]]:
    """Returns the names of the labels for the column of labels, where labels are the condition and have names."""
    return {LABEL: source.label_names} if text == "labels" and source.label_names else {}
