"""Training objectives for one example, from (encode, decode, log_prob) to named terms in nats.

Objectives that need a whole batch are in `objectives.batch`.
"""

import lazy_loader

# The names of __init__.pyi, imported when they are first used: reading the registry must not import jax.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
