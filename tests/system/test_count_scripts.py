"""Tables of counts through the scripts: each likelihood of counts, with and without exposure, in runs and in a sweep."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from scripts import summary
from speed import slow_but

from vae_jax.build import load_dataset
from vae_jax.config import Config
from vae_jax.runs.likelihood_comparison import DISCRETE_UNIT, GIVEN_TOTAL_UNIT, plan

LIKELIHOODS = {
    "poisson": (),
    "poisson, observed": ("--exposure", "observed"),
    "poisson, standardized": ("--count-input", "standardized"),
    "negative_binomial": (),
    "negative_binomial, observed": ("--exposure", "observed", "--dispersion", "per_column"),
    "zero_inflated_negative_binomial": ("--output-bias", "train_mean"),
    "zero_inflated_negative_binomial, observed": ("--exposure", "observed", "--dispersion", "per_column"),
    "multinomial": (),
}
QUICK = ("zero_inflated_negative_binomial, observed",)
DIMS = 7


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Counts of 120 cells: shares of a row's total, of sizes from 30 to 3,000, and one cell without any."""
    rng = np.random.default_rng(0)
    shares = np.exp(rng.normal(size=(120, 2)) @ rng.normal(size=(2, DIMS)))
    totals = np.exp(rng.uniform(np.log(30), np.log(3000), (120, 1)))
    counts = rng.poisson(totals * shares / shares.sum(axis=1, keepdims=True))
    counts[3] = 0
    path = tmp_path_factory.mktemp("counts") / "counts.npy"
    np.save(path, counts.astype(np.int64))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", slow_but(QUICK, LIKELIHOODS))
def test_counts_are_trained_evaluated_and_resumed(name, table, script, tmp_path):
    out, likelihood = tmp_path / "run", name.split(",")[0]
    flags = ("--dataset", table, "--likelihood", likelihood, "--hidden", 4, "--latent-dim", 2, "--batch-size", 32)
    status, stderr = script("train", *flags, *LIKELIHOODS[name], "--epochs", 2, "--out", out, "--no-report")
    assert status == 0, stderr
    written = summary(out)
    assert written["status"] == "finished"
    assert np.isfinite(written["test_elbo"])
    assert written["test_log_likelihood"] < 0
    recorded = json.loads((out / "config.json").read_text())
    expected = "counts" if "standardized" in name else "counts, seen by the encoder as log(1 + x)"
    assert recorded["data"]["treatment"] == expected
    if "binomial" in name:
        assert len(written["log_dispersion"]) == (DIMS if "observed" in name else 1)
    assert script("evaluate", out, "--num-samples", 20, "--elbo-samples", 1)[0] == 0
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert evaluation["log_px_mean"] >= evaluation["test_elbo"] - 1
    status, stderr = script("train", "--resume", "--out", out, "--no-report")
    assert status == 0, stderr
    assert summary(out)["test_elbo"] == written["test_elbo"]


@pytest.mark.parametrize("name", slow_but((), ("negative_binomial", "multinomial")))
def test_a_sweep_over_seeds(name, table, script, tmp_path):
    flags = ("--dataset", table, "--likelihood", name, "--hidden", 4, "--latent-dim", 2, "--batch-size", 32, "--epochs", 1)
    status, stderr = script("sweep", *flags, "--seeds", 0, 1, "--out", tmp_path / "sweep", "--no-report")
    assert status == 0, stderr
    rows = list(csv.DictReader((tmp_path / "sweep" / "results.csv").open()))
    assert len(rows) == 2
    assert all(row["status"] == "finished" and np.isfinite(float(row["test_elbo"])) for row in rows)


def test_likelihoods_given_totals_are_compared_apart(table):
    base = Config(dataset=str(table))
    dataset = load_dataset(base)
    alone = [plan(base, name, dataset).unit for name in ("poisson", "negative_binomial:per_column")]
    given = [plan(base, "multinomial", dataset), plan(dataclasses.replace(base, exposure="observed"), "poisson", dataset)]
    assert set(alone) == {DISCRETE_UNIT}
    assert {entry.unit for entry in given} == {GIVEN_TOTAL_UNIT}
    assert given[0].why == "probability of the counts given their total"
    assert given[0].config.exposure == "none"
