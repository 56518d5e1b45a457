"""Checks that the parts of a `VAE` fit, and that each of its functions gets one example; each failure is one sentence."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax.errors import UserError
from vae_jax.likelihoods import Likelihood
from vae_jax.networks import Network

Params = Any  # a pytree of arrays


def shapes_of_parameters(init: Callable[[Array], Params], encoder: Network, decoder: Network) -> Params:
    """Shapes of all parameters; `ValueError` where a network cannot make its own."""
    try:
        return jax.eval_shape(init, stream(0, Stream.INIT))
    except Exception:
        for role, network in (("encoder", encoder), ("decoder", decoder)):
            _traced(
                network.init,
                stream(0, Stream.INIT),
                words=f"make_vae: the {role}'s parameters cannot be made.",
                advice=f" Expected a network of ONE {'example' if role == 'encoder' else 'code'}, without a batch axis.",
            )
        raise


def latent_dim_of(encoder: Network, params: Params, x: jax.ShapeDtypeStruct) -> int:
    """Length of the encoder's mean; `ValueError` unless it returns (mean, log_scale) of one example."""
    posterior = _traced(
        encoder.apply,
        params,
        x,
        words=f"make_vae: the encoder fails on one example of shape {x.shape}.",
        advice=" It sees ONE example, without a batch axis: flatten by x.reshape(-1), for example.",
    )
    pair = list(posterior) if isinstance(posterior, tuple | list) else []
    shapes = [getattr(leaf, "shape", None) for leaf in pair]
    if len(shapes) != 2 or shapes[0] is None or shapes[0] != shapes[1] or len(shapes[0]) != 1:
        got = f"a tuple with shapes {shapes}" if pair else f"{_described(posterior)} in place of a pair"
        raise ValueError(
            "make_vae: expected the encoder to return (mean, log_scale), each of shape (latent,), for one example of shape "
            f"{x.shape}, got {got}. The network sees ONE example, without a batch axis: flatten by x.reshape(-1), for example."
        )
    if wrong := [str(leaf.dtype) for leaf in pair if not jnp.issubdtype(leaf.dtype, jnp.floating)]:
        raise ValueError(
            f"make_vae: expected the encoder to return floats, got {wrong[0]}. Return (mean, log_scale) in float32."
        )
    return shapes[0][0]


def shapes_of_output(decoder: Network, decode: Callable[..., Any], params: Params, inner_dim: int, latent_dim: int) -> Any:
    """Shapes of `decode`'s output; `ValueError` where the decoder does not take the encoder's codes."""
    words = f"make_vae: the decoder fails on one code of shape ({inner_dim},), which is what the encoder gives."
    advice = f" Make it for {inner_dim} latent dimensions and ONE code, without a batch axis."
    output = _traced(decode, params, jax.ShapeDtypeStruct((latent_dim,), jnp.float32), words=words, advice=advice)
    for leaf in jax.tree.leaves(output):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"make_vae: expected the decoder to return floats for the likelihood, got {leaf.dtype}.")
    return output


def _traced(function: Callable[..., Any], *arguments: Any, words: str, advice: str = "") -> Any:
    """`jax.eval_shape`, where an error of the user's network becomes one sentence; its own error is the cause."""
    try:
        return jax.eval_shape(function, *arguments)
    except UserError as error:
        raise ValueError(f"{words} {error}") from None
    except Exception as error:
        raise ValueError(f"{words}{advice} The {type(error).__name__} above says where.") from error


def _described(value: Any) -> str:
    return f"an array of shape {value.shape}" if hasattr(value, "shape") else f"a {type(value).__name__}"


def wrong_shape(function: str, what: str, expected: tuple[int, ...], got: tuple[int, ...]) -> str:
    """The message for an array of the wrong shape, with `vmap` where it is a batch."""
    words = f"{function}: expected one {what} of shape {expected}, got shape {got}."
    if got[1:] != expected:
        return words
    if function == "log_prob":
        return f"{words} For a batch use jax.vmap(vae.likelihood.log_prob)(decoder_outputs, x_batch)."
    return f"{words} For a batch use jax.vmap(vae.{function}, in_axes=(None, 0))(params, batch)."


def as_seen(function: str, likelihood: Likelihood, data_shape: tuple[int, ...], x: Any) -> Any:
    """One example as the model takes it; `ValueError` for integers, whose scale is not the model's, and for a batch."""
    x = x if hasattr(x, "dtype") else jnp.asarray(x)
    dtype = x.dtype
    # Counts are integers on their own scale, and a boolean cannot be anything but 0 or 1.
    exact = jnp.issubdtype(dtype, jnp.bool_) or (likelihood.support == "counts" and jnp.issubdtype(dtype, jnp.integer))
    if not exact and not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"{function}: expected the floats that the model is trained on, got {dtype}, as data are stored. For codes use "
            "evaluation.encode_dataset(vae, params, prepared); elsewhere pass to_input=prepared.eval_input, or "
            "convert a batch by prepared.eval_input(batch)."
        )
    shape = x.shape
    if shape != data_shape and (function == "encode" or shape[1:] == data_shape):
        raise ValueError(wrong_shape(function, "example", data_shape, shape))
    return jnp.asarray(x, jnp.float32) if exact else x


def of_one_example(likelihood: Likelihood, data_shape: tuple[int, ...]) -> Callable[[Any, Array], Array]:
    """The likelihood's `log_prob`, which would add up a whole batch without a word."""
    log_prob = likelihood.log_prob

    def of_one(output: Any, x: Array) -> Array:
        return log_prob(output, as_seen("log_prob", likelihood, data_shape, x))

    return of_one
