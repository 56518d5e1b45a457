"""Posteriors other than the diagonal one beside p(z|c), a mixture and a second stochastic layer, against densities by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import posterior_checks as checks
import pytest
from scipy import stats

from vae_jax import likelihoods, model, networks, objectives, posteriors, priors
from vae_jax.divergences import kl_full_gaussians
from vae_jax.example import Example

SIZE, LATENT, DIM, DEEPER = 4, 2, 3, 2
KEY = jax.random.key(4)
X = jnp.asarray(np.random.default_rng(0).normal(size=SIZE), jnp.float32)
C = jnp.array([0.3, -1.0, 0.5])


def encoder(posterior, condition_dim=0):
    made = networks.mlp_encoder(
        (SIZE,), LATENT, hidden=(3,), num_extra=posterior.num_extra, condition_dim=condition_dim, activation="tanh"
    )
    start = made.init

    def init(key):  # far from a diagonal posterior
        return jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.fold_in(key, 9), leaf.shape), start(key))

    return made._replace(init=init)


def make(posterior, prior, condition_dim=0):
    decoder = networks.mlp_decoder(LATENT, (SIZE,), hidden=(3,), condition_dim=condition_dim)
    parts = encoder(posterior, condition_dim), decoder, likelihoods.gaussian(0.7), (SIZE,), prior
    vae = model.make_vae(*parts, condition_dim=condition_dim, posterior=posterior)
    return vae, vae.init(KEY)


def gaussian_network(inputs, outputs):
    return priors.ConditionalGaussian(*networks.mlp_encoder((inputs,), outputs, hidden=(3,), activation="tanh"))


def test_a_full_posterior_is_whitened_by_the_prior_of_the_condition():
    """KL and densities are those of N(m_q, L L') and N(m(c), s(c)^2) before whitening."""
    given = gaussian_network(DIM, LATENT)
    posterior = posteriors.full(LATENT)
    vae, params = make(posterior, given, DIM)
    params["prior"] = checks.jittered(params["prior"])
    example = Example(X, C)
    mean, log_scale, extra = encoder(posterior, DIM).apply(params["encoder"], X, C)
    prior_mean, prior_log_scale = given.apply(params["prior"], C)
    cholesky = posteriors.full_cholesky(log_scale, extra)
    expected = kl_full_gaussians(mean, cholesky, prior_mean, jnp.diag(jnp.exp(prior_log_scale)))
    q = model.posterior_params(vae, params, example)
    np.testing.assert_allclose(posterior.kl_to_standard_normal(q), expected, rtol=1e-5)

    u, log_q = posterior.sample_and_log_prob(KEY, q)
    z = prior_mean + jnp.exp(prior_log_scale) * u
    covariance = np.asarray(cholesky, np.float64) @ np.asarray(cholesky, np.float64).T
    log_q_z = stats.multivariate_normal(mean, covariance).logpdf(z)
    np.testing.assert_allclose(log_q, log_q_z + np.sum(prior_log_scale), rtol=1e-5)  # density of u = (z - m) / s
    by_hand = networks.mlp_decoder(LATENT, (SIZE,), hidden=(3,), condition_dim=DIM).apply(params["decoder"], z, C)
    np.testing.assert_allclose(vae.decode(params, u, C), by_hand, rtol=1e-5)
    moments = model.posterior_moments(vae, params, example)
    scale = np.sqrt(np.diag(covariance)) / np.exp(prior_log_scale)
    np.testing.assert_allclose(np.exp(moments[1]), scale, rtol=1e-5)


def two_layers(params, infer, generate, z):
    """The log-weight log p(z1, z2) - log q(z2|z1) of the upper layer, by SciPy."""
    z1, noise = np.split(np.asarray(z), [LATENT])
    mean, log_scale = infer.apply(params["infer"], np.float32(z1))
    z2 = mean + np.exp(log_scale) * noise
    below, below_log_scale = generate.apply(params["generate"], np.float32(z2))
    log_p = stats.norm.logpdf(z2).sum() + stats.norm.logpdf(z1, below, np.exp(below_log_scale)).sum()
    return log_p - stats.norm.logpdf(z2, mean, np.exp(log_scale)).sum()


@pytest.mark.parametrize("name", ["full", "householder", "planar", "iaf"])
def test_the_weight_of_a_draw_under_two_layers_is_that_of_both_layers(name):
    infer, generate = gaussian_network(LATENT, DEEPER), gaussian_network(DEEPER, LATENT)
    posterior = checks.MADE[name]
    vae, params = make(posterior, priors.hierarchical(LATENT, DEEPER, infer, generate))
    assert vae.latent_dim == LATENT + DEEPER
    bound = model.bind(vae, params, X)
    q = bound.encode(X)
    draw = objectives.draw(KEY, q, bound.decode, bound.log_prob, X, **bound.keywords)
    z = bound.posterior.sample(KEY, q)
    z1, log_q = posterior.sample_and_log_prob(KEY, q)
    np.testing.assert_array_equal(z[:LATENT], z1)
    expected = two_layers(params["prior"], infer, generate, z) - log_q
    np.testing.assert_allclose(-draw.log_ratio, expected, rtol=1e-4, atol=1e-5)
    log_likelihood = stats.norm.logpdf(X, vae.decode(params, z), 0.7).sum()
    np.testing.assert_allclose(draw.log_likelihood, log_likelihood, rtol=1e-5)


def test_the_kl_to_a_mixture_is_the_mean_of_the_draws():
    prior = priors.gaussian_mixture(LATENT, 3)
    posterior = checks.MADE["full"]
    vae, params = make(posterior, prior)
    bound = model.bind(vae, params, X)
    functions = bound.encode, bound.decode, bound.log_prob, X
    terms = jax.jit(lambda: objectives.elbo(KEY, *functions, num_samples=4, **bound.keywords))()
    q = bound.encode(X)
    z, log_q = jax.vmap(posterior.sample_and_log_prob, in_axes=(0, None))(jax.random.split(KEY, 4), q)
    p = params["prior"]
    weights = np.exp(p["logits"]) / np.exp(p["logits"]).sum()
    densities = np.exp(stats.norm.logpdf(z[:, None], p["means"], np.exp(p["log_scales"])).sum(-1))
    np.testing.assert_allclose(terms.kl, np.mean(log_q - np.log(densities @ weights)), rtol=1e-4)
    np.testing.assert_allclose(terms.loss, terms.kl - terms.log_likelihood, rtol=1e-6)
