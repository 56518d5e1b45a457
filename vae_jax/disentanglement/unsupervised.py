"""How far codes are from independent, without factors: total and Wasserstein correlation of a Gaussian of their covariance."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from vae_jax.disentanglement.settings import check_codes


class WassersteinCorrelation(NamedTuple):
    """The squared distance, in squared units of the codes, and as a fraction of their total variance."""

    squared_distance: float
    normalised: float  # squared_distance / tr S, in [0, 2)


def gaussian_total_correlation(codes: ArrayLike) -> float:
    """Total correlation of the Gaussian N(0, S) with the codes' covariance: KL(N(0, S) || N(0, diag S)).

        1/2 (sum_i log S_ii - log det S) = -1/2 log det R,   R the matrix of correlations

    Args:
      codes: (examples, latent >= 2), encoder means, finite. The published score takes 10,000 examples.

    Returns:
      Nats, >= 0. Constant codes are left out, being independent of everything. Where codes determine each other the value is
      infinite; eigenvalues of R below latent x 2.2e-16 are raised to that, so that it comes out as about 17 nats for each code
      too many.

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
    # Correlations rather than covariances: codes of very different scales cost no precision.
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(z, rowvar=False))
    least = z.shape[1] * np.finfo(np.float64).eps
    return max(float(-np.sum(np.log(np.maximum(eigenvalues, least))) / 2), 0.0)


def gaussian_wasserstein_correlation(codes: ArrayLike) -> WassersteinCorrelation:
    """Squared 2-Wasserstein distance of the Gaussian with the codes' covariance S from the product of its marginals.

        W^2(N(0, S), N(0, D)) = tr S + tr D - 2 tr (D^1/2 S D^1/2)^1/2 = 2 tr S - 2 tr (D^1/2 S D^1/2)^1/2,   D = diag S

    since tr D = tr S; S divides by examples - 1. Normalised means divided by tr S, the sum of the codes' variances, so that a
    common scale of all codes does not matter (scales that differ between codes do).

    Args:
      codes: as in `gaussian_total_correlation`.

    Returns:
      `WassersteinCorrelation`: both are 0 for uncorrelated codes, and where all codes are constant. Of k copies of one code the
      normalised one is 2 - 2 / sqrt(k).

    Example: the same code twice.
      >>> print(gaussian_wasserstein_correlation(np.array([[1.0, 1.0], [-1.0, -1.0]])).normalised)
      0.59

    Source:
      Locatello et al. (2019).
    """
    z = check_codes("gaussian_wasserstein_correlation", codes)
    z = z[:, np.ptp(z, axis=0) > 0]  # a constant one adds nothing but the rounding of its mean
    if z.shape[1] < 2:
        return WassersteinCorrelation(0.0, 0.0)
    covariance = np.cov(z, rowvar=False)
    total, scale = float(np.trace(covariance)), np.sqrt(np.diag(covariance))
    # Symmetric and positive semi-definite, so the trace of the root is the sum of the roots of the eigenvalues.
    eigenvalues = np.linalg.eigvalsh(scale[:, None] * covariance * scale[None, :])
    distance = max(2 * total - 2 * float(np.sum(np.sqrt(np.maximum(eigenvalues, 0)))), 0.0)
    return WassersteinCorrelation(distance, distance / total if total > 0 else 0.0)
