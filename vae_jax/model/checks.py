"""Checks that the parts of a `VAE` fit, and that each of its functions receives one example; each failure is one sentence."""

import dataclasses
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from vae_jax import networks
from vae_jax._numerics.arrays import Params
from vae_jax._numerics.keys import Stream, stream
from vae_jax.errors import UserError, accepts
from vae_jax.example import Example, Examples
from vae_jax.likelihoods import DecoderOutput, Likelihood
from vae_jax.networks import Network
from vae_jax.posteriors import Posterior


def parameter_shapes(init: Callable[[Array], Params], encoder: Network, decoder: Network) -> Params:
    """Returns the shapes of all parameters.

    Raises:
      ValueError: a network cannot make its parameters.
    """
    try:
        return jax.eval_shape(init, stream(0, Stream.INIT))
    except Exception:
        for role, network in (("encoder", encoder), ("decoder", decoder)):
            evaluate_shapes(
                network.init,
                stream(0, Stream.INIT),
                problem=f"make_vae: the {role}'s parameters cannot be made.",
                advice=f" Expected a network of ONE {'example' if role == 'encoder' else 'code'}, without a batch axis.",
            )
        raise


def condition_shapes(condition_dim: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Returns the shape of the condition as a further argument of a network; () without one."""
    return (jax.ShapeDtypeStruct((condition_dim,), jnp.float32),) if condition_dim else ()


def check_signatures(encoder: Network, decoder: Network, condition_dim: int) -> None:
    """Raises `ValueError` unless the networks take the condition, or take none where there is none.

    Stochastic networks take the keyword `key`. Modules of Flax, whose adapters pass on all arguments, are checked when they are
    called.
    """
    for role, name, network in (("encoder", "x", encoder), ("decoder", "z", decoder)):
        try:
            signature = inspect.signature(network.apply)
        except (TypeError, ValueError):
            continue
        inputs = f"(params, {name}{', c' * bool(condition_dim)}"
        has_key = "key" in signature.parameters or any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        if networks.takes_key(network) and not has_key:
            raise ValueError(
                f"make_vae: expected the {role} to be a function {inputs}, *, key=None), because it is_stochastic, got "
                f"{signature}. Give it a keyword argument key, which is None in evaluation, or leave out is_stochastic=True."
            )
        if not networks.takes_key(network) and "key" in signature.parameters:
            raise ValueError(
                f"make_vae: the {role} {signature} takes a key, but it is not stochastic, so it would never get one. Write "
                "networks.Network(init, apply, is_stochastic=True), or leave out its argument key."
            )
        signature = signature.replace(parameters=[p for p in signature.parameters.values() if p.name != "key"])
        takes_condition, takes_none = (accepts(signature, count) for count in (3, 2))
        if condition_dim and takes_none and not takes_condition:
            raise ValueError(
                f"make_vae: expected the {role} to be a function (params, {name}, c), because condition_dim is "
                f"{condition_dim}, got {signature}. Give it the condition as its last argument, or leave out condition_dim."
            )
        if not condition_dim and takes_condition and not takes_none:
            raise ValueError(
                f"make_vae: expected the {role} to be a function (params, {name}), because there is no condition, got "
                f"{signature}. Pass condition_dim=, or leave out its last argument."
            )


def condition_arguments(function: str, condition_dim: int, condition: ArrayLike | None) -> tuple[Array, ...]:
    """Returns the condition as a further argument of a network; () for a model without one.

    Raises:
      ValueError: a condition that is missing, that the model does not take, of a wrong shape, or of integers.
    """
    if condition is None and not condition_dim:
        return ()
    if condition is None:
        call = "vae.encode(params, Example(x, condition=c))" if function == "encode" else "vae.decode(params, z, c)"
        raise ValueError(f"{function}: expected a condition c of shape ({condition_dim},), got none. Call {call}.")
    try:
        condition = jnp.asarray(condition)
    except TypeError as error:
        raise ValueError(
            f"{function}: expected the condition as numbers, got {condition!r:.60}. Words become numbers by data.from_arrays "
            "(condition=...)."
        ) from error
    shape, dtype = condition.shape, condition.dtype
    if not condition_dim:
        length = shape[0] if len(shape) == 1 else "its length"
        raise ValueError(
            f"{function}: this model has no condition, got one of shape {shape}. Leave it out, or make the model with "
            f"condition_dim={length}."
        )
    expected = f"{function}: expected one condition of shape ({condition_dim},), got"
    if shape[1:] == (condition_dim,):
        call = "vae.encode, in_axes=(None, 0))(params, Example(x_batch, condition=c_batch))"
        call = call if function == "encode" else "vae.decode, in_axes=(None, 0, 0))(params, z_batch, c_batch)"
        raise ValueError(f"{expected} shape {shape}. For a batch use jax.vmap({call}.")
    if jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(
            f"{expected} {dtype} of shape {shape}, such as labels. A category is a one-hot vector of floats: pass "
            f"jax.nn.one_hot(label, {condition_dim}), or what prepared.condition.expand makes of several columns."
        )
    if shape != (condition_dim,):
        raise ValueError(
            f"{expected} shape {shape}. Conditions as they are stored, one number for each column, become such vectors by "
            "prepared.condition.expand(stored)."
        )
    return (condition.astype(jnp.float32) if dtype == jnp.bool_ else condition,)


def check_mask(function: str, data_shape: tuple[int, ...], mask: ArrayLike | None) -> Array | None:
    """Returns the mask of one example as an array.

    Raises:
      ValueError: a mask of a different shape from the event's, or not of booleans.
    """
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    if mask.shape != data_shape:
        batch = " For a batch use jax.vmap over an Example of batches." if mask.shape[1:] == data_shape else ""
        raise ValueError(
            f"{function}: expected a mask of the event's shape {data_shape}, True where an entry is observed, got shape "
            f"{mask.shape}.{batch or ' Pass jnp.broadcast_to(mask, x.shape) where entries share it.'}"
        )
    if mask.dtype != jnp.bool_:
        raise ValueError(
            f"{function}: expected a mask of booleans, True where an entry is observed, got {mask.dtype}. Pass "
            "mask.astype(bool) if its ones mark observed entries."
        )
    return mask


def infer_latent_dim(
    encoder: Network,
    params: Params,
    x: jax.ShapeDtypeStruct,
    condition: tuple[jax.ShapeDtypeStruct, ...] = (),
    mask_input: bool = False,
    posterior: Posterior | None = None,
) -> int:
    """Returns the number of latent dimensions, which is the length of the encoder's mean.

    Args:
      encoder, params: the encoder.
      x: shape of one example as the encoder sees it, with the mask behind its numbers for `mask_input`.
      condition: shape of the condition, or ().
      mask_input: whether x includes the mask.
      posterior: the family of q(z|x); None: the diagonal one. One with a `latent_dim` takes what the encoder returns as it is.

    Raises:
      ValueError: the encoder does not return (mean, log_scale) of one example, in floats, and the further numbers that the
        posterior takes.
    """
    q = evaluate_shapes(
        encoder.apply,
        params,
        x,
        *condition,
        problem=f"make_vae: the encoder fails on one example of shape {x.shape}"
        + (", which is that of the data with the mask behind it (mask_input)" if mask_input else "")
        + f"{',' * (mask_input and bool(condition))}{_and_condition(condition)}.",
        advice=" It sees ONE example, without a batch axis: flatten by x.reshape(-1), for example."
        + (f" Its second argument is the condition, of shape {condition[0].shape}." if condition else ""),
    )
    if posterior is not None and posterior.latent_dim is not None:
        _check_floats(jax.tree.leaves(q))
        return posterior.latent_dim
    num_extra, name = (0, "diagonal") if posterior is None else (posterior.num_extra, posterior.name)
    returned = list(q) if isinstance(q, tuple | list) else []
    shapes = [getattr(leaf, "shape", None) for leaf in returned]
    further = [(num_extra,)] if num_extra else []
    if len(shapes) < 2 or shapes[0] is None or shapes[0] != shapes[1] or len(shapes[0]) != 1 or shapes[2:] != further:
        got = f"a tuple with shapes {shapes}" if returned else f"{_describe(q)} in place of a {'triple' if further else 'pair'}"
        expected = "(mean, log_scale), each of shape (latent,),"
        if further:
            expected = (
                f"(mean, log_scale, extra), of shapes (latent,), (latent,) and ({num_extra},) for the posterior {name!r},"
            )
        advice = f" Pass num_extra={num_extra} to networks.mlp_encoder." if further else ""
        raise ValueError(
            f"make_vae: expected the encoder to return {expected} for one example of shape {x.shape}, got {got}. The network "
            f"sees ONE example, without a batch axis: flatten by x.reshape(-1), for example.{advice}"
        )
    _check_floats(returned)
    return shapes[0][0]


def _check_floats(returned: list[jax.ShapeDtypeStruct]) -> None:
    if wrong := [str(leaf.dtype) for leaf in returned if not jnp.issubdtype(leaf.dtype, jnp.floating)]:
        raise ValueError(
            f"make_vae: expected the encoder to return floats, got {wrong[0]}. Return (mean, log_scale) in float32."
        )


def _and_condition(condition: tuple[jax.ShapeDtypeStruct, ...]) -> str:
    return f" and one condition of shape {condition[0].shape}" if condition else ""


def output_shapes(
    decode: Callable[..., DecoderOutput],
    params: Params,
    inner_dim: int,
    latent_dim: int,
    condition: tuple[jax.ShapeDtypeStruct, ...] = (),
) -> DecoderOutput:
    """Returns the shapes of the output of `decode`.

    Args:
      decode: (params, code, *condition) -> decoder output.
      params: parameters, or their shapes.
      inner_dim: number of latent dimensions of the encoder, which the message names.
      latent_dim: number of latent dimensions of a code, including the auxiliary ones of the prior.
      condition: shape of the condition, or ().

    Raises:
      ValueError: the decoder does not accept the codes of the encoder, or does not return floats.
    """
    code = jax.ShapeDtypeStruct((latent_dim,), jnp.float32)
    problem = f"make_vae: the decoder fails on one code of shape ({inner_dim},), which is what the encoder gives"
    problem += f"{',' * bool(condition)}{_and_condition(condition)}."
    advice = f" Make it for {inner_dim} latent dimensions and ONE code, without a batch axis."
    advice += f" Its second argument is the condition, of shape {condition[0].shape}." if condition else ""
    output = evaluate_shapes(decode, params, code, *condition, problem=problem, advice=advice)
    for leaf in jax.tree.leaves(output):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(f"make_vae: expected the decoder to return floats for the likelihood, got {leaf.dtype}.")
    return output


def check_likelihood(likelihood: Likelihood, output: DecoderOutput, x: jax.ShapeDtypeStruct) -> None:
    """Raises `ValueError` unless `log_prob` returns a scalar for this decoder output and example."""
    log_prob = jax.eval_shape(likelihood.log_prob, output, x)
    if getattr(log_prob, "shape", None) != ():
        raise ValueError(
            f"make_vae: expected the likelihood {likelihood.name!r} to return a scalar (nats summed over one example), "
            f"got {getattr(log_prob, 'shape', type(log_prob).__name__)}. Sum over the event inside it; do not average."
        )


def evaluate_shapes(function: Callable[..., PyTree], *arguments: PyTree, problem: str, advice: str = "") -> PyTree:
    """Evaluates shapes; an error in the user's network becomes one sentence, with the original error as its cause."""
    try:
        return jax.eval_shape(function, *arguments)
    except UserError as error:
        raise ValueError(f"{problem} {error}") from None
    except Exception as error:
        raise ValueError(f"{problem}{advice} The {type(error).__name__} above says where.") from error


def _describe(value: PyTree) -> str:
    return f"an array of shape {value.shape}" if hasattr(value, "shape") else f"a {type(value).__name__}"


def check_code(z: Array, latent_dim: int, condition_dim: int) -> None:
    """Raises `ValueError` unless z is one code."""
    if jnp.shape(z) != (latent_dim,):
        raise ValueError(wrong_shape("decode", "code", (latent_dim,), jnp.shape(z), condition_dim))


def wrong_shape(function: str, kind: str, expected: tuple[int, ...], got: tuple[int, ...], condition_dim: int = 0) -> str:
    """Returns the message for an array of the wrong shape, with the advice to use `vmap` if it is a batch."""
    message = f"{function}: expected one {kind} of shape {expected}, got shape {got}."
    if got[1:] != expected:
        return message
    if function == "log_prob":
        return f"{message} For a batch use jax.vmap(vae.likelihood.log_prob)(decoder_outputs, x_batch)."
    if condition_dim:
        return f"{message} For a batch use jax.vmap(vae.decode, in_axes=(None, 0, 0))(params, z_batch, c_batch)."
    return f"{message} For a batch use jax.vmap(vae.{function}, in_axes=(None, 0))(params, batch)."


def check_example(function: str, likelihood: Likelihood, data_shape: tuple[int, ...], x: PyTree) -> Examples:
    """Returns one example as the model takes it, in floats. Of an `Example`, the event is checked and converted.

    Raises:
      ValueError: the example holds integers on a different scale from the model's, or it is a batch.
    """
    if isinstance(x, Example):
        if function == "log_prob":
            raise ValueError(
                "log_prob: expected the event as an array, got an Example. Call "
                "model.bind(vae, params, x).log_prob(output, x.event), which leaves out missing entries."
            )
        event = check_example(function, likelihood, data_shape, x.event)
        return dataclasses.replace(x, event=event, mask=check_mask(function, data_shape, x.mask))
    x = x if hasattr(x, "dtype") else jnp.asarray(x)
    dtype = x.dtype
    # Counts are integers on the scale of the model, and a boolean cannot be anything but 0 or 1.
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


def checked_log_prob(likelihood: Likelihood, data_shape: tuple[int, ...]) -> Callable[[DecoderOutput, Array], Array]:
    """Returns the likelihood's `log_prob` with a check of its input, because it would silently add up a whole batch."""
    log_prob = likelihood.log_prob

    def one_example(output: DecoderOutput, x: Array) -> Array:
        return log_prob(output, check_example("log_prob", likelihood, data_shape, x))

    return one_example
