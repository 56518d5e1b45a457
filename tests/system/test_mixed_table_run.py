"""Runs on a mixed table, from the command line and from Python."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.csv
import pytest
from mixed_csv import content, write_csv

from vae_jax import data, runs
from vae_jax.report.run.events.table_sections import column_nats

SMALL = ("--hidden", 8, "--latent-dim", 2, "--epochs", 2, "--batch-size", 32, "--no-compilation-cache")


@pytest.fixture
def table(tmp_path):
    return write_csv(tmp_path / "people.csv", content(120))


@pytest.mark.slow
def test_a_table_is_trained_and_reported(script, table, tmp_path, capfd):
    out = tmp_path / "run"
    choice = tmp_path / "choice.json"
    choice.write_text(json.dumps({"change": "student_t:3"}))
    arguments = ("--dataset", table, "--missing", "nan", "--mask-input", "--columns", choice, "--out", out, *SMALL)
    code, errors = script("train", *arguments)
    assert code == 0, errors
    config = json.loads((out / "config.json").read_text())["config"]
    assert config["likelihood"] == "columns"
    expected = ["id=none", "city, town=categorical", "owner=bernoulli", "hidden=bernoulli", "smokes=bernoulli"]
    assert config["columns"][:5] == expected
    assert "change=student_t:3" in config["columns"]

    run = runs.load_run(out)
    nats, observed = column_nats(run)
    np.testing.assert_allclose(nats.sum(axis=1).mean(), run.summary["test_log_likelihood"], rtol=1e-6)
    assert (nats[~observed] == 0).all()
    assert set(run.summary["column_log_scale"]) == {"height", "change", "large"}
    assert set(run.summary["column_log_dispersion"]) == {"visits"}

    page = (out / "report.html").read_text()
    assert "Log-likelihood of each column" in page
    assert "Rome, old" in page
    samples, original = pyarrow.csv.read_csv(out / "figures" / "samples.csv"), pyarrow.csv.read_csv(table)
    kept = [word.rsplit("=", 1)[0] for word in config["columns"] if not word.endswith("=none")]
    assert samples.column_names == kept
    assert [samples.schema.field(name).type for name in kept] == [original.schema.field(name).type for name in kept]
    assert set(samples["city, town"].to_pylist()) <= {"Oslo", "Rome, old", 'New "York"'}

    code, errors = script("train", "--resume", "--out", out, "--no-compilation-cache", "--no-report")
    assert code == 0, errors


@pytest.mark.slow
def test_columns_of_zeros_and_ones_are_a_plain_bernoulli_run(script, tmp_path):
    rng = np.random.default_rng(0)
    table = write_csv(tmp_path / "bits.csv", {name: rng.integers(0, 2, 80).tolist() for name in "abc"})
    code, errors = script("train", "--dataset", table, "--out", tmp_path / "run", "--no-report", *SMALL)
    assert code == 0, errors
    plain = tmp_path / "plain"
    code, errors = script("train", "--dataset", table, "--likelihood", "bernoulli", "--out", plain, "--no-report", *SMALL)
    assert code == 0, errors
    files = [json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "run", plain)]
    assert files[0]["config"] == files[1]["config"]
    summaries = [json.loads((folder / "summary.json").read_text())["test_elbo"] for folder in (tmp_path / "run", plain)]
    assert summaries[0] == summaries[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--columns", "colour=gaussian"], "unknown column 'colour'"),
        (["--columns", "height=poisson"], "--columns: .*the column 'height' has"),
        (["--likelihood", "gaussian", "--columns", "height=gaussian"], "--columns belongs to --likelihood columns"),
        (["--binarize", "dynamic", "--likelihood", "columns"], "--binarize dynamic"),
        (["--stream"], "--stream"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(script, table, tmp_path, arguments, message):
    code, errors = script("train", "--dataset", table, "--missing", "nan", "--out", tmp_path / "run", *arguments)
    assert code == 2
    assert re.search(message, errors), errors
    assert len(errors.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_page_about_mixed_tables_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "mixed_tables.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(code.strip().splitlines()) <= 15
    exec(code, {})  # the page of this repository
    assert "('city=categorical', 'rooms=negative_binomial', 'garden=bernoulli')" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_and_an_evaluation_of_a_mixed_table(script, table, tmp_path):
    out = tmp_path / "sweep"
    code, errors = script("sweep", "--dataset", table, "--missing", "nan", "--betas", 1, 2, "--out", out, *SMALL)
    assert code == 0, errors
    members = json.loads((out / "sweep.json").read_text())["members"]
    assert len(members[0]["columns"]) == len(data.load(table, mixed=True, missing="nan").column_names)
    run = tmp_path / "run"
    arguments = ("--dataset", table, "--missing", "nan", "--prior", "vamp", "--out", run, "--no-report", *SMALL)
    code, errors = script("train", *arguments)
    assert code == 0, errors
    code, errors = script("evaluate", run, "--num-samples", 8, "--ais-temperatures", 3)
    assert code == 0, errors
    assert np.isfinite(json.loads((run / "evaluation.json").read_text())["log_px_mean"])
