"""Likelihood of mixed tables: each column, or group of columns, has a likelihood of its own."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Real

from vae_jax._numerics.arrays import promote
from vae_jax.errors import UserError
from vae_jax.likelihoods.base import INSIDE, ColumnGroup, DecoderOutput, Likelihood, outside_support

_STANDARDIZED = ("real", "levels")  # supports of columns that the encoder sees standardized


class _Part(NamedTuple):
    """One group, and the places of its numbers in the decoder output and among the learned shared numbers."""

    group: ColumnGroup
    outputs: slice
    shared: slice

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the decoder output that the group's likelihood takes."""
        count, per_dim = len(self.group.columns), self.group.likelihood.outputs_per_dim
        return (count,) if per_dim == 1 else (count, per_dim)


def columns(groups: Sequence[ColumnGroup | tuple[Likelihood, Sequence[int]]]) -> Likelihood:
    """Makes the likelihood of vectors whose columns are of different kinds.

        log p(x|z) = sum over groups g of log p_g(x_g|z),   x_g the columns of the group

    x holds numbers as they are in the table: zeros and ones, counts, real numbers, and for categorical columns the codes
    0 ... K - 1 (or `ColumnGroup.values`). The decoder emits one flat array, with the outputs of each group one after the other.
    Encoders see real columns standardized, counts as log(1 + x), standardized, categories one-hot, and other columns as they
    are. `mlp_vae` makes networks of these sizes.

    Args:
      groups: a likelihood of vectors and the positions of its columns, for each group; or `ColumnGroup`s. Each column of x
        belongs to one group. The entries must be independent given z: bernoulli, categorical, gaussian, laplace, student_t,
        poisson, negative_binomial, zero_inflated_negative_binomial, continuous_bernoulli or discretized_logistic. Scales and
        dispersions "per_column" suit columns of different units.

    Returns:
      The `Likelihood`, of support "mixed". Its `mean` is E[x|z], for categorical columns the most probable value.

    Raises:
      UserError: columns that are in no group or in several, or a likelihood that does not factorize over the columns.

    Example: a binary column, one with three categories, and a real one.
      >>> from vae_jax import likelihoods
      >>> mixed = columns([
      ...     (likelihoods.bernoulli(), [0]),
      ...     (likelihoods.categorical(3), [2]),
      ...     (likelihoods.gaussian(1.0), [1]),
      ... ])
      >>> mixed.num_outputs
      5
      >>> x = jnp.array([[1.0, 0.5, 2.0], [0.0, 0.5, 1.0]])
      >>> print(jax.vmap(mixed.log_prob)(jnp.zeros((2, 5)), x))
      [-2.84 -2.84]

    Source:
      Nazabal et al. (2020), "Handling incomplete heterogeneous data using VAEs", equation 5.
    """
    parts = list(_parts(tuple(ColumnGroup(*group) for group in groups)))
    order = _checked_order(parts)
    num_outputs, shared_start = parts[-1].outputs.stop, sum((part.group.likelihood.shared_start for part in parts), ())
    values: dict[int, float] = {}
    for part in parts:
        inside = part.group.likelihood.inside or (INSIDE[part.group.likelihood.support],)
        inside = inside * len(part.group.columns) if len(inside) == 1 else inside
        lowest = part.group.values or [(number,) for number in inside]
        values |= {column: numbers[0] for column, numbers in zip(part.group.columns, lowest, strict=True)}

    def joined(arrays: Sequence[Array]) -> Array:
        return jnp.concatenate(arrays)[np.argsort(order)]

    def per_entry(output: DecoderOutput, x: Array) -> Array:
        return joined([_log_prob(part, own, x) for part, own in _outputs(parts, output)])

    def log_prob(output: DecoderOutput, x: Real[ArrayLike, "columns"]) -> Float[Array, ""]:
        (x,), dtype = promote(x)
        if x.shape != order.shape:
            raise ValueError(f"columns: expected one example of shape {order.shape}, got shape {x.shape}. Use jax.vmap.")
        return jnp.sum(per_entry(output, x)).astype(dtype)

    def sample(key: Array, output: DecoderOutput) -> Array:
        keys = jax.random.split(key, len(parts))
        draws = [part.group.likelihood.sample(keys[i], own) for i, (part, own) in enumerate(_outputs(parts, output))]
        return joined([_to_values(part.group, draw) for part, draw in zip(parts, draws, strict=True)])

    def output_for_mean(mean: Array) -> Array:
        return jnp.concatenate([_start(part.group, mean[np.array(part.group.columns)]).reshape(-1) for part in parts])

    return Likelihood(
        name="columns",
        log_prob=log_prob,
        mean=lambda output: joined([_mean(part.group, own) for part, own in _outputs(parts, output)]),
        sample=sample,
        support="mixed",
        shared_start=shared_start,
        output_for_mean=output_for_mean,
        shared_values=lambda learned: jnp.concatenate(
            [jnp.ravel(part.group.likelihood.shared_values(learned[part.shared])) for part in parts if _num_shared(part.group)]
        ),
        log_prob_per_entry=per_entry,
        num_outputs=num_outputs,
        inside=tuple(values[column] for column in range(len(order))),
        groups=tuple(part.group for part in parts),
    )


def _parts(groups: tuple[ColumnGroup, ...]) -> Iterator[_Part]:
    """Yields the groups with the places of their numbers."""
    outputs = shared = 0
    for group in groups:
        group = group._replace(columns=tuple(map(int, group.columns)))
        stop, last = outputs + len(group.columns) * group.likelihood.outputs_per_dim, shared + _num_shared(group)
        yield _Part(group, slice(outputs, stop), slice(shared, last))
        outputs, shared = stop, last


def _num_shared(group: ColumnGroup) -> int:
    return len(group.likelihood.shared_start)


def _checked_order(parts: Sequence[_Part]) -> np.ndarray:
    """Returns the columns of all groups one after the other.

    Raises:
      UserError: see `columns`.
    """
    order = np.array([column for part in parts for column in part.group.columns], int)
    if not len(order) or sorted(order.tolist()) != list(range(len(order))):
        raise UserError(
            f"columns: expected each of the columns 0 to D - 1 in one group, got {sorted(order.tolist())}. Name every column "
            "once."
        )
    for part in parts:
        group, likelihood = part.group, part.group.likelihood
        if likelihood.log_prob_per_entry is None or likelihood.groups:
            raise UserError(
                f"columns: {likelihood.name} does not factorize over the columns of a group. {likelihood.dependence}",
                fix="Use a likelihood whose entries are independent given z.",
            )
        for name, numbers in (("values", group.values), ("frequencies", group.frequencies)):
            if numbers and [len(row) for row in numbers] != [likelihood.num_levels] * len(group.columns):
                raise UserError(
                    f"columns: expected {name} with {likelihood.num_levels} numbers for each column of {group.columns}."
                )
    return order


def _outputs(parts: Sequence[_Part], output: DecoderOutput) -> list[tuple[_Part, DecoderOutput]]:
    """Returns each group with the decoder output that its likelihood takes."""
    has_shared = any(_num_shared(part.group) for part in parts)
    flat, learned = output if has_shared else (output, None)  # pyright: ignore
    if flat.shape != (parts[-1].outputs.stop,):
        raise ValueError(
            f"columns: expected a decoder output of shape ({parts[-1].outputs.stop},), got {flat.shape}. Make the decoder with "
            "data_shape=(likelihood.num_outputs,). For a batch use jax.vmap."
        )
    result = []
    for part in parts:
        first = flat[part.outputs].reshape(part.shape)
        result.append((part, (first, learned[part.shared]) if _num_shared(part.group) else first))  # pyright: ignore
    return result


def _to_levels(group: ColumnGroup, x: Float[Array, "columns"]) -> Float[Array, "columns"]:
    """Converts the numbers of a group of integer levels to positions 0 ... K - 1, linearly between its values."""
    if not group.values:
        return x
    values = jnp.asarray(group.values, jnp.float32)
    return _interpolate(x, values, jnp.broadcast_to(jnp.arange(values.shape[1]), values.shape))


def _to_values(group: ColumnGroup, x: Float[Array, "columns"]) -> Float[Array, "columns"]:
    """Converts the numbers of a group's likelihood to those in x."""
    num_levels = group.likelihood.num_levels
    if num_levels is None:
        return x
    levels = x * (num_levels - 1)
    if not group.values:
        return levels
    numbers = jnp.asarray(group.values, jnp.float32)
    return _interpolate(levels, jnp.broadcast_to(jnp.arange(num_levels), numbers.shape), numbers)


def _interpolate(x: Float[Array, "columns"], old: Array, new: Array) -> Float[Array, "columns"]:
    """Maps the number of each column from the old scale to the new one, which are tables (columns, points)."""
    # In float32, because jnp.interp of JAX 0.10 fails on bfloat16 ("data type bfloat16 not inexact").
    wide = (x.astype(jnp.float32), old.astype(jnp.float32), new.astype(jnp.float32))
    return jax.vmap(jnp.interp)(*wide).astype(x.dtype)


def _log_prob(part: _Part, output: DecoderOutput, x: Array) -> Array:
    """Computes log p of each column of a group."""
    group, own = part.group, x[np.array(part.group.columns)]
    assert group.likelihood.log_prob_per_entry is not None
    if group.likelihood.num_levels is not None:
        own = jnp.round(_to_levels(group, own)) / (group.likelihood.num_levels - 1)
    return group.likelihood.log_prob_per_entry(output, own)


def _mean(group: ColumnGroup, output: DecoderOutput) -> Array:
    """Computes the mean of each column of a group, and the most probable value of categories, which have no mean."""
    if not is_nominal(group):
        return _to_values(group, group.likelihood.mean(output))
    logits = output[0] if _num_shared(group) else output  # pyright: ignore
    level = jnp.argmax(logits, axis=-1)  # pyright: ignore
    return _to_values(group, level.astype(logits.dtype) / (logits.shape[-1] - 1))  # pyright: ignore


def _start(group: ColumnGroup, mean: Array) -> Array:
    """Returns the decoder outputs of a group that predict the mean, or the frequencies where they are known."""
    if group.frequencies:
        # A category that is in the test set alone starts at 1/1000 of the most frequent one rather than at minus infinity.
        frequencies = jnp.asarray(group.frequencies, mean.dtype)
        return jnp.log(jnp.maximum(frequencies, 1e-3 * jnp.max(frequencies, axis=-1, keepdims=True)))
    if group.likelihood.output_for_mean is None:
        return jnp.zeros((len(group.columns), group.likelihood.outputs_per_dim), mean.dtype)
    if group.likelihood.num_levels is not None:
        mean = _to_levels(group, mean) / (group.likelihood.num_levels - 1)
    return group.likelihood.output_for_mean(mean)


def is_nominal(group: ColumnGroup) -> bool:
    """Returns whether the columns of a group have categories without an order."""
    return group.likelihood.name == "categorical"


def num_columns(likelihood: Likelihood) -> int:
    """Returns the number of columns of a mixed likelihood."""
    return sum(len(group.columns) for group in likelihood.groups)


def group_of_column(likelihood: Likelihood) -> tuple[ColumnGroup, ...]:
    """Returns the group of each column of a mixed likelihood."""
    groups = {column: group for group in likelihood.groups for column in group.columns}
    return tuple(groups[column] for column in range(len(groups)))


def category_probs(likelihood: Likelihood, output: DecoderOutput) -> dict[int, Float[Array, "categories"]]:
    """Computes p(x_d = category | z) of each categorical column d of a mixed likelihood.

    Args:
      likelihood: made by `columns`.
      output: the decoder output of one code.

    Returns:
      The probabilities by column, in the order of `ColumnGroup.values`. They sum to one.
    """
    probs: dict[int, Array] = {}
    for part, own in _outputs(list(_parts(likelihood.groups)), output):
        if is_nominal(part.group):
            probs |= dict(zip(part.group.columns, jax.nn.softmax(own, axis=-1), strict=True))  # pyright: ignore
    return probs


def num_features(likelihood: Likelihood) -> int:
    """Returns the number of inputs that an encoder has for the columns of a mixed likelihood."""
    return len(feature_columns(likelihood))


def feature_columns(likelihood: Likelihood) -> np.ndarray:
    """Returns the column that each input of the encoder belongs to, (features,)."""
    repeats = [
        np.repeat(group.columns, group.likelihood.num_levels or 1 if is_nominal(group) else 1) for group in likelihood.groups
    ]
    return np.concatenate(repeats)


def features(likelihood: Likelihood, x: Float[Array, "columns"]) -> Float[Array, "features"]:
    """Computes the inputs of the encoder: categories one-hot, other columns as they are.

        feature k of a category = max(0, 1 - |code - k|)

    This is one-hot at whole codes, and it has a gradient in between, where the learned pseudo-inputs of a VampPrior lie.

    Args:
      likelihood: made by `columns`.
      x: one example, on the scale of `standardize`.
    """
    parts = []
    for group in likelihood.groups:
        own = x[np.array(group.columns)]
        if is_nominal(group):
            level = jnp.arange(group.likelihood.num_levels or 1, dtype=own.dtype)
            own = jax.nn.relu(1 - jnp.abs(_to_levels(group, own)[:, None] - level)).reshape(-1)
        parts.append(own)
    return jnp.concatenate(parts)


def standardize(
    likelihood: Likelihood,
    x: Float[Array, "columns"],
    moments: tuple[ArrayLike, ArrayLike],
    log1p: tuple[ArrayLike, ArrayLike] | None,
) -> Float[Array, "columns"]:
    """Returns one example with standardized columns: real numbers, counts as log(1 + x); others are unchanged.

    Args:
      likelihood: made by `columns`.
      x: one example.
      moments: mean and standard deviation of each column.
      log1p: those of log(1 + x). None: counts are standardized as they are.
    """
    supports = [group.likelihood.support for group in group_of_column(likelihood)]
    nominal = np.array([is_nominal(group) for group in group_of_column(likelihood)])
    is_count = np.array([support == "counts" for support in supports])
    is_real = np.array([support in _STANDARDIZED for support in supports]) & ~nominal
    real, counts = (x - moments[0]) / moments[1], (x - moments[0]) / moments[1]
    if log1p is not None:
        counts = (jnp.log1p(jnp.maximum(x, 0)) - log1p[0]) / log1p[1]
    return jnp.where(is_count, counts, jnp.where(is_real, real, x))


def rescale_output(
    likelihood: Likelihood, flat: Float[Array, "outputs"], mean: ArrayLike, std: ArrayLike, scale_counts: bool = True
) -> Float[Array, "outputs"]:
    """Moves the decoder's locations of real columns to mean + std h, and multiplies the means of counts by the mean.

    Args:
      likelihood: made by `columns`.
      flat: the decoder's array.
      mean, std: of each column.
      scale_counts: whether counts are scaled too.
    """
    width = num_columns(likelihood)
    mean, std = jnp.broadcast_to(jnp.asarray(mean), (width,)), jnp.broadcast_to(jnp.asarray(std), (width,))
    for part in _parts(likelihood.groups):
        own, chosen = part.group.likelihood, np.array(part.group.columns)
        first = np.arange(part.outputs.start, part.outputs.stop, own.outputs_per_dim)
        if own.support == "real":
            flat = flat.at[first].set(mean[chosen] + std[chosen] * flat[first])
        elif scale_counts and own.scale_mean is not None:
            flat = flat.at[first].set(own.scale_mean(flat[first], jnp.maximum(mean[chosen], 1e-3)))
    return flat


def outside_columns(
    likelihood: Likelihood,
    x: Real[np.ndarray, "examples columns"],
    mask: Bool[np.ndarray, "examples columns"] | None = None,
    names: Sequence[str] | None = None,
) -> str | None:
    """Describes in which way data lie outside the support of one column's likelihood, or returns None where they do not.

    Args:
      likelihood: made by `columns`.
      x: examples.
      mask: True where an entry is observed; None: everywhere.
      names: of the columns, for the text.

    Returns:
      A sentence without a full stop about the first such column, or None.
    """
    for column, group in enumerate(group_of_column(likelihood)):
        observed = np.asarray(x[:, column], np.float32)
        observed = observed if mask is None else observed[np.asarray(mask)[:, column]]
        if not len(observed):
            continue
        name = f"column {column}" if names is None else f"the column {names[column]!r}"
        own, present = group.likelihood, np.unique(observed)
        if own.num_levels is None:
            extremes = np.array([present[0], present[-1], *present[present != np.round(present)][:1]])
            if problem := outside_support(own, extremes):
                return f"{name}: {problem}"
            continue
        allowed = group.values[group.columns.index(column)] if group.values else range(own.num_levels)
        if len(others := np.setdiff1d(present, np.asarray(allowed, np.float32))):
            return f"{name}: {own.name} expects one of {own.num_levels} values that it knows, got {others[0]:g}"
    return None
