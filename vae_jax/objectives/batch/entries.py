"""The registry's entries of the objectives that need a whole batch. Their factories import jax; this module does not."""

import math
from typing import TYPE_CHECKING, Literal

from vae_jax.config.registry import Entry, Setting, Settings, TrainingData, register
from vae_jax.errors import UserError
from vae_jax.objectives.assumptions import check_gaussian
from vae_jax.objectives.entries import BETA, GAMMA, check_beta

if TYPE_CHECKING:
    from vae_jax.objectives.batch.base import BatchObjective
    from vae_jax.posteriors.base import Posterior

_LARGEST = 1e30  # beyond it float32 overflows somewhere in a loss or an update
TARGET_DISTORTION = Setting(
    "target_distortion",
    float | None,
    None,
    "-log p(x|z) to reach, in nats per example (negative for densities above 1).",
    low=-_LARGEST,
    high=_LARGEST,
    bounds="a finite number",
    traced=True,
    resolve=lambda config: 0.0,
)
TC_WEIGHTS = Setting(
    "tc_weights", Literal["stratified", "weighted"], "stratified", "How a batch stands for the aggregate posterior."
)
LAMBDA_OD = Setting(
    "lambda_od",
    float,
    10.0,
    "Weight of the squared covariances of the latent dimensions.",
    low=0,
    high=_LARGEST,
    traced=True,
)
LAMBDA_D = Setting(
    "lambda_d",
    float | None,
    None,
    "Weight of (variance - 1)^2; by default 10 times (I) or once (II) `lambda_od`.",
    low=0,
    high=_LARGEST,
    traced=True,
    resolve=lambda config: config.lambda_od * (10 if config.objective == "dip_vae_i" else 1),
)
MMD_WEIGHT = Setting("mmd_weight", float, 1000.0, "Weight of the squared MMD.", low=0, high=_LARGEST, traced=True)
MMD_KERNEL = Setting("mmd_kernel", Literal["gaussian", "inverse_multiquadratic"], "gaussian", "Kernel of the MMD.")


def _geco(config: Settings, data: TrainingData) -> "BatchObjective":
    from vae_jax.objectives import batch

    return batch.geco()


def _check_geco(config: Settings) -> None:
    if config.target_distortion is None:
        raise UserError('`objective="geco"` needs `target_distortion`: the -log p(x|z) to reach, in nats per example.')
    if config.dequantize:
        raise UserError(
            field="dequantize",
            message='`objective="geco"` holds the density itself at its target, not the nats of the discrete data.',
            fix="Leave it out, and use a likelihood of integer levels, such as discretized_logistic.",
        )


def _beta_tcvae(config: Settings, data: TrainingData) -> "BatchObjective":
    from vae_jax.objectives import batch

    return batch.stateless(batch.beta_tc_elbo, "beta", num_examples=data.num_different, weights=config.tc_weights)


def _dip_vae(config: Settings, data: TrainingData) -> "BatchObjective":
    from vae_jax.objectives import batch

    variant = config.objective.removeprefix("dip_vae_")
    return batch.stateless(batch.dip_elbo, "lambda_od", "lambda_d", "beta", variant=variant)


def _info_vae(config: Settings, data: TrainingData) -> "BatchObjective":
    from vae_jax.objectives import batch

    kernel = {"gaussian": batch.gaussian_kernel, "inverse_multiquadratic": batch.inverse_multiquadratic_kernel}
    return batch.stateless(batch.info_elbo, "mmd_weight", "beta", kernel=kernel[config.mmd_kernel])


def _factor_vae(config: Settings, data: TrainingData) -> "BatchObjective":
    import optax

    from vae_jax import networks
    from vae_jax.objectives import batch

    return batch.factor(networks.mlp_discriminator(config.latent_dim), optax.adam(1e-4, b1=0.5, b2=0.9))


def _optimal_sigma(config: Settings, data: TrainingData) -> "BatchObjective":
    import numpy as np

    from vae_jax.objectives import batch

    if np.ndim(data.std) == 0:
        return batch.optimal_scale(min_log_scale=math.log(data.std) - 6)
    level = float(np.log(data.std).mean(dtype=np.float64))
    return batch.optimal_scale(min_log_scale=level - 6, relative_scale=data.std / math.exp(level))


def _check_optimal_sigma(config: Settings) -> None:
    check_beta(config)
    if config.ema_decay or config.average_from_epoch:
        raise UserError(
            field="ema_decay" if config.ema_decay else "average_from_epoch",
            message="optimal_sigma has the scale of the current parameters, not of their average.",
            fix="Leave it out.",
        )
    if config.likelihood != "gaussian" or config.scale != "auto":
        raise UserError(
            '`objective="optimal_sigma"` sets the scale by itself: use it with `likelihood="gaussian"` and no `scale`.'
        )


def _needs_gaussian(config: Settings, posterior: "Posterior") -> None:
    needs = "compares the densities of single dimensions" if config.objective == "beta_tcvae" else "matches mean and covariance"
    check_gaussian(f'`objective="{config.objective}"` {needs}', posterior)


_DIP = (*BETA, LAMBDA_OD, LAMBDA_D)
for _entry in (
    Entry(
        "objective", "geco", "a distortion held by a multiplier", _geco, (TARGET_DISTORTION,), _check_geco, any_posterior=True
    ),
    Entry(
        "objective",
        "beta_tcvae",
        "the total correlation weighted by beta",
        _beta_tcvae,
        (*BETA, TC_WEIGHTS),
        check_beta,
        any_posterior=True,
        check_posterior=_needs_gaussian,
    ),
    Entry(
        "objective",
        "dip_vae_i",
        "covariances of the means",
        _dip_vae,
        _DIP,
        check_beta,
        any_posterior=True,
        check_posterior=_needs_gaussian,
    ),
    Entry(
        "objective",
        "dip_vae_ii",
        "covariances of the codes",
        _dip_vae,
        _DIP,
        check_beta,
        any_posterior=True,
        check_posterior=_needs_gaussian,
    ),
    Entry(
        "objective",
        "info_vae",
        "MMD to the prior",
        _info_vae,
        (*BETA, MMD_WEIGHT, MMD_KERNEL),
        check_beta,
        any_posterior=True,
    ),
    Entry(
        "objective",
        "factor_vae",
        "total correlation by a discriminator",
        _factor_vae,
        (GAMMA,),
        any_posterior=True,
    ),
    Entry(
        "objective",
        "optimal_sigma",
        "gaussian, its scale set by each batch",
        _optimal_sigma,
        BETA,
        _check_optimal_sigma,
        any_posterior=True,
    ),
):
    register(_entry)
