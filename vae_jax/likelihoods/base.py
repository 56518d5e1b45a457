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

Support = Literal["binary", "unit_interval", "levels", "counts", "real", "mixed"]
DISCRETE: tuple[Support, ...] = ("binary", "levels", "counts")  # probabilities rather than densities: bits per dimension exist

DecoderOutput: TypeAlias = PyTree[Float[Array, "..."]]  # an array, or a tuple of an array and the learned shared numbers


def identity(value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns its argument."""
    return value


class Likelihood(NamedTuple):
    """A likelihood p(x|z) as a bundle of pure functions of ONE example.

    `model.make_vae` takes one. To use your own, fill this record, or let `from_log_prob` fill in the usual defaults.

    Contract of the functions:

    - They see one example, without a batch axis. Callers apply `jax.vmap`.
    - `x` has the shape of the event and holds floats. Levels arrive as k/(num_levels - 1) in [0, 1], and counts as whole
      numbers.
    - The decoder output is an array of the event's shape. With `outputs_per_dim` > 1 it has one more axis of that length at the
      end. With `num_outputs` it is flat instead, of that length. With a non-empty `shared_start` it is a tuple of that array
      and the learned numbers, shape (len(shared_start),).
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
      log_prob_observed: (decoder_output, x, mask) -> the sum of `log_prob_per_entry` over the entries where the mask is True.
        Where the mask is False, x is a number in the support. None: the sum is taken by `observed_log_prob`.
      dependence: sentences that say why the entries depend on each other given z, and which likelihood to use where entries
        are missing. They complete the message of a likelihood without `log_prob_per_entry`.
      inside: a number in the support of each entry, in the order of the flat event, or a single number for all. It replaces
        missing entries. (): one number by `support`.
      num_outputs: length of the decoder output, where it is one flat array that is not in the event's shape. None: it is in
        the event's shape.
      groups: for support "mixed", the likelihoods of groups of columns (see `columns`).

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
    shared_values: Callable[[Array], Array] = identity
    scale_mean: Callable[[Array, Array], Array] | None = None
    mean_given: Callable[[DecoderOutput, Array], Array] | None = None
    sample_given: Callable[[Array, DecoderOutput, Array], Array] | None = None
    log_prob_per_entry: Callable[[DecoderOutput, Array], Array] | None = None
    log_prob_observed: Callable[[DecoderOutput, Array, Array], Array] | None = None
    dependence: str = ""
    inside: tuple[float, ...] = ()
    num_outputs: int | None = None
    groups: "tuple[ColumnGroup, ...]" = ()


class ColumnGroup(NamedTuple):
    """Columns of a table that one likelihood models (see `columns`).

    Attributes:
      likelihood: of the vector of these columns.
      columns: their positions in the event.
      values: for integer levels, the increasing numbers in x that the levels 0 ... K - 1 stand for, K of them for each column.
        (): the numbers 0 ... K - 1 themselves.
      frequencies: for a categorical likelihood, the share of each level in the data, K for each column. The decoder's bias may
        start there. (): not known.
    """

    likelihood: Likelihood
    columns: tuple[int, ...]
    values: tuple[tuple[float, ...], ...] = ()
    frequencies: tuple[tuple[float, ...], ...] = ()


class ParameterFields(TypedDict, total=False):
    """The fields of a `Likelihood` that depend on where its second parameter comes from, as keyword arguments."""

    outputs_per_dim: int
    shared_start: tuple[float, ...]
    shared_values: Callable[[Array], Array]


class LikelihoodFields(ParameterFields, total=False):
    """All fields of a `Likelihood` but `log_prob` and `groups`, as keyword arguments."""

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
    log_prob_observed: Callable[[DecoderOutput, Array, Array], Array] | None
    dependence: str
    inside: tuple[float, ...]
    num_outputs: int | None


# Numbers in each support. They replace missing entries, so that neither a value nor a gradient is NaN there. 1/2 is inside
# of an open interval as well, and 0 is a level whatever their number.
INSIDE: dict[Support, float] = {"binary": 0.0, "unit_interval": 0.5, "levels": 0.0, "counts": 0.0, "real": 0.0, "mixed": 0.0}


def observed_log_prob(
    likelihood: Likelihood, output: DecoderOutput, x: Real[Array, "*event"], mask: Bool[Array, "*event"]
) -> Float[Array, ""]:
    """Computes the log-likelihood of the observed entries of one example.

        log p(x_observed|z) = sum over observed d of log p(x_d|z)

    The missing entries are marginalized out exactly, because the entries are independent given z.

    Args:
      likelihood: one with `log_prob_per_entry`.
      output: the decoder output.
      x: the example, in the shape of the event. Its values at missing entries have no effect, be they NaN or infinite.
      mask: True where an entry is observed, in the shape of the event. For an image of several channels, each channel of each
        pixel is an entry.

    Returns:
      Scalar, nats, sum over the observed entries. With a mask of ones it is `likelihood.log_prob(output, x)`, and exactly 0
      with a mask of zeros. Its gradient is finite wherever that of `log_prob` is, and exactly 0 for decoder outputs that only
      missing entries depend on.

    Raises:
      UserError: the likelihood does not factorize over the entries, or its `log_prob_per_entry` does not return their shape.
      ValueError: the mask does not have the shape of the event.

    Example:
      >>> from vae_jax.likelihoods import gaussian
      >>> x, mask = jnp.array([1.0, jnp.nan, 1.0]), jnp.array([True, False, True])
      >>> print(observed_log_prob(gaussian(1.0), jnp.zeros(3), x, mask))
      -2.84

    Source:
      Mattei & Frellsen (2019), equation 3.
    """
    check_factorizes(likelihood)
    assert likelihood.log_prob_per_entry is not None
    x, mask = jnp.asarray(x), jnp.asarray(mask)
    if mask.shape != x.shape:
        raise ValueError(
            f"observed_log_prob: expected one mask of the event's shape {x.shape}, got shape {mask.shape}. "
            "For a batch use jax.vmap."
        )
    flat = mask.reshape(-1)  # with a trailing axis of one channel XLA does not vectorize on CPU
    filled = inside_support(likelihood, x, mask)
    if likelihood.log_prob_observed is not None:
        return likelihood.log_prob_observed(output, filled, mask)
    per_entry = likelihood.log_prob_per_entry(output, filled)
    if jnp.shape(per_entry) != mask.shape:
        raise UserError(
            f"the likelihood {likelihood.name!r}: expected log_prob_per_entry to return the shape {mask.shape} of the event, "
            f"got {jnp.shape(per_entry)}.",
            fix="Return the log-probability of each entry, and do not add them up.",
        )
    total = jnp.sum(jnp.where(flat, per_entry.reshape(-1), 0))
    return total.astype(promote(*jax.tree.leaves(output), x)[1])


def inside_support(likelihood: Likelihood, x: Real[Array, "*event"], mask: Bool[Array, "*event"]) -> Real[Array, "*event"]:
    """Returns the example with numbers inside the support of the likelihood in place of missing entries."""
    numbers = jnp.asarray(likelihood.inside or INSIDE[likelihood.support], x.dtype)
    return jnp.where(mask.reshape(-1), x.reshape(-1), numbers).reshape(x.shape)


def entrywise(terms: Callable[..., Array], *inputs: Real[ArrayLike, "*#event"]) -> Float[Array, "*event"]:
    """Applies a formula to each entry, in at least float32 and flat, and returns its result in the shape of the event.

    Args:
      terms: a function of arrays of shape (entries, ...), the last of them x, of shape (entries,). Returns shape (entries,).
      inputs: arrays of the event's shape, with further axes behind it (classes, components) or without, or numbers for all
        entries. The last is x.

    Raises:
      ValueError: an array does not have the shape of the event.
    """
    arrays, _ = promote(*inputs)
    shape = arrays[-1].shape
    if wrong := [array.shape for array in arrays if array.shape and array.shape[: len(shape)] != shape]:
        raise ValueError(
            f"log_prob_per_entry: expected decoder outputs of one example of shape {shape}, got {wrong[0]}. The function takes "
            "ONE example: use jax.vmap for a batch."
        )
    everywhere = (array if array.shape else jnp.broadcast_to(array, shape) for array in arrays)
    return terms(*(array.reshape(-1, *array.shape[len(shape) :]) for array in everywhere)).reshape(shape)


def check_factorizes(likelihood: Likelihood) -> None:
    """Raises `UserError` unless the likelihood can leave out missing entries."""
    if likelihood.log_prob_per_entry is None:
        raise UserError(
            f"the likelihood {likelihood.name!r} cannot leave out missing entries.",
            fix=likelihood.dependence
            or "It has no log_prob_per_entry. If its entries are independent given z, pass log_prob_per_entry= to "
            "from_log_prob. Otherwise use a likelihood such as gaussian or bernoulli.",
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
        may be any real numbers, and the name is that of the function. Missing entries need `log_prob_per_entry`.

    Returns:
      The `Likelihood`.

    Raises:
      UserError: `log_prob` or `log_prob_per_entry` cannot be called with two arguments.
      ValueError: the support is not one of `Support`.

    Example:
      >>> laplace = from_log_prob(lambda loc, x: -jnp.sum(jnp.abs(x - loc) + jnp.log(2.0)))
      >>> print(laplace.log_prob(jnp.zeros(1), jnp.ones(1)))
      -1.69
    """
    check_signature(log_prob, 2, "a likelihood (decoder_output, x) -> scalar nats of ONE example")
    if (per_entry := fields.get("log_prob_per_entry")) is not None:
        check_signature(per_entry, 2, "a log_prob_per_entry (decoder_output, x) -> nats of each entry of ONE example")
    name: str = getattr(log_prob, "__name__", "custom")
    likelihood = Likelihood(name, log_prob, mean=identity, sample=lambda key, output: output, support="real")
    likelihood = likelihood._replace(**fields)
    supports = [support for support in get_args(Support) if support != "mixed"]  # which needs groups, see `columns`
    if likelihood.support not in supports:
        raise ValueError(f"from_log_prob: expected support among {', '.join(supports)}, got {likelihood.support!r}.")
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
        if isinstance(value, str) or not all(number > 0 and math.isfinite(number) for number in numbers(value)):
            raise ValueError(f"{function}: expected {name} to be a positive number, got {value!r}.")


def natural_log(value: Float[ArrayLike, "*shape"]) -> float | Float[Array, "*shape"]:
    """Returns the natural logarithm of a number as a Python float, or of an array as an array."""
    if jnp.ndim(value) == 0:
        return math.log(value)  # pyright: ignore[reportArgumentType]
    return jnp.asarray([math.log(number) for number in numbers(value)], jnp.float32).reshape(jnp.shape(value))


def numbers(value: Float[ArrayLike, "*shape"]) -> list[float]:
    """Returns a number, or the entries of an array, as a list, without an operation of JAX, which a trace would record."""
    if jnp.ndim(value) == 0:
        return [value]  # pyright: ignore[reportReturnType]
    return jax.tree.leaves(value.tolist())  # pyright: ignore[reportAttributeAccessIssue]
