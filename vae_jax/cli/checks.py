"""Checks of the command line that need no data, and so come before anything is loaded."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

from vae_jax.config import Config
from vae_jax.errors import UserError


def expect_out(out: str, kind: str, example: str) -> None:
    """Raises `UserError` if the folder to write was not given."""
    if not out:
        raise UserError(field="out", expected=f"{kind} to write, such as {example}", got="none")


def expect_outside_data(out: Path, config: Config) -> None:
    """Raises `UserError` where the figures of a run would become images of its data set."""
    for dataset in (config.dataset, config.validation_dataset, config.test_dataset, config.condition):
        if os.path.isdir(dataset) and Path(os.path.abspath(out)).is_relative_to(os.path.abspath(dataset)):
            raise UserError(
                f"`out={out}`: expected a folder outside the data set {dataset}. Its figures would become images of it."
            )


def expect_seconds(**options: float) -> None:
    """Raises `UserError` unless these options are times."""
    for name, value in options.items():
        if not 0 <= value < math.inf:
            raise UserError(field=name, expected="seconds >= 0", got=value)


def expect_counts(least: int, most: int | None = None, **options: int | None) -> None:
    """Raises `UserError` unless these options, where they are given, are whole numbers in a range."""
    for name, value in options.items():
        if value is not None and value < least:
            raise UserError(field=name, expected=f"a whole number >= {least}", got=value)
        if value is not None and most is not None and value > most:
            raise UserError(field=name, expected=f"at most {most:,}", got=value)


def expect_runs(paths: Sequence[Path], *, or_sweeps: bool = False) -> None:
    """Raises `UserError` unless there is at least one path and all are run directories that may be written to.

    Args:
      paths: the directories.
      or_sweeps: accept sweep directories as well.
    """
    from vae_jax.storage.directories import refuse_links

    if not paths:
        raise UserError("expected at least one run directory, such as runs/first, got none.")
    for path in paths:
        try:
            sweep, run = is_sweep(path), (path / "config.json").is_file()
        except OSError as error:  # such as a name that is too long
            raise UserError(f"{path}: cannot be read: {error.strerror}.") from None
        if sweep and not or_sweeps:
            raise UserError(f"{path}: a sweep directory, not a run directory. Its members' numbers are in its results.csv.")
        if not sweep and not run:
            nor_sweep = " and not a sweep directory (it has no sweep.json)" if or_sweeps else ""
            raise UserError(f"{path}: not a run directory (it has no config.json){nor_sweep}.")
        refuse_links(path)


def is_sweep(path: Path) -> bool:
    """Returns True for a sweep directory."""
    return (path / "sweep.json").is_file()
