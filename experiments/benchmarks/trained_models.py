"""Compares the rate at which `vae-jax encode` writes codes with that of the encoder alone."""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import contextlib
import dataclasses
import io
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vae_jax import data, runs
from vae_jax.build import build
from vae_jax.cli import encode
from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.results_file import write_results
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.config import Config
from vae_jax.runs import TrainedModel


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Benchmark encoding of a file against the encoder alone; prints a table and writes JSON.

    Example: python experiments/benchmarks/trained_models.py --rows 100000
    """

    rows: int = 100_000
    """Rows of the file, uint8."""
    columns: int = 784
    """Columns of the file."""
    hidden: tuple[int, ...] = (256, 256)
    """Layers of the encoder."""
    repeats: int = 5
    """Repetitions of each, in turns."""
    out: Path | None = None
    """JSON file to write."""


_BATCH_SIZES = (128, 1024, 8192)  # of the plain loop


def main() -> int:
    """Trains a small model, encodes the file in several ways in turns, and prints the table."""
    arguments = parse(Arguments)
    expect_counts(1, rows=arguments.rows, columns=arguments.columns, repeats=arguments.repeats)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = trained_model(folder / "run", arguments)
        np.save(folder / "rows.npy", random_rows(arguments.rows, arguments.columns))
        np.save(folder / "short.npy", random_rows(arguments.rows // 4, arguments.columns))
        ways = {f"encoder alone, batch {size}": plain_loop(model, folder / "rows.npy", size) for size in _BATCH_SIZES}
        for ending in ("npz", "parquet", "csv"):
            ways[f"file to .{ending}"] = from_file_to_file(model, folder, "rows.npy", ending)
        ways["whole command, .npz"] = whole_command(folder)
        seconds = time_in_turns(ways, arguments.repeats)
        memory = {rows: peak_growth(from_file_to_file(model, folder, file, "npz")) for rows, file in sizes(arguments).items()}
    rates = {way: Rates(*(arguments.rows / least for least in times)) for way, times in seconds.items()}
    best = Rates(*(max(rate[i] for way, rate in rates.items() if way.startswith("encoder")) for i in range(2)))
    cells = [
        (way, f"{rate.wall:,.0f}", f"{rate.wall / best.wall:.2f}", f"{rate.cpu:,.0f}", f"{rate.cpu / best.cpu:.2f}")
        for way, rate in rates.items()
    ]
    print(markdown(("way", "rows/s", "share of the best", "rows per CPU second", "share of the best"), cells))
    for rows, growth in memory.items():
        print(f"memory of the process, {rows:,} rows: {growth / 1e6:.0f} MB more at its peak than before")
    if arguments.out is not None:
        content = {
            "rows_per_second": {way: rate.wall for way, rate in rates.items()},
            "rows_per_cpu_second": {way: rate.cpu for way, rate in rates.items()},
        }
        peaks = {str(rows): growth for rows, growth in memory.items()}
        write_results(arguments.out, {**content, "peak_growth_bytes": peaks}, ("jax", "numpy", "pyarrow"))
    return 0


class Rates(NamedTuple):
    """Rows in a second of wall time, and in a second of CPU time of the process."""

    wall: float
    cpu: float


def time_in_turns(ways: dict[str, Callable[[], None]], repeats: int) -> dict[str, tuple[float, float]]:
    """Returns the least wall time and the least CPU time of each function, after a first call that compiles."""
    seconds = {way: (math.inf, math.inf) for way in ways}
    for turn in range(repeats + 1):
        for way, run in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if turn:
                least = seconds[way]
                seconds[way] = (min(least[0], time.perf_counter() - wall), min(least[1], time.process_time() - cpu))
    return seconds


def sizes(arguments: Arguments) -> dict[int, str]:
    """Returns the files by their number of rows."""
    return {arguments.rows // 4: "short.npy", arguments.rows: "rows.npy"}


def random_rows(rows: int, columns: int) -> np.ndarray:
    """Returns random bytes."""
    return np.random.default_rng(0).integers(0, 256, (rows, columns), np.uint8)


def trained_model(out: Path, arguments: Arguments) -> TrainedModel:
    """Trains a model of such rows for an epoch."""
    examples = random_rows(512, arguments.columns)
    config = Config(hidden=arguments.hidden, latent_dim=10, likelihood="continuous_bernoulli", epochs=1)
    dataset = data.from_arrays(examples, max_level=255, event="vector")
    with contextlib.redirect_stdout(io.StringIO()):
        runs.train(build(config, dataset=dataset), out)
    return runs.load_model(out)


def plain_loop(model: TrainedModel, file: Path, batch_size: int) -> Callable[[], None]:
    """Returns a function that encodes batches in memory by a compiled encoder. A remainder is left out."""
    examples = np.load(file)
    scaled = lambda batch: batch.astype(jnp.float32) / 255  # noqa: E731
    compiled = jax.jit(lambda params, batch: jax.vmap(lambda x: model.vae.encode(params, x))(scaled(batch)))

    def run() -> None:
        firsts = range(0, len(examples) - batch_size + 1, batch_size)
        jax.block_until_ready([compiled(model.params, examples[first : first + batch_size]) for first in firsts])

    return run


def from_file_to_file(model: TrainedModel, folder: Path, file: str, ending: str) -> Callable[[], None]:
    """Returns a function that does what the command does once the model is read: from the file to the written codes."""
    out = folder / f"codes.{ending}"
    arguments = encode.Arguments(run=model.path, data=str(folder / file), out=out, overwrite=True)

    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            encode.write_codes(arguments, model)

    return run


def whole_command(folder: Path) -> Callable[[], None]:
    """Returns a function that runs the command, which reads the model and looks up its program in the cache as well."""
    words = [str(folder / "run"), "--data", str(folder / "rows.npy"), "--out", str(folder / "codes.npz"), "--overwrite"]

    def run() -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert encode.main(words) == 0

    return run


def peak_growth(run: Callable[[], None]) -> int:
    """Returns by how many bytes the resident memory of the process grows at most while a function runs."""
    with sampled_memory() as samples:
        run()
    return max(samples) - samples[0]


@contextlib.contextmanager
def sampled_memory() -> Iterator[list[int]]:
    """Yields the resident memory of the process, sampled every few milliseconds. Pages of mapped files are left out."""
    samples, stop = [anonymous_memory()], threading.Event()

    def sample() -> None:
        while not stop.wait(0.005):
            samples.append(anonymous_memory())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def anonymous_memory() -> int:
    """Returns the resident memory that is not a page of a file, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    run_script(main)
