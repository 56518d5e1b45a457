"""beta-VAE and beta-TCVAE over the strengths of Locatello et al. (2019), all metrics, as one sweep; and what a model costs."""

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
PUBLISHED_HOURS = 1.75  # a model of the published study, 19.2 million images on a P100


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Trains both objectives with every strength and seed, scores every member, and says what a model cost.

    Example: python experiments/reproductions/disentanglement/run.py --schedule short --seeds 0 1 2
    """

    dataset: str = "sprites"
    """Images with known factors: sprites, or TFDS dsprites."""
    data_dir: str | None = None
    """Where TFDS finds prepared data."""
    schedule: Literal["short", "full"] = "short"
    """full: the protocol's convolutional network, batch 64, Adam 1e-4. short: an MLP, batch 256, Adam 1e-3, 20 epochs."""
    objectives: tuple[Literal["elbo", "beta_tcvae"], ...] = ("elbo", "beta_tcvae")
    """Which to train."""
    betas: tuple[float, ...] = ()
    """Strengths of all, if not those of the protocol."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, for every strength."""
    epochs: int | None = None
    """Epochs, if not those of the schedule."""
    metrics: tuple[str, ...] = ("beta_vae", "factor_vae", "mig", "sap", "modularity")
    """Metrics, as of experiments/disentanglement.py; dci takes five minutes a member."""
    rows: int = 50_000
    """Images to encode for the metrics."""
    num_points: int = 10_000
    """Rows, or votes, that a metric is trained on."""
    num_eval: int = 5_000
    """Rows, or votes, that it is evaluated on."""
    minutes: float = float("inf")
    """Stop training after so many; the same command goes on."""
    runs: Path = Path("runs/disentanglement")
    """Sweep directory; what is there is continued."""
    out: Path = FOLDER / "results.json"
    """JSON file to write."""


def title(point: dict[str, Any]) -> str:
    """Objective and strength."""
    return f"{NAMES[point['objective']]}, β = {point['beta']:g}"


def known_metrics(content: dict[str, Any]) -> list[str]:
    """The names of the metrics that were computed."""
    return [name for name, value in content["points"][0].items() if isinstance(value, dict)]


def tables(content: dict[str, Any]) -> str:
    """The metrics of every objective and strength as Markdown."""
    names = known_metrics(content)
    cells = [(title(point), *(with_error(point[name], 3) for name in names)) for point in content["points"]]
    return markdown(("", *names), cells)


def main() -> int:
    """Trains, scores, writes."""
    arguments = parse(Arguments)
    expect_seeds(arguments.seeds)
    expect_counts(1, epochs=1 if arguments.epochs is None else arguments.epochs)
    if not arguments.objectives or not all(beta > 0 for beta in arguments.betas):
        raise UserError("--objectives and --betas: expected at least one objective, and strengths > 0.")
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
    flags = ["--metrics", *arguments.metrics]
    for name in ("rows", "num_points", "num_eval"):
        flags += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    flags += [] if arguments.data_dir is None else ["--data-dir", arguments.data_dir]
    script = FOLDER.parents[1] / "disentanglement.py"
    scored = subprocess.run([sys.executable, str(script), str(arguments.runs), *flags], stdout=subprocess.DEVNULL)
    if scored.returncode:
        return scored.returncode
    points = json.loads((arguments.runs / "disentanglement.json").read_text())["points"]
    for point in points:
        named = (name for name in NAMES if f"objective = {name}" in point["group"])
        point["objective"] = next(named, arguments.objectives[0])  # a sweep of one objective does not name it
        for numbers in point.values():
            if isinstance(numbers, dict) and numbers["n"] < 2:
                numbers["standard_error"] = None
    content, results = {"points": points}, load_sweep(arguments.runs)
    hours = sum(row["wall_seconds"] for row in results.rows) / len(results.rows) / 3600
    images = results.rows[0]["steps"] * base.batch_size
    print(tables(content))
    print(f"\n{len(results.rows)} members, {hours * 60:.1f} minutes a member for {images:,} images")
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
        words = f"best {name} (no nats): {title(best)}"
        rows.append(Row(words, None, best[name]["mean"], best[name]["standard_error"], best[name]["n"]))
    seconds = sum(row["wall_seconds"] for row in results.rows)
    skipped = ("runs", "minutes", "objectives")
    kept = {name: value for name, value in dataclasses.asdict(arguments).items() if name not in skipped and value is not None}
    write(arguments.out, {**dataclasses.asdict(base), **kept}, rows, content, seconds)
    return 0


if __name__ == "__main__":
    run_script(main)
