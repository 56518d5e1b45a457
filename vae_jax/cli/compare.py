"""`vae-jax compare`: trains the same network under several likelihoods and prints one table in units that can be compared."""

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vae_jax.cli.arguments import parse_with_config
from vae_jax.cli.checks import expect_out, expect_outside_data
from vae_jax.cli.messages import note, with_options
from vae_jax.cli.progress import EpochProgress, Interrupt
from vae_jax.cli.user_parts import check_new, import_parts, split_parts
from vae_jax.errors import UserError

if TYPE_CHECKING:
    from vae_jax.build import Built, PartOptions
    from vae_jax.config import Config
    from vae_jax.data import Dataset
    from vae_jax.report.run.comparison import Reconstructions
    from vae_jax.runs.likelihood_comparison import Entry
    from vae_jax.training.loop import Fit

Row = dict[str, Any]  # the numbers of one likelihood, and of one seed or as means over the seeds


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compare likelihoods on one data set: the same network, seeds and epochs for each.

    On integer data all rows but bernoulli's are in nats (and bits per dimension) of the discrete data: exact probabilities for
    likelihoods of levels and counts, bounds by dequantization for densities. On floats they are densities.

    Example: vae-jax compare --dataset digits --epochs 50 --out runs/likelihoods
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
    """Seeds; with several, the table has their mean and its standard error. Replaces `seed`."""
    out: str = ""
    """Folder to write: a run directory for each likelihood and seed, comparison.json, reconstructions.png. Required."""
    resume: bool = False
    """Continue an interrupted comparison in `out`; finished runs are not repeated."""
    data_dir: str | None = None
    """Where TFDS finds or keeps prepared data."""


class Comparison(NamedTuple):
    """The results of the runs so far."""

    rows: list[Row]  # one for each run that ended well
    shown: "list[Reconstructions]"  # for each likelihood with the first seed


def train_one(entry: "Entry", built: "Built", arguments: Arguments, interrupt: Interrupt) -> "tuple[Fit, Row]":
    """Trains one likelihood with one seed, and returns the fit and the content of summary.json."""
    from vae_jax import runs
    from vae_jax.model import num_parameters

    print(f"{entry.label}, seed {built.config.seed}: {num_parameters(built.vae):,} parameters", flush=True)
    progress = EpochProgress(built.config.epochs, 0)

    def on_epoch(line: Mapping[str, float]) -> bool:
        progress.update(line)
        return interrupt.signal is not None

    out = run_directory(entry, built, arguments)
    fit, summary = runs.train(built, out, resume=arguments.resume, data_dir=arguments.data_dir, on_epoch=on_epoch)
    progress.close()
    return fit, summary


def run_directory(entry: "Entry", built: "Built", arguments: Arguments) -> Path:
    """Returns the run directory of one likelihood and seed."""
    return Path(arguments.out) / f"{entry.label.replace(':', '-')}-seed-{built.config.seed}"


def compare(dataset: "Dataset", base: "Config", arguments: Arguments, parts: "PartOptions") -> Comparison | int:
    """Trains all likelihoods with all seeds and the parts of the user. Returns the exit status if Ctrl-C ended it."""
    from vae_jax import runs
    from vae_jax.build import build
    from vae_jax.evaluation.overfitting import describe_overfit, overfit
    from vae_jax.report.run.comparison import Reconstructions
    from vae_jax.report.run.content import reconstructions
    from vae_jax.runs.likelihood_comparison import plan

    entries = [plan(base, name, dataset) for name in dict.fromkeys(arguments.likelihoods)]
    # All models are built before anything is written, lest a mistake in the last likelihood cost the first one's hours.
    todo = [
        (entry, build(dataclasses.replace(entry.config, seed=seed), data_dir=arguments.data_dir, **parts))
        for entry in entries
        for seed in dict.fromkeys(arguments.seeds)
    ]
    rows, shown = [], []
    with Interrupt() as interrupt:
        for entry, built in todo:
            fit, summary = train_one(entry, built, arguments, interrupt)
            out, seed = run_directory(entry, built, arguments), built.config.seed
            if fit.status == "interrupted":
                print(with_options(f"saved in {out}; repeat the command with `resume` to continue"), flush=True)
                return interrupt.exit_status
            if fit.status == "diverged":
                note(f"{entry.label} diverged and is left out of the table")
                continue
            if fit.problem is not None:
                note(f"{entry.label} is left out of the table: {fit.problem}")
                continue
            observed = overfit(runs.read_metrics(out), summary["evaluated_epoch"])
            if observed is not None:
                note(f"{entry.label}, seed {seed}: {describe_overfit(observed)}")
            rows.append({**summary, "likelihood": entry.label, "seed": seed, "unit": entry.unit, "why": entry.why})
            if seed == arguments.seeds[0]:
                shown.append(Reconstructions(entry.label, built, *reconstructions(built, fit.params)))
    return Comparison(rows, shown)


def means_over_seeds(rows: Sequence[Row]) -> list[Row]:
    """Returns a row for each likelihood: means over its seeds, and their standard error (for one seed, over test examples)."""
    import numpy as np

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
    return merged


def print_tables(rows: Sequence[Row]) -> None:
    """Prints a table for each unit. Rows in different tables cannot be compared, and the last column says why."""
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


def main(argv: Sequence[str] | None = None) -> int:
    """Trains each likelihood, prints and writes the comparison, and returns the exit status."""
    arguments, base = parse_with_config(Arguments, argv, "compare")
    expect_out(arguments.out, "a folder", "runs/likelihoods")
    if not arguments.likelihoods or not arguments.seeds:
        raise UserError("`likelihoods` and `seeds`: expected at least one of each.")
    out = Path(arguments.out)

    from vae_jax.build import load_dataset
    from vae_jax.report.html import write_picture
    from vae_jax.report.run.comparison import draw_reconstructions
    from vae_jax.runs.likelihood_comparison import check_base
    from vae_jax.storage.atomic import write_json
    from vae_jax.storage.cache import enable_compilation_cache
    from vae_jax.storage.directories import check_out

    base, sources = split_parts(base)
    check_new(base, sources)
    check_base(base)
    expect_outside_data(out, base)
    check_out(out, arguments.resume, lambda out: None)
    enable_compilation_cache()
    dataset = load_dataset(base, arguments.data_dir)
    comparison = compare(dataset, base, arguments, import_parts(sources))
    if isinstance(comparison, int):
        return comparison
    if not comparison.rows:
        print("error: no run ended well: look at the range of the data, or try a lower --learning-rate.", file=sys.stderr)
        return 1
    rows = means_over_seeds(comparison.rows)
    over = "test examples" if len(arguments.seeds) == 1 else "seeds"
    print_tables(rows)
    print(f"\n+- is the standard error over the {over}; {len(dataset.test)} test examples, {base.epochs} epochs")
    content = {"dataset": base.dataset, "standard_error_over": over, "rows": rows, "config": dataclasses.asdict(base)}
    write_json(out / "comparison.json", content)
    write_picture(out / "reconstructions.png", draw_reconstructions(comparison.shown))
    print(f"written: {out / 'comparison.json'}, {out / 'reconstructions.png'}")
    return 0
