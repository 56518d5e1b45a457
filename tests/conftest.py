"""Strict JAX for all tests: no implicit dtype promotion, no implicit rank promotion; warnings are errors (pyproject.toml)."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def x64():
    """Float64 for the duration of a test."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture(scope="session")
def shared_data():
    """The folder with real data beside the repository; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no folder of real data beside the repository")
    return SHARED_DATA


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Decoded data and compiled programs of the tests go to a folder of their own, shared by the scripts they run."""
    os.environ.setdefault("VAE_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
