"""Bounds and estimates of log p(x|c) and log p(x_observed) on linear-Gaussian models, where both are exact.

The exact values come from dense linear algebra in float64 and share no code with the package. Statistical comparisons go
through `budget.accept`: none fails on correct code but with the probability stated there.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from annealed_models import PRIOR_FIRST
from budget import accept, accept_mean
from conditional_models import LATENT, OFF, Linear
from scipy import stats

from vae_jax import objectives
from vae_jax.divergences import kl_to_standard_normal
from vae_jax.evaluation import GapSettings, ais_dataset, evaluate, gaps_dataset, importance_log_px, log_px_means
from vae_jax.evaluation.annealed_importance import bdmc, bdmc_simulated
from vae_jax.evaluation.annealing import Annealing
from vae_jax.model import bind

KINDS = {
    "conditional": {},
    "conditional, full loadings": {"rotated": True},
    "conditional prior": {"learned_prior": True},
    "conditional prior, full loadings": {"learned_prior": True, "rotated": True},
    "masked": {"conditional": False, "masked": True},
    "conditional and masked": {"masked": True},
    "conditional prior and masked": {"learned_prior": True, "masked": True},
}
EVERYTHING = "conditional prior and masked"  # a broken part of any kind is seen there
EACH = [pytest.param(kind, marks=() if kind == EVERYTHING else pytest.mark.slow) for kind in KINDS]


def exact_elbo(vae, params, x):
    """E_q[log p(x|z)] - KL without noise: E of a quadratic function is its mean over 2 L points at mean +- sqrt(L) scale."""
    model = bind(vae, params, x)
    mean, log_scale = model.encode(model.x)
    steps = LATENT**0.5 * jnp.diag(jnp.exp(log_scale))
    points = jnp.concatenate([mean + steps, mean - steps])
    log_likelihood = jnp.mean(jax.vmap(lambda z: model.log_prob(model.decode(z), model.x))(points))
    return log_likelihood - kl_to_standard_normal(mean, log_scale)


@pytest.mark.parametrize("kind", KINDS)
def test_the_elbo_of_the_exact_posterior_is_log_px(kind, x64):
    model = Linear(**KINDS[kind])
    batch, _, log_px = model.draw(40)
    elbo = jax.jit(jax.vmap(lambda x: exact_elbo(model.vae, model.params, x)))
    np.testing.assert_allclose(elbo(batch), log_px, atol=1e-8, rtol=0)  # asked for are 1e-5
    assert np.ptp(log_px) > 1  # otherwise a constant would pass
    # The bound is not tight for a posterior that is a little off, nor for a different condition or mask.
    off = Linear(**KINDS[kind], **OFF)
    assert np.all(jax.jit(jax.vmap(lambda x: exact_elbo(off.vae, off.params, x)))(batch) < log_px - 0.05)
    for name in ("condition", "mask"):
        if (array := getattr(batch, name)) is not None:
            moved = dataclasses.replace(batch, **{name: jnp.roll(array, 1, axis=0)})
            assert np.mean(np.abs(elbo(moved) - log_px) > 1e-2) > 0.9  # neighbors may observe the same entries


def without_log_scale(prior, mean, log_scale):
    return (mean - prior[0]) * jnp.exp(-prior[1]), log_scale


def without_the_scale_of_the_mean(prior, mean, log_scale):
    return mean - prior[0], log_scale - prior[1]


BROKEN = {
    "log_scale of u": ("_whiten", without_log_scale),
    "mean of u": ("_whiten", without_the_scale_of_the_mean),
    "mask of log p(x|z)": ("observed_log_prob", lambda likelihood, output, x, mask: likelihood.log_prob(output, x)),
    "mask of the encoder": (
        "masked_event",
        lambda x, mask_input, likelihood: jnp.concatenate([x.event, jnp.ones_like(x.event)]),
    ),
    "condition of the decoder": ("decode_given", lambda vae, params, z, c: vae.decode(params, z, jnp.zeros_like(c))),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_copy_is_noticed(broken, x64, monkeypatch):
    model = Linear(**KINDS[EVERYTHING])
    batch, _, log_px = model.draw(40)
    name, function = BROKEN[broken]
    monkeypatch.setattr(sys.modules["vae_jax.model.vae"], name, function)
    elbo = jax.jit(jax.vmap(lambda x: exact_elbo(model.vae, model.params, x)))(batch)
    assert np.mean(np.abs(elbo - log_px) > 1e-2) > 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_the_elbo_is_exact_in_float32(kind):
    """To 1e-5 nats, as far as float32 has them: the terms add up to 30 nats, and each sum rounds a few times."""
    model = Linear(**KINDS[kind])
    batch, _, log_px = model.draw(40)
    batch = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if leaf.dtype != bool else leaf, batch)
    got = jax.jit(jax.vmap(lambda x: exact_elbo(model.vae, model.params, x)))(batch)
    np.testing.assert_allclose(got, log_px, rtol=64 * np.finfo(np.float32).eps, atol=1e-5)


@pytest.mark.parametrize("kind", EACH)
def test_every_objective_and_estimate_is_log_px_at_the_exact_posterior(kind, x64):
    """Each log weight is then log p(x), so nothing depends on the draws."""
    model = Linear(**KINDS[kind])
    batch, codes, log_px = model.draw(12)
    key, params = jax.random.key(0), model.params
    settings = Annealing(num_temperatures=4, num_chains=3, num_adaptation=20)

    @jax.jit
    def estimates(batch, codes):
        def one(key, x, z):
            bound = bind(model.vae, params, x)
            iwae = objectives.iwae(key, bound.encode, bound.decode, bound.log_prob, bound.x, num_samples=3)
            return -iwae.loss, *(side.log_px for side in bdmc(key, model.vae, params, x, z, settings))

        iwae, lower, upper = jax.vmap(one)(jax.random.split(key, len(batch)), batch, codes)
        importance = importance_log_px(key, model.vae, params, batch, num_samples=30)
        annealed = ais_dataset(key, model.vae, params, batch, settings, batch_size=5)
        return iwae, lower, upper, importance.log_px, annealed.log_px, importance.standard_error, annealed.standard_error

    *values, error, annealed_error = estimates(batch, codes)
    for got in values:
        np.testing.assert_allclose(got, log_px, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(error, 0, atol=1e-7)
    np.testing.assert_allclose(annealed_error, 0, atol=1e-7)


@pytest.mark.parametrize("kind", EACH)
def test_estimates_of_an_imperfect_encoder_are_within_their_errors(kind):
    model = Linear(**KINDS[kind], **OFF)
    batch, _, log_px = model.draw(400)
    batch = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if leaf.dtype != bool else leaf, batch)

    @jax.jit
    def estimates(key, batch):
        return importance_log_px(key, model.vae, model.params, batch, num_samples=400), evaluate(
            key, model.vae, model.params, batch
        )

    estimates, evaluation = jax.device_get(estimates(jax.random.key(0), batch))
    # Weights are unbiased, whatever the encoder; the errors are those over the draws.
    relative = np.expm1(np.asarray(estimates.log_px, np.float64) - log_px)
    accept_mean(relative, 0.0, slack=1e-5)
    means = log_px_means(estimates, 400)
    error = (abs(means.log_px - log_px.mean()) - 2 * means.bias) / means.monte_carlo_error
    accept(2 * stats.norm.sf(max(error, 0.0)))
    low, high = means.interval
    assert low - 3 * means.monte_carlo_error < log_px.mean() < high + 3 * means.monte_carlo_error  # six errors in all
    assert np.isfinite(high)
    assert 0 < means.monte_carlo_error < 0.01
    # The ELBO of this encoder is below log p(x) by its KL from the posterior, which is known: 3 dimensions that are all off.
    elbo = np.asarray(evaluation.log_likelihood, np.float64) - np.asarray(evaluation.kl, np.float64)
    accept_mean(elbo, np.mean(log_px - kl_of_encoder(model, batch)), deviation=np.std(elbo - log_px))


def kl_of_encoder(model, batch):
    """KL(q || p(z|x)) of Gaussians, in nats for each example, from the posterior's standard deviations."""
    shift, log_factor = model.off
    prior_scale = np.exp(np.asarray(batch.condition, np.float64) @ model.prior_scales.T) if model.conditional else 1.0
    observed = np.ones(batch.shape) if batch.mask is None else np.asarray(batch.mask)
    precision = observed @ np.square(model.weights) / model.sigma**2 + 1 / np.square(prior_scale)
    ratio = np.exp(2 * log_factor)
    return 0.5 * np.sum(ratio - 1 - 2 * log_factor + shift**2 * precision, axis=1)


@pytest.mark.parametrize("start", PRIOR_FIRST)
@pytest.mark.parametrize("kind", EACH)
def test_annealed_estimates_are_within_their_errors(kind, start):
    """E[w] = p(x) and E[1/w'] = 1/p(x) for few temperatures, and the bounds of more temperatures enclose the truth."""
    # From the prior, so few temperatures have weights of a small variance only where the data say little.
    model = Linear(**KINDS[kind], **OFF, sigma=0.6 if start == "posterior" else 2.0)
    batch, codes, log_px = model.draw(1500)
    batch, codes = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if leaf.dtype != bool else leaf, (batch, codes))
    settings = Annealing(start=start, num_temperatures=12, num_chains=2, num_leapfrog=4, num_adaptation=40)

    @jax.jit
    def bounds(key, batch, codes):
        one = lambda key, x, z: bdmc(key, model.vae, model.params, x, z, settings)  # noqa: E731
        return jax.vmap(one)(jax.random.split(key, len(batch)), batch, codes)

    bounds = jax.device_get(bounds(jax.random.key(1), batch, codes))
    for side, sign in ((bounds.lower, 1), (bounds.upper, -1)):
        log_ratio = sign * (np.asarray(side.log_px, np.float64) - log_px)
        assert 1e-3 < np.std(log_ratio) < 1
        accept_mean(np.expm1(log_ratio), 0.0, slack=1e-4)
    assert np.mean(bounds.lower.log_px) < log_px.mean() + 1e-3
    assert np.mean(bounds.upper.log_px) > log_px.mean() - 1e-3


@pytest.mark.parametrize("learned_prior", [pytest.param(False, marks=pytest.mark.slow), True])
def test_simulated_data_of_a_conditional_model_are_bounded_from_both_sides(learned_prior):
    """The conditions of the simulated examples are given; at the exact posterior both bounds coincide."""
    model = Linear(learned_prior=learned_prior)
    conditions = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)), jnp.float32)
    settings = Annealing(num_temperatures=2, num_chains=2, num_adaptation=20)
    simulate = jax.jit(lambda c: bdmc_simulated(jax.random.key(0), model.vae, model.params, 6, settings, conditions=c))
    bounds = simulate(conditions)
    np.testing.assert_allclose(bounds.lower.log_px, bounds.upper.log_px, atol=1e-4)
    # The same draws with other conditions: x moves with V c, so that log p(x|c) stays where p(z|c) does not change.
    moved = np.asarray(simulate(conditions + 1).lower.log_px)
    assert np.allclose(moved, bounds.lower.log_px, atol=1e-3) == (not learned_prior)


@pytest.mark.parametrize("kind", EACH)
def test_the_amortization_gap_of_the_exact_encoder_is_zero(kind):
    model = Linear(**KINDS[kind])
    off = Linear(**KINDS[kind], **OFF)
    batch, _, log_px = model.draw(24)
    batch = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if leaf.dtype != bool else leaf, batch)
    settings = GapSettings(num_steps=150, num_evaluation_samples=200)

    def compute(model):
        values = jnp.asarray(log_px, jnp.float32)
        return jax.jit(lambda key: gaps_dataset(key, model.vae, model.params, batch, values, settings))(jax.random.key(0))

    exact, wrong = compute(model), compute(off)
    np.testing.assert_allclose(exact.amortization_gap, 0, atol=2e-3)
    difference = np.asarray(wrong.amortization_gap, np.float64) - kl_of_encoder(off, batch)
    error = np.sqrt(np.sum(np.square(np.asarray(wrong.amortization_gap_standard_error, np.float64))))
    accept(2 * stats.norm.sf(max(abs(difference.sum()) - len(difference) * 5e-3, 0) / error))
    # The posterior is diagonal, so the family loses nothing.
    error = np.sqrt(np.sum(np.square(np.asarray(exact.best_elbo_standard_error, np.float64))))
    accept(2 * stats.norm.sf(abs(np.asarray(exact.approximation_gap, np.float64).sum()) / error))
