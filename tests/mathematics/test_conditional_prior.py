"""p(z|c) as whitened codes: KL, bounds and gradients are those of a model that is written with an explicit p(z|c)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from budget import accept_mean
from jax.test_util import check_grads

from vae_jax import likelihoods, model, networks, posteriors, priors
from vae_jax.divergences import kl_diagonal_gaussians, kl_to_standard_normal
from vae_jax.example import Example
from vae_jax.objectives import elbo, iwae

SIZE, LATENT, DIM = 4, 3, 2


def affine(inputs, outputs):
    """A network of one affine layer in the precision of its parameters, with a nonlinearity before it."""

    def init(key):
        return {"a": 0.5 * jax.random.normal(key, (outputs, inputs)), "b": jnp.linspace(-0.3, 0.4, outputs)}

    return networks.Network(init, lambda params, *h: params["a"] @ jnp.tanh(jnp.concatenate(h)) + params["b"])


def gaussian_head(network, size):
    return networks.Network(network.init, lambda params, *h: tuple(jnp.split(network.apply(params, *h), [size])))


ENCODER = gaussian_head(affine(SIZE + DIM, 2 * LATENT), LATENT)
DECODER = affine(LATENT + DIM, SIZE)
GIVEN = priors.ConditionalGaussian(*gaussian_head(affine(DIM, 2 * LATENT), LATENT))


def make():
    vae = model.make_vae(ENCODER, DECODER, likelihoods.gaussian(0.7), (SIZE,), GIVEN, condition_dim=DIM)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), vae.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    return vae, params, jnp.asarray(rng.normal(size=SIZE)), jnp.asarray(rng.normal(size=DIM))


class Explicit:
    """The same model by hand: codes are z, and p(z|c) is a density."""

    def __init__(self, params, c):
        self.encode = lambda x: ENCODER.apply(params["encoder"], x, c)
        self.decode = lambda z: DECODER.apply(params["decoder"], z, c)
        self.prior = GIVEN.apply(params["prior"], c)
        self.prior_log_prob = lambda z: posteriors.posterior_log_prob(*self.prior, z)


def test_the_kl_is_that_of_the_gaussians_before_whitening(x64):
    vae, params, x, c = make()
    explicit = Explicit(params, c)
    whitened = vae.encode(params, Example(x, c))
    assert whitened[0].dtype == jnp.float64
    expected = float(kl_diagonal_gaussians(*explicit.encode(x), *explicit.prior))
    assert float(kl_to_standard_normal(*whitened)) == pytest.approx(expected, rel=1e-12)
    (mean, log_scale), (prior_mean, prior_log_scale) = explicit.encode(x), explicit.prior
    wrong = {  # what a mistake in whitening would give
        "the scale is not whitened": ((mean - prior_mean) * jnp.exp(-prior_log_scale), log_scale),
        "the mean is not scaled": (mean - prior_mean, log_scale - prior_log_scale),
        "a log-variance": ((mean - prior_mean) * jnp.exp(-0.5 * prior_log_scale), log_scale - 0.5 * prior_log_scale),
        "nothing": (mean, log_scale),
    }
    for name, posterior in wrong.items():
        assert abs(float(kl_to_standard_normal(*posterior)) - expected) > 1e-3, name


def test_decode_undoes_the_whitening(x64):
    vae, params, x, c = make()
    explicit = Explicit(params, c)
    mean, log_scale = vae.encode(params, Example(x, c))
    noise = jnp.array([0.3, -1.2, 2.0])
    z_mean, z_log_scale = explicit.encode(x)
    z = z_mean + jnp.exp(z_log_scale) * noise
    got = vae.decode(params, mean + jnp.exp(log_scale) * noise, c)
    np.testing.assert_allclose(got, explicit.decode(z), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("num_samples", [1, 5])
def test_elbo_and_iwae_are_those_of_the_explicit_model_with_the_same_keys(x64, num_samples):
    vae, params, x, c = make()
    explicit, bound, log_prob = Explicit(params, c), model.bind(vae, params, Example(x, c)), vae.likelihood.log_prob
    assert bound.prior_log_prob is None
    for seed in range(3):
        key = jax.random.key(seed)
        terms = elbo(key, bound.encode, bound.decode, bound.log_prob, bound.x, num_samples=num_samples)
        by_hand = elbo(key, explicit.encode, explicit.decode, log_prob, x, num_samples=num_samples)
        np.testing.assert_allclose(terms.log_likelihood, by_hand.log_likelihood, rtol=1e-12)
        expected = by_hand.log_likelihood - kl_diagonal_gaussians(*explicit.encode(x), *explicit.prior)
        np.testing.assert_allclose(terms.elbo, expected, rtol=1e-12)
        for estimator in ("reparam", "stl", "dreg"):
            options = {"num_samples": num_samples, "estimator": estimator}
            weighted = iwae(key, bound.encode, bound.decode, bound.log_prob, bound.x, **options)
            explicit_prior = {"prior_log_prob": explicit.prior_log_prob}
            expected = iwae(key, explicit.encode, explicit.decode, log_prob, x, **options, **explicit_prior)
            np.testing.assert_allclose(weighted.loss, expected.loss, rtol=1e-12)


def test_gradients_reach_every_parameter_and_are_those_by_finite_differences(x64):
    vae, params, x, c = make()

    def loss(params):
        bound = model.bind(vae, params, Example(x, c))
        return elbo(jax.random.key(0), bound.encode, bound.decode, bound.log_prob, bound.x).loss

    check_grads(jax.jit(loss), (params,), order=1, modes=["rev"], atol=1e-6, rtol=1e-6, eps=1e-5)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(jax.grad(loss)(params)["prior"]))


def test_codes_from_the_prior_are_draws_of_p_of_z_given_c():
    """The decoder returns z. Five p-values: two moments of two dimensions, and a product."""
    identity = networks.Network(lambda key: {}, lambda params, z, c: z)
    encoder = gaussian_head(affine(LATENT + DIM, 2 * LATENT), LATENT)
    vae = model.make_vae(encoder, identity, likelihoods.gaussian(1.0), (LATENT,), GIVEN, condition_dim=DIM)
    params, c = vae.init(jax.random.key(0)), jnp.array([0.7, -1.1])
    draw = jax.jit(jax.vmap(lambda key: vae.decode(params, model.sample_prior(vae, params, key), c)))
    z = np.asarray(draw(jax.random.split(jax.random.key(1), 20_000)), np.float64)
    mean, log_scale = (np.asarray(part, np.float64) for part in GIVEN.apply(params["prior"], c))
    for j in range(2):
        accept_mean(z[:, j], mean[j], slack=1e-6)
        accept_mean((z[:, j] - mean[j]) ** 2, np.exp(2 * log_scale[j]), slack=1e-6)
    accept_mean((z[:, 0] - mean[0]) * (z[:, 1] - mean[1]), 0.0, slack=1e-6)
