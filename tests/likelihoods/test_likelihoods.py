"""Likelihoods beyond the battery of test_mathematics: PyTorch's calls, normalization, probabilities, bundles."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from rows import FUNCTIONS
from scipy import integrate, special, stats

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


SCALAR_ARGUMENTS = {
    "gaussian": (likelihoods.gaussian_log_prob, 1, "log_scale"),
    "laplace": (likelihoods.laplace_log_prob, 1, "log_scale"),
    "student": (likelihoods.student_t_log_prob, 1, "log_scale"),
    "student_degrees": (lambda *a: likelihoods.student_t_log_prob(a[0], 0.1, a[2], a[1]), 1, "degrees_of_freedom"),
    "discretized_logistic": (likelihoods.discretized_logistic_log_prob, 1, "log_scale"),
    "negative_binomial": (likelihoods.negative_binomial_log_prob, 1, "log_dispersion"),
    "zero_inflated": (
        lambda *a: likelihoods.zero_inflated_negative_binomial_log_prob(a[0], a[0], a[1], a[2]),
        1,
        "log_dispersion",
    ),
}


@pytest.mark.parametrize(("log_prob", "position", "name"), SCALAR_ARGUMENTS.values(), ids=SCALAR_ARGUMENTS)
def test_a_scalar_log_scale_counts_its_constant_once_for_every_pixel(log_prob, position, name):
    mean, x = jnp.zeros((4, 3)), jnp.ones((4, 3))
    everywhere = log_prob(mean, jnp.full((4, 3), 0.7), x)
    for scalar in (0.7, jnp.float32(0.7)):
        np.testing.assert_allclose(log_prob(mean, scalar, x), everywhere, rtol=4 * EPS)
    for wrong in (jnp.zeros(3), jnp.zeros(1), jnp.zeros((4, 1))):
        with pytest.raises(ValueError, match=name):
            log_prob(mean, wrong, x)


def test_stored_pixels_serve_without_conversion():
    logits = jnp.array([0.3, -2.0, 5.0])
    for x in (np.array([1, 0, 1], np.uint8), np.array([True, False, True]), np.array([1, 0, 1], np.int64)):
        np.testing.assert_array_equal(bernoulli_log_prob(logits, x), bernoulli_log_prob(logits, jnp.array([1.0, 0.0, 1.0])))


INTEGER_FAMILIES = ("discretized", "logistic", "categorical", "poisson", "negative", "zero", "multinomial")
OF_INTEGERS = [name for name in FUNCTIONS if name.split("_")[0] in INTEGER_FAMILIES]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", OF_INTEGERS)
def test_stored_levels_and_counts_serve_without_conversion(name, dtype):
    row = FUNCTIONS[name]
    *parameters, x = row.draw(np.random.default_rng(0), 20)
    parameters, x = [jnp.asarray(a, dtype) for a in parameters], np.minimum(x, 255)
    expected = row.function(*parameters, jnp.asarray(x, dtype))
    for integers in (x.astype(np.uint8), jnp.asarray(x, jnp.int32)):
        got = row.function(*parameters, integers)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, expected)  # whole numbers to 256 are exact in bfloat16 too


def test_the_defaults_are_256_levels_and_4_degrees_of_freedom():
    loc, x = jnp.array([0.3, 0.6]), jnp.array([0.0, 255.0])
    one = likelihoods.discretized_logistic_log_prob(loc, -1.0, x)
    np.testing.assert_array_equal(one, likelihoods.discretized_logistic_log_prob(loc, -1.0, x, num_bins=256))
    with_four = likelihoods.student_t_log_prob(loc, -1.0, x, degrees_of_freedom=4.0)
    np.testing.assert_array_equal(likelihoods.student_t_log_prob(loc, -1.0, x), with_four)


def test_they_are_scipys(x64):
    rng = np.random.default_rng(4)
    loc, log_scale = rng.normal(size=(2, 50))
    x, counts, scale = rng.normal(0, 3, 50), rng.integers(0, 30, 50), np.exp(log_scale)
    pairs = [
        (likelihoods.laplace_log_prob(loc, log_scale, x), stats.laplace.logpdf(x, loc, scale)),
        (likelihoods.student_t_log_prob(loc, log_scale, x), stats.t.logpdf(x, 4, loc, scale)),
        (likelihoods.student_t_log_prob(loc, log_scale, x, 1.0), stats.cauchy.logpdf(x, loc, scale)),
        (likelihoods.poisson_log_prob(loc, counts), stats.poisson.logpmf(counts, np.exp(loc))),
        (
            likelihoods.negative_binomial_log_prob(loc, log_scale, counts),
            stats.nbinom.logpmf(
                counts, scale, scale / (scale + np.exp(loc))
            ),  # SciPy: the number of failures r, its probability
        ),
    ]
    for got, expected in pairs:
        assert float(got) == pytest.approx(expected.sum(), rel=1e-11)


# Bundles; their samplers and means have a module of their own.

BUNDLES = {
    "bernoulli": likelihoods.bernoulli(),
    "continuous_bernoulli": likelihoods.continuous_bernoulli(),
    "gaussian": likelihoods.gaussian(0.3),
    "gaussian_shared": likelihoods.gaussian("shared"),
    "laplace_shared": likelihoods.laplace("shared", initial_scale=0.2),
    "student_t_per_pixel": likelihoods.student_t("per_pixel", initial_scale=0.2),
    "discretized_logistic_shared": likelihoods.discretized_logistic(scale="shared"),
    "discretized_logistic_per_pixel": likelihoods.discretized_logistic(scale="per_pixel", initial_scale=0.02),
    "discretized_logistic_2": likelihoods.discretized_logistic(2),
    "logistic_mixture": likelihoods.logistic_mixture(),
    "logistic_mixture_4": likelihoods.logistic_mixture(4, num_components=3),
    "categorical": likelihoods.categorical(),
    "poisson": likelihoods.poisson(),
    "negative_binomial": likelihoods.negative_binomial(),
    "negative_binomial_per_pixel": likelihoods.negative_binomial("per_pixel"),
    "gaussian_per_column": likelihoods.gaussian("per_column", initial_scale=np.linspace(0.1, 1, 6)),
    "negative_binomial_per_column": likelihoods.negative_binomial("per_column", initial_dispersion=np.ones(6)),
    "discretized_logistic_per_column": likelihoods.discretized_logistic(
        scale="per_column", initial_scale=np.linspace(0.05, 0.1, 6)
    ),
    "zero_inflated": likelihoods.zero_inflated_negative_binomial(),
    "zero_inflated_2.0": likelihoods.zero_inflated_negative_binomial(2.0),
    "zero_inflated_per_pixel": likelihoods.zero_inflated_negative_binomial("per_pixel"),
}


@pytest.mark.parametrize("bundle", BUNDLES.values(), ids=BUNDLES)
def test_the_output_bias_predicts_the_training_mean(bundle):
    """To 2e-6; to 2e-5 where the mean is a sum over the levels."""
    mean = jnp.array([0.0, 0.002, 0.3, 0.5, 0.7, 1.0])
    output = jax.jit(bundle.output_for_mean)(mean)
    predicted = bundle.mean((output, jnp.array(bundle.shared_start)) if bundle.shared_start else output)
    low, high = {"real": (-1, 2), "counts": (1e-3, 2)}.get(bundle.support, (1e-3, 1 - 1e-3))
    exact = "logistic" not in bundle.name
    np.testing.assert_allclose(predicted, jnp.clip(mean, low, high), atol=2e-6 if exact else 2e-5)


def _same_function(log_prob, expected, outcomes):
    for x in outcomes:
        assert float(log_prob(jnp.float32([x]))) == pytest.approx(float(expected(jnp.float32([x]))), rel=1e-5, abs=1e-6)


def test_bundles_are_their_functions():
    loc, reals, numbers = jnp.array([0.4]), (-3.0, 0.4, 0.5, 20.0), (0, 1, 7, 40)
    for name, more in (("gaussian", {}), ("laplace", {}), ("student_t", {"degrees_of_freedom": 2.5})):
        bundle, function = getattr(likelihoods, name), getattr(likelihoods, f"{name}_log_prob")
        options = {k: jnp.float32(v) for k, v in more.items()}
        fixed, shared = bundle(0.3, **more), bundle("shared", **more)
        for log_prob in (
            lambda x, b=fixed: b.log_prob(loc, x),
            lambda x, b=shared: b.log_prob((loc, jnp.log(jnp.array([0.3]))), x),
        ):
            _same_function(log_prob, lambda x, f=function, o=options: f(loc, math.log(0.3), x, **o), reals)
    poisson, negative_binomial = likelihoods.poisson(), likelihoods.negative_binomial(0.4)
    _same_function(
        lambda x: poisson.log_prob(loc, x), lambda x: likelihoods.poisson_log_prob(jnp.log(poisson.mean(loc)), x), numbers
    )
    _same_function(
        lambda x: negative_binomial.log_prob(loc, x),
        lambda x: likelihoods.negative_binomial_log_prob(jnp.log(negative_binomial.mean(loc)), math.log(0.4), x),
        numbers,
    )


@pytest.mark.parametrize("num_bins", [2, 5, 256])
def test_bundles_of_levels_are_their_functions(num_bins):
    """On the scale of the data, k/(num_bins - 1), however that was rounded."""
    levels = np.arange(num_bins)
    logits = jax.random.normal(jax.random.key(0), (1, num_bins))
    categorical, logistic = likelihoods.categorical(num_bins), likelihoods.discretized_logistic(num_bins)
    expected = jax.jit(jax.vmap(likelihoods.categorical_log_prob, in_axes=(None, 0)))(logits, levels[:, None])
    output = (jnp.array([0.4]), jnp.array([-0.5]))
    for x in (np.float32(levels / (num_bins - 1)), levels.astype(np.float32) * np.float32(1 / (num_bins - 1))):
        got = jax.jit(jax.vmap(categorical.log_prob, in_axes=(None, 0)))(logits, x[:, None])
        np.testing.assert_allclose(got, expected, rtol=1e-6)
        logs = np.asarray(jax.jit(jax.vmap(logistic.log_prob, in_axes=(None, 0)))(output, x[:, None]), np.float64)
        # The scale may have a floor: found from the lowest level, it must give all of the others.
        edge = 0.5 / (num_bins - 1)
        scale = (edge - np.float64(np.float32(0.4))) / special.logit(np.exp(logs[0]))
        others = [oracles.discretized_logistic([np.float32(0.4)], [np.log(scale)], [k], num_bins) for k in levels]
        np.testing.assert_allclose(logs, others, rtol=2e-5)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan, "learned"])
@pytest.mark.parametrize("bundle", [likelihoods.gaussian, likelihoods.laplace, likelihoods.student_t])
def test_a_scale_that_is_none_is_refused(bundle, scale):
    with pytest.raises(ValueError, match=r"scale .* positive"):
        bundle(scale)


@pytest.mark.parametrize("dispersion", [0.0, -1.0, math.inf, math.nan, "learned"])
def test_a_dispersion_that_is_none_is_refused(dispersion):
    with pytest.raises(ValueError, match=r"dispersion .* positive"):
        likelihoods.negative_binomial(dispersion)


def test_a_learned_scale_of_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="scale"):
        likelihoods.discretized_logistic(scale=0.1)
    for bundle in (likelihoods.discretized_logistic, likelihoods.logistic_mixture, likelihoods.categorical):
        with pytest.raises(ValueError, match="num_bins"):
            bundle(1)
