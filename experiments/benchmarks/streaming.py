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


def anonymous_bytes() -> int:
    """Returns the memory of this process that is not backed by a file, and so without the page cache of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def train(pipe: Connection, path: str, stream: bool, arguments: Arguments) -> None:
    """Trains one epoch per message and answers with (seconds, examples, peak of memory, test ELBO). Runs in a child process."""
    import jax

    from vae_jax.build import build
    from vae_jax.config import Config
    from vae_jax.training import Callbacks, FitOptions, fit_members

    jax.config.update("jax_num_cpu_devices", arguments.devices)
    peak, stop = [anonymous_bytes()], threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            peak[0] = max(peak[0], anonymous_bytes())

    threading.Thread(target=watch, daemon=True).start()
    config = Config(
        dataset=path,
        stream=stream,
        test_fraction=_TEST_FRACTION,
        hidden=(HIDDEN,),
        latent_dim=LATENT,
        learning_rate=RATE,
        batch_size=BATCH,
        epochs=arguments.epochs,
    )
    began = time.perf_counter()
    built = build(config)
    used = len(built.dataset.train) // BATCH * BATCH
    pipe.send(time.perf_counter() - began)
    pipe.recv()

    def after_epoch(progress: Any) -> None:
        last = [history[-1] for history in progress.histories]
        elbo = statistics.mean(epoch.test.elbo for epoch in last)
        pipe.send((sum(epoch.seconds for epoch in last), used * len(last), peak[0], elbo))
        pipe.recv()

    seeds = range(arguments.seed, arguments.seed + arguments.members)
    options, callbacks = FitOptions.from_keywords(built.fit_arguments), Callbacks(after_epoch)
    hyperparams = built.fit_arguments["hyperparams"]
    fit_members(built.vae, built.data, options, seeds=seeds, hyperparams=hyperparams, callbacks=callbacks)
    stop.set()


class Measurement(NamedTuple):
    """Results of one way to read the data."""

    rates: list[float]  # examples per second, by epoch
    last: tuple[float, int, int, float]  # seconds, examples, peak of memory and mean test ELBO after the last epoch
    seconds_before_training: float


def measure(path: Path, arguments: Arguments) -> dict[str, Measurement]:
    """Trains in one process for each way, an epoch each in turn."""
    context = multiprocessing.get_context("spawn")
    pipes, processes, start = {}, [], {}
    for name, stream in _WAYS.items():
        pipes[name], far = context.Pipe()
        process = context.Process(target=train, args=(far, str(path), stream, arguments), daemon=True)
        process.start()
        far.close()
        processes.append(process)
        start[name] = pipes[name].recv()
        print(f"{name}: data and model ready after {start[name]:.1f} s", flush=True)
    rates: dict[str, list[float]] = {name: [] for name in _WAYS}
    last: dict[str, Any] = {}
    for number in range(arguments.epochs):
        for name, pipe in pipes.items():
            pipe.send("go")
            last[name] = pipe.recv()
            rates[name].append(last[name][1] / last[name][0])
        speeds = "  ".join(f"{name} {values[-1]:8,.0f}/s" for name, values in rates.items())
        print(f"epoch {number + 1}/{arguments.epochs}  {speeds}", flush=True)
    for pipe in pipes.values():
        pipe.send("end")
    for process in processes:
        process.join()
    return {name: Measurement(rates[name], last[name], start[name]) for name in _WAYS}


def result_rows(measured: dict[str, Measurement]) -> list[dict[str, Any]]:
    """Returns the results without the first epoch, unless there is only one."""
    warm = slice(1 if len(measured["streamed"].rates) > 1 else 0, None)
    in_memory = measured["in memory"].rates[warm]
    return [
        {
            "way": name,
            "examples_per_second": statistics.median(one.rates[warm]),
            # The ratio is taken epoch by epoch, so that a slow minute of the machine affects both.
            "ratio": statistics.median(a / b for a, b in zip(one.rates[warm], in_memory, strict=True)),
            "best_examples_per_second": max(one.rates),
            "peak_anonymous_bytes": one.last[2],
            "seconds_before_training": one.seconds_before_training,
            "test_elbo": one.last[3],
        }
        for name, one in measured.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the table of results in Markdown."""
    cells = [
        (
            row["way"],
            f"{row['examples_per_second']:,.0f}",
            f"{row['ratio']:.3f}",
            f"{row['best_examples_per_second']:,.0f}",
            f"{row['peak_anonymous_bytes'] / 1e6:,.0f} MB",
            f"{row['seconds_before_training']:.1f} s",
            f"{row['test_elbo']:.2f}",
        )
        for row in rows
    ]
    header = ("", "examples/s", "of in memory", "best epoch", "peak memory (anonymous)", "before training", "test ELBO")
    return markdown(header, cells)


def main() -> int:
    """Writes the data, trains in both ways in turns, and prints the table."""
    arguments = parse(Arguments)
    expect_counts(1, **{name: getattr(arguments, name) for name in ("megabytes", "epochs", "members", "devices")})
    count = arguments.megabytes * 10**6 // ROW_BYTES
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "images.npy"
        print(f"writing {count:,} images, {arguments.megabytes:,} MB, to {path} ...", flush=True)
        write_images(path, count, arguments.seed)
        measured = measure(path, arguments)
    elbos = [one.last[3] for one in measured.values()]
    if elbos[0] != elbos[1]:
        print(f"note: the test ELBOs differ: {elbos[0]} and {elbos[1]}", file=sys.stderr)
    rows = result_rows(measured)
    print(f"\n{arguments.megabytes:,} MB of data, {arguments.members} members\n\n{table(rows)}")
    if arguments.out is not None:
        settings = dataclasses.asdict(arguments) | {"network": f"{ROW_BYTES}-{HIDDEN}-{LATENT}", "batch_size": BATCH}
        settings |= {"folder": arguments.folder and str(arguments.folder), "out": None}
        content = {"rows": rows, "rates": {name: one.rates for name, one in measured.items()}, "settings": settings}
        write_results(arguments.out, content, ("jax", "jaxlib", "grain", "numpy"))
    return 0


if __name__ == "__main__":
    run_script(main)
