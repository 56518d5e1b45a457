"""A module as a user would write it: every part of a model for `--network user_parts.py:make_network` and so on."""

import jax
import jax.numpy as jnp
import optax
from flax import linen, nnx
from jax.scipy.stats import norm

from vae_jax import networks, priors


class Encoder(nnx.Module):
    """Convolutions, dropout and a linear layer, for images of 8 x 8 pixels."""

    def __init__(self, latent_dim, rngs):
        self.conv = nnx.Conv(1, 8, (3, 3), strides=2, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.out = nnx.Linear(4 * 4 * 8, 2 * latent_dim, rngs=rngs)

    def __call__(self, x):
        return jnp.split(self.out(self.dropout(nnx.relu(self.conv(x)).reshape(-1))), 2)


class Decoder(linen.Module):
    """One hidden layer."""

    @linen.compact
    def __call__(self, z):
        return linen.Dense(64)(linen.relu(linen.Dense(32)(z))).reshape(8, 8, 1)


def make_network(config, data):
    return networks.from_nnx(lambda rngs: Encoder(config.latent_dim, rngs)), Decoder()


def make_prior(config, data):
    """Affine couplings (RealNVP): each moves half of z by what a network makes of the other half."""
    size = config.latent_dim
    kept = [jnp.arange(size) % 2 == layer % 2 for layer in range(4)]
    network = linen.Sequential([linen.Dense(16), linen.tanh, linen.Dense(2 * size)])

    def shift_and_log_scale(params, z, kept):
        shift, log_scale = jnp.split(network.apply(params, jnp.where(kept, z, 0.0)), 2)
        return jnp.where(kept, 0.0, shift), jnp.where(kept, 0.0, jnp.tanh(log_scale))

    def init(key):
        return [network.init(one, jnp.zeros(size)) for one in jax.random.split(key, len(kept))]

    def log_prob(params, encode, z):
        log_det = jnp.zeros(())
        for layer, mask in zip(params, kept, strict=True):
            shift, log_scale = shift_and_log_scale(layer, z, mask)
            z, log_det = (z - shift) * jnp.exp(-log_scale), log_det - jnp.sum(log_scale)
        return jnp.sum(norm.logpdf(z)) + log_det

    def sample(params, encode, key):
        z = jax.random.normal(key, (size,))
        for layer, mask in reversed(list(zip(params, kept, strict=True))):
            shift, log_scale = shift_and_log_scale(layer, z, mask)
            z = z * jnp.exp(log_scale) + shift
        return z

    return priors.Prior("real_nvp", init, log_prob, sample)


def make_optimizer(learning_rate):
    return optax.contrib.schedule_free_adamw(learning_rate)
