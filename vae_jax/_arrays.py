"""Dtype and shape handling shared by the mathematics. Imports only jax."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike


def promote(*values: ArrayLike) -> tuple[list[Array], DTypeLike]:
    """Bring the inputs of a formula to one dtype of at least float32.

    Half-precision inputs are computed in float32, because sums over hundreds of pixels lose all meaning in bfloat16;
    the caller rounds its result once, to the second value returned. Integers and booleans (stored pixels) become floats.

    Returns:
      The arrays in the dtype to compute in, and the dtype of the result: the widest floating dtype among the inputs,
      Python scalars not counted.
    """
    arrays = [jnp.asarray(value) for value in values]
    strong = [a.dtype for a in arrays if jnp.issubdtype(a.dtype, jnp.floating) and not a.weak_type]
    result = max(strong, key=lambda dtype: jnp.finfo(dtype).bits, default=jnp.zeros(()).dtype)
    compute = result if jnp.finfo(result).bits >= 32 else jnp.dtype("float32")
    return [a.astype(compute) for a in arrays], result


def check_same_shape(function: str, **named: Array) -> None:
    """Raise at trace time, free in compiled code, unless all arrays describe one event of the same shape."""
    shapes = {name: array.shape for name, array in named.items()}
    if len(set(shapes.values())) > 1:
        got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"{function}: expected one example with equal shapes, got {got}. "
            "The function takes ONE example: use jax.vmap for a batch."
        )


def broadcast_scale(function: str, log_scale: Array, event: Array) -> Array:
    """A scalar log_scale serves every dimension of the event; any other shape must be the event's own."""
    if log_scale.ndim == 0:
        return jnp.broadcast_to(log_scale, event.shape)
    check_same_shape(function, log_scale=log_scale, event=event)
    return log_scale
