"""`vae-jax evaluate`: log p(x) with its errors, the ELBO and the information in the code, on the test sets of trained runs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import tyro

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts, expect_runs
from vae_jax.cli.messages import note, with_options
from vae_jax.cli.tables import markdown
from vae_jax.cli.user_parts import PartArguments, load_parts_of_each
from vae_jax.errors import UserError

if TYPE_CHECKING:
    from vae_jax.build import PartOptions

Numbers = dict[str, Any]  # the content of evaluation.json: numbers, None where one is not defined, nested records


@dataclasses.dataclass(frozen=True)
class Arguments(PartArguments):
    """Evaluate run directories on their whole test sets; nats per example, one table for all runs.

    Writes evaluation.json (every number) and evaluation.npz (values of every test example) into each.

    Example: vae-jax evaluate runs/first runs/second --num-samples 5000
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories."""
    num_samples: int = 1000
    """Importance samples of log p(x) for each test example."""
    elbo_samples: int = 10
    """Draws of z for the ELBO of each test example. 1 repeats the number in summary.json."""
    ais_temperatures: int = 0
    """Also estimate log p(x) by annealed importance sampling with this many temperatures, such as 1000; 0 for not. Use it where
    the importance samples give only a lower end of log p(x)."""
    ais_chains: int = 16
    """Annealed importance sampling: chains for each example."""
    ais_start: Literal["posterior", "prior"] = "posterior"
    """Annealed importance sampling: distribution in which the chains begin, the encoder's q(z|x) or the prior."""
    bdmc: int = 0
    """Also bound the error of annealing from both sides on this many examples simulated from the model, such as 100."""
    gap_steps: int = 0
    """Also fit a posterior to each example in this many steps, such as 1000, for the encoder's gaps; 0 for not."""
    num_annealed: int | None = None
    """Use only the first test examples, this many, for annealing and gaps. By default all."""
    probe_codes: int = 10_000
    """Where the data have labels, predict them from at most this many training codes, by nearest neighbors and a linear probe;
    0 for not."""
    hide: float = 0.0
    """Also hide this share of the observed test entries completely at random, such as 0.5, impute them with `num_samples`
    importance samples, and compare with the mean, scikit-learn's IterativeImputer and a conditional Gaussian; 0 for not."""
    hide_seed: int = 0
    """Seed of the entries that `hide` hides."""
    batch_size: int = 1000
    """Examples at once for the ELBO. On CPU always 128, so no bit depends on this; elsewhere results change by rounding."""
    data_dir: str | None = None
    """Where TFDS finds prepared data, if not where the run found it."""

    def validate(self) -> None:
        """Raises `UserError` for values that are wrong for every run."""
        for name in ("num_samples", "elbo_samples", "ais_chains", "num_annealed", "batch_size"):
            expect_counts(1, 10**8, **{name: getattr(self, name)})
        if not 0 <= self.hide < 1:
            raise UserError(field="hide", expected="a share from 0 to below 1", got=self.hide)
        for name in ("ais_temperatures", "bdmc", "gap_steps", "probe_codes", "hide_seed"):
            expect_counts(0, 10**8, **{name: getattr(self, name)})
        if self.bdmc and not self.ais_temperatures:
            raise UserError("bounds annealed importance sampling; add `ais_temperatures`, such as 1000.", field="bdmc")
        if self.num_annealed is not None and not (self.ais_temperatures or self.gap_steps):
            raise UserError("expected `ais_temperatures` or `gap_steps` with it.", field="num_annealed")


class Column(NamedTuple):
    """A column of the table."""

    title: str
    name: str  # in evaluation.json
    width: int
    digits: int | None  # after the decimal point; None for whole numbers


COLUMNS = (
    Column("log p(x)", "log_px_mean", 10, 3),
    Column("+-", "log_px_standard_error", 6, 3),
    Column("MC +-", "log_px_monte_carlo_error", 6, 4),
    Column("too low by", "log_px_bias", 10, 4),
    Column("test ELBO", "test_elbo", 10, 3),
    Column("+-", "test_elbo_standard_error", 6, 3),
    Column("log-lik.", "test_log_likelihood", 10, 3),
    Column("KL", "test_kl", 8, 3),
    Column("active", "active_units", 6, None),
    Column("epoch", "evaluated_epoch", 5, None),
)
# Further columns where the first run has them.
LABEL_COLUMNS = (
    Column("kNN acc.", "knn_accuracy", 8, 4),
    Column("+-", "knn_accuracy_standard_error", 6, 4),
    Column("linear", "linear_probe_accuracy", 6, 4),
    Column("+-", "linear_probe_accuracy_standard_error", 6, 4),
)


def cell(value: float | None, column: Column) -> str:
    """Returns a number as a cell of the table, or a dash for one that is not defined."""
    if value is None or value != value:
        return f"{'-':>{column.width}}"
    return f"{value:{column.width}d}" if column.digits is None else f"{value:z{column.width}.{column.digits}f}"


def table_row(numbers: Numbers, columns: Sequence[Column] = COLUMNS) -> str:
    """Returns a run's cells. A bias is marked ">" where the interval of log p(x) is open, because it is then larger."""
    from vae_jax.runs.in_words import interval_of

    cells = {column.name: cell(numbers.get(column.name), column) for column in columns}
    if interval_of(numbers)[1] is None and numbers["log_px_bias"] is not None:
        cells["log_px_bias"] = f"{'>' + cells['log_px_bias'].strip():>{len(cells['log_px_bias'])}}"
    return "  ".join(cells.values())


def named_columns(columns: Sequence[Column], numbers: Numbers) -> list[Column]:
    """Returns columns whose titles name the densities of a run, such as log p(x|c), and are wide enough for them."""
    from vae_jax.runs.notation import Notation

    titles = [Notation.read(numbers).translate(column.title) for column in columns]
    named = zip(columns, titles, strict=True)
    return [column._replace(title=title, width=max(column.width, len(title))) for column, title in named]


def number(value: float | None, digits: int = 3) -> str:
    """Returns a number as text, or a dash for one that is not defined."""
    return "-" if value is None else f"{value:z.{digits}f}"


def with_error(value: float | None, error: float | None) -> str:
    """Returns a number and its standard error, where it has one."""
    return number(value) + ("" if error is None else f" +- {error:.3f}")


def evaluate_run(path: Path, arguments: Arguments, parts: "PartOptions") -> Numbers:
    """Evaluates a run with its parts of the user, writes both files, and returns the content of evaluation.json."""
    from tqdm import tqdm

    from vae_jax.evaluation import Annealing
    from vae_jax.runs import load_run
    from vae_jax.runs.evaluate_run import EvaluationOptions, assess
    from vae_jax.runs.hidden_entries import HiddenEntries
    from vae_jax.storage.atomic import write_arrays, write_json

    run = load_run(path, data_dir=arguments.data_dir, **parts)
    for text in run.notes:
        note(text)
    annealing = None
    if arguments.ais_temperatures:
        annealing = Annealing(arguments.ais_start, arguments.ais_temperatures, arguments.ais_chains)
    bars: dict[str, tqdm] = {}

    def progress(part: str, done: int, total: int) -> None:
        if part not in bars:
            bars[part] = tqdm(total=total, desc=f"{path.name}: {part}", unit="example", leave=False, disable=None)
        bars[part].update(done - bars[part].n)
        if done == total:
            bars[part].close()

    options = EvaluationOptions(
        num_samples=arguments.num_samples,
        elbo_samples=arguments.elbo_samples,
        batch_size=arguments.batch_size,
        annealing=annealing,
        gap_steps=arguments.gap_steps,
        num_annealed=arguments.num_annealed,
        num_simulated=arguments.bdmc,
        probe_codes=arguments.probe_codes,
        hidden=HiddenEntries(arguments.hide, arguments.hide_seed, arguments.num_samples) if arguments.hide else None,
    )
    assessment = assess(run, options, progress)
    write_arrays(path / "evaluation.npz", assessment.examples)
    write_json(path / "evaluation.json", assessment.numbers)
    return assessment.numbers


def _refit_line(refit: Numbers) -> str:
    """Returns the line about a prior that was fitted after training."""
    pairs = {name: (refit.get(name), refit.get(f"{name}_standard_error")) for name in refit}
    before, gain, elbo = (with_error(*pairs[name]) for name in ("log_px_mean_before", "log_px_gain", "elbo_gain"))
    line = f"refitted prior ({refit['kind']}): log p(x) {before} under the prior of the training gains {gain}, the ELBO {elbo}"
    if "marginal_kl" not in refit:
        return line
    old, new, fall = (with_error(*pairs[name]) for name in ("marginal_kl_before", "marginal_kl", "marginal_kl_gain"))
    return f"{line}; KL(q(z) || p(z)) falls from {old} to {new}, by {fall}"


def details(numbers: Numbers) -> list[str]:
    """Returns the lines below the table about a run: the numbers for which the table has no column."""
    from vae_jax.runs.in_words import interval_of
    from vae_jax.runs.notation import Notation

    low, high = interval_of(numbers)
    ends = f"at least {number(low)}" if high is None else f"in [{number(low)}, {number(high)}]"
    interval = "" if low is None else f"mean log p(x) of these examples {ends}; "
    information = ("mutual_information", "mutual_information_upper", "mutual_information_cap")
    lower, upper, cap = (number(numbers[name], 2) for name in information)
    correlation, dimension_wise = (number(numbers[name], 2) for name in ("total_correlation", "dimension_wise_kl"))
    lines = [
        f"{interval}{numbers['num_samples']} samples worth {number(numbers['effective_sample_size'], 0)}; mutual information "
        f"{lower} to {upper} (cap {cap}), total correlation {correlation}, dimension-wise KL {dimension_wise}"
    ]
    if "refit" in numbers:
        lines.append(_refit_line(numbers["refit"]))
    if "knn_accuracy" in numbers:
        accuracies = {
            f"{numbers['knn_neighbors']} nearest neighbors": "knn_accuracy",
            "linear probe": "linear_probe_accuracy",
            "most frequent label": "majority_accuracy",
        }
        texts = [
            f"{noun} {number(numbers[name], 4)} +- {number(numbers[f'{name}_standard_error'], 4)}"
            for noun, name in accuracies.items()
        ]
        remark = "" if numbers["linear_probe_converged"] else "; the linear probe had not converged"
        lines.append(
            f"accuracy of {numbers['num_labels']} labels from {numbers['probe_train_codes']} training codes on "
            f"{numbers['probe_test_codes']} test codes: {', '.join(texts)}{remark}"
        )
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
        kind = "simulated examples" if "missing_share_of_test" not in numbers else "simulated examples, which are complete"
        lines.append(
            f"annealing on {bdmc['num_examples']} {kind}: bounds of log p(x) in expectation "
            f"{number(bdmc['lower'])} and {number(bdmc['upper'])}, gap {gap}"
        )
    if "gaps" in numbers:
        gaps = numbers["gaps"]
        approximation, amortization = (
            with_error(gaps[name], gaps[f"{name}_standard_error"]) for name in ("approximation_gap", "amortization_gap")
        )
        lines.append(f"gaps ({gaps['num_examples']} examples): approximation {approximation}, amortization {amortization}")
    if "kl_per_layer" in numbers:
        lines.append(f"KL of the layers, top layer first: {', '.join(number(kl, 2) for kl in numbers['kl_per_layer'])}")
    translate = Notation.read(numbers).translate
    lines = [translate(line) for line in lines]
    if "conditioned_on" in numbers:
        lines.append(f"the model is conditioned on c: {numbers['conditioned_on']}")
    if "missing_share_of_test" in numbers:
        lines.append(f"{numbers['missing_share_of_test']:.1%} of the test entries are missing and left out of the likelihood")
    return lines


_METRICS = {
    "rmse": "RMSE of real entries, standardized",
    "accuracy": "accuracy of classes",
    "mean_absolute_error": "mean absolute error of counts",
}


def hidden_entries_lines(numbers: Numbers) -> list[str]:
    """Returns the table of imputations of hidden entries, and the lines below it; nothing where none were hidden."""
    if "hidden_entries" not in numbers:
        return []
    hidden = numbers["hidden_entries"]
    metrics = [metric for metric in _METRICS if any(metric in scores for scores in hidden["methods"].values())]
    rows = [
        (
            "this model" if method == "vae" else method,
            *(with_error(scores.get(metric), scores.get(f"{metric}_standard_error")) for metric in metrics),
        )
        for method, scores in hidden["methods"].items()
    ]
    log_px = with_error(hidden["log_px_observed_mean"], hidden["log_px_observed_standard_error"])
    return [
        "",
        f"{hidden['num_hidden']} hidden entries of {hidden['num_examples']} test examples, share {hidden['share']:g}, seed "
        f"{hidden['seed']}; +- is over the examples",
        markdown(("imputed by", *(_METRICS[metric] for metric in metrics)), rows),
        f"log p(x) of the other observed entries {log_px} nats; {hidden['num_samples']} samples worth "
        f"{number(hidden['effective_sample_size'], 0)}",
        *(f"note: {with_options(text)}" for text in hidden["notes"]),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluates runs, prints one table, and returns the exit status."""
    arguments = parse(Arguments, argv, "evaluate")
    expect_runs(arguments.runs)
    arguments.validate()

    from vae_jax.runs.in_words import remarks
    from vae_jax.storage.cache import enable_compilation_cache

    enable_compilation_cache()
    width = max(len("run"), *(len(str(path)) for path in arguments.runs))
    lines, columns = [], COLUMNS
    parts_of_each = load_parts_of_each(arguments, arguments.runs)
    for path, parts in zip(arguments.runs, parts_of_each, strict=True):
        numbers = evaluate_run(path, arguments, parts)
        if path == arguments.runs[0]:
            columns = named_columns((*COLUMNS, *LABEL_COLUMNS) if "knn_accuracy" in numbers else COLUMNS, numbers)
            print(f"{'run':{width}}  {'  '.join(f'{column.title:>{column.width}}' for column in columns)}")
        print(f"{path!s:{width}}  {table_row(numbers, columns)}", flush=True)
        notes = [f"note: {with_options(remark)}" for remark in remarks(numbers)]
        lines += [f"{path}: {line}" for line in (*details(numbers), *notes)]
        lines += hidden_entries_lines(numbers)
    draws = f"{arguments.elbo_samples} draw{'' if arguments.elbo_samples == 1 else 's'} of z"
    print(
        f"\nnats per example, beta = 1; +- is the standard error over the test examples, MC +- that over the samples; the test "
        f"ELBO is from {draws} per example (in summary.json and at the end of training: 1)"
    )
    print("\n".join(lines))
    return 0
