"""The log-likelihood of each entry is that of the draw of z in `evaluate`, with every prior."""

import jax
import numpy as np
import pytest

from vae_jax import data
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.evaluation.dataset_means import evaluate
from vae_jax.evaluation.per_entry import entry_log_likelihoods

RNG = np.random.default_rng(0)
X = np.where(RNG.random((40, 3)) < 0.7, RNG.normal(size=(40, 3)), np.nan)


@pytest.mark.parametrize("prior", ["normal", "mixture", "vamp", "hierarchical"])
def test_entries_sum_to_the_log_likelihood(prior):
    settings = {"prior_components": 2} if prior in ("mixture", "vamp") else {}
    config = Config(likelihood="gaussian", prior=prior, hidden=(4,), latent_dim=2, batch_size=8, **settings)
    built = build(config, dataset=data.from_arrays(X, missing="nan"))
    params, key, test = built.vae.init(jax.random.key(0)), jax.random.key(1), built.data.test

    def both(params, test):
        arguments = (key, built.vae, params, test)
        options = {"to_input": built.data.eval_input}
        return entry_log_likelihoods(*arguments, **options), evaluate(*arguments, **options).log_likelihood

    entries, total = jax.jit(both)(params, test)
    assert entries.shape == (8, 3)
    np.testing.assert_array_equal(entries == 0, ~np.asarray(test.mask))
    np.testing.assert_allclose(entries.sum(axis=1), total, rtol=1e-5)
