"""`fit_members`: whole runs side by side in one program; `fit`: one of them. Functions of seeds, data, hyperparameters."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.config import Hyperparams
from vae_jax.data import Prepared, Rows, check_pipeline_argument
from vae_jax.errors import UserError, diverged
from vae_jax.evaluation import NOT_FINITE, Means, are_finite, means, warn_not_finite
from vae_jax.model import VAE, Params, with_moments
from vae_jax.objectives import Objective
from vae_jax.objectives.batch import BatchObjective
from vae_jax.training.checks import check_fit as check_fit
from vae_jax.training.checks import check_values
from vae_jax.training.epoch import Best as Best
from vae_jax.training.epoch import Lane, Outcome, init_lane, without_early_best
from vae_jax.training.epoch import Partial as Partial
from vae_jax.training.epoch import RunKeys as RunKeys
from vae_jax.training.epoch import epoch_order as epoch_order
from vae_jax.training.epoch import evaluation_key as evaluation_key
from vae_jax.training.epoch import make_epoch as make_epoch
from vae_jax.training.epoch import run_keys as run_keys
from vae_jax.training.in_memory import Snapshot, Work, resident
from vae_jax.training.placement import Placement, place
from vae_jax.training.schedules import Optimizer, Schedule, first_epoch_at_full_values
from vae_jax.training.step import StepMetrics as StepMetrics
from vae_jax.training.step import TrainState as TrainState
from vae_jax.training.step import all_finite as all_finite
from vae_jax.training.step import init_state as init_state
from vae_jax.training.step import make_train_step as make_train_step
from vae_jax.training.step import params_to_evaluate as params_to_evaluate
from vae_jax.training.streaming import streamed


class TrainMeans(NamedTuple):
    """`StepMetrics` on the host, averaged over an epoch while the weights changed underneath."""

    loss: float
    log_likelihood: float
    kl: float
    extra: dict[str, float]  # the objective's further terms by name


@short_repr
class Epoch(NamedTuple):
    """What one epoch gave."""

    epoch: int  # counted from 1
    step: int  # updates made so far
    train: TrainMeans
    test: Means
    validation: Means | None
    seconds: float  # of training and evaluation; of several members in one program, this one's share


@short_repr
class Progress(NamedTuple):
    """All that a later process needs to go on: the state, the best so far, and the record of the epochs."""

    state: TrainState
    best: Best
    history: tuple[Epoch, ...]
    partial: Partial | None = None  # of streamed data: the part that is done of the epoch after those


@short_repr
class MembersProgress(NamedTuple):
    """The same of several members, whose lanes are stacked and may be more than the members."""

    lanes: Lane
    histories: tuple[tuple[Epoch, ...], ...]
    status: tuple[str, ...]  # "running", "finished", "stopped early", "diverged" or "not finite"
    epoch: int  # epochs that those which run have made
    partial: Partial | None = None  # as of `Progress`


@short_repr
class Fit(NamedTuple):
    """The outcome of `fit`."""

    progress: Progress
    status: str  # "finished", "stopped early", "interrupted", "diverged" or "not finite" (the ELBO of some example)
    params: Params  # to evaluate: the best under early stopping, else the last (its moving average where there is one)
    epoch: int  # the epoch that params come from
    test: Means  # of params; of a diverged run, of its last whole epoch, NaN of no examples where there is none
    first_epoch: int = 1  # from which on epochs counted for the best and for early stopping
    problem: str | None = None  # the examples whose ELBO is not finite, and what to do


@short_repr
class MembersFit(NamedTuple):
    """The outcome of `fit_members`."""

    progress: MembersProgress
    status: tuple[str, ...]  # of each member, as in `Fit`
    params: Params  # stacked, one for each member
    epochs: tuple[int, ...]
    tests: tuple[Means, ...]
    placement: Placement  # as used: `chunk` is smaller than it was where memory was short
    first_epoch: int = 1  # as in `Fit`


NO_TEST = Means(np.nan, np.nan, np.nan, np.nan, 0)  # of a run that diverged in its first epoch


def initial_progress(
    vae: VAE, optimizer: Optimizer, seed: int, objective: Objective | BatchObjective | None = None, keep_best: bool = True
) -> Progress:
    """Progress before the first epoch."""
    lane = jax.jit(lambda key: init_lane(vae, optimizer, key, objective, keep_best))(run_keys(seed).init)
    state, best = jax.tree.map(jnp.copy, lane)
    return Progress(state, best, ())


def check_step(vae: VAE, data: Prepared, *, batch_size: int, **fit_arguments: Any) -> StepMetrics:
    """Raises `UserError` where the train step cannot be traced with this batch size and objective. Nothing is computed.

    Returns the shapes and dtypes of its metrics.
    """
    names = ("optimizer", "objective", "schedules")
    train_step = make_train_step(
        vae, train_input=data.train_input, **{name: fit_arguments[name] for name in names if name in fit_arguments}
    )
    state = jax.eval_shape(
        lambda key: init_state(vae, fit_arguments.get("optimizer", optax.adam), key, fit_arguments.get("objective")),
        stream(0, Stream.INIT),
    )
    batch = jax.ShapeDtypeStruct((batch_size, *data.train.shape[1:]), data.train.dtype)
    hyperparams = jax.tree.map(jnp.float32, fit_arguments.get("hyperparams") or Hyperparams())
    try:
        return jax.eval_shape(train_step, state, stream(0, Stream.STEP), batch, hyperparams)[1]
    except ValueError as error:
        raise UserError(str(error)) from None


def _record(epoch: int, step: int, outcome: Outcome, member: int, log_jacobian: float, seconds: float) -> Epoch:
    """The host's record of one member's epoch, from the outcomes of all."""
    metrics, _, test, validation, _ = jax.tree.map(lambda leaf: leaf[member], outcome)
    extra = {name: float(value) for name, value in (metrics.extra or {}).items()}
    loss, log_likelihood, kl = (float(value) for value in metrics[:3])
    train = TrainMeans(loss - log_jacobian, log_likelihood + log_jacobian, kl, extra)
    return Epoch(epoch, step, train, means(test), None if validation is None else means(validation), seconds)


def fit_members(
    vae: VAE,
    data: Prepared,
    *,
    epochs: int,
    batch_size: int,
    seeds: Sequence[int],
    hyperparams: Any = None,
    optimizer: Optimizer = optax.adam,
    objective: Objective | BatchObjective | None = None,
    schedules: Mapping[str, Schedule] | None = None,
    early_stopping: int = 0,
    eval_batch_size: int = 1000,
    test_seed: int = 0,
    prng: str = "threefry2x32",
    placement: Placement | None = None,
    start: MembersProgress | None = None,
    on_epoch: Callable[[MembersProgress], bool | None] = lambda progress: None,
    on_chunk: Callable[[int, Callable[[], MembersProgress | None]], bool | None] = lambda steps, progress: None,
) -> MembersFit:
    """Trains members that differ in their seeds and hyperparameters: one program, compiled once, for all of them.

    Args:
      seeds: one for each member; member i is the run that `fit` makes with seeds[i] (bit for bit under `map`).
      hyperparams: a `Hyperparams` (or a NamedTuple of your own) whose every number is one for all or has shape (members,).
      placement: from `sharding.place`; chosen by `auto` if left out.
      start: where to go on from: lanes of the members alone, without what fills them up.
      on_epoch: called after each epoch; a true answer ends all runs ("interrupted"). Copy what you keep of the lanes.
      others: as of `fit`. Only one member at a time can train on `Rows`.

    Returns:
      `MembersFit`. A member whose loss or parameters are not finite is frozen at its last good step ("diverged"), like one
      that stops early; the numbers of the others do not change. A member whose ELBO is not finite on an example of the test
      or validation set ends after that epoch ("not finite").

    Raises:
      UserError: as `fit`; hyperparameters that are neither one number nor one for each member.
    """
    check_pipeline_argument("fit", data, Prepared)
    check_fit(data, batch_size, early_stopping)
    check_values(vae, data)
    vae = with_moments(vae, data.moments)
    if start is not None and start.partial is not None and not isinstance(data.train, Rows):
        raise UserError("start: expected the end of an epoch, got its middle, from which only streamed data go on.")
    count = len(seeds)
    placement = placement or place(count)
    hyperparams = hyperparams or Hyperparams()
    for name, value in hyperparams._asdict().items():
        if np.shape(value) not in ((), (count,)):
            raise UserError(f"hyperparams.{name}: expected a number or one for each of {count} members, got {np.shape(value)}.")
    columns = jax.tree.map(lambda value: np.broadcast_to(np.asarray(value, np.float32), (count,)), hyperparams)
    train_step = make_train_step(
        vae, optimizer=optimizer, objective=objective, train_input=data.train_input, schedules=schedules
    )
    steps = data.train.shape[0] // batch_size
    first_epoch = 1 if data.validation is None else first_epoch_at_full_values(schedules, epochs, steps)
    if start is not None:
        running = [word == "running" for word in start.status]
        start = start._replace(lanes=without_early_best(start.lanes, first_epoch, running))
    work = Work(
        vae,
        data,
        train_step,
        optimizer,
        objective,
        batch_size,
        eval_batch_size,
        test_seed,
        seeds,
        columns,
        prng,
        start.lanes if start else None,
        first_epoch,
    )
    lanes, run_epoch, placement = (streamed if isinstance(data.train, Rows) else resident)(work, placement)
    histories = [list(history) for history in start.histories] if start else [[] for _ in seeds]
    status, epoch = (list(start.status), start.epoch) if start else (["running"] * count, 0)
    partial = start.partial if start else None
    best_epochs = [int(epoch) for epoch in jax.device_get(lanes.best.epoch)[:count]]

    def progress_at(lanes: Lane, partial: Partial | None) -> MembersProgress:
        return MembersProgress(lanes, tuple(map(tuple, histories)), tuple(status), epoch, partial)

    def after_chunk(made: int, snapshot: Snapshot) -> bool:
        return bool(on_chunk(made, lambda: progress_at(*now) if (now := snapshot()) else None))

    interrupted = False
    while not interrupted:
        for i, history in enumerate(histories):
            if status[i] == "running" and history and not are_finite(history[-1].test, history[-1].validation):
                status[i] = NOT_FINITE
            elif status[i] == "running" and len(history) >= epochs:
                status[i] = "finished"
            elif status[i] == "running" and early_stopping and history:
                waited = len(history) - max(best_epochs[i], first_epoch - 1)
                status[i] = "stopped early" if waited >= early_stopping else "running"
        running = [i for i in range(count) if status[i] == "running"]
        if not running:
            break
        began = time.perf_counter() - (partial.seconds if partial else 0.0)
        lanes, partial, outcome = run_epoch(lanes, partial, running, epoch, steps, after_chunk)
        if outcome is None:
            break
        seconds = (time.perf_counter() - began) / len(running)
        for i in running:
            good_steps = int(outcome.good_steps[i])
            if good_steps == steps:
                record = _record(epoch + 1, (epoch + 1) * steps, outcome, i, data.log_jacobian, seconds)
                histories[i].append(record)
                best_epochs[i] = int(outcome.best_epoch[i])
                continue
            status[i] = "diverged"
            # The lane is where it was before the epoch; the same program takes it as far as everything is finite.
            tried = steps
            while good_steps != tried and tried > 0:  # none is good where the parameters are not finite to begin with
                tried = max(0, min(good_steps, tried - 1))
                lanes, partial, again = run_epoch(lanes, partial, [i], epoch, tried, lambda *_: False)
                assert again is not None  # nothing interrupts it
                good_steps = int(again.good_steps[i])
        epoch += 1
        interrupted = bool(on_epoch(progress_at(lanes, None))) and any(
            status[i] == "running" and len(histories[i]) < epochs for i in range(count)
        )

    evaluated = [best if early_stopping and best else len(h) for best, h in zip(best_epochs, histories, strict=True)]
    return MembersFit(
        progress_at(lanes, partial),
        tuple("interrupted" if word == "running" else word for word in status),
        evaluation_params(lanes, count, objective, early_stopping),
        tuple(evaluated),
        tuple(history[e - 1].test if e else NO_TEST for history, e in zip(histories, evaluated, strict=True)),
        placement,
        first_epoch,
    )


def evaluation_params(lanes: Lane, count: int, objective: Objective | BatchObjective | None, early_stopping: int) -> Params:
    """What is evaluated of the first `count` lanes: with early stopping the best parameters, else the last (their average)."""

    def of_one(lane: Lane) -> Params:
        params = params_to_evaluate(lane.state, objective)
        if not early_stopping:
            return params
        return jax.tree.map(lambda best, last: jnp.where(lane.best.epoch > 0, best, last), lane.best.params, params)

    return jax.jit(lambda lanes: jax.vmap(of_one)(jax.tree.map(lambda leaf: leaf[:count], lanes)))(lanes)


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
    prng: str = "threefry2x32",
    start: Progress | None = None,
    on_epoch: Callable[[Progress], bool | None] = lambda progress: None,
    on_chunk: Callable[[int, Callable[[], Progress | None]], bool | None] = lambda steps, progress: None,
) -> Fit:
    """Trains, and evaluates on the exact test set after every epoch.

    Args:
      vae, data: the model and the prepared data.
      epochs, batch_size, seed: length of the run, examples in a step, seed of everything random in training.
      hyperparams: traced values, `Hyperparams()` by default; or a NamedTuple of your own with at least a learning_rate.
      optimizer, objective, schedules: as in `make_train_step`. An optimiser made by
        `optimization.with_params_ema` has the moving average of the parameters evaluated.
      early_stopping: stop after this many epochs without a better validation ELBO (0: never); needs `data.validation`. Patience
        and the choice of the best begin with the first epoch at whose end every schedule has its final value (the learning rate
        its largest: its decay is not waited for). The multiplier of GECO has no final value and is not waited for either.
      eval_batch_size, test_seed: as in `evaluation.evaluate`; the seed fixes the draws of z.
      prng: generator of the noise in steps: "threefry2x32", "rbg" or "unsafe_rbg". The last two can be faster on accelerators
        (not on CPU); their numbers depend on the backend, on the compiler and on what is batched, so a run does not repeat
        elsewhere, and a member of a sweep under vmap is not the run that it would be alone.
      start: where to go on from; the result is then bit for bit that of a run that was never interrupted. Its state is donated.
      on_epoch: called after each epoch that ended well; a true answer ends the run ("interrupted").
      on_chunk: where data are streamed (`data.train` is `Rows`), called within an epoch after each chunk of steps with the
        steps that the epoch has made and a function that gives the progress, `partial` and all, as copies on the host, or None
        where it is not finite any more; a true answer ends the run there.

    Returns:
      `Fit`. Its status is "diverged" where a loss or a parameter was not finite; the state is then that of the last good step,
      and a `DivergenceWarning` says so. It is "not finite" where the ELBO of some example of the test or validation set was
      not, though the parameters are. The run then ends after that epoch with a warning, and `problem` names the example.

    Raises:
      UserError: a batch larger than the training set, early stopping without validation data, an optimizer that cannot serve,
        or data outside the support of the likelihood, such as grey pixels for a Bernoulli.

    Example:
      >>> from vae_jax import data, likelihoods, model
      >>> digits = data.load("digits")
      >>> vae = model.mlp_vae(digits.data_shape, likelihoods.bernoulli(), latent_dim=2, hidden=(32,))
      >>> fit(vae, data.prepare(digits, binarization="dynamic"), epochs=1, batch_size=128, seed=0).test.num_examples
      359
    """
    placement = place(1, "map", devices=jax.local_devices()[:1])
    first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)  # noqa: E731
    only = jax.jit(first)

    def alone(progress: MembersProgress) -> Progress:
        # What comes from within an epoch is on the host, and stays there.
        state, best = (only if progress.partial is None else first)(progress.lanes)
        return Progress(state, best, progress.histories[0], progress.partial)

    start_members = None
    if start is not None:
        lanes = jax.tree.map(lambda leaf: np.asarray(leaf)[None], Lane(start.state, start.best))
        start_members = MembersProgress(lanes, (start.history,), ("running",), len(start.history), start.partial)
    result = fit_members(
        vae,
        data,
        epochs=epochs,
        batch_size=batch_size,
        seeds=[seed],
        hyperparams=hyperparams,
        optimizer=optimizer,
        objective=objective,
        schedules=schedules,
        early_stopping=early_stopping,
        eval_batch_size=eval_batch_size,
        test_seed=test_seed,
        prng=prng,
        placement=placement,
        start=start_members,
        on_epoch=lambda progress: progress.status[0] == "running" and on_epoch(alone(progress)),
        on_chunk=lambda steps, progress: on_chunk(steps, lambda: alone(now) if (now := progress()) else None),
    )
    progress, problem = alone(result.progress), None
    if result.status[0] == "diverged":
        rate = (hyperparams or Hyperparams()).learning_rate
        warnings.warn(diverged(int(progress.state.step), len(progress.history), float(rate)), stacklevel=2)
    if result.status[0] == NOT_FINITE:
        params = params_to_evaluate(progress.state, objective)
        problem = warn_not_finite(test_seed, vae, params, data, eval_batch_size)
    last = (result.epochs[0], result.tests[0], result.first_epoch, problem)
    return Fit(progress, result.status[0], only(result.params), *last)
