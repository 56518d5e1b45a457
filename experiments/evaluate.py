"""Evaluates trained runs on their test sets: log p(x) with its errors, the ELBO, and what the code carries."""

import environment  # noqa: F401

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal

import tyro
from common import expect_runs, parse, run_script, with_options

from vae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Evaluate run directories on their whole test sets; nats per example, one table for all runs.

    Writes evaluation.json (every number) and evaluation.npz (values of every test example) into each.

    Example: python experiments/evaluate.py runs/first runs/second --num-samples 5000
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories written by train.py."""
    num_samples: int = 1000
    """Importance samples of log p(x) for each test example."""
    elbo_samples: int = 10
    """Draws of z for the ELBO of each test example. 1 repeats the number in summary.json."""
    ais_temperatures: int = 0
    """Also estimate log p(x) by annealed importance sampling with so many temperatures, such as 1000; 0: do not. Use it where \
    the importance samples give only a lower end of log p(x)."""
    ais_chains: int = 16
    """Chains of it for each example."""
    ais_start: Literal["posterior", "prior"] = "posterior"
    """Where its chains begin: posterior, the encoder's q(z|x), or prior."""
    bdmc: int = 0
    """Also bound the error of annealing from both sides on so many examples simulated from the model, such as 100."""
    gap_steps: int = 0
    """Also fit a posterior to each example by so many steps, such as 1000, for the encoder's gaps; 0: do not."""
    num_annealed: int | None = None
    """Of the first so many test examples, for annealing and gaps; all without."""
    batch_size: int = 1000
    """Examples at once for the ELBO. On CPU always 128, so no bit depends on this; elsewhere results change by rounding."""
    data_dir: str | None = None
    """Where TFDS finds prepared data, if not where the run found it."""

    def validate(self) -> None:
        """Raises `UserError` for a number that cannot be."""
        least = {"num_samples": 1, "elbo_samples": 1, "ais_chains": 1, "num_annealed": 1, "batch_size": 1}
        for name in (*least, "ais_temperatures", "bdmc", "gap_steps"):
            value, at_least, flag = getattr(self, name), least.get(name, 0), name.replace("_", "-")
            if value is not None and value < at_least:
                raise UserError(f"--{flag}: expected a whole number >= {at_least}, got {value}.")
            if value is not None and value > 10**8:
                raise UserError(f"--{flag}: expected at most 100,000,000, got {value}.")
        if self.bdmc and not self.ais_temperatures:
            raise UserError("--bdmc: bounds annealed importance sampling; add --ais-temperatures, such as 1000.")
        if self.num_annealed is not None and not (self.ais_temperatures or self.gap_steps):
            raise UserError("--num-annealed: expected --ais-temperatures or --gap-steps with it.")


COLUMNS = (
    ("log p(x)", "log_px_mean", "10.3f"),
    ("+-", "log_px_standard_error", "6.3f"),
    ("MC +-", "log_px_monte_carlo_error", "6.4f"),
    ("too low by", "log_px_bias", "10.4f"),
    ("test ELBO", "test_elbo", "10.3f"),
    ("+-", "test_elbo_standard_error", "6.3f"),
    ("log-lik.", "test_log_likelihood", "10.3f"),
    ("KL", "test_kl", "8.3f"),
    ("active", "active_units", "6d"),
    ("epoch", "evaluated_epoch", "5d"),
)


def cell(value: Any, form: str) -> str:
    """Returns a number as a cell of the table, or a dash for one that is not defined."""
    width = int(form.split(".")[0].rstrip("d"))
    unsigned_zero = "z" if form.endswith("f") else ""
    return f"{'-':>{width}}" if value is None or value != value else f"{value:{unsigned_zero}{form}}"


def table_row(numbers: dict[str, Any]) -> str:
    """Returns a run's cells. A bias is marked ">" where the interval of log p(x) is open, because it is then larger."""
    from vae_jax.runs.evaluate_run import interval_of

    cells = {name: cell(numbers[name], form) for _, name, form in COLUMNS}
    if interval_of(numbers)[1] is None and numbers["log_px_bias"] is not None:
        cells["log_px_bias"] = f"{'>' + cells['log_px_bias'].strip():>{len(cells['log_px_bias'])}}"
    return "  ".join(cells.values())


def number(value: float | None, digits: int = 3) -> str:
    """Returns a number in words, or a dash for one that is not defined."""
    return "-" if value is None else f"{value:z.{digits}f}"


def with_error(value: float | None, error: float | None) -> str:
    """Returns a number and its standard error, where it has one."""
    return number(value) + ("" if error is None else f" +- {error:.3f}")


def evaluate_run(path: Path, arguments: Arguments) -> dict[str, Any]:
    """Evaluates, writes both files, and returns the content of evaluation.json."""
    from tqdm import tqdm

    from vae_jax.evaluation import Annealing
    from vae_jax.runs import load_run
    from vae_jax.runs.evaluate_run import assess
    from vae_jax.storage.atomic import write_arrays, write_json

    run = load_run(path, data_dir=arguments.data_dir)
    for note in run.notes:
        print(f"note: {note}", file=sys.stderr)
    annealing = None
    if arguments.ais_temperatures:
        annealing = Annealing(arguments.ais_start, arguments.ais_temperatures, arguments.ais_chains)
    bars: dict[str, Any] = {}

    def progress(what: str, done: int, of: int) -> None:
        if what not in bars:
            bars[what] = tqdm(total=of, desc=f"{path.name}: {what}", unit="image", leave=False, disable=None)
        bars[what].update(done - bars[what].n)
        if done == of:
            bars[what].close()

    assessment = assess(
        run,
        num_samples=arguments.num_samples,
        elbo_samples=arguments.elbo_samples,
        batch_size=arguments.batch_size,
        annealing=annealing,
        gap_steps=arguments.gap_steps,
        num_annealed=arguments.num_annealed,
        num_simulated=arguments.bdmc,
        progress=progress,
    )
    write_arrays(path / "evaluation.npz", assessment.examples)
    write_json(path / "evaluation.json", assessment.numbers)
    return assessment.numbers


def more(numbers: dict[str, Any]) -> list[str]:
    """The lines below a run's row: what the table has no column for."""
    from vae_jax.runs.evaluate_run import interval_of

    low, high = interval_of(numbers)
    ends = f"at least {number(low)}" if high is None else f"in [{number(low)}, {number(high)}]"
    interval = "" if low is None else f"mean log p(x) of these examples {ends}; "
    parts = (
        "mutual_information",
        "mutual_information_upper",
        "mutual_information_cap",
        "total_correlation",
        "dimension_wise_kl",
    )
    least, most, cap, correlation, dimension_wise = (
        "-" if numbers[name] is None else f"{numbers[name]:z.2f}" for name in parts
    )
    lines = [
        f"{interval}{numbers['num_samples']} samples worth {number(numbers['effective_sample_size'], 0)}; mutual information "
        f"{least} to {most} (cap {cap}), total correlation {correlation}, dimension-wise KL {dimension_wise}"
    ]
    if "ais" in numbers:
        ais = numbers["ais"]
        lines.append(
            f"annealed ({ais['num_temperatures']} temperatures, {ais['num_chains']} chains, {ais['num_examples']} examples): "
            f"log p(x) {with_error(ais['log_px_mean'], ais['log_px_standard_error'])}, a lower bound in expectation, "
            f"MC +- {number(ais['log_px_monte_carlo_error'], 4)}, "
            f"acceptance {number(ais['acceptance_rate'], 2)}"
        )
    if "bdmc" in numbers:
        bdmc = numbers["bdmc"]
        gap = with_error(bdmc["gap"], bdmc["gap_standard_error"])
        lines.append(
            f"annealing on {bdmc['num_examples']} simulated examples: bounds of log p(x) in expectation "
            f"{number(bdmc['lower'])} and {number(bdmc['upper'])}, gap {gap}"
        )
    if "gaps" in numbers:
        gaps = numbers["gaps"]
        approximation, amortization = (
            with_error(gaps[name], gaps[f"{name}_standard_error"]) for name in ("approximation_gap", "amortization_gap")
        )
        lines.append(f"gaps ({gaps['num_examples']} examples): approximation {approximation}, amortisation {amortization}")
    return lines


def main() -> int:
    """Parses, evaluates, prints one table."""
    arguments = parse(Arguments)
    expect_runs(arguments.runs)
    arguments.validate()

    from vae_jax.runs.evaluate_run import remarks
    from vae_jax.storage.cache import enable_compilation_cache

    enable_compilation_cache()
    width = max(len("run"), *(len(str(path)) for path in arguments.runs))
    details = []
    for path in arguments.runs:
        numbers = evaluate_run(path, arguments)
        if path == arguments.runs[0]:
            widths = [int(form.split(".")[0].rstrip("d")) for _, _, form in COLUMNS]
            titles = "  ".join(f"{title:>{w}}" for (title, _, _), w in zip(COLUMNS, widths, strict=True))
            print(f"{'run':{width}}  {titles}")
        print(f"{path!s:{width}}  {table_row(numbers)}", flush=True)
        details += [
            f"{path}: {line}" for line in (*more(numbers), *(f"note: {with_options(remark)}" for remark in remarks(numbers)))
        ]
    draws = f"{arguments.elbo_samples} draw{'' if arguments.elbo_samples == 1 else 's'} of z"
    print(
        f"\nnats per example, beta = 1; +- is the standard error over the test examples, MC +- that over the samples; the test "
        f"ELBO is from {draws} per example (in summary.json and at the end of training: 1)"
    )
    print("\n".join(details))
    return 0


if __name__ == "__main__":
    run_script(main)
