"""Metrics of a sweep against a hyperparameter: a panel for each, a point for each setting, its interval over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from vae_jax.report.sweep_axes import scale
from vae_jax.sweep.table import Point

_COLUMNS = 4
_FEW = 8  # values that are all marked on the axis


def against(points: Sequence[Point], rows: Sequence[Mapping[str, Any]], across: str, metrics: Mapping[str, str]) -> Figure:
    """One panel for each metric.

    Args:
      points: with the metrics among their numbers.
      rows: of the members, which are shown as small dots.
      across: the setting on the horizontal axis.
      metrics: column -> title.
    """
    lines = -(-len(metrics) // _COLUMNS)
    figure = Figure(figsize=(3.1 * _COLUMNS, 2.6 * lines + 0.3), layout="constrained")
    panels = figure.subplots(lines, _COLUMNS, squeeze=False).ravel()
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
                one, place = point.numbers[name], point.settings[across]
                if one.n > 1:
                    axes.errorbar(place, one.mean, [[one.mean - one.low], [one.high - one.mean]], color=colour, capsize=2)
                members = [row[name] for row in rows if row["member"] in point.members]
                beside = axes.transData + ScaledTranslation(6 / 72, 0, figure.dpi_scale_trans)  # not under the bar
                axes.scatter([place] * len(members), members, color=colour, s=12, alpha=0.5, linewidths=0, transform=beside)
        values = sorted({point.settings[across] for point in points})
        axes.set_title(title, fontsize=10)
        axes.set_xscale(scale(values))
        if len(values) <= _FEW:
            axes.set_xticks(values, [f"{value:g}" for value in values])
            axes.minorticks_off()
        axes.set_xlabel("β" if across == "beta" else across.replace("_", " "))
        axes.grid(alpha=0.3)
    for axes in panels[len(metrics) :]:
        axes.set_axis_off()
    if len(labels) > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(4, len(labels)))
    return figure


def _label(point: Point, across: str) -> str:
    others = [f"{name} = {value:g}" for name, value in point.settings.items() if name != across]
    return ", ".join([*([point.group] if point.group else []), *others])
