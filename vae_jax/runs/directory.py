"""Run directories: what `experiments/train.py` writes and everything else reads.

config.json (all that is needed to repeat the run), metrics.jsonl (a line an epoch), summary.json, checkpoints/. While streamed
data are trained on also partial/: checkpoints in the middle of an epoch. Of a run that diverged last_good/ (a checkpoint) and
diverged.json, what `postmortem.examine` says of the step after it.
"""

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vae_jax import config as config_module
from vae_jax import training
from vae_jax._numerics.short_repr import short_repr
from vae_jax.build import Built, build
from vae_jax.config import CUSTOM, Config
from vae_jax.errors import DataWarning, UserError
from vae_jax.evaluation import NotFiniteWarning
from vae_jax.likelihoods import Likelihood
from vae_jax.objectives.batch import AnyObjective
from vae_jax.runs.checkpoints import Checkpoints, Told
from vae_jax.runs.description import check_moments, check_same
from vae_jax.runs.description import describe as describe
from vae_jax.runs.metrics_file import append_metrics, sync_metrics
from vae_jax.runs.metrics_file import read_metrics as read_metrics
from vae_jax.runs.metrics_file import rewrite_metrics as rewrite_metrics
from vae_jax.runs.metrics_file import to_epoch as to_epoch
from vae_jax.runs.metrics_file import to_line as to_line
from vae_jax.runs.postmortem import examine
from vae_jax.runs.summary_file import read_summary, summarise
from vae_jax.storage.atomic import read_json, write_json
from vae_jax.storage.directories import PathLike, as_path, check_out, exclusive, is_fresh, remove
from vae_jax.training import Fit, Progress, StepMetrics, TrainState


@short_repr
class Run(NamedTuple):
    """A run directory, read back."""

    path: Path
    built: Built
    epoch: int  # that the parameters come from
    params: Any  # to evaluate
    summary: dict[str, Any] | None  # None while the run is unfinished
    metrics: list[dict[str, Any]]
    notes: list[str]  # what a user should know: checkpoints passed over, a run unfinished


def read_config(path: PathLike) -> tuple[Config, dict[str, Any]]:
    """The configuration of a run directory, and all of config.json."""
    path = as_path(path)
    if not (path / "config.json").exists():
        raise UserError(f"{path}: not a run directory (it has no config.json).")
    content = read_json(path / "config.json", "config", "data")
    try:
        config = config_module.from_dict(content["config"])
        config.validate()
        content["data"]["sha256"]
        if not isinstance(content.get("data_dir"), str | None):
            raise ValueError(f"data_dir: expected a path or null, got {content['data_dir']!r}")
        return config, content
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path / 'config.json'}: cannot be read: {error}") from None


def train(
    built: Built,
    out: PathLike,
    *,
    resume: bool = False,
    data_dir: str | None = None,
    checkpoint_seconds: float = 15.0,
    on_start: Callable[[Progress, list[str]], None] = lambda progress, notes: None,
    on_epoch: Callable[[dict[str, Any]], bool | None] = lambda line: None,
    on_chunk: Callable[[float], bool | None] = lambda done: None,
) -> tuple[Fit, dict[str, Any]]:
    """Trains into a run directory, or goes on with an interrupted one, bit for bit.

    Args:
      built: from `build`.
      out: the run directory; new, empty, or with `resume` that of the same configuration and data.
      resume: go on with what is in `out`; where nothing is there yet, start.
      data_dir: recorded so that `load_run` finds the data again.
      checkpoint_seconds: least time between checkpoints, written at the end of an epoch, and in its middle where data are
        streamed; one is always written at the end.
      on_start: called once with where the run starts and with notes for the user.
      on_epoch: called with each line of metrics.jsonl; a true answer ends the run after this epoch.
      on_chunk: called every few megabytes of streamed data with the share of the epoch that is done; a true answer ends the
        run there.

    Returns:
      The fit, and the content of summary.json ({} for a run that was interrupted).

    Raises:
      UserError: before anything is written, where the run cannot be trained, or where a part of `built` was replaced: the
        directory records the configuration alone, and could not be loaded again.
    """
    _check_as_built(built)
    out = as_path(out)
    check_out(out, resume, read_config)
    options = training.FitOptions.from_keywords(built.fit_arguments)
    metrics_of_step = training.check_step(built.vae, built.data, options, built.fit_arguments["hyperparams"])
    description = describe(built, data_dir)
    with exclusive(out):
        check_out(out, resume, read_config)  # another process may have been there meanwhile
        resume = resume and not is_fresh(out)
        return _train(built, out, resume, metrics_of_step, description, checkpoint_seconds, on_start, on_epoch, on_chunk)


def _check_as_built(built: Built) -> None:
    """Raises `UserError` where a part of what `build` made was replaced, which `load_run` could not know."""
    made, now = built.made, {**built._asdict(), **{f"fit_arguments[{k!r}]": v for k, v in built.fit_arguments.items()}}
    replaced = [name for name in {**made, **now} if name not in ("made", "fit_arguments") and not _same(made, now, name)]
    if replaced:
        what = ", ".join(f"built.{name}" for name in replaced) if made else "all of a Built that build did not make"
        raise UserError(
            f"runs.train: {what} was replaced after build, but a run directory records the configuration alone, and load_run "
            "builds every part from it again. Train a model of your own by training.fit(vae, built.data, "
            "**built.fit_arguments), which writes nothing; other settings go into the Config, and functions of your own into "
            "build(config, likelihood=..., objective=...)."
        )


def _same(made: Mapping[str, Any], now: Mapping[str, Any], name: str) -> bool:
    first, second = made.get(name), now.get(name)
    return first is second or (isinstance(first, int | float | str) and first == second)


def _train(
    built: Built,
    out: Path,
    resume: bool,
    metrics_of_step: StepMetrics,
    description: dict[str, Any],
    checkpoint_seconds: float,
    on_start: Callable[[Progress, list[str]], None],
    on_epoch: Callable[[dict[str, Any]], bool | None],
    on_chunk: Callable[[float], bool | None],
) -> tuple[Fit, dict[str, Any]]:
    progress = jax.block_until_ready(_initial_progress(built))  # without memory for it nothing is written
    notes, lines = [], []
    if resume:
        check_same(read_config(out)[1], description, out)
        check_moments(out, read_config(out)[1]["data"], built)
    else:
        write_json(out / "config.json", description)
    with Checkpoints(out / "checkpoints") as checkpoints, _partials(built, out) as partials:
        if resume:
            progress, lines, notes = _restore(out, progress, metrics_of_step, built, checkpoints, partials)
        rewrite_metrics(out, lines)
        on_start(progress, notes)
        done_before = (lines[-1]["wall_seconds"] if lines else 0.0) + (progress.partial.seconds if progress.partial else 0.0)
        began = time.perf_counter() - done_before
        last_saved = time.perf_counter()
        num_used = len(built.dataset.train) // built.config.batch_size * built.config.batch_size

        def after_epoch(progress: Progress) -> bool:
            nonlocal last_saved
            line = to_line(progress.history[-1], num_used, time.perf_counter() - began)
            append_metrics(out, line)
            if time.perf_counter() - last_saved >= checkpoint_seconds:
                sync_metrics(out)
                checkpoints.save(len(progress.history), progress.state, progress.best, _last_elbo(progress))
                last_saved = time.perf_counter()
            return bool(on_epoch(line))

        def save_partial(progress: Progress | None) -> None:
            nonlocal last_saved
            if progress is None or progress.partial is None or partials is None:
                return
            sync_metrics(out)
            partials.save_partial(len(progress.history), progress.state, progress.best, progress.partial, _last_elbo(progress))
            last_saved = time.perf_counter()

        def after_chunk(steps: int, progress: Callable[[], Progress | None]) -> bool:
            if time.perf_counter() - last_saved >= checkpoint_seconds:
                save_partial(progress())
            return bool(on_chunk(steps * built.config.batch_size / num_used))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotFiniteWarning)  # the summary has it
            fit = training.fit(
                built.vae, built.data, **built.fit_arguments, start=progress, on_epoch=after_epoch, on_chunk=after_chunk
            )
        sync_metrics(out)
        save_partial(fit.progress)
        epochs = len(fit.progress.history)
        if fit.status == "diverged":
            with Checkpoints(out / "last_good", keep=1) as last_good:
                last_good.save(epochs, fit.progress.state, fit.progress.best)
            write_json(out / "diverged.json", examine(built, built.config, fit.progress.state))
        elif epochs and fit.progress.partial is None and epochs not in checkpoints.epochs():
            checkpoints.save(epochs, fit.progress.state, fit.progress.best, _last_elbo(fit.progress))
    if fit.status == "interrupted":
        return fit, {}
    remove(out / "partial")
    if fit.status != "diverged":  # it may have, before: on another device, or with another function of the user's
        (out / "diverged.json").unlink(missing_ok=True)
        remove(out / "last_good")
    summary = summarise(built, fit, num_used, time.perf_counter() - began)
    write_json(out / "summary.json", summary)
    return fit, summary


def _last_elbo(progress: Progress) -> float | None:
    return progress.history[-1].test.elbo if progress.history else None


def _told(path: Path) -> Told:
    """What metrics.jsonl says of an epoch, for `Checkpoints.restore`."""
    elbos = {line["epoch"]: line["test_elbo"] for line in read_metrics(path) if "test_elbo" in line}
    return elbos.get


def _partials(built: Built, out: Path) -> AbstractContextManager[Checkpoints | None]:
    """The checkpoints in the middle of an epoch, for a run that can be interrupted there."""
    return Checkpoints(out / "partial", keep=1) if built.config.stream else nullcontext()


def _restore(
    out: Path,
    initial: Progress,
    metrics_of_step: StepMetrics,
    built: Built,
    checkpoints: Checkpoints,
    partials: Checkpoints | None,
) -> tuple[Progress, list[dict[str, Any]], list[str]]:
    """(where the run was last, the lines of metrics.jsonl up to there, notes for the user)."""
    (epoch, state, best), partial, notes, told = (0, *initial[:2]), None, [], _told(out)
    if partials is not None:
        all_steps = len(built.dataset.train) // built.config.batch_size
        record = jax.tree.map(lambda value: np.zeros((all_steps, *value.shape), value.dtype), metrics_of_step)
        found, notes = partials.restore_partial((state, best, record), told)
        if found is not None:
            epoch, state, best, partial = found
    if (whole := checkpoints.restore((initial.state, initial.best), told)) is not None:
        notes = [*notes, *whole[3]]
        if partial is None or whole[0] > epoch:
            (epoch, state, best), partial = whole[:3], None
    lines = [line for line in read_metrics(out) if line["epoch"] <= epoch]
    if len(lines) != epoch:
        raise UserError(f"{out}: metrics.jsonl has {len(lines)} of the {epoch} epochs in the checkpoint; it was altered.")
    return Progress(state, best, tuple(to_epoch(line) for line in lines), partial), lines, notes


def _initial_progress(built: Built) -> Progress:
    keep_best = built.data.validation is not None
    return training.initial_progress(built.vae, built.optimizer, built.config.seed, built.objective, keep_best)


def _rebuild(
    path: Path,
    data_dir: str | None,
    likelihood: Likelihood | Callable[..., Any] | None,
    objective: AnyObjective | None,
) -> Built:
    """Data and model of a run directory, with the user's own functions where it was trained with some."""
    config, description = read_config(path)
    for name, given in (("likelihood", likelihood), ("objective", objective)):
        if (getattr(config, name) == CUSTOM) != (given is not None):
            if given is None:
                raise UserError(f"{path}: the run was trained with a {name} of your own: pass {name}=... to load_run.")
            raise UserError(f"{path}: the run was trained with the {name} {getattr(config, name)!r}: leave {name}= out.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # they were given when the run began
        built = build(config, data_dir=data_dir or description.get("data_dir"), likelihood=likelihood, objective=objective)
    if built.dataset.fingerprint() != description["data"]["sha256"]:
        raise UserError(f"{path}: the data set {config.dataset!r} is not the one that the run was trained on.")
    check_moments(path, description["data"], built)
    return built


def load_last_good(
    path: PathLike,
    *,
    data_dir: str | None = None,
    likelihood: Likelihood | Callable[..., Any] | None = None,
    objective: AnyObjective | None = None,
) -> tuple[Built, TrainState]:
    """Of a run that diverged: the model, and the state after the last step at which everything was finite."""
    path = as_path(path)
    built = _rebuild(path, data_dir, likelihood, objective)
    if not (path / "last_good").is_dir():
        raise UserError(f"{path}: did not diverge (it has no last_good/).")
    with Checkpoints(path / "last_good", keep=1) as checkpoints:
        found = checkpoints.restore(_initial_progress(built)[:2])
    if found is None:
        raise UserError(f"{path / 'last_good'}: has no checkpoint; it was altered.")
    return built, found[1]


def load_run(
    path: PathLike,
    *,
    data_dir: str | None = None,
    likelihood: Likelihood | Callable[..., Any] | None = None,
    objective: AnyObjective | None = None,
) -> Run:
    """Reads a run directory back: configuration, data, model, the parameters to evaluate, and the record.

    A run that was trained with a likelihood or an objective of your own needs the same function again. A run that is
    unfinished, or whose last checkpoint is damaged, is read at its last good checkpoint; `notes` says so.
    """
    path = as_path(path)
    built = _rebuild(path, data_dir, likelihood, objective)
    config, initial = built.config, _initial_progress(built)
    if not (path / "checkpoints").is_dir():
        raise UserError(f"{path}: has no checkpoint yet. Continue the run with --resume.")
    with Checkpoints(path / "checkpoints") as checkpoints:
        found = checkpoints.restore((initial.state, initial.best), _told(path))
    if found is None:
        if (path / "diverged.json").exists():
            raise UserError(f"{path}: the run diverged before its first checkpoint; there is nothing to evaluate.")
        raise UserError(f"{path}: has no checkpoint yet. Continue the run with --resume.")
    epoch, state, best, notes = found
    last = epoch
    params = training.params_to_evaluate(state, built.objective, best if config.early_stopping else None)
    summary = read_summary(path)
    if summary is None:
        notes = [*notes, f"{path}: the run is unfinished; read at its last checkpoint, epoch {epoch} of {config.epochs}."]
    elif summary["status"] == "diverged":
        notes = [*notes, f"{path}: the run diverged at step {summary['steps']}; read at its last checkpoint."]
        summary = None
    elif summary["epochs"] != last:  # the newest checkpoint is damaged: these numbers are not those of the parameters
        told = f"{path}: summary.json tells of epoch {summary['epochs']}, whose checkpoint is missing; read at epoch {last}."
        notes, summary = [*notes, f"{told} Continue with --resume, which makes it again."], None
    if config.early_stopping and int(best.epoch):
        epoch = int(best.epoch)
    metrics = [line for line in read_metrics(path) if line["epoch"] <= last]
    return Run(path, built, epoch, params, summary, metrics, notes)
