"""vae_jax: pure functions for variational autoencoders in JAX. One example, in nats, summed; you `vmap`.

    from vae_jax import data, likelihoods, model, training

Nothing is imported, computed or allocated until a module is used.
"""

__version__ = "0.1.0"
