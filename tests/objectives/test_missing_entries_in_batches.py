"""The optimal scale of batches with missing entries, against its closed form."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batch_data import LATENT, X

from vae_jax import model
from vae_jax.config import Hyperparams
from vae_jax.example import Example
from vae_jax.likelihoods import gaussian
from vae_jax.objectives.batch import optimal_log_scale, optimal_scale

MIN_LOG_SCALE, RELATIVE = -6.0, np.array([0.5, 1.0, 4.0])
MASK = np.random.default_rng(0).uniform(size=X.shape) < 0.5


def _objective_and_vae(relative):
    """The objective, and a model with one learned scale or with one scale for each unit of the columns."""
    starts = 1.0 if relative is None else RELATIVE / math.exp(np.log(RELATIVE).mean())
    vae = model.mlp_vae((LATENT,), gaussian("shared", initial_scale=starts), latent_dim=2, hidden=(4,), standardize=None)
    return optimal_scale(min_log_scale=MIN_LOG_SCALE, relative_scale=None if relative is None else starts), vae, starts


def _run(objective, vae, x, mask, state=None):
    """Terms, the next state, and the gradient of the mean loss, through the functions that a train step passes."""
    params = vae.init(jax.random.key(0))

    def loss(params):
        terms, new = objective.terms(
            jax.random.key(1),
            lambda x: vae.encode(params, x),
            lambda z, x=None: vae.decode(params, z),
            lambda output, x: model.bind(vae, params, x).log_prob(output, x.event),
            Example(x, mask=mask),
            Hyperparams(beta=0.0),
            objective.init(jax.random.key(0)) if state is None else state,
        )
        return jnp.mean(terms.loss), (terms, new)

    (_, (terms, new)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return terms, new, gradient


@pytest.mark.parametrize("relative", [None, "columns"])
def test_the_scale_is_best_for_the_observed_entries(relative):
    """At the best sigma the mean of (error / sigma)^2 over the observed entries is 1, which is all that the nats need."""
    objective, vae, starts = _objective_and_vae(relative)
    mask = MASK.copy()
    mask[3] = False
    hidden = jnp.where(mask, X, 1e4)
    terms, state, _ = _run(objective, vae, hidden, jnp.asarray(mask))
    log_scale = float(terms.extra["log_scale"][0])
    log_scales = np.broadcast_to(log_scale + np.log(starts), mask.shape)
    expected = -np.sum(mask * (0.5 * math.log(2 * math.pi) + log_scales)) - mask.sum() / 2
    assert float(jnp.sum(terms.log_likelihood)) == pytest.approx(expected, rel=1e-5)
    assert float(terms.log_likelihood[3]) == 0.0
    evaluated = objective.evaluation_params({"likelihood": jnp.zeros(1)}, state)["likelihood"]
    assert float(evaluated[0]) == pytest.approx(log_scale, abs=1e-5)
    other, _, _ = _run(objective, vae, jnp.where(mask, X, -7.0), jnp.asarray(mask))
    np.testing.assert_array_equal(other.loss, terms.loss)


def test_the_log_scale_is_half_the_log_of_the_mean_square():
    mean = np.random.default_rng(1).normal(size=X.shape)
    squares = (np.asarray(X, np.float64) - mean) ** 2
    hidden = jnp.where(MASK, X, jnp.nan)
    got, gradient = jax.value_and_grad(optimal_log_scale)(jnp.float32(mean), hidden, mask=jnp.asarray(MASK))
    assert float(got) == pytest.approx(0.5 * math.log(squares[MASK].mean()), rel=1e-5)
    expected = np.where(MASK, mean - np.asarray(X), 0) / squares[MASK].sum()
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)
    everything = optimal_log_scale(jnp.float32(mean), X, mask=jnp.ones(X.shape, bool))
    np.testing.assert_allclose(everything, optimal_log_scale(jnp.float32(mean), X), rtol=1e-6)


def test_a_batch_without_an_observed_entry_is_finite_and_leaves_the_average():
    objective, vae, _ = _objective_and_vae(None)
    _, state, _ = _run(objective, vae, X, jnp.asarray(MASK))
    terms, after, gradient = _run(objective, vae, jnp.zeros_like(X), jnp.zeros(X.shape, bool), state)
    chex.assert_tree_all_finite((terms, after, gradient))
    np.testing.assert_array_equal(terms.log_likelihood, 0.0)
    assert float(terms.extra["log_scale"][0]) == pytest.approx(MIN_LOG_SCALE)
    chex.assert_trees_all_equal(after, state)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0.0), gradient["decoder"])
