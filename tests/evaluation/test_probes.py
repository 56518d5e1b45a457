"""Accuracy of labels from codes: codes with known answers, and a direct computation of both classifiers."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from vae_jax.errors import UserError
from vae_jax.evaluation.probes import probe_labels

RNG = np.random.default_rng(0)


def clusters(count, labels=4, distance=20.0, scales=(1.0, 1000.0)):
    """Codes that are `distance` apart for each label in a circle, with one dimension on another scale."""
    label = RNG.integers(0, labels, count)
    angle = 2 * np.pi * label / labels
    return (distance * np.stack([np.cos(angle), np.sin(angle)], axis=1) + RNG.normal(size=(count, 2))) * scales, label


def test_clusters_are_told_apart():
    (train, train_labels), (test, test_labels) = clusters(300), clusters(100)
    probes = probe_labels(train, train_labels, test, test_labels)
    assert (probes.knn, probes.linear) == ((1.0, 0.0), (1.0, 0.0))
    assert (probes.num_labels, probes.num_neighbors, probes.num_train, probes.num_test) == (4, 10, 300, 100)
    assert probes.converged


def test_labels_without_information_give_the_baseline():
    train, test = RNG.normal(size=(2000, 3)), RNG.normal(size=(1000, 3))
    train_labels, test_labels = RNG.permutation(np.arange(2000) % 5 == 0) + 0, RNG.permutation(np.arange(1000) % 5 == 0) + 0
    probes = probe_labels(train, train_labels, test, test_labels)
    assert probes.majority.mean == 0.8
    assert probes.linear.mean == 0.8  # its decision is the majority everywhere
    np.testing.assert_allclose(probes.majority.standard_error, np.sqrt(0.8 * 0.2 / 999))
    assert abs(probes.knn.mean - 0.8) < 0.04


def test_a_ring_is_for_the_neighbors_and_not_for_the_line():
    def ring(count):
        label = np.arange(count) % 2
        angle, radius = RNG.uniform(0, 2 * np.pi, count), 1 + 2 * label
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), label

    probes = probe_labels(*ring(600), *ring(300))
    assert probes.knn.mean == 1
    assert probes.linear.mean < 0.65


@pytest.mark.parametrize("num_neighbors", [1, 3, 8])
def test_against_a_direct_computation(num_neighbors):
    (train, train_labels), (test, test_labels) = clusters(120, 3, distance=1.0), clusters(80, 3, distance=1.0)
    probes = probe_labels(train, train_labels, test, test_labels, num_neighbors=num_neighbors)
    train_z, test_z = ((codes - train.mean(axis=0)) / train.std(axis=0) for codes in (train, test))

    def vote(code):
        nearest = np.argsort(((train_z - code) ** 2).sum(axis=1))[:num_neighbors]
        return np.bincount(train_labels[nearest], minlength=3).argmax()

    correct = np.array([vote(code) for code in test_z]) == test_labels
    np.testing.assert_allclose(probes.knn.mean, correct.mean())
    np.testing.assert_allclose(probes.knn.standard_error, correct.std(ddof=1) / np.sqrt(80))

    def loss(parameters):
        weights, bias = parameters[:6].reshape(3, 2), parameters[6:]
        log_p = scipy.special.log_softmax(train_z @ weights.T + bias, axis=1)
        return (weights**2).sum() / 2 - log_p[np.arange(120), train_labels].sum()

    best = scipy.optimize.minimize(loss, np.zeros(9), tol=1e-9).x
    predicted = (test_z @ best[:6].reshape(3, 2).T + best[6:]).argmax(axis=1)
    assert abs(probes.linear.mean - (predicted == test_labels).mean()) <= 1 / 80  # an example may lie on the border


def test_a_constant_dimension_changes_nothing():
    (train, train_labels), (test, test_labels) = clusters(100, distance=1.0), clusters(50, distance=1.0)
    expected = probe_labels(train, train_labels, test, test_labels)
    padded = [np.c_[codes, np.full((len(codes), 2), [0.1, 0.0])] for codes in (train, test)]
    padded[1][:, 2] = 7.0  # even where the test codes have another value
    assert probe_labels(padded[0], train_labels, padded[1], test_labels) == expected


def test_one_label_alone_and_few_codes():
    codes = RNG.normal(size=(3, 2))
    probes = probe_labels(codes, np.array([5, 5, 5]), codes, np.array([5, 5, 6]))
    assert (probes.knn.mean, probes.linear.mean, probes.majority.mean) == (2 / 3, 2 / 3, 2 / 3)
    assert (probes.num_neighbors, probes.num_labels) == (3, 1)


def test_a_probe_that_does_not_converge_says_so(monkeypatch):
    monkeypatch.setattr("vae_jax.evaluation.probes._MAX_ITERATIONS", 1)
    assert not probe_labels(*clusters(100, distance=1.0), *clusters(50, distance=1.0)).converged


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"train_labels": np.arange(9)}, r"training codes \(examples, latent\) and a label for each, got .*\(9,\)"),
        ({"test_codes": np.zeros((10, 3))}, r"codes of one size, got 2 and 3"),
        ({"test_codes": np.zeros(10)}, r"test codes \(examples, latent\)"),
        ({"test_labels": np.zeros(10)}, r"integers as test labels, got dtype float64"),
        ({"train_codes": np.full((10, 2), np.nan)}, r"finite training codes, got 20 others"),
        ({"num_neighbors": 0}, r"num_neighbors: expected a whole number >= 1"),
    ],
)
def test_unsuitable_arguments_are_refused(change, text):
    codes, labels = np.zeros((10, 2)), np.arange(10) % 2
    arguments = {"train_codes": codes, "train_labels": labels, "test_codes": codes, "test_labels": labels}
    with pytest.raises(UserError, match=text):
        probe_labels(**arguments | change)
