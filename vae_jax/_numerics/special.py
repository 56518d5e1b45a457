"""Elementary functions without the cancellation of their textbook forms."""

import math

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

# exp(t) - 1 - t = t^2 (1/2! + t/3! + t^2/4! + ...); 14 terms are exact to float64 for |t| < 1/2.
_EXPM1_TAIL = tuple(1 / math.factorial(n) for n in range(2, 16))
# Coefficients of 1/x, 1/x^3, 1/x^5, ... in Stirling's series: B_2n / (2n (2n - 1)).
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156, -3617 / 122400)
_STIRLING_START = {"float32": 4, "float64": 10}  # from here on the series above is exact in this dtype


def expm1_minus(t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Computes exp(t) - 1 - t >= 0 to full relative precision.

    The plain difference loses half of the digits at |t| = 1e-4.
    """
    near_zero = jnp.abs(t) < 0.5
    small = jnp.where(near_zero, t, 0)
    series = jnp.square(small) * jnp.polyval(jnp.array(_EXPM1_TAIL[::-1], t.dtype), small)
    return jnp.where(near_zero, series, jnp.expm1(t) - t)


def exp_finite(t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Computes exp(t), with the largest power that the dtype holds in place of infinity, so that 0 times it is 0."""
    return jnp.exp(jnp.minimum(t, math.floor(math.log(float(jnp.finfo(t.dtype).max)))))


def sum_with_log1p(a: Float[Array, "*shape"], t: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Computes sum_i [ a_i + log(1 + t_i) ], t_i in [0, 1], to full relative precision, with one logarithm for 16 numbers.

    log(1 + t) + log(1 + u) = log(1 + (t + u + t u)). Nothing cancels, and 16 factors make at most 2^16. Both sums are taken in
    pairs, in one pass. On CPU, XLA takes three times as long for a plain sum over the rows and `log1p` of each number.
    """
    a, t = (jnp.pad(x.reshape(-1), (0, -x.size % 16)).reshape(16, -1) for x in (a, t))
    while (half := len(t) // 2) > 0:
        a, t = a[:half] + a[half:], t[:half] + t[half:] + t[:half] * t[half:]
    return jnp.sum(a + jnp.log1p(t))


def log1mexp(t: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Computes log(1 - exp(-t)) for t > 0, to full relative precision at both ends."""
    small = t < math.log(2)
    return jnp.where(small, jnp.log(-jnp.expm1(-jnp.where(small, t, 1))), jnp.log1p(-jnp.exp(-jnp.where(small, 1, t))))


def soft_floor(t: Float[Array, "*shape"], floor: ArrayLike) -> Float[Array, "*shape"]:
    """Computes a smooth maximum of t and a floor: t where it is well above, and never below the floor."""
    return jnp.asarray(floor + jnp.logaddexp(t - floor, jnp.zeros((), t.dtype)))


def stirling_error(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Computes the error of Stirling's formula for x > 0.

        S(x) = log Gamma(x + 1) - (x + 1/2) log x + x - 1/2 log(2 pi) = 1/(12 x) - 1/(360 x^3) + ...

    It is near 0 for large x, where differences of lgamma have no correct digits left. Where x is too small for the series, the
    recurrence S(x) = S(x + 1) + (x + 1/2) log(1 + 1/x) - 1 leads up to where it holds.

    Source:
      Loader (2000), Fast and accurate computation of binomial probabilities, section 2.
    """
    start = _STIRLING_START[x.dtype.name]
    low = jnp.where(x < start, x, start)
    steps = low[None] + jnp.arange(start, dtype=x.dtype).reshape(-1, *(1,) * x.ndim)
    recurrence = jnp.sum((steps + 0.5) * jnp.log1p(1 / steps) - 1, axis=0)
    return jnp.where(x < start, recurrence + _stirling_series(low + start), _stirling_series(jnp.where(x < start, start, x)))


def _stirling_series(x: Array) -> Array:
    inverse = 1 / x
    return inverse * jnp.polyval(jnp.array(_STIRLING[::-1], x.dtype), jnp.square(inverse))


def stirling_error_for_counts(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Computes `stirling_error` cheaply for whole numbers x >= 1: a table below the reach of the series.

    It is not differentiable in x.
    """
    start = _STIRLING_START["float64"]
    exact = [math.lgamma(n + 1) - (n + 0.5) * math.log(n) + n - 0.5 * math.log(2 * math.pi) for n in range(1, start)]
    index = jnp.clip(x, 1, start - 1).astype(jnp.int32) - 1
    return jnp.where(x < start, jnp.array(exact, x.dtype)[index], _stirling_series(jnp.maximum(x, start)))
