"""Averages that objectives keep from step to step: right from the first step on, by NumPy from the same terms."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax.config import Hyperparams
from vae_jax.likelihoods import gaussian, gaussian_log_prob
from vae_jax.objectives import batch as cross_batch

X = jnp.asarray(np.random.default_rng(5).normal(size=(8, 3)), jnp.float32)
STEPS = 4


def encode(x):
    return x, jnp.full_like(x, math.log(0.5))


def steps_of(objective, decode, log_prob, hyperparams):
    """The terms of each of several steps, the state after each, and the log-likelihoods."""

    @jax.jit
    def step(state, i):
        terms, state = objective.terms(
            jax.random.fold_in(jax.random.key(0), i), encode, decode, log_prob, X, hyperparams, state
        )
        return state, (terms, state)

    _, (terms, states) = jax.lax.scan(step, objective.init(jax.random.key(0)), jnp.arange(STEPS))
    return terms, states


def test_gecos_average_starts_at_the_first_violation():
    """Not at zero, from which with a decay of 0.9 it would be a tenth of it."""
    decay, step_size, target = 0.9, 1e-3, 2.0
    objective = cross_batch.geco(step_size=step_size, max_step=10.0, decay=decay)
    log_prob = lambda output, x: gaussian_log_prob(output, 0.0, x)  # noqa: E731
    terms, states = steps_of(objective, lambda z: 2 * z, log_prob, Hyperparams(target_distortion=target))
    violations = -np.asarray(terms.log_likelihood, np.float64).mean(axis=1) - target
    average, log_multiplier = violations[0], 0.0
    for i, violation in enumerate(violations):
        np.testing.assert_allclose(terms.extra["multiplier"][i], math.exp(log_multiplier), rtol=1e-5)  # of the step before
        average = decay * average + (1 - decay) * violation
        log_multiplier += step_size * average
        np.testing.assert_allclose(states.log_multiplier[i], log_multiplier, rtol=1e-4)
    assert abs(violations[0]) > 1


def test_gecos_largest_step_bounds_the_change_and_not_the_average():
    decay, largest = 0.9, 1e-4
    objective = cross_batch.geco(step_size=1e-3, max_step=largest, decay=decay)
    log_prob = lambda output, x: gaussian_log_prob(output, 0.0, x)  # noqa: E731
    _, states = steps_of(objective, lambda z: 2 * z, log_prob, Hyperparams(target_distortion=-1000.0))
    np.testing.assert_allclose(states.log_multiplier, largest * np.arange(1, STEPS + 1), rtol=1e-5)
    assert np.all(np.asarray(states.violation) > 1000)


def test_the_optimal_scale_is_evaluated_at_the_average_of_its_squares():
    """Weights decay^age that add up to one, after every step."""
    decay = 0.7
    objective = cross_batch.optimal_scale(decay=decay)
    terms, states = steps_of(objective, lambda z: (2 * z, jnp.zeros(1)), gaussian("shared").log_prob, Hyperparams())
    squares = np.exp(2 * np.asarray(terms.extra["log_scale"], np.float64)[:, 0])
    assert np.ptp(squares) > 0.01 * squares.mean()
    for i in range(STEPS):
        weights = decay ** np.arange(i, -1, -1)
        expected = 0.5 * math.log(weights @ squares[: i + 1] / weights.sum())
        state = jax.tree.map(lambda leaf, i=i: leaf[i], states)
        found = objective.evaluation_params({"likelihood": jnp.zeros(1)}, state)["likelihood"]
        np.testing.assert_allclose(found, [expected], atol=1e-5)
