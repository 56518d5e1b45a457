"""Likelihood of mixed tables: each column, or group of columns, has a likelihood of its own."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from vae_jax._numerics.arrays import promote
from vae_jax.errors import UserError
from vae_jax.likelihoods.base import INSIDE, ColumnGroup, DecoderOutput, Likelihood

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
    named = (group if isinstance(group, ColumnGroup) else ColumnGroup(group[0], tuple(group[1])) for group in groups)
    parts = list(_parts(tuple(named)))
    _check_groups(parts)
    return Likelihood(
        name="columns",
        log_prob=partial(_sum_of_columns, parts),
        mean=lambda output: _in_order(parts, [_mean(part.group, decoded) for part, decoded in _outputs(parts, output)]),
        sample=partial(_sample, parts),
        support="mixed",
        shared_start=sum((part.group.likelihood.shared_start for part in parts), ()),
        output_for_mean=lambda mean: jnp.concatenate([_start(part.group, mean).reshape(-1) for part in parts]),
        shared_values=lambda learned: jnp.concatenate(
            [jnp.ravel(part.group.likelihood.shared_values(learned[part.shared])) for part in parts if _num_shared(part.group)]
        ),
        log_prob_per_entry=partial(_per_column, parts),
        num_outputs=parts[-1].outputs.stop,
        inside=_inside(parts),
        groups=tuple(part.group for part in parts),
    )


def _width(parts: Sequence[_Part]) -> int:
    return sum(len(part.group.columns) for part in parts)


def _in_order(parts: Sequence[_Part], arrays: Sequence[Array]) -> Array:
    """Joins the numbers of the groups in the order of the columns."""
    order = [column for part in parts for column in part.group.columns]
    return jnp.concatenate(arrays)[jnp.asarray(sorted(range(len(order)), key=order.__getitem__))]


def _per_column(parts: Sequence[_Part], output: DecoderOutput, x: Array) -> Array:
    """Computes log p(x_d|z) of each column."""
    return _in_order(parts, [_log_prob(part, decoded, x) for part, decoded in _outputs(parts, output)])


def _sum_of_columns(parts: Sequence[_Part], output: DecoderOutput, x: Real[ArrayLike, "columns"]) -> Float[Array, ""]:
    """Computes log p(x|z) of one example."""
    (x,), dtype = promote(x)
    if x.shape != (_width(parts),):
        raise ValueError(f"columns: expected one example of shape {(_width(parts),)}, got shape {x.shape}. Use jax.vmap.")
    return jnp.sum(_per_column(parts, output, x)).astype(dtype)


def _sample(parts: Sequence[_Part], key: Array, output: DecoderOutput) -> Array:
    """Draws one example."""
    keys = jax.random.split(key, len(parts))
    decoded_parts = zip(keys, _outputs(parts, output), strict=True)
    draws = [_to_values(part.group, part.group.likelihood.sample(key, decoded)) for key, (part, decoded) in decoded_parts]
    return _in_order(parts, draws)


def _inside(parts: Sequence[_Part]) -> tuple[float, ...]:
    """Returns a number in the support of each column."""
    numbers: dict[int, float] = {}
    for part in parts:
        group = part.group
        default = group.likelihood.inside or (INSIDE[group.likelihood.support],)
        default = default * len(group.columns) if len(default) == 1 else default
        lowest = [values[0] for values in group.values] or default
        numbers |= dict(zip(group.columns, lowest, strict=True))
    return tuple(numbers[column] for column in range(len(numbers)))


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


def _check_groups(parts: Sequence[_Part]) -> None:
    """Raises `UserError` for groups that do not make up a table (see `columns`)."""
    order = [column for part in parts for column in part.group.columns]
    if not order or sorted(order) != list(range(len(order))):
        raise UserError(
            f"columns: expected each of the columns 0 to D - 1 in one group, got {sorted(order)}. Name every column once."
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
    group, numbers = part.group, x[jnp.asarray(part.group.columns)]
    assert group.likelihood.log_prob_per_entry is not None
    if group.likelihood.num_levels is not None:
        numbers = jnp.round(_to_levels(group, numbers)) / (group.likelihood.num_levels - 1)
    return group.likelihood.log_prob_per_entry(output, numbers)


def _mean(group: ColumnGroup, output: DecoderOutput) -> Array:
    """Computes the mean of each column of a group, and the most probable value of categories, which have no mean."""
    if not is_nominal(group):
        return _to_values(group, group.likelihood.mean(output))
    logits = output[0] if _num_shared(group) else output  # pyright: ignore
    level = jnp.argmax(logits, axis=-1)  # pyright: ignore
    return _to_values(group, level.astype(logits.dtype) / (logits.shape[-1] - 1))  # pyright: ignore


def _start(group: ColumnGroup, mean: Array) -> Array:
    """Returns the decoder outputs of a group that predict the mean of all columns, or the frequencies where they are known."""
    mean = mean[jnp.asarray(group.columns)]
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
    for part, logits in _outputs(list(_parts(likelihood.groups)), output):
        if is_nominal(part.group):
            probs |= dict(zip(part.group.columns, jax.nn.softmax(logits, axis=-1), strict=True))  # pyright: ignore
    return probs


def num_features(likelihood: Likelihood) -> int:
    """Returns the number of inputs that an encoder has for the columns of a mixed likelihood."""
    return len(feature_columns(likelihood))


def feature_columns(likelihood: Likelihood) -> tuple[int, ...]:
    """Returns the column that each input of the encoder belongs to."""
    return tuple(
        column
        for group in likelihood.groups
        for column in group.columns
        for _ in range((group.likelihood.num_levels or 1) if is_nominal(group) else 1)
    )


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
        numbers = x[jnp.asarray(group.columns)]
        if is_nominal(group):
            level = jnp.arange(group.likelihood.num_levels or 1, dtype=numbers.dtype)
            numbers = jax.nn.relu(1 - jnp.abs(_to_levels(group, numbers)[:, None] - level)).reshape(-1)
        parts.append(numbers)
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
    groups = group_of_column(likelihood)
    is_count = jnp.asarray([group.likelihood.support == "counts" for group in groups])
    is_real = jnp.asarray([group.likelihood.support in _STANDARDIZED and not is_nominal(group) for group in groups])
    real, counts = (x - moments[0]) / moments[1], (x - moments[0]) / moments[1]
    if log1p is not None:
        counts = (jnp.log1p(jnp.maximum(x, 0)) - log1p[0]) / log1p[1]
    return jnp.where(is_count, counts, jnp.where(is_real, real, x))


def rescale_output(
    likelihood: Likelihood,
    flat: Float[Array, "outputs"],
    mean: Float[ArrayLike, "*#columns"],
    std: Float[ArrayLike, "*#columns"],
    scale_counts: bool = True,
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
        inner, chosen = part.group.likelihood, jnp.asarray(part.group.columns)
        first = jnp.arange(part.outputs.start, part.outputs.stop, inner.outputs_per_dim)
        if inner.support == "real":
            flat = flat.at[first].set(mean[chosen] + std[chosen] * flat[first])
        elif scale_counts and inner.scale_mean is not None:
            flat = flat.at[first].set(inner.scale_mean(flat[first], jnp.maximum(mean[chosen], 1e-3)))
    return flat
