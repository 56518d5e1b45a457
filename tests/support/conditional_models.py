"""Linear-Gaussian models with a condition, missing entries, or both, whose log p(x) and posterior are exact.

Each entry of x loads on one latent dimension, so the posterior is diagonal whichever entries are observed.
"""

import jax.numpy as jnp
import numpy as np
from scipy import stats

from vae_jax import likelihoods
from vae_jax.example import Example
from vae_jax.model import make_vae
from vae_jax.networks import Network
from vae_jax.priors import ConditionalGaussian

DATA_DIM, LATENT, CONDITION = 8, 3, 2
OFF = {"shift": 0.2, "log_factor": 0.25}


class Linear:
    """X = W z + V c + b + noise with z ~ N(0, I), or z ~ N(A c, exp(B c)^2). The encoder is off by (shift, log_factor)."""

    def __init__(
        self, conditional=True, masked=False, learned_prior=False, shift=0.0, log_factor=0.0, rotated=False, sigma=0.6
    ):
        rng = np.random.default_rng(7)
        self.conditional, self.masked, self.learned_prior = conditional, masked, learned_prior
        self.sigma = sigma
        owner = np.arange(DATA_DIM) % LATENT
        self.weights = rng.uniform(0.6, 1.4, DATA_DIM)[:, None] * (owner[:, None] == np.arange(LATENT))
        if rotated:  # orthogonal columns without zeros: diagonal as long as everything is observed
            self.weights = np.linalg.qr(rng.normal(size=(DATA_DIM, LATENT)))[0] * np.array([1.5, 0.9, 0.4])
        self.loads, self.bias = rng.normal(size=(DATA_DIM, CONDITION)), rng.normal(size=DATA_DIM)
        scale = float(learned_prior)
        self.prior_loads, self.prior_scales = (scale * w * rng.normal(size=(LATENT, CONDITION)) for w in (0.7, 0.3))
        self.off = shift, log_factor
        prior = ConditionalGaussian(lambda key: {}, self.prior_of) if learned_prior else None
        self.vae = make_vae(
            Network(lambda key: {}, self.posterior_of),
            Network(lambda key: {}, self.output_of),
            likelihoods.gaussian(self.sigma),
            (DATA_DIM,),
            prior,
            condition_dim=CONDITION if conditional else 0,
            mask_input=masked,
        )
        self.params = {"encoder": {}, "decoder": {}} | ({"prior": {}} if learned_prior else {})

    def prior_of(self, params, c):
        return jnp.asarray(self.prior_loads, c.dtype) @ c, jnp.asarray(self.prior_scales, c.dtype) @ c

    def output_of(self, params, z, c=None):
        output = jnp.asarray(self.weights, z.dtype) @ z + jnp.asarray(self.bias, z.dtype)
        return output if c is None else output + jnp.asarray(self.loads, z.dtype) @ c

    def posterior_of(self, params, x, c=None):
        """The exact posterior given the observed entries, from a formula for one latent dimension after the other."""
        x, m = (x[:DATA_DIM], x[DATA_DIM:]) if self.masked else (x, jnp.ones_like(x))
        zeros = jnp.zeros(LATENT, x.dtype)
        mean, log_scale = self.prior_of(None, c) if self.learned_prior else (zeros, zeros)
        rest = m * (x - self.output_of(None, zeros, c))
        weights = jnp.asarray(self.weights, x.dtype)
        prior_precision = jnp.exp(-2 * log_scale)
        precision = prior_precision + jnp.square(weights).T @ m / self.sigma**2
        mean = (weights.T @ rest / self.sigma**2 + prior_precision * mean) / precision
        return mean + self.off[0], -0.5 * jnp.log(precision) + self.off[1]

    def draw(self, count, seed=0, share=0.5):
        """Returns a batch as the model takes it, the codes u as the decoder takes them, and the exact log p(x_observed|c)."""
        rng = np.random.default_rng(seed)
        c = rng.normal(size=(count, CONDITION))
        if not self.conditional:
            c = np.zeros_like(c)
        u = rng.normal(size=(count, LATENT))
        mean, scale = c @ self.prior_loads.T, np.exp(c @ self.prior_scales.T)
        center = c @ self.loads.T + self.bias
        x = (mean + scale * u) @ self.weights.T + center + self.sigma * rng.normal(size=(count, DATA_DIM))
        mask = rng.random((count, DATA_DIM)) < share if self.masked else np.ones((count, DATA_DIM), bool)
        log_px = np.array([self.log_px(*row) for row in zip(x, center + mean @ self.weights.T, scale, mask, strict=True)])
        x = np.where(mask, x, rng.choice([-1e3, 0.0, 1e5], x.shape))  # arbitrary numbers stand at missing entries
        batch = Example(
            jnp.asarray(x), jnp.asarray(c) if self.conditional else None, jnp.asarray(mask) if self.masked else None
        )
        return batch, jnp.asarray(u), log_px

    def log_px(self, x, center, scale, observed):
        """Log density of the observed entries of one example, by dense linear algebra in float64."""
        if not observed.any():
            return 0.0
        weights = self.weights[observed] * scale
        covariance = weights @ weights.T + self.sigma**2 * np.eye(int(observed.sum()))
        return float(stats.multivariate_normal(center[observed], covariance).logpdf(x[observed]))
