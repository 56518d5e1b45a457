"""`from_nnx`, which adapts an NNX module as a `Network`."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax.errors import UserError
from vae_jax.networks.base import Network, Output, Params, check_arguments, describe, mode_arguments
from vae_jax.networks.layer_checks import NNX_DROPOUT, check_nnx_calls, lacks_stream

State: TypeAlias = dict[str, Any]  # nested dictionaries of arrays
_CALL_STREAM = 0x7FFFFFFF  # the stream of a module whose `__call__` takes `rngs`; those that it stores count from 0


class _Structure(NamedTuple):
    """A module as arrays and the rest."""

    graphdef: nnx.GraphDef[nnx.Module]
    params: State
    constants: State
    rng_paths: frozenset[str]  # of the keys and counters of random streams among the constants
    takes_rngs: bool  # whether `__call__` takes `rngs`

    @property
    def is_stochastic(self) -> bool:
        return bool(self.rng_paths) or self.takes_rngs


def from_nnx(module: nnx.Module | Callable[[nnx.Rngs], nnx.Module]) -> Network:
    """Adapts an NNX module whose `__call__` takes one example, without a batch axis, and the condition where there is one.

    The module is split once, here. Inside `jax.jit`, plain arrays are merged into it again. `nnx.jit` is never used, because it
    costs 300 microseconds per call. Only `nnx.Param` variables are trained. Other arrays are constants: attributes, other
    variables. If `module` is a function of rngs, the constants are those of seed 0 for all seeds.

    A module that stores random streams, as `nnx.Dropout(rate, rngs=rngs)` does, or whose `__call__` takes `rngs`, is
    stochastic. In training stream i gets fold_in(key, i), in the order of their paths, and counts from 0 in every call. Layers
    draw as they are: one with deterministic=True is off in training as well, so call `module.train()` after a
    `module.eval()`. In evaluation `eval()` sets `deterministic` to True in all modules, your own included, and Dropout that is
    called with deterministic=False is off nevertheless. A parameter `train`, `training`, `is_training` or `deterministic` of
    the module's `__call__` gets its value.

    GroupNorm and InstanceNorm take the first axis for the batch. Give them a batch axis of one: `norm(x[None])[0]`.

    Args:
      module: a function `rngs -> module` such as `lambda rngs: Encoder(10, rngs=rngs)`, which makes different initial
        parameters for every key. Alternatively an NNX module: `init` then returns its present parameters for every key, so all
        seeds start alike.

    Returns:
      A `Network`. Its parameters are the `nnx.Param` variables as nested dictionaries.

    Raises:
      UserError: at once, if `module` is neither, has batch statistics (BatchNorm, SpectralNorm), or an active Dropout without a
        random stream. At `apply`, for a call that draws random numbers in evaluation or changes a variable (a cache), for a
        GroupNorm or InstanceNorm that would take the first axis of an example for the batch, and for a module that does not
        take as many arguments as there are.
    """
    if isinstance(module, nnx.Module):
        structure = _split(module)
        # A copy, so that a training loop that donates its state does not delete the user's arrays.
        init = lambda key: jax.tree.map(jnp.copy, structure.params)  # noqa: E731
    else:
        # The generator is named, so that the constants do not depend on JAX_DEFAULT_PRNG_IMPL.
        structure = _split(_make_module(module, stream(0, Stream.INIT)))
        init = lambda key: _split(_make_module(module, key)).params  # noqa: E731
    graphdef, _, constants, rng_paths, takes_rngs = structure
    is_stochastic = structure.is_stochastic

    def apply(params: Params, *inputs: Array) -> Output:
        return call(params, inputs, None)

    def apply_stochastic(params: Params, *inputs: Array, key: Array | None = None) -> Output:
        return call(params, inputs, key)

    def call(params: Params, inputs: tuple[Array, ...], key: Array | None) -> Output:
        before = constants if key is None else _reseeded(constants, rng_paths, key)
        merged: Any = nnx.merge(graphdef, params, before)  # a module, which its type does not show to be callable
        if is_stochastic:
            _set_mode(merged, is_training=key is not None)
        check_nnx_calls(merged, is_evaluated=is_stochastic and key is None)
        check_arguments("from_nnx", merged, *inputs)
        modes: dict[str, object] = {**mode_arguments(merged, key is not None, is_stochastic)}
        if takes_rngs:
            modes["rngs"] = None if key is None else nnx.Rngs(jax.random.fold_in(key, _CALL_STREAM))
        output = merged(*inputs, **modes)
        _, _, state = nnx.split(merged, nnx.Param, ...)
        _check_unchanged(before, state, rng_paths if key is not None else frozenset())
        return output

    return Network(init, apply_stochastic, True) if is_stochastic else Network(init, apply)


def _set_mode(module: nnx.Module, is_training: bool) -> None:
    """Makes all modules deterministic in evaluation. In training, those that do not say whether they are draw."""
    if not is_training:
        module.eval()
        return
    for _, layer in nnx.iter_modules(module):
        if getattr(layer, "deterministic", True) is None:
            setattr(layer, "deterministic", False)  # noqa: B010 - the type of a module does not show it


def _reseeded(constants: State, rng_paths: frozenset[str], key: Array) -> State:
    """Returns the constants of a module with a new key for each of its random streams, and their counters at 0."""
    is_key = {
        path: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # pyright: ignore[reportAttributeAccessIssue]
        for path, leaf in _leaves_by_path(constants).items()
        if path in rng_paths
    }
    indices = {path: i for i, path in enumerate(sorted(path for path in is_key if is_key[path]))}

    def new(path: tuple[object, ...], leaf: Array) -> Array:
        name = _name(path)
        if name not in is_key:
            return leaf
        if not is_key[name]:
            return jnp.zeros_like(leaf)
        seeded = jax.random.fold_in(key, indices[name])
        return seeded if leaf.ndim == 0 else jax.random.split(seeded, leaf.shape)

    return jax.tree.map_with_path(new, constants)


def _make_module(function: object, key: Array) -> nnx.Module:
    """Returns the module that a user's function of rngs makes."""
    expected = "an instance of an nnx.Module, or a function rngs -> module"
    if isinstance(function, linen.Module) or (isinstance(function, type) and issubclass(function, linen.Module)):
        got = "a Linen module: use from_linen(module, input_shape)"
        raise UserError(field="module", expected=expected, got=got)
    if not callable(function):
        raise UserError(field="module", expected=expected, got=describe(function))
    try:
        module = function(nnx.Rngs(key))
    except TypeError as error:
        if not isinstance(function, type):
            raise
        name = function.__name__
        raise UserError(
            field="module",
            expected=expected,
            got=f"the class {name}, which cannot be called with rngs alone",
            fix=f"Make one: from_nnx(lambda rngs: {name}(..., rngs=rngs)).",
        ) from error
    if not isinstance(module, nnx.Module):
        raise UserError(field="module", expected=expected, got=f"a function that returns {describe(module)}")
    return module


def _split(module: nnx.Module) -> _Structure:
    """Returns the parts of a module. Raises `UserError` for batch statistics, and for Dropout without a stream."""
    graphdef, params, other = nnx.split(module, nnx.Param, ...)
    variables = _leaves_by_path(other)
    if statistics := [path for path, leaf in variables.items() if isinstance(leaf, nnx.BatchStat)]:
        raise UserError(_batch_statistics(module, statistics[0]))
    paths = frozenset(path for path, leaf in variables.items() if isinstance(leaf, nnx.RngState))
    structure = _Structure(graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(other), paths, _takes_rngs(module))
    if not structure.is_stochastic and lacks_stream(module):
        raise UserError(NNX_DROPOUT)
    return structure


def _takes_rngs(module: nnx.Module) -> bool:
    """Returns true if a module's `__call__` takes `rngs`, and draws from them if it is Flax's own, such as `nnx.Sequential`."""
    call = type(module).__call__
    try:
        takes_rngs = "rngs" in inspect.signature(call).parameters
    except (TypeError, ValueError):
        return False
    return takes_rngs and (not call.__module__.startswith("flax.") or lacks_stream(module))


def _batch_statistics(module: nnx.Module, path: str) -> str:
    """Returns the message for a module with an `nnx.BatchStat` at this path."""
    if any(isinstance(layer, nnx.SpectralNorm) for _, layer in nnx.iter_modules(module)):
        return (
            f"from_nnx: SpectralNorm remembers a singular vector from call to call ({path}), but a network is a function of "
            "its parameters and one example. Use nnx.WeightNorm or LayerNorm, which keep nothing."
        )
    return (
        "from_nnx: expected a module whose output is a function of its parameters and one example, got batch statistics "
        f"(nnx.BatchStat, {path}), which depend on other examples, and whose running averages are kept from call to call. Use "
        "LayerNorm, or GroupNorm with a batch axis of one: norm(x[None])[0]."
    )


def _name(path: tuple[object, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _leaves_by_path(state: nnx.State | State) -> dict[str, Array | nnx.Variable[Any]]:
    """Returns the variables and arrays of a state, or the arrays of a nested dictionary, by their paths."""
    leaves = jax.tree.leaves_with_path(state, is_leaf=lambda node: isinstance(node, nnx.Variable))
    return {_name(path): leaf for path, leaf in leaves}


def _check_unchanged(constants: State, state: nnx.State, allowed: frozenset[str]) -> None:
    """Raises `UserError` if a call has replaced one of the constants, except at `allowed` paths. Arrays it adds are dropped."""
    after, variables = _leaves_by_path(nnx.to_pure_dict(state)), _leaves_by_path(state)
    for path, array in _leaves_by_path(constants).items():
        if after.get(path, array) is array or path in allowed:
            continue
        if isinstance(variables.get(path), nnx.RngState):
            raise UserError(
                f"from_nnx: the module draws random numbers ({path}) in evaluation as well, where a network is a function of "
                "its parameters and one example. Draw in training only: give the module an attribute deterministic = False, "
                "which evaluation sets to True, and write `if not self.deterministic:`."
            )
        raise UserError(
            f"from_nnx: a call changed {path}, but a network is a function of its parameters and one example, and what it "
            "remembers is not kept. Leave such variables as they are, or make them nnx.Param to train them."
        )
