"""A code of two layers, each a Gaussian given the layer above, as a posterior with the KLs of its layers."""

import jax
import jax.numpy as jnp

from vae_jax.divergences import kl_to_standard_normal
from vae_jax.likelihoods import gaussian_log_prob
from vae_jax.posteriors import Posterior, moments_from_draws

TOP, BELOW = 1, 2


def _layers(weights, mean, log_scale, top):
    """Parameters of both layers; the mean of the lower one depends on the code of the upper one."""
    return (mean[:TOP], log_scale[:TOP]), (mean[TOP:] + weights @ top, log_scale[TOP:])


def two_layers():
    """Makes the posterior of q = (mean, log_scale, weights), with p(z) = N(0, I) and weights of shape (BELOW, TOP)."""

    def draw(key, q):
        mean, log_scale, weights = q
        noise = jax.random.normal(key, (TOP + BELOW,))
        top = mean[:TOP] + jnp.exp(log_scale[:TOP]) * noise[:TOP]
        layers = _layers(weights, mean, log_scale, top)
        below = layers[1][0] + jnp.exp(layers[1][1]) * noise[TOP:]
        return jnp.concatenate([top, below]), layers

    def log_prob(q, z):
        mean, log_scale, weights = q
        top, below = _layers(weights, mean, log_scale, z[:TOP])
        return gaussian_log_prob(*top, z[:TOP]) + gaussian_log_prob(*below, z[TOP:])

    def sample_and_kl(key, q):
        z, layers = draw(key, q)
        return z, jnp.stack([kl_to_standard_normal(*layer) for layer in layers])

    def sample(key, q):
        return draw(key, q)[0]

    return Posterior(
        "two_layers",
        sample,
        lambda key, q: ((z := sample(key, q)), log_prob(q, z)),
        log_prob,
        None,
        lambda key, q: moments_from_draws(key, sample, q),
        init=lambda key: jnp.full((BELOW, TOP), 0.5),
        sample_and_kl=sample_and_kl,
    )
