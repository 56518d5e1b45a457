"""Makes the likelihood, the networks, the prior, the objective and the optimizer that a `Config` or a user names."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vae_jax.build.description import DataDescription
from vae_jax.build.parts import (
    AnyPrior,
    LogProbFunction,
    NetworkFactory,
    Networks,
    Parts,
    PosteriorFactory,
    PriorFactory,
)
from vae_jax.config import Config, TrainingData
from vae_jax.errors import UserError, check_signature
from vae_jax.likelihoods import Likelihood, from_log_prob
from vae_jax.model import VAE, assemble_vae, decoder_shape, encoder_shape
from vae_jax.networks import Ladder, Network, adapt_module, check_network
from vae_jax.objectives.batch import AnyObjective
from vae_jax.posteriors import Posterior, ladder
from vae_jax.priors import ConditionalGaussian, Prior
from vae_jax.training import optimizers
from vae_jax.training.optimizers import Optimizer


def _make(kind: Any, config: Config, facts: TrainingData) -> Any:
    """Calls the factory of the likelihood, prior, network, objective or optimizer that the configuration names."""
    entry = config.entry(kind)
    if entry is None:
        raise UserError(f"the {kind} of this configuration is of your own.", field=kind, fix=f"Pass `{kind}`.")
    return entry.factory(config, facts)


def make_likelihood(config: Config, facts: TrainingData, custom: Likelihood | LogProbFunction | None) -> Likelihood:
    """Returns the likelihood of a user as a bundle, or makes the one that the configuration names."""
    if custom is None:
        return _make("likelihood", config, facts)
    if isinstance(custom, Likelihood):
        return custom
    _expect_function("likelihood", custom, "a Likelihood, or a function (decoder_output, x) -> nats of one example")
    return from_log_prob(custom)


def make_objective(config: Config, facts: TrainingData, custom: AnyObjective | None) -> AnyObjective:
    """Returns the objective of a user, or makes the one that the configuration names."""
    return _make("objective", config, facts) if custom is None else custom


def make_optimizer(config: Config, facts: TrainingData, custom: Optimizer | None, steps_per_epoch: int) -> Optimizer:
    """Returns the optimizer of a user or of the configuration, with what the configuration asks for around it.

    The gradient is accumulated first and clipped then. A gradient that is not finite is skipped before it is accumulated.
    """
    optimizer: Optimizer = _make("optimizer", config, facts) if custom is None else custom
    if config.clip_norm is not None:
        optimizer = optimizers.with_clipping(optimizer)
    if config.accumulate_steps > 1:
        optimizer = optimizers.with_accumulation(optimizer, config.accumulate_steps)
    if config.skip_not_finite:
        optimizer = optimizers.with_skipping(optimizer, config.skip_not_finite)
    if config.average_from_epoch:
        optimizer = optimizers.with_params_mean(optimizer, (config.average_from_epoch - 1) * steps_per_epoch)
    return optimizers.with_params_ema(optimizer, config.ema_decay) if config.ema_decay else optimizer


def sees_counts(config: Config, likelihood: Likelihood) -> bool:
    """Returns whether the likelihood sees integer levels as counts, rather than scaled to [0, 1]."""
    return likelihood.support == "counts" and config.binarization == "none"


def make_model(
    config: Config,
    description: DataDescription,
    likelihood: Likelihood,
    parts: Parts,
    train_mean: np.ndarray | None = None,
) -> VAE:
    """Makes the networks and the prior, and puts them together with the likelihood and the scale of the data.

    Args:
      config: the settings.
      description: of the training data.
      likelihood: from `make_likelihood`.
      parts: of the user.
      train_mean: mean training example, for a decoder that starts there. None: its parameters are read from a file later.
    """
    facts = description.facts
    unit = (description.max_level or 1) if sees_counts(config, likelihood) else 1  # `train_mean` is of levels in [0, 1]
    facts = facts._replace(
        input_shape=encoder_shape(facts.data_shape, config.mask_input, likelihood),
        output_shape=decoder_shape(facts.data_shape, likelihood),
        outputs_per_dim=likelihood.outputs_per_dim,
    )
    posterior = make_posterior(config, facts, parts.posterior)
    facts = facts._replace(num_extra=0 if posterior is None else posterior.num_extra)
    made = make_networks(config, facts, parts.network)
    posterior = _posterior_of_layers(posterior, made) if isinstance(made, Ladder) else posterior
    encoder, decoder = made[:2]
    prior = make_prior(config, facts, parts.prior)
    try:
        vae = assemble_vae(
            encoder,
            decoder,
            facts.data_shape,
            likelihood,
            train_mean=None if train_mean is None or config.output_bias == "zeros" else train_mean * unit,
            standardize=description.moments if likelihood.support in ("real", "counts", "mixed") else None,
            prior=prior,
            condition_dim=facts.condition_dim,
            mask_input=config.mask_input,
            posterior=posterior,
        )
    except ValueError as error:  # parts that do not fit each other
        given = [name for name in ("network", "prior", "posterior", "likelihood") if name in parts.given()]
        if isinstance(error, UserError) or not given:
            raise
        raise UserError(str(error), field=given[0] if len(given) == 1 else None) from error
    num_auxiliary = 0 if vae.prior is None else vae.prior.num_auxiliary
    if vae.latent_dim - num_auxiliary != config.latent_dim:
        raise UserError(
            f"the encoder returns codes of {vae.latent_dim - num_auxiliary} dimensions.",
            field="latent_dim",
            fix=f"Pass `latent_dim={vae.latent_dim - num_auxiliary}`, or let the network take config.latent_dim.",
        )
    return vae


def make_networks(config: Config, facts: TrainingData, custom: Networks | NetworkFactory | None) -> Any:
    """Returns the encoder, and the function (outputs_per_dim=, output_bias=) -> decoder, or a whole `networks.Ladder`."""
    if custom is None:
        return _make("network", config, facts)
    expected = "a function (config, data) -> (encoder, decoder), or such a pair of networks.Network"
    pair: Any = custom
    if not _is_pair(custom) and not isinstance(custom, Ladder):
        _expect_function("network", custom, expected, 2)
        pair = custom(config, facts)  # pyright: ignore
    if isinstance(pair, Ladder):
        return pair
    if not _is_pair(pair):
        raise UserError(field="network", expected=expected, got=f"{type(pair).__name__} of {custom!r:.60}")
    shapes = {"encoder": facts.input_shape or facts.data_shape, "decoder": (config.latent_dim,)}
    encoder, decoder = (
        adapt_module(role, network, shape, facts.condition_dim)
        for (role, shape), network in zip(shapes.items(), pair, strict=True)
    )
    check_network("encoder", encoder)
    if callable(decoder) and not hasattr(decoder, "apply"):
        expected = "as the decoder a networks.Network, or a function (outputs_per_dim=, output_bias=) -> decoder"
        _check_arguments("network", decoder, 0, expected, ("outputs_per_dim", "output_bias"))
        return encoder, decoder
    check_network("decoder", decoder)
    if config.output_bias != "zeros":
        raise UserError(
            "a decoder of your own sets its own bias.",
            field="output_bias",
            fix="Leave `output_bias` out, or return a function (outputs_per_dim, output_bias) -> decoder.",
        )
    return encoder, lambda outputs_per_dim, output_bias: decoder


def _posterior_of_layers(posterior: Posterior | None, made: Ladder) -> Posterior:
    """Returns the posterior of several layers. Raises `UserError` if a different one is named."""
    if posterior is not None:
        raise UserError(
            f"the network has a posterior of several layers, and {posterior.name!r} is a different one.",
            field="posterior",
            fix="Leave `posterior` out.",
        )
    return ladder(made.infer, made.layers)


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and not isinstance(value, Network) and len(value) == 2


def make_prior(config: Config, facts: TrainingData, custom: AnyPrior | PriorFactory | None) -> AnyPrior | None:
    """Returns the prior of a user, or makes the one that the configuration names; None for N(0, I)."""
    if custom is None:
        return _make("prior", config, facts)
    expected = "a priors.Prior, a priors.ConditionalGaussian, or a function (config, data) -> one of them"
    made: Any = custom
    if not isinstance(custom, Prior | ConditionalGaussian):
        _expect_function("prior", custom, expected, 2)
        made = custom(config, facts)
    if not isinstance(made, Prior | ConditionalGaussian):
        raise UserError(field="prior", expected=expected, got=f"{type(made).__name__} from {custom!r:.60}")
    return made


def make_posterior(config: Config, facts: TrainingData, custom: Posterior | PosteriorFactory | None) -> Posterior | None:
    """Returns the posterior of a user, or makes the one that the configuration names; None for the diagonal Gaussian."""
    if custom is None:
        return _make("posterior", config, facts)
    expected = "a posteriors.Posterior, or a function (config, data) -> one"
    made: Any = custom
    if not isinstance(custom, Posterior):
        _expect_function("posterior", custom, expected, 2)
        made = custom(config, facts)
    if not isinstance(made, Posterior):
        raise UserError(field="posterior", expected=expected, got=f"{type(made).__name__} from {custom!r:.60}")
    return made


def check_densities(config: Config, vae: VAE) -> None:
    """Raises `UserError` where the objective that the configuration names does not fit a prior or a posterior of the user."""
    entry = config.entry("objective")
    if vae.posterior is not None and entry is not None and not entry.any_posterior:
        raise UserError(
            f'`objective="{config.objective}"` assumes a diagonal Gaussian q(z|x), and the posterior {vae.posterior.name!r} '
            "is a different one.",
            field="posterior",
            fix='Use an objective for any posterior, such as `objective="elbo"`.',
        )
    if vae.posterior is not None and entry is not None:
        entry.check_posterior(config, vae.posterior)
    if vae.posterior is not None and vae.posterior.log_prob is None and config.estimator != "reparam":
        raise UserError(
            f'`estimator="{config.estimator}"` needs the density of a given code, and the posterior {vae.posterior.name!r} has '
            "that of its own draws only.",
            field="posterior",
            fix='Use `estimator="reparam"`.',
        )
    if vae.prior is not None and entry is not None and not entry.any_prior:
        raise UserError(
            f'`objective="{config.objective}"` assumes N(0, I), and the prior {vae.prior.name!r} is a different one.',
            field="prior",
            fix='Use an objective for any prior, such as `objective="elbo"`.',
        )


def _expect_function(name: str, value: object, expected: str, num_arguments: int | None = None) -> None:
    if not callable(value) or inspect.isclass(value):
        raise UserError(field=name, expected=expected, got=f"{value!r:.80}")
    if num_arguments is not None:
        _check_arguments(name, value, num_arguments, expected)


def _check_arguments(
    name: str, function: Callable[..., object], num_arguments: int, expected: str, keywords: Sequence[str] = ()
) -> None:
    try:
        check_signature(function, num_arguments, expected, keywords)
    except UserError as error:
        raise UserError(error.text, field=name) from None
