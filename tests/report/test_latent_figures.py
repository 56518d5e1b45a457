"""The latent-space figures of a report: what they show, and that their text can be read."""

import numpy as np
import pytest
from latent_pictures import picture

from vae_jax.report.run import figures, latent_figures, page
from vae_jax.report.run.latent import Aggregate

# Figures


def words_in(figure):
    """(words, box in pixels) of everything written into a figure, and the figure's own box."""
    figure.draw_without_rendering()
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        texts += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [label for tick in ticks for label in (tick.label1, tick.label2)]
    boxes = {id(text): (text.get_text(), text.get_window_extent()) for text in texts if text.get_text() and text.get_visible()}
    return list(boxes.values()), figure.bbox


def assert_readable(figure):
    """Nothing written covers anything else written, or reaches out of the figure."""
    written, whole = words_in(figure)
    assert written
    for i, (words, box) in enumerate(written):
        assert box.x0 >= -1, words
        assert box.x1 <= whole.x1 + 1, words
        assert box.y0 >= -1, words
        assert box.y1 <= whole.y1 + 1, words
        for others, other in written[:i]:
            apart = box.x1 <= other.x0 + 1 or other.x1 <= box.x0 + 1 or box.y1 <= other.y0 + 1 or other.y1 <= box.y0 + 1
            assert apart, (words, others)


SHAPES = {
    "digits": (10, 7, 8, 8, 1),
    "color": (10, 9, 64, 64, 3),
    "one dimension": (1, 7, 28, 28, 1),
    "two channels": (2, 7, 12, 12, 2),
    "flat": (4, 7, 10, 40, 1),
    "tall": (4, 9, 40, 10, 3),
    "a line": (3, 7, 1, 300, 1),
    "a column": (3, 7, 300, 1, 1),
    "many steps": (3, 60, 16, 16, 1),
    "two steps": (1, 2, 8, 8, 1),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_traversals_and_interpolations_of_all_shapes_can_be_read(shape):
    images, offsets = picture(*shape), np.linspace(-3, 3, shape[1])
    names = [f"z[{60 + j}], KL 10.25 nats" for j in range(shape[0])]
    own = np.linspace(-2, 2, shape[0])
    assert_readable(
        latent_figures.traversal(images, names, offsets, own, images[0, :2], "test image 12345 (label 12)", learned_prior=True)
    )
    pairs = [f"1234{j} → 5678{j}" for j in range(shape[0])]
    assert_readable(latent_figures.interpolation(images, images[:, 0], images[:, -1], pairs))


def test_each_tile_of_a_traversal_is_where_its_names_say():
    images = np.random.default_rng(0).uniform(size=(3, 5, 6, 7, 1))
    offsets, own = np.linspace(-2, 2, 5), np.array([-1.0, 0.5, 7.0])
    figure = latent_figures.traversal(images, ["a", "b", "c"], offsets, own, images[0, :2], "image")
    axes = figure.axes[1]
    shown = axes.images[0].get_array()
    for row, y in enumerate(axes.get_yticks()):
        for column, x in enumerate(axes.get_xticks()):
            corner = round(y - 11.5), round(x - 13.5)  # tiles are enlarged to 24 by 28
            tile = shown[corner[0] : corner[0] + 24 : 4, corner[1] : corner[1] + 28 : 4]
            np.testing.assert_allclose(tile, np.repeat(images[row, column], 3, axis=-1), atol=1e-7)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["−2", "−1", "0", "1", "2"]
    marks = axes.lines[0].get_xdata()
    assert len(marks) == 2  # the third lies outside
    ticks = axes.get_xticks()
    np.testing.assert_allclose(marks, [ticks[1], (ticks[2] + ticks[3]) / 2])


def test_an_interpolation_has_the_images_at_its_ends():
    images = np.random.default_rng(0).uniform(size=(2, 3, 24, 24, 3))
    starts, ends = np.zeros((2, 24, 24, 3)), np.full((2, 24, 24, 3), 0.5)
    axes = latent_figures.interpolation(images, starts, ends, ["0 → 1", "2 → 3"]).axes[0]
    shown = axes.images[0].get_array()
    x, y = axes.get_xticks(), axes.get_yticks()
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["from", "0", "0.5", "1", "to"]
    expected = np.concatenate([starts[:, None], images, ends[:, None]], axis=1)
    for row, column in np.ndindex(2, 5):
        top, left = int(y[row] - 11.5), int(x[column] - 11.5)
        np.testing.assert_allclose(shown[top : top + 24, left : left + 24], expected[row, column], atol=1e-7)


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_the_panels_of_the_aggregate_posterior(count):
    edges = np.tile(np.linspace(-4, 4, 161), (count, 1)) * np.arange(1, count + 1)[:, None]
    rng = np.random.default_rng(0)
    posterior, prior = rng.uniform(size=(2, count, 160))
    names = [f"z[{j}], KL {j}.00 nats" for j in range(count)]
    figure = latent_figures.aggregate_panels(Aggregate(np.arange(count), edges, posterior, prior), names, "the prior N(0, 1)")
    assert_readable(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["aggregate posterior q(z_j)", "the prior N(0, 1)"]
    for j in range(count):
        axes = figure.axes[j]
        assert axes.get_title() == names[j]
        np.testing.assert_array_equal(axes.patches[0].get_data().values, posterior[j])
        np.testing.assert_array_equal(axes.patches[0].get_data().edges, edges[j])
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), prior[j])
        assert axes.get_xlim() == (edges[j, 0], edges[j, -1])


def epochs(*points):
    return [{"epoch": i + 1, "test_kl": kl, "test_log_likelihood": -distortion} for i, (kl, distortion) in enumerate(points)]


def test_the_rate_distortion_path_goes_through_every_epoch_and_marks_the_runs():
    metrics = epochs((0.0, 300.0), (5.0, 100.0), (7.0, 90.0), (9.0, 85.0), (11.0, 84.0))
    figure = figures.rate_distortion(metrics, 4)
    assert_readable(figure)
    axes = figure.axes[0]
    path = next(line for line in axes.lines if line.get_gid() == "path")
    np.testing.assert_array_equal(path.get_xydata(), [[0, 300], [5, 100], [7, 90], [9, 85], [11, 84]])
    (ring,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert ring.get_xydata().tolist() == [[9, 85]]
    assert "epoch 4, with an ELBO of −94.00 nats" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert axes.get_ylim()[1] < 120  # the first epoch is left out of the scale


@pytest.mark.parametrize("distortions", [(100.0, 96.0, 94.0), (-12000.0, -13000.0, -13100.0)])
def test_the_lines_of_equal_elbo_have_theirs_written_beside_them(distortions):
    axes = figures.rate_distortion(epochs(*zip((3.0, 9.0, 12.0), distortions, strict=True)), 3).axes[0]
    written = [(float(text.get_text().replace("−", "-")), text.get_position()) for text in axes.texts]
    assert len(written) >= 3
    for elbo, (rate, distortion) in written:
        assert rate + distortion == pytest.approx(-elbo)
    drawn = [-sum(line.get_xy1()) for line in axes.lines if hasattr(line, "get_slope") and line.get_slope() == -1]
    assert all(min(abs(elbo - level) for level in drawn) < 1e-6 * abs(elbo) for elbo, _ in written)


def test_a_path_of_one_epoch_and_one_without_finite_numbers():
    assert_readable(figures.rate_distortion(epochs((3.0, 50.0)), 1))
    lost = figures.rate_distortion(epochs((float("nan"), 50.0)), 1)
    assert lost.axes[0].texts[0].get_text() == "no epoch with finite numbers"
    late = figures.rate_distortion(epochs((3.0, 50.0), (4.0, float("inf"))), 2)
    assert "epoch 1, with an ELBO of −53.00 nats" in [text.get_text() for text in late.legends[0].get_texts()]


@pytest.mark.parametrize("count", [1, 10, 64])
def test_the_kl_spectrum_falls_and_names_the_dimensions_where_they_fit(count):
    kl = np.random.default_rng(0).exponential(size=count)
    figure = figures.kl_per_dimension(kl)
    assert_readable(figure)
    axes = figure.axes[0]
    assert [bar.get_height() for bar in axes.patches] == sorted(kl, reverse=True)
    if count <= 40:
        assert [int(tick.get_text()) for tick in axes.get_xticklabels()] == np.argsort(-kl).tolist()
    else:
        assert axes.get_xlabel().startswith("rank")


def test_how_many_dimensions_carry_nearly_all():
    assert page._share_of_largest(np.array([0.0, 9.6, 0.4])) == ", of which 1 of the 3 dimensions carries 95 %"
    assert page._share_of_largest(np.array([4.0, 4.0, 0.3])) == ", of which 2 of the 3 dimensions carry 95 %"
    assert page._share_of_largest(np.array([3.0])) == page._share_of_largest(np.zeros(5)) == ""
