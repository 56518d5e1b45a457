"""`BatchObjective`: an objective that needs the whole batch, or that keeps a state from step to step."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree, Real

from vae_jax._numerics.arrays import Params
from vae_jax.divergences import kl_to_standard_normal
from vae_jax.example import Example, Examples
from vae_jax.likelihoods import DecoderOutput
from vae_jax.objectives.base import Decode, Encode, HyperparamsLike, LogProb, Objective, Terms, standard_normal_log_prob
from vae_jax.posteriors import DIAGONAL, Posterior, PosteriorParams, sample_posterior

Batch: TypeAlias = Real[Array, "batch *event"] | Example  # an `Example` for models with conditions, missing values or dropout
ObjectiveState: TypeAlias = PyTree[Array]  # () where there is nothing to remember


class BatchTerms(Protocol):
    """The function of a `BatchObjective` that computes the terms of a batch and the state for the next step.

    `encode`, `decode` and `log_prob` are functions of ONE example, as for an `objectives.Objective`. `x` is the batch, with a
    leading axis. For models with conditions, missing values or dropout it is an `Example` of arrays with that axis, of which
    `encode(x)` and `log_prob(output, x)` take one element, and so does `decode(z, x)` as a second argument; `forward` does all
    this. The result is `Terms` with fields of shape (batch,), in nats, and the new state.

    The keyword `posterior` is passed for models whose q(z|x) is not the diagonal Gaussian, and only for them. Functions without
    it are refused for these models.
    """

    def __call__(
        self,
        key: Key[Array, ""],
        encode: Encode,
        decode: Decode,
        log_prob: LogProb,
        x: Batch,
        hyperparams: HyperparamsLike,
        state: ObjectiveState,
        *,
        posterior: Posterior = DIAGONAL,
    ) -> tuple[Terms, ObjectiveState]: ...


class BatchObjective(NamedTuple):
    """A training objective for a whole batch, with a state where it needs one.

    `training.fit(..., objective=objective)` and `training.make_train_step` take it in place of an `objectives.Objective`. The
    train step calls `terms` once with the batch, minimizes the mean of `loss` over the examples, and keeps the new state.

    Contract:

    - `terms` returns `Terms` whose fields have the shape (batch,), in nats, summed over pixels and latent dimensions. A number
      of the whole batch is repeated for every example (see `repeat_for_batch`), so that the mean over examples is the number.
    - The state is a pytree of arrays whose shapes and dtypes never change. It is stored in checkpoints. Gradients of the loss
      do not flow into it. An objective with trained parameters takes its optimization step inside `terms`.
    - Everything is traced inside `jit` and `scan`, and under `vmap` over the members of a sweep. Do not branch on the values of
      arrays.
    - Models with a learned prior are refused, because these objectives assume p(z) = N(0, I).

    Attributes:
      terms: computes the terms and the new state (see `BatchTerms`).
      init: key -> state before the first step.
      evaluation_params: (params, state) -> the parameters to evaluate, for objectives whose state sets some of them.

    Example: the ELBO, with a weight of the KL that grows by 1 % with every step.
      >>> def terms(key, encode, decode, log_prob, x, hyperparams, weight, **given):
      ...     batch = forward(key, encode, decode, log_prob, x, **given)
      ...     loss = -batch.log_likelihood + weight * batch.kl
      ...     extra = {"weight": repeat_for_batch(weight, batch.kl)}
      ...     return Terms(loss, batch.log_likelihood, batch.kl, extra), 1.01 * weight
      >>> growing = BatchObjective(terms, init=lambda key: jnp.ones(()))
      >>> encode, decode = lambda x: (jnp.ones(2), jnp.zeros(2)), lambda z: z
      >>> log_prob = lambda output, x: -jnp.sum(jnp.square(x))
      >>> key, x = jax.random.key(0), jnp.ones((3, 4))
      >>> result, state = growing.terms(key, encode, decode, log_prob, x, None, growing.init(key))
      >>> print(result.loss, state)
      [5.0 5.0 5.0] 1.01
    """

    terms: BatchTerms
    init: Callable[[Array], ObjectiveState] = lambda key: ()
    evaluation_params: Callable[[Params, ObjectiveState], Params] = lambda params, state: params


AnyObjective: TypeAlias = Objective | BatchObjective


def stateless(function: Callable[..., Terms], *names: str, **static: object) -> BatchObjective:
    """Makes a `BatchObjective` of a function (key, encode, decode, log_prob, x, **options) -> `Terms` of a batch.

    Args:
      function: such as `beta_tc_elbo` or `dip_elbo`.
      names: fields of `config.Hyperparams` that are passed to it as keyword arguments, traced.
      static: its other options.

    Returns:
      The `BatchObjective`.

    Example:
      >>> from vae_jax.objectives.batch import dip_elbo
      >>> objective = stateless(dip_elbo, "lambda_od", "lambda_d", variant="i")
    """

    def terms(
        key: Array,
        encode: Encode,
        decode: Decode,
        log_prob: LogProb,
        x: Batch,
        hyperparams: HyperparamsLike,
        state: ObjectiveState,
        **given: Posterior,
    ) -> tuple[Terms, ObjectiveState]:
        options = {name: getattr(hyperparams, name) for name in names}
        return function(key, encode, decode, log_prob, x, **options, **static, **given), state

    return BatchObjective(terms)


class Forward(NamedTuple):
    """One pass of a batch through the model, with one draw of z for each example."""

    mean: Float[Array, "batch latent"]  # of q(z|x), estimated from draws where it has no closed form
    log_scale: Float[Array, "batch latent"]  # log of the standard deviation of each dimension, likewise
    z: Float[Array, "batch latent"]
    output: DecoderOutput  # with a leading axis
    log_likelihood: Float[Array, "batch"]  # nats
    kl: Float[Array, "batch"]  # nats, in closed form against N(0, I), or else estimated from the draw
    q: PosteriorParams | None = None  # parameters of a Gaussian posterior other than the diagonal one
    layer_kl: Float[Array, "batch layers"] | None = None  # KL of each layer of a code of several layers


def forward(
    key: Key[Array, ""], encode: Encode, decode: Decode, log_prob: LogProb, x: Batch, posterior: Posterior = DIAGONAL
) -> Forward:
    """Encodes a batch, draws one code for each example, decodes the codes and evaluates both terms of the ELBO."""

    def one(key: Array, x: Examples) -> Forward:
        q = encode(x)
        z, kl, layer_kl = _draw(key, q, posterior)
        output = decode(z, x) if isinstance(x, Example) else decode(z)
        log_likelihood = log_prob(output, x)
        if kl is None:
            kl = kl_to_standard_normal(*q)
        mean, log_scale = q if posterior is DIAGONAL else posterior.moments(jax.random.fold_in(key, 1), q)
        kept = None if posterior is DIAGONAL or posterior.factor is None else q
        return Forward(mean, log_scale, z, output, log_likelihood, kl, kept, layer_kl)

    return jax.vmap(one)(jax.random.split(key, x.shape[0]), x)


def _draw(key: Array, q: PosteriorParams, posterior: Posterior) -> tuple[Array, Array | None, Array | None]:
    """Returns z, its KL and the KL of each layer. The KL is None for the diagonal posterior, whose KL is computed later."""
    if posterior is DIAGONAL:
        return sample_posterior(key, *q), None, None
    if posterior.sample_and_kl is not None:
        z, layer_kl = posterior.sample_and_kl(key, q)
        return z, jnp.sum(layer_kl), layer_kl
    if posterior.kl_to_standard_normal is not None:
        return posterior.sample(key, q), posterior.kl_to_standard_normal(q), None
    z, log_q = posterior.sample_and_log_prob(key, q)
    return z, log_q - standard_normal_log_prob(z), None


def repeat_for_batch(value: Float[Array, ""], like: Float[Array, "batch"]) -> Float[Array, "batch"]:
    """Repeats a number of the whole batch for every example, so that its mean over the examples is the number."""
    return jnp.broadcast_to(value, like.shape)
