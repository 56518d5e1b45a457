"""What the figures of a sweep share: a panel for each unit, colours, scales and limits, bars, the legend."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from vae_jax.report.run import figures
from vae_jax.report.sweep.content import Overview, Part, Setting, far_off, in_words
from vae_jax.sweep.statistics import Interval

GREY, BAR = "#7b8794", "bar"
FEW = 10  # values that colours and ticks of their own can tell apart


def unit_panels(figure: Figure, seen: Overview) -> list[tuple[Any, list[Part], list[Any]]]:
    """Axes for each unit, with the parts that share it and their colours; one unit alone needs no title."""
    colours = {part.label: colour for part, colour in zip(seen.parts, colours_of(len(seen.parts)), strict=True)}
    columns = min(2, len(seen.units))
    rows = -(-len(seen.units) // columns)
    figure.set_size_inches(8.6 if columns == 1 else 11, (5.2 if columns == 1 else 4.2) * rows)
    panels = []
    for axes, unit in zip(figure.subplots(rows, columns, squeeze=False).ravel(), [*seen.units, None], strict=False):
        if unit is None:  # an odd number of panels
            axes.set_axis_off()
            continue
        parts = [part for part in seen.parts if part.unit == unit]
        if len(seen.units) > 1:
            axes.set_title(unit, fontsize=11, pad=16)
        axes.grid(alpha=0.2)
        panels.append((axes, parts, [colours[part.label] for part in parts]))
    return panels


def colours_of(count: int) -> list[Any]:
    """Colours that can be told apart, or nearly so where they are many."""
    if count == 1:
        return [figures.TEST]
    many = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, count))
    return [f"C{i}" for i in range(count)] if count <= 10 else list(many)


def known(part: Part) -> list[Setting]:
    """The settings of a part that have a place in the figures."""
    return [setting for setting in part.settings if setting.is_known]


def leave_empty(axes: Any) -> None:
    """Says that there is nothing to draw."""
    axes.text(0.5, 0.5, "no member ended well", transform=axes.transAxes, ha="center")
    axes.set(xticks=[], yticks=[])


def reaching(middle: Sequence[float], reach: Sequence[float]) -> tuple[float, float]:
    """A range that holds all of `middle`, and all of `reach` too unless that would flatten it."""
    low, high = figures.limits(middle)
    span = high - low
    room = span if min([low, *reach]) >= low - span and max([high, *reach]) <= high + span else 0.25 * span
    low, high = max(min([low, *reach]), low - room), min(max([high, *reach]), high + room)
    return low - 0.02 * (high - low), high + 0.02 * (high - low)  # an interval's end is seen as one


def spread(parts: Sequence[Part], name: str) -> tuple[list[float], list[float]]:
    """Of a measure: means and members that are not far off, then the ends of the intervals of those means."""
    far = far_off(parts)
    kept = [one.point.numbers[name] for part in parts for one in known(part) if not far & set(one.point.members)]
    members = [m.row[name] for part in parts for number, m in part.members.items() if m.is_good and number not in far]
    ends = [end for one in kept if one.n > 1 for end in (one.low, one.high)]
    return [one.mean for one in kept] + members, ends


def bars(axes: Any, one: Interval, colour: Any, across: float, *, horizontal: bool, **where: Any) -> None:
    """A thick standard error and a thin interval about a mean that lies at `across` on the other axis."""
    if one.n < 2:
        return
    thick = (one.mean - one.standard_error, one.mean + one.standard_error)
    for ends, style in (
        (thick, {"linewidth": 3.4}),
        ((one.low, one.high), {"linewidth": 0.9, "marker": "|" if horizontal else "_", "alpha": 0.7}),
    ):
        x, y = (ends, (across, across)) if horizontal else ((across, across), ends)
        axes.plot(x, y, color=colour, solid_capstyle="butt", zorder=3, gid=BAR, **style, **where)


def cut_bars(figure: Figure) -> str:
    """Says how many bars reach beyond the axes, for the caption; "" where none do."""
    cut = total = 0
    for axes in figure.axes:
        limits = np.array([axes.get_xlim(), axes.get_ylim()])
        ends = np.array([line.get_xydata() for line in axes.lines if line.get_gid() == BAR]).reshape(-1, 2, 2)
        total += len(ends)
        cut += int(((ends < limits[:, 0]) | (ends > limits[:, 1])).any(axis=(1, 2)).sum())
    return f" Cut off at the edges: {cut} of {total // 2} intervals." if cut else ""


def legend(figure: Figure, seen: Overview, series: Sequence[tuple[str, Any]], others: Sequence[Line2D]) -> None:
    """Below the panels: columns of the series, where there are several, then what the marks mean; the figure grows by it."""
    named = [Line2D([], [], color=colour, marker="o", label=name) for name, colour in series if len(series) > 1]
    marks = list(others)
    if any(one.point.numbers["test_elbo"].n > 1 for part in seen.parts for one in known(part)):
        marks = [
            Line2D([], [], color=GREY, linewidth=3.4, label="± standard error"),
            Line2D([], [], color=GREY, linewidth=0.9, label="95 % interval"),
            Line2D([], [], color=GREY, linestyle="", marker="o", markersize=4, alpha=0.4, label="one member"),
            *marks,
        ]
    rows = max(len(marks), min(len(named), FEW)) if named else -(-len(marks) // 3)
    if rows:
        blank = Line2D([], [], linestyle="", label=" ")
        handles = [*named, *[blank] * (-len(named) % rows), *marks, *[blank] * (-len(marks) % rows)]
        figure.set_figheight(figure.get_figheight() + 0.2 * rows)
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles) // rows, frameon=False, fontsize=9)


def axis_words(seen: Overview, settings: Sequence[Setting]) -> dict[float, str]:
    """The values of the hyperparameter on the axis, such as "β = 0.5", in order."""
    found = {setting.values[0]: f"{in_words(seen.names[0])} = {setting.words[0]}" for setting in settings}
    return dict(sorted(found.items()))


def set_scale(axes: Any, ticks: Mapping[float, str]) -> None:
    """Sets the axis of a hyperparameter from its values and their words; with a tick for each of a few values."""
    kind = scale(list(ticks))
    axes.set_xscale(kind, **({"linthresh": min(value for value in ticks if value > 0)} if kind == "symlog" else {}))
    if kind == "log":
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:zg}")
    axes.xaxis.set_minor_locator(NullLocator())
    if len(ticks) <= FEW:
        axes.set_xticks(list(ticks), list(ticks.values()))
    to_axis = axes.xaxis.get_transform()
    axes.set_xlim(to_axis.inverted().transform(np.array(figures.limits(to_axis.transform(np.array(list(ticks)))))))


def by_value(values: Sequence[float]) -> tuple[dict[float, Any], ScalarMappable | None]:
    """Dark to light: by rank where there are few values, else to be read off a colour bar."""
    distinct = sorted(set(values))
    colours = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.92, 256)))  # its yellow end is hard to see
    if len(distinct) == 1:
        return {distinct[0]: figures.TEST}, None
    if len(distinct) <= FEW:
        return dict(zip(distinct, colours(np.linspace(0, 1, len(distinct))), strict=True)), None
    low, high = distinct[0], distinct[-1]
    norm = {"linear": Normalize, "log": LogNorm, "symlog": _symlog}[scale(distinct)](low, high)
    mappable = ScalarMappable(norm, colours)
    return dict(zip(distinct, mappable.to_rgba(np.array(distinct)), strict=True)), mappable


def _symlog(low: float, high: float) -> SymLogNorm:
    return SymLogNorm(high / 1000, vmin=low, vmax=high)


def scale(values: Sequence[float]) -> str:
    """Chooses the axis of a hyperparameter: logarithmic over more than a decade, and for values like 0.5, 1, 4.

    Within a decade, it is the one on which the values are spaced more evenly; two values are linear. Where zero is among the
    values the axis is linear about zero.
    """
    positive = np.unique([value for value in values if value > 0])
    if min(values) < 0 or not len(positive):
        return "linear"
    if positive[-1] <= 10 * positive[0] and _unevenness(np.log(positive)) >= _unevenness(positive) - 1e-9:
        return "linear"
    return "log" if min(values) > 0 else "symlog"


def _unevenness(places: np.ndarray) -> float:
    """The sum of the squared gaps in units of the whole range: 1 / (n - 1) for n places that are spaced evenly."""
    gaps = np.diff(places)
    return float(np.sum(gaps**2) / np.sum(gaps) ** 2) if len(gaps) else 0.0


def colour_bar(figure: Figure, mappable: ScalarMappable, axes: Any, name: str, shrink: float = 1.0) -> None:
    """Says which colour is which value of a hyperparameter."""
    ticks = LogLocator(subs=(1, 2, 5)) if isinstance(mappable.norm, LogNorm) else None
    bar = figure.colorbar(mappable, ax=axes, label=in_words(name), shrink=shrink, ticks=ticks, format="{x:zg}")
    bar.minorticks_off()
