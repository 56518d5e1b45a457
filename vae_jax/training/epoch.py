"""An epoch of one member as a pure function: its keys, its order, its steps as one loop, its evaluation."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.config import Hyperparams
from vae_jax.data import Prepared
from vae_jax.evaluation import Evaluation, evaluate
from vae_jax.model import VAE, Params
from vae_jax.objectives import Objective
from vae_jax.objectives.batch import BatchObjective
from vae_jax.training.schedules import Optimizer
from vae_jax.training.step import StepMetrics, TrainState, all_finite, init_state, params_to_evaluate


class RunKeys(NamedTuple):
    """The three streams of randomness of a run; everything random derives from them by step or epoch."""

    init: Array
    step: Array  # of step n: fold_in(step, n)
    data: Array  # order of epoch e: fold_in(data, e)


def run_keys(seed: int | Array, prng: str = "threefry2x32") -> RunKeys:
    """Returns the keys of the run with this seed: streams of `keys.Stream`.

    With another generator than threefry ("rbg", "unsafe_rbg") the steps alone draw from it: parameters and order stay.
    """
    keys = RunKeys(stream(seed, Stream.INIT), stream(seed, Stream.STEP), stream(seed, Stream.ORDER))
    if prng == "threefry2x32":
        return keys
    words = jnp.tile(jax.random.key_data(keys.step), 2)  # its keys are of four words
    return keys._replace(step=jax.random.wrap_key_data(words, impl=prng))


def epoch_order(keys: RunKeys, epoch: Array | int, num_examples: int, batch_size: int) -> Array:
    """Indices of the examples of every step of an epoch, (steps, batch_size); what does not fill a batch is left out."""
    num_steps = num_examples // batch_size
    # One sort. jax.random.permutation sorts twice, against the rare ties of 32-bit keys: 17 ms more on 60,000 examples.
    order = jnp.argsort(jax.random.bits(jax.random.fold_in(keys.data, epoch), (num_examples,)))
    return order[: num_steps * batch_size].reshape(num_steps, batch_size)


TrainStep = Callable[[TrainState, Array, Array, Hyperparams], tuple[TrainState, StepMetrics]]


@short_repr
class Partial(NamedTuple):
    """How far an epoch has come: with the state at this step, all that it takes to end it bit for bit."""

    steps: int  # made in this epoch
    record: StepMetrics  # (steps of the epoch,) each: the metrics of every step; zero for those to come
    seconds: float  # that they took


def empty_record(metrics: StepMetrics, num_steps: int) -> StepMetrics:
    """Room for the metrics of so many steps; `metrics` has their shapes and dtypes."""
    return jax.tree.map(lambda value: jnp.zeros((num_steps, *value.shape), value.dtype), metrics)


def run_steps(
    train_step: TrainStep,
    carry: tuple[TrainState, StepMetrics],
    batch_of: Callable[[Array], Array],
    step_keys: Array,
    hyperparams: Hyperparams,
    num_steps: Array | int,
    first: Array | int = 0,
) -> tuple[TrainState, StepMetrics]:
    """The loop over steps: step i takes batch i and key i, and puts its metrics at first + i of the record.

    Args:
      train_step: from `make_train_step`.
      carry: (state, record), which the steps change.
      batch_of: i -> the batch of step i, as stored.
      step_keys: (at least num_steps,), a key for each step.
      hyperparams: traced values.
      num_steps: to make; traced.
      first: of these steps in the epoch.
    """

    def step(i: Array, carry: tuple[TrainState, StepMetrics]) -> tuple[TrainState, StepMetrics]:
        state, record = carry
        state, metrics = train_step(state, step_keys[i], batch_of(i), hyperparams)
        return state, jax.tree.map(lambda values, value: values.at[first + i].set(value), record, metrics)

    return jax.lax.fori_loop(0, num_steps, step, carry)


def close_record(state: TrainState, record: StepMetrics, num_steps: Array | int) -> tuple[StepMetrics, Array]:
    """(means of the step metrics, good_steps) of an epoch of so many steps; good_steps as of `make_epoch`."""
    bad = ~jnp.isfinite(record.loss)  # not made: zero
    good_steps = jnp.where(jnp.any(bad), jnp.argmax(bad), num_steps)
    # A number that is not finite in the parameters stays so: one look at the end sees every step.
    good_steps = jnp.where(all_finite(state.params), good_steps, jnp.minimum(good_steps, num_steps - 1))
    return jax.tree.map(lambda values: jnp.sum(values, axis=0) / num_steps, record), good_steps


def step_keys_of(keys: RunKeys, first: Array, count: int) -> Array:
    """The keys of `count` steps, the first of which has this number in the run."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(keys.step, first + jnp.arange(count))


def make_epoch(
    train_step: TrainStep,
    batch_size: int,
    *,
    constrain: Callable[[Array], Array] = lambda batch: batch,
) -> Callable[..., tuple[TrainState, StepMetrics, Array]]:
    """One pass over the training set as one compiled loop; jit it with the state donated.

    Every epoch shuffles anew and leaves out the examples that do not fill a batch.

    Args:
      train_step: from `make_train_step`.
      batch_size: examples in a step.
      constrain: applied to each batch as stored; where a batch is spread over devices, its sharding constraint.

    Returns:
      run_epoch(state, keys, epoch, data, hyperparams, num_steps=None) -> (state, means of the step metrics, good_steps).
      good_steps is the number of steps made if all losses and the last parameters are finite, and otherwise smaller: the state
      after at most so many steps is finite. No step is guarded, which would cost a fifth more time; to find the last good
      state, run the same epoch again with num_steps (traced: the same program) at most good_steps.
    """
    train_step = jax.jit(train_step, inline=True)  # traced once, for the shapes of its metrics and for the loop

    def run_epoch(
        state: TrainState,
        keys: RunKeys,
        epoch: Array,
        data: Array,
        hyperparams: Hyperparams,
        num_steps: Array | int | None = None,
    ) -> tuple[TrainState, StepMetrics, Array]:
        all_steps = data.shape[0] // batch_size
        num_steps = all_steps if num_steps is None else num_steps
        order = epoch_order(keys, epoch, data.shape[0], batch_size)
        step_keys = step_keys_of(keys, epoch * all_steps, all_steps)
        flat = data.reshape(data.shape[0], -1)  # rows are gathered faster on CPU than images with a trailing axis of one

        def batch_of(i: Array) -> Array:
            return constrain(flat[order[i]].reshape(batch_size, *data.shape[1:]))

        batch = jax.ShapeDtypeStruct((batch_size, *data.shape[1:]), data.dtype)
        record = empty_record(jax.eval_shape(train_step, state, step_keys[0], batch, hyperparams)[1], all_steps)
        state, record = run_steps(train_step, (state, record), batch_of, step_keys, hyperparams, num_steps)
        return state, *close_record(state, record, num_steps)

    return run_epoch


@short_repr
class Best(NamedTuple):
    """The parameters with the highest validation ELBO so far. Arrays only, so that a checkpoint can hold it."""

    epoch: Array  # (), int32; 0 before any
    elbo: Array  # ()
    params: Params  # () without validation data


@short_repr
class Lane(NamedTuple):
    """What a member keeps on the device."""

    state: TrainState
    best: Best


def without_early_best(lanes: Lane, first_epoch: int, running: Sequence[bool]) -> Lane:
    """Forgets the best of running members, stacked, where it is from before `first_epoch`: older versions chose it there."""
    if first_epoch <= 1:
        return lanes
    early = np.asarray(running) & (np.asarray(lanes.best.epoch) < first_epoch)
    epoch = np.where(early, 0, np.asarray(lanes.best.epoch)).astype(np.int32)
    elbo = np.where(early, -np.inf, np.asarray(lanes.best.elbo)).astype(np.float32)
    return lanes._replace(best=lanes.best._replace(epoch=epoch, elbo=elbo))


@short_repr
class Outcome(NamedTuple):
    """What an epoch of a member returns to the host."""

    metrics: StepMetrics
    good_steps: Array  # as of `make_epoch`
    test: Evaluation
    validation: Evaluation | None
    best_epoch: Array


def evaluation_key(seed: int) -> Array:
    """The key of the draws of z in every evaluation of a run; `seed` is the test seed, not the run's."""
    return stream(seed, Stream.EVALUATION)


def init_lane(
    vae: VAE, optimizer: Optimizer, key: Array, objective: Objective | BatchObjective | None = None, keep_best: bool = True
) -> Lane:
    """A member before its first epoch; with validation data (`keep_best`) there is room for its best parameters."""
    state = init_state(vae, optimizer, key, objective)
    return Lane(state, Best(jnp.zeros((), jnp.int32), jnp.full((), -jnp.inf), state.params if keep_best else ()))


def make_ending(
    vae: VAE,
    data: Prepared,
    objective: Objective | BatchObjective | None,
    eval_batch_size: int,
    test_seed: int,
    first_epoch: int = 1,
) -> Callable[..., tuple[Lane, Outcome]]:
    """(lane before the epoch, state, mean metrics and good_steps after it, epoch, steps to make, test, validation) -> (lane,
    outcome): the evaluation. A lane whose epoch had a number that is not finite is returned as it was before the epoch.

    The best is chosen among the epochs from `first_epoch` on, counted from 1; of equal ones the first.
    """

    def ending(
        lane: Lane,
        state: TrainState,
        metrics: StepMetrics,
        good_steps: Array,
        epoch: Array,
        num_steps: Array,
        test: Array,
        validation: Array | None,
    ) -> tuple[Lane, Outcome]:
        params, best = params_to_evaluate(state, objective), lane.best

        def of_split(split: Array, use: Stream) -> Evaluation:
            options = {"to_input": data.eval_input, "batch_size": eval_batch_size, "log_jacobian": data.log_jacobian}
            return evaluate(stream(test_seed, use), vae, params, split, **options)

        of_validation = None
        if validation is not None:
            of_validation = of_split(validation, Stream.VALIDATION_EVALUATION)
            elbo = jnp.mean(of_validation.log_likelihood - of_validation.kl)
            now = Best(epoch.astype(jnp.int32) + 1, elbo, params)
            better = elbo > best.elbo
            if first_epoch > 1:
                better &= now.epoch >= first_epoch
            best = jax.tree.map(lambda new, old: jnp.where(better, new, old), now, best)
        outcome = Outcome(metrics, good_steps, of_split(test, Stream.EVALUATION), of_validation, best.epoch)
        new = jax.tree.map(lambda n, o: jnp.where(good_steps == num_steps, n, o), Lane(state, best), lane)
        return new, outcome

    return ending


def make_member_epoch(
    vae: VAE,
    data: Prepared,
    run_epoch: Callable[..., tuple[TrainState, StepMetrics, Array]],
    objective: Objective | BatchObjective | None,
    eval_batch_size: int,
    test_seed: int,
    first_epoch: int = 1,
) -> Callable[..., tuple[Lane, Outcome]]:
    """(lane, (keys, hyperparams), epoch, steps to make, train, test, validation) -> (lane, outcome): an epoch, evaluated."""
    ending = make_ending(vae, data, objective, eval_batch_size, test_seed, first_epoch)

    def member_epoch(
        lane: Lane,
        member: tuple[RunKeys, Any],
        epoch: Array,
        num_steps: Array,
        train: Array,
        test: Array,
        validation: Array | None,
    ) -> tuple[Lane, Outcome]:
        keys, hyperparams = member
        state, metrics, good_steps = run_epoch(lane.state, keys, epoch, train, hyperparams, num_steps)
        return ending(lane, state, metrics, good_steps, epoch, num_steps, test, validation)

    return member_epoch
