"""Data sets whose parts come from several sources: parts are joined, and labels get one numbering."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vae_jax.data.column_types import ColumnType
from vae_jax.data.on_disk import Rows
from vae_jax.data.readers.condition_columns import joined_columns
from vae_jax.data.readers.listing import PARTS, be, joined
from vae_jax.data.readers.mixed_tables import recoded, union_of_types, with_unseen_categories
from vae_jax.data.sparse import SparseRows
from vae_jax.data.split import Split
from vae_jax.errors import UserError


class Piece(NamedTuple):
    """Examples of one part of a data set, from one source or file.

    Attributes:
      name: the source, for messages.
      examples: the examples as stored.
      labels: a label for each example, or None.
      factors: the factors of each example, or None.
      source: the whole source, for what does not belong to a part.
      condition: the columns of the condition by name, or None.
      mask: True where an entry is observed, of the shape of the examples; None: all are.
    """

    name: str
    examples: np.ndarray | Rows | SparseRows
    labels: np.ndarray | None
    factors: np.ndarray | None
    source: Split
    condition: Mapping[str, np.ndarray] | None = None
    mask: np.ndarray | Rows | None = None


def with_other_sources(source: Split, name: str, others: Mapping[str, str], read: Callable[[str], Split]) -> Split:
    """Returns a source with its validation or test set replaced by the examples of other sources.

    Args:
      source: the source of the training set.
      name: its name.
      others: the name of the source of each part; keys validation and test. Empty names are left out.
      read: reads the source with a name.

    Raises:
      UserError: sources that cannot be combined, the training set itself, or several parts of which none is the one that is
        meant.
    """
    others = {part: other for part, other in others.items() if other}
    if not others:
        return source
    if source.rendering:
        part, other = next(iter(others.items()))
        raise UserError(
            f"{name} is computed, so {other} cannot be its {PARTS[part]} set. Leave it out.", field=f"{part}_dataset"
        )
    pieces, notes = pieces_of(source, name), [*source.notes]
    for part, other in others.items():
        field = f"{part}_dataset"
        if part in pieces:
            notes.append(f"{name}: its own {PARTS[part]} set is not used, because `{field}` names a different one.")
        pieces[part], note = _only_part(read(other), other, part)
        if other == name and pieces[part].examples is pieces[part].source.train:
            raise UserError(f"{other}: the {PARTS[part]} set would be the training set. Leave it out.", field=field)
        notes += [*pieces[part].source.notes, *note]
    combined = assemble(pieces, source)
    kept_names = {part: text for part, text in (source.part_names or {}).items() if part not in others}
    phrases = [f"{PARTS[part]} set from {other}" for part, other in sorted(others.items())]
    if source.test is not None and "test" not in others:
        phrases.insert(0, source.split)
    return combined._replace(split=", ".join(phrases), part_names=kept_names or None, notes=tuple(notes))


def pieces_of(source: Split, name: str) -> dict[str, Piece]:
    """Returns the parts that a source has; keys train, validation, test."""
    labels = {"train": source.train_labels, "validation": source.validation_labels, "test": source.test_labels}
    factors, conditions = source.by_part("factors"), source.by_part("condition")
    return {
        part: Piece(
            name,
            examples,
            labels[part],
            factors.get(part),
            source,
            condition=conditions.get(part),
            mask=getattr(source, f"{part}_mask"),
        )
        for part, examples in source.images_by_part().items()
    }


def _only_part(source: Split, name: str, part: str) -> tuple[Piece, tuple[str, ...]]:
    """Returns the part of a source that is meant, and a note on others. A source of one part has no other."""
    field = f"{part}_dataset"
    if source.rendering:
        raise UserError(f"{name} is computed and cannot be a {PARTS[part]} set. Save its images as an .npy file.", field=field)
    pieces = pieces_of(source, name)
    if len(pieces) == 1:
        return pieces["train"], ()
    if part not in pieces:
        names = joined(f"{PARTS[other]} examples" for other in pieces)
        raise UserError(
            f"{name}: expected one part, or a {PARTS[part]} set, got {names}. Save the examples that are meant in a file of "
            "their own, such as an .npy file.",
            field=field,
        )
    rest = joined(f"{PARTS[other]} set" for other in pieces if other != part)
    return pieces[part], (f"{name}: its {PARTS[part]} set is used, and its {rest} {be([*pieces][1:])} not.",)


def assemble(pieces: Mapping[str, Piece], base: Split) -> Split:
    """Puts parts together. What belongs to no part is that of `base`, the source of the training set."""
    if base.column_types is not None:
        pieces = {part: _in_order_of(base, piece) for part, piece in pieces.items()}
    sources = {id(piece.source): piece.source for piece in pieces.values()}.values()
    for field, noun in (("column_names", "columns"), ("factor_names", "factors")):
        _check_same_names(pieces, field, noun)
    common, types = _with_common_types(pieces, base)
    common, label_names = _with_common_labels(common)
    images = {part: piece.examples for part, piece in common.items()}
    labels = {f"{part}_labels": piece.labels for part, piece in common.items()}
    factors = {f"{part}_factors": piece.factors for part, piece in common.items()}
    conditions = {f"{part}_condition": piece.condition for part, piece in common.items()}
    column_names = next((source.column_names for source in sources if source.column_names), None)
    return base._replace(
        **images,
        **labels,
        **factors,
        **conditions,
        **{f"{part}_mask": common[part].mask if part in common else None for part in PARTS},
        label_names=label_names,
        column_names=column_names,
        column_types=types,
        factor_names=next((source.factor_names for source in sources if source.factor_names), None),
        channels_last=all(source.channels_last for source in sources),
        notes=(),
    )


def _in_order_of(base: Split, piece: Piece) -> Piece:
    """Returns a part of a mixed table with the columns of the training set, which are looked up by name."""
    source, wanted = piece.source, base.column_names
    names, types, examples = source.column_names, source.column_types, piece.examples
    if not wanted or not names or names == wanted or types is None or not isinstance(examples, np.ndarray):
        return piece
    if absent := [name for name in wanted if name not in names]:
        raise UserError(
            f"{piece.name}: lacks the columns {joined(absent)} of the training set.", fix="Add them, empty if need be."
        )
    order = [names.index(name) for name in wanted]
    source = source._replace(column_names=wanted, column_types=tuple(types[i] for i in order))
    mask = piece.mask[:, order] if isinstance(piece.mask, np.ndarray) else piece.mask
    return piece._replace(examples=examples[:, order], source=source, mask=mask)


def _with_common_types(pieces: Mapping[str, Piece], base: Split) -> tuple[dict[str, Piece], tuple[ColumnType, ...] | None]:
    """Returns parts of mixed tables with the same category codes, and the types with these."""
    if base.column_types is None:
        return dict(pieces), None
    others = [piece.source.column_types for piece in pieces.values() if piece.source.column_types is not None]
    types = with_unseen_categories(base.column_types, others)
    if len({piece.examples.dtype for piece in pieces.values()}) > 1:  # one part alone has missing values
        pieces = {part: piece._replace(examples=np.asarray(piece.examples, np.float64)) for part, piece in pieces.items()}
    return {
        part: piece
        if piece.source.column_types in (None, types) or not isinstance(piece.examples, np.ndarray)
        else piece._replace(examples=recoded(piece.name, piece.examples, piece.source.column_types, types))
        for part, piece in pieces.items()
    }, types


def _check_same_names(pieces: Mapping[str, Piece], field: str, noun: str) -> None:
    """Raises `UserError` where two sources name their columns or factors differently."""
    named = [(piece.name, names) for piece in pieces.values() if (names := getattr(piece.source, field))]
    for name, names in named[1:]:
        first, expected = named[0]
        if tuple(names) != tuple(expected):
            differ = [f"{a!r} and {b!r}" for a, b in zip(expected, names, strict=False) if a != b]
            got = f"first {differ[0]}" if differ else f"{len(expected)} and {len(names)} of them"
            raise UserError(
                f"{name}: expected the {noun} of {first}, in the same order, got {got}. Save both with the same {noun}."
            )


def _with_common_labels(pieces: Mapping[str, Piece]) -> tuple[dict[str, Piece], tuple[str, ...] | None]:
    """Returns the parts with labels that mean the same in all of them, and the names of labels that are numbers."""
    labeled = {part: piece for part, piece in pieces.items() if piece.labels is not None}
    names = dict.fromkeys(piece.source.label_names for piece in labeled.values() if piece.source.label_names)
    if not names:
        return dict(pieces), None
    first_names = next(iter(names))
    if len(names) == 1 and all(_is_number_of(piece.labels, len(first_names)) for piece in labeled.values()):
        return dict(pieces), first_names
    # Each source has numbered its labels by itself. Names are numbered over all parts, when labels are checked.
    by_name = {}
    for part, piece in labeled.items():
        assert piece.labels is not None
        known = piece.source.label_names
        if known is None and piece.labels.dtype.kind in "iub":
            first = next(other.name for other in labeled.values() if other.source.label_names)
            raise UserError(
                f"{piece.name}: expected labels with names, as in {first}, or numbers from 0 to {len(first_names) - 1}, "
                f"got {piece.labels.min()} to {piece.labels.max()}. Save the same labels in both."
            )
        by_name[part] = piece._replace(labels=piece.labels if known is None else np.array(known)[piece.labels.ravel()])
    return {**pieces, **by_name}, None


def _is_number_of(labels: np.ndarray | None, count: int) -> bool:
    return labels is not None and labels.dtype.kind in "iu" and (not labels.size or 0 <= labels.min() <= labels.max() < count)


def join_pieces(folder: str, part: str, pieces: list[Piece]) -> Piece:
    """Joins the examples, labels and factors of several files."""
    shapes = {piece.name: piece.examples.shape[1:] for piece in pieces}
    first = pieces[0].name
    for name, shape in shapes.items():
        if shape != shapes[first]:
            raise UserError(f"{name}: expected examples of shape {shapes[first]}, as in {first}, got {shape}. Save one shape.")
    numbered = {str(index): piece for index, piece in enumerate(pieces)}
    for field, noun in (("column_names", "columns"), ("factor_names", "factors")):
        _check_same_names(numbered, field, noun)
    numbered, label_names = _with_common_labels(numbered)
    pieces, notes = list(numbered.values()), _notes_once(pieces)

    def join(field: str) -> np.ndarray | None:
        arrays = [getattr(piece, field) for piece in pieces]
        if all(array is not None for array in arrays):
            return np.concatenate(arrays)
        if any(array is not None for array in arrays):
            notes.append(f"{folder}: the {field} of the {PARTS[part]} set are not used, because some of its files have none.")
        return None

    labels, factors = join("labels"), join("factors")
    condition = joined_columns(folder, [(piece.name, piece.condition) for piece in pieces])
    types = pieces[0].source.column_types
    if all(piece.source.column_types is not None for piece in pieces):
        types = union_of_types([piece.source.column_types for piece in pieces])  # pyright: ignore
        coded = [recoded(piece.name, piece.examples, piece.source.column_types, types) for piece in pieces]  # pyright: ignore
        pieces = [piece._replace(examples=examples) for piece, examples in zip(pieces, coded, strict=True)]
    examples = joined_examples(folder, [piece.examples for piece in pieces])
    source = pieces[0].source._replace(label_names=label_names, notes=tuple(notes), column_types=types)
    return Piece(folder, examples, labels, factors, source, condition=condition, mask=_joined_masks(pieces))


def _joined_masks(pieces: Sequence[Piece]) -> np.ndarray | None:
    """Returns the masks of several files as one, of ones for files without a mask; None where no file has one."""
    shapes = {piece.name: piece.mask.shape[1:] for piece in pieces if piece.mask is not None}
    if not shapes:
        return None
    first, shape = next(iter(shapes.items()))
    for name, other in shapes.items():
        if other != shape:
            raise UserError(
                f"{name}: expected a mask of shape {shape} for each example, as in {first}, got {other}.", field="mask"
            )
    return np.concatenate([np.ones((len(p.examples), *shape), bool) if p.mask is None else np.asarray(p.mask) for p in pieces])


def joined_examples(folder: str, arrays: Sequence[np.ndarray | Rows | SparseRows]) -> np.ndarray | SparseRows:
    dense = [array for array in arrays if isinstance(array, np.ndarray)]
    sparse = [array for array in arrays if isinstance(array, SparseRows)]
    if len(dense) == len(arrays):
        return np.concatenate(dense)
    if len(sparse) < len(arrays):
        raise UserError(f"{folder}: expected dense arrays in all files, or sparse matrices, got both. Save one kind.")
    starts = np.cumsum([0, *(len(array.data) for array in sparse)])
    indptr = [array.indptr[1:] + start for array, start in zip(sparse, starts[:-1], strict=True)]
    data, indices = (np.concatenate([getattr(array, name) for array in sparse]) for name in ("data", "indices"))
    return SparseRows(data, indices, np.concatenate([[0], *indptr]), (sum(map(len, sparse)), sparse[0].shape[1]))


def _notes_once(pieces: Sequence[Piece]) -> list[str]:
    """Returns the notes of several files, without those that differ in the name of the file alone."""
    notes = {note.replace(piece.name, ""): note for piece in reversed(pieces) for note in piece.source.notes}
    return list(notes.values())[::-1]
