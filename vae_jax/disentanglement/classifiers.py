"""Metrics that predict factors from codes with classifiers: SAP, DCI and explicitness.

scikit-learn is imported when they run.
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from vae_jax.disentanglement.draws import draw_rows, sklearn_seed
from vae_jax.disentanglement.settings import PUBLISHED, Codes, Labels, Settings, check_labels, check_pair
from vae_jax.errors import UserError

Matrix = Float[np.ndarray, "latent num_factors"]


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness, with the importance matrix behind the first two."""

    disentanglement: float
    completeness: float
    informativeness: float  # accuracy
    importance: Matrix  # >= 0


class _Split(NamedTuple):
    """Codes and factors to train on, and those to evaluate on."""

    codes: Codes
    factors: Labels
    codes_eval: Codes
    factors_eval: Labels


@contextlib.contextmanager
def without_convergence_warnings() -> Iterator[None]:
    """Silences the warnings of scikit-learn solvers that reach their maximum number of steps."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _split(
    function: str,
    key: Array,
    codes: Float[np.ndarray | Array, "examples latent"],
    factors: Int[np.ndarray | Array, "examples num_factors"],
    settings: Settings,
) -> _Split:
    z, values = check_pair(function, codes, factors)
    train, evaluation = draw_rows(key, len(z), settings)
    drawn = check_labels(f"{function} (rows drawn to train on)", values[train])
    return _Split(z[train], drawn, z[evaluation], values[evaluation])


def sap_matrix(
    key: Key[Array, ""],
    codes: Float[np.ndarray | Array, "examples latent"],
    factors: Int[np.ndarray | Array, "examples num_factors"],
    settings: Settings = PUBLISHED,
) -> Matrix:
    """Computes the accuracies behind `sap`, with the same arguments: each factor is predicted from each code alone."""
    from sklearn.svm import LinearSVC

    split = _split("sap", key, codes, factors, settings)

    def accuracy(code: int, factor: int) -> float:
        classifier = LinearSVC(C=0.01, class_weight="balanced", random_state=0)  # the primal solver is deterministic
        classifier.fit(split.codes[:, [code]], split.factors[:, factor])
        return float(np.mean(classifier.predict(split.codes_eval[:, [code]]) == split.factors_eval[:, factor]))

    with without_convergence_warnings():
        num_codes, num_factors = split.codes.shape[1], split.factors.shape[1]
        return np.array([[accuracy(code, factor) for factor in range(num_factors)] for code in range(num_codes)])


def sap(
    key: Key[Array, ""],
    codes: Float[np.ndarray | Array, "examples latent"],
    factors: Int[np.ndarray | Array, "examples num_factors"],
    settings: Settings = PUBLISHED,
) -> float:
    """Computes the separated attribute predictability, the advantage of the best single code over the second best.

        mean over f of A_(1)f - A_(2)f,   A_(1)f >= A_(2)f the two largest accuracies of a linear classifier of f from one code

    Factors are treated as classes. The classifier is scikit-learn's LinearSVC with C = 0.01 and balanced class weights, fitted
    to num_points rows. Its accuracy is measured on num_eval other rows, see `draw_rows`. A fit that stops at its maximum number
    of steps is used, without a warning.

    Args:
      key: a new-style PRNG key.
      codes: (examples, latent >= 2), encoder means, finite.
      factors: (examples, num_factors >= 2), integers >= 0, each with at least two values.
      settings: num_points, num_eval and replace are used.

    Returns:
      Score in [0, 1), higher is better, 0 for constant codes. A score of 1 cannot be reached: the second code is sometimes
      right by chance, and one line per class cannot fully separate the middle values of one code. Permuting the latent
      dimensions does not change the score.

    Source:
      Kumar et al. (2018), as computed by Locatello et al. (2019).
    """
    largest = np.sort(sap_matrix(key, codes, factors, settings), axis=0)
    return float(np.mean(largest[-1] - largest[-2]))


def _specialization(importance: Float[np.ndarray, "rows columns"]) -> float:
    """Returns the mean of 1 - H(row) / log columns over the rows, weighted by the sums of the rows."""
    p = importance + 1e-11  # as published: a row of zeros becomes uniform and counts 0
    p = p / p.sum(axis=1, keepdims=True)
    per_row = 1 + np.sum(p * np.log(p), axis=1) / np.log(p.shape[1])
    weight = importance.sum(axis=1)
    if weight.sum() == 0:
        weight = np.ones_like(weight)
    return float(np.sum(per_row * weight) / weight.sum())


def dci(
    key: Key[Array, ""],
    codes: Float[np.ndarray | Array, "examples latent"],
    factors: Int[np.ndarray | Array, "examples num_factors"],
    settings: Settings = PUBLISHED,
) -> DCI:
    """Computes disentanglement, completeness and informativeness from the importance of each code for each factor.

        R_jf = |importance of code j for factor f|
        D = sum_j w_j (1 - H(R_j. / sum_f R_jf) / log num_factors),   w_j = sum_f R_jf / sum R
        C = sum_f v_f (1 - H(R_.f / sum_j R_jf) / log latent),        v_f = sum_j R_jf / sum R
        I = mean over f of the accuracy

    The importances come from scikit-learn's GradientBoostingClassifier with its defaults (100 rounds, each with one tree of
    depth 3 for each value of the factor), fitted to num_points rows. The accuracy is measured on num_eval other rows, see
    `draw_rows`.

    This is by far the slowest metric. Its time grows with num_points, with the number of codes and with the number of values of
    all factors. The published sizes on dSprites (10,000 rows, 10 codes, 113 values) took 4 to 5 minutes on one core, and all
    other metrics together 7 seconds.

    Args:
      key, codes, factors, settings: see `sap`. The seeds of the trees are derived from the key.

    Returns:
      `DCI`, each score in [0, 1], higher is better. For constant codes D = C = 0, and I is the accuracy of guessing. Permuting
      the latent dimensions can change which of two equally good splits a tree takes.

    Source:
      Eastwood and Williams (2018), as computed by Locatello et al. (2019).
    """
    from sklearn.ensemble import GradientBoostingClassifier

    key_rows, key_trees = jax.random.split(key)
    split = _split("dci", key_rows, codes, factors, settings)
    importance, accuracy = [], []
    for factor, (values, values_eval) in enumerate(zip(split.factors.T, split.factors_eval.T, strict=True)):
        seed = sklearn_seed(jax.random.fold_in(key_trees, factor))
        trees = GradientBoostingClassifier(random_state=seed).fit(split.codes, values)
        importance.append(np.abs(trees.feature_importances_))
        accuracy.append(np.mean(trees.predict(split.codes_eval) == values_eval))
    matrix = np.stack(importance, axis=1)
    return DCI(_specialization(matrix), _specialization(matrix.T), float(np.mean(accuracy)), matrix)


def explicitness(
    key: Key[Array, ""],
    codes: Float[np.ndarray | Array, "examples latent"],
    factors: Int[np.ndarray | Array, "examples num_factors"],
    settings: Settings = PUBLISHED,
) -> float:
    """Computes the explicitness, the area under the ROC curve for the values of each factor predicted from all codes.

        mean over f, of the mean over values v of f, of AUC(P(f = v | codes), f = v)

    Codes are standardized with the mean and the standard deviation (divided by the count) of the training rows. The
    probabilities are those of scikit-learn's LogisticRegression with its defaults (C = 1, multinomial, at most 100 steps of
    L-BFGS), fitted to num_points rows. The areas are computed on num_eval other rows, see `draw_rows`. A fit that stops at the
    maximum number of steps is used, without a warning. A value that occurs in only one of the two sets of rows has no area and
    is left out of the mean.

    Args:
      key, codes, factors, settings: see `sap`.

    Returns:
      Score in [0, 1], higher is better. It is 0.5 for constant codes, which are only centered. The order of the latent
      dimensions matters only through the rounding of the solver.

    Raises:
      UserError: if a factor has a single value among the evaluation rows.

    Source:
      Ridgeway and Mozer (2018), as computed by Locatello et al. (2019).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    split = _split("explicitness", key, codes, factors, settings)
    mean, deviation = np.mean(split.codes, axis=0), np.std(split.codes, axis=0)
    # The computed deviation of a constant code may be 1e-17, the rounding error of its mean.
    deviation = np.where((np.ptp(split.codes, axis=0) == 0) | (deviation == 0), 1.0, deviation)
    standard, standard_eval = (split.codes - mean) / deviation, (split.codes_eval - mean) / deviation

    def mean_area(factor: int) -> float:
        values_eval = split.factors_eval[:, factor]
        with without_convergence_warnings():
            classifier = LogisticRegression().fit(standard, split.factors[:, factor])
        probability = classifier.predict_proba(standard_eval)
        areas = [
            roc_auc_score(values_eval == value, probability[:, i])
            for i, value in enumerate(classifier.classes_)
            if 0 < np.sum(values_eval == value) < len(values_eval)
        ]
        if not areas:
            expected = f"at least two values of factor {factor} among the evaluation rows of explicitness"
            raise UserError(field="factors", expected=expected, got="one", fix="Raise `num_eval`.")
        return float(np.mean(areas))

    return float(np.mean([mean_area(factor) for factor in range(split.factors.shape[1])]))
