"""A `Config` brought to life: data, model and the arguments of `training.fit`; all that can be wrong is found here."""

import dataclasses
import math
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import Array

from vae_jax import data, likelihoods, model, networks, objectives, priors, training
from vae_jax._numerics.short_repr import short_repr
from vae_jax.config import CUSTOM, Config
from vae_jax.data import Dataset, Prepared
from vae_jax.errors import UserError, unknown
from vae_jax.likelihoods import Likelihood, from_log_prob
from vae_jax.model import VAE
from vae_jax.objectives import Objective, with_hyperparams
from vae_jax.objectives import batch as cross_batch
from vae_jax.objectives.batch import BatchObjective, stateless
from vae_jax.priors import ConditionalGaussian, Prior
from vae_jax.training import optimizers, schedules
from vae_jax.training.optimizers import Optimizer


@short_repr
class Built(NamedTuple):
    """What a `Config` describes."""

    config: Config
    dataset: Dataset
    data: Prepared
    vae: VAE
    optimizer: Optimizer  # tracking the moving average, where one is asked for
    objective: Objective | BatchObjective
    fit_arguments: dict[str, Any]  # of `training.fit`, the optimizer and the objective among them
    made: Mapping[str, Any] = MappingProxyType({})  # the parts as `build` made them: `runs.train` refuses others


def _number_or_word(setting: str) -> Any:
    return setting if setting in ("shared", "per_pixel") else float(setting)


def make_likelihood(config: Config, dataset: Dataset) -> Likelihood:
    """The likelihood that the configuration names; a learned scale starts at the training data's standard deviation."""
    std, top = _spread(config, dataset), (dataset.max_level or 1) if config.binarization == "none" else 1
    num_bins = 2 if config.binarization != "none" else (dataset.max_level or 1) + 1
    auto = "shared" if config.objective == "optimal_sigma" or config.likelihood == "discretized_logistic" else "1.0"
    scale = _number_or_word(auto if config.scale == "auto" else config.scale)
    dispersion = _number_or_word(config.dispersion)
    if data.is_image(dataset.data_shape):
        unit = max(float(dataset.train_mean.mean(dtype=np.float64)) * top, 1e-3)
    else:
        unit = np.maximum(dataset.train_mean * top, 1e-3)
    v, logistic_scale = config.degrees_of_freedom, std * 3**0.5 / math.pi
    match config.likelihood:
        case "bernoulli":
            return likelihoods.bernoulli()
        case "continuous_bernoulli":
            return likelihoods.continuous_bernoulli()
        case "gaussian":
            return likelihoods.gaussian(scale, initial_scale=std)
        case "laplace":
            return likelihoods.laplace(scale, initial_scale=std / 2**0.5)
        case "student_t":
            initial = std * (1 - 2 / v) ** 0.5 if v > 2.5 else std / 2  # with fewer there is no variance to match
            return likelihoods.student_t(scale, degrees_of_freedom=v, initial_scale=initial)
        case "discretized_logistic":
            return likelihoods.discretized_logistic(num_bins, scale, initial_scale=logistic_scale)
        case "logistic_mixture":
            return likelihoods.logistic_mixture(num_bins, config.num_components, initial_scale=logistic_scale)
        case "logistic_mixture_rgb":
            if dataset.data_shape[-1] != 3:
                channels = dataset.data_shape[-1]
                raise UserError(
                    f"{dataset.name}: logistic_mixture_rgb expects 3 channels, got {channels}. Use logistic_mixture."
                )
            return likelihoods.logistic_mixture_rgb(num_bins, config.num_components, initial_scale=logistic_scale)
        case "categorical":
            return likelihoods.categorical(num_bins)
        case "poisson":
            return likelihoods.poisson(unit)
        case "negative_binomial":
            return likelihoods.negative_binomial(dispersion, unit=unit)
    raise UserError(f"likelihood {config.likelihood!r} is a function of your own: pass likelihood=... to build or load_run.")


def _spread(config: Config, dataset: Dataset) -> Any:
    """Standard deviation of the training data: one for images, one for each entry of other events on a scale of their own."""
    if config.binarization != "none":
        return 0.5
    if dataset.max_level is None and not data.is_image(dataset.data_shape):
        return data.train_moments(dataset, counts=False).std
    return dataset.train_std


def make_layers(config: Config) -> tuple[ConditionalGaussian, ConditionalGaussian]:
    """The networks between two stochastic layers: q(z2|z1) and p(z1|z2), each to (mean, log_scale).

    They have tanh whatever the others have: codes are not bounded, and a log_scale linear in them overflows at the first steps.
    """
    own: dict[str, Any] = {"activation": "tanh", "dtype": config.dtype}
    top, bottom, hidden = config.prior_latent_dim, config.latent_dim, config.prior_hidden
    infer = networks.mlp_encoder((bottom,), top, hidden=hidden, **own)
    generate = networks.mlp_encoder((top,), bottom, hidden=tuple(reversed(hidden)), **own)
    return ConditionalGaussian(*infer), ConditionalGaussian(*generate)


def make_prior(config: Config, prepared: Prepared) -> Prior | None:
    """The prior that the configuration names; None for N(0, I)."""
    if config.prior == "normal":
        return None
    if config.prior == "mixture":
        return priors.gaussian_mixture(config.latent_dim, config.prior_components)
    if config.prior == "hierarchical":
        return priors.hierarchical(config.latent_dim, config.prior_latent_dim, *make_layers(config))
    if config.prior_components > len(prepared.train):
        raise UserError(
            f"--prior-components: expected at most the {len(prepared.train)} training examples that the pseudo-inputs start "
            f"at, got {config.prior_components}."
        )

    def start(key: Array) -> Array:
        key_choice, key_input = jax.random.split(key)
        chosen = jax.random.choice(key_choice, len(prepared.train), (config.prior_components,), replace=False)
        return prepared.train_input(key_input, prepared.train_rows(chosen))

    return priors.vamp(start)


def make_objective(config: Config, dataset: Dataset) -> Objective | BatchObjective:
    """The objective that the configuration names."""
    k, m = config.num_samples, config.num_groups
    estimated = {"num_samples": k, "estimator": config.estimator}
    match config.objective:
        case "elbo":
            return with_hyperparams(objectives.elbo, "beta", **estimated)
        case "capacity":
            return with_hyperparams(objectives.capacity_elbo, "capacity", "gamma", num_samples=k)
        case "free_bits" if config.free_bits_per == "batch_mean":
            return stateless(cross_batch.free_bits_batch_mean_elbo, "free_bits", "beta")
        case "free_bits":
            groups = m if config.free_bits_per == "group" else None
            return with_hyperparams(objectives.free_bits_elbo, "free_bits", "beta", num_groups=groups, num_samples=k)
        case "geco":
            return cross_batch.geco()
        case "iwae":
            return with_hyperparams(objectives.iwae, **estimated)
        case "miwae":
            return with_hyperparams(objectives.miwae, num_groups=m, **estimated)
        case "ciwae":
            return with_hyperparams(objectives.ciwae, "elbo_weight", **estimated)
        case "piwae":
            return with_hyperparams(objectives.piwae, num_groups=m, num_samples=k)
        case "beta_tcvae":
            return stateless(cross_batch.beta_tc_elbo, "beta", num_examples=dataset.num_different, weights=config.tc_weights)
        case "dip_vae_i" | "dip_vae_ii":
            variant = config.objective.removeprefix("dip_vae_")
            return stateless(cross_batch.dip_elbo, "lambda_od", "lambda_d", "beta", variant=variant)
        case "info_vae":
            kernel = getattr(cross_batch, f"{config.mmd_kernel}_kernel")
            return stateless(cross_batch.info_elbo, "mmd_weight", "beta", kernel=kernel)
        case "factor_vae":
            discriminator = networks.mlp_discriminator(config.latent_dim)
            return cross_batch.factor(discriminator, optax.adam(1e-4, b1=0.5, b2=0.9))
        case "optimal_sigma":
            std = _spread(config, dataset)
            if np.ndim(std) == 0:
                return cross_batch.optimal_scale(min_log_scale=math.log(std) - 6)
            level = float(np.log(std).mean(dtype=np.float64))
            return cross_batch.optimal_scale(min_log_scale=level - 6, relative_scale=std / math.exp(level))
    raise UserError(f"objective {config.objective!r} is a function of your own: pass objective=... to build or load_run.")


def load_dataset(config: Config, data_dir: str | None = None) -> Dataset:
    """The data set that the configuration names, split as it says."""
    return data.load(
        config.dataset,
        data_dir=data_dir,
        split=config.split,
        test_fraction=config.test_fraction,
        validation_fraction=config.validation_fraction,
        split_seed=config.split_seed,
        stream=config.stream,
        max_level=config.max_level,
        layout=config.layout,
    )


def build(
    config: Config,
    *,
    data_dir: str | None = None,
    likelihood: Likelihood | Callable[..., Any] | None = None,
    objective: Objective | BatchObjective | None = None,
) -> Built:
    """Loads the data and makes the model; raises `UserError` for everything that does not fit. Writes nothing.

    Args:
      config: the settings.
      data_dir: where TFDS finds or keeps prepared data.
      likelihood: one of your own in place of the configuration's: a `Likelihood`, or a function (decoder_output, x) -> nats.
      objective: one of your own: a function (key, encode, decode, log_prob, x, hyperparams) -> Terms of one example, or a
        `BatchObjective`. A run directory cannot hold functions: it records "custom", and `runs.load_run` wants them again.
    """
    if likelihood is not None:
        config = dataclasses.replace(config, likelihood=CUSTOM)
        likelihood = likelihood if isinstance(likelihood, Likelihood) else from_log_prob(likelihood)
    if objective is not None:
        config = dataclasses.replace(config, objective=CUSTOM)
    config.validate()
    if config.activation not in networks.ACTIVATIONS:
        raise unknown("activation", config.activation, networks.ACTIVATIONS)
    dataset = load_dataset(config, data_dir)
    config = _with_channels(config, dataset.data_shape)
    likelihood = likelihood or make_likelihood(config, dataset)
    objective = objective or make_objective(config, dataset)
    data.check_support(dataset, likelihood, config.binarization, config.dequantize)
    total_steps = config.epochs * (len(dataset.train) // config.batch_size)
    for name in ("beta_warmup_steps", "capacity_warmup_steps", "learning_rate_warmup_steps"):
        if total_steps > 0 and getattr(config, name) and getattr(config, name) >= total_steps:
            raise UserError(
                f"--{name.replace('_', '-')}: the warm-up would not end within the run: {getattr(config, name)} steps, "
                f"and the run has {total_steps}. Shorten it or train for more epochs."
            )
    if config.beta_schedule == "cyclical" and 0 < total_steps < 2 * config.beta_cycles:
        raise UserError(
            f"--beta-cycles: expected at most {total_steps // 2} in a run of {total_steps} steps, so that beta rises in every "
            f"cycle, got {config.beta_cycles}. Use fewer or train for more epochs."
        )
    counts = likelihood.support == "counts" and config.binarization == "none"
    prepared = data.prepare(
        dataset, binarization=config.binarization, dequantize=config.dequantize, counts=counts, seed=config.test_seed
    )
    training.check_fit(prepared, config.batch_size, config.early_stopping)
    unit = (dataset.max_level or 1) if counts else 1  # the data set's moments are of levels scaled to [0, 1]
    network: dict[str, Any] = {"hidden": config.hidden}
    if config.network != "mlp":
        network = {"channels": config.channels, "dense": config.dense}
        network |= {"num_blocks": config.num_blocks, "norm": config.norm} if config.network == "resnet" else {}
    vae = (model.mlp_vae if config.network == "mlp" else model.conv_vae)(
        dataset.data_shape,
        likelihood,
        **network,
        latent_dim=config.latent_dim,
        activation=config.activation,
        dtype=config.dtype,
        train_mean=dataset.train_mean * unit if config.output_bias == "train_mean" else None,
        standardize=prepared.moments if likelihood.support in ("real", "counts") else None,
        prior=make_prior(config, prepared),
    )
    optimizer: Optimizer = optimizers.named_optimizer(config.optimizer)
    if config.ema_decay:
        optimizer = optimizers.with_params_ema(optimizer, config.ema_decay)
    fit_arguments: dict[str, Any] = dict(
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        prng=config.prng,
        hyperparams=config.hyperparams,
        optimizer=optimizer,
        objective=objective,
        schedules={
            "beta": schedules.rise(config.beta_schedule, config.beta_warmup_steps, total_steps, config.beta_cycles),
            "capacity": schedules.warm_up(config.capacity_warmup_steps),
            "learning_rate": schedules.learning_rate_schedule(
                config.learning_rate_schedule, config.learning_rate_warmup_steps, total_steps
            ),
        },
        early_stopping=config.early_stopping,
        eval_batch_size=config.eval_batch_size,
        test_seed=config.test_seed,
    )
    parts = (config, dataset, prepared, vae, optimizer, objective)
    made = dict(zip(Built._fields, parts, strict=False)) | {f"fit_arguments[{k!r}]": v for k, v in fit_arguments.items()}
    return Built(*parts, fit_arguments, MappingProxyType(made))


def _with_channels(config: Config, data_shape: tuple[int, ...]) -> Config:
    """The configuration with the channels that these images get; `UserError` where convolutions cannot take them."""
    if config.network == "mlp":
        return config
    try:
        channels = config.channels or networks.default_channels(data_shape)
        networks.check_image(data_shape, len(channels))
    except ValueError as error:
        advice = "Use fewer --channels, or --network mlp." if config.channels else "Use --network mlp."
        raise UserError(f"--network {config.network}: {error} {advice}") from None
    return dataclasses.replace(config, channels=channels)


def repeat_command(
    config: Config, out: Path, data_dir: str | None = None, program: tuple[str, ...] = ("python", "experiments/train.py")
) -> str:
    """The command line that repeats the run: the settings that differ from the defaults."""
    words = [*program]
    for field in dataclasses.fields(Config):
        value = getattr(config, field.name)
        if value == field.default and field.name != "dataset":
            continue
        flag = "--" + field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag)
        else:
            words += [flag, *(str(v) for v in (value if isinstance(value, tuple) else (value,)))]
    return shlex.join([*words, *(["--data-dir", data_dir] if data_dir else []), "--out", str(out)])
