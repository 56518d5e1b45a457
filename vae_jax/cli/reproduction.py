"""Shared parts of the reproductions: published and measured numbers side by side, their file, and resumable sweeps."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict, Unpack

import numpy as np

from vae_jax.cli.progress import Interrupt
from vae_jax.cli.results_file import write_results
from vae_jax.config import Config
from vae_jax.errors import UserError

if TYPE_CHECKING:
    from vae_jax.build import PartOptions
    from vae_jax.sweep.directory import Tick
    from vae_jax.sweep.members import Group
    from vae_jax.training import MembersProgress

PACKAGES = ("vae_jax", "jax", "jaxlib", "flax", "optax", "numpy")


class Row(NamedTuple):
    """One line of the README's table."""

    what: str
    published: float | None  # None if no comparable number was published
    measured: float
    standard_error: float | None  # over seeds
    seeds: int


class Number(TypedDict):
    """A mean over seeds with its standard error, which is None for a single seed."""

    mean: float
    standard_error: float | None


def expect_seeds(seeds: Sequence[int]) -> None:
    """Raises `UserError` if there are no seeds, or if one occurs twice."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(field="seeds", expected="at least one, each once", got=" ".join(map(str, seeds)) or "none")


def summarize(values: Sequence[float] | np.ndarray) -> Number:
    """Returns mean and standard error over seeds."""
    from vae_jax.sweep.statistics import interval

    one = interval(np.asarray(values, np.float64).tolist())
    return {"mean": one.mean, "standard_error": None if np.isnan(one.standard_error) else one.standard_error}


def with_error(number: Number, digits: int = 2) -> str:
    """Returns a text such as "-98.58 ± 0.06"."""
    error = number["standard_error"]
    return f"{number['mean']:z.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def write(
    out: Path, settings: Mapping[str, object], rows: Sequence[Row], details: Mapping[str, object], seconds: float
) -> None:
    """Writes results.json.

    Args:
      out: file to write.
      settings: settings of the reproduction. Folders are left out and data sets are named without their folder, so that the
        file says nothing about this machine.
      rows: lines of the README's table.
      details: further entries of the file.
      seconds: wall time of the training.
    """
    kept = {name: value for name, value in settings.items() if name not in ("out", "data_dir")}
    kept |= {"dataset": Path(str(kept["dataset"])).name} if "dataset" in kept else {}
    content = {"settings": kept, "rows": [row._asdict() for row in rows], **details, "wall_seconds": seconds}
    write_results(out, content, PACKAGES)
    print(f"written: {out}")


def epoch_printer(name: str, epochs: int) -> "Callable[[Group, MembersProgress], None]":
    """Returns a callback for `sweep(on_progress=...)` that prints about ten lines in all."""

    def print_epoch(group: "Group", progress: "MembersProgress") -> None:
        done = max(len(history) for history in progress.histories)
        if done % max(1, epochs // 10) == 0 or done == epochs:
            elbo = np.mean([history[-1].test.elbo for history in progress.histories if history])
            print(f"{name}  epoch {done}/{epochs}  test ELBO {elbo:z.2f}, mean of {len(progress.histories)}", flush=True)

    return print_epoch


def train_sweep(
    members: Sequence[Config], out: Path, *, data_dir: str | None, minutes: float, **parts: "Unpack[PartOptions]"
) -> int | None:
    """Trains the members into a sweep directory, or continues a directory that an earlier call has left unfinished.

    Args:
      members: settings of the members.
      out: sweep directory.
      data_dir: folder with prepared TFDS data.
      minutes: the training is interrupted after the epoch in which this time has passed.
      **parts: parts of the user's own for all members (see `build.PartOptions`).

    Returns:
      None if all members have ended, else the exit status of the script.
    """
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # a backend that is running already keeps its devices
        jax.config.update("jax_num_cpu_devices", max(1, min(8, cores, len(members))))
    from vae_jax.storage.cache import enable_compilation_cache
    from vae_jax.storage.directories import is_fresh
    from vae_jax.sweep.directory import run_sweep
    from vae_jax.training import MembersProgress

    enable_compilation_cache()
    began = time.monotonic()
    with Interrupt() as interrupt:

        def on_progress(tick: "Tick") -> bool:
            assert isinstance(tick.progress, MembersProgress)
            epoch_printer(tick.group.label or "sweep", tick.group.configs[0].epochs)(tick.group, tick.progress)
            return interrupt.signal is not None or time.monotonic() - began > 60 * minutes

        resume = not is_fresh(out)
        if run_sweep(members, out, resume=resume, data_dir=data_dir, on_progress=on_progress, **parts):
            return None
    print(f"saved in {out}; the same command continues", flush=True)
    return interrupt.exit_status if interrupt.signal else 0
