"""Compares VAEs on two real tables with Gaussians and factor analysis, whose log-likelihoods are exact.

A linear VAE with one scale for each column has the likelihood of factor analysis at its optimum: a linear encoder with a
diagonal covariance is exact there, up to a rotation of the codes (Lucas et al. 2019 for probabilistic PCA).
"""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax import data
from vae_jax._numerics.keys import Stream, stream
from vae_jax.build import Built
from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.reproduction import Row, expect_seeds, summarize, with_error, write
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.config import Config
from vae_jax.data import Dataset
from vae_jax.evaluation import importance_log_px, log_px_means
from vae_jax.model import Params
from vae_jax.sweep import sweep

FOLDER = Path(__file__).parent
TABLES = ("breast_cancer", "wine")
EXACT = ("diagonal Gaussian", "full-covariance Gaussian", "factor analysis")
MODELS: dict[str, dict[str, Any]] = {
    "linear VAE, gaussian": {"likelihood": "gaussian", "hidden": ()},
    "VAE, gaussian": {"likelihood": "gaussian"},
    "VAE, student_t": {"likelihood": "student_t"},
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train VAEs on scikit-learn's breast cancer and wine tables, and compare log p(x) with exact models.

    Example: python experiments/reproductions/tables/run.py
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the split into training and test set, of the initialization and of the noise."""
    latent_dim: int = 5
    """Latent dimensions, and rank of the factor analysis."""
    hidden: int = 64
    """Width of the hidden layer of the networks that are not linear."""
    epochs: int = 2000
    """Longest training; it ends after 100 epochs without a better validation ELBO."""
    num_samples: int = 1000
    """Importance samples of each test example."""
    out: Path = FOLDER / "results.json"
    """JSON file to write."""


def load_table(name: str, seed: int) -> Dataset:
    """Returns one of the tables, with a fifth of its rows as the test set and a tenth of the others as the validation set."""
    from sklearn import datasets

    x = getattr(datasets, f"load_{name}")().data
    return data.from_arrays(x.astype(np.float32), name=name, validation_fraction=0.1, split_seed=seed)


def exact_log_likelihoods(dataset: Dataset, rank: int) -> dict[str, float]:
    """Returns the test means of log p(x), in nats, of the exact models with maximum likelihood on training and validation set.

    They need no validation set, so it belongs to their training set.
    """
    from scipy import stats
    from sklearn.decomposition import FactorAnalysis

    assert isinstance(dataset.test, np.ndarray)
    assert isinstance(dataset.validation, np.ndarray)
    train = np.concatenate([dataset.train[:], dataset.validation]).astype(np.float64)
    mean, std = train.mean(axis=0), train.std(axis=0)
    train, test = (train - mean) / std, (dataset.test.astype(np.float64) - mean) / std
    log_jacobian = -float(np.log(std).sum())  # back to the scale of the data
    covariance = np.cov(train.T, bias=True)
    full = stats.multivariate_normal.logpdf(test, np.zeros(len(mean)), covariance)  # pyright: ignore[reportArgumentType]
    factors = FactorAnalysis(rank, tol=1e-4, max_iter=100_000).fit(train)
    scores = (stats.norm.logpdf(test).sum(axis=1).mean(), np.mean(full), factors.score(test))
    return {name: float(score) + log_jacobian for name, score in zip(EXACT, scores, strict=True)}


def vae_log_likelihoods(dataset: Dataset, seed: int, arguments: Arguments) -> dict[str, dict[str, float]]:
    """Trains the models on one split, and returns the test means of their ELBO and log p(x), in nats."""
    common = Config(
        scale="per_column",
        hidden=(arguments.hidden,),
        latent_dim=arguments.latent_dim,
        epochs=arguments.epochs,
        early_stopping=min(100, arguments.epochs),
        batch_size=32,
        learning_rate=3e-3,
        seed=seed,
    )
    scores = {}
    for name, settings in MODELS.items():
        result = sweep([dataclasses.replace(common, **settings)], dataset=dataset)
        [(_, built, fit)] = result.fits
        params = jax.tree.map(lambda leaf: leaf[0], fit.params)
        estimates = log_px_estimator(built, arguments.num_samples)(params)
        log_px = log_px_means(estimates, arguments.num_samples)
        scores[name] = {
            "log_px": log_px.log_px,
            "elbo": float(fit.tests[0].elbo),
            "epochs": len(fit.progress.histories[0]),
            "monte_carlo_error": log_px.monte_carlo_error,
        }
    return scores


def log_px_estimator(built: Built, num_samples: int) -> Callable[[Params], Any]:
    """Returns the function from parameters to estimates of log p(x) of every test example."""

    def estimate(params: Params) -> Any:
        key = stream(built.config.test_seed, Stream.EVALUATION)
        options = {"num_samples": num_samples, "to_input": built.data.eval_input}
        return importance_log_px(key, built.vae, params, built.data.test, **options)

    return jax.jit(estimate)


def measure(name: str, arguments: Arguments) -> dict[str, Any]:
    """Returns the scores of all models on one table, by model, and their distances from the exact models, over the splits."""
    exact: dict[str, list[float]] = {model: [] for model in EXACT}
    trained: dict[str, dict[str, list[float]]] = {}
    for seed in arguments.seeds:
        dataset = load_table(name, seed)
        for model, score in exact_log_likelihoods(dataset, arguments.latent_dim).items():
            exact[model].append(score)
        for model, numbers in vae_log_likelihoods(dataset, seed, arguments).items():
            for number, value in numbers.items():
                trained.setdefault(model, {}).setdefault(number, []).append(value)
        print(f"{name}: split {seed} of {list(arguments.seeds)} done", flush=True)
    models: dict[str, dict[str, Any]] = {model: {"log_px": summarize(scores)} for model, scores in exact.items()}
    for model, numbers in trained.items():
        models[model] = {number: summarize(values) for number, values in numbers.items()}
        differences = {other: np.subtract(numbers["log_px"], scores) for other, scores in exact.items()}
        models[model]["difference"] = {other: summarize(values) for other, values in differences.items()}
        models[model]["wins"] = {other: int(np.sum(values > 0)) for other, values in differences.items()}
    return models


def tables(content: dict[str, Any]) -> str:
    """Returns the comparison as tables in Markdown."""
    parts = []
    for name, models in content["tables"].items():
        lines = []
        for model, numbers in models.items():
            log_px = with_error(numbers["log_px"])
            if "elbo" not in numbers:
                lines.append((model, log_px, "", *[""] * len(EXACT)))
                continue
            differences = [with_error(numbers["difference"][other]) for other in EXACT]
            lines.append((model, log_px, with_error(numbers["elbo"]), *differences))
        header = (name, "log p(x)", "ELBO", "over diagonal", "over full covariance", "over factor analysis")
        parts.append(markdown(header, lines))
    return "\n\n".join(parts)


def verdicts(content: dict[str, Any]) -> list[str]:
    """Returns the verdict on each row of results.json."""
    sentences = []
    for models in content["tables"].values():
        for model in ("VAE, gaussian", "VAE, student_t"):
            differences = models[model]["difference"]
            full, factors = (with_error(differences[name], 1) for name in ("full-covariance Gaussian", "factor analysis"))
            sentences.append(f"No published number. {full} over a full-covariance Gaussian, {factors} over factor analysis.")
    return sentences


def main() -> int:
    """Trains, compares and writes the results."""
    arguments = parse(Arguments)
    expect_counts(1, **{name: getattr(arguments, name) for name in ("latent_dim", "hidden", "epochs", "num_samples")})
    expect_seeds(arguments.seeds)
    began = time.perf_counter()
    content = {"tables": {name: measure(name, arguments) for name in TABLES}}
    seconds = time.perf_counter() - began
    print(f"{tables(content)}\n\n{seconds:.0f} s")
    rows = []
    for name, models in content["tables"].items():
        for model in ("VAE, gaussian", "VAE, student_t"):
            number = models[model]["difference"]["diagonal Gaussian"]
            title = f"{name}: {model}, test log p(x) over that of the diagonal Gaussian"
            rows.append(Row(title, None, number["mean"], number["standard_error"], len(arguments.seeds)))
    write(arguments.out, dataclasses.asdict(arguments), rows, content, seconds, verdicts)
    return 0


if __name__ == "__main__":
    run_script(main)
