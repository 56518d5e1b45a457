"""Conditions that come with the examples of a source, before its parts are split."""

import numpy as np

from vae_jax.data.split import Split
from vae_jax.errors import UserError

_PARTS = ("train", "validation", "test")


def with_condition_of(name: str, source: Split, condition: str) -> Split:
    """Returns the source with the columns of the condition that its labels or factors give.

    Args:
      name: the data set, for messages.
      source: with checked labels and factors.
      condition: the argument of `data.load`.

    Raises:
      UserError: the source has no such labels, factors or columns.
    """
    if not condition or source.train_condition is not None:
        return source
    examples = source.images_by_part()
    columns: dict[str, dict[str, np.ndarray]] = {}
    for part in examples:
        if condition == "labels":
            labels = getattr(source, f"{part}_labels")
            columns[part] = {} if labels is None else {"label": labels}
        elif condition == "factors":
            factors = getattr(source, f"{part}_factors", None)
            names = source.factor_names or (() if factors is None else tuple(f"factor_{i}" for i in range(factors.shape[1])))
            columns[part] = {} if factors is None else dict(zip(names, factors.T, strict=True))
        else:
            raise UserError(f"{name}: has no columns {condition!r}.", field="condition")
        if not columns[part]:
            raise UserError(f"{name}: its {part} examples have no {condition}.", field="condition")
    return source._replace(**{f"{part}_condition": given for part, given in columns.items()})
