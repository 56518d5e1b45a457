"""Epochs as one scan over train steps, and `fit`: functions of (state, key, data, hyperparameters)."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from vae_jax.config import Hyperparams
from vae_jax.cross_batch import BatchObjective
from vae_jax.data import Prepared
from vae_jax.errors import UserError
from vae_jax.evaluation import Evaluation, Means, evaluate, means
from vae_jax.likelihoods import outside_support
from vae_jax.model import VAE, Params
from vae_jax.objectives import Objective
from vae_jax.optimization import Optimizer, Schedule
from vae_jax.train_step import StepMetrics as StepMetrics
from vae_jax.train_step import TrainState as TrainState
from vae_jax.train_step import all_finite as all_finite
from vae_jax.train_step import init_state as init_state
from vae_jax.train_step import make_train_step as make_train_step
from vae_jax.train_step import params_to_evaluate as params_to_evaluate


class RunKeys(NamedTuple):
    """The three streams of randomness of a run; everything random derives from them by step or epoch."""

    init: Array
    step: Array  # of step n: fold_in(step, n)
    data: Array  # order of epoch e: fold_in(data, e)


def run_keys(seed: int | Array) -> RunKeys:
    """The keys of the run with this seed."""
    return RunKeys(*jax.random.split(jax.random.key(seed), 3))


def epoch_order(keys: RunKeys, epoch: Array | int, num_examples: int, batch_size: int) -> Array:
    """Indices of the examples of every step of an epoch, (steps, batch_size); what does not fill a batch is left out."""
    num_steps = num_examples // batch_size
    # One sort. jax.random.permutation sorts twice, against the rare ties of 32-bit keys: 17 ms more on 60,000 examples.
    order = jnp.argsort(jax.random.bits(jax.random.fold_in(keys.data, epoch), (num_examples,)))
    return order[: num_steps * batch_size].reshape(num_steps, batch_size)


def make_epoch(
    train_step: Callable[[TrainState, Array, Array, Hyperparams], tuple[TrainState, StepMetrics]],
    batch_size: int,
    *,
    guarded: bool = False,
) -> Callable[[TrainState, RunKeys, Array, Array, Hyperparams], tuple[TrainState, StepMetrics, Array]]:
    """One pass over the training set as one `lax.scan`; jit it with the state donated.

    Every epoch shuffles anew and leaves out the examples that do not fill a batch.

    Args:
      train_step: from `make_train_step`.
      batch_size: examples in a step.
      guarded: look at every step: one whose loss or new parameters are not finite is not taken, nor is any after it, so
        the state stays at its last good step and `state.step` says which that is. It costs a fifth more time, so `fit` runs
        unguarded, looks once an epoch, and repeats a bad epoch guarded.

    Returns:
      run_epoch(state, keys, epoch, data, hyperparams) -> (state, means of the step metrics, whether all of it was finite).
    """

    def run_epoch(
        state: TrainState, keys: RunKeys, epoch: Array, data: Array, hyperparams: Hyperparams
    ) -> tuple[TrainState, StepMetrics, Array]:
        num_steps = data.shape[0] // batch_size
        order = epoch_order(keys, epoch, data.shape[0], batch_size)
        flat = data.reshape(data.shape[0], -1)  # rows are gathered faster on CPU than images with a trailing axis of one

        def body(state: TrainState, inputs: tuple[Array, Array, Array]) -> tuple[TrainState, StepMetrics]:
            step, key, index = inputs
            batch = flat[index].reshape(batch_size, *data.shape[1:])
            new, metrics = train_step(state, key, batch, hyperparams)
            if guarded:
                good = (state.step == step) & jnp.isfinite(metrics.loss) & all_finite(new.params)
                new = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, state)
            return new, metrics

        steps = epoch * num_steps + jnp.arange(num_steps)
        step_keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(keys.step, steps)
        state, metrics = jax.lax.scan(body, state, (steps, step_keys, order))
        # A number that is not finite in the parameters stays so: one look at the end sees every step.
        return state, jax.tree.map(jnp.mean, metrics), jnp.isfinite(jnp.mean(metrics.loss)) & all_finite(state.params)

    return run_epoch


class TrainMeans(NamedTuple):
    """`StepMetrics` on the host, averaged over an epoch while the weights changed underneath."""

    loss: float
    log_likelihood: float
    kl: float
    extra: dict[str, float]  # the objective's further terms by name


class Epoch(NamedTuple):
    """What one epoch gave."""

    epoch: int  # counted from 1
    step: int  # updates made so far
    train: TrainMeans
    test: Means
    validation: Means | None
    seconds: float  # of training alone


class Best(NamedTuple):
    """The parameters with the highest validation ELBO so far. Arrays only, so that a checkpoint can hold it."""

    epoch: Array  # (), int32; 0 before any
    elbo: Array  # ()
    params: Params


class Progress(NamedTuple):
    """All that a later process needs to go on: the state, the best so far, and the record of the epochs."""

    state: TrainState
    best: Best
    history: tuple[Epoch, ...]


class Fit(NamedTuple):
    """The outcome of `fit`."""

    progress: Progress
    status: str  # "finished", "stopped early", "interrupted" or "diverged"
    params: Params  # to evaluate: the best under early stopping, else the last (its moving average where there is one)
    epoch: int  # the epoch that params come from
    test: Means | None  # of params; of a diverged run, of its last whole epoch, None where there is none


def evaluation_key(seed: int) -> Array:
    """The key of the draws of z in every evaluation of a run; `seed` is the test seed, not the run's."""
    return jax.random.fold_in(jax.random.key(seed), 0x0E7A)


def initial_progress(
    vae: VAE, optimizer: Optimizer, seed: int, objective: Objective | BatchObjective | None = None
) -> Progress:
    """Progress before the first epoch."""
    state = jax.jit(lambda key: init_state(vae, optimizer, key, objective))(run_keys(seed).init)
    best = Best(jnp.zeros((), jnp.int32), jnp.asarray(-jnp.inf), jax.tree.map(jnp.copy, state.params))
    return Progress(state, best, ())


def _wait(tree: Any) -> None:
    """Blocks in Python rather than in C++, so that the handler of a signal runs while the device works."""
    while not all(leaf.is_ready() for leaf in jax.tree.leaves(tree)):
        time.sleep(0.001)


def _check_values(vae: VAE, data: Prepared) -> None:
    """Raises `UserError` where what the likelihood will see is not what it is a distribution over; by a thousand examples."""
    seen = {"training": data.train_input(jax.random.key(0), data.train[:1000]), "test": data.eval_input(data.test[:1000])}
    for split, x in seen.items():
        if problem := outside_support(vae.likelihood, x):
            raise UserError(f"{split} data: {problem}. Prepare them for it (data.prepare), or choose another likelihood.")


def check_step(vae: VAE, data: Prepared, *, batch_size: int, **fit_arguments: Any) -> None:
    """Raises `UserError` where the train step cannot be traced with this batch size and objective. Nothing is computed."""
    names = ("optimizer", "objective", "schedules")
    train_step = make_train_step(
        vae, train_input=data.train_input, **{name: fit_arguments[name] for name in names if name in fit_arguments}
    )
    state = jax.eval_shape(
        lambda key: init_state(vae, fit_arguments.get("optimizer", optax.adam), key, fit_arguments.get("objective")),
        jax.random.key(0),
    )
    batch = jax.ShapeDtypeStruct((batch_size, *data.train.shape[1:]), data.train.dtype)
    hyperparams = jax.tree.map(jnp.float32, fit_arguments.get("hyperparams") or Hyperparams())
    try:
        jax.eval_shape(train_step, state, jax.random.key(0), batch, hyperparams)
    except ValueError as error:
        raise UserError(str(error)) from None


def check_fit(data: Prepared, batch_size: int, early_stopping: int) -> None:
    """Raises `UserError` where these data cannot be trained on like this."""
    num_train = data.train.shape[0]
    if batch_size > num_train:
        raise UserError(f"--batch-size: expected at most the {num_train} training examples, got {batch_size}.")
    if early_stopping and data.validation is None:
        raise UserError("--early-stopping chooses by validation data and there is none: add --validation-fraction 0.1.")


def fit(
    vae: VAE,
    data: Prepared,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    hyperparams: Hyperparams | None = None,
    optimizer: Optimizer = optax.adam,
    objective: Objective | BatchObjective | None = None,
    schedules: Mapping[str, Schedule] | None = None,
    early_stopping: int = 0,
    eval_batch_size: int = 1000,
    test_seed: int = 0,
    start: Progress | None = None,
    on_epoch: Callable[[Progress], bool | None] = lambda progress: None,
) -> Fit:
    """Trains, and evaluates on the exact test set after every epoch.

    Args:
      vae, data: the model and the prepared data.
      epochs, batch_size, seed: length of the run, examples in a step, seed of everything random in training.
      hyperparams: traced values, `Hyperparams()` by default; or a NamedTuple of your own with at least a learning_rate.
      optimizer, objective, schedules: as in `make_train_step`. An optimiser made by
        `optimization.with_params_ema` has the moving average of the parameters evaluated.
      early_stopping: stop after this many epochs without a better validation ELBO (0: never); needs `data.validation`.
      eval_batch_size, test_seed: as in `evaluation.evaluate`; the seed fixes the draws of z.
      start: where to go on from; the result is then bit for bit that of a run that was never interrupted. Its state is donated.
      on_epoch: called after each epoch; a true answer ends the run ("interrupted"). Copy what you keep of `progress.state`
        to the host: its arrays are donated to the next epoch.

    Returns:
      `Fit`. Its status is "diverged" where a loss or a parameter was not finite; the state is then that of the last good step.

    Raises:
      UserError: a batch larger than the training set, early stopping without validation data, or data outside the support of
        the likelihood, such as grey pixels for a Bernoulli.

    Example:
      >>> from vae_jax import data, likelihoods, model
      >>> digits = data.load("digits")
      >>> vae = model.mlp_vae(digits.data_shape, likelihoods.bernoulli(), latent_dim=2, hidden=(32,))
      >>> fit(vae, data.prepare(digits, binarization="dynamic"), epochs=1, batch_size=128, seed=0).test.num_examples
      359
    """
    check_fit(data, batch_size, early_stopping)
    _check_values(vae, data)
    hyperparams = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), hyperparams or Hyperparams())
    train_step = make_train_step(
        vae,
        optimizer=optimizer,
        objective=objective,
        train_input=data.train_input,
        schedules=schedules,
    )
    keys, key_eval = run_keys(seed), evaluation_key(test_seed)
    progress = start or initial_progress(vae, optimizer, seed, objective)

    def evaluate_split(params: Params, split: Array) -> Evaluation:
        return evaluate(
            key_eval,
            vae,
            params,
            split,
            to_input=data.eval_input,
            batch_size=eval_batch_size,
            log_jacobian=data.log_jacobian,
        )

    run_epoch = jax.jit(make_epoch(train_step, batch_size), donate_argnums=0)
    # Compiled before the clock starts, and by hand, so that nothing can compile a second time unseen.
    run_epoch = run_epoch.lower(progress.state, keys, jnp.int32(0), data.train, hyperparams).compile()
    evaluate_jit = jax.jit(evaluate_split)
    params_jit = jax.jit(lambda state: params_to_evaluate(state, objective))
    steps_per_epoch = data.train.shape[0] // batch_size
    status = "finished"
    while len(progress.history) < epochs:
        state, best, history = progress
        if early_stopping and history and len(history) - int(best.epoch) >= early_stopping:
            status = "stopped early"
            break
        before = jax.tree.map(jnp.copy, state)
        inputs = (keys, jnp.int32(len(history)), data.train, hyperparams)
        began = time.perf_counter()
        state, metrics, finite = run_epoch(state, *inputs)
        _wait(metrics)
        seconds = time.perf_counter() - began
        if not finite:
            state, metrics, _ = jax.jit(make_epoch(train_step, batch_size, guarded=True))(before, *inputs)
            if int(state.step) < (len(history) + 1) * steps_per_epoch:
                progress = Progress(state, best, history)
                status = "diverged"
                break
        step = int(state.step)
        params = params_jit(state)
        test = means(evaluate_jit(params, data.test))
        validation = None
        if data.validation is not None:
            validation = means(evaluate_jit(params, data.validation))
            if np.float32(validation.elbo) > np.asarray(best.elbo):  # as it is kept
                best = Best(jnp.int32(len(history) + 1), jnp.asarray(validation.elbo), jax.tree.map(jnp.copy, params))
        extra = {name: float(value) for name, value in (metrics.extra or {}).items()}
        loss, log_likelihood, kl = (float(value) for value in metrics[:3])
        train = TrainMeans(loss - data.log_jacobian, log_likelihood + data.log_jacobian, kl, extra)
        progress = Progress(state, best, (*history, Epoch(len(history) + 1, step, train, test, validation, seconds)))
        if on_epoch(progress):
            status = "interrupted" if len(progress.history) < epochs else status
            break

    params, epoch = params_jit(progress.state), len(progress.history)
    if early_stopping and int(progress.best.epoch):
        params, epoch = progress.best.params, int(progress.best.epoch)
    if status == "diverged":
        return Fit(progress, status, params, epoch, progress.history[-1].test if progress.history else None)
    return Fit(progress, status, params, epoch, means(evaluate_jit(params, data.test)))
