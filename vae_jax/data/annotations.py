"""Checks of the arrays that come beside the examples: labels and factors."""

import numpy as np

from vae_jax.data.on_disk import Rows
from vae_jax.data.sparse import SparseRows
from vae_jax.data.split import Split
from vae_jax.errors import UserError

_LABELS = {"train": "train_labels", "validation": "validation_labels", "test": "test_labels"}  # fields of a `Split`


def with_checked_labels(name: str, source: Split) -> Split:
    """Returns the source with integer labels of shape (examples,).

    A column of labels is flattened. Labels of another type, such as words, are numbered in the sorted order of those of all
    parts, and their names are kept.

    Raises:
      UserError: labels that are not one for each example, or words in one part and numbers in another.
    """
    labels_by_part = {part: getattr(source, field) for part, field in _LABELS.items()}
    labels_by_part = {part: labels for part, labels in labels_by_part.items() if labels is not None}
    if not source.by_part("factors") and _are_multi_label(source, labels_by_part):
        return _with_labels_as_factors(name, source)
    for part, labels in labels_by_part.items():
        labels_by_part[part] = _flat_labels(name, getattr(source, part), labels)
    names = source.label_names
    kinds = {"words" if labels.dtype.kind in "USO" else "numbers" for labels in labels_by_part.values()}
    if len(kinds) > 1:
        got = " and ".join(f"{part} {labels.ravel()[:1].tolist()}" for part, labels in labels_by_part.items())
        raise UserError(
            f"{name}: expected the same labels in all parts, got words and numbers: {got}. Save words in all parts."
        )
    if any(labels.dtype.kind not in "iu" for labels in labels_by_part.values()):
        distinct = np.unique(np.concatenate(list(labels_by_part.values())))
        labels_by_part = {part: np.searchsorted(distinct, labels) for part, labels in labels_by_part.items()}
        names = tuple(str(name) for name in distinct)
    return source._replace(**{_LABELS[part]: labels for part, labels in labels_by_part.items()}, label_names=names)


def _are_multi_label(source: Split, labels_by_part: dict[str, np.ndarray]) -> bool:
    """Returns whether each example has several labels of zeros and ones, which are not the one-hot code of a single one."""
    arrays = labels_by_part.values()
    shapes = {labels.shape[1:] for labels in arrays}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 1 or shape[0] < 2 or "train" not in labels_by_part:
        return False
    if any(labels.dtype.kind not in "bui" or not ((labels == 0) | (labels == 1)).all() for labels in arrays):
        return False
    is_one_hot = all((labels.sum(axis=1) == 1).all() for labels in arrays)
    return not is_one_hot and ("test" in labels_by_part or source.test is None)


def _with_labels_as_factors(name: str, source: Split) -> Split:
    """Returns a source whose several labels for each example, such as those of MedMNIST's chestmnist, are factors."""
    assert source.train_labels is not None
    test, validation = source.test_labels, source.validation_labels
    count = source.train_labels.shape[1]
    note = f"{name}: each example has {count} labels of zeros and ones, which are used as factors, not as labels of classes."
    return source._replace(
        train_labels=None,
        validation_labels=None,
        test_labels=None,
        label_names=None,
        train_factors=source.train_labels.astype(np.uint8),
        test_factors=None if test is None else test.astype(np.uint8),
        validation_factors=None if validation is None else validation.astype(np.uint8),
        factor_names=tuple(source.label_names or (f"label_{index}" for index in range(count))),
        notes=(*source.notes, note),
    )


def _flat_labels(name: str, examples: np.ndarray | Rows | SparseRows | None, labels: np.ndarray) -> np.ndarray:
    count = 0 if examples is None else len(examples)
    if labels.shape == (count,):
        return labels
    if labels.shape == (count, 1):
        return labels[:, 0]
    fix = "Save one for each example, or leave the labels out."
    if labels.ndim == 2 and len(labels) == count:
        fix = "For one-hot labels save labels.argmax(axis=1)."
    raise UserError(f"{name}: expected one label for each of {count} examples, got labels of shape {labels.shape}. {fix}")


def check_factors(name: str, source: Split) -> None:
    """Raises `UserError` unless factors are integers, (examples, factors), with the same columns in all parts."""
    arrays = [(getattr(source, part), factors) for part, factors in source.by_part("factors").items()]
    for rows, factors in arrays:
        count = 0 if rows is None else len(rows)
        if factors.ndim != 2 or len(factors) != count or factors.dtype.kind not in "ui":
            fix = "Save a row for each example, and test_factors or validation_factors only with examples of that part."
            if len(factors) == count and factors.ndim == 1:
                fix = "For a single factor save factors[:, None]."
            elif len(factors) == count and factors.ndim == 2:
                fix = "Number the values of each column by np.unique(column, return_inverse=True)[1]."
            raise UserError(
                f"{name}: expected factors as integers of shape (examples, factors), a row for each of {count} examples, got "
                f"shape {factors.shape} and dtype {factors.dtype}. {fix}"
            )
    columns = {factors.shape[1] for _, factors in arrays} | ({len(source.factor_names)} if source.factor_names else set())
    if len(columns) > 1:
        raise UserError(
            f"{name}: expected the same factors in all parts, each with its name, got {sorted(columns)} of them. Save "
            "as many columns, and as many factor_names, for all."
        )
