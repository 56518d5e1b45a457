"""Imputation of mixed tables: classes get their mode, by the probabilities of each column's own values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from vae_jax import likelihoods, model
from vae_jax.evaluation import ImputationSettings, class_values, impute
from vae_jax.evaluation.imputation import entry_kinds
from vae_jax.example import Example
from vae_jax.networks import Network

mixed = pytest.importorskip("vae_jax.likelihoods.mixed")
GRID = np.linspace(-8, 8, 4001)


def test_each_column_is_imputed_by_its_own_likelihood():
    rating = likelihoods.ColumnGroup(likelihoods.categorical(3), (3,), ((1.0, 3.0, 7.0),))
    groups = [(likelihoods.gaussian(0.5), [1]), rating, (likelihoods.bernoulli(), [0]), (likelihoods.categorical(4), [2])]
    likelihood = mixed.columns(groups)
    assert entry_kinds(likelihood, (4,)) == ("class", "real", "class", "class")
    values = class_values(likelihood, (4,))
    np.testing.assert_array_equal(np.asarray(values).T[[0, 2, 3]], [[0, 1, 1, 1], [0, 1, 2, 3], [1, 3, 7, 7]])
    slope = np.array([1.0, 0.3, -1.0, 2.0, 1.5, 0.5, 0.0, -0.5, 1.0], np.float32)  # in the order of the groups
    decoder = Network(lambda key: (), lambda params, z: jnp.asarray(slope) * z[0])
    encoder = Network(lambda key: (), lambda params, x: (jnp.zeros(1), jnp.zeros(1)))
    vae = model.make_vae(encoder, decoder, likelihood, (4,))
    x = Example(jnp.array([0.0, 1.2, 0.0, 0.0]), mask=jnp.array([False, True, False, False]))
    settings = ImputationSettings(20_000, 40, values)
    params = {"encoder": (), "decoder": ()}
    found = jax.device_get(jax.jit(lambda key: impute(key, vae, params, x, settings))(jax.random.key(0)))
    weight = stats.norm.pdf(GRID) * stats.norm.pdf(1.2, GRID, 0.5)
    weight /= weight.sum()
    ratings, classes = (weight @ special.softmax(GRID[:, None] * slope[part], axis=1) for part in (slice(1, 4), slice(5, 9)))
    one = weight @ special.expit(GRID * slope[4])
    np.testing.assert_allclose(found.probabilities[:2, 0], [1 - one, one], atol=0.02)
    np.testing.assert_allclose(found.probabilities[:, 2], classes, atol=0.02)
    np.testing.assert_allclose(found.probabilities[:3, 3], ratings, atol=0.02)
    np.testing.assert_allclose(found.mode, [1, 1.2, classes.argmax(), [1, 3, 7][ratings.argmax()]], rtol=1e-6)
    assert set(np.unique(found.imputations[:, 3])) <= {1.0, 3.0, 7.0}
    assert set(np.unique(found.imputations[:, 2])) <= {0.0, 1.0, 2.0, 3.0}
