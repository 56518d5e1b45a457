"""`rows_product`: x W for the rows of one example, which `vmap` over examples turns into one product of all their rows.

This module defines a primitive with JAX's extension interfaces (`jax.extend.core`, `jax.interpreters`), which are not covered
by JAX's guarantee of stability.

Why: it equals `x @ W` in value and derivatives. Under `vmap`, however, the rows of `x @ W` lie on two axes (example, row), and
the gradient of W contracts over both. XLA's CPU backend merges them by copying a transposed operand. No composition of JAX's
operations merges the batch axis with another axis under `vmap`. The primitive does: it is linear in both arguments, and its
batching rule merges the axes.

Measured on 2 CPU cores with JAX 0.10.2 and 0.12.0, for the value and gradient of 64 examples of 1024 rows, 64 x 64:

    x @ W                                                                        39 ms
    this primitive                                                               9 to 12 ms
    `jax.custom_batching.custom_vmap` around the product                         11 ms
    `jax.custom_vjp` around such a `custom_vmap`                                 23 to 25 ms

In the 64 x 64 network the copies took a sixth of a training step.

The public `custom_vmap` is not a replacement in either version:
  - It cannot be differentiated without a surrounding `vmap`: `grad(f)` and `vmap(grad(f))` raise "Linearization failed".
  - Its rule must call the plain product to be differentiable, so a second `vmap` over examples brings the two axes back. If the
    rule calls the `custom_vmap` function instead, even `grad(vmap(f))` raises.
  - With `custom_vjp` around it, `vmap` computes a gradient of W for each example and adds them up afterwards, forward-mode
    differentiation fails, and results differ in the last bits.

Delete this module, and call `x @ W`, once XLA's CPU backend contracts over two axes without a copy. The benchmark is
`experiments/benchmarks/training.py` with a convolutional network. Alternatively, replace the primitive by `custom_vmap` once
`jax.grad` of such a function works with and without `vmap`.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


def rows_product(
    x: Float[Array, "*rows channels"], kernel: Float[Array, "channels features"]
) -> Float[Array, "*rows features"]:
    """Computes x @ kernel for two arrays of one dtype."""
    product = _rows_product.bind(x.reshape(-1, x.shape[-1]), kernel)
    return product.reshape(*x.shape[:-1], kernel.shape[1])


def _dot(x: Array, kernel: Array) -> Array:
    return lax.dot_general(x, kernel, (((1,), (0,)), ((), ())))


def _batch(arguments: tuple[Array, Array], axes: tuple[int | None, int | None]) -> tuple[Array, int]:
    """Merges the batch axis of x with its rows if all examples share the kernel."""
    (x, kernel), (x_axis, kernel_axis) = arguments, axes
    if kernel_axis is None:
        assert x_axis is not None
        return rows_product(jnp.moveaxis(x, x_axis, 0), kernel), 0
    return jax.vmap(_dot, in_axes=axes)(x, kernel), 0  # sweep members have different kernels


_rows_product = Primitive("rows_product")
_rows_product.def_impl(_dot)
_rows_product.def_abstract_eval(lambda x, kernel: x.update(shape=(x.shape[0], kernel.shape[1])))
mlir.register_lowering(_rows_product, mlir.lower_fun(_dot, multiple_results=False))
ad.defbilinear(
    _rows_product,
    lambda slope, x, kernel: rows_product(slope, kernel.T),
    lambda slope, x, kernel: lax.dot_general(x, slope, (((0,), (0,)), ((), ()))),
)
batching.primitive_batchers[_rows_product] = _batch
