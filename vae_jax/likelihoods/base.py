"""`Likelihood`: the bundle of pure functions that goes into a `VAE`; any function of one example becomes one."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from vae_jax.errors import check_signature

Support = Literal["binary", "unit_interval", "levels", "counts", "real"]
DISCRETE: tuple[Support, ...] = ("binary", "levels", "counts")  # probabilities rather than densities: bits per dimension exist


class Likelihood(NamedTuple):
    """A likelihood as a bundle of pure functions of one example.

    `decoder_output` is whatever the decoder returns for one example: an array with the shape of the data (with a last
    axis of length `outputs_per_dim` where that is more than 1), or a tuple of it and the learned numbers of `shared_start`.
    """

    name: str
    log_prob: Callable[[Any, Array], Array]  # (decoder_output, x) -> scalar nats
    mean: Callable[[Any], Array]  # decoder_output -> E[x|z], shape of the data
    sample: Callable[[Array, Any], Array]  # (key, decoder_output) -> a draw of x, shape of the data
    support: Support
    outputs_per_dim: int = 1  # numbers that the decoder emits for each data dimension
    shared_start: tuple[float, ...] = ()  # where learned numbers that all dimensions share start; they are VAE parameters
    output_for_mean: Callable[[Array], Array] | None = None  # training mean -> decoder output that predicts it (bias)
    num_levels: int | None = None  # of support "levels": x is k / (num_levels - 1), k = 0 ... num_levels - 1
    shared_values: Callable[[Array], Array] = lambda learned: learned  # the shared numbers as they act, such as a log-scale
    scale_mean: Callable[[Array, Array], Array] | None = (
        None  # (decoder's first numbers, c) -> those whose mean is c times as large
    )


def _facts(x: Array, num_levels: int) -> tuple[Array, Array, Array, Array]:
    """(least, greatest, all whole numbers, all on the levels k / (num_levels - 1)) of the values; one program."""
    x = x.astype(jnp.float32)
    scaled = x * (num_levels - 1)
    return x.min(), x.max(), jnp.all(x == jnp.round(x)), jnp.all(jnp.abs(scaled - jnp.round(scaled)) < 1e-3)


def _shown(value: float, is_outside: bool) -> str:
    """A float32 in a few digits, or in all where the few would hide that it is outside of [0, 1]."""
    short = f"{value:g}"
    return f"{value:.9g}" if is_outside and 0 <= float(short) <= 1 else short


def outside_support(likelihood: Likelihood, x: ArrayLike) -> str | None:
    """What is wrong with these data for this likelihood, in words, or None. Looks at values: call it outside of jit.

    Example:
      >>> from vae_jax.likelihoods import bernoulli
      >>> print(outside_support(bernoulli(), jnp.array([0.0, 0.25, 1.0])))
      bernoulli expects binary data, got grey values in between
    """
    low, high, whole, on_levels = (value.item() for value in jax.jit(_facts)(jnp.asarray(x), likelihood.num_levels or 2))
    between = f"got {_shown(low, low < 0)} to {_shown(high, high > 1)}"
    name, levels = likelihood.name, likelihood.num_levels
    match likelihood.support:
        case "binary" if low < 0 or high > 1:
            return f"{name} expects binary data, {between}"
        case "binary" if not whole:
            return f"{name} expects binary data, got grey values in between"
        case "unit_interval" | "levels" if low < 0 or high > 1:
            return f"{name} expects values in [0, 1], {between}"
        case "levels" if levels and not on_levels:
            return f"{name} expects the {levels} levels k / {levels - 1}, got values in between"
        case "counts" if low < 0 or not whole:
            return f"{name} expects counts (whole numbers >= 0), {between}{'' if whole else ' with fractions'}"
    return None


def from_log_prob(log_prob: Callable[[Any, Array], Array], **fields: Any) -> Likelihood:
    """A likelihood from any function (decoder_output, x) -> scalar nats.

    Without further fields the decoder's output is taken as the mean and as the sample, and the data may be any real numbers;
    pass `mean=`, `sample=`, `support=`, `outputs_per_dim=` ... to say otherwise.

    Example:
      >>> laplace = from_log_prob(lambda loc, x: -jnp.sum(jnp.abs(x - loc) + jnp.log(2.0)))
      >>> print(laplace.log_prob(jnp.zeros(1), jnp.ones(1)))
      -1.69
    """
    check_signature(log_prob, 2, "a likelihood (decoder_output, x) -> scalar nats of ONE example")
    defaults: dict[str, Any] = {
        "name": getattr(log_prob, "__name__", "custom"),
        "mean": lambda output: output,
        "sample": lambda key, output: output,
        "support": "real",
    }
    bundle = Likelihood(log_prob=log_prob, **(defaults | fields))
    if bundle.support not in get_args(Support):
        raise ValueError(f"from_log_prob: expected support among {', '.join(get_args(Support))}, got {bundle.support!r}.")
    return bundle


def invert_increasing(function: Callable[[Array], Array], target: Array, low: float, high: float) -> Array:
    """Solves function(t) = target elementwise by bisection: for means that have no inverse in closed form."""

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        below = function(middle) < target
        return jnp.where(below, middle, ends[0]), jnp.where(below, ends[1], middle)

    lows, highs = jax.lax.fori_loop(0, 50, halve, (jnp.full_like(target, low), jnp.full_like(target, high)))
    return (lows + highs) / 2


def check_positive(function: str, **values: ArrayLike) -> None:
    """Raises `ValueError` unless every value is a positive number, or an array of them."""
    for name, value in values.items():
        numbers: list[Any] = [value] if isinstance(value, str) or jnp.ndim(value) == 0 else _numbers(value)
        if isinstance(value, str) or not all(number > 0 and math.isfinite(number) for number in numbers):
            raise ValueError(f"{function}: expected {name} to be a positive number, got {value!r}.")


def log_of(value: ArrayLike) -> float | Array:
    """Returns the natural logarithm of a number as a Python float, or of an array as an array."""
    if jnp.ndim(value) == 0:
        return math.log(value)  # pyright: ignore[reportArgumentType]
    return jnp.asarray([math.log(number) for number in _numbers(value)], jnp.float32).reshape(jnp.shape(value))


def _numbers(array: Any) -> list[float]:
    """Returns the entries of an array as Python numbers, without an operation of JAX, which a trace would record."""
    return jax.tree.leaves(array.tolist())


class SecondParameter(NamedTuple):
    """A likelihood's second parameter (a scale, a dispersion) in the log: where a bundle has it from."""

    split: Callable[[Any], tuple[Array, Any]]  # decoder_output -> (its first numbers, the log of the parameter)
    fill: Callable[[Array], Array]  # first numbers -> an array of the decoder's, with the parameter at its start
    fields: dict[str, Any]  # of `Likelihood`


def second_parameter(
    function: str,
    name: str,
    value: float | str,
    start: float | Array,
    act: Callable[[Array], Array] = lambda log_value: log_value,
) -> SecondParameter:
    """Reads `value`: a positive number; "shared", learned for all dimensions; or "per_pixel", a second decoder output.

    Args:
      function, name: for the message.
      value: the setting.
      start: the log of the parameter before training; an array, of the event's shape, where entries differ. What is shared is
        then the distance of all entries from it, so that the learned number is the mean of their logs.
      act: learned log -> the log that acts, such as one with a floor.
    """
    if value == "shared" and isinstance(start, Array):
        level = math.fsum(_numbers(start)) / start.size
        apart = start - level
        fields = {"shared_start": (level,), "shared_values": lambda learned: act(learned[0]) + apart.ravel()}
        return SecondParameter(lambda output: (output[0], act(output[1][0]) + apart), lambda first: first, fields)
    if value == "shared":
        fields = {"shared_start": (start,), "shared_values": act}
        return SecondParameter(lambda output: (output[0], act(output[1][0])), lambda first: first, fields)
    if value == "per_pixel":
        return SecondParameter(
            lambda output: (output[..., 0], act(start + output[..., 1])),
            lambda first: jnp.stack([first, jnp.zeros_like(first)], axis=-1),
            {"outputs_per_dim": 2},
        )
    if isinstance(value, str) or not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{function}: expected {name} to be a positive number, 'shared' or 'per_pixel', got {value!r}.")
    fixed = math.log(value)
    return SecondParameter(lambda output: (output, fixed), lambda first: first, {})
