"""Detects Flax layers that compute the wrong function of one example without a batch axis, at trace time.

Flax's GroupNorm and InstanceNorm take the first axis of their input for the batch. They would normalize each row of one image
(height, width, channels) separately, without an error. An active Dropout needs random numbers, which a network has in training
only. In evaluation it is switched off here.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax import Array

from vae_jax.errors import UserError

LINEN_NOISE = (
    "from_linen: the module draws random numbers (such as an active Dropout), but it was adapted without a stream of them. "
    "Write from_linen(..., rngs=({name!r},)): it then draws in training, and not in evaluation. Or switch Dropout off with "
    "deterministic=True."
)
NNX_DROPOUT = (
    "from_nnx: the module has an active Dropout without a stream of random numbers. Write nnx.Dropout(rate, rngs=rngs): it "
    "then draws in training, and not in evaluation. Or switch it off with deterministic=True."
)

NormLayer = linen.GroupNorm | linen.InstanceNorm | nnx.GroupNorm | nnx.InstanceNorm
DropoutLayer = linen.Dropout | nnx.Dropout
Input = Array | np.ndarray
Arguments: TypeAlias = tuple[Any, ...]
Keywords: TypeAlias = dict[str, Any]


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
    next_function: Callable[..., object],
    args: Arguments,
    kwargs: Keywords,
    context: linen.module.InterceptorContext,
) -> object:
    """Calls a method of a Linen module, or raises `UserError` for a layer that is wrong for one example.

    An interceptor for `linen.intercept_methods`, for networks without random numbers.
    """
    layer = context.module
    if context.method_name == "__call__":
        _check_linen_norm(layer, args)
        has_key = len(args) > 2 or kwargs.get("rng") is not None
        deterministic = args[1] if len(args) > 1 else kwargs.get("deterministic")
        if not isinstance(deterministic, bool | None):
            deterministic = None  # the condition, which a user's subclass takes as its second argument
        is_unsaid = isinstance(layer, linen.Dropout) and layer.deterministic is None and deterministic is None
        if isinstance(layer, linen.Dropout) and not has_key and (is_unsaid or _is_active(layer, deterministic)):
            raise UserError(LINEN_NOISE.format(name=layer.rng_collection))
        if isinstance(layer, linen.MultiHeadDotProductAttention) and layer.dropout_rate > 0:
            bound = _bind(context.orig_method, args, kwargs)
            deterministic = None if bound is None else bound.arguments.get("deterministic")
            if not (layer.deterministic if deterministic is None else deterministic):
                raise UserError(LINEN_NOISE.format(name="dropout"))
    return next_function(*args, **kwargs)


def trained_linen_call(
    next_function: Callable[..., object],
    args: Arguments,
    kwargs: Keywords,
    context: linen.module.InterceptorContext,
) -> object:
    """Calls a method of a Linen module in training: modules that do not say whether they are deterministic are not.

    An interceptor for `linen.intercept_methods`, like `evaluated_linen_call`.
    """
    layer = context.module
    if context.method_name != "__call__":
        return next_function(*args, **kwargs)
    _check_linen_norm(layer, args)
    bound = _bind(context.orig_method, args, kwargs)
    is_said = bound is not None and bound.arguments.get("deterministic") is not None
    if is_said or not _has_mode(layer) or getattr(layer, "deterministic", None) is not None:
        return next_function(*args, **kwargs)
    return _call_with_mode(layer, False, next_function, args, kwargs)


def evaluated_linen_call(
    next_function: Callable[..., object],
    args: Arguments,
    kwargs: Keywords,
    context: linen.module.InterceptorContext,
) -> object:
    """Calls a method of a Linen module in evaluation: all with a field `deterministic` are deterministic, whatever they say."""
    layer = context.module
    if context.method_name != "__call__":
        return next_function(*args, **kwargs)
    _check_linen_norm(layer, args)
    if not _has_mode(layer):
        return next_function(*args, **kwargs)
    bound = _bind(context.orig_method, args, kwargs)
    if bound is not None and bound.arguments.get("deterministic") is not None:
        # Flax's layers refuse an argument beside the field. A user's module may have the field for a different purpose.
        is_flax = isinstance(layer, linen.Dropout | linen.MultiHeadDotProductAttention)
        bound.arguments["deterministic"] = None if is_flax else True
        if not is_flax:
            return next_function(*bound.args, **bound.kwargs)
        args, kwargs = bound.args, bound.kwargs
    return _call_with_mode(layer, True, next_function, args, kwargs)


def _has_mode(layer: linen.Module) -> bool:
    return "deterministic" in {field.name for field in dataclasses.fields(layer)}


def _bind(method: Callable[..., object], args: Arguments, kwargs: Keywords) -> inspect.BoundArguments | None:
    """Returns the arguments of a call by their names; None for a call that fails, which Python then reports."""
    try:
        return inspect.signature(method).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return None


def _call_with_mode(
    layer: linen.Module,
    deterministic: bool,
    next_function: Callable[..., object],
    args: Arguments,
    kwargs: Keywords,
) -> object:
    """Calls a method while the field `deterministic` of its module, a frozen dataclass, has this value."""
    before = getattr(layer, "deterministic", None)
    object.__setattr__(layer, "deterministic", deterministic)
    try:
        return next_function(*args, **kwargs)
    finally:
        object.__setattr__(layer, "deterministic", before)


def _check_linen_norm(layer: linen.Module, args: Arguments) -> None:
    if isinstance(layer, linen.GroupNorm | linen.InstanceNorm) and args and _is_first_axis_batch(layer, args[0]):
        _raise_batch_axis_error("from_linen", layer, args[0], _LINEN_REMEDIES)


# NNX's GroupNorm repeats its statistics along axis 1 (flax 0.12.8), so with named axes it fails on one example. Both layers
# work with a batch axis of one.
_NNX_REMEDY = "Give it a batch axis of one: norm(x[None])[0]."
_NNX_REMEDIES = {"GroupNorm": _NNX_REMEDY, "InstanceNorm": _NNX_REMEDY}


# A user's subclass of a layer may take further arguments, such as the condition.
def _check_nnx_norm(layer: nnx.GroupNorm | nnx.InstanceNorm, x: Input, *_: object, **__: object) -> None:
    if _is_first_axis_batch(layer, x) or jnp.ndim(x) == 1:
        _raise_batch_axis_error("from_nnx", layer, x, _NNX_REMEDIES)


def _check_nnx_dropout(
    layer: nnx.Dropout, inputs: Input, *_: object, deterministic: bool | None = None, rngs: object = None, **__: object
) -> None:
    if _is_active(layer, deterministic) and layer.rngs is None and rngs is None:
        raise UserError(NNX_DROPOUT)


@functools.cache
def _checked(cls: type, check: Callable[..., None], is_evaluated: bool) -> type:
    """Returns a subclass of an NNX layer that checks its input before each call, and is deterministic in evaluation."""

    @functools.wraps(cls.__call__)  # nnx.Sequential passes `rngs` to layers whose signature has them
    def call(self: nnx.Module, *args: Any, **kwargs: Any) -> object:
        if is_evaluated and "deterministic" in kwargs:
            kwargs["deterministic"] = True
        check(self, *args, **kwargs)
        return cls.__call__(self, *args, **kwargs)

    return type(cls)(cls.__name__, (cls,), {"__call__": call})


def check_nnx_calls(module: nnx.Module, is_evaluated: bool) -> None:
    """Makes the layers of a freshly merged module raise `UserError` if they are called wrongly for one example.

    NNX has no interceptors (flax 0.12), so the class of each such layer is replaced by a subclass of it. This is safe because
    nothing else refers to this copy of the module. The function can be deleted once NNX offers interceptors.

    Args:
      module: the module.
      is_evaluated: whether calls of Dropout and attention with deterministic=False are deterministic nevertheless.
    """
    checks: tuple[tuple[type, Callable[..., None]], ...] = (
        (nnx.GroupNorm, _check_nnx_norm),
        (nnx.InstanceNorm, _check_nnx_norm),
        (nnx.Dropout, _check_nnx_dropout),
        (nnx.MultiHeadAttention, _accept),
    )
    for _, layer in nnx.iter_modules(module):
        for cls, check in checks:
            if isinstance(layer, cls):
                mode = is_evaluated and cls in (nnx.Dropout, nnx.MultiHeadAttention)
                object.__setattr__(layer, "__class__", _checked(type(layer), check, mode))


def _accept(layer: nnx.Module, *_: object, **__: object) -> None: ...


def lacks_stream(module: nnx.Module) -> bool:
    """Returns true if a module has an active Dropout without a stream of random numbers."""
    layers = [layer for _, layer in nnx.iter_modules(module) if isinstance(layer, nnx.Dropout)]
    return any(layer.rngs is None and _is_active(layer, None) for layer in layers)
