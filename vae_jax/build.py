"""`build` makes the data, the model and the arguments of `training.fit` from a `Config`, and refuses what does not fit."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax import data, networks, training
from vae_jax._numerics.short_repr import short_repr
from vae_jax.config import CUSTOM, Config, TrainingData, all_settings, settings_of
from vae_jax.data import Dataset, Prepared, Rows, check_pipeline_argument, column_proposals
from vae_jax.data.moments import pooled_mean
from vae_jax.errors import UserError, unknown
from vae_jax.example import Example
from vae_jax.likelihoods import Likelihood, check_factorizes, from_log_prob
from vae_jax.model import VAE, assemble_vae, decoder_shape, encoder_shape
from vae_jax.objectives.batch import AnyObjective
from vae_jax.training import optimizers, schedules
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
    column_plans: tuple[column_proposals.ColumnPlan, ...] = ()  # of all columns of a mixed table, also of those left out


def training_data(config: Config, dataset: Dataset) -> TrainingData:
    """Returns the facts about the training data that factories take, on the scale on which the likelihood sees the data."""
    is_binarized = config.binarization != "none"
    highest = 1 if is_binarized else dataset.max_level or 1
    if data.is_image(dataset.data_shape):
        mean_count = max(pooled_mean(dataset) * highest, 1e-3)
    else:
        mean_count = np.maximum(dataset.train_mean * highest, 1e-3)
    if is_binarized:
        std = 0.5
    elif dataset.max_level is None and not data.is_image(dataset.data_shape):
        std = data.train_moments(dataset, counts=False).std
    else:
        std = dataset.train_std

    def not_prepared(key: Array, count: int) -> Array:
        raise ValueError("the training data are prepared after the likelihood is made.")

    return TrainingData(
        name=dataset.name,
        data_shape=dataset.data_shape,
        num_levels=highest + 1,
        std=std,
        mean_count=mean_count,
        num_train=len(dataset.train),
        num_different=dataset.num_different,
        draw_inputs=not_prepared,
        mean_total=max(float(dataset.train_mean.sum(dtype=np.float64)) * highest, 1e-3),
        condition_dim=dataset.condition.dim if dataset.condition else 0,
        has_missing=dataset.has_missing,
    )


def _drawing(prepared: Prepared, mean: np.ndarray) -> Callable[[Array, int], Array | Example]:
    """Returns the function (key, n) -> n different training examples as the encoder sees them."""

    def draw_inputs(key: Array, count: int) -> Array | Example:
        key_choice, key_input = jax.random.split(key)
        chosen = jax.random.choice(key_choice, len(prepared.train), (count,), replace=False)
        x = prepared.train_input(key_input, prepared.train_rows(chosen))
        if not isinstance(x, Example):
            return x
        # A pseudo-input has no missing entries: they start at the mean.
        event = x.event if x.mask is None else jnp.where(x.mask, x.event, mean)
        return event if x.condition is None else Example(event, x.condition)

    return draw_inputs


def _make(kind: Any, config: Config, facts: TrainingData) -> Any:
    """Calls the factory of the likelihood, prior, network or objective that the configuration names."""
    entry = config.entry(kind)
    if entry is None:
        raise UserError(f"{kind} {getattr(config, kind)!r} is a function of your own: pass {kind}=... to build or load_run.")
    return entry.factory(config, facts)


def make_likelihood(config: Config, dataset: Dataset) -> Likelihood:
    """Makes the likelihood that the configuration names; a learned scale starts at the spread of the training data."""
    config, dataset, plans = with_planned_columns(config, dataset)
    facts = training_data(config, dataset)._replace(columns=column_proposals.column_facts(dataset, plans))
    return _make("likelihood", config, facts)


# Settings of `data.load` in a configuration. A data set that is passed to `build` has them already.
_DATA_SETTINGS = (
    *("split", "test_fraction", "validation_fraction", "split_seed", "stream", "max_level", "layout", "event", "resize"),
    *("crop", "transpose", "array", "label_column", "validation_dataset", "test_dataset", "condition", "missing"),
)


def with_dataset(config: Config, dataset: Dataset) -> Config:
    """Returns the configuration of a model of a data set that is in memory: its data set is "custom".

    Raises:
      UserError: not a data set, or a setting that only `data.load` and `data.from_arrays` could follow.
    """
    check_pipeline_argument("build", dataset, Dataset)
    is_streamed = isinstance(dataset.train, Rows)
    recorded: dict[str, Any] = {
        "condition": CUSTOM if dataset.condition else "",
        "missing": "nan" if dataset.has_missing else "refuse",
    }
    if config.dataset == CUSTOM:  # the configuration of a run, which records what its data set had
        for name, thing in (("condition", "condition"), ("missing", "missing entries")):
            if getattr(config, name) not in (getattr(Config(), name), recorded[name]):
                raise UserError(
                    f"the data set {dataset.name!r} has no {thing}, and the one that the run was trained on has.",
                    field="dataset",
                    fix="Make it with the same arguments of data.from_arrays as before.",
                )
    for name in _DATA_SETTINGS:
        if name != "stream" and getattr(config, name) not in (getattr(Config(), name), recorded.get(name, "")):
            raise UserError(
                f"the data set {dataset.name!r} is made already, so `{name}` has no effect on it.",
                field=name,
                fix="Pass it to data.from_arrays or data.load, and leave it out of the Config.",
            )
    if config.stream and not is_streamed:
        raise UserError(f"the data set {dataset.name!r} is in memory.", field="stream", fix="Leave out `stream=True`.")
    return dataclasses.replace(config, dataset=CUSTOM, stream=is_streamed, **recorded)


def load_dataset(config: Config, data_dir: str | None = None) -> Dataset:
    """Loads the data set that the configuration names, split as it says."""
    if config.dataset == CUSTOM:
        raise UserError("the data set was made in memory.", field="dataset", fix="Pass dataset=... to build or load_run.")
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
        event=config.event,
        resize=config.resize,
        crop=config.crop,
        transpose=config.transpose,
        array=config.array,
        label_column=config.label_column,
        validation_dataset=config.validation_dataset,
        test_dataset=config.test_dataset,
        condition=config.condition,
        missing=config.missing,
        mixed=names_of_columns(config) if config.likelihood == "columns" else False,
    )


def names_of_columns(config: Config) -> tuple[str, ...]:
    """Returns the names of the columns that the setting `columns` names and does not leave out."""
    chosen = column_proposals.parse_columns([setting for setting in config.columns if setting != column_proposals.AUTO])
    return tuple(name for name, likelihood in chosen.items() if likelihood != column_proposals.LEFT_OUT)


def with_planned_columns(
    config: Config, dataset: Dataset, data_dir: str | None = None
) -> tuple[Config, Dataset, tuple[column_proposals.ColumnPlan, ...]]:
    """Chooses the likelihood of each column of a mixed table, and leaves out columns without one.

    Args:
      config: with `likelihood="columns"`; other configurations are returned as they are.
      dataset: its data.
      data_dir: see `build`.

    Returns:
      The configuration with the likelihood of every column in `columns`, the data set with the columns that have one, and the
      plan of all columns.

    Raises:
      UserError: see `data.column_proposals.plan_columns`.
    """
    if config.likelihood != "columns":
        return config, dataset, ()
    is_auto = column_proposals.AUTO in config.columns
    if is_auto and not column_proposals.is_dense_table(dataset):
        config = dataclasses.replace(config, likelihood="bernoulli", columns=())
        return config, dataset if config.dataset == CUSTOM else load_dataset(config, data_dir), ()
    plans = column_proposals.plan_columns(dataset, config.columns)
    if is_auto and not dataset.has_missing and all(plan.likelihood == "bernoulli" for plan in plans):
        config = dataclasses.replace(config, likelihood="bernoulli", columns=())
        return config, dataset if config.dataset == CUSTOM else load_dataset(config, data_dir), ()
    kept = [i for i, plan in enumerate(plans) if plan.likelihood != column_proposals.LEFT_OUT]
    config = dataclasses.replace(config, columns=tuple(plan.setting for plan in plans))
    return config, dataset if len(kept) == len(plans) else dataset.with_columns(kept), plans


def resolve_columns(members: Sequence[Config], data_dir: str | None = None, dataset: Dataset | None = None) -> list[Config]:
    """Returns configurations that name the likelihood of every column of a mixed table; others are returned as they are."""
    planned: dict[Config, Config] = {}
    resolved = []
    for member in members:
        # Everything that reading and planning depend on, which members of a sweep share.
        key = dataclasses.replace(Config(), **{name: getattr(member, name) for name in _DATA_SETTINGS}, dataset=member.dataset)
        key = dataclasses.replace(key, likelihood=member.likelihood, columns=member.columns)
        if key.likelihood == "columns" and key not in planned:
            planned[key] = with_planned_columns(key, dataset or load_dataset(key, data_dir), data_dir)[0]
        chosen = planned.get(key, key)
        resolved.append(dataclasses.replace(member, likelihood=chosen.likelihood, columns=chosen.columns))
    return resolved


def build(
    config: Config,
    *,
    data_dir: str | None = None,
    likelihood: Likelihood | Callable[..., Any] | None = None,
    objective: AnyObjective | None = None,
    dataset: Dataset | None = None,
) -> Built:
    """Loads the data and makes the model. Writes nothing.

    Args:
      config: the settings.
      data_dir: where TFDS finds or keeps prepared data.
      likelihood: a user's own in place of the configuration's: a `Likelihood`, or a function (decoder_output, x) -> nats.
      objective: a user's own: a function (key, encode, decode, log_prob, x, hyperparams) -> Terms of one example, or a
        `BatchObjective`. A run directory cannot hold functions: it records "custom", and `runs.load_run` wants them again.
      dataset: data in place of those that the configuration names, from `data.from_arrays` or `data.load`. A run directory
        records "custom" and the fingerprint, and `runs.load_run` wants the data again.

    Returns:
      `Built`. Its configuration is the given one, with the channels of a convolutional network filled in.

    Raises:
      UserError: settings that are wrong, that do not fit each other, or that do not fit the data.
    """
    if likelihood is not None:
        config = dataclasses.replace(config, likelihood=CUSTOM)
    if objective is not None:
        config = dataclasses.replace(config, objective=CUSTOM)
    if dataset is not None:
        config = with_dataset(config, dataset)
    config.validate()
    if config.activation not in networks.ACTIVATIONS:
        raise unknown("activation", config.activation, networks.ACTIVATIONS)
    dataset = load_dataset(config, data_dir) if dataset is None else dataset
    config, dataset, plans = with_planned_columns(config, dataset, data_dir)
    config = _with_channels(config, dataset.data_shape)
    facts = training_data(config, dataset)._replace(columns=column_proposals.column_facts(dataset, plans))
    bundle: Likelihood = _make("likelihood", config, facts) if likelihood is None else _as_likelihood(likelihood)
    loss: AnyObjective = _make("objective", config, facts) if objective is None else objective
    data.check_support(dataset, bundle, config.binarization, config.dequantize)
    if dataset.has_missing:
        check_factorizes(bundle)
    total_steps = config.epochs * (len(dataset.train) // config.batch_size)
    _check_warm_ups(config, total_steps)
    counts = bundle.support == "counts" and config.binarization == "none"
    prepared = data.prepare(
        dataset,
        binarization=config.binarization,
        dequantize=config.dequantize,
        counts=counts,
        count_input=config.count_input,
        mixed=bundle.support == "mixed",
        seed=config.test_seed,
    )
    training.check_fit(prepared, config.batch_size, config.early_stopping)
    drawing = _drawing(prepared, dataset.train_mean * ((dataset.max_level or 1) if counts else 1))
    vae = _make_vae(config, facts._replace(draw_inputs=drawing), bundle, dataset, prepared)
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
        objective=loss,
        schedules=_make_schedules(config, total_steps),
        early_stopping=config.early_stopping,
        eval_batch_size=config.eval_batch_size,
        test_seed=config.test_seed,
    )
    parts = (config, dataset, prepared, vae, optimizer, loss)
    made = dict(zip(Built._fields, parts, strict=False)) | {f"fit_arguments[{k!r}]": v for k, v in fit_arguments.items()}
    return Built(*parts, fit_arguments, MappingProxyType({**made, "column_plans": plans}), plans)


def _as_likelihood(likelihood: Likelihood | Callable[..., Any]) -> Likelihood:
    return likelihood if isinstance(likelihood, Likelihood) else from_log_prob(likelihood)


def _make_vae(config: Config, facts: TrainingData, likelihood: Likelihood, dataset: Dataset, prepared: Prepared) -> VAE:
    """Makes the networks and the prior, and puts them together with the likelihood and the scale of the data."""
    sees_counts = likelihood.support == "counts" and config.binarization == "none"
    unit = (dataset.max_level or 1) if sees_counts else 1  # the data set's moments are of levels scaled to [0, 1]
    input_shape = encoder_shape(dataset.data_shape, config.mask_input, likelihood)
    output_shape = decoder_shape(dataset.data_shape, likelihood)
    encoder, make_decoder = _make("network", config, facts._replace(input_shape=input_shape, output_shape=output_shape))
    return assemble_vae(
        encoder,
        make_decoder,
        dataset.data_shape,
        likelihood,
        train_mean=dataset.train_mean * unit if config.output_bias == "train_mean" else None,
        standardize=prepared.moments if likelihood.support in ("real", "counts", "mixed") else None,
        prior=_make("prior", config, facts),
        condition_dim=facts.condition_dim,
        mask_input=config.mask_input,
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
    """Raises `UserError` where a warm-up, or the first cycle of beta, would not end within the run."""
    registered = [setting.name for setting in all_settings() if setting.warms_up]
    for name in ("beta_warmup_steps", *registered, "learning_rate_warmup_steps"):
        if total_steps > 0 and getattr(config, name) and getattr(config, name) >= total_steps:
            raise UserError(
                field=name,
                message=f"the warm-up would not end within the run: {getattr(config, name)} steps, and the run has "
                f"{total_steps}.",
                fix="Shorten it or train for more epochs.",
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
    return dataclasses.replace(config, channels=channels)
