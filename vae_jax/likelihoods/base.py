"""`Likelihood`: the bundle of pure functions that goes into a `VAE`, and the helpers that the built-in ones share."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias, TypedDict, Unpack, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PyTree, Real, Shaped

from vae_jax._numerics.arrays import promote
from vae_jax.errors import UserError, check_signature

Support = Literal["binary", "unit_interval", "levels", "counts", "real"]
DISCRETE: tuple[Support, ...] = ("binary", "levels", "counts")  # probabilities rather than densities: bits per dimension exist

DecoderOutput: TypeAlias = PyTree[Float[Array, "..."]]  # an array, or a tuple of an array and the learned shared numbers


def _identity(value: Array) -> Array:
    return value


class Likelihood(NamedTuple):
    """A likelihood p(x|z) as a bundle of pure functions of ONE example.

    `model.make_vae` takes one. To use your own, fill this record, or let `from_log_prob` fill in the usual defaults.

    Contract of the functions:

    - They see one example, without a batch axis. Callers apply `jax.vmap`.
    - `x` has the shape of the event and holds floats. Levels arrive as k/(num_levels - 1) in [0, 1], and counts as whole
      numbers.
    - The decoder output is an array of the event's shape. With `outputs_per_dim` > 1 it has one more axis of that length at the
      end. With a non-empty `shared_start` it is a tuple of that array and the learned numbers, shape (len(shared_start),).
    - They are traced inside `jit`, `grad` and `vmap`, so they must not branch on the values of arrays. They keep no state:
      everything that is learned arrives in the decoder output.
    - `log_prob` returns nats, to be maximized, summed over the event, with all constants. Only then are likelihoods comparable.

    Attributes:
      name: shown in messages and reports.
      log_prob: (decoder_output, x) -> log p(x|z), a scalar in nats.
      mean: decoder_output -> E[x|z], in the shape of the event. Reconstructions show it.
      sample: (key, decoder_output) -> one draw of x, in the shape of the event.
      support: the values that x may take. Data outside of it are refused before training (see `outside_support`).
      outputs_per_dim: the number of decoder outputs for each dimension of the event.
      shared_start: initial values of the learned numbers that belong to no decoder output: one that all dimensions share, or
        one for each column. They become parameters of the `VAE`.
      output_for_mean: mean of the training data -> the decoder output that predicts it. The output bias starts there. None:
        no such start is available.
      num_levels: for support "levels": x is k/(num_levels - 1), k = 0 ... num_levels - 1.
      shared_values: the learned shared numbers -> the values that act, such as a log-scale with a floor. Reports show them.
      scale_mean: (the decoder's first numbers, c) -> the numbers whose mean is c times as large. It lets counts be modeled
        relative to the mean count of the data. None: the mean cannot be scaled.
      mean_given: (decoder_output, x) -> E[x|z] for a row with the total of x, where `log_prob` is given that total. Then
        `mean` is that of a row with the mean total of the data. None: the likelihood is not given a total.
      sample_given: (key, decoder_output, x) -> one draw for a row with the total of x, or None.
      log_prob_per_entry: (decoder_output, x) -> log p(x_d|z) of each entry, in the shape of the event, nats; `log_prob` is its
        sum. Missing entries need it (see `observed_log_prob`). None: the entries are not independent given z.

    Example: a Cauchy likelihood of scale 1.
      >>> cauchy = Likelihood(
      ...     name="cauchy",
      ...     log_prob=lambda loc, x: -jnp.sum(jnp.log1p(jnp.square(x - loc)) + jnp.log(jnp.pi)),
      ...     mean=lambda loc: loc,  # its median, because a Cauchy distribution does not have a mean
      ...     sample=lambda key, loc: loc + jax.random.cauchy(key, loc.shape, loc.dtype),
      ...     support="real",
      ...     output_for_mean=lambda mean: mean,
      ... )
      >>> loc, x = jnp.zeros((5, 2, 3)), jnp.ones((5, 2, 3))  # five examples of shape (2, 3)
      >>> print(jax.vmap(cauchy.log_prob)(loc, x))
      [-11.03 -11.03 -11.03 -11.03 -11.03]
    """

    name: str
    log_prob: Callable[[DecoderOutput, Array], Array]
    mean: Callable[[DecoderOutput], Array]
    sample: Callable[[Array, DecoderOutput], Array]
    support: Support
    outputs_per_dim: int = 1
    shared_start: tuple[float, ...] = ()
    output_for_mean: Callable[[Array], Array] | None = None
    num_levels: int | None = None
    shared_values: Callable[[Array], Array] = _identity
    scale_mean: Callable[[Array, Array], Array] | None = None
    mean_given: Callable[[DecoderOutput, Array], Array] | None = None
    sample_given: Callable[[Array, DecoderOutput, Array], Array] | None = None
    log_prob_per_entry: Callable[[DecoderOutput, Array], Array] | None = None


class ParameterFields(TypedDict, total=False):
    """The fields of a `Likelihood` that depend on where its second parameter comes from, as keyword arguments."""

    outputs_per_dim: int
    shared_start: tuple[float, ...]
    shared_values: Callable[[Array], Array]


class LikelihoodFields(ParameterFields, total=False):
    """All fields of a `Likelihood` but `log_prob`, as keyword arguments."""

    name: str
    mean: Callable[[DecoderOutput], Array]
    sample: Callable[[Array, DecoderOutput], Array]
    support: Support
    output_for_mean: Callable[[Array], Array] | None
    num_levels: int | None
    scale_mean: Callable[[Array, Array], Array] | None
    mean_given: Callable[[DecoderOutput, Array], Array] | None
    sample_given: Callable[[Array, DecoderOutput, Array], Array] | None
    log_prob_per_entry: Callable[[DecoderOutput, Array], Array] | None


# Numbers in the interior of each support. They replace missing entries, so that neither a value nor a gradient is NaN there.
_INSIDE: dict[Support, float] = {"binary": 0.0, "unit_interval": 0.5, "levels": 0.0, "counts": 0.0, "real": 0.0}


def observed_log_prob(
    likelihood: Likelihood, output: DecoderOutput, x: Real[Array, "*event"], mask: Bool[Array, "*event"]
) -> Float[Array, ""]:
    """Computes the log-likelihood of the observed entries of one example.

        log p(x_observed|z) = sum over observed d of log p(x_d|z)

    The missing entries are marginalized out exactly, because the entries are independent given z.

    Args:
      likelihood: one with `log_prob_per_entry`.
      output: the decoder output.
      x: the example, in the shape of the event. Its values at missing entries have no effect.
      mask: True where an entry is observed, in the shape of the event.

    Returns:
      Scalar, nats. With a mask of ones it is `likelihood.log_prob(output, x)`, and 0 with a mask of zeros. Its gradient is
      finite wherever that of `log_prob` is, whatever stands at missing entries.

    Raises:
      UserError: the likelihood does not factorize over the entries.

    Source:
      Mattei & Frellsen (2019), equation 3.
    """
    check_factorizes(likelihood)
    assert likelihood.log_prob_per_entry is not None
    flat = mask.reshape(-1)  # with a trailing axis of one channel XLA does not vectorize on CPU
    inside = jnp.where(flat, x.reshape(-1), jnp.asarray(_INSIDE[likelihood.support], x.dtype)).reshape(x.shape)
    per_entry = likelihood.log_prob_per_entry(output, inside)
    if per_entry.shape != mask.shape:
        raise ValueError(f"log_prob_per_entry: expected the shape {mask.shape} of the event, got {per_entry.shape}.")
    return jnp.sum(jnp.where(flat, per_entry.reshape(-1), 0))


def entrywise(terms: Callable[..., Array], *inputs: Real[ArrayLike, "*#event"]) -> Float[Array, "*event"]:
    """Applies a formula to each entry, in at least float32 and flat, and returns its result in the shape of the event.

    Args:
      terms: a function of arrays of one shape (entries,), the last of them x.
      inputs: arrays of the event's shape, or numbers for all entries.
    """
    arrays, _ = promote(*inputs)
    shape = arrays[-1].shape
    return terms(*(jnp.broadcast_to(array, shape).reshape(-1) for array in arrays)).reshape(shape)


def check_factorizes(likelihood: Likelihood) -> None:
    """Raises `UserError` unless the likelihood can leave out missing entries."""
    if likelihood.log_prob_per_entry is None:
        raise UserError(
            f"the likelihood {likelihood.name!r} has no log_prob_per_entry: its entries are not independent given z, so "
            "missing ones cannot be left out.",
            fix="Use a likelihood whose entries are independent, such as gaussian or bernoulli. Of your own likelihood pass "
            "log_prob_per_entry=.",
        )


def _summarize(x: Shaped[Array, "..."], num_levels: int) -> tuple[Array, Array, Bool[Array, ""], Bool[Array, ""]]:
    """Returns (minimum, maximum, all are whole numbers, all are levels k / (num_levels - 1)); one program."""
    x = x.astype(jnp.float32)
    scaled = x * (num_levels - 1)
    return x.min(), x.max(), jnp.all(x == jnp.round(x)), jnp.all(jnp.abs(scaled - jnp.round(scaled)) < 1e-3)


def _format(value: float, is_outside: bool) -> str:
    """Formats a float32 in a few digits, or in all digits where a few would hide that it is outside of [0, 1]."""
    short = f"{value:g}"
    return f"{value:.9g}" if is_outside and 0 <= float(short) <= 1 else short


def outside_support(likelihood: Likelihood, x: Real[ArrayLike, "..."]) -> str | None:
    """Describes in which way data lie outside the support of a likelihood, or returns None where they do not.

    It looks at values, so call it outside of jit.

    Args:
      likelihood: its `support` and `num_levels` say which values are allowed.
      x: data of any shape; several examples at once are fine.

    Returns:
      A sentence without a full stop, or None.

    Example:
      >>> from vae_jax.likelihoods import bernoulli
      >>> print(outside_support(bernoulli(), jnp.array([0.0, 0.25, 1.0])))
      bernoulli expects binary data, got gray values in between
    """
    low, high, whole, on_levels = (value.item() for value in jax.jit(_summarize)(jnp.asarray(x), likelihood.num_levels or 2))
    between = f"got {_format(low, low < 0)} to {_format(high, high > 1)}"
    name, levels = likelihood.name, likelihood.num_levels
    match likelihood.support:
        case "binary" if low < 0 or high > 1:
            return f"{name} expects binary data, {between}"
        case "binary" if not whole:
            return f"{name} expects binary data, got gray values in between"
        case "unit_interval" | "levels" if low < 0 or high > 1:
            return f"{name} expects values in [0, 1], {between}"
        case "levels" if levels and not on_levels:
            return f"{name} expects the {levels} levels k / {levels - 1}, got values in between"
        case "counts" if low < 0 or not whole:
            return f"{name} expects counts (whole numbers >= 0), {between}{'' if whole else ' with fractions'}"
    return None


def from_log_prob(log_prob: Callable[[DecoderOutput, Array], Array], **fields: Unpack[LikelihoodFields]) -> Likelihood:
    """Makes a `Likelihood` from any function (decoder_output, x) -> scalar nats.

    Args:
      log_prob: log p(x|z) of ONE example, nats, summed over the event.
      fields: further fields of `Likelihood`. By default the decoder output is taken as the mean and as the sample, the data
        may be any real numbers, and the name is that of the function.

    Returns:
      The `Likelihood`.

    Raises:
      UserError: `log_prob` cannot be called with two arguments.
      ValueError: the support is not one of `Support`.

    Example:
      >>> laplace = from_log_prob(lambda loc, x: -jnp.sum(jnp.abs(x - loc) + jnp.log(2.0)))
      >>> print(laplace.log_prob(jnp.zeros(1), jnp.ones(1)))
      -1.69
    """
    check_signature(log_prob, 2, "a likelihood (decoder_output, x) -> scalar nats of ONE example")
    name: str = getattr(log_prob, "__name__", "custom")
    likelihood = Likelihood(name, log_prob, mean=_identity, sample=lambda key, output: output, support="real")
    likelihood = likelihood._replace(**fields)
    if likelihood.support not in get_args(Support):
        raise ValueError(f"from_log_prob: expected support among {', '.join(get_args(Support))}, got {likelihood.support!r}.")
    return likelihood


def invert_increasing(
    function: Callable[[Array], Array], target: Float[Array, "*shape"], low: float, high: float
) -> Float[Array, "*shape"]:
    """Solves function(t) = target elementwise by bisection in [low, high], for means without an inverse in closed form."""

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        below = function(middle) < target
        return jnp.where(below, middle, ends[0]), jnp.where(below, ends[1], middle)

    lows, highs = jax.lax.fori_loop(0, 50, halve, (jnp.full_like(target, low), jnp.full_like(target, high)))
    return (lows + highs) / 2


def check_positive(function: str, **values: ArrayLike | str) -> None:
    """Raises `ValueError` unless every value is a positive number, or an array of them."""
    for name, value in values.items():
        if isinstance(value, str) or not all(number > 0 and math.isfinite(number) for number in _numbers(value)):
            raise ValueError(f"{function}: expected {name} to be a positive number, got {value!r}.")


def natural_log(value: Float[ArrayLike, "*shape"]) -> float | Float[Array, "*shape"]:
    """Returns the natural logarithm of a number as a Python float, or of an array as an array."""
    if jnp.ndim(value) == 0:
        return math.log(value)  # pyright: ignore[reportArgumentType]
    return jnp.asarray([math.log(number) for number in _numbers(value)], jnp.float32).reshape(jnp.shape(value))


def _numbers(value: ArrayLike) -> list[float]:
    """Returns a number, or the entries of an array, as a list, without an operation of JAX, which a trace would record."""
    if jnp.ndim(value) == 0:
        return [value]  # pyright: ignore[reportReturnType]
    return jax.tree.leaves(value.tolist())  # pyright: ignore[reportAttributeAccessIssue]


class SecondParameter(NamedTuple):
    """The second parameter of a likelihood (a scale, a dispersion) on a log scale, and the place where a bundle reads it."""

    split: Callable[[DecoderOutput], tuple[Array, Array | float]]  # decoder_output -> (its first numbers, log of the parameter)
    fill: Callable[[Array], Array]  # first numbers -> an array of the decoder's, with the parameter at its initial value
    fields: ParameterFields


def column_starts(function: str, name: str, start: float | Float[Array, "*shape columns"]) -> Float[Array, "columns"]:
    """Returns the initial log of a parameter for each index of the last axis, the mean of the logs over the other axes."""
    if jnp.ndim(start) == 0:
        raise ValueError(
            f"{function}: expected an array of initial values with {name}='per_column', one for each column, got one number."
        )
    logs, columns = _numbers(start), jnp.shape(start)[-1]
    return jnp.asarray([math.fsum(logs[i::columns]) * columns / len(logs) for i in range(columns)], jnp.float32)


def second_parameter(
    function: str,
    name: str,
    value: float | str,
    start: float | Array,
    transform: Callable[[Array], Array] = _identity,
    num_first: int = 1,
) -> SecondParameter:
    """Interprets the setting of a second parameter.

    Args:
      function: name of the caller, for the message.
      name: name of the setting, for the message.
      value: the setting. A positive number fixes the parameter. "shared" learns one number for all dimensions. "per_column"
        learns one for each index of the event's last axis. "per_pixel" reads one more decoder output.
      start: log of the parameter before training. It is an array of the event's shape where entries differ. Then the learned
        shared number is the mean of the entries' logs, and their distances from it stay fixed. For "per_column" it is an array
        of the event's shape or of the columns.
      transform: learned log -> the log that acts, such as one with a floor. For "per_column" it takes one number per column.
      num_first: the number of other decoder outputs for each dimension. More than one are on an axis at the end.

    Returns:
      The `SecondParameter`.

    Raises:
      ValueError: the setting is not one of these.
    """
    several: ParameterFields = {} if num_first == 1 else {"outputs_per_dim": num_first}
    if value == "per_column":
        starts = column_starts(function, name, start)

        def split(output: DecoderOutput) -> tuple[Array, Array]:
            event = output[0].shape if num_first == 1 else output[0].shape[:-1]
            return output[0], jnp.broadcast_to(transform(output[1]), event)

        shared_start = tuple(_numbers(starts))
        return SecondParameter(split, _identity, {"shared_start": shared_start, "shared_values": transform, **several})
    if value == "shared" and isinstance(start, Array):
        level = math.fsum(_numbers(start)) / start.size
        offset = start - level
        return SecondParameter(
            lambda output: (output[0], transform(output[1][0]) + offset),
            _identity,
            {"shared_start": (level,), "shared_values": lambda learned: transform(learned[0]) + offset.ravel(), **several},
        )
    if value == "shared":
        return SecondParameter(
            lambda output: (output[0], transform(output[1][0])),
            _identity,
            {"shared_start": (float(start),), "shared_values": transform, **several},
        )
    if value == "per_pixel" and num_first == 1:
        return SecondParameter(
            lambda output: (output[..., 0], transform(start + output[..., 1])),
            lambda first: jnp.stack([first, jnp.zeros_like(first)], axis=-1),
            {"outputs_per_dim": 2},
        )
    if value == "per_pixel":
        return SecondParameter(
            lambda output: (output[..., :-1], transform(start + output[..., -1])),
            lambda first: jnp.concatenate([first, jnp.zeros_like(first[..., :1])], axis=-1),
            {"outputs_per_dim": num_first + 1},
        )
    if isinstance(value, str) or not (value > 0 and math.isfinite(value)):
        raise ValueError(
            f"{function}: expected {name} to be a positive number, 'shared', 'per_column' or 'per_pixel', got {value!r}."
        )
    fixed = math.log(value)
    return SecondParameter(lambda output: (output, fixed), _identity, several)
