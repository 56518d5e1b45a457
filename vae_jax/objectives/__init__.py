"""Training objectives for one example, from (encode, decode, log_prob) to named terms in nats.

Objectives that need a whole batch are in `objectives.batch`.
"""

from vae_jax.objectives.base import (
    Decode,
    Encode,
    HyperparamsLike,
    LogProb,
    Objective,
    PriorLogProb,
    Terms,
    check_objective,
    check_terms,
    draw,
    with_hyperparams,
)
from vae_jax.objectives.elbo import Estimator, beta_elbo, capacity_elbo, elbo, free_bits_elbo
from vae_jax.objectives.importance import ciwae, iwae, log_mean_exp_k, miwae, piwae

__all__ = [
    "Decode",
    "Encode",
    "Estimator",
    "HyperparamsLike",
    "LogProb",
    "Objective",
    "PriorLogProb",
    "Terms",
    "beta_elbo",
    "capacity_elbo",
    "check_objective",
    "check_terms",
    "ciwae",
    "draw",
    "elbo",
    "free_bits_elbo",
    "iwae",
    "log_mean_exp_k",
    "miwae",
    "piwae",
    "with_hyperparams",
]
