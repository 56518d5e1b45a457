"""Where this package keeps what it would otherwise compute again: decoded data sets and compiled programs."""

import functools
import os
import tempfile
import warnings
from pathlib import Path


def cache_dir() -> Path:
    """`$VAE_JAX_CACHE`, else vae_jax in the user's cache folder."""
    chosen = os.environ.get("VAE_JAX_CACHE")
    if chosen:
        return Path(os.path.expanduser(chosen))
    home = os.path.expanduser("~")
    if not os.environ.get("XDG_CACHE_HOME") and home == "~":  # there is none
        return _without_a_home()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path(home) / ".cache") / "vae_jax"


@functools.cache
def _without_a_home() -> Path:
    """Of this process alone: programs from a folder that others may write to would be run."""
    return Path(tempfile.mkdtemp(prefix="vae_jax-"))


def enable_compilation_cache() -> None:
    """Keeps XLA's compiled programs across processes, so that the second run of a program starts at once.

    `$JAX_COMPILATION_CACHE_DIR`, where set, wins: JAX reads it by itself.
    """
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        programs = cache_dir() / "xla"
        try:
            programs.mkdir(parents=True, exist_ok=True)
        except OSError:
            return  # nowhere to keep them
        if not os.access(programs, os.W_OK):
            return
        jax.config.update("jax_compilation_cache_dir", str(programs))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    # JAX does not write them atomically: what a killed process left half-written is compiled again.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
