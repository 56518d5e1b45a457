"""beta-VAE and beta-TCVAE over the strengths of Locatello et al. (2019), all metrics, as one sweep; and what a model costs."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))
from common import parse, run_script
from reproduction import Row, check_seeds, train_sweep, write
from tables import check_counts, markdown

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


def main() -> int:
    """Trains, scores, writes."""
    arguments = parse(Arguments)
    check_seeds(arguments.seeds)
    check_counts(epochs=1 if arguments.epochs is None else arguments.epochs)
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
    results = load_sweep(arguments.runs)
    hours = sum(row["wall_seconds"] for row in results.rows) / len(results.rows) / 3600
    images = results.rows[0]["steps"] * base.batch_size
    known = [name for name, value in points[0].items() if isinstance(value, dict)]

    def cell(numbers: dict[str, Any]) -> str:
        error = numbers["standard_error"]
        return f"{numbers['mean']:.3f}" + ("" if numbers["n"] < 2 else f" ± {error:.3f}")

    def title(point: dict[str, Any]) -> str:
        objective = next((name for name in NAMES if f"objective = {name}" in point["group"]), arguments.objectives[0])
        return f"{NAMES[objective]}, β = {point['beta']:g}"

    print(markdown(("", *known), [(title(point), *(cell(point[name]) for name in known)) for point in points]))
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
    for name in known:
        best = max(points, key=lambda point: point[name]["mean"])
        error = best[name]["standard_error"] if best[name]["n"] > 1 else None
        rows.append(Row(f"best {name} (no nats): {title(best)}", None, best[name]["mean"], error, best[name]["n"]))
    seconds = sum(row["wall_seconds"] for row in results.rows)
    skipped = ("runs", "minutes", "objectives")
    kept = {name: value for name, value in dataclasses.asdict(arguments).items() if name not in skipped and value is not None}
    write(arguments.out, {**dataclasses.asdict(base), **kept}, rows, {"points": points}, seconds)
    return 0


if __name__ == "__main__":
    run_script(main)
