"""Figures of a sweep, drawn with matplotlib from its `Overview`."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation
from matplotlib.typing import ColorType

from vae_jax.report.run import figures
from vae_jax.report.sweep import axes as sweep_axes
from vae_jax.report.sweep.content import (
    Overview,
    Setting,
    display_name,
    evenly,
    find_outliers,
    kl_rows,
    number_labels,
    setting_label,
)
from vae_jax.sweep.statistics import lower_hull

_Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels


def rate_distortion(overview: Overview) -> Figure:
    """Draws distortion against rate: means of the settings with errors, members, lower hulls of the parts, and equal ELBOs."""
    figure = Figure(layout="constrained")
    series = [
        (part.label, color) for part, color in zip(overview.parts, sweep_axes.series_colors(len(overview.parts)), strict=True)
    ]
    on_hulls, labels = [], []
    for axes, parts, colors in sweep_axes.unit_panels(figure, overview):
        axes.set(xlabel="rate  KL(q(z|x) ‖ p(z)), nats per example", ylabel="distortion  −E log p(x|z), nats per example")
        good = [setting for part in parts for setting in sweep_axes.known_settings(part)]
        if not good:
            sweep_axes.leave_empty(axes)
            continue
        crowded = len(good) > 14
        shades = {}
        if crowded and len(overview.parts) == 1:  # without space for labels, color shows the first hyperparameter
            shades, mappable = sweep_axes.colors_by_value([setting.values[0] for setting in good])
            if mappable is not None:
                sweep_axes.color_bar(figure, mappable, axes, overview.names[0])
            elif len(shades) > 1:
                series = [(label, shades[value]) for value, label in sweep_axes.axis_labels(overview, good).items()]
        for part, part_color in zip(parts, colors, strict=True):
            settings = sweep_axes.known_settings(part)
            means = [[setting.point.numbers[name].mean for setting in settings] for name in ("rate", "distortion")]
            hull = lower_hull(*means)
            axes.plot(
                *([mean[i] for i in hull] for mean in means), color=part_color, lw=1, alpha=0.7, ls="--", zorder=2, gid="hull"
            )
            for i, setting in enumerate(settings):
                color, x, y = shades.get(setting.values[0], part_color), *(mean[i] for mean in means)
                rows = [part.members[number].row for number in setting.point.members]
                members = [[row[name] for row in rows] for name in ("rate", "distortion")]
                axes.scatter(*members, color=color, s=14, alpha=0.4, linewidths=0)
                axes.plot(x, y, "o", color=color, markersize=5, zorder=4)
                sweep_axes.bars(axes, setting.point.numbers["rate"], color, y, horizontal=True)
                sweep_axes.bars(axes, setting.point.numbers["distortion"], color, x, horizontal=False)
                if i in hull or not crowded:
                    text = setting_label(overview.names, setting) if len(overview.names) == 1 else "; ".join(setting.labels)
                    (on_hulls if i in hull else labels).append((axes, x, y, text, part_color))
        rates, ends = sweep_axes.spread(parts, "rate")
        left, right = sweep_axes.axis_limits(rates, ends)
        axes.set_xlim(
            max(left, -0.05 * right) if min(rates) >= 0 else left, right
        )  # a rate is at least 0, its estimate need not be
        axes.set_ylim(*sweep_axes.axis_limits(*sweep_axes.spread(parts, "distortion")))
        figures.equal_elbos(axes)
    hulls = [np.size(line.get_xdata()) for axes in figure.axes for line in axes.lines if line.get_gid() == "hull"]
    hull_mark = Line2D([], [], color=sweep_axes.GRAY, linewidth=1, linestyle="--", label="lower convex hull")
    line_mark = Line2D([], [], color="#cbd2d9", linewidth=0.8, label="equal ELBO (value at the edge)")
    sweep_axes.legend(figure, overview, series, [*[hull_mark] * (max(hulls, default=0) > 1), *[line_mark] * bool(hulls)])
    _write_labels(figure, [*on_hulls, *labels])
    return figure


def _write_labels(figure: Figure, labels: Sequence[tuple[Axes, float, float, str, ColorType]]) -> None:
    """Writes each label where it covers neither a point nor an earlier label, and omits labels that do not fit."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    taken: list[_Box] = []
    for axes, x, y, _, _ in labels:
        x_pixel, y_pixel = axes.transData.transform((x, y))
        taken.append((x_pixel - 4, y_pixel - 4, x_pixel + 4, y_pixel + 4))
    for axes, x, y, text, color in labels:
        note = axes.annotate(text, (x, y), (0, 0), textcoords="offset points", fontsize=9, color=color, zorder=6)
        note.set_path_effects([withStroke(linewidth=2.5, foreground="white")])  # readable on top of bars
        box = _place(note, axes, taken)
        if box is None:
            note.remove()
        else:
            taken.append(box)


def _place(note: Annotation, axes: Axes, taken: Sequence[_Box]) -> _Box | None:
    """Moves a label next to its point into a free place and returns its box, or None if every place is taken."""
    frame = axes.get_window_extent()
    for distance in (5, 12, 20):
        for right, up in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            note.set(position=(right * distance, up * distance), ha="left" if right > 0 else "right")
            note.set_verticalalignment("bottom" if up > 0 else "top")
            box = note.get_window_extent()
            inside = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
            if inside and not any(a < box.x1 and c > box.x0 and b < box.y1 and d > box.y0 for a, b, c, d in taken):
                return box.x0, box.y0, box.x1, box.y1
    return None


def elbo(overview: Overview) -> Figure:
    """Draws the ELBO against the first hyperparameter that varies, with a line for each value of the others if they are few."""
    figure = Figure(layout="constrained")
    panels = sweep_axes.unit_panels(figure, overview)
    lines: dict[tuple[str, ...], list[Setting]] = {}  # key: the label of the part and the labels of the other hyperparameters
    for part in overview.parts:
        for setting in sweep_axes.known_settings(part):
            lines.setdefault((part.label, *setting.labels[1:]), []).append(setting)
    other_names, few = [display_name(name) for name in overview.names[1:]], len(lines) <= sweep_axes.FEW
    if few:
        names = [
            ", ".join(filter(None, [part, *map(" = ".join, zip(other_names, labels, strict=True))])) for part, *labels in lines
        ]
        colors = dict(zip(lines, sweep_axes.series_colors(len(lines)), strict=True))
        series = list(zip(names, colors.values(), strict=True))
    elif len(overview.parts) == 1:  # such as a design, where color shows the second hyperparameter
        shades, mappable = sweep_axes.colors_by_value([line[0].values[1] for line in lines.values()])
        colors = {key: shades[line[0].values[1]] for key, line in lines.items()}
        series = list({f"{other_names[0]} = {key[1]}": color for key, color in colors.items()}.items())
        if mappable is not None:
            series = []
            sweep_axes.color_bar(figure, mappable, panels[0][0], overview.names[1])
    else:
        series = list(zip([part.label for part in overview.parts], sweep_axes.series_colors(len(overview.parts)), strict=True))
        colors = {key: dict(series)[key[0]] for key in lines}
    for axes, parts, _ in panels:
        axes.set(xlabel=display_name(overview.names[0]), ylabel="test ELBO (β = 1), nats per example")
        drawn = [(part, key, line) for part in parts for key, line in lines.items() if key[0] == part.label]
        if not drawn:
            sweep_axes.leave_empty(axes)
            continue
        sweep_axes.set_scale(axes, {setting.values[0]: setting.labels[0] for _, _, line in drawn for setting in line})
        axes.set_ylim(*sweep_axes.axis_limits(*sweep_axes.spread(parts, "test_elbo")))
        for i, (part, key, line) in enumerate(drawn):
            color, shift = colors[key], 5 * (i - (len(drawn) - 1) / 2) if few else 0.0
            beside = axes.transData + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans)  # shifted by points
            if few:
                means = [setting.point.numbers["test_elbo"].mean for setting in line]
                axes.plot([setting.values[0] for setting in line], means, color=color, linewidth=1, alpha=0.7, transform=beside)
            for setting in line:
                one, x = setting.point.numbers["test_elbo"], setting.values[0]
                members = [part.members[number].row["test_elbo"] for number in setting.point.members]
                axes.scatter([x] * len(members), members, color=color, s=14, alpha=0.4, linewidths=0, transform=beside)
                axes.plot(x, one.mean, "o", color=color, markersize=5, zorder=4, transform=beside)
                sweep_axes.bars(axes, one, color, x, horizontal=False, transform=beside)
    sweep_axes.legend(figure, overview, series, [])
    return figure


def kl_per_dimension(overview: Overview, max_rows: int) -> Figure:
    """Draws a heat map for each part with the KL of each latent dimension, largest first, for each setting."""
    count = max(2, max_rows // len(overview.parts))
    rows = [(part, evenly(part_rows, count)) for part in overview.parts if (part_rows := kl_rows(part))]
    every_kl = [kl for _, part_rows in rows for _, kl in part_rows]
    widest, highest = max(len(kl) for kl in every_kl), max(kl[0] for kl in every_kl)
    heights = [0.9 + 0.32 * len(part_rows) for _, part_rows in rows]
    figure = Figure(figsize=(max(6.0, min(11.0, 0.62 * widest + 2.5)), max(2.4, sum(heights) + 0.3)), layout="constrained")
    grid = {"height_ratios": heights}
    panels = figure.subplots(len(rows), 1, squeeze=False, gridspec_kw=grid).ravel()
    shades = Normalize(0, max(highest, 1e-6))
    for axes, (part, part_rows) in zip(panels, rows, strict=True):
        picture = np.array([kl for _, kl in part_rows])
        axes.imshow(picture, cmap="Blues", norm=shades, aspect="auto", interpolation="nearest")
        axes.set_xlim(-0.5, widest - 0.5)  # the same dimension at the same place in all parts
        axes.set_yticks(range(len(part_rows)), [setting_label(overview.names, setting) for setting, _ in part_rows])
        step = 1 if widest <= 16 else -(-widest // 10)
        axes.set_xticks(ticks := range(0, picture.shape[1], step), [str(tick + 1) for tick in ticks])
        axes.spines[:].set_visible(False)
        axes.set_title(part.label, fontsize=10, loc="left")
        for (i, j), value in np.ndenumerate(picture if widest <= 16 else np.empty((0, 0))):
            axes.text(
                j, i, f"{value:z.2f}", ha="center", va="center", fontsize=8, color="white" if shades(value) > 0.6 else "black"
            )
    panels[-1].set_xlabel("latent dimension, largest KL first")
    figure.colorbar(ScalarMappable(shades, "Blues"), ax=panels, label="nats per example", shrink=min(1.0, 4.0 / sum(heights)))
    return figure


def learning_curves(overview: Overview, max_parts: int) -> Figure:
    """Draws ELBO, log-likelihood and KL on the test set against the epoch, with a line per member and a row per part."""
    parts = evenly([part for part in overview.parts if any(member.curve for member in part.members.values())], max_parts)
    colors, mappable = sweep_axes.colors_by_value([member.value for part in parts for member in part.members.values()])
    figure = Figure(figsize=(11, 3.0 * len(parts) + 0.4), layout="constrained")
    grid = figure.subplots(len(parts), 3, squeeze=False)
    for row, part in zip(grid, parts, strict=True):
        alike = [other for other in overview.parts if other.unit == part.unit]
        outliers = find_outliers(alike)
        kept = [m for other in alike for number, m in other.members.items() if m.is_good and number not in outliers and m.curve]
        for axes, (name, title) in zip(row, figures.TERMS, strict=True):
            for member in part.members.values():
                values = [line[f"test_{name}"] for line in member.curve]
                axes.plot(
                    [line["epoch"] for line in member.curve],
                    values,
                    color=colors[member.value],
                    linewidth=0.9,
                    alpha=0.8,
                    marker="." if len(values) < 3 else None,
                    gid="curve",
                )
            if kept:  # the first epochs, or a few steep falls, would flatten all that follows
                settled = np.array([line[f"test_{name}"] for member in kept for line in figures.settled(member.curve)])
                usual = np.percentile(settled[np.isfinite(settled)], [1, 99])
                axes.set_ylim(*figures.limits([*(member.row[f"test_{name}"] for member in kept), *usual]))
            axes.grid(alpha=0.3)
            axes.set(xlabel="epoch", label=figures.LABELS[name])
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
            if part is parts[0]:
                axes.set_title(title)
        row[0].set_ylabel("\n".join(filter(None, [*part.label.split(", "), "nats per example"])))
    if mappable is not None:
        sweep_axes.color_bar(figure, mappable, grid, overview.names[0], max(0.3, 1.0 / len(parts)))
    elif len(colors) > 1:
        labels = number_labels(colors)  # also of members that were stopped, which are in no setting
        handles = [Line2D([], [], color=color, label=labels[value]) for value, color in colors.items()]
        figure.legend(handles=handles, title=display_name(overview.names[0]), loc="outside right upper", frameon=False)
    return figure
