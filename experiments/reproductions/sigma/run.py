"""Compares scales of the decoder on Frey faces and MNIST (Rybkin et al. 2021), and shows that tuning beta is tuning sigma."""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.reproduction import Row, expect_seeds, summarize, train_sweep, with_error, write
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.errors import UserError

FOLDER = Path(__file__).parent
ENTRIES = ("gaussian:1.0", "gaussian:shared", "gaussian:optimal", "gaussian:per_pixel", "continuous_bernoulli", "bernoulli")
# Early stopping uses a tenth of the training images for validation.
SETTINGS: dict[str, dict[str, Any]] = {
    "frey_faces": {"split": "last", "batch_size": 100, "epochs": 500, "early_stopping": 20},
    "mnist": {"batch_size": 128, "epochs": 30, "early_stopping": 5},
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train one network under each scale, with every seed, as resumable sweeps.

    Example: python experiments/reproductions/sigma/run.py --frey-faces freyfaces.npy --mnist FOLDER
    """

    frey_faces: str = ""
    """An .npy file with the 1,965 frames in order. Left out if empty."""
    mnist: str = ""
    """A TFDS name, or a folder with IDX files. Left out if empty."""
    data_dir: str | None = None
    """Folder with prepared TFDS data."""
    betas: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1)
    """Candidate values of beta. Each is trained as the equivalent fixed scale sigma = sqrt(beta)."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds for every entry."""
    epochs: int | None = None
    """Maximum number of passes, by default that of the data set."""
    twin_epochs: int = 20
    """Passes of the pairs (sigma = 1 with beta, and sigma = sqrt(beta) with beta = 1), which should agree."""
    minutes: float = float("inf")
    """Stop after this time. The same command continues."""
    runs: Path = Path("runs/sigma")
    """Folder of the sweep directories. Unfinished ones are continued."""
    out: Path = FOLDER / "results.json"
    """JSON file to write."""


def make_members(name: str, dataset: str, arguments: Arguments) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Returns the members of each entry, and those of each pair of twins."""
    from vae_jax import sweep
    from vae_jax.build import load_dataset
    from vae_jax.config import Config
    from vae_jax.runs.likelihood_comparison import plan

    chosen = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    base = Config(dataset=dataset, hidden=(200, 200), validation_fraction=0.1, **{**SETTINGS[name], **chosen})
    loaded = load_dataset(base, arguments.data_dir)

    def seeded(entry: str, **changes: Any) -> list[Any]:
        config = plan(base, entry, loaded).config
        return sweep.grid(dataclasses.replace(config, **changes), seed=arguments.seeds)

    entries = {entry: seeded(entry) for entry in ENTRIES}
    entries |= {f"beta {beta:g}": seeded(f"gaussian:{math.sqrt(beta)}") for beta in arguments.betas}
    whole: dict[str, Any] = {"early_stopping": 0, "epochs": arguments.twin_epochs}
    twins = {}
    for beta in arguments.betas:
        twins[f"{beta:g}"] = [*seeded("gaussian:1.0", beta=beta, **whole), *seeded(f"gaussian:{math.sqrt(beta)}", **whole)]
    return entries, twins


def elbo_at_scale(results: Any, number: int, scale: float, data_dir: str | None) -> float:
    """Returns the test ELBO of a member when its parameters are evaluated with a different sigma."""
    import jax
    import numpy as np

    from vae_jax import evaluation, likelihoods, training
    from vae_jax.sweep.results import load_params

    built, params = load_params(results, [number], data_dir)[number]
    vae, data = built.vae._replace(likelihood=likelihoods.gaussian(scale)), built.data
    key = training.evaluation_key(built.config.test_seed)
    options = {"to_input": data.eval_input, "log_jacobian": data.log_jacobian}
    terms = jax.jit(lambda params, test: evaluation.evaluate(key, vae, params, test, **options))(params, data.test)
    return float(np.mean(np.subtract(*map(np.asarray, terms[:2])), dtype=np.float64))


def learned_scale(results: Any, number: int, data_dir: str | None) -> float:
    """Returns the sigma that a member of gaussian:shared has learned."""
    from vae_jax.sweep.results import load_params

    built, params = load_params(results, [number], data_dir)[number]
    return float(math.exp(built.vae.likelihood.shared_values(params["likelihood"])[0]))


def summarize_rows(rows: list[dict[str, Any]], validation: dict[int, float]) -> dict[str, Any]:
    """Returns means and standard errors over the seeds of one entry."""
    names = ("test_elbo", "rate", "distortion", "test_bits_per_dim", "evaluated_epoch")
    known = [name for name in names if all(row[name] is not None for row in rows)]
    numbers: dict[str, Any] = {name: summarize([row[name] for row in rows]) for name in known}
    return {**numbers, "validation_elbo": summarize([validation[row["member"]] for row in rows]), "seeds": len(rows)}


class Comparison(NamedTuple):
    """Results on one data set."""

    content: dict[str, Any]  # of results.json
    rows: list[Row]
    seconds: float


def compare(name: str, dataset: str, arguments: Arguments) -> Comparison | int:
    """Trains and compares all entries on one data set. Returns the exit status if the training was interrupted."""
    from vae_jax.build import build
    from vae_jax.sweep.members import identity
    from vae_jax.sweep.results import load_sweep

    entries, twins = make_members(name, dataset, arguments)
    members = {identity(config): config for table in (entries, twins) for configs in table.values() for config in configs}
    runs = arguments.runs / name
    status = train_sweep(list(members.values()), runs, data_dir=arguments.data_dir, minutes=arguments.minutes)
    if status is not None:
        return status
    results = load_sweep(runs)
    numbers = {identity(config): number for number, config in enumerate(results.members)}
    validation: dict[int, float] = {}
    for line in results.curves:
        validation[line["member"]] = max(line["validation_elbo"], validation.get(line["member"], -math.inf))

    def finished(configs: list[Any]) -> list[dict[str, Any]]:
        rows = [results.rows[numbers[identity(config)]] for config in configs]
        return [row for row in rows if not row["status"].startswith("diverged")]

    def compare_twins(beta: float, configs: list[Any]) -> dict[str, Any]:
        with_beta, with_scale = configs[: len(configs) // 2], configs[len(configs) // 2 :]
        read = [elbo_at_scale(results, numbers[identity(c)], math.sqrt(beta), arguments.data_dir) for c in with_beta]
        return {
            "beta": beta,
            "sigma_one_as_reported": summarize([row["test_elbo"] for row in finished(with_beta)]),
            "sigma_one_read_at_sqrt_beta": summarize(read),
            "sqrt_beta_with_beta_one": summarize([row["test_elbo"] for row in finished(with_scale)]),
        }

    entry_rows = {entry: finished(configs) for entry, configs in entries.items()}
    table = {entry: summarize_rows(rows, validation) for entry, rows in entry_rows.items() if rows}
    candidates = (entry for entry in table if entry.startswith("beta "))
    tuned = max(candidates, key=lambda entry: table[entry]["validation_elbo"]["mean"])
    scales = [learned_scale(results, row["member"], arguments.data_dir) for row in entry_rows["gaussian:shared"]]
    pairs = [compare_twins(float(beta), configs) for beta, configs in twins.items()]
    jacobian = build(entries["gaussian:1.0"][0], data_dir=arguments.data_dir).data.log_jacobian
    content = {
        "entries": table,
        "tuned_beta": float(tuned.removeprefix("beta ")),
        "learned_sigma": summarize(scales),
        "twins": pairs,
    }
    seconds = sum(row["wall_seconds"] for row in results.rows)
    return Comparison(content, readme_rows(name, table, tuned, jacobian), seconds)


def readme_rows(name: str, table: dict[str, dict[str, Any]], tuned: str, jacobian: float) -> list[Row]:
    """Returns the lines of the README for one data set.

    Args:
      name: of the data set.
      table: entry -> means over seeds.
      tuned: the entry with the best beta.
      jacobian: the log-Jacobian that turns nats of the discrete data into those of densities on [0, 1].
    """
    rows = []
    for entry, title in (
        ("gaussian:1.0", "σ = 1"),
        (tuned, f"β tuned to {float(tuned.removeprefix('beta ')):g}"),
        ("gaussian:shared", "σ learned"),
        ("gaussian:optimal", "σ of each batch"),
        ("gaussian:per_pixel", "σ of each pixel"),
        ("continuous_bernoulli", "continuous Bernoulli"),
    ):
        elbo = table[entry]["test_elbo"]
        label = f"{name.replace('_', ' ')}, {title}: −ELBO of the density on [0, 1]"
        rows.append(Row(label, None, jacobian - elbo["mean"], elbo["standard_error"], table[entry]["seeds"]))
    return rows


def tables(content: dict[str, Any]) -> str:
    """Returns tables in Markdown for each data set: the likelihoods in order of their ELBO, and the pairs of twins."""
    header = ("β", "σ = 1 and β, as reported", "the same, read at σ = √β", "σ = √β and β = 1")
    names = ("sigma_one_as_reported", "sigma_one_read_at_sqrt_beta", "sqrt_beta_with_beta_one")
    lines = []
    for dataset in filter(content.__contains__, SETTINGS):
        numbers = content[dataset]
        order = sorted(numbers["entries"].items(), key=lambda item: -item[1]["test_elbo"]["mean"])
        cells = [
            (
                f"`{entry}`",
                *(with_error(row[name], 1) for name in ("test_elbo", "rate")),
                with_error(row["test_bits_per_dim"], 3),
            )
            for entry, row in order
        ]
        pairs = [(f"{pair['beta']:g}", *(with_error(pair[name], 1) for name in names)) for pair in numbers["twins"]]
        lines += [
            f"{dataset.replace('_', ' ')}, nats of the discrete data (`bernoulli` cannot be compared, because its data are "
            "binarized)\n",
            markdown(("", "test ELBO", "KL", "bits/dim"), cells),
            f"\nβ tuned on validation: {numbers['tuned_beta']:g}, σ = √β = {math.sqrt(numbers['tuned_beta']):.3f}; σ learned: "
            f"{with_error(numbers['learned_sigma'], 3)}.\n",
            markdown(header, pairs),
            "",
        ]
    return "\n".join(lines).strip()


def verdicts(content: dict[str, Any]) -> list[str]:
    """Returns the verdict on each row of results.json."""
    return [
        "Different setting: the published network and data are in `sigma_network`."
        if row["what"].startswith("mnist")
        else "No published number."
        for row in content["rows"]
    ]


def main() -> int:
    """Trains, compares and writes the results."""
    arguments = parse(Arguments)
    expect_seeds(arguments.seeds)
    expect_counts(1, twin_epochs=arguments.twin_epochs, epochs=arguments.epochs)
    if not arguments.betas or not all(beta > 0 for beta in arguments.betas):
        raise UserError("`betas`: expected at least one number > 0.")
    chosen = {"frey_faces": arguments.frey_faces, "mnist": arguments.mnist}
    if not any(chosen.values()):
        raise UserError("expected `frey_faces=FILE.npy` or `mnist=NAME` (or a folder), or both, got none.")
    rows, content, total = [], {}, 0.0
    for name, dataset in chosen.items():
        if not dataset:
            continue
        comparison = compare(name, dataset, arguments)
        if isinstance(comparison, int):
            return comparison
        content[name] = comparison.content
        rows, total = rows + comparison.rows, total + comparison.seconds
    print(tables(content))
    kept = {"seeds": arguments.seeds, "betas": arguments.betas, "twin_epochs": arguments.twin_epochs}
    write(arguments.out, {**SETTINGS, **kept, "epochs": arguments.epochs}, rows, content, total, verdicts)
    return 0


if __name__ == "__main__":
    run_script(main)
