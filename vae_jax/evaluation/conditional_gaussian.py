"""A Gaussian with a full covariance: maximum likelihood where entries are missing, and its exact conditional means.

It is a baseline for imputations, computed in float64 with NumPy.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Real

from vae_jax._numerics.short_repr import short_repr

_RIDGE = 1e-6  # added to the variances, in units of those of the columns: no covariance is singular
_MAX_NUMBERS = 2**22  # of the matrices that are inverted at once


@short_repr
class FittedGaussian(NamedTuple):
    """A Gaussian over the columns of a table, in the unit of the data."""

    mean: Float[np.ndarray, "columns"]
    covariance: Float[np.ndarray, "columns columns"]
    num_steps: int  # of EM; 0 for complete data
    converged: bool


def fit_gaussian(
    x: Real[np.ndarray, "rows columns"],
    mask: Bool[np.ndarray, "rows columns"] | None = None,
    *,
    tolerance: float = 1e-5,
    max_steps: int = 200,
) -> FittedGaussian:
    """Fits a Gaussian to rows with missing entries by maximum likelihood.

    Complete data have a closed form: the mean, and the covariance with the denominator n. With missing entries EM alternates
    between the conditional mean and covariance of the missing entries of each row and the moments that they imply.

    Args:
      x: the rows. Entries that are not observed have no effect.
      mask: True where an entry is observed; None: all are.
      tolerance: EM ends when log p(x_observed) increases by less than this many nats per row.
      max_steps: EM ends after this many steps in any case.

    Returns:
      The `FittedGaussian`. A ridge of 1e-6 of each column's variance keeps its covariance positive definite. A column without
      observed entries gets the mean 0 and the variance 1, and one that never varies gets a variance of 1e-6.

    Source:
      Dempster, Laird & Rubin (1977); Little & Rubin (2002), section 11.2.
    """
    x = np.asarray(x, np.float64)
    observed = np.ones(x.shape, bool) if mask is None else np.asarray(mask, bool)
    count = np.maximum(observed.sum(axis=0), 1)
    center = np.where(observed, x, 0).sum(axis=0) / count
    spread = np.sqrt((np.where(observed, x - center, 0) ** 2).sum(axis=0) / count)
    spread = np.where(spread > 1e-12 * np.maximum(np.abs(center), 1e-300), spread, 1.0)
    z = np.where(observed, (x - center) / spread, 0)  # columns have one unit, so that the ridge is small for all of them
    ridge = _RIDGE * np.eye(x.shape[1])
    if observed.all():
        covariance, steps, converged = z.T @ z / len(z) - np.outer(z.mean(axis=0), z.mean(axis=0)) + ridge, 0, True
        mean = z.mean(axis=0)
    else:
        mean, covariance = np.zeros(x.shape[1]), np.eye(x.shape[1])
        before, converged, steps = -np.inf, False, 0
        while steps < max_steps and not converged:
            steps += 1
            given = _conditioned(np.where(observed, z - mean, 0), observed, covariance)
            shift = given.expected.mean(axis=0)
            deviations = given.expected - shift
            log_px, mean = float(given.log_px.mean()), mean + shift
            covariance = (deviations.T @ deviations + given.total_covariance) / len(z) + ridge
            converged = log_px - before < tolerance
            before = log_px
    return FittedGaussian(center + spread * mean, covariance * np.outer(spread, spread), steps, bool(converged))


def conditional_means(
    x: Real[np.ndarray, "rows columns"], mask: Bool[np.ndarray, "rows columns"], fitted: FittedGaussian
) -> Float[np.ndarray, "rows columns"]:
    """Returns the rows with E[x_missing | x_observed] under the Gaussian in place of missing entries.

    E[x_m | x_o] = mean_m + S_mo S_oo^-1 (x_o - mean_o)
    """
    mask, scale = np.asarray(mask, bool), np.sqrt(np.diag(fitted.covariance))
    z = np.where(mask, (np.asarray(x, np.float64) - fitted.mean) / scale, 0)
    expected = _conditioned(z, mask, fitted.covariance / np.outer(scale, scale)).expected
    return np.where(mask, x, fitted.mean + scale * expected)


def observed_log_px(
    x: Real[np.ndarray, "rows columns"], mask: Bool[np.ndarray, "rows columns"], fitted: FittedGaussian
) -> Float[np.ndarray, "rows"]:
    """Returns log p(x_observed) of each row under the Gaussian, in nats; 0 for a row without observed entries."""
    mask = np.asarray(mask, bool)
    return _conditioned(np.where(mask, np.asarray(x, np.float64) - fitted.mean, 0), mask, fitted.covariance).log_px


class _Conditioned(NamedTuple):
    """Moments of centered rows given their observed entries."""

    expected: np.ndarray  # (rows, columns); observed entries as they are
    log_px: np.ndarray  # (rows,), nats
    total_covariance: np.ndarray  # (columns, columns), sum over the rows of the covariance of missing entries


def _conditioned(z: np.ndarray, observed: np.ndarray, covariance: np.ndarray) -> _Conditioned:
    """Conditions rows of N(0, covariance) on their observed entries.

    For each pattern o of observed entries the precision S_oo^-1 is filled up with zeros to the size of S. It comes from the
    inverse of S in which missing rows and columns are those of the identity, so that many patterns are inverted at once.
    """
    columns = len(covariance)
    expected, log_px, precisions = np.zeros(z.shape), np.zeros(len(z)), np.zeros((columns, columns))
    at_once = max(1, _MAX_NUMBERS // columns**2)
    patterns, index = np.unique(observed, axis=0, return_inverse=True)
    index = index.reshape(-1)
    for first in range(0, len(patterns), at_once):
        masks = patterns[first : first + at_once].astype(np.float64)
        pairs = masks[:, :, None] * masks[:, None, :]
        filled = pairs * covariance + np.eye(columns) * (1 - masks)[:, :, None]
        precision = np.linalg.inv(filled) * pairs
        log_det = 2 * np.log(np.diagonal(np.linalg.cholesky(filled), axis1=1, axis2=2)).sum(axis=1)
        rows = np.flatnonzero((first <= index) & (index < first + at_once))
        chosen = index[rows] - first
        whitened = np.einsum("rij,rj->ri", precision[chosen], z[rows])
        expected[rows] = whitened @ covariance
        squares = (whitened * z[rows]).sum(axis=1)
        log_px[rows] = -0.5 * (squares + log_det[chosen] + observed[rows].sum(axis=1) * np.log(2 * np.pi))
        precisions += np.tensordot(np.bincount(chosen, minlength=len(masks)).astype(np.float64), precision, 1)
    total = len(z) * covariance - covariance @ precisions @ covariance
    return _Conditioned(np.where(observed, z, expected), log_px, total)
