"""Second parameters of likelihoods (scales, dispersions): fixed, or learned for all dimensions, for each column or pixel."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from vae_jax.likelihoods.base import DecoderOutput, ParameterFields, identity, numbers


class SecondParameter(NamedTuple):
    """The second parameter of a likelihood (a scale, a dispersion) on a log scale, and the place where a bundle reads it."""

    split: Callable[[DecoderOutput], tuple[Array, Array | float]]  # decoder_output -> (its first numbers, log of the parameter)
    fill: Callable[[Array], Array]  # first numbers -> an array of the decoder's, with the parameter at its initial value
    fields: ParameterFields


def column_starts(function: str, name: str, start: float | Float[Array, "*shape columns"]) -> Float[Array, "columns"]:
    """Returns the initial log of a parameter for each index of the last axis, the mean of the logs over the other axes."""
    if jnp.ndim(start) == 0:
        raise ValueError(
            f"{function}: expected an array of initial values with {name}='per_column', one for each column, got one number."
        )
    logs, columns = numbers(start), jnp.shape(start)[-1]
    return jnp.asarray([math.fsum(logs[i::columns]) * columns / len(logs) for i in range(columns)], jnp.float32)


def second_parameter(
    function: str,
    name: str,
    value: float | str,
    start: float | Array,
    transform: Callable[[Array], Array] = identity,
    num_first: int = 1,
) -> SecondParameter:
    """Interprets the setting of a second parameter.

    Args:
      function: name of the caller, for the message.
      name: name of the setting, for the message.
      value: the setting. A positive number fixes the parameter. "shared" learns one number for all dimensions. "per_column"
        learns one for each index of the event's last axis. "per_pixel" reads one more decoder output.
      start: log of the parameter before training. It is an array of the event's shape where entries differ. Then the learned
        shared number is the mean of the entries' logs, and their distances from it stay fixed. For "per_column" it is an array
        of the event's shape or of the columns.
      transform: learned log -> the log that acts, such as one with a floor. For "per_column" it takes one number per column.
      num_first: the number of other decoder outputs for each dimension. More than one are on an axis at the end.

    Returns:
      The `SecondParameter`.

    Raises:
      ValueError: the setting is not one of these.
    """
    several: ParameterFields = {} if num_first == 1 else {"outputs_per_dim": num_first}
    if value == "per_column":
        starts = column_starts(function, name, start)

        def split(output: DecoderOutput) -> tuple[Array, Array]:
            event = output[0].shape if num_first == 1 else output[0].shape[:-1]
            return output[0], jnp.broadcast_to(transform(output[1]), event)

        shared_start = tuple(numbers(starts))
        return SecondParameter(split, identity, {"shared_start": shared_start, "shared_values": transform, **several})
    if value == "shared" and isinstance(start, Array):
        level = math.fsum(numbers(start)) / start.size
        offset = start - level
        return SecondParameter(
            lambda output: (output[0], transform(output[1][0]) + offset),
            identity,
            {"shared_start": (level,), "shared_values": lambda learned: transform(learned[0]) + offset.ravel(), **several},
        )
    if value == "shared":
        return SecondParameter(
            lambda output: (output[0], transform(output[1][0])),
            identity,
            {"shared_start": (float(start),), "shared_values": transform, **several},
        )
    if value == "per_pixel" and num_first == 1:
        return SecondParameter(
            lambda output: (output[..., 0], transform(start + output[..., 1])),
            lambda first: jnp.stack([first, jnp.zeros_like(first)], axis=-1),
            {"outputs_per_dim": 2},
        )
    if value == "per_pixel":
        return SecondParameter(
            lambda output: (output[..., :-1], transform(start + output[..., -1])),
            lambda first: jnp.concatenate([first, jnp.zeros_like(first[..., :1])], axis=-1),
            {"outputs_per_dim": num_first + 1},
        )
    if isinstance(value, str) or not (value > 0 and math.isfinite(value)):
        raise ValueError(
            f"{function}: expected {name} to be a positive number, 'shared', 'per_column' or 'per_pixel', got {value!r}."
        )
    fixed = math.log(value)
    return SecondParameter(lambda output: (output, fixed), identity, several)
