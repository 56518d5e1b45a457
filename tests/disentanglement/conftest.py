"""Codes and factors for several files of tests."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def table():
    """As codes and factors come: unequal frequencies, not a grid; one code is constant and one hardly moves."""
    rng = np.random.default_rng(0)
    factors = np.stack(
        [rng.choice(size, 700, p=np.arange(1, size + 1) / (size * (size + 1) / 2)) for size in (3, 4, 6)], axis=1
    )
    factors[:, 1] = np.where(rng.random(700) < 0.3, factors[:, 0], factors[:, 1])
    codes = factors @ rng.normal(size=(3, 5)) + 0.3 * rng.normal(size=(700, 5))
    codes = np.concatenate([0.01 * rng.normal(size=(700, 1)), codes, np.full((700, 1), 0.3)], axis=1)
    return codes, factors * 3  # values with gaps
