"""prior.safetensors: a prior that was fitted to the codes of a run after training, and the numbers that it gained.

A run directory that has the file is read with this prior in place of the one that it was trained with, as long as the file
belongs to the parameters that are read.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from vae_jax._numerics.keys import Stream, stream
from vae_jax._numerics.short_repr import short_repr
from vae_jax.errors import UserError
from vae_jax.model import VAE, Params
from vae_jax.priors import Prior, full_mixture, realnvp
from vae_jax.runs.trained.model_file import flatten
from vae_jax.storage.atomic import JsonObject, as_json, write_bytes

NAME = "prior.safetensors"
PART = "refitted_prior"  # entry of the model's parameters
_FORMAT = 1
_UNREADABLE = (OSError, ValueError, safetensors.SafetensorError)  # pyright: ignore[reportAttributeAccessIssue]


@short_repr
class Refitted(NamedTuple):
    """A refitted prior, as a run directory holds it.

    Attributes:
      trained_vae: the model with the prior of its training.
      record: kind and size of the prior, the draws behind it, and `marginal_kl_gain`, the nats of the ELBO that it buys.
    """

    trained_vae: VAE
    record: JsonObject


def make_prior(record: JsonObject) -> Prior:
    """Returns the bundle that a record describes."""
    if record["kind"] == "mixture":
        return full_mixture(record["latent_dim"], record["num_components"])
    return realnvp(record["latent_dim"], record["num_layers"], tuple(record["hidden"]))


def params_sha256(params: Params) -> str:
    """Returns a hash of the parameters of a model without a refitted prior."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten({part: leaf for part, leaf in params.items() if part != PART}).items()):
        array = np.asarray(leaf, order="C")
        digest.update(f"{name} {array.shape} {array.dtype}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write_refitted(path: Path, record: JsonObject, prior_params: Params) -> None:
    """Writes prior.safetensors into a run directory, atomically."""
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in flatten(jax.device_get(prior_params)).items()}
    write_bytes(path / NAME, safetensors.numpy.save(arrays, {"vae_jax": json.dumps(as_json({"format": _FORMAT, **record}))}))


def read_refitted(path: Path) -> tuple[JsonObject, Params] | None:
    """Reads prior.safetensors of a run directory.

    Returns:
      The record and the parameters of the prior; None if there is no such file.

    Raises:
      UserError: it is damaged, or of a newer version.
    """
    file_path = path / NAME
    if not file_path.exists():
        return None
    try:
        if not file_path.is_file():  # reading a pipe may never end
            raise ValueError("it is not a regular file")
        with safetensors.safe_open(file_path, "numpy") as file:  # pyright: ignore[reportAttributeAccessIssue]
            record: JsonObject = json.loads(file.metadata()["vae_jax"])
            arrays: dict[str, np.ndarray] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if record["format"] != _FORMAT:
            raise ValueError("it was written by a different version")
        _check_record(record, arrays)
        template = jax.eval_shape(make_prior(record).init, stream(0, Stream.CHECK))
        expected = flatten(template)
        if {name: leaf.shape for name, leaf in expected.items()} != {name: array.shape for name, array in arrays.items()}:
            raise ValueError("its arrays are not those of the prior that it describes")
        params = [jnp.asarray(arrays[name], jnp.float32) for name in expected]
        return record, jax.tree.unflatten(jax.tree.structure(template), params)
    except (*_UNREADABLE, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UserError(
            f"{file_path}: cannot be read: {str(error)[:200]}. It is damaged.",
            fix="Fit the prior again by runs.refit_prior, or remove the file to use the prior of the training.",
        ) from None


def _check_record(record: JsonObject, arrays: dict[str, np.ndarray]) -> None:
    """Raises `ValueError` unless a record describes a prior of about as many arrays and numbers as the file has."""
    if record["kind"] not in ("mixture", "realnvp"):
        raise ValueError(f"it has an unknown kind of prior, {record['kind']!r:.40}")
    sizes = [record["latent_dim"]]
    sizes += [record["num_components"]] if record["kind"] == "mixture" else [record["num_layers"], *record["hidden"]]
    largest = max((max((*array.shape, 1)) for array in arrays.values()), default=0)
    if not all(type(size) is int and 1 <= size <= max(largest, len(arrays)) for size in sizes):
        raise ValueError("its sizes are not those of its arrays")
    if not isinstance(record["parameters_sha256"], str) or not isinstance(record.get("scores", {}), dict):
        raise ValueError("its record was altered")
    for name in ("marginal_kl_gain", "marginal_kl_gain_standard_error"):
        if not isinstance(record[name], int | float | None):
            raise ValueError(f"its {name} is not a number")
    if not all(np.isfinite(array).all() for name, array in arrays.items() if name != "logits"):
        raise ValueError("it has numbers that are not finite")


def with_prior(vae: VAE, params: Params, prior: Prior, prior_params: Params) -> tuple[VAE, Params]:
    """Returns a model with a refitted prior in place of its own."""
    return vae._replace(prior=prior._replace(part=PART)), {**params, PART: prior_params}


def with_refitted(path: Path, vae: VAE, params: Params, epoch: int) -> tuple[VAE, Params, Refitted | None, list[str]]:
    """Returns a model with the refitted prior of its run directory, where it has one, and notes for the user.

    Args:
      path: the run directory.
      vae, params: the model.
      epoch: that the parameters come from, for the note.

    Returns:
      The model, its parameters, the `Refitted` prior if there is one, and notes.
    """
    content = read_refitted(path)
    if content is None:
        return vae, params, None, []
    record, prior_params = content
    if record["parameters_sha256"] != params_sha256(params):
        note = f"{path / NAME}: was fitted to other parameters than those of epoch {epoch}, so it is not used. Fit it again."
        return vae, params, None, [note]
    if record["latent_dim"] != vae.latent_dim:
        raise UserError(f"{path / NAME}: has {record['latent_dim']} latent dimensions, and the model {vae.latent_dim}.")
    return *with_prior(vae, params, make_prior(record), prior_params), Refitted(vae, record), []
