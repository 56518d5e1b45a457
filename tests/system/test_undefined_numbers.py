"""Numbers that are not defined, through the scripts: no error over one example, no mean over one that is not finite."""

import importlib
import json
import math

import numpy as np
import pytest

from vae_jax import runs, sweep
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.evaluation import Annealed, Annealing, Bounds, Gaps
from vae_jax.report.run import evaluation_table
from vae_jax.report.run.content import quantities
from vae_jax.runs import evaluate_run
from vae_jax.runs.evaluate_run import EvaluationOptions, assess
from vae_jax.runs.in_words import interval_of, remarks
from vae_jax.storage.atomic import as_json, write_json

SETTINGS = {"likelihood": "gaussian", "hidden": (4,), "latent_dim": 2, "batch_size": 16}
BAD = 7


def strictly(path):
    """JSON as the standard has it, without NaN and Infinity; of several lines, the last."""

    def refuse(name):
        raise AssertionError(f"{path}: {name}")

    return json.loads(path.read_text() if path.suffix == ".json" else path.read_text().splitlines()[-1], parse_constant=refuse)


@pytest.fixture(scope="module")
def outlier(tmp_path_factory):
    """A table whose test example 7 lies a million standard deviations away, and one with a single test example."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    train, test = (rng.normal(size=(n, 4, 1, 1)).astype(np.float32) for n in (64, 12))
    np.savez(folder / "single.npz", train=train, test=test[:1])
    test[BAD] *= 1e6
    np.savez(folder / "outlier.npz", train=train, test=test)
    return folder


def options(folder, name, **changes):
    return {"dataset": str(folder / name), **SETTINGS, **changes}


def flags(settings):
    return [
        word
        for name, value in settings.items()
        for word in (f"--{name.replace('_', '-')}", *(value if isinstance(value, tuple) else (value,)))
    ]


@pytest.fixture
def evaluate(monkeypatch, script):
    return importlib.import_module("vae_jax.cli.evaluate")


@pytest.mark.slow
def test_an_example_that_cannot_be_evaluated(outlier, tmp_path, script, evaluate):
    """Through train.py: one line that names the example; a run directory that can be read, resumed and evaluated."""
    out, settings = tmp_path / "run", options(outlier, "outlier.npz", epochs=4)
    words = f"test example {BAD}, counted from 0, has an ELBO that is not finite"
    status, stderr = script("train", *flags(settings), "--no-report", "--out", out)
    assert (status, stderr.count("\n")) == (1, 1), stderr
    assert stderr.startswith(f"error: training ended after epoch 1: {words}")
    assert f"this row of the test set, or use a likelihood with heavy tails (student_t). The run is kept in {out}" in stderr
    summary = strictly(out / "summary.json")
    assert (summary["status"], summary["test_elbo"], summary["epochs"]) == ("not finite", None, 1)
    assert summary["problem"].startswith(words)
    assert strictly(out / "metrics.jsonl")["test_elbo"] is None
    before = (out / "metrics.jsonl").read_bytes()
    assert script("train", "--out", out, "--resume", "--no-report") == (1, stderr)
    assert (out / "metrics.jsonl").read_bytes() == before

    numbers, examples = assess(runs.load_run(out), EvaluationOptions(num_samples=30, elbo_samples=1))
    assert numbers["not_finite_examples"] == [BAD]
    assert [numbers[name] for name in ("test_elbo", "log_px_mean", "log_px_interval")] == [None, None, [None, None]]
    assert np.flatnonzero(~np.isfinite(examples["log_px"])).tolist() == [BAD]
    (remark, *_) = remarks(numbers)
    assert f"of test example {BAD}, counted from 0, is not finite" in remark
    text = " ".join([evaluate.table_row(numbers), *evaluate.details(numbers)])
    assert "nan" not in text
    assert "None" not in text
    assert "interval" not in text


def test_a_member_of_a_sweep_is_left_out_with_the_example(outlier):
    """The width of q at the outlier overflows with one seed, and vanishes with the other."""
    members = sweep.grid(Config(**options(outlier, "outlier.npz", epochs=2)), seed=(0, 1))
    result = sweep.sweep(members)
    assert list(result.table["status"]) == [f"not finite on test example {BAD} after epoch 1", "finished"]
    assert np.isnan(result.table["test_elbo"]).tolist() == [True, False]
    assert (result.points[0].members, result.points[0].num_lost) == ((1,), 1)


@pytest.mark.slow
def test_no_error_is_stated_over_one_example(outlier, tmp_path, evaluate):
    built = build(Config(**options(outlier, "single.npz", epochs=1)))
    _, summary = runs.train(built, tmp_path)
    assert math.isnan(summary["test_elbo_standard_error"])
    assert strictly(tmp_path / "summary.json")["test_elbo_standard_error"] is None
    assert strictly(tmp_path / "metrics.jsonl")["test_elbo_standard_error"] is None
    run = runs.load_run(tmp_path)
    assert math.isnan(run.metrics[0]["test_elbo_standard_error"])
    name, value, _, remark = quantities(run)[0]
    assert (name, value) == ("test ELBO", f"{summary['test_elbo']:.3f}")
    assert "one test example" in remark

    numbers = assess(run, EvaluationOptions(num_samples=10)).numbers
    one = np.float32([-4.0])
    chain = Annealed(one, np.float32([np.nan]), one, np.float32([np.nan]))  # one chain, one temperature
    numbers["ais"] = as_json(evaluate_run._annealing_numbers(chain, Annealing(num_temperatures=1, num_chains=1)))
    numbers["bdmc"] = as_json(evaluate_run._bound_numbers(Bounds(chain, chain)))
    numbers["gaps"] = as_json(evaluate_run._gap_numbers(Gaps(*[one] * 8), 1))
    write_json(tmp_path / "evaluation.json", numbers)
    assert strictly(tmp_path / "evaluation.json") == json.loads(json.dumps(numbers))  # nothing was left for null
    assert numbers["test_elbo_standard_error"] is numbers["log_px_standard_error"] is None
    assert numbers["ais"]["log_px_standard_error"] is numbers["bdmc"]["gap_standard_error"] is None
    low, high = interval_of(numbers)
    assert low < numbers["log_px_mean"]
    assert high is None  # ten samples say nothing of the tail
    lines = " ".join([evaluate.table_row(numbers), *evaluate.details(numbers)])
    assert f"mean log p(x) of these examples at least {low:.3f}; 10 samples" in lines
    assert "nan" not in lines
    assert "None" not in lines
    assert "+- 0.000" not in lines
    assert any("10 samples say nothing of the tails" in remark for remark in remarks(numbers))
    page = evaluation_table.section(run)
    assert f"the mean over these examples is at least {low:.3f}" in page
    assert "nan" not in page
    assert "± 0.000" not in page
    assert f"{numbers['log_px_mean']:.3f}<" in page
