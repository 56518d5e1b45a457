"""Hamiltonian Monte Carlo on a path of densities: leapfrog steps, a transition with Metropolis correction, step sizes."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

# Step sizes are drawn within this share of their value. A whole trajectory of one fixed length can be a period of the target
# (ten steps on a Gaussian whose dimensions are alike), and the chain then stands still.
JITTER = 0.2
ADAPTATION_STEPS = 10  # transitions at each temperature where a step size is adapted
# Of the log step size on the acceptance rate, at the first temperature and at the others. 1 is near Newton's step, the slope
# being about -0.65 at a rate of 0.65; but its noise raises the rate that is reached by 0.05 (a gain of 0.3: by 0.01).
_FIRST_GAIN, _GAIN = 1.0, 0.3
# Log step sizes move in whole numbers of 1/32. Left free they magnify the rounding errors of a batch's shape, since near the
# largest stable step the acceptance rate hangs on the step size, and it again on the rate: within 200 transitions they were
# visible in the estimates of most examples, and so in none or few.
_STEPS_PER_E = 32


class Path(NamedTuple):
    """Unnormalised densities f_t of one code, log f_t(z) = log_start(z) + t log_ratio(z), t from 0 to 1.

    This is the geometric path f_0^(1-t) f_1^t between f_0 = exp(log_start) and f_1 = f_0 exp(log_ratio). Kept in two parts, so
    that what is known of a point at one t is known at the next.
    """

    log_start: Callable[[Array], Array]  # z -> scalar nats
    log_ratio: Callable[[Array], Array]  # z -> scalar nats


class Point(NamedTuple):
    """A code with the two parts of its log density and their gradients."""

    z: Array  # (latent,)
    log_start: Array  # scalar
    log_ratio: Array  # scalar
    gradient_start: Array  # (latent,)
    gradient_ratio: Array  # (latent,)

    def log_density(self, t: ArrayLike) -> Array:
        """Log f_t(z): scalar, nats, up to the constant of f_t."""
        return self.log_start + t * self.log_ratio

    def gradient(self, t: ArrayLike) -> Array:
        """Gradient of log f_t at z, (latent,)."""
        return self.gradient_start + t * self.gradient_ratio


def point_at(path: Path, z: Array) -> Point:
    """Evaluates both parts of a path and their gradients at one code.

    Example:
      >>> path = Path(lambda z: -jnp.sum(jnp.square(z)) / 2, lambda z: jnp.sum(z))
      >>> print(point_at(path, jnp.array([1.0, 2.0])).gradient(0.5))
      [-0.5 -1.5]
    """
    log_start, gradient_start = jax.value_and_grad(path.log_start)(z)
    log_ratio, gradient_ratio = jax.value_and_grad(path.log_ratio)(z)
    return Point(z, log_start, log_ratio, gradient_start, gradient_ratio)


def leapfrog(
    path: Path,
    t: ArrayLike,
    point: Point,
    momentum: Array,
    step_size: ArrayLike,
    scale: ArrayLike,
    num_steps: int,
) -> tuple[Point, Array]:
    """Follows Hamilton's equations for log f_t from one point, in so many steps; reversible, and keeps volumes.

        e = step_size scale;   v <- v + e/2 g(z),  z <- z + e v,  v <- v + e/2 g(z),   g = gradient of log f_t

    which is the usual leapfrog on z / scale: a momentum of N(0, I) then fits a target with standard deviations `scale`.

    Args:
      path, t: the density log f_t; t may be traced.
      point: where it starts, with its gradients: they are not computed again.
      momentum: v, shape (latent,).
      step_size: scalar > 0, in units of scale; may be traced.
      scale: a scalar or (latent,), > 0.
      num_steps: >= 1 (static).

    Returns:
      The point at the end, and the momentum there. Going back: from that point with the momentum's sign changed.

    Numerics:
      The change of log f_t(z) - |v|^2/2 is of second order in the step size over a fixed time. One gradient for each step; the
      value of log f_t is computed at the end alone.

    Source:
      Neal (2011).
    """
    if num_steps < 1:
        raise ValueError(f"leapfrog: expected num_steps >= 1, got {num_steps}.")
    gradient = jax.grad(lambda z: path.log_start(z) + t * path.log_ratio(z))
    step = step_size * scale

    def full_step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        z, momentum = carry
        z = z + step * momentum
        return (z, momentum + step * gradient(z)), None  # the half steps of two neighbours at once

    momentum = momentum + 0.5 * step * point.gradient(t)
    (z, momentum), _ = jax.lax.scan(full_step, (point.z, momentum), length=num_steps - 1)
    end = point_at(path, z + step * momentum)
    return end, momentum + 0.5 * step * end.gradient(t)


def hmc_step(
    key: Array,
    path: Path,
    t: ArrayLike,
    point: Point,
    step_size: ArrayLike,
    scale: ArrayLike = 1.0,
    *,
    num_leapfrog: int = 10,
) -> tuple[Point, Array]:
    """One transition of one chain that leaves f_t invariant, and is reversible: a fresh momentum, leapfrog, accept or stay.

        v ~ N(0, I);   accept the end with probability min(1, exp(H(z, v) - H(z', v'))),   H = |v|^2/2 - log f_t(z)

    Args:
      key: a new-style PRNG key.
      path, t, point, scale: as in `leapfrog`.
      step_size: as in `leapfrog`; the transition uses it times a uniform draw from 1 - JITTER to 1 + JITTER.
      num_leapfrog: steps, >= 1 (static).

    Returns:
      The next point, and the probability with which the end was accepted. An end that is not finite is never accepted.

    Example: a standard normal, from its mode.
      >>> path = Path(lambda z: -jnp.sum(jnp.square(z)) / 2, lambda z: jnp.zeros(()))
      >>> start = point_at(path, jnp.zeros(2))
      >>> keys = jax.random.split(jax.random.key(0), 1000)
      >>> ends, accepted = jax.vmap(lambda key: hmc_step(key, path, 1.0, start, 0.15))(keys)
      >>> print(accepted.mean())
      1.0

    Source:
      Duane et al. (1987); Neal (2011).
    """
    key_momentum, key_length, key_accept = jax.random.split(key, 3)
    momentum = jax.random.normal(key_momentum, point.z.shape, point.z.dtype)
    step_size = step_size * jax.random.uniform(key_length, (), point.z.dtype, 1 - JITTER, 1 + JITTER)
    end, end_momentum = leapfrog(path, t, point, momentum, step_size, scale, num_leapfrog)
    kinetic = 0.5 * (jnp.sum(jnp.square(momentum)) - jnp.sum(jnp.square(end_momentum)))
    log_accept = end.log_density(t) - point.log_density(t) + kinetic
    # A trajectory that left the finite numbers has NaN here: it is refused, and none of it is kept.
    log_accept = jnp.where(jnp.isnan(log_accept), -jnp.inf, jnp.minimum(log_accept, 0.0))
    accepted = jnp.log(jax.random.uniform(key_accept, (), point.z.dtype)) < log_accept
    chosen = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), end, point)
    return chosen, jnp.exp(log_accept)


def fold_in_chains(keys: Array, i: Array | int) -> Array:
    """The key of every chain with a number folded in: one for all, or one for each."""
    return jax.vmap(jax.random.fold_in)(keys, jnp.broadcast_to(jnp.asarray(i), keys.shape))


def move_chains(
    keys: Array, path: Path, t: Array, points: Point, step_size: Array, scale: Array, num_leapfrog: int
) -> tuple[Point, Array]:
    """An `hmc_step` of every chain, each with its own key, t, point and step size; their path and scale are one."""

    def one(key: Array, t: Array, point: Point, step_size: Array) -> tuple[Point, Array]:
        return hmc_step(key, path, t, point, step_size, scale, num_leapfrog=num_leapfrog)

    return jax.vmap(one)(keys, t, points, step_size)


class StepSizes(NamedTuple):
    """Log step sizes at some of the transitions along a path; in between they are interpolated."""

    number: Array  # (knots,), numbers of the transitions, as floats
    log_step_size: Array  # (knots,)

    def __call__(self, number: Array) -> Array:
        """The step size of the transition with this number."""
        return jnp.exp(jnp.interp(number.astype(self.number.dtype), self.number, self.log_step_size))


def adapt_step_sizes(
    keys: Array,
    path: Path,
    temperatures: np.ndarray,
    numbers: np.ndarray,
    points: Point,
    scale: Array,
    *,
    target_acceptance: float = 0.65,
    num_leapfrog: int = 10,
) -> StepSizes:
    """Step sizes that are accepted at the rate asked for, at some temperatures, for chains that go from one to the next.

        log step size <- log step size + gain (mean acceptance probability of the chains - target)

    and at each temperature the mean of the last half of its steps.

    Args:
      keys: (chains,), for this purpose alone: a chain that is moved with a step size found from its own past is not invariant.
      path: as in `leapfrog`.
      temperatures, numbers: (knots,), t rising along the path and the numbers of the transitions there, for `StepSizes`.
      points: where the chains start, each leaf (chains, ...).
      scale: as in `leapfrog`, (latent,).
      target_acceptance: in (0, 1); num_leapfrog: as in `hmc_step`.

    Source:
      Robbins & Monro (1951).
    """
    dtype = scale.dtype

    def adapt_at(carry: tuple[Point, Array], knot: tuple[Array, Array, Array]) -> tuple[tuple[Point, Array], Array]:
        at, t, gain = knot

        def step(carry: tuple[Point, Array], i: Array) -> tuple[tuple[Point, Array], Array]:
            points, log_step_size = carry
            t_of, step_size = (jnp.broadcast_to(value, keys.shape) for value in (t, jnp.exp(log_step_size)))
            step_keys = fold_in_chains(keys, 1 + at * ADAPTATION_STEPS + i)
            points, accepted = move_chains(step_keys, path, t_of, points, step_size, scale, num_leapfrog)
            change = gain * (jnp.mean(accepted) - target_acceptance)
            log_step_size = log_step_size + jnp.round(change * _STEPS_PER_E) / _STEPS_PER_E
            return (points, log_step_size), log_step_size

        (points, _), trace = jax.lax.scan(step, carry, jnp.arange(ADAPTATION_STEPS))
        settled = jnp.mean(trace[ADAPTATION_STEPS // 2 :])
        return (points, settled), settled

    # The first temperature twice: there the step size has far to go.
    t = jnp.asarray(np.concatenate([temperatures[:1], temperatures]), dtype)
    gain = jnp.full(t.shape, _GAIN, dtype).at[0].set(_FIRST_GAIN)
    start = jnp.asarray(-0.25 * np.log(scale.size), dtype)  # how the step size falls with the dimensions
    _, settled = jax.lax.scan(adapt_at, (points, start), (jnp.arange(len(t)), t, gain))
    return StepSizes(jnp.asarray(numbers, dtype), settled[1:])
