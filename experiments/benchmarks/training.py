"""Throughput and test ELBO of one VAE: vae_jax against PyTorch, pythae, NumPyro, Flax's convolutions, and against the machine.

All train the same network with Adam 1e-3 on the same images held in memory, one after another inside each epoch, so that a
noisy machine is noisy for all; each ratio is the median over the epochs of (their time for an example) / (ours), with the least
and the greatest in brackets. Quality is the test ELBO after these epochs, on one fixed set of binary images with one draw of z.
The roof is the rate of float32 products of 1024 x 1024 matrices, measured in every epoch as well; FLOPs are those of the
products of a step, forward and backward. Peers that are not installed are left out, and said.

The suite has an MLP with grey values as they are (no random bits: the products alone) in batches of 128 and 512, and drawn anew
as zeros and ones; and the default convolutional network on 4,096 binary sprites of 64 x 64, and on MNIST. Convolutions see only
the first `steps` batches of the data, the same in every epoch.
"""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import gc
import importlib.util
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from peers import Problem, Pythae, pytorch
from peers_jax import FlaxConv, NumPyro, VaeJax
from workload import NETWORKS, RATE, product_rate, training_flops

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.results_file import write_results
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown

SPRITES = (4096, 1000)  # training and test images of 64 x 64


class Peer(NamedTuple):
    """One of those that are compared."""

    make: Callable[[Problem, int], Any]
    needs: str = "jax"  # the package
    networks: tuple[str, ...] = ("mlp", "conv")
    slow: bool = False  # fewer steps will do
    inputs: tuple[str, ...] = ("binarized", "real")

    def can(self, network: str, input: str) -> bool:
        """Whether it trains this network on these inputs."""
        return network in self.networks and input in self.inputs


COMPILED = {"compile_mode": "default", "fused": True}
PEERS = {
    "vae_jax": Peer(VaeJax),
    "pytorch": Peer(partial(pytorch, label="PyTorch, eager, in memory"), "torch"),
    "pytorch-loader": Peer(partial(pytorch, label="PyTorch, eager, DataLoader", loader=True), "torch"),
    "pytorch-compiled": Peer(partial(pytorch, label="PyTorch, torch.compile, fused Adam, in memory", **COMPILED), "torch"),
    "numpyro": Peer(NumPyro, "numpyro", ("mlp",), inputs=("binarized",)),  # its Bernoulli is for zeros and ones
    "pythae": Peer(Pythae, "pythae"),
    "flax-conv": Peer(FlaxConv, "flax", ("conv",), slow=True),
}
ROOF = "roof"


class Setting(NamedTuple):
    """What they train."""

    network: Literal["mlp", "conv"]
    size: Literal[28, 64]
    batch_size: int
    input: Literal["binarized", "real"]
    epochs: int = 20
    steps: int = 0  # of an epoch at most; 0: all


SUITE = {  # with what is to be shown: vae_jax is faster by so much, and reaches this share of the roof
    Setting("mlp", 28, 128, "real", 8): {"pytorch": 2.2, "pytorch-compiled": 1.5, ROOF: 0.75},
    Setting("mlp", 28, 512, "real", 8): {ROOF: 0.9},
    Setting("mlp", 28, 128, "binarized", 8): {"numpyro": 1.3},
    Setting("conv", 64, 64, "real", 5, 32): {"pytorch": 1.0, "flax-conv": 15.0},
    Setting("conv", 28, 64, "binarized", 5, 150): {"pytorch": 1.0},
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Benchmark the training of a VAE; prints a table and writes JSON.

    Example: python experiments/benchmarks/training.py --suite --dataset ~/data/mnist --out results.json
    """

    dataset: str = "mnist"
    """MNIST: a TFDS name, or a folder with its IDX files."""
    data_dir: str | None = None
    """Where TFDS finds prepared data."""
    suite: bool = False
    """All the settings of the published table, one after another; network, size, batch size and input are then its own."""
    network: Literal["mlp", "conv"] = "mlp"
    """784-400-20 with ReLU, or the default of --network conv of train.py with 10 latent dimensions."""
    size: Literal[28, 64] = 28
    """28: the data set's own images. 64: sprites of 64 x 64, rendered once."""
    batch_size: int = 128
    """Examples in a step."""
    input: Literal["binarized", "real"] = "binarized"
    """Pixels drawn anew at every step as zeros and ones, or levels as numbers in [0, 1], without random bits."""
    epochs: int | None = None
    """Epochs of each; 20, or the suite's own."""
    steps: int | None = None
    """Train on the first so many batches of the data only; 0: on all. All, or the suite's own."""
    slow_steps: int = 2
    """The same for peers that take seconds a step."""
    peers: tuple[str, ...] = ()
    """Which to run, the first of them to compare with; all by default."""
    seed: int = 0
    """Seed of all of them."""
    out: Path | None = None
    """JSON file to write."""


def settings_of(arguments: Arguments) -> list[Setting]:
    """The settings to run; raises `UserError` for what contradicts itself."""
    from vae_jax.errors import UserError, unknown

    own = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(arguments)}
    given = {name: own[name] for name in ("epochs", "steps") if own[name] is not None}
    expect_counts(1, **{name: own[name] for name in ("epochs", "batch_size", "slow_steps") if own[name] is not None})
    if given.get("steps", 0) < 0:
        raise UserError(f"--steps: expected a whole number >= 0, got {own['steps']}.")
    for name in arguments.peers:
        if name not in PEERS:
            raise unknown("peer", name, PEERS)
        if not arguments.suite and not PEERS[name].can(arguments.network, arguments.input):
            raise UserError(f"--peers: {name} has no network {arguments.network} for {arguments.input} input. Leave it out.")
    if not arguments.suite:
        return [Setting(arguments.network, arguments.size, arguments.batch_size, arguments.input)._replace(**given)]
    for field in dataclasses.fields(arguments):
        if field.name in ("network", "size", "batch_size", "input") and own[field.name] != field.default:
            raise UserError(f"--suite brings its own {field.name.replace('_', '-')}: leave one of the two out.")
    return [setting._replace(**given) for setting in SUITE]


def sprites() -> Any:
    """Binary images of 64 x 64 in memory, as levels 0 and 1."""
    from vae_jax import data

    grid = data.load("sprites_grid")
    chosen = np.random.default_rng(0).permutation(len(grid.train))[: sum(SPRITES)]
    images = np.asarray(grid.images(np.asarray(grid.train)[chosen]))
    return data.Dataset("sprites", images[: SPRITES[0]], None, images[SPRITES[0] :], None, 1, "drawn once from the grid")


def note(text: str) -> None:
    """A line on stderr."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def installed(names: tuple[str, ...]) -> list[str]:
    """Those that can run here; says which cannot."""
    found = []
    for name in names or tuple(PEERS):
        if importlib.util.find_spec(PEERS[name].needs) is None:
            note(f"{name} is left out: {PEERS[name].needs} is not installed.")
        elif name == "pytorch-compiled" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            note(f"{name} is left out: torch.compile needs a C++ compiler.")
        else:
            found.append(name)
    return found


class Race:
    """The peers on one problem, an epoch each in turn."""

    def __init__(self, setting: Setting, names: list[str], dataset: Any, seed: int, slow_steps: int) -> None:
        from vae_jax import data

        if setting.steps:
            dataset = dataset._replace(train=dataset.train[: setting.steps * setting.batch_size])
        few = dataset._replace(train=dataset.train[: slow_steps * setting.batch_size])
        test = np.asarray(data.prepare(dataset, binarization="dynamic").test)
        network = NETWORKS[setting.network](dataset.data_shape)
        problem = Problem(network, dataset, test, setting.batch_size, setting.input == "binarized")
        self.setting, self.problem, self.flops = setting, problem, training_flops(network)
        self.names = [name for name in names if PEERS[name].can(setting.network, setting.input)]
        self.words = f"{network.words}, {'x'.join(map(str, network.shape[:2]))}, batch {setting.batch_size}, {setting.input}"
        print(f"{self.words}: compiling {', '.join(self.names)} ...", flush=True)
        self.peers = {
            name: PEERS[name].make(problem._replace(dataset=few) if PEERS[name].slow else problem, seed) for name in self.names
        }
        self.rates: dict[str, list[float]] = {name: [] for name in (*self.names, ROOF)}

    def run(self) -> None:
        """All epochs."""
        for number in range(self.setting.epochs):
            for name, peer in self.peers.items():
                began = time.perf_counter()
                examples = peer.epoch(number)
                self.rates[name].append(examples / (time.perf_counter() - began))
            self.rates[ROOF].append(product_rate() / self.flops)
            last = "  ".join(f"{name} {values[-1]:,.0f}/s" for name, values in self.rates.items())
            print(f"epoch {number + 1}/{self.setting.epochs}  {last}", flush=True)

    def ratios(self, above: str, below: str) -> list[float]:
        """Rate over rate epoch by epoch, so that a slow minute of the machine counts for both."""
        return [a / b for a, b in zip(self.rates[above], self.rates[below], strict=True)]

    def result(self) -> dict[str, Any]:
        """The rows, and what was to be shown."""
        first, rows = self.names[0], []
        for name, peer in self.peers.items():
            ratios, shares = self.ratios(first, name), self.ratios(name, ROOF)
            row = {
                "name": name,
                "peer": peer.label,
                "examples_per_second": statistics.median(self.rates[name]),
                "ratio": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "share_of_roof": statistics.median(shares),
            }
            if not PEERS[name].slow:  # that has seen less
                row["test_elbo"], row["test_elbo_standard_error"] = peer.test_elbo()
            rows.append(row)
        targets, wanted = [], {}
        if self.problem.network.shape[:2] == 2 * (self.setting.size,):
            wanted = next((targets for setting, targets in SUITE.items() if setting[:4] == self.setting[:4]), {})
        for name, least in wanted.items():
            if first == "vae_jax" and name in self.rates:
                found = rows[0]["share_of_roof"] if name == ROOF else rows[self.names.index(name)]["ratio"]
                targets.append({"against": name, "at_least": least, "found": found, "met": found >= least})
        return {
            "setting": {**self.setting._asdict(), "train_examples": len(self.problem.dataset.train)},
            "words": self.words,
            "training_flops_per_example": self.flops,
            "roof_flops_per_second": statistics.median(self.rates[ROOF]) * self.flops,
            "rows": rows,
            "targets": targets,
        }


def table(results: list[dict[str, Any]]) -> str:
    """One table of all settings, and a line for each target."""
    cells, lines = [], []
    for result in results:
        words = result["words"]
        for row in result["rows"]:
            low, high = row["ratio_range"]
            elbo = f"{row['test_elbo']:.2f} ± {row['test_elbo_standard_error']:.2f}" if "test_elbo" in row else ""
            ratio = f"{row['ratio']:.2f} ({low:.2f}-{high:.2f})" if row is not result["rows"][0] else "1"
            cells.append((words, row["peer"], f"{row['examples_per_second']:,.0f}", ratio, f"{row['share_of_roof']:.2f}", elbo))
            words = ""
        epochs, roof = result["setting"]["epochs"], result["roof_flops_per_second"] / 1e9
        lines.append(
            f"{result['words']}: {epochs} epochs of {result['setting']['train_examples']:,} images; roof {roof:.0f} GFLOP/s."
        )
        for target in result["targets"]:
            against = "share of the roof" if target["against"] == ROOF else f"faster than {target['against']} by"
            verdict = "met" if target["met"] else "MISSED"
            lines.append(f"{result['words']}: {against} {target['found']:.2f}, at least {target['at_least']:g}: {verdict}.")
    header = ("network, images, batch, input", "", "examples/s", f"{results[0]['rows'][0]['peer']} is faster by")
    return f"{markdown((*header, 'share of the roof', 'test ELBO'), cells)}\n\n" + "\n".join(f"- {line}" for line in lines)


def main() -> int:
    """Runs the settings in turn and prints the table."""
    arguments = parse(Arguments)
    settings = settings_of(arguments)
    from vae_jax import data
    from vae_jax.errors import UserError

    datasets = {}
    if any(setting.size == 28 for setting in settings):
        datasets[28] = data.load(arguments.dataset, data_dir=arguments.data_dir)
    if any(setting.size == 64 for setting in settings):
        datasets[64] = sprites()
    for setting in settings:
        most = len(datasets[setting.size].train)
        if setting.batch_size > most:
            raise UserError(f"--batch-size: expected at most {most} training images, got {setting.batch_size}.")
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > 0.3 * cores:
        note(f"something else runs here (load {load:.1f} on {cores} cores): these ratios will not be worth keeping.")
    names, results = installed(arguments.peers), []
    if not names:
        raise UserError("--peers: none of them is installed.")
    for setting in settings:
        race = Race(setting, names, datasets[setting.size], arguments.seed, arguments.slow_steps)
        race.run()
        results.append(race.result())
        del race
        gc.collect()
    print(f"\n{table(results)}")
    if arguments.out is not None:
        content = {"results": results, "learning_rate": RATE, "seed": arguments.seed, "load_before": load}
        write_results(arguments.out, content, ("jax", "flax", "optax", "torch", "numpyro", "pythae"))
    return 0


if __name__ == "__main__":
    run_script(main)
