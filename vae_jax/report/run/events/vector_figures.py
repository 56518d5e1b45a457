"""Figures of vectors: histograms and scatter plots of columns. Missing entries are NaN."""

import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vae_jax.report.run.events.panels import DATA, FILL, MODEL, OTHER, Scale, grid_of_panels, legend_above

MAX_COLUMNS = 12  # of histograms
MAX_PAIRED = 5  # columns of a scatter matrix
_STYLE = {"s": 7, "linewidths": 0, "alpha": 0.5}


def shown_columns(data: np.ndarray, scale: Scale, max_count: int = MAX_COLUMNS) -> tuple[np.ndarray, str]:
    """Chooses the columns that a figure shows, and returns them in order with a sentence for the caption.

    Columns in real units are taken as they come, because their variances have different units. For counts and binary columns
    those with the most variance are chosen, on the scale log(1 + x) for counts.

    Args:
      data: (examples, columns).
      scale: the kind of number in the columns.
      max_count: number of columns at most.

    Returns:
      The indices of the columns, and a sentence that starts with a space. It is empty if all are shown.
    """
    count = data.shape[1]
    if count <= max_count:
        return np.arange(count), ""
    if scale == "real":
        return np.arange(max_count), f" The first {max_count} of {count} columns are shown."
    spread = np.nanvar(np.log1p(data) if scale == "counts" else data, axis=0)
    what = "log(1 + x)" if scale == "counts" else "x"
    chosen = np.sort(np.argsort(-spread, kind="stable")[:max_count])
    return chosen, f" Shown are the {max_count} of {count} columns in which {what} varies most in the test set."


def observed(values: np.ndarray) -> np.ndarray:
    """Returns the values that are not NaN, which stands for missing."""
    return values[~np.isnan(values)]


def _shares(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Returns the share of the observed values in each bin."""
    kept = observed(values)
    return np.histogram(kept, edges)[0] / max(len(kept), 1)


def _bins(values: Sequence[np.ndarray], scale: Scale) -> np.ndarray:
    """Returns edges of bins that hold the data and nearly all of the samples."""
    if scale == "binary":
        return np.array([-0.5, 0.5, 1.5])
    data, *others = (observed(one) for one in values)
    low, high = (float(data.min()), float(data.max())) if len(data) else (0.0, 0.0)
    ends = [np.quantile(other, (0.005, 0.995)) for other in others if len(other)]
    widest = high - low  # samples that reach further than this are cut off
    if widest <= 1e-9 * max(abs(low), abs(high)):  # a constant column, whose bins follow the samples
        widest = max([1e-6 * abs(high), *(abs(float(end) - high) for pair in ends for end in pair)]) or 1.0
    low = min([low, *(max(float(end[0]), low - widest) for end in ends)])
    high = max([high, *(min(float(end[1]), high + widest) for end in ends)])
    if scale == "counts" and high <= 30:
        return np.arange(-0.5, np.ceil(high) + 1)
    if scale == "counts":
        return np.unique([*np.round(np.expm1(np.linspace(0, np.log1p(high), 26))), np.ceil(high) + 1]) - 0.5
    margin = 0.02 * (high - low) or widest
    return np.linspace(low - margin, high + margin, 26)


def _set_scale(axes: Axes, scale: Scale, values: np.ndarray, which: str = "x") -> None:
    """Gives an axis of large counts the scale log(1 + x), with counts as ticks."""
    if scale != "counts" or values.max(initial=0) <= 30:
        return
    axis, set_scale = (axes.xaxis, axes.set_xscale) if which == "x" else (axes.yaxis, axes.set_yscale)
    set_scale("function", functions=(lambda x: np.log1p(np.maximum(x, -0.9)), np.expm1))
    ticks = [0, *(10**k for k in range(12) if 10**k <= values.max())]
    axis.set_ticks(ticks[:: max(1, len(ticks) // 4)])
    axis.set_major_formatter(lambda value, _: f"{value:.0f}" if value < 1e4 else f"{value:.0e}".replace("e+0", "e"))


def _outside(values: np.ndarray, edges: np.ndarray) -> str:
    """Returns a line for the heading of a panel if more than 2 % of the samples lie outside of its bins, or an empty string."""
    values = observed(values)
    share = np.mean((values < edges[0]) | (values > edges[-1])) if len(values) else 0.0
    return f"\n{100 * share:.0f} % of the samples lie outside" if share > 0.02 else ""


def zero_share(values: np.ndarray) -> str:
    """Returns the share of zeros in percent, such as "62 %"."""
    return f"{100 * np.mean(observed(values) == 0):.0f} %"


def histograms(
    data: np.ndarray, samples: np.ndarray, names: Sequence[str], scale: Scale, labels: tuple[str, str] | None = None
) -> Figure:
    """Draws a histogram of each column: test data filled, samples of the model as a line, both as shares of the examples.

    The heading of a column of counts has the share of zeros in both.

    Args:
      data: test data, (examples, columns).
      samples: draws of x from the model, (draws, columns).
      names: a name for each column.
      scale: the kind of number in the columns.
      labels: what both are, for the legend; by default test examples and samples from the model, with their numbers.
    """
    labels = labels or (f"{len(data):,} test examples", f"{len(samples):,} samples from the model")
    figure, panels = grid_of_panels(len(names), 4, (2.7, 1.75), margin=0.3)
    for j, (axes, name) in enumerate(zip(panels, names, strict=True)):
        edges = _bins((data[:, j], samples[:, j]), scale)
        for values, style in ((data, {"color": FILL, "fill": True}), (samples, {"color": MODEL, "lw": 1.5})):
            label = labels[0] if values is data else labels[1]
            axes.stairs(_shares(values[:, j], edges), edges, label=label, **style)
        zeros = f"\nzeros: {zero_share(data[:, j])}, samples {zero_share(samples[:, j])}" if scale == "counts" else ""
        axes.set_title(f"{name}{zeros}{_outside(samples[:, j], edges)}", fontsize=9)
        _set_scale(axes, scale, edges)
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="y", nbins=3)
        if scale == "real":
            axes.locator_params(axis="x", nbins=4)
        elif scale == "binary":
            axes.set_xticks([0, 1])
    legend_above(figure, panels[0])
    figure.supylabel("share of examples", fontsize=10)
    return figure


def category_shares(panels: Sequence[tuple[str, Sequence[str], np.ndarray, np.ndarray]]) -> Figure:
    """Draws the shares of categories: test data as filled bars, samples of the model as outlined ones.

    Args:
      panels: (name of the column, names of its categories, their shares in the test data, their shares in samples).
    """
    longest = max(len(names) for _, names, _, _ in panels)
    figure, axes_of_panels = grid_of_panels(len(panels), 3, (3.6, 0.6 + 0.24 * longest), margin=0.3)
    for axes, (name, names, data, samples) in zip(axes_of_panels, panels, strict=True):
        places = np.arange(len(names))
        axes.barh(places, data, height=0.8, color=FILL, label="test examples")
        axes.barh(places, samples, height=0.8, fill=False, edgecolor=MODEL, lw=1.5, label="samples from the model")
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_title(name, fontsize=9)
        axes.locator_params(axis="x", nbins=4)
    legend_above(figure, axes_of_panels[0])
    figure.supxlabel("share of examples", fontsize=10)
    return figure


def column_statistics(data: np.ndarray, samples: np.ndarray, scale: Scale) -> Figure:
    """Draws a point for each column: its mean and its share of zeros (counts), in the data and in samples of the model.

    Args:
      data: test data, (examples, columns).
      samples: draws of x from the model, (draws, columns).
      scale: "counts" or "binary".
    """
    titles = ["mean", "standard deviation", "share of zeros"] if scale == "counts" else ["mean", "correlations of pairs"]
    figure, panels = grid_of_panels(len(titles), 3, (3.4, 3.2))
    for axes, title in zip(panels, titles, strict=True):
        x, y = (_statistic(title, values) for values in (data, samples))
        x, y = x[np.isfinite(x)], y[np.isfinite(x)]  # columns without observed values have no statistics
        ends = (min(x.min(), y.min()), max(x.max(), y.max()))
        axes.axline((ends[0], ends[0]), (ends[1], ends[1] + (ends[0] == ends[1])), color=FILL, lw=1, zorder=0)
        axes.scatter(x, y, color=MODEL, rasterized=True, **_STYLE)
        axes.set_title(title, fontsize=10)
        axes.set_aspect("equal", "datalim")
        if scale == "counts" and title != "share of zeros" and ends[1] > 30:
            for which in ("x", "y"):
                _set_scale(axes, scale, np.array(ends), which)
    figure.supxlabel("test data", fontsize=10)
    figure.supylabel("samples from the model", fontsize=10)
    return figure


def _statistic(title: str, values: np.ndarray) -> np.ndarray:
    """Returns one number for each column, or for each pair of the first 40 columns that vary."""
    if title == "correlations of pairs":
        with np.errstate(invalid="ignore", divide="ignore"):
            matrix = _correlations(values[:, :40])
        pairs = np.atleast_2d(matrix)[np.triu_indices(min(40, values.shape[1]), 1)]
        return np.nan_to_num(pairs) if len(pairs) else np.zeros(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column without observed values
        if title == "share of zeros":
            return np.nanmean(np.where(np.isnan(values), np.nan, values == 0), axis=0)
        return {"mean": np.nanmean, "standard deviation": np.nanstd}[title](values, axis=0)


def _correlations(values: np.ndarray) -> np.ndarray:
    """Returns the correlations of pairs of columns, over the rows in which both are observed."""
    if not np.isnan(values).any():
        return np.corrcoef(values.T)
    masked = np.ma.masked_invalid(values)
    return np.ma.filled(np.ma.corrcoef(masked, rowvar=False), np.nan)


def scatter_matrix(data: np.ndarray, samples: np.ndarray, names: Sequence[str], scale: Scale) -> Figure:
    """Draws every pair of columns: test data below the diagonal, samples above it, and histograms of both on it."""
    count = len(names)
    figure, panels = grid_of_panels(count * count, count, (10.4 / count, 8.8 / count))
    edges = [_bins((data[:, j], samples[:, j]), scale) for j in range(count)]
    for number, axes in enumerate(panels):
        i, j = divmod(number, count)
        if i == j:
            for values, style in ((data, {"color": FILL, "fill": True}), (samples, {"color": MODEL, "lw": 1.5})):
                axes.stairs(_shares(values[:, i], edges[i]), edges[i], **style)
            axes.set_yticks([])
        else:
            values, color = (data, DATA) if i > j else (samples, MODEL)
            axes.scatter(values[:, j], values[:, i], color=color, rasterized=True, **_STYLE)
            _set_scale(axes, scale, edges[i], "y")
            if scale != "counts" or edges[i].max() <= 30:
                axes.set_ylim(edges[i][0], edges[i][-1])
        _set_scale(axes, scale, edges[j])
        axes.set_xlim(edges[j][0], edges[j][-1])
        if scale == "real":
            axes.locator_params(nbins=4)
        axes.tick_params(labelbottom=i == count - 1, labelleft=j == 0 and i > 0)
        if i == count - 1:
            axes.set_xlabel(names[j], fontsize=10)
        if j == 0:
            axes.set_ylabel(names[i], fontsize=10)
    panels[0].scatter([], [], color=DATA, s=20, label="test data (below the diagonal)")
    panels[0].scatter([], [], color=MODEL, s=20, label="samples from the model (above)")
    legend_above(figure, panels[0])
    return figure


def reconstructions(data: np.ndarray, means: np.ndarray, names: Sequence[str], scale: Scale) -> Figure:
    """Draws, for each column, E[x|z] at the posterior mean against x. For binary columns: histograms of E[x|z] by x.

    Args:
      data: test data, (examples, columns).
      means: E[x|z], (examples, columns).
      names: a name for each column.
      scale: the kind of number in the columns.
    """
    figure, panels = grid_of_panels(len(names), 4, (2.7, 2.1), margin=0.3)
    for j, (axes, name) in enumerate(zip(panels, names, strict=True)):
        axes.set_title(name, fontsize=9)
        _draw_fit(axes, data[:, j], means[:, j], scale)
    legend_above(figure, panels[0])
    figure.supxlabel("E[x|z]" if scale == "binary" else "x", fontsize=10)
    figure.supylabel("number of examples" if scale == "binary" else "reconstruction E[x|z]", fontsize=10)
    return figure


def _draw_fit(axes: Axes, x: np.ndarray, mean: np.ndarray, scale: Scale) -> None:
    """Draws the means of one column against its values, or histograms of the means by value of a binary column."""
    if scale == "binary":
        edges = np.linspace(0, 1, 21)
        for value, color in ((0, OTHER), (1, MODEL)):
            label = f"test examples with x = {value}"
            axes.stairs(np.histogram(mean[x == value], edges)[0], edges, color=color, lw=1.5, label=label)
        axes.set_ylim(bottom=0)
        return
    x, mean = x[~np.isnan(x)], mean[~np.isnan(x)]
    if not len(x):
        return
    ends = np.array([min(x.min(), mean.min()), max(x.max(), mean.max())], float)
    ends += np.array([-0.05, 0.05]) * (ends[1] - ends[0] or max(abs(ends[0]), 1.0))
    if scale == "counts":
        ends = np.maximum(ends, -0.4)
    axes.plot(ends, ends, color=OTHER, lw=1, label="E[x|z] = x")
    axes.scatter(x, mean, color=MODEL, rasterized=True, label="test examples", **_STYLE)
    for which in ("x", "y"):
        _set_scale(axes, scale, ends, which)
    axes.set(xlim=tuple(ends), ylim=tuple(ends))
    if scale == "real":
        axes.locator_params(nbins=4)


def labeled_reconstructions(rows: Sequence[tuple[str, Scale, np.ndarray, np.ndarray]], names: Sequence[str]) -> Figure:
    """Draws a row of panels for each likelihood, with E[x|z] against x for each column (see `reconstructions`).

    Args:
      rows: (name, kind of number, test data (examples, columns), E[x|z] of that shape).
      names: a name for each column.
    """
    figure, panels = grid_of_panels(len(rows) * len(names), len(names), (11.0 / len(names), 1.9), margin=0.3)
    for number, axes in enumerate(panels):
        i, j = divmod(number, len(names))
        name, scale, data, means = rows[i]
        _draw_fit(axes, data[:, j], means[:, j], scale)
        if i == 0:
            axes.set_title(names[j], fontsize=9)
        if j == 0:
            axes.set_ylabel(name, fontsize=9)
    drawn = {scale: i * len(names) for i, (_, scale, _, _) in enumerate(rows)}  # one legend for each kind
    legend_above(figure, *(panels[number] for number in drawn.values()))
    figure.supxlabel("x (and E[x|z] where x is 0 or 1)" if "binary" in drawn else "x", fontsize=10)
    return figure


def labeled_histograms(
    rows: Sequence[tuple[str, np.ndarray, np.ndarray]], names: Sequence[str], scale: Scale, title: str
) -> Figure:
    """Draws a row of panels for each model, with a histogram of each column: data filled, values of the model as a line.

    Args:
      rows: (name, test data (examples, columns), values of the model (n, columns)).
      names: a name for each column.
      scale: the kind of number in the columns.
      title: what the values of the model are, for the legend.
    """
    figure, panels = grid_of_panels(len(rows) * len(names), len(names), (11.0 / len(names), 1.35), margin=0.3)
    all_data = np.concatenate([data for _, data, _ in rows])  # one axis for all rows, so that they can be compared
    bins = [_bins((all_data[:, j], *(values[:, j] for _, _, values in rows)), scale) for j in range(len(names))]
    for number, axes in enumerate(panels):
        i, j = divmod(number, len(names))
        (name, data, values), edges = rows[i], bins[j]
        axes.stairs(_shares(data[:, j], edges), edges, color=FILL, fill=True, label="test data")
        axes.stairs(_shares(values[:, j], edges), edges, color=MODEL, lw=1.4, label=title)
        _set_scale(axes, scale, edges)
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="y", nbins=2)
        if scale == "real":
            axes.locator_params(axis="x", nbins=3)
        if i == 0:
            axes.set_title(names[j], fontsize=9)
        if j == 0:
            axes.set_ylabel(name.replace(" (", "\n("), fontsize=8)
    legend_above(figure, panels[0])
    return figure
