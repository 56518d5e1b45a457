"""Traversals, interpolations and the aggregate posterior of a latent space, computed for `latent_figures`."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vae_jax._numerics.keys import Stream, stream
from vae_jax.build import Built
from vae_jax.data import ConditionColumn
from vae_jax.model import Params
from vae_jax.report.run.content import prior_codes
from vae_jax.report.run.displayed_examples import Views
from vae_jax.report.run.events.panels import displayed_kind
from vae_jax.report.run.figures import label_name

_NUM_DRAWS, _DRAWS_PER_CALL = 8192, 256  # of a learned prior
_CODES_PER_CALL = 64  # the number of samples from the prior in the report, so that the decoder is compiled once
_BINS, _PRIOR_BINS = 160, 40  # draws of a learned prior are noisy, so its bins are wider


class PriorShape(NamedTuple):
    """Location and scale of the prior in each latent dimension."""

    mean: np.ndarray  # (latent,)
    std: np.ndarray  # (latent,)
    codes: np.ndarray | None  # draws, (draws, latent); None for N(0, I), whose density is known


class Aggregate(NamedTuple):
    """Densities averaged over each bin, one row per latent dimension."""

    dimensions: np.ndarray  # (rows,)
    edges: np.ndarray  # (rows, bins + 1)
    posterior: np.ndarray  # (rows, bins)
    prior: np.ndarray  # (rows, bins)


def by_kl(kl: np.ndarray, max_count: int) -> np.ndarray:
    """Returns the latent dimensions with the largest KL, largest first, at most `max_count` of them."""
    return np.argsort(-kl, kind="stable")[:max_count]


def prior_shape(built: Built, params: Params) -> PriorShape:
    """Returns the shape of the prior: exact for N(0, I), estimated from fixed draws for a learned prior."""
    vae = built.vae
    if vae.prior is None:
        return PriorShape(np.zeros(vae.latent_dim), np.ones(vae.latent_dim), None)
    keys = jax.random.split(stream(built.config.test_seed, Stream.PRIOR_SHAPE), _NUM_DRAWS // _DRAWS_PER_CALL)
    draw = jax.jit(lambda params: jax.lax.map(lambda key: prior_codes(vae, params, key, _DRAWS_PER_CALL), keys))
    codes = np.asarray(draw(params), np.float64).reshape(-1, vae.latent_dim)
    return PriorShape(codes.mean(axis=0), np.maximum(codes.std(axis=0), 1e-6), codes)


def traversal_codes(
    code: np.ndarray, dimensions: Sequence[int] | np.ndarray, offsets: np.ndarray, prior: PriorShape
) -> np.ndarray:
    """Returns copies of a code in which one dimension at a time is moved, (dimensions, offsets, latent).

    Args:
      code: (latent,), such as the posterior mean of an image. The other dimensions keep its values.
      dimensions: the latent dimensions to move, one per row.
      offsets: new values of the dimension, in prior standard deviations from the prior mean, (offsets,).
      prior: gives mean and standard deviation. For N(0, I), offsets are values of z.
    """
    codes = np.tile(np.asarray(code, np.float64), (len(dimensions), len(offsets), 1))
    for row, j in enumerate(dimensions):
        codes[row, :, j] = prior.mean[j] + np.asarray(offsets) * prior.std[j]
    return codes


def interpolation_codes(starts: np.ndarray, ends: np.ndarray, steps: int) -> np.ndarray:
    """Returns codes on straight lines between pairs of codes, (pairs, steps, latent), both ends included.

        z(t) = (1 - t) start + t end

    The lines are straight rather than great circles. Great circles suit draws of N(0, I) in many dimensions, which lie near the
    sphere of radius sqrt(latent). Posterior means lie inside that sphere and at the origin in unused dimensions, and a learned
    prior does not have such a sphere. On a straight line, each dimension is interpolated separately, and unused dimensions stay
    unused.

    Args:
      starts: codes at t = 0, (pairs, latent).
      ends: codes at t = 1, (pairs, latent).
      steps: number of codes per pair, at least 2.

    Example:
      >>> interpolation_codes(np.zeros((1, 1)), np.ones((1, 1)), 3).tolist()
      [[[0.0], [0.5], [1.0]]]
    """
    t = np.linspace(0, 1, steps)[:, None]
    return (1 - t) * np.asarray(starts, np.float64)[:, None] + t * np.asarray(ends, np.float64)[:, None]


def aggregate_posterior(mean: ArrayLike, log_scale: ArrayLike, edges: ArrayLike) -> Array:
    """Returns the density of the aggregate posterior of one latent dimension, averaged over each bin.

        1/(b - a) int_a^b q(z) dz = 1/(b - a) 1/N sum_n [ Phi((b - m_n)/s_n) - Phi((a - m_n)/s_n) ],   q(z) = 1/N sum_n q(z|x_n)

    The mixture is evaluated exactly, without draws of z. Integrals over bins are used rather than values on a grid, so that
    posteriors narrower than a bin are neither missed nor counted twice.

    Args:
      mean: of q(z_j|x_n) for one dimension j and every example n, shape (examples,).
      log_scale: of q(z_j|x_n), shape (examples,).
      edges: increasing edges of the bins, shape (bins + 1,).

    Returns:
      Densities, shape (bins,), >= 0. Multiplied by the widths of the bins, they sum to the mass between the outer edges.

    Example: the aggregate of a single posterior is that posterior.
      >>> print(aggregate_posterior(jnp.zeros(1), jnp.zeros(1), jnp.array([-1.0, 1.0])))
      [0.341]
    """
    mean, log_scale, edges = jnp.asarray(mean), jnp.asarray(log_scale), jnp.asarray(edges)
    if mean.ndim != 1 or log_scale.shape != mean.shape or edges.ndim != 1 or len(edges) < 2:
        raise ValueError(
            "aggregate_posterior: expected mean and log_scale of one shape (examples,) and edges (bins + 1,), got "
            f"{mean.shape}, {log_scale.shape} and {edges.shape}. The function takes ONE latent dimension. Map it over several."
        )
    scale = jnp.maximum(jnp.exp(log_scale), jnp.finfo(log_scale.dtype).tiny)
    # The loop over edges keeps memory independent of the number of bins.
    below = jax.lax.map(lambda edge: jnp.mean(jax.scipy.special.ndtr((edge - mean) / scale)), edges)
    return jnp.diff(below) / jnp.diff(edges)


def aggregate(mean: np.ndarray, log_scale: np.ndarray, dimensions: Sequence[int] | np.ndarray, prior: PriorShape) -> Aggregate:
    """Returns aggregate posterior and prior of some latent dimensions, from (examples, latent) posteriors."""
    chosen = list(dimensions)
    means, log_scales = mean[:, chosen].T, log_scale[:, chosen].T
    # The bins cover both densities except one code in a thousand at each end.
    center, usual = prior.mean[chosen], 4 * prior.std[chosen]
    with np.errstate(over="ignore", invalid="ignore"):
        reach = 3 * np.exp(log_scales)
        low = np.minimum(center - usual, _finite(np.quantile(means - reach, 0.001, axis=1), center))
        high = np.maximum(center + usual, _finite(np.quantile(means + reach, 0.999, axis=1), center))
    edges = np.linspace(low, high, _BINS + 1, axis=1)
    densities = jax.jit(lambda *rows: jax.lax.map(lambda row: aggregate_posterior(*row), rows))
    posterior = densities(jnp.asarray(means), jnp.asarray(log_scales), jnp.asarray(edges, means.dtype))
    if prior.codes is None:
        middle = (edges[:, 1:] + edges[:, :-1]) / 2
        prior_density = np.exp(-0.5 * middle**2) / np.sqrt(2 * np.pi)
    else:
        wide = edges[:, :: _BINS // _PRIOR_BINS]
        counts = np.stack([np.histogram(prior.codes[:, j], row)[0] for j, row in zip(chosen, wide, strict=True)])
        prior_density = np.repeat(counts / (len(prior.codes) * np.diff(wide)), _BINS // _PRIOR_BINS, axis=1)
    return Aggregate(np.array(chosen), edges, np.asarray(posterior, np.float64), prior_density)


def aggregate_kl(densities: Aggregate) -> np.ndarray:
    """Returns KL(q(z_j) || N(0, 1)) of the aggregate posterior for each row, from the mass in each bin.

        sum_b Q_b log(Q_b / P_b)

    The sum runs over the bins and the region outside of them. It is a lower bound of the KL, which is tight when bins are
    narrow.

    Returns:
      Nats, shape (rows,), >= 0.

    Example: a normal with mean 1 has a KL of 1/2.
      >>> edges = np.linspace(-6, 7, 161)[None]
      >>> middle = (edges[:, 1:] + edges[:, :-1]) / 2
      >>> posterior = np.exp(-0.5 * (middle - 1) ** 2) / np.sqrt(2 * np.pi)
      >>> print(aggregate_kl(Aggregate(np.array([0]), edges, posterior, posterior)).round(2))
      [0.5]
    """
    from scipy.special import log_ndtr, xlogy

    low, high = densities.edges[:, :-1], densities.edges[:, 1:]
    right = low + high > 0  # mirrored to the left tail, where the mass is computed to full precision
    near, far = log_ndtr(np.where(right, -low, high)), log_ndtr(np.where(right, -high, low))
    log_prior = near + np.log1p(-np.exp(far - near))
    mass = densities.posterior * np.diff(densities.edges, axis=1)
    outside = np.maximum(1 - mass.sum(axis=1), 0)
    log_prior_outside = np.logaddexp(log_ndtr(densities.edges[:, 0]), log_ndtr(-densities.edges[:, -1]))
    inside = np.sum(xlogy(mass, mass) - mass * log_prior, axis=1)
    return np.maximum(inside + xlogy(outside, outside) - outside * log_prior_outside, 0)


def _finite(values: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Returns the values, with those that are not finite replaced."""
    return np.where(np.isfinite(values), values, otherwise)


def decode(views: Views, params: Params, codes: np.ndarray, conditions: ArrayLike | None = None) -> np.ndarray:
    """Returns E[x|z] for codes (..., latent) as displayed: (..., height, width, channels) in [0, 1], series or vectors.

    Args:
      views: the functions of the model.
      params: its parameters.
      codes: (..., latent).
      conditions: the condition of each code as the networks take it, (..., condition). None: that of the first original, if the
        model has conditions.
    """
    flat = codes.reshape(-1, codes.shape[-1]).astype(np.float32)
    count = len(flat)
    flat = _padded(flat)
    given = None if conditions is None else _padded(np.asarray(conditions).reshape(count, -1))
    images = np.concatenate(
        [
            views.means(params, *(jnp.asarray(a[i : i + _CODES_PER_CALL]) for a in (flat, given) if a is not None))
            for i in range(0, len(flat), _CODES_PER_CALL)
        ]
    )[:count]
    return images.reshape(*codes.shape[:-1], *images.shape[1:])


def _padded(rows: np.ndarray) -> np.ndarray:
    """Returns rows with copies of the first appended, so that they fill whole calls of the decoder."""
    return np.concatenate([rows, np.repeat(rows[:1], -len(rows) % _CODES_PER_CALL, axis=0)])


def example_name(built: Built, number: int) -> str:
    """Returns a name such as "test image 3 (label 7)", or "test example 3" for a series or a vector, with its condition."""
    dataset = built.dataset
    labels, label_names = dataset.test_labels, dataset.label_names
    noun = "image" if displayed_kind(dataset.data_shape) == "image" else "example"
    facts = [] if labels is None else [f"label {label_name(int(labels[number]), label_names)}"]
    if dataset.condition is not None and dataset.test_condition is not None:
        columns = zip(dataset.condition.columns, dataset.test_condition[number].tolist(), strict=True)
        facts += [condition_value(column, value) for column, value in columns if not facts or column.name != "label"]
    return f"test {noun} {number}" + (f" ({', '.join(facts)})" if facts else "")


def condition_value(column: ConditionColumn, value: float) -> str:
    """Returns a phrase such as "sex = f" or "age = 23.5" for a stored number of a condition."""
    return f"{column.name} = {f'{value:.4g}' if column.categories is None else column.categories[int(value)]}"
