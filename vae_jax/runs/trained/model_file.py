"""model.safetensors: the parameters to evaluate of one or several models, with all that is needed to make the models again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy

from vae_jax.build import DataDescription
from vae_jax.errors import UserError
from vae_jax.model import Params
from vae_jax.storage.atomic import JsonObject, write_bytes

NAME = "model.safetensors"
_FORMAT = 1
_UNREADABLE = (OSError, ValueError, safetensors.SafetensorError)  # pyright: ignore[reportAttributeAccessIssue]


class ModelRecord(NamedTuple):
    """The content of the file besides the parameters.

    Attributes:
      configs: the settings of each model, as JSON objects.
      description: of the training data that they share.
      parts: origin of the user's own parts (see `build.Parts.records`).
      epochs: that the parameters come from, one for each model.
      members: numbers of the models in a sweep; () for a run.
      scores: quantiles of the ELBO and of log p(x) over training examples, one entry for each model; () if there are none.
      versions: of the packages that wrote the file.
    """

    configs: Sequence[JsonObject]
    description: DataDescription
    parts: JsonObject
    epochs: Sequence[int]
    members: Sequence[int] = ()
    scores: Sequence[JsonObject] = ()
    versions: JsonObject = {}  # noqa: RUF012 (never changed)


def write_model_file(folder: Path, record: ModelRecord, params: Params) -> None:
    """Writes the file atomically.

    Args:
      folder: a run directory, or the folder of a block of a sweep.
      record: its content.
      params: of one model, or stacked along a leading axis for the members of a sweep.
    """
    content = {"format": _FORMAT, **record._asdict(), "description": record.description.to_json()}
    arrays = {path: np.asarray(leaf, order="C") for path, leaf in flatten(jax.device_get(params)).items()}
    write_bytes(folder / NAME, safetensors.numpy.save(arrays, {"vae_jax": json.dumps(content)}))


def read_record(folder: Path) -> ModelRecord:
    """Reads all but the parameters; raises `UserError` for a file that is missing, damaged or of a newer version."""
    path = folder / NAME
    try:
        with safetensors.safe_open(path, "numpy") as file:  # pyright: ignore[reportAttributeAccessIssue]
            content: dict[str, Any] = json.loads(file.metadata()["vae_jax"])
        if content.pop("format") != _FORMAT:
            raise ValueError("it was written by a different version")
        record = ModelRecord(**{**content, "description": DataDescription.from_json(content["description"])})
        _check_record(record)
        return record
    except FileNotFoundError:
        raise UserError(f"{path}: no such file.") from None
    except (*_UNREADABLE, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {str(error)[:200]}. It is damaged.") from None


def _check_record(record: ModelRecord) -> None:
    """Raises `ValueError` unless the fields have one entry for each model."""
    count = len(record.configs)
    has_entries = count > 0 and len(record.epochs) == count
    has_entries &= len(record.members) in ((0,) if count == 1 else ()) + (count,)
    if not (has_entries and len(record.scores) in (0, count) and all(isinstance(one, dict) for one in record.configs)):
        raise ValueError("its entries do not belong together")
    if not all(isinstance(number, int) for number in (*record.epochs, *record.members)):
        raise ValueError("its epochs or members are not whole numbers")


def read_params(folder: Path, template: Params, index: int | None = None) -> Params:
    """Reads the parameters of one model.

    Args:
      folder: see `write_model_file`.
      template: shapes and dtypes of the parameters of one model.
      index: position of the model along the leading axis; None for a run.

    Raises:
      UserError: the parameters are not those of the template.
    """
    expected, path, arrays = flatten(template), folder / NAME, read_arrays(folder, index)
    there = {name: (array.shape, str(array.dtype)) for name, array in arrays.items()}
    here = {name: (leaf.shape, str(leaf.dtype)) for name, leaf in expected.items()}
    if there != here:
        name = next(name for name in {**here, **there} if here.get(name) != there.get(name))
        raise UserError(f"{path}: expected {name} = {here.get(name)}, got {there.get(name)}. The networks are different ones.")
    return jax.tree.unflatten(jax.tree.structure(template), [arrays[name] for name in expected])


def read_arrays(folder: Path, index: int | None = None) -> dict[str, np.ndarray]:
    """Reads the arrays of one model by their paths; arguments as for `read_params`."""
    path = folder / NAME
    try:
        with safetensors.safe_open(path, "numpy") as file:  # pyright: ignore[reportAttributeAccessIssue]
            names = list(file.keys())
            return {name: file.get_tensor(name) if index is None else file.get_slice(name)[index] for name in names}
    except (*_UNREADABLE, IndexError, TypeError) as error:
        raise UserError(f"{path}: cannot be read: {str(error)[:200]}. It is damaged.") from None


def flatten(params: Params) -> dict[str, Any]:
    """Returns the arrays of a tree by their paths, such as "encoder.dense_0.kernel"."""
    leaves = jax.tree.leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
