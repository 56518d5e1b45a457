"""The train step: one update of the parameters on one batch, as a pure function of (state, key, batch, hyperparameters)."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vae_jax._numerics.keys import Part
from vae_jax._numerics.short_repr import short_repr
from vae_jax.config import Hyperparams
from vae_jax.model import VAE, Params, keep_scaling, prior_log_prob
from vae_jax.objectives import (
    Decode,
    Encode,
    LogProb,
    Objective,
    PriorLogProb,
    Terms,
    beta_elbo,
    check_objective,
    check_terms,
)
from vae_jax.objectives.batch import BatchObjective
from vae_jax.training.schedules import Optimizer, Schedule, evaluation_params, make_step, transformation


@short_repr
class TrainState(NamedTuple):
    """All that training changes. Arrays only: no functions, no keys."""

    step: Array  # (), int32: updates made
    params: Params
    opt_state: optax.OptState
    objective_state: Any = ()  # of a `cross_batch.BatchObjective`: a multiplier, a discriminator ...


@short_repr
class StepMetrics(NamedTuple):
    """Batch means of one step, in nats per example; log_likelihood and kl are not weighted by beta."""

    loss: Array
    log_likelihood: Array
    kl: Array
    extra: dict[str, Array] | None = None  # the objective's further terms


def init_state(vae: VAE, optimizer: Optimizer, key: Array, objective: Objective | BatchObjective | None = None) -> TrainState:
    """The state before the first step."""
    params = vae.init(key)
    remembered = objective.init(jax.random.fold_in(key, Part.OBJECTIVE)) if isinstance(objective, BatchObjective) else ()
    # The learning rate is not known here: the first step puts it wherever the state holds it (`optimizers.make_step`).
    return TrainState(jnp.zeros((), jnp.int32), params, transformation(optimizer, 0.0).init(params), remembered)


def _as_stored(key: Array, batch: Array) -> Array:
    return batch


def params_to_evaluate(state: TrainState, objective: Objective | BatchObjective | None = None) -> Params:
    """The parameters that evaluation takes: averaged where the optimiser averages, completed by what the objective sets."""
    params = evaluation_params(state.params, state.opt_state, state.step)
    if isinstance(objective, BatchObjective):
        params = objective.evaluation_params(params, state.objective_state)
    return params


def scheduled(hyperparams: Any, schedules: Mapping[str, Schedule] | None, step: Array) -> Any:
    """The hyperparameters of this step: each value times the factor of its schedule."""
    schedules = schedules or {}
    if unknown := set(schedules) - set(hyperparams._fields):
        raise ValueError(f"schedules: expected names among {', '.join(hyperparams._fields)}, got {', '.join(unknown)}.")
    return hyperparams._replace(**{name: getattr(hyperparams, name) * factor(step) for name, factor in schedules.items()})


def make_terms(
    vae: VAE, objective: Objective | BatchObjective | None = None, train_input: Callable[[Array, Array], Array] = _as_stored
) -> Callable[[Params, Any, Array, Array, Any], tuple[Terms, Any]]:
    """A step before its mean: (params, objective_state, key, batch, hyperparams of this step) -> (terms, objective_state).

    The terms are `Terms` of every example, (batch,) each. Arguments and errors as of `make_train_step`.
    """
    terms_of_batch = _batch_terms(objective or beta_elbo(), learned_prior=vae.prior is not None)

    def terms(params: Params, objective_state: Any, key: Array, batch: Array, hyperparams: Any) -> tuple[Terms, Any]:
        keys = jax.random.split(key, batch.shape[0] + 1)
        x_batch = train_input(keys[0], batch)
        encode, decode = lambda x: vae.encode(params, x), lambda z: vae.decode(params, z)
        options = {"prior_log_prob": prior_log_prob(vae, params)} if vae.prior else {}
        return terms_of_batch(
            keys[1:], encode, decode, vae.likelihood.log_prob, x_batch, hyperparams, objective_state, **options
        )

    return terms


def make_train_step(
    vae: VAE,
    *,
    optimizer: Optimizer = optax.adam,
    objective: Objective | BatchObjective | None = None,
    train_input: Callable[[Array, Array], Array] = _as_stored,
    schedules: Mapping[str, Schedule] | None = None,
) -> Callable[[TrainState, Array, Array, Hyperparams], tuple[TrainState, StepMetrics]]:
    """One update of the parameters on one batch, as a pure function. Jit, scan or vmap it at the edge.

    Args:
      vae: the model.
      optimizer: learning rate -> optax optimiser, such as `optax.adam` or
        `lambda lr: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(lr))`. The learning rate is traced. A finished
        optimizer such as `optax.adam(1e-3)` serves too; it brings its own rate and `hyperparams.learning_rate` is unused.
        `vae_jax.optimizers` says which ones serve, and what each is given.
      objective: what to minimise: a function of one example (see `objectives.Objective`), or a `cross_batch.BatchObjective`;
        `objectives.beta_elbo()` by default.
      train_input: (key, batch as stored) -> floats for the model: binarisation or dequantisation drawn anew at every step.
      schedules: by the name of a hyperparameter ("beta", "learning_rate", "capacity" ...), step -> factor on its traced value;
        any optax schedule.

    Returns:
      train_step(state, key, batch, hyperparams) -> (state, StepMetrics), with a key for this step alone. hyperparams is a
      `Hyperparams`, or a NamedTuple of your own with at least a learning_rate, for an objective of your own: its numbers are
      traced too, so they can be scheduled and swept.

    Raises:
      ValueError: at once for an objective that cannot be called as one, at trace time for one that returns something else.
    """
    terms_of = make_terms(vae, objective, train_input)

    def train_step(state: TrainState, key: Array, batch: Array, hyperparams: Hyperparams) -> tuple[TrainState, StepMetrics]:
        now = scheduled(hyperparams, schedules, state.step)

        def mean_loss(params: Params) -> tuple[Array, tuple[StepMetrics, Any]]:
            terms, remembered = terms_of(params, state.objective_state, key, batch, now)
            metrics = StepMetrics(*jax.tree.map(jnp.mean, terms))
            return metrics.loss, (metrics, remembered)

        gradient, (metrics, remembered) = jax.grad(mean_loss, has_aux=True)(state.params)
        rates = hyperparams.learning_rate, now.learning_rate
        update = make_step(optimizer, *rates, state.step, lambda params: mean_loss(params)[0])
        params, opt_state = update(gradient, state.opt_state, state.params, metrics.loss)
        params = keep_scaling(params, state.params)
        return TrainState(state.step + 1, params, opt_state, remembered), metrics

    return train_step


def _batch_terms(objective: Objective | BatchObjective, learned_prior: bool) -> Callable[..., tuple[Terms, Any]]:
    """(keys of the examples, encode, decode, log_prob, batch, hyperparams, state) -> (terms, state), for either kind."""
    if isinstance(objective, BatchObjective):
        if learned_prior:
            raise ValueError("expected an objective of one example for a learned prior: those of cross_batch assume N(0, I).")

        def of_batch(
            keys: Array, encode: Encode, decode: Decode, log_prob: LogProb, x: Array, hyperparams: Hyperparams, state: Any
        ) -> tuple[Terms, Any]:
            terms, state = objective.terms(keys[0], encode, decode, log_prob, x, hyperparams, state)
            check_terms(terms, x.shape[:1])
            return terms, state

        return of_batch

    check_objective(objective, ("prior_log_prob",) if learned_prior else ())

    def of_examples(
        keys: Array,
        encode: Encode,
        decode: Decode,
        log_prob: LogProb,
        x: Array,
        hyperparams: Hyperparams,
        state: Any,
        **prior: PriorLogProb,
    ) -> tuple[Terms, Any]:
        def one(key: Array, x: Array) -> Terms:
            terms = objective(key, encode, decode, log_prob, x, hyperparams, **prior)
            check_terms(terms)
            return terms

        return jax.vmap(one)(keys, x), state

    return of_examples


def all_finite(tree: Any) -> Array:
    """Whether every floating number in a tree of arrays is finite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
