"""The cache folder, which keeps decoded data sets and compiled programs."""

import functools
import os
import tempfile
import warnings
from pathlib import Path


def cache_dir() -> Path:
    """Returns `$VAE_JAX_CACHE` if it is set, else the folder vae_jax in the user's cache folder."""
    chosen = os.environ.get("VAE_JAX_CACHE")
    if chosen:
        return Path(os.path.expanduser(chosen))
    home = os.path.expanduser("~")
    if not os.environ.get("XDG_CACHE_HOME") and home == "~":  # this user has no home folder
        return _temporary_cache()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path(home) / ".cache") / "vae_jax"


@functools.cache
def _temporary_cache() -> Path:
    """Returns a temporary folder of this process.

    It is not shared: compiled programs from a folder that other users may write to would be run.
    """
    return Path(tempfile.mkdtemp(prefix="vae_jax-"))


def enable_compilation_cache() -> None:
    """Keeps XLA's compiled programs across processes, so that the second run of a program starts at once.

    JAX reads `$JAX_COMPILATION_CACHE_DIR` itself, so it takes precedence over the cache folder.
    """
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        programs = cache_dir() / "xla"
        try:
            programs.mkdir(parents=True, exist_ok=True)
        except OSError:
            return  # the cache only saves time, so a run does without it
        if not os.access(programs, os.W_OK):
            return
        jax.config.update("jax_compilation_cache_dir", str(programs))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    # JAX does not write the programs atomically. What a killed process left half-written is compiled again.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
