"""What an objective is: the functions that it gets, the named terms that it returns."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from vae_jax.divergences import kl_to_standard_normal
from vae_jax.errors import check_signature
from vae_jax.posteriors import posterior_log_prob, sample_posterior

Encode = Callable[[Array], tuple[Array, Array]]  # x -> (mean, log_scale) of q(z|x)
Decode = Callable[[Array], Any]  # z -> decoder_output
LogProb = Callable[[Any, Array], Array]  # (decoder_output, x) -> scalar nats
PriorLogProb = Callable[[Array], Array]  # z -> scalar nats


class Terms(NamedTuple):
    """What an objective says of one example; every field a scalar in nats, summed over pixels and latents."""

    loss: Array  # minimised
    log_likelihood: Array  # E_q[log p(x|z)], not weighted by anything
    kl: Array  # KL(q(z|x) || p(z)), not weighted by anything
    extra: dict[str, Array] | None = None  # further terms by name, for the record: a multiplier, a total correlation ...

    @property
    def elbo(self) -> Array:
        """The evidence lower bound log_likelihood - kl, whatever beta the loss was trained with."""
        return self.log_likelihood - self.kl


class Objective(Protocol):
    """What `training.make_train_step` minimises: one example in, `Terms` out.

    `hyperparams` is a `config.Hyperparams` whose fields are traced scalars, already scheduled for the step. A model with a
    learned prior passes it as the keyword `prior_log_prob`, z -> nats; others do not pass it.
    """

    def __call__(
        self, key: Array, encode: Encode, decode: Decode, log_prob: LogProb, x: Array, hyperparams: Any, **prior: Any
    ) -> Terms: ...


EXPECTED = "an objective (key, encode, decode, log_prob, x, hyperparams) -> Terms(loss, log_likelihood, kl) of ONE example"


_RESERVED = {"loss", "log_likelihood", "kl", "elbo", "extra", "examples_per_second"}  # names in metrics.jsonl


def check_objective(objective: Callable[..., Any], keywords: tuple[str, ...] = ()) -> None:
    """Raises `UserError` unless the function can be called as an `Objective`, and with these keywords."""
    check_signature(objective, 6, EXPECTED + "".join(f" with the keyword {name}" for name in keywords), keywords)


def check_terms(terms: Any, shape: tuple[int, ...] = ()) -> None:
    """Raises `ValueError` unless an objective returned what it should; looks at shapes only, so it is free in compiled code."""
    if not isinstance(terms, Terms):
        got = f"an array of shape {terms.shape}" if isinstance(terms, Array) else type(terms).__name__
        raise ValueError(f"expected {EXPECTED}; it returned {got}.")
    if reserved := set(terms.extra or {}) & _RESERVED:
        raise ValueError(f"the objective's extra terms: {', '.join(sorted(reserved))} is taken; choose another name.")
    for name in ("loss", "log_likelihood", "kl"):
        got = jnp.shape(getattr(terms, name))
        if got != shape:
            expected = f"shape {shape}, one number for each example" if shape else "a scalar"
            raise ValueError(
                f"expected the objective's {name} to be {expected}, in nats summed over pixels and latents, got shape {got}. "
                "Sum over the event; the mean over examples is taken for you."
            )


def with_hyperparams(function: Callable[..., Terms], *names: str, **static: Any) -> Objective:
    """An `Objective` from a function of this package's form: it gets the named hyperparameters as keyword arguments.

    Args:
      function: (key, encode, decode, log_prob, x, **options) -> Terms, such as `elbo` or `iwae`.
      names: fields of `config.Hyperparams` that it takes, traced: "beta", "capacity" ...
      static: its other options.

    Example:
      >>> from vae_jax.objectives import elbo
      >>> objective = with_hyperparams(elbo, "beta", num_samples=5)
    """

    def objective(
        key: Array, encode: Encode, decode: Decode, log_prob: LogProb, x: Array, hyperparams: Any, **prior: Any
    ) -> Terms:
        traced = {name: getattr(hyperparams, name) for name in names}
        return function(key, encode, decode, log_prob, x, **traced, **static, **prior)

    return objective


class Draw(NamedTuple):
    """One draw of z and the two parts of its log importance weight, scalars in nats."""

    log_likelihood: Array  # log p(x|z)
    log_ratio: Array  # log q(z|x) - log p(z)

    @property
    def log_weight(self) -> Array:
        """Log [p(x|z) p(z) / q(z|x)]."""
        return self.log_likelihood - self.log_ratio


def standard_normal_log_prob(z: Array) -> Array:
    """Log N(z; 0, I) of one code: scalar, nats."""
    return posterior_log_prob(jnp.zeros_like(z), jnp.zeros_like(z), z)


def log_likelihood_of(log_prob: LogProb, output: Any, x: Array) -> Array:
    """The log_prob of (output, x), refused where it is no scalar."""
    value = log_prob(output, x)
    if jnp.shape(value) != ():
        raise ValueError(
            "expected log_prob to return a scalar (nats summed over the pixels of one example), "
            f"got shape {jnp.shape(value)}. Sum over the event inside log_prob; do not average."
        )
    return value


def draw(
    key: Array,
    mean: Array,
    log_scale: Array,
    decode: Decode,
    log_prob: LogProb,
    x: Array,
    *,
    stop_q: bool = False,
    prior_log_prob: PriorLogProb | None = None,
) -> Draw:
    """Draws z and evaluates it; with stop_q, gradients reach log q(z|x) through z alone (Roeder et al. 2017)."""
    z = sample_posterior(key, mean, log_scale)
    q = jax.lax.stop_gradient((mean, log_scale)) if stop_q else (mean, log_scale)
    log_prior = (prior_log_prob or standard_normal_log_prob)(z)
    return Draw(log_likelihood_of(log_prob, decode(z), x), posterior_log_prob(*q, z) - log_prior)


def split_k(key: Array, num_samples: int) -> Array:
    """A key for each draw; one draw uses the key itself, so that all objectives agree there."""
    return key[None] if num_samples == 1 else jax.random.split(key, num_samples)


def check_num_samples(function: str, **counts: int) -> None:
    """Raises `ValueError` for a number of draws below one."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{function}: expected {name} >= 1, got {count}.")


def closed_form_or(mean: Array, log_scale: Array, sampled: Array, prior_log_prob: PriorLogProb | None) -> Array:
    """The KL to report: in closed form against N(0, I), else the mean of the draws."""
    return kl_to_standard_normal(mean, log_scale) if prior_log_prob is None else jnp.mean(sampled)
