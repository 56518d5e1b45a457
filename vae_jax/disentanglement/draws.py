"""Random draws of the metrics: rows of the table, and pairs and batches of rows that share the value of a factor."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from vae_jax.disentanglement.settings import PUBLISHED, Labels, Settings, check_labels, check_num_rows, check_settings

Index = Int[np.ndarray, "..."]  # int64


class Rows(NamedTuple):
    """Indices of the rows to train on and to evaluate on."""

    train: Int[np.ndarray, "num_points"]
    evaluation: Int[np.ndarray, "num_eval"]


class Pairs(NamedTuple):
    """A factor for each point, and pairs of rows with the same value of that factor."""

    factor: Int[np.ndarray, "points"]
    first: Int[np.ndarray, "points batch_size"]  # rows
    second: Int[np.ndarray, "points batch_size"]  # rows


class Batches(NamedTuple):
    """A factor for each point, and rows that all have the same value of that factor."""

    factor: Int[np.ndarray, "points"]
    rows: Int[np.ndarray, "points batch_size"]


class _Groups(NamedTuple):
    """Rows sorted by the value of each factor, with the start and the size of the group of each value."""

    value: Int[np.ndarray, "num_factors rows"]  # 0, 1, 2, ... without gaps
    order: Int[np.ndarray, "num_factors rows"]
    start: Int[np.ndarray, "num_factors most_values"]
    size: Int[np.ndarray, "num_factors most_values"]


def _integers(key: Array, shape: tuple[int, ...], high: int | Index) -> Index:
    """Draws uniform integers from 0 to high - 1. They are the same whether JAX computes in 32 or in 64 bits."""
    limit = jnp.broadcast_to(jnp.asarray(high, jnp.int32), shape)
    return np.asarray(jax.random.randint(key, shape, 0, limit, jnp.int32), np.int64)


def sklearn_seed(key: Key[Array, ""]) -> int:
    """Derives a seed for scikit-learn, from 0 to 2^32 - 1, from a key."""
    return int(jax.random.bits(key, (), jnp.uint32))


def draw_rows(key: Key[Array, ""], num_rows: int, settings: Settings = PUBLISHED) -> Rows:
    """Draws rows to train on and to evaluate on, for the metrics that fit a model to codes.

    Args:
      key: a new-style PRNG key.
      num_rows: number of rows of the table, >= num_points and >= num_eval.
      settings: num_points, num_eval and replace are used. With replace, all rows are drawn independently. Without it, no row
        is drawn twice and the two sets are disjoint, so num_rows >= num_points + num_eval is required.

    Returns:
      `Rows` of indices from 0 to num_rows - 1.

    Raises:
      UserError: if the table has too few rows.

    Example:
      >>> rows = draw_rows(jax.random.key(0), 10, Settings(num_points=6, num_eval=4, replace=False))
      >>> print(sorted(np.concatenate(rows).tolist()))
      [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    check_settings("draw_rows", settings)
    num_points, num_eval = settings.num_points, settings.num_eval
    if settings.replace:
        name, required = ("num_points", num_points) if num_points >= num_eval else ("num_eval", num_eval)
        check_num_rows("draw_rows", num_rows, required, name)
        key_train, key_eval = jax.random.split(key)
        return Rows(_integers(key_train, (num_points,), num_rows), _integers(key_eval, (num_eval,), num_rows))
    check_num_rows("draw_rows", num_rows, num_points + num_eval, "num_points + num_eval")
    rows = np.asarray(jax.random.permutation(key, num_rows), np.int64)
    return Rows(rows[:num_points], rows[num_points : num_points + num_eval])


def _groups(factors: Labels) -> _Groups:
    values = [np.unique(column, return_inverse=True, return_counts=True)[1:] for column in factors.T]
    most = max(len(count) for _, count in values)
    counts = np.stack([np.pad(count, (0, most - len(count))) for _, count in values]).astype(np.int64)
    starts = np.cumsum(counts, axis=1) - counts
    value = np.stack([inverse for inverse, _ in values]).astype(np.int64)
    return _Groups(value, np.argsort(value, axis=1, kind="stable"), starts, counts)


def _rows_that_agree(key: Array, groups: _Groups, factor: Index, rows: Index) -> Index:
    """Draws for each row one of the rows with the same value of the point's factor, which may be the row itself.

    Args:
      key: a new-style PRNG key.
      groups: groups of the table.
      factor: (points,), factor of each point.
      rows: (points, n), rows of the table.

    Returns:
      (points, n), rows of the table.
    """
    factor = factor[:, None]
    value = groups.value[factor, rows]
    within = _integers(key, rows.shape, groups.size[factor, value])
    return groups.order[factor, groups.start[factor, value] + within]


def _pairs(key: Array, groups: _Groups, num_points: int, batch_size: int) -> Pairs:
    key_factor, key_first, key_second = jax.random.split(key, 3)
    num_factors, num_rows = groups.value.shape
    factor = _integers(key_factor, (num_points,), num_factors)
    first = _integers(key_first, (num_points, batch_size), num_rows)
    return Pairs(factor, first, _rows_that_agree(key_second, groups, factor, first))


def _batches(key: Array, groups: _Groups, num_points: int, batch_size: int) -> Batches:
    key_factor, key_row, key_batch = jax.random.split(key, 3)
    num_factors, num_rows = groups.value.shape
    factor = _integers(key_factor, (num_points,), num_factors)
    row = _integers(key_row, (num_points, 1), num_rows)
    return Batches(factor, _rows_that_agree(key_batch, groups, factor, np.repeat(row, batch_size, axis=1)))


def beta_vae_draws(
    key: Key[Array, ""], factors: Int[np.ndarray | Array, "examples num_factors"], settings: Settings = PUBLISHED
) -> tuple[Pairs, Pairs]:
    """Draws a factor and batch_size pairs of rows for each point of `beta_vae_score`.

    The factor is uniform. The first row of a pair is uniform over the table, the second one over the rows with the same value
    of the factor. On a full grid of factors this is the published sampling: all other factors of both rows are independent.
    On other tables they follow their distribution in the table given that value.

    Args:
      key: a new-style PRNG key.
      factors: (examples, num_factors) integers >= 0.
      settings: num_points, num_eval and batch_size are used.

    Returns:
      (`Pairs` of num_points points to train on, `Pairs` of num_eval points to evaluate on).

    Example:
      >>> factors = np.stack([np.arange(12) % 3, np.arange(12) % 4], axis=1)
      >>> pairs, _ = beta_vae_draws(jax.random.key(0), factors, Settings(num_points=5, num_eval=5, batch_size=2))
      >>> values = [factors[rows, pairs.factor[:, None]] for rows in (pairs.first, pairs.second)]
      >>> print((values[0] == values[1]).all())
      True
    """
    check_settings("beta_vae_draws", settings)
    groups = _groups(check_labels("beta_vae_draws", factors))
    key_train, key_eval = jax.random.split(key)
    train = _pairs(key_train, groups, settings.num_points, settings.batch_size)
    return train, _pairs(key_eval, groups, settings.num_eval, settings.batch_size)


def factor_vae_draws(
    key: Key[Array, ""], factors: Int[np.ndarray | Array, "examples num_factors"], settings: Settings = PUBLISHED
) -> tuple[Int[np.ndarray, "num_variance_points"], Batches, Batches]:
    """Draws the rows and batches of `factor_vae_score`.

    The factor of a batch is uniform and its value is that of a uniformly drawn row. The rows of the batch are drawn with
    replacement from the rows with this value. On a full grid of factors this is the published sampling, see `beta_vae_draws`.

    Args:
      key: a new-style PRNG key.
      factors: (examples, num_factors) integers >= 0, with examples >= num_variance_points.
      settings: num_points, num_eval, num_variance_points, batch_size and replace are used. replace applies to the rows for the
        variances only.

    Returns:
      (rows for the variances over all data, `Batches` of num_points points to train on, `Batches` of num_eval points to
      evaluate on).

    Raises:
      UserError: if the table has fewer than num_variance_points rows.
    """
    check_settings("factor_vae_draws", settings)
    labels = check_labels("factor_vae_draws", factors)
    num_rows, num_variance = len(labels), settings.num_variance_points
    check_num_rows("factor_vae_draws", num_rows, num_variance, "num_variance_points")
    key_variance, key_train, key_eval = jax.random.split(key, 3)
    if settings.replace:
        rows = _integers(key_variance, (num_variance,), num_rows)
    else:
        rows = np.asarray(jax.random.permutation(key_variance, num_rows), np.int64)[:num_variance]
    groups = _groups(labels)
    train = _batches(key_train, groups, settings.num_points, settings.batch_size)
    return rows, train, _batches(key_eval, groups, settings.num_eval, settings.batch_size)
