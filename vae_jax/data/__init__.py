"""Data sets by name or path (`load`), and their preparation for a likelihood (`prepare`).

The names below are imported when they are first used, so that the known formats (`vae_jax.data.readers`) can be listed without
importing JAX.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vae_jax.data.dataset import Dataset as Dataset
    from vae_jax.data.loading import load as load
    from vae_jax.data.moments import Moments as Moments
    from vae_jax.data.moments import is_image as is_image
    from vae_jax.data.moments import train_moments as train_moments
    from vae_jax.data.on_disk import Rows as Rows
    from vae_jax.data.pipeline_checks import check_pipeline_argument as check_pipeline_argument
    from vae_jax.data.preprocessing import Prepared as Prepared
    from vae_jax.data.preprocessing import binarize as binarize
    from vae_jax.data.preprocessing import prepare as prepare
    from vae_jax.data.split import Split as Split
    from vae_jax.data.support import check_support as check_support
    from vae_jax.data.support import values as values

_MODULES = {
    "Dataset": "dataset",
    "load": "loading",
    "Moments": "moments",
    "is_image": "moments",
    "train_moments": "moments",
    "Rows": "on_disk",
    "check_pipeline_argument": "pipeline_checks",
    "Prepared": "preprocessing",
    "binarize": "preprocessing",
    "prepare": "preprocessing",
    "Split": "split",
    "check_support": "support",
    "values": "support",
    "readers": "readers",
    "sprites": "sprites",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    return globals().setdefault(name, module if name == _MODULES[name] else getattr(module, name))


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
