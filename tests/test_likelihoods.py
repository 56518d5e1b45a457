"""Likelihoods beyond the battery of test_mathematics: PyTorch's calls, normalisation, probabilities, bundles."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import integrate

from vae_jax import likelihoods
from vae_jax.likelihoods import bernoulli_log_prob, bernoulli_log_prob_from_probs, gaussian_log_prob

EPS = float(jnp.finfo(jnp.float32).eps)


def test_bernoulli_is_minus_pytorchs_summed_binary_cross_entropy():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits, x = rng.normal(0, 4, 784).astype(np.float32), rng.integers(0, 2, 784).astype(np.float32)
    functional = torch.nn.functional
    with_logits = functional.binary_cross_entropy_with_logits(torch.tensor(logits), torch.tensor(x), reduction="sum")
    assert float(bernoulli_log_prob(logits, x)) == pytest.approx(-with_logits.item(), rel=8 * EPS)
    probs = torch.sigmoid(torch.tensor(logits, dtype=torch.float64))
    textbook = functional.binary_cross_entropy(probs, torch.tensor(x, dtype=torch.float64), reduction="sum")
    assert float(bernoulli_log_prob(logits, x)) == pytest.approx(-textbook.item(), rel=8 * EPS)


def test_gaussian_is_minus_pytorchs_summed_squared_error_at_sigma_one_over_root_two():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    mean, x = rng.normal(size=(2, 784)).astype(np.float32)
    summed = torch.nn.functional.mse_loss(torch.tensor(mean), torch.tensor(x), reduction="sum").item()
    expected = -summed - 784 / 2 * math.log(math.pi)
    assert float(gaussian_log_prob(mean, math.log(math.sqrt(0.5)), x)) == pytest.approx(expected, rel=8 * EPS)


@pytest.mark.parametrize("logit", [-1e4, -300.0, -5.0, -0.5, -0.49, 0.0, 1e-3, 0.5, 3.0, 300.0])
def test_continuous_bernoulli_integrates_to_one_and_has_the_stated_mean(logit, x64):
    def density(x):
        return math.exp(float(likelihoods.continuous_bernoulli_log_prob(jnp.array([logit]), jnp.array([x]))))

    # All but exp(-40) of the mass lies within 40/|l| of one edge: a hint for the quadrature.
    width = min(1.0, 40 / max(abs(logit), 1e-9))
    bulk = (0.0, width) if logit < 0 else (1 - width, 1.0)
    total, _ = integrate.quad(density, *bulk, epsabs=1e-11)
    mean, _ = integrate.quad(lambda x: x * density(x), *bulk, epsabs=1e-11)
    assert total == pytest.approx(1, abs=1e-8)
    assert float(likelihoods.continuous_bernoulli_mean(jnp.array(logit))) == pytest.approx(mean, abs=1e-8)


def test_continuous_bernoulli_mean_is_the_gradient_of_the_normaliser_and_not_lambda(x64):
    logits = jnp.concatenate([jnp.linspace(-30, 30, 121), jnp.array([-0.5, 0.5, 1e-7, -1e4, 1e4])])
    x = 0.3
    # d/dl [l x - A(l)] = x - A'(l), and the mean is A'(l)
    expected = x - jax.vmap(jax.grad(lambda logit: likelihoods.continuous_bernoulli_log_prob(logit, x)))(logits)
    np.testing.assert_allclose(likelihoods.continuous_bernoulli_mean(logits), expected, rtol=1e-10, atol=1e-12)
    assert float(likelihoods.continuous_bernoulli_mean(jnp.array(5.0))) < float(jax.nn.sigmoid(5.0)) - 0.1


def test_probabilities_agree_with_logits_where_they_can():
    rng = np.random.default_rng(0)
    logits, x = rng.normal(0, 2, 200).astype(np.float32), rng.integers(0, 2, 200).astype(np.float32)
    got = float(bernoulli_log_prob_from_probs(jax.nn.sigmoid(logits), x))
    # 1 - p has lost eps / (1 - p) of its relative precision; at |logit| <= 7 that is 1e-4 of one term.
    assert got == pytest.approx(oracles.bernoulli(logits, x), rel=1e-5)


def test_the_loss_of_precision_of_probabilities_is_as_documented():
    def relative_error(logit):
        exact = oracles.bernoulli([logit], [0.0])
        return abs(float(bernoulli_log_prob_from_probs(jax.nn.sigmoid(jnp.array([logit])), jnp.zeros(1))) / exact - 1)

    assert relative_error(10.0) < 1e-3
    assert relative_error(15.0) > 1e-4  # the digits that a probability has lost
    assert np.isneginf(bernoulli_log_prob_from_probs(jax.nn.sigmoid(jnp.array([20.0])), jnp.zeros(1)))
    assert float(bernoulli_log_prob(jnp.array([20.0]), jnp.zeros(1))) == pytest.approx(-20, rel=1e-6)


def test_certain_and_correct_probabilities_have_finite_gradients():
    probs, x = jnp.array([0.0, 1.0, 0.25]), jnp.array([0.0, 1.0, 1.0])
    value, gradient = jax.value_and_grad(bernoulli_log_prob_from_probs)(probs, x)
    assert float(value) == pytest.approx(math.log(0.25), rel=1e-6)
    np.testing.assert_allclose(gradient, [-1, 1, 4], rtol=1e-6)


def test_derivatives_of_the_bernoulli_are_exact_at_logit_zero_too(x64):
    """Where autodiff of |l| goes wrong: the derivatives of -log p are 1/2 - x, 1/4, 0, -1/8."""

    def function(logit):
        return -bernoulli_log_prob(logit[None], jnp.array([0.3]))

    derivatives = []
    for _ in range(4):
        function = jax.grad(function)
        derivatives.append(float(function(jnp.array(0.0))))
    np.testing.assert_allclose(derivatives, [0.5 - 0.3, 0.25, 0.0, -0.125], atol=1e-12)


def test_a_scalar_log_scale_counts_its_constant_once_for_every_pixel():
    mean, x = jnp.zeros((4, 3)), jnp.ones((4, 3))
    np.testing.assert_allclose(gaussian_log_prob(mean, 0.7, x), gaussian_log_prob(mean, jnp.full((4, 3), 0.7), x), rtol=4 * EPS)
    with pytest.raises(ValueError, match="log_scale"):
        gaussian_log_prob(mean, jnp.zeros(3), x)


def test_stored_pixels_serve_without_conversion():
    logits = jnp.array([0.3, -2.0, 5.0])
    for x in (np.array([1, 0, 1], np.uint8), np.array([True, False, True]), np.array([1, 0, 1], np.int64)):
        np.testing.assert_array_equal(bernoulli_log_prob(logits, x), bernoulli_log_prob(logits, jnp.array([1.0, 0.0, 1.0])))


BUNDLES = {
    "bernoulli": likelihoods.bernoulli(),
    "continuous_bernoulli": likelihoods.continuous_bernoulli(),
    "gaussian": likelihoods.gaussian(0.3),
    "gaussian_shared": likelihoods.gaussian("shared"),
}


def _output(bundle, values):
    return (values, jnp.array([-1.0])) if bundle.shared_start else values


@pytest.mark.parametrize("bundle", BUNDLES.values(), ids=BUNDLES)
def test_bundles_agree_with_themselves(bundle):
    """Sample mean within 5.5 standard errors of `mean`: false failure below 1e-5 for the four together (36 values each)."""
    output = _output(bundle, jnp.linspace(-8, 8, 9))
    draws = jax.vmap(bundle.sample, in_axes=(0, None))(jax.random.split(jax.random.key(0), 20_000), output)
    error = np.std(draws, axis=0) / math.sqrt(len(draws)) + 1e-4
    assert np.all(np.abs(np.mean(draws, axis=0) - bundle.mean(output)) < 5.5 * error)
    assert bundle.log_prob(output, draws[0]).shape == ()
    low, high = float(draws.min()), float(draws.max())
    assert bundle.support == "real" or (low >= 0 and high <= 1)
    assert bundle.support != "binary" or set(np.unique(draws)) <= {0.0, 1.0}


@pytest.mark.parametrize("bundle", BUNDLES.values(), ids=BUNDLES)
def test_the_output_bias_predicts_the_training_mean(bundle):
    mean = jnp.array([0.0, 0.002, 0.3, 0.5, 0.7, 1.0])
    predicted = bundle.mean(_output(bundle, bundle.output_for_mean(mean)))
    np.testing.assert_allclose(predicted, jnp.clip(mean, 1e-3, 1 - 1e-3) if bundle.support != "real" else mean, atol=2e-6)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan, "learned"])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match=r"scale .* positive"):
        likelihoods.gaussian(scale)
