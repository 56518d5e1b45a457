"""Measures of dependence between codes without factors: total and Wasserstein correlation of a fitted Gaussian."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from vae_jax.disentanglement.settings import check_codes


class WassersteinCorrelation(NamedTuple):
    """Squared Wasserstein distance between a Gaussian and the product of its marginals."""

    squared_distance: float  # in squared units of the codes, >= 0
    normalized: float  # squared_distance / tr S, in [0, 2)


def gaussian_total_correlation(codes: Float[np.ndarray | Array, "examples latent"]) -> float:
    """Computes the total correlation of the Gaussian N(0, S) with the codes' covariance S: KL(N(0, S) || N(0, diag S)).

        1/2 (sum_i log S_ii - log det S) = -1/2 log det R,   R the correlation matrix

    Args:
      codes: (examples, latent >= 2), encoder means, finite. The published score uses 10,000 examples.

    Returns:
      Nats, >= 0. Constant codes are left out, because they are independent of everything. If codes determine each other, the
      exact value is infinite. Eigenvalues of R below latent x 2.2e-16 are raised to this value, so that the result is about 17
      nats for each redundant code.

    Example: correlation 0.6, so -1/2 log(1 - 0.36).
      >>> print(gaussian_total_correlation(np.array([[1.0, 0.6], [-1.0, -0.6], [0.0, 0.8], [0.0, -0.8]])))
      0.22

    Source:
      Locatello et al. (2019).
    """
    z = check_codes("gaussian_total_correlation", codes)
    spread = np.ptp(z, axis=0)
    z = z[:, spread > 0] / spread[spread > 0]
    if z.shape[1] < 2:
        return 0.0
    # Correlations rather than covariances, so that codes of very different scales do not reduce the precision.
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(z, rowvar=False))
    least = z.shape[1] * np.finfo(np.float64).eps
    return max(float(-np.sum(np.log(np.maximum(eigenvalues, least))) / 2), 0.0)


def gaussian_wasserstein_correlation(codes: Float[np.ndarray | Array, "examples latent"]) -> WassersteinCorrelation:
    """Computes the squared 2-Wasserstein distance between the Gaussian with the codes' covariance and its marginals' product.

        W^2(N(0, S), N(0, D)) = tr S + tr D - 2 tr (D^1/2 S D^1/2)^1/2 = 2 tr S - 2 tr (D^1/2 S D^1/2)^1/2,   D = diag S

    The last form follows from tr D = tr S. The covariance S is divided by examples - 1. The normalized value is divided by
    tr S, the sum of the codes' variances, so that it does not depend on a common scale of all codes. It does depend on the
    ratios of their scales.

    Args:
      codes: (examples, latent >= 2), encoder means, finite.

    Returns:
      `WassersteinCorrelation`. Both values are 0 for uncorrelated or constant codes. For k copies of one code the normalized
      value is 2 - 2 / sqrt(k).

    Example: two copies of one code.
      >>> print(gaussian_wasserstein_correlation(np.array([[1.0, 1.0], [-1.0, -1.0]])).normalized)
      0.59

    Source:
      Locatello et al. (2019).
    """
    z = check_codes("gaussian_wasserstein_correlation", codes)
    z = z[:, np.ptp(z, axis=0) > 0]  # a constant code would only add the rounding error of its mean
    if z.shape[1] < 2:
        return WassersteinCorrelation(0.0, 0.0)
    covariance = np.cov(z, rowvar=False)
    total, scale = float(np.trace(covariance)), np.sqrt(np.diag(covariance))
    # The matrix is symmetric and positive semidefinite, so the trace of its root is the sum of the roots of its eigenvalues.
    eigenvalues = np.linalg.eigvalsh(scale[:, None] * covariance * scale[None, :])
    distance = max(2 * total - 2 * float(np.sum(np.sqrt(np.maximum(eigenvalues, 0)))), 0.0)
    return WassersteinCorrelation(distance, distance / total if total > 0 else 0.0)
