"""Throughput and start-up of a sweep on MNIST: eight members in one program against single runs and a PyTorch loop.

All train 784-400-20 (ReLU, Adam 1e-3, batch 128) on dynamically binarised MNIST held in memory, and evaluate the test set after
every epoch. Each lives in a process of its own, with the devices that it has as a user runs it, and sleeps while the others
work; they take turns, for as many member-epochs each, so that a noisy machine is noisy for all. Ratios are medians over the
rounds. Start-up is the wall time of `sweep.py` with a few epochs against as many `train.py` one after another.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import environment  # noqa: F401

import dataclasses
import importlib.util
import itertools
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple

import numpy as np
from common import parse, run_script
from peers import BATCH, HIDDEN, LATENT, RATE, PyTorch
from tables import check_counts, markdown, write_results

EXPERIMENTS = Path(__file__).resolve().parents[1]


class Entry(NamedTuple):
    """What takes part in the throughput part."""

    label: str
    strategy: str  # of `sharding.place`; "fit" for a single run, "torch" for PyTorch
    devices: int | None  # of its process; None for one each core, as sweep.py has them
    target: float | None = None  # the sweep is to be so much faster


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
    """Where TFDS finds prepared data."""
    members: int = 8
    """Members of the sweep: seeds 0, 1, ..."""
    rounds: int = 5
    """Turns of each entry in the throughput part; 0 leaves that part out."""
    entries: tuple[str, ...] = ("sweep", "single", "map", "vmap", "pytorch")
    """Which to measure; single-beside is the control that more devices in the process do not slow a single run down."""
    startup: tuple[Literal["no-report", "report"], ...] = ("no-report", "report")
    """Start-up with these; nothing after the flag leaves that part out."""
    startup_epochs: int = 2
    """Epochs in the start-up part."""
    examples: int | None = None
    """Use only so many training examples (and as many test examples at most), for a quick trial."""
    out: Path | None = None
    """JSON file to write."""


def train(entry: Entry, dataset: Any, members: int, pause: Callable[..., bool]) -> None:
    """Trains until `pause`, called after each epoch, is true."""
    from vae_jax import data

    prepared = data.prepare(dataset, binarization="dynamic")
    if entry.strategy == "torch":
        peer = PyTorch(dataset, np.asarray(prepared.test), seed=0)
        for number in itertools.count():
            peer.epoch(number)
            peer.test_elbo()
            if pause():
                return
    from vae_jax import likelihoods, model, training
    from vae_jax.training import placement as sharding

    vae = model.mlp_vae(dataset.data_shape, likelihoods.bernoulli(), latent_dim=LATENT, hidden=(HIDDEN,))
    if entry.strategy == "fit":
        training.fit(vae, prepared, epochs=sys.maxsize, batch_size=BATCH, seed=0, on_epoch=pause)
    else:
        options, placement = training.FitOptions(sys.maxsize, BATCH), sharding.place(members, entry.strategy)
        callbacks = training.Callbacks(pause)
        training.fit_members(vae, prepared, options, seeds=range(members), placement=placement, callbacks=callbacks)


def work(connection: Connection, name: str, path: Path, members: int) -> None:
    """The life of an entry's process: one epoch to warm up, then at each word from the parent as many as there are members."""
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
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hear(name: str, connection: Any) -> float:
    """The seconds that an entry reports."""
    from vae_jax.errors import UserError

    try:
        return connection.recv()
    except EOFError:
        raise UserError(f"{name}: its process died; what it said is above.") from None


def throughput(names: list[str], path: Path, members: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of every turn of every entry; a turn trains and evaluates each member, or as many single runs, for one epoch."""
    context = multiprocessing.get_context("spawn")
    connections: dict[str, Any] = {}
    processes = []
    for name in names:  # one after another, so that none compiles while another one does
        print(f"starting: {ENTRIES[name].label} ...", flush=True)
        connections[name], theirs = context.Pipe()
        processes.append(context.Process(target=work, args=(theirs, name, path, members), daemon=True))
        processes[-1].start()
        theirs.close()
        hear(name, connections[name])
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name, connection in connections.items():
            connection.send("go")
            seconds[name].append(hear(name, connection))
        last = "  ".join(f"{name} {values[-1]:.2f} s" for name, values in seconds.items())
        print(f"round {number + 1}/{rounds}  {last}", flush=True)
    for connection, process in zip(connections.values(), processes, strict=True):
        connection.send("stop")
        process.join()
    return seconds


def run_scripts(commands: list[list[Any]], cache: Path) -> float:
    """Wall time of scripts run one after another as a user would, with this cache folder."""
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
    """Seconds of the sweep and of the single runs, with cold and then with warm caches of their own."""
    settings = ("--dataset", path, "--hidden", HIDDEN, "--latent-dim", LATENT, "--batch-size", BATCH, "--learning-rate", RATE)
    settings = (*settings, "--epochs", epochs, "--report" if report else "--no-report")
    seconds: dict[str, dict[str, float]] = {"cold": {}, "warm": {}}
    for state, of_state in seconds.items():
        here = folder / f"{state}-{report}"
        single = [["train.py", *settings, "--seed", seed, "--out", here / f"run{seed}"] for seed in range(members)]
        sweep = [["sweep.py", *settings, "--seeds", *range(members), "--out", here / "sweep"]]
        for name, commands in (("single", single), ("sweep", sweep)):
            of_state[name] = run_scripts(commands, folder / f"cache-{name}-{report}")
            print(f"start-up, {state} cache, report {report}: {name} {of_state[name]:.1f} s", flush=True)
    return seconds


def write_data(arguments: Arguments, folder: Path) -> Any:
    """The data set, cut to --examples and written where every process reads the same file."""
    from vae_jax import data

    dataset = data.load(arguments.dataset, data_dir=arguments.data_dir)
    dataset = dataset._replace(train=dataset.train[: arguments.examples], test=dataset.test[: arguments.examples])
    np.savez(folder / "data.npz", train=dataset.train, test=dataset.test)
    return dataset


def main() -> int:
    """Runs both parts and prints the table."""
    arguments = parse(Arguments)
    from vae_jax.errors import UserError, unknown

    check_counts(members=arguments.members, startup_epochs=arguments.startup_epochs)
    if arguments.examples is not None and arguments.examples < BATCH:
        raise UserError(f"--examples: expected at least one batch, {BATCH}, got {arguments.examples}.")
    for name in arguments.entries:
        if name not in ENTRIES:
            raise unknown("entry", name, ENTRIES)
    names, notes = list(arguments.entries), []
    if "pytorch" in names and importlib.util.find_spec("torch") is None:
        names.remove("pytorch")
        notes.append("PyTorch is not installed (pip install torch), so its row is left out.")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = write_data(arguments, folder)
        path = folder / "data.npz"
        examples = len(dataset.train) // BATCH * BATCH * arguments.members
        if arguments.rounds > 0 and names:
            seconds = throughput(names, path, arguments.members, arguments.rounds)
            for name in names:
                rates = [examples / value for value in seconds[name]]
                # round by round, so that a slow minute of the machine counts for both
                ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds[names[0]], strict=True))
                entry = ENTRIES[name]
                rows.append(
                    {
                        "name": entry.label,
                        "member_examples_per_second": statistics.median(rates),
                        "ratio": ratio,
                        "target": entry.target if names[0] == "sweep" else None,
                        "seconds": seconds[name],
                    }
                )
        for report in arguments.startup:
            seconds = startup(path, arguments.members, arguments.startup_epochs, report == "report", folder)
            for state, of_state in seconds.items():
                rows.append(
                    {
                        "name": f"{arguments.members} train.py one after another, {arguments.startup_epochs} epochs, "
                        f"{state} cache, {'with' if report == 'report' else 'without'} report",
                        "seconds": of_state["single"],
                        "sweep_seconds": of_state["sweep"],
                        "ratio": of_state["single"] / of_state["sweep"],
                        "target": STARTUP_TARGET,
                    }
                )
    cells = []
    for row in rows:
        rate, sweep_seconds = row.get("member_examples_per_second"), row.get("sweep_seconds")
        measured = f"{rate:,.0f} member-examples/s" if rate else f"{row['seconds']:.1f} s (sweep.py {sweep_seconds:.1f} s)"
        target = row["target"]
        met = "" if target is None else f"{target:.1f}: {'met' if row['ratio'] >= target else 'missed'}"
        cells.append((row["name"], measured, f"{row['ratio']:.2f}", met))
    label = ENTRIES[names[0]].label if names and names[0] != "sweep" else f"the sweep of {arguments.members}"
    print(f"\n{markdown(('', 'measured', f'{label} is faster by', 'target'), cells)}")
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
