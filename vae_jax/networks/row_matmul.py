"""`rows_product`: x W for rows of one example, which under `vmap` over examples becomes one product of all their rows.

The same as `x @ W` in value and derivatives. That, under `vmap`, has the rows in two axes (example, row), and the gradient of W
then contracts over both: XLA's CPU backend copies an operand, transposed, to make one axis of them, a sixth of a step of the
64 x 64 network. No composition of JAX's own operations joins the batch axis to another one, so this is a primitive, with its
rules: linear in both arguments, and batched by joining axes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def rows_product(x: Array, kernel: Array) -> Array:
    """(..., channels) by (channels, features) -> (..., features), both of one dtype."""
    return _rows_product.bind(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], kernel.shape[1])


def _dot(x: Array, kernel: Array) -> Array:
    return lax.dot_general(x, kernel, (((1,), (0,)), ((), ())))


def _batch(arguments: tuple[Array, Array], axes: tuple[int | None, int | None]) -> tuple[Array, int]:
    (x, kernel), (x_axis, kernel_axis) = arguments, axes
    if kernel_axis is None:
        assert x_axis is not None
        return rows_product(jnp.moveaxis(x, x_axis, 0), kernel), 0
    return jax.vmap(_dot, in_axes=axes)(x, kernel), 0  # members, each with a kernel of its own


_rows_product: Any = Primitive("rows_product")
_rows_product.def_impl(_dot)
_rows_product.def_abstract_eval(lambda x, kernel: x.update(shape=(x.shape[0], kernel.shape[1])))
mlir.register_lowering(_rows_product, mlir.lower_fun(_dot, multiple_results=False))
ad.defbilinear(
    _rows_product,
    lambda slope, x, kernel: rows_product(slope, kernel.T),
    lambda slope, x, kernel: lax.dot_general(x, slope, (((0,), (0,)), ((), ()))),
)
batching.primitive_batchers[_rows_product] = _batch
