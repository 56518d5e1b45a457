"""Small convolutional VAEs, and their parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import likelihoods, model

SHAPE, CHANNELS = (8, 12, 1), (4, 8)
SMALL = {"channels": CHANNELS, "dense": (7,), "latent_dim": 3}
KINDS = {
    "conv": {},
    "resnet": {"num_blocks": 2, "norm": "group"},
    "resnet without norm": {"num_blocks": 1, "norm": "none"},
}
kinds = pytest.mark.parametrize("kind", KINDS)


def small_vae(kind="conv", likelihood=None, shape=SHAPE, **settings):
    return model.conv_vae(shape, likelihood or likelihoods.bernoulli(), **SMALL | KINDS[kind] | settings)


def shapes_of(vae):
    """The shapes of all parameters of (encoder, decoder), by path."""
    params = jax.eval_shape(vae.init, jax.random.key(0))
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    return [{name: leaf.shape for name, leaf in named.items() if name.startswith(part)} for part in ("encoder", "decoder")]


def random_params(vae, seed=0):
    """Every parameter drawn at random, those that start at zero too."""
    rng = np.random.default_rng(seed)
    params = jax.eval_shape(vae.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32), params)
