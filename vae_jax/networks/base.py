"""`Network`, the interface between a neural network and the rest of the package."""

import inspect
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from flax import linen, nnx
from jax import Array

from vae_jax.errors import UserError, accepts

Params: TypeAlias = Any  # a pytree of arrays
Output: TypeAlias = Any  # an array, or a tuple of arrays


class Network(NamedTuple):
    """A neural network as two pure functions of one example.

    Nothing else is known about a network: training, sweeps, evaluation and reports see these two functions and a pytree of
    parameters. A network has no batch axis and no state besides its parameters. The caller applies `vmap`, `grad` and `jit`,
    and it must be possible to trace both functions.

    A network with dropout or other randomness (`is_stochastic`) draws from a key in training. It is deterministic without one,
    as in everything but the train step: evaluation, early stopping, reports, encoding, sampling. In one step each example has a
    key of its own, with which its encoder and its decoder draw once. So several importance samples of one example share the
    dropped units, and their bound is an importance-weighted bound of that thinned model.

    init: key -> params. The key is a new-style PRNG key, and the result is any pytree of floating-point arrays.
    apply: (params, x) -> output for ONE example, a float32 array without a batch axis. In a conditional model it is
    (params, x, c), with the condition c as a vector. Of a stochastic network it also takes the keyword `key`, a PRNG key for
    this example, or None for evaluation.
    is_stochastic: whether `apply` takes a key. `from_linen(..., rngs=("dropout",))` and `from_nnx` say so themselves.

    `model.make_vae` takes two networks:

        encoder.apply(params, x) -> (mean, log_scale)     x of shape data_shape, both results of shape (latent,)
        decoder.apply(params, z) -> decoder output        z of shape (latent,), the output usually of shape data_shape

    log_scale is the log of the standard deviation. The decoder output is what the likelihood takes as its first argument. Both
    heads of the encoder and the output of the decoder are unbounded floats. For a Bernoulli likelihood the output is
    logits and not probabilities. Likelihoods with several numbers per data dimension (a mean and a scale, the classes of a
    categorical) take them on a last axis of size `Likelihood.outputs_per_dim`.

    Example: a Linen encoder, an NNX decoder, and a decoder without Flax.
      >>> import jax, jax.numpy as jnp
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

    Example: Dropout in Linen, in NNX and as a function, drawn with a key and off without one.
      >>> class DroppedEncoder(linen.Module):
      ...     @linen.compact
      ...     def __call__(self, x):
      ...         h = linen.Dropout(0.1)(linen.relu(linen.Dense(32)(x.reshape(-1))))
      ...         return linen.Dense(2)(h), linen.Dense(2)(h)
      >>> class DroppedDecoder(nnx.Module):
      ...     def __init__(self, *, rngs):
      ...         self.hidden, self.out = nnx.Linear(2, 32, rngs=rngs), nnx.Linear(32, 64, rngs=rngs)
      ...         self.dropout = nnx.Dropout(0.5, rngs=rngs)
      ...     def __call__(self, z):
      ...         return self.out(self.dropout(nnx.relu(self.hidden(z)))).reshape(8, 8, 1)
      >>> encoder = networks.from_linen(DroppedEncoder(), (8, 8, 1), rngs=("dropout",))
      >>> decoder = networks.from_nnx(lambda rngs: DroppedDecoder(rngs=rngs))
      >>> vae = model.make_vae(encoder, decoder, likelihoods.bernoulli(), (8, 8, 1))
      >>> vae.is_stochastic
      True
      >>> params, z = vae.init(jax.random.key(0)), jnp.ones(2)
      >>> bool((vae.decode(params, z) == vae.decode(params, z)).all())
      True
      >>> bool((vae.decode(params, z, key=jax.random.key(1)) == vae.decode(params, z, key=jax.random.key(2))).all())
      False
      >>> def noisy(params, z, *, key=None):
      ...     noise = 0.0 if key is None else 0.1 * jax.random.normal(key, z.shape)
      ...     return apply(params, z + noise)
      >>> kernel = networks.Network(lambda key: {"kernel": jnp.ones((64, 2))}, noisy, is_stochastic=True)
      >>> model.make_vae(encoder, kernel, likelihoods.bernoulli(), (8, 8, 1)).is_stochastic
      True
    """

    init: Callable[[Array], Params]
    apply: Callable[..., Output]
    is_stochastic: bool = False


def check_condition_dim(condition_dim: object) -> int:
    """Returns the length of a condition. Raises `UserError` for a value that is not a whole number of at least 0."""
    is_whole = hasattr(condition_dim, "__index__") and not isinstance(condition_dim, bool)
    if not is_whole or (length := operator.index(condition_dim)) < 0:  # pyright: ignore[reportArgumentType]
        expected = "the length of the condition as a whole number, or 0 without one"
        raise UserError(field="condition_dim", expected=expected, got=repr(condition_dim))
    return length


# The arguments by which a module's `__call__` learns whether it is in training, with their values there.
MODES = {"deterministic": False, "train": True, "training": True, "is_training": True}


def mode_arguments(module: linen.Module | nnx.Module, is_training: bool, is_stochastic: bool) -> dict[str, Any]:
    """Returns the arguments that tell a module's `__call__` whether it is in training, by their names.

    Args:
      module: the module.
      is_training: whether it is.
      is_stochastic: whether the two differ. Otherwise an argument with a default keeps it.
    """
    call = type(module).__call__
    if (call.__module__ or "").startswith(
        "flax."
    ):  # a single layer of Flax, whose field `deterministic` is set as that of all others
        return {}
    try:
        parameters = inspect.signature(call).parameters
    except (TypeError, ValueError):
        return {}
    taken = {name: parameters[name] for name in MODES if name in parameters}
    names = [name for name, parameter in taken.items() if is_stochastic or parameter.default is parameter.empty]
    return {name: MODES[name] == is_training for name in names}


def without(signature: inspect.Signature, names: Iterable[str]) -> inspect.Signature:
    """Returns a signature without some parameters."""
    names = set(names)
    return signature.replace(parameters=[each for name, each in signature.parameters.items() if name not in names])


def check_arguments(adapter: str, module: linen.Module | nnx.Module, *inputs: Array) -> None:
    """Raises `UserError` if a module takes no condition and is given one, or the other way around."""
    call = type(module).__call__
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):
        return
    signature = without(signature, MODES if adapter == "from_linen" else [*MODES, "rngs"])
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


def takes_key(network: object) -> bool:
    """Returns true if a `Network`, or any object with its functions, draws random numbers in training."""
    return bool(getattr(network, "is_stochastic", False))


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
    got = f"the class {base.__name__}" if is_class else describe(network)
    raise UserError(field=role, expected="a networks.Network (init, apply)", got=got, fix=advice)


def describe(value: object) -> str:
    """Returns a noun phrase for a value that is not a network."""
    if isinstance(value, linen.Module | nnx.Module):
        return f"the module {type(value).__name__}"
    return "a function" if callable(value) else f"an object of type {type(value).__name__}"
