"""`Network`: what the rest of the package sees of a neural network; made from any Linen or NNX module."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax import Array

Params = Any  # a pytree of arrays


class Network(NamedTuple):
    """A network as two pure functions of one example."""

    init: Callable[[Array], Params]  # key -> params
    apply: Callable[[Params, Array], Any]  # (params, one example's input) -> output


def from_linen(module: linen.Module, input_shape: tuple[int, ...]) -> Network:
    """Adapts a Linen module that maps one example (no batch axis) of `input_shape` in float32.

    Raises:
      ValueError: at `init`, if the module keeps state besides its parameters (BatchNorm, cached statistics): one
        example's output would then depend on the others.
    """

    def init(key: Array) -> Params:
        variables = module.init(key, jnp.zeros(input_shape))
        extra = sorted(set(variables) - {"params"})
        if extra:
            raise ValueError(
                f"from_linen: expected a module with parameters only, got the collections {extra} as well. "
                "Batch statistics break one-example semantics: use LayerNorm or GroupNorm."
            )
        return variables.get("params", {})

    return Network(init, lambda params, x: module.apply({"params": params}, x))


def from_nnx(module: nnx.Module | Callable[[nnx.Rngs], nnx.Module]) -> Network:
    """Adapts an NNX module that maps one example (no batch axis).

    The module is split once, here; what runs inside `jax.jit` is a merge of plain arrays, never `nnx.jit`, which
    costs 300 microseconds a call.

    Args:
      module: an NNX module, whose present parameters `init` then returns whatever the key (so all seeds start alike); or
        a function `rngs -> module` such as `lambda rngs: Encoder(10, rngs=rngs)`, with which every key gives its own start.

    Raises:
      ValueError: if the module keeps variables besides its parameters (BatchNorm, Dropout).
    """

    def split(instance: nnx.Module) -> tuple[Any, Params, Any]:
        graphdef, params, other = nnx.split(instance, nnx.Param, ...)
        if jax.tree.leaves(other):
            raise ValueError(
                "from_nnx: expected a module with nnx.Param variables only, got others as well. "
                "Batch statistics break one-example semantics: use LayerNorm or GroupNorm; "
                "random numbers (nnx.Dropout) are drawn outside of the network, with a key."
            )
        return graphdef, nnx.to_pure_dict(params), other

    if isinstance(module, nnx.Module):
        graphdef, initial, empty = split(module)
        # A copy, so that a training loop that donates its state does not delete the user's own arrays.
        init = lambda key: jax.tree.map(jnp.copy, initial)  # noqa: E731
    else:
        graphdef, _, empty = split(module(nnx.Rngs(0)))
        init = lambda key: split(module(nnx.Rngs(key)))[1]  # noqa: E731

    def apply(params: Params, x: Array) -> Any:
        return nnx.merge(graphdef, params, empty)(x)

    return Network(init, apply)
