"""Recognizes Flax layers that are wrong for one example without a batch axis, at trace time.

Flax's GroupNorm and InstanceNorm take the first axis of their input for the batch: of one image (height, width, channels) they
normalize each row apart, without an error. An active Dropout needs random numbers, which a function of parameters and one
example does not have.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen, nnx

from vae_jax.errors import UserError

DROPOUT = (
    "draws random numbers (an active Dropout, or a stored random stream), but here a network is a function of its parameters "
    "and one example. Switch Dropout off with deterministic=True; noise belongs to the posterior's draw of z or to train_input."
)


def _first_axis_is_batch(layer: Any, x: Any) -> bool:
    """Returns true where the layer takes the first axis of x for the batch, although it holds more than one entry."""
    shape = jnp.shape(x)
    return getattr(layer, "reduction_axes", None) is None and len(shape) > 1 and shape[0] != 1


def _refuse_rows(adapter: str, layer: Any, x: Any, remedies: dict[str, str]) -> None:
    shape = jnp.shape(x)
    name = next(base for base in ("GroupNorm", "InstanceNorm") if base in {cls.__name__ for cls in type(layer).__mro__})
    last = f"({', '.join(str(axis) for axis in range(-len(shape), 0))})"
    inner = f"({', '.join(str(axis) for axis in range(-len(shape), -1))}{',' * (len(shape) == 2)})"
    raise UserError(
        f"{adapter}: {name} takes the first axis of its input {shape} for the batch, so it would normalize each entry of that "
        f"axis apart; a network sees one example, without a batch axis. {remedies[name].format(all_axes=last, inner=inner)}"
    )


def _is_active(layer: Any, deterministic: bool | None) -> bool:
    said = layer.deterministic if deterministic is None else deterministic
    return layer.rate > 0 and not said


_LINEN_REMEDIES = {
    "GroupNorm": "Name the axes: GroupNorm(..., reduction_axes={all_axes}).",
    "InstanceNorm": "Use LayerNorm(reduction_axes={inner}, feature_axes=-1), which is InstanceNorm of one example.",
}


def check_linen_call(
    next_function: Callable[..., Any], args: Any, kwargs: Any, context: linen.module.InterceptorContext
) -> Any:
    """An interceptor for `linen.intercept_methods`; raises `UserError` for a layer that is wrong for one example."""
    layer = context.module
    if context.method_name == "__call__":
        if isinstance(layer, linen.GroupNorm | linen.InstanceNorm) and args and _first_axis_is_batch(layer, args[0]):
            _refuse_rows("from_linen", layer, args[0], _LINEN_REMEDIES)
        has_key = len(args) > 2 or kwargs.get("rng") is not None
        said = args[1] if len(args) > 1 else kwargs.get("deterministic")
        if isinstance(layer, linen.Dropout) and not has_key and _is_active(layer, said):
            raise UserError(f"from_linen: the module {DROPOUT}")
    return next_function(*args, **kwargs)


# NNX's GroupNorm repeats its statistics along axis 1 (flax 0.12.8), so with named axes it fails on one example: a batch axis of
# one is the way for both layers.
_NNX_REMEDY = "Give it a batch axis of one: norm(x[None])[0]."
_NNX_REMEDIES = {"GroupNorm": _NNX_REMEDY, "InstanceNorm": _NNX_REMEDY}


def _check_nnx_norm(layer: Any, x: Any, **_: Any) -> None:
    if _first_axis_is_batch(layer, x) or jnp.ndim(x) == 1:
        _refuse_rows("from_nnx", layer, x, _NNX_REMEDIES)


def _check_nnx_dropout(layer: Any, inputs: Any, *, deterministic: bool | None = None, **_: Any) -> None:
    if _is_active(layer, deterministic):
        raise UserError(f"from_nnx: the module {DROPOUT}")


@functools.cache
def _checked(cls: type, check: Callable[..., None]) -> type:
    """A subclass of an NNX layer that looks at its input before each call."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        check(self, *args, **kwargs)
        return cls.__call__(self, *args, **kwargs)

    return type(cls)(cls.__name__, (cls,), {"__call__": call})


def check_nnx_calls(module: nnx.Module) -> None:
    """Makes the layers of a freshly merged module raise `UserError` where they are called wrongly for one example.

    NNX has no interceptors, so the layers get a subclass of their own class; nobody else holds this copy of the module.
    """
    checks = ((nnx.GroupNorm, _check_nnx_norm), (nnx.InstanceNorm, _check_nnx_norm), (nnx.Dropout, _check_nnx_dropout))
    for _, layer in nnx.iter_modules(module):
        for cls, check in checks:
            if isinstance(layer, cls):
                object.__setattr__(layer, "__class__", _checked(type(layer), check))
