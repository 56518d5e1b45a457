"""Test ELBO against wall time on MNIST: an MLP, a convolutional and a residual VAE, each for the same minutes on this machine.

Each is an ordinary run directory of `runs.train`, trained in turns of a few minutes, so that a slow hour of the machine is slow
for all, and this script can be stopped and started again. Seconds are those of the epochs, training and evaluation; compilation
and checkpoints are left out.
"""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.results_file import write_results
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown

NETWORKS: dict[str, dict[str, Any]] = {
    "MLP": {"network": "mlp", "hidden": (512, 512)},
    "conv": {"network": "conv"},
    "residual": {"network": "resnet"},
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Trains three networks on dynamically binarised MNIST for the same time each; draws one figure and writes JSON.

    Example: python experiments/benchmarks/quality.py --dataset mnist --data-dir ~/tensorflow_datasets --minutes 20
    """

    networks: tuple[str, ...] = tuple(NETWORKS)
    """Those to train; what is in --out already stays there for the others."""
    dataset: str = "mnist"
    """MNIST: a TFDS name, or a folder with its IDX files."""
    data_dir: str | None = None
    """Where TFDS finds prepared data."""
    minutes: float = 20.0
    """Of training and evaluation, for each network."""
    turns: int = 5
    """Turns in which each takes its minutes."""
    latent_dim: int = 32
    """Latent dimensions of all."""
    batch_size: int = 128
    """Examples in a step."""
    learning_rate: float = 1e-3
    """Of Adam."""
    seed: int = 0
    """Seed of all."""
    runs: Path = Path("runs/quality")
    """Folder of the run directories; those that are there are continued."""
    out: Path | None = None
    """JSON file to write; the figure goes beside it."""


def train(arguments: Arguments, name: str, seconds: float) -> None:
    """Trains one of them until its epochs have taken so many seconds in all, or a little longer."""
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

    def on_epoch(line: dict[str, Any]) -> bool:
        spent[0] += line["seconds"]
        return spent[0] >= seconds

    runs.train(build(config, data_dir=arguments.data_dir), out, resume=resume, on_start=on_start, on_epoch=on_epoch)


def curve(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds so far, test ELBO and the best of it so far, after every epoch."""
    elbo = np.array([line["test_elbo"] for line in lines])
    return {
        "seconds": np.cumsum([line["seconds"] for line in lines]),
        "test_elbo": elbo,
        "best": np.maximum.accumulate(elbo),
    }


def crossing(ahead: dict[str, Any], behind: dict[str, Any]) -> float | None:
    """Seconds after which the best ELBO of `ahead` stays above that of `behind`; None if it does not end above."""
    times = ahead["seconds"]
    index = np.searchsorted(behind["seconds"], times, side="right") - 1
    lead = ahead["best"] - np.where(index < 0, -np.inf, behind["best"][np.maximum(index, 0)])
    if not lead[-1] > 0:
        return None
    return float(times[np.flatnonzero(lead <= 0)[-1] + 1]) if np.any(lead <= 0) else float(times[0])


def draw(curves: dict[str, dict[str, Any]], path: Path) -> None:
    """The figure."""
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


def main() -> int:
    """Trains in turns, then tables and draws."""
    arguments = parse(Arguments)
    from vae_jax import runs
    from vae_jax.errors import UserError
    from vae_jax.storage.cache import enable_compilation_cache

    expect_counts(1, turns=arguments.turns)
    if not arguments.networks or not set(arguments.networks) <= set(NETWORKS):
        raise UserError(f"--networks: expected some of {', '.join(NETWORKS)}, got {' '.join(arguments.networks) or 'none'}.")
    if not 0 < arguments.minutes < 10_000:
        raise UserError(f"--minutes: expected a number > 0, got {arguments.minutes:g}.")
    enable_compilation_cache()
    for turn in range(1, arguments.turns + 1):
        for name in arguments.networks:
            train(arguments, name, 60 * arguments.minutes * turn / arguments.turns)
            last = runs.read_metrics(arguments.runs / NETWORKS[name]["network"])[-1]
            print(
                f"turn {turn}/{arguments.turns}  {name}: epoch {last['epoch']}, test ELBO {last['test_elbo']:.2f}", flush=True
            )
    lines = {name: runs.read_metrics(arguments.runs / NETWORKS[name]["network"]) for name in arguments.networks}
    before = json.loads(arguments.out.read_text()) if arguments.out is not None and arguments.out.exists() else {"curves": {}}
    known = {name: {key: np.array(values) for key, values in of.items()} for name, of in before["curves"].items()}
    known |= {name: curve(of_run) for name, of_run in lines.items()}
    curves = {name: known[name] for name in NETWORKS if name in known}
    rows, first = [], next(iter(curves))
    for name, values in curves.items():
        if name not in lines:
            rows.append(next(row for row in before["rows"] if row["network"] == NETWORKS[name]["network"]))
            continue
        crossed = None if name == first else crossing(values, curves[first])
        rows.append(
            {
                "network": name,
                **{key: list(value) if isinstance(value, tuple) else value for key, value in NETWORKS[name].items()},
                "epochs": len(values["test_elbo"]),
                "minutes": values["seconds"][-1] / 60,
                "test_elbo": values["test_elbo"][-1],
                "test_elbo_standard_error": lines[name][-1]["test_elbo_standard_error"],
                "best_test_elbo": values["best"][-1],
                "ahead_of_first_after_minutes": None if crossed is None else crossed / 60,
            }
        )
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
    header = ("", "epochs", f"test ELBO after {arguments.minutes:g} minutes", "best epoch", f"ahead of the {first} from minute")
    print(f"\n{markdown(header, cells)}")
    if arguments.out is not None:
        settings = {
            key: getattr(arguments, key) for key in ("minutes", "turns", "latent_dim", "batch_size", "learning_rate", "seed")
        }
        draw(curves, arguments.out.with_suffix(".png"))
        content = {
            "rows": rows,
            "settings": settings,
            "curves": {n: {k: v.tolist() for k, v in c.items()} for n, c in curves.items()},
        }
        write_results(arguments.out, content, ("jax", "flax", "optax"))
    return 0


if __name__ == "__main__":
    run_script(main)
