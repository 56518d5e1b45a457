"""The registry's entries of the posteriors. Their factories import jax; this module does not."""

from typing import TYPE_CHECKING

from vae_jax.config.registry import Entry, Setting, Settings, TrainingData, register
from vae_jax.errors import UserError

if TYPE_CHECKING:
    from vae_jax.posteriors.base import Posterior

NUM_FLOWS = Setting("num_flows", int, 4, "Flows one after the other.", low=1, high=1000)
HIDDEN = Setting(
    "posterior_hidden",
    tuple[int, ...],
    (128, 128),
    "Widths of the masked networks of the posterior, which have tanh; at least `latent_dim`.",
    low=1,
    high=1e6,
    bounds="widths >= 1 (and at most 10^6)",
)
CONTEXT_DIM = Setting(
    "posterior_context_dim", int, 32, "Numbers that the encoder passes to the networks of the posterior.", low=1, high=1e6
)


def _full(config: Settings, data: TrainingData) -> "Posterior":
    from vae_jax import posteriors

    return posteriors.full(config.latent_dim)


def _householder(config: Settings, data: TrainingData) -> "Posterior":
    from vae_jax import posteriors

    return posteriors.householder(config.latent_dim, num_flows=config.num_flows)


def _planar(config: Settings, data: TrainingData) -> "Posterior":
    from vae_jax import posteriors

    return posteriors.planar(config.latent_dim, num_flows=config.num_flows)


def _iaf(config: Settings, data: TrainingData) -> "Posterior":
    from vae_jax import posteriors

    hidden, context_dim = config.posterior_hidden, config.posterior_context_dim
    return posteriors.iaf(config.latent_dim, num_flows=config.num_flows, hidden=hidden, context_dim=context_dim)


def _check_planar(config: Settings) -> None:
    if config.estimator != "reparam":
        raise UserError(
            f'`estimator="{config.estimator}"` needs the density of a given code, and `posterior="planar"` has that of its own '
            "draws only.",
            fix='Use `estimator="reparam"`, or a different `posterior`, such as `posterior="iaf"`.',
        )


for _entry in (
    Entry("posterior", "diagonal", "a Gaussian with a diagonal covariance", lambda config, data: None),
    Entry("posterior", "full", "a Gaussian with a full covariance", _full),
    Entry("posterior", "householder", "a Gaussian rotated by reflections", _householder, (NUM_FLOWS,)),
    Entry("posterior", "planar", "planar flows, without a density of given codes", _planar, (NUM_FLOWS,), _check_planar),
    Entry("posterior", "iaf", "an inverse autoregressive flow", _iaf, (NUM_FLOWS, HIDDEN, CONTEXT_DIM)),
):
    register(_entry)
