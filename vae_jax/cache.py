"""Where this package keeps what it would otherwise compute again: decoded data sets and compiled programs."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """`$VAE_JAX_CACHE`, else vae_jax in the user's cache folder."""
    chosen = os.environ.get("VAE_JAX_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vae_jax"


def enable_compilation_cache() -> None:
    """Keeps XLA's compiled programs across processes, so that the second run of a program starts at once.

    `$JAX_COMPILATION_CACHE_DIR`, where set, wins: JAX reads it by itself.
    """
    import jax

    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # nowhere to keep them
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
