"""Shared parts of the reproductions: published and measured numbers side by side, their file, and resumable sweeps."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict, Unpack

import numpy as np

from vae_jax.cli.progress import Interrupt
from vae_jax.cli.results_file import write_results
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.storage.atomic import JsonObject

if TYPE_CHECKING:
    from vae_jax.build import PartOptions
    from vae_jax.sweep.directory import Tick
    from vae_jax.sweep.members import Group
    from vae_jax.training import MembersProgress

Verdicts = Callable[[JsonObject], Sequence[str]]  # content of results.json -> one sentence for each of its rows
PACKAGES = ("vae_jax", "jax", "jaxlib", "flax", "optax", "numpy")


class Row(NamedTuple):
    """One line of the README's table."""

    what: str
    published: float | None  # None if no comparable number was published
    measured: float
    standard_error: float | None  # over seeds
    seeds: int
    published_error: float | None = None  # standard error, where the source states it
    verdict: str = ""  # one sentence, which `write` adds


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


def judge(row: JsonObject, *, because: str, margin: float = 0.0, better: Literal["lower", "higher"] | None = None) -> str:
    """Returns the verdict on a measured number beside a published or exact one, in one sentence.

    The number counts as reproduced if it differs by at most the tolerance: two standard errors of the difference, or the margin
    where that is larger.

    Args:
      row: a row of results.json, with a published number.
      because: reason to state if the number is not reproduced, such as "a tenth of the published passes were trained".
      margin: difference that is too small to count, for a source of error that the standard errors do not include.
      better: side of the published number on which a difference is a gain rather than a shortfall.
    """
    difference = row["measured"] - row["published"]
    errors = 2 * math.hypot(row["standard_error"] or 0.0, row.get("published_error") or 0.0)
    tolerance = max(errors, margin)
    allowed = f"{tolerance:.2g} ({'the stated margin' if margin > errors else '2 standard errors'})"
    amount = f"{abs(difference):.2g}" if abs(difference) < 1 else f"{abs(difference):.1f}"
    if abs(difference) <= tolerance:
        return f"Reproduced: {amount} apart, within {allowed}."
    if better == ("lower" if difference < 0 else "higher"):
        return f"Reproduced, and better by {amount}."
    return f"Short of it by {amount}, because {because}."


def rows_with_verdicts(content: JsonObject, verdicts: Verdicts) -> list[JsonObject]:
    """Returns the rows of a results.json, each with its verdict.

    Args:
      content: the file's content.
      verdicts: function of the reproduction that returns one sentence for each of the rows of the content.
    """
    return [{**row, "verdict": text} for row, text in zip(content["rows"], verdicts(content), strict=True)]


def write(
    out: Path,
    settings: Mapping[str, object],
    rows: Sequence[Row],
    details: Mapping[str, object],
    seconds: float,
    verdicts: Verdicts,
) -> None:
    """Writes results.json.

    Args:
      out: file to write.
      settings: settings of the reproduction. Folders are left out and data sets are named without their folder, so that the
        file says nothing about this machine.
      rows: lines of the README's table.
      details: further entries of the file.
      seconds: wall time of the training.
      verdicts: function that returns one sentence for each row, from the content of the file. `summary.py --write` calls it as
        well, so a changed sentence needs no new training.
    """
    kept = {name: value for name, value in settings.items() if name not in ("out", "data_dir")}
    kept |= {"dataset": Path(str(kept["dataset"])).name} if "dataset" in kept else {}
    content: JsonObject = {"settings": kept, "rows": [row._asdict() for row in rows], **details, "wall_seconds": seconds}
    content["rows"] = rows_with_verdicts(content, verdicts)
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


def use_cpu_devices(num_members: int) -> None:
    """Sets up one CPU device for each core that a sweep of this many members can use, unless JAX has started already."""
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # a backend that is running already keeps its devices
        jax.config.update("jax_num_cpu_devices", max(1, min(8, cores, num_members)))


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
    use_cpu_devices(len(members))
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
