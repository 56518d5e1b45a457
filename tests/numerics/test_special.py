"""Elementary functions that sums are made of, against float64."""

import jax
import numpy as np
import pytest

from vae_jax._numerics.special import sum_with_log1p


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 784, 1000])
def test_the_sum_with_log1p_keeps_its_relative_precision(size):
    rng = np.random.default_rng(size)
    zeros = np.zeros(size)
    for t in (rng.random(size), 10.0 ** rng.uniform(-30, 0, size), np.ones(size), np.full(size, 1e-12), zeros):
        for a in (zeros, 10.0 ** rng.uniform(-30, 4, size)):
            a, t = np.float32(a), np.float32(t)
            exact = (a.astype(float) + np.log1p(t.astype(float))).sum()
            np.testing.assert_allclose(jax.jit(sum_with_log1p)(a, t), exact, rtol=2e-6)
