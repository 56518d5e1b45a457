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
from vae_jax.runs.trained.model_file import NAME, read_params, read_record
from vae_jax.storage.atomic import JsonObject
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


def load_model(path: PathLike, **parts: Unpack[PartOptions]) -> TrainedModel:
    """Reads a trained model from its run directory. The training data are not needed.

    Args:
      path: the run directory.
      **parts: the parts that the run was trained with, where they are the user's own (see `build.PartOptions`). The objective
        and the optimizer are not needed.

    Raises:
      UserError: `path` is not a run directory, or has no model yet.
    """
    path = as_path(path)
    if not (path / NAME).exists():
        raise UserError(f"{path}: has no {NAME}.", fix="Continue the run with `resume=True`, which writes it.")
    record = read_record(path)
    config = config_module.from_dict(record.configs[0])
    given = Parts(**parts)
    needed = {name: getattr(config, name) for name in PART_NAMES}
    for name in ("objective", "optimizer"):
        if getattr(given, name) is None:
            needed[name] = ""
    notes = check_parts(path, record.parts, needed, given, "load_model")
    likelihood = make_likelihood(config, record.description.facts, given.likelihood)
    vae = make_model(config, record.description, likelihood, given)
    params = read_params(path, jax.eval_shape(vae.init, stream(0, Stream.INIT)))
    params = jax.tree.map(jnp.asarray, params)
    scores = record.scores[0] if record.scores else {}
    return TrainedModel(path, config, record.description, vae, params, record.epochs[0], None, scores, tuple(notes))
