"""An epoch of one member as a pure function: its keys, its order, its steps as one loop, its evaluation."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.config import Hyperparams
from vae_jax.data import Prepared, SparseArray
from vae_jax.evaluation import Evaluation, evaluate
from vae_jax.example import Example, Examples
from vae_jax.model import VAE, Params
from vae_jax.objectives.batch import AnyObjective
from vae_jax.training.optimizers import Optimizer
from vae_jax.training.step import (
    SKIPPED_STEPS,
    Best,
    StepMetrics,
    TrainState,
    TrainStep,
    all_finite,
    init_state,
    params_to_evaluate,
)


class RunKeys(NamedTuple):
    """Streams of randomness of a run. Everything random in training derives from them by step or epoch."""

    init: Array
    step: Array  # the key of step n is fold_in(step, n)
    data: Array  # the order of epoch e comes from fold_in(data, e)


@short_repr
class PartialEpoch(NamedTuple):
    """Progress within an epoch. With the state after these steps, the epoch can be completed bit for bit."""

    steps: int  # made in this epoch
    record: StepMetrics  # metrics of every step, (steps of the epoch,) each; zero for the steps to come
    seconds: float  # that the steps took


@short_repr
class MemberState(NamedTuple):
    """Arrays that training changes for one member. Arrays of several members are stacked along a leading axis."""

    state: TrainState
    best: Best


@short_repr
class Outcome(NamedTuple):
    """Results of one member's epoch for the host."""

    metrics: StepMetrics  # means over the steps
    good_steps: Array  # number of steps if everything is finite, and a smaller number otherwise; see `make_epoch`
    test: Evaluation
    validation: Evaluation | None
    best_epoch: Array


RunSteps = Callable[..., tuple[TrainState, StepMetrics, Array]]  # see `make_epoch`
EndEpoch = Callable[..., tuple[MemberState, Outcome]]  # see `make_epoch_end`


def run_keys(seed: int | Array, prng: str = "threefry2x32") -> RunKeys:
    """Returns the keys of the run with this seed, from the streams of `keys.Stream`.

    A generator other than threefry ("rbg", "unsafe_rbg") changes the noise of the steps only, not the initial parameters or the
    order of the examples.
    """
    keys = RunKeys(stream(seed, Stream.INIT), stream(seed, Stream.STEP), stream(seed, Stream.ORDER))
    if prng == "threefry2x32":
        return keys
    key_data = jnp.tile(jax.random.key_data(keys.step), 2)  # keys of rbg have four integers, those of threefry two
    return keys._replace(step=jax.random.wrap_key_data(key_data, impl=prng))


def evaluation_key(seed: int) -> Array:
    """Returns the key of the draws of z in every evaluation of a run. `seed` is the test seed, not the seed of the run."""
    return stream(seed, Stream.EVALUATION)


def epoch_order(keys: RunKeys, epoch: Array | int, num_examples: int, batch_size: int) -> Array:
    """Returns the indices of the examples of every step, (steps, batch_size). Leaves out examples that do not fill a batch."""
    num_steps = num_examples // batch_size
    # One sort. jax.random.permutation sorts twice, against the rare ties of 32-bit keys: 17 ms more on 60,000 examples.
    order = jnp.argsort(jax.random.bits(jax.random.fold_in(keys.data, epoch), (num_examples,)))
    return order[: num_steps * batch_size].reshape(num_steps, batch_size)


def make_step_keys(keys: RunKeys, first: Array, count: int) -> Array:
    """Returns the keys of `count` steps. `first` is the number of the first one, counted from the start of the run."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(keys.step, first + jnp.arange(count))


def empty_record(metrics: StepMetrics, num_steps: int) -> StepMetrics:
    """Returns zeros that hold the metrics of `num_steps` steps. `metrics` has the shapes and dtypes of one step."""
    return jax.tree.map(lambda value: jnp.zeros((num_steps, *value.shape), value.dtype), metrics)


def run_steps(
    train_step: TrainStep,
    carry: tuple[TrainState, StepMetrics],
    get_batch: Callable[[Array], Array | Example],
    step_keys: Array,
    hyperparams: Hyperparams,
    num_steps: Array | int,
    first: Array | int = 0,
) -> tuple[TrainState, StepMetrics]:
    """Runs the loop over steps. Step i takes batch i and key i, and writes its metrics at first + i of the record.

    Args:
      train_step: from `make_train_step`.
      carry: (state, record), which the steps change.
      get_batch: i -> the batch of step i, as stored.
      step_keys: (at least num_steps,), a key for each step.
      hyperparams: traced values.
      num_steps: number of steps to make; traced.
      first: position in the epoch of the first of these steps.

    Returns:
      The carry after the steps.
    """

    def step(i: Array, carry: tuple[TrainState, StepMetrics]) -> tuple[TrainState, StepMetrics]:
        state, record = carry
        state, metrics = train_step(state, step_keys[i], get_batch(i), hyperparams)
        return state, jax.tree.map(lambda values, value: values.at[first + i].set(value), record, metrics)

    return jax.lax.fori_loop(0, num_steps, step, carry)


def average_record(state: TrainState, record: StepMetrics, num_steps: Array | int) -> tuple[StepMetrics, Array]:
    """Returns (means of the step metrics, good_steps) after `num_steps` steps of an epoch; for good_steps see `make_epoch`.

    Steps that the optimizer skipped (`optax.apply_if_finite`) are not in the means. The further terms have their number.
    """
    bad = ~jnp.isfinite(record.loss)  # zero for steps that were not made
    good_steps = jnp.where(jnp.any(bad), jnp.argmax(bad), num_steps)
    # A number that is not finite in the parameters stays so: one look at the end sees every step.
    good_steps = jnp.where(all_finite(state.params), good_steps, jnp.minimum(good_steps, num_steps - 1))
    skipped = (record.extra or {}).get(SKIPPED_STEPS)
    if skipped is None:
        return jax.tree.map(lambda values: jnp.sum(values, axis=0) / num_steps, record), good_steps
    num_skipped = jnp.sum(skipped)
    means = jax.tree.map(lambda values: jnp.sum(values, axis=0) / (num_steps - num_skipped), record)
    return means._replace(extra={**(means.extra or {}), SKIPPED_STEPS: num_skipped}), good_steps


def make_epoch(
    train_step: TrainStep,
    batch_size: int,
    *,
    constrain: Callable[[Array], Array] = lambda batch: batch,
) -> RunSteps:
    """Makes one pass over the training set as one compiled loop. Jit it with the state donated.

    Every epoch shuffles anew and leaves out the examples that do not fill a batch.

    Args:
      train_step: from `make_train_step`.
      batch_size: examples in a step.
      constrain: function of each batch as stored, such as the sharding constraint of a batch that is spread over devices.

    Returns:
      run_epoch(state, keys, epoch, data, hyperparams, num_steps=None) -> (state, means of the step metrics, good_steps).
      good_steps is the number of steps made if all losses and the last parameters are finite, and otherwise smaller: the state
      after at most good_steps steps is finite. No step is guarded, which would take a fifth more time. To reach the last good
      state, run the same epoch again with num_steps (traced, so by the same program) at most good_steps.
    """
    train_step = jax.jit(train_step, inline=True)  # traced once, for the shapes of its metrics and for the loop

    def run_epoch(
        state: TrainState,
        keys: RunKeys,
        epoch: Array,
        data: Array | SparseArray | Example,
        hyperparams: Hyperparams,
        num_steps: Array | int | None = None,
    ) -> tuple[TrainState, StepMetrics, Array]:
        all_steps = data.shape[0] // batch_size
        num_steps = all_steps if num_steps is None else num_steps
        order = epoch_order(keys, epoch, data.shape[0], batch_size)
        step_keys = make_step_keys(keys, epoch * all_steps, all_steps)
        # Rows are gathered faster on CPU than images with a trailing axis of one.
        flat = jax.tree.map(lambda a: a if isinstance(a, SparseArray) else a.reshape(len(a), -1), data, is_leaf=_is_sparse)

        def get_batch(i: Array) -> Array | Example:
            def take(flat: Array | SparseArray, array: Array | SparseArray) -> Array:
                return constrain(jnp.asarray(flat[order[i]]).reshape(batch_size, *array.shape[1:]))

            return jax.tree.map(take, flat, data, is_leaf=_is_sparse)

        batch = batch_shapes(data, batch_size)
        record = empty_record(jax.eval_shape(train_step, state, step_keys[0], batch, hyperparams)[1], all_steps)
        state, record = run_steps(train_step, (state, record), get_batch, step_keys, hyperparams, num_steps)
        return state, *average_record(state, record, num_steps)

    return run_epoch


def batch_shapes(data: Examples, batch_size: int) -> Examples:
    """Returns the shapes and types of a batch as stored: those of an array, or of each array of an `Example`."""

    def shape(array: Examples) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, *array.shape[1:]), array.dtype)

    return data.map(shape) if isinstance(data, Example) else shape(data)


def _is_sparse(node: object) -> bool:
    return isinstance(node, SparseArray)


def init_member(
    vae: VAE, optimizer: Optimizer, key: Array, objective: AnyObjective | None = None, keep_best: bool = True
) -> MemberState:
    """Returns a member before its first epoch. `keep_best` makes room for its best parameters, which need validation data."""
    state = init_state(vae, optimizer, key, objective)
    return MemberState(state, Best(jnp.zeros((), jnp.int32), jnp.full((), -jnp.inf), state.params if keep_best else ()))


def without_early_best(members: MemberState, first_epoch: int, is_running: Sequence[bool]) -> MemberState:
    """Resets the best parameters of running members that were chosen before `first_epoch`, as older versions did."""
    if first_epoch <= 1:
        return members
    early = np.asarray(is_running) & (np.asarray(members.best.epoch) < first_epoch)
    epoch = np.where(early, 0, np.asarray(members.best.epoch)).astype(np.int32)
    elbo = np.where(early, -np.inf, np.asarray(members.best.elbo)).astype(np.float32)
    return members._replace(best=members.best._replace(epoch=epoch, elbo=elbo))


def make_epoch_end(
    vae: VAE,
    data: Prepared,
    objective: AnyObjective | None,
    eval_batch_size: int,
    test_seed: int,
    first_epoch: int = 1,
) -> EndEpoch:
    """Makes the function that ends an epoch of a member: evaluates it, and keeps the best parameters.

    Args:
      vae: the model.
      data: the source of the evaluation's inputs.
      objective: see `make_train_step`.
      eval_batch_size: see `evaluation.evaluate`.
      test_seed: seed of the draws of z.
      first_epoch: the best parameters are chosen among the epochs from this one on, counted from 1. The first of equal ones
        wins.

    Returns:
      end_epoch(member, state, metrics, good_steps, epoch, num_steps, test, validation) -> (member, outcome). `member` is from
      before the epoch, and state, metrics and good_steps are from after it. A member whose epoch produced a number that is not
      finite is returned as it was before the epoch.
    """

    def end_epoch(
        member: MemberState,
        state: TrainState,
        metrics: StepMetrics,
        good_steps: Array,
        epoch: Array,
        num_steps: Array,
        test: Array,
        validation: Array | None,
    ) -> tuple[MemberState, Outcome]:
        params, best = params_to_evaluate(state, objective), member.best

        def evaluate_split(split: Array, use: Stream) -> Evaluation:
            options = {"to_input": data.eval_input, "batch_size": eval_batch_size, "log_jacobian": data.log_jacobian}
            return evaluate(stream(test_seed, use), vae, params, split, **options)

        validation_terms = None
        if validation is not None:
            validation_terms = evaluate_split(validation, Stream.VALIDATION_EVALUATION)
            elbo = jnp.mean(validation_terms.log_likelihood - validation_terms.kl)
            now = Best(epoch.astype(jnp.int32) + 1, elbo, params)
            is_better = elbo > best.elbo
            if first_epoch > 1:
                is_better &= now.epoch >= first_epoch
            best = jax.tree.map(lambda new, old: jnp.where(is_better, new, old), now, best)
        outcome = Outcome(metrics, good_steps, evaluate_split(test, Stream.EVALUATION), validation_terms, best.epoch)
        new = jax.tree.map(lambda n, o: jnp.where(good_steps == num_steps, n, o), MemberState(state, best), member)
        return new, outcome

    return end_epoch


def make_member_epoch(run_epoch: RunSteps, end_epoch: EndEpoch) -> Callable[..., tuple[MemberState, Outcome]]:
    """Joins an epoch's steps and its evaluation.

    Args:
      run_epoch: from `make_epoch`.
      end_epoch: from `make_epoch_end`.

    Returns:
      member_epoch(member, (keys, hyperparams), epoch, num_steps, train, test, validation) -> (member, outcome).
    """

    def member_epoch(
        member: MemberState,
        inputs: tuple[RunKeys, Hyperparams],
        epoch: Array,
        num_steps: Array,
        train: Array,
        test: Array,
        validation: Array | None,
    ) -> tuple[MemberState, Outcome]:
        keys, hyperparams = inputs
        state, metrics, good_steps = run_epoch(member.state, keys, epoch, train, hyperparams, num_steps)
        return end_epoch(member, state, metrics, good_steps, epoch, num_steps, test, validation)

    return member_epoch


def params_to_evaluate_members(
    members: MemberState, num_members: int, objective: AnyObjective | None, early_stopping: int
) -> Params:
    """Returns the parameters to evaluate of the first `num_members` slots, stacked; see `params_to_evaluate`."""

    def one(member: MemberState) -> Params:
        return params_to_evaluate(member.state, objective, member.best if early_stopping else None)

    return jax.jit(lambda members: jax.vmap(one)(jax.tree.map(lambda leaf: leaf[:num_members], members)))(members)
