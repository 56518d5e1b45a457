"""log p(x|z) for one example, in nats, summed over the event and normalised; and bundles that go into a `VAE`.

Every `*_log_prob` takes the decoder's outputs first, then `x`: arrays of one event (any shape), without a batch axis.
It returns a scalar, to be maximised, constants included, so that any two likelihoods are comparable on the same data.
Computed in at least float32; the result has the dtype of the inputs.
"""

import lazy_loader

# The names of __init__.pyi, imported when they are first used: reading the registry must not import jax.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
