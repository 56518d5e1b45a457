"""A small ladder through the commands."""

import json

import numpy as np
import pytest
import scripts

TINY = ("--network", "ladder", "--latent-channels", 2, 1, "--channels", 4, "--batch-size", 256)


@pytest.mark.slow
def test_every_command_takes_a_ladder(tmp_path):
    run, codes, samples, between = (tmp_path / name for name in ("run", "codes.npz", "samples.npz", "between"))
    train = (*TINY, "--objective", "free_bits", "--free-bits-per", "group", "--out", run)
    scripts.run("train.py", *train, "--epochs", 2)
    assert json.loads((run / "config.json").read_text())["config"]["latent_dim"] == 48  # 4 x 4 x (2 + 1)
    scripts.run("train.py", *train, "--epochs", 3, "--resume")
    scripts.run("evaluate.py", run, "--num-samples", 50)
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert np.isfinite(evaluation["log_px_mean"])
    assert evaluation["log_px_mean"] > evaluation["test_elbo"] - 1e-3
    assert len(evaluation["kl_per_dimension"]) == 48
    scripts.run("report.py", run)
    scripts.run("encode.py", run, "--data", "digits", "--out", codes)
    scripts.run("sample.py", run, "--num", 8, "--out", samples)
    scripts.run("interpolate.py", run, "--data", "digits", "--out", between)
