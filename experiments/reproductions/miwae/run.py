"""Imputes scikit-learn's tables with half of the entries missing by MIWAE (Mattei & Frellsen 2019) and by other methods."""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax import data
from vae_jax._numerics.keys import Stream, stream
from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.reproduction import Row, expect_seeds, summarize, with_error, write
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.config import Config
from vae_jax.errors import UserError, unknown
from vae_jax.evaluation import ImputationSettings, impute_dataset
from vae_jax.evaluation.hidden_entries import Table, gaussian_imputation, hide, iterative_imputation, mean_imputation
from vae_jax.storage.atomic import write_json
from vae_jax.sweep import sweep

FOLDER = Path(__file__).parent
TABLES = ("breast_cancer", "wine")
METHODS = ("mean", "IterativeImputer", "random forests", "conditional Gaussian", "VAE", "MIWAE")
TREES = 100  # of each random forest, as missForest has by default
FOREST_ROUNDS = 5  # over the columns; missForest, which stops by itself, makes about as many
PASSES = 20  # over the table in an epoch, because each epoch ends with an evaluation


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Hide half of the entries of each table, impute them, and report the mean squared error of standardized entries.

    An interrupted call continues where it stopped, because each result is kept in a file beside `out`.

    Example: python experiments/reproductions/miwae/run.py --tables wine --seeds 0 1
    """

    tables: tuple[str, ...] = TABLES
    """Tables of scikit-learn: breast_cancer, wine."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the hidden entries, of the initialization and of the noise."""
    share: float = 0.5
    """Share of the entries that is hidden."""
    latent_dim: int = 10
    """Latent dimensions."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers."""
    num_samples: int = 20
    """Importance samples K in training."""
    steps: int = 2000
    """Training steps; the same for all tables."""
    batch_size: int = 64
    """Rows in a step."""
    imputation_samples: int = 10_000
    """Importance samples L of each row for the imputation."""
    out: Path = FOLDER / "results.json"
    """JSON file to write."""


def hidden_table(name: str, seed: int, share: float) -> Table:
    """Returns a standardized table whose rows are training and test examples at once, as in the paper."""
    from sklearn import datasets

    x = getattr(datasets, f"load_{name}")().data.astype(np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    hidden = hide(seed, np.ones(x.shape, bool), share)
    return Table(np.where(hidden, np.nan, x), x, hidden, ("real",) * x.shape[1], 1.0)


def vae_imputation(table: Table, objective: dict[str, Any], seed: int, arguments: Arguments) -> tuple[np.ndarray, float]:
    """Trains a VAE on the observed entries and imputes the others; returns the median effective sample size as well."""
    x = table.given.astype(np.float32)
    # The rows are the test set as well, whose hidden entries nobody sees.
    dataset = data.from_arrays(np.tile(x, (PASSES, 1)), x, missing="nan", name="table")
    steps_per_epoch = PASSES * len(x) // arguments.batch_size
    config = Config(
        likelihood="student_t",
        scale="per_pixel",
        activation="tanh",
        hidden=arguments.hidden,
        latent_dim=arguments.latent_dim,
        epochs=max(1, arguments.steps // steps_per_epoch),
        batch_size=arguments.batch_size,
        learning_rate=1e-3,
        seed=seed,
        **objective,
    )
    [(_, built, fit)] = sweep([config], dataset=dataset).fits
    params = jax.tree.map(lambda leaf: leaf[0], fit.params)
    settings = ImputationSettings(arguments.imputation_samples)

    @jax.jit
    def imputed(params: Any) -> Any:
        key = stream(seed, Stream.REPRODUCTION)
        return impute_dataset(key, built.vae, params, built.data.test, settings, to_input=built.data.eval_input)

    result = imputed(params)
    return np.asarray(result.mean, np.float64), float(np.median(result.effective_sample_size))


def mean_squared_error(table: Table, imputed: np.ndarray) -> float:
    """Returns the mean over the hidden entries, in units of the variance of each column."""
    return float(np.square(imputed - table.test)[table.hidden].mean())


def measure(name: str, seed: int, method: str, arguments: Arguments) -> dict[str, float]:
    """Returns the error of one method on one table with one seed."""
    table, began = hidden_table(name, seed, arguments.share), time.perf_counter()
    numbers: dict[str, float] = {}
    if method in ("MIWAE", "VAE"):
        is_miwae = method == "MIWAE"
        objective = {"objective": "iwae", "num_samples": arguments.num_samples} if is_miwae else {"objective": "elbo"}
        imputed, numbers["effective_sample_size"] = vae_imputation(table, objective, seed, arguments)
    elif method == "random forests":
        from sklearn.ensemble import RandomForestRegressor

        settings: dict[str, Any] = {"n_estimators": TREES, "max_features": "sqrt", "random_state": seed}
        forest = RandomForestRegressor(**settings)
        imputed = iterative_imputation(table, forest, seed, FOREST_ROUNDS)
    else:
        methods = {
            "mean": mean_imputation,
            "IterativeImputer": iterative_imputation,
            "conditional Gaussian": gaussian_imputation,
        }
        imputed = methods[method](table)
    return {"error": mean_squared_error(table, imputed), **numbers, "seconds": time.perf_counter() - began}


def tables(content: dict[str, Any]) -> str:
    """Returns the mean squared errors, and how much larger they are than those of MIWAE, as a table in Markdown."""
    names = list(content["tables"])
    lines = []
    for method in METHODS:
        by_table = [content["tables"][name][method] for name in names]
        errors = [with_error(one["error"], 3) for one in by_table]
        lines.append((method, *errors, *("" if method == "MIWAE" else with_error(one["minus_miwae"], 3) for one in by_table)))
    return markdown(("mean squared error", *names, *(f"{name}, minus MIWAE" for name in names)), lines)


def check(arguments: Arguments) -> None:
    """Raises `UserError` for arguments that are out of range."""
    for name in arguments.tables:
        if name not in TABLES:
            raise unknown("table", name, TABLES)
    if not 0 < arguments.share < 1:
        raise UserError(field="share", expected="a share above 0 and below 1", got=arguments.share)
    counts = ("latent_dim", "num_samples", "steps", "batch_size", "imputation_samples")
    expect_counts(1, **{name: getattr(arguments, name) for name in counts})
    expect_seeds(arguments.seeds)


def kept_results(path: Path, settings: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Returns the results of an interrupted call with the same settings, by table, seed and method."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text())
    return content["results"] if content["settings"] == settings else {}


def verdicts(content: dict[str, Any]) -> list[str]:
    """Returns the verdict on each row of results.json."""
    sentences = []
    for row in content["rows"]:
        distance, error = 1 - row["measured"], 2 * (row["standard_error"] or math.inf)
        outcome = "is better than" if distance > error else "is worse than" if distance < -error else "is as good as"
        sentences.append(f"Different setting: the paper hides other entries. Here MIWAE {outcome} random forests.")
    return sentences


def main() -> int:
    """Imputes, compares and writes the results."""
    arguments = parse(Arguments)
    check(arguments)
    settings = {name: value for name, value in dataclasses.asdict(arguments).items() if name != "out"}
    comparable = json.loads(json.dumps({name: v for name, v in settings.items() if name not in ("tables", "seeds")}))
    partial = arguments.out.with_suffix(".partial.json")
    results = kept_results(partial, comparable)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for name in arguments.tables:
            for method in METHODS:
                key = f"{name} {seed} {method}"
                if key not in results:
                    results[key] = measure(name, seed, method, arguments)
                    write_json(partial, {"settings": comparable, "results": results})
                    print(f"{key}: {results[key]['error']:.4f} ({results[key]['seconds']:.0f} s)", flush=True)
    content: dict[str, Any] = {"tables": {}}
    for name in arguments.tables:
        content["tables"][name] = {}
        for method in METHODS:
            numbers = [results[f"{name} {seed} {method}"] for seed in arguments.seeds]
            content["tables"][name][method] = {
                field: summarize([one[field] for one in numbers]) for field in numbers[0] if field != "seconds"
            }
            # Methods impute the same entries, so differences have smaller errors than the numbers themselves.
            miwae = [results[f"{name} {seed} MIWAE"]["error"] for seed in arguments.seeds]
            differences = [one["error"] - other for one, other in zip(numbers, miwae, strict=True)]
            content["tables"][name][method]["minus_miwae"] = summarize(differences)
    chosen = [results[f"{name} {seed} {method}"] for name in arguments.tables for seed in arguments.seeds for method in METHODS]
    seconds = sum(one["seconds"] for one in chosen)
    print(f"{tables(content)}\n\n{seconds:.0f} s")
    rows = []
    for name in arguments.tables:
        errors = {m: np.array([results[f"{name} {seed} {m}"]["error"] for seed in arguments.seeds]) for m in METHODS}
        ratio = summarize(errors["MIWAE"] / errors["random forests"])
        title = f"{name}: mean squared error of MIWAE over that of random forests"
        rows.append(Row(title, None, ratio["mean"], ratio["standard_error"], len(arguments.seeds)))
    write(arguments.out, settings, rows, content, seconds, verdicts)
    partial.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    run_script(main)
