"""The train step: one update of the parameters on one batch, as a pure function of (state, key, batch, hyperparameters)."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vae_jax._numerics.keys import Part, StepKey
from vae_jax._numerics.short_repr import short_repr
from vae_jax.config import Hyperparams
from vae_jax.errors import check_signature
from vae_jax.example import Example, Examples, condition_of, event_of, mask_of
from vae_jax.model import VAE, BoundModel, Params, bind, decode_given, keep_scaling, posterior_params
from vae_jax.objectives import Objective, Terms, beta_elbo, check_objective, check_terms
from vae_jax.objectives.batch import AnyObjective, BatchObjective, ObjectiveState
from vae_jax.training import optimizers
from vae_jax.training.optimizers import Optimizer
from vae_jax.training.schedules import Schedule


@short_repr
class TrainState(NamedTuple):
    """Everything that a train step changes. Holds arrays only, no functions and no keys."""

    step: Array  # (), int32: updates made
    params: Params
    opt_state: optax.OptState
    objective_state: ObjectiveState = ()  # of a `BatchObjective`, such as a multiplier or a discriminator


@short_repr
class StepMetrics(NamedTuple):
    """Batch means of one step, in nats per example. log_likelihood and kl are not weighted by beta."""

    loss: Array
    log_likelihood: Array
    kl: Array
    extra: dict[str, Array] | None = None  # further terms of the objective


@short_repr
class Best(NamedTuple):
    """Parameters with the highest validation ELBO so far. Holds arrays only, so that a checkpoint can store it."""

    epoch: Array  # (), int32, counted from 1; 0 before any
    elbo: Array  # ()
    params: Params  # () without validation data


SKIPPED_STEPS = "skipped_steps"  # in `StepMetrics.extra`, of an optimizer that skips gradients that are not finite

TrainStep = Callable[[TrainState, Array, Array | Example, Hyperparams], tuple[TrainState, StepMetrics]]
BatchTermsFunction = Callable[..., tuple[Terms, ObjectiveState]]


def init_state(vae: VAE, optimizer: Optimizer, key: Array, objective: AnyObjective | None = None) -> TrainState:
    """Returns the state before the first step."""
    params = vae.init(key)
    objective_state = objective.init(jax.random.fold_in(key, Part.OBJECTIVE)) if isinstance(objective, BatchObjective) else ()
    # The hyperparameters are not known here. The first step puts them wherever the state holds them (`optimizers.make_step`).
    opt_state = optimizers.transformation(optimizer, 0.0).init(params)
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, objective_state)


def params_to_evaluate(state: TrainState, objective: AnyObjective | None = None, best: Best | None = None) -> Params:
    """Returns the parameters that are evaluated, reported and saved for a state.

    They are the parameters that the optimizer evaluates, such as a moving average (`optimizers.evaluation_params`), completed
    by the values that a `BatchObjective` sets (its `evaluation_params`).

    Args:
      state: after a step.
      objective: the one that was trained.
      best: pass it for the result of a run with early stopping. Its parameters are returned if there are any.
    """
    params = optimizers.evaluation_params(state.params, state.opt_state, state.step)
    if isinstance(objective, BatchObjective):
        params = objective.evaluation_params(params, state.objective_state)
    if best is None:
        return params
    return jax.tree.map(lambda kept, last: jnp.where(best.epoch > 0, kept, last), best.params, params)


def scheduled(hyperparams: Hyperparams, schedules: Mapping[str, Schedule] | None, step: Array) -> Hyperparams:
    """Returns the hyperparameters of a step: each value times the factor of its schedule."""
    schedules = schedules or {}
    if unknown := set(schedules) - set(hyperparams._fields):
        raise ValueError(f"schedules: expected names among {', '.join(hyperparams._fields)}, got {', '.join(unknown)}.")
    return hyperparams._replace(**{name: getattr(hyperparams, name) * factor(step) for name, factor in schedules.items()})


def _as_stored(key: Array, batch: Examples) -> Examples:
    return batch


def make_terms(
    vae: VAE, objective: AnyObjective | None = None, train_input: Callable[[Array, Examples], Examples] = _as_stored
) -> Callable[[Params, ObjectiveState, Array, Examples, Hyperparams], tuple[Terms, ObjectiveState]]:
    """Makes the function that computes the objective's terms of every example of a batch.

    Args:
      vae: the model.
      objective: see `make_train_step`.
      train_input: see `make_train_step`.

    Returns:
      terms(params, objective_state, key, batch, hyperparams) -> (`Terms` of arrays (batch,), objective_state). The
      hyperparameters are those of the step, with schedules applied.

    Raises:
      ValueError: see `make_train_step`.
    """
    compute_batch_terms = _batch_terms(vae, objective or beta_elbo())

    def terms(
        params: Params, objective_state: ObjectiveState, key: Array, batch: Examples, hyperparams: Hyperparams
    ) -> tuple[Terms, ObjectiveState]:
        keys = jax.random.split(key, batch.shape[0] + 1)
        x_batch = train_input(keys[0], batch)
        noise = jax.random.split(jax.random.fold_in(key, StepKey.NETWORKS), batch.shape[0]) if vae.is_stochastic else None
        return compute_batch_terms(keys[1:], noise, params, x_batch, hyperparams, objective_state)

    return terms


def make_train_step(
    vae: VAE,
    *,
    optimizer: Optimizer = optax.adam,
    objective: AnyObjective | None = None,
    train_input: Callable[[Array, Examples], Examples] = _as_stored,
    schedules: Mapping[str, Schedule] | None = None,
) -> TrainStep:
    """Makes one update of the parameters on one batch, as a pure function. Jit, scan or vmap it at the edge.

    Args:
      vae: the model.
      optimizer: learning rate -> optax optimizer, such as `optax.adam` or
        `lambda lr: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(lr))`. The learning rate is traced. A finished
        optimizer such as `optax.adam(1e-3)` works too. It has its learning rate built in, and `hyperparams.learning_rate` is
        ignored. A `training.optimizers.FromHyperparams` is a function of all hyperparameters of the step.
        `vae_jax.training.optimizers` lists the optimizers that work and the arguments that each receives.
      objective: the quantity to minimize, a function of one example (see `objectives.Objective`) or a
        `objectives.batch.BatchObjective`. `objectives.beta_elbo()` by default.
      train_input: (key, batch as stored) -> floats for the model, such as a binarization or dequantization that is drawn anew
        at every step.
      schedules: step -> factor on a traced value, by the name of the hyperparameter ("beta", "learning_rate", "capacity" ...).
        Any optax schedule works.

    Returns:
      train_step(state, key, batch, hyperparams) -> (state, StepMetrics), with a key for this step alone. hyperparams is a
      `Hyperparams`, or for a custom objective any NamedTuple with at least a learning_rate. All of its numbers are traced, so
      they can be scheduled and swept.

    Raises:
      ValueError: at once for an objective that cannot be called as one, at trace time for one that returns something else.
    """
    compute_terms = make_terms(vae, objective, train_input)

    def train_step(
        state: TrainState, key: Array, batch: Array | Example, hyperparams: Hyperparams
    ) -> tuple[TrainState, StepMetrics]:
        now = scheduled(hyperparams, schedules, state.step)

        def mean_loss(params: Params) -> tuple[Array, tuple[StepMetrics, ObjectiveState]]:
            terms, objective_state = compute_terms(params, state.objective_state, key, batch, now)
            metrics = StepMetrics(*jax.tree.map(jnp.mean, terms))
            return metrics.loss, (metrics, objective_state)

        gradient, (metrics, objective_state) = jax.grad(mean_loss, has_aux=True)(state.params)
        update = optimizers.make_step(optimizer, hyperparams, now, state.step, lambda params: mean_loss(params)[0])
        params, opt_state = update(gradient, state.opt_state, state.params, metrics.loss)
        params = keep_scaling(params, state.params)
        if optimizers.may_skip(opt_state):
            is_skipped = ~all_finite(gradient) & all_finite(params)
            objective_state = jax.tree.map(lambda n, o: jnp.where(is_skipped, o, n), objective_state, state.objective_state)
            metrics = _without_skipped(metrics, is_skipped)
        return TrainState(state.step + 1, params, opt_state, objective_state), metrics

    return train_step


def _without_skipped(metrics: StepMetrics, is_skipped: Array) -> StepMetrics:
    """Returns the metrics of a step, or zeros if it was skipped, with the number of skipped steps among the further terms."""
    metrics = jax.tree.map(lambda value: jnp.where(is_skipped, 0.0, value), metrics)
    return metrics._replace(extra={**(metrics.extra or {}), SKIPPED_STEPS: is_skipped.astype(jnp.float32)})


_BATCH_TERMS = "terms of a batch objective (key, encode, decode, log_prob, x, hyperparams, state) -> (Terms, state)"


def _batch_terms(vae: VAE, objective: AnyObjective) -> BatchTermsFunction:
    """Returns (keys of the examples, keys of their networks or None, params, batch, hyperparams, state) -> (terms, state)."""
    if not isinstance(objective, BatchObjective):
        return _mapped_over_examples(vae, objective)
    if vae.prior is not None:
        raise ValueError(
            "expected an objective of one example for a learned prior, because the objectives of a batch assume N(0, I)."
        )
    given = {} if vae.posterior is None else {"posterior": vae.posterior}
    if given:
        check_signature(objective.terms, 7, f"{_BATCH_TERMS} with the keyword posterior", given)

    def batch_terms(
        keys: Array,
        noise: Array | None,
        params: Params,
        x: Array | Example,
        hyperparams: Hyperparams,
        state: ObjectiveState,
    ) -> tuple[Terms, ObjectiveState]:
        # Each function takes one element of `x`, which has its condition, its mask and its key.
        encode = lambda x: posterior_params(vae, params, x)  # noqa: E731
        decode = lambda z, x=None: decode_given(vae, params, z, condition_of(x))  # noqa: E731
        if noise is not None:
            x = _KeyedExample(event_of(x), condition_of(x), mask_of(x), noise)
            encode = lambda x: _bind_keyed(vae, params, x).encode(event_of(x))  # noqa: E731
            decode = lambda z, x=None: _bind_keyed(vae, params, x).decode(z)  # noqa: E731
        log_prob = lambda output, x: bind(vae, params, x).log_prob(output, event_of(x))  # noqa: E731
        terms, state = objective.terms(keys[0], encode, decode, log_prob, x, hyperparams, state, **given)
        check_terms(terms, x.shape[:1])
        return terms, state

    return batch_terms


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _KeyedExample(Example):
    """An example with the key of its networks in this step.

    The functions that a batch objective receives see one element of the batch, without its index. Keys that are made from the
    bits of x or z would not do: a code that differs in rounding, as on several devices, would lose other units.
    """

    key: Examples = None


def _bind_keyed(vae: VAE, params: Params, x: object) -> BoundModel:
    """Returns the model at one element of the batch of a stochastic model."""
    if not isinstance(x, _KeyedExample):
        raise ValueError(
            "expected an element of the batch, because the networks draw random numbers and its key is in it: call encode(x) "
            "and decode(z, x) for an element x of the batch, as objectives.batch.forward does."
        )
    return bind(vae, params, x, x.key)


def _mapped_over_examples(vae: VAE, objective: Objective) -> BatchTermsFunction:
    """Returns the function of `_batch_terms` for an objective of one example."""
    check_objective(objective, ("prior_log_prob",) * bool(vae.prior) + ("posterior",) * bool(vae.posterior))

    def batch_terms(
        keys: Array,
        noise: Array | None,
        params: Params,
        x: Array | Example,
        hyperparams: Hyperparams,
        state: ObjectiveState,
    ) -> tuple[Terms, ObjectiveState]:
        def example_terms(key: Array, noise: Array | None, x: Array | Example) -> Terms:
            model = bind(vae, params, x, noise)
            functions = model.encode, model.decode, model.log_prob
            terms = objective(key, *functions, model.x, hyperparams, **model.keywords)
            check_terms(terms)
            return terms

        return jax.vmap(example_terms)(keys, noise, x), state

    return batch_terms


def all_finite(tree: Params) -> Array:
    """Returns a boolean scalar: True if every floating-point number in a tree of arrays is finite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
