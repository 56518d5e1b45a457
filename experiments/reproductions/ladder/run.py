"""Compares a ladder of three stochastic layers with a one-layer network of convolutions on MNIST, at equal training time.

With --schedule full, trains the ladder at the published size (addtt/ladder-vae-pytorch, static MNIST: 79.24), for a GPU.
"""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.progress import Interrupt
from vae_jax.cli.reproduction import Row, judge, write
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.errors import UserError

FOLDER = Path(__file__).parent
PUBLISHED = 79.24  # three layers, static MNIST, 1,000 samples, mean of four seeds
TITLES = {"ladder": "test NLL, three layers at the published size, static MNIST"}
# Parameters are averaged, and the learning rate is constant, so that a run may end at any time.
COMMON: dict[str, Any] = {"output_bias": "train_mean", "ema_decay": 0.999, "epochs": 100_000}
# Gradients are clipped at the norm of Child (2021), for the rare step that would throw a deep hierarchy off.
SHORT: dict[str, Any] = {
    "clip_norm": 200.0,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "beta_warmup_steps": 2000,
    "activation": "elu",
}
SCHEDULES: dict[str, dict[str, dict[str, Any]]] = {
    "short": {
        "conv": {**SHORT, "network": "conv", "channels": (32, 64), "dense": (256,), "latent_dim": 40},
        "ladder": {
            **SHORT,
            "network": "ladder",
            "channels": (32, 32, 64),
            "latent_channels": (8, 4, 2),
            "layer_halvings": (3, 2, 2),
        },
    },
    "full": {
        "ladder": {
            "network": "ladder",
            "channels": (64, 64, 64),
            "latent_channels": (32, 32, 32),
            "layer_halvings": (3, 2, 1),
            "num_blocks": 4,
            "activation": "elu",
            "optimizer": "adamax",
            "batch_size": 64,
            "learning_rate": 3e-4,
            "clip_norm": 200.0,
            "objective": "free_bits",
            "free_bits": 0.5,
            "free_bits_per": "group",
            "beta_warmup_steps": 10_000,
        },
    },
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train the networks in turns, each for the same time, and estimate the NLL of each with importance samples.

    Example: python experiments/reproductions/ladder/run.py --dataset FOLDER --minutes 90
    """

    dataset: str = "mnist"
    """MNIST: a TFDS name, or a folder with its IDX files; with `binarize="fixed"` also a file of images that are 0 and 1."""
    data_dir: str | None = None
    """Folder with prepared TFDS data."""
    binarize: Literal["dynamic", "fixed"] = "dynamic"
    """dynamic: anew at every step. fixed: once, as in the published table, and binary images stay as they are."""
    schedule: Literal["short", "full"] = "short"
    """short: conv and ladder, small. full: the published ladder, for a GPU."""
    minutes: float = 90.0
    """Training time of each network."""
    turn_minutes: float = 10.0
    """The networks are trained in turns of this length, so that both meet the same load of the machine."""
    seed: int = 0
    """Seed of both networks."""
    num_images: int = 1000
    """The first test images, for which log p(x) is estimated."""
    num_samples: int = 1000
    """Importance samples of each."""
    runs: Path = Path("runs/ladder")
    """Folder of the run directories. Unfinished runs are continued."""
    out: Path = FOLDER / "results.json"
    """JSON file to write at the end."""


def make_configs(arguments: Arguments) -> dict[str, Any]:
    """Returns the configuration of each network."""
    from vae_jax.config import Config

    shared = {"dataset": arguments.dataset, "binarize": arguments.binarize, "seed": arguments.seed, **COMMON}
    return {name: Config(**shared, **settings) for name, settings in SCHEDULES[arguments.schedule].items()}


def read_curve(folder: Path) -> list[tuple[float, float, int]]:
    """Returns (seconds of training, test ELBO, epoch) after each epoch."""
    path, seconds, curve = folder / "metrics.jsonl", 0.0, []
    for line in path.read_text().splitlines() if path.exists() else ():
        epoch = json.loads(line)
        seconds += epoch["seconds"]
        curve.append((round(seconds, 1), epoch["test_elbo"], epoch["epoch"]))
    return curve


def train(arguments: Arguments, configs: dict[str, Any]) -> int | None:
    """Trains in turns until each network has had its time. Returns None, or the exit status after an interrupt."""
    from vae_jax.build import build
    from vae_jax.runs import train as train_run
    from vae_jax.storage.cache import enable_compilation_cache

    enable_compilation_cache()
    built = {name: build(config, data_dir=arguments.data_dir) for name, config in configs.items()}
    curves = {name: read_curve(arguments.runs / name) for name in built}
    used = {name: curve[-1][0] if curve else 0.0 for name, curve in curves.items()}
    with Interrupt() as interrupt:
        while interrupt.signal is None:
            name = min(used, key=used.__getitem__)
            if used[name] >= 60 * arguments.minutes:
                return None
            end = min(used[name] + 60 * arguments.turn_minutes, 60 * arguments.minutes)

            def on_epoch(metrics: Mapping[str, float], name: str = name, end: float = end) -> bool:
                used[name] += metrics["seconds"]
                print(f"{name}  epoch {metrics['epoch']}  {used[name]:.0f} s  test ELBO {metrics['test_elbo']:.2f}", flush=True)
                return interrupt.signal is not None or used[name] >= end

            before = used[name]
            train_run(built[name], arguments.runs / name, resume=True, data_dir=arguments.data_dir, on_epoch=on_epoch)
            if used[name] == before:
                raise UserError(f"{arguments.runs / name}: the run has ended. Use a different `runs` to begin again.")
    print(f"saved in {arguments.runs}; the same command continues", flush=True)
    return interrupt.exit_status


def evaluate(arguments: Arguments, name: str) -> dict[str, Any]:
    """Returns the NLL of a network, and log p(x) of each image. It is kept in a file and computed only once."""
    import jax
    import numpy as np

    from vae_jax._numerics.keys import Stream, stream
    from vae_jax.evaluation import DataSlice, importance_log_px, log_px_means
    from vae_jax.runs import load_run
    from vae_jax.storage.atomic import write_json

    curve = read_curve(arguments.runs / name)
    path = arguments.runs / f"{name}-{curve[-1][2]}-{arguments.num_images}-{arguments.num_samples}.json"
    if path.exists():
        return json.loads(path.read_text())
    run = load_run(arguments.runs / name, data_dir=arguments.data_dir)
    data = run.built.data.test[: arguments.num_images]
    seed, to_input = run.built.config.test_seed, run.built.data.eval_input

    @jax.jit
    def weigh(params: Any, part: Any, first: Any) -> Any:
        parts = {"num_samples": arguments.num_samples, "to_input": to_input}
        return importance_log_px(stream(seed, Stream.LOG_PX), run.built.vae, params, DataSlice(part, first), **parts)

    size = max(size for size in range(1, 51) if len(data) % size == 0)
    parts = [jax.device_get(weigh(run.params, data[first : first + size], first)) for first in range(0, len(data), size)]
    estimates = jax.tree.map(lambda *values: np.concatenate(values), *parts)
    summary = log_px_means(estimates, arguments.num_samples)
    result = {
        "nll": -summary.log_px,
        "nll_standard_error_over_images": summary.standard_error,
        "nll_monte_carlo_error": summary.monte_carlo_error,
        "nll_bias": summary.bias,
        "log_px": np.asarray(estimates.log_px, np.float64).round(4).tolist(),
    }
    write_json(path, result)
    return result


def main() -> int:
    """Trains, evaluates and writes the results."""
    arguments = parse(Arguments)
    expect_counts(1, num_samples=arguments.num_samples, num_images=arguments.num_images)
    if not arguments.minutes > 0 or not arguments.turn_minutes > 0:
        raise UserError(field="minutes", expected="a time > 0", got=arguments.minutes)
    configs = make_configs(arguments)
    status = train(arguments, configs)
    if status is not None:
        return status
    rows, details, seconds = [], {}, 0.0
    for name in configs:
        began, measured, curve = time.monotonic(), evaluate(arguments, name), read_curve(arguments.runs / name)
        print(f"{name} evaluated in {time.monotonic() - began:.0f} s", flush=True)
        seconds += curve[-1][0]
        kept = {key: value for key, value in measured.items() if key != "log_px"}
        details[name] = {**kept, "epochs": curve[-1][2], "test_elbo": curve[-1][1], "curve": curve}
        is_published = arguments.schedule == "full" and arguments.binarize == "fixed"
        title = TITLES[name] if is_published else f"test NLL, {name}, {arguments.minutes:g} minutes"
        rows.append(Row(title, PUBLISHED if is_published else None, measured["nll"], None, 1))
    if len(details) == 2:
        details["ladder"]["gain"] = gain(arguments)
    print("\n" + tables({"entries": details}))
    settings = {**dataclasses.asdict(configs["ladder"]), **recorded_settings(arguments)}
    write(arguments.out, settings, rows, {"entries": details}, seconds, verdicts)
    return 0


def gain(arguments: Arguments) -> dict[str, float]:
    """Returns the nats by which the ladder is better, image by image, with the standard error over the images."""
    import numpy as np

    gained = np.subtract(*(evaluate(arguments, name)["log_px"] for name in ("ladder", "conv")))
    return {"mean": float(np.mean(gained)), "standard_error": float(np.std(gained, ddof=1) / len(gained) ** 0.5)}


def tables(content: dict[str, Any]) -> str:
    """Returns the table of both networks in Markdown."""
    cells = []
    for name, entry in content["entries"].items():
        better = entry.get("gain")
        gained = ("", "") if better is None else (f"{better['mean']:.2f}", f"{better['standard_error']:.2f}")
        cells.append((name, str(entry["epochs"]), f"{-entry['test_elbo']:.2f}", f"{entry['nll']:.2f}", *gained))
    header = ("network", "passes", "negative test ELBO", "test NLL", "better by", "standard error over images")
    return markdown(header, cells)


def verdicts(content: dict[str, Any]) -> list[str]:
    """Returns the verdict on each row of results.json."""
    texts = []
    for row, entry in zip(content["rows"], content["entries"].values(), strict=True):
        if row["published"] is not None:
            texts.append(judge(row, because="its blocks have neither gates nor dropout", margin=0.2, better="lower"))
        elif entry.get("gain"):
            better = entry["gain"]
            amount = f"{abs(better['mean']):.2f} nats {'better' if better['mean'] > 0 else 'worse'}"
            texts.append(f"No published number; {amount} than the one-layer network after the same time.")
        else:
            texts.append("No published number.")
    return texts


def waiting(content: dict[str, Any] | None) -> list[tuple[str, float | None]]:
    """Returns the number that needs a GPU, unless it is among the results: title and published number."""
    titles = [] if content is None else [row["what"] for row in content["rows"]]
    return [] if TITLES["ladder"] in titles else [(TITLES["ladder"], PUBLISHED)]


def recorded_settings(arguments: Arguments) -> dict[str, Any]:
    """Returns the arguments that affect the results."""
    kept = dataclasses.asdict(arguments)
    return {name: value for name, value in kept.items() if name != "runs" and value is not None}


if __name__ == "__main__":
    run_script(main)
