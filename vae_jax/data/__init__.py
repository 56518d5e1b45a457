"""Data sets by name or path (`load`), and their preparation for a likelihood (`prepare`)."""

import lazy_loader

# The names of __init__.pyi, imported when they are first used: listing the known formats must not import jax.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
