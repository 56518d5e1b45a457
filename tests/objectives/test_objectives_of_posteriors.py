"""Objectives of an example and of a batch with posteriors that are not diagonal, against dense NumPy, and what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from batch_data import LATENT, N, X, float32, model_functions, posteriors
from scipy import stats
from scipy.special import logsumexp
from two_layers import BELOW, TOP, two_layers

from vae_jax import objectives
from vae_jax import posteriors as families
from vae_jax.build import build
from vae_jax.config import Config, Hyperparams
from vae_jax.errors import UserError
from vae_jax.networks import Network
from vae_jax.objectives import batch as batch_objectives
from vae_jax.training import make_train_step

KEY, FULL = jax.random.key(0), families.full(LATENT)
IAF = families.iaf(LATENT, num_flows=1, hidden=(4,), context_dim=2)
WEIGHTS = IAF.init(jax.random.key(3))
DISCRIMINATOR = Network(lambda key: jnp.ones(LATENT), lambda params, z: params @ z)
BATCH = {
    "beta_tcvae": batch_objectives.stateless(batch_objectives.beta_tc_elbo, "beta", num_examples=20),
    "dip_vae_i": batch_objectives.stateless(batch_objectives.dip_elbo, lambda_od=3.0, lambda_d=7.0, variant="i"),
    "dip_vae_ii": batch_objectives.stateless(batch_objectives.dip_elbo, lambda_od=3.0, lambda_d=7.0, variant="ii"),
    "info_vae": batch_objectives.stateless(batch_objectives.info_elbo, mmd_weight=10.0),
    "geco": batch_objectives.geco(),
    "factor_vae": batch_objectives.factor(DISCRIMINATOR, optax.adam(1e-3)),
}
HYPERPARAMS = Hyperparams(learning_rate=0.1, beta=4.0, target_distortion=1.0, gamma=2.0)


def functions(family, extra):
    """The functions of `model_functions` with the outputs of the encoder that a family takes."""
    encode, *rest = model_functions()
    return (lambda x: (*encode(x), *extra), *rest) if family is not families.DIAGONAL else (encode, *rest)


def run_batch(name, family, extra=()):
    objective = BATCH[name]
    given = {} if family is families.DIAGONAL else {"posterior": family}
    state = objective.init(KEY)
    return objective.terms(KEY, *functions(family, extra), X, HYPERPARAMS, state, **given)


@pytest.fixture(scope="module")
def terms():
    """Terms of every batch objective: diagonal, full without correlations, full with them, and a flow where it is taken."""
    correlated = (jnp.asarray([0.7, -0.4, 0.9]),)

    @jax.jit
    def compute():
        made = {}
        for name in BATCH:
            made[name, "diagonal"] = run_batch(name, families.DIAGONAL)[0]
            made[name, "uncorrelated"] = run_batch(name, FULL, (jnp.zeros(LATENT),))[0]
            made[name, "full"] = run_batch(name, FULL, correlated)[0]
            if name in ("info_vae", "geco", "factor_vae"):
                made[name, "iaf"] = run_batch(name, IAF, (jnp.ones(2), WEIGHTS))[0]
        return made

    return jax.device_get(compute())


@pytest.mark.parametrize("name", BATCH)
def test_without_correlations_the_full_posterior_is_the_diagonal_one(name, terms):
    for got, expected in zip(*(jax.tree.leaves(terms[name, kind]) for kind in ("uncorrelated", "diagonal")), strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-4)
    assert not np.allclose(terms[name, "full"].loss, terms[name, "diagonal"].loss, rtol=1e-2)


@pytest.mark.parametrize("name", ["info_vae", "geco", "factor_vae"])
def test_the_kl_of_a_flow_is_that_of_its_draw(name, terms):
    """The key of `forward` is that of the objective, or its first part."""
    key = KEY if name == "geco" else jax.random.split(KEY)[0]
    encode, decode, log_prob = functions(IAF, (jnp.ones(2), WEIGHTS))

    def one(key, x):
        z, log_q = IAF.sample_and_log_prob(key, encode(x))
        return log_q + 0.5 * jnp.sum(z**2 + math.log(2 * math.pi)), log_prob(decode(z), x)

    kl, log_likelihood = jax.jit(jax.vmap(one))(jax.random.split(key, len(X)), X)
    got = terms[name, "iaf"]
    np.testing.assert_allclose(got.kl, kl, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got.log_likelihood, log_likelihood, rtol=1e-4)


def correlated_posteriors():
    """Codes, means, log_scales and `extra` of N posteriors, with their covariances by NumPy."""
    z, mean, log_scale = posteriors()
    extra = np.random.default_rng(3).normal(size=(N, LATENT))
    factors = np.broadcast_to(np.eye(LATENT), (N, LATENT, LATENT)).copy()
    rows, columns = np.tril_indices(LATENT, -1)
    factors[:, rows, columns] = extra
    factors *= np.exp(log_scale)[:, :, None]
    return z, (mean, log_scale, extra), factors @ np.swapaxes(factors, 1, 2)


def test_the_parts_of_the_kl_in_a_batch_are_those_of_a_dense_mixture():
    z, outputs, covariance = correlated_posteriors()
    mean, deviation = outputs[0], np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    q, codes = float32(*outputs), float32(z)[0]
    pairs = jax.jit(jax.vmap(families.log_prob_at_each(FULL, q)))(codes)
    dense = [[stats.multivariate_normal(m, c).logpdf(one) for m, c in zip(mean, covariance, strict=True)] for one in z]
    np.testing.assert_allclose(pairs, dense, rtol=1e-4, atol=1e-4)
    moments = jax.vmap(lambda q: FULL.moments(KEY, q))(q)
    # With the whole data set as the batch the weights are those of the aggregate posterior, 1/N each.
    parts = batch_objectives.kl_parts(codes, *moments, N, joint=(jnp.diagonal(pairs), pairs))
    log_q = logsumexp(dense, axis=1) - math.log(N)
    marginals = stats.norm.logpdf(z[:, None], mean[None], deviation[None])
    log_product = np.sum(logsumexp(marginals, axis=1) - math.log(N), axis=1)
    np.testing.assert_allclose(parts.mutual_information, np.diagonal(dense) - log_q, rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(parts.total_correlation, log_q - log_product, rtol=1e-4, atol=2e-4)
    log_p = np.sum(stats.norm.logpdf(z), axis=1)
    np.testing.assert_allclose(parts.dimension_wise_kl, log_product - log_p, rtol=1e-4, atol=2e-4)
    penalty = batch_objectives.dip_penalty(
        *moments, lambda_od=3.0, lambda_d=7.0, variant="ii", covariances=families.covariances(FULL, q)
    )
    total = np.cov(mean.T, bias=True) + covariance.mean(axis=0)
    off = total[~np.eye(LATENT, dtype=bool)]
    assert float(penalty) == pytest.approx(3 * np.sum(off**2) + 7 * np.sum((np.diagonal(total) - 1) ** 2), rel=1e-4)


LAYERS = two_layers()
Q = jnp.asarray([1.5, 0.1, -0.2]), jnp.asarray([-1.0, -0.05, 0.02]), jnp.asarray([[0.1], [0.05]])


def of_layers(function, **options):
    model = (lambda x: Q, lambda z: z, lambda output, x: -jnp.sum((output - x) ** 2))
    return function(KEY, *model, jnp.ones(TOP + BELOW), posterior=LAYERS, **options)


def test_free_bits_of_a_code_of_several_layers_are_those_of_its_layers():
    _, kls = jax.jit(LAYERS.sample_and_kl)(KEY, Q)
    kls = np.asarray(kls, np.float64)
    assert kls[0] > 0.3 > kls[1]  # the allowance lies between the two
    terms = of_layers(objectives.free_bits_elbo, free_bits=0.3, beta=2.0, num_groups=1)
    assert float(terms.kl) == pytest.approx(kls.sum(), rel=1e-5)
    assert float(terms.loss + terms.log_likelihood) == pytest.approx(2 * (kls[0] + 0.3), rel=1e-5)
    assert float(of_layers(objectives.free_bits_elbo, free_bits=0.3, num_groups=2).kl) == pytest.approx(kls.sum(), rel=1e-5)
    held = of_layers(objectives.capacity_elbo, capacity=1.0, gamma=5.0)
    assert float(held.loss + held.log_likelihood) == pytest.approx(5 * abs(kls.sum() - 1), rel=1e-4)
    with pytest.raises(UserError, match="its 2 layers, got 3"):
        of_layers(objectives.free_bits_elbo, free_bits=0.3, num_groups=3)
    with pytest.raises(UserError, match="one of each layer only"):
        of_layers(objectives.free_bits_elbo, free_bits=0.3)


def test_free_bits_of_the_batch_mean_are_those_of_the_layers():
    x = jnp.ones((5, TOP + BELOW))
    model = (lambda x: Q, lambda z: z, lambda output, x: -jnp.sum((output - x) ** 2))
    terms = batch_objectives.free_bits_batch_mean_elbo(KEY, *model, x, free_bits=0.3, posterior=LAYERS)
    kls = np.asarray([LAYERS.sample_and_kl(key, Q)[1] for key in jax.random.split(KEY, 5)], np.float64)
    expected = np.maximum(kls.mean(axis=0), 0.3).sum()
    np.testing.assert_allclose(terms.loss + terms.log_likelihood, expected, rtol=1e-5)


def test_free_bits_of_the_whole_code_clip_the_kl_of_any_posterior():
    encode, *model = functions(FULL, (jnp.asarray([0.7, -0.4, 0.9]),))
    kl = float(FULL.kl_to_standard_normal(encode(X[0])))
    for free_bits in (0.5 * kl, 2 * kl):
        terms = objectives.free_bits_elbo(KEY, encode, *model, X[0], free_bits=free_bits, num_groups=1, posterior=FULL)
        assert float(terms.loss + terms.log_likelihood) == pytest.approx(max(kl, free_bits), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "beta_tcvae"}, "compares the densities of single dimensions"),
        ({"objective": "dip_vae_i"}, "matches mean and covariance"),
        ({"objective": "dip_vae_ii"}, 'Use `posterior="diagonal"`, "full" or "householder"'),
        ({"objective": "free_bits"}, 'Use `free_bits_per="group"`'),
        ({"objective": "free_bits", "free_bits_per": "batch_mean"}, "free bits of the batch mean need"),
        ({"objective": "free_bits", "free_bits_per": "group", "num_groups": 2}, "without parts for 2 groups"),
    ],
)
def test_what_a_flow_lacks_is_refused(settings, message):
    flow = {"posterior": "iaf", "num_flows": 1, "posterior_hidden": (4,), "posterior_context_dim": 2}
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        build(Config(latent_dim=2, hidden=(4,), **flow, **settings))


def test_a_batch_objective_without_the_keyword_is_refused():
    def terms(key, encode, decode, log_prob, x, hyperparams, state):
        raise AssertionError

    mine = batch_objectives.BatchObjective(terms)
    vae = build(Config(latent_dim=2, hidden=(4,), posterior="full")).vae
    with pytest.raises(UserError, match="with the keyword posterior"):
        make_train_step(vae, objective=mine)
