"""Poisson draws at small and large rates against SciPy's quantiles. The p-values draw on the one budget of the suite."""

import budget
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vae_jax._numerics.poisson import poisson

DRAWS = 200_000
draw = jax.jit(poisson)


@pytest.mark.parametrize("rate", [30.0, 9_999.0, 10_001.0, 1e5, 1e6, 3e6, 1e7, 1e8])
def test_draws_have_the_quantiles_of_the_distribution(rate):
    draws = np.asarray(draw(jax.random.key(0), jnp.full(DRAWS, rate)), np.float64)
    edges = np.unique(stats.poisson.ppf(np.linspace(0, 1, 41)[1:-1], rate))
    if rate > 2**24:  # draws and edges are multiples of the spacing of float32
        spacing = float(np.spacing(np.float32(rate)))
        edges = np.unique(np.round(edges / spacing) * spacing)
        limits = edges + spacing / 2
    else:
        limits = edges
    counts = np.bincount(np.searchsorted(edges, draws), minlength=len(edges) + 1)
    budget.accept_frequencies(counts, np.diff(stats.poisson.cdf(limits, rate), prepend=0, append=1))


def test_small_rates_have_the_numbers_of_jax_beside_large_ones():
    rates = jnp.array([0.0, 0.5, 300.0, 1e6])
    draws = draw(jax.random.key(1), rates)
    expected = jax.random.poisson(jax.random.key(1), jnp.minimum(rates, 1e4))
    np.testing.assert_array_equal(draws[:3], expected[:3])
    assert draws.dtype == rates.dtype
    assert abs(float(draws[3]) - 1e6) < 7e3


def test_the_numbers_of_jax_are_not_taken_at_large_rates():
    """The reason for this module: it can be deleted when this test fails for every supported version of JAX."""
    draws = np.asarray(jax.random.poisson(jax.random.key(0), 1e8, (DRAWS,)), np.float64)
    with pytest.raises(AssertionError, match="p-value"):
        budget.accept_mean(np.square(draws - 1e8) / 1e8, 1.0)
