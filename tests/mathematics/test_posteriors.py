"""Posteriors: one battery for all of them, against quadrature, Jacobians, SciPy and finite differences."""

import functools

import jax
import jax.numpy as jnp
import mutants
import numpy as np
import posterior_checks as checks
import pytest
from jax.test_util import check_grads
from scipy import stats

from vae_jax import divergences, posteriors
from vae_jax.posteriors import base, flows

values = functools.cache(lambda name: checks.values(checks.MADE[name]))
every_posterior = pytest.mark.parametrize("name", checks.MADE)


@every_posterior
def test_draws_densities_kl_and_moments_agree_with_dense_algebra(name):
    checks.check_values(values(name))


@every_posterior
def test_the_density_integrates_to_one_for_several_inputs(name):
    np.testing.assert_allclose(checks.integrals(checks.MADE[name]), 1, atol=1e-4)


@pytest.mark.parametrize("wrong", mutants.POSTERIOR_MUTANTS)
def test_a_broken_posterior_fails(wrong):
    name, twin = mutants.POSTERIOR_MUTANTS[wrong]
    got = checks.values(twin(checks.MADE[name]))
    with pytest.raises(AssertionError):
        checks.check_values(got)


@pytest.mark.parametrize("name", [name for name, made in checks.MADE.items() if made.log_prob])
def test_the_inverse_recovers_the_noise(name):
    """For five dimensions: the density of a draw, computed by inversion, is that of the forward pass."""
    posterior = {"diagonal": posteriors.DIAGONAL, "full": posteriors.full(5), "householder": posteriors.householder(5)}.get(
        name, posteriors.iaf(5, num_flows=3, hidden=(7, 9), context_dim=4)
    )
    outputs, weights = checks.parameters(posterior, contexts=8, latent=5)
    keys = jax.random.split(jax.random.key(1), 8)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, None))
    def both(key, outputs, weights):
        z, log_q = posterior.sample_and_log_prob(key, (*outputs, *weights))
        return log_q, posterior.log_prob((*outputs, *weights), z)

    np.testing.assert_allclose(*both(keys, outputs, weights), rtol=1e-5, atol=1e-5)


def test_the_updates_of_an_inverse_autoregressive_flow_are_undone():
    masks = flows.autoregressive_masks(6, (8, 8))
    posterior = posteriors.iaf(6, num_flows=1, hidden=(8, 8), context_dim=2)
    weights = checks.random_weights(posterior, jax.random.key(0))["flow_0"]
    z, context = jax.random.normal(jax.random.key(1), (6,)), jnp.array([0.3, -1.0])

    @jax.jit
    def there_and_back(z):
        def update(z):
            return flows._update(weights, masks, context, z)

        updated, log_determinant = update(z)
        back = flows._undo_update(weights, masks, context, updated)
        return back, log_determinant, jax.jacfwd(lambda z: update(z)[0])(z)

    back, log_determinant, jacobian = there_and_back(z)
    np.testing.assert_allclose(back, z, atol=1e-5)
    np.testing.assert_array_equal(np.triu(jacobian, 1), 0)
    np.testing.assert_allclose(np.linalg.slogdet(jacobian)[1], log_determinant, rtol=1e-5)


@pytest.mark.parametrize("hidden", [(), (4,), (9, 5), (4, 4, 4)])
@pytest.mark.parametrize("latent", [1, 2, 4])
def test_masks_leave_exactly_the_paths_from_earlier_dimensions(latent, hidden):
    *inner, last = flows.autoregressive_masks(latent, hidden)
    paths = functools.reduce(np.matmul, [np.asarray(mask) for mask in (*inner, last)])
    expected = np.triu(np.ones((latent, latent)), 1)  # from input i to outputs j > i
    np.testing.assert_array_equal(paths > 0, np.tile(expected, 2) > 0)


def test_gaussians_with_correlations_agree_with_scipy():
    for name in ("full", "householder"):
        got, posterior = values(name), checks.MADE[name]
        (mean, log_scale, extra), _ = checks.parameters(posterior)
        for i in range(checks.CONTEXTS):
            factor = got["jacobian"][i, 0]
            expected = stats.multivariate_normal(got["mean"][i], factor @ factor.T).logpdf(got["z"][i])
            np.testing.assert_allclose(got["log_q"][i], expected, rtol=1e-5, atol=1e-5)
            if name == "full":
                cholesky = posteriors.full_cholesky(log_scale[i], extra[i])
                np.testing.assert_allclose(factor, cholesky, rtol=1e-6)
                kl = divergences.kl_full_gaussians(mean[i], cholesky, jnp.zeros(2), jnp.eye(2))
                np.testing.assert_allclose(got["kl"][i], kl, rtol=1e-6)


@every_posterior
def test_gradients_by_finite_differences(name, x64):
    posterior = checks.MADE[name]
    outputs, weights = checks.parameters(posterior, contexts=1)
    q = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (*(o[0] for o in outputs), *weights))
    key, point = jax.random.key(3), jnp.array([0.3, -0.7])

    def scalars(q, point):
        z, log_q = posterior.sample_and_log_prob(key, q)
        total = jnp.sum(jnp.sin(z)) + log_q * jnp.cos(z[0])
        if posterior.log_prob is not None:
            total = total + posterior.log_prob(q, z + point)
        return total if posterior.kl_to_standard_normal is None else total + posterior.kl_to_standard_normal(q)

    check_grads(jax.jit(scalars), (q, point), order=1, modes=("rev",), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, made in checks.MADE.items() if made.num_extra and not made.init])
def test_further_numbers_of_zero_give_the_diagonal_posterior(name):
    posterior, diagonal = checks.MADE[name], posteriors.DIAGONAL
    mean, log_scale = jnp.array([0.4, -2.0]), jnp.array([-1.0, 0.5])
    q = mean, log_scale, jnp.zeros(posterior.num_extra)
    z, log_q = posterior.sample_and_log_prob(jax.random.key(0), q)
    np.testing.assert_allclose(log_q, diagonal.log_prob(q[:2], z), rtol=1e-6)
    if posterior.kl_to_standard_normal is not None:
        np.testing.assert_allclose(posterior.kl_to_standard_normal(q), diagonal.kl_to_standard_normal(q[:2]), rtol=1e-6)
        np.testing.assert_allclose(posterior.moments(jax.random.key(0), q)[1], log_scale, rtol=1e-6)


def test_an_inverse_autoregressive_flow_starts_near_the_identity():
    posterior = posteriors.iaf(8, num_flows=2, hidden=(16, 16), context_dim=4)
    q = jnp.zeros(8), jnp.zeros(8), 0.01 * jnp.ones(4), jax.jit(posterior.init)(jax.random.key(0))
    diagonal = posteriors.DIAGONAL.sample(jax.random.key(1), q[:2])
    z = jax.jit(posterior.sample)(jax.random.key(1), q)
    np.testing.assert_allclose(z, checks.gate_at_the_start(2) * diagonal, atol=0.05)


def test_moments_without_a_closed_form_are_those_of_draws():
    for name in ("planar", "iaf"):
        posterior = checks.MADE[name]
        outputs, weights = checks.parameters(posterior, contexts=1)
        q = (*(o[0] for o in outputs), *weights)
        mean, log_scale = jax.jit(posterior.moments)(jax.random.key(0), q)
        sample = jax.jit(jax.vmap(posterior.sample, in_axes=(0, None)))
        draws = np.asarray(sample(jax.random.split(jax.random.key(0), 64), q), np.float64)
        np.testing.assert_allclose(mean, np.mean(draws, 0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(np.exp(log_scale), np.std(draws, 0, ddof=1), rtol=1e-4)


@every_posterior
def test_values_and_gradients_are_finite_at_extreme_inputs(name):
    posterior = {"full": posteriors.full(3), "householder": posteriors.householder(3), "planar": posteriors.planar(3)}.get(
        name, posteriors.DIAGONAL if name == "diagonal" else posteriors.iaf(3, num_flows=1, hidden=(4,), context_dim=3)
    )
    weights = (checks.random_weights(posterior, jax.random.key(0), size=5.0),) if posterior.init else ()

    def total(q, key):
        z, log_q = posterior.sample_and_log_prob(key, q)
        terms = [jnp.sum(z), log_q, *posterior.moments(key, q)]
        terms += [posterior.log_prob(q, z)] if posterior.log_prob is not None else []
        terms += [posterior.kl_to_standard_normal(q)] if posterior.kl_to_standard_normal is not None else []
        return sum(jnp.sum(term) for term in terms)

    program = jax.jit(jax.value_and_grad(total))
    extras = [jnp.zeros, lambda n: jnp.full(n, 30.0), lambda n: jnp.full(n, -30.0), lambda n: jnp.full(n, -1.0)]
    cancelled = -jnp.eye(3)[jnp.arange(4) % 3].reshape(-1)  # householder: vectors of zeros
    for log_scale in ([20.0, 20, 20], [-20.0, -20, -20], [20.0, -20, 0]):
        for extra in [*extras, *([lambda n: cancelled] if name == "householder" else [])]:
            given = (extra(posterior.num_extra),) if posterior.num_extra else ()
            result = program((jnp.array([1e3, -1.0, 0]), jnp.array(log_scale), *given, *weights), jax.random.key(2))
            assert jax.tree.all(jax.tree.map(lambda leaf: bool(jnp.all(jnp.isfinite(leaf))), result)), (log_scale, result)


def test_a_planar_flow_without_a_direction_is_finite():
    value, gradient = jax.jit(jax.value_and_grad(planar_total))(jnp.zeros(2))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def planar_total(w):
    z, log_determinant = flows.planar_update(jnp.ones(2), jnp.ones(2), w, jnp.zeros(()))
    return jnp.sum(z) + log_determinant


@pytest.mark.parametrize(
    "call",
    [
        lambda: posteriors.iaf(0),
        lambda: posteriors.iaf(2, num_flows=0),
        lambda: posteriors.iaf(2, hidden=(0,)),
        lambda: posteriors.iaf(2, context_dim=0),
        lambda: posteriors.householder(2, num_flows=0),
        lambda: posteriors.planar(0),
    ],
)
def test_sizes_below_one_are_refused(call):
    with pytest.raises(ValueError, match=r"(iaf|householder|planar): expected .* >= 1, got 0"):
        call()


def test_auxiliary_dimensions_are_standard_normal_noise():
    posterior = checks.MADE["full"]
    outputs, _ = checks.parameters(posterior, contexts=1)
    q, wide = tuple(o[0] for o in outputs), base.with_auxiliary(posterior, 3)
    z, log_q = wide.sample_and_log_prob(jax.random.key(0), q)
    inner, inner_log_q = posterior.sample_and_log_prob(jax.random.key(0), q)
    np.testing.assert_array_equal(z[:2], inner)
    np.testing.assert_array_equal(z, wide.sample(jax.random.key(0), q))
    expected = inner_log_q + stats.norm.logpdf(z[2:]).sum()
    np.testing.assert_allclose([log_q, wide.log_prob(q, z)], expected, rtol=1e-5)
    mean, log_scale = wide.moments(jax.random.key(0), q)
    np.testing.assert_array_equal(mean[2:], 0)
    np.testing.assert_array_equal(log_scale[2:], 0)
    assert wide.kl_to_standard_normal is None
    assert base.with_auxiliary(posterior, 0) is posterior
