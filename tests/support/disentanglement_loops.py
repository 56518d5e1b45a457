"""Independent versions of the disentanglement metrics: plain loops over SciPy and scikit-learn."""

import itertools
import math

import jax
import numpy as np
import pytest
from scipy import stats
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score
from sklearn.svm import LinearSVC

from vae_jax import disentanglement as dis
from vae_jax.disentanglement import Settings

KEY = jax.random.key(0)
SMALL = Settings(num_points=400, num_eval=250, num_variance_points=300, batch_size=8)


def full_grid(sizes):
    return np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes), axis=1)


# Independent versions: plain loops, as the metrics are described.
def mutual_information_by_loops(codes, labels, num_bins=20):
    matrix = np.zeros((codes.shape[1], labels.shape[1]))
    for i, j in itertools.product(*map(range, matrix.shape)):
        bins = np.digitize(codes[:, i], np.histogram(codes[:, i], num_bins)[1][:-1])
        matrix[i, j] = mutual_info_score(labels[:, j], bins)
    return matrix


def mig_by_loops(codes, factors):
    gaps = []
    for f, column in enumerate(mutual_information_by_loops(codes, factors).T):
        second, first = sorted(column)[-2:]
        gaps.append((first - second) / stats.entropy(np.unique(factors[:, f], return_counts=True)[1]))
    return np.array(gaps)


def modularity_by_loops(codes, factors):
    scores = []
    for code, row in zip(codes.T, mutual_information_by_loops(codes, factors), strict=True):
        best = max(row)
        rest = sum(value**2 for value in row) - best**2
        scores.append(0.0 if np.all(code == code[0]) else 1 - rest / (best**2 * (len(row) - 1)))
    return np.mean(scores)


def beta_vae_by_loops(codes, draws):
    points = [
        np.array(
            [
                np.mean([abs(codes[a] - codes[b]) for a, b in zip(*rows, strict=True)], axis=0)
                for rows in zip(*pairs, strict=True)
            ]
        )
        for pairs in ((p.first, p.second) for p in draws)
    ]
    return LogisticRegression(max_iter=100).fit(points[0], draws[0].factor).score(points[1], draws[1].factor)


def factor_vae_by_loops(codes, factors, draws, least_std=0.05):
    rows, *batches = draws
    deviation = [
        math.sqrt(sum((v - np.mean(codes[rows, j])) ** 2 for v in codes[rows, j]) / (len(rows) - 1))
        for j in range(codes.shape[1])
    ]
    active = [j for j, value in enumerate(deviation) if value >= least_std]
    tables = []
    for batch in batches:
        votes = np.zeros((factors.shape[1], len(active)))
        for factor, members in zip(batch.factor, batch.rows, strict=True):
            ratios = [stats.tvar(codes[members, j]) / deviation[j] ** 2 for j in active]
            votes[factor, ratios.index(min(ratios))] += 1
        tables.append(votes)
    right = sum(tables[1][np.argmax(tables[0][:, j]), j] for j in range(len(active)))
    return right / tables[1].sum(), active


def sap_by_loops(codes, factors, rows):
    gaps = []
    for f in range(factors.shape[1]):
        accuracies = []
        for j in range(codes.shape[1]):
            classifier = LinearSVC(C=0.01, class_weight="balanced").fit(codes[rows.train, j][:, None], factors[rows.train, f])
            accuracies.append(classifier.score(codes[rows.evaluation, j][:, None], factors[rows.evaluation, f]))
        second, first = sorted(accuracies)[-2:]
        gaps.append(first - second)
    return np.mean(gaps)


def dci_by_loops(codes, factors, rows, seeds):
    importance, accuracies = [], []
    for f, seed in enumerate(seeds):
        trees = GradientBoostingClassifier(random_state=seed).fit(codes[rows.train], factors[rows.train, f])
        importance.append(trees.feature_importances_)
        accuracies.append(trees.score(codes[rows.evaluation], factors[rows.evaluation, f]))
    importance = np.array(importance).T
    disentanglement = completeness = 0.0
    for row in importance:
        if row.sum() > 0:
            disentanglement += row.sum() / importance.sum() * (1 - stats.entropy(row, base=importance.shape[1]))
    for column in importance.T:
        completeness += column.sum() / importance.sum() * (1 - stats.entropy(column, base=importance.shape[0]))
    return disentanglement, completeness, np.mean(accuracies)


def explicitness_by_ranks(codes, factors, rows):
    """The area under the curve as the chance that a member's probability is above another's, from ranks."""
    codes = codes[:, np.ptp(codes, axis=0) > 0]
    z = stats.zmap(codes, codes[rows.train])
    of_factors = []
    for f in range(factors.shape[1]):
        classifier = LogisticRegression().fit(z[rows.train], factors[rows.train, f])
        areas = []
        for i, value in enumerate(classifier.classes_):
            member = factors[rows.evaluation, f] == value
            ranks = stats.rankdata(classifier.predict_proba(z[rows.evaluation])[:, i])
            count = member.sum()
            areas.append((ranks[member].sum() - count * (count + 1) / 2) / (count * (len(member) - count)))
        of_factors.append(np.mean(areas))
    return np.mean(of_factors)


def assert_ceiling():
    factors = full_grid((3, 6, 40, 32, 32))
    assert len(factors) == 737_280
    scores = dis.mig(2.0 * factors - 1, factors)
    np.testing.assert_array_equal(np.round(scores.gaps, 4), [1, 1, 0.8121, 0.85, 0.85])
    assert round(scores.score, 4) == 0.9024
    np.testing.assert_allclose(scores.entropies, np.log([3, 6, 40, 32, 32]), rtol=1e-12)
    assert np.all(scores.mutual_information[~np.eye(5, dtype=bool)] < 1e-12)  # of a full grid, exactly independent


SIZES = (4, 4, 5, 5)
GRID = Settings(num_points=350, num_eval=300, num_variance_points=350, batch_size=16)


def assert_mutual_information(table):
    codes, factors = table
    scores = dis.mig(codes, factors)
    np.testing.assert_allclose(scores.mutual_information, mutual_information_by_loops(codes, factors), atol=1e-10)
    np.testing.assert_allclose(scores.gaps, mig_by_loops(codes, factors), atol=1e-10)
    assert scores.score == pytest.approx(np.mean(scores.gaps), abs=1e-12)
    assert dis.modularity(codes, factors) == pytest.approx(modularity_by_loops(codes, factors), abs=1e-10)
    seven = dis.mig(codes, factors, num_bins=7).mutual_information
    np.testing.assert_allclose(seven, mutual_information_by_loops(codes, factors, 7), atol=1e-10)
    bins = np.stack([np.digitize(c, np.histogram(c, 20)[1][:-1]) for c in codes.T], axis=1)
    between = mutual_information_by_loops(codes, bins)
    expected = between[~np.eye(len(between), dtype=bool)].mean()
    assert dis.average_mutual_information(codes) == pytest.approx(expected, abs=1e-10)
