"""`Network`: what the rest of the package sees of a neural network; made from any Linen or NNX module."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.errors
import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax.errors import UserError
from vae_jax.networks.layer_checks import DROPOUT, check_linen_call, check_nnx_calls

Params = Any  # a pytree of arrays


class Network(NamedTuple):
    """A network as two pure functions of one example."""

    init: Callable[[Array], Params]  # key -> params
    apply: Callable[[Params, Array], Any]  # (params, one example's input) -> output


def from_linen(module: linen.Module, input_shape: tuple[int, ...]) -> Network:
    """Adapts a Linen module that maps one example (no batch axis) of `input_shape` in float32.

    GroupNorm needs `reduction_axes=(-3, -2, -1)` for one image, because it takes the first axis for the batch otherwise.

    Raises:
      UserError: at once for what is not a Linen module. At `init` for a module that keeps state besides its parameters
        (BatchNorm, cached statistics), for an active Dropout, and for GroupNorm or InstanceNorm that would take the first axis
        of an example for the batch. At `apply` for an input of another shape.
    """
    _expect_linen(module)
    if isinstance(input_shape, int):
        raise UserError(f"from_linen: expected input_shape as a tuple, got {input_shape}. Write ({input_shape},).")
    input_shape = tuple(input_shape)

    def init(key: Array) -> Params:
        with linen.intercept_methods(check_linen_call):
            variables = module.init(key, jnp.zeros(input_shape))
        if extra := sorted(set(variables) - {"params"}):
            what = (
                "Batch statistics depend on other examples: use LayerNorm, or GroupNorm with reduction_axes=(-3, -2, -1)."
                if "batch_stats" in extra
                else "What a module remembers from call to call is not kept here: remove it."
            )
            raise UserError(
                f"from_linen: expected a module with parameters only, got {_joined(extra)} as well. A network is a function of "
                f"its parameters and one example. {what}"
            )
        return variables.get("params", {})

    def apply(params: Params, x: Array) -> Any:
        if jnp.shape(x) != input_shape:
            raise UserError(
                f"from_linen: expected an input of shape {input_shape}, for which the module was adapted, got {jnp.shape(x)}. "
                "Adapt it for that shape, or give it such an input."
            )
        try:
            return module.apply({"params": params}, x)
        except flax.errors.InvalidRngError:
            raise UserError(f"from_linen: the module {DROPOUT}") from None

    return Network(init, apply)


def _joined(collections: list[str]) -> str:
    return f"the collection{'s' * (len(collections) > 1)} {' and '.join(collections)}"


def from_nnx(module: nnx.Module | Callable[[nnx.Rngs], nnx.Module]) -> Network:
    """Adapts an NNX module that maps one example (no batch axis).

    The module is split once, here; what runs inside `jax.jit` is a merge of plain arrays, never `nnx.jit`, which
    costs 300 microseconds a call. Only `nnx.Param` variables are trained. Other arrays (attributes, other variables, random
    streams that are stored but not drawn from) are constants; with a function of rngs they are those of seed 0 for all seeds.

    GroupNorm and InstanceNorm need a batch axis of one, `norm(x[None])[0]`, because they take the first axis for the batch.

    Args:
      module: an NNX module, whose present parameters `init` then returns whatever the key (so all seeds start alike); or
        a function `rngs -> module` such as `lambda rngs: Encoder(10, rngs=rngs)`, with which every key gives its own start.

    Raises:
      UserError: at once for what is neither, and for a module with batch statistics (BatchNorm). At `apply` for a call that
        changes a variable (a random stream, a cache), for an active Dropout, and for GroupNorm or InstanceNorm that would take
        the first axis of an example for the batch.
    """
    if isinstance(module, nnx.Module):
        graphdef, initial, constants = _split(module)
        # A copy, so that a training loop that donates its state does not delete the user's own arrays.
        init = lambda key: jax.tree.map(jnp.copy, initial)  # noqa: E731
    else:
        # The generator is named, so that the constants do not depend on JAX_DEFAULT_PRNG_IMPL.
        graphdef, _, constants = _split(_made(module, stream(0, Stream.INIT)))
        init = lambda key: _split(_made(module, key))[1]  # noqa: E731

    def apply(params: Params, x: Array) -> Any:
        merged = nnx.merge(graphdef, params, constants)
        check_nnx_calls(merged)
        output = merged(x)
        _check_unchanged(constants, nnx.split(merged, nnx.Param, ...)[2])
        return output

    return Network(init, apply)


def check_network(role: str, network: Any) -> None:
    """Raises `UserError` unless this is a `Network`, or a pair of functions that serves as one; `role` is for the message."""
    is_class = isinstance(network, type)
    base = network if is_class else type(network)
    pair = not is_class and all(callable(getattr(network, name, None)) for name in ("init", "apply"))
    if pair and not issubclass(base, linen.Module | nnx.Module):
        return
    got = f"the class {base.__name__}" if is_class else _kind(network)
    if issubclass(base, linen.Module):
        advice = f"Adapt it: networks.from_linen({base.__name__}(...), input_shape)."
    elif issubclass(base, nnx.Module):
        advice = f"Adapt it: networks.from_nnx(lambda rngs: {base.__name__}(..., rngs=rngs))."
    else:
        advice = "A function f without parameters becomes one by networks.Network(lambda key: {}, lambda params, x: f(x))."
    raise UserError(f"make_vae: expected the {role} as a networks.Network (init, apply), got {got}. {advice}")


def _expect_linen(module: Any) -> None:
    if isinstance(module, linen.Module):
        return
    expected = "from_linen: expected an instance of a flax.linen.Module"
    if isinstance(module, type):
        name = module.__name__
        if issubclass(module, linen.Module):
            raise UserError(f"{expected}, got the class {name}. Make one: from_linen({name}(...), input_shape).")
        raise UserError(f"{expected}, got the class {name}{_other_adapter(issubclass(module, nnx.Module))}.")
    raise UserError(f"{expected}, got {_kind(module)}{_other_adapter(isinstance(module, nnx.Module))}.")


def _other_adapter(is_nnx: bool) -> str:
    return ", which is NNX: use from_nnx(module)" if is_nnx else ""


def _kind(value: Any) -> str:
    if isinstance(value, linen.Module | nnx.Module):
        return f"the module {type(value).__name__}"
    return "a function" if callable(value) else f"an object of type {type(value).__name__}"


def _made(function: Any, key: Array) -> nnx.Module:
    """The module that a user's function of rngs makes."""
    expected = "from_nnx: expected an instance of an nnx.Module, or a function rngs -> module"
    if isinstance(function, linen.Module) or (isinstance(function, type) and issubclass(function, linen.Module)):
        raise UserError(f"{expected}, got a Linen module: use from_linen(module, input_shape).")
    if not callable(function):
        raise UserError(f"{expected}, got {_kind(function)}.")
    try:
        module = function(nnx.Rngs(key))
    except TypeError as error:
        if not isinstance(function, type):
            raise
        name = function.__name__
        raise UserError(
            f"{expected}, got the class {name}, which cannot be called with rngs alone. "
            f"Make one: from_nnx(lambda rngs: {name}(..., rngs=rngs))."
        ) from error
    if not isinstance(module, nnx.Module):
        raise UserError(f"{expected}, got a function that returns {_kind(module)}.")
    return module


def _split(module: nnx.Module) -> tuple[Any, Params, Any]:
    """(structure, trained parameters, constants), the last two as nested dictionaries of arrays."""
    graphdef, params, other = nnx.split(module, nnx.Param, ...)
    if any(isinstance(leaf, nnx.BatchStat) for leaf in _by_path(other).values()):
        raise UserError(
            "from_nnx: expected a module whose output is a function of its parameters and one example, got batch statistics "
            "(nnx.BatchStat), which depend on other examples. Use LayerNorm, or GroupNorm with a batch axis of one: "
            "norm(x[None])[0]."
        )
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(other)


def _by_path(state: Any) -> dict[str, Any]:
    """Variables and plain arrays of a state, or arrays of a nested dictionary, by their path."""
    found = jax.tree.leaves_with_path(state, is_leaf=lambda node: isinstance(node, nnx.Variable))
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in found}


def _check_unchanged(constants: Any, state: Any) -> None:
    """Raises `UserError` where a call has replaced one of the arrays that are not trained; those that it adds are dropped."""
    after, kinds = _by_path(nnx.to_pure_dict(state)), _by_path(state)
    for path, array in _by_path(constants).items():
        if after.get(path, array) is array:
            continue
        if isinstance(kinds.get(path), nnx.RngState):
            raise UserError(f"from_nnx: the module {DROPOUT}")
        raise UserError(
            f"from_nnx: a call changed {path}, but a network is a function of its parameters and one example, and what it "
            "remembers is not kept. Leave such variables as they are, or make them nnx.Param to train them."
        )
