"""A batch of posteriors and a small model for the objectives of a batch."""

import math

import jax.numpy as jnp
import numpy as np
from scipy import stats

from vae_jax.likelihoods import gaussian_log_prob

N, LATENT = 6, 3


def posteriors(seed=0, count=N):
    rng = np.random.default_rng(seed)
    mean, log_scale = rng.normal(size=(count, LATENT)), rng.normal(-0.5, 0.3, size=(count, LATENT))
    z = mean + np.exp(log_scale) * rng.normal(size=(count, LATENT))
    return z, mean, log_scale


def densities(z, mean, log_scale):
    """q(z_i,d | x_m) for all pairs, (codes, posteriors, latent)."""
    return stats.norm.pdf(z[:, None], mean[None], np.exp(log_scale)[None])


def float32(*arrays):
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


def model_functions(scale=0.5):
    """encode, decode, log_prob of a small model of (LATENT,) data; encode keeps the data's own statistics."""
    return (
        lambda x: (x, jnp.full_like(x, math.log(scale))),
        lambda z: 2.0 * z,
        lambda output, x: gaussian_log_prob(output, 0.0, x),
    )


X = jnp.asarray(np.random.default_rng(5).normal(size=(8, LATENT)), jnp.float32)
