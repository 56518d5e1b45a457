"""`from_linen`, which adapts a Linen module as a `Network`."""

import re
from collections.abc import Iterable, Sequence

import flax.errors
import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax.errors import UserError
from vae_jax.networks.base import (
    Network,
    Output,
    Params,
    check_arguments,
    check_condition_dim,
    describe,
    mode_arguments,
)
from vae_jax.networks.layer_checks import check_linen_call, evaluated_linen_call, trained_linen_call


def from_linen(
    module: linen.Module, input_shape: tuple[int, ...], *, condition_dim: int = 0, rngs: Sequence[str] = ()
) -> Network:
    """Adapts a Linen module whose `__call__` takes one example, without a batch axis, and the condition where there is one.

    GroupNorm and InstanceNorm take the first axis for the batch. For one image, use GroupNorm with
    `reduction_axes=(-3, -2, -1)`, or LayerNorm.

    With `rngs=("dropout",)` the network draws random numbers in training and none in evaluation. It learns which of the two it
    is in all the ways of Flax:

    - A parameter `train`, `training`, `is_training` or `deterministic` of the module's `__call__` gets its value.
    - Modules with a field `deterministic` (Dropout, attention, your own): in evaluation all are deterministic, whatever they
      say. In training those that do not say draw, and one that says deterministic=True does not.
    - `self.has_rng("noise")` is true in training only, for streams that `rngs` names.

    Args:
      module: an instance of a Linen module with parameters only.
      input_shape: shape of one example.
      condition_dim: length of the condition, which `__call__` takes as a second argument. 0: there is none.
      rngs: names of the streams of random numbers that the module draws from in training, such as ("dropout",). Stream i gets
        fold_in(key, i). Without any, a module with an argument `train` or the like is called with the argument's default, or
        as in evaluation.

    Returns:
      A `Network`. Its parameters are the module's "params" collection. Those of a key are `module.init(key, x)`.

    Raises:
      UserError: at once, if `module` is not a Linen module, keeps state besides its parameters (BatchNorm, SpectralNorm, cached
        statistics) also in training, draws random numbers in evaluation or from a stream that `rngs` does not name, has a
        GroupNorm or InstanceNorm that would take the first axis of an example for the batch, or does not take a second argument
        and there is a condition. At `apply`, for an input or a condition of a different shape.
    """
    network = adapt_linen(module, input_shape, condition_dim=condition_dim, rngs=rngs)
    key = stream(0, Stream.CHECK)
    inputs = [jax.ShapeDtypeStruct(tuple(input_shape), jnp.float32)]
    inputs += [jax.ShapeDtypeStruct((int(condition_dim),), jnp.float32)] if condition_dim else []
    try:
        params = jax.eval_shape(network.init, key)
        jax.eval_shape(network.apply, params, *inputs)
        if network.is_stochastic:
            jax.eval_shape(lambda key, *arguments: network.apply(*arguments, key=key), key, params, *inputs)
    except UserError:
        raise
    except Exception:
        pass  # such as a kernel that does not fit the input; make_vae says which network fails, and on what
    return network


def adapt_linen(
    module: linen.Module, input_shape: tuple[int, ...], *, condition_dim: int = 0, rngs: Sequence[str] = ()
) -> Network:
    """Adapts a Linen module as `from_linen` does, without tracing it, for modules that are known to serve."""
    _check_linen(module)
    condition_dim = check_condition_dim(condition_dim)
    if isinstance(input_shape, int):
        raise UserError(field="input_shape", expected="a shape as a tuple", got=input_shape, fix=f"Write ({input_shape},).")
    input_shape, streams = tuple(input_shape), _check_rngs(rngs)

    def init(key: Array) -> Params:
        inputs = [jnp.zeros(input_shape), *([jnp.zeros(condition_dim)] if condition_dim else [])]
        check_arguments("from_linen", module, *inputs)
        modes = mode_arguments(module, is_training=bool(streams), is_stochastic=bool(streams))
        # In training, because layers may exist there only. What they draw leaves the parameters as they are, because it is from
        # streams other than "params".
        keys = {"params": key} | {name: jax.random.fold_in(key, 1 + i) for i, name in enumerate(streams)}
        with linen.intercept_methods(trained_linen_call if streams else check_linen_call):
            try:
                variables = module.init(keys if streams else key, *inputs, **modes)
            except flax.errors.InvalidRngError as error:
                raise UserError(_undeclared(error, streams)) from None
        if set(variables) - {"params"}:
            raise UserError(_other_state(variables))
        return variables.get("params", {})

    def check_inputs(x: Array, condition: tuple[Array, ...]) -> None:
        if jnp.shape(x) != input_shape:
            raise UserError(
                f"from_linen: expected an input of shape {input_shape}, for which the module was adapted, got {jnp.shape(x)}. "
                "Adapt it for that shape, or give it such an input."
            )
        if (got := tuple(map(jnp.shape, condition))) != ((condition_dim,),) * bool(condition_dim):
            raise UserError(_wrong_condition(condition_dim, got))

    def apply(params: Params, x: Array, *condition: Array) -> Output:
        check_inputs(x, condition)
        try:
            return module.apply({"params": params}, x, *condition, **mode_arguments(module, False, False))
        except flax.errors.InvalidRngError as error:
            raise UserError(
                f"from_linen: the module draws random numbers from the stream {_stream_name(error)!r}, but it was adapted "
                f"without one. Write from_linen(..., rngs=({_stream_name(error)!r},)). {_in_training_only(error)}"
            ) from None

    def apply_stochastic(params: Params, x: Array, *condition: Array, key: Array | None = None) -> Output:
        check_inputs(x, condition)
        is_training = key is not None
        keys = {name: jax.random.fold_in(key, i) for i, name in enumerate(streams)} if key is not None else None
        modes = mode_arguments(module, is_training, True)
        with linen.intercept_methods(trained_linen_call if is_training else evaluated_linen_call):
            try:
                return module.apply({"params": params}, x, *condition, rngs=keys, **modes)
            except flax.errors.InvalidRngError as error:
                raise UserError(_undeclared(error, streams) if is_training else _drawn_in_evaluation(error)) from None

    return Network(init, apply_stochastic, True) if streams else Network(init, apply)


def _check_rngs(rngs: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the streams. Raises `UserError` for anything else, and for "params"."""
    expected = 'the names of the streams that the module draws from in training, such as ("dropout",)'
    if isinstance(rngs, str):
        raise UserError(field="rngs", expected=expected, got=repr(rngs), fix=f"Write ({rngs!r},).")
    names: tuple[str, ...] = tuple(rngs) if isinstance(rngs, Iterable) else ()
    are_names = isinstance(rngs, Iterable) and all(isinstance(name, str) and name for name in names)
    if not are_names or len(set(names)) < len(names):
        raise UserError(field="rngs", expected=expected, got=f"{rngs!r:.60}")
    if "params" in names:
        fix = "Draw from another stream; that of the initial parameters is given at init only."
        raise UserError(field="rngs", expected=expected, got="'params'", fix=fix)
    return names


def _stream_name(error: flax.errors.InvalidRngError) -> str:
    """Returns the name of the stream that a module lacks."""
    match = re.search(r'PRNG for "([^"]*)"', str(error))
    return match.group(1) if match else "dropout"


def _undeclared(error: flax.errors.InvalidRngError, streams: tuple[str, ...]) -> str:
    """Returns the message for a module that draws, in training, from a stream that it was not adapted with."""
    name = _stream_name(error)
    names = ", ".join(repr(each) for each in (*streams, name))
    return (
        f"from_linen: the module draws from the stream {name!r} in training, but it was adapted with rngs={streams!r}. Name "
        f"all streams: rngs=({names})."
    )


def _drawn_in_evaluation(error: flax.errors.InvalidRngError) -> str:
    """Returns the message for a module whose randomness cannot be switched off."""
    name = _stream_name(error)
    return (
        f"from_linen: the module draws from the stream {name!r} in evaluation as well, where a network is a function of its "
        f"parameters and one example. {_in_training_only(error)}"
    )


def _in_training_only(error: flax.errors.InvalidRngError) -> str:
    return (
        "Draw in training only: give `__call__` a parameter train and write `if train:`, or write "
        f'`if self.has_rng("{_stream_name(error)}"):`.'
    )


def _other_state(variables: Params) -> str:
    """Returns the message for a module with more collections than "params"."""
    extra = sorted(set(variables) - {"params"})
    collections = f"the collection{'s' * (len(extra) > 1)} {' and '.join(extra)}"
    message = (
        f"from_linen: expected a module with parameters only, got {collections} as well. A network is a function of its "
        "parameters and one example."
    )
    if "batch_stats" not in extra:
        return f"{message} What a module remembers from call to call is not kept here: remove it."
    paths = [[entry.key for entry in path] for path, _ in jax.tree.leaves_with_path(variables["batch_stats"])]
    where = "/".join(map(str, paths[0][:-1])) or "the module"
    if any(str(path[-1]).endswith("sigma") for path in paths):
        return (
            f"{message} SpectralNorm ({paths[0][0]}) remembers a singular vector from call to call, which is not kept here: "
            "use WeightNorm or LayerNorm, which keep nothing."
        )
    return (
        f"{message} Batch statistics ({where}) depend on other examples, of which a network sees none, and their running "
        "averages are kept from call to call. Use LayerNorm, or GroupNorm with reduction_axes=(-3, -2, -1)."
    )


def _wrong_condition(condition_dim: int, got: tuple[tuple[int, ...], ...]) -> str:
    """Returns the message for a condition that does not fit the module that `from_linen` has adapted."""
    if not got:
        return (
            f"from_linen: expected a condition of length {condition_dim}, for which the module was adapted, got none. Pass "
            f"condition_dim={condition_dim} to make_vae, or leave it out of from_linen."
        )
    (shape,) = got
    length = shape[0] if len(shape) == 1 else shape
    if not condition_dim:
        return (
            f"from_linen: expected no condition, because the module was adapted without one, got one of shape {shape}. Pass "
            f"condition_dim={length} to from_linen."
        )
    return (
        f"from_linen: expected a condition of length {condition_dim}, for which the module was adapted, got shape {shape}. "
        "Pass the same condition_dim to from_linen and make_vae."
    )


def _check_linen(module: object) -> None:
    """Raises `UserError` unless this is an instance of a Linen module."""
    if isinstance(module, linen.Module):
        return
    base = module if isinstance(module, type) else type(module)
    got = f"the class {base.__name__}" if isinstance(module, type) else describe(module)
    fix = ""
    if issubclass(base, nnx.Module):
        got += ", which is NNX: use from_nnx(module)"
    elif issubclass(base, linen.Module):
        fix = f"Make one: from_linen({base.__name__}(...), input_shape)."
    raise UserError(field="module", expected="an instance of a flax.linen.Module", got=got, fix=fix)
