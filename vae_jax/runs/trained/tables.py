"""Results for new data as tables: numbers by row, and examples with the names, categories and types of the training data."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from vae_jax.data.column_types import ColumnType, to_table
from vae_jax.data.conditions.columns import Condition
from vae_jax.errors import UserError
from vae_jax.runs.trained.model import TrainedModel
from vae_jax.storage.output_files import table_module

if TYPE_CHECKING:  # pyarrow is an optional dependency
    import pyarrow

_ROW, _LABEL = "row", "label"


def numbers_table(arrays: Mapping[str, np.ndarray | None]) -> "pyarrow.Table":
    """Returns arrays (rows, ...) as a table: NAME, NAME_j for each column of a matrix, or NAME_k_j for those of several."""
    columns: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if array is not None:
            for index in np.ndindex(array.shape[1:]):
                columns["_".join([name, *map(str, index)])] = array[(slice(None), *index)]
    return table_module("pyarrow").table(columns)


def column_types(model: TrainedModel, dtype: np.dtype) -> tuple[ColumnType, ...]:
    """Returns the types of the columns in which a table of examples has them.

    Args:
      model: from `load_model`.
      dtype: of the examples, for models of one likelihood for all columns.

    Raises:
      UserError: examples that are not vectors.
    """
    description, shape = model.description, model.vae.data_shape
    if len(shape) != 1:
        raise UserError(
            f"tables have vectors, and the examples have the shape {shape}. Choose a name that ends in .npz.", field="out"
        )
    types = description.column_types
    if types is not None and (model.vae.likelihood.groups or np.issubdtype(dtype, np.integer)):
        return types
    names = description.column_names or tuple(map(str, range(shape[0])))
    return tuple(ColumnType(name, None, "float64" if dtype.kind == "f" else str(dtype)) for name in names)


def examples_table(model: TrainedModel, examples: np.ndarray) -> "pyarrow.Table":
    """Returns examples (rows, columns) in the stored unit as a table with the original names, categories and types."""
    types = column_types(model, examples.dtype)
    if examples.dtype == np.float32:  # the float64 numbers with the same shortest decimals
        examples = examples.astype(str).astype(np.float64)
    return to_table(types, examples)


def condition_table(condition: Condition, stored: np.ndarray) -> "pyarrow.Table":
    """Returns stored conditions (rows, columns) as a table of categories and numbers."""
    types = [
        ColumnType(column.name, column.categories, "float32" if column.categories is None else "string")
        for column in condition.columns
    ]
    return to_table(types, stored)


def with_rows(
    table: "pyarrow.Table", first: int, labels: np.ndarray | None = None, label_names: tuple[str, ...] | None = None
) -> "pyarrow.Table":
    """Returns the table with the number of each row in front, and with its label where there are labels.

    Args:
      table: of consecutive rows.
      first: number of its first row, counted from 0.
      labels: of these rows; None: there are none.
      label_names: the name of each label; None: labels are numbers.
    """
    pyarrow = table_module("pyarrow")
    if labels is not None:
        texts = labels if label_names is None else np.array(label_names)[labels]
        table = table.add_column(0, _new_name(table, _LABEL), pyarrow.array(texts))
    return table.add_column(0, _new_name(table, _ROW), pyarrow.array(np.arange(first, first + table.num_rows)))


def _new_name(table: "pyarrow.Table", name: str) -> str:
    """Returns a name that no column of the table has."""
    while name in table.column_names:
        name = f"{name}_"
    return name
