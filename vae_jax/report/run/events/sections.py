"""Sections of a run's report for data that are series or vectors: reconstructions, samples, traversals, interpolations."""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from vae_jax._numerics.keys import Stream, stream
from vae_jax.build import Built
from vae_jax.report.html import Section
from vae_jax.report.run.content import Pictures, given_captions
from vae_jax.report.run.displayed_examples import Views
from vae_jax.report.run.events import heat_maps, series_figures, vector_figures
from vae_jax.report.run.events.categories import (
    about_indicators,
    as_indicators,
    categorical_columns,
    category_section,
    names_of_columns,
    names_with_indicators,
)
from vae_jax.report.run.events.panels import Scale, displayed_shape
from vae_jax.runs import Run

_DRAWS = 200  # of x for one z, for the interval around a reconstruction


class Traversal(NamedTuple):
    """Decoded examples along latent dimensions, and what the figure says about them."""

    values: np.ndarray  # (dimensions, offsets, *displayed shape)
    rows: Sequence[str]  # a name for each dimension
    offsets: np.ndarray  # in prior standard deviations
    reference: np.ndarray  # the test example, of the displayed shape
    base: np.ndarray  # E[x|z] at its posterior mean


class Interpolation(NamedTuple):
    """Decoded examples between pairs of test examples."""

    values: np.ndarray  # (pairs, steps, *displayed shape)
    starts: np.ndarray  # (pairs, *displayed shape)
    ends: np.ndarray
    rows: Sequence[str]


def number_scale(built: Built) -> Scale:
    """Returns the kind of number that the model sees in the columns of its data."""
    support = built.vae.likelihood.support
    if support == "counts":
        return "counts"
    return "binary" if support == "binary" or built.dataset.max_level == 1 else "real"


def is_series(built: Built) -> bool:
    """Returns whether the examples are drawn as series; else they are vectors."""
    return len(displayed_shape(built.dataset.data_shape)) == 2


def example_sections(run: Run, pictures: Pictures) -> list[Section]:
    """Returns the sections with test examples beside reconstructions and samples."""
    return (_series_sections if is_series(run.built) else _vector_sections)(run, pictures)


def _prior_name(built: Built) -> str:
    return "prior N(0, I)" if built.vae.prior is None else "learned prior"


def _shown_channels(names: Sequence[str]) -> str:
    count = series_figures.MAX_CHANNELS
    return "" if len(names) <= count else f" The first {count} of {len(names)} channels are shown."


def _series_sections(run: Run, pictures: Pictures) -> list[Section]:
    built, names, views = run.built, names_of_columns(run.built), pictures.views
    count = min(series_figures.num_examples(len(names)), len(pictures.originals))
    # Spread over the test set, because neighbors are often alike.
    chosen = np.linspace(0, len(pictures.originals) - 1, count).round().astype(int)
    interval, totals = draw_interval(run, views, pictures.codes, chosen), given_captions(built)
    shown = slice(0, series_figures.num_examples(len(names)))
    return [
        Section(
            "reconstructions",
            "Reconstructions",
            f"Test series as the model sees them ({built.data.description}), and the mean E[x|z] of the likelihood at the "
            f"posterior mean of z. The band holds the central 90 % of {_DRAWS} draws of x given this z, so about 90 % of the "
            f"steps of a series should lie inside it. Each channel has its own scale."
            f"{totals.reconstructed}{_shown_channels(names)}",
            series_figures.reconstructions(pictures.originals[chosen], pictures.reconstructions[chosen], interval, names),
        ),
        Section(
            "prior_samples",
            "Samples from the model",
            f"E[x|z] for z drawn from the {_prior_name(built)}, and one draw of x from p(x|z) for the same z, including the "
            f"noise of the likelihood.{totals.sampled}{_shown_channels(names)}",
            series_figures.samples(pictures.prior_means[shown], pictures.prior_samples[shown], names),
        ),
    ]


def draw_interval(run: Run, views: Views, codes: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the central 90 % of draws from p(x|z) for the chosen examples, entry by entry: the lower and the upper end."""
    keys = jax.random.split(stream(run.built.config.test_seed, Stream.REPORT_INTERVALS), (len(chosen), _DRAWS))
    draws = [
        views.samples(run.params, k, jnp.tile(codes[row], (_DRAWS, 1)), np.full(_DRAWS, row))
        for k, row in zip(keys, chosen, strict=True)
    ]
    low, high = np.quantile(np.stack(draws), (0.05, 0.95), axis=1)
    return low, high


def _vector_sections(run: Run, pictures: Pictures) -> list[Section]:
    built = run.built
    sections = _number_sections(built, pictures)
    categories = category_section(built, pictures.originals, pictures.prior_samples, _prior_name(built))
    return sections if categories is None else [*sections, categories]


def _number_sections(built: Built, pictures: Pictures) -> list[Section]:
    """Returns the figures of the columns of vectors that hold numbers rather than category codes; [] where none do."""
    scale, numeric = number_scale(built), _numeric_columns(built)
    if not len(numeric):
        return []
    data, samples, means = (x[:, numeric] for x in (pictures.originals, pictures.prior_samples, pictures.reconstructions))
    names = tuple(names_of_columns(built)[j] for j in numeric)
    (chosen, which), totals = vector_figures.shown_columns(data, scale), given_captions(built)
    shown = tuple(names[j] for j in chosen)
    log = " Axes of counts above 30 are on the scale log(1 + x)." if scale == "counts" else ""
    fits = {
        "binary": "Histograms of the mean E[x|z] at the posterior mean of z, for test examples in which the column is 0 and "
        "for those in which it is 1. The further they are apart, the better the reconstruction.",
    }
    point = (
        f"Each point is a test example as the model sees it ({built.data.description}): the mean E[x|z] of the likelihood at "
        "the posterior mean of z against x."
    )
    left_out = " Missing entries are left out." if np.isnan(data).any() else ""
    left_out += " Categorical columns are left out." if len(numeric) < pictures.originals.shape[1] else ""
    sections = [
        Section(
            "reconstructions",
            "Reconstructions",
            f"{fits.get(scale, point)}{totals.reconstructed}{left_out}{which}{log}",
            vector_figures.reconstructions(data[:, chosen], means[:, chosen], shown, scale),
        ),
        Section(
            "prior_samples",
            "Samples from the model, column by column",
            f"Draws of x from p(x|z) for z from the {_prior_name(built)}, including the noise of the likelihood, beside the "
            f"test data.{totals.sampled}{left_out}{which}{log}",
            vector_figures.histograms(data[:, chosen], samples[:, chosen], shown, scale),
        ),
    ]
    if np.isnan(data).any():
        sections.insert(1, _imputed_section(built, pictures))
    if 2 <= len(names) <= vector_figures.MAX_PAIRED:
        figure = vector_figures.scatter_matrix(data, samples, names, scale)
        caption = f"Pairs of columns, in the test data and in samples from the model.{left_out}{log}"
        sections.append(Section("scatter_matrix", "Pairs of columns", caption, figure))
    if scale != "real" and len(names) > 1:
        pairs = " Correlations are those of pairs of the first 40 columns." if scale == "binary" else ""
        caption = (
            f"Each point is one of the {len(names)} columns, in the test data (across) and in samples from the model (up). "
            f"Columns that the model reproduces lie on the line.{pairs}{left_out}{log}"
        )
        figure = vector_figures.column_statistics(data, samples, scale)
        sections.append(Section("column_statistics", "Statistics of all columns", caption, figure))
    return sections


def _numeric_columns(built: Built) -> np.ndarray:
    """Returns the indices of the columns that hold numbers rather than category codes."""
    categorical = [column.position for column in categorical_columns(built)]
    return np.setdiff1d(np.arange(len(names_of_columns(built))), categorical)


def _imputed_section(built: Built, pictures: Pictures) -> Section:
    """Draws the values that the model puts in place of missing entries, beside the observed ones."""
    assert pictures.imputed is not None
    numeric, scale = _numeric_columns(built), number_scale(built)
    data, imputed = pictures.originals[:, numeric], pictures.imputed.values[:, numeric]
    names, is_missing = [names_of_columns(built)[j] for j in numeric], np.isnan(data)
    chosen = np.argsort(-is_missing.sum(axis=0), kind="stable")[: vector_figures.MAX_COLUMNS]
    chosen = np.sort(chosen[is_missing[:, chosen].any(axis=0)])
    values = np.where(is_missing, imputed, np.nan)[:, chosen]
    which = f" The {len(chosen)} columns with the most missing entries are shown." if len(chosen) < len(names) else ""
    caption = (
        f"Observed values, and E[x_missing|x_observed] in place of missing ones, {pictures.imputed.describe()} Means vary less "
        f"than values.{which}"
    )
    labels = ("observed values", "E[x_missing|x_observed]")
    figure = vector_figures.histograms(data[:, chosen], values, [names[j] for j in chosen], scale, labels)
    return Section("imputed", "Missing entries", caption, figure)


def _spread(data: np.ndarray) -> np.ndarray:
    """Returns the standard deviation of each column, 1 where it is zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column without observed values, whose spread is NaN
        spread = np.nanstd(data, axis=0)
        return np.where(spread > 1e-9 * np.nanmax(np.abs(data), axis=0), spread, 1.0)


def traversal_figure(built: Built, data: np.ndarray, moved: Traversal) -> tuple[Figure, str]:
    """Draws a traversal, and returns the figure and the sentences of its caption that explain it.

    Args:
      built: model and data.
      data: test examples as displayed, for the spread of the columns.
      moved: the decoded examples.
    """
    unit, total = "prior standard deviations", given_captions(built).mean
    if is_series(built):
        names = names_of_columns(built)
        text = f"Lines are shaded from low to high values. The dotted line is the test series.{total}{_shown_channels(names)}"
        return series_figures.traversal(moved.values, moved.rows, moved.offsets, moved.reference, names, unit), text
    names, spread = names_with_indicators(built), _spread(as_indicators(built, data))
    values, base = as_indicators(built, moved.values), as_indicators(built, moved.base)
    changes, label = _changes(number_scale(built), values, base, spread)
    chosen = heat_maps.changed_columns(changes)
    shown = tuple(names[j] for j in chosen)
    which = "" if len(chosen) == len(names) else f" The {len(chosen)} of {len(names)} columns that change most are shown."
    text = (
        f"Colors show the change of E[x|z] from its value at the posterior mean of the test example, in {label}."
        f"{about_indicators(built)}{total}{which}"
    )
    return heat_maps.traversal(changes[..., chosen], moved.rows, moved.offsets, shown, f"change, {label}"), text


def _changes(scale: Scale, values: np.ndarray, base: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, str]:
    """Returns changes of E[x|z] on a scale that all columns share, and its unit."""
    if scale == "counts":
        return np.log2(np.maximum(values, 1e-6)) - np.log2(np.maximum(base, 1e-6)), "log2 of the ratio of means"
    if scale == "binary":
        return values - base, "probability"
    return (values - base) / spread, "standard deviations of the column"


def interpolation_figure(built: Built, data: np.ndarray, between: Interpolation) -> tuple[Figure, str]:
    """Draws interpolations, and returns the figure and the sentences of its caption that explain it."""
    total = given_captions(built).between
    if is_series(built):
        names = names_of_columns(built)
        text = "Lines are shaded from the first to the second series, which are dotted and dashed."
        text += f"{total}{_shown_channels(names)}"
        figure = series_figures.interpolation(between.values, between.starts, between.ends, between.rows, names)
        return figure, text
    names, (scaled, label) = names_with_indicators(built), _common_scale(built, data)
    values, starts, ends = (scaled(x) for x in (between.values, between.starts, between.ends))
    chosen = heat_maps.changed_columns(values - values[:, :1])
    which = "" if len(chosen) == len(names) else f" The {len(chosen)} of {len(names)} columns that change most are shown."
    shown = tuple(names[j] for j in chosen)
    figure = heat_maps.interpolation(values[..., chosen], starts[:, chosen], ends[:, chosen], between.rows, shown, label)
    return figure, f"Colors show {label}.{about_indicators(built)}{total}{which}"


def _common_scale(built: Built, data: np.ndarray) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """Returns a function that puts all columns of vectors, and indicators of categories, on one scale, and its unit."""
    scale = number_scale(built)
    if scale == "counts":
        return lambda x: np.log1p(np.maximum(x, 0)), "log(1 + x)"
    if scale == "binary":
        return lambda x: x, "x, or its probability"
    indicators = as_indicators(built, data)
    spread = _spread(indicators)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # as in `_spread`
        center = np.nan_to_num(np.nanmean(indicators, axis=0))
    return lambda x: (as_indicators(built, x) - center) / spread, "standard deviations from the column's mean"


def transfer_figure(
    built: Built, data: np.ndarray, shown: tuple[np.ndarray, np.ndarray], labels: tuple[list[str], list[str]]
) -> Figure:
    """Draws a heat map for each test vector, with its code decoded with each condition.

    Args:
      built: model and data.
      data: test examples, for the scale of the columns.
      shown: indices of the examples, and E[x|z] of each with each condition, (examples, conditions, columns).
      labels: a name for each example, and one for each condition.
    """
    (chosen, means), names = shown, names_with_indicators(built)
    scaled, label = _common_scale(built, data)
    values = scaled(means)
    columns = heat_maps.changed_columns(values - values[:, :1])
    kept = tuple(names[j] for j in columns)
    return heat_maps.transfer(values[..., columns], scaled(data[chosen])[:, columns], labels, kept, label)
