"""Small data sets with conditions, missing entries, or both, and the configurations that train on them."""

import dataclasses

import numpy as np

from vae_jax import data
from vae_jax.build import build
from vae_jax.config import Config

COUNT, DATA_DIM = 80, 5
KINDS = ("conditional", "masked", "both")
CONFIG = Config(hidden=(6,), latent_dim=2, epochs=2, batch_size=32, learning_rate=3e-3, output_bias="zeros")
# The settings that an objective cannot do without, or that make it differ from the ELBO.
SETTINGS = {
    "geco": {"target_distortion": 2.0},
    "iwae": {"num_samples": 2, "estimator": "dreg"},
    "miwae": {"num_samples": 2, "num_groups": 2},
    "piwae": {"num_samples": 2, "num_groups": 2},
    "ciwae": {"num_samples": 2},
    "capacity": {"capacity": 1.0},
    "optimal_sigma": {"likelihood": "gaussian", "output_bias": "train_mean"},
}


def arrays(kind, count=COUNT, seed=0):
    """Zeros and ones whose chance depends on the condition, and the keywords of `from_arrays` that belong to them."""
    rng = np.random.default_rng(seed)
    category, number = rng.integers(0, 3, count), rng.normal(3, 2, count).astype(np.float32)
    chance = 1 / (1 + np.exp(-(category[:, None] - 1) * np.linspace(-2, 2, DATA_DIM) - (number[:, None] - 3) / 2))
    x = (rng.random((count, DATA_DIM)) < chance).astype(np.uint8)
    options = {}
    if kind in ("conditional", "both"):
        options["condition"] = {"category": category, "number": number}
    if kind in ("masked", "both"):
        options["mask"] = rng.random((count, DATA_DIM)) < 0.6
    return x, options


def dataset(kind, **options):
    x, companions = arrays(kind)
    return data.from_arrays(x, split="last", **companions, **options)


def built(kind, objective="elbo", dataset_options=None, **settings):
    """The parts of a run, with the mask as an input of the encoder where entries are missing."""
    chosen = {"mask_input": kind != "conditional"} | SETTINGS.get(objective, {}) | settings
    config = dataclasses.replace(CONFIG, objective=objective, **chosen)
    return build(config, dataset=dataset(kind, **dataset_options or {}))
