"""Measures test ELBO against wall time on MNIST for an MLP, a convolutional and a residual VAE.

Each network is trained for the same time on this machine, as an ordinary run directory of `runs.train`. They take turns of a
few minutes, so that a slow hour of the machine is slow for all, and the script can be stopped and started again. Seconds are
those of the epochs, with training and evaluation but without compilation and checkpoints.
"""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.results_file import write_results
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown

Curve = dict[str, np.ndarray]  # seconds, test_elbo and best, (epochs,) each
NETWORKS: dict[str, dict[str, Any]] = {
    "MLP": {"network": "mlp", "hidden": (512, 512)},
    "conv": {"network": "conv"},
    "residual": {"network": "resnet"},
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train three networks on dynamically binarized MNIST for the same time each, draw one figure and write JSON.

    Example: python experiments/benchmarks/quality.py --dataset mnist --data-dir ~/tensorflow_datasets --minutes 20
    """

    networks: tuple[str, ...] = tuple(NETWORKS)
    """Networks to train. Results of the others that are already in `out` are kept."""
    dataset: str = "mnist"
    """MNIST: a TFDS name, or a folder with its IDX files."""
    data_dir: str | None = None
    """Folder with prepared TFDS data."""
    minutes: float = 20.0
    """Minutes of training and evaluation, for each network."""
    turns: int = 5
    """Number of turns in which these minutes are spent."""
    latent_dim: int = 32
    """Latent dimensions of all networks."""
    batch_size: int = 128
    """Examples in a step."""
    learning_rate: float = 1e-3
    """Learning rate of Adam."""
    seed: int = 0
    """Seed of all runs."""
    runs: Path = Path("runs/quality")
    """Folder of the run directories. Existing ones are continued."""
    out: Path | None = None
    """JSON file to write. The figure goes beside it."""


def train(arguments: Arguments, name: str, seconds: float) -> None:
    """Trains a network until its epochs have taken this time in all, or slightly longer."""
    from vae_jax import runs
    from vae_jax.build import build
    from vae_jax.config import Config
    from vae_jax.storage.directories import is_fresh

    config = Config(
        dataset=arguments.dataset,
        latent_dim=arguments.latent_dim,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
        epochs=1_000_000,
        **NETWORKS[name],
    )
    out = arguments.runs / NETWORKS[name]["network"]
    resume = not is_fresh(out)
    if resume and sum(line["seconds"] for line in runs.read_metrics(out)) >= seconds:
        return
    spent = [0.0]

    def on_start(progress: Any, notes: list[str]) -> None:
        spent[0] = sum(epoch.seconds for epoch in progress.history)

    def on_epoch(line: Mapping[str, float]) -> bool:
        spent[0] += line["seconds"]
        return spent[0] >= seconds

    runs.train(build(config, data_dir=arguments.data_dir), out, resume=resume, on_start=on_start, on_epoch=on_epoch)


def curve(lines: list[dict[str, Any]]) -> Curve:
    """Returns elapsed seconds, test ELBO and the best test ELBO so far, after every epoch."""
    elbo = np.array([line["test_elbo"] for line in lines])
    return {
        "seconds": np.cumsum([line["seconds"] for line in lines]),
        "test_elbo": elbo,
        "best": np.maximum.accumulate(elbo),
    }


def crossing(ahead: Curve, behind: Curve) -> float | None:
    """Returns the seconds after which the best ELBO of `ahead` stays above that of `behind`, or None if it ends below."""
    times = ahead["seconds"]
    index = np.searchsorted(behind["seconds"], times, side="right") - 1
    lead = ahead["best"] - np.where(index < 0, -np.inf, behind["best"][np.maximum(index, 0)])
    if not lead[-1] > 0:
        return None
    return float(times[np.flatnonzero(lead <= 0)[-1] + 1]) if np.any(lead <= 0) else float(times[0])


def draw(curves: dict[str, Curve], path: Path) -> None:
    """Draws test ELBO against time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        [line] = axes.plot(values["seconds"] / 60, values["test_elbo"], lw=0.8, alpha=0.5)
        axes.plot(values["seconds"] / 60, values["best"], lw=1.8, color=line.get_color(), label=name)
    ends = [values["best"][-1] for values in curves.values()]
    axes.set(xlabel="minutes of training and evaluation", ylabel="test ELBO (nats)", xscale="log")
    axes.set_ylim(min(ends) - 12, max(ends) + 1)
    axes.grid(alpha=0.3)
    axes.legend(title="best so far (thin: each epoch)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def result_row(name: str, values: Curve, error: float, first: Curve | None) -> dict[str, Any]:
    """Returns the results of one network, with the time after which it is ahead of the first network."""
    crossed = None if first is None else crossing(values, first)
    return {
        "network": name,
        **{key: list(value) if isinstance(value, tuple) else value for key, value in NETWORKS[name].items()},
        "epochs": len(values["test_elbo"]),
        "minutes": values["seconds"][-1] / 60,
        "test_elbo": values["test_elbo"][-1],
        "test_elbo_standard_error": error,
        "best_test_elbo": values["best"][-1],
        "ahead_of_first_after_minutes": None if crossed is None else crossed / 60,
    }


def table(rows: list[dict[str, Any]], minutes: float, first: str) -> str:
    """Returns the table of results in Markdown."""
    cells = [
        (
            row["network"],
            str(row["epochs"]),
            f"{row['test_elbo']:.2f} ± {row['test_elbo_standard_error']:.2f}",
            f"{row['best_test_elbo']:.2f}",
            "-" if row["ahead_of_first_after_minutes"] is None else f"{row['ahead_of_first_after_minutes']:.1f}",
        )
        for row in rows
    ]
    header = ("", "epochs", f"test ELBO after {minutes:g} minutes", "best epoch", f"ahead of the {first} from minute")
    return markdown(header, cells)


def main() -> int:
    """Trains in turns, prints the table, draws the figure and writes the results."""
    arguments = parse(Arguments)
    from vae_jax import runs
    from vae_jax.errors import UserError
    from vae_jax.storage.cache import enable_compilation_cache

    expect_counts(1, turns=arguments.turns)
    if not arguments.networks or not set(arguments.networks) <= set(NETWORKS):
        got = " ".join(arguments.networks) or "none"
        raise UserError(field="networks", expected=f"some of {', '.join(NETWORKS)}", got=got)
    if not 0 < arguments.minutes < 10_000:
        raise UserError(field="minutes", expected="a number > 0", got=f"{arguments.minutes:g}")
    enable_compilation_cache()
    for turn in range(1, arguments.turns + 1):
        for name in arguments.networks:
            train(arguments, name, 60 * arguments.minutes * turn / arguments.turns)
            last = runs.read_metrics(arguments.runs / NETWORKS[name]["network"])[-1]
            print(
                f"turn {turn}/{arguments.turns}  {name}: epoch {last['epoch']}, test ELBO {last['test_elbo']:.2f}", flush=True
            )
    lines = {name: runs.read_metrics(arguments.runs / NETWORKS[name]["network"]) for name in arguments.networks}
    before = {"curves": {}, "rows": []}
    if arguments.out is not None and arguments.out.exists():
        before = json.loads(arguments.out.read_text())
    known = {name: {key: np.array(values) for key, values in old.items()} for name, old in before["curves"].items()}
    known |= {name: curve(metrics) for name, metrics in lines.items()}
    curves = {name: known[name] for name in NETWORKS if name in known}
    first = next(iter(curves))
    rows = []
    for name in curves:
        if name in lines:
            error = lines[name][-1]["test_elbo_standard_error"]
            rows.append(result_row(name, curves[name], error, None if name == first else curves[first]))
        else:
            rows.append(next(row for row in before["rows"] if row["network"] == NETWORKS[name]["network"]))
    print(f"\n{table(rows, arguments.minutes, first)}")
    if arguments.out is not None:
        names = ("minutes", "turns", "latent_dim", "batch_size", "learning_rate", "seed")
        draw(curves, arguments.out.with_suffix(".png"))
        content = {
            "rows": rows,
            "settings": {name: getattr(arguments, name) for name in names},
            "curves": {name: {key: v.tolist() for key, v in values.items()} for name, values in curves.items()},
        }
        write_results(arguments.out, content, ("jax", "flax", "optax"))
    return 0


if __name__ == "__main__":
    run_script(main)
