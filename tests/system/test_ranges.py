"""Data at the edges of what there can be: a run of one epoch ends with finite numbers."""

import numpy as np
import pytest
from scripts import summary

RNG = np.random.default_rng(0)
SLOW = pytest.mark.slow


def _gray(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


DATA = {
    "all 0": np.zeros((20, 4, 4), np.uint8),
    "all 255": np.full((20, 4, 4), 255, np.uint8),
    "one constant": np.full((20, 4, 4), 77, np.uint8),
    "the same image": np.repeat(_gray(1, 4, 4), 20, axis=0),
    "one pixel": _gray(20, 1, 1),
    "one row": _gray(20, 1, 7),
    "three channels": _gray(20, 4, 4, 3),
    "not square": _gray(20, 3, 9),
    "tiny floats": np.full((20, 4, 4), 1e-38, np.float32),
    "two examples": _gray(2, 4, 4),
    "100,000 dimensions": _gray(4, 250, 400),
}
LIKELIHOODS = {
    "bernoulli": ("--binarize", "threshold"),
    "gaussian": ("--scale", "shared"),
    "discretized_logistic": (),
}


def _train(script, tmp_path, data, *flags):
    np.save(tmp_path / "data.npy", data)
    out = tmp_path / "run"
    batch = max(1, len(data) // 2)
    fixed = ("--hidden", 4, "--epochs", 1, "--batch-size", batch, "--test-fraction", 0.5 if len(data) < 5 else 0.2)
    status, stderr = script("train", *fixed, "--dataset", tmp_path / "data.npy", "--out", out, "--no-report", *flags)
    assert status == 0, stderr
    found = summary(out)
    assert all(np.isfinite(found[name]) for name in ("test_elbo", "test_log_likelihood", "test_kl"))
    return found


QUICK = {("all 0", "gaussian"), ("one pixel", "gaussian"), ("the same image", "bernoulli")}
CASES = [
    pytest.param(name, likelihood, marks=() if (name, likelihood) in QUICK else SLOW, id=f"{name}-{likelihood}")
    for name in DATA
    for likelihood in LIKELIHOODS
]


@pytest.mark.parametrize(("name", "likelihood"), CASES)
def test_data_at_the_edges(name, likelihood, script, tmp_path):
    data = DATA[name]
    if likelihood == "discretized_logistic" and data.dtype != np.uint8:
        pytest.skip("of levels")
    _train(script, tmp_path, data, "--likelihood", likelihood, *LIKELIHOODS[likelihood], "--latent-dim", 2)


@pytest.mark.slow
@pytest.mark.parametrize("latent_dim", [1, 512])
def test_latent_dimensions_at_the_edges(latent_dim, script, tmp_path):
    found = _train(script, tmp_path, _gray(20, 4, 4), "--latent-dim", latent_dim)
    assert found["latent_dim"] == latent_dim
