"""The figure of a comparison of likelihoods: test examples beside the reconstructions of each likelihood."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from vae_jax.build import Built
from vae_jax.report.run.events import series_figures, vector_figures
from vae_jax.report.run.events.categories import names_of_columns
from vae_jax.report.run.events.panels import Scale, displayed_kind
from vae_jax.report.run.events.sections import number_scale
from vae_jax.report.run.figures import labeled_strips

_MAX_COLUMNS = 5


class Reconstructions(NamedTuple):
    """Test examples as stored, and E[x|z] at their posterior means under one likelihood."""

    label: str
    built: Built
    originals: np.ndarray  # as displayed
    means: np.ndarray


def draw_reconstructions(shown: Sequence[Reconstructions]) -> Figure:
    """Draws images in strips, series as lines, and E[x|z] against x for columns of vectors, in a row for each likelihood."""
    first = shown[0]
    kind = displayed_kind(first.built.dataset.data_shape)
    if kind == "vector":
        chosen, _ = vector_figures.shown_columns(first.originals, number_scale(first.built), _MAX_COLUMNS)
        rows: list[tuple[str, Scale, np.ndarray, np.ndarray]] = [
            (one.label, number_scale(one.built), one.originals[:, chosen], one.means[:, chosen]) for one in shown
        ]
        return vector_figures.labeled_reconstructions(rows, [names_of_columns(first.built)[j] for j in chosen])
    strips = [
        (f"test {'images' if kind == 'image' else 'series'}", first.originals),
        *((one.label, one.means) for one in shown),
    ]
    return labeled_strips(strips) if kind == "image" else series_figures.labeled_lines(strips, names_of_columns(first.built))
