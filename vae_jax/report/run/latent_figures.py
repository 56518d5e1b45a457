"""Figures and the animation of the latent space, drawn from the plain arrays that `latent` computes."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.animation import PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vae_jax.report.run.figures import TEST, VALIDATION, as_rgb
from vae_jax.report.run.latent import Aggregate

_ROW_WIDTH = 10.0  # inches


def name(dimension: int, kl: np.ndarray) -> str:
    """Returns a name such as "z[3], mean KL 1.24 nats", with the mean of KL(q(z_j|x) || p(z_j)) over the examples."""
    return f"z[{dimension}], mean KL {kl[dimension]:z.2f} nats"


def panel_name(dimension: int, kl: np.ndarray, aggregate: float | None) -> str:
    """Returns the heading of a panel with q(z_j) and p(z_j): the mean KL of q(z_j|x) and, if known, the KL of q(z_j).

    The two differ by the mutual information of z_j and x, so the first does not measure the distance between the two curves.
    """
    second = "" if aggregate is None else f", of q(z) {aggregate:z.2f}"
    return f"z[{dimension}]\nKL of q(z|x) {kl[dimension]:z.2f}{second} nats"


def signed(value: float) -> str:
    """Returns a short number with a typographic minus sign."""
    return f"{0.0 if abs(value) < 1e-9 else value:.3g}".replace("-", "−")


class _Mosaic(NamedTuple):
    """Tiles in rows and columns, joined into one picture."""

    picture: np.ndarray  # (height, width, 3)
    x: np.ndarray  # centers of the columns, pixels
    y: np.ndarray  # lower ends of the rows, pixels
    middle: np.ndarray  # centers of the rows, pixels
    width: float  # inches
    height: float


def _mosaic(images: np.ndarray, columns: int, gaps: Sequence[int] = ()) -> _Mosaic:
    """Joins (rows, columns, height, width, channels), with a wide border before the columns in `gaps`.

    The scale fits `columns` tiles into the width of a row. Images keep their aspect ratio, unless a row would be too flat for
    its name or a column too narrow to be seen.
    """
    sides = np.array(images.shape[2:4])
    scale = min(0.9 / sides[1], _ROW_WIDTH / columns / sides[1], 1.3 / sides[0])
    inches = np.maximum(scale * sides, (0.24, 0.15))
    enlarge = -(-24 // sides)  # a border is a 24th of a tile, also between small images
    tiles = as_rgb(images).repeat(enlarge[0], axis=2).repeat(enlarge[1], axis=3)
    height, width = tiles.shape[2:4]
    down, across = height // 24, width // 24
    lefts = np.array([c * (width + across) + 4 * across * sum(gap <= c for gap in gaps) for c in range(tiles.shape[1])])
    tops = np.arange(len(tiles)) * (height + down)
    canvas = np.ones((tops[-1] + height, lefts[-1] + width, 3))
    for row, column in np.ndindex(*tiles.shape[:2]):
        canvas[tops[row] : tops[row] + height, lefts[column] : lefts[column] + width] = tiles[row, column]
    pixel = inches / (height, width)
    return _Mosaic(
        canvas,
        lefts + (width - 1) / 2,
        tops + height - 0.5,
        tops + (height - 1) / 2,
        canvas.shape[1] * pixel[1],
        canvas.shape[0] * pixel[0],
    )


def _add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Adds axes whose position and size are in inches from the upper left corner."""
    wide, high = figure.get_size_inches()
    return figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))


def _write(figure: Figure, left: float, top: float, text: str, **style: Any) -> None:
    """Writes text at a position in inches from the upper left corner."""
    wide, high = figure.get_size_inches()
    figure.text(left / wide, 1 - top / high, text, va="top", **style)


def _show(axes: Axes, picture: np.ndarray) -> None:
    axes.imshow(picture, interpolation="nearest", aspect="auto")
    axes.spines[:].set_visible(False)
    axes.set(xticks=[], yticks=[])


def _headings(axes: Axes, grid: _Mosaic, names: Sequence[str], keep: Sequence[int] = ()) -> None:
    """Writes names above the columns and leaves out those that would overlap. The columns in `keep` come first."""
    inches = grid.x * grid.width / grid.picture.shape[1]
    spacing, shown = 0.1 + 0.075 * max(len(name) for name in names), list(keep)
    for i in range(len(names)):
        if all(abs(inches[i] - inches[j]) >= spacing for j in shown):
            shown.append(i)
    shown.sort()
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xticks(grid.x[shown], [names[i] for i in shown], fontsize=9)
    axes.tick_params(length=0)


def traversal(
    images: np.ndarray,
    names: Sequence[str],
    offsets: np.ndarray,
    marks: np.ndarray,
    reference: np.ndarray,
    image: str,
    learned_prior: bool = False,
) -> Figure:
    """Draws a grid in which each row moves one latent dimension and the others keep the code of the test image.

    Args:
      images: (rows, offsets, height, width, channels) in [0, 1].
      names: names of the rows.
      offsets: value of the moved dimension in each column, in prior standard deviations.
      marks: value of each dimension for the test image, in the same units, (rows,). It is marked if it lies within the columns.
      reference: the test image and its reconstruction, (2, height, width, channels).
      image: the name of the test image.
      learned_prior: True if an offset of zero is the mean of a learned prior.
    """
    columns = images.shape[1]
    grid, strip = _mosaic(images, columns), _mosaic(reference[None], columns)
    left, label = 0.25 + 0.085 * max(len(name) for name in names), f"{image},\nand E[x|z] at its posterior mean"
    text = left + strip.width + 0.15
    wide = max(left + grid.width + 0.25, text + 0.09 * max(map(len, label.split("\n"))), left + 5.2)
    top = 0.5 + max(strip.height, 0.4) + 0.6
    high = top + grid.height + 0.45
    figure = Figure(figsize=(wide, high))
    _write(figure, left, 0.12, "Effect of each latent dimension on a test image", fontsize=12)
    _show(_add_axes(figure, left, 0.5, strip.width, strip.height), strip.picture)
    _write(figure, text, 0.5, label, fontsize=10)
    axes = _add_axes(figure, left, top, grid.width, grid.height)
    _show(axes, grid.picture)
    axes.set_yticks(grid.middle, names, fontsize=10)
    _headings(axes, grid, [signed(value) for value in offsets])
    unit = "prior standard deviations from the learned prior's mean" if learned_prior else "prior standard deviations"
    axes.set_xlabel(f"value of z[j], in {unit}", loc="left", fontsize=10)
    inside = (marks >= offsets[0]) & (marks <= offsets[-1])
    style: dict[str, Any] = {"marker": "^", "color": VALIDATION, "linestyle": "", "markeredgecolor": "white", "markersize": 7}
    axes.plot(np.interp(marks, offsets, grid.x)[inside], grid.y[inside], clip_on=False, **style)
    if inside.any():
        mark = Line2D([], [], **style, label="value of the test image (its posterior mean)")
        place = (left / wide, 0.05 / high)
        figure.legend(handles=[mark], loc="lower left", bbox_to_anchor=place, frameon=False, fontsize=9, borderpad=0)
    return figure


def interpolation(images: np.ndarray, starts: np.ndarray, ends: np.ndarray, names: Sequence[str]) -> Figure:
    """Draws one row per pair of test images, with the interpolation between the two images.

    Args:
      images: interpolated images, (rows, steps, height, width, channels) in [0, 1].
      starts: the test images on the left, (rows, height, width, channels).
      ends: the test images on the right, (rows, height, width, channels).
      names: names of the rows.
    """
    steps = images.shape[1]
    everything = np.concatenate([starts[:, None], images, ends[:, None]], axis=1)
    grid = _mosaic(everything, steps + 2, gaps=(1, steps + 1))
    left = 0.25 + 0.085 * max(len(name) for name in names)
    wide, high = max(left + grid.width + 0.3, left + 5.6), 0.85 + grid.height + 0.12
    figure = Figure(figsize=(wide, high))
    _write(figure, left, 0.12, "From one test image to another", fontsize=12)
    axes = _add_axes(figure, left, 0.85, grid.width, grid.height)
    _show(axes, grid.picture)
    axes.set_yticks(grid.middle, names, fontsize=10)
    headings = ["from", *(signed(t) for t in np.linspace(0, 1, steps)), "to"]
    _headings(axes, grid, headings, keep=(0, steps + 1))
    axes.set_xlabel("share of the way between the posterior means of the two images", loc="left", fontsize=10)
    return figure


def transfer(images: np.ndarray, originals: np.ndarray, names: Sequence[str], headings: Sequence[str]) -> Figure:
    """Draws one row per test image: the image, and its code decoded with each condition.

    Args:
      images: E[x|z], (rows, conditions, height, width, channels) in [0, 1].
      originals: the test images, (rows, height, width, channels).
      names: names of the rows.
      headings: names of the conditions.
    """
    grid = _mosaic(np.concatenate([originals[:, None], images], axis=1), images.shape[1] + 1, gaps=(1,))
    left, slanted = 0.25 + 0.085 * max(len(name) for name in names), max(map(len, headings)) > 6
    top = 0.55 + (0.065 * max(map(len, headings)) if slanted else 0.2)
    wide = max(left + grid.width + (0.9 if slanted else 0.3), left + 5.6)
    figure = Figure(figsize=(wide, top + grid.height + 0.12))
    _write(figure, left, 0.12, "One code with every condition", fontsize=12)
    axes = _add_axes(figure, left, top, grid.width, grid.height)
    _show(axes, grid.picture)
    axes.set_yticks(grid.middle, names, fontsize=10)
    axes.xaxis.tick_top()
    style: dict[str, Any] = {"rotation": 45, "ha": "left", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(grid.x, ["test", *headings], fontsize=9, **style)
    axes.tick_params(length=0)
    return figure


def aggregate_panels(aggregate: Aggregate, names: Sequence[str], prior: str) -> Figure:
    """Draws one panel per dimension with the aggregate posterior (filled) and the prior (dashed)."""
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(max(5.0, 2.85 * columns + 0.3), 2.05 * rows + 0.9), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for i, axes in enumerate(panels[: len(names)]):
        edges = aggregate.edges[i]
        filled = axes.stairs(
            aggregate.posterior[i], edges, color=TEST, alpha=0.55, fill=True, label="aggregate posterior q(z_j)"
        )
        (dashed,) = axes.plot((edges[1:] + edges[:-1]) / 2, aggregate.prior[i], color="#1f2933", lw=1.2, ls="--", label=prior)
        axes.set_title(names[i], fontsize=9)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=8)
        if i == 0:
            figure.legend(handles=[filled, dashed], loc="outside upper center", ncols=2, frameon=False, fontsize=10)
    figure.supxlabel("value of the latent dimension", fontsize=10)
    figure.supylabel("density", fontsize=10)
    return figure


def animation(
    images: np.ndarray, names: Sequence[str], ends: tuple[str, str], frames_per_second: int = 8, max_bytes: int = 1_000_000
) -> bytes:
    """Returns a GIF that plays forwards and backwards forever, with one tile per row of images.

    Args:
      images: (rows, steps, height, width, channels) in [0, 1]. Sides are enlarged to about 96 pixels by repeating pixels, and
        those above 128 pixels are thinned out.
      names: names of the tiles.
      ends: labels of the first and the last step, for the slider below the tiles.
      frames_per_second: steps per second.
      max_bytes: while the GIF is larger, it is drawn with fewer shades and then with every other step. The last of these is
        returned even if it is still larger.
    """
    exact = as_rgb(images)
    content = b""
    for shades, stride in ((256, 1), (32, 1), (16, 1), (16, 2)):
        pixels = (255 / (shades - 1) * np.round((shades - 1) * exact[:, ::stride])).astype(np.uint8)
        content = _gif(_screen_size(pixels), names, ends, frames_per_second / stride)
        if len(content) <= max_bytes:
            break
    return content


def _screen_size(pixels: np.ndarray) -> np.ndarray:
    """Resizes images to sides of about 96 pixels by repeating pixels or leaving some out. Lines and columns get thicker."""
    thin = [-(-side // 128) for side in pixels.shape[2:4]]
    pixels = pixels[:, :, :: thin[0], :: thin[1]]
    sides = pixels.shape[2:4]
    repeat = [max(1, 96 // max(sides))] * 2
    if max(sides) > 8 * min(sides):  # a line or a column, which would be too thin to be seen
        repeat = [max(1, (96 if side == max(sides) else 24) // side) for side in sides]
    return pixels.repeat(repeat[0], axis=2).repeat(repeat[1], axis=3)


def _gif(pixels: np.ndarray, names: Sequence[str], ends: tuple[str, str], frames_per_second: float) -> bytes:
    count, steps, height, width, _ = pixels.shape
    columns = min(count, 5)
    pitch, line = max(width, 7 * max(len(name) for name in names)) + 10, height + 24
    wide, high = max(columns * pitch + 10, 220), -(-count // columns) * line + 40
    # With 64 pixels per inch, sizes in inches and thus the positions of pixels are exact.
    figure = Figure(figsize=(wide / 64, high / 64), dpi=64)
    tiles = []
    for i in range(count):
        left, top = 10 + (i % columns) * pitch, 20 + (i // columns) * line
        figure.text(left / wide, 1 - (top - 4) / high, names[i], va="bottom", fontsize=11)
        tiles.append(figure.figimage(pixels[i, 0], left, high - top - height, origin="upper"))
    track = (50 / wide, 1 - 50 / wide)
    figure.add_artist(Line2D(track, [18 / high] * 2, color="#9aa5b1", linewidth=2))
    slider = Line2D([track[0]], [18 / high], color=VALIDATION, marker="o", markersize=9)
    figure.add_artist(slider)
    for x, label, side in ((42 / wide, ends[0], "right"), (1 - 42 / wide, ends[1], "left")):
        figure.text(x, 18 / high, label, ha=side, va="center", fontsize=11)
    with tempfile.TemporaryDirectory() as folder:
        path, writer = Path(folder) / "animation.gif", PillowWriter(fps=frames_per_second)  # type: ignore[arg-type]
        with writer.saving(figure, str(path), dpi=64):
            for step in [*range(steps), *range(steps - 2, 0, -1)]:
                for tile, row in zip(tiles, pixels, strict=True):
                    tile.set_data(row[step])
                slider.set_xdata([track[0] + (track[1] - track[0]) * step / (steps - 1)])
                writer.grab_frame()
        return path.read_bytes()
