"""Objectives and statistics that need a whole batch: total correlation, DIP, MMD, FactorVAE, GECO, the optimal scale."""

from vae_jax.objectives.batch.base import AnyObjective, BatchObjective, BatchTerms, stateless
from vae_jax.objectives.batch.beta_tcvae import KLParts, beta_tc_elbo, kl_parts, log_importance_weights
from vae_jax.objectives.batch.constrained import (
    free_bits_batch_mean,
    free_bits_batch_mean_elbo,
    geco,
    optimal_log_scale,
    optimal_scale,
)
from vae_jax.objectives.batch.dip_info_vae import (
    dip_elbo,
    dip_penalty,
    gaussian_kernel,
    info_elbo,
    inverse_multiquadratic_kernel,
    mmd,
)
from vae_jax.objectives.batch.factor_vae import discriminator_loss, factor, permute_dimensions

__all__ = [
    "AnyObjective",
    "BatchObjective",
    "BatchTerms",
    "KLParts",
    "beta_tc_elbo",
    "dip_elbo",
    "dip_penalty",
    "discriminator_loss",
    "factor",
    "free_bits_batch_mean",
    "free_bits_batch_mean_elbo",
    "gaussian_kernel",
    "geco",
    "info_elbo",
    "inverse_multiquadratic_kernel",
    "kl_parts",
    "log_importance_weights",
    "mmd",
    "optimal_log_scale",
    "optimal_scale",
    "permute_dimensions",
    "stateless",
]
