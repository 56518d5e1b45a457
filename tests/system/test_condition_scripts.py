"""Conditional runs through the scripts: trained, evaluated, reported, and swept."""

import csv
import json

import numpy as np
import pytest
from scripts import run, summary

SMALL = ("--hidden", 16, "--latent-dim", 2, "--batch-size", 256)
DIGITS = ("--dataset", "digits", "--condition", "labels", "--prior", "conditional", *SMALL)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "digits"
    return out, run("train.py", *DIGITS, "--epochs", 2, "--no-report", "--out", out)


@pytest.mark.slow
def test_digits_given_their_labels(trained, tmp_path):
    out, done = trained
    assert "given label (10 categories)" in done.stdout
    content = json.loads((out / "config.json").read_text())
    assert content["config"]["condition"] == "labels"
    assert content["data"]["condition"]["columns"] == [{"name": "label", "categories": list("0123456789")}]
    first = summary(out)
    assert first["status"] == "finished"
    done = run("evaluate.py", out, "--num-samples", 20, "--elbo-samples", 1)
    assert "still has of the labels beside c" in done.stderr + done.stdout
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert evaluation["test_elbo"] == pytest.approx(first["test_elbo"], rel=1e-6)
    assert 0 < evaluation["knn_accuracy"] < 1
    run("report.py", out)
    assert (out / "report.html").stat().st_size > 10_000


def test_a_table_given_its_columns_and_a_sweep_of_it(script, tmp_path):
    rng = np.random.default_rng(0)
    rows = zip(rng.normal(size=80), rng.normal(size=80), ["b", "a"] * 40, rng.uniform(20, 80, 80), strict=True)
    lines = ["x,z,cell type,age", *(",".join(map(str, row)) for row in rows), ""]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    flags = ("--dataset", tmp_path / "t.csv", "--condition", "cell type,age", "--likelihood", "gaussian")
    flags += ("--hidden", 4, "--latent-dim", 2, "--batch-size", 16, "--epochs", 1, "--no-report")
    status, stderr = script("sweep", *flags, "--seeds", 0, 1, "--out", tmp_path / "sweep")
    assert status == 0, stderr
    results = list(csv.DictReader((tmp_path / "sweep" / "results.csv").open()))
    assert all(row["status"] == "finished" and np.isfinite(float(row["test_elbo"])) for row in results)
    content = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert [column["name"] for column in content["data"]["condition"]["columns"]] == ["cell type", "age"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--dataset", "digits", "--condition", "label"), "Did you mean 'labels'"),
        (("--dataset", "digits", "--condition", "factors"), "its training examples have no factors"),
        (("--dataset", "digits", "--condition", "none.csv"), "none.csv: no such file"),
        (("--dataset", "sprites", "--condition", "labels"), "Use its factors: --condition factors"),
        (("--dataset", "digits", "--prior", "conditional"), "--condition"),
        (("--dataset", "digits", "--condition", "a,,b"), "empty one"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(script, tmp_path, flags, message):
    status, stderr = script("train", *flags, "--out", tmp_path / "run", "--no-report")
    assert status == 2
    assert message in stderr
    assert len([line for line in stderr.splitlines() if line.startswith("error")]) == 1
    assert not (tmp_path / "run").exists()
