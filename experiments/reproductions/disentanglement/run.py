"""Trains beta-VAE and beta-TCVAE at the strengths of Locatello et al. (2019) as one sweep, and computes their metrics."""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.reproduction import Row, expect_seeds, train_sweep, with_error, write
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.errors import UserError

FOLDER = Path(__file__).parent
STRENGTHS = {"elbo": (1.0, 2.0, 4.0, 6.0, 8.0, 16.0), "beta_tcvae": (1.0, 2.0, 4.0, 6.0, 8.0, 10.0)}
NAMES = {"elbo": "β-VAE", "beta_tcvae": "β-TCVAE"}
SCHEDULES: dict[str, dict[str, Any]] = {
    "full": {"network": "conv", "channels": (32, 32, 64, 64), "batch_size": 64, "learning_rate": 1e-4, "epochs": 300},
    "short": {"network": "mlp", "hidden": (256, 256), "batch_size": 256, "learning_rate": 1e-3, "epochs": 20},
}
PUBLISHED_HOURS = 1.75  # per model of the published study: 19.2 million images on a P100


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train both objectives with every strength and seed, score every member, and report the hours per model.

    Example: python experiments/reproductions/disentanglement/run.py --schedule short --seeds 0 1 2
    """

    dataset: str = "sprites"
    """Images with known factors: sprites, or TFDS dsprites."""
    data_dir: str | None = None
    """Folder with prepared TFDS data."""
    schedule: Literal["short", "full"] = "short"
    """full: the protocol's convolutional network, batch 64, Adam 1e-4. short: an MLP, batch 256, Adam 1e-3, 20 epochs."""
    objectives: tuple[Literal["elbo", "beta_tcvae"], ...] = ("elbo", "beta_tcvae")
    """Objectives to train."""
    betas: tuple[float, ...] = ()
    """Strengths of both objectives, by default those of the protocol."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds for every strength."""
    epochs: int | None = None
    """Epochs, by default those of the schedule."""
    metrics: tuple[str, ...] = ("beta_vae", "factor_vae", "mig", "sap", "modularity")
    """Metrics of experiments/disentanglement.py. dci takes five minutes per member."""
    rows: int = 50_000
    """Images to encode for the metrics."""
    num_points: int = 10_000
    """Rows or votes that a metric is trained on."""
    num_eval: int = 5_000
    """Rows or votes that a metric is evaluated on."""
    minutes: float = float("inf")
    """Stop training after this time. The same command continues."""
    runs: Path = Path("runs/disentanglement")
    """Sweep directory. An unfinished one is continued."""
    out: Path = FOLDER / "results.json"
    """JSON file to write."""


def title(point: dict[str, Any]) -> str:
    """Returns a title with objective and strength."""
    return f"{NAMES[point['objective']]}, β = {point['beta']:g}"


def known_metrics(content: dict[str, Any]) -> list[str]:
    """Returns the names of the computed metrics."""
    return [name for name, value in content["points"][0].items() if isinstance(value, dict)]


def tables(content: dict[str, Any]) -> str:
    """Returns the table of metrics in Markdown."""
    names = known_metrics(content)
    cells = [(title(point), *(with_error(point[name], 3) for name in names)) for point in content["points"]]
    return markdown(("", *names), cells)


def score(arguments: Arguments) -> int:
    """Runs disentanglement.py on the sweep, which writes disentanglement.json, and returns its exit status."""
    flags = ["--metrics", *arguments.metrics]
    for name in ("rows", "num_points", "num_eval"):
        flags += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    flags += [] if arguments.data_dir is None else ["--data-dir", arguments.data_dir]
    script = FOLDER.parents[1] / "disentanglement.py"
    return subprocess.run([sys.executable, str(script), str(arguments.runs), *flags], stdout=subprocess.DEVNULL).returncode


def read_points(arguments: Arguments) -> list[dict[str, Any]]:
    """Reads the points of disentanglement.json and adds their objectives; a single seed has no standard error."""
    points = json.loads((arguments.runs / "disentanglement.json").read_text())["points"]
    for point in points:
        objectives = (name for name in NAMES if f"objective = {name}" in point["group"])
        point["objective"] = next(objectives, arguments.objectives[0])  # the groups of one objective do not name it
        for numbers in point.values():
            if isinstance(numbers, dict) and numbers["n"] < 2:
                numbers["standard_error"] = None
    return points


def verdicts(content: dict[str, Any]) -> list[str]:
    """Returns the verdict on each row of results.json."""
    return ["Different setting: shorter training, on other images." for _ in content["rows"]]


def main() -> int:
    """Trains, scores and writes the results."""
    arguments = parse(Arguments)
    expect_seeds(arguments.seeds)
    expect_counts(1, epochs=arguments.epochs)
    if not arguments.objectives or not all(beta > 0 for beta in arguments.betas):
        raise UserError("`objectives` and `betas`: expected at least one objective, and strengths > 0.")
    from vae_jax import sweep
    from vae_jax.config import Config
    from vae_jax.sweep.results import load_sweep

    chosen = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    base = Config(dataset=arguments.dataset, latent_dim=10, **{**SCHEDULES[arguments.schedule], **chosen})
    members = [
        config
        for objective in arguments.objectives
        for config in sweep.grid(
            dataclasses.replace(base, objective=objective), beta=arguments.betas or STRENGTHS[objective], seed=arguments.seeds
        )
    ]
    status = train_sweep(members, arguments.runs, data_dir=arguments.data_dir, minutes=arguments.minutes)
    if status is not None:
        return status
    status = score(arguments)
    if status:
        return status
    points = read_points(arguments)
    content, results = {"points": points}, load_sweep(arguments.runs)
    hours = sum(row["wall_seconds"] for row in results.rows) / len(results.rows) / 3600
    images = results.rows[0]["steps"] * base.batch_size
    print(tables(content))
    print(f"\n{len(results.rows)} members, {hours * 60:.1f} minutes per member for {images:,} images")
    rows = [
        Row(
            f"hours to train a model ({images / 1e6:.1f} million images here, 19.2 there)",
            PUBLISHED_HOURS,
            hours,
            None,
            len(results.rows),
        )
    ]
    for name in known_metrics(content):
        best = max(points, key=lambda point: point[name]["mean"])
        label = f"best {name} (no nats): {title(best)}"
        rows.append(Row(label, None, best[name]["mean"], best[name]["standard_error"], best[name]["n"]))
    seconds = sum(row["wall_seconds"] for row in results.rows)
    skipped = ("runs", "minutes", "objectives")
    kept = {name: value for name, value in dataclasses.asdict(arguments).items() if name not in skipped and value is not None}
    write(arguments.out, {**dataclasses.asdict(base), **kept}, rows, content, seconds, verdicts)
    return 0


if __name__ == "__main__":
    run_script(main)
