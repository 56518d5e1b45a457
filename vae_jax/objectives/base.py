"""The `Objective` protocol: the functions that an objective receives and the named terms that it returns."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Real

from vae_jax.errors import check_signature
from vae_jax.example import Examples
from vae_jax.likelihoods import DecoderOutput
from vae_jax.posteriors import DIAGONAL, Encode, Posterior, PosteriorParams, posterior_log_prob

Decode: TypeAlias = Callable[..., DecoderOutput]  # z -> decoder_output (of a batch with conditions: z, example)
LogProb: TypeAlias = Callable[[DecoderOutput, Examples], Array]  # (decoder_output, x) -> log p(x|z), scalar nats
PriorLogProb: TypeAlias = Callable[[Array], Array]  # z -> log p(z), scalar nats
HyperparamsLike: TypeAlias = Any  # a NamedTuple of traced scalars: `config.Hyperparams`, or a user's with other fields


class Terms(NamedTuple):
    """The terms of an objective for one example: scalars in nats, summed over pixels and latent dimensions.

    For a batch, every field has the shape (batch,).

    Attributes:
      loss: the number to minimize.
      log_likelihood: E_q[log p(x|z)], not weighted.
      kl: KL(q(z|x) || p(z)), not weighted.
      extra: further terms by name, such as a multiplier or a total correlation. They are recorded in the metrics.
    """

    loss: Float[Array, "*batch"]
    log_likelihood: Float[Array, "*batch"]
    kl: Float[Array, "*batch"]
    extra: dict[str, Float[Array, "*batch"]] | None = None

    @property
    def elbo(self) -> Float[Array, "*batch"]:
        """The evidence lower bound log_likelihood - kl, regardless of the weights in the loss. To be maximized."""
        return self.log_likelihood - self.kl


class Objective(Protocol):
    """A training objective for ONE example. Any function with this signature is one.

    `training.fit(..., objective=objective)` and `training.make_train_step` take it. The train step calls it under `jax.vmap`,
    with a different key for each example, and minimizes the mean of `loss`.

    Contract:

    - `key` is a PRNG key for this example and this step. All randomness must come from it.
    - `encode(x)` returns the parameters of q(z|x): (mean, log_scale), each of shape (latent,), for the diagonal Gaussian, and
      what its functions take for a different `posteriors.Posterior`. `decode(z)` takes z of shape (latent,) and returns the
      decoder output. `log_prob(decoder_output, x)` returns log p(x|z), a scalar in nats. All three are functions of
      one example that close over the parameters, so gradients flow through them.
    - `x` is one example, floats in the shape of the event, as the likelihood expects it.
    - `hyperparams` is a `config.Hyperparams`, or a NamedTuple of yours. Its fields are traced scalars to which the schedules of
      this step are already applied. Do not branch on their values.
    - The keyword `prior_log_prob`, z -> log p(z) in nats, is passed for models with a learned prior, and only for them.
      Objectives without that keyword assume p(z) = N(0, I).
    - The keyword `posterior` is passed for models whose q(z|x) is not the diagonal Gaussian, and only for them. Objectives
      without that keyword assume the diagonal one.
    - The result is `Terms` of scalars in nats, summed over pixels and latent dimensions and never averaged over them. `loss` is
      minimized. `log_likelihood` and `kl` are unweighted, so that their difference is the ELBO at beta = 1.
    - The function is traced inside `jit`, `grad`, `vmap` and `scan`. It keeps no state. An objective that needs the whole batch
      or a state is a `batch.BatchObjective`.

    Example: a beta-VAE that weighs the KL by beta squared.
      >>> from vae_jax.divergences import kl_to_standard_normal
      >>> from vae_jax.posteriors import sample_posterior
      >>> def squared_beta(key, encode, decode, log_prob, x, hyperparams):
      ...     mean, log_scale = encode(x)
      ...     log_likelihood = log_prob(decode(sample_posterior(key, mean, log_scale)), x)
      ...     kl = kl_to_standard_normal(mean, log_scale)
      ...     return Terms(-(log_likelihood - hyperparams.beta**2 * kl), log_likelihood, kl)
      >>> class Hyperparams(NamedTuple):
      ...     beta: float
      >>> def loss(key, x):  # as the train step calls it, for a model whose posterior has the mean 1
      ...     encode, decode = lambda x: (jnp.ones(2), jnp.zeros(2)), lambda z: jnp.zeros(4)
      ...     log_prob = lambda logits, x: -jnp.sum(jax.nn.softplus(logits) - logits * x)
      ...     return squared_beta(key, encode, decode, log_prob, x, Hyperparams(3.0)).loss
      >>> print(jax.vmap(loss)(jax.random.split(jax.random.key(0), 3), jnp.ones((3, 4))))
      [11.77 11.77 11.77]
    """

    def __call__(
        self,
        key: Key[Array, ""],
        encode: Encode,
        decode: Decode,
        log_prob: LogProb,
        x: Real[Array, "*event"],
        hyperparams: HyperparamsLike,
        **given: Any,
    ) -> Terms: ...


EXPECTED = "an objective (key, encode, decode, log_prob, x, hyperparams) -> Terms(loss, log_likelihood, kl) of ONE example"


_RESERVED = {"loss", "log_likelihood", "kl", "elbo", "extra", "examples_per_second"}  # names in metrics.jsonl


def check_objective(objective: Callable[..., object], keywords: tuple[str, ...] = ()) -> None:
    """Raises `UserError` unless the function can be called as an `Objective`, and with these keywords."""
    check_signature(objective, 6, EXPECTED + "".join(f" with the keyword {name}" for name in keywords), keywords)


def check_terms(terms: object, shape: tuple[int, ...] = ()) -> None:
    """Raises `ValueError` unless an objective returned `Terms` of the given shape.

    It looks at shapes only, so it is free in compiled code.
    """
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


def with_hyperparams(function: Callable[..., Terms], *names: str, **static: object) -> Objective:
    """Makes an `Objective` of a function that takes hyperparameters as keyword arguments.

    Args:
      function: (key, encode, decode, log_prob, x, **options) -> Terms, such as `elbo` or `iwae`.
      names: fields of `config.Hyperparams` that are passed to it, traced, such as "beta" or "capacity".
      static: its other options.

    Returns:
      The `Objective`.

    Example:
      >>> from vae_jax.objectives import elbo
      >>> objective = with_hyperparams(elbo, "beta", num_samples=5)
    """

    def objective(
        key: Array,
        encode: Encode,
        decode: Decode,
        log_prob: LogProb,
        x: Array,
        hyperparams: HyperparamsLike,
        **given: Any,
    ) -> Terms:
        traced = {name: getattr(hyperparams, name) for name in names}
        return function(key, encode, decode, log_prob, x, **traced, **static, **given)

    return objective


class Draw(NamedTuple):
    """One draw of z and the two parts of its log importance weight, scalars in nats."""

    log_likelihood: Float[Array, "*samples"]  # log p(x|z)
    log_ratio: Float[Array, "*samples"]  # log q(z|x) - log p(z)

    @property
    def log_weight(self) -> Float[Array, "*samples"]:
        """The log importance weight log [p(x|z) p(z) / q(z|x)]."""
        return self.log_likelihood - self.log_ratio


def standard_normal_log_prob(z: Float[Array, "latent"]) -> Float[Array, ""]:
    """Computes log N(z; 0, I) of one code, a scalar in nats."""
    return posterior_log_prob(jnp.zeros_like(z), jnp.zeros_like(z), z)


def scalar_log_prob(log_prob: LogProb, output: DecoderOutput, x: Real[Array, "*event"]) -> Float[Array, ""]:
    """Computes log_prob(output, x), and raises `ValueError` if it is not a scalar."""
    value = log_prob(output, x)
    if jnp.shape(value) != ():
        raise ValueError(
            "expected log_prob to return a scalar (nats summed over the pixels of one example), "
            f"got shape {jnp.shape(value)}. Sum over the event inside log_prob; do not average."
        )
    return value


def draw(
    key: Key[Array, ""],
    q: PosteriorParams,
    decode: Decode,
    log_prob: LogProb,
    x: Real[Array, "*event"],
    *,
    stop_q: bool = False,
    prior_log_prob: PriorLogProb | None = None,
    posterior: Posterior = DIAGONAL,
) -> Draw:
    """Draws z from q(z|x) and evaluates the parts of its importance weight.

    Args:
      key: a new-style PRNG key.
      q: parameters of q(z|x), from `encode`.
      decode: z -> decoder output.
      log_prob: (decoder output, x) -> scalar nats.
      x: one example.
      stop_q: True lets gradients reach log q(z|x) through z alone (Roeder et al. 2017).
      prior_log_prob: z -> log p(z), scalar nats. None: N(0, I).
      posterior: the family of q(z|x).

    Returns:
      The `Draw`.
    """
    log_prior = prior_log_prob or standard_normal_log_prob
    if not stop_q and posterior is not DIAGONAL:
        z, log_q = posterior.sample_and_log_prob(key, q)
        return Draw(scalar_log_prob(log_prob, decode(z), x), log_q - log_prior(z))
    z = posterior.sample(key, q)
    log_prior_z = log_prior(z)
    q = jax.lax.stop_gradient(q) if stop_q else q
    return Draw(scalar_log_prob(log_prob, decode(z), x), density_of(posterior)(q, z) - log_prior_z)


def density_of(posterior: Posterior) -> Callable[[PosteriorParams, Array], Array]:
    """Returns `posterior.log_prob`; raises `ValueError` if the density of a given z cannot be computed."""
    if posterior.log_prob is None:
        raise ValueError(
            f"the posterior {posterior.name!r} has the density of its own draws only, and this needs that of a given code. Use "
            'the estimator "reparam", or a posterior with a density, such as "full" or "iaf".'
        )
    return posterior.log_prob


def split_k(key: Key[Array, ""], num_samples: int) -> Key[Array, "samples"]:
    """Returns a key for each draw. A single draw uses the key itself, so that all objectives agree for one sample."""
    return key[None] if num_samples == 1 else jax.random.split(key, num_samples)


def check_num_samples(function: str, **counts: int) -> None:
    """Raises `ValueError` if a number of draws is below one."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{function}: expected {name} >= 1, got {count}.")


def closed_kl(posterior: Posterior, prior_log_prob: PriorLogProb | None) -> Callable[[PosteriorParams], Array] | None:
    """Returns q -> KL(q(z|x) || p(z)) where it has a closed form, which is known for p(z) = N(0, I); else None."""
    return posterior.kl_to_standard_normal if prior_log_prob is None else None


def reported_kl(
    q: PosteriorParams,
    sampled: Float[Array, "*samples"],
    prior_log_prob: PriorLogProb | None,
    posterior: Posterior = DIAGONAL,
) -> Float[Array, ""]:
    """Returns the KL to report: in closed form where there is one, and else as the mean of the draws."""
    closed = closed_kl(posterior, prior_log_prob)
    return jnp.mean(sampled) if closed is None else closed(q)
