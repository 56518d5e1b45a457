"""Priors other than N(0, I): densities, samplers, Monte Carlo KLs against quadrature, and training with them."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from budget import accept, accept_mean
from scipy import integrate, stats

from vae_jax import evaluation, likelihoods, model, networks, posteriors, priors, runs, training
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.objectives import elbo

MEANS, LOG_SCALES, LOGITS = np.array([[-2.0], [1.5]]), np.array([[0.1], [-0.7]]), np.array([0.3, -0.4])


def density(z):
    weights = np.exp(LOGITS) / np.exp(LOGITS).sum()
    return sum(w * stats.norm.pdf(z, m[0], math.exp(s[0])) for w, m, s in zip(weights, MEANS, LOG_SCALES, strict=True))


def mixture(z):
    return priors.gaussian_mixture_log_prob(z, *(jnp.asarray(a, jnp.float32) for a in (LOGITS, MEANS, LOG_SCALES)))


def test_the_monte_carlo_kl_is_that_by_quadrature():
    mean, scale = 0.4, 0.6
    exact, _ = integrate.quad(
        lambda z: stats.norm.pdf(z, mean, scale) * (stats.norm.logpdf(z, mean, scale) - math.log(density(z))), -6, 6
    )
    keys = jax.random.split(jax.random.key(0), 20_000)
    one = lambda key: priors.kl_to_prior(key, jnp.array([mean]), jnp.array([math.log(scale)]), mixture)  # noqa: E731
    accept_mean(np.asarray(jax.jit(jax.vmap(one))(keys), np.float64), exact)


def test_vamp_is_the_mixture_of_its_posteriors():
    encode = lambda u: (2 * u, jnp.full_like(u, -0.3))  # noqa: E731
    inputs, z = jnp.array([[0.2, 1.0], [-0.5, 0.3], [1.0, 1.0]]), jnp.array([0.7, -0.2])
    expected = np.log(np.mean([np.prod(stats.norm.pdf(z, 2 * u, math.exp(-0.3))) for u in np.asarray(inputs)]))
    assert float(priors.vamp_log_prob(z, encode, inputs)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["mixture", "vamp"])
def test_samplers_fit_their_density(name):
    encode = lambda u: (2 * u, -0.5 + 0 * u)  # noqa: E731
    if name == "vamp":
        prior, params = priors.vamp(jnp.zeros((1, 1))), jnp.array([[-1.0], [0.2], [0.9]])
    else:
        prior = priors.gaussian_mixture(1, 2)
        params = {"logits": jnp.asarray(LOGITS), "means": jnp.asarray(MEANS), "log_scales": jnp.asarray(LOG_SCALES)}
    sample = jax.jit(jax.vmap(lambda key: prior.sample(params, encode, key)))
    draws = sample(jax.random.split(jax.random.key(1), 20_000))[:, 0]
    pdf = lambda z: math.exp(float(prior.log_prob(params, encode, jnp.array([z], jnp.float32))))  # noqa: E731
    grid = np.linspace(-9, 9, 721)
    log_prob = jax.jit(jax.vmap(lambda z: prior.log_prob(params, encode, z[None])))
    values = np.exp(np.asarray(log_prob(jnp.asarray(grid, jnp.float32))))
    assert integrate.trapezoid(values, grid) == pytest.approx(1, abs=1e-4)
    assert pdf(0.5) == pytest.approx(values[380], rel=1e-4)
    for power in (1, 2):
        accept_mean(np.asarray(draws, np.float64) ** power, integrate.trapezoid(values * grid**power, grid))


def test_student_t_has_the_density_and_the_samples_of_scipy():
    df = np.array([0.7, 3.0, 1e5])
    prior = priors.student_t(3, 3.0)
    np.testing.assert_allclose(prior.init(jax.random.key(0))["log_df"], math.log(3), rtol=1e-6)
    params = {"log_df": jnp.log(jnp.asarray(df, jnp.float32))}
    z = np.random.default_rng(0).standard_t(2, (50, 3)).astype(np.float32)
    log_prob = jax.jit(jax.vmap(lambda z: prior.log_prob(params, None, z)))
    np.testing.assert_allclose(log_prob(z), stats.t.logpdf(z.astype(np.float64), df).sum(axis=1), rtol=1e-5, atol=1e-5)
    draws = jax.jit(jax.vmap(lambda key: prior.sample(params, None, key)))(jax.random.split(jax.random.key(1), 20_000))
    for j in range(3):
        accept(stats.kstest(np.asarray(draws, np.float64)[:, j], stats.t(df[j]).cdf).pvalue)


def test_with_a_learned_prior_the_elbo_is_still_a_bound_and_exact_at_the_posterior():
    """Prior N(1, 1) as a mixture of one, p(x|z) = N(z, 1): log p(x) = log N(x; 1, 2)."""
    prior = lambda z: priors.gaussian_mixture_log_prob(z, jnp.zeros(1), jnp.ones((1, 1)), jnp.zeros((1, 1)))  # noqa: E731
    encode = lambda x: ((x + 1) / 2, jnp.full_like(x, 0.5 * math.log(0.5)))  # noqa: E731
    log_prob = lambda out, x: likelihoods.gaussian_log_prob(out, 0.0, x)  # noqa: E731
    run = jax.jit(lambda x: elbo(jax.random.key(0), encode, lambda z: z, log_prob, x, num_samples=3, prior_log_prob=prior))
    for x in (-1.0, 0.3, 4.0):
        terms = run(jnp.array([x]))
        assert float(terms.elbo) == pytest.approx(stats.norm(1, math.sqrt(2)).logpdf(x), abs=1e-5)


class Linear(NamedTuple):
    """A linear Gaussian of one vector given another: mean = A h + b, the scale fixed."""

    out: int
    inner: int
    scale: float

    def init(self, key):
        return jax.random.normal(key, (self.out, self.inner + 1))

    def apply(self, params, h):
        return params @ jnp.append(h, 1.0), jnp.full(self.out, math.log(self.scale))


def two_layers(seed=0):
    """(prior, its params): two dimensions under one, with an inference network that is not the posterior."""
    layers = [priors.ConditionalGaussian(layer.init, layer.apply) for layer in (Linear(1, 2, 0.8), Linear(2, 1, 0.6))]
    prior = priors.hierarchical(2, 1, *layers)
    return prior, prior.init(jax.random.key(seed))


def joint_log_prob(params, z1, z2):
    """Log N(z2; 0, 1) p(z1|z2) by SciPy."""
    generate = np.asarray(params["generate"], np.float64)
    return stats.norm.logpdf(z2).sum() + stats.norm.logpdf(z1, generate @ np.append(z2, 1), 0.6).sum()


def test_hierarchical_is_the_joint_density_in_the_noise_of_the_second_layer():
    prior, params = two_layers()
    assert prior.num_auxiliary == 1
    infer, generate = (np.asarray(params[name], np.float64) for name in ("infer", "generate"))
    z1, e = np.array([0.3, -1.1]), np.array([0.7])
    z2 = infer @ np.append(z1, 1) + 0.8 * e
    found = prior.log_prob(params, None, jnp.asarray(np.append(z1, e), jnp.float32))
    assert float(found) == pytest.approx(joint_log_prob(params, z1, z2) + math.log(0.8), rel=1e-5)
    # Without the noise it is the marginal of z1, N(b, a a' + 0.36 I), whatever the inference network.
    grid = np.linspace(-12, 12, 2001)
    points = jnp.asarray(np.column_stack([np.tile(z1, (len(grid), 1)), grid]), jnp.float32)
    values = np.exp(np.asarray(jax.jit(jax.vmap(lambda z: prior.log_prob(params, None, z)))(points), np.float64))
    a, b = generate.T
    marginal = stats.multivariate_normal(b, np.outer(a, a) + 0.36 * np.eye(2)).pdf(z1)
    assert integrate.trapezoid(values, grid) == pytest.approx(marginal, rel=1e-4)


def test_hierarchical_samples_fit_their_density():
    """z2 that the draws stand for is N(0, 1), z1 has the marginal's moments, and E[q / p] = 1 for a q of known mass."""
    prior, params = two_layers()
    a, b = np.asarray(params["generate"], np.float64).T
    sample = jax.jit(jax.vmap(lambda key: prior.sample(params, None, key)))
    draws = sample(jax.random.split(jax.random.key(1), 20_000))
    z = np.asarray(draws, np.float64)
    z2 = z[:, :2] @ np.asarray(params["infer"], np.float64)[0, :2] + float(params["infer"][0, 2]) + 0.8 * z[:, 2]
    accept_mean(z2, 0.0)
    accept_mean(z2**2, 1.0)
    for j in range(2):
        accept_mean(z[:, j], b[j])
        accept_mean((z[:, j] - b[j]) * z2, a[j])
    log_p = np.asarray(jax.jit(jax.vmap(lambda z: prior.log_prob(params, None, z)))(draws), np.float64)
    narrow = stats.multivariate_normal(z.mean(axis=0), np.cov(z.T) / 4)
    accept_mean(np.exp(narrow.logpdf(z) - log_p), 1.0)


def test_two_stochastic_layers_have_the_weights_of_both():
    """Log w = log p(x|z1) p(z1|z2) p(z2) - log q(z1|x) q(z2|z1), and with many samples log p(x) of the linear model."""
    prior, params = two_layers(seed=3)
    encoder = networks.Network(lambda key: jnp.zeros(()), lambda params, x: (0.5 * x, jnp.full(2, math.log(0.9))))
    decoder = networks.Network(lambda key: jnp.zeros(()), lambda params, z: 1.5 * z)
    vae = model.make_vae(encoder, decoder, likelihoods.gaussian(0.7), (2,), prior)
    assert vae.latent_dim == 3
    all_params, x = {**vae.init(jax.random.key(0)), "prior": params}, np.array([0.4, -0.8])
    mean, log_scale = vae.encode(all_params, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(mean, [0.2, -0.4, 0], rtol=1e-6)
    encode, decode = lambda x: (mean, log_scale), lambda z: vae.decode(all_params, z)
    log_prob, prior_log_prob = vae.likelihood.log_prob, model.prior_log_prob(vae, all_params)
    terms = jax.jit(lambda x: elbo(jax.random.key(0), encode, decode, log_prob, x, prior_log_prob=prior_log_prob))(
        jnp.asarray(x, jnp.float32)
    )
    *z1, noise = np.asarray(posteriors.sample_posterior(jax.random.key(0), mean, log_scale), np.float64)
    mean_z2 = np.asarray(params["infer"], np.float64) @ np.append(z1, 1)
    z2 = mean_z2 + 0.8 * noise
    log_q = stats.norm.logpdf(z1, 0.5 * x, 0.9).sum() + stats.norm.logpdf(z2, mean_z2, 0.8).sum()
    log_px_z = stats.norm.logpdf(x, 1.5 * np.array(z1), 0.7).sum()
    assert float(terms.elbo) == pytest.approx(log_px_z + joint_log_prob(params, z1, z2) - log_q, rel=1e-5)
    estimates = jax.jit(lambda key: evaluation.importance_log_px(key, vae, all_params, jnp.tile(x, (200, 1)), num_samples=500))(
        jax.random.key(1)
    )
    a, b = np.asarray(params["generate"], np.float64).T
    covariance = 1.5**2 * (np.outer(a, a) + 0.36 * np.eye(2)) + 0.49 * np.eye(2)
    exact = stats.multivariate_normal(1.5 * b, covariance).pdf(x)
    accept_mean(np.exp(np.asarray(estimates.log_px, np.float64)) / exact, 1.0)


def of_every_leaf(prior, encoder):
    """The gradients of log p(z) of a model's prior with respect to all of its parameters, and the parameters."""
    decoder = networks.Network(lambda key: jnp.zeros(()), lambda params, z: z)
    vae = model.make_vae(encoder, decoder, likelihoods.gaussian(1.0), (2,), prior)

    @jax.jit
    def gradients(key, z):
        params = vae.init(key)
        return params, jax.grad(lambda params: model.prior_log_prob(vae, params)(z))(params)

    return gradients(jax.random.key(0), jnp.array([0.4, -0.7, 0.3][: vae.latent_dim]))


def test_pseudo_inputs_and_the_encoder_learn_from_the_density_of_the_vamp_prior():
    """Against its derivative: sum_k r_k (z - m_k)/s^2 dm_k, with m_k = w u_k and r_k the share of component k at z."""
    inputs, w, s, z = np.array([[0.2, 1.0], [-0.5, 0.3], [1.0, 1.0]]), 2.0, 0.8, np.array([0.4, -0.7])
    encoder = networks.Network(lambda key: jnp.float32(w), lambda w, x: (w * x, jnp.full(2, math.log(s), jnp.float32)))
    params, gradient = of_every_leaf(priors.vamp(inputs), encoder)
    np.testing.assert_allclose(params["prior"], inputs, rtol=1e-6)
    densities = stats.norm.pdf(z, w * inputs, s).prod(axis=1)
    pulls = (densities / densities.sum())[:, None] * (z - w * inputs) / s**2
    np.testing.assert_allclose(gradient["prior"], w * pulls, rtol=1e-4)
    np.testing.assert_allclose(gradient["encoder"], np.sum(pulls * inputs), rtol=1e-4)


@pytest.mark.parametrize("name", ["mixture", "hierarchical"])
def test_every_number_of_a_learned_prior_has_a_gradient(name):
    prior = priors.gaussian_mixture(2, 3) if name == "mixture" else two_layers()[0]
    encoder = networks.Network(lambda key: jnp.zeros(()), lambda params, x: (x, jnp.zeros(2)))
    _, gradient = of_every_leaf(prior, encoder)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient["prior"]):
        assert np.all(np.abs(leaf) > 1e-6), jax.tree_util.keystr(path)


LEARNED = {"mixture": {"prior_components": 5}, "vamp": {"prior_components": 5}}
LEARNED["hierarchical"] = {"prior_latent_dim": 2, "prior_hidden": (8,)}
LEARNED["student_t"] = {}
LEARNED["realnvp"] = {"prior_layers": 3, "prior_hidden": (8,)}


@pytest.mark.slow
@pytest.mark.parametrize("prior", LEARNED)
def test_a_learned_prior_trains_is_evaluated_and_read_back(prior, tmp_path):
    config = Config(
        epochs=8, hidden=(32,), latent_dim=4, batch_size=64, prior=prior, output_bias="train_mean", **LEARNED[prior]
    )
    built = build(config)
    fit, summary = runs.train(built, tmp_path / "run")
    start = built.vae.init(training.run_keys(0).init)["prior"]
    changed = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), start, fit.params["prior"])
    assert all(value > 1e-3 for value in jax.tree.leaves(changed))
    assert fit.progress.history[-1].test.elbo > fit.progress.history[0].test.elbo
    assert summary["test_elbo"] == pytest.approx(summary["test_log_likelihood"] - summary["test_kl"])
    run = runs.load_run(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, run.params, fit.params)
    z = jax.vmap(lambda key: model.sample_prior(built.vae, fit.params, key))(jax.random.split(jax.random.key(0), 3))
    assert z.shape == (3, 6 if prior == "hierarchical" else 4)


def _own(key, encode, decode, log_prob, x, hyperparams): ...


def test_objectives_that_assume_the_normal_prior_refuse_another():
    built = build(Config(epochs=1, hidden=(8,), latent_dim=2, prior="mixture", prior_components=3))
    with pytest.raises(ValueError, match=r"objectives of a batch assume N\(0, I\)"):
        training.make_train_step(built.vae, objective=build(Config(objective="factor_vae")).objective)
    with pytest.raises(ValueError, match=r"with the keyword prior_log_prob, got _own\(key, encode"):
        training.make_train_step(built.vae, objective=_own)
    for changes, message in (
        ({"objective": "capacity", "prior": "vamp"}, '`objective="capacity"` assumes'),
        ({"prior_components": 3}, "`prior_components` belongs to `prior` mixture, vamp or refit"),
        (
            {"prior": "vamp", "prior_hidden": (3,)},
            "`prior_hidden` belongs to `prior` conditional, hierarchical, realnvp or refit",
        ),
        ({"prior": "hierarchical", "prior_hidden": (0,)}, "prior_hidden: expected widths >= 1"),
        ({"prior": "vamp", "prior_components": 10_000}, "at most the 1438 training examples"),
    ):
        with pytest.raises(ValueError, match=message):
            build(dataclasses.replace(Config(), **changes))
