"""`build` makes the data, the model and the arguments of `training.fit` from a `Config`, and refuses what does not fit."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Unpack

from vae_jax import data, networks, training
from vae_jax._numerics.short_repr import short_repr
from vae_jax.build import model
from vae_jax.build.data_settings import load_dataset, with_dataset, with_planned_columns
from vae_jax.build.description import DataDescription, describe_data, training_data
from vae_jax.build.initial import Initial, start_from, with_initial_moments, with_initial_scale
from vae_jax.build.parts import PartOptions, Parts
from vae_jax.config import CUSTOM, Config, all_settings, settings_of
from vae_jax.data import Dataset, Prepared
from vae_jax.data.column_proposals import ColumnPlan
from vae_jax.errors import UserError, unknown
from vae_jax.likelihoods import Likelihood, check_factorizes
from vae_jax.model import VAE
from vae_jax.objectives.batch import AnyObjective
from vae_jax.training import schedules
from vae_jax.training.optimizers import Optimizer


@short_repr
class Built(NamedTuple):
    """The parts that a `Config` describes."""

    config: Config
    dataset: Dataset
    data: Prepared
    vae: VAE
    optimizer: Optimizer  # tracking the moving average, where one is asked for
    objective: AnyObjective
    fit_arguments: dict[str, Any]  # of `training.fit`, the optimizer and the objective among them
    made: Mapping[str, Any] = MappingProxyType({})  # the parts as `build` made them: `runs.train` refuses others
    column_plans: tuple[ColumnPlan, ...] = ()  # of all columns of a mixed table, also of those left out
    parts: Parts = Parts()  # of the user
    description: DataDescription | None = None  # of the training data; None only where `build` did not make this
    init: Initial | None = None  # parameters of a trained model from which the run starts


def make_likelihood(config: Config, dataset: Dataset) -> Likelihood:
    """Makes the likelihood that the configuration names; a learned scale starts at the spread of the training data."""
    config, dataset, plans = with_planned_columns(config, dataset)
    return model.make_likelihood(config, training_data(config, dataset, plans), None)


def build(
    config: Config,
    *,
    data_dir: str | None = None,
    dataset: Dataset | None = None,
    init: Initial | None = None,
    **parts: Unpack[PartOptions],
) -> Built:
    """Loads the data and makes the model. Writes nothing.

    Args:
      config: the settings.
      data_dir: where TFDS finds or keeps prepared data.
      dataset: data in place of those that the configuration names, from `data.from_arrays` or `data.load`. A run directory
        records "custom" and the fingerprint, and `runs.load_run` wants the data again.
      init: parameters of a trained model, or a part of them, from which the run starts (from `runs.init_from`). With the
        encoder or the decoder come the mean and the scale by which their data were standardized.
      **parts: a user's own likelihood, network, prior, objective and optimizer (see `PartOptions`). A run directory cannot hold
        functions: it records "custom" with the name and the file of each, and `runs.load_run` wants them again.

    Returns:
      `Built`. Its configuration is the given one, with the channels of a convolutional network and the layers of
      a ladder filled in.

    Raises:
      UserError: settings that are wrong, that do not fit each other, or that do not fit the data.
    """
    custom = Parts(**parts)
    config = dataclasses.replace(config, **dict.fromkeys(custom.given(), CUSTOM))
    if dataset is not None:
        config = with_dataset(config, dataset)
    config.validate()
    if config.activation not in networks.ACTIVATIONS:
        raise unknown("activation", config.activation, networks.ACTIVATIONS)
    dataset = load_dataset(config, data_dir) if dataset is None else dataset
    config, dataset, plans = with_planned_columns(config, dataset, data_dir)
    config = _with_channels(config, dataset.data_shape)
    facts = training_data(config, dataset, plans)
    if init is not None:
        facts = with_initial_scale(facts, config, init)
    likelihood = model.make_likelihood(config, facts, custom.likelihood)
    objective = model.make_objective(config, facts, custom.objective)
    data.check_support(dataset, likelihood, config.binarization, config.dequantize)
    if dataset.has_missing:
        check_factorizes(likelihood)
    steps_per_epoch = len(dataset.train) // config.batch_size
    total_steps = config.epochs * steps_per_epoch
    _check_warm_ups(config, total_steps)
    prepared = prepare(config, dataset, likelihood)
    training.check_fit(prepared, config.batch_size, config.early_stopping)
    description = describe_data(dataset, prepared, facts)
    if init is not None:
        description = with_initial_moments(description, likelihood, config, init)
    vae = model.make_model(config, description, likelihood, custom, dataset.train_mean)
    if init is not None:
        vae = start_from(vae, init)
    model.check_densities(config, vae)
    optimizer = model.make_optimizer(config, facts, custom.optimizer, steps_per_epoch)
    fit_arguments: dict[str, Any] = dict(
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        prng=config.prng,
        hyperparams=config.hyperparams,
        optimizer=optimizer,
        objective=objective,
        schedules=_make_schedules(config, total_steps),
        early_stopping=config.early_stopping,
        eval_batch_size=config.eval_batch_size,
        test_seed=config.test_seed,
    )
    made = (config, dataset, prepared, vae, optimizer, objective)
    named = dict(zip(Built._fields, made, strict=False)) | {f"fit_arguments[{k!r}]": v for k, v in fit_arguments.items()}
    later = {"column_plans": plans, "parts": custom, "description": description, "init": init}
    return Built(*made, fit_arguments, MappingProxyType({**named, **later}), **later)


def prepare(config: Config, dataset: Dataset, likelihood: Likelihood) -> Prepared:
    """Puts a data set on the device as the configuration says and the likelihood takes it."""
    return data.prepare(
        dataset,
        binarization=config.binarization,
        dequantize=config.dequantize,
        counts=model.sees_counts(config, likelihood),
        count_input=config.count_input,
        mixed=likelihood.support == "mixed",
        seed=config.test_seed,
    )


def _make_schedules(config: Config, total_steps: int) -> dict[str, schedules.Schedule]:
    """Returns the factors, by step, of the traced settings that change during the run."""
    return {
        "beta": schedules.rise(config.beta_schedule, config.beta_warmup_steps, total_steps, config.beta_cycles),
        **{s.warms_up: schedules.warm_up(getattr(config, s.name)) for s in all_settings() if s.warms_up},
        "learning_rate": schedules.learning_rate_schedule(
            config.learning_rate_schedule, config.learning_rate_warmup_steps, total_steps
        ),
    }


def _check_warm_ups(config: Config, total_steps: int) -> None:
    """Raises `UserError` where a warm-up, the first cycle of beta or the first update would not end within the run."""
    registered = [setting.name for setting in all_settings() if setting.warms_up]
    for name in ("beta_warmup_steps", *registered, "learning_rate_warmup_steps"):
        if total_steps > 0 and getattr(config, name) and getattr(config, name) >= total_steps:
            raise UserError(
                field=name,
                message=f"the warm-up would not end within the run: {getattr(config, name)} steps, and the run has "
                f"{total_steps}.",
                fix="Shorten it or train for more epochs.",
            )
    if 0 < total_steps < config.accumulate_steps:
        raise UserError(
            field="accumulate_steps",
            expected=f"at most {total_steps}, the number of steps in the run",
            got=config.accumulate_steps,
        )
    if config.beta_schedule == "cyclical" and 0 < total_steps < 2 * config.beta_cycles:
        raise UserError(
            field="beta_cycles",
            expected=f"at most {total_steps // 2} in a run of {total_steps} steps, so that beta rises in every cycle",
            got=config.beta_cycles,
            fix="Use fewer or train for more epochs.",
        )


def _with_channels(config: Config, data_shape: tuple[int, ...]) -> Config:
    """Returns the configuration with the channels of its convolutions filled in.

    Raises:
      UserError: vectors, or images or series of a size that convolutions cannot take.
    """
    if "channels" not in settings_of("network", config.network):
        return config
    try:
        channels = config.channels or networks.default_channels(data_shape)
        networks.check_convolved(data_shape, len(channels))
    except ValueError as error:
        fix = 'Use fewer `channels`, or `network="mlp"`.' if config.channels else 'Use `network="mlp"`.'
        if len(data_shape) == 1:
            fix = 'Use `network="mlp"` for vectors. For series, use `event="series"` and save (examples, time[, channels]).'
        raise UserError(f'`network="{config.network}"`: {error} {fix}') from None
    config = dataclasses.replace(config, channels=channels)
    return _with_layers(config, data_shape) if "latent_channels" in settings_of("network", config.network) else config


def _with_layers(config: Config, data_shape: tuple[int, ...]) -> Config:
    """Returns the configuration of a ladder with the length of its code, which follows from the sizes of its layers.

    Raises:
      UserError: layers that do not fit the data, or a different length.
    """
    try:
        layout = networks.ladder_layout(data_shape, config.latent_channels, config.channels, config.layer_halvings)
    except ValueError as error:
        raise UserError(f'`network="{config.network}"`: {error}') from None
    if config.latent_dim not in (Config().latent_dim, layout.latent_dim):
        raise UserError(
            f'`network="{config.network}"` has {layout.latent_dim} latent dimensions, those of its layers.',
            field="latent_dim",
            fix="Leave `latent_dim` out, and choose `latent_channels`.",
        )
    return dataclasses.replace(config, layer_halvings=layout.halvings, latent_dim=layout.latent_dim)
