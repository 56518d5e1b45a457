"""What the latent space holds: traversals, interpolations and the aggregate posterior, computed for `latent_figures`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from vae_jax._numerics.keys import Stream, stream
from vae_jax.build import Built
from vae_jax.report.run.content import Views, prior_codes

_DRAWS, _DRAWS_AT_ONCE = 8192, 256  # of a learned prior
_DECODED_AT_ONCE = 64  # as many as the report's samples from the prior, so that the decoder is compiled once
_BINS, _PRIOR_BINS = 160, 40  # the second of draws, which are noisy


class PriorShape(NamedTuple):
    """Where the prior lies in each latent dimension."""

    mean: np.ndarray  # (latent,)
    std: np.ndarray  # (latent,)
    codes: np.ndarray | None  # draws, (draws, latent); None for N(0, I), whose density is known


class Aggregate(NamedTuple):
    """Densities of one latent dimension a row, averaged over each bin."""

    dimensions: np.ndarray  # (rows,)
    edges: np.ndarray  # (rows, bins + 1)
    posterior: np.ndarray  # (rows, bins)
    prior: np.ndarray  # (rows, bins)


def by_kl(kl: np.ndarray, most: int) -> np.ndarray:
    """At most so many latent dimensions, those of the largest KL, largest first."""
    return np.argsort(-kl, kind="stable")[:most]


def prior_shape(built: Built, params: Any) -> PriorShape:
    """Exact for N(0, I); of a learned prior from draws, the same each time."""
    vae = built.vae
    if vae.prior is None:
        return PriorShape(np.zeros(vae.latent_dim), np.ones(vae.latent_dim), None)
    keys = jax.random.split(stream(built.config.test_seed, Stream.PRIOR_SHAPE), _DRAWS // _DRAWS_AT_ONCE)
    draw = jax.jit(lambda params: jax.lax.map(lambda key: prior_codes(vae, params, key, _DRAWS_AT_ONCE), keys))
    codes = np.asarray(draw(params), np.float64).reshape(-1, vae.latent_dim)
    return PriorShape(codes.mean(axis=0), np.maximum(codes.std(axis=0), 1e-6), codes)


def traversal_codes(
    code: np.ndarray, dimensions: Sequence[int] | np.ndarray, offsets: np.ndarray, prior: PriorShape
) -> np.ndarray:
    """One code with one dimension moved at a time: (dimensions, offsets, latent).

    Args:
      code: (latent,), such as the posterior mean of an image; where the other dimensions stay.
      dimensions: which to move.
      offsets: where to, in prior standard deviations from the prior mean.
      prior: of N(0, I) the offsets are the values of z themselves.
    """
    codes = np.tile(np.asarray(code, np.float64), (len(dimensions), len(offsets), 1))
    for row, j in enumerate(dimensions):
        codes[row, :, j] = prior.mean[j] + np.asarray(offsets) * prior.std[j]
    return codes


def interpolation_codes(starts: np.ndarray, ends: np.ndarray, steps: int) -> np.ndarray:
    """Codes on the straight lines from (pairs, latent) to (pairs, latent), both ends included: (pairs, steps, latent).

        z(t) = (1 - t) start + t end

    Straight, not along a great circle. That one suits draws of N(0, I) in many dimensions, which all lie near the sphere of
    radius sqrt(latent). Posterior means lie inside of it, at the origin in unused dimensions, and a learned prior has no such
    sphere. Moreover, each point here is a mixture of the two codes in every dimension by itself, unused ones stay unused, and
    one dimension alone has a line but no circle.

    Example:
      >>> interpolation_codes(np.zeros((1, 1)), np.ones((1, 1)), 3).tolist()
      [[[0.0], [0.5], [1.0]]]
    """
    t = np.linspace(0, 1, steps)[:, None]
    return (1 - t) * np.asarray(starts, np.float64)[:, None] + t * np.asarray(ends, np.float64)[:, None]


def aggregate_posterior(mean: ArrayLike, log_scale: ArrayLike, edges: ArrayLike) -> Array:
    """Density of the aggregate posterior of one latent dimension, averaged over each bin.

        1/(b - a) int_a^b q(z) dz = 1/(b - a) 1/N sum_n [ Phi((b - m_n)/s_n) - Phi((a - m_n)/s_n) ],   q(z) = 1/N sum_n q(z|x_n)

    The mixture itself, without draws of z; and an integral rather than values on a grid, so that posteriors narrower than a bin
    are neither missed nor counted twice.

    Args:
      mean, log_scale: of q(z_j|x_n) for one dimension j and every example n, shape (examples,).
      edges: of the bins, rising, shape (bins + 1,).

    Returns:
      Densities, shape (bins,), >= 0; times the widths they sum to the mass between the first edge and the last.

    Example: a single posterior is all of it.
      >>> print(aggregate_posterior(jnp.zeros(1), jnp.zeros(1), jnp.array([-1.0, 1.0])))
      [0.341]
    """
    mean, log_scale, edges = jnp.asarray(mean), jnp.asarray(log_scale), jnp.asarray(edges)
    if mean.ndim != 1 or log_scale.shape != mean.shape or edges.ndim != 1 or len(edges) < 2:
        raise ValueError(
            "aggregate_posterior: expected mean and log_scale of one shape (examples,) and edges (bins + 1,), got "
            f"{mean.shape}, {log_scale.shape} and {edges.shape}. The function takes ONE latent dimension: map it over several."
        )
    scale = jnp.maximum(jnp.exp(log_scale), jnp.finfo(log_scale.dtype).tiny)
    # One edge after another: memory does not grow with the bins.
    below = jax.lax.map(lambda edge: jnp.mean(jax.scipy.special.ndtr((edge - mean) / scale)), edges)
    return jnp.diff(below) / jnp.diff(edges)


def aggregate(mean: np.ndarray, log_scale: np.ndarray, dimensions: Sequence[int] | np.ndarray, prior: PriorShape) -> Aggregate:
    """The aggregate posterior and the prior of some latent dimensions, from (examples, latent) posteriors."""
    chosen = list(dimensions)
    means, log_scales = mean[:, chosen].T, log_scale[:, chosen].T
    # Wide enough for both, but for one code in a thousand at each end.
    centre, usual = prior.mean[chosen], 4 * prior.std[chosen]
    with np.errstate(over="ignore", invalid="ignore"):
        reach = 3 * np.exp(log_scales)
        low = np.minimum(centre - usual, _finite(np.quantile(means - reach, 0.001, axis=1), centre))
        high = np.maximum(centre + usual, _finite(np.quantile(means + reach, 0.999, axis=1), centre))
    edges = np.linspace(low, high, _BINS + 1, axis=1)
    density = jax.jit(lambda *rows: jax.lax.map(lambda row: aggregate_posterior(*row), rows))
    posterior = density(jnp.asarray(means), jnp.asarray(log_scales), jnp.asarray(edges, means.dtype))
    if prior.codes is None:
        middle = (edges[:, 1:] + edges[:, :-1]) / 2
        drawn = np.exp(-0.5 * middle**2) / np.sqrt(2 * np.pi)
    else:
        wide = edges[:, :: _BINS // _PRIOR_BINS]
        counts = np.stack([np.histogram(prior.codes[:, j], row)[0] for j, row in zip(chosen, wide, strict=True)])
        drawn = np.repeat(counts / (len(prior.codes) * np.diff(wide)), _BINS // _PRIOR_BINS, axis=1)
    return Aggregate(np.array(chosen), edges, np.asarray(posterior, np.float64), drawn)


def aggregate_kl(found: Aggregate) -> np.ndarray:
    """KL(q(z_j) || N(0, 1)) of the aggregate posterior, a number for each row, from the mass in each bin.

        sum_b Q_b log(Q_b / P_b) over the bins and all that is outside of them

    That is below the KL itself, and by little: bins are narrow, unless the codes reach far.

    Returns:
      Nats, shape (rows,).

    Example: a standard normal has none, and one that is moved by 1 has 1/2.
      >>> edges = np.linspace(-6, 7, 161)[None]
      >>> middle = (edges[:, 1:] + edges[:, :-1]) / 2
      >>> posterior = np.exp(-0.5 * (middle - 1) ** 2) / np.sqrt(2 * np.pi)
      >>> print(aggregate_kl(Aggregate(np.array([0]), edges, posterior, posterior)).round(2))
      [0.5]
    """
    from scipy.special import log_ndtr, xlogy

    low, high = found.edges[:, :-1], found.edges[:, 1:]
    right = low + high > 0  # the same mass on the left side, where it has all its digits
    near, far = log_ndtr(np.where(right, -low, high)), log_ndtr(np.where(right, -high, low))
    log_prior = near + np.log1p(-np.exp(far - near))
    mass = found.posterior * np.diff(found.edges, axis=1)
    outside = np.maximum(1 - mass.sum(axis=1), 0)
    log_prior_outside = np.logaddexp(log_ndtr(found.edges[:, 0]), log_ndtr(-found.edges[:, -1]))
    inside = np.sum(xlogy(mass, mass) - mass * log_prior, axis=1)
    return np.maximum(inside + xlogy(outside, outside) - outside * log_prior_outside, 0)


def _finite(values: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, otherwise)


def decode(seen: Views, params: Any, codes: np.ndarray) -> np.ndarray:
    """E[x|z] in [0, 1] for codes (..., latent): images (..., height, width, channels)."""
    flat = codes.reshape(-1, codes.shape[-1]).astype(np.float32)
    count = len(flat)
    flat = np.concatenate([flat, np.repeat(flat[:1], -count % _DECODED_AT_ONCE, axis=0)])
    blocks = [flat[i : i + _DECODED_AT_ONCE] for i in range(0, len(flat), _DECODED_AT_ONCE)]
    images = np.concatenate([seen.means(params, jnp.asarray(block)) for block in blocks])[:count]
    return images.reshape(*codes.shape[:-1], *images.shape[1:])


def image_name(built: Built, number: int) -> str:
    """Such as "test image 3 (label 7)"."""
    labels = built.dataset.test_labels
    return f"test image {number}" + ("" if labels is None else f" (label {labels[number]})")
