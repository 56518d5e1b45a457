"""Figures of one run, drawn with matplotlib from plain arrays."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, MaxNLocator

from vae_jax.report.html import Record

TRAIN, TEST, VALIDATION = "#9aa5b1", "#0b6e99", "#d9822b"
MISSING = (0.93, 0.76, 0.55)  # the color of missing pixels, which is neither gray nor that of a line
LABELS, PATH = {"elbo": "ELBO", "log_likelihood": "log-likelihood", "kl": "KL"}, "the path"  # labels of axes, for `cut_off`
TERMS = (("elbo", "ELBO (β = 1)"), ("log_likelihood", "log-likelihood  E log p(x|z)"), ("kl", "KL(q(z|x) ‖ p(z))"))


def rewrite(figure: Figure, translate: Callable[[str], str]) -> Figure:
    """Translates all texts of a figure in place, such as labels of axes and entries of legends, and returns the figure."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if (content := text.get_text()) != (new := translate(content)):
            text.set_text(new)
    # Names of ticks would be written anew when the figure is drawn.
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_locator(), FixedLocator):
            axis.set_ticklabels([translate(text.get_text()) for text in axis.get_ticklabels()])
    return figure


def image_grid(images: np.ndarray, columns: int) -> np.ndarray:
    """Tiles (n, height, width, channels) into one picture with thin white borders. The last row may have fewer tiles."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    canvas = np.ones((rows * (height + 1) + 1, columns * (width + 1) + 1, channels))
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + 1) + 1, (i % columns) * (width + 1) + 1
        canvas[top : top + height, left : left + width] = image
    return canvas


def as_rgb(images: np.ndarray) -> np.ndarray:
    """Returns (..., channels) as (..., 3) in [0, 1]. Three channels are color; otherwise the first one is shown in gray.

    Pixels of which every shown channel is NaN, which stands for missing, have a color of their own; other NaN are 0.
    """
    chosen = images if images.shape[-1] == 3 else np.repeat(images[..., :1], 3, axis=-1)
    is_missing = np.isnan(chosen).all(axis=-1, keepdims=True)
    return np.where(is_missing, MISSING, np.clip(np.nan_to_num(chosen), 0, 1))


def _show(axes: Axes, images: np.ndarray, columns: int) -> None:
    """Shows a grid of images. Images that are single lines or columns of pixels are stretched."""
    height, width = images.shape[1:3]
    aspect = "auto" if max(height, width) > 8 * min(height, width) else "equal"
    axes.imshow(image_grid(as_rgb(images), columns), interpolation="nearest", aspect=aspect)
    axes.set_axis_off()


def _size(width: float, columns: int, rows: int, images: np.ndarray) -> tuple[float, float]:
    """Returns width and height in inches for a grid of images, at most 16 inches high."""
    height = width / columns * rows * images.shape[1] / images.shape[2] + 0.3
    return max(1.0, width * min(1.0, 16.0 / height)), max(1.0, min(16.0, height))


def settled(curve: Sequence[Record]) -> Sequence[Record]:
    """Returns the epochs that set the scale: those after the first tenth, or all if there are at most three."""
    return curve[len(curve) // 10 + 1 :] if len(curve) > 3 else curve


def limits(values: Sequence[float]) -> tuple[float, float]:
    """Returns the range of the values, with a margin."""
    margin = 0.08 * (max(values) - min(values)) or 1.0
    return min(values) - margin, max(values) + margin


def learning_curves(metrics: Sequence[Record]) -> Figure:
    """Draws ELBO, log-likelihood and KL against the epoch, in one panel each."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    epochs = [line["epoch"] for line in metrics]
    for axes, (name, title) in zip(figure.subplots(1, 3), TERMS, strict=True):
        for split, color in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
            if f"{split}_{name}" in metrics[0]:
                values = [line[f"{split}_{name}"] for line in metrics]
                marker = "." if len(epochs) < 3 else None
                axes.plot(epochs, values, color=color, label=split, marker=marker, gid="curve")
        axes.set(title=title, xlabel="epoch", ylabel="nats per example", label=LABELS[name])
        axes.grid(alpha=0.3)
        if len(epochs) > 3 and name != "kl":  # the first epochs would flatten all that follows
            drawn = [split for split in ("train", "validation", "test") if f"{split}_{name}" in metrics[0]]
            shown = [line[f"{split}_{name}"] for line in settled(metrics) for split in drawn]
            shown = [value for value in shown if np.isfinite(value)]
            if shown:
                axes.set_ylim(*limits(shown))
    figure.axes[0].legend()
    return figure


def cut_off(figure: Figure) -> str:
    """Returns a caption's sentence about the epochs of curves and paths outside of the axes, or "" if there are none."""
    outside_points: dict[str, list[tuple[float, float, int]]] = {}  # axes -> (how far outside, value, epoch)
    for axes in figure.axes:
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        for line in axes.lines:
            if line.get_gid() not in ("curve", "path"):
                continue
            x, y = (np.asarray(values, float) for values in line.get_data())
            epochs = x if line.get_gid() == "curve" else np.asarray(axes.collections[0].get_array(), float)
            beyond = np.fmax.reduce([left - x, x - right, bottom - y, y - top])
            outside = (beyond > 0) & np.isfinite(x) & np.isfinite(y)
            points = zip(beyond[outside], y[outside], epochs[outside].astype(int), strict=True)
            outside_points.setdefault(str(axes.get_label()), []).extend(points)
    descriptions = []
    for name, points in outside_points.items():
        if points:
            first, last = (end(epoch for _, _, epoch in points) for end in (min, max))
            when = f"epoch {first}" if first == last else f"epochs {first} to {last}"
            value = "" if name == PATH else f" (as far as {max(points)[1]:z.2f})".replace("-", "−")
            descriptions.append(f"{name} in {when}{value}")
    return f" Cut off at the edges: {'; '.join(descriptions)}." if descriptions else ""


def rate_distortion(metrics: Sequence[Record], epoch: int) -> Figure:
    """Draws the path of a run in the plane of rate (KL) and distortion (-log-likelihood) on the test set, and marks `epoch`."""
    figure = Figure(figsize=(7.6, 4.8), layout="constrained")
    axes = figure.subplots()
    lines = [line for line in metrics if np.isfinite([line["test_kl"], line["test_log_likelihood"]]).all()]
    final = next((line for line in lines if line["epoch"] == epoch), lines[-1] if lines else None)
    axes.set(xlabel="rate  KL(q(z|x) ‖ p(z)), nats per example", ylabel="distortion  −E log p(x|z), nats per example")
    axes.set_title("Rate and distortion on the test set, epoch by epoch", pad=18)
    axes.set_label(PATH)
    if final is None:
        axes.text(0.5, 0.5, "no epoch with finite numbers", transform=axes.transAxes, ha="center")
        axes.set(xticks=[], yticks=[])
        return figure
    rates, distortions = [line["test_kl"] for line in lines], [-line["test_log_likelihood"] for line in lines]
    if len(lines) > 1:
        axes.plot(rates, distortions, color=TRAIN, linewidth=1, zorder=2, gid="path")
        numbers = [line["epoch"] for line in lines]
        points = axes.scatter(rates, distortions, c=numbers, cmap="viridis", s=16, linewidths=0, zorder=3)
        figure.colorbar(points, label="epoch", ticks=MaxNLocator("auto", integer=True))
    x, y = final["test_kl"], -final["test_log_likelihood"]
    label = f"epoch {final['epoch']}, with an ELBO of {-x - y:z.2f} nats".replace("-", "−")
    axes.plot(x, y, "o", color=VALIDATION, markersize=9, markerfacecolor="none", markeredgewidth=2, zorder=4, label=label)
    shown = [final, *(line for line in settled(metrics) if line in lines)]  # the first epochs would flatten all that follows
    left, right = limits([line["test_kl"] for line in shown])
    axes.set_xlim(
        max(left, -0.05 * right) if min(rates) >= 0 else left, right
    )  # a rate is at least 0, its estimate need not be
    axes.set_ylim(*limits([-line["test_log_likelihood"] for line in shown]))
    equal_elbos(axes)
    axes.plot([], [], color="#cbd2d9", linewidth=0.8, label="equal ELBO (value at the edge)")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def equal_elbos(axes: Axes) -> None:
    """Draws lines of equal rate + distortion = -ELBO, with their ELBO at the right or bottom edge of the axes."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    style: dict[str, Any] = {"fontsize": 8, "color": "#7b8794", "clip_on": False}
    for level in MaxNLocator(10).tick_values(left + bottom, right + top):
        axes.axline((left, level - left), slope=-1, color="#cbd2d9", linewidth=0.8, zorder=0)
        nearby = 0.0 if abs(level) < 1e-9 * (right - left) else level  # ticks are rounded; zero is drawn without a sign
        label = f" {-nearby:zg}".replace("-", "−")
        if bottom <= level - right < top - 0.04 * (top - bottom):
            axes.text(right, level - right, label, va="center", **style)
        elif left + 0.03 * (right - left) < level - bottom < right:
            axes.text(level - bottom, bottom, label, ha="center", va="bottom", **style)


def reconstructions(*examples: np.ndarray) -> Figure:
    """Draws rows of originals, each above the row of its reconstructions, and above further rows, such as imputed images.

    Args:
      examples: originals, reconstructions and possibly more, each (n, height, width, channels) in [0, 1]. NaN is missing.
    """
    columns = min(12, len(examples[0]))
    rows = -(-len(examples[0]) // columns)
    figure = Figure(figsize=_size(11.0, columns, len(examples) * rows, examples[0]), layout="constrained")
    stacked = [images[i * columns : (i + 1) * columns] for i in range(rows) for images in examples]
    _show(figure.subplots(), np.concatenate(stacked), columns)
    return figure


def grid(images: np.ndarray, columns: int) -> Figure:
    """Draws a grid of images."""
    rows = -(-len(images) // columns)
    figure = Figure(figsize=_size(min(11.0, 0.75 * columns), columns, rows, images), layout="constrained")
    _show(figure.subplots(), images, columns)
    return figure


def labeled_strips(rows: Sequence[tuple[str, np.ndarray | None]], columns: int = 12) -> Figure:
    """Draws one strip of images per row, with the name of the row on its left.

    Args:
      rows: (name, images of shape (n, height, width, channels)), or (heading, None) for a heading between strips.
      columns: images per strip, at most.
    """
    first = next(images for _, images in rows if images is not None)
    columns = min(columns, *(len(images) for _, images in rows if images is not None))
    lines = max(name.count("\n") + 1 for name, _ in rows)
    image = 10.0 / columns * first.shape[1] / first.shape[2]
    height = max(min(image, 3.0), 0.2 * lines)  # flat images leave space for their name; a page shows several tall ones
    margin = 0.3 + 0.085 * max(len(line) for name, images in rows if images is not None for line in name.split("\n"))
    heights = [0.45 if images is None else height + 0.1 for _, images in rows]
    width, total = 10.0 + margin, sum(heights)
    figure = Figure(figsize=(width, min(40.0, total)))
    grid = {"left": margin / width, "right": 0.995, "top": 0.995, "bottom": 0.005, "hspace": 0.02, "height_ratios": heights}
    for axes, (name, images) in zip(
        np.ravel(figure.subplots(len(rows), 1, squeeze=False, gridspec_kw=grid)), rows, strict=True
    ):
        if images is None:
            axes.text(0.0, 0.1, name, transform=axes.transAxes, va="bottom", fontsize=12, fontweight="bold")
            axes.set_axis_off()
            continue
        _show(axes, images[:columns], columns)
        axes.set_anchor("W")
        axes.text(-0.01, 0.5, name, transform=axes.transAxes, ha="right", va="center", fontsize=11)
    return figure


def kl_per_dimension(kl: np.ndarray) -> Figure:
    """Draws the mean KL of each latent dimension, largest first."""
    order = np.argsort(-kl, kind="stable")
    figure = Figure(figsize=(max(4.0, min(11.0, 0.3 * len(kl) + 2)), 3.0), layout="constrained")
    axes = figure.subplots()
    ranks = np.arange(1, len(kl) + 1)
    axes.bar(ranks, kl[order], color=TEST)
    axes.margins(x=0.02)
    has_numbers = len(kl) <= 40
    if has_numbers:
        axes.set_xticks(ranks, [str(j) for j in order])
    axes.set_xlabel("latent dimension, largest KL first" if has_numbers else "rank of the latent dimension, largest KL first")
    axes.set_ylabel("nats per example")
    axes.set_title("Mean KL of each latent dimension", loc="left", fontsize=11)
    axes.grid(alpha=0.3, axis="y")
    return figure


def escaped(name: str) -> str:
    """Returns a name as text that Matplotlib draws as it is."""
    return name.replace("$", r"\$")


def label_name(label: int, label_names: Sequence[str] | None) -> str:
    """Returns the name of a label, or its number if it has no name."""
    return label_names[label] if label_names and 0 <= label < len(label_names) else str(label)


def latent_scatter(
    means: np.ndarray,
    dimensions: tuple[int, int],
    labels: np.ndarray | None,
    label_names: tuple[str, ...] | None = None,
) -> Figure:
    """Draws the posterior means of the test set in two latent dimensions, colored by label where there are labels."""
    figure = Figure(figsize=(6.2, 5.2), layout="constrained")
    axes = figure.subplots()
    first, second = dimensions
    classes = 0 if labels is None else len(np.unique(labels))
    has_legend = 0 < classes <= 20
    size = max(2, min(14, 8000 / len(means)))
    for number, label in enumerate(np.unique(np.asarray(labels)) if has_legend else [None]):
        chosen = means if label is None else means[np.asarray(labels) == label]
        name = None if label is None else escaped(label_name(int(label), label_names))
        color = TEST if label is None else f"C{number}" if classes <= 10 else matplotlib.colormaps["tab20"](number)
        axes.scatter(chosen[:, first], chosen[:, second], color=color, s=size, linewidths=0, alpha=0.8, label=name)
    if has_legend:
        axes.legend(title="label", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=2)
    axes.set(xlabel=f"posterior mean of z[{first}]", ylabel=f"posterior mean of z[{second}]")
    axes.set_aspect("equal", "datalim")
    axes.grid(alpha=0.3)
    return figure
