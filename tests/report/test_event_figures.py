"""Figures of series and vectors: each line, histogram and heat map holds the numbers of the data."""

import numpy as np
import pytest
from matplotlib.image import AxesImage
from matplotlib.patches import StepPatch

from vae_jax.report.html import write_picture
from vae_jax.report.run.events import heat_maps, series_figures, vector_figures
from vae_jax.report.run.events.panels import displayed_kind, displayed_shape, entry_names
from vae_jax.report.run.figures import latent_scatter

RNG = np.random.default_rng(0)
SERIES = RNG.normal(size=(5, 12, 3)) * [1.0, 100.0, 1e-3]


def drawn_panels(figure):
    return [axes for axes in figure.axes if axes.axison and axes.get_label() != "<colorbar>"]


def lines(axes):
    return [line.get_ydata() for line in axes.lines]


def test_images_of_one_row_are_drawn_as_vectors_or_series():
    assert [displayed_kind(shape) for shape in ((8, 8, 1), (1, 30, 1), (30, 1, 1), (1, 30, 2), (30,), (30, 2))] == [
        "image",
        "vector",
        "vector",
        "series",
        "vector",
        "series",
    ]
    assert displayed_shape((30, 1, 1)) == (30,)


def test_names_are_those_of_the_columns_and_short():
    assert entry_names((2,), ("age", "a" * 40)) == ("age", "a" * 21 + "…")
    assert entry_names((2,), ("one",)) == entry_names((2,), None) == ("x[0]", "x[1]")
    assert entry_names((9, 1), None) == ("",)
    assert entry_names((9, 2), None) == ("channel 0", "channel 1")


def test_names_with_dollar_signs_are_drawn_as_they_are(tmp_path):
    """Matplotlib would take the text between two of them for a formula, and fails on this one."""
    names = entry_names((2,), ("a $_{$ b", "price ($)"))
    figure = vector_figures.histograms(RNG.normal(size=(9, 2)), RNG.normal(size=(9, 2)), names, "real")
    write_picture(tmp_path / "figure.png", figure)
    assert [axes.get_title() for axes in drawn_panels(figure)] == [r"a \$_{\$ b", r"price (\$)"]
    scatter = latent_scatter(RNG.normal(size=(9, 2)), (0, 1), np.arange(9) % 3 - 1, ("a $_{$ b", "c"))
    write_picture(tmp_path / "scatter.png", scatter)
    assert [text.get_text() for text in scatter.axes[0].get_legend().get_texts()] == ["-1", r"a \$_{\$ b", "c"]


def test_reconstructions_of_series_have_a_panel_for_each_example_and_channel(tmp_path):
    means = SERIES + 1
    figure = series_figures.reconstructions(SERIES, means, (SERIES - 2, SERIES + 2), ("a", "b", "c"))
    panels = drawn_panels(figure)
    assert len(panels) == 15
    for number, axes in enumerate(panels):
        i, j = divmod(number, 3)
        np.testing.assert_array_equal(lines(axes), [SERIES[i, :, j], means[i, :, j]])
        corners = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert corners.min() == (SERIES[i, :, j] - 2).min()
        assert corners.max() == (SERIES[i, :, j] + 2).max()
    assert [axes.get_title() for axes in panels[:3]] == ["a", "b", "c"]
    # Panels of one channel share the scale, those of different channels do not.
    assert panels[0].get_ylim() == panels[3].get_ylim() != panels[1].get_ylim()
    write_picture(tmp_path / "figure.png", figure)


def test_series_of_one_channel_and_of_many_fit_a_figure():
    assert len(drawn_panels(series_figures.samples(SERIES[..., :1], SERIES[..., 1:2], ("",)))) == 5
    many = np.tile(SERIES, (1, 1, 5))
    names = entry_names(many.shape[1:], None)
    assert len(drawn_panels(series_figures.samples(many, many, names))) == 5 * series_figures.MAX_CHANNELS


def test_traversals_of_series_have_a_line_for_each_offset():
    values, offsets = RNG.normal(size=(2, 7, 12, 3)), np.linspace(-3, 3, 7)
    figure = series_figures.traversal(values, ["z[4]", "z[1]"], offsets, SERIES[0], ("a", "b", "c"), "units")
    panels = drawn_panels(figure)
    for number, axes in enumerate(panels[:6]):
        i, j = divmod(number, 3)
        np.testing.assert_array_equal(lines(axes), [*values[i, :, :, j], SERIES[0, :, j]])
        colors = {line.get_color() if isinstance(line.get_color(), str) else tuple(line.get_color()) for line in axes.lines}
        assert len(colors) == 8
    assert [axes.get_ylabel() for axes in (panels[0], panels[3])] == ["z[4]", "z[1]"]


def test_interpolations_of_series_show_both_ends():
    values = RNG.normal(size=(2, 4, 12, 3))
    figure = series_figures.interpolation(values, SERIES[:2], SERIES[2:4], ["0 → 2", "1 → 3"], ("a", "b", "c"))
    np.testing.assert_array_equal(lines(figure.axes[5]), [*values[1, :, :, 2], SERIES[1, :, 2], SERIES[3, :, 2]])


def test_rows_of_series_share_the_scale_of_the_first_row():
    other = SERIES[::-1].copy()
    figure = series_figures.labeled_lines([("data", SERIES), ("heading", None), ("model", other)], ("a", "b", "c"), 4)
    panels = drawn_panels(figure)
    assert len(panels) == 8
    scaled = (other[0] - SERIES.mean((0, 1))) / SERIES.std((0, 1))
    np.testing.assert_allclose(lines(panels[4]), scaled.T)


DATA = np.column_stack([RNG.normal(size=300), RNG.normal(50, 10, 300), np.full(300, 1e6)])
SAMPLES = np.column_stack([RNG.normal(size=400), RNG.normal(55, 10, 400), RNG.normal(1e6, 1.0, 400)])


@pytest.mark.parametrize("scale", ["real", "counts", "binary"])
def test_histograms_count_data_and_samples(scale, tmp_path):
    data, samples = DATA, SAMPLES
    if scale == "counts":
        data, samples = RNG.poisson([1, 200, 0], (300, 3)), RNG.poisson([2, 180, 0], (400, 3))
    if scale == "binary":
        data, samples = (RNG.random((count, 3)) < [0.2, 0.7, 0.0] for count in (300, 400))
        data, samples = data.astype(float), samples.astype(float)
    figure = vector_figures.histograms(data, samples, ("a", "b", "c"), scale)
    panels = drawn_panels(figure)
    assert len(panels) == 3
    for j, axes in enumerate(panels):
        filled, line = (patch for patch in axes.patches if isinstance(patch, StepPatch))
        for patch, values in ((filled, data), (line, samples)):
            heights, edges, _ = patch.get_data()
            np.testing.assert_allclose(heights, np.histogram(values[:, j], edges)[0] / len(values))
        assert filled.get_data().values.sum() == pytest.approx(1)
        assert axes.get_title().startswith("abc"[j])
    if scale == "counts":
        share = f"zeros: {np.mean(data[:, 0] == 0):.0%}, samples {np.mean(samples[:, 0] == 0):.0%}".replace("%", " %")
        assert share in panels[0].get_title()
    write_picture(tmp_path / "figure.png", figure)


def test_samples_outside_of_a_panel_are_counted():
    far = np.concatenate([DATA[:, :1], np.full((100, 1), 1e9)])
    title = drawn_panels(vector_figures.histograms(DATA[:, :1], far, ("a",), "real"))[0].get_title()
    assert "25 % of the samples lie outside" in title


def test_a_scatter_matrix_has_data_below_and_samples_above_the_diagonal():
    panels = drawn_panels(vector_figures.scatter_matrix(DATA[:, :2], SAMPLES[:, :2], ("a", "b"), "real"))
    assert len(panels) == 4
    np.testing.assert_allclose(panels[2].collections[0].get_offsets(), DATA[:, [0, 1]])
    np.testing.assert_allclose(panels[1].collections[0].get_offsets(), SAMPLES[:, [1, 0]])
    assert [patch.get_data().values.sum() for patch in panels[0].patches] == pytest.approx([1, 1], abs=0.05)


def test_reconstructions_of_vectors_are_means_against_data(tmp_path):
    figure = vector_figures.reconstructions(DATA, DATA + 1, ("a", "b", "c"), "real")
    for j, axes in enumerate(drawn_panels(figure)):
        np.testing.assert_allclose(axes.collections[0].get_offsets(), np.column_stack([DATA[:, j], DATA[:, j] + 1]))
    write_picture(tmp_path / "figure.png", figure)
    zeros_and_ones, means = (RNG.random((300, 1)) < 0.3).astype(float), RNG.random((300, 1))
    (axes,) = drawn_panels(vector_figures.reconstructions(zeros_and_ones, means, ("a",), "binary"))
    for patch, value in zip(axes.patches, (0, 1), strict=True):
        heights, edges, _ = patch.get_data()
        np.testing.assert_array_equal(heights, np.histogram(means[zeros_and_ones == value], edges)[0])


def test_heat_maps_hold_the_changes_of_the_named_columns():
    changes = RNG.normal(size=(2, 5, 3))
    figure = heat_maps.traversal(changes, ["z[0]", "z[1]"], np.linspace(-3, 3, 5), ("a", "b", "c"), "units")
    maps = [image for axes in figure.axes for image in axes.images if isinstance(image, AxesImage)]
    for image, change in zip(maps, changes, strict=True):
        np.testing.assert_array_equal(image.get_array(), change.T)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b", "c"]
    figure = heat_maps.interpolation(changes, changes[:, 0] + 1, changes[:, 4] - 1, ["p", "q"], ("a", "b", "c"), "units")
    expected = np.column_stack([changes[1, 0] + 1, changes[1].T, changes[1, 4] - 1])
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), expected)


def test_columns_that_matter_are_chosen_and_the_choice_is_stated():
    many = np.tile(DATA[:, :1], (1, 30)) * np.arange(30)
    assert vector_figures.shown_columns(DATA, "real")[1] == ""
    chosen, sentence = vector_figures.shown_columns(many, "real")
    assert (chosen.tolist(), sentence) == (list(range(12)), " The first 12 of 30 columns are shown.")
    chosen, sentence = vector_figures.shown_columns(RNG.poisson(np.arange(30) % 3 * 20, (200, 30)), "counts", 10)
    assert (chosen % 3 > 0).all()
    assert "10 of 30 columns in which log(1 + x) varies most" in sentence
    assert heat_maps.changed_columns(np.abs(many[:6].reshape(2, 3, 30)), 4).tolist() == [26, 27, 28, 29]
