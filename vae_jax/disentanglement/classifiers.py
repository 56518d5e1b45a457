"""Metrics that fit classifiers from codes to factors: SAP, DCI, explicitness. scikit-learn is imported when they run."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from numpy.typing import ArrayLike, NDArray

from vae_jax.disentanglement.draws import draw_rows, sklearn_seed
from vae_jax.disentanglement.settings import PUBLISHED, Codes, Labels, Settings, check_labels, check_pair
from vae_jax.errors import UserError

Matrix = NDArray[np.float64]


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness, and the importances that the first two are of."""

    disentanglement: float
    completeness: float
    informativeness: float  # accuracy
    importance: Matrix  # (latent, num_factors), >= 0


class _Split(NamedTuple):
    codes: Codes
    factors: Labels
    codes_eval: Codes
    factors_eval: Labels


@contextlib.contextmanager
def without_convergence_warnings() -> Iterator[None]:
    """Solvers of scikit-learn that reach their number of steps say nothing; what they reached is used."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _split(function: str, key: Array, codes: ArrayLike, factors: ArrayLike, settings: Settings) -> _Split:
    z, values = check_pair(function, codes, factors)
    train, evaluation = draw_rows(key, len(z), settings)
    drawn = check_labels(f"{function} (rows drawn to train on)", values[train])
    return _Split(z[train], drawn, z[evaluation], values[evaluation])


def sap_matrix(key: Array, codes: ArrayLike, factors: ArrayLike, settings: Settings = PUBLISHED) -> Matrix:
    """Accuracies (latent, num_factors) behind `sap`, whose arguments these are: each factor predicted from each code alone."""
    from sklearn.svm import LinearSVC

    split = _split("sap", key, codes, factors, settings)

    def accuracy(code: int, factor: int) -> float:
        classifier = LinearSVC(C=0.01, class_weight="balanced", random_state=0)  # the primal solver: nothing is random
        classifier.fit(split.codes[:, [code]], split.factors[:, factor])
        return float(np.mean(classifier.predict(split.codes_eval[:, [code]]) == split.factors_eval[:, factor]))

    with without_convergence_warnings():
        num_codes, num_factors = split.codes.shape[1], split.factors.shape[1]
        return np.array([[accuracy(code, factor) for factor in range(num_factors)] for code in range(num_codes)])


def sap(key: Array, codes: ArrayLike, factors: ArrayLike, settings: Settings = PUBLISHED) -> float:
    """Separated attribute predictability: how much better the best single code predicts a factor than the next one.

        mean over f of A_(1)f - A_(2)f,   A_(1)f >= A_(2)f the two largest accuracies of a linear classifier of f from one code

    Factors are classes: LinearSVC of scikit-learn, C = 0.01, balanced class weights, fitted to num_points rows, accuracy on
    num_eval others (`draw_rows`). A fit that stops at its number of steps is used as it stands, and the warning about it is not
    passed on.

    Args:
      key: a new-style PRNG key.
      codes: (examples, latent >= 2), encoder means, finite.
      factors: (examples, num_factors >= 2), integers >= 0, each with two values or more.
      settings: num_points, num_eval and replace are used.

    Returns:
      Score in [0, 1), 0 for constant codes. 1 cannot be reached: the second code is right by chance, and one line per class
      separates the middle values of one code only in part. Permuting the latent dimensions changes nothing.

    Source:
      Kumar et al. (2018), as computed by Locatello et al. (2019).
    """
    largest = np.sort(sap_matrix(key, codes, factors, settings), axis=0)
    return float(np.mean(largest[-1] - largest[-2]))


def _specialisation(importance: Matrix) -> float:
    """Mean of 1 - entropy of each row (in units of the largest possible), weighted by the rows' sums."""
    p = importance + 1e-11  # as published: a row of zeros is then spread evenly, and counts 0
    p = p / p.sum(axis=1, keepdims=True)
    per_row = 1 + np.sum(p * np.log(p), axis=1) / np.log(p.shape[1])
    weight = importance.sum(axis=1)
    if weight.sum() == 0:
        weight = np.ones_like(weight)
    return float(np.sum(per_row * weight) / weight.sum())


def dci(key: Array, codes: ArrayLike, factors: ArrayLike, settings: Settings = PUBLISHED) -> DCI:
    """Disentanglement, completeness, informativeness, from how much boosted trees use each code to predict each factor.

        R_jf = |importance of code j for factor f|
        D = sum_j w_j (1 - H(R_j. / sum_f R_jf) / log num_factors),   w_j = sum_f R_jf / sum R
        C = sum_f v_f (1 - H(R_.f / sum_j R_jf) / log latent),        v_f = sum_j R_jf / sum R
        I = mean over f of the accuracy

    GradientBoostingClassifier of scikit-learn with its defaults (100 rounds; one tree of depth 3 in each for each value of the
    factor), fitted to num_points rows, accuracy on num_eval others (`draw_rows`). By far the slowest of the metrics: time grows
    with num_points, latent and the number of values of all factors; the published sizes on dSprites (10,000 rows, 10 codes, 113
    values) took 4 to 5 minutes on one core, and all the other metrics together 7 seconds.

    Args:
      key, codes, factors, settings: as in `sap`. The trees' seeds come from the key.

    Returns:
      `DCI`, in [0, 1] each. For constant codes D = C = 0, and I is the accuracy of guessing. Permuting the latent dimensions
      changes which of two equally good splits the trees take.

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
    return DCI(_specialisation(matrix), _specialisation(matrix.T), float(np.mean(accuracy)), matrix)


def explicitness(key: Array, codes: ArrayLike, factors: ArrayLike, settings: Settings = PUBLISHED) -> float:
    """Whether all codes together tell each value of each factor from the rest: the area under the ROC curve.

        mean over f, of the mean over values v of f, of AUC(P(f = v | codes), f = v)

    Codes are standardised with the mean and the standard deviation (dividing by the count) of the rows to train on. The
    probabilities are of scikit-learn's LogisticRegression with its defaults (C = 1; multinomial, at most 100 steps of L-BFGS),
    fitted to num_points rows; the areas are on num_eval others (`draw_rows`). Where the steps do not suffice, the fit is used
    as it stands, and the warning is not passed on. A value that is in only one of the two sets of rows has no area, and is left
    out of the mean.

    Args:
      key, codes, factors, settings: as in `sap`.

    Returns:
      Score in [0, 1], 0.5 for constant codes, which are only centred. The order of the latent dimensions matters only through
      the solver's rounding.

    Source:
      Ridgeway and Mozer (2018), as computed by Locatello et al. (2019).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    split = _split("explicitness", key, codes, factors, settings)
    mean, deviation = np.mean(split.codes, axis=0), np.std(split.codes, axis=0)
    # The deviation of a constant code may be 1e-17, the rounding of its mean.
    deviation = np.where((np.ptp(split.codes, axis=0) == 0) | (deviation == 0), 1.0, deviation)
    standard, standard_eval = (split.codes - mean) / deviation, (split.codes_eval - mean) / deviation

    def of_factor(factor: int) -> float:
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
            raise UserError(
                f"explicitness: expected two values of factor {factor} at least among the rows to evaluate on, got one. "
                "Raise num_eval."
            )
        return float(np.mean(areas))

    return float(np.mean([of_factor(factor) for factor in range(split.factors.shape[1])]))
