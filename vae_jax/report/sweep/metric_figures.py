"""Metrics of a sweep against a hyperparameter: a panel for each, a point for each setting, its interval over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from vae_jax.report.sweep.axes import GREY, bars, set_scale
from vae_jax.report.sweep.content import in_words
from vae_jax.sweep.statistics import Point

_COLUMNS = 4


def against(points: Sequence[Point], rows: Sequence[Mapping[str, Any]], across: str, metrics: Mapping[str, str]) -> Figure:
    """One panel for each metric.

    Args:
      points: with the metrics among their numbers.
      rows: of the members, which are shown as small dots.
      across: the setting on the horizontal axis.
      metrics: column -> title.
    """
    lines, columns = -(-len(metrics) // _COLUMNS), min(_COLUMNS, len(metrics))
    figure = Figure(figsize=(max(6.2, 3.1 * columns), 2.6 * lines + 0.7), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    labels = list(dict.fromkeys(_label(point, across) for point in points))
    for axes, (name, title) in zip(panels, metrics.items(), strict=False):
        for number, label in enumerate(labels):
            own = sorted(
                (p for p in points if _label(p, across) == label and name in p.numbers), key=lambda p: p.settings[across]
            )
            x, colour = [point.settings[across] for point in own], f"C{number}"
            means = [point.numbers[name].mean for point in own]
            axes.plot(x, means, "o-", color=colour, markersize=4, linewidth=1, label=label or None)
            for point in own:
                place = point.settings[across]
                bars(axes, point.numbers[name], colour, place, horizontal=False)
                members = [row[name] for row in rows if row["member"] in point.members]
                beside = axes.transData + ScaledTranslation(6 / 72, 0, figure.dpi_scale_trans)  # not under the bar
                axes.scatter([place] * len(members), members, color=colour, s=12, alpha=0.5, linewidths=0, transform=beside)
        values = sorted({point.settings[across] for point in points})
        axes.set_title(title, fontsize=10)
        set_scale(axes, {value: f"{value:zg}" for value in values})
        axes.set_xlabel(in_words(across))
        axes.grid(alpha=0.3)
    for axes in panels[len(metrics) :]:
        axes.set_axis_off()
    series = panels[0].get_legend_handles_labels()[0] if len(labels) > 1 else []
    figure.legend(handles=[*series, *_marks(points)], loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _marks(points: Sequence[Point]) -> list[Line2D]:
    """Returns the legend of the bars, or of the dots alone where every setting has one seed."""
    dot = Line2D([], [], color=GREY, linestyle="", marker="o", markersize=4, alpha=0.5, label="one member")
    if all(len(point.members) < 2 for point in points):
        return [dot]
    return [
        Line2D([], [], color=GREY, linewidth=3.4, label="mean ± standard error"),
        Line2D([], [], color=GREY, linewidth=0.9, label="95 % t-interval over seeds, cut at the metric's range"),
        dot,
    ]


def _label(point: Point, across: str) -> str:
    others = [f"{in_words(name)} = {value:zg}" for name, value in point.settings.items() if name != across]
    return ", ".join([*([point.group] if point.group else []), *others])
