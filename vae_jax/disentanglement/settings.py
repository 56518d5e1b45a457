"""Sizes of the published metrics, and what codes and factors must look like. Everything here runs on the host, in float64."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vae_jax.errors import UserError

Codes = NDArray[np.float64]  # (examples, latent)
Labels = NDArray[np.int64]  # (examples, columns), >= 0


class Settings(NamedTuple):
    """Sizes of the metrics; the defaults are the published ones (disentanglement_lib).

    The published metrics draw images independently from all combinations of factors, for training and for evaluation alike.
    Here rows are drawn with replacement, which on a full grid of factors is the same. On a table of not many more rows than
    num_points, rows used for training then come up in the evaluation too, and accuracies are those of seen data to that extent
    (so are the published ones of small grids); replace=False takes disjoint rows instead, each once.
    """

    num_points: int = 10_000  # rows, or points of the BetaVAE and FactorVAE scores, to train on
    num_eval: int = 5_000  # to evaluate on
    num_variance_points: int = 10_000  # rows for the variances of the FactorVAE score
    batch_size: int = 64  # rows (FactorVAE) or pairs of rows (BetaVAE) behind one point
    num_bins: int = 20  # of equal width, for each code
    least_std: float = 0.05  # codes that vary less take no part in the FactorVAE score
    replace: bool = True  # whether rows may be drawn twice


PUBLISHED = Settings()


def check_settings(function: str, settings: Settings) -> None:
    """Raises ValueError for sizes that no metric can work with."""
    least = {"num_points": 2, "num_eval": 1, "num_variance_points": 2, "batch_size": 2, "num_bins": 1}
    for name, value in least.items():
        if getattr(settings, name) < value:
            raise ValueError(f"{function}: expected {name} >= {value}, got {getattr(settings, name)}.")


def check_num_rows(function: str, num_rows: int, needed: int, names: str) -> None:
    """Raises UserError where a table has fewer rows than the settings ask for."""
    if num_rows < needed:
        raise UserError(
            f"{function}: expected at least {needed} rows ({names}), got {num_rows}. "
            f"Give more examples, or Settings with a smaller {names.replace(' + ', ' and ')}."
        )


def check_codes(function: str, codes: ArrayLike) -> Codes:
    """The codes in float64, if they are finite and of shape (examples >= 2, latent >= 2)."""
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.shape[0] < 2 or codes.shape[1] < 2:
        raise ValueError(f"{function}: expected codes of shape (examples >= 2, latent >= 2), got {codes.shape}.")
    codes = codes.astype(np.float64)
    finite = np.isfinite(codes).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise UserError(
            f"{function}: expected finite codes, got NaN or infinity in {len(bad)} of {len(codes)} rows (first: row {bad[0]}). "
            "The encoder has diverged: take an earlier checkpoint."
        )
    return codes


def check_labels(function: str, factors: ArrayLike) -> Labels:
    """The factors as int64, if they are integers >= 0 of shape (examples, num_factors >= 2), each with two values or more."""
    factors = np.asarray(factors)
    if factors.ndim != 2 or factors.shape[1] < 2:
        raise ValueError(f"{function}: expected factors of shape (examples, num_factors >= 2), got {factors.shape}.")
    if not np.issubdtype(factors.dtype, np.integer):
        raise ValueError(
            f"{function}: expected factors as integers (the index of each value), got {factors.dtype}. "
            "np.unique(column, return_inverse=True)[1] makes them from numbers or names."
        )
    if factors.size and factors.min() < 0:
        raise ValueError(f"{function}: expected factors >= 0, got {factors.min()}.")
    constant = np.flatnonzero(np.ptp(factors, axis=0) == 0) if len(factors) else np.arange(factors.shape[1])
    if constant.size:
        raise UserError(
            f"{function}: expected at least two values of each factor, got one of factor {', '.join(map(str, constant))} "
            f"among {len(factors)} rows. Leave that column out: nothing can be learned about it."
        )
    return factors.astype(np.int64)


def check_pair(function: str, codes: ArrayLike, factors: ArrayLike) -> tuple[Codes, Labels]:
    """Codes and factors of the same examples, both checked."""
    checked = check_codes(function, codes), check_labels(function, factors)
    if len(checked[0]) != len(checked[1]):
        raise ValueError(
            f"{function}: expected a row of factors for each code, got {len(checked[0])} and {len(checked[1])} rows."
        )
    return checked
