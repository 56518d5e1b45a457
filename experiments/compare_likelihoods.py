"""Trains the same network under several likelihoods and prints one table in units that can be compared."""

import environment  # noqa: F401

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

from common import EpochProgress, Interrupt, config_of, expect_outside_data, parse, run_script, with_options

from vae_jax.config import Config
from vae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Arguments(Config):
    """Compare likelihoods on one data set: the same network, seeds and epochs for each.

    On integer data all rows but bernoulli's are in nats (and bits per dimension) of the discrete data: exact probabilities for
    likelihoods of levels and counts, bounds by dequantisation for densities. On floats they are densities.

    Example: python experiments/compare_likelihoods.py --dataset digits --epochs 50 --out runs/likelihoods
    """

    likelihoods: tuple[str, ...] = (
        "gaussian:1.0",
        "gaussian:shared",
        "gaussian:optimal",
        "laplace:shared",
        "continuous_bernoulli",
        "discretized_logistic",
        "bernoulli",
    )
    """Likelihoods, with a scale after a colon: gaussian:0.1, gaussian:shared, gaussian:per_pixel, gaussian:optimal ..."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; with several, the table has their mean and its standard error. Replaces --seed."""
    out: str = ""
    """Folder to write: a run directory for each likelihood and seed, comparison.json, reconstructions.png. Required."""
    resume: bool = False
    """Go on with an interrupted comparison in --out; finished runs are not repeated."""
    data_dir: str | None = None
    """Where TFDS finds or keeps prepared data."""


def draw_reconstructions(rows: list[tuple[str, Any]], path: Path) -> None:
    """A strip of test images and, below it, one of reconstructions for each likelihood."""
    from vae_jax.report.html import write_picture
    from vae_jax.report.run.figures import labelled_strips

    write_picture(path, labelled_strips(rows))


def print_tables(rows: list[dict[str, Any]]) -> None:
    """One table for each unit; rows in different tables cannot be compared, and the last column says why."""
    width = max(len(row["likelihood"]) for row in rows)
    for unit in dict.fromkeys(row["unit"] for row in rows):
        chosen = sorted((row for row in rows if row["unit"] == unit), key=lambda row: -row["test_elbo"])
        print(f"\n{unit}, per example:")
        print(f"{'likelihood':{width}}  {'test ELBO':>11}  {'+-':>7}  {'log-lik.':>11}  {'KL':>8}  {'bits/dim':>8}  what it is")
        for row in chosen:
            error = "-" if math.isnan(row["standard_error"]) else f"{row['standard_error']:.3f}"
            bits = "-" if row["test_bits_per_dim"] is None else f"{row['test_bits_per_dim']:z.4f}"
            print(
                f"{row['likelihood']:{width}}  {row['test_elbo']:z11.3f}  {error:>7}  "
                f"{row['test_log_likelihood']:z11.3f}  {row['test_kl']:z8.3f}  {bits:>8}  {row['why']}"
            )


def main() -> int:
    """Parses, trains each, prints and writes the comparison."""
    arguments = parse(Arguments)
    if not arguments.out:
        raise UserError("--out: expected a folder to write, such as runs/likelihoods, got none.")
    if not arguments.likelihoods or not arguments.seeds:
        raise UserError("--likelihoods and --seeds: expected at least one of each.")
    out = Path(arguments.out)
    base = config_of(arguments)

    import numpy as np

    from vae_jax import runs
    from vae_jax.build import build, load_dataset
    from vae_jax.evaluation.overfitting import describe_overfit, overfit
    from vae_jax.model import num_parameters
    from vae_jax.report.run.content import reconstructions
    from vae_jax.runs.likelihood_comparison import check_base, plan
    from vae_jax.storage.atomic import write_json
    from vae_jax.storage.cache import enable_compilation_cache
    from vae_jax.storage.directories import check_out

    check_base(base)
    expect_outside_data(out, base)
    check_out(out, arguments.resume, lambda out: None)
    enable_compilation_cache()
    dataset = load_dataset(base, arguments.data_dir)
    entries = [plan(base, name, dataset) for name in dict.fromkeys(arguments.likelihoods)]
    # All is built before anything is written, so that the last likelihood's mistake does not cost the first one's hours.
    todo = [
        (entry, seed, build(dataclasses.replace(entry.config, seed=seed), data_dir=arguments.data_dir))
        for entry in entries
        for seed in dict.fromkeys(arguments.seeds)
    ]
    rows: list[dict[str, Any]] = []
    strips: list[tuple[str, Any]] = []
    with Interrupt() as interrupt:
        for entry, seed, built in todo:
            folder = out / f"{entry.label.replace(':', '-')}-seed-{seed}"
            print(f"{entry.label}, seed {seed}: {num_parameters(built.vae):,} parameters", flush=True)
            progress = EpochProgress(base.epochs, 0)

            def on_epoch(line: dict[str, Any], progress: EpochProgress = progress) -> bool:
                progress.update(line)
                return interrupt.signal is not None

            fit, summary = runs.train(built, folder, resume=arguments.resume, data_dir=arguments.data_dir, on_epoch=on_epoch)
            progress.close()
            if fit.status == "interrupted":
                print(f"saved in {folder}; repeat the command with --resume to go on", flush=True)
                return interrupt.exit_status
            if fit.status == "diverged":
                print(f"note: {entry.label} diverged and is left out of the table", file=sys.stderr)
                continue
            if fit.problem is not None:
                print(f"note: {entry.label} is left out of the table: {fit.problem}", file=sys.stderr)
                continue
            observed = overfit(runs.read_metrics(folder), summary["evaluated_epoch"])
            if observed is not None:
                print(f"note: {entry.label}, seed {seed}: {with_options(describe_overfit(observed))}", file=sys.stderr)
            rows.append({**summary, "likelihood": entry.label, "seed": seed, "unit": entry.unit, "why": entry.why})
            if seed == arguments.seeds[0]:
                originals, means = reconstructions(built, fit.params)
                strips = strips or [("test images", originals)]
                strips.append((entry.label, means))

    if not rows:
        print("error: no run ended well: look at the range of the data, or try a lower --learning-rate.", file=sys.stderr)
        return 1
    merged = []
    for label in dict.fromkeys(row["likelihood"] for row in rows):
        same = [row for row in rows if row["likelihood"] == label]
        elbos = np.array([row["test_elbo"] for row in same])
        error = same[0]["test_elbo_standard_error"] if len(same) == 1 else float(elbos.std(ddof=1) / len(same) ** 0.5)
        numbers = {
            key: None if same[0].get(key) is None else float(np.mean([row[key] for row in same]))
            for key in ("test_elbo", "test_log_likelihood", "test_kl", "test_bits_per_dim")
        }
        kept = {key: same[0][key] for key in ("likelihood", "unit", "why")}
        merged.append({**kept, **numbers, "standard_error": error, "seeds": [row["seed"] for row in same]})
    over = "test examples" if len(arguments.seeds) == 1 else "seeds"
    print_tables(merged)
    print(f"\n+- is the standard error over the {over}; {len(dataset.test)} test examples, {base.epochs} epochs")
    content = {"dataset": base.dataset, "standard_error_over": over, "rows": merged, "config": dataclasses.asdict(base)}
    write_json(out / "comparison.json", content)
    draw_reconstructions(strips, out / "reconstructions.png")
    print(f"written: {out / 'comparison.json'}, {out / 'reconstructions.png'}")
    return 0


if __name__ == "__main__":
    run_script(main)
