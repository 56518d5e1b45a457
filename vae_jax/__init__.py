"""vae_jax: pure functions for variational autoencoders in JAX. One example, in nats, summed; you `vmap`.

    from vae_jax import data, likelihoods, model, training

Nothing is imported, computed or allocated until a module is used.
"""

__version__ = "0.1.0"

# The modules in this folder re-export from the places to which they moved, with a DeprecationWarning (CHANGELOG.md lists them).
__path__.append(f"{__path__[0]}/_numerics/old_paths")
