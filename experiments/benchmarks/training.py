"""Compares throughput and test ELBO of one VAE in vae_jax, PyTorch, pythae, NumPyro and with Flax's convolutions.

All train the same network with Adam 1e-3 on the same images in memory, one after another inside each epoch, so that a noisy
machine is noisy for all. Each ratio is the median over the epochs of (their time per example) / (ours), with the smallest and
the largest ratio in brackets. Quality is the test ELBO after these epochs, on one fixed set of binary images with one draw of
z. The roof is the rate of float32 products of 1024 x 1024 matrices, which is measured in every epoch as well. FLOPs are those
of the products of a step, forward and backward. Libraries that are not installed are left out with a note.

The suite has an MLP on gray values, which need no random bits, in batches of 128 and 512, and on pixels that are binarized
anew. It also has the default convolutional network on 4,096 binary sprites of 64 x 64 and on MNIST. Convolutions use only the
first `steps` batches of the data, the same in every epoch.
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
from vae_jax.cli.messages import note
from vae_jax.cli.results_file import write_results
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown

SPRITES = (4096, 1000)  # training and test images of 64 x 64


class Peer(NamedTuple):
    """Library or loop that is compared."""

    make: Callable[[Problem, int], Any]
    needs: str = "jax"  # the package that must be installed
    networks: tuple[str, ...] = ("mlp", "conv")
    slow: bool = False  # uses fewer steps
    inputs: tuple[str, ...] = ("binarized", "real")

    def supports(self, network: str, input: str) -> bool:
        """Returns True if this library trains this network on these inputs."""
        return network in self.networks and input in self.inputs


COMPILED = {"compile_mode": "default", "fused": True}
PEERS = {
    "vae_jax": Peer(VaeJax),
    "pytorch": Peer(partial(pytorch, label="PyTorch, eager, in memory"), "torch"),
    "pytorch-loader": Peer(partial(pytorch, label="PyTorch, eager, DataLoader", loader=True), "torch"),
    "pytorch-compiled": Peer(partial(pytorch, label="PyTorch, torch.compile, fused Adam, in memory", **COMPILED), "torch"),
    "numpyro": Peer(NumPyro, "numpyro", ("mlp",), inputs=("binarized",)),  # its Bernoulli takes zeros and ones only
    "pythae": Peer(Pythae, "pythae"),
    "flax-conv": Peer(FlaxConv, "flax", ("conv",), slow=True),
}
ROOF = "roof"


class Setting(NamedTuple):
    """Network, data and length of one comparison."""

    network: Literal["mlp", "conv"]
    size: Literal[28, 64]
    batch_size: int
    input: Literal["binarized", "real"]
    epochs: int = 20
    steps: int = 0  # maximum per epoch; 0 for all


SUITE = {  # with the targets: factors by which vae_jax is faster, and the share of the roof that it reaches
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
    """Folder with prepared TFDS data."""
    suite: bool = False
    """Run all settings of the published table, which fix network, size, batch size and input."""
    network: Literal["mlp", "conv"] = "mlp"
    """mlp: 784-400-20 with ReLU. conv: the default convolutional network of train.py with 10 latent dimensions."""
    size: Literal[28, 64] = 28
    """28: the images of the data set. 64: sprites of 64 x 64, rendered once."""
    batch_size: int = 128
    """Examples in a step."""
    input: Literal["binarized", "real"] = "binarized"
    """binarized: pixels drawn anew at every step. real: levels as numbers in [0, 1], without random bits."""
    epochs: int | None = None
    """Epochs of each library. 20 by default, or those of the suite."""
    steps: int | None = None
    """Train on this number of batches only, or on all for 0. All by default, or those of the suite."""
    slow_steps: int = 2
    """The same for libraries that take seconds per step."""
    peers: tuple[str, ...] = ()
    """Libraries to run. Ratios are relative to the first. All by default."""
    seed: int = 0
    """Seed of all runs."""
    out: Path | None = None
    """JSON file to write."""


def settings_of(arguments: Arguments) -> list[Setting]:
    """Returns the settings to run, and raises `UserError` if the arguments contradict each other."""
    from vae_jax.errors import UserError, unknown

    lengths = {"epochs": arguments.epochs, "steps": arguments.steps}
    given = {name: value for name, value in lengths.items() if value is not None}
    expect_counts(1, epochs=arguments.epochs, batch_size=arguments.batch_size, slow_steps=arguments.slow_steps)
    if given.get("steps", 0) < 0:
        raise UserError(field="steps", expected="a whole number >= 0", got=arguments.steps)
    for name in arguments.peers:
        if name not in PEERS:
            raise unknown("peer", name, PEERS)
        if not arguments.suite and not PEERS[name].supports(arguments.network, arguments.input):
            raise UserError(f"`peers`: {name} has no network {arguments.network} for {arguments.input} input. Leave it out.")
    if not arguments.suite:
        return [Setting(arguments.network, arguments.size, arguments.batch_size, arguments.input)._replace(**given)]
    for field in dataclasses.fields(arguments):
        if field.name in ("network", "size", "batch_size", "input") and getattr(arguments, field.name) != field.default:
            raise UserError(
                f"`suite=True` sets the {field.name.replace('_', ' ')}. Leave one of `suite` and `{field.name}` out."
            )
    return [setting._replace(**given) for setting in SUITE]


def sprites() -> Any:
    """Returns binary images of 64 x 64 in memory, as levels 0 and 1."""
    from vae_jax import data

    grid = data.load("sprites_grid")
    chosen = np.random.default_rng(0).permutation(len(grid.train))[: sum(SPRITES)]
    images = np.asarray(grid.images(np.asarray(grid.train)[chosen]))
    return data.Dataset("sprites", images[: SPRITES[0]], None, images[SPRITES[0] :], None, 1, "drawn once from the grid")


def installed(names: tuple[str, ...]) -> list[str]:
    """Returns the names of the libraries that can run here, and prints a note for each of the others."""
    available = []
    for name in names or tuple(PEERS):
        if importlib.util.find_spec(PEERS[name].needs) is None:
            note(f"{name} is left out: {PEERS[name].needs} is not installed.")
        elif name == "pytorch-compiled" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
            note(f"{name} is left out: torch.compile needs a C++ compiler.")
        else:
            available.append(name)
    return available


class Race:
    """Comparison of several libraries on one problem, which train one epoch each in turn."""

    def __init__(self, setting: Setting, names: list[str], dataset: Any, seed: int, slow_steps: int) -> None:
        from vae_jax import data

        if setting.steps:
            dataset = dataset._replace(train=dataset.train[: setting.steps * setting.batch_size])
        few = dataset._replace(train=dataset.train[: slow_steps * setting.batch_size])
        test = np.asarray(data.prepare(dataset, binarization="dynamic").test)
        network = NETWORKS[setting.network](dataset.data_shape)
        problem = Problem(network, dataset, test, setting.batch_size, setting.input == "binarized")
        self.setting, self.problem, self.flops = setting, problem, training_flops(network)
        self.names = [name for name in names if PEERS[name].supports(setting.network, setting.input)]
        self.label = f"{network.label}, {'x'.join(map(str, network.shape[:2]))}, batch {setting.batch_size}, {setting.input}"
        print(f"{self.label}: compiling {', '.join(self.names)} ...", flush=True)
        self.peers = {
            name: PEERS[name].make(problem._replace(dataset=few) if PEERS[name].slow else problem, seed) for name in self.names
        }
        self.rates: dict[str, list[float]] = {name: [] for name in (*self.names, ROOF)}

    def run(self) -> None:
        """Trains all epochs."""
        for number in range(self.setting.epochs):
            for name, peer in self.peers.items():
                began = time.perf_counter()
                examples = peer.epoch(number)
                self.rates[name].append(examples / (time.perf_counter() - began))
            self.rates[ROOF].append(product_rate() / self.flops)
            last = "  ".join(f"{name} {values[-1]:,.0f}/s" for name, values in self.rates.items())
            print(f"epoch {number + 1}/{self.setting.epochs}  {last}", flush=True)

    def ratios(self, above: str, below: str) -> list[float]:
        """Returns the ratio of two rates in each epoch, so that a slow minute of the machine affects both."""
        return [a / b for a, b in zip(self.rates[above], self.rates[below], strict=True)]

    def result(self) -> dict[str, Any]:
        """Returns the rows and the targets."""
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
            if not PEERS[name].slow:  # which has seen fewer images
                row["test_elbo"], row["test_elbo_standard_error"] = peer.test_elbo()
            rows.append(row)
        targets, wanted = [], {}
        if self.problem.network.shape[:2] == 2 * (self.setting.size,):
            wanted = next((targets for setting, targets in SUITE.items() if setting[:4] == self.setting[:4]), {})
        for name, least in wanted.items():
            if first == "vae_jax" and name in self.rates:
                value = rows[0]["share_of_roof"] if name == ROOF else rows[self.names.index(name)]["ratio"]
                targets.append({"against": name, "at_least": least, "found": value, "met": value >= least})
        return {
            "setting": {**self.setting._asdict(), "train_examples": len(self.problem.dataset.train)},
            "words": self.label,
            "training_flops_per_example": self.flops,
            "roof_flops_per_second": statistics.median(self.rates[ROOF]) * self.flops,
            "rows": rows,
            "targets": targets,
        }


def table(results: list[dict[str, Any]]) -> str:
    """Returns a table of all settings in Markdown, and a line for each target."""
    cells, lines = [], []
    for result in results:
        label = result["words"]
        for row in result["rows"]:
            low, high = row["ratio_range"]
            elbo = f"{row['test_elbo']:.2f} ± {row['test_elbo_standard_error']:.2f}" if "test_elbo" in row else ""
            ratio = f"{row['ratio']:.2f} ({low:.2f}-{high:.2f})" if row is not result["rows"][0] else "1"
            cells.append((label, row["peer"], f"{row['examples_per_second']:,.0f}", ratio, f"{row['share_of_roof']:.2f}", elbo))
            label = ""
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
            raise UserError(field="batch_size", expected=f"at most {most} training images", got=setting.batch_size)
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > 0.3 * cores:
        note(f"something else is running on this machine (load {load:.1f} on {cores} cores), so these ratios are not reliable.")
    names, results = installed(arguments.peers), []
    if not names:
        raise UserError("`peers`: none of them is installed.")
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
