"""Heat maps of the columns of vectors: along latent dimensions, between test examples, and with different conditions."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from vae_jax.report.run.events.panels import grid_of_panels

MAX_ROWS = 15  # columns of data
_DIVERGING, _SEQUENTIAL = "RdBu_r", "Blues"


def changed_columns(changes: np.ndarray, max_count: int = MAX_ROWS) -> np.ndarray:
    """Returns the columns with the largest changes in any panel, at most `max_count`, in their order."""
    size = np.abs(changes).max(axis=tuple(range(changes.ndim - 1)))
    return np.sort(np.argsort(-size, kind="stable")[:max_count])


def traversal(changes: np.ndarray, rows: Sequence[str], offsets: np.ndarray, names: Sequence[str], label: str) -> Figure:
    """Draws a heat map for each latent dimension: columns of the data from top to bottom, values of z[j] from left to right.

    Args:
      changes: change of each column from the test example, (dimensions, offsets, columns).
      rows: a name for each latent dimension.
      offsets: values of the dimension, increasing.
      names: a name for each column.
      label: unit of the changes, for the color bar.
    """
    largest = float(np.abs(changes).max(initial=0)) or 1.0
    step = (offsets[-1] - offsets[0]) / max(len(offsets) - 1, 1)
    extent = (offsets[0] - step / 2, offsets[-1] + step / 2)
    figure, panels = _heat_maps(changes, rows, names, extent, Normalize(-largest, largest), _DIVERGING)
    figure.supxlabel("z[j], in prior standard deviations", fontsize=10)
    figure.colorbar(ScalarMappable(Normalize(-largest, largest), _DIVERGING), ax=panels, label=label, shrink=0.8, aspect=30)
    return figure


def interpolation(
    values: np.ndarray, starts: np.ndarray, ends: np.ndarray, rows: Sequence[str], names: Sequence[str], label: str
) -> Figure:
    """Draws a heat map for each pair of test examples: columns of the data from top to bottom, the way from left to right.

    The first and the last column of a map are the test examples, separated from the decoded ones by white lines.

    Args:
      values: decoded examples, (pairs, steps, columns), on the scale that the color bar names.
      starts, ends: the test examples, (pairs, columns), on the same scale.
      rows: a name for each pair.
      names: a name for each column.
      label: unit of the values, for the color bar.
    """
    everything = np.concatenate([starts[:, None], values, ends[:, None]], axis=1)
    (norm, colors), steps = _value_colors(everything), values.shape[1]
    figure, panels = _heat_maps(everything, rows, names, (-1.5, steps + 0.5), norm, colors)
    for axes in panels:
        for edge in (-0.5, steps - 0.5):
            axes.axvline(edge, color="white", lw=3)
        axes.set_xticks([-1, 0, steps - 1, steps], ["from", "0", "1", "to"])
    figure.supxlabel("share of the way between the codes", fontsize=10)
    figure.colorbar(ScalarMappable(norm, colors), ax=panels, label=label, shrink=0.8, aspect=30)
    return figure


def transfer(
    values: np.ndarray, originals: np.ndarray, labels: tuple[Sequence[str], Sequence[str]], names: Sequence[str], label: str
) -> Figure:
    """Draws a heat map for each test example: columns of the data from top to bottom, conditions from left to right.

    The first column of a map is the test example, separated from the decoded ones by a white line.

    Args:
      values: E[x|z] with each condition, (examples, conditions, columns), on the scale that the color bar names.
      originals: the test examples, (examples, columns), on the same scale.
      labels: a name for each example, and one for each condition.
      names: a name for each column.
      label: unit of the values, for the color bar.
    """
    everything = np.concatenate([originals[:, None], values], axis=1)
    norm, colors = _value_colors(everything)
    extent, below = (-1.5, values.shape[1] - 0.5), 0.075 * max(map(len, labels[1]))
    figure, panels = _heat_maps(everything, labels[0], names, extent, norm, colors, below)
    for axes in panels:
        axes.axvline(-0.5, color="white", lw=3)
        axes.set_xticks(range(-1, values.shape[1]), ["x", *labels[1]], rotation=90)
    figure.colorbar(ScalarMappable(norm, colors), ax=panels, label=label, shrink=0.8, aspect=30)
    return figure


def _value_colors(values: np.ndarray) -> tuple[Normalize, str]:
    """Returns a scale of colors: around 0 where values are negative, and else from the least to the greatest."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low < 0:
        low, high = -max(-low, high), max(-low, high)
    return Normalize(low, high if high > low else low + 1), _DIVERGING if low < 0 else _SEQUENTIAL


def _heat_maps(
    values: np.ndarray,
    rows: Sequence[str],
    names: Sequence[str],
    extent: tuple[float, float],
    norm: Normalize,
    colors: str,
    below: float = 0.0,
) -> tuple[Figure, list[Axes]]:
    """Draws (panels, steps, columns) as one heat map for each panel, with the names of the columns on the left.

    `below` is the height in inches of long names of steps.
    """
    count = len(names)
    figure, panels = grid_of_panels(len(rows), 3, (3.3, max(1.0, 0.2 * count + 0.45) + below), sharey=True)
    for axes, row, name in zip(panels, values, rows, strict=True):
        axes.imshow(row.T, aspect="auto", extent=(*extent, count - 0.5, -0.5), cmap=colors, norm=norm, interpolation="nearest")
        axes.set_title(name, fontsize=9)
        axes.set_yticks(range(count), names)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure, panels
