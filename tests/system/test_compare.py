"""experiments/compare_likelihoods.py as a user runs it: units, what cannot be compared, refusals, going on."""

import json
import re

import numpy as np
import pytest
from scripts import run

SMALL = ("--hidden", 16, "--latent-dim", 2, "--batch-size", 256, "--epochs", 2)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "digits"
    names = ("gaussian:optimal", "poisson", "bernoulli")
    return out, run("compare_likelihoods.py", *SMALL, "--likelihoods", *names, "--seeds", 0, 1, "--out", out).stdout


@pytest.mark.slow
def test_rows_of_one_unit_stand_together_and_the_rest_says_why(compared):
    out, printed = compared
    content = json.loads((out / "comparison.json").read_text())
    units = {row["likelihood"]: row["unit"] for row in content["rows"]}
    assert units.pop("bernoulli") == "nats of the binarized data (dynamic)"
    assert set(units.values()) == {"nats of the discrete data"}
    assert printed.count("per example:") == 2
    assert "not comparable: it is the likelihood of binarized pixels, a different data set" in printed
    for row in content["rows"]:
        assert row["test_elbo"] == pytest.approx(row["test_log_likelihood"] - row["test_kl"])
        assert row["test_bits_per_dim"] == pytest.approx(-row["test_elbo"] / (64 * np.log(2)))
        assert row["seeds"] == [0, 1]
        own = [
            json.loads((out / f"{row['likelihood'].replace(':', '-')}-seed-{seed}" / "summary.json").read_text())
            for seed in (0, 1)
        ]
        elbos = [summary["test_elbo"] for summary in own]
        assert row["test_elbo"] == pytest.approx(np.mean(elbos))
        assert row["standard_error"] == pytest.approx(abs(elbos[0] - elbos[1]) / 2)
        assert re.search(rf"{re.escape(row['likelihood'])} +{row['test_elbo']:.3f}", printed)
    assert "over the seeds" in printed
    assert re.search(r"^poisson, seed 1: [\d,]+ parameters$", printed, re.MULTILINE)
    assert (out / "reconstructions.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_it_goes_on_without_repeating_what_is_finished(compared):
    out, printed = compared
    names = ("gaussian:optimal", "poisson", "bernoulli")
    arguments = (*SMALL, "--likelihoods", *names, "--seeds", 0, 1, "--out", out)
    again = run("compare_likelihoods.py", *arguments, "--resume").stdout
    assert "epoch 1/2" not in again
    assert again.splitlines()[-6:] == printed.splitlines()[-6:]


@pytest.mark.slow
def test_floats_are_compared_as_densities_without_bits(tmp_path):
    np.save(tmp_path / "gray.npy", np.random.default_rng(0).uniform(size=(40, 4, 4)).astype(np.float32))
    arguments = ("--dataset", tmp_path / "gray.npy", "--hidden", 8, "--latent-dim", 2, "--batch-size", 8, "--epochs", 1)
    names = ("--likelihoods", "laplace:0.3", "continuous_bernoulli")
    printed = run("compare_likelihoods.py", *arguments, *names, "--out", tmp_path / "out").stdout
    assert "nats of a density on the data's own scale, per example:" in printed
    assert "no bits per dimension, because the data are not discrete" in printed
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    assert [row["test_bits_per_dim"] for row in rows] == [None, None]


REFUSED = {
    "unknown": ("--likelihoods gausian", "unknown likelihood 'gausian'. Did you mean 'gaussian'"),
    "no scale": ("--likelihoods bernoulli:0.1", "bernoulli has no scale. Write bernoulli."),
    "bad scale": ("--likelihoods laplace:-1", "--scale: expected a number > 0"),
    "discrete on floats": ("--dataset {here}/gray.npy --likelihoods categorical", "categorical is for integer data"),
    "likelihood": ("--likelihood gaussian", "name the likelihoods and their scales by --likelihoods"),
    "dequantize": ("--dequantize --likelihood gaussian", "name the likelihoods"),
    "objective": ("--objective optimal_sigma", "compare it as --likelihoods gaussian:optimal"),
    "two objectives": ("--objective iwae --likelihoods gaussian:optimal", "Leave it out with --objective iwae"),
    "none": ("--seeds", "--seeds"),
    "full": ("--out {here}", "exists and is not empty. Add --resume"),
}


@pytest.mark.parametrize(("flags", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_line_and_writes_nothing(flags, message, script, tmp_path):
    np.save(tmp_path / "gray.npy", np.zeros((40, 4, 4), np.float32))
    flags = flags.format(here=tmp_path).split()
    status, stderr = script("compare_likelihoods", *SMALL, *flags, *(() if "--out" in flags else ("--out", tmp_path / "new")))
    assert status == 2
    assert message in stderr
    assert (stderr.startswith("error: "), stderr.count("\n")) == (True, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["gray.npy"]
