"""Data on a scale of their own: networks that see standardized data, with the mean and the scale as constants or parameters."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vae_jax._numerics.arrays import Params
from vae_jax.data.moments import Moments
from vae_jax.example import Example, event_of, with_event
from vae_jax.likelihoods import DecoderOutput, Likelihood, mixed
from vae_jax.model.checks import check_example
from vae_jax.model.vae import VAE, decode_given, key_argument

Moment: TypeAlias = float | np.ndarray | Array  # one number, or an array of the event's shape
FROM_DATA: Literal["from_data"] = "from_data"
# (mean, standard deviation), or `Moments`, which may say that the encoder sees log(1 + x)
Standardize: TypeAlias = tuple[Moment, Moment] | Moments | Literal["from_data"] | None
SCALING = "scaling"  # parameters that no step changes: the mean and the standard deviation of the training data


def move_location(likelihood: Likelihood, output: Array, shift: Moment, factor: Moment) -> Array:
    """Returns the decoder output with shift + factor times the location, the first number for each dimension.

    Of a mixed likelihood it moves the columns of real numbers.
    """
    if likelihood.groups:
        return mixed.rescale_output(likelihood, output, shift, factor, scale_counts=False)
    if likelihood.outputs_per_dim == 1:
        return jnp.asarray(shift + factor * output)
    return output.at[..., 0].set(shift + factor * output[..., 0])


def encoder_input(
    likelihood: Likelihood, x: Array, mean: Moment, std: Moment, log1p: Mapping[str, Moment] | None = None
) -> Array:
    """Returns one example as the encoder sees it: (x - mean)/std, or log(1 + x) with moments of its own.

    Args:
      likelihood: that of x; a mixed one says which columns are counts.
      x: the example.
      mean, std: moments of x.
      log1p: "mean" and "std" of log(1 + x), or None.
    """
    if likelihood.groups:
        return mixed.standardize(likelihood, x, (mean, std), None if log1p is None else (log1p["mean"], log1p["std"]))
    if log1p is None:
        return (x - mean) / std
    # Pseudo-inputs of a VampPrior, which are learned, may become negative.
    return (jnp.log1p(jnp.maximum(x, 0)) - log1p["mean"]) / log1p["std"]


def scale_by_params(vae: VAE, scale_output: bool) -> VAE:
    """Returns a model that standardizes data by its parameters, into which `with_moments` puts the moments of the data.

    Args:
      vae: a model whose networks see and emit standardized numbers.
      scale_output: False if the decoder emits numbers on the scale of the data already.
    """
    likelihood = vae.likelihood

    def rescale(output: Array, mean: Array, std: Array) -> Array:
        if likelihood.groups:
            return mixed.rescale_output(likelihood, output, mean, std)
        if likelihood.support == "real":
            return move_location(likelihood, output, mean, std)
        if likelihood.scale_mean is None:
            return output
        factor = jnp.maximum(mean, 1e-3)
        if likelihood.outputs_per_dim == 1:
            return likelihood.scale_mean(output, factor)
        return output.at[..., 0].set(likelihood.scale_mean(output[..., 0], factor))

    def encode(params: Params, x: Array | Example, key: Array | None = None) -> tuple[Array, Array]:
        if SCALING in params:
            scaling = jax.lax.stop_gradient(params[SCALING])
            # Checked here, because stored integers are floats after the scaling.
            x = check_example("encode", likelihood, vae.data_shape, x)
            x = with_event(x, encoder_input(likelihood, event_of(x), **scaling))
        return vae.encode(params, x, **key_argument(key))

    def decode(params: Params, z: Array, condition: Array | None = None, key: Array | None = None) -> DecoderOutput:
        output = decode_given(vae, params, z, condition, key)
        if SCALING not in params or not scale_output:
            return output
        scaling = jax.lax.stop_gradient(params[SCALING])
        first, *shared = output if likelihood.shared_start else (output,)
        first = rescale(first, scaling["mean"], scaling["std"])
        return (first, *shared) if shared else first

    return vae._replace(encode=encode, decode=decode, takes_moments=True)


def with_moments(vae: VAE, moments: Moments | None) -> VAE:
    """Returns the model whose initial parameters contain the moments of the training data, if it takes them.

    Args:
      vae: the model. It is returned unchanged unless `vae.takes_moments`.
      moments: mean and standard deviation of the training data, or None.
    """
    if moments is None or not vae.takes_moments:
        return vae
    scaling = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), as_dict(moments))
    return vae._replace(init=lambda key: {**vae.init(key), SCALING: jax.tree.map(jnp.copy, scaling)})


def scale_by_constants(vae: VAE, moments: Moments) -> VAE:
    """Returns a model whose encoder sees data standardized by these moments."""
    encode = vae.encode

    def standardized(params: Params, x: Array | Example, key: Array | None = None) -> tuple[Array, Array]:
        x = check_example("encode", vae.likelihood, vae.data_shape, x)
        x = with_event(x, encoder_input(vae.likelihood, event_of(x), **as_dict(moments)))
        return encode(params, x, **key_argument(key))

    return vae._replace(encode=standardized)


def as_dict(moments: Moments) -> dict[str, Any]:
    """Returns moments as the arguments of `encoder_input`, without `log1p` where the encoder does not see that."""
    linear = {"mean": moments.mean, "std": moments.std}
    return linear if moments.log1p is None else linear | {"log1p": as_dict(moments.log1p)}


def keep_scaling(new: Params, old: Params) -> Params:
    """Returns the new parameters with the old moments of the data, which weight decay, for example, must not change."""
    return {**new, SCALING: old[SCALING]} if isinstance(old, dict) and SCALING in old else new
