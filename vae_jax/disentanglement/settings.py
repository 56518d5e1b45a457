"""Sizes of the published metrics, and checks of codes and factors. All metrics are computed on the host, in float64."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from vae_jax.errors import UserError

Codes = Float[np.ndarray, "examples latent"]  # float64
Labels = Int[np.ndarray, "examples columns"]  # int64, >= 0


class Settings(NamedTuple):
    """Sizes of the metrics. The defaults are the published ones (disentanglement_lib).

    The published metrics draw images independently from all combinations of factors, both for training and for evaluation.
    Here rows are drawn with replacement, which is the same on a full grid of factors. If the table has not many more rows than
    num_points, rows used for training also occur in the evaluation, and to that extent accuracies are those of seen data. The
    same is true of published scores on small grids. With replace=False the rows are disjoint and each is used at most once.
    """

    num_points: int = 10_000  # rows to train on, or points for the BetaVAE and FactorVAE scores
    num_eval: int = 5_000  # rows or points to evaluate on
    num_variance_points: int = 10_000  # rows for the variances of the FactorVAE score
    batch_size: int = 64  # rows (FactorVAE) or pairs of rows (BetaVAE) behind one point
    num_bins: int = 20  # bins of equal width for each code
    least_std: float = 0.05  # codes with a smaller standard deviation are left out of the FactorVAE score
    replace: bool = True  # rows may be drawn twice


PUBLISHED = Settings()


def check_settings(function: str, settings: Settings) -> None:
    """Raises `ValueError` for sizes with which no metric can be computed."""
    least = {"num_points": 2, "num_eval": 1, "num_variance_points": 2, "batch_size": 2, "num_bins": 1}
    for name, value in least.items():
        if getattr(settings, name) < value:
            raise ValueError(f"{function}: expected {name} >= {value}, got {getattr(settings, name)}.")


def check_num_rows(function: str, num_rows: int, required: int, names: str) -> None:
    """Raises `UserError` if a table has fewer rows than the settings require."""
    if num_rows < required:
        smaller = " and ".join(f"`{name}`" for name in names.split(" + "))
        raise UserError(
            expected=f"at least {required} rows ({names}) in {function}",
            got=num_rows,
            fix=f"Give more examples, or Settings with a smaller {smaller}.",
        )


def check_codes(function: str, codes: Shaped[np.ndarray | Array, "examples latent"]) -> Codes:
    """Returns the codes in float64 if they are finite and have the shape (examples >= 2, latent >= 2)."""
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.shape[0] < 2 or codes.shape[1] < 2:
        raise ValueError(f"{function}: expected codes of shape (examples >= 2, latent >= 2), got {codes.shape}.")
    codes = codes.astype(np.float64)
    finite = np.isfinite(codes).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise UserError(
            field="codes",
            expected=f"finite codes in {function}",
            got=f"NaN or infinity in {len(bad)} of {len(codes)} rows (first: row {bad[0]})",
            fix="The encoder has diverged: use an earlier checkpoint.",
        )
    return codes


def check_labels(function: str, factors: Shaped[np.ndarray | Array, "examples num_factors"]) -> Labels:
    """Returns the factors as int64 if they are valid.

    Factors are integers >= 0 of shape (examples, num_factors >= 2), each with at least two values.
    """
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
            field="factors",
            expected=f"at least two values of each factor in {function}",
            got=f"one value of factor {', '.join(map(str, constant))} among {len(factors)} rows",
            fix="Leave that column out: nothing can be learned about it.",
        )
    return factors.astype(np.int64)


def check_pair(
    function: str,
    codes: Shaped[np.ndarray | Array, "examples latent"],
    factors: Shaped[np.ndarray | Array, "examples num_factors"],
) -> tuple[Codes, Labels]:
    """Returns codes and factors of the same examples, both checked, see `check_codes` and `check_labels`."""
    checked = check_codes(function, codes), check_labels(function, factors)
    if len(checked[0]) != len(checked[1]):
        raise ValueError(
            f"{function}: expected a row of factors for each code, got {len(checked[0])} and {len(checked[1])} rows."
        )
    return checked
