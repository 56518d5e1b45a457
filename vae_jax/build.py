"""A `Config` brought to life: data, model and the arguments of `training.fit`; all that can be wrong is found here."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import optax

from vae_jax import data, likelihoods, model, networks, optimization, training
from vae_jax.config import Config
from vae_jax.data import Dataset, Prepared
from vae_jax.errors import UserError, unknown
from vae_jax.likelihoods import Likelihood
from vae_jax.model import VAE
from vae_jax.objectives import beta_elbo
from vae_jax.optimization import Optimizer


class Built(NamedTuple):
    """What a `Config` describes."""

    config: Config
    dataset: Dataset
    data: Prepared
    vae: VAE
    optimizer: Optimizer  # tracking the moving average, where one is asked for
    fit_arguments: dict[str, Any]


def make_likelihood(config: Config, dataset: Dataset) -> Likelihood:
    """The likelihood that the configuration names; a learned scale starts at the training data's standard deviation."""
    if config.likelihood == "gaussian" and config.scale == "shared":
        return likelihoods.gaussian("shared", initial_scale=dataset.train_std)
    if config.likelihood == "gaussian":
        return likelihoods.gaussian(float(config.scale))
    return {"bernoulli": likelihoods.bernoulli, "continuous_bernoulli": likelihoods.continuous_bernoulli}[config.likelihood]()


def build(config: Config, *, data_dir: str | None = None) -> Built:
    """Loads the data and makes the model; raises `UserError` for everything that does not fit. Writes nothing."""
    config.validate()
    if config.activation not in networks.ACTIVATIONS:
        raise unknown("activation", config.activation, networks.ACTIVATIONS)
    dataset = data.load(
        config.dataset,
        data_dir=data_dir,
        split=config.split,
        test_fraction=config.test_fraction,
        validation_fraction=config.validation_fraction,
        split_seed=config.split_seed,
    )
    likelihood = make_likelihood(config, dataset)
    data.check_support(dataset, likelihood.name, likelihood.support, config.binarization)
    total_steps = config.epochs * (len(dataset.train) // config.batch_size)
    for name in ("beta_warmup_steps", "learning_rate_warmup_steps"):
        if total_steps > 0 and getattr(config, name) and getattr(config, name) >= total_steps:
            raise UserError(
                f"--{name.replace('_', '-')}: the warm-up would not end within the run: {getattr(config, name)} steps, "
                f"and the run has {total_steps}. Shorten it or train for more epochs."
            )
    prepared = data.prepare(dataset, binarization=config.binarization, dequantize=config.dequantize, seed=config.test_seed)
    training.check_fit(prepared, config.batch_size, config.early_stopping)
    real_valued = dataset.max_level is None and likelihood.support == "real" and config.binarization == "none"
    vae = model.mlp_vae(
        dataset.data_shape,
        likelihood,
        latent_dim=config.latent_dim,
        hidden=config.hidden,
        activation=config.activation,
        dtype=config.dtype,
        train_mean=dataset.train_mean if config.output_bias == "train_mean" else None,
        # Levels are scaled to [0, 1]; floats come on any scale.
        standardize=(float(dataset.train_mean.mean()), dataset.train_std) if real_valued else None,
    )
    optimizer: Optimizer = getattr(optax, config.optimizer)
    if config.ema_decay:
        optimizer = optimization.with_params_ema(optimizer, config.ema_decay)
    fit_arguments: dict[str, Any] = dict(
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        hyperparams=config.hyperparams,
        optimizer=optimizer,
        objective=beta_elbo(config.num_samples),
        learning_rate_schedule=optimization.learning_rate_schedule(
            config.learning_rate_schedule, config.learning_rate_warmup_steps, total_steps
        ),
        beta_schedule=optimization.warm_up(config.beta_warmup_steps),
        early_stopping=config.early_stopping,
        eval_batch_size=config.eval_batch_size,
        test_seed=config.test_seed,
    )
    return Built(config, dataset, prepared, vae, optimizer, fit_arguments)


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
