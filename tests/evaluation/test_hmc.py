"""Hamiltonian dynamics: the leapfrog integrator, and transitions that leave a density invariant."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from annealed_models import QUARTIC, always_accept, float64
from budget import accept_mean
from speed import slow_but

from vae_jax.evaluation.hmc import JITTER, Path, hmc_step, leapfrog, point_at

SCALE = np.array([0.7, 1.5, 1.0])


@functools.partial(jax.jit, static_argnames="num_steps")
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

    jacobian = jax.jit(jax.jacobian(map_of))(jnp.array([0.3, -0.8, 1.1, 1.0, 0.4, -0.7]))
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
    center, root = CENTRE + t * COVARIANCE @ slope, np.linalg.cholesky(COVARIANCE)
    draws = center + np.random.default_rng(0).normal(size=(chains, 3)) @ root.T

    def chain(key, z):
        def body(point, i):
            return step(jax.random.fold_in(key, i), path, t, point)

        point, rates = jax.lax.scan(body, point_at(path, z), jnp.arange(num_steps))
        return point, jnp.mean(rates)

    points, rates = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), chains), jnp.asarray(draws, jnp.float32))
    # What is carried along belongs to the point at which the chain is, not to the one refused.
    fresh = jax.jit(jax.vmap(lambda z: point_at(path, z)))(points.z)
    np.testing.assert_allclose(points.log_density(t), fresh.log_density(t), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(points.gradient_start, fresh.gradient_start, rtol=1e-4, atol=1e-4)
    white = np.linalg.solve(root, (float64(points.z) - center).T).T
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


@pytest.mark.parametrize(
    "broken", slow_but((accept_inverted,), [always_accept, accept_inverted, accept_without_kinetic_energy])
)
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
