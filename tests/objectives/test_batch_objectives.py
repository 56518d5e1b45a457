"""Objectives of a batch, against direct computation on data so small that the aggregate posterior can be enumerated."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from batch_data import LATENT, X, float32, model_functions, posteriors
from budget import accept_mean

from vae_jax.config import Hyperparams
from vae_jax.divergences import free_bits_per_dimension
from vae_jax.likelihoods import gaussian, gaussian_log_prob
from vae_jax.networks import Network
from vae_jax.objectives import batch as cross_batch
from vae_jax.objectives.batch import BatchObjective, mmd


def test_beta_tc_with_beta_one_is_the_elbo_and_beta_acts_on_the_total_correlation():
    @jax.jit
    def run(beta):
        return cross_batch.beta_tc_elbo(jax.random.key(0), *model_functions(), X, beta=beta, num_examples=20)

    one, four = run(1.0), run(4.0)
    sampled_kl = sum(one.extra.values())
    np.testing.assert_allclose(one.loss, -one.log_likelihood + sampled_kl, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(four.loss - one.loss, 3 * one.extra["total_correlation"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", ["i", "ii"])
def test_dip_is_the_covariance_by_numpy(variant):
    _, mean, log_scale = posteriors(count=9)
    covariance = np.cov(mean.T, bias=True)
    if variant == "ii":
        covariance += np.diag(np.exp(2 * log_scale).mean(axis=0))
    off = covariance[~np.eye(LATENT, dtype=bool)]
    expected = 3.0 * np.sum(off**2) + 7.0 * np.sum((np.diagonal(covariance) - 1) ** 2)
    got = cross_batch.dip_penalty(*float32(mean, log_scale), lambda_od=3.0, lambda_d=7.0, variant=variant)
    assert float(got) == pytest.approx(expected, rel=1e-5)
    swapped = cross_batch.dip_penalty(*float32(mean, log_scale), lambda_od=7.0, lambda_d=3.0, variant=variant)
    assert float(swapped) != pytest.approx(expected, rel=1e-2)
    terms = cross_batch.dip_elbo(jax.random.key(0), *model_functions(), X, lambda_od=3.0, lambda_d=7.0, variant=variant)
    np.testing.assert_allclose(terms.loss, -terms.log_likelihood + terms.kl + terms.extra["dip_penalty"], rtol=1e-6)


@pytest.mark.parametrize("kernel", [cross_batch.gaussian_kernel, cross_batch.inverse_multiquadratic_kernel])
def test_mmd_is_its_double_sum(kernel):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, LATENT)), rng.normal(1, 2, size=(4, LATENT))

    def k(u, v):
        square = np.sum((u - v) ** 2)
        return np.exp(-square / 6) if kernel is cross_batch.gaussian_kernel else 6 / (6 + square)

    within = [np.mean([k(u, v) for i, u in enumerate(s) for j, v in enumerate(s) if i != j]) for s in (a, b)]
    expected = sum(within) - 2 * np.mean([k(u, v) for u in a for v in b])
    assert float(mmd(*float32(a, b), kernel)) == pytest.approx(expected, rel=1e-5)


def test_mmd_is_unbiased():
    """Against its closed form for N(1, I) and N(0, I) and for equal samples, within 5.5 standard errors."""
    for shift in (0.0, 1.0):

        def one(key, shift=shift):
            a, b = jax.random.normal(key, (2, 20, LATENT))
            return mmd(a + shift, b)

        values = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 2000)), np.float64)
        # E k(u, v) for u - v ~ N(m, 2 I) and a kernel of variance s^2 = latent
        factor = (LATENT / (LATENT + 2)) ** (LATENT / 2)
        exact = 2 * factor * (1 - math.exp(-LATENT * shift**2 / (2 * (LATENT + 2))))
        assert abs(values.mean() - exact) < 5.5 * values.std() / math.sqrt(len(values))
    terms = cross_batch.info_elbo(jax.random.key(0), *model_functions(), X, mmd_weight=10.0, beta=0.3)
    np.testing.assert_allclose(terms.loss, -terms.log_likelihood + 0.3 * terms.kl + 10 * terms.extra["mmd"], rtol=1e-5)


def test_free_bits_of_the_batch_mean_are_less_than_those_of_each_example():
    kl = jnp.array([[0.0, 1.0], [1.0, 1.0]])
    assert float(cross_batch.free_bits_batch_mean(kl, 0.6)) == pytest.approx(0.6 + 1.0)
    assert float(jnp.mean(jax.vmap(free_bits_per_dimension, in_axes=(0, None))(kl, 0.6))) == pytest.approx(0.8 + 1.0)
    terms = cross_batch.free_bits_batch_mean_elbo(jax.random.key(0), *model_functions(), X, free_bits=1e6, beta=2.0)
    np.testing.assert_allclose(terms.loss, -terms.log_likelihood + 2 * LATENT * 1e6, rtol=1e-6)


def test_the_optimal_scale_is_the_best_and_its_gradient_needs_no_path_through_it():
    objective = cross_batch.optimal_scale()
    bundle = gaussian("shared")

    @functools.partial(jax.jit, static_argnums=1)
    @jax.value_and_grad
    def with_gradient(gain, stop):
        encode, _, _ = model_functions()
        decode = lambda z: (gain * z, jnp.zeros(1))  # noqa: E731
        state = objective.init(jax.random.key(0))
        terms, _ = objective.terms(jax.random.key(0), encode, decode, bundle.log_prob, X, Hyperparams(beta=2.0), state)
        if not stop:
            return jnp.mean(terms.loss)
        fixed = jax.lax.stop_gradient(terms.extra["log_scale"][0])
        keys = jax.random.split(jax.random.key(0), len(X))

        def one(key, x):
            mean, log_scale = encode(x)
            z = mean + jnp.exp(log_scale) * jax.random.normal(key, (LATENT,))
            return -gaussian_log_prob(gain * z, fixed, x)

        return jnp.mean(jax.vmap(one)(keys, X)) + 2 * jnp.mean(terms.kl)

    through, stopped = (with_gradient(jnp.array(0.7), stop) for stop in (False, True))
    np.testing.assert_allclose(through, stopped, rtol=1e-5)
    encode, _, _ = model_functions()
    state = objective.init(jax.random.key(0))
    decode = lambda z: (0.7 * z, jnp.zeros(1))  # noqa: E731
    terms, state = objective.terms(jax.random.key(0), encode, decode, bundle.log_prob, X, Hyperparams(), state)
    best = float(terms.extra["log_scale"][0])
    # D/2 (log(2 pi sigma^2) + 1) on average, and the average of the moving average is it after one step
    assert float(jnp.mean(terms.log_likelihood)) == pytest.approx(
        -LATENT / 2 * (math.log(2 * math.pi) + 2 * best + 1), rel=1e-5
    )
    params = objective.evaluation_params({"likelihood": jnp.zeros(1)}, state)
    assert float(params["likelihood"][0]) == pytest.approx(best, abs=1e-5)
    untouched = objective.evaluation_params({"likelihood": jnp.ones(1)}, objective.init(jax.random.key(0)))
    assert float(untouched["likelihood"][0]) == 1
    with pytest.raises(ValueError, match=r"gaussian\('shared'\)"):
        objective.terms(jax.random.key(0), *model_functions(), X, Hyperparams(), state)


def test_geco_raises_its_multiplier_while_the_distortion_is_above_the_target():
    objective = cross_batch.geco(step_size=1e-3, max_step=0.01)

    @jax.jit
    def step(key, target, state):
        return objective.terms(key, *model_functions(), X, Hyperparams(target_distortion=target), state)

    def multiplier(target, steps):
        state = objective.init(jax.random.key(0))
        for i in range(steps):
            terms, state = step(jax.random.key(i), target, state)
        return terms, math.exp(float(state.log_multiplier))

    terms, raised = multiplier(-1000.0, 10)
    assert raised == pytest.approx(math.exp(0.1), rel=1e-4)  # the largest step, ten times
    assert multiplier(1000.0, 10)[1] == pytest.approx(math.exp(-0.1), rel=1e-4)
    distortion = -terms.log_likelihood
    np.testing.assert_allclose(terms.loss, terms.kl + terms.extra["multiplier"] * (distortion + 1000.0), rtol=1e-5)
    near = -float(jnp.mean(terms.log_likelihood))
    assert abs(math.log(multiplier(near, 3)[1])) < 3 * 1e-3 * 5  # within a few nats it moves in proportion


def test_the_discriminator_of_factor_vae_finds_the_total_correlation():
    """Codes from a correlated Gaussian, TC = -1/2 log(1 - rho^2); log 2 and 0 where the codes are independent."""

    def quadratic(params, z):  # enough for the log ratio of two Gaussians
        return params["w"] @ jnp.array([z[0] * z[1], z[0] ** 2, z[1] ** 2]) + params["b"]

    network = Network(lambda key: {"w": jnp.zeros(3), "b": jnp.zeros(())}, quadratic)
    objective = cross_batch.factor(network, optax.adam(0.02))
    encode, decode, log_prob = (
        lambda x: (x, jnp.full_like(x, -20.0)),
        lambda z: z,
        lambda out, x: gaussian_log_prob(out, 0.0, x),
    )

    @jax.jit
    def learned(rho):
        factor = jnp.linalg.cholesky(jnp.array([[1.0, rho], [rho, 1.0]]))

        def body(state, key):
            key_x, key_step = jax.random.split(key)
            x = jax.random.normal(key_x, (512, 2)) @ factor.T
            terms, state = objective.terms(key_step, encode, decode, log_prob, x, Hyperparams(gamma=3.0), state)
            return state, (jnp.mean(terms.extra["total_correlation"]), jnp.mean(terms.extra["discriminator_loss"]))

        keys = jax.random.split(jax.random.key(1), 600)
        _, (total_correlation, loss) = jax.lax.scan(body, objective.init(jax.random.key(0)), keys)
        return jnp.mean(total_correlation[-200:]), jnp.mean(loss[-200:])

    for rho in (0.0, 0.8):
        got, loss = map(float, learned(rho))
        assert got == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.06)
        assert (loss == pytest.approx(math.log(2), abs=0.01)) == (rho == 0.0)


def test_gamma_weighs_the_total_correlation_and_codes_do_not_see_the_discriminator():
    network = Network(lambda key: jnp.array([1.0, -0.5, 0.2]), lambda params, z: params @ z)

    class Sgd:
        init = staticmethod(lambda params: ())
        update = staticmethod(lambda gradient, state, params: (-0.1 * gradient, state))

    objective = cross_batch.factor(network, Sgd)

    @jax.jit
    def run(shift):
        encode, decode, log_prob = model_functions()
        moved = lambda x: (x + shift, encode(x)[1])  # noqa: E731
        state = objective.init(jax.random.key(0))
        terms, new = objective.terms(jax.random.key(0), moved, decode, log_prob, X, Hyperparams(gamma=3.0), state)
        return terms, new

    terms, new = run(0.0)
    expected = -terms.log_likelihood + terms.kl + 3 * terms.extra["total_correlation"]
    np.testing.assert_allclose(terms.loss, expected, rtol=1e-6)
    assert not np.allclose(new.params, [1.0, -0.5, 0.2])
    np.testing.assert_array_equal(jax.grad(lambda s: jnp.sum(run(s)[0].extra["discriminator_loss"]))(0.0), 0.0)


def test_permuted_dimensions_keep_their_marginals():
    z = jax.random.normal(jax.random.key(0), (50, LATENT))
    shuffled = cross_batch.permute_dimensions(jax.random.key(1), z)
    np.testing.assert_array_equal(np.sort(shuffled, axis=0), np.sort(z, axis=0))
    assert np.unique(np.argsort(shuffled, axis=0) == np.argsort(z, axis=0)).size == 2


def test_batch_objectives_are_pytrees_of_arrays_and_nothing_else():
    for objective in (cross_batch.geco(), cross_batch.optimal_scale(), cross_batch.stateless(cross_batch.beta_tc_elbo, "beta")):
        assert isinstance(objective, BatchObjective)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(objective.init(jax.random.key(0))))


def test_an_exact_reconstruction_has_the_lowest_scale_and_no_gradient():
    gradient = jax.grad(lambda mean: cross_batch.optimal_log_scale(mean, X, min_log_scale=-6.0))(X)
    assert float(cross_batch.optimal_log_scale(X, X, min_log_scale=-6.0)) == pytest.approx(-6)
    np.testing.assert_array_equal(gradient, 0)


def test_ranks_are_checked():
    with pytest.raises(ValueError, match=r"free_bits_batch_mean: expected the KLs of a batch"):
        cross_batch.free_bits_batch_mean(jnp.ones(3), 0.5)
    with pytest.raises(ValueError, match=r"free_bits_per_dimension: .* use jax.vmap"):
        free_bits_per_dimension(jnp.ones((3, 2)), 0.5)


# What every objective of a batch is, term by term, from the same draws: so that a weight that is dropped or doubled is seen.
WEIGHTS = Hyperparams(beta=3.0, gamma=5.0, lambda_od=2.0, lambda_d=7.0, mmd_weight=11.0, free_bits=0.4, target_distortion=2.0)


def _linear_discriminator():
    network = Network(lambda key: jnp.array([1.0, -0.5, 0.2]), lambda params, z: params @ z)
    return cross_batch.factor(network, optax.sgd(0.1))


OBJECTIVES = {
    "beta_tcvae": (
        lambda: cross_batch.stateless(cross_batch.beta_tc_elbo, "beta", num_examples=20),
        lambda ll, kl, e: -ll + e["mutual_information"] + 3 * e["total_correlation"] + e["dimension_wise_kl"],
    ),
    "dip": (
        lambda: cross_batch.stateless(cross_batch.dip_elbo, "lambda_od", "lambda_d", "beta", variant="i"),
        lambda ll, kl, e: -ll + 3 * kl + e["dip_penalty"],
    ),
    "info": (
        lambda: cross_batch.stateless(cross_batch.info_elbo, "mmd_weight", "beta"),
        lambda ll, kl, e: -ll + 3 * kl + 11 * e["mmd"],
    ),
    "factor": (_linear_discriminator, lambda ll, kl, e: -ll + kl + 5 * e["total_correlation"]),
    "geco": (cross_batch.geco, lambda ll, kl, e: kl + e["multiplier"] * (-ll - 2)),
}


@functools.cache
def terms_of(name):
    objective = OBJECTIVES[name][0]()
    state = objective.init(jax.random.key(1))
    return jax.jit(lambda state: objective.terms(jax.random.key(0), *model_functions(), X, WEIGHTS, state)[0])(state)


def assert_terms(terms, expected):
    np.testing.assert_allclose(terms.loss, expected(terms.log_likelihood, terms.kl, terms.extra), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_each_term_has_its_weight(name):
    assert_terms(terms_of(name), OBJECTIVES[name][1])


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("term", ["log_likelihood", "kl"])
@pytest.mark.parametrize("factor", [-1.0, 0.5, 1 / LATENT])
def test_broken_twins_of_each_objective_fail(name, term, factor):
    """A sign, a half, a mean for a sum, in a term of the loss alone."""
    terms = terms_of(name)
    wrong = {"log_likelihood": -1.0, "kl": 3.0}[term] * (factor - 1) * getattr(terms, term)
    with pytest.raises(AssertionError):
        assert_terms(terms._replace(loss=terms.loss + wrong), OBJECTIVES[name][1])


def test_the_discriminator_compares_the_first_half_with_the_second_shuffled(monkeypatch):
    """Its loss by hand, from the codes that forward draws."""
    objective = _linear_discriminator()
    seen = {}

    def keep(logits_joint, logits_product):
        seen["joint"], seen["product"] = logits_joint, logits_product
        return jnp.mean(logits_joint) + jnp.mean(logits_product)

    monkeypatch.setattr("vae_jax.objectives.batch.factor_vae.discriminator_loss", keep)
    monkeypatch.setattr("vae_jax.objectives.batch.factor_vae.permute_dimensions", lambda key, z: z[::-1])
    monkeypatch.setattr(jax, "value_and_grad", lambda f: lambda params: (f(params), params))
    state = objective.init(jax.random.key(1))
    objective.terms(jax.random.key(0), *model_functions(), X, WEIGHTS, state)
    monkeypatch.undo()
    terms, _ = objective.terms(jax.random.key(0), *model_functions(), X, WEIGHTS, state)
    every = terms.extra["total_correlation"]  # the logits of all codes
    np.testing.assert_allclose(seen["joint"], every[:4], rtol=1e-6)
    np.testing.assert_allclose(seen["product"], every[:3:-1], rtol=1e-6)


def test_the_mmd_is_with_draws_of_the_prior(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        "vae_jax.objectives.batch.dip_info_vae.mmd", lambda a, b, kernel: seen.update(a=a, b=b) or jnp.zeros(())
    )
    many = jnp.zeros((4000, LATENT))
    cross_batch.info_elbo(jax.random.key(0), *model_functions(), many, mmd_weight=1.0)
    accept_mean(np.asarray(seen["b"]), 0.0)
    accept_mean(np.square(np.asarray(seen["b"])), 1.0)
    accept_mean(np.square(np.asarray(seen["a"])), 0.25)  # the codes, of scale 1/2 here
