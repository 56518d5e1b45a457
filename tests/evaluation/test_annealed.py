"""Annealed importance sampling on models whose log p(x) is exact: linear-Gaussian ones, and one latent by quadrature.

Statistical comparisons go through `budget.accept`: none fails on correct code but with the probability stated there.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from budget import accept, accept_mean
from scipy import integrate, special, stats

from vae_jax import likelihoods
from vae_jax.evaluation import DataSlice, hmc
from vae_jax.evaluation import annealed_importance as annealed
from vae_jax.evaluation.annealed_importance import ais, ais_dataset, bdmc, bdmc_simulated
from vae_jax.evaluation.annealing import Annealing, temperatures
from vae_jax.evaluation.hmc import JITTER, Path, hmc_step, leapfrog, point_at
from vae_jax.model import VAE
from vae_jax.priors import gaussian_mixture

SIGMA, DATA_DIM, LATENT = 0.5, 6, 3
STARTS = ("posterior", "prior")
# Compiling is most of the time of these tests: where one start says most of it, the other is tested with the slow ones.
POSTERIOR_FIRST = ("posterior", pytest.param("prior", marks=pytest.mark.slow))
PRIOR_FIRST = (pytest.param("posterior", marks=pytest.mark.slow), "prior")


class Linear:
    """X = W z + mu + noise: its exact posterior, exact log p(x), and an encoder that is off by (shift, log_factor)."""

    def __init__(
        self, seed=0, shift=0.0, log_factor=0.0, orthogonal=True, strength=1.0, prior=None, prior_mean=0.0, prior_scale=1.0
    ):
        rng = np.random.default_rng(seed)
        columns = np.linalg.qr(rng.normal(size=(DATA_DIM, LATENT)))[0]
        mix = np.eye(LATENT) if orthogonal else stats.special_ortho_group(LATENT, seed=1).rvs()
        self.weights, self.mu = columns * (strength * np.array([2.0, 1.0, 0.5])) @ mix, rng.normal(size=DATA_DIM)
        precision = self.weights.T @ self.weights / SIGMA**2 + np.eye(LATENT) / prior_scale**2
        self.covariance = np.linalg.inv(precision)
        centre = self.weights @ np.full(LATENT, prior_mean) + self.mu
        marginal = prior_scale**2 * self.weights @ self.weights.T + SIGMA**2 * np.eye(DATA_DIM)
        self.marginal = stats.multivariate_normal(centre, marginal)
        self.prior_mean, self.prior_scale = prior_mean, prior_scale
        weights, mu = jnp.asarray(self.weights), jnp.asarray(self.mu)
        gain = jnp.asarray(self.covariance @ self.weights.T / SIGMA**2)
        offset = jnp.asarray(self.covariance @ np.full(LATENT, prior_mean / prior_scale**2) + shift)
        log_scale = jnp.asarray(0.5 * np.log(np.diag(self.covariance)) + log_factor)
        self.vae = VAE(
            lambda key: {},
            lambda params, x: (gain @ (x - mu) + offset, log_scale),
            lambda params, z: weights @ z + mu,
            likelihoods.gaussian(SIGMA),
            (DATA_DIM,),
            LATENT,
            prior,
        )

    def draw(self, count, seed=0):
        """Codes and data from the model, and exact log p(x)."""
        rng = np.random.default_rng(seed)
        z = self.prior_mean + self.prior_scale * rng.normal(size=(count, LATENT))
        x = z @ self.weights.T + self.mu + SIGMA * rng.normal(size=(count, DATA_DIM))
        return jnp.asarray(z), jnp.asarray(x), self.marginal.logpdf(x)


def run_bdmc(model, z, x, settings, seed=0):
    one = lambda key, x, z: bdmc(key, model.vae, {}, x, z, settings)  # noqa: E731
    return jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), len(x)), x, z)


def float64(values):
    return np.asarray(values, np.float64)


# Hamiltonian dynamics.

QUARTIC = Path(lambda z: -jnp.sum(z**4) / 4 - z[0] * z[1], lambda z: -jnp.sum(jnp.square(z - 1)) / 2)
SCALE = np.array([0.7, 1.5, 1.0])


def flow(z, momentum, step_size, num_steps, t=0.6):
    return leapfrog(QUARTIC, t, point_at(QUARTIC, z), momentum, step_size, jnp.asarray(SCALE), num_steps)


def test_leapfrog_is_reversible(x64):
    z, momentum = jnp.array([0.3, -0.8, 1.1]), jnp.array([1.0, 0.4, -0.7])
    end, end_momentum = flow(z, momentum, 0.15, 10)
    assert float(jnp.linalg.norm(end.z - z)) > 0.3
    back, back_momentum = flow(end.z, -end_momentum, 0.15, 10)
    np.testing.assert_allclose(back.z, z, atol=1e-13)
    np.testing.assert_allclose(back_momentum, -momentum, atol=1e-13)


def test_leapfrog_keeps_volumes(x64):
    def map_of(both):
        end, momentum = flow(both[:3], both[3:], 0.15, 7)
        return jnp.concatenate([end.z, momentum])

    jacobian = jax.jacobian(map_of)(jnp.array([0.3, -0.8, 1.1, 1.0, 0.4, -0.7]))
    assert float(jnp.linalg.det(jacobian)) == pytest.approx(1, abs=1e-12)


def test_the_energy_error_is_of_second_order_in_the_step_size(x64):
    z, momentum = jnp.array([0.3, -0.8, 1.1]), jnp.array([1.0, 0.4, -0.7])
    errors = []
    for num_steps in (40, 80, 160):
        end, end_momentum = flow(z, momentum, 1.0 / num_steps, num_steps)
        start_energy = jnp.sum(momentum**2) / 2 - point_at(QUARTIC, z).log_density(0.6)
        errors.append(float(jnp.sum(end_momentum**2) / 2 - end.log_density(0.6) - start_energy))
    assert abs(errors[0]) > 1e-5
    np.testing.assert_allclose([errors[0] / errors[1], errors[1] / errors[2]], 4, rtol=0.05)


def test_leapfrog_is_the_plain_recursion(x64):
    """Against NumPy on a Gaussian, in coordinates divided by the scale, with every half step written out."""
    precision = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.5]])
    path = Path(lambda z: -z @ jnp.asarray(precision) @ z / 2, lambda z: jnp.zeros(()))
    z, momentum, step_size = np.array([0.5, -1.0, 2.0]), np.array([0.1, 0.9, -0.3]), 0.2
    end, end_momentum = leapfrog(path, 1.0, point_at(path, jnp.asarray(z)), jnp.asarray(momentum), step_size, SCALE, 6)
    y, v = z / SCALE, momentum
    for _ in range(6):
        v = v + 0.5 * step_size * (-SCALE * (precision @ (SCALE * y)))
        y = y + step_size * v
        v = v + 0.5 * step_size * (-SCALE * (precision @ (SCALE * y)))
    np.testing.assert_allclose(end.z, SCALE * y, rtol=1e-12)
    np.testing.assert_allclose(end_momentum, v, rtol=1e-12)
    np.testing.assert_allclose(end.gradient(1.0), -precision @ end.z, rtol=1e-12)


COVARIANCE = np.array([[1.0, 0.6, 0.0], [0.6, 0.8, -0.3], [0.0, -0.3, 2.0]])
CENTRE = np.array([1.0, -2.0, 0.5])


def assert_invariant(step, t=0.4, chains=20_000, num_steps=6):
    """Exact draws of f_t, moved several times: the moments are still those of f_t, by z-tests."""
    precision, slope = np.linalg.inv(COVARIANCE), np.array([0.5, 0.0, -1.0])
    path = Path(
        lambda z: -(z - CENTRE.astype(np.float32)) @ jnp.asarray(precision, jnp.float32) @ (z - CENTRE.astype(np.float32)) / 2,
        lambda z: z @ jnp.asarray(slope, jnp.float32),
    )
    centre, root = CENTRE + t * COVARIANCE @ slope, np.linalg.cholesky(COVARIANCE)
    draws = centre + np.random.default_rng(0).normal(size=(chains, 3)) @ root.T

    def chain(key, z):
        def body(point, i):
            return step(jax.random.fold_in(key, i), path, t, point)

        point, rates = jax.lax.scan(body, point_at(path, z), jnp.arange(num_steps))
        return point, jnp.mean(rates)

    points, rates = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), chains), jnp.asarray(draws, jnp.float32))
    # What is carried along belongs to the point at which the chain is, not to the one refused.
    fresh = jax.vmap(lambda z: point_at(path, z))(points.z)
    np.testing.assert_allclose(points.log_density(t), fresh.log_density(t), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(points.gradient_start, fresh.gradient_start, rtol=1e-4, atol=1e-4)
    white = np.linalg.solve(root, (float64(points.z) - centre).T).T
    for i in range(3):
        accept_mean(white[:, i], 0.0, deviation=1.0)
        for j in range(i + 1):
            accept_mean(white[:, i] * white[:, j], float(i == j), deviation=math.sqrt(1 + (i == j)))
    moved = np.mean(np.any(float64(points.z) != draws.astype(np.float32), axis=1))
    return float(jnp.mean(rates)), moved


def test_a_transition_leaves_the_density_invariant():
    rate, moved = assert_invariant(lambda *a: hmc_step(*a, 0.9, num_leapfrog=3))
    assert 0.4 < rate < 0.9  # of a rate of 1 the correction would have no part
    assert moved > 0.98


def always_accept(key, path, t, point, step_size, scale=1.0, *, num_leapfrog=10):
    """No Metropolis correction, though its probability is computed."""
    momentum = jax.random.normal(key, point.z.shape, point.z.dtype)
    end, end_momentum = leapfrog(path, t, point, momentum, step_size, scale, num_leapfrog)
    gain = end.log_density(t) - point.log_density(t) + (jnp.sum(momentum**2) - jnp.sum(end_momentum**2)) / 2
    return end, jnp.exp(jnp.minimum(gain, 0.0))


def accept_inverted(key, path, t, point, step_size, scale=1.0, *, num_leapfrog=10):
    """The correction with the sign of the energy wrong."""
    key_momentum, key_accept = jax.random.split(key)
    momentum = jax.random.normal(key_momentum, point.z.shape, point.z.dtype)
    end, end_momentum = leapfrog(path, t, point, momentum, step_size, scale, num_leapfrog)
    gain = end.log_density(t) - point.log_density(t) + (jnp.sum(momentum**2) - jnp.sum(end_momentum**2)) / 2
    accepted = jnp.log(jax.random.uniform(key_accept)) < -gain
    return jax.tree.map(lambda new, old: jnp.where(accepted, new, old), end, point), jnp.minimum(1.0, jnp.exp(-gain))


def accept_without_kinetic_energy(key, path, t, point, step_size, scale=1.0, *, num_leapfrog=10):
    key_momentum, key_accept = jax.random.split(key)
    momentum = jax.random.normal(key_momentum, point.z.shape, point.z.dtype)
    end, _ = leapfrog(path, t, point, momentum, step_size, scale, num_leapfrog)
    gain = end.log_density(t) - point.log_density(t)
    accepted = jnp.log(jax.random.uniform(key_accept)) < gain
    return jax.tree.map(lambda new, old: jnp.where(accepted, new, old), end, point), jnp.minimum(1.0, jnp.exp(gain))


@pytest.mark.parametrize("broken", [always_accept, accept_inverted, accept_without_kinetic_energy])
def test_broken_twins_of_the_transition_fail(broken):
    with pytest.raises(AssertionError, match="p-value"):
        assert_invariant(lambda *a: broken(*a, 0.9, num_leapfrog=3))


def test_a_trajectory_that_leaves_the_numbers_is_refused():
    path = Path(lambda z: jnp.where(jnp.abs(z[0]) < 1, 0.0, jnp.nan) - z[0] ** 2, lambda z: jnp.zeros(()))
    start = point_at(path, jnp.array([0.9]))
    move = jax.jit(jax.vmap(lambda key: hmc_step(key, path, 1.0, start, 0.5, num_leapfrog=2)))
    points, rates = move(jax.random.split(jax.random.key(0), 200))
    assert np.all(np.abs(points.z) < 1)
    assert np.all(np.isfinite(points.gradient_start))
    assert 0 < np.mean(np.asarray(rates) == 0) < 1
    assert np.all(np.asarray(points.z)[np.asarray(rates) == 0] == np.float32(0.9))


def test_the_length_of_a_trajectory_varies():
    """Ten steps that are a period of a standard normal bring it back to where it was; not all of them may be."""
    path = Path(lambda z: -jnp.sum(jnp.square(z)) / 2, lambda z: jnp.zeros(()))
    step_size = 2 * math.sin(math.pi / 10)  # the leapfrog's own frequency: ten steps turn by 2 pi
    z, momentum = jnp.array([2.0]), jnp.array([1.0])
    stuck, _ = leapfrog(path, 1.0, point_at(path, z), momentum, step_size, 1.0, 10)
    np.testing.assert_allclose(stuck.z, z, atol=1e-5)
    keys = jax.random.split(jax.random.key(0), 2000)
    points, _ = jax.jit(jax.vmap(lambda key: hmc_step(key, path, 1.0, point_at(path, z), step_size)))(keys)
    assert JITTER > 0
    assert np.mean(np.abs(np.asarray(points.z) - 2) > 0.5) > 0.25


# Annealed importance sampling.


@pytest.mark.parametrize("num_temperatures", [1, 2, 9])
def test_from_the_true_posterior_every_weight_is_p_of_x(num_temperatures, x64):
    model = Linear()
    z, x, log_px = model.draw(5)
    bounds = run_bdmc(model, z, x, Annealing(num_temperatures=num_temperatures, num_chains=4, num_adaptation=20))
    for side in bounds:
        np.testing.assert_allclose(side.log_px, log_px, rtol=1e-12)
        np.testing.assert_allclose(side.standard_error, 0, atol=1e-12)
        np.testing.assert_allclose(side.effective_sample_size, 4, rtol=1e-12)


def assert_unbiased(start, *, count=16_000):
    """E[w] = p(x) and E[1/w'] = 1/p(x), for few temperatures and one chain, where the bounds are far from tight."""
    model = Linear(shift=0.15, log_factor=0.1, orthogonal=False, strength=0.5 if start == "posterior" else 0.25)
    z, x, log_px = model.draw(count)
    settings = Annealing(start=start, num_temperatures=12, num_chains=1, num_leapfrog=3, num_adaptation=40)
    bounds = run_bdmc(model, z, x, settings)
    for side, sign in (("lower", 1), ("upper", -1)):
        log_ratio = sign * (float64(getattr(bounds, side).log_px) - log_px)
        accept_mean(np.exp(np.minimum(log_ratio, 100)), 1.0)  # what is broken may overflow
        # Far enough from tight to see what is wrong, and close enough for the mean of so many weights to be nearly Gaussian.
        assert 0.2 < np.std(log_ratio) < 1


@pytest.mark.parametrize("start", POSTERIOR_FIRST)
def test_weights_are_unbiased_for_any_number_of_temperatures(start):
    assert_unbiased(start)


@pytest.mark.parametrize("start", PRIOR_FIRST)
def test_weights_are_unbiased_with_another_prior(start):
    prior = gaussian_mixture(LATENT, 1)
    params = {"logits": jnp.zeros(1), "means": jnp.full((1, LATENT), 0.7), "log_scales": jnp.full((1, LATENT), math.log(0.6))}
    fixed = prior._replace(
        log_prob=lambda _, encode, z: prior.log_prob(params, encode, z),
        sample=lambda _, encode, key: prior.sample(params, encode, key),
    )
    model = Linear(shift=0.15, log_factor=0.1, strength=0.5, prior=fixed, prior_mean=0.7, prior_scale=0.6)
    model.vae = model.vae._replace(init=lambda key: {"prior": None})
    z, x, log_px = model.draw(2000)
    settings = Annealing(start=start, num_temperatures=8, num_chains=1, num_leapfrog=3, num_adaptation=20)
    one = lambda key, x, z: bdmc(key, model.vae, {"prior": None}, x, z, settings)  # noqa: E731
    lower, upper = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), len(x)), x, z)
    accept_mean(np.exp(float64(lower.log_px) - log_px), 1.0)
    accept_mean(np.exp(log_px - float64(upper.log_px)), 1.0)


def without_differences(monkeypatch):
    """Weights without the differences of the temperatures: each counts 1/n. Right for a linear schedule alone."""
    monkeypatch.setattr(annealed, "_increments", lambda t: np.full_like(t[1:], 1 / (len(t) - 1)))


def differences_off_by_one(monkeypatch):
    """Each weight with the difference of the step after."""
    monkeypatch.setattr(annealed, "_increments", lambda t: np.roll(np.diff(t), -1))


def moves_at_the_temperature_after(monkeypatch):
    """Transitions that leave f of the next temperature invariant, not of that at which the weight stopped."""
    real = annealed.move_chains
    monkeypatch.setattr(
        annealed, "move_chains", lambda keys, path, t, *rest: real(keys, path, jnp.minimum(t + 0.1, 1.0), *rest)
    )


def no_metropolis(monkeypatch):
    monkeypatch.setattr(hmc, "hmc_step", always_accept)


def sign_of_q(monkeypatch):
    real = annealed.posterior_log_prob
    monkeypatch.setattr(annealed, "posterior_log_prob", lambda mean, log_scale, z: -real(mean, log_scale, z))


def q_without_its_normaliser(monkeypatch):
    monkeypatch.setattr(
        annealed, "posterior_log_prob", lambda mean, log_scale, z: -jnp.sum(jnp.square((z - mean) * jnp.exp(-log_scale))) / 2
    )


def start_not_from_p_0(monkeypatch):
    real = annealed._start
    monkeypatch.setattr(
        annealed, "_start", lambda keys, problem: real(keys, problem._replace(sample=lambda key: 0.6 * problem.sample(key)))
    )


@pytest.mark.parametrize(
    ("broken", "start"),
    [
        # These three fail in the default run too: on one path, in test_annealed_path.
        pytest.param(without_differences, "prior", marks=pytest.mark.slow),
        pytest.param(differences_off_by_one, "prior", marks=pytest.mark.slow),
        pytest.param(moves_at_the_temperature_after, "prior", marks=pytest.mark.slow),
        (no_metropolis, "posterior"),
        pytest.param(sign_of_q, "posterior", marks=pytest.mark.slow),
        pytest.param(q_without_its_normaliser, "posterior", marks=pytest.mark.slow),
        pytest.param(start_not_from_p_0, "prior", marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_broken_twins_of_the_weights_fail(broken, start, monkeypatch):
    broken(monkeypatch)
    with pytest.raises(AssertionError, match="p-value"):
        assert_unbiased(start)


@pytest.mark.parametrize("start", POSTERIOR_FIRST)
@pytest.mark.slow
def test_both_bounds_close_on_log_p_as_temperatures_are_added(start):
    assert_closing(start, (10, 100), 800)


@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS)
def test_both_bounds_close_on_log_p_up_to_a_thousand_temperatures(start):
    assert_closing(start, (10, 100, 1000), 4000)


def assert_closing(start, numbers, count):
    model = Linear(shift=0.3, log_factor=0.2)
    z, x, log_px = model.draw(count)
    gaps, errors = [], []
    for n in numbers:
        bounds = run_bdmc(
            model, z, x, Annealing(start=start, num_temperatures=n, num_chains=2, num_leapfrog=5, num_adaptation=100)
        )
        lower, upper = float64(bounds.lower.log_px) - log_px, float64(bounds.upper.log_px) - log_px
        gap = float64(bounds.gap)
        np.testing.assert_allclose(gap, upper - lower, atol=1e-4)
        for one_sided in (lower, -upper):  # in expectation not above 0
            accept(stats.norm.sf(one_sided.mean() / (one_sided.std() / math.sqrt(count))))
        accept(stats.norm.sf(-gap.mean() / (gap.std() / math.sqrt(count))))
        gaps.append(gap.mean())
        errors.append(gap.std() / math.sqrt(count))
    for i in range(len(numbers) - 1):  # asymptotically a tenth
        assert gaps[i + 1] + 6 * errors[i + 1] < 0.5 * gaps[i]


def test_one_temperature_is_importance_sampling():
    """One latent, p(z) = N(0, 1), p(x|z) = N(z, 1), x = 1.3, q = N(0.2, 0.8): the ELBO, and chi^2/(2k) below log p(x)."""
    encode = lambda params, x: (jnp.full(1, 0.2), jnp.full(1, math.log(0.8) / 2))  # noqa: E731
    vae = VAE(lambda key: {}, encode, lambda params, z: z, likelihoods.gaussian(1.0), (1,), 1)
    keys, x = jax.random.split(jax.random.key(0), 40_000), jnp.array([1.3])
    s_q, s_p, spread = math.sqrt(0.8), math.sqrt(0.5), 2 * 0.8 - 0.5
    chi_square = s_q**2 / (s_p * math.sqrt(spread)) * math.exp((1.3 / 2 - 0.2) ** 2 / spread) - 1
    log_px = stats.norm(0, math.sqrt(2)).logpdf(1.3)
    for k, expected, slack in ((1, -1.955510, 1e-6), (32, log_px - chi_square / 64, 2 / 32**2)):
        settings = Annealing(num_temperatures=1, num_chains=k)
        got = jax.jit(jax.vmap(lambda key, s=settings: ais(key, vae, {}, x, s)))(keys)
        accept_mean(got.log_px, expected, slack=slack)
        assert np.all(np.isnan(got.acceptance_rate))
    assert np.mean(got.effective_sample_size) == pytest.approx(32 / (1 + chi_square), rel=0.05)
    assert np.mean(got.standard_error) == pytest.approx(np.std(float64(got.log_px)), rel=0.05)


def test_the_standard_error_is_that_of_repetition():
    model = Linear(shift=0.3, log_factor=0.2)
    _, x, _ = model.draw(1)
    settings = Annealing(num_temperatures=10, num_chains=32, num_leapfrog=4, num_adaptation=20)
    got = jax.jit(jax.vmap(lambda key: ais(key, model.vae, {}, x[0], settings)))(jax.random.split(jax.random.key(0), 1000))
    assert np.mean(got.standard_error) == pytest.approx(np.std(float64(got.log_px)), rel=0.15)
    assert np.all((np.asarray(got.effective_sample_size) > 1) & (np.asarray(got.effective_sample_size) <= 32))


@pytest.mark.parametrize("start", STARTS)
def test_the_acceptance_rate_is_what_was_asked_for(start):
    model = Linear(shift=0.3, log_factor=0.2)
    z, x, _ = model.draw(40)
    bounds = run_bdmc(model, z, x, Annealing(start=start, num_temperatures=100))
    for side in bounds:
        assert np.mean(side.acceptance_rate) == pytest.approx(0.65, abs=0.03)
        np.testing.assert_allclose(side.acceptance_rate, 0.65, atol=0.1)


def test_step_sizes_are_frozen_and_of_other_keys(monkeypatch):
    """The preliminary pass leaves step sizes behind and nothing else: with those given, the estimate is the same."""
    model = Linear(shift=0.3, log_factor=0.2)
    _, x, _ = model.draw(1)
    settings = Annealing(num_temperatures=10, num_chains=3, num_leapfrog=2, num_adaptation=20)
    real, found = annealed.adapt_step_sizes, []

    def spy(keys, *rest, **options):
        found.append((keys, real(keys, *rest, **options)))
        return found[0][1]

    monkeypatch.setattr(annealed, "adapt_step_sizes", spy)

    @jax.jit
    def twice(key):
        first = ais(key, model.vae, {}, x[0], settings)
        other, _ = found[0]
        monkeypatch.setattr(annealed, "adapt_step_sizes", lambda *a, **o: found[0][1])
        return first, ais(key, model.vae, {}, x[0], settings), found[0][1], other

    first, again, step_sizes, keys = twice(jax.random.key(0))
    assert step_sizes.log_step_size.shape == (2,)
    np.testing.assert_array_equal(again.log_px, first.log_px)
    of_estimate = annealed._chain_keys(jax.random.split(jax.random.key(0))[1], 3)
    assert not np.any(jax.random.key_data(keys) == jax.random.key_data(of_estimate))


def smooth_vae():
    """A Bernoulli decoder with a hidden layer of tanh, and grey bytes as they are stored."""
    rng = np.random.default_rng(0)
    inner, outer, encoder = (jnp.asarray(0.5 * rng.normal(size=shape)) for shape in ((8, 2), (9, 8), (2, 9)))
    vae = VAE(
        lambda key: {"inner": inner},
        lambda params, x: (encoder @ x.ravel() / 9, jnp.full(2, -0.1, encoder.dtype)),
        lambda params, z: (outer @ jnp.tanh(params["inner"] @ z)).reshape(3, 3, 1),
        likelihoods.bernoulli(),
        (3, 3, 1),
        2,
    )
    return vae, vae.init(jax.random.key(0)), jnp.asarray(255 * rng.integers(0, 2, (11, 3, 3, 1)), jnp.uint8)


def to_float(x):
    return x.astype(float) / 255


@pytest.mark.parametrize("start", POSTERIOR_FIRST)
def test_the_batch_size_changes_nothing_nor_does_a_part_and_the_jacobian_is_added(start, x64):
    """In float64: the rounding of a matrix product depends on its shape, and what chains make of it on the decoder."""
    vae, params, data = smooth_vae()
    settings = Annealing(start=start, num_temperatures=20, num_chains=3, num_leapfrog=4, num_adaptation=20)
    traces = []

    def run(params, data, log_jacobian, first, batch_size=1000):
        traces.append(1)
        options = {"to_input": to_float, "log_jacobian": log_jacobian, "batch_size": batch_size}
        return ais_dataset(jax.random.key(0), vae, params, DataSlice(data, first), settings, **options)

    run = jax.jit(run, static_argnames="batch_size")
    whole = run(params, data, 0.0, 0)
    other = run(jax.tree.map(lambda leaf: leaf / 2, params), data, 0.0, 0)
    assert len(traces) == 1  # other parameters do not compile again
    assert np.all(np.abs(other.log_px - whole.log_px) > 1e-3)
    assert all(leaf.shape == (11,) for leaf in whole)
    part = run(params, data[2:], -50.0, 2, batch_size=4)
    np.testing.assert_allclose(part.log_px, whole.log_px[2:] - 50, atol=1e-6)
    for leaf, of_part in zip(whole[1:], part[1:], strict=True):
        np.testing.assert_allclose(of_part, leaf[2:], atol=1e-6)


@pytest.mark.parametrize("start", POSTERIOR_FIRST)
def test_a_posterior_that_is_not_gaussian_by_quadrature(start):
    """One latent, a Bernoulli decoder with a hidden layer: log p(x) by SciPy, all bounds within their errors."""
    rng = np.random.default_rng(0)
    inner, outer, bias = rng.normal(size=4) * 2, rng.normal(size=(5, 4)) * 2, rng.normal(size=5)
    x = rng.integers(0, 2, (300, 5))
    inner32, outer32, bias32 = (jnp.asarray(a, jnp.float32) for a in (inner, outer, bias))

    def log_joint(z, x):
        logits = outer @ np.tanh(inner * z) + bias
        return np.sum(x * special.log_expit(logits) + (1 - x) * special.log_expit(-logits)) + stats.norm.logpdf(z)

    kinds = np.unique(x, axis=0)
    exact = {tuple(k): math.log(integrate.quad(lambda z, k=k: math.exp(log_joint(z, k)), -12, 12, limit=200)[0]) for k in kinds}
    log_px = np.array([exact[tuple(row)] for row in x])
    vae = VAE(
        lambda key: {},
        lambda params, x: (jnp.full(1, 0.2), jnp.full(1, -0.3)),
        lambda params, z: outer32 @ jnp.tanh(inner32 * z) + bias32,
        likelihoods.bernoulli(),
        (5,),
        1,
    )
    settings = Annealing(start=start, num_temperatures=30, num_chains=8, num_leapfrog=5, num_adaptation=50)
    got = jax.jit(lambda key, s=settings: ais_dataset(key, vae, {}, jnp.asarray(x, jnp.float32), s))(jax.random.key(0))
    accept_mean(np.exp(float64(got.log_px) - log_px), 1.0)
    assert np.mean(np.abs(float64(got.log_px) - log_px)) < 0.2


def test_simulated_data_are_of_the_model():
    """Their mean log p(x) is minus the entropy of the marginal; in float32 batches of another size give the same to 1e-4."""
    model = Linear(shift=0.1)
    settings = Annealing(num_temperatures=10, num_chains=4, num_leapfrog=3, num_adaptation=20)
    whole, parts = (
        jax.jit(lambda key, size=size: bdmc_simulated(key, model.vae, {}, 250, settings, batch_size=size))(jax.random.key(0))
        for size in (250, 70)
    )
    for side, of_parts in zip(whole, parts, strict=True):
        slack = float(np.mean(side.standard_error))
        accept_mean(side.log_px, -model.marginal.entropy(), deviation=math.sqrt(DATA_DIM / 2), slack=slack)
        np.testing.assert_allclose(of_parts.log_px, side.log_px, atol=1e-4)


def test_memory_does_not_grow_with_the_temperatures():
    model = Linear()
    _, x, _ = model.draw(50)

    def bytes_for(num_temperatures):
        settings = Annealing(num_temperatures=num_temperatures, num_chains=2, num_leapfrog=2)
        run = jax.jit(lambda key, x: ais_dataset(key, model.vae, {}, x, settings))
        return run.lower(jax.random.key(0), x).compile().memory_analysis().temp_size_in_bytes

    # The temperatures themselves: a few numbers each, whatever the examples and the chains.
    assert bytes_for(3000) - bytes_for(30) < 16 * 3000


def test_sums_of_thousands_of_float32_terms_keep_their_digits():
    terms = np.full(10_000, 0.07, np.float32)

    def sum_with(add):
        return jax.jit(lambda x: jax.lax.scan(lambda c, x: (add(*c, x), None), (jnp.float32(0), jnp.float32(0)), x)[0])(terms)

    exact = np.sum(terms.astype(np.float64))
    assert abs(float(sum_with(annealed._add)[0]) - exact) < 1e-4
    assert abs(float(sum_with(lambda total, lost, x: (total + x, lost))[0]) - exact) > 1e-3  # what it is there for


@pytest.mark.parametrize("schedule", ["linear", "sigmoid"])
@pytest.mark.parametrize("n", [1, 2, 10, 10_000])
def test_temperatures_rise_from_zero_to_one_evenly_to_both_sides(n, schedule):
    t = temperatures(n, schedule)
    assert len(t) == n + 1
    assert t[0] == 0
    assert t[-1] == 1
    assert np.all(np.diff(t) > 0)
    assert np.all(np.diff(t.astype(np.float32)) > 0)
    np.testing.assert_allclose(t + t[::-1], 1, atol=1e-15)
    if schedule == "sigmoid":
        u = np.linspace(-4, 4, n + 1)
        low, high = special.expit(-4), special.expit(4)
        np.testing.assert_allclose(t, (special.expit(u) - low) / (high - low), atol=1e-15)


def test_each_start_has_its_schedule():
    np.testing.assert_array_equal(Annealing(start="posterior", num_temperatures=7).temperatures(), temperatures(7, "linear"))
    np.testing.assert_array_equal(Annealing(start="prior", num_temperatures=7).temperatures(), temperatures(7, "sigmoid"))
    chosen = Annealing(start="prior", num_temperatures=7, schedule="linear").temperatures()
    np.testing.assert_array_equal(chosen, temperatures(7, "linear"))


def test_settings_are_checked():
    model = Linear()
    _, x, _ = model.draw(1)
    for wrong, message in (
        ({"num_temperatures": 0}, "num_temperatures >= 1, got 0"),
        ({"num_chains": 0}, "num_chains >= 1, got 0"),
        ({"num_leapfrog": -1}, "num_leapfrog >= 1, got -1"),
        ({"num_adaptation": 0}, "num_adaptation >= 1"),
        ({"start": "encoder"}, "'posterior' or 'prior', got 'encoder'"),
        ({"schedule": "cosine"}, "'linear' or 'sigmoid', got 'cosine'"),
        ({"target_acceptance": 1.0}, "target_acceptance between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            ais(jax.random.key(0), model.vae, {}, x[0], Annealing(**wrong))
    with pytest.raises(ValueError, match="num_steps >= 1"):
        leapfrog(QUARTIC, 1.0, point_at(QUARTIC, jnp.zeros(3)), jnp.zeros(3), 0.1, 1.0, 0)
