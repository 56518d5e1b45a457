"""The ELBO against exact answers: a linear-Gaussian VAE whose log p(x) and posterior are known in closed form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vae_jax.config import Hyperparams
from vae_jax.divergences import kl_per_dimension
from vae_jax.likelihoods import gaussian_log_prob
from vae_jax.objectives import (
    Terms,
    capacity_elbo,
    check_objective,
    check_terms,
    elbo,
    free_bits_elbo,
    with_hyperparams,
)

SIGMA = 0.5


def linear_gaussian(seed=0):
    """A model x = W z + noise, the columns of W orthogonal so that the posterior is diagonal; log p by linear algebra."""
    rng = np.random.default_rng(seed)
    weights = np.linalg.qr(rng.normal(size=(5, 2)))[0] * np.array([2.0, 0.7])
    variance = SIGMA**2 / (np.sum(weights**2, axis=0) + SIGMA**2)
    x = rng.normal(size=5)
    log_px = stats.multivariate_normal(np.zeros(5), weights @ weights.T + SIGMA**2 * np.eye(5)).logpdf(x)
    mean = variance * (weights.T @ x) / SIGMA**2
    return weights, x, log_px, mean, np.log(variance) / 2


def estimate(offset, *, num_samples=1, beta=1.0, count=20_000):
    weights, x, log_px, mean, log_scale = linear_gaussian()

    def one(key):
        return elbo(
            key,
            lambda x: (jnp.asarray(mean + offset, jnp.float32), jnp.asarray(log_scale, jnp.float32)),
            lambda z: jnp.asarray(weights, jnp.float32) @ z,
            lambda output, x: gaussian_log_prob(output, math.log(SIGMA), x),
            jnp.asarray(x, jnp.float32),
            beta=beta,
            num_samples=num_samples,
        )

    terms = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), count))
    gap = 0.5 * np.sum((offset / np.exp(log_scale)) ** 2)  # KL(q || true posterior), of equal scales
    return terms, float(log_px), float(gap)


@pytest.mark.parametrize("num_samples", [1, 3])
@pytest.mark.parametrize("offset", [0.0, 0.4])
def test_the_elbo_is_log_p_minus_the_kl_to_the_true_posterior(offset, num_samples):
    """Within 5.5 standard errors (4 cases: false failure below 2e-7 each)."""
    terms, log_px, gap = estimate(offset, num_samples=num_samples)
    values = np.asarray(terms.elbo, np.float64)
    assert abs(values.mean() - (log_px - gap)) < 5.5 * values.std() / math.sqrt(len(values)) + 1e-5


def test_more_samples_reduce_the_variance():
    one, _, _ = estimate(0.2, num_samples=1)
    nine, _, _ = estimate(0.2, num_samples=9)
    assert np.var(one.log_likelihood) / np.var(nine.log_likelihood) == pytest.approx(9, rel=0.15)


def test_beta_weights_the_loss_and_nothing_else():
    one, _, _ = estimate(0.2, beta=1.0, count=10)
    four, _, _ = estimate(0.2, beta=4.0, count=10)
    np.testing.assert_allclose(one.loss, -one.elbo, rtol=1e-6)
    np.testing.assert_allclose(four.loss, -(four.log_likelihood - 4 * four.kl), rtol=1e-6)
    np.testing.assert_array_equal(one.elbo, four.elbo)


def test_a_log_prob_that_is_no_scalar_and_no_samples_are_refused():
    def encode(x):
        return jnp.zeros(2), jnp.zeros(2)

    with pytest.raises(ValueError, match=r"scalar.*shape \(3,\)"):
        elbo(jax.random.key(0), encode, lambda z: jnp.zeros(3), lambda output, x: output, jnp.zeros(3))
    with pytest.raises(ValueError, match="num_samples"):
        elbo(jax.random.key(0), encode, lambda z: z, lambda output, x: jnp.sum(output), jnp.zeros(3), num_samples=0)


MEAN, LOG_SCALE = jnp.array([1.0, 0.1, 0.0, -2.0]), jnp.array([-0.5, -0.01, 0.0, 0.3])
KL = np.array([0.5 * (m**2 + math.exp(2 * s) - 1 - 2 * s) for m, s in zip(MEAN.tolist(), LOG_SCALE.tolist(), strict=True)])


def weighted(function, mean=MEAN, log_scale=LOG_SCALE, **options):
    """An objective with a decoder that ignores z: log_likelihood = -3."""

    @jax.jit
    def run(mean, log_scale):
        return function(
            jax.random.key(0),
            lambda x: (mean, log_scale),
            lambda z: 0 * z,
            lambda out, x: -3.0 + jnp.sum(out),
            jnp.zeros(4),
            **options,
        )

    return run(mean, log_scale)


@pytest.mark.parametrize("capacity", [0.0, 1.0, 25.0])
def test_capacity_holds_the_kl_of_each_example(capacity):
    terms = weighted(capacity_elbo, capacity=capacity, gamma=7.0)
    assert float(terms.loss) == pytest.approx(3 + 7 * abs(KL.sum() - capacity), rel=1e-6)
    assert float(terms.kl) == pytest.approx(KL.sum(), rel=1e-6)
    assert float(terms.log_likelihood) == -3


@pytest.mark.parametrize("num_groups", [None, 1, 2, 4])
def test_free_bits_clip_what_they_say(num_groups):
    groups = KL if num_groups is None else KL.reshape(num_groups, -1).sum(axis=1)
    terms = weighted(free_bits_elbo, free_bits=0.25, beta=2.0, num_groups=num_groups)
    assert float(terms.loss) == pytest.approx(3 + 2 * np.maximum(groups, 0.25).sum(), rel=1e-6)
    assert float(terms.kl) == pytest.approx(KL.sum(), rel=1e-6)  # reported as it is

    def loss(mean):
        return weighted(free_bits_elbo, mean=mean, free_bits=0.25, num_groups=num_groups).loss

    free = np.repeat(groups < 0.25, 4 // len(groups))
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(MEAN), np.where(free, 0, MEAN), rtol=1e-6)


def test_free_bits_groups_must_divide_the_code():
    with pytest.raises(ValueError, match="num_groups to divide"):
        weighted(free_bits_elbo, free_bits=0.25, num_groups=3)


BROKEN = {
    "capacity: sign": (test_capacity_holds_the_kl_of_each_example, 1.0, "abs", lambda t: -abs(t)),
    "capacity: squared": (test_capacity_holds_the_kl_of_each_example, 1.0, "abs", jnp.square),
    "free bits: minimum": (test_free_bits_clip_what_they_say, None, "maximum", jnp.minimum),
    "free bits: added": (test_free_bits_clip_what_they_say, None, "maximum", jnp.add),
}


@pytest.mark.parametrize(("test", "argument", "name", "twin"), BROKEN.values(), ids=BROKEN)
def test_broken_twins_fail(test, argument, name, twin, monkeypatch):
    monkeypatch.setattr(jnp, name, twin)
    with pytest.raises(AssertionError):
        test(argument)


def test_stl_has_the_closed_form_kl_on_record_and_a_sampled_one_in_the_loss():
    plain, stl = weighted(elbo, num_samples=5), weighted(elbo, num_samples=5, estimator="stl")
    np.testing.assert_allclose(stl.kl, plain.kl)
    assert float(stl.loss) != pytest.approx(float(plain.loss))
    np.testing.assert_allclose(kl_per_dimension(MEAN, LOG_SCALE), KL, rtol=1e-5)


def test_hyperparameters_stay_traced():
    objective = with_hyperparams(capacity_elbo, "capacity", "gamma")

    @jax.jit
    def loss(hyperparams):
        return objective(
            jax.random.key(0), lambda x: (MEAN, LOG_SCALE), lambda z: z, lambda out, x: -3.0 + 0 * out[0], None, hyperparams
        ).loss

    for capacity in (1.0, 2.0):
        assert float(loss(Hyperparams(capacity=capacity, gamma=2.0))) == pytest.approx(
            3 + 2 * abs(KL.sum() - capacity), rel=1e-6
        )
    assert loss._cache_size() == 1


def test_a_wrong_signature_or_result_says_what_is_expected():
    def short(key, encode, decode, x):
        """Two arguments too few."""

    with pytest.raises(
        ValueError, match=r"objective \(key, encode, decode, log_prob, x, hyperparams\).*got short\(key, encode"
    ):
        check_objective(short)
    check_objective(lambda *arguments: None)
    with pytest.raises(ValueError, match=r"Terms\(loss, log_likelihood, kl\).*returned tuple"):
        check_terms((1.0, 2.0))
    with pytest.raises(ValueError, match=r"log_likelihood to be a scalar.*shape \(3,\).*Sum over the event"):
        check_terms(Terms(jnp.zeros(()), jnp.zeros(3), jnp.zeros(())))
    with pytest.raises(ValueError, match=r"kl to be shape \(5,\), one number for each example.*got shape \(\)"):
        check_terms(Terms(jnp.zeros(5), jnp.zeros(5), jnp.zeros(())), (5,))
