"""A linear-Gaussian model whose posterior is correlated: the ELBO of the full posterior is log p(x), that of others is not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from vae_jax import likelihoods, model, networks, objectives, posteriors, training
from vae_jax.config import Hyperparams

SIZE, LATENT, SIGMA, EXAMPLES, STEPS = 4, 3, 0.6, 64, 4000
_rng = np.random.default_rng(0)
MATRIX = _rng.normal(size=(SIZE, LATENT)) @ np.array([[1.0, 0.9, 0.7], [0, 0.4, 0.5], [0, 0, 0.4]])
PRECISION = np.eye(LATENT) + MATRIX.T @ MATRIX / SIGMA**2  # of p(z|x), the same for all x
COVARIANCE = np.linalg.inv(PRECISION)
X = _rng.normal(size=(EXAMPLES, LATENT)) @ MATRIX.T + SIGMA * _rng.normal(size=(EXAMPLES, SIZE))
MEANS = X @ MATRIX @ COVARIANCE / SIGMA**2
LOG_PX = stats.multivariate_normal(np.zeros(SIZE), MATRIX @ MATRIX.T + SIGMA**2 * np.eye(SIZE)).logpdf(X)
# The best diagonal q has the diagonal of the precision; KL(q || p) = 1/2 (sum log diag(P) - log det P).
SHORTFALL = 0.5 * (np.sum(np.log(np.diag(PRECISION))) - np.linalg.slogdet(PRECISION)[1])


def make(posterior):
    num_extra = posterior.num_extra if posterior else 0
    start = {"weights": jnp.zeros((LATENT, SIZE)), "log_scale": jnp.zeros(LATENT), "extra": jnp.zeros(num_extra)}

    def encode(params, x):  # the exact q has a mean linear in x, and a covariance that does not depend on x
        outputs = params["weights"] @ x, params["log_scale"], params["extra"]
        return outputs if num_extra else outputs[:2]

    encoder, matrix = networks.Network(lambda key: start, encode), jnp.asarray(MATRIX, jnp.float32)
    decoder = networks.Network(lambda key: jnp.zeros(()), lambda params, z: matrix @ z)
    return model.make_vae(encoder, decoder, likelihoods.gaussian(SIGMA), (SIZE,), posterior=posterior)


def trained(vae, objective):
    """The parameters after full-batch steps whose learning rate falls to 0."""
    decay = optax.cosine_decay_schedule(1.0, STEPS)
    step = training.make_train_step(vae, objective=objective, schedules={"learning_rate": decay})
    params, x = vae.init(jax.random.key(0)), jnp.asarray(X, jnp.float32)
    state = training.TrainState(jnp.int32(0), params, optax.adam(0.0).init(params))
    numbers = Hyperparams(beta=1.0, learning_rate=0.03)

    def one(state, key):
        state, _ = step(state, key, x, numbers)
        return state, None

    run = jax.jit(lambda state: jax.lax.scan(one, state, jax.random.split(jax.random.key(1), STEPS))[0])
    return run(state).params


def kl_to_the_exact_posterior(mean, factor, exact_mean):
    """KL(N(mean, factor factor') || p(z|x)) by dense algebra."""
    covariance, distance = factor @ factor.T, mean - exact_mean
    quadratic = np.trace(PRECISION @ covariance) + distance @ PRECISION @ distance - LATENT
    return 0.5 * (quadratic - np.linalg.slogdet(PRECISION @ covariance)[1])


def mean_gap(vae, params):
    """The gap log p(x) - ELBO, which is KL(q(z|x) || p(z|x)), as a mean over the examples."""
    outputs = jax.jit(jax.vmap(vae.encode, in_axes=(None, 0)))(params, jnp.asarray(X, jnp.float32))
    gaps = []
    for exact_mean, mean, log_scale, *extra in zip(MEANS, *(np.asarray(o, np.float64) for o in outputs), strict=True):
        factor = np.eye(LATENT)
        factor[np.tril_indices(LATENT, -1)] = extra[0] if extra else 0
        gaps.append(kl_to_the_exact_posterior(mean, np.exp(log_scale)[:, None] * factor, exact_mean))
    return np.mean(gaps)


def test_full_reaches_log_px_and_diagonal_stays_short_by_the_exact_amount():
    assert SHORTFALL > 0.5
    vae = make(posteriors.full(LATENT))
    params = trained(vae, objectives.beta_elbo(estimator="stl"))
    assert abs(mean_gap(vae, params)) < 1e-4

    @jax.jit
    @jax.vmap
    def bound(key, x):
        bound_model = model.bind(vae, params, x)
        functions = bound_model.encode, bound_model.decode, bound_model.log_prob, x
        return -objectives.elbo(key, *functions, estimator="stl", **bound_model.keywords).loss

    # With the exact posterior every draw has the weight p(x), so a single draw for each example is enough.
    bounds = bound(jax.random.split(jax.random.key(5), EXAMPLES), jnp.asarray(X, jnp.float32))
    np.testing.assert_allclose(bounds, LOG_PX, rtol=1e-5, atol=1e-4)

    diagonal = make(None)
    params = trained(diagonal, objectives.beta_elbo(num_samples=16))
    assert mean_gap(diagonal, params) == pytest.approx(SHORTFALL, abs=1e-4)


def test_the_gradient_of_stl_vanishes_at_the_exact_posterior():
    posterior, vae = posteriors.full(LATENT), make(posteriors.full(LATENT))
    factor = np.linalg.cholesky(COVARIANCE)
    below = (factor / np.diag(factor)[:, None])[np.tril_indices(LATENT, -1)]
    x = jnp.asarray(X[0], jnp.float32)
    q = tuple(jnp.asarray(a, jnp.float32) for a in (MEANS[0], np.log(np.diag(factor)), below))

    def loss(q, key, estimator):
        bound_model = model.bind(vae, vae.init(jax.random.key(0)), x)
        functions = (lambda x: q), bound_model.decode, bound_model.log_prob, x
        return objectives.elbo(key, *functions, estimator=estimator, posterior=posterior).loss

    gradients = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0, None)), static_argnums=2)
    keys = jax.random.split(jax.random.key(2), 20)
    for leaf in gradients(q, keys, "stl"):
        np.testing.assert_allclose(leaf, 0, atol=2e-4)  # terms of about 10 cancel
    assert all(float(jnp.std(leaf)) > 0.1 for leaf in gradients(q, keys, "reparam"))
