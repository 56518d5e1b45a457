"""A table with empty fields through the scripts: train, evaluate, report, and the refusal without the option."""

import json

import numpy as np
import pytest
from scripts import metrics, run, summary


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(120, 1))
    x = z * [1, -2, 3, 0.5] + [0, 5, -3, 1] + 0.3 * rng.normal(size=(120, 4))
    hidden = rng.random(x.shape) < 0.25
    rows = [",".join("" if h else f"{v:.4f}" for v, h in zip(*row, strict=True)) for row in zip(x, hidden, strict=True)]
    path = tmp_path_factory.mktemp("table") / "table.csv"
    path.write_text("\n".join(["a,b,c,d", *rows]) + "\n")
    return path, hidden.mean()


@pytest.mark.slow
def test_a_table_with_empty_fields_is_trained_evaluated_and_reported(table, tmp_path):
    path, share = table
    out = tmp_path / "run"
    data = ("--dataset", path, "--missing", "nan", "--likelihood", "gaussian", "--scale", "shared")
    small = ("--epochs", 2, "--hidden", 8, "--latent-dim", 1, "--batch-size", 32)
    done = run("train.py", *data, *small, "--out", out, "--no-report")
    assert f"{share:.1%} of the entries are missing" in done.stdout
    assert [np.isfinite(line["test_elbo"]) for line in metrics(out)] == [True, True]
    assert json.loads((out / "config.json").read_text())["config"]["missing"] == "nan"
    run("evaluate.py", out, "--num-samples", 10)
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert evaluation["test_elbo"] == pytest.approx(summary(out)["test_elbo"], abs=0.5)
    assert evaluation["log_px_mean"] > evaluation["test_elbo"] - 0.1
    run("report.py", out)
    page = (out / "report.html").read_text()
    assert "--missing nan" in page
    assert ">nan<" not in page


def test_the_refusal_of_empty_fields_names_the_option(table, script, tmp_path):
    path, _ = table
    status, message = script("train", "--dataset", path, "--likelihood", "gaussian", "--out", tmp_path / "run")
    assert status == 2
    assert "missing values in a, b, c and d" in message
    assert "Pass `--missing nan`" in message or "Pass --missing nan" in message
    assert not (tmp_path / "run").exists()
