"""Sweeps beta for one network on MNIST and draws its rate-distortion curve (Alemi et al. 2018)."""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import itertools
import shutil
from pathlib import Path
from typing import Any

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.reproduction import Row, expect_seeds, train_sweep, with_error, write
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.errors import UserError

FOLDER = Path(__file__).parent
MEASURES = ("test_elbo", "rate", "distortion", "active_units")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Sweep beta and seeds in a resumable directory, and write the curve, its hull and the figure.

    Example: python experiments/reproductions/rate_distortion/run.py --dataset mnist --data-dir ~/tensorflow_datasets
    """

    dataset: str = "mnist"
    """MNIST: a TFDS name, or a folder with its IDX files."""
    data_dir: str | None = None
    """Folder with prepared TFDS data."""
    betas: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)
    """Values of beta."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds for every beta."""
    epochs: int = 40
    """Passes over the training set."""
    minutes: float = float("inf")
    """Stop after this time. The same command continues."""
    runs: Path = Path("runs/rate_distortion")
    """Sweep directory. An unfinished one is continued."""
    out: Path = FOLDER / "results.json"
    """JSON file to write. The figure goes beside it."""


def same_elbo(points: list[Any], within: float = 1.0) -> tuple[Any, Any] | None:
    """Returns the two settings whose rates differ most, among those whose mean ELBOs differ by at most `within` nats."""

    def gap(pair: tuple[Any, Any], name: str) -> float:
        return abs(pair[0].numbers[name].mean - pair[1].numbers[name].mean)

    pairs = [pair for pair in itertools.combinations(points, 2) if gap(pair, "test_elbo") <= within]
    return max(pairs, key=lambda pair: gap(pair, "rate"), default=None)


def tables(content: dict[str, Any]) -> str:
    """Returns the table of points in Markdown."""
    cells = [
        (f"{point['beta']:g}", *(with_error(point[name]) for name in MEASURES), "yes" if point["on_hull"] else "")
        for point in content["points"]
    ]
    pair = " and ".join(f"{beta:g}" for beta in content["within_a_nat"])
    table = markdown(("β", "test ELBO", "rate", "distortion", "active units", "on the hull"), cells)
    return f"{table}\n\nWithin a nat of ELBO, with the rates furthest apart: β = {pair}." if pair else table


def verdicts(content: dict[str, Any]) -> list[str]:
    """Returns the verdict on each row of results.json."""
    sentences = ["No published number: the paper shows its curves as figures only."]
    pair = [next(point for point in content["points"] if point["beta"] == beta) for beta in content["within_a_nat"]]
    for point, other in zip(pair, reversed(pair), strict=True):
        elbo, rate = (point[name]["mean"] - other[name]["mean"] for name in ("test_elbo", "rate"))
        sentences.append(f"No published number. {elbo:+.2f} nats against β = {other['beta']:g}, so the ELBO hardly differs.")
        sentences.append(f"No published number. {rate:+.2f} nats against β = {other['beta']:g}, so the codes differ.")
    return sentences


def main() -> int:
    """Sweeps, prints the table and writes the results."""
    arguments = parse(Arguments)
    expect_counts(1, epochs=arguments.epochs)
    expect_seeds(arguments.seeds)
    if len(set(arguments.betas)) < 2 or not all(beta > 0 for beta in arguments.betas):
        raise UserError("`betas`: expected at least two different numbers > 0.")
    from vae_jax import sweep
    from vae_jax.config import Config
    from vae_jax.report import write_sweep_report
    from vae_jax.sweep.results import write_results

    base = Config(dataset=arguments.dataset, hidden=(400,), latent_dim=20, epochs=arguments.epochs)
    members = sweep.grid(base, beta=arguments.betas, seed=arguments.seeds)
    status = train_sweep(members, arguments.runs, data_dir=arguments.data_dir, minutes=arguments.minutes)
    if status is not None:
        return status
    results = write_results(arguments.runs)
    points = [point for point in results.points if point.numbers]
    if not points:
        raise UserError("every member diverged. Try a lower learning rate or other values of beta.")
    means = {name: [point.numbers[name].mean for point in points] for name in MEASURES}
    hull = sweep.lower_hull(means["rate"], means["distortion"])

    best = max(points, key=lambda point: point.numbers["test_elbo"].mean)
    elbo, pair = best.numbers["test_elbo"], same_elbo(points)
    rows = [Row(f"β = {best.settings['beta']:g}: test ELBO, the best", None, elbo.mean, _error(elbo), elbo.n)]
    for point in pair or ():  # nearly the same ELBO from different codes
        beta = point.settings["beta"]
        for name, title in (("test_elbo", "test ELBO"), ("rate", "rate")):
            number = point.numbers[name]
            rows.append(Row(f"β = {beta:g}: {title}", None, number.mean, _error(number), number.n))
    details = {
        "points": [
            {"beta": point.settings["beta"], "diverged": point.num_lost, "on_hull": i in hull}
            | {name: {"mean": point.numbers[name].mean, "standard_error": _error(point.numbers[name])} for name in MEASURES}
            for i, point in enumerate(points)
        ],
        "within_a_nat": [point.settings["beta"] for point in pair or ()],
    }
    print(tables(details))
    write_sweep_report(results)
    seconds = sum(row["wall_seconds"] for row in results.rows)
    kept = {"betas": arguments.betas, "seeds": arguments.seeds, "epochs": arguments.epochs}
    write(arguments.out, {**dataclasses.asdict(base), **kept, "out": arguments.out}, rows, details, seconds, verdicts)
    shutil.copyfile(arguments.runs / "rate_distortion.png", arguments.out.with_suffix(".png"))
    return 0


def _error(interval: Any) -> float | None:
    return interval.standard_error if interval.n > 1 else None


if __name__ == "__main__":
    run_script(main)
