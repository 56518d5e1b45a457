"""Categories of mixed tables in reports and imputations: their codes are never averaged, correlated or drawn as numbers."""

from pathlib import Path

import jax
import numpy as np
import pyarrow
import pytest

from vae_jax import data
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.report.run import content, page
from vae_jax.report.run.events import categories, sections
from vae_jax.runs import Run
from vae_jax.runs.imputed_rows import impute_file
from vae_jax.runs.trained import TrainedModel, read_new_data

CITIES = ("Bonn", "Oslo", "Rome")


def run_of(table) -> Run:
    """A run that was not trained, at parameters under which codes matter."""
    dataset = data.from_arrays(table, mixed=True, missing="nan", split="last")
    config = Config(likelihood="columns", hidden=(8,), latent_dim=2, batch_size=16, epochs=1)
    built = build(config, dataset=dataset)
    params = jax.tree.map(lambda leaf: 3 * leaf, built.vae.init(jax.random.key(1)))
    return Run(Path("run"), built, 1, params, None, [], [])


def column(rng, values, share):
    return pyarrow.array(values.tolist(), mask=rng.random(len(values)) < share)


@pytest.fixture(scope="module")
def run():
    rng = np.random.default_rng(0)
    city = rng.choice(CITIES, 400, p=(0.5, 0.3, 0.2))
    columns = {"height": rng.normal(170, 9, 400), "city": city, "rooms": rng.poisson(30, 400), "width": rng.normal(0, 1, 400)}
    return run_of(pyarrow.table({name: column(rng, values, 0.2) for name, values in columns.items()}))


@pytest.fixture(scope="module")
def pictures(run):
    return content.pictures(run)


def test_figures_of_numbers_leave_out_categories(run, pictures):
    made = {section.name: section for section in sections.example_sections(run, pictures)}
    assert list(made) == ["reconstructions", "imputed", "prior_samples", "scatter_matrix", "categories"]
    for name in ("reconstructions", "imputed", "prior_samples"):
        titles = {axes.get_title().split("\n")[0] for axes in made[name].picture.axes}
        assert titles == {"height", "rooms", "width"}
    names = {axes.get_xlabel() for axes in made["scatter_matrix"].picture.axes} - {""}
    assert names == {"height", "rooms", "width"}
    assert "Categorical columns are left out" in made["prior_samples"].caption


def test_bars_are_the_shares_of_the_observed_categories(run, pictures):
    section = sections.example_sections(run, pictures)[-1]
    (axes,) = [axes for axes in section.picture.axes if axes.get_title()]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(CITIES)
    codes = pictures.originals[:, 1]
    expected = [np.mean(codes[~np.isnan(codes)] == code) for code in range(3)]
    widths = [bar.get_width() for bar in axes.patches]
    np.testing.assert_allclose(widths[:3], expected)
    np.testing.assert_allclose(widths[3:], [np.mean(pictures.prior_samples[:, 1] == code) for code in range(3)], atol=1e-6)


def test_indicators_stand_in_place_of_codes(run):
    x = np.array([[1.5, 2.0, 3.0, 4.0], [1.0, np.nan, 2.0, np.nan]])
    expected = [[1.5, 0, 0, 1, 3, 4], [1, np.nan, np.nan, np.nan, 2, np.nan]]
    np.testing.assert_array_equal(categories.as_indicators(run.built, x), expected)
    names = ("height", "city = Bonn", "city = Oslo", "city = Rome", "rooms", "width")
    assert categories.names_with_indicators(run.built) == names


def test_the_page_draws_indicators_along_traversals_and_interpolations(run, pictures):
    made = {section.name: section for section in page._sections(run, pictures)}
    for name in ("traversal", "interpolation"):
        made[name].picture.canvas.draw()
        labels = {text.get_text() for axes in made[name].picture.axes for text in axes.get_yticklabels()}
        assert {"city = Bonn", "city = Oslo", "city = Rome"} <= labels
        assert "Each category is drawn as an indicator" in made[name].caption


def test_bits_are_those_of_an_observed_entry_where_entries_are_missing():
    x = np.random.default_rng(2).integers(0, 2, (60, 4)).astype(np.uint8)
    mask = np.random.default_rng(3).random(x.shape) < 0.5
    config = Config(likelihood="bernoulli", hidden=(4,), latent_dim=2, batch_size=8, epochs=1)
    built = build(config, dataset=data.from_arrays(x, mask=mask))
    summary = {"test_elbo": -3.0, "test_log_likelihood": -2.0, "test_kl": 1.0, "test_elbo_standard_error": 0.1}
    rows = content._test_results(Run(Path("run"), built, 1, {}, None, [], []), summary | {"num_test_examples": 12})
    row = next(row for row in rows if row.unit == "bits")
    assert row.name == "bits per observed entry"
    np.testing.assert_allclose(float(row.value), 3 / (built.dataset.test_mask.sum(axis=1).mean() * np.log(2)), rtol=1e-4)


@pytest.mark.slow
def test_categories_are_imputed_by_their_mode_however_many_there_are():
    rng = np.random.default_rng(1)
    names = np.array([f"name {i}" for i in range(70)])[rng.integers(0, 70, 600)]
    run = run_of(pyarrow.table({"name": column(rng, names, 0.3), "size": column(rng, rng.normal(0, 1, 600), 0.3)}))
    dataset = run.built.dataset
    model = TrainedModel(run.path, run.built.config, run.built.description, run.built.vae, run.params, 1)
    imputed = impute_file(model, read_new_data(model, dataset, part="test"), 100, 0).mean[~dataset.test_mask[:, 0], 0]
    np.testing.assert_array_equal(imputed, np.round(imputed))
    assert len(np.unique(imputed)) > 1
