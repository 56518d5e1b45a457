"""The RealNVP prior: density, log-determinant, inverse, sampler, and its start at N(0, I)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from budget import accept_mean
from scipy import stats

from vae_jax import priors
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.errors import UserError

CASES = {(2, 3): (5,), (5, 4): (7, 6), (4, 5): ()}  # (latent_dim, num_layers): hidden


def random_flow(latent_dim, num_layers, hidden, size=0.4, seed=0):
    """A prior, and parameters of which none is zero."""
    prior = priors.realnvp(latent_dim, num_layers, hidden)
    leaves, tree = jax.tree.flatten(prior.init(jax.random.key(seed)))
    rng = np.random.default_rng(seed)
    return prior, tree.unflatten([jnp.asarray(size * rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves])


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request):
    """(forward, inverse, Jacobian, log density) of one flow, compiled, and 50 codes."""
    (dim, layers), hidden = request.param, CASES[request.param]
    prior, params = random_flow(dim, layers, hidden)

    @jax.jit
    def everything(z):
        forward = lambda z: priors.realnvp_forward(params, z)  # noqa: E731
        e, log_det = jax.vmap(forward)(z)
        back = jax.vmap(lambda e: priors.realnvp_inverse(params, e))(e)
        jacobian = jax.vmap(jax.jacfwd(lambda z: forward(z)[0]))(z)
        return e, log_det, back, jacobian, jax.vmap(lambda z: prior.log_prob(params, None, z))(z)

    codes = np.random.default_rng(1).normal(0, 1.5, (50, dim)).astype(np.float32)
    return codes, *(np.asarray(a, np.float64) for a in everything(codes))


def test_the_log_determinant_is_that_of_the_jacobian(case):
    _, _, log_det, _, jacobian, _ = case
    assert np.ptp(log_det) > 0.5
    np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=2e-5)


def test_the_sampler_inverts_the_flow(case):
    codes, e, _, back, _, _ = case
    np.testing.assert_allclose(back, codes, atol=1e-5, rtol=1e-5)
    assert np.max(np.abs(e - codes)) > 0.5


def test_the_density_is_the_change_of_variables(case):
    _, e, _, _, jacobian, log_prob = case
    expected = stats.norm.logpdf(e).sum(axis=1) + np.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-4)


def test_every_dimension_is_transformed_given_others(case):
    """The product of all |Jacobians| has no zero: with enough couplings each dimension depends on each other."""
    _, _, _, _, jacobian, _ = case
    assert np.all(np.abs(jacobian).max(axis=0) > 1e-4)


def test_the_density_integrates_to_one_and_the_samples_have_its_moments():
    prior, params = random_flow(2, 4, (8, 8), size=0.5)
    grid = np.linspace(-16, 16, 1601)

    @jax.jit
    def row(x):
        return jax.vmap(lambda y: prior.log_prob(params, None, jnp.stack([x, y])))(jnp.asarray(grid, jnp.float32))

    density = np.exp(np.asarray(jax.lax.map(row, jnp.asarray(grid, jnp.float32)), np.float64))
    cell = (grid[1] - grid[0]) ** 2
    assert density.sum() * cell == pytest.approx(1, abs=1e-4)
    assert max(density[0].max(), density[-1].max(), density[:, 0].max(), density[:, -1].max()) < 1e-7
    draws = jax.jit(jax.vmap(lambda key: prior.sample(params, None, key)))(jax.random.split(jax.random.key(0), 20_000))
    x, y = np.asarray(draws, np.float64).T
    for i, j in ((1, 0), (0, 1), (2, 0), (0, 2), (1, 1)):
        expected = (grid[:, None] ** i * grid**j * density).sum() * cell
        accept_mean(x**i * y**j, expected)
    # Anywhere: the share of draws in each quadrant around the means.
    right, above = grid[:, None] > x.mean(), grid[None] > y.mean()
    accept_mean((x > x.mean()) & (y > y.mean()), (density * right * above).sum() * cell, slack=1e-3)


@pytest.mark.parametrize("dim", [2, 5])
def test_it_starts_at_the_standard_normal(dim):
    prior = priors.realnvp(dim, 6)
    params = prior.init(jax.random.key(0))
    z = np.random.default_rng(0).normal(0, 2, (20, dim)).astype(np.float32)
    log_prob = jax.jit(jax.vmap(lambda z: prior.log_prob(params, None, z)))(z)
    np.testing.assert_allclose(log_prob, stats.norm.logpdf(z.astype(np.float64)).sum(axis=1), rtol=1e-6)
    # Every weight of the last layers has a gradient there, so training leaves this point.
    gradient = jax.jit(jax.grad(lambda params: prior.log_prob(params, None, z[0])))(params)
    for coupling in gradient.values():
        assert np.all(np.abs(coupling["layer_2"]["bias"]) > 1e-6)


def test_every_number_of_a_flow_has_a_gradient():
    prior, params = random_flow(4, 3, (6,))
    z = np.random.default_rng(0).normal(0, 1, (64, 4)).astype(np.float32)
    total = lambda params: jnp.sum(jax.vmap(lambda z: prior.log_prob(params, None, z))(z))  # noqa: E731
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(total))(params)):
        assert np.all(np.abs(leaf) > 1e-6), jax.tree_util.keystr(path)


def test_new_weights_do_not_compile_again():
    prior, params = random_flow(3, 2, (4,))
    log_prob = jax.jit(lambda params, z: prior.log_prob(params, None, z))
    for factor in (1.0, 0.5):
        log_prob(jax.tree.map(lambda leaf, factor=factor: factor * leaf, params), jnp.ones(3))
    assert log_prob._cache_size() == 1


def test_settings_and_refusals():
    built = build(Config(epochs=1, hidden=(8,), latent_dim=3, prior="realnvp", prior_layers=2, prior_hidden=(5,)))
    params = built.vae.init(jax.random.key(0))["prior"]
    assert [leaf.shape for leaf in jax.tree.leaves(params["coupling_1"])] == [(5,), (1, 5), (4,), (5, 4), (2,)]
    assert len(params) == 2
    with pytest.raises(UserError, match=r"`latent_dim` is 1.* at least two latent dimensions"):
        build(Config(latent_dim=1, prior="realnvp"))
    with pytest.raises(UserError, match='`objective="capacity"` assumes N'):
        build(Config(prior="realnvp", objective="capacity"))
    with pytest.raises(ValueError, match="latent_dim >= 2"):
        priors.realnvp(1)
    with pytest.raises(ValueError, match="num_layers >= 1"):
        priors.realnvp(2, 0)
