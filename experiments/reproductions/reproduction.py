"""What the reproductions share: rows with the published and the measured number, and the JSON that they are kept in."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import Interrupt
from tables import write_results

from vae_jax.errors import UserError
from vae_jax.sweep.statistics import interval

PACKAGES = ("vae_jax", "jax", "jaxlib", "flax", "optax", "numpy")


class Row(NamedTuple):
    """One line of the README's table."""

    what: str
    published: float | None  # None: nothing was published that could be compared
    measured: float
    standard_error: float | None  # over seeds
    seeds: int


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises `UserError` unless there is a seed, each once."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds: expected at least one, each once, got {' '.join(map(str, seeds)) or 'none'}.")


def summarise(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard error over seeds; no error of a single one."""
    found = interval(values)
    return {"mean": found.mean, "standard_error": None if np.isnan(found.standard_error) else found.standard_error}


def with_error(number: dict[str, Any], digits: int = 2) -> str:
    """Mean and error of what `summarise` gave, such as -98.58 ± 0.06."""
    error = number["standard_error"]
    return f"{number['mean']:z.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def write(out: Path, settings: dict[str, Any], rows: Sequence[Row], details: dict[str, Any], seconds: float) -> None:
    """Writes results.json: the settings, the rows of the README's table, the details, wall time, machine and versions."""
    # Of nobody's machine: a data set by its name, no folders.
    kept = {name: value for name, value in settings.items() if name not in ("out", "data_dir")}
    kept |= {"dataset": Path(kept["dataset"]).name} if "dataset" in kept else {}
    content = {"settings": kept, "rows": [row._asdict() for row in rows], **details, "wall_seconds": seconds}
    write_results(out, content, PACKAGES)
    print(f"written: {out}")


def say_epochs(name: str, epochs: int) -> Callable[[Any, Any], None]:
    """For `sweep(on_epoch=...)`: about ten lines in all."""

    def say(group: Any, progress: Any) -> None:
        done = max(len(history) for history in progress.histories)
        if done % max(1, epochs // 10) == 0 or done == epochs:
            elbo = np.mean([history[-1].test.elbo for history in progress.histories if history])
            print(f"{name}  epoch {done}/{epochs}  test ELBO {elbo:z.2f}, mean of {len(progress.histories)}", flush=True)

    return say


def train_sweep(members: Sequence[Any], out: Path, *, data_dir: str | None, minutes: float) -> int | None:
    """Trains the members into a sweep directory, or goes on with them; the exit status if that was interrupted."""
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # a backend that runs already keeps the devices that it has
        jax.config.update("jax_num_cpu_devices", max(1, min(8, cores, len(members))))
    from vae_jax.storage.cache import enable_compilation_cache
    from vae_jax.storage.directories import is_fresh
    from vae_jax.sweep.directory import run_sweep

    enable_compilation_cache()
    began = time.monotonic()
    with Interrupt() as interrupt:

        def on_epoch(tick: Any) -> bool:
            say_epochs(tick.group.label or "sweep", tick.group.configs[0].epochs)(tick.group, tick.progress)
            return interrupt.signal is not None or time.monotonic() - began > 60 * minutes

        resume = not is_fresh(out)
        if run_sweep(members, out, resume=resume, data_dir=data_dir, on_epoch=on_epoch):
            return None
    print(f"saved in {out}; the same command goes on", flush=True)
    return interrupt.exit_status if interrupt.signal else 0
