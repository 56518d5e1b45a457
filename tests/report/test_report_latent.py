"""The report's latent figures: codes and densities against NumPy and SciPy, and what is drawn where."""

import base64
import itertools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from latent_pictures import NORMAL
from scipy import integrate, stats

from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.report.html import Section, write_sections
from vae_jax.report.run import content, latent, page
from vae_jax.report.run.latent import PriorShape
from vae_jax.runs import Run

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


# The page


@pytest.mark.slow
def test_the_sections_of_a_run_with_a_learned_prior(learned, tmp_path):
    built, params = learned
    run = Run(tmp_path, built, 0, params, None, [], [])
    sections = page._sections(run, content.pictures(run))
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
