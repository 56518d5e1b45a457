"""Log-likelihoods log p(x|z) of one example, in nats, and the bundles of them that go into a `VAE`.

Every `*_log_prob` takes the decoder outputs first and then `x`: arrays of one event (any shape), without a batch axis.
It returns a scalar, to be maximized, summed over the event. Every likelihood is normalized, constants included, so any two are
comparable on the same data. The arithmetic is at least float32, and the result has the dtype of the inputs.
"""

import lazy_loader

# The names of __init__.pyi, imported when they are first used: reading the registry must not import jax.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
