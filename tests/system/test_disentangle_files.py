"""Disentanglement metrics of a sweep on the original file of dSprites, without TensorFlow."""

import csv

import numpy as np
import pytest
from scripts import run

pytestmark = pytest.mark.slow

SMALL = ("--hidden", 32, "--latent-dim", 3, "--epochs", 2, "--batch-size", 32, "--no-report")
METRICS = ("--rows", 300, "--num-points", 100, "--num-eval", 50, "--metrics", "mig", "factor_vae")


def write_dsprites(folder):
    """Squares and bars on a grid of positions, with the names and types of dSprites."""
    classes = np.array(list(np.ndindex(1, 2, 2, 1, 10, 10)), np.int64)
    images = np.zeros((len(classes), 64, 64), np.uint8)
    for image, (_, shape, scale, _, x, y) in zip(images, classes, strict=True):
        image[4 * y : 4 * y + 8 + 8 * scale, 4 * x : 4 * x + (16 if shape else 6)] = 1
    path = folder / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    metadata = np.array({"date": "April 2017"}, dtype=object)
    np.savez_compressed(path, imgs=images, latents_classes=classes, latents_values=classes / 3, metadata=metadata)
    return path


def test_disentangle_works_on_the_original_file(tmp_path):
    path = write_dsprites(tmp_path)
    out = tmp_path / "sweep"
    run("sweep.py", "--dataset", path, *SMALL, "--betas", 1, 4, "--seeds", 0, "--out", out)
    run("disentanglement.py", out, *METRICS)
    with (out / "disentanglement.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert all(0 <= float(row["mig"]) <= 1 and 0 <= float(row["factor_vae_score"]) <= 1 for row in rows)
