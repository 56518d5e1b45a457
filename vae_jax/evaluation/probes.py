"""Accuracy of labels that are predicted from codes: k nearest neighbors, and a linear probe."""

import math
import warnings
from typing import NamedTuple

import numpy as np

from vae_jax._numerics.short_repr import short_repr
from vae_jax.errors import UserError

NUM_NEIGHBORS = 10
_MAX_ITERATIONS = 500  # of the linear probe, which bounds its time


@short_repr
class Accuracy(NamedTuple):
    """Share of test examples whose label is predicted, in [0, 1], and its standard error over these examples."""

    mean: float
    standard_error: float  # NaN for a single example


@short_repr
class Probes(NamedTuple):
    """Accuracy of labels that are predicted from codes.

    Attributes:
      knn: by the majority among the nearest training codes.
      linear: by multinomial logistic regression.
      majority: by the most frequent training label, whatever the code: the baseline of both.
      num_neighbors: number of neighbors that vote.
      num_labels: number of different training labels.
      num_train: number of training codes.
      num_test: number of test codes.
      converged: whether the logistic regression reached its optimum.
    """

    knn: Accuracy
    linear: Accuracy
    majority: Accuracy
    num_neighbors: int
    num_labels: int
    num_train: int
    num_test: int
    converged: bool


def probe_labels(
    train_codes: np.ndarray,
    train_labels: np.ndarray,
    test_codes: np.ndarray,
    test_labels: np.ndarray,
    *,
    num_neighbors: int = NUM_NEIGHBORS,
) -> Probes:
    """Predicts the labels of test codes from the training codes.

    Each dimension is standardized by the mean and the standard deviation of the training codes; constant dimensions become 0.
    The k nearest neighbors in Euclidean distance vote with equal weight. The linear probe is logistic regression with an L2
    penalty, which minimizes

        |W|² / 2 + sum_i -log softmax(W z_i + b)[y_i]

    Both are deterministic. Ties of votes go to the smallest label.

    Args:
      train_codes: a code for each training example, such as its posterior mean, (train examples, latent).
      train_labels: integers, (train examples,).
      test_codes: (test examples, latent).
      test_labels: integers, (test examples,). Labels that no training example has count as errors.
      num_neighbors: k, >= 1; all training codes where there are fewer.

    Returns:
      Accuracies in [0, 1] with standard errors over the test examples.

    Raises:
      UserError: shapes that do not fit each other, no examples, codes that are not finite, labels that are not integers.

    Example:
      >>> codes, labels = np.array([[0.0], [0.1], [5.0], [5.1]]), np.array([0, 0, 1, 1])
      >>> probes = probe_labels(codes, labels, codes, labels, num_neighbors=2)
      >>> probes.knn.mean, probes.linear.mean, probes.majority.mean
      (1.0, 1.0, 0.5)

    Source:
      scikit-learn's KNeighborsClassifier and LogisticRegression (C = 1).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    _check(train_codes, train_labels, "training")
    _check(test_codes, test_labels, "test")
    if train_codes.shape[1] != test_codes.shape[1]:
        raise UserError(f"probe_labels: expected codes of one size, got {train_codes.shape[1]} and {test_codes.shape[1]}.")
    if num_neighbors < 1:
        raise UserError(field="num_neighbors", expected="a whole number >= 1", got=num_neighbors)
    mean, std = train_codes.mean(axis=0, dtype=np.float64), train_codes.std(axis=0, dtype=np.float64)
    std = np.where(std > 1e-12 * np.maximum(np.abs(mean), 1e-300), std, np.inf)
    train, test = (train_codes - mean) / std, (test_codes - mean) / std
    values, counts = np.unique(train_labels, return_counts=True)
    most_frequent = _accuracy(np.full(len(test), values[counts.argmax()]), test_labels)
    num_neighbors = min(num_neighbors, len(train))
    nearest, converged = KNeighborsClassifier(num_neighbors, algorithm="brute").fit(train, train_labels), True
    linear = most_frequent
    if len(values) > 1:  # else the most frequent label is the only one
        regression = LogisticRegression(max_iter=_MAX_ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # reported in the result
            regression.fit(train, train_labels)
        converged = bool(np.max(regression.n_iter_) < _MAX_ITERATIONS)
        linear = _accuracy(np.asarray(regression.predict(test)), test_labels)
    return Probes(
        knn=_accuracy(np.asarray(nearest.predict(test)), test_labels),
        linear=linear,
        majority=most_frequent,
        num_neighbors=num_neighbors,
        num_labels=len(values),
        num_train=len(train),
        num_test=len(test),
        converged=converged,
    )


def _check(codes: np.ndarray, labels: np.ndarray, noun: str) -> None:
    if codes.ndim != 2 or labels.shape != (len(codes),) or not len(codes):
        raise UserError(
            f"probe_labels: expected {noun} codes (examples, latent) and a label for each, got shapes {codes.shape} and "
            f"{labels.shape}."
        )
    if labels.dtype.kind not in "iu":
        raise UserError(f"probe_labels: expected integers as {noun} labels, got dtype {labels.dtype}.")
    if not np.isfinite(codes).all():
        raise UserError(f"probe_labels: expected finite {noun} codes, got {int((~np.isfinite(codes)).sum())} others.")


def _accuracy(predicted: np.ndarray, labels: np.ndarray) -> Accuracy:
    correct = (predicted == labels).astype(np.float64)
    error = float(correct.std(ddof=1) / math.sqrt(len(correct))) if len(correct) > 1 else math.nan
    return Accuracy(float(correct.mean()), error)
