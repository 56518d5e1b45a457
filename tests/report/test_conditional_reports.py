"""Reports of conditional runs and of data with missing entries: what is decoded with which condition, and what is drawn."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from vae_jax import data
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.evaluation import Annealing, ImputationSettings, impute_dataset
from vae_jax.example import Example
from vae_jax.report.run import conditions, content, figures, latent, latent_figures, page
from vae_jax.report.run.displayed_examples import views
from vae_jax.report.run.events import heat_maps, sections, vector_figures
from vae_jax.runs import Run, evaluate_run
from vae_jax.runs.notation import Notation

SIDE, KINDS = 6, ("low", "mid", "high")


def make_run(dataset, **settings) -> Run:
    """A run that was not trained, at parameters under which conditions and codes matter."""
    config = Config(likelihood="gaussian", scale="shared", hidden=(8,), latent_dim=2, batch_size=16, epochs=1, **settings)
    built = build(config, dataset=dataset)
    params = jax.tree.map(lambda leaf: 1.2 * leaf + 0.05, built.vae.init(jax.random.key(1)))
    return Run(Path("run"), built, 1, params, None, [], [])


@pytest.fixture(scope="module")
def image_run():
    """Images with a third of the pixels missing, conditioned on one of three words."""
    rng = np.random.default_rng(0)
    images, kinds = rng.random((60, SIDE, SIDE, 1)).astype(np.float32), np.array(KINDS)[rng.integers(0, 3, 60)]
    mask = rng.random(images.shape) > 1 / 3
    return make_run(data.from_arrays(images, mask=mask, condition={"kind": kinds}), prior="conditional")


@pytest.fixture(scope="module")
def image_pictures(image_run):
    return content.pictures(image_run)


@pytest.fixture(scope="module")
def vector_run():
    """Vectors with missing entries, conditioned on one of 25 categories and on two real numbers."""
    rng = np.random.default_rng(1)
    kinds = np.concatenate([np.arange(25), np.repeat(np.arange(20), 10)])
    x = (rng.normal(size=(225, 3)) + kinds[:, None]).astype(np.float32)
    x[rng.random(x.shape) < 0.25] = np.nan
    x[:, 2] = np.where(np.arange(225) == 0, 1.0, np.nan)  # a column that the test set lacks
    condition = {"kind": kinds, "age": rng.normal(40, 10, 225).astype(np.float32), "size": rng.random(225).astype(np.float32)}
    return make_run(data.from_arrays(x, missing="nan", condition=condition, split="last"))


def mean_of(run, z, condition):
    return run.built.vae.likelihood.mean(run.built.vae.decode(run.params, jnp.asarray(z, jnp.float32), jnp.asarray(condition)))


def assert_close(actual, expected):
    """Equal to rounding on the scale of the largest number: a batch and one example sum in a different order."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def recorded(monkeypatch, module, name):
    """Replaces a function that draws by one that notes its arguments and returns an empty figure."""
    calls = []
    monkeypatch.setattr(module, name, lambda *arguments: calls.append(arguments) or Figure())
    return calls


def shown_and_codes(run):
    shown = views(run.built)
    return shown, np.asarray(shown.codes(run.params))


def test_each_row_of_samples_is_a_class_and_each_column_one_code(image_run, monkeypatch):
    drawn = recorded(monkeypatch, figures, "labeled_strips")
    recorded(monkeypatch, latent_figures, "transfer")
    shown, codes = shown_and_codes(image_run)
    made = conditions.condition_sections(image_run, shown, codes)
    assert [section.name for section in made] == ["samples_by_classes", "transfer_by_classes"]
    ((rows,),) = drawn
    names = sorted(KINDS)
    assert [name for name, _ in rows] == [f"kind = {name}" for name in names]
    key = jax.random.split(conditions.stream(image_run.built.config.test_seed, conditions.Stream.REPORT_SAMPLES))[0]
    z = jax.random.normal(key, (12, 2))
    low, high = shown.to_displayed.low, shown.to_displayed.high
    for code, (_, images) in zip(np.eye(3, dtype=np.float32), rows, strict=True):
        expected = np.stack([mean_of(image_run, one, code) for one in z])
        assert_close(images, (expected - low) / (high - low))
    assert np.abs(rows[0][1] - rows[1][1]).max() > 1e-2


def test_style_transfer_decodes_the_code_of_each_test_image_with_every_class(image_run, monkeypatch):
    recorded(monkeypatch, figures, "labeled_strips")
    drawn = recorded(monkeypatch, latent_figures, "transfer")
    shown, codes = shown_and_codes(image_run)
    conditions.condition_sections(image_run, shown, codes)
    ((images, originals, names, headings),) = drawn
    chosen = [int(np.flatnonzero(shown.places == int(name))[0]) for name in names]
    np.testing.assert_array_equal(originals, shown.originals[chosen])
    assert headings == [f"kind = {name}" for name in sorted(KINDS)]
    low, high = shown.to_displayed.low, shown.to_displayed.high
    for i, row in zip(chosen, images, strict=True):
        expected = np.stack([mean_of(image_run, codes[i], code) for code in np.eye(3, dtype=np.float32)])
        assert_close(row, (expected - low) / (high - low))


def test_codes_are_those_of_the_observed_pixels_and_the_condition(image_run):
    shown, codes = shown_and_codes(image_run)
    built, i = image_run.built, 3
    stored = built.dataset.test_condition[shown.places[i], 0]
    example = Example(
        jnp.asarray(built.dataset.test[shown.places[i]]),
        jax.nn.one_hot(int(stored), 3),
        jnp.asarray(built.dataset.test_mask[shown.places[i]]),
    )
    np.testing.assert_allclose(codes[i], built.vae.encode(image_run.params, example)[0], rtol=1e-4, atol=1e-5)
    reconstruction = shown.means_like(image_run.params, codes, np.arange(len(codes)))[i]
    low, high = shown.to_displayed.low, shown.to_displayed.high
    expected = (mean_of(image_run, codes[i], example.condition) - low) / (high - low)
    assert_close(reconstruction, expected)
    first = jax.nn.one_hot(int(built.dataset.test_condition[shown.places[0], 0]), 3)
    np.testing.assert_allclose(
        shown.means(image_run.params, jnp.zeros((1, 2)))[0],
        (mean_of(image_run, np.zeros(2), first) - low) / (high - low),
        rtol=1e-4,
        atol=1e-5,
    )


def test_missing_pixels_are_drawn_in_a_color_and_imputed_by_importance_sampling(image_run, image_pictures, monkeypatch):
    pictures = image_pictures
    is_missing = ~image_run.built.dataset.test_mask[pictures.views.places]
    np.testing.assert_array_equal(np.isnan(pictures.originals), is_missing)
    np.testing.assert_array_equal(np.isnan(pictures.views.stored), is_missing)
    imputed = pictures.imputed.values
    np.testing.assert_array_equal(imputed[~is_missing], pictures.originals[~is_missing])
    built, rows = image_run.built, image_run.built.data.test[pictures.views.places[:3]]
    settings = ImputationSettings(5000)
    many = impute_dataset(jax.random.key(5), built.vae, image_run.params, rows, settings, to_input=built.data.eval_input)
    expected, error = (np.asarray(values)[is_missing[:3]] for values in (many.mean, many.standard_error))
    low, high = pictures.views.to_displayed.low, pictures.views.to_displayed.high
    difference = np.abs(imputed[:3][is_missing[:3]] - (expected - low) / (high - low))
    assert (difference < 6 * error * np.sqrt(1 + 5000 / 200) / (high - low)).all()
    one_code = np.abs(imputed[:3][is_missing[:3]] - pictures.reconstructions[:3][is_missing[:3]])
    assert one_code.mean() > 2 * difference.mean()  # E[x|z] at the posterior mean is a different number
    assert ((pictures.imputed.effective_sample_size >= 1) & (pictures.imputed.effective_sample_size <= 200)).all()
    rgb = figures.as_rgb(pictures.originals)
    np.testing.assert_allclose(rgb[is_missing[..., 0]], np.tile(figures.MISSING, (int(is_missing.sum()), 1)))
    assert (np.ptp(rgb[~is_missing[..., 0]], axis=-1) == 0).all()  # observed pixels are gray
    drawn = recorded(monkeypatch, figures, "reconstructions")
    caption = page._image_sections(image_run, pictures)[0].caption
    assert len(drawn[0]) == 3
    assert "Missing pixels are orange" in caption
    assert f"effective sample size is {np.median(pictures.imputed.effective_sample_size):.0f}." in caption
    assert "E[x_missing|x_observed,c]" in Notation.of(built).translate(caption)


def test_captions_and_figures_of_a_run_name_its_densities(image_run, image_pictures):
    translate = lambda section: page.in_notation(section, Notation.of(image_run.built))  # noqa: E731
    sections_of_page = [translate(section) for section in page._sections(image_run, image_pictures)]
    texts = " ".join(f"{section.title} {section.caption}" for section in sections_of_page)
    assert "E[x|u,c]" in texts
    assert "E[x|z]" not in texts
    assert "q(u_j|x_n,c_n)" in texts
    assert "The condition is that of this test example throughout." in texts
    traversal = next(section for section in sections_of_page if section.name == "traversal")
    traversal.picture.canvas.draw()
    ticks = [text.get_text() for axes in traversal.picture.axes for text in axes.get_yticklabels()]
    assert {tick[:2] for tick in ticks} == {"u["}
    rows = content.givens(image_run)
    assert rows[0].value == "kind (3 categories)"
    assert rows[1].value.endswith(" %")
    assert float(rows[1].value[:-2]) == pytest.approx(100 * (1 - image_run.built.dataset.test_mask.mean()), abs=0.01)


def test_the_most_frequent_categories_and_quantiles_of_real_conditions_are_varied(vector_run):
    classes, real = conditions.variations(vector_run.built)
    assert len(classes.rows) == 20
    assert "20 most frequent of 25 categories" in classes.remark
    train = vector_run.built.dataset.train_condition
    counts = np.bincount(train[:, 0].astype(int), minlength=25)
    kept = [int(row.value) for row in classes.rows]
    assert counts[kept].min() >= counts[np.setdiff1d(np.arange(25), kept)].max()
    assert [row.column for row in real.rows] == [1, 1, 1, 2, 2, 2]
    np.testing.assert_allclose([row.value for row in real.rows[:3]], np.quantile(train[:, 1], (0.05, 0.5, 0.95)))
    stored = vector_run.built.dataset.test_condition[:4]
    given = conditions.varied(vector_run.built, stored, real.rows)
    assert given.shape == (6, 4, 27)
    expected = vector_run.built.data.condition.expand(stored)
    np.testing.assert_array_equal(given[0, :, [*range(25), 26]].T, expected[:, [*range(25), 26]])  # other columns as they were
    column = vector_run.built.data.condition.columns[1]
    np.testing.assert_allclose(given[2, :, 25], (real.rows[2].value - column.mean) / column.std, rtol=1e-5)


def test_histograms_of_a_class_hold_its_examples_and_draws(vector_run, monkeypatch):
    drawn = recorded(monkeypatch, vector_figures, "labeled_histograms")
    recorded(monkeypatch, heat_maps, "transfer")
    shown = views(vector_run.built, content.num_shown(vector_run.built))
    conditions.condition_sections(vector_run, shown, np.asarray(shown.codes(vector_run.params)))
    stored = vector_run.built.dataset.test_condition[shown.places]
    for name, examples, draws in drawn[0][0]:
        code = vector_run.built.data.condition.columns[0].categories.index(name.removeprefix("kind = "))
        np.testing.assert_array_equal(examples, shown.originals[stored[:, 0] == code])
        assert np.isfinite(draws).all()
    assert len(drawn[1][0]) == 6  # three quantiles of two real columns


def test_figures_of_vectors_leave_out_missing_entries(vector_run):
    pictures = content.pictures(vector_run)
    made = sections.example_sections(vector_run, pictures)
    assert [section.name for section in made][:2] == ["reconstructions", "imputed"]
    observed = vector_run.built.dataset.test_mask[pictures.views.places]
    points = made[0].picture.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(np.asarray(points)[:, 0], pictures.originals[observed[:, 0], 0])
    for section in made:
        section.picture.canvas.draw()  # columns without any observed value do not stop it
    edges = np.linspace(0.0, 1.0, 3)
    np.testing.assert_allclose(vector_figures._shares(np.array([0.1, np.nan, 0.7, 0.8]), edges), [1 / 3, 2 / 3])


def test_examples_are_named_with_their_condition(vector_run):
    name = latent.example_name(vector_run.built, 0)
    kind, age, _ = vector_run.built.dataset.test_condition[0].tolist()
    assert name.startswith(f"test example 0 (kind = {int(kind)}, age = {age:.4g}, size = ")


def test_an_evaluation_simulates_given_the_first_test_conditions_and_records_them(vector_run, monkeypatch):
    given = []

    def bounds(key, vae, params, num_examples, settings, *, conditions):
        given.append(conditions)
        return jnp.zeros(())

    monkeypatch.setattr(evaluate_run, "bdmc_simulated", bounds)
    with jax.disable_jit():
        evaluate_run._simulate_bounds(vector_run, Annealing(), 50)
    stored = vector_run.built.dataset.test_condition
    expected = vector_run.built.data.condition.expand(stored[np.arange(50) % len(stored)])
    np.testing.assert_allclose(given[0], expected, rtol=1e-6)
