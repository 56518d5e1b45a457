"""The report's latent figures: codes and densities against NumPy and SciPy, and what is drawn where."""

import base64
import io
import itertools
import os
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import integrate, stats

from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.report.html import Section, write_picture, write_sections
from vae_jax.report.run import content, figures, latent, latent_figures, page
from vae_jax.report.run.latent import Aggregate, PriorShape
from vae_jax.runs import Run

NORMAL = PriorShape(np.zeros(4), np.ones(4), None)


def picture(count, steps, height, width, channels, seed=0):
    """Smooth images (count, steps, height, width, channels), as a decoder gives them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    centre = rng.uniform(0.2, 0.8, (2, count, 1, 1, 1, 1)) + 0.3 * np.linspace(-1, 1, steps)[:, None, None, None]
    distance = np.hypot(y[..., None] - centre[0], x[..., None] - centre[1])
    return np.exp(-(distance**2) / 0.05) * rng.uniform(0.3, 1, (count, 1, 1, 1, channels))


# Codes


def test_a_traversal_moves_one_dimension_at_a_time_to_where_the_prior_is():
    code, offsets = np.array([0.3, -1.2, 0.8, 2.0]), np.array([-3.0, 0.0, 1.5])
    prior = PriorShape(np.array([0.0, 5.0, -1.0, 0.5]), np.array([1.0, 2.0, 0.1, 3.0]), np.zeros((1, 4)))
    codes = latent.traversal_codes(code, [2, 1], offsets, prior)
    assert codes.shape == (2, 3, 4)
    np.testing.assert_allclose(codes[0, :, 2], [-1.3, -1.0, -0.85])
    np.testing.assert_allclose(codes[1, :, 1], [-1.0, 5.0, 8.0])
    np.testing.assert_array_equal(codes[0][:, [0, 1, 3]], np.tile(code[[0, 1, 3]], (3, 1)))
    np.testing.assert_array_equal(codes[1][:, [0, 2, 3]], np.tile(code[[0, 2, 3]], (3, 1)))
    np.testing.assert_array_equal(latent.traversal_codes(code, [3], offsets, NORMAL)[0, :, 3], offsets)


def test_an_interpolation_is_straight_evenly_spaced_and_reaches_both_ends():
    rng = np.random.default_rng(0)
    starts, ends = rng.normal(size=(2, 3, 5))
    codes = latent.interpolation_codes(starts, ends, 7)
    np.testing.assert_array_equal(codes[:, 0], starts)
    np.testing.assert_array_equal(codes[:, -1], ends)
    steps = np.diff(codes, axis=1)
    np.testing.assert_allclose(steps, np.tile(((ends - starts) / 6)[:, None], (1, 6, 1)), atol=1e-12)
    unused = latent.interpolation_codes(np.array([[1.0, 0.0]]), np.array([[-1.0, 0.0]]), 5)
    assert not unused[..., 1].any()  # a great circle would leave the line
    assert unused[0, 2].tolist() == [0.0, 0.0]


def test_dimensions_are_ordered_by_kl_and_ties_by_number():
    assert latent.by_kl(np.array([0.1, 2.0, 0.1, 5.0]), 3).tolist() == [3, 1, 0]
    assert latent.by_kl(np.array([0.1]), 10).tolist() == [0]


# Aggregate posterior


@pytest.fixture
def posterior():
    rng = np.random.default_rng(1)
    return rng.normal(size=50), rng.uniform(-3, 0.5, 50)


def test_the_aggregate_posterior_is_the_mean_of_the_mixture_over_each_bin(posterior, x64):
    mean, log_scale = posterior
    edges = np.array([-5.0, -1.0, -0.9, 0.3, 0.31, 4.0])

    def density(z):
        return stats.norm.pdf(z, mean, np.exp(log_scale)).mean()

    for (a, b), found in zip(itertools.pairwise(edges), latent.aggregate_posterior(mean, log_scale, edges), strict=True):
        inside = np.sort(mean[(mean > a) & (mean < b)])
        expected = integrate.quad(density, a, b, points=inside, limit=500, epsabs=1e-11)[0] / (b - a)
        assert float(found) == pytest.approx(expected, abs=1e-9)


def test_float32_is_as_good_as_a_figure_needs(posterior):
    mean, log_scale = posterior
    edges = np.linspace(-5, 5, 161)
    exact = np.diff(stats.norm.cdf(edges[:, None], mean, np.exp(log_scale)).mean(axis=1)) / np.diff(edges)
    found = jax.jit(latent.aggregate_posterior)(*(jnp.asarray(a, jnp.float32) for a in (mean, log_scale, edges)))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, atol=3e-5)


@pytest.mark.parametrize("log_scale", [-1.0, -12.0, -60.0, -200.0])
def test_posteriors_narrower_than_a_bin_keep_their_mass(log_scale):
    mean, edges = np.linspace(-2.9, 2.84, 37, dtype=np.float32), np.linspace(-6, 6, 25, dtype=np.float32)
    found = np.asarray(latent.aggregate_posterior(mean, np.full_like(mean, log_scale), edges))
    assert (found >= 0).all()
    assert np.sum(found * np.diff(edges)) == pytest.approx(1, abs=2e-3 if log_scale == -1 else 1e-6)
    if log_scale < -10:
        expected = np.histogram(mean, edges, density=True)[0]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_one_dimension_at_a_time_is_asked_for():
    for shapes in (((5, 2), (5, 2), (3,)), ((5,), (4,), (3,)), ((5,), (5,), (1,))):
        with pytest.raises(ValueError, match=r"aggregate_posterior: expected .* ONE latent dimension"):
            latent.aggregate_posterior(*(jnp.zeros(shape) for shape in shapes))


def test_of_many_dimensions_each_is_by_itself():
    rng = np.random.default_rng(2)
    mean, log_scale = rng.normal(0, [1, 6, 0.1, 1], (300, 4)), rng.uniform(-2, 0, (300, 4))
    mean, log_scale = mean.astype(np.float32), log_scale.astype(np.float32)
    found = latent.aggregate(mean, log_scale, np.array([1, 0, 2]), NORMAL)
    assert found.dimensions.tolist() == [1, 0, 2]
    for row, j in enumerate(found.dimensions):
        edges = found.edges[row]
        assert edges[0] <= -4
        assert edges[-1] >= 4
        exact = np.diff(stats.norm.cdf(edges[:, None], mean[:, j], np.exp(log_scale[:, j])).mean(axis=1)) / np.diff(edges)
        np.testing.assert_allclose(found.posterior[row], exact, atol=5e-5)
        assert np.sum(found.posterior[row] * np.diff(edges)) > 0.99
        np.testing.assert_allclose(found.prior[row], stats.norm.pdf((edges[1:] + edges[:-1]) / 2), atol=1e-12)
    assert found.edges[0, -1] > 10  # z[1] is wide, and its panel too


def test_posteriors_that_overflow_leave_the_range_of_the_prior():
    mean = np.tile(np.array([[0.0], [np.inf]], np.float32), (100, 1))
    found = latent.aggregate(mean, np.full_like(mean, 100.0), [0], PriorShape(np.zeros(1), np.ones(1), None))
    assert found.edges[0, [0, -1]].tolist() == [-4, 4]


def test_the_density_of_draws_of_a_prior_sums_to_one_and_follows_them():
    draws = np.random.default_rng(3).normal([2.0, -1.0], [0.5, 3.0], (8192, 2))
    prior = PriorShape(draws.mean(axis=0), draws.std(axis=0), draws)
    found = latent.aggregate(np.zeros((5, 2), np.float32), np.zeros((5, 2), np.float32), [1, 0], prior)
    for row, (mean, std) in enumerate(((-1.0, 3.0), (2.0, 0.5))):
        edges = found.edges[row]
        assert np.sum(found.prior[row] * np.diff(edges)) == pytest.approx(1, abs=1e-3)
        wide = edges[::4]
        probability = np.diff(stats.norm.cdf(wide, mean, std))
        error = np.sqrt(probability / 8192) + 1e-4
        assert (np.abs(found.prior[row, ::4] * np.diff(wide) - probability) < 5.5 * error).all()


# The prior's shape and the decoder


@pytest.fixture(scope="module")
def learned():
    """A model of the digits with a mixture prior whose moments are known."""
    built = build(Config(hidden=(8,), latent_dim=3, prior="mixture", prior_components=2))
    params = built.vae.init(jax.random.key(0))
    means, scales = np.array([[-2.0, 0.0, 1.0], [2.0, 0.0, 5.0]]), np.array([[1.0, 0.5, 2.0], [0.1, 3.0, 2.0]])
    logits = np.log(np.array([0.25, 0.75]))
    params["prior"] = jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float32), {"logits": logits, "means": means, "log_scales": np.log(scales)}
    )
    return built, params


def test_the_moments_of_a_learned_prior(learned):
    weights = np.array([0.25, 0.75])
    means, variances = np.array([[-2.0, 0, 1], [2, 0, 5]]), np.array([[1.0, 0.5, 2], [0.1, 3, 2]]) ** 2
    mean = weights @ means
    std = np.sqrt(weights @ (variances + means**2) - mean**2)
    found = latent.prior_shape(*learned)
    assert found.codes.shape == (8192, 3)
    assert (np.abs(found.mean - mean) < 5.5 * std / np.sqrt(8192)).all()
    assert (np.abs(found.std / std - 1) < 5.5 * np.sqrt(3 / 8192)).all()  # the fourth moments here are below 7 std^4
    np.testing.assert_array_equal(found.codes, latent.prior_shape(*learned).codes)


def test_codes_are_decoded_in_blocks_of_one_size_and_in_order():
    sizes = []

    def means(params, z):
        sizes.append(len(z))
        return np.asarray(z, np.float64)[:, :1, None, None] * np.ones((1, 2, 3, 1)) * params

    codes = np.random.default_rng(0).normal(size=(10, 13, 4))
    found = latent.decode(SimpleNamespace(means=means), 2.0, codes)
    assert found.shape == (10, 13, 2, 3, 1)
    np.testing.assert_allclose(found[..., 1, 2, 0], 2 * codes[..., 0], rtol=1e-6)
    assert sizes == [64] * 3  # so the decoder is compiled once
    assert latent.decode(SimpleNamespace(means=means), 1.0, codes[0, :1]).shape == (1, 2, 3, 1)


def test_views_put_the_asked_for_images_first(learned):
    built, params = learned
    usual, asked = content.views(built), content.views(built, first=(7, 301))
    assert asked.places.tolist() == [7, 301, *usual.places]
    exact = np.asarray(built.data.eval_input(built.data.test[np.array([7, 301])]))
    np.testing.assert_allclose(asked.originals[:2], exact)
    np.testing.assert_allclose(asked.codes(params)[2:], usual.codes(params), atol=1e-5)


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
    "colour": (10, 9, 64, 64, 3),
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


# Animation


def frames_of(content):
    gif = Image.open(io.BytesIO(content))
    frames = []
    for i in range(gif.n_frames):
        gif.seek(i)
        frames.append(np.asarray(gif.convert("RGB"), np.float64) / 255)
    return gif, frames


def test_the_animation_goes_there_and_back_for_ever():
    images = np.linspace(0, 1, 5)[None, :, None, None, None] * np.ones((2, 1, 28, 28, 1))
    images[1] = 1 - images[1]
    gif, frames = frames_of(latent_figures.animation(images, ["z[0]", "z[12]"], ("−3", "3")))
    assert gif.info["loop"] == 0
    assert len(frames) == 8
    for step, frame in zip([0, 1, 2, 3, 4, 3, 2, 1], frames, strict=True):
        for tile, left in ((0, 10), (1, 104)):  # 28 pixels are shown as 84, and 10 more in between
            shown = frame[20:104, left : left + 84]
            np.testing.assert_allclose(shown, images[tile, step].mean(), atol=0.02)
    assert frames[0][:20].mean() > 0.9  # names on white, above


def test_pixels_are_kept_as_they_are():
    images = np.random.default_rng(0).uniform(size=(1, 2, 8, 8, 3))
    _, frames = frames_of(latent_figures.animation(images, ["a"], ("0", "1")))
    for frame, image in zip(frames, images[0], strict=True):
        np.testing.assert_allclose(frame[20:116, 10:106][6::12, 6::12], image, atol=0.06)  # of 256 colours


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((10, 13, 64, 64, 3), (380, 216)),
        ((1, 13, 300, 200, 1), (220, 164)),
        ((3, 5, 1, 300, 1), (340, 88)),
        ((2, 3, 200, 1, 1), (220, 164)),
    ],
)
def test_the_animation_is_small(shape, size):
    content = latent_figures.animation(picture(*shape), [f"z[{j}]" for j in range(shape[0])], ("−3", "3"))
    assert len(content) < 1_000_000
    assert frames_of(content)[0].size == size


def test_what_would_be_large_loses_shades_and_then_steps():
    noise = np.random.default_rng(0).uniform(size=(4, 13, 32, 32, 3))
    names = ["a", "b", "c", "d"]
    whole = latent_figures.animation(noise, names, ("0", "1"), max_bytes=10**9)
    fewer = latent_figures.animation(noise, names, ("0", "1"), max_bytes=len(whole) // 2)
    assert len(fewer) < 0.75 * len(whole)
    assert frames_of(whole)[0].n_frames == 24
    assert frames_of(fewer)[0].n_frames == 12


def test_a_picture_replaces_another_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.gif"
    write_picture(path, b"first")
    write_picture(tmp_path / "a.png", figures.kl_per_dimension(np.ones(3)))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")

    def fail(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_picture(path, b"second")
    assert path.read_bytes() == b"first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gif", "a.png"]


# The page


def test_the_sections_of_a_run_with_a_learned_prior(learned, tmp_path):
    built, params = learned
    run = Run(tmp_path, built, 0, params, None, [], [])
    sections = page._sections(run)
    names = [(section.name, isinstance(section.picture, bytes)) for section in sections]
    assert names == [
        ("reconstructions", False),
        ("prior_means", False),
        ("prior_samples", False),
        ("kl_per_dimension", False),
        ("aggregate_posterior", False),
        ("traversal", False),
        ("traversal", True),
        ("interpolation", False),
        ("latent_space", False),
    ]
    by_name = {name: section for name, section in zip(names, sections, strict=True)}
    assert "the learned prior, from draws" in by_name["aggregate_posterior", False].caption
    assert "which is not the distance between the two curves" in by_name["aggregate_posterior", False].caption
    assert "means, not draws of x" in by_name["prior_means", False].caption
    assert [by_name[name, False].title for name in ("prior_means", "prior_samples")] == [
        "Means E[x|z] for z from the prior",
        "Samples of x from the model",
    ]
    assert f"Test images as the model sees them ({built.data.description})" in by_name["reconstructions", False].caption
    assert "from the learned prior's mean" in by_name["traversal", False].caption
    written = write_sections(sections, tmp_path / "figures")
    (embedded,) = re.findall(r'src="data:image/gif;base64,([^"]*)"', written)
    assert base64.b64decode(embedded) == (tmp_path / "figures" / "traversal.gif").read_bytes()
    assert written.count("data:image/png;base64,") == 8
    for section in sections:
        if not isinstance(section.picture, bytes):
            assert (tmp_path / "figures" / f"{section.name}.png").exists()
    rows = by_name["traversal", False].picture.axes[1].get_yticklabels()
    kl = content.posteriors(built, params)[2]
    assert [row.get_text() for row in rows] == [f"z[{j}], mean KL {kl[j]:.2f} nats" for j in np.argsort(-kl)]


def test_names_are_escaped(tmp_path):
    written = write_sections([Section("traversal", "<b>", "x < y & z", b"GIF89a")], tmp_path)
    assert "<b>" not in written
    assert "x &lt; y &amp; z" in written
