"""Hamiltonian Monte Carlo on a path of densities: leapfrog steps, Metropolis-corrected transitions, step-size adaptation."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Shaped

# Step sizes are drawn uniformly within this share of their value. A trajectory of fixed length can be a whole period of the
# target (ten steps on a Gaussian with equal scales), in which case the chain would not move.
JITTER = 0.2
ADAPTATION_STEPS = 10  # transitions at each temperature at which a step size is adapted
# Change of the log step size for each unit of acceptance rate, at the first temperature and at the others. 1 is close to a
# Newton step, because the slope is about -0.65 at a rate of 0.65, but its noise raises the final rate by 0.05. A gain of 0.3
# raises it by 0.01.
_FIRST_GAIN, _GAIN = 1.0, 0.3
# Log step sizes move in multiples of 1/32. Without this, rounding errors that depend on the batch size grow: near the largest
# stable step, acceptance rate and step size depend strongly on each other. Such errors were visible in the estimates of most
# examples within 200 transitions, and with this rounding in none or few.
_STEPS_PER_E = 32


class Path(NamedTuple):
    """Unnormalized densities f_t of one code: log f_t(z) = log_start(z) + t log_ratio(z), with t from 0 to 1.

    This is the geometric path f_0^(1-t) f_1^t between f_0 = exp(log_start) and f_1 = f_0 exp(log_ratio). The two parts are
    kept separate, so that values computed at one t can be reused at the next.
    """

    log_start: Callable[[Array], Array]  # z -> scalar nats
    log_ratio: Callable[[Array], Array]  # z -> scalar nats


class Point(NamedTuple):
    """A code with the two parts of its log density and their gradients. The points of several chains have a leading axis."""

    z: Float[Array, "*chains latent"]
    log_start: Float[Array, "*chains"]
    log_ratio: Float[Array, "*chains"]
    gradient_start: Float[Array, "*chains latent"]
    gradient_ratio: Float[Array, "*chains latent"]

    def log_density(self, t: ArrayLike) -> Float[Array, "*chains"]:
        """Returns log f_t(z) in nats, up to the normalizing constant of f_t."""
        return self.log_start + t * self.log_ratio

    def gradient(self, t: ArrayLike) -> Float[Array, "*chains latent"]:
        """Returns the gradient of log f_t at z."""
        return self.gradient_start + t * self.gradient_ratio


def point_at(path: Path, z: Float[Array, "latent"]) -> Point:
    """Evaluates both parts of a path, and their gradients, at one code.

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
    momentum: Float[Array, "latent"],
    step_size: ArrayLike,
    scale: ArrayLike,
    num_steps: int,
) -> tuple[Point, Float[Array, "latent"]]:
    """Integrates Hamilton's equations for log f_t from one point. The map is reversible and preserves volume.

        e = step_size scale;   v <- v + e/2 g(z),  z <- z + e v,  v <- v + e/2 g(z),   g = gradient of log f_t

    This is the usual leapfrog on z / scale, so a momentum of N(0, I) fits a target with standard deviations `scale`.

    Args:
      path, t: the density log f_t. t may be traced.
      point: start, with its gradients, which are not computed again.
      momentum: v, shape (latent,).
      step_size: scalar > 0, in units of `scale`. It may be traced.
      scale: scalar or (latent,), > 0.
      num_steps: number of leapfrog steps, >= 1 (static).

    Returns:
      (end point, momentum at the end). The same number of steps from there with the momentum negated leads back to the start.

    Numerics:
      Over a fixed integration time, the change of log f_t(z) - |v|^2/2 is of second order in the step size. Each step costs one
      gradient. The value of log f_t is computed at the end only.

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
        return (z, momentum + step * gradient(z)), None  # two adjacent half steps in one

    momentum = momentum + 0.5 * step * point.gradient(t)
    (z, momentum), _ = jax.lax.scan(full_step, (point.z, momentum), length=num_steps - 1)
    end = point_at(path, z + step * momentum)
    return end, momentum + 0.5 * step * end.gradient(t)


def hmc_step(
    key: Key[Array, ""],
    path: Path,
    t: ArrayLike,
    point: Point,
    step_size: ArrayLike,
    scale: ArrayLike = 1.0,
    *,
    num_leapfrog: int = 10,
) -> tuple[Point, Float[Array, ""]]:
    """Makes one Hamiltonian Monte Carlo transition of one chain. It is reversible and leaves f_t invariant.

        v ~ N(0, I);   accept the end with probability min(1, exp(H(z, v) - H(z', v'))),   H = |v|^2/2 - log f_t(z)

    Args:
      key: a new-style PRNG key.
      path, t, point, scale: see `leapfrog`.
      step_size: scalar > 0, see `leapfrog`. It is multiplied by a uniform draw between 1 - JITTER and 1 + JITTER.
      num_leapfrog: number of leapfrog steps, >= 1 (static).

    Returns:
      (next point, acceptance probability of the end). An end that is not finite is never accepted.

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
    # A trajectory that overflowed gives NaN here. It is rejected.
    log_accept = jnp.where(jnp.isnan(log_accept), -jnp.inf, jnp.minimum(log_accept, 0.0))
    accepted = jnp.log(jax.random.uniform(key_accept, (), point.z.dtype)) < log_accept
    chosen = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), end, point)
    return chosen, jnp.exp(log_accept)


def fold_in_chains(keys: Key[Array, "chains"], i: Array | int) -> Key[Array, "chains"]:
    """Folds a number into the key of every chain: one number for all chains, or (chains,) numbers."""
    return jax.vmap(jax.random.fold_in)(keys, jnp.broadcast_to(jnp.asarray(i), keys.shape))


def move_chains(
    keys: Key[Array, "chains"],
    path: Path,
    t: Float[Array, "chains"],
    points: Point,
    step_size: Float[Array, "chains"],
    scale: Float[Array, "latent"],
    num_leapfrog: int,
) -> tuple[Point, Float[Array, "chains"]]:
    """Makes one `hmc_step` of every chain. Path and scale are shared, the other arrays have an entry for each chain."""

    def one(key: Array, t: Array, point: Point, step_size: Array) -> tuple[Point, Array]:
        return hmc_step(key, path, t, point, step_size, scale, num_leapfrog=num_leapfrog)

    return jax.vmap(one)(keys, t, points, step_size)


class StepSizes(NamedTuple):
    """Log step sizes at some of the transitions along a path, interpolated linearly in between."""

    number: Float[Array, "knots"]  # numbers of the transitions, as floats
    log_step_size: Float[Array, "knots"]

    def __call__(self, number: Shaped[Array, "*chains"]) -> Float[Array, "*chains"]:
        """Returns the step size of the transition with this number."""
        return jnp.exp(jnp.interp(number.astype(self.number.dtype), self.number, self.log_step_size))


def adapt_step_sizes(
    keys: Key[Array, "chains"],
    path: Path,
    temperatures: Float[np.ndarray, "knots"],
    numbers: Shaped[np.ndarray, "knots"],
    points: Point,
    scale: Float[Array, "latent"],
    *,
    target_acceptance: float = 0.65,
    num_leapfrog: int = 10,
) -> StepSizes:
    """Adapts step sizes to an acceptance rate at some temperatures, with chains that move from one temperature to the next.

        log step size <- log step size + gain (mean acceptance probability of the chains - target)

    The result at each temperature is the mean over the second half of its updates.

    Args:
      keys: (chains,), used for this purpose only. A chain whose step size depends on its past does not leave f_t invariant, so
        the adapting chains must be separate from those of the estimate.
      path: the densities, see `leapfrog`.
      temperatures: (knots,), values of t, increasing along the path.
      numbers: (knots,), numbers of the transitions at these temperatures, for `StepSizes`.
      points: start of the chains, each leaf (chains, ...).
      scale: (latent,), > 0, see `leapfrog`.
      target_acceptance: acceptance rate in (0, 1).
      num_leapfrog: number of leapfrog steps, see `hmc_step`.

    Returns:
      `StepSizes`.

    Source:
      Robbins & Monro (1951).
    """
    dtype = scale.dtype

    def adapt_at(carry: tuple[Point, Array], knot: tuple[Array, Array, Array]) -> tuple[tuple[Point, Array], Array]:
        knot_index, t, gain = knot

        def step(carry: tuple[Point, Array], i: Array) -> tuple[tuple[Point, Array], Array]:
            points, log_step_size = carry
            chain_t, step_size = (jnp.broadcast_to(value, keys.shape) for value in (t, jnp.exp(log_step_size)))
            step_keys = fold_in_chains(keys, 1 + knot_index * ADAPTATION_STEPS + i)
            points, accepted = move_chains(step_keys, path, chain_t, points, step_size, scale, num_leapfrog)
            change = gain * (jnp.mean(accepted) - target_acceptance)
            log_step_size = log_step_size + jnp.round(change * _STEPS_PER_E) / _STEPS_PER_E
            return (points, log_step_size), log_step_size

        (points, _), trace = jax.lax.scan(step, carry, jnp.arange(ADAPTATION_STEPS))
        settled = jnp.mean(trace[ADAPTATION_STEPS // 2 :])
        return (points, settled), settled

    # The first temperature is visited twice, because the initial step size may be far from the final one.
    t = jnp.asarray(np.concatenate([temperatures[:1], temperatures]), dtype)
    gain = jnp.full(t.shape, _GAIN, dtype).at[0].set(_FIRST_GAIN)
    start = jnp.asarray(-0.25 * np.log(scale.size), dtype)  # the optimal step size falls as latent^(-1/4)
    _, settled = jax.lax.scan(adapt_at, (points, start), (jnp.arange(len(t)), t, gain))
    return StepSizes(jnp.asarray(numbers, dtype), settled[1:])
