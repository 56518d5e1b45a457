"""Checks of the arrays that come beside the images: labels and factors."""

import numpy as np

from vae_jax.data.split import Split
from vae_jax.errors import UserError


def with_checked_labels(name: str, source: Split) -> Split:
    """Returns the source with labels of shape (examples,); a column of labels is flattened.

    Raises:
      UserError: labels that are not one for each image.
    """
    labels_by_part = {"train": (source.train, source.train_labels), "test": (source.test, source.test_labels)}
    for part, (images, labels) in labels_by_part.items():
        if images is None or labels is None or labels.shape == images.shape[:1]:
            continue
        if labels.shape == (len(images), 1):
            source = source._replace(**{f"{part}_labels": labels[:, 0]})
            continue
        fix = "Save one for each image, or leave the labels out."
        if labels.ndim == 2 and len(labels) == len(images):
            fix = "For one-hot labels save labels.argmax(axis=1)."
        raise UserError(
            f"{name}: expected one label for each of {len(images)} images, got labels of shape {labels.shape}. {fix}"
        )
    return source


def integer_labels(labels: np.ndarray | None) -> np.ndarray | None:
    """Returns labels as integers: labels of another type are numbered in their sorted order."""
    if labels is None or labels.dtype.kind in "iu":
        return labels
    return np.unique(labels, return_inverse=True)[1]


def check_factors(name: str, source: Split) -> None:
    """Raises `UserError` unless factors are integers, (examples, factors), with the same columns in all parts."""
    factors_by_part = ((source.train, source.train_factors), (source.test, source.test_factors))
    arrays = [(rows, factors) for rows, factors in factors_by_part if factors is not None]
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
    columns = {factors.shape[1] for _, factors in arrays} | ({len(source.factor_names)} if source.factor_names else set())
    if len(columns) > 1:
        raise UserError(
            f"{name}: expected the same factors for training and test, each with its name, got {sorted(columns)} of them. Save "
            "as many columns, and as many factor_names, for both."
        )
