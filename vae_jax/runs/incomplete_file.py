"""Reads a file with missing entries as a trained run reads its data."""

import dataclasses
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vae_jax import data
from vae_jax._numerics.short_repr import short_repr
from vae_jax.build import Built, load_dataset
from vae_jax.config import CUSTOM
from vae_jax.data import Dataset
from vae_jax.data.conditions.columns import store_column
from vae_jax.errors import DataWarning, UserError
from vae_jax.evaluation.dataset_means import ToInput
from vae_jax.example import Example
from vae_jax.runs.config_file import read_config
from vae_jax.runs.directory import Run


@short_repr
class IncompleteFile(NamedTuple):
    """Examples of a file in the unit and order of a run's data.

    Attributes:
      events: (examples, ...), as the data set of the run stores them; 0 at missing entries.
      mask: True where an entry is observed, of the same shape.
      rows: the examples with their masks and conditions on the device.
      to_input: turns a batch of `rows` into floats for the model.
      notes: sentences for the user.
    """

    events: np.ndarray
    mask: np.ndarray
    rows: Example
    to_input: ToInput
    notes: list[str]


def read_incomplete_file(
    run: Run, path: str | os.PathLike[str], *, condition: str = "", data_dir: str | None = None
) -> IncompleteFile:
    """Reads a file as the run reads its test set, with NaN and masks as missing entries.

    The data set of the run is read once more beside it, so that columns, shapes, levels, categories and the columns of the
    condition are compared with those of the training data.

    Args:
      run: from `runs.load_run`.
      path: file or folder in a format that `data.load` reads. Its labels are not used, except as a condition.
      condition: a file with the condition of each example, for a run whose condition came from a file or from labels. "": the
        condition is in the file itself, as in the data set of the run.
      data_dir: where TFDS finds prepared data, if not where the run found it.

    Raises:
      UserError: a file that cannot be read or does not fit the training data.
    """
    built, name = run.built, os.fspath(path)
    if built.config.dataset == CUSTOM:
        raise UserError(
            f"{run.path}: its data set was made in memory, so {name} cannot be read in the same way.",
            fix="Use evaluation.impute_dataset in Python.",
        )
    dataset, notes = _read(run, name, condition, data_dir)
    dataset = _with_columns_of(built.dataset, dataset, name)
    if not isinstance(dataset.test, np.ndarray):
        raise UserError(f"{name}: sparse data have no missing entries. Save them densely.", field="data")
    if dataset.data_shape != built.dataset.data_shape or dataset.max_level != built.dataset.max_level:
        expected = f"examples of shape {built.dataset.data_shape} with levels up to {built.dataset.max_level}"
        got = f"shape {dataset.data_shape} and levels up to {dataset.max_level}"
        raise UserError(f"{name}: expected {expected}, as the run was trained on, got {got}.", field="data")
    stored = _stored_condition(built, dataset, name, condition)
    mask = np.ones(dataset.test.shape, bool) if dataset.test_mask is None else dataset.test_mask
    prepared = _prepare(built, dataset, stored, mask, name)
    condition_on_device = None if stored is None else jnp.asarray(stored)
    event = prepared.test.event if isinstance(prepared.test, Example) else prepared.test
    to_input = prepared.eval_input if isinstance(prepared.test, Example) else lambda rows: prepared.eval_input(rows.event)
    rows = Example(event, condition_on_device, jnp.asarray(mask))
    return IncompleteFile(dataset.test, mask, rows, to_input, notes)


def _read(run: Run, name: str, condition: str, data_dir: str | None) -> tuple[Dataset, list[str]]:
    """Loads the data set of the run with the file as its test set, and returns notes on the file."""
    config = run.built.config
    takes_file = bool(condition) or os.path.exists(os.path.expanduser(config.condition or ""))
    if takes_file and not condition:
        raise UserError(
            f"{run.path}: the run was conditioned on the file {Path(config.condition).name}, which does not belong to {name}.",
            field="condition",
            fix=f"Pass a file with a row for each example of {Path(name).name}.",
        )
    settings: dict[str, Any] = {
        "test_dataset": name,
        "validation_dataset": "",
        "validation_fraction": 0.0,
        "missing": "nan",
        "condition": "" if takes_file else config.condition,
    }
    data_dir = data_dir or read_config(run.path)[1].get("data_dir")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        try:
            dataset = load_dataset(dataclasses.replace(config, **settings), data_dir)
        except UserError as error:
            text = error.text if name in error.text else f"{name} does not fit the data of the run: {error.text}"
            raise UserError(text, field="data" if error.field == "test_dataset" else error.field) from None
    notes = [str(one.message) for one in caught if issubclass(one.category, DataWarning)]
    return dataset, [text for text in notes if text.startswith(name)]


def _with_columns_of(trained: Dataset, dataset: Dataset, name: str) -> Dataset:
    """Returns the test set with the columns and the category codes of the training data, where these have names."""
    names, test, mask = dataset.column_names, dataset.test, dataset.test_mask
    if not trained.column_names or not names or not isinstance(test, np.ndarray):
        return dataset
    absent = [column for column in trained.column_names if column not in names]
    if absent:
        raise UserError(f"{name}: lacks the columns {', '.join(absent)}, on which the run was trained.", field="data")
    order = [names.index(column) for column in trained.column_names]
    test, mask = test[:, order], None if mask is None else mask[:, order]
    trained_types, types = trained.column_types, dataset.column_types
    if trained_types and types:
        test = test.copy()
        for j, (kind, other) in enumerate(zip(trained_types, [types[i] for i in order], strict=True)):
            if kind.categories is not None and kind.categories != other.categories:
                observed = np.ones(len(test), bool) if mask is None else mask[:, j]
                test[:, j] = _recoded(name, kind.name, kind.categories, other.categories or (), test[:, j], observed)
    train = dataset.train[:, order] if isinstance(dataset.train, np.ndarray) else dataset.train
    return dataset._replace(test=test, test_mask=mask, train=train, column_names=trained.column_names)


def _recoded(
    name: str, column: str, categories: tuple[str, ...], others: tuple[str, ...], codes: np.ndarray, observed: np.ndarray
) -> np.ndarray:
    """Returns the codes among `categories` of the texts that the codes stand for among `others`."""
    new = {text: code for code, text in enumerate(categories)}
    used = np.unique(codes[observed]).astype(int)
    if unseen := [others[code] for code in used if others[code] not in new]:
        listed = ", ".join(map(repr, unseen[:8]))
        raise UserError(
            f"{name}: the column {column!r} has categories that the training data do not have: {listed}.", field="data"
        )
    table = np.zeros(max(used, default=0) + 1, codes.dtype)
    for code in used:
        table[code] = new[others[code]]
    return np.where(observed, table[np.where(observed, codes, 0).astype(int)], 0).astype(codes.dtype)


def _stored_condition(built: Built, dataset: Dataset, name: str, file: str) -> np.ndarray | None:
    """Returns the condition of each example as the run stores it, (examples, columns).

    Raises:
      UserError: a condition is missing, or has a category that the training data do not have.
    """
    trained = built.dataset.condition
    if trained is None:
        if file:
            raise UserError("the run has no condition. Leave it out.", field="condition")
        return None
    if file:
        values = _columns_of_file(file, [column.name for column in trained.columns], len(dataset.test))
    else:
        assert dataset.condition is not None
        assert dataset.test_condition is not None
        values = {}
        for i, column in enumerate(dataset.condition.columns):
            numbers = dataset.test_condition[:, i]
            texts = None if column.categories is None else np.array(column.categories)
            values[column.name] = numbers if texts is None else texts[numbers.astype(int)]
    columns = [store_column(file or name, column, values[column.name], "test") for column in trained.columns]
    return np.stack(columns, axis=1)


def _columns_of_file(file: str, names: list[str], count: int) -> dict[str, np.ndarray]:
    """Reads the condition of each example from a file; the name of a single column need not fit."""
    from vae_jax.data.readers.condition_files import read_condition_file

    by_part, _ = read_condition_file(file)
    if len(by_part) != 1:
        raise UserError(f"{file}: expected one row for each of {count} examples, got several parts.", field="condition")
    [columns] = by_part.values()
    if len(columns) == len(names) == 1:
        columns = {names[0]: next(iter(columns.values()))}
    if absent := [name for name in names if name not in columns]:
        raise UserError(f"{file}: lacks the columns {', '.join(absent)} of the condition.", field="condition")
    for name in names:
        if len(columns[name]) != count:
            raise UserError(
                f"{file}: expected {count} rows, one for each example, got {len(columns[name])} in {name!r}.", field="condition"
            )
    return columns


def _prepare(built: Built, dataset: Dataset, stored: np.ndarray | None, mask: np.ndarray, name: str) -> data.Prepared:
    """Puts the examples on the device as the run puts its test set there, after checking that the likelihood can have them."""
    config, likelihood = built.config, built.vae.likelihood
    condition = built.dataset.condition
    alone: dict[str, Any] = {
        "name": name,
        "train": dataset.test,
        "validation": None,
        "rendering": None,
        "condition": condition,
        "missing_on_disk": False,
        **{f"{part}_mask": mask for part in ("train", "test")},
        **{f"{part}_condition": stored for part in ("train", "test")},
        **{f"validation_{field}": None for field in ("mask", "condition", "labels")},
    }
    dataset = dataset._replace(**alone)
    data.check_support(dataset, likelihood, config.binarization, config.dequantize)
    return data.prepare(
        dataset,
        binarization=config.binarization,
        dequantize=config.dequantize,
        counts=likelihood.support == "counts" and config.binarization == "none",
        count_input=config.count_input,
        seed=config.test_seed,
    )
