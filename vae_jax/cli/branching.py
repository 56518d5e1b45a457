"""Runs and sweeps that start from a trained model: what the command line leaves out is as in that model."""

import dataclasses
import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from vae_jax.cli.arguments import parse_with_config
from vae_jax.errors import UserError

if TYPE_CHECKING:
    from vae_jax.build import Initial
    from vae_jax.config import Config

# Settings that name files, columns or levels of one data set. They do not pass on to a different one.
_NOT_INHERITED = ("validation_dataset", "test_dataset", "array", "label_column", "max_level")


class InitArguments(Protocol):
    """The options that name a trained model to start from."""

    @property
    def init_from(self) -> str: ...
    @property
    def init_parts(self) -> tuple[str, ...]: ...
    @property
    def init_member(self) -> int | None: ...


Options = TypeVar("Options", bound=InitArguments)


def expect_init_from(arguments: InitArguments) -> None:
    """Raises `UserError` for options about a trained model without one."""
    if not arguments.init_from and (arguments.init_parts or arguments.init_member is not None):
        name = "init_parts" if arguments.init_parts else "init_member"
        raise UserError("there is no trained model to start from.", field=name, fix="Name its directory by `init_from`.")


def read_init(arguments: InitArguments) -> "Initial | None":
    """Returns the parameters that the options name; None without `init_from`."""
    if not arguments.init_from:
        return None
    from vae_jax import runs

    return runs.init_from(arguments.init_from, member=arguments.init_member, init_parts=arguments.init_parts)


def read_new(command: str, arguments: Options, config: "Config", argv: Sequence[str] | None) -> "tuple[Options, Config]":
    """Reads the command line of a run or a sweep that begins. With `init_from`, the defaults of the settings are that model's.

    Args:
      command: "train" or "sweep".
      arguments, config: as read with the usual defaults.
      argv: the words of the command line; None: those that this process was started with.
    """
    init = read_init(arguments)
    if init is None:
        return arguments, config
    given = {word.split("=")[0] for word in (sys.argv[1:] if argv is None else argv)}
    names = {word.removeprefix("--no-").removeprefix("--").replace("-", "_") for word in given}
    arguments, config = parse_with_config(type(arguments), argv, command, _inherited_settings(init, names))
    # An inherited setting of a likelihood, network, prior or objective that was replaced has no use.
    unused = [name for name in config.unused() if name not in names]
    return arguments, dataclasses.replace(config, **{name: getattr(type(config), name) for name in unused})


def _inherited_settings(init: "Initial", given: Collection[str]) -> dict[str, object]:
    """Returns the settings of a trained model as defaults of a command line that gives these options."""
    from vae_jax.config import CUSTOM
    from vae_jax.data.conditions.setting import is_condition_path

    settings: dict[str, object] = {f.name: getattr(init.config, f.name) for f in dataclasses.fields(init.config)}
    if "dataset" not in given:
        if init.config.dataset == CUSTOM:
            message = f"{init.record['path']} was trained on data from memory."
            raise UserError(message, field="dataset", fix="Say on which data to train, by `dataset`.")
        return settings
    reset = [*_NOT_INHERITED, *(["condition"] if is_condition_path(init.config.condition) else [])]
    return {**settings, **{name: getattr(type(init.config), name) for name in reset}}
