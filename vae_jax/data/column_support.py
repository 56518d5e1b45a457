"""Check of the values of each column against the support of its likelihood."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Real

from vae_jax.likelihoods import Likelihood, mixed, outside_support


def outside_columns(
    likelihood: Likelihood,
    x: Real[np.ndarray, "examples columns"],
    mask: Bool[np.ndarray, "examples columns"] | None = None,
    names: Sequence[str] | None = None,
) -> str | None:
    """Describes in which way data lie outside the support of one column's likelihood, or returns None where they do not.

    Args:
      likelihood: made by `columns`.
      x: examples.
      mask: True where an entry is observed; None: everywhere.
      names: of the columns, for the text.

    Returns:
      A sentence without a full stop about the first such column, or None.
    """
    for column, group in enumerate(mixed.group_of_column(likelihood)):
        observed = np.asarray(x[:, column], np.float32)
        observed = observed if mask is None else observed[np.asarray(mask)[:, column]]
        if not len(observed):
            continue
        name = f"column {column}" if names is None else f"the column {names[column]!r}"
        one, present = group.likelihood, np.unique(observed)
        if one.num_levels is None:
            extremes = np.array([present[0], present[-1], *present[present != np.round(present)][:1]])
            if problem := outside_support(one, extremes):
                return f"{name}: {problem}"
            continue
        allowed = group.values[group.columns.index(column)] if group.values else range(one.num_levels)
        if len(others := np.setdiff1d(present, np.asarray(allowed, np.float32))):
            return f"{name}: {one.name} expects one of {one.num_levels} values that it knows, got {others[0]:g}"
    return None
