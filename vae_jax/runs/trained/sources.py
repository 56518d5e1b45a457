"""New data and conditions as the functions of trained models take them: files, arrays, or what was read already."""

import os
from collections.abc import Mapping

import numpy as np

from vae_jax.data.conditions.columns import ConditionColumn, store_column
from vae_jax.data.conditions.setting import is_condition_path
from vae_jax.data.readers.condition_files import read_condition_file
from vae_jax.errors import UserError
from vae_jax.runs.trained.model import TrainedModel
from vae_jax.runs.trained.new_data import NewData, Source, read_new_data


def as_new_data(model: TrainedModel, data: Source) -> NewData:
    """Returns new data, which are read where `data` is a path or an array (see `read_new_data`)."""
    return data if isinstance(data, NewData) else read_new_data(model, data)


def read_condition(model: TrainedModel, source: Source) -> np.ndarray:
    """Reads conditions for samples of a conditional model.

    Args:
      model: from `load_model`.
      source: a file with a row for each condition, as in training; a text such as "label=3, age=40"; a dictionary of values,
        or of arrays of them, by the name of the column; or an array (rows,) or (rows, columns).

    Returns:
      (rows, columns), float32, as they are stored: codes of categories, and real numbers.

    Raises:
      UserError: the model has no condition, a column is missing, or a category was not in the training data.
    """
    condition = model.description.condition
    if condition is None:
        raise UserError("the model has no condition. Leave it out.", field="condition")
    name, values = _values(source, [column.name for column in condition.columns])
    columns = []
    for column in condition.columns:
        if column.name not in values:
            raise UserError(
                f"{name}: lacks {column.name!r}. The model is conditioned on {condition.describe()}.", field="condition"
            )
        columns.append(store_column(name, column, _typed(name, column, values[column.name]), "test"))
    if len({len(column) for column in columns}) > 1:
        raise UserError(f"{name}: expected as many values in each column of the condition.", field="condition")
    return np.stack(columns, axis=1)


def _values(source: Source, names: list[str]) -> tuple[str, Mapping[str, np.ndarray]]:
    """Returns the name of the source for messages, and its values by the name of the column."""
    if isinstance(source, str) and "=" in source and not is_condition_path(source):
        pairs = [pair.partition("=") for pair in source.split(",")]
        return "the condition", {name.strip(): np.array([value.strip()]) for name, _, value in pairs}
    if isinstance(source, str | os.PathLike):
        by_part, _ = read_condition_file(os.fspath(source))
        if len(by_part) != 1:
            raise UserError(f"{source}: expected one file, got several parts.", field="condition")
        [columns] = by_part.values()
        if len(columns) == len(names) == 1:
            columns = {names[0]: next(iter(columns.values()))}
        return os.fspath(source), columns
    if isinstance(source, Mapping):
        return "the condition", {name: np.atleast_1d(np.asarray(values)) for name, values in source.items()}
    array = np.asarray(source)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] != len(names):
        raise UserError(field="condition", expected=f"an array of shape (rows, {len(names)})", got=array.shape)
    return "the condition", dict(zip(names, array.T, strict=True))


def _typed(name: str, column: ConditionColumn, values: np.ndarray) -> np.ndarray:
    """Returns numbers for a real column, from a text such as "40", and the values of categories as they are."""
    if column.categories is None and values.dtype.kind in "US":
        try:
            return values.astype(np.float64)
        except ValueError:
            raise UserError(f"{name}: expected a number for {column.name!r}, got {values[0]!r}.", field="condition") from None
    if column.categories is None or values.dtype.kind != "f" or not (values == np.rint(values)).all():
        return values
    return values.astype(np.int64)
