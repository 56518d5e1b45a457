"""Codes of training examples, for probes and disentanglement metrics, are those of the input that training sees."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import data
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.example import Example
from vae_jax.runs import Run, label_accuracy
from vae_jax.runs.codes_and_factors import codes_and_factors

SETTINGS = {"hidden": (4,), "latent_dim": 2, "batch_size": 8, "epochs": 1}


def test_factors_come_with_codes_given_conditions_and_masks():
    rng = np.random.default_rng(0)
    factors = np.stack([np.arange(60), np.arange(60) % 3], axis=1)
    x = rng.normal(size=(60, 3)).astype(np.float32)
    x[rng.random(x.shape) < 0.3] = np.nan
    dataset = data.from_arrays(x, missing="nan", factors=factors, condition={"kind": factors[:, 1]}, split="last")
    built = build(Config(likelihood="gaussian", **SETTINGS), dataset=dataset)
    params = built.vae.init(jax.random.key(0))
    codes, chosen = codes_and_factors(built, params, jax.random.key(1), 10)
    for code, (number, kind) in zip(codes, chosen, strict=True):
        observed = ~np.isnan(x[number])
        example = Example(jnp.asarray(np.nan_to_num(x[number])), jax.nn.one_hot(kind, 3), jnp.asarray(observed))
        np.testing.assert_allclose(code, built.vae.encode(params, example)[0], rtol=1e-5, atol=1e-6)


def test_probes_encode_binarized_images_where_training_does():
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (40, 4, 4, 1)).astype(np.uint8)
    dataset = data.from_arrays(images, labels=np.arange(40) % 2, split="last")
    built = build(Config(binarize="threshold", **SETTINGS), dataset=dataset)
    params = built.vae.init(jax.random.key(0))
    run = Run(Path("run"), built, 1, params, None, [], [])
    index = np.arange(5, 12)
    expected = jax.vmap(built.vae.encode, in_axes=(None, 0))(params, (dataset.train[index] >= 128).astype(np.float32))[0]
    np.testing.assert_allclose(label_accuracy._encode(run, index), expected, rtol=1e-5, atol=1e-6)
