"""The argument `condition` of `from_arrays`: a text for all parts, or arrays for each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vae_jax.data.readers.condition_columns import check_columns_exist
from vae_jax.data.readers.listing import joined
from vae_jax.data.split import Split
from vae_jax.errors import UserError


def check_condition_arguments(name: str, conditions: Mapping[str, Any]) -> str:
    """Returns the text of a condition, "" where arrays are given.

    Args:
      name: the data set, for messages.
      conditions: the arguments of each part; keys train, validation, test.

    Raises:
      UserError: a text as the condition of one part, or beside one for all parts.
    """
    text = conditions["train"] if isinstance(conditions["train"], str) else ""
    others = [part for part in ("validation", "test") if conditions[part] is not None]
    texts = [part for part in others if isinstance(conditions[part], str)]
    if (text and others) or texts:
        raise UserError(
            f"{name}: expected arrays as {joined(f'{part}_condition' for part in texts or others)}, or a text such as "
            '"labels" as `condition` alone, which is for all parts.',
            field="condition",
        )
    return text


def without_condition(name: str, source: Split, names: Sequence[str]) -> Split:
    """Takes named columns out of the examples, where the parts are arrays whose columns have names, and not tables.

    Args:
      name: the data set, for messages.
      source: the arrays.
      names: the names of the condition.
    """
    columns = source.column_names or ()
    if not names or source.by_part("condition") or not set(names) & set(columns):
        return source
    check_columns_exist(name, names, columns)
    taken, rest = [columns.index(one) for one in names], [i for i, one in enumerate(columns) if one not in names]
    if not rest:
        raise UserError(f"{name}: the condition takes all columns. Leave some as examples.", field="condition")
    changed: dict[str, Any] = {"column_names": tuple(columns[i] for i in rest)}
    for part, array in source.images_by_part().items():
        if not isinstance(array, np.ndarray):
            raise UserError(
                f"{name}: expected a dense array for a condition by names of columns, got a sparse matrix.",
                field="condition",
                fix="Pass condition=matrix[:, columns].toarray().",
            )
        changed[part] = array[:, rest]
        changed[f"{part}_condition"] = {one: array[:, i] for one, i in zip(names, taken, strict=True)}
    return source._replace(**changed)


def as_values(values: np.ndarray) -> np.ndarray:
    """Returns a column of a table as the values of a condition; text of pandas and pyarrow is stripped, as that of files."""
    is_text = values.dtype.kind == "O" and all(isinstance(value, str) for value in values)
    return np.array([value.strip() for value in values], dtype=np.str_) if is_text else values
