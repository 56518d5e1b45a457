"""`export_model`: a trained model as plain weights, and its encoder and decoder as programs that JAX alone runs."""

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax import Array, export

from vae_jax.errors import UserError
from vae_jax.example import Example
from vae_jax.likelihoods import DecoderOutput
from vae_jax.model import Params, posterior_moments
from vae_jax.model.scaling import SCALING
from vae_jax.model.vae import decode_given
from vae_jax.runs.trained.export_record import describe_export, read_format, takes_mask
from vae_jax.runs.trained.model import TrainedModel
from vae_jax.runs.trained.model_file import flatten
from vae_jax.runs.trained.stored_unit import stored_scale, stored_unit
from vae_jax.storage.atomic import write_bytes, write_json
from vae_jax.storage.directories import PathLike, as_path
from vae_jax.storage.output_files import written_folder

PLATFORMS = ("cpu", "cuda", "tpu")
Function: TypeAlias = Callable[..., Array | tuple[Array, Array] | DecoderOutput]


def encoder_function(model: TrainedModel, params: Params | None = None) -> Function:
    """Returns (x, condition, mask) -> (mean, log_scale) of a batch in the unit of the stored data.

    Of a posterior other than the diagonal Gaussian these are the moments of each dimension (`model.posterior_moments`).

    Args:
      model: the trained model. Without a condition, or without missing entries, the function does not take these arguments.
      params: in place of those of the model.
    """
    vae, description = model.vae, model.description
    params = model.params if params is None else params
    to_input = input_scale(model)

    def encode(x: Array, *companions: Array) -> Array | tuple[Array, Array]:
        rest = list(companions)
        condition = None if description.condition is None else description.condition.expand(rest.pop(0))
        mask = rest.pop(0) if rest else None
        event = to_input(x if mask is None else jnp.where(mask, x, jnp.zeros((), x.dtype)))
        batch = event if condition is None and mask is None else Example(event, condition, mask)
        return jax.vmap(partial(posterior_moments, vae, params))(batch)

    return encode


def decoder_function(model: TrainedModel, params: Params | None = None) -> Function:
    """Returns (z, condition) -> the outputs of the decoder for a batch; arguments as for `encoder_function`."""
    condition_columns = model.description.condition
    params = model.params if params is None else params

    def decode(z: Array, *condition: Array) -> DecoderOutput:
        if condition_columns is None:
            return jax.vmap(partial(model.vae.decode, params))(z)
        return jax.vmap(partial(decode_given, model.vae, params))(z, condition_columns.expand(condition[0]))

    return decode


def mean_function(model: TrainedModel, params: Params | None = None) -> Function:
    """Returns (z, condition) -> E[x|z] of a batch in the unit of the stored data; arguments as for `encoder_function`."""
    decode = decoder_function(model, params)
    to_stored = stored_unit(model.config, model.description, model.vae.likelihood).to_stored

    def mean(z: Array, *condition: Array) -> Array:
        return to_stored(jax.vmap(model.vae.likelihood.mean)(decode(z, *condition)))

    return mean


def input_scale(model: TrainedModel) -> Callable[[Array], Array]:
    """Returns the function from numbers in the unit of the stored data to the floats that the model takes.

    Nothing is drawn. Data that are dequantized get the mean of the noise. Data that are binarized at random become
    level / max_level, the probability of a 1.
    """
    config, top = model.config, model.description.max_level
    if config.dequantize and top is not None:
        return lambda x: (x + 0.5) / (top + 1)
    if config.binarization == "threshold" and top != 1:
        return lambda x: (x / (top or 1) >= 0.5).astype(jnp.float32)
    scale = stored_scale(config, model.vae.likelihood, top)
    return lambda x: x / scale


def export_model(model: TrainedModel, out: PathLike, *, overwrite: bool = False) -> Path:
    """Writes a trained model for use without this package.

    The folder gets params.safetensors, config.json, and encoder.stablehlo, decoder.stablehlo and mean.stablehlo. The programs
    contain the parameters, take batches of any size, and run on CPU, CUDA and TPU. `jax.export.deserialize` reads them, and
    `storage.exported_model.load_exported` reads all of them with config.json. The folder appears whole or not at all.

    Args:
      model: from `load_model`.
      out: the folder; new or empty.
      overwrite: replace `out` if it is an earlier export.

    Returns:
      The folder.

    Raises:
      UserError: `out` may not be written, or a network cannot be exported because it calls Python functions or branches on the
        size of the batch.
    """
    out = as_path(out)
    _check_out(out, overwrite)
    with_prior = ("prior",) if model.vae.conditional_prior is not None else ()
    with_posterior = () if model.vae.posterior is None else (model.vae.posterior.part,)
    batch = export.symbolic_shape("batch")
    x = _shape(batch, model.vae.data_shape)
    condition = () if model.description.condition is None else (_shape(batch, (len(model.description.condition.columns),)),)
    mask = (_shape(batch, model.vae.data_shape, jnp.bool_),) if takes_mask(model) else ()
    z = _shape(batch, (model.vae.latent_dim,))
    decoder = ("decoder", "likelihood", *with_prior)
    plans = {
        "encode": ("encoder", encoder_function, ("encoder", *with_prior, *with_posterior), (x, *condition, *mask)),
        "decode": ("decoder", decoder_function, decoder, (z, *condition)),
        "mean": ("mean", mean_function, decoder, (z, *condition)),
    }
    files, programs = {}, {}
    for name, (file, make, used, arguments) in plans.items():
        content = _serialize(model, make, used, arguments, "encoder" if name == "encode" else "decoder")
        programs[f"{file}.stablehlo"] = content
        files[name] = (f"{file}.stablehlo", hashlib.sha256(content).hexdigest(), arguments)
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in flatten(jax.device_get(model.params)).items()}
    config = describe_export(model, files, arrays, PLATFORMS)
    programs["params.safetensors"] = safetensors.numpy.save(arrays)
    _write(out, programs, config)
    return out


def _shape(batch: Sequence[object], shape: tuple[int, ...], dtype: type = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*batch, *shape), dtype)


def _serialize(
    model: TrainedModel,
    make: Callable[[TrainedModel, Params], Function],
    used: tuple[str, ...],
    arguments: tuple[jax.ShapeDtypeStruct, ...],
    role: str,
) -> bytes:
    """Returns a function with its parameters as a serialized program; raises `UserError` where that is impossible."""
    params = {name: value for name, value in model.params.items() if name in (*used, SCALING)}

    def function(*inputs: Array) -> Array | tuple[Array, Array] | DecoderOutput:
        # Otherwise XLA would compute with the constants beforehand, and round differently than with parameters as arguments.
        return make(model, jax.lax.optimization_barrier(params))(*inputs)

    try:
        return bytes(export.export(jax.jit(function), platforms=PLATFORMS)(*arguments).serialize())
    except ImportError:
        raise UserError("jax.export needs flatbuffers.", fix="Install it: pip install flatbuffers.") from None
    except UserError:
        raise
    except Exception as error:  # those of tracing with a symbolic size and of jax.export have no common type
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f'the {role} of `network="{model.config.network}"` cannot be exported for batches of any size: {reason}.',
            fix="An exported function may neither branch on the size of the batch nor call Python functions while it runs. "
            f"The weights are in {model.path.name}/model.safetensors.",
        ) from error


def _check_out(out: Path, overwrite: bool) -> None:
    """Raises `UserError` unless the folder may be written."""
    try:
        is_used = out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir())))
        is_export = out.is_dir() and not out.is_symlink() and read_format(out) is not None
        above = next(folder for folder in out.absolute().parents if folder.exists())
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}.", field="out") from None
    if is_used and not is_export:
        raise UserError(f"{out} exists and is not an exported model.", field="out", fix="Choose a different folder.")
    if is_used and not overwrite:
        fix = "Add `overwrite=True`, or choose a different folder."
        raise UserError(f"{out} exists.", field="out", fix=fix)
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"{out} cannot be written: {above} is not a folder that you may write to.", field="out")


def _write(out: Path, files: dict[str, bytes], config: object) -> None:
    """Writes the files into a new folder, which then takes the place of `out`."""
    with written_folder(out) as folder:
        for name, content in files.items():
            write_bytes(folder / name, content)
        write_json(folder / "config.json", config)
