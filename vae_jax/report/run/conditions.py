"""Sections of a conditional run's report: samples given each condition, and one example's code with other conditions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from vae_jax._numerics.keys import Stream, stream
from vae_jax.build import Built
from vae_jax.data import ConditionColumn
from vae_jax.report.html import Section
from vae_jax.report.run import figures, latent, latent_figures
from vae_jax.report.run.content import prior_codes
from vae_jax.report.run.displayed_examples import Views
from vae_jax.report.run.events import sections, series_figures, vector_figures
from vae_jax.report.run.events.categories import about_indicators, as_indicators, names_of_columns, names_with_indicators
from vae_jax.report.run.events.panels import displayed_kind
from vae_jax.runs import Run

MAX_CATEGORIES = 20
_MAX_REAL = 4  # columns, with three rows each
_QUANTILES = (0.05, 0.5, 0.95)
_NUM_CODES, _NUM_EXAMPLES = {"image": 12, "series": 4}, 6
_NUM_DRAWS, _MAX_COLUMNS = 1000, 5  # for histograms of the columns of vectors


class Row(NamedTuple):
    """A condition that differs from that of an example in one column."""

    name: str  # such as "label = 3" or "age = 23.5 (median)"
    column: int
    value: float  # as stored


class Variation(NamedTuple):
    """The conditions that a figure compares."""

    kind: str  # of the sections' names
    title: str  # such as "label" or "age, income"
    rows: list[Row]
    remark: str  # a sentence for captions that starts with a space, or ""


def variations(built: Built) -> list[Variation]:
    """Returns the categories of the first categorical column, and three quantiles of each real column.

    Of more than 20 categories, those that are most frequent in the training set are chosen.
    """
    condition, train = built.data.condition, built.dataset.train_condition
    if condition is None or train is None:
        return []
    chosen, columns = [], list(enumerate(condition.columns))
    categorical = [(i, column) for i, column in columns if column.categories is not None]
    others = " Other columns of the condition are those of the example." if len(columns) > 1 else ""
    if categorical:
        chosen.append(_categories(*categorical[0], train, others))
    real = [(i, column) for i, column in columns if column.categories is None and np.ptp(train[:, i]) > 0]
    if real:
        names = ("low", "median", "high")
        rows = [
            Row(f"{latent.condition_value(column, value)} ({name})", i, float(value))
            for i, column in real[:_MAX_REAL]
            for name, value in zip(names, np.quantile(train[:, i], _QUANTILES), strict=True)
        ]
        remark = " Low, median and high are the quantiles 0.05, 0.5 and 0.95 of the training set."
        if len(real) > _MAX_REAL:
            remark += f" The first {_MAX_REAL} of {len(real)} real columns are varied."
        title = ", ".join(column.name for _, column in real[:_MAX_REAL])
        chosen.append(Variation("real", title, rows, remark + others))
    return chosen


def _categories(i: int, column: ConditionColumn, train: np.ndarray, others: str) -> Variation:
    """Returns the rows of a categorical column."""
    assert column.categories is not None
    counts = np.bincount(train[:, i].astype(int), minlength=column.width)
    chosen = np.sort(np.argsort(-counts, kind="stable")[:MAX_CATEGORIES])
    rows = [Row(latent.condition_value(column, code), i, float(code)) for code in chosen]
    which = f" The {MAX_CATEGORIES} most frequent of {column.width} categories are shown." if len(rows) < column.width else ""
    return Variation("classes", column.name, rows, which + others)


def varied(built: Built, stored: np.ndarray, rows: list[Row]) -> np.ndarray:
    """Returns the conditions of examples with one column replaced, as the networks take them.

    Args:
      built: model and data.
      stored: conditions of examples as stored, (examples, columns).
      rows: the replacements.

    Returns:
      (rows, examples, condition).
    """
    assert built.data.condition is not None
    conditions = np.tile(stored, (len(rows), 1, 1))
    for i, row in enumerate(rows):
        conditions[i, :, row.column] = row.value
    return np.asarray(built.data.condition.expand(conditions))


def condition_sections(run: Run, views: Views, codes: np.ndarray) -> list[Section]:
    """Returns the sections of a conditional run; none without a condition.

    Args:
      run: the run.
      views: test examples, and the functions of the model.
      codes: posterior means of these examples.
    """
    drawn = []
    for variation in variations(run.built):
        drawn.append(_sample_section(run, views, variation))
        drawn.append(_transfer_section(run, views, codes, variation))
    return drawn


def _stored(run: Run, views: Views) -> np.ndarray:
    """Returns the conditions of the test examples that are shown, as stored."""
    assert run.built.dataset.test_condition is not None
    return run.built.dataset.test_condition[views.places]


def _sample_section(run: Run, views: Views, variation: Variation) -> Section:
    """Draws samples given each condition: a row for each, and the same z down each column."""
    built, kind = run.built, displayed_kind(run.built.dataset.data_shape)
    name, title = f"samples_by_{variation.kind}", f"Samples given {variation.title}"
    if kind == "vector":
        return _histogram_section(run, views, variation, (name, title))
    key, _ = jax.random.split(stream(built.config.test_seed, Stream.REPORT_SAMPLES))  # the draws of the other samples
    drawn = np.asarray(prior_codes(built.vae, run.params, key, _NUM_CODES[kind]))
    conditions = varied(built, _stored(run, views)[:1], variation.rows).repeat(len(drawn), axis=1)
    means = latent.decode(views, run.params, np.tile(drawn, (len(variation.rows), 1, 1)), conditions)
    base = ""
    if len(built.dataset.condition.columns if built.dataset.condition else ()) > 1:
        base = f" Here it is {latent.example_name(built, int(views.places[0]))}."
    caption = (
        f"E[x|z] with a row for each condition and z from the prior, the same z down each column. What is alike in a column is "
        f"what z represents, and what changes is what c adds.{variation.remark}{base}{views.scale}"
    )
    rows = [(row.name, images) for row, images in zip(variation.rows, means, strict=True)]
    if kind == "image":
        return Section(name, title, caption, figures.labeled_strips(rows))
    strips = [("test series", views.originals[: _NUM_CODES[kind]]), *rows]
    caption = f"The first row has test series. Below: {caption}"
    return Section(name, title, caption, series_figures.labeled_lines(strips, names_of_columns(built)))


def _histogram_section(run: Run, views: Views, variation: Variation, labels: tuple[str, str]) -> Section:
    """Draws histograms of the columns of vectors: test data, and draws of x given each condition."""
    built, stored = run.built, _stored(run, views)
    data, scale, names = as_indicators(built, views.originals), sections.number_scale(built), names_with_indicators(built)
    chosen, which = vector_figures.shown_columns(data, scale, _MAX_COLUMNS)
    rows, is_class = [], variation.kind == "classes"
    keys = jax.random.split(stream(built.config.test_seed, Stream.REPORT_SAMPLES), 2)
    for row in variation.rows:
        like = np.flatnonzero(stored[:, row.column] == row.value) if is_class else np.arange(1)
        if not len(like):
            continue
        count = _NUM_DRAWS // len(variation.rows) if len(variation.rows) > 4 else _NUM_DRAWS // 4
        # Draws for a class have the conditions of its test examples, those for a quantile that of the first test example.
        like_each = np.resize(like, count)
        z = prior_codes(built.vae, run.params, keys[0], count)
        conditions = jnp.asarray(varied(built, stored[like_each], [row])[0])
        draws = as_indicators(built, views.draws(run.params, jax.random.split(keys[1], count), z, conditions))
        rows.append((row.name, data[like][:, chosen] if is_class else data[:, chosen], draws[:, chosen]))
    about = (
        "Filled are the test examples of each category, and lines are draws of x given their conditions"
        if is_class
        else "Filled are all test examples, and lines are draws of x given each condition"
    )
    caption = f"Histograms of columns. {about}, with z from the prior.{about_indicators(built)}{which}{variation.remark}"
    figure = vector_figures.labeled_histograms(rows, [names[j] for j in chosen], scale, "samples given c")
    return Section(*labels, caption, figure)


def _transfer_section(run: Run, views: Views, codes: np.ndarray, variation: Variation) -> Section:
    """Draws the code of several test examples with each condition."""
    built, kind = run.built, displayed_kind(run.built.dataset.data_shape)
    # Spread over the test set, because neighbors are often alike.
    count = min(_NUM_CODES[kind] if kind == "series" else _NUM_EXAMPLES, len(codes))
    chosen = np.linspace(0, len(codes) - 1, count).round().astype(int)
    conditions = varied(built, _stored(run, views)[chosen], variation.rows).swapaxes(0, 1)
    code = np.repeat(codes[chosen][:, None], len(variation.rows), axis=1)
    means = latent.decode(views, run.params, code, conditions)
    name, title = f"transfer_by_{variation.kind}", f"One example with every {variation.title}"
    names, headings = [str(views.places[i]) for i in chosen], [row.name for row in variation.rows]
    figure, place = _draw_transfer(built, views.originals, (chosen, means), (names, headings))
    caption = (
        f"{place} Beside it is E[x|z] for z at its posterior mean, given its condition, decoded with each condition. z is the "
        f"same for one example, so what stays alike is its style.{variation.remark}{views.scale}"
    )
    return Section(name, title, caption, figure)


def _draw_transfer(
    built: Built, originals: np.ndarray, shown: tuple[np.ndarray, np.ndarray], labels: tuple[list[str], list[str]]
) -> tuple[Figure, str]:
    """Returns the figure, and a sentence that says where the test examples are.

    Args:
      built: model and data.
      originals: test examples as displayed, (n, *displayed shape).
      shown: indices of the examples that are decoded, and E[x|z] of each with each condition, (examples, conditions, ...).
      labels: a name for each example, and one for each condition.
    """
    (chosen, means), (names, headings) = shown, labels
    kind = displayed_kind(built.dataset.data_shape)
    if kind == "image":
        figure = latent_figures.transfer(means, originals[chosen], names, headings)
        return figure, "Each row begins with a test image, whose number is on the left."
    if kind == "series":
        strips = [(f"test {' '.join(names[:1])} …", originals[chosen]), *zip(headings, means.swapaxes(0, 1), strict=True)]
        figure = series_figures.labeled_lines(strips, names_of_columns(built))
        return figure, f"Each column begins with a test series (numbers {', '.join(names)})."
    return sections.transfer_figure(built, originals, shown, labels), "Each panel is a test example and begins with it."
