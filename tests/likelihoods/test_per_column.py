"""One learned scale or dispersion for each column of a vector, and for each channel of a series or an image."""

import budget
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import likelihoods, model
from vae_jax.config import Hyperparams
from vae_jax.objectives.batch import optimal_scale

FUNCTIONS = {
    "gaussian": likelihoods.gaussian_log_prob,
    "laplace": likelihoods.laplace_log_prob,
    "student_t": likelihoods.student_t_log_prob,
}
LEARNED = jnp.array([0.3, -1.0, 2.0])
SHAPES = [(3,), (5, 3), (2, 4, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=["vector", "series", "image"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_column_has_its_scale(name, shape):
    bundle = getattr(likelihoods, name)("per_column", initial_scale=np.array([0.01, 1.0, 100.0]))
    np.testing.assert_allclose(bundle.shared_start, np.log([0.01, 1.0, 100.0]), rtol=1e-6)
    loc, x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    acting = bundle.shared_values(LEARNED)
    got = jax.jit(bundle.log_prob)((loc, LEARNED), x)
    np.testing.assert_allclose(got, FUNCTIONS[name](loc, jnp.broadcast_to(acting, shape), x), rtol=1e-6)
    assert bundle.outputs_per_dim == 1
    assert jax.eval_shape(bundle.mean, (loc, LEARNED)).shape == shape
    assert jax.eval_shape(bundle.sample, jax.random.key(0), (loc, LEARNED)).shape == shape


def test_a_column_that_never_varies_has_a_floor():
    bundle = likelihoods.gaussian("per_column", initial_scale=np.array([0.01, 1.0, 100.0]))
    floor = bundle.shared_values(jnp.full(3, -1e4))
    np.testing.assert_allclose(floor, np.log([0.01, 1.0, 100.0]) - 6, rtol=1e-5)
    np.testing.assert_allclose(bundle.shared_values(jnp.array(bundle.shared_start)), bundle.shared_start, atol=3e-3)


def test_an_event_of_starts_is_averaged_over_time():
    starts = np.exp(np.array([[0.0, 1.0], [2.0, 1.0]]))
    np.testing.assert_allclose(likelihoods.laplace("per_column", initial_scale=starts).shared_start, [1.0, 1.0], rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=["vector", "series", "image"])
def test_each_column_has_its_dispersion(shape):
    bundle = likelihoods.negative_binomial("per_column", initial_dispersion=np.ones(3))
    inflated = likelihoods.zero_inflated_negative_binomial("per_column", initial_dispersion=np.ones(3))
    assert bundle.shared_start == inflated.shared_start == (0.0, 0.0, 0.0)
    assert (bundle.outputs_per_dim, inflated.outputs_per_dim) == (1, 2)
    raw, x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    x = np.round(np.abs(3 * x))
    everywhere, log_mean = np.broadcast_to(LEARNED, shape), np.log(np.logaddexp(0, raw))
    expected = likelihoods.negative_binomial_log_prob(log_mean, everywhere, x)
    np.testing.assert_allclose(jax.jit(bundle.log_prob)((raw, LEARNED), x), expected, rtol=2e-6)
    output = np.stack([raw, 0.5 * raw], axis=-1)
    expected = likelihoods.zero_inflated_negative_binomial_log_prob(0.5 * raw, log_mean, everywhere, x)
    np.testing.assert_allclose(jax.jit(inflated.log_prob)((output, LEARNED), x), expected, rtol=2e-6)


def test_each_level_has_the_scale_of_its_channel():
    bundle = likelihoods.discretized_logistic(8, "per_column", initial_scale=np.array([0.1, 0.2, 0.4]))
    rng = np.random.default_rng(0)
    loc, levels = rng.uniform(size=(4, 4, 3)).astype(np.float32), rng.integers(0, 8, (4, 4, 3)).astype(np.float32)
    log_prob = jax.jit(likelihoods.discretized_logistic_log_prob, static_argnums=3)
    scales = bundle.shared_values(LEARNED)
    expected = sum(log_prob(loc[..., c], scales[c], levels[..., c], 8) for c in range(3))
    np.testing.assert_allclose(jax.jit(bundle.log_prob)((loc, LEARNED), levels / 7), expected, rtol=1e-5)


def test_draws_have_the_spread_of_their_column():
    bundle = likelihoods.gaussian("per_column", initial_scale=np.array([0.01, 1.0, 100.0]))
    keys = jax.random.split(jax.random.key(0), 5000)
    draw = jax.jit(jax.vmap(lambda key: bundle.sample(key, (jnp.zeros((2, 3)), jnp.array(bundle.shared_start)))))
    draws, scales = np.asarray(draw(keys), np.float64), np.exp(bundle.shared_values(jnp.array(bundle.shared_start)))
    for row, column in np.ndindex(2, 3):
        budget.accept_mean(draws[:, row, column] ** 2, float(scales[column]) ** 2, np.sqrt(2) * float(scales[column]) ** 2)


def test_a_model_has_a_parameter_for_each_column():
    vae = model.mlp_vae(
        (3,), likelihoods.gaussian("per_column", initial_scale=np.array([0.5, 1.0, 2.0])), latent_dim=2, hidden=()
    )
    params = vae.init(jax.random.key(0))
    np.testing.assert_allclose(params["likelihood"], np.log([0.5, 1.0, 2.0]), rtol=1e-6)
    gradient = jax.grad(lambda params: vae.likelihood.log_prob(vae.decode(params, jnp.ones(2)), jnp.array([9.0, 1.0, 3.0])))
    assert np.all(np.asarray(gradient(params)["likelihood"]) != 0)


def test_one_number_is_no_start_for_columns():
    for make in (likelihoods.gaussian, likelihoods.negative_binomial, likelihoods.zero_inflated_negative_binomial):
        with pytest.raises(ValueError, match=r"='per_column', one for each column, got one number"):
            make("per_column")


def test_one_optimal_scale_needs_one_shared_scale():
    bundle = likelihoods.gaussian("per_column", initial_scale=np.ones(3))
    objective = optimal_scale()
    x, encode, decode = jnp.ones((4, 3)), lambda x: (x[:2], x[:2]), lambda z: (jnp.zeros(3), jnp.zeros(3))
    with pytest.raises(ValueError, match=r"gaussian\('shared'\)"):
        objective.terms(jax.random.key(0), encode, decode, bundle.log_prob, x, Hyperparams(), objective.init(jax.random.key(0)))
