"""Every family of posteriors through the commands: training, evaluation with all estimates, report, codes, scores, export."""

import json

import numpy as np
import pytest

from vae_jax import runs
from vae_jax.cli.main import run_command
from vae_jax.errors import UserError
from vae_jax.storage.exported_model import load_exported

FAMILIES = {
    "full": (),
    "householder": ("--num-flows", 2),
    "planar": ("--num-flows", 1),
    "iaf": ("--num-flows", 1, "--posterior-hidden", 4, "--posterior-context-dim", 2),
}
SMALL = ("--dataset", "digits", "--epochs", 1, "--hidden", 8, "--latent-dim", 2, "--batch-size", 256, "--no-report")
ESTIMATES = ("--num-samples", 10, "--elbo-samples", 1, "--num-annealed", 3, "--probe-codes", 0, "--gap-steps", 3)
ANNEALED = ("--ais-temperatures", 2, "--ais-chains", 2)


def command(*arguments):
    return run_command([str(argument) for argument in arguments])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_trained_evaluated_reported_and_used(family, tmp_path):
    run, rows = tmp_path / "run", tmp_path / "rows.npy"
    np.save(rows, 16 * np.random.default_rng(0).integers(0, 2, (4, 8, 8, 1)).astype(np.uint8))
    assert command("train", *SMALL, "--posterior", family, *FAMILIES[family], "--out", run) == 0
    if family == "planar":
        with pytest.raises(UserError, match='Start from the prior by `ais_start="prior"`'):
            command("evaluate", run, *ESTIMATES, *ANNEALED)
        assert not (run / "evaluation.json").exists()
    start = ("--ais-start", "prior") if family == "planar" else ()
    assert command("evaluate", run, *ESTIMATES, *ANNEALED, *start) == 0
    numbers = json.loads((run / "evaluation.json").read_text())
    is_gaussian = family in ("full", "householder")
    assert numbers["posterior"]["marginals"] == ("exact" if is_gaussian else "from draws")
    assert (numbers["total_correlation"] is not None) == is_gaussian
    assert (numbers["mutual_information"] is not None) == (family != "planar")
    assert np.isfinite([numbers["ais"]["log_px_mean"], numbers["gaps"]["best_elbo"]]).all()
    if is_gaussian:
        parts = numbers["mutual_information"] + numbers["total_correlation"] + numbers["dimension_wise_kl"]
        assert parts == pytest.approx(numbers["test_kl"], abs=0.3)  # of 359 examples and of draws from them
    assert command("report", run) == 0
    page = (run / "report.html").read_text()
    assert f"{family} posterior" in page
    assert "They do not add up to" in page
    assert f"the ELBO of the best {family} posterior" in page
    check_codes(run, rows, tmp_path)


def check_codes(run, rows, folder):
    """Codes, draws, scores and the exported encoder agree with the posterior of the model."""
    assert command("encode", run, "--data", rows, "--num-draws", 200, "--out", folder / "codes.npz") == 0
    with np.load(folder / "codes.npz") as codes:
        means, deviations, draws = codes["means"], np.exp(codes["log_scales"]), codes["draws"]
    error = 6 * deviations * (1 / 200**0.5 + 1 / 64**0.5)  # moments of flows are those of 64 draws
    assert np.all(np.abs(draws.mean(axis=1) - means) < error)
    assert np.all(np.abs(draws.std(axis=1) / deviations - 1) < 6 * (1 / 400**0.5 + 1 / 128**0.5))
    assert command("score", run, "--data", rows, "--num-samples", 5, "--out", folder / "scores.npz") == 0
    assert command("reconstruct", run, "--data", rows, "--out", folder / "reconstructed.npz") == 0
    assert command("export", run, "--out", folder / "exported") == 0
    exported = load_exported(folder / "exported")
    mean, log_scale = exported.encode(np.load(rows).astype(np.float32))
    encoded = runs.encode(runs.load_model(run), np.load(rows))
    np.testing.assert_allclose(mean, encoded.means, atol=1e-4)  # pixels of 0 and 16 are certain
    assert mean.shape == log_scale.shape == (4, 2)
    assert "not a diagonal Gaussian" in (folder / "exported" / "config.json").read_text()
