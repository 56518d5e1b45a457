"""A posterior for several files of tests."""

import numpy as np
import pytest

# Aggregate posterior


@pytest.fixture
def posterior():
    rng = np.random.default_rng(1)
    return rng.normal(size=50), rng.uniform(-3, 0.5, 50)
