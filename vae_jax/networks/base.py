"""`Network`, the interface between a neural network and the rest of the package, with adapters for Linen and NNX modules."""

import inspect
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import flax.errors
import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax.errors import UserError, accepts
from vae_jax.networks.layer_checks import DROPOUT, check_linen_call, check_nnx_calls

Params: TypeAlias = Any  # a pytree of arrays
Output: TypeAlias = Any  # an array, or a tuple of arrays
State: TypeAlias = dict[str, Any]  # nested dictionaries of arrays


class Network(NamedTuple):
    """A neural network as two pure functions of one example.

    Nothing else is known about a network: training, sweeps, evaluation and reports see these two functions and a pytree of
    parameters. A network has no batch axis, no state besides its parameters and no random numbers. The caller applies `vmap`,
    `grad` and `jit`, and it must be possible to trace both functions.

    init: key -> params. The key is a new-style PRNG key, and the result is any pytree of floating-point arrays.
    apply: (params, x) -> output for ONE example, a float32 array without a batch axis. In a conditional model it is
    (params, x, c), with the condition c as a vector.

    `model.make_vae` takes two networks:

        encoder.apply(params, x) -> (mean, log_scale)     x of shape data_shape, both results of shape (latent,)
        decoder.apply(params, z) -> decoder output        z of shape (latent,), the output usually of shape data_shape

    log_scale is the log of the standard deviation. The decoder output is what the likelihood takes as its first argument. Both
    heads of the encoder and the output of the decoder are unbounded floats. For a Bernoulli likelihood the output is
    logits and not probabilities. Likelihoods with several numbers per data dimension (a mean and a scale, the classes of a
    categorical) take them on a last axis of size `Likelihood.outputs_per_dim`.

    Example: a Linen encoder, an NNX decoder, and a decoder without Flax.
      >>> from flax import linen, nnx
      >>> from vae_jax import likelihoods, model, networks
      >>> class Encoder(linen.Module):
      ...     @linen.compact
      ...     def __call__(self, x):  # (8, 8, 1), one image
      ...         h = linen.relu(linen.Dense(32)(x.reshape(-1)))
      ...         return linen.Dense(2)(h), linen.Dense(2)(h)  # mean and log_scale, each (2,)
      >>> class Decoder(nnx.Module):
      ...     def __init__(self, *, rngs):
      ...         self.hidden, self.out = nnx.Linear(2, 32, rngs=rngs), nnx.Linear(32, 64, rngs=rngs)
      ...     def __call__(self, z):  # (2,), one code
      ...         return self.out(nnx.relu(self.hidden(z))).reshape(8, 8, 1)  # logits
      >>> encoder = networks.from_linen(Encoder(), (8, 8, 1))
      >>> decoder = networks.from_nnx(lambda rngs: Decoder(rngs=rngs))
      >>> vae = model.make_vae(encoder, decoder, likelihoods.bernoulli(), (8, 8, 1))
      >>> params = vae.init(jax.random.key(0))
      >>> vae.decode(params, jnp.zeros(2)).shape
      (8, 8, 1)
      >>> def init(key): return {"kernel": 0.1 * jax.random.normal(key, (64, 2))}
      >>> def apply(params, z): return (params["kernel"] @ z).reshape(8, 8, 1)
      >>> linear = model.make_vae(encoder, networks.Network(init, apply), likelihoods.bernoulli(), (8, 8, 1))

    Example: networks of a conditional model. Their second argument is the condition, here one of 10 classes as a vector.
      >>> class ConditionalEncoder(linen.Module):
      ...     @linen.compact
      ...     def __call__(self, x, c):  # (8, 8, 1) and (10,)
      ...         h = linen.relu(linen.Dense(32)(jnp.concatenate([x.reshape(-1), c])))
      ...         return linen.Dense(2)(h), linen.Dense(2)(h)
      >>> class ConditionalDecoder(nnx.Module):
      ...     def __init__(self, *, rngs):
      ...         self.hidden, self.out = nnx.Linear(2 + 10, 32, rngs=rngs), nnx.Linear(32, 64, rngs=rngs)
      ...     def __call__(self, z, c):
      ...         return self.out(nnx.relu(self.hidden(jnp.concatenate([z, c])))).reshape(8, 8, 1)
      >>> encoder = networks.from_linen(ConditionalEncoder(), (8, 8, 1), condition_dim=10)
      >>> decoder = networks.from_nnx(lambda rngs: ConditionalDecoder(rngs=rngs))
      >>> vae = model.make_vae(encoder, decoder, likelihoods.bernoulli(), (8, 8, 1), condition_dim=10)
      >>> vae.decode(vae.init(jax.random.key(0)), jnp.zeros(2), jax.nn.one_hot(3, 10)).shape
      (8, 8, 1)
    """

    init: Callable[[Array], Params]
    apply: Callable[..., Output]


def from_linen(module: linen.Module, input_shape: tuple[int, ...], *, condition_dim: int = 0) -> Network:
    """Adapts a Linen module whose `__call__` takes one example, without a batch axis, and the condition where there is one.

    GroupNorm and InstanceNorm take the first axis for the batch. For one image, use GroupNorm with
    `reduction_axes=(-3, -2, -1)`, or LayerNorm.

    Args:
      module: an instance of a Linen module with parameters only. Wrap a module that takes options such as `train`.
      input_shape: shape of one example.
      condition_dim: length of the condition, which `__call__` takes as a second argument. 0: there is none.

    Returns:
      A `Network`. Its parameters are the module's "params" collection.

    Raises:
      UserError: at once, if `module` is not a Linen module. At `init`, if the module keeps state besides its parameters
        (BatchNorm, cached statistics), has an active Dropout, or has a GroupNorm or InstanceNorm that would take the first axis
        of an example for the batch, or if it does not take a second argument and there is a condition. At `apply`, for an input
        or a condition of a different shape.
    """
    _check_linen(module)
    condition_dim = check_condition_dim(condition_dim)
    if isinstance(input_shape, int):
        raise UserError(field="input_shape", expected="a shape as a tuple", got=input_shape, fix=f"Write ({input_shape},).")
    input_shape = tuple(input_shape)

    def init(key: Array) -> Params:
        condition = [jnp.zeros(condition_dim)] if condition_dim else []
        _check_arguments("from_linen", module, jnp.zeros(input_shape), *condition)
        with linen.intercept_methods(check_linen_call):
            variables = module.init(key, jnp.zeros(input_shape), *condition)
        if extra := sorted(set(variables) - {"params"}):
            advice = (
                "Batch statistics depend on other examples: use LayerNorm, or GroupNorm with reduction_axes=(-3, -2, -1)."
                if "batch_stats" in extra
                else "What a module remembers from call to call is not kept here: remove it."
            )
            collections = f"the collection{'s' * (len(extra) > 1)} {' and '.join(extra)}"
            raise UserError(
                f"from_linen: expected a module with parameters only, got {collections} as well. A network is a function of "
                f"its parameters and one example. {advice}"
            )
        return variables.get("params", {})

    def apply(params: Params, x: Array, *condition: Array) -> Output:
        if jnp.shape(x) != input_shape:
            raise UserError(
                f"from_linen: expected an input of shape {input_shape}, for which the module was adapted, got {jnp.shape(x)}. "
                "Adapt it for that shape, or give it such an input."
            )
        if (got := tuple(map(jnp.shape, condition))) != ((condition_dim,),) * bool(condition_dim):
            raise UserError(_wrong_condition(condition_dim, got))
        try:
            return module.apply({"params": params}, x, *condition)
        except flax.errors.InvalidRngError:
            raise UserError(f"from_linen: the module {DROPOUT}") from None

    return Network(init, apply)


def from_nnx(module: nnx.Module | Callable[[nnx.Rngs], nnx.Module]) -> Network:
    """Adapts an NNX module whose `__call__` takes one example, without a batch axis, and the condition where there is one.

    The module is split once, here. Inside `jax.jit`, plain arrays are merged into it again. `nnx.jit` is never used, because it
    costs 300 microseconds per call. Only `nnx.Param` variables are trained. Other arrays are constants: attributes, other
    variables, and random streams that are stored but not drawn from. If `module` is a function of rngs, the constants are those
    of seed 0 for all seeds.

    GroupNorm and InstanceNorm take the first axis for the batch. Give them a batch axis of one: `norm(x[None])[0]`.

    Args:
      module: a function `rngs -> module` such as `lambda rngs: Encoder(10, rngs=rngs)`, which makes different initial
        parameters for every key. Alternatively an NNX module: `init` then returns its present parameters for every key, so all
        seeds start alike.

    Returns:
      A `Network`. Its parameters are the `nnx.Param` variables as nested dictionaries.

    Raises:
      UserError: at once, if `module` is neither, or has batch statistics (BatchNorm). At `apply`, for a call that changes a
        variable (a random stream, a cache), for an active Dropout, for a GroupNorm or InstanceNorm that would take the
        first axis of an example for the batch, and for a module that does not take as many arguments as there are.
    """
    if isinstance(module, nnx.Module):
        graphdef, initial, constants = _split(module)
        # A copy, so that a training loop that donates its state does not delete the user's arrays.
        init = lambda key: jax.tree.map(jnp.copy, initial)  # noqa: E731
    else:
        # The generator is named, so that the constants do not depend on JAX_DEFAULT_PRNG_IMPL.
        graphdef, _, constants = _split(_make_module(module, stream(0, Stream.INIT)))
        init = lambda key: _split(_make_module(module, key))[1]  # noqa: E731

    def apply(params: Params, *inputs: Array) -> Output:
        merged: Any = nnx.merge(graphdef, params, constants)  # a module, which its type does not show to be callable
        check_nnx_calls(merged)
        _check_arguments("from_nnx", merged, *inputs)
        output = merged(*inputs)
        _, _, state = nnx.split(merged, nnx.Param, ...)
        _check_unchanged(constants, state)
        return output

    return Network(init, apply)


def check_condition_dim(condition_dim: object) -> int:
    """Returns the length of a condition. Raises `UserError` for a value that is not a whole number of at least 0."""
    is_whole = hasattr(condition_dim, "__index__") and not isinstance(condition_dim, bool)
    if not is_whole or (length := operator.index(condition_dim)) < 0:  # pyright: ignore[reportArgumentType]
        expected = "the length of the condition as a whole number, or 0 without one"
        raise UserError(field="condition_dim", expected=expected, got=repr(condition_dim))
    return length


def _check_arguments(adapter: str, module: linen.Module | nnx.Module, *inputs: Array) -> None:
    """Raises `UserError` if a module takes no condition and is given one, or the other way around."""
    call = type(module).__call__
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):
        return
    if accepts(signature, 1 + len(inputs)):
        return
    name = type(module).__name__
    if len(inputs) > 1 and accepts(signature, 2):
        raise UserError(
            f"{adapter}: {name}.__call__{signature} takes one argument, but there is a condition of length {len(inputs[1])}.",
            fix="Give it a second argument for the condition, or leave out condition_dim.",
        )
    if len(inputs) == 1 and accepts(signature, 3):
        fix = "Pass condition_dim= to make_vae" + (" and to from_linen" if adapter == "from_linen" else "")
        raise UserError(
            f"{adapter}: {name}.__call__{signature} takes two arguments, but there is no condition.",
            fix=f"{fix}, or leave out the second argument.",
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


def check_network(role: str, network: object) -> None:
    """Raises `UserError` unless `network` is a `Network`, or any object with two such functions.

    Args:
      role: name of the parameter, "encoder" or "decoder", for the message.
      network: value that the user passed.
    """
    is_class = isinstance(network, type)
    base = network if is_class else type(network)
    has_functions = not is_class and all(callable(getattr(network, name, None)) for name in ("init", "apply"))
    if has_functions and not issubclass(base, linen.Module | nnx.Module):
        return
    if issubclass(base, linen.Module):
        advice = f"Adapt it: networks.from_linen({base.__name__}(...), input_shape)."
    elif issubclass(base, nnx.Module):
        advice = f"Adapt it: networks.from_nnx(lambda rngs: {base.__name__}(..., rngs=rngs))."
    else:
        advice = "A function f without parameters becomes one by networks.Network(lambda key: {}, lambda params, x: f(x))."
    got = f"the class {base.__name__}" if is_class else _describe(network)
    raise UserError(field=role, expected="a networks.Network (init, apply)", got=got, fix=advice)


def _check_linen(module: object) -> None:
    """Raises `UserError` unless this is an instance of a Linen module."""
    if isinstance(module, linen.Module):
        return
    base = module if isinstance(module, type) else type(module)
    got = f"the class {base.__name__}" if isinstance(module, type) else _describe(module)
    fix = ""
    if issubclass(base, nnx.Module):
        got += ", which is NNX: use from_nnx(module)"
    elif issubclass(base, linen.Module):
        fix = f"Make one: from_linen({base.__name__}(...), input_shape)."
    raise UserError(field="module", expected="an instance of a flax.linen.Module", got=got, fix=fix)


def _describe(value: object) -> str:
    """Returns a noun phrase for a value that is not a network."""
    if isinstance(value, linen.Module | nnx.Module):
        return f"the module {type(value).__name__}"
    return "a function" if callable(value) else f"an object of type {type(value).__name__}"


def _make_module(function: object, key: Array) -> nnx.Module:
    """Returns the module that a user's function of rngs makes."""
    expected = "an instance of an nnx.Module, or a function rngs -> module"
    if isinstance(function, linen.Module) or (isinstance(function, type) and issubclass(function, linen.Module)):
        got = "a Linen module: use from_linen(module, input_shape)"
        raise UserError(field="module", expected=expected, got=got)
    if not callable(function):
        raise UserError(field="module", expected=expected, got=_describe(function))
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
        raise UserError(field="module", expected=expected, got=f"a function that returns {_describe(module)}")
    return module


def _split(module: nnx.Module) -> tuple[nnx.GraphDef[nnx.Module], State, State]:
    """Returns (structure, trained parameters, constants) of a module."""
    graphdef, params, other = nnx.split(module, nnx.Param, ...)
    if any(isinstance(leaf, nnx.BatchStat) for leaf in _leaves_by_path(other).values()):
        raise UserError(
            "from_nnx: expected a module whose output is a function of its parameters and one example, got batch statistics "
            "(nnx.BatchStat), which depend on other examples. Use LayerNorm, or GroupNorm with a batch axis of one: "
            "norm(x[None])[0]."
        )
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(other)


def _leaves_by_path(state: nnx.State | State) -> dict[str, Array | nnx.Variable[Any]]:
    """Returns the variables and arrays of a state, or the arrays of a nested dictionary, by their paths."""
    leaves = jax.tree.leaves_with_path(state, is_leaf=lambda node: isinstance(node, nnx.Variable))
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _check_unchanged(constants: State, state: nnx.State) -> None:
    """Raises `UserError` if a call has replaced one of the constants. Arrays that a call adds are dropped."""
    after, variables = _leaves_by_path(nnx.to_pure_dict(state)), _leaves_by_path(state)
    for path, array in _leaves_by_path(constants).items():
        if after.get(path, array) is array:
            continue
        if isinstance(variables.get(path), nnx.RngState):
            raise UserError(f"from_nnx: the module {DROPOUT}")
        raise UserError(
            f"from_nnx: a call changed {path}, but a network is a function of its parameters and one example, and what it "
            "remembers is not kept. Leave such variables as they are, or make them nnx.Param to train them."
        )
