"""The registry's entries of the objectives for one example. Their factories import jax; this module does not."""

from typing import TYPE_CHECKING, Literal

from vae_jax.config.registry import Entry, Setting, Settings, TrainingData, register
from vae_jax.errors import UserError
from vae_jax.objectives.assumptions import check_batch_free_bits, check_free_bits

if TYPE_CHECKING:
    from vae_jax.objectives.base import Objective
    from vae_jax.objectives.batch.base import BatchObjective
    from vae_jax.posteriors.base import Posterior

_LARGEST_STEPS = 2**31 - 1
_LARGEST = 1e30  # beyond it float32 overflows somewhere in a loss or an update
_STEPS_BOUNDS = f"a whole number from 0 to {_LARGEST_STEPS}"

BETA = (
    Setting(
        "beta",
        float,
        1.0,
        "Weight of the KL in the loss (beta_tcvae: of the total correlation). Reported is always the ELBO with beta = 1.",
        low=0,
        high=_LARGEST,
        traced=True,
    ),
    Setting(
        "beta_schedule",
        Literal["linear", "cosine", "cyclical"],
        "linear",
        "How beta rises from 0: over `beta_warmup_steps`; or `beta_cycles` times in the run, in the first half of each cycle.",
    ),
    Setting(
        "beta_warmup_steps", int, 0, "Steps over which beta rises from 0.", low=0, high=_LARGEST_STEPS, bounds=_STEPS_BOUNDS
    ),
    Setting("beta_cycles", int, 4, "Cycles of the cyclical schedule.", low=1, high=1e8),
)
NUM_SAMPLES = Setting(
    "num_samples",
    int,
    1,
    "Draws of z for each example and step (K of the importance-weighted objectives).",
    low=1,
    high=1e8,
)
NUM_GROUPS = Setting(
    "num_groups",
    int,
    1,
    'M of miwae and piwae: groups of `num_samples` draws. With `free_bits_per="group"`: groups of latent dimensions.',
    low=1,
    high=1e8,
)
ESTIMATOR = Setting("estimator", Literal["reparam", "stl", "dreg"], "reparam", "Gradient of the encoder.")
CAPACITY = Setting(
    "capacity", float, 25.0, "Nats at which the capacity objective holds the KL.", low=0, high=_LARGEST, traced=True
)
CAPACITY_WARMUP_STEPS = Setting(
    "capacity_warmup_steps",
    int,
    0,
    "Steps over which the capacity rises linearly from 0.",
    low=0,
    high=_LARGEST_STEPS,
    bounds=_STEPS_BOUNDS,
    warms_up="capacity",
)
GAMMA = Setting(
    "gamma",
    float | None,
    None,
    "Weight of |KL - capacity| (1000 by default) or of the total correlation in factor_vae (10 by default).",
    low=0,
    high=_LARGEST,
    traced=True,
    resolve=lambda config: 10.0 if config.objective == "factor_vae" else 1000.0,
)
FREE_BITS = Setting(
    "free_bits",
    float,
    0.5,
    "Nats of KL that cost nothing, for each dimension or group.",
    low=0,
    high=_LARGEST,
    traced=True,
)
FREE_BITS_PER = Setting(
    "free_bits_per",
    Literal["dimension", "group", "batch_mean"],
    "dimension",
    "Clip each dimension of each example, each group of them of each example, or each dimension's mean over the batch. With a "
    "posterior other than the diagonal one, group is the whole code or each layer.",
)
ELBO_WEIGHT = Setting("elbo_weight", float, 0.5, "Share of the ELBO, from 0 (iwae) to 1.", low=0, high=1, traced=True)


def _elbo(config: Settings, data: TrainingData) -> "Objective":
    from vae_jax import objectives

    return objectives.with_hyperparams(objectives.elbo, "beta", num_samples=config.num_samples, estimator=config.estimator)


def _capacity(config: Settings, data: TrainingData) -> "Objective":
    from vae_jax import objectives

    return objectives.with_hyperparams(objectives.capacity_elbo, "capacity", "gamma", num_samples=config.num_samples)


def _free_bits(config: Settings, data: TrainingData) -> "Objective | BatchObjective":
    from vae_jax import objectives
    from vae_jax.objectives import batch

    if config.free_bits_per == "batch_mean":
        return batch.stateless(batch.free_bits_batch_mean_elbo, "free_bits", "beta")
    num_groups = config.num_groups if config.free_bits_per == "group" else None
    return objectives.with_hyperparams(
        objectives.free_bits_elbo, "free_bits", "beta", num_groups=num_groups, num_samples=config.num_samples
    )


def _check_free_bits(config: Settings) -> None:
    if config.free_bits_per != "group" and config.num_groups != 1:
        raise UserError('`num_groups` groups latent dimensions with `free_bits_per="group"` only. Add that, or leave it out.')
    if config.free_bits_per == "batch_mean" and config.num_samples != 1:
        raise UserError(field="num_samples", message='`free_bits_per="batch_mean"` takes one draw of z.', fix="Leave it out.")
    if config.free_bits_per == "group" and config.latent_dim % config.num_groups:
        raise UserError(field="num_groups", expected=f"a divisor of `latent_dim={config.latent_dim}`", got=config.num_groups)


def _check_free_bits_posterior(config: Settings, posterior: "Posterior") -> None:
    if config.free_bits_per == "batch_mean":
        check_batch_free_bits(posterior)
    else:
        check_free_bits(posterior, config.num_groups if config.free_bits_per == "group" else None)


def check_beta(config: Settings) -> None:
    """Raises `UserError` for settings of the course of beta that do not fit each other."""
    if config.beta_schedule == "cyclical" and config.beta_warmup_steps:
        raise UserError(field="beta_warmup_steps", message="the cyclical schedule rises in every cycle.", fix="Leave it out.")


def _check_beta_and_free_bits(config: Settings) -> None:
    check_beta(config)
    _check_free_bits(config)


def _iwae(config: Settings, data: TrainingData) -> "Objective":
    from vae_jax import objectives

    return objectives.with_hyperparams(objectives.iwae, num_samples=config.num_samples, estimator=config.estimator)


def _miwae(config: Settings, data: TrainingData) -> "Objective":
    from vae_jax import objectives

    k, estimator = config.num_samples, config.estimator
    return objectives.with_hyperparams(objectives.miwae, num_groups=config.num_groups, num_samples=k, estimator=estimator)


def _ciwae(config: Settings, data: TrainingData) -> "Objective":
    from vae_jax import objectives

    return objectives.with_hyperparams(
        objectives.ciwae, "elbo_weight", num_samples=config.num_samples, estimator=config.estimator
    )


def _piwae(config: Settings, data: TrainingData) -> "Objective":
    from vae_jax import objectives

    return objectives.with_hyperparams(objectives.piwae, num_groups=config.num_groups, num_samples=config.num_samples)


for _entry in (
    Entry(
        "objective",
        "elbo",
        "with the KL weighted by beta",
        _elbo,
        (*BETA, NUM_SAMPLES, ESTIMATOR),
        check_beta,
        True,
        any_posterior=True,
    ),
    Entry(
        "objective",
        "capacity",
        "the KL held at a capacity",
        _capacity,
        (CAPACITY, CAPACITY_WARMUP_STEPS, GAMMA, NUM_SAMPLES),
        any_posterior=True,
    ),
    Entry(
        "objective",
        "free_bits",
        "nats of KL that cost nothing",
        _free_bits,
        (*BETA, FREE_BITS, FREE_BITS_PER, NUM_GROUPS, NUM_SAMPLES),
        _check_beta_and_free_bits,
        any_posterior=True,
        check_posterior=_check_free_bits_posterior,
    ),
    Entry("objective", "iwae", "importance-weighted", _iwae, (NUM_SAMPLES, ESTIMATOR), any_prior=True, any_posterior=True),
    Entry(
        "objective", "miwae", "mean of IWAEs", _miwae, (NUM_SAMPLES, NUM_GROUPS, ESTIMATOR), any_prior=True, any_posterior=True
    ),
    Entry(
        "objective", "ciwae", "ELBO and IWAE", _ciwae, (NUM_SAMPLES, ELBO_WEIGHT, ESTIMATOR), any_prior=True, any_posterior=True
    ),
    Entry("objective", "piwae", "MIWAE for the encoder", _piwae, (NUM_SAMPLES, NUM_GROUPS), any_prior=True, any_posterior=True),
):
    register(_entry)
