"""Linear-Gaussian models for annealed importance sampling, whose log p(x) is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vae_jax import likelihoods
from vae_jax.evaluation.annealed_importance import bdmc
from vae_jax.evaluation.hmc import Path, leapfrog
from vae_jax.model import VAE

SIGMA, DATA_DIM, LATENT = 0.5, 6, 3
STARTS = ("posterior", "prior")
# Compiling is most of the time of these tests: where one start says most of it, the other is tested with the slow ones.
POSTERIOR_FIRST = ("posterior", pytest.param("prior", marks=pytest.mark.slow))
PRIOR_FIRST = (pytest.param("posterior", marks=pytest.mark.slow), "prior")


class Linear:
    """X = W z + mu + noise: its exact posterior, exact log p(x), and an encoder that is off by (shift, log_factor)."""

    def __init__(
        self, seed=0, shift=0.0, log_factor=0.0, orthogonal=True, strength=1.0, prior=None, prior_mean=0.0, prior_scale=1.0
    ):
        rng = np.random.default_rng(seed)
        columns = np.linalg.qr(rng.normal(size=(DATA_DIM, LATENT)))[0]
        mix = np.eye(LATENT) if orthogonal else stats.special_ortho_group(LATENT, seed=1).rvs()
        self.weights, self.mu = columns * (strength * np.array([2.0, 1.0, 0.5])) @ mix, rng.normal(size=DATA_DIM)
        precision = self.weights.T @ self.weights / SIGMA**2 + np.eye(LATENT) / prior_scale**2
        self.covariance = np.linalg.inv(precision)
        center = self.weights @ np.full(LATENT, prior_mean) + self.mu
        marginal = prior_scale**2 * self.weights @ self.weights.T + SIGMA**2 * np.eye(DATA_DIM)
        self.marginal = stats.multivariate_normal(center, marginal)
        self.prior_mean, self.prior_scale = prior_mean, prior_scale
        weights, mu = jnp.asarray(self.weights), jnp.asarray(self.mu)
        gain = jnp.asarray(self.covariance @ self.weights.T / SIGMA**2)
        offset = jnp.asarray(self.covariance @ np.full(LATENT, prior_mean / prior_scale**2) + shift)
        log_scale = jnp.asarray(0.5 * np.log(np.diag(self.covariance)) + log_factor)
        self.vae = VAE(
            lambda key: {},
            lambda params, x: (gain @ (x - mu) + offset, log_scale),
            lambda params, z: weights @ z + mu,
            likelihoods.gaussian(SIGMA),
            (DATA_DIM,),
            LATENT,
            prior,
        )

    def draw(self, count, seed=0):
        """Codes and data from the model, and exact log p(x)."""
        rng = np.random.default_rng(seed)
        z = self.prior_mean + self.prior_scale * rng.normal(size=(count, LATENT))
        x = z @ self.weights.T + self.mu + SIGMA * rng.normal(size=(count, DATA_DIM))
        return jnp.asarray(z), jnp.asarray(x), self.marginal.logpdf(x)


def run_bdmc(model, z, x, settings, seed=0):
    one = lambda key, x, z: bdmc(key, model.vae, {}, x, z, settings)  # noqa: E731
    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), len(x)), x, z)


def float64(values):
    return np.asarray(values, np.float64)


# Hamiltonian dynamics.

QUARTIC = Path(lambda z: -jnp.sum(z**4) / 4 - z[0] * z[1], lambda z: -jnp.sum(jnp.square(z - 1)) / 2)


def always_accept(key, path, t, point, step_size, scale=1.0, *, num_leapfrog=10):
    """No Metropolis correction, though its probability is computed."""
    momentum = jax.random.normal(key, point.z.shape, point.z.dtype)
    end, end_momentum = leapfrog(path, t, point, momentum, step_size, scale, num_leapfrog)
    gain = end.log_density(t) - point.log_density(t) + (jnp.sum(momentum**2) - jnp.sum(end_momentum**2)) / 2
    return end, jnp.exp(jnp.minimum(gain, 0.0))
