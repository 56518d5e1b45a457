"""Categorical columns of mixed tables in figures: their codes have no order, so indicators or shares are drawn instead."""

from typing import NamedTuple

import numpy as np

from vae_jax.build import Built
from vae_jax.data import column_proposals
from vae_jax.likelihoods.mixed import group_of_column, is_nominal
from vae_jax.report.html import Section
from vae_jax.report.run.events import vector_figures
from vae_jax.report.run.events.panels import displayed_shape, entry_names

MAX_COLUMNS, MAX_CATEGORIES = 12, 10  # of the figure with shares


class CategoricalColumn(NamedTuple):
    """A categorical column of a mixed table.

    Attributes:
      position: of the column, from 0.
      values: the numbers in x that stand for its categories, increasing.
      names: of the categories, in this order.
    """

    position: int
    values: np.ndarray
    names: tuple[str, ...]

    def codes(self, x: np.ndarray) -> np.ndarray:
        """Returns the nearest category 0, 1, 2, ... of each value; 0 for NaN."""
        middles = (self.values[1:] + self.values[:-1]) / 2
        return np.searchsorted(middles, np.nan_to_num(x, nan=self.values[0]))


def categorical_columns(built: Built) -> list[CategoricalColumn]:
    """Returns the categorical columns of a mixed table; [] for other data."""
    likelihood = built.vae.likelihood
    if not likelihood.groups:
        return []
    types, columns = column_proposals.types_of(built.dataset), []
    for position, group in enumerate(group_of_column(likelihood)):
        if is_nominal(group):
            values = group.values[group.columns.index(position)] if group.values else range(group.likelihood.num_levels or 1)
            texts = types[position].categories
            names = tuple(texts[int(value)] if texts else f"{value:g}" for value in values)
            columns.append(CategoricalColumn(position, np.asarray(values, np.float64), names))
    return columns


def as_indicators(built: Built, x: np.ndarray) -> np.ndarray:
    """Returns vectors with an indicator of each category, 0 or 1, in place of its code. NaN stays NaN.

    Args:
      built: model and data.
      x: (..., columns).

    Returns:
      (..., columns, or categories in place of categorical columns), in the order of the columns.
    """
    by_position, pieces = {column.position: column for column in categorical_columns(built)}, []
    if not by_position:
        return x
    for j in range(x.shape[-1]):
        piece = x[..., j, None]
        if column := by_position.get(j):
            piece = np.where(np.isnan(piece), np.nan, column.codes(piece) == np.arange(len(column.values)))
        pieces.append(piece)
    return np.concatenate(pieces, axis=-1)


def names_with_indicators(built: Built) -> tuple[str, ...]:
    """Returns a name for each column of `as_indicators`, such as "city = Oslo", shortened where it is long."""
    shape, names = displayed_shape(built.dataset.data_shape), built.dataset.column_names
    by_position = {column.position: column for column in categorical_columns(built)}
    if not by_position:
        return entry_names(shape, names)
    plain = names or tuple(f"x[{j}]" for j in range(shape[0]))
    listed: list[str] = []
    for j, name in enumerate(plain):
        column = by_position.get(j)
        listed += [name] if column is None else [f"{name} = {category}" for category in column.names]
    return entry_names((len(listed),), tuple(listed))


def about_indicators(built: Built) -> str:
    """Returns a sentence for captions that starts with a space, or "" where no column is categorical."""
    return " Each category is drawn as an indicator, 1 for it and 0 for others." if categorical_columns(built) else ""


def category_section(built: Built, data: np.ndarray, samples: np.ndarray, prior_name: str) -> Section | None:
    """Draws the shares of the categories in test data and in samples; None where no column has categories.

    Args:
      built: model and data.
      data: test examples, (examples, columns). NaN is missing.
      samples: draws of x from the model, (draws, columns).
      prior_name: such as "prior N(0, I)", for the caption.
    """
    columns = categorical_columns(built)
    if not columns:
        return None
    panels, is_cut = [], False
    for column in columns[:MAX_COLUMNS]:
        counts = [
            np.bincount(column.codes(vector_figures.observed(x[:, column.position])), minlength=len(column.values))
            for x in (data, samples)
        ]
        chosen = np.sort(np.argsort(-counts[0], kind="stable")[:MAX_CATEGORIES])
        is_cut |= len(chosen) < len(column.values)
        shares = [count[chosen] / max(count.sum(), 1) for count in counts]
        names = entry_names((len(chosen),), tuple(column.names[i] for i in chosen))
        panels.append((names_of_columns(built)[column.position], names, *shares))
    which = f" The first {MAX_COLUMNS} of {len(columns)} categorical columns are shown." if len(panels) < len(columns) else ""
    which += f" Of more than {MAX_CATEGORIES} categories, the most frequent are shown." if is_cut else ""
    missing = " Missing entries are left out." if np.isnan(data[:, [column.position for column in columns]]).any() else ""
    caption = (
        f"Share of each category in the test data, and in draws of x from p(x|z) for z from the {prior_name}.{missing}{which}"
    )
    return Section("categories", "Categories", caption, vector_figures.category_shares(panels))


def names_of_columns(built: Built) -> tuple[str, ...]:
    """Returns a name for each column of the vectors, or each channel of the series."""
    return entry_names(displayed_shape(built.dataset.data_shape), built.dataset.column_names)
