"""Run directories, read back: configuration, data, model, and the parameters to evaluate.

A run directory contains config.json, metrics.jsonl (one line for each epoch), summary.json and checkpoints/. While a run
trains on streamed data it also contains partial/, with checkpoints from the middle of an epoch. A run that diverged has
last_good/ (a checkpoint) and diverged.json, the result of `postmortem.examine` for the step that follows it.
"""

import warnings
from pathlib import Path
from typing import NamedTuple, Unpack

import jax

from vae_jax import training
from vae_jax._numerics.short_repr import short_repr
from vae_jax.build import Built, PartOptions, Parts, build
from vae_jax.config import CUSTOM, Config
from vae_jax.data import Dataset
from vae_jax.errors import DataWarning, UserError
from vae_jax.model import Params
from vae_jax.runs.checkpoints import Checkpoints, RecordedElbo, Restored
from vae_jax.runs.config_file import check_dataset_given, check_fingerprint, check_moments, check_recorded_parts, read_config
from vae_jax.runs.metrics_file import read_metrics
from vae_jax.runs.summary_file import read_summary
from vae_jax.runs.trained.initial import recorded_init
from vae_jax.runs.trained.refitted_file import Refitted, with_refitted
from vae_jax.storage.atomic import JsonObject
from vae_jax.storage.directories import PathLike, as_path
from vae_jax.training import Progress, TrainState


@short_repr
class Run(NamedTuple):
    """A run directory, read back."""

    path: Path
    built: Built
    epoch: int  # that the parameters come from
    params: Params  # to evaluate
    summary: JsonObject | None  # None while the run is unfinished
    metrics: list[JsonObject]  # lines of metrics.jsonl up to the checkpoint that was read
    notes: list[str]  # for the user: checkpoints that were skipped, a run that is unfinished
    refitted: Refitted | None = None  # the prior of `built.vae`, where it was fitted after training

    def as_trained(self) -> "Run":
        """Returns the run with the prior of its training."""
        if self.refitted is None:
            return self
        return self._replace(built=self.built._replace(vae=self.refitted.trained_vae), refitted=None)


def initial_progress(built: Built) -> Progress:
    """Returns the state of a run before its first step."""
    keep_best = built.data.validation is not None
    return training.initial_progress(built.vae, built.optimizer, built.config.seed, built.objective, keep_best)


def recorded_elbos(path: Path) -> RecordedElbo:
    """Returns the test ELBOs by epoch in metrics.jsonl, for `Checkpoints.restore`."""
    elbos = {line["epoch"]: line["test_elbo"] for line in read_metrics(path) if "test_elbo" in line}
    return elbos.get


def _rebuild(path: Path, data_dir: str | None, dataset: Dataset | None, parts: PartOptions) -> tuple[Built, list[str]]:
    """Returns data and model of a run directory, with the user's parts if the run was trained with them, and notes."""
    config, description = read_config(path)
    notes = check_recorded_parts(path, description, [config], Parts(**parts), "load_run")
    check_dataset_given(path, config.dataset == CUSTOM, description["data"], dataset, "load_run")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # they were given when the run began
        source = {"data_dir": data_dir or description.get("data_dir"), "dataset": dataset}
        built = build(config, **source, init=recorded_init(path), **parts)
    check_fingerprint(path, description["data"], built.dataset, "the run was trained on")
    check_moments(path, description["data"], built)
    return built, notes


def load_last_good(
    path: PathLike, *, data_dir: str | None = None, dataset: Dataset | None = None, **parts: Unpack[PartOptions]
) -> tuple[Built, TrainState]:
    """Returns the model and the last finite state of a diverged run.

    Args:
      path: the run directory.
      data_dir: where TFDS finds prepared data, if not where the run found it.
      dataset: the data set that the run was trained on, if it was passed from memory.
      **parts: the parts that the run was trained with, where they are the user's own (see `build.PartOptions`).
    """
    path = as_path(path)
    built, _ = _rebuild(path, data_dir, dataset, parts)
    if not (path / "last_good").is_dir():
        raise UserError(f"{path}: did not diverge (it has no last_good/).")
    with Checkpoints(path / "last_good", keep=1) as checkpoints:
        restored = checkpoints.restore(initial_progress(built)[:2])
    if restored is None:
        raise UserError(f"{path / 'last_good'}: has no checkpoint; it was altered.")
    return built, restored.state


def load_run(
    path: PathLike, *, data_dir: str | None = None, dataset: Dataset | None = None, **parts: Unpack[PartOptions]
) -> Run:
    """Reads a run directory: configuration, data, model, the parameters to evaluate, and the metrics.

    A run that is unfinished, or whose last checkpoint is damaged, is read at its last good checkpoint, which `notes` reports.
    The model has the prior that `refit_prior` fitted to it, if there is one.

    Args:
      path: the run directory.
      data_dir: where TFDS finds prepared data, if not where the run found it.
      dataset: the data set that the run was trained on, if it was passed from memory, such as by `data.from_arrays`.
      **parts: the parts that the run was trained with, where they are the user's own (see `build.PartOptions`).

    Raises:
      UserError: `path` is not a run directory, its data set has changed, or it has no good checkpoint.
    """
    path = as_path(path)
    built, changes = _rebuild(path, data_dir, dataset, parts)
    restored = _restore(path, built)
    summary, notes = _summary_of_checkpoint(path, built.config, restored)
    best = restored.best if built.config.early_stopping else None
    # Compiled, as in training: operation by operation an average may differ in its last bits.
    params = jax.jit(lambda state, best: training.params_to_evaluate(state, built.objective, best))(restored.state, best)
    epoch = restored.epoch if best is None else int(best.epoch) or restored.epoch
    metrics = [line for line in read_metrics(path) if line["epoch"] <= restored.epoch]
    vae, params, refitted, about_prior = with_refitted(path, built.vae, params, epoch)
    notes = [*changes, *restored.complaints, *notes, *about_prior]
    return Run(path, built._replace(vae=vae), epoch, params, summary, metrics, notes, refitted)


def _restore(path: Path, built: Built) -> Restored:
    """Reads the newest good checkpoint; raises `UserError` if there is none."""
    missing = UserError(f"{path}: has no checkpoint yet.", fix="Continue the run with `resume=True`.")
    if not (path / "checkpoints").is_dir():
        raise missing
    with Checkpoints(path / "checkpoints") as checkpoints:
        restored = checkpoints.restore(initial_progress(built)[:2], recorded_elbos(path))
    if restored is not None:
        return restored
    if (path / "diverged.json").exists():
        raise UserError(f"{path}: the run diverged before its first checkpoint; there is nothing to evaluate.")
    raise missing


def _summary_of_checkpoint(path: Path, config: Config, restored: Restored) -> tuple[JsonObject | None, list[str]]:
    """Returns summary.json, or None and notes on why it does not describe the checkpoint that was read."""
    summary = read_summary(path)
    if summary is None:
        epochs = f"epoch {restored.epoch} of {config.epochs}"
        return None, [f"{path}: the run is unfinished; read at its last checkpoint, {epochs}."]
    if summary["status"] == "diverged":
        return None, [f"{path}: the run diverged at step {summary['steps']}; read at its last checkpoint."]
    if summary["epochs"] != restored.epoch:  # the newest checkpoint is damaged
        return None, [
            f"{path}: summary.json describes epoch {summary['epochs']}, whose checkpoint is missing; read at epoch "
            f"{restored.epoch}. Resume the run to repeat the epochs after it."
        ]
    return summary, []
