"""Accuracy of the labels of a run's test set, predicted from the codes of its training set."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vae_jax._numerics.keys import Stream, stream
from vae_jax.data import Dataset
from vae_jax.evaluation import encode_dataset
from vae_jax.evaluation.probes import Accuracy, probe_labels
from vae_jax.example import Example
from vae_jax.model import Params
from vae_jax.runs.directory import Run
from vae_jax.storage.atomic import JsonObject

_PART = 1000  # training examples that are read and encoded at once


def label_accuracy(run: Run, test_codes: np.ndarray, max_codes: int) -> JsonObject:
    """Predicts the labels of the test set from codes by k nearest neighbors and by a linear probe.

    Codes are posterior means. Examples are left out whose code is not finite, or whose label is negative, which stands for
    unlabeled.

    Args:
      run: from `runs.load_run`.
      test_codes: posterior means of all test examples, (test examples, latent).
      max_codes: the most training codes and the most test codes that are used, chosen at random with the test seed of the run;
        0: none.

    Returns:
      Entries of evaluation.json: accuracies in [0, 1] with standard errors over the test examples, and the sizes behind them.
      `labels_in_condition` is there where the labels follow from the condition of the model.
      Nothing where the data have no labels in both parts, or where most training examples have labels of their own, so that
      labels are not classes.
    """
    dataset = run.built.dataset
    if max_codes == 0 or dataset.rendering or dataset.train_labels is None or dataset.test_labels is None:
        return {}
    rng = np.random.default_rng(run.built.config.test_seed)
    train, test = (_choose(rng, labels, max_codes) for labels in (dataset.train_labels, dataset.test_labels))
    if not len(train) or not len(test) or 2 * len(np.unique(dataset.train_labels[train])) > len(train):
        return {}
    codes, test_codes = _encode(run, train), test_codes[test]
    finite, finite_test = (np.isfinite(one).all(axis=1) for one in (codes, test_codes))
    if not finite.any() or not finite_test.any():
        return {}  # `assess` names such examples
    labels, test_labels = dataset.train_labels[train[finite]], dataset.test_labels[test[finite_test]]
    probes = probe_labels(codes[finite], labels, test_codes[finite_test], test_labels)
    return {
        **_with_error("knn_accuracy", probes.knn),
        **_with_error("linear_probe_accuracy", probes.linear),
        **_with_error("majority_accuracy", probes.majority),
        "knn_neighbors": probes.num_neighbors,
        "linear_probe_converged": probes.converged,
        "num_labels": probes.num_labels,
        "probe_train_codes": probes.num_train,
        "probe_test_codes": probes.num_test,
        **({"labels_in_condition": True} if follow_from_condition(dataset) else {}),
    }


def follow_from_condition(dataset: Dataset) -> bool:
    """Returns whether the label of every labeled training example follows from one categorical column of its condition."""
    labels, stored = dataset.train_labels, dataset.train_condition
    if dataset.condition is None or labels is None or stored is None:
        return False
    labeled = labels >= 0
    for column, codes in zip(dataset.condition.columns, stored[labeled].T, strict=True):
        pairs = np.unique(np.stack([codes, labels[labeled]], axis=1), axis=0)
        # A column that numbers the examples determines everything, and says nothing.
        if column.categories is not None and len(pairs) == len(np.unique(codes)) and 2 * len(pairs) <= len(codes):
            return True
    return False


def _with_error(name: str, accuracy: Accuracy) -> JsonObject:
    return {name: accuracy.mean, f"{name}_standard_error": accuracy.standard_error}


def _choose(rng: np.random.Generator, labels: np.ndarray, max_codes: int) -> np.ndarray:
    """Returns the indices of at most `max_codes` labeled examples, in their order."""
    labeled = np.flatnonzero(labels >= 0)
    return labeled if len(labeled) <= max_codes else np.sort(rng.choice(labeled, max_codes, replace=False))


def _encode(run: Run, index: np.ndarray) -> np.ndarray:
    """Returns the posterior means of training examples."""
    vae, data = run.built.vae, run.built.data
    key = stream(run.built.config.test_seed, Stream.PROBES)

    @jax.jit
    def encode(params: Params, key: Array, rows: Array | Example) -> Array:
        return encode_dataset(vae, params, rows, to_input=lambda batch: data.train_input(key, batch))[0]

    means = np.empty((len(index), vae.latent_dim), np.float32)
    size = min(_PART, len(index))
    for first in range(0, len(index), size):
        start = min(first, len(index) - size)  # the last part overlaps with the one before, so that one program serves all
        part = jax.tree.map(jnp.asarray, data.train_rows(jnp.asarray(index[start : start + size])))
        means[start : start + size] = encode(run.params, jax.random.fold_in(key, start), part)
    return means
