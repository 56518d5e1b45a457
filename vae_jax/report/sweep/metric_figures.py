"""Figure of several metrics of a sweep against a hyperparameter, with intervals over seeds."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from vae_jax.report.html import Record
from vae_jax.report.sweep.axes import GRAY, bars, set_scale
from vae_jax.report.sweep.content import display_name
from vae_jax.sweep.statistics import Point

_COLUMNS = 4


def against(points: Sequence[Point], rows: Sequence[Record], across: str, metrics: Mapping[str, str]) -> Figure:
    """Draws one panel per metric, with the means of the settings, their errors, and the members as small dots.

    Args:
      points: settings whose numbers include the metrics.
      rows: one row per member, with the metrics as columns.
      across: name of the setting on the horizontal axis.
      metrics: column -> title of its panel.
    """
    lines, columns = -(-len(metrics) // _COLUMNS), min(_COLUMNS, len(metrics))
    figure = Figure(figsize=(max(6.2, 3.1 * columns), 2.6 * lines + 0.7), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    labels = list(dict.fromkeys(_label(point, across) for point in points))
    for axes, (name, title) in zip(panels, metrics.items(), strict=False):
        for number, label in enumerate(labels):
            series = sorted(
                (p for p in points if _label(p, across) == label and name in p.numbers), key=lambda p: p.settings[across]
            )
            x, color = [point.settings[across] for point in series], f"C{number}"
            means = [point.numbers[name].mean for point in series]
            axes.plot(x, means, "o-", color=color, markersize=4, linewidth=1, label=label or None)
            for point in series:
                place = point.settings[across]
                bars(axes, point.numbers[name], color, place, horizontal=False)
                members = [row[name] for row in rows if row["member"] in point.members]
                beside = axes.transData + ScaledTranslation(6 / 72, 0, figure.dpi_scale_trans)  # beside the bar, not under it
                axes.scatter([place] * len(members), members, color=color, s=12, alpha=0.5, linewidths=0, transform=beside)
        values = sorted({point.settings[across] for point in points})
        axes.set_title(title, fontsize=10)
        set_scale(axes, {value: f"{value:zg}" for value in values})
        axes.set_xlabel(display_name(across))
        axes.grid(alpha=0.3)
    for axes in panels[len(metrics) :]:
        axes.set_axis_off()
    handles = panels[0].get_legend_handles_labels()[0] if len(labels) > 1 else []
    figure.legend(handles=[*handles, *_marks(points)], loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _marks(points: Sequence[Point]) -> list[Line2D]:
    """Returns the legend entries of bars and dots, or of dots alone if every setting has one seed."""
    dot = Line2D([], [], color=GRAY, linestyle="", marker="o", markersize=4, alpha=0.5, label="one member")
    if all(len(point.members) < 2 for point in points):
        return [dot]
    return [
        Line2D([], [], color=GRAY, linewidth=3.4, label="mean ± standard error"),
        Line2D([], [], color=GRAY, linewidth=0.9, label="95 % t-interval over seeds, cut at the metric's range"),
        dot,
    ]


def _label(point: Point, across: str) -> str:
    others = [f"{display_name(name)} = {value:zg}" for name, value in point.settings.items() if name != across]
    return ", ".join([*([point.group] if point.group else []), *others])
