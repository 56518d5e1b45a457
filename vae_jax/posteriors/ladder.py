"""The posterior of a ladder: Gaussians of several layers, each given the layers above it."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from vae_jax._numerics.threefry import normal
from vae_jax.divergences import kl_to_standard_normal
from vae_jax.likelihoods import gaussian_log_prob
from vae_jax.posteriors.base import Posterior, PosteriorParams

Infer = Callable[..., tuple[Array, Array, Array]]  # (weights, features, code, is_noise) -> (u, mean, log_scale)


def ladder(infer: Infer, layers: Sequence[tuple[int, ...]], num_draws: int = 16) -> Posterior:
    """Makes the posterior of several stochastic layers, whose code u is the layers one after another, top layer first.

        q(u|x) = prod_l N(u_l; mean(u_<l, x), exp(log_scale(u_<l, x))^2)

    Args:
      infer: (weights, features, code, is_noise) -> (u, mean, log_scale), each (latent,), with the parameters of the decoder,
        what the encoder returns, and the code u, or noise from which u = mean + exp(log_scale) noise is made layer by layer
        (see `networks.Ladder`).
      layers: shape of the latent variables of each layer, top layer first.
      num_draws: draws of the upper layers for `moments`, which has no closed form below the top layer.

    Returns:
      The `Posterior`. Its prior is N(0, I). `sample_and_kl` gives the KL of each layer given the layers above it in closed
      form. The KL to N(0, I) is the expectation of their sum. Every estimator of gradients works.

    Source:
      Sonderby et al. (2016); the standardized residual as the code: Vahdat & Kautz (2020), section 3.2.
    """
    layers = tuple(map(tuple, layers))
    sizes = tuple(map(math.prod, layers))
    latent_dim = sum(sizes)
    ends = [sum(sizes[: layer + 1]) for layer in range(len(sizes))]

    def draw(key: Array, q: PosteriorParams) -> tuple[Array, Array, Array]:
        return infer(q[-1], q[:-1], normal(key, (latent_dim,), jnp.float32), True)

    def sample(key: Array, q: PosteriorParams) -> Array:
        return draw(key, q)[0]

    def sample_and_log_prob(key: Array, q: PosteriorParams) -> tuple[Array, Array]:
        u, mean, log_scale = draw(key, q)
        return u, gaussian_log_prob(mean, log_scale, u)

    def log_prob(q: PosteriorParams, z: Array) -> Array:
        u, mean, log_scale = infer(q[-1], q[:-1], z, False)
        return gaussian_log_prob(mean, log_scale, u)

    def sample_and_kl(key: Array, q: PosteriorParams) -> tuple[Array, Array]:
        u, mean, log_scale = draw(key, q)
        parts = zip(jnp.split(mean, ends[:-1]), jnp.split(log_scale, ends[:-1]), strict=True)
        return u, jnp.stack([kl_to_standard_normal(*layer) for layer in parts])

    def moments(key: Array, q: PosteriorParams) -> tuple[Array, Array]:
        # Mean and variance of a mixture of Gaussians, one for each draw of the layers above. Those of the top layer are exact.
        _, means, log_scales = jax.vmap(draw, in_axes=(0, None))(jax.random.split(key, num_draws), q)
        mean = jnp.mean(means, axis=0)
        variance = jnp.mean(jnp.exp(2 * log_scales) + jnp.square(means - mean), axis=0)
        return mean, 0.5 * jnp.log(variance)

    return Posterior(
        "ladder",
        sample,
        sample_and_log_prob,
        log_prob,
        kl_to_standard_normal=None,
        moments=moments,
        sample_and_kl=sample_and_kl,
        part="decoder",
        latent_dim=latent_dim,
        layers=layers,
    )
