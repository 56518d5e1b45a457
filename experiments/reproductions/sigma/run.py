"""What the decoder's scale is worth (Rybkin et al. 2021), on Frey faces and MNIST, and that a tuned beta is a tuned sigma."""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import math
from pathlib import Path
from typing import Any

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.reproduction import Row, expect_seeds, summarize, train_sweep, with_error, write
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.errors import UserError

FOLDER = Path(__file__).parent
ENTRIES = ("gaussian:1.0", "gaussian:shared", "gaussian:optimal", "gaussian:per_pixel", "continuous_bernoulli", "bernoulli")
# Settings of each data set; early stopping looks at a tenth of the training images.
SETTINGS: dict[str, dict[str, Any]] = {
    "frey_faces": {"split": "last", "batch_size": 100, "epochs": 500, "early_stopping": 20},
    "mnist": {"batch_size": 128, "epochs": 30, "early_stopping": 5},
}
# -log p on MNIST, Table 3 of Rybkin et al.: densities on [0, 1], their network.
PUBLISHED = {"gaussian:1.0": 740.5, "tuned": -796.2, "gaussian:shared": -896.1}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Trains one network under each scale, with every seed, as sweeps in directories that can be continued.

    Example: python experiments/reproductions/sigma/run.py --frey-faces freyfaces.npy --mnist FOLDER
    """

    frey_faces: str = ""
    """An .npy file with the 1,965 frames in order; left out where empty."""
    mnist: str = ""
    """A TFDS name, or a folder with IDX files; left out where empty."""
    data_dir: str | None = None
    """Where TFDS finds prepared data."""
    betas: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1)
    """Values of beta to tune among, each trained as the fixed scale sigma = sqrt(beta) that it is."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds, for every entry."""
    epochs: int | None = None
    """Most passes, if not those of the data set."""
    twin_epochs: int = 20
    """Passes of the pairs (sigma = 1 with beta, sigma = sqrt(beta) with beta = 1) that show that they are the same."""
    minutes: float = float("inf")
    """Stop after so many; the same command goes on."""
    runs: Path = Path("runs/sigma")
    """Folder of the sweep directories; what is there is continued."""
    out: Path = FOLDER / "results.json"
    """JSON file to write."""


def make_members(name: str, dataset: str, arguments: Arguments) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """The members of each entry, and those of each pair of twins."""
    from vae_jax import sweep
    from vae_jax.build import load_dataset
    from vae_jax.config import Config
    from vae_jax.runs import likelihood_comparison as comparison

    chosen = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    base = Config(dataset=dataset, hidden=(200, 200), validation_fraction=0.1, **{**SETTINGS[name], **chosen})
    loaded = load_dataset(base, arguments.data_dir)

    def seeded(entry: str, **changes: Any) -> list[Any]:
        config = comparison.plan(base, entry, loaded).config
        return sweep.grid(dataclasses.replace(config, **changes), seed=arguments.seeds)

    entries = {entry: seeded(entry) for entry in ENTRIES}
    entries |= {f"beta {beta:g}": seeded(f"gaussian:{math.sqrt(beta)}") for beta in arguments.betas}
    whole: dict[str, Any] = {"early_stopping": 0, "epochs": arguments.twin_epochs}
    twins = {}
    for beta in arguments.betas:
        twins[f"{beta:g}"] = [*seeded("gaussian:1.0", beta=beta, **whole), *seeded(f"gaussian:{math.sqrt(beta)}", **whole)]
    return entries, twins


def read_at(results: Any, number: int, scale: float, data_dir: str | None) -> float:
    """Test ELBO of a member whose parameters are read with another sigma."""
    import jax
    import numpy as np

    from vae_jax import evaluation, likelihoods, training
    from vae_jax.sweep.results import load_params

    built, params = load_params(results, [number], data_dir)[number]
    vae, data = built.vae._replace(likelihood=likelihoods.gaussian(scale)), built.data
    key, options = (
        training.evaluation_key(built.config.test_seed),
        {"to_input": data.eval_input, "log_jacobian": data.log_jacobian},
    )
    found = jax.jit(lambda params, test: evaluation.evaluate(key, vae, params, test, **options))(params, data.test)
    return float(np.mean(np.subtract(*map(np.asarray, found[:2])), dtype=np.float64))


def learned_scale(results: Any, number: int, data_dir: str | None) -> float:
    """The sigma that a member of gaussian:shared has come to."""
    from vae_jax.sweep.results import load_params

    built, params = load_params(results, [number], data_dir)[number]
    return float(math.exp(built.vae.likelihood.shared_values(params["likelihood"])[0]))


def summarize_rows(rows: list[dict[str, Any]], validation: dict[int, float]) -> dict[str, Any]:
    """Means and errors over the seeds of one entry."""
    names = ("test_elbo", "rate", "distortion", "test_bits_per_dim", "evaluated_epoch")
    known = [name for name in names if all(row[name] is not None for row in rows)]
    numbers: dict[str, Any] = {name: summarize([row[name] for row in rows]) for name in known}
    return {**numbers, "validation_elbo": summarize([validation[row["member"]] for row in rows]), "seeds": len(rows)}


def compare(name: str, dataset: str, arguments: Arguments) -> tuple[int | None, dict[str, Any], list[Row], float]:
    """Exit status if interrupted; the numbers of one data set; its rows; seconds."""
    from vae_jax.build import build
    from vae_jax.sweep.members import identity
    from vae_jax.sweep.results import load_sweep

    entries, twins = make_members(name, dataset, arguments)
    members = {identity(config): config for table in (entries, twins) for listed in table.values() for config in listed}
    runs = arguments.runs / name
    status = train_sweep(list(members.values()), runs, data_dir=arguments.data_dir, minutes=arguments.minutes)
    if status is not None:
        return status, {}, [], 0.0
    results = load_sweep(runs)
    numbers = {identity(config): number for number, config in enumerate(results.members)}
    validation: dict[int, float] = {}
    for line in results.curves:
        validation[line["member"]] = max(line["validation_elbo"], validation.get(line["member"], -math.inf))

    def rows_of(listed: list[Any]) -> list[dict[str, Any]]:
        rows = [results.rows[numbers[identity(config)]] for config in listed]
        return [row for row in rows if not row["status"].startswith("diverged")]

    found = {entry: rows_of(listed) for entry, listed in entries.items()}
    table = {entry: summarize_rows(rows, validation) for entry, rows in found.items() if rows}
    tuned = max(
        (entry for entry in table if entry.startswith("beta ")), key=lambda entry: table[entry]["validation_elbo"]["mean"]
    )
    beta = float(tuned.removeprefix("beta "))
    scales = [learned_scale(results, row["member"], arguments.data_dir) for row in rows_of(entries["gaussian:shared"])]
    pairs = []
    for word, listed in twins.items():
        scale, half = math.sqrt(float(word)), len(listed) // 2
        first = [read_at(results, numbers[identity(config)], scale, arguments.data_dir) for config in listed[:half]]
        second = [row["test_elbo"] for row in rows_of(listed[half:])]
        reported = [row["test_elbo"] for row in rows_of(listed[:half])]
        pairs.append(
            {
                "beta": float(word),
                "sigma_one_as_reported": summarize(reported),
                "sigma_one_read_at_sqrt_beta": summarize(first),
                "sqrt_beta_with_beta_one": summarize(second),
            }
        )
    jacobian = build(entries["gaussian:1.0"][0], data_dir=arguments.data_dir).data.log_jacobian
    rows = []
    for entry, words in (
        ("gaussian:1.0", "σ = 1"),
        (tuned, f"β tuned to {beta:g}"),
        ("gaussian:shared", "σ learned"),
        ("gaussian:optimal", "σ of each batch"),
        ("gaussian:per_pixel", "σ of each pixel"),
        ("continuous_bernoulli", "continuous Bernoulli"),
    ):
        elbo = table[entry]["test_elbo"]
        published = PUBLISHED.get("tuned" if entry == tuned else entry) if name == "mnist" else None
        words = f"{name.replace('_', ' ')}, {words}: −ELBO of the density on [0, 1]"
        rows.append(Row(words, published, jacobian - elbo["mean"], elbo["standard_error"], table[entry]["seeds"]))
    seconds = sum(row["wall_seconds"] for row in results.rows)
    return None, {"entries": table, "tuned_beta": beta, "learned_sigma": summarize(scales), "twins": pairs}, rows, seconds


def tables(content: dict[str, Any]) -> str:
    """Of each data set the likelihoods by their ELBO, and the pairs, as Markdown."""
    header = ("β", "σ = 1 and β, as reported", "the same, read at σ = √β", "σ = √β and β = 1")
    names = ("sigma_one_as_reported", "sigma_one_read_at_sqrt_beta", "sqrt_beta_with_beta_one")
    lines = []
    for dataset in filter(content.__contains__, SETTINGS):
        found = content[dataset]
        order = sorted(found["entries"].items(), key=lambda item: -item[1]["test_elbo"]["mean"])
        cells = [
            (f"`{entry}`", *(with_error(of[name], 1) for name in ("test_elbo", "rate")), with_error(of["test_bits_per_dim"], 3))
            for entry, of in order
        ]
        pairs = [(f"{pair['beta']:g}", *(with_error(pair[name], 1) for name in names)) for pair in found["twins"]]
        lines += [
            f"{dataset.replace('_', ' ')}, nats of the discrete data (`bernoulli`: of binarised data, so not to be compared)\n",
            markdown(("", "test ELBO", "KL", "bits/dim"), cells),
            f"\nβ tuned on validation: {found['tuned_beta']:g}, σ = √β = {math.sqrt(found['tuned_beta']):.3f}; σ learned: "
            f"{with_error(found['learned_sigma'], 3)}.\n",
            markdown(header, pairs),
            "",
        ]
    return "\n".join(lines).strip()


def main() -> int:
    """Trains, compares, writes."""
    arguments = parse(Arguments)
    expect_seeds(arguments.seeds)
    expect_counts(1, twin_epochs=arguments.twin_epochs, epochs=1 if arguments.epochs is None else arguments.epochs)
    if not arguments.betas or not all(beta > 0 for beta in arguments.betas):
        raise UserError("--betas: expected at least one number > 0.")
    chosen = {"frey_faces": arguments.frey_faces, "mnist": arguments.mnist}
    if not any(chosen.values()):
        raise UserError("expected --frey-faces FILE.npy or --mnist NAME (or a folder), or both, got none.")
    rows, content, total = [], {}, 0.0
    for name, dataset in chosen.items():
        if not dataset:
            continue
        status, content[name], own, seconds = compare(name, dataset, arguments)
        if status is not None:
            return status
        rows, total = rows + own, total + seconds
    print(tables(content))
    kept = {"seeds": arguments.seeds, "betas": arguments.betas, "twin_epochs": arguments.twin_epochs}
    write(arguments.out, {**SETTINGS, **kept, "epochs": arguments.epochs}, rows, content, total)
    return 0


if __name__ == "__main__":
    run_script(main)
