"""Training into a run directory, which an interrupted run continues from bit for bit."""

import dataclasses
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from vae_jax import training
from vae_jax.build import Built
from vae_jax.errors import UserError
from vae_jax.evaluation import NotFiniteWarning
from vae_jax.model import Params
from vae_jax.runs.checkpoints import Checkpoints
from vae_jax.runs.config_file import check_moments, check_recorded_parts, check_same, describe, read_config, versions
from vae_jax.runs.directory import initial_progress, recorded_elbos
from vae_jax.runs.length import record_length, settings_of_length
from vae_jax.runs.metrics_file import append_metrics, read_metrics, rewrite_metrics, sync_metrics, to_epoch, to_line
from vae_jax.runs.postmortem import examine
from vae_jax.runs.refit import RefitOptions, refit_model
from vae_jax.runs.summary_file import summarize
from vae_jax.runs.trained.initial import check_same_init, write_initial
from vae_jax.runs.trained.model_file import NAME as MODEL_FILE
from vae_jax.runs.trained.model_file import ModelRecord, write_model_file
from vae_jax.runs.trained.training_scores import training_scores
from vae_jax.storage.atomic import JsonObject, write_json
from vae_jax.storage.directories import PathLike, as_path, check_out, exclusive, is_fresh, remove
from vae_jax.training import Fit, Progress, StepMetrics, params_to_evaluate
from vae_jax.training.metrics import OnEpoch


def train(
    built: Built,
    out: PathLike,
    *,
    resume: bool = False,
    data_dir: str | None = None,
    devices: int | None = None,
    checkpoint_seconds: float = 15.0,
    on_start: Callable[[Progress, list[str]], None] = lambda progress, notes: None,
    on_epoch: OnEpoch = lambda metrics: None,
    on_chunk: Callable[[float], bool | None] = lambda done: None,
) -> tuple[Fit, JsonObject]:
    """Trains into a run directory, or continues an interrupted run, bit for bit.

    Args:
      built: from `build`.
      out: the run directory; new or empty, or with `resume` that of the same configuration and data.
      resume: continue the run in `out`. If nothing was written yet, the run starts. The configuration may have a different
        number of epochs, also after the run has finished. The result is bit for bit that of a run of this length.
      data_dir: recorded so that `load_run` finds the data again.
      devices: devices that share each batch (see `training.fit`); by default 1, or as many as the run began with.
      checkpoint_seconds: least time between checkpoints. They are written at the end of an epoch, and with streamed data
        within epochs too. One is always written at the end.
      on_start: called once with the progress that the run starts from and with notes for the user.
      on_epoch: called with the metrics of each epoch, a line of metrics.jsonl (see `training.metrics`). If it returns True, the
        run ends after this epoch, and `resume` continues it.
      on_chunk: called every few megabytes of streamed data with the share of the epoch that is done. A true result ends the
        run at this point.

    Returns:
      The fit, and the content of summary.json ({} for a run that was interrupted).

    Raises:
      UserError: before anything is written, if the run cannot be trained, or if a part of `built` was replaced. The directory
        records only the configuration, so it could not be loaded again.
    """
    _check_as_built(built)
    out = as_path(out)
    check_out(out, resume, read_config)
    devices = _check_devices(built, out, devices, resume)
    options = training.FitOptions.from_keywords(built.fit_arguments)
    step_metrics = training.check_step(built.vae, built.data, options, built.fit_arguments["hyperparams"])
    description = describe(built, data_dir, devices)
    with exclusive(out):
        check_out(out, resume, read_config)  # another process may have written to it since the first check
        resume = resume and not is_fresh(out)
        initial = jax.block_until_ready(initial_progress(built))  # if memory is short, this fails before anything is written
        recorded, new_length = description, ()
        notes: list[str] = []
        if resume:
            began, recorded = read_config(out)
            notes = check_recorded_parts(out, recorded, [began], built.parts, "build")
            new_length = settings_of_length(out, began, built.config)
            check_same(recorded, description, out, new_length)
            check_same_init(out, recorded.get("init_from"), built.init)
            check_moments(out, recorded["data"], built)
        else:
            write_json(out / "config.json", description)
        write_initial(out, built.init)
        with Checkpoints(out / "checkpoints") as whole_epochs, _partial_checkpoints(built, out) as partials:
            folders = _Folders(whole_epochs, partials)
            restored = _restore(out, built, initial, step_metrics, folders) if resume else _Restored(initial, [], [])
            if new_length:
                notes.append(record_length(out, recorded, built, restored.progress))
            rewrite_metrics(out, restored.lines)
            if resume:  # the file may be of a later epoch, whose checkpoint is damaged, or of a run that diverged
                _write_model_at(out, built, restored.progress)
            on_start(restored.progress, [*notes, *restored.notes])
            recorder = _Recorder(built, out, folders, restored, checkpoint_seconds, devices)
            fit = recorder.fit(restored.progress, on_epoch, on_chunk)
        return fit, _finish(built, out, fit, recorder)


def _check_devices(built: Built, out: Path, devices: int | None, resume: bool) -> int:
    """Returns the number of devices to train on. Raises `UserError` for a number that is impossible or would change bits."""
    if resume and not is_fresh(out):
        began = read_config(out)[1].get("devices", 1)
        if devices not in (None, began):
            message = f"{out}: the run began on {began}, and on {devices} its numbers would differ by rounding."
            raise UserError(message, field="devices", fix="Leave it out to continue bit for bit.")
        devices = began
    devices = 1 if devices is None else devices
    training.check_devices(devices, built.config.batch_size)
    return devices


def _check_as_built(built: Built) -> None:
    """Raises `UserError` if a part of what `build` returned was replaced, because `load_run` could not know of it."""
    made, now = built.made, {**built._asdict(), **{f"fit_arguments[{k!r}]": v for k, v in built.fit_arguments.items()}}
    names = [name for name in {**made, **now} if name not in ("made", "fit_arguments")]
    replaced = [name for name in names if not _is_unchanged(made.get(name), now.get(name))]
    if replaced:
        parts = ", ".join(f"built.{name}" for name in replaced) if made else "all of a Built that build did not make"
        raise UserError(
            f"runs.train: {parts} was replaced after build, but a run directory records the configuration alone, and load_run "
            "builds every part from it again. Train a model of your own by training.fit(vae, built.data, "
            "**built.fit_arguments), which writes nothing; other settings go into the Config, and parts of your own into "
            "build(config, network=..., prior=..., likelihood=..., objective=..., optimizer=...)."
        )


def _is_unchanged(first: object, second: object) -> bool:
    return first is second or (isinstance(first, int | float | str) and first == second)


class _Folders(NamedTuple):
    """The checkpoints of a run."""

    whole_epochs: Checkpoints
    partials: Checkpoints | None  # in the middle of an epoch; None for a run that cannot be interrupted there


class _Restored(NamedTuple):
    """The progress of a run and what was recorded of it."""

    progress: Progress
    lines: list[JsonObject]  # of metrics.jsonl
    notes: list[str]  # for the user


def _partial_checkpoints(built: Built, out: Path) -> AbstractContextManager[Checkpoints | None]:
    """Returns the checkpoints in the middle of an epoch, or None for a run that cannot be interrupted there."""
    return Checkpoints(out / "partial", keep=1) if built.config.stream else nullcontext()


def _restore(out: Path, built: Built, initial: Progress, step_metrics: StepMetrics, folders: _Folders) -> _Restored:
    """Returns the progress at the newest checkpoint, with the lines of metrics.jsonl up to there."""
    (epoch, state, best), partial, notes, elbos = (0, *initial[:2]), None, [], recorded_elbos(out)
    if folders.partials is not None:
        num_steps = len(built.dataset.train) // built.config.batch_size
        record = jax.tree.map(lambda value: np.zeros((num_steps, *value.shape), value.dtype), step_metrics)
        restored, notes = folders.partials.restore_partial((state, best, record), elbos)
        if restored is not None:
            epoch, state, best, partial = restored
    if (whole := folders.whole_epochs.restore((initial.state, initial.best), elbos)) is not None:
        notes = [*notes, *whole.complaints]
        if partial is None or whole.epoch > epoch:
            (epoch, state, best), partial = whole[:3], None
    lines = [line for line in read_metrics(out) if line["epoch"] <= epoch]
    if len(lines) != epoch:
        raise UserError(f"{out}: metrics.jsonl has {len(lines)} of the {epoch} epochs in the checkpoint; it was altered.")
    return _Restored(Progress(state, best, tuple(to_epoch(line) for line in lines), partial), lines, notes)


class _Recorder:
    """Writes metrics.jsonl and the checkpoints of a run while it trains."""

    def __init__(self, built: Built, out: Path, folders: _Folders, restored: _Restored, seconds: float, devices: int):
        self._built, self._out, self._folders = built, out, folders
        self._checkpoint_seconds, self.devices = seconds, devices
        partial = restored.progress.partial
        before = (restored.lines[-1]["wall_seconds"] if restored.lines else 0.0) + (partial.seconds if partial else 0.0)
        self._began = time.perf_counter() - before
        self._last_saved = time.perf_counter()
        self.num_used = len(built.dataset.train) // built.config.batch_size * built.config.batch_size

    @property
    def wall_seconds(self) -> float:
        """The duration of the run so far, including the processes that were interrupted."""
        return time.perf_counter() - self._began

    def fit(
        self,
        start: Progress,
        on_epoch: OnEpoch,
        on_chunk: Callable[[float], bool | None],
    ) -> Fit:
        """Trains from `start` and saves the last state."""
        built, out = self._built, self._out

        def after_epoch(progress: Progress) -> bool:
            line = to_line(progress.history[-1], self.num_used, self.wall_seconds)
            append_metrics(out, line)
            if self._is_due():
                sync_metrics(out)
                self._save(progress)
            return bool(on_epoch(line))

        def after_chunk(steps: int, progress: Callable[[], Progress | None]) -> bool:
            if self._is_due():
                self._save_partial(progress())
            return bool(on_chunk(steps * built.config.batch_size / self.num_used))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotFiniteWarning)  # the summary reports it
            callbacks = {"on_progress": after_epoch, "on_chunk": after_chunk}
            fit = training.fit(built.vae, built.data, **built.fit_arguments, start=start, devices=self.devices, **callbacks)
        sync_metrics(out)
        self._save_partial(fit.progress)
        epochs = len(fit.progress.history)
        if fit.status == "diverged":
            with Checkpoints(out / "last_good", keep=1) as last_good:
                last_good.save(epochs, fit.progress.state, fit.progress.best)
            write_json(out / "diverged.json", examine(built, built.config, fit.progress.state))
        elif epochs and fit.progress.partial is None and epochs not in self._folders.whole_epochs.epochs():
            self._save(fit.progress)
        return fit

    def _is_due(self) -> bool:
        return time.perf_counter() - self._last_saved >= self._checkpoint_seconds

    def _save(self, progress: Progress) -> None:
        self._folders.whole_epochs.save(len(progress.history), progress.state, progress.best, _last_elbo(progress))
        _write_model_at(self._out, self._built, progress)
        self._last_saved = time.perf_counter()

    def _save_partial(self, progress: Progress | None) -> None:
        """Saves a state from the middle of an epoch, if it is one."""
        if progress is None or progress.partial is None or self._folders.partials is None:
            return
        sync_metrics(self._out)
        whole = len(progress.history)
        self._folders.partials.save_partial(whole, progress.state, progress.best, progress.partial, _last_elbo(progress))
        self._last_saved = time.perf_counter()


def _last_elbo(progress: Progress) -> float | None:
    return progress.history[-1].test.elbo if progress.history else None


def write_model(out: Path, built: Built, params: Params, epoch: int, scores: JsonObject | None = None) -> None:
    """Writes model.safetensors: the parameters to evaluate, and what the model needs to know of its training data."""
    assert built.description is not None
    config, parts = dataclasses.asdict(built.config), built.parts.records()
    record = ModelRecord([config], built.description, parts, [epoch], scores=[scores] if scores else (), versions=versions())
    write_model_file(out, record, params)


def _write_model_at(out: Path, built: Built, progress: Progress) -> None:
    """Writes model.safetensors at a checkpoint; without a whole epoch there is none."""
    if not progress.history:
        (out / MODEL_FILE).unlink(missing_ok=True)
        return
    best = progress.best if built.config.early_stopping else None
    epoch = len(progress.history) if best is None else int(best.epoch) or len(progress.history)
    params = jax.jit(lambda state, best: params_to_evaluate(state, built.objective, best))(progress.state, best)
    write_model(out, built, params, epoch)


def _finish(built: Built, out: Path, fit: Fit, recorder: _Recorder) -> JsonObject:
    """Writes summary.json and removes files that belong to an unfinished run; returns {} if the run was interrupted."""
    if fit.status == "interrupted":
        return {}
    remove(out / "partial")
    if fit.status != "diverged":  # an earlier attempt may have diverged, on a different device or with a different function
        (out / "diverged.json").unlink(missing_ok=True)
        remove(out / "last_good")
    refit: JsonObject = {}
    if fit.epoch and fit.status != "diverged":
        if built.config.prior == "refit":
            record = refit_model(out, built, fit.params, fit.epoch, RefitOptions.from_config(built.config))
            refit = {"refit": {name: value for name, value in record.items() if name not in ("scores", "versions")}}
        write_model(out, built, fit.params, fit.epoch, training_scores(built, fit.params))
    summary = {**summarize(built, fit, recorder.num_used, recorder.wall_seconds), "devices": recorder.devices, **refit}
    write_json(out / "summary.json", summary)
    return summary
