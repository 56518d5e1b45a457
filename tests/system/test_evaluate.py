"""What a run is worth, through the scripts: one table for several runs, collapse, disentanglement of a sweep."""

import csv
import json

import numpy as np
import pytest
from scripts import run, start

pytestmark = pytest.mark.slow

SMALL = ("--hidden", 32, "--latent-dim", 3, "--epochs", 12, "--batch-size", 32, "--learning-rate", 5e-3, "--no-report")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    out = tmp_path_factory.mktemp("healthy") / "run"
    return out, run("train.py", *SMALL, "--out", out)


@pytest.fixture(scope="module")
def collapsed(tmp_path_factory):
    out = tmp_path_factory.mktemp("collapsed") / "run"
    return out, run("train.py", *SMALL, "--beta", 50, "--out", out)


def test_a_collapsed_run_is_called_so_and_a_healthy_one_is_not(healthy, collapsed):
    for (out, done), bad in ((healthy, False), (collapsed, True)):
        assert ("collapse is under way" in done.stderr) == bad
        assert ("posterior collapse: the 3" in done.stderr) == bad
        summary = json.loads((out / "summary.json").read_text())
        assert bool(summary["collapsed_units"]) == bad
        assert summary["active_units"] == (0 if bad else 3)
        run("report.py", out)
        assert ("posterior collapse" in (out / "report.html").read_text()) == bad


def test_one_table_for_several_runs(healthy, collapsed):
    runs = (healthy[0], collapsed[0])
    extra = ("--ais-temperatures", 5, "--ais-chains", 2, "--gap-steps", 5, "--num-annealed", 30, "--bdmc", 20)
    done = run("evaluate.py", *runs, "--num-samples", 200, *extra)
    table = done.stdout.split("\n\n")[0].splitlines()
    assert len(table) == 3
    assert table[0].split()[:3] == ["run", "log", "p(x)"]
    assert table[0].split()[-5:] == ["kNN", "acc.", "+-", "linear", "+-"]
    for out, line in zip(runs, table[1:], strict=True):
        found = json.loads((out / "evaluation.json").read_text())
        assert line.startswith(str(out))
        for name in ("log_px_mean", "test_elbo", "test_kl"):
            assert f"{found[name]:.3f}" in line
        accuracies = [found[name] for name in ("knn_accuracy", "linear_probe_accuracy")]
        errors = [found[f"{name}_standard_error"] for name in ("knn_accuracy", "linear_probe_accuracy")]
        assert line.split()[-4:] == [f"{x:.4f}" for x in (accuracies[0], errors[0], accuracies[1], errors[1])]
        assert min(accuracies) > found["majority_accuracy"] or out == collapsed[0]
        assert f"{out}: accuracy of 10 labels from 1438 training codes on 359 test codes: 10 nearest" in done.stdout
        low, high = found["log_px_interval"]
        assert low < found["log_px_mean"] < (np.inf if high is None else high)
        ends = f"at least {low:.3f}" if high is None else f"in [{low:.3f}, {high:.3f}]"
        assert f"{out}: mean log p(x) of these examples {ends}; 200 samples" in done.stdout
        assert found["test_elbo"] < found["log_px_mean"] + 0.01
        assert found["rate"] == found["test_kl"]
        assert found["distortion"] == -found["test_log_likelihood"]
        parts = sum(found[name] for name in ("mutual_information", "total_correlation", "dimension_wise_kl"))
        assert parts == pytest.approx(found["test_kl"], rel=0.05, abs=1e-3)
        assert found["mutual_information_cap"] == pytest.approx(np.log(359))
        assert found["ais"]["num_examples"] == found["gaps"]["num_examples"] == 30
        assert found["bdmc"]["num_examples"] == 20
        assert found["bdmc"]["gap"] == pytest.approx(found["bdmc"]["upper"] - found["bdmc"]["lower"], abs=1e-4)
        assert found["ais"]["log_px_mean"] == pytest.approx(found["log_px_mean"], abs=3)
        with np.load(out / "evaluation.npz") as examples:
            assert examples["log_px"].shape == (359,)
            assert examples["ais_log_px"].shape == (30,)
            assert examples["log_px"].mean() == pytest.approx(found["log_px_mean"], rel=1e-5)
    assert "posterior collapse" in done.stdout.split("\n\n")[1]
    page = run("report.py", runs[0]) and (runs[0] / "report.html").read_text()
    found = json.loads((runs[0] / "evaluation.json").read_text())
    assert f"{found['log_px_mean']:.3f}" in page
    assert f"{found['knn_accuracy']:.3f} ± {found['knn_accuracy_standard_error']:.3f}" in page


def test_a_half_finished_run_is_evaluated_and_said_to_be(tmp_path):
    out = tmp_path / "run"
    process = start("train.py", *SMALL[:-1], "--no-report", "--epochs", 4000, "--checkpoint-seconds", 0, "--out", out)
    while len(list(out.glob("checkpoints/[0-9]*"))) < 2:  # so the first is whole
        assert process.poll() is None
    process.kill()
    process.communicate()
    done = run("evaluate.py", out, "--num-samples", 5)
    assert "the run is unfinished; read at its last checkpoint, epoch" in done.stderr
    assert json.loads((out / "evaluation.json").read_text())["evaluated_epoch"] < 4000


def test_a_run_whose_data_have_gone(tmp_path, script):
    np.save(tmp_path / "data.npy", (np.random.default_rng(0).random((50, 4, 4)) < 0.3).astype(np.uint8))
    out = tmp_path / "run"
    run("train.py", *SMALL, "--dataset", tmp_path / "data.npy", "--out", out)
    (tmp_path / "data.npy").unlink()
    status, stderr = script("evaluate", out)
    assert (status, stderr.count("\n")) == (2, 1)
    assert "data.npy" in stderr
    assert not (out / "evaluation.json").exists()


def test_disentanglement_of_a_sweep_on_sprites(tmp_path, script):
    data = tmp_path / "grid.npz"
    rng = np.random.default_rng(0)
    factors = rng.integers(0, [2, 8, 8], (600, 3))
    images = np.zeros((600, 10, 10), np.uint8)
    for image, (kind, x, y) in zip(images, factors, strict=True):
        image[y : y + 3, x : x + 3] = 1
        image[y + 1, x + 1] = kind
    np.savez(data, train=images, factors=factors, test=images[:50])
    out = tmp_path / "sweep"
    run("sweep.py", "--dataset", data, *SMALL, "--betas", 1, 4, "--seeds", 0, 1, "--out", out)
    sizes = ("--rows", 500, "--num-points", 200, "--num-eval", 50)
    done = run("disentanglement.py", out, *sizes, "--metrics", "mig", "sap", "factor_vae", "unsupervised")
    with (out / "disentanglement.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert all(0 <= float(row["mig"]) <= 1 for row in rows)
    content = json.loads((out / "disentanglement.json").read_text())
    for point, beta in zip(content["points"], (1.0, 4.0), strict=True):
        assert point["beta"] == beta
        own = [float(row["mig"]) for row in rows if float(row["beta"]) == beta]
        assert point["mig"]["mean"] == pytest.approx(np.mean(own))
        assert point["mig"]["n"] == 2
        assert f"{point['mig']['mean']:.4f} +- {point['mig']['standard_error']:.4f}   [" in done.stdout
        assert point["mig"]["standard_error"] == pytest.approx(np.std(own, ddof=1) / 2**0.5)
        for name in ("mig", "sap", "factor_vae_score"):
            assert 0 <= point[name]["low"] <= point[name]["mean"] <= point[name]["high"] <= 1
        assert point["gaussian_total_correlation"]["low"] >= 0
    assert (out / "figures" / "disentanglement.png").stat().st_size > 10_000
    before = (out / "disentanglement.csv").read_bytes()
    for arguments, message in (
        ((tmp_path,), "not a sweep directory"),
        ((out, "--metrics", "migg"), "mig"),
        ((out, "--rows", 0), "--rows: expected a whole number >= 2"),
        ((out, "--rows", 10_000), "at least 10000 training examples, got 600"),
        ((out, "--rows", 100, "--metrics", "mig"), "expected at least"),
    ):
        status, stderr = script("disentanglement", *arguments)
        assert (status, stderr.count("\n")) == (2, 1), stderr
        assert message in stderr
    assert (out / "disentanglement.csv").read_bytes() == before


def test_a_data_set_without_factors_is_refused(tmp_path, script):
    out = tmp_path / "sweep"
    run("sweep.py", *SMALL, "--betas", 1, "--seeds", 0, "--out", out)
    status, stderr = script("disentanglement", out)
    assert (status, stderr.count("\n")) == (2, 1)
    assert "the factors of its examples are not known" in stderr


def test_what_is_not_defined_is_left_out(tmp_path):
    """One test example, one sample, one chain, one temperature: no error can be stated, and none is."""
    images = (np.random.default_rng(0).random((40, 4, 4)) < 0.3).astype(np.uint8)
    np.savez(tmp_path / "data.npz", train=images, test=images[:1])
    out = tmp_path / "run"
    run("train.py", *SMALL, "--dataset", tmp_path / "data.npz", "--out", out)
    run("evaluate.py", out, "--num-samples", 1, "--ais-temperatures", 1, "--ais-chains", 1, "--gap-steps", 2, "--bdmc", 1)
    found = json.loads((out / "evaluation.json").read_text())
    assert found["mutual_information"] is None
    assert found["log_px_bias"] is None
    assert found["ais"]["acceptance_rate"] is None
    assert np.isfinite(found["log_px_mean"])
    run("report.py", out)
    assert "log p(x), annealed" in (out / "report.html").read_text()
