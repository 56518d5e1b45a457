"""Panels, colors, scales, limits, error bars and legends that the figures of a sweep share."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm, Normalize, SymLogNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import Transform
from matplotlib.typing import ColorType

from vae_jax.report.run import figures
from vae_jax.report.sweep.content import Overview, Part, Setting, display_name, find_outliers
from vae_jax.sweep.statistics import Interval

GRAY, BAR = "#7b8794", "bar"
FEW = 10  # the largest number of values that get a color and a tick each


def unit_panels(figure: Figure, overview: Overview) -> list[tuple[Axes, list[Part], list[ColorType]]]:
    """Adds one panel per unit and returns its axes, the parts with that unit, and their colors.

    Panels have a title only if there are several units.
    """
    colors = {part.label: color for part, color in zip(overview.parts, series_colors(len(overview.parts)), strict=True)}
    columns = min(2, len(overview.units))
    rows = -(-len(overview.units) // columns)
    figure.set_size_inches(8.6 if columns == 1 else 11, (5.2 if columns == 1 else 4.2) * rows)
    panels = []
    for axes, unit in zip(figure.subplots(rows, columns, squeeze=False).ravel(), [*overview.units, None], strict=False):
        if unit is None:  # an odd number of panels
            axes.set_axis_off()
            continue
        parts = [part for part in overview.parts if part.unit == unit]
        if len(overview.units) > 1:
            axes.set_title(unit, fontsize=11, pad=16)
        axes.grid(alpha=0.2)
        panels.append((axes, parts, [colors[part.label] for part in parts]))
    return panels


def series_colors(count: int) -> list[ColorType]:
    """Returns distinct colors, which become similar if there are more than ten."""
    if count == 1:
        return [figures.TEST]
    many = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, count))
    return [f"C{i}" for i in range(count)] if count <= 10 else [to_rgba(row) for row in many]


def known_settings(part: Part) -> list[Setting]:
    """Returns the settings of a part that can be drawn."""
    return [setting for setting in part.settings if setting.is_known]


def leave_empty(axes: Axes) -> None:
    """Writes into the axes that there is nothing to draw."""
    axes.text(0.5, 0.5, "no member finished", transform=axes.transAxes, ha="center")
    axes.set(xticks=[], yticks=[])


def axis_limits(values: Sequence[float], ends: Sequence[float]) -> tuple[float, float]:
    """Returns a range that holds all values, and the ends of their intervals unless these would flatten the values."""
    low, high = figures.limits(values)
    span = high - low
    margin = span if min([low, *ends]) >= low - span and max([high, *ends]) <= high + span else 0.25 * span
    low, high = max(min([low, *ends]), low - margin), min(max([high, *ends]), high + margin)
    return low - 0.02 * (high - low), high + 0.02 * (high - low)  # so that the end of an interval is visible


def spread(parts: Sequence[Part], name: str) -> tuple[list[float], list[float]]:
    """Returns the means and members of a measure without outliers, and the ends of the intervals of these means."""
    outliers = find_outliers(parts)
    kept = [one.point.numbers[name] for part in parts for one in known_settings(part) if not outliers & set(one.point.members)]
    members = [m.row[name] for part in parts for number, m in part.members.items() if m.is_good and number not in outliers]
    ends = [end for one in kept if one.n > 1 for end in (one.low, one.high)]
    return [one.mean for one in kept] + members, ends


def bars(
    axes: Axes, one: Interval, color: ColorType, across: float, *, horizontal: bool, transform: Transform | None = None
) -> None:
    """Draws a thick bar for the standard error of a mean and a thin bar for its interval.

    Args:
      axes: where to draw.
      one: mean, standard error and interval. Nothing is drawn for a single seed.
      color: color of both bars.
      across: position on the other axis.
      horizontal: True if the mean lies on the horizontal axis.
      transform: of the position, that of the data by default.
    """
    if one.n < 2:
        return
    thick = (one.mean - one.standard_error, one.mean + one.standard_error)
    for ends, width, marker, alpha in (
        (thick, 3.4, "none", None),
        ((one.low, one.high), 0.9, "|" if horizontal else "_", 0.7),
    ):
        x, y = (ends, (across, across)) if horizontal else ((across, across), ends)
        axes.plot(
            x,
            y,
            color=color,
            linewidth=width,
            marker=marker,
            alpha=alpha,
            solid_capstyle="butt",
            zorder=3,
            gid=BAR,
            transform=transform or axes.transData,
        )


def cut_bars(figure: Figure) -> str:
    """Returns a sentence for the caption about the bars that reach beyond the axes, or "" if none do."""
    cut = total = 0
    for axes in figure.axes:
        limits = np.array([axes.get_xlim(), axes.get_ylim()])
        ends = np.array([line.get_xydata() for line in axes.lines if line.get_gid() == BAR]).reshape(-1, 2, 2)
        total += len(ends)
        cut += int(((ends < limits[:, 0]) | (ends > limits[:, 1])).any(axis=(1, 2)).sum())
    return f" Cut off at the edges: {cut} of {total // 2} intervals." if cut else ""


def legend(figure: Figure, overview: Overview, series: Sequence[tuple[str, ColorType]], others: Sequence[Line2D]) -> None:
    """Adds a legend below the panels and makes the figure higher by it.

    The legend has columns for the series, if there are several, and then the meanings of the marks.
    """
    entries = [Line2D([], [], color=color, marker="o", label=name) for name, color in series if len(series) > 1]
    marks = list(others)
    if any(one.point.numbers["test_elbo"].n > 1 for part in overview.parts for one in known_settings(part)):
        marks = [
            Line2D([], [], color=GRAY, linewidth=3.4, label="± standard error"),
            Line2D([], [], color=GRAY, linewidth=0.9, label="95 % interval"),
            Line2D([], [], color=GRAY, linestyle="", marker="o", markersize=4, alpha=0.4, label="one member"),
            *marks,
        ]
    rows = max(len(marks), min(len(entries), FEW)) if entries else -(-len(marks) // 3)
    if rows:
        blank = Line2D([], [], linestyle="", label=" ")
        handles = [*entries, *[blank] * (-len(entries) % rows), *marks, *[blank] * (-len(marks) % rows)]
        figure.set_figheight(figure.get_figheight() + 0.2 * rows)
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles) // rows, frameon=False, fontsize=9)


def axis_labels(overview: Overview, settings: Sequence[Setting]) -> dict[float, str]:
    """Returns the values of the hyperparameter on the axis with labels such as "β = 0.5", in increasing order."""
    labels = {setting.values[0]: f"{display_name(overview.names[0])} = {setting.labels[0]}" for setting in settings}
    return dict(sorted(labels.items()))


def set_scale(axes: Axes, ticks: Mapping[float, str]) -> None:
    """Sets scale, limits and ticks of the axis of a hyperparameter from its values and their labels."""
    kind = scale(list(ticks))
    axes.set_xscale(kind, **({"linthresh": min(value for value in ticks if value > 0)} if kind == "symlog" else {}))
    if kind == "log":
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:zg}")
    axes.xaxis.set_minor_locator(NullLocator())
    if len(ticks) <= FEW:
        axes.set_xticks(list(ticks), list(ticks.values()))
    to_axis = axes.xaxis.get_transform()
    limits = np.array(figures.limits(to_axis.transform(np.array(list(ticks))).tolist()))
    axes.set_xlim(*to_axis.inverted().transform(limits).tolist())


def colors_by_value(values: Sequence[float]) -> tuple[dict[float, ColorType], ScalarMappable | None]:
    """Returns a color for each value, from dark to light.

    Few values are colored by rank. For many values, the second result is what a color bar needs.
    """
    distinct = sorted(set(values))
    colors = ListedColormap(
        matplotlib.colormaps["viridis"](np.linspace(0, 0.92, 256))
    )  # without the yellow end, which is hard to see
    if len(distinct) == 1:
        return {distinct[0]: figures.TEST}, None
    if len(distinct) <= FEW:
        return {
            value: to_rgba(row) for value, row in zip(distinct, colors(np.linspace(0, 1, len(distinct))), strict=True)
        }, None
    low, high = distinct[0], distinct[-1]
    norm = {"linear": Normalize, "log": LogNorm, "symlog": _symlog}[scale(distinct)](low, high)
    mappable = ScalarMappable(norm, colors)
    return {value: to_rgba(row) for value, row in zip(distinct, mappable.to_rgba(np.array(distinct)), strict=True)}, mappable


def _symlog(low: float, high: float) -> SymLogNorm:
    return SymLogNorm(high / 1000, vmin=low, vmax=high)


def scale(values: Sequence[float]) -> str:
    """Chooses the scale of the axis of a hyperparameter: "linear", "log" or "symlog".

    The scale is logarithmic if the positive values span more than a factor of ten. Otherwise the scale on which they are spaced
    more evenly is chosen, and two values are linear. A logarithmic scale that includes zero is linear around zero ("symlog").
    """
    positive = np.unique([value for value in values if value > 0])
    if min(values) < 0 or not len(positive):
        return "linear"
    if positive[-1] <= 10 * positive[0] and _unevenness(np.log(positive)) >= _unevenness(positive) - 1e-9:
        return "linear"
    return "log" if min(values) > 0 else "symlog"


def _unevenness(places: np.ndarray) -> float:
    """Returns the sum of squared gaps in units of the range, which is 1 / (n - 1) for n evenly spaced places."""
    gaps = np.diff(places)
    return float(np.sum(gaps**2) / np.sum(gaps) ** 2) if len(gaps) else 0.0


def color_bar(figure: Figure, mappable: ScalarMappable, axes: Axes | np.ndarray, name: str, shrink: float = 1.0) -> None:
    """Adds a color bar for the values of a hyperparameter."""
    ticks = LogLocator(subs=(1, 2, 5)) if isinstance(mappable.norm, LogNorm) else None
    bar = figure.colorbar(mappable, ax=axes, label=display_name(name), shrink=shrink, ticks=ticks, format="{x:zg}")
    bar.minorticks_off()
