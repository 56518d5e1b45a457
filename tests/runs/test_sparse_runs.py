"""Runs on sparse counts: the numbers of an evaluation, and what their report shows."""

import jax
import numpy as np
import pytest
from scipy import sparse
from speed import slow_but

from vae_jax import data, runs
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.evaluation import Annealing
from vae_jax.report.run import content
from vae_jax.report.run.page import write_report
from vae_jax.runs.evaluate_run import EvaluationOptions, assess

RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(RNG.lognormal(0, 1, (60, 1)) * RNG.lognormal(0, 1, (1, 9)))
CONFIG = Config(
    likelihood="negative_binomial",
    exposure="observed",
    dispersion="per_column",
    epochs=1,
    hidden=(4,),
    latent_dim=2,
    batch_size=16,
)


def make(matrix):
    return data.from_arrays(matrix, labels=np.array(["B", "T"])[(COUNTS[:, 0] > 1).astype(int)], name="cells")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "cells"
    runs.train(build(CONFIG, dataset=make(sparse.csr_array(COUNTS))), out)
    return runs.load_run(out, dataset=make(sparse.csr_array(COUNTS)))


ESTIMATES = {
    "importance": EvaluationOptions(num_samples=4, elbo_samples=1),
    "annealing and gaps": EvaluationOptions(4, 1, annealing=Annealing("posterior", 3, 2), gap_steps=2, num_annealed=5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", slow_but(("importance",), ESTIMATES))
def test_every_estimate_of_sparse_examples_is_that_of_dense_ones(name, run):
    options = ESTIMATES[name]
    dense = run._replace(built=build(CONFIG, dataset=make(COUNTS)))
    evaluated, expected = assess(run, options), assess(dense, options)
    assert evaluated.numbers["knn_accuracy"] == expected.numbers["knn_accuracy"]
    assert evaluated.examples.keys() == expected.examples.keys()
    for field, values in expected.examples.items():
        np.testing.assert_allclose(evaluated.examples[field], values, rtol=1e-3, atol=1e-3, err_msg=field)


@pytest.mark.slow
def test_its_report_shows_each_row_at_its_total(run):
    stored, shown = content.reconstructions(run.built, run.params)
    np.testing.assert_array_equal(stored, run.built.dataset.test[np.arange(len(stored))])
    np.testing.assert_allclose(shown.sum(axis=1), stored.sum(axis=1), rtol=1e-4)
    assert len(set(stored.sum(axis=1))) > 5
    drawn = content.pictures(run)
    z = content.prior_codes(run.built.vae, run.params, jax.random.key(0), 3)
    at_mean = drawn.views.means(run.params, z).sum(axis=1)
    np.testing.assert_allclose(at_mean, run.built.dataset.train[:].sum(axis=1).mean(), rtol=1e-4)
    page = write_report(run).read_text()
    for sentence in ("an example with the total of x", "that of one of the test examples for each z", "with the mean total"):
        assert sentence in page


def test_nine_learned_dispersions_are_summarized(run):
    (row,) = (quantity for quantity in content.quantities(run) if quantity.name == "learned dispersion")
    low, high = np.exp([min(run.summary["log_dispersion"]), max(run.summary["log_dispersion"])])
    assert row.value.startswith(f"{low:.4g} to {high:.4g}, median ")
    assert "one value for each of 9 columns" in row.remark
    assert "summary.json" in row.remark
