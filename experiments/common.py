"""Helpers of the benchmarks and reproductions, from the command line of the package."""

import environment

from collections.abc import Callable
from typing import NoReturn, TypeVar

from vae_jax.cli import arguments, script
from vae_jax.cli.progress import EpochProgress as EpochProgress
from vae_jax.cli.progress import Interrupt as Interrupt

T = TypeVar("T")


def parse(cls: type[T]) -> T:
    """Returns the command line as a `cls`, and ends the script if a package is missing."""
    environment.expect_packages()
    return arguments.parse(cls)


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Runs a script's main function: bad input becomes one line on stderr and exit status 2, without a traceback."""
    script.run_script(main)
