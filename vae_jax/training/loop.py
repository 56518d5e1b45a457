"""`fit` trains one run, and `fit_members` trains several runs in one program."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import jax
import numpy as np
import optax

from vae_jax.config import Hyperparams
from vae_jax.data import Prepared, PreparedCondition, check_pipeline_argument, with_condition
from vae_jax.errors import UserError, diverged
from vae_jax.evaluation import NOT_FINITE, warn_not_finite
from vae_jax.model import VAE, with_moments
from vae_jax.objectives.batch import AnyObjective
from vae_jax.training.checks import check_companions, check_devices, check_fit, check_values
from vae_jax.training.epoch import MemberState, PartialEpoch, params_to_evaluate_members, without_early_best
from vae_jax.training.in_memory import in_memory_program
from vae_jax.training.metrics import OnEpoch, epoch_metrics
from vae_jax.training.optimizers import Optimizer
from vae_jax.training.options import FitOptions
from vae_jax.training.placement import Placement, place
from vae_jax.training.program import EpochTask, Job, RunEpoch, Snapshot
from vae_jax.training.progress import NO_TEST, Callbacks, Fit, MembersFit, MembersLog, MembersProgress, Progress
from vae_jax.training.schedules import Schedule, first_epoch_at_full_values
from vae_jax.training.step import make_train_step, params_to_evaluate
from vae_jax.training.streaming import streaming_program

Tree = TypeVar("Tree")


def fit(
    vae: VAE,
    data: Prepared,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    hyperparams: Hyperparams | None = None,
    optimizer: Optimizer = optax.adam,
    objective: AnyObjective | None = None,
    schedules: Mapping[str, Schedule] | None = None,
    early_stopping: int = 0,
    eval_batch_size: int = 1000,
    test_seed: int = 0,
    prng: str = "threefry2x32",
    condition: PreparedCondition | None = None,
    start: Progress | None = None,
    devices: int = 1,
    on_epoch: OnEpoch = lambda metrics: None,
    on_progress: Callable[[Progress], bool | None] = lambda progress: None,
    on_chunk: Callable[[int, Callable[[], Progress | None]], bool | None] = lambda steps, progress: None,
) -> Fit:
    """Trains a model and evaluates it on the exact test set after every epoch.

    Args:
      vae, data: the model and the prepared data.
      epochs, batch_size, optimizer, objective, schedules, early_stopping, eval_batch_size, test_seed, prng: see `FitOptions`.
      seed: seed of all randomness in training.
      hyperparams: traced values, `Hyperparams()` by default, or any NamedTuple with at least a learning_rate.
      condition: conditions of data that were prepared without one, {"train": array, "test": array} (see `data.with_condition`).
      start: progress to resume from. The result is then bit for bit that of an uninterrupted run. Its state is donated.
      devices: number of devices that share each batch, a divisor of its size. The result is that of one up to rounding.
      on_epoch: called after each epoch in which everything was finite, with its metrics: names and numbers as in metrics.jsonl
        (see `training.metrics`). If it returns True, the run ends ("interrupted").
      on_progress: the same with the progress, from which `start` resumes. Copy the arrays of its state that you keep.
      on_chunk: called within an epoch of streamed data (`data.train` is `Rows`), after each chunk of steps, with the number of
        steps made in this epoch and a function. The function returns the progress as copies on the host, or None if it is not
        finite. If `on_chunk` returns True, the run ends there.

    Returns:
      `Fit`. Its status is "diverged" if a loss or a parameter was not finite. The state is then that of the last good step, and
      there is a `DivergenceWarning`. It is "not finite" if the parameters are finite but the ELBO of some example of the
      test or validation set is not. The run then ends after that epoch with a warning, and `problem` names the example.

    Raises:
      UserError: for a batch larger than the training set, early stopping without validation data, an optimizer that cannot
        work, a model of a different condition, or data outside the support of the likelihood.

    Example:
      >>> from vae_jax import data, likelihoods, model
      >>> digits = data.load("digits")
      >>> vae = model.mlp_vae(digits.data_shape, likelihoods.bernoulli(), latent_dim=2, hidden=(32,))
      >>> fit(vae, data.prepare(digits, binarization="dynamic"), epochs=1, batch_size=128, seed=0).test.num_examples
      359
    """
    if condition is not None:
        data = with_condition(data, condition)
    options = FitOptions(epochs, batch_size, optimizer, objective, schedules, early_stopping, eval_batch_size, test_seed, prng)
    first_member = _make_first_member(placement := _share_batch(devices, batch_size))
    to_progress = partial(_to_progress, first_member=first_member)
    callbacks = Callbacks(
        _after_epoch(on_epoch, lambda progress: on_progress(to_progress(progress)), data, batch_size),
        lambda steps, progress: on_chunk(steps, lambda: to_progress(now) if (now := progress()) else None),
    )
    members = {"seeds": [seed], "hyperparams": hyperparams, "placement": placement, "start": start and _to_members(start)}
    result = fit_members(vae, data, options, **members, callbacks=callbacks)
    progress, status, problem = to_progress(result.progress), result.status[0], None
    if status == "diverged":
        rate = (hyperparams or Hyperparams()).learning_rate
        warnings.warn(diverged(int(progress.state.step), len(progress.history), float(rate)), stacklevel=2)
    if status == NOT_FINITE:
        problem = warn_not_finite(test_seed, vae, params_to_evaluate(progress.state, objective), data, eval_batch_size)
    last = (result.epochs[0], result.tests[0], result.first_epoch, problem)
    return Fit(progress, status, first_member(result.params), *last)


def _after_epoch(
    on_epoch: OnEpoch,
    on_progress: Callable[[MembersProgress], bool | None],
    data: Prepared,
    batch_size: int,
) -> Callable[[MembersProgress], bool]:
    """Returns the function to call after each epoch of a single run; arguments as for `fit`."""
    began = time.perf_counter()

    def after_epoch(progress: MembersProgress) -> bool:
        if progress.status[0] != "running":
            return False
        num_used = data.train.shape[0] // batch_size * batch_size
        metrics = epoch_metrics(progress.histories[0][-1], num_used, time.perf_counter() - began)
        # Both are called, so that a tracker gets the epoch after which something else ends the run.
        return bool(on_progress(progress)) | bool(on_epoch(metrics))

    return after_epoch


def _first(tree: Tree) -> Tree:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _share_batch(devices: int, batch_size: int) -> Placement:
    """Returns the layout of a single run on the first devices, of which each holds a copy of the data and the parameters."""
    check_devices(devices, batch_size)
    return place(1, "map", data_parallel=devices, devices=jax.local_devices()[:devices])


def _make_first_member(placement: Placement) -> Callable[[Tree], Tree]:
    """Returns the function that takes the only member out of its axis, onto the first of its devices."""
    take: Callable[[Tree], Tree] = jax.jit(lambda tree: _first(tree))
    return take if placement.mesh.size == 1 else lambda tree: jax.device_put(take(tree), placement.mesh.devices.flat[0])


def _to_progress(progress: MembersProgress, first_member: Callable[[MemberState], MemberState]) -> Progress:
    """Returns the progress of the only member as that of a single run."""
    # Progress within an epoch is on the host, and stays there.
    state, best = (first_member if progress.partial is None else _first)(progress.members)
    return Progress(state, best, progress.histories[0], progress.partial)


def _to_members(progress: Progress) -> MembersProgress:
    """Returns the progress of a single run as that of several members."""
    members = jax.tree.map(lambda leaf: np.asarray(leaf)[None], MemberState(progress.state, progress.best))
    return MembersProgress(members, (progress.history,), ("running",), len(progress.history), progress.partial)


def fit_members(
    vae: VAE,
    data: Prepared,
    options: FitOptions,
    *,
    seeds: Sequence[int],
    hyperparams: Hyperparams | None = None,
    placement: Placement | None = None,
    condition: PreparedCondition | None = None,
    start: MembersProgress | None = None,
    callbacks: Callbacks | None = None,
) -> MembersFit:
    """Trains members that differ in their seeds and hyperparameters, with one program that is compiled once for all of them.

    Args:
      vae, data: the model and the prepared data. One reader feeds all members if the training data are `Rows`.
      options: see `FitOptions`.
      seeds: one for each member. Member i is the run that `fit` makes with seeds[i], bit for bit under `map`.
      hyperparams: a `Hyperparams`, or any NamedTuple with at least a learning_rate, whose fields are one number for all members
        or arrays of shape (members,).
      placement: from `placement.place`; with strategy "auto" if left out.
      condition: conditions of data that were prepared without one (see `fit`).
      start: progress to resume from, without the slots beyond the members. Only a single member resumes within an epoch.
      callbacks: functions to call after each epoch and chunk.

    Returns:
      `MembersFit`. A member whose loss or parameters are not finite is frozen at its last good step ("diverged"), and one that
      stops early is frozen likewise. The numbers of the other members do not change. A member whose ELBO is not finite on an
      example of the test or validation set ends after that epoch ("not finite").

    Raises:
      UserError: as `fit`; also for hyperparameters that are neither one number nor one for each member.
      EpochInterrupted: `callbacks.on_chunk` interrupted an epoch of several members on streamed data.
    """
    check_pipeline_argument("fit", data, Prepared)
    data = data if condition is None else with_condition(data, condition)
    check_fit(data, options.batch_size, options.early_stopping)
    check_companions(vae, data)
    check_values(vae, data)
    if start is not None and start.partial is not None and not data.is_on_disk:
        raise UserError("this state is from the middle of an epoch. Only streamed training can resume there.", field="start")
    if start is not None and start.partial is not None and len(seeds) > 1:
        raise UserError("this state is from the middle of an epoch. Only a single member can resume there.", field="start")
    callbacks = callbacks or Callbacks()
    job = make_job(with_moments(vae, data.moments), data, options, seeds, hyperparams or Hyperparams(), start)
    make_program = streaming_program if data.is_on_disk else in_memory_program
    members, run_epoch, placement = make_program(job, placement or place(len(seeds)))
    log = MembersLog(len(seeds), start, jax.device_get(members.best.epoch)[: len(seeds)])
    partial = start.partial if start else None

    def on_chunk(steps: int, snapshot: Snapshot) -> bool:
        return bool(callbacks.on_chunk(steps, lambda: log.progress(*now) if (now := snapshot()) else None))

    is_interrupted = False
    while not is_interrupted and (running := log.update_status(options, job.first_epoch)):
        began = time.perf_counter() - (partial.seconds if partial else 0.0)
        task = EpochTask(members, partial, running, log.epoch, job.num_steps, on_chunk)
        members, partial, outcome = run_epoch(task)
        if outcome is None:
            break
        seconds = (time.perf_counter() - began) / len(running)
        for i in log.add_epoch(running, outcome, job.num_steps, data.log_jacobian, seconds):
            task = EpochTask(members, partial, [i], log.epoch, job.num_steps)
            members, partial = replay_to_last_good_step(run_epoch, task, int(outcome.good_steps[i]))
        log.epoch += 1
        is_interrupted = bool(callbacks.on_progress(log.progress(members, None))) and log.has_running(options.epochs)

    evaluated = log.evaluated_epochs(options.early_stopping)
    return MembersFit(
        log.progress(members, partial),
        tuple("interrupted" if status == "running" else status for status in log.status),
        params_to_evaluate_members(members, len(seeds), options.objective, options.early_stopping),
        evaluated,
        tuple(history[e - 1].test if e else NO_TEST for history, e in zip(log.histories, evaluated, strict=True)),
        placement,
        job.first_epoch,
    )


def make_job(
    vae: VAE,
    data: Prepared,
    options: FitOptions,
    seeds: Sequence[int],
    hyperparams: Hyperparams,
    start: MembersProgress | None,
) -> Job:
    """Gathers all that the program needs. Raises `UserError` for hyperparameters of a wrong shape."""
    num_members = len(seeds)
    for name, value in hyperparams._asdict().items():
        if np.shape(value) not in ((), (num_members,)):
            expected = f"a number or one for each of {num_members} members"
            raise UserError(field=f"hyperparams.{name}", expected=expected, got=np.shape(value))
    columns = jax.tree.map(lambda value: np.broadcast_to(np.asarray(value, np.float32), (num_members,)), hyperparams)
    _, batch_size, optimizer, objective, schedules, *_ = options
    train_step = make_train_step(
        vae, optimizer=optimizer, objective=objective, train_input=data.train_input, schedules=schedules
    )
    num_steps = data.train.shape[0] // batch_size
    first_epoch = 1 if data.validation is None else first_epoch_at_full_values(schedules, options.epochs, num_steps)
    start_members = None
    if start is not None:
        start_members = without_early_best(start.members, first_epoch, [status == "running" for status in start.status])
    return Job(vae, data, options, train_step, seeds, columns, start_members, first_epoch)


def replay_to_last_good_step(run_epoch: RunEpoch, task: EpochTask, good_steps: int) -> tuple[MemberState, PartialEpoch | None]:
    """Trains a diverged member again, as far as everything is finite, with the program of the epoch in which it diverged.

    Args:
      run_epoch: of the program.
      task: the whole epoch, for this member alone, which is as it was before the epoch.
      good_steps: of the outcome in which it diverged.
    """
    members, partial, [member], num_steps = task.members, task.partial, task.chosen, task.num_steps
    while good_steps != num_steps and num_steps > 0:  # no step is good if the parameters are not finite to begin with
        num_steps = max(0, min(good_steps, num_steps - 1))
        members, partial, outcome = run_epoch(task._replace(members=members, partial=partial, num_steps=num_steps))
        assert outcome is not None  # nothing interrupts it
        good_steps = int(outcome.good_steps[member])
    return members, partial
