"""`load_model`: a trained model without its training data."""

from pathlib import Path
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp

from vae_jax import config as config_module
from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.build import PART_NAMES, DataDescription, PartOptions, Parts, check_parts, make_model
from vae_jax.build.model import make_likelihood
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.model import VAE, Params
from vae_jax.runs.trained.model_file import NAME, read_params
from vae_jax.runs.trained.refitted_file import Refitted, with_refitted
from vae_jax.runs.trained.sweep_members import locate_model
from vae_jax.storage.atomic import JsonObject, read_json
from vae_jax.storage.directories import PathLike, as_path


@short_repr
class TrainedModel(NamedTuple):
    """A trained model, ready for new data.

    Attributes:
      path: the run or sweep directory.
      config: the settings.
      description: of the training data: shape, levels, moments, categories and names of columns, condition.
      vae: the model.
      params: the parameters to evaluate.
      epoch: that they come from.
      member: number of the model in a sweep; None for a run.
      scores: quantiles of the scores of training examples; {} if there are none.
      notes: sentences for the user.
      refitted: the prior of `vae`, where it was fitted after training.
    """

    path: Path
    config: Config
    description: DataDescription
    vae: VAE
    params: Params
    epoch: int
    member: int | None = None
    scores: JsonObject = {}  # noqa: RUF012 (never changed)
    notes: tuple[str, ...] = ()
    refitted: Refitted | None = None


def expect_model(model: object) -> None:
    """Raises `UserError` for anything but a `TrainedModel`, such as the path of a run."""
    if not isinstance(model, TrainedModel):
        advice = "Pass `runs.load_model(path)`."
        raise UserError(field="model", expected="a trained model", got=type(model).__name__, fix=advice)


def load_model(path: PathLike, *, member: int | None = None, **parts: Unpack[PartOptions]) -> TrainedModel:
    """Reads a trained model from its run or sweep directory. The training data are not needed.

    A run that was interrupted, or that diverged, is read at its last checkpoint, which `notes` reports.

    Args:
      path: the run or sweep directory.
      member: number of the model in a sweep, such as `best(path)`.
      **parts: the parts that the run was trained with, where they are the user's own (see `build.PartOptions`). The objective
        and the optimizer are not needed.

    Raises:
      UserError: `path` is neither a run nor a sweep directory, has no such model yet, or its files are damaged.
    """
    path = as_path(path)
    folder, record, index = locate_model(path, member)
    entry = index or 0
    config = config_module.from_dict(record.configs[entry])
    given = Parts(**parts)
    needed = {name: getattr(config, name) for name in PART_NAMES}
    for name in ("objective", "optimizer"):
        if getattr(given, name) is None:
            needed[name] = ""
    notes = check_parts(path, record.parts, needed, given, "load_model")
    try:
        likelihood = make_likelihood(config, record.description.facts, given.likelihood)
        vae = make_model(config, record.description, likelihood, given)
        template = jax.eval_shape(vae.init, stream(0, Stream.INIT))
    except UserError:
        raise
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        if given.given():  # the fault may be in them
            raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{folder / NAME}: describes no model: {reason} It is damaged.") from None
    params = read_params(folder, template, index)
    params = jax.tree.map(jnp.asarray, params)
    scores = record.scores[entry] if record.scores else {}
    epoch, refitted = record.epochs[entry], None
    if index is None:
        vae, params, refitted, about_prior = with_refitted(folder, vae, params, epoch)
        scores = scores if refitted is None else refitted.record.get("scores", {})
        notes = [*notes, *_notes_on_end(path, epoch, config), *about_prior]
    return TrainedModel(path, config, record.description, vae, params, epoch, member, scores, tuple(notes), refitted)


def _notes_on_end(path: Path, epoch: int, config: Config) -> list[str]:
    """Returns notes on a run that was interrupted or that diverged."""
    if not (path / "config.json").exists():  # a copy of the model alone
        return []
    summary = read_json(path / "summary.json", "status") if (path / "summary.json").exists() else None
    if summary is None:
        return [f"{path}: the run is unfinished; its model is that of epoch {epoch} of {config.epochs}."]
    if summary["status"] == "diverged":
        return [f"{path}: the run diverged; its model is that of its last checkpoint, epoch {epoch} of {config.epochs}."]
    return []
