"""`BatchObjective`: an objective of a whole batch, with a state of its own where it needs one."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from vae_jax.divergences import kl_to_standard_normal
from vae_jax.objectives import Decode, Encode, LogProb, Objective, Terms
from vae_jax.posteriors import sample_posterior

State = Any  # a pytree of arrays


class BatchTerms(Protocol):
    """What a `BatchObjective` computes: `Terms` of arrays (batch,), and the state for the next step.

    encode, decode and log_prob are functions of one example, as everywhere; x is (batch, ...).
    """

    def __call__(
        self, key: Array, encode: Encode, decode: Decode, log_prob: LogProb, x: Array, hyperparams: Any, state: State
    ) -> tuple[Terms, State]: ...


class BatchObjective(NamedTuple):
    """An objective for `training.make_train_step` that needs the batch, or remembers something from step to step."""

    terms: BatchTerms
    init: Callable[[Array], State] = lambda key: ()  # key -> state before the first step
    evaluation_params: Callable[[Any, State], Any] = lambda params, state: params  # (params, state) -> what is evaluated


AnyObjective = Objective | BatchObjective


def stateless(function: Callable[..., Terms], *names: str, **static: Any) -> BatchObjective:
    """A `BatchObjective` from a function (key, encode, decode, log_prob, x, **options) -> Terms of a batch.

    Args:
      function: such as `beta_tc_elbo` or `dip_elbo`.
      names: fields of `config.Hyperparams` that it takes as keyword arguments, traced.
      static: its other options.
    """

    def terms(
        key: Array, encode: Encode, decode: Decode, log_prob: LogProb, x: Array, hyperparams: Any, state: State
    ) -> tuple[Terms, State]:
        options = {name: getattr(hyperparams, name) for name in names}
        return function(key, encode, decode, log_prob, x, **options, **static), state

    return BatchObjective(terms)


class Forward(NamedTuple):
    """One pass of a batch through the model, one draw of z for each example."""

    mean: Array  # (batch, latent)
    log_scale: Array  # (batch, latent)
    z: Array  # (batch, latent)
    output: Any  # decoder's output, leading axis batch
    log_likelihood: Array  # (batch,)
    kl: Array  # (batch,), closed form against N(0, I)


def forward(key: Array, encode: Encode, decode: Decode, log_prob: LogProb, x: Array) -> Forward:
    """Encodes, draws, decodes and evaluates a batch."""

    def one(key: Array, x: Array) -> Forward:
        mean, log_scale = encode(x)
        z = sample_posterior(key, mean, log_scale)
        output = decode(z)
        return Forward(mean, log_scale, z, output, log_prob(output, x), kl_to_standard_normal(mean, log_scale))

    return jax.vmap(one)(jax.random.split(key, x.shape[0]), x)


def to_all(value: Array, like: Array) -> Array:
    """A number of the batch as a term of each example: its mean over them is the number again."""
    return jnp.broadcast_to(value, like.shape)
