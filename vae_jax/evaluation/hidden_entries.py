"""Evaluation under artificial missingness: hides observed entries, and scores imputations of them against simple baselines."""

import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Real

from vae_jax._numerics.short_repr import short_repr
from vae_jax.errors import UserError
from vae_jax.evaluation.conditional_gaussian import conditional_means, fit_gaussian
from vae_jax.evaluation.imputation import Kind

MAX_COLUMNS = 200  # of the baselines that regress each column on all others, or invert their covariance
_MAX_WORK = 1e11  # rows x columns^3 x steps of EM
METRICS: dict[Kind, str] = {"real": "rmse", "count": "mean_absolute_error", "class": "accuracy"}


def hide(seed: int, mask: Bool[np.ndarray, "examples *event"], share: float) -> Bool[np.ndarray, "examples *event"]:
    """Hides observed entries completely at random.

    Entry i (in the order of the array) is hidden if it is observed and uniform number i of `numpy.random.default_rng(seed)` is
    below the share. So a seed hides the same entries on every machine, a larger share hides those of a smaller one and more,
    and whether an entry is hidden does not depend on the others.

    Args:
      seed: a whole number >= 0.
      mask: True where an entry is observed.
      share: the expected share of the observed entries to hide, in (0, 1).

    Returns:
      True where an entry is hidden, in the shape of `mask`.

    Raises:
      UserError: a share outside of its range, or one that hides nothing.

    Example:
      >>> hidden = hide(0, np.ones((1000, 10), bool), 0.5)
      >>> hidden.shape, int(hidden.sum())
      ((1000, 10), 4990)
    """
    if not 0 < share < 1:
        raise UserError(field="hide", expected="a share above 0 and below 1", got=share)
    hidden = mask & (np.random.default_rng(seed).random(mask.shape) < share)
    if not hidden.any():
        raise UserError(f"none of {int(mask.sum())} observed entries is hidden with the share {share}.", field="hide")
    return hidden


@short_repr
class Table(NamedTuple):
    """Examples as rows, in the unit of the data, with NaN at missing entries, and the kind of each column."""

    train: Float[np.ndarray, "train columns"]
    test: Float[np.ndarray, "test columns"]  # with the hidden entries
    hidden: Bool[np.ndarray, "test columns"]
    kinds: tuple[Kind, ...]
    scale: float | None = None  # unit of the errors of real entries, such as one for all pixels; None: each column's own

    @property
    def observed(self) -> Bool[np.ndarray, "test columns"]:
        """Test entries that are neither missing nor hidden."""
        return ~np.isnan(self.test) & ~self.hidden

    @property
    def given(self) -> Float[np.ndarray, "test columns"]:
        """Test rows with NaN at hidden entries."""
        return np.where(self.hidden, np.nan, self.test)


class Score(NamedTuple):
    """Errors of the hidden entries of one kind."""

    value: float  # root of the mean square, mean absolute error, or share of correct classes
    standard_error: float  # over the examples (delta method); NaN for a single example
    num_entries: int


@short_repr
class Scores(NamedTuple):
    """Scores of one method of imputation."""

    by_kind: dict[Kind, Score]  # reals in units of the training set's standard deviations; counts and classes as they are
    by_column: Float[np.ndarray, "columns"]  # in the unit of the data; NaN for a column without hidden entries


def column_moments(train: Float[np.ndarray, "rows columns"]) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of each column over observed entries; 0 and 1 for a column without any."""
    observed = ~np.isnan(train)
    count = np.maximum(observed.sum(axis=0), 1)
    mean = np.where(observed, train, 0).sum(axis=0) / count
    std = np.sqrt((np.where(observed, train - mean, 0) ** 2).sum(axis=0) / count)
    return mean, np.where(std > 1e-9 * np.maximum(np.abs(mean), 1e-300), std, 1.0)


def score(table: Table, imputed: Real[np.ndarray, "test columns"]) -> Scores:
    """Scores imputed values at the hidden entries.

        real:  sqrt( mean of ((imputed - x) / std of the training column)^2 )
        count: mean of |imputed - x|
        class: share of imputed values that equal x

    Args:
      table: the data.
      imputed: test rows with imputed values at hidden entries; classes as their numbers.

    Returns:
      The `Scores`. Standard errors take the examples as independent, not the entries.
    """
    std = column_moments(table.train)[1] if table.scale is None else table.scale
    kinds = np.array(table.kinds)
    difference = np.where(table.hidden, imputed - np.where(table.hidden, table.test, 0), 0.0)
    by_column = np.full(len(kinds), np.nan)
    by_kind: dict[Kind, Score] = {}
    for kind in ("real", "count", "class"):
        chosen = kinds == kind
        hidden = table.hidden & chosen
        if not hidden.any():
            continue
        errors = _entry_errors(kind, difference, hidden)
        count = hidden.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            means = errors.sum(axis=0) / count
        by_column[chosen] = (np.sqrt(means) if kind == "real" else means)[chosen]
        scaled = errors / std**2 if kind == "real" else errors
        by_kind[kind] = _pooled_score(scaled.sum(axis=1), hidden.sum(axis=1), is_square=kind == "real")
    return Scores(by_kind, by_column)


def _entry_errors(kind: Kind, difference: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Returns the square, the absolute value or the correctness of each hidden entry; 0 elsewhere."""
    if kind == "class":
        return np.where(hidden, np.abs(difference) < 1e-3, False).astype(np.float64)
    return np.where(hidden, np.square(difference) if kind == "real" else np.abs(difference), 0.0)


def _pooled_score(totals: np.ndarray, counts: np.ndarray, is_square: bool) -> Score:
    """Returns the mean over all hidden entries, or its root, with a standard error over examples."""
    with_hidden = counts > 0
    totals, counts = totals[with_hidden], counts[with_hidden]
    n, mean = len(totals), float(totals.sum() / counts.sum())
    # A ratio of two sums over examples: its error follows from the residuals of the totals (delta method).
    residuals = totals - mean * counts
    error = float(np.sqrt(np.sum(residuals**2) * n / (n - 1)) / counts.sum()) if n > 1 else float("nan")
    if not is_square:
        return Score(mean, error, int(counts.sum()))
    root = mean**0.5
    return Score(root, error / (2 * root) if root else 0.0, int(counts.sum()))


def mean_imputation(table: Table) -> np.ndarray:
    """Imputes the mean of each column over observed training entries, and the mode of classes."""
    mean, _ = column_moments(table.train)
    for j, kind in enumerate(table.kinds):
        column = table.train[:, j]
        if kind == "class" and not np.isnan(column).all():
            values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
            mean[j] = values[np.argmax(counts)]
    return np.where(table.observed, table.test, mean)


def gaussian_imputation(table: Table) -> np.ndarray:
    """Imputes the conditional means of a Gaussian with the training set's mean and covariance (see `fit_gaussian`).

    Classes are rounded to the nearest one of the training set.
    """
    rows, columns = table.train.shape
    # About a minute on one core for the largest tables; a table of 500 x 30 gets all steps.
    steps = int(np.clip(_MAX_WORK / (rows * columns**3), 10, 200))
    fitted = fit_gaussian(np.nan_to_num(table.train), ~np.isnan(table.train), max_steps=steps)
    return _to_classes(table, conditional_means(np.nan_to_num(table.given), table.observed, fitted))


def iterative_imputation(table: Table, estimator: object = None, seed: int = 0, max_iter: int = 10) -> np.ndarray:
    """Imputes by scikit-learn's `IterativeImputer`, fitted to the training set with its missing entries.

    Classes are rounded to the nearest one of the training set.

    Args:
      table: the data.
      estimator: a regressor of scikit-learn. None: `BayesianRidge`, the default of `IterativeImputer`. With a
        `RandomForestRegressor` the method is that of missForest (Stekhoven & Buehlmann 2012), except for its rule to stop.
      seed: seed of the imputer.
      max_iter: rounds over the columns.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    mean, std = column_moments(table.train)
    imputer = IterativeImputer(estimator, random_state=seed, max_iter=max_iter, keep_empty_features=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit_on = (table.train - mean) / std
        imputer.fit(fit_on)
        completed = imputer.transform((table.given - mean) / std) * std + mean
    return _to_classes(table, np.where(table.observed, table.test, completed))


def _to_classes(table: Table, completed: np.ndarray) -> np.ndarray:
    """Rounds imputed classes to the nearest class of the training set."""
    for j, kind in enumerate(table.kinds):
        column = table.train[:, j]
        if kind == "class" and not np.isnan(column).all():
            classes = np.unique(column[~np.isnan(column)])
            nearest = classes[np.argmin(np.abs(completed[:, j, None] - classes), axis=1)]
            completed[:, j] = np.where(table.observed[:, j], completed[:, j], nearest)
    return completed


def baselines(table: Table) -> tuple[dict[str, np.ndarray], list[str]]:
    """Imputes by the mean, and for tables of at most 200 columns by `IterativeImputer` and the conditional Gaussian.

    Returns:
      The imputed test rows by method, and a sentence for each method that was left out.
    """
    imputed = {"mean": mean_imputation(table)}
    columns = len(table.kinds)
    if columns > MAX_COLUMNS:
        return imputed, [
            f"IterativeImputer and the conditional Gaussian are left out: the data have {columns} columns, more than "
            f"{MAX_COLUMNS}."
        ]
    imputed["IterativeImputer"] = iterative_imputation(table)
    imputed["conditional Gaussian"] = gaussian_imputation(table)
    return imputed, []


def score_all(table: Table, imputed: Mapping[str, np.ndarray]) -> dict[str, Scores]:
    """Returns the scores of several methods, by name."""
    return {name: score(table, values) for name, values in imputed.items()}
