"""The registry's entries of the posteriors. Their factories import jax; this module does not."""

from typing import TYPE_CHECKING

from vae_jax.config.registry import Entry, Settings, TrainingData, register

if TYPE_CHECKING:
    from vae_jax.posteriors.base import Posterior


def _full(config: Settings, data: TrainingData) -> "Posterior":
    from vae_jax import posteriors

    return posteriors.full(config.latent_dim)


for _entry in (
    Entry("posterior", "diagonal", "a Gaussian with a diagonal covariance", lambda config, data: None),
    Entry("posterior", "full", "a Gaussian with a full covariance", _full),
):
    register(_entry)
