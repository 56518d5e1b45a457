"""Settings of a run that starts from a trained model: what the command line leaves out is as in that model."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vae_jax.errors import UserError

if TYPE_CHECKING:
    from vae_jax.build import Initial
    from vae_jax.config import Config

# Settings that name files, columns or levels of one data set. They do not pass on to a different one.
_OF_ONE_DATASET = ("validation_dataset", "test_dataset", "array", "label_column", "max_level")


def inherited_settings(init: "Initial", argv: Sequence[str] | None) -> dict[str, object]:
    """Returns the settings of a trained model as defaults of a command line.

    Args:
      init: the trained model.
      argv: the words of the command line; None: those that this process was started with.
    """
    from vae_jax.config import CUSTOM
    from vae_jax.data.conditions.setting import is_condition_path

    settings: dict[str, object] = {f.name: getattr(init.config, f.name) for f in dataclasses.fields(init.config)}
    if "dataset" not in _given(argv):
        if init.config.dataset == CUSTOM:
            message = f"{init.record['path']} was trained on data from memory."
            raise UserError(message, field="dataset", fix="Say on which data to train, by `dataset`.")
        return settings
    reset = [*_OF_ONE_DATASET, *(["condition"] if is_condition_path(init.config.condition) else [])]
    return {**settings, **{name: getattr(type(init.config), name) for name in reset}}


def without_unused(config: "Config", argv: Sequence[str] | None) -> "Config":
    """Returns the settings without inherited ones of a likelihood, network, prior or objective that was replaced."""
    unused = [name for name in config.unused() if name not in _given(argv)]
    return dataclasses.replace(config, **{name: getattr(type(config), name) for name in unused})


def _given(argv: Sequence[str] | None) -> Mapping[str, None]:
    """Returns the names of the options in the words of a command line."""
    words = sys.argv[1:] if argv is None else argv
    return {word.split("=")[0].removeprefix("--no-").removeprefix("--").replace("-", "_"): None for word in words}
