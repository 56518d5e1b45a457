"""Strict JAX for the mathematics: no implicit promotion of dtypes or ranks. Warnings are errors everywhere (pyproject.toml)."""

import gc
import os
import shutil
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import jax
import pytest
from orbax_deprecations import fail_on_orbax_deprecations as fail_on_orbax_deprecations

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


# Small programs that run for a moment: most of their time would go into optimising them. XLA aborts on flags it does not know.
COMPILE_QUICKLY = "--xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):
    COMPILE_QUICKLY += " --xla_cpu_use_fusion_emitters=false"


def pytest_configure(config):
    """The default run compiles quickly, here and in the scripts that it starts; the slow tests compile as users do.

    Each worker compiles a program once. JAX does not write its cache atomically, so none is shared with other workers or
    with scripts, some of which are killed. Those have one together, below VAE_JAX_CACHE; both end with the run.
    """
    if "VAE_JAX_CACHE" not in os.environ:
        config.cache_of_run = os.environ["VAE_JAX_CACHE"] = tempfile.mkdtemp(prefix="vae_jax-tests-")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    jax.config.update("jax_compilation_cache_dir", str(Path(os.environ["VAE_JAX_CACHE"]) / f"xla-{worker}-{os.getpid()}"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if config.option.markexpr == "not slow":
        jax.config.update("jax_disable_most_optimizations", True)
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {COMPILE_QUICKLY}"


def pytest_collection_finish(session):
    """Looks for cycles of garbage less often: to visit all the small objects that JAX traces took a tenth of the run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000_000, 50, 1000)


def pytest_unconfigure(config):
    if own := getattr(config, "cache_of_run", None):
        shutil.rmtree(own, ignore_errors=True)


# optax and matplotlib do not keep to strict promotion themselves.
STRICT = (
    "test_mathematics",
    "test_normalization",
    "test_likelihoods",
    "test_divergences",
    "test_objectives",
    "test_evaluation",
    "test_disentanglement",
    "test_annealed",
)


@pytest.fixture(autouse=True)
def _strict(request):
    strict = request.module.__name__.split(".")[-1] in STRICT
    jax.config.update("jax_numpy_dtype_promotion", "strict" if strict else "standard")
    jax.config.update("jax_numpy_rank_promotion", "raise" if strict else "allow")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_numpy_rank_promotion", "allow")


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
