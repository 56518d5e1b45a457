"""Learned priors p(z): mixtures of Gaussians, the VampPrior, a second stochastic layer, and RealNVP, as bundles for a `VAE`."""

import lazy_loader

# The names of __init__.pyi, imported when they are first used: reading the registry must not import jax.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
