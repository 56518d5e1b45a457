"""Detects Flax layers that compute the wrong function of one example without a batch axis, at trace time.

Flax's GroupNorm and InstanceNorm take the first axis of their input for the batch. They would normalize each row of one image
(height, width, channels) separately, without an error. An active Dropout needs random numbers, which a function of parameters
and one example does not have.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax import Array

from vae_jax.errors import UserError

DROPOUT = (
    "draws random numbers (an active Dropout, or a stored random stream), but here a network is a function of its parameters "
    "and one example. Switch Dropout off with deterministic=True. Noise belongs in the posterior's draw of z or in train_input."
)


NormLayer = linen.GroupNorm | linen.InstanceNorm | nnx.GroupNorm | nnx.InstanceNorm
DropoutLayer = linen.Dropout | nnx.Dropout
Input = Array | np.ndarray


def _is_first_axis_batch(layer: NormLayer, x: Input) -> bool:
    """Returns true if the layer takes the first axis of x for the batch although this axis has more than one entry."""
    shape = jnp.shape(x)
    return getattr(layer, "reduction_axes", None) is None and len(shape) > 1 and shape[0] != 1


def _raise_batch_axis_error(adapter: str, layer: NormLayer, x: Input, remedies: dict[str, str]) -> None:
    """Raises `UserError` about a normalization layer that takes the first axis of one example for the batch."""
    shape = jnp.shape(x)
    name = next(base for base in ("GroupNorm", "InstanceNorm") if base in {cls.__name__ for cls in type(layer).__mro__})
    last = f"({', '.join(str(axis) for axis in range(-len(shape), 0))})"
    inner = f"({', '.join(str(axis) for axis in range(-len(shape), -1))}{',' * (len(shape) == 2)})"
    raise UserError(
        f"{adapter}: {name} takes the first axis of its input {shape} for the batch, so it would normalize each entry of that "
        f"axis separately. A network sees one example, without a batch axis. "
        f"{remedies[name].format(all_axes=last, inner=inner)}"
    )


def _is_active(layer: DropoutLayer, deterministic: bool | None) -> bool:
    """Returns true if a Dropout layer called with this argument would draw random numbers."""
    is_deterministic = layer.deterministic if deterministic is None else deterministic
    return layer.rate > 0 and not is_deterministic


_LINEN_REMEDIES = {
    "GroupNorm": "Name the axes: GroupNorm(..., reduction_axes={all_axes}).",
    "InstanceNorm": "Use LayerNorm(reduction_axes={inner}, feature_axes=-1), which is InstanceNorm for one example.",
}


def check_linen_call(
    next_function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: linen.module.InterceptorContext,
) -> Any:
    """Calls a method of a Linen module, or raises `UserError` for a layer that is wrong for one example.

    An interceptor for `linen.intercept_methods`.
    """
    layer = context.module
    if context.method_name == "__call__":
        if isinstance(layer, linen.GroupNorm | linen.InstanceNorm) and args and _is_first_axis_batch(layer, args[0]):
            _raise_batch_axis_error("from_linen", layer, args[0], _LINEN_REMEDIES)
        has_key = len(args) > 2 or kwargs.get("rng") is not None
        deterministic = args[1] if len(args) > 1 else kwargs.get("deterministic")
        if not isinstance(deterministic, bool | None):
            deterministic = None  # the condition, which a user's subclass takes as its second argument
        if isinstance(layer, linen.Dropout) and not has_key and _is_active(layer, deterministic):
            raise UserError(f"from_linen: the module {DROPOUT}")
    return next_function(*args, **kwargs)


# NNX's GroupNorm repeats its statistics along axis 1 (flax 0.12.8), so with named axes it fails on one example. Both layers
# work with a batch axis of one.
_NNX_REMEDY = "Give it a batch axis of one: norm(x[None])[0]."
_NNX_REMEDIES = {"GroupNorm": _NNX_REMEDY, "InstanceNorm": _NNX_REMEDY}


# A user's subclass of a layer may take further arguments, such as the condition.
def _check_nnx_norm(layer: nnx.GroupNorm | nnx.InstanceNorm, x: Input, *_: object, **__: object) -> None:
    if _is_first_axis_batch(layer, x) or jnp.ndim(x) == 1:
        _raise_batch_axis_error("from_nnx", layer, x, _NNX_REMEDIES)


def _check_nnx_dropout(layer: nnx.Dropout, inputs: Input, *_: object, deterministic: bool | None = None, **__: object) -> None:
    if _is_active(layer, deterministic):
        raise UserError(f"from_nnx: the module {DROPOUT}")


@functools.cache
def _checked(cls: type, check: Callable[..., None]) -> type:
    """Returns a subclass of an NNX layer that checks its input before each call."""

    def call(self: nnx.Module, *args: Any, **kwargs: Any) -> Any:
        check(self, *args, **kwargs)
        return cls.__call__(self, *args, **kwargs)

    return type(cls)(cls.__name__, (cls,), {"__call__": call})


def check_nnx_calls(module: nnx.Module) -> None:
    """Makes the layers of a freshly merged module raise `UserError` if they are called wrongly for one example.

    NNX has no interceptors (flax 0.12), so the class of each such layer is replaced by a subclass of it. This is safe because
    nothing else refers to this copy of the module. The function can be deleted once NNX offers interceptors.
    """
    checks = ((nnx.GroupNorm, _check_nnx_norm), (nnx.InstanceNorm, _check_nnx_norm), (nnx.Dropout, _check_nnx_dropout))
    for _, layer in nnx.iter_modules(module):
        for cls, check in checks:
            if isinstance(layer, cls):
                object.__setattr__(layer, "__class__", _checked(type(layer), check))
