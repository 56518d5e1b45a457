"""Vectors, counts and series through the scripts: training, reports, traversals, sweeps."""

import json

import numpy as np
import pytest
from scripts import run

TINY = ("--hidden", 8, "--latent-dim", 2, "--epochs", 2, "--batch-size", 20)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """A run on a table with large, small and constant columns."""
    folder = tmp_path_factory.mktemp("vectors")
    x = RNG.normal(5, 1, (100, 4)) * [1e-3, 1.0, 1e4, 0.0] + [0, 0, 0, 1e6]
    np.save(folder / "x.npy", x.astype(np.float32))
    done = run("train.py", "--dataset", folder / "x.npy", "--likelihood", "gaussian", *TINY, "--out",
               folder / "run")  # fmt: skip
    return folder / "run", done


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    time = np.arange(11)[:, None] / 11
    x = np.sin(2 * np.pi * (time + RNG.random((100, 1, 2)))) * [1.0, 100.0]
    np.save(folder / "x.npy", x.astype(np.float32))
    settings = ("--event", "series", "--network", "conv", "--channels", 4, "--dense", 8, "--scale", "shared")
    done = run("train.py", "--dataset", folder / "x.npy", "--likelihood", "laplace", *settings, "--latent-dim", 2,
               "--epochs", 2, "--batch-size", 20, "--out", folder / "run")  # fmt: skip
    return folder / "run", done


def figures_of(run_directory):
    return {path.name for path in (run_directory / "figures").iterdir()}


def test_a_table_is_trained_and_drawn(vectors):
    out, done = vectors
    assert "examples of 4 columns" in done.stdout
    assert np.isfinite(json.loads((out / "summary.json").read_text())["test_elbo"])
    drawn = {"reconstructions.png", "prior_samples.png", "scatter_matrix.png", "traversal.png", "interpolation.png"}
    assert drawn <= figures_of(out)
    assert not {"traversal.gif", "manifold.png", "prior_means.png"} & figures_of(out)
    page = (out / "report.html").read_text()
    assert "summed over columns" in page
    assert len(json.loads((out / "summary.json").read_text())["log_scale"]) == 4  # the default for vectors
    assert "has one value for each of 4 columns" in page
    assert "image" not in page.split("How to repeat")[0].replace("data:image", "")


@pytest.mark.slow
def test_a_series_is_trained_by_convolutions_and_drawn(series, script, tmp_path):
    out, done = series
    assert "examples of 11 time steps x 2 channels" in done.stdout
    assert {"reconstructions.png", "prior_samples.png", "traversal.png", "interpolation.png"} <= figures_of(out)
    page = (out / "report.html").read_text()
    assert "summed over time steps and channels" in page
    assert "is one learned number times the spread of each of" in page
    assert "image" not in page.split("How to repeat")[0].replace("data:image", "")
    assert script("latent_space", out, "--image", 3) == (0, "")
    assert script("latent_space", out, "--to", 5, "--out", tmp_path / "to.png") == (0, "")
    assert "latent_space_3.png" in figures_of(out)
    assert (tmp_path / "to.png").stat().st_size > 1000


def test_traversals_and_interpolations_are_drawn_on_request(vectors, script, tmp_path):
    out, _ = vectors
    assert script("latent_space", out, "--image", 3) == (0, "")
    assert script("latent_space", out, "--to", 5, "--out", tmp_path / "to.png") == (0, "")
    assert "latent_space_3.png" in figures_of(out)
    status, stderr = script("latent_space", out, "--out", tmp_path / "to.gif")
    assert status == 2
    assert "only images are animated. Write a .png" in stderr
    assert not (tmp_path / "to.gif").exists()


@pytest.mark.slow
def test_counts_are_evaluated_compared_and_swept(tmp_path):
    rate = np.exp(RNG.normal(size=(100, 1)) * RNG.normal(size=(1, 15)) + 1)
    np.save(tmp_path / "x.npy", RNG.poisson(rate).astype(np.int64))
    data = ("--dataset", tmp_path / "x.npy")
    out = tmp_path / "run"
    run("train.py", *data, "--likelihood", "negative_binomial", *TINY, "--out", out)
    run("evaluate.py", out, "--num-samples", 20)
    run("report.py", out)
    assert {"column_statistics.png", "prior_samples.png"} <= figures_of(out)
    likelihoods = ("--likelihoods", "poisson", "negative_binomial")
    run("compare_likelihoods.py", *data, *likelihoods, *TINY, "--out", tmp_path / "compared")
    assert (tmp_path / "compared" / "reconstructions.png").stat().st_size > 1000
    sweep = ("--betas", 0.5, 1, "--seeds", 0)
    run("sweep.py", *data, "--likelihood", "poisson", *sweep, *TINY, "--out", tmp_path / "sweep")
    assert "Samples by β" in (tmp_path / "sweep" / "report.html").read_text()


@pytest.mark.slow
def test_series_are_swept_and_compared(tmp_path):
    np.save(tmp_path / "x.npy", RNG.normal(size=(100, 9, 2)).astype(np.float32))
    data = ("--dataset", tmp_path / "x.npy", "--event", "series")
    sweep = ("--betas", 0.5, 1, "--seeds", 0, "--scale", "shared")
    run("sweep.py", *data, "--likelihood", "gaussian", *sweep, *TINY, "--out", tmp_path / "sweep")
    assert "Series by β" in (tmp_path / "sweep" / "report.html").read_text()
    run("compare_likelihoods.py", *data, "--likelihoods", "gaussian:shared", *TINY, "--out", tmp_path / "compared")
    assert (tmp_path / "compared" / "reconstructions.png").stat().st_size > 1000


def test_convolutions_of_vectors_are_refused_with_the_fix(script, tmp_path):
    np.save(tmp_path / "x.npy", RNG.normal(size=(100, 9)).astype(np.float32))
    status, stderr = script("train", "--dataset", tmp_path / "x.npy", "--network", "conv", "--likelihood", "gaussian", "--out",
                            tmp_path / "run")  # fmt: skip
    assert (status, (tmp_path / "run").exists()) == (2, False)
    assert "--network mlp for vectors. For series, use --event series" in stderr
