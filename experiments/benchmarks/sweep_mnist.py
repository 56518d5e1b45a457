"""Compares a sweep of eight members on MNIST with single runs and a PyTorch loop, by throughput and by start-up time.

All train 784-400-20 (ReLU, Adam 1e-3, batch 128) on dynamically binarized MNIST in memory, and evaluate the test set after
every epoch. Each entry has a separate process with the devices that it has in normal use, and waits while the others work. They
take turns of the same number of member-epochs, so that a noisy machine is noisy for all. Ratios are medians over the rounds.
Start-up is the wall time of `sweep.py` with a few epochs against that of the same number of `train.py` runs in sequence.
"""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import importlib.util
import itertools
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from peers import Problem, PyTorch
from workload import BATCH, HIDDEN, LATENT, RATE, mlp

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.results_file import write_results
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown

EXPERIMENTS = Path(__file__).resolve().parents[1]


class Entry(NamedTuple):
    """Entry of the throughput part."""

    label: str
    strategy: str  # of `placement.place`; "fit" for a single run, "torch" for PyTorch
    devices: int | None  # of its process; None for one per core, as in sweep.py
    target: float | None = None  # required speed of the sweep relative to this entry


ENTRIES = {
    "sweep": Entry("sweep as sweep.py runs it", "auto", None),
    "single": Entry("single runs as train.py runs them", "fit", 1, 1.1),
    "map": Entry("sweep, map, one device", "map", 1),
    "vmap": Entry("sweep, vmap, one device", "vmap", 1),
    "pytorch": Entry("PyTorch, eager, single runs", "torch", None, 2.2),
    "single-beside": Entry("single runs, in a process with a device for each core", "fit", None),
}
STARTUP_TARGET = 2.0


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Benchmark a sweep on MNIST; prints a table and writes JSON.

    Example: python experiments/benchmarks/sweep_mnist.py --dataset ~/data/mnist --out results.json
    """

    dataset: str = "mnist"
    """MNIST: a TFDS name, or a folder with its IDX files."""
    data_dir: str | None = None
    """Folder with prepared TFDS data."""
    members: int = 8
    """Members of the sweep: seeds 0, 1, ..."""
    rounds: int = 5
    """Turns of each entry in the throughput part. 0 leaves that part out."""
    entries: tuple[str, ...] = ("sweep", "single", "map", "vmap", "pytorch")
    """Entries to measure. single-beside checks that more devices in the process do not slow a single run down."""
    startup: tuple[Literal["no-report", "report"], ...] = ("no-report", "report")
    """Start-up with or without report. An empty list leaves that part out."""
    startup_epochs: int = 2
    """Epochs in the start-up part."""
    examples: int | None = None
    """Use at most this number of training examples and of test examples, for a quick trial."""
    out: Path | None = None
    """JSON file to write."""


def train(entry: Entry, dataset: Any, members: int, pause: Callable[..., bool]) -> None:
    """Trains until `pause`, which is called after each epoch, returns True."""
    from vae_jax import data

    prepared = data.prepare(dataset, binarization="dynamic")
    if entry.strategy == "torch":
        problem = Problem(mlp(dataset.data_shape), dataset, np.asarray(prepared.test), BATCH, binarize=True)
        peer = PyTorch(problem, seed=0)
        for number in itertools.count():
            peer.epoch(number)
            peer.test_elbo()
            if pause():
                return
    from vae_jax import likelihoods, model, training
    from vae_jax.training.placement import place

    vae = model.mlp_vae(dataset.data_shape, likelihoods.bernoulli(), latent_dim=LATENT, hidden=(HIDDEN,))
    if entry.strategy == "fit":
        training.fit(vae, prepared, epochs=sys.maxsize, batch_size=BATCH, seed=0, on_progress=pause)
    else:
        options, placement = training.FitOptions(sys.maxsize, BATCH), place(members, entry.strategy)
        callbacks = training.Callbacks(pause)
        training.fit_members(vae, prepared, options, seeds=range(members), placement=placement, callbacks=callbacks)


def work(connection: Connection, name: str, path: Path, members: int) -> None:
    """Runs the process of an entry: one epoch to warm up, and then one turn for each message from the parent."""
    entry = ENTRIES[name]
    import jax

    jax.config.update("jax_num_cpu_devices", entry.devices or min(8, cores(), members))
    from vae_jax import data

    dataset = data.load(str(path))
    epochs_a_turn = members if entry.strategy in ("fit", "torch") else 1
    epochs, began = 0, 0.0

    def pause(*_: Any) -> bool:
        nonlocal epochs, began
        if epochs % epochs_a_turn == 0:
            connection.send(time.perf_counter() - began)
            if connection.recv() == "stop":
                return True
            began = time.perf_counter()
        epochs += 1
        return False

    train(entry, dataset, members, pause)


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def receive(name: str, connection: Any) -> float:
    """Receives the seconds that an entry reports."""
    from vae_jax.errors import UserError

    try:
        return connection.recv()
    except EOFError:
        raise UserError(f"{name}: its process died. Its output is above.") from None


def throughput(names: list[str], path: Path, members: int, rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of every turn of every entry. A turn trains and evaluates all members for one epoch."""
    context = multiprocessing.get_context("spawn")
    connections: dict[str, Any] = {}
    processes = []
    for name in names:  # one after another, so that only one compiles at a time
        print(f"starting: {ENTRIES[name].label} ...", flush=True)
        connections[name], theirs = context.Pipe()
        processes.append(context.Process(target=work, args=(theirs, name, path, members), daemon=True))
        processes[-1].start()
        theirs.close()
        receive(name, connections[name])
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name, connection in connections.items():
            connection.send("go")
            seconds[name].append(receive(name, connection))
        last = "  ".join(f"{name} {values[-1]:.2f} s" for name, values in seconds.items())
        print(f"round {number + 1}/{rounds}  {last}", flush=True)
    for connection, process in zip(connections.values(), processes, strict=True):
        connection.send("stop")
        process.join()
    return seconds


def run_scripts(commands: list[list[Any]], cache: Path) -> float:
    """Returns the wall time of scripts that run one after another with this cache folder."""
    from vae_jax.errors import UserError

    variables = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    variables["VAE_JAX_CACHE"] = str(cache)
    began = time.perf_counter()
    for script, *flags in commands:
        command = [sys.executable, str(EXPERIMENTS / script), *map(str, flags)]
        done = subprocess.run(command, env=variables, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{script} failed: {done.stderr.strip().splitlines()[-1:]}")
    return time.perf_counter() - began


def startup(path: Path, members: int, epochs: int, report: bool, folder: Path) -> dict[str, dict[str, float]]:
    """Returns the seconds of the sweep and of the single runs, with cold and then with warm caches that are not shared."""
    settings = ("--dataset", path, "--hidden", HIDDEN, "--latent-dim", LATENT, "--batch-size", BATCH, "--learning-rate", RATE)
    settings = (*settings, "--epochs", epochs, "--report" if report else "--no-report")
    seconds: dict[str, dict[str, float]] = {"cold": {}, "warm": {}}
    for state, times in seconds.items():
        here = folder / f"{state}-{report}"
        single = [["train.py", *settings, "--seed", seed, "--out", here / f"run{seed}"] for seed in range(members)]
        sweep = [["sweep.py", *settings, "--seeds", *range(members), "--out", here / "sweep"]]
        for name, commands in (("single", single), ("sweep", sweep)):
            times[name] = run_scripts(commands, folder / f"cache-{name}-{report}")
            print(f"start-up, {state} cache, report {report}: {name} {times[name]:.1f} s", flush=True)
    return seconds


def write_data(arguments: Arguments, folder: Path) -> Any:
    """Loads the data set, cuts it to `examples`, and writes it to a file that every process reads."""
    from vae_jax import data

    dataset = data.load(arguments.dataset, data_dir=arguments.data_dir)
    dataset = dataset._replace(train=dataset.train[: arguments.examples], test=dataset.test[: arguments.examples])
    np.savez(folder / "data.npz", train=dataset.train, test=dataset.test)
    return dataset


def throughput_rows(arguments: Arguments, names: list[str], num_train: int, folder: Path) -> list[dict[str, Any]]:
    """Measures the throughput part and returns one row per entry."""
    if arguments.rounds <= 0 or not names:
        return []
    examples = num_train // BATCH * BATCH * arguments.members
    seconds = throughput(names, folder / "data.npz", arguments.members, arguments.rounds)
    rows = []
    for name in names:
        rates = [examples / value for value in seconds[name]]
        # The ratio is taken round by round, so that a slow minute of the machine affects both.
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds[names[0]], strict=True))
        rows.append(
            {
                "name": ENTRIES[name].label,
                "member_examples_per_second": statistics.median(rates),
                "ratio": ratio,
                "target": ENTRIES[name].target if names[0] == "sweep" else None,
                "seconds": seconds[name],
            }
        )
    return rows


def startup_rows(arguments: Arguments, folder: Path) -> list[dict[str, Any]]:
    """Measures the start-up part and returns one row per cache state, with and without reports."""
    rows = []
    for report in arguments.startup:
        seconds = startup(folder / "data.npz", arguments.members, arguments.startup_epochs, report == "report", folder)
        for state, times in seconds.items():
            rows.append(
                {
                    "name": f"{arguments.members} train.py one after another, {arguments.startup_epochs} epochs, "
                    f"{state} cache, {'with' if report == 'report' else 'without'} report",
                    "seconds": times["single"],
                    "sweep_seconds": times["sweep"],
                    "ratio": times["single"] / times["sweep"],
                    "target": STARTUP_TARGET,
                }
            )
    return rows


def table(rows: list[dict[str, Any]], label: str) -> str:
    """Returns the results in Markdown, with ratios to the entry that has this label."""
    cells = []
    for row in rows:
        rate, sweep_seconds = row.get("member_examples_per_second"), row.get("sweep_seconds")
        measured = f"{rate:,.0f} member-examples/s" if rate else f"{row['seconds']:.1f} s (sweep.py {sweep_seconds:.1f} s)"
        target = row["target"]
        verdict = "" if target is None else f"{target:.1f}: {'met' if row['ratio'] >= target else 'missed'}"
        cells.append((row["name"], measured, f"{row['ratio']:.2f}", verdict))
    return markdown(("", "measured", f"{label} is faster by", "target"), cells)


def main() -> int:
    """Runs both parts and prints the table."""
    arguments = parse(Arguments)
    from vae_jax.errors import UserError, unknown

    expect_counts(1, members=arguments.members, startup_epochs=arguments.startup_epochs)
    if arguments.examples is not None and arguments.examples < BATCH:
        raise UserError(field="examples", expected=f"at least one batch, {BATCH}", got=arguments.examples)
    for name in arguments.entries:
        if name not in ENTRIES:
            raise unknown("entry", name, ENTRIES)
    names, notes = list(arguments.entries), []
    if "pytorch" in names and importlib.util.find_spec("torch") is None:
        names.remove("pytorch")
        notes.append("PyTorch is not installed (pip install torch), so its row is left out.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = write_data(arguments, folder)
        rows = [*throughput_rows(arguments, names, len(dataset.train), folder), *startup_rows(arguments, folder)]
    label = ENTRIES[names[0]].label if names and names[0] != "sweep" else f"the sweep of {arguments.members}"
    print(f"\n{table(rows, label)}")
    for note in notes:
        print(f"note: {note}")
    if arguments.out is not None:
        settings = dataclasses.asdict(arguments) | {"dataset": Path(arguments.dataset).name, "out": None}
        settings |= {"training_examples": len(dataset.train)}
        settings |= {"batch_size": BATCH, "network": f"784-{HIDDEN}-{LATENT}", "learning_rate": RATE}
        content = {"rows": rows, "settings": settings, "notes": notes}
        write_results(arguments.out, content, ("jax", "flax", "optax", "torch"))
    return 0


if __name__ == "__main__":
    run_script(main)
