"""Compares training on data read from disk (`--stream`) with the same data in memory: throughput and memory use."""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from workload import BATCH, HIDDEN, LATENT, RATE

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.results_file import write_results
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.config import Config

SIDE = 64
ROW_BYTES = SIDE * SIDE
_TEST_FRACTION = 0.01
_WAYS = {"streamed": True, "in memory": False}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Benchmark training from disk against training in memory; prints a table and writes JSON.

    Example: python experiments/benchmarks/streaming.py --megabytes 2000 --epochs 5
    """

    megabytes: int = 2000
    """Size of the data set, 64 x 64 bytes an image."""
    epochs: int = 4
    """Epochs of each, in turns. The first one is left out because its caches are cold."""
    members: int = 1
    """Members of a sweep over the seeds `seed`, `seed` + 1, ..., each with a different order of the images."""
    devices: int = 1
    """Virtual CPU devices over which the members are spread."""
    same_seed: bool = False
    """Give all members the seed `seed`, so that they read the images in one order, and different betas."""
    hidden: int = HIDDEN
    """Width of the hidden layer."""
    batch_size: int = BATCH
    """Images in a step."""
    seed: int = 0
    """Seed of the images, and of the first member in both ways."""
    folder: Path | None = None
    """Folder for the temporary data set, on the disk to measure. By default the temporary folder of the system."""
    out: Path | None = None
    """JSON file to write."""


def write_images(path: Path, count: int, seed: int) -> None:
    """Writes images of 4 x 4 tiles with a round blob each, (count, 64, 64) bytes, in parts that fit into memory."""
    rng = np.random.default_rng(seed)
    grid, side = np.arange(SIDE // 4, dtype=np.float32), SIDE // 4
    center = rng.uniform(4, side - 4, (2, 256, 1)).astype(np.float32)
    vertical, horizontal = (np.exp(-0.5 * ((grid - c) / 2.5) ** 2) for c in center)
    tiles = (255 * vertical[:, :, None] * horizontal[:, None, :]).astype(np.uint8)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, SIDE, SIDE))
    for first in range(0, count, 4096):
        chosen = rng.integers(0, len(tiles), (min(4096, count - first), 4, 4))
        images[first : first + 4096] = tiles[chosen].transpose(0, 1, 3, 2, 4).reshape(-1, SIDE, SIDE)
    images.flush()


class _Report(NamedTuple):
    """Time that an epoch took."""

    seconds: float
    cpu_seconds: float  # of all threads, evaluation and reading included
    examples: int
    peak: int  # of the memory so far
    elbo: float  # on the test set, mean of the members


def anonymous_bytes() -> int:
    """Returns the memory of this process that is not backed by a file, and so without the page cache of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def train(pipe: Connection, config: Config, seeds: Sequence[int], betas: Any, devices: int) -> None:
    """Trains one epoch per message and answers with a `_Report`. Runs in a child process."""
    import jax

    from vae_jax.build import build
    from vae_jax.training import Callbacks, FitOptions, fit_members

    jax.config.update("jax_num_cpu_devices", devices)
    peak, stop = [anonymous_bytes()], threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            peak[0] = max(peak[0], anonymous_bytes())

    threading.Thread(target=watch, daemon=True).start()
    began = time.perf_counter()
    built = build(config)
    used = len(built.dataset.train) // config.batch_size * config.batch_size
    pipe.send(time.perf_counter() - began)
    pipe.recv()
    cpu_began = [time.process_time()]

    def after_epoch(progress: Any) -> None:
        last = [history[-1] for history in progress.histories]
        elbo = statistics.mean(epoch.test.elbo for epoch in last)
        cpu_seconds = time.process_time() - cpu_began[0]
        pipe.send(_Report(sum(epoch.seconds for epoch in last), cpu_seconds, used * len(last), peak[0], elbo))
        pipe.recv()
        cpu_began[0] = time.process_time()

    options, callbacks = FitOptions.from_keywords(built.fit_arguments), Callbacks(after_epoch)
    hyperparams = built.fit_arguments["hyperparams"]._replace(beta=np.float32(betas))
    fit_members(built.vae, built.data, options, seeds=seeds, hyperparams=hyperparams, callbacks=callbacks)
    stop.set()


class Measurement(NamedTuple):
    """Results of one way to hold the data."""

    rates: list[float]  # examples per second, by epoch
    cpu_rates: list[float]  # examples per second of the processors, by epoch
    last: _Report  # of the last epoch
    seconds_before_training: float


def measure(
    configs: dict[str, Config], epochs: int, seeds: Sequence[int] = (0,), betas: Sequence[float] = (1.0,), devices: int = 1
) -> dict[str, Measurement]:
    """Trains in one process for each way, an epoch each in turn.

    Args:
      configs: the settings of each way by its name.
      epochs: of each way.
      seeds, betas: of the members.
      devices: virtual CPU devices.
    """
    context = multiprocessing.get_context("spawn")
    pipes, processes, start = {}, [], {}
    for name, config in configs.items():
        pipes[name], far = context.Pipe()
        process = context.Process(target=train, args=(far, config, seeds, betas, devices), daemon=True)
        process.start()
        far.close()
        processes.append(process)
        start[name] = pipes[name].recv()
        print(f"{name}: data and model ready after {start[name]:.1f} s", flush=True)
    rates: dict[str, list[float]] = {name: [] for name in configs}
    cpu_rates: dict[str, list[float]] = {name: [] for name in configs}
    last: dict[str, _Report] = {}
    for number in range(epochs):
        for name, pipe in pipes.items():
            pipe.send("go")
            last[name] = pipe.recv()
            rates[name].append(last[name].examples / last[name].seconds)
            cpu_rates[name].append(last[name].examples / last[name].cpu_seconds)
        speeds = "  ".join(f"{name} {values[-1]:8,.0f}/s" for name, values in rates.items())
        print(f"epoch {number + 1}/{epochs}  {speeds}", flush=True)
    for pipe in pipes.values():
        pipe.send("end")
    for process in processes:
        process.join()
    return {name: Measurement(rates[name], cpu_rates[name], last[name], start[name]) for name in configs}


def result_rows(measured: dict[str, Measurement], reference: str) -> list[dict[str, Any]]:
    """Returns the results without the first epoch, unless there is only one, and their ratios to those of the reference."""
    warm = slice(1 if len(measured[reference].rates) > 1 else 0, None)
    other = measured[reference]
    return [
        {
            "way": name,
            "examples_per_second": statistics.median(one.rates[warm]),
            # The ratio is taken epoch by epoch, so that a slow minute of the machine affects both.
            "ratio": statistics.median(a / b for a, b in zip(one.rates[warm], other.rates[warm], strict=True)),
            "cpu_ratio": statistics.median(a / b for a, b in zip(one.cpu_rates[warm], other.cpu_rates[warm], strict=True)),
            "best_examples_per_second": max(one.rates),
            "peak_anonymous_bytes": one.last.peak,
            "seconds_before_training": one.seconds_before_training,
            "test_elbo": one.last.elbo,
        }
        for name, one in measured.items()
    ]


def table(rows: list[dict[str, Any]], reference: str) -> str:
    """Returns the table of results in Markdown."""
    cells = [
        (
            row["way"],
            f"{row['examples_per_second']:,.0f}",
            f"{row['ratio']:.3f}",
            f"{row['cpu_ratio']:.3f}",
            f"{row['best_examples_per_second']:,.0f}",
            f"{row['peak_anonymous_bytes'] / 1e6:,.0f} MB",
            f"{row['seconds_before_training']:.1f} s",
            f"{row['test_elbo']:.2f}",
        )
        for row in rows
    ]
    header = (
        "",
        "examples/s",
        f"of {reference}",
        "per CPU second",
        "best epoch",
        "peak memory (anonymous)",
        "before training",
        "test ELBO",
    )
    return markdown(header, cells)


def main() -> int:
    """Writes the data, trains in both ways in turns, and prints the table."""
    arguments = parse(Arguments)
    expect_counts(
        1, **{name: getattr(arguments, name) for name in ("megabytes", "epochs", "members", "devices", "hidden", "batch_size")}
    )
    count = arguments.megabytes * 10**6 // ROW_BYTES
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "images.npy"
        print(f"writing {count:,} images, {arguments.megabytes:,} MB, to {path} ...", flush=True)
        write_images(path, count, arguments.seed)
        config = Config(
            dataset=str(path),
            test_fraction=_TEST_FRACTION,
            hidden=(arguments.hidden,),
            latent_dim=LATENT,
            learning_rate=RATE,
            batch_size=arguments.batch_size,
            epochs=arguments.epochs,
        )
        configs = {name: dataclasses.replace(config, stream=stream) for name, stream in _WAYS.items()}
        numbers = range(arguments.members)
        seeds = [arguments.seed + (0 if arguments.same_seed else i) for i in numbers]
        betas = [1 + (i / 4 if arguments.same_seed else 0) for i in numbers]
        measured = measure(configs, arguments.epochs, seeds, betas, arguments.devices)
    elbos = [one.last.elbo for one in measured.values()]
    if elbos[0] != elbos[1]:
        print(f"note: the test ELBOs differ: {elbos[0]} and {elbos[1]}", file=sys.stderr)
    rows = result_rows(measured, "in memory")
    print(f"\n{arguments.megabytes:,} MB of data, {arguments.members} members\n\n{table(rows, 'in memory')}")
    if arguments.out is not None:
        settings = dataclasses.asdict(arguments) | {"network": f"{ROW_BYTES}-{arguments.hidden}-{LATENT}"}
        settings |= {"folder": arguments.folder and str(arguments.folder), "out": None}
        content = {"rows": rows, "rates": {name: one.rates for name, one in measured.items()}, "settings": settings}
        write_results(arguments.out, content, ("jax", "jaxlib", "grain", "numpy"))
    return 0


if __name__ == "__main__":
    run_script(main)
