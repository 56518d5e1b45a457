"""Small pictures and settings for the tests of latent-space figures."""

import numpy as np

from vae_jax.report.run.latent import PriorShape

NORMAL = PriorShape(np.zeros(4), np.ones(4), None)


def picture(count, steps, height, width, channels, seed=0):
    """Smooth images (count, steps, height, width, channels), as a decoder gives them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    center = rng.uniform(0.2, 0.8, (2, count, 1, 1, 1, 1)) + 0.3 * np.linspace(-1, 1, steps)[:, None, None, None]
    distance = np.hypot(y[..., None] - center[0], x[..., None] - center[1])
    return np.exp(-(distance**2) / 0.05) * rng.uniform(0.3, 1, (count, 1, 1, 1, channels))
