"""Training: `fit` trains one run, `fit_members` trains several runs in one program. The functions that they are made of follow.

`make_train_step` and `make_epoch` are pure functions for training loops of your own.
"""

import lazy_loader

# The names of __init__.pyi, imported when they are first used: reading the registry must not import jax.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
