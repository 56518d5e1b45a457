"""Figures of series (time, channels): lines over time, one panel for each example and channel."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from vae_jax.report.run.events.panels import DATA, MODEL, OTHER, grid_of_panels, legend_above

MAX_CHANNELS = 4
SHADES = "viridis"
CHANNEL_COLORS = (MODEL, OTHER, "#009e73", "#cc79a7")  # told apart without red and green (Okabe and Ito)


def num_examples(channels: int) -> int:
    """Returns how many examples a figure shows: 12 of one channel, 6 of several."""
    return 12 if channels == 1 else 6


def _panels(rows: int, names: Sequence[str], height: float) -> tuple[Figure, list[list[Axes]]]:
    """Makes panels by example and channel. Panels of one channel share their axes.

    Examples of one channel are arranged in three columns. Those of several channels have one row each, with a column for each
    of the first `MAX_CHANNELS` channels.
    """
    shown = min(len(names), MAX_CHANNELS)
    if shown == 1:
        figure, panels = grid_of_panels(rows, 3, (3.6, height), sharex=True, sharey=True)
        by_example = [[axes] for axes in panels]
    else:
        figure, panels = grid_of_panels(rows * shown, shown, (10.6 / shown, height), sharex=True, sharey="col")
        by_example = [panels[i * shown : (i + 1) * shown] for i in range(rows)]
        for axes, name in zip(by_example[0], names, strict=False):
            axes.set_title(name, fontsize=10)
    figure.supxlabel("time step", fontsize=10)
    return figure, by_example


def _name_rows(panels: list[list[Axes]], names: Sequence[str]) -> None:
    """Writes the name of each example beside its row, or above its panel where examples have one channel."""
    for row, name in zip(panels, names, strict=True):
        if len(row) == 1:
            row[0].set_title(name, fontsize=9)
        else:
            row[0].set_ylabel(name, fontsize=9)


def reconstructions(
    originals: np.ndarray, means: np.ndarray, interval: tuple[np.ndarray, np.ndarray] | None, names: Sequence[str]
) -> Figure:
    """Draws series (gray) with their reconstructions (blue) and an interval of the likelihood around them.

    Args:
      originals: (examples, time, channels).
      means: E[x|z], of the same shape.
      interval: lower and upper end of the interval, each of that shape, or None.
      names: a name for each channel.
    """
    figure, panels = _panels(len(originals), names, 1.35)
    time = np.arange(originals.shape[1])
    for i, row in enumerate(panels):
        for j, axes in enumerate(row):
            axes.plot(time, originals[i, :, j], color=DATA, lw=1.0, label="test series")
            axes.plot(time, means[i, :, j], color=MODEL, lw=1.4, label="reconstruction E[x|z]")
            if interval is not None:
                low, high = (end[i, :, j] for end in interval)
                axes.fill_between(time, low, high, color=MODEL, alpha=0.18, lw=0, label="90 % of draws of x given z")
    legend_above(figure, panels[0][0])
    return figure


def samples(means: np.ndarray, draws: np.ndarray, names: Sequence[str]) -> Figure:
    """Draws E[x|z] for z from the prior, and one draw of x for the same z. Both are (examples, time, channels)."""
    figure, panels = _panels(len(means), names, 1.35)
    time = np.arange(means.shape[1])
    for i, row in enumerate(panels):
        for j, axes in enumerate(row):
            axes.plot(time, draws[i, :, j], color=OTHER, lw=0.9, label="draw of x given z")
            axes.plot(time, means[i, :, j], color=MODEL, lw=1.4, label="mean E[x|z]")
    legend_above(figure, panels[0][0])
    return figure


def _shaded(figure: Figure, panels: list[list[Axes]], values: np.ndarray, ends: tuple[float, float], label: str) -> None:
    """Draws (rows, steps, time, channels) as lines that are shaded from the first step to the last."""
    colors = matplotlib.colormaps[SHADES](np.linspace(0, 0.92, values.shape[1]))
    time = np.arange(values.shape[2])
    for lines, row in zip(values, panels, strict=True):
        for j, axes in enumerate(row):
            for line, color in zip(lines, colors, strict=True):
                axes.plot(time, line[:, j], color=color, lw=1.2)
    shades = ListedColormap(colors)
    flat = [axes for row in panels for axes in row]
    figure.colorbar(ScalarMappable(Normalize(*ends), shades), ax=flat, label=label, shrink=min(1.0, 3.5 / len(panels)))


def traversal(
    values: np.ndarray, rows: Sequence[str], offsets: np.ndarray, reference: np.ndarray, names: Sequence[str], unit: str
) -> Figure:
    """Draws a row of panels for each latent dimension, with a line for each of its values, from dark (low) to light (high).

    Args:
      values: E[x|z], (dimensions, offsets, time, channels).
      rows: a name for each dimension.
      offsets: values of the dimension, in the unit that is named.
      reference: the test series, (time, channels), drawn as a dotted line.
      names: a name for each channel.
      unit: unit of the offsets.
    """
    figure, panels = _panels(len(values), names, 1.5)
    _shaded(figure, panels, values, (float(offsets[0]), float(offsets[-1])), f"value of z[j], in {unit}")
    for row in panels:
        for j, axes in enumerate(row):
            axes.plot(np.arange(len(reference)), reference[:, j], color="#1f2933", lw=1.0, ls=":", label="test series")
    legend_above(figure, panels[0][0])
    _name_rows(panels, [row.replace(", ", "\n") for row in rows] if len(panels[0]) > 1 else rows)
    return figure


def interpolation(
    values: np.ndarray, starts: np.ndarray, ends: np.ndarray, rows: Sequence[str], names: Sequence[str]
) -> Figure:
    """Draws a row of panels for each pair of test series, with the decoded series between the two.

    Args:
      values: E[x|z] between the two, (pairs, steps, time, channels).
      starts, ends: the test series, (pairs, time, channels), drawn as dotted and dashed lines.
      rows: a name for each pair.
      names: a name for each channel.
    """
    figure, panels = _panels(len(values), names, 1.5)
    _shaded(figure, panels, values, (0.0, 1.0), "share of the way between the codes")
    for i, row in enumerate(panels):
        for j, axes in enumerate(row):
            for series, style, label in ((starts, ":", "first test series"), (ends, "--", "second test series")):
                axes.plot(np.arange(series.shape[1]), series[i, :, j], color="#1f2933", lw=1.0, ls=style, label=label)
    legend_above(figure, panels[0][0])
    _name_rows(panels, rows)
    return figure


def labeled_lines(rows: Sequence[tuple[str, np.ndarray | None]], names: Sequence[str], columns: int = 4) -> Figure:
    """Draws one row of panels for each named set of series, with the channels of a series as lines on a common scale.

    Channels are standardized by the mean and the spread of the first set, so that those with different units fit one panel.

    Args:
      rows: (name, series (n, time, channels)), or (heading, None) for a heading between rows. The first are data.
      names: a name for each channel.
      columns: series in a row, at most.
    """
    first = next(series for _, series in rows if series is not None)
    columns, shown = min(columns, len(first)), min(len(names), MAX_CHANNELS)
    mean, spread = np.nanmean(first, axis=(0, 1)), np.nanstd(first, axis=(0, 1))
    spread = np.where(spread > 0, spread, 1.0)
    heights = [0.35 if series is None else 1.0 for _, series in rows]
    figure = Figure(figsize=(11.0, min(40.0, 1.15 * sum(heights) + 0.7)), layout="constrained")
    grid = figure.add_gridspec(len(rows), columns, height_ratios=heights)
    top: Axes | None = None
    for i, (name, series) in enumerate(rows):
        if series is None:
            axes = figure.add_subplot(grid[i, :])
            axes.text(0.0, 0.1, name, transform=axes.transAxes, fontsize=12, fontweight="bold")
            axes.set_axis_off()
            continue
        for k in range(min(columns, len(series))):
            axes = figure.add_subplot(grid[i, k], sharex=top, sharey=top)
            top = top or axes
            for j in range(shown):
                line = (series[k, :, j] - mean[j]) / spread[j]
                axes.plot(np.arange(len(line)), line, color=CHANNEL_COLORS[j], lw=1.1, label=names[j] or "x")
            axes.tick_params(labelsize=8, labelbottom=i == len(rows) - 1, labelleft=k == 0)
            axes.spines[["top", "right"]].set_visible(False)
            if k == 0:
                axes.set_ylabel(name, fontsize=9)
    assert top is not None
    if shown > 1:
        legend_above(figure, top)
    figure.supxlabel("time step (values in standard deviations of the first row)", fontsize=10)
    return figure
