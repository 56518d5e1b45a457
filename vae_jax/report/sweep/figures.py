"""The figures of a sweep, as matplotlib figures from what `sweep_summary` makes of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from vae_jax.report.run import figures
from vae_jax.report.sweep import axes as sweep_axes
from vae_jax.report.sweep.content import Overview, Setting, evenly, far_off, in_words, kl_rows, label
from vae_jax.sweep.statistics import lower_hull


def rate_distortion(seen: Overview) -> Figure:
    """Distortion against rate: every setting's mean with its errors, its members, the lower hull of each part, equal ELBOs."""
    figure = Figure(layout="constrained")
    series = [(part.label, colour) for part, colour in zip(seen.parts, sweep_axes.colours_of(len(seen.parts)), strict=True)]
    on_hulls, labels = [], []
    for axes, parts, colours in sweep_axes.unit_panels(figure, seen):
        axes.set(xlabel="rate  KL(q(z|x) ‖ p(z)), nats per example", ylabel="distortion  −E log p(x|z), nats per example")
        good = [setting for part in parts for setting in sweep_axes.known(part)]
        if not good:
            sweep_axes.leave_empty(axes)
            continue
        crowded = len(good) > 14
        shades = {}
        if crowded and len(seen.parts) == 1:  # the first hyperparameter as colour, where there is no room for labels
            shades, mappable = sweep_axes.by_value([setting.values[0] for setting in good])
            if mappable is not None:
                sweep_axes.colour_bar(figure, mappable, axes, seen.names[0])
            elif len(shades) > 1:
                series = [(word, shades[value]) for value, word in sweep_axes.axis_words(seen, good).items()]
        for part, own in zip(parts, colours, strict=True):
            settings = sweep_axes.known(part)
            means = [[setting.point.numbers[name].mean for setting in settings] for name in ("rate", "distortion")]
            hull = lower_hull(*means)
            axes.plot(*([mean[i] for i in hull] for mean in means), color=own, lw=1, alpha=0.7, ls="--", zorder=2, gid="hull")
            for i, setting in enumerate(settings):
                colour, x, y = shades.get(setting.values[0], own), *(mean[i] for mean in means)
                rows = [part.members[number].row for number in setting.point.members]
                members = [[row[name] for row in rows] for name in ("rate", "distortion")]
                axes.scatter(*members, color=colour, s=14, alpha=0.4, linewidths=0)
                axes.plot(x, y, "o", color=colour, markersize=5, zorder=4)
                sweep_axes.bars(axes, setting.point.numbers["rate"], colour, y, horizontal=True)
                sweep_axes.bars(axes, setting.point.numbers["distortion"], colour, x, horizontal=False)
                if i in hull or not crowded:
                    text = label(seen.names, setting) if len(seen.names) == 1 else "; ".join(setting.words)
                    (on_hulls if i in hull else labels).append((axes, x, y, text, own))
        rates, ends = sweep_axes.spread(parts, "rate")
        left, right = sweep_axes.reaching(rates, ends)
        axes.set_xlim(max(left, -0.05 * right) if min(rates) >= 0 else left, right)  # no rate is negative
        axes.set_ylim(*sweep_axes.reaching(*sweep_axes.spread(parts, "distortion")))
        figures.equal_elbos(axes)
    hulls = [np.size(line.get_xdata()) for axes in figure.axes for line in axes.lines if line.get_gid() == "hull"]
    hull_mark = Line2D([], [], color=sweep_axes.GREY, linewidth=1, linestyle="--", label="lower convex hull")
    line_mark = Line2D([], [], color="#cbd2d9", linewidth=0.8, label="equal ELBO (value at the edge)")
    sweep_axes.legend(figure, seen, series, [*[hull_mark] * (max(hulls, default=0) > 1), *[line_mark] * bool(hulls)])
    _write_labels(figure, [*on_hulls, *labels])
    return figure


def _write_labels(figure: Figure, labels: Sequence[tuple[Any, float, float, str, Any]]) -> None:
    """Each label where it covers neither a point nor another label; left out where there is no such place."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    taken = []
    for axes, x, y, _, _ in labels:
        centre = axes.transData.transform((x, y))
        taken.append((*(centre - 4), *(centre + 4)))
    for axes, x, y, text, colour in labels:
        frame = axes.get_window_extent()
        note = axes.annotate(text, (x, y), (0, 0), textcoords="offset points", fontsize=9, color=colour, zorder=6)
        note.set_path_effects([withStroke(linewidth=2.5, foreground="white")])  # to be read over bars
        for distance in (5, 12, 20):
            for right, up in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                note.set(position=(right * distance, up * distance), ha="left" if right > 0 else "right")
                note.set_va("bottom" if up > 0 else "top")
                box = note.get_window_extent()
                inside = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
                if inside and not any(a < box.x1 and c > box.x0 and b < box.y1 and d > box.y0 for a, b, c, d in taken):
                    taken.append((box.x0, box.y0, box.x1, box.y1))
                    break
            else:
                continue
            break
        else:
            note.remove()


def elbo(seen: Overview) -> Figure:
    """The ELBO against the first hyperparameter that varies; a line for each value of the others, where they are few."""
    figure = Figure(layout="constrained")
    panels = sweep_axes.unit_panels(figure, seen)
    lines: dict[tuple[str, ...], list[Setting]] = {}  # by part and the other hyperparameters
    for part in seen.parts:
        for setting in sweep_axes.known(part):
            lines.setdefault((part.label, *setting.words[1:]), []).append(setting)
    others, few = [in_words(name) for name in seen.names[1:]], len(lines) <= sweep_axes.FEW
    if few:
        words = [", ".join(filter(None, [part, *map(" = ".join, zip(others, own, strict=True))])) for part, *own in lines]
        colours = dict(zip(lines, sweep_axes.colours_of(len(lines)), strict=True))
        series = list(zip(words, colours.values(), strict=True))
    elif len(seen.parts) == 1:  # such as a design: the second hyperparameter as colour
        shades, mappable = sweep_axes.by_value([line[0].values[1] for line in lines.values()])
        colours = {key: shades[line[0].values[1]] for key, line in lines.items()}
        series = list({f"{others[0]} = {key[1]}": colour for key, colour in colours.items()}.items())
        if mappable is not None:
            series = []
            sweep_axes.colour_bar(figure, mappable, panels[0][0], seen.names[1])
    else:
        series = list(zip([part.label for part in seen.parts], sweep_axes.colours_of(len(seen.parts)), strict=True))
        colours = {key: dict(series)[key[0]] for key in lines}
    for axes, parts, _ in panels:
        axes.set(xlabel=in_words(seen.names[0]), ylabel="test ELBO (β = 1), nats per example")
        own = [(part, key, line) for part in parts for key, line in lines.items() if key[0] == part.label]
        if not own:
            sweep_axes.leave_empty(axes)
            continue
        sweep_axes.set_scale(axes, {setting.values[0]: setting.words[0] for _, _, line in own for setting in line})
        axes.set_ylim(*sweep_axes.reaching(*sweep_axes.spread(parts, "test_elbo")))
        for i, (part, key, line) in enumerate(own):
            colour, shift = colours[key], 5 * (i - (len(own) - 1) / 2) if few else 0.0
            beside = {"transform": axes.transData + ScaledTranslation(shift / 72, 0, figure.dpi_scale_trans)}  # points apart
            if few:
                means = [setting.point.numbers["test_elbo"].mean for setting in line]
                axes.plot([setting.values[0] for setting in line], means, color=colour, linewidth=1, alpha=0.7, **beside)
            for setting in line:
                one, x = setting.point.numbers["test_elbo"], setting.values[0]
                members = [part.members[number].row["test_elbo"] for number in setting.point.members]
                axes.scatter([x] * len(members), members, color=colour, s=14, alpha=0.4, linewidths=0, **beside)
                axes.plot(x, one.mean, "o", color=colour, markersize=5, zorder=4, **beside)
                sweep_axes.bars(axes, one, colour, x, horizontal=False, **beside)
    sweep_axes.legend(figure, seen, series, [])
    return figure


def kl_per_dimension(seen: Overview, most: int) -> Figure:
    """A heat map for each part: the KL of each latent dimension, largest first, for each setting."""
    rows = [(part, evenly(found, max(2, most // len(seen.parts)))) for part in seen.parts if (found := kl_rows(part))]
    widest, highest = max(len(kl) for _, found in rows for _, kl in found), max(kl[0] for _, found in rows for _, kl in found)
    heights = [0.9 + 0.32 * len(found) for _, found in rows]
    figure = Figure(figsize=(max(6.0, min(11.0, 0.62 * widest + 2.5)), max(2.4, sum(heights) + 0.3)), layout="constrained")
    grid = {"height_ratios": heights}
    panels = figure.subplots(len(rows), 1, squeeze=False, gridspec_kw=grid).ravel()
    shades = Normalize(0, max(highest, 1e-6))
    for axes, (part, found) in zip(panels, rows, strict=True):
        picture = np.array([kl for _, kl in found])
        axes.imshow(picture, cmap="Blues", norm=shades, aspect="auto", interpolation="nearest")
        axes.set_xlim(-0.5, widest - 0.5)  # the same dimension at the same place in all parts
        axes.set_yticks(range(len(found)), [label(seen.names, setting) for setting, _ in found])
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


def learning_curves(seen: Overview, most: int) -> Figure:
    """ELBO, log-likelihood and KL on the test set against the epoch, a line for each member; a row for each part."""
    parts = evenly([part for part in seen.parts if any(member.curve for member in part.members.values())], most)
    colours, mappable = sweep_axes.by_value([member.value for part in parts for member in part.members.values()])
    figure = Figure(figsize=(11, 3.0 * len(parts) + 0.4), layout="constrained")
    grid = figure.subplots(len(parts), 3, squeeze=False)
    for row, part in zip(grid, parts, strict=True):
        alike = [other for other in seen.parts if other.unit == part.unit]
        far = far_off(alike)
        kept = [m for other in alike for number, m in other.members.items() if m.is_good and number not in far and m.curve]
        for axes, (name, title) in zip(row, figures.TERMS, strict=True):
            for member in part.members.values():
                values = [line[f"test_{name}"] for line in member.curve]
                axes.plot(
                    [line["epoch"] for line in member.curve],
                    values,
                    color=colours[member.value],
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
        sweep_axes.colour_bar(figure, mappable, grid, seen.names[0], max(0.3, 1.0 / len(parts)))
    elif len(colours) > 1:
        words = {setting.values[0]: setting.words[0] for part in seen.parts for setting in part.settings}
        handles = [Line2D([], [], color=colour, label=words[value]) for value, colour in colours.items()]
        figure.legend(handles=handles, title=in_words(seen.names[0]), loc="outside right upper", frameon=False)
    return figure
