"""Strict JAX for the mathematics: no implicit promotion of dtypes or ranks. Warnings are errors everywhere (pyproject.toml)."""

import gc
import os
import shutil
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The cache of GPU autotuning puts the cache's path into the key of every program, on CPU as well.
os.environ.setdefault("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES", "none")

import jax
import kept_programs
import pytest
from orbax_deprecations import fail_on_orbax_deprecations as fail_on_orbax_deprecations

collect_ignore_glob = ["conftest.py", "*/conftest.py"]  # they have no doctests, and importing two of one name is an error
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


# Small programs that run for a moment: most of their time would go into optimizing them. XLA aborts on flags it does not know.
COMPILE_QUICKLY = "--xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):
    COMPILE_QUICKLY += " --xla_cpu_use_fusion_emitters=false"


def compile_quickly(is_quick):
    """Sets how programs are compiled from now on, here (but for the flags, which XLA reads once) and in scripts."""
    jax.config.update("jax_disable_most_optimizations", is_quick)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1" if is_quick else "0"
    flags = os.environ["VAE_JAX_TEST_XLA_FLAGS"]
    os.environ["XLA_FLAGS"] = f"{flags} {COMPILE_QUICKLY}" if is_quick else flags


def pytest_configure(config):
    """The tests compile quickly, here and in the scripts that they start, but for those that are marked `optimized`.

    Programs are kept between runs, by `kept_programs`. Each worker has a cache folder of its own. Scripts have one together,
    below VAE_JAX_CACHE, which holds decoded data sets too; those are not kept, since keeping them could hide errors.
    """
    is_worker = hasattr(config, "workerinput")
    if not is_worker:
        kept_programs.tidy()
        config.run_folder = kept_programs.new_folder()
        os.environ["VAE_JAX_TEST_RUN"] = str(config.run_folder)
        if "VAE_JAX_CACHE" not in os.environ:
            config.script_programs = config.run_folder / "scripts" / "xla"
            os.environ["VAE_JAX_CACHE"] = str(config.run_folder / "scripts")
            kept_programs.start(config.script_programs)
    if is_worker or not getattr(config.option, "numprocesses", None):
        config.own_programs = Path(os.environ["VAE_JAX_TEST_RUN"]) / f"xla-{os.getpid()}"
        kept_programs.start(config.own_programs)
        jax.config.update("jax_compilation_cache_dir", str(config.own_programs))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if not is_worker:
        os.environ["VAE_JAX_TEST_XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "")
    compile_quickly(True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Compiles as users do for tests of speed, memory and long trainings, before their fixtures are set up."""
    compile_quickly(item.get_closest_marker("optimized") is None)


def pytest_collection_finish(session):
    """Looks for cycles of garbage less often: to visit all the small objects that JAX traces took a tenth of the run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000_000, 50, 1000)


def pytest_unconfigure(config):
    for name in ("own_programs", "script_programs"):
        if folder := getattr(config, name, None):
            kept_programs.keep(folder)
    if folder := getattr(config, "run_folder", None):
        shutil.rmtree(folder, ignore_errors=True)


# optax and matplotlib do not keep to strict promotion themselves.
STRICT = (
    "test_mathematics",
    "test_normalization",
    "test_likelihoods",
    "test_divergences",
    "test_objectives",
    "test_evaluation",
    "test_disentanglement",
    "test_known_codes",
    "test_fixed_factor_draws",
    "test_metrics_table",
    "test_annealed",
    "test_annealed_datasets",
    "test_hmc",
)


@pytest.fixture(autouse=True)
def _strict(request):
    strict = request.module.__name__.split(".")[-1] in STRICT
    jax.config.update("jax_numpy_dtype_promotion", "strict" if strict else "standard")
    jax.config.update("jax_numpy_rank_promotion", "raise" if strict else "allow")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # scripts that ran in this process set another one
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
