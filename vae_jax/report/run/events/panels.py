"""Shared parts of the figures of series and vectors: kinds of examples, names, colors, grids of panels."""

from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vae_jax.data import event_kind, is_image
from vae_jax.report.run.figures import TEST, VALIDATION, escaped

DATA, MODEL, OTHER = "#52606d", TEST, VALIDATION
FILL = "#cbd2d9"  # histograms of data, behind those of the model
Scale = Literal["real", "counts", "binary"]
_MAX_NAME = 22  # characters


def displayed_shape(data_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape in which an example is drawn: that of an image, (time, channels) or (columns,).

    An image of a single row or column of pixels is drawn as a series if it has several channels, and else as a vector.

    Example:
      >>> displayed_shape((28, 28, 1)), displayed_shape((1, 30, 1)), displayed_shape((1, 30, 2)), displayed_shape((100, 3))
      ((28, 28, 1), (30,), (30, 2), (100, 3))
    """
    if len(data_shape) < 3 or is_image(data_shape):
        return data_shape
    length, channels = max(data_shape[:2]), data_shape[2]
    return (length,) if channels == 1 else (length, channels)


def displayed_kind(data_shape: tuple[int, ...]) -> Literal["vector", "series", "image"]:
    """Returns the kind of the example that is drawn."""
    return event_kind(displayed_shape(data_shape))


def entry_names(shape: tuple[int, ...], column_names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Returns a name for each column of a vector, or each channel of a series, shortened where it is long.

    Dollar signs are escaped. Matplotlib would read the text between two of them as a formula.

    Args:
      shape: (columns,) or (time, channels).
      column_names: the names in the data, if they have any.
    """
    count = shape[-1]
    if column_names is not None and len(column_names) == count:
        short = (name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…" for name in map(str, column_names))
        return tuple(map(escaped, short))
    if len(shape) == 1:
        return tuple(f"x[{j}]" for j in range(count))
    return tuple(f"channel {j}" for j in range(count)) if count > 1 else ("",)


def grid_of_panels(
    count: int, columns: int, size: tuple[float, float], margin: float = 0.0, **options: bool | str
) -> tuple[Figure, list[Axes]]:
    """Makes a figure with `count` panels in rows of `columns`, each of `size` inches, and returns it with its panels."""
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    figure = Figure(figsize=(max(4.2, columns * size[0] + 0.4), rows * size[1] + 0.5 + margin), layout="constrained")
    panels = list(np.ravel(figure.subplots(rows, columns, squeeze=False, **options)))  # type: ignore[arg-type]
    for axes in panels[count:]:
        axes.set_axis_off()
    for axes in panels[:count]:
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels[:count]


def legend_above(figure: Figure, *panels: Axes) -> None:
    """Writes the legend of one panel, or of several, above all panels."""
    entries = [entry for axes in panels for entry in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles, labels = [handle for handle, _ in entries], [label for _, label in entries]
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=10, markerscale=2)
