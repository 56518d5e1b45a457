"""What the metrics draw at random: rows of the table, pairs and batches of rows that share the value of a factor."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike, NDArray

from vae_jax.disentanglement.settings import PUBLISHED, Labels, Settings, check_labels, check_num_rows, check_settings

Index = NDArray[np.int64]


class Rows(NamedTuple):
    """Rows to train and to evaluate on."""

    train: Index  # (num_points,)
    evaluation: Index  # (num_eval,)


class Pairs(NamedTuple):
    """For each point a factor, and pairs of rows that agree in it."""

    factor: Index  # (points,)
    first: Index  # (points, batch_size), rows
    second: Index  # (points, batch_size), rows


class Batches(NamedTuple):
    """For each point a factor, and rows that all agree in it."""

    factor: Index  # (points,)
    rows: Index  # (points, batch_size)


class _Groups(NamedTuple):
    """For each factor the rows in the order of its values, and where the rows of each value start and how many they are."""

    value: Index  # (num_factors, rows), 0, 1, 2 ... without gaps
    order: Index  # (num_factors, rows)
    start: Index  # (num_factors, most values)
    size: Index  # (num_factors, most values)


def _integers(key: Array, shape: tuple[int, ...], high: int | Index) -> Index:
    """Uniform on 0 ... high - 1; the same numbers whether JAX computes in 32 or in 64 bits."""
    limit = jnp.broadcast_to(jnp.asarray(high, jnp.int32), shape)
    return np.asarray(jax.random.randint(key, shape, 0, limit, jnp.int32), np.int64)


def sklearn_seed(key: Array) -> int:
    """A seed in 0 ... 2^32 - 1 for scikit-learn, from a key."""
    return int(jax.random.bits(key, (), jnp.uint32))


def draw_rows(key: Array, num_rows: int, settings: Settings = PUBLISHED) -> Rows:
    """Rows to train and to evaluate on, for every metric that fits something to codes.

    Args:
      key: a new-style PRNG key.
      num_rows: of the table, >= num_points and >= num_eval.
      settings: num_points and num_eval are used. With replace every row is drawn independently of the others; without, no row
        twice and none in both sets, so num_rows >= num_points + num_eval.

    Returns:
      `Rows` of indices in 0 ... num_rows - 1.

    Example:
      >>> rows = draw_rows(jax.random.key(0), 10, Settings(num_points=6, num_eval=4, replace=False))
      >>> print(sorted(np.concatenate(rows).tolist()))
      [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    check_settings("draw_rows", settings)
    num_points, num_eval = settings.num_points, settings.num_eval
    if settings.replace:
        needed = ("num_points", num_points) if num_points >= num_eval else ("num_eval", num_eval)
        check_num_rows("draw_rows", num_rows, needed[1], needed[0])
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
    """For each row (points, n) one drawn from those with the same value of the point's factor (points,), itself among them."""
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


def beta_vae_draws(key: Array, factors: ArrayLike, settings: Settings = PUBLISHED) -> tuple[Pairs, Pairs]:
    """The draws of `beta_vae_score`, to train and to evaluate on: a factor for each point, then batch_size pairs of rows.

    The factor is uniform, the first row of a pair is uniform over the table, the second over the rows with the first's value of
    the factor. Where the table is a full grid of factors that is the published sampling: all other factors of both rows are
    independent. Where it is not, they follow their distribution in the table given that value.

    Args:
      key: a new-style PRNG key.
      factors: (examples, num_factors) integers >= 0.
      settings: num_points, num_eval and batch_size are used.

    Returns:
      `Pairs` of num_points points, and of num_eval.

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


def factor_vae_draws(key: Array, factors: ArrayLike, settings: Settings = PUBLISHED) -> tuple[Index, Batches, Batches]:
    """The draws of `factor_vae_score`: rows for the variances over all data, then batches to train and to evaluate on.

    The factor of a batch is uniform, its value is that of a row drawn uniformly, and the rows of the batch are uniform over
    those with this value, with replacement. On a full grid of factors that is the published sampling (see `beta_vae_draws`).

    Args:
      key: a new-style PRNG key.
      factors: (examples, num_factors) integers >= 0, examples >= num_variance_points.
      settings: num_points, num_eval, num_variance_points, batch_size and replace (of the rows for the variances) are used.

    Returns:
      Rows (num_variance_points,), `Batches` of num_points points, and of num_eval.
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
