"""Sections of the report of a mixed table: nats of each column, samples and reconstructions with the original types."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from matplotlib.figure import Figure

from vae_jax.data import column_proposals, to_table, write_table
from vae_jax.evaluation import entry_log_likelihoods
from vae_jax.likelihoods.mixed import group_of_column
from vae_jax.report import html
from vae_jax.report.html import Section
from vae_jax.report.run.content import Pictures
from vae_jax.report.run.events.panels import MODEL, entry_names
from vae_jax.runs import Run
from vae_jax.training import evaluation_key

if TYPE_CHECKING:
    import pyarrow

MAX_COLUMNS = 30  # of the tables on the page; the files have all of them
_MAX_ROWS = 8  # of samples
_MAX_EXAMPLES = 5  # with their reconstructions


def table_sections(run: Run, pictures: Pictures) -> str:
    """Returns the HTML with the tables of a mixed table, and writes samples.csv and reconstructions.csv beside the figures.

    It returns "" for other likelihoods.
    """
    if not run.built.vae.likelihood.groups:
        return ""
    folder = run.path / "figures"
    folder.mkdir(exist_ok=True)
    types = column_proposals.types_of(run.built.dataset)
    samples = to_table(types, pictures.prior_samples)
    write_table(samples, folder / "samples.csv")
    originals, means = to_table(types, _originals(run, pictures)), to_table(types, pictures.reconstructions)
    imputed = None if pictures.imputed is None else to_table(types, pictures.imputed.values)
    write_table(means, folder / "reconstructions.csv")
    names = [kind.name for kind in types]
    return "".join(
        [
            _nats_section(run, names),
            html.heading("Samples as a table"),
            _rows_as_html(samples, names, [str(i) for i in range(min(_MAX_ROWS, samples.num_rows))], "sample"),
            html.caption(
                f"Draws of x from p(x|z) for z drawn from the prior, with the names, categories and types of the data. "
                f"figures/samples.csv has {samples.num_rows:,} of them.{_shown(names)}"
            ),
            html.heading("Reconstructions as a table"),
            _examples_as_html([("data", originals), ("E[x|z]", means), ("imputed", imputed)], names, pictures.views.places),
            html.caption(
                "Test examples, each above the mean E[x|z] of the likelihood at the posterior mean of z. Whole numbers are "
                "rounded means. Of categories the most probable one is shown."
                f"{_about_imputed(pictures)} figures/reconstructions.csv has {means.num_rows:,} reconstructions.{_shown(names)}"
            ),
        ]
    )


def _originals(run: Run, pictures: Pictures) -> np.ndarray:
    """Returns the test examples of the pictures, with NaN for missing values."""
    dataset, places = run.built.dataset, pictures.views.places
    rows = np.asarray(dataset.test[places], np.float64)  # pyright: ignore
    return rows if dataset.test_mask is None else np.where(dataset.test_mask[places], rows, np.nan)


def _shown(names: Sequence[str]) -> str:
    return "" if len(names) <= MAX_COLUMNS else f" The first {MAX_COLUMNS} of {len(names)} columns are shown."


def column_nats(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Returns the log-likelihood of each entry of the test set in nats and the mask of observed ones, (examples, columns)."""
    built = run.built
    key = evaluation_key(built.config.test_seed)
    nats = jax.jit(lambda params, test: entry_log_likelihoods(key, built.vae, params, test, to_input=built.data.eval_input))(
        run.params, built.data.test
    )
    nats = np.asarray(nats, np.float64)
    mask = built.dataset.test_mask
    return nats, np.ones(nats.shape, bool) if mask is None else np.asarray(mask)


def _nats_section(run: Run, names: Sequence[str]) -> str:
    """Returns the table and the bars of the log-likelihood of each column."""
    nats, observed = column_nats(run)
    counts = observed.sum(axis=0)
    per_example, per_entry = nats.mean(axis=0), nats.sum(axis=0) / np.maximum(counts, 1)
    groups = group_of_column(run.built.vae.likelihood)
    shown = range(min(MAX_COLUMNS, len(names)))
    rows = [
        (
            names[i],
            groups[i].likelihood.name,
            f"{per_example[i]:z.3f}",
            f"{per_entry[i]:z.3f}" if counts[i] else "—",
            f"{100 * counts[i] / len(nats):.0f} %",
        )
        for i in shown
    ]
    header = ("column", "likelihood", "nats per example", "nats per observed entry", "observed")
    total = f"{per_example.sum():z.3f}".replace("-", "−")
    caption = (
        f"E log p(x_d|z) of each column d on the {len(nats):,} test examples, with one draw of z for each. The columns add up "
        f"to {total} nats per example, the log-likelihood at the top. Columns of real numbers have densities, so their nats "
        f"depend on the unit of the column. Nats of the other columns are at most 0.{_shown(names)}"
    )
    figure = _bars([per_entry[i] for i in shown], entry_names((len(names),), tuple(names))[: len(shown)])
    section = Section("column_nats", "Log-likelihood of each column", caption, figure)
    picture = html.write_sections([section], run.path / "figures")
    return picture + html.table(
        [[cell.replace("-", "−") if j > 1 else cell for j, cell in enumerate(row)] for row in rows],
        ("", "", "number", "number", "number"),
        header,
    )


def _bars(values: Sequence[float], names: Sequence[str]) -> Figure:
    """Draws the mean log-likelihood of an observed entry of each column as bars, the first column at the top."""
    figure = Figure(figsize=(7, 0.8 + 0.28 * len(values)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(values)), values, color=MODEL, height=0.7)
    axes.set_yticks(range(len(values)), names, fontsize=9)
    axes.invert_yaxis()
    axes.axvline(0, color="black", lw=0.8)
    axes.set_xlabel("log-likelihood of an observed entry (nats)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _cells(table: "pyarrow.Table", names: Sequence[str], row: int) -> list[str]:
    """Returns the values of one row as text, a dash for missing ones."""
    values = [table.column(i)[row].as_py() for i in range(min(MAX_COLUMNS, len(names)))]
    return [
        "—" if value is None else f"{value:z.5g}".replace("-", "−") if isinstance(value, float) else str(value)
        for value in values
    ]


def _rows_as_html(table: "pyarrow.Table", names: Sequence[str], numbers: Sequence[str], title: str) -> str:
    rows = [[number, *_cells(table, names, i)] for i, number in enumerate(numbers)]
    return html.table(rows, ["number"] * (1 + min(MAX_COLUMNS, len(names))), [title, *names[:MAX_COLUMNS]])


def _about_imputed(pictures: Pictures) -> str:
    """Returns sentences about missing values that start with a space, or "" where there are none."""
    if pictures.imputed is None:
        return ""
    return (
        " A dash is a missing value. The third row has the observed values, and in place of missing ones "
        f"E[x_missing|x_observed], or the most probable class, {pictures.imputed.describe()}"
    )


def _examples_as_html(versions: "Sequence[tuple[str, pyarrow.Table | None]]", names: Sequence[str], places: np.ndarray) -> str:
    """Returns a table with a few test examples, each in several versions.

    Args:
      versions: the name of each version, and all examples in it; versions that are None are left out.
      names: of the columns.
      places: indices of the examples in the test set.
    """
    drawn = [(name, table) for name, table in versions if table is not None]
    rows = [
        [f"{places[i]}" if k == 0 else "", name, *_cells(table, names, i)]
        for i in range(min(_MAX_EXAMPLES, len(places)))
        for k, (name, table) in enumerate(drawn)
    ]
    width = min(MAX_COLUMNS, len(names))
    return html.table(rows, ["number", "", *["number"] * width], ["test example", "", *names[:MAX_COLUMNS]])
