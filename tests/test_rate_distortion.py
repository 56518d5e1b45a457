"""The linear beta-VAE of fixed sigma, trained, against reverse water-filling: theta = beta sigma^2, unit by unit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax import likelihoods, model, networks, training
from vae_jax.config import Hyperparams
from vae_jax.diagnostics import collapse
from vae_jax.divergences import kl_per_dimension

EIGENVALUES = np.array([6.0, 3.0, 1.5, 0.7, 0.35, 0.1])  # none within a third of a threshold
BETAS = np.array([0.25, 0.5, 1.0, 2.0, 4.0])
STEPS, COUNT = 10_000, 500


def data():
    """Examples whose sample covariance has exactly these eigenvalues, in random directions."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(COUNT, 6))
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / COUNT)).T
    return jnp.asarray((x * np.sqrt(EIGENVALUES)) @ np.linalg.qr(rng.normal(size=(6, 6)))[0].T, jnp.float32)


def train(vae, x, beta):
    """Full batches, Adam with its rate going to 0; beta is traced."""
    schedules = {"learning_rate": optax.cosine_decay_schedule(1.0, STEPS)}
    train_step = training.make_train_step(vae, optimizer=optax.adam, schedules=schedules)
    keys = training.run_keys(0)

    def body(state, key):
        return train_step(state, key, x, Hyperparams(beta=beta, learning_rate=0.02))[0], None

    state = training.init_state(vae, optax.adam, keys.init)
    return jax.lax.scan(body, state, jax.random.split(keys.step, STEPS))[0].params


@pytest.fixture(scope="module")
def trained():
    x = data()
    encoder, decoder = networks.mlp_encoder((6,), 6, hidden=()), networks.mlp_decoder(6, (6,), hidden=())
    vae = model.make_vae(encoder, decoder, likelihoods.gaussian(1.0), (6,))
    params = jax.jit(jax.vmap(lambda beta: train(vae, x, beta)))(jnp.asarray(BETAS, jnp.float32))
    return vae, x, params


@pytest.mark.parametrize("i", range(len(BETAS)), ids=[f"beta {beta:g}" for beta in BETAS])
def test_training_lands_on_the_curve(i, trained):
    vae, x, all_params = trained
    params, theta = jax.tree.map(lambda leaf: leaf[i], all_params), BETAS[i]
    mean, log_scale = (np.asarray(a, np.float64) for a in jax.vmap(lambda x: vae.encode(params, x))(x))
    kl = np.asarray(jax.vmap(kl_per_dimension)(jnp.asarray(mean), jnp.asarray(log_scale)), np.float64).mean(axis=0)
    weights = np.asarray(jax.jacobian(lambda z: vae.decode(params, z))(jnp.zeros(6)), np.float64)
    residual = np.asarray(x) - mean @ weights.T - np.asarray(vae.decode(params, jnp.zeros(6)))
    # E |x - decode(z)|^2 over q, in closed form because the decoder is linear
    error = np.mean(np.sum(residual**2, axis=1) + np.exp(2 * log_scale) @ np.sum(weights**2, axis=0))
    units = np.maximum(0, 0.5 * np.log(EIGENVALUES / theta))
    assert kl.sum() == pytest.approx(units.sum(), abs=1e-2)  # rate, nats
    assert error / 2 == pytest.approx(np.minimum(theta, EIGENVALUES).sum() / 2, abs=1e-2)  # distortion but for its constant
    np.testing.assert_allclose(np.sort(kl)[::-1], units, atol=1e-2)
    # Collapsed are those units with an eigenvalue below theta, and no others.
    assert np.sum(kl < 1e-2) == np.sum(theta >= EIGENVALUES)
    collapsed = collapse(jnp.asarray(mean), jnp.asarray(log_scale)).collapsed
    assert np.flatnonzero(collapsed).tolist() == np.flatnonzero(kl < 1e-2).tolist()
    if theta == 1:  # the ELBO of the optimum is the log-likelihood of the model's marginal, so sigma^2 = 1 leaves no gap
        covariance = weights @ weights.T + np.eye(6)
        sign, log_det = np.linalg.slogdet(2 * np.pi * covariance)
        log_px = -0.5 * (log_det + np.mean(np.sum(np.asarray(x) @ np.linalg.inv(covariance) * np.asarray(x), axis=1)))
        elbo = -0.5 * (6 * np.log(2 * np.pi) + error) - kl.sum()
        assert (sign, elbo) == (1, pytest.approx(log_px, abs=1e-2))
