"""Compares VAEs for counts with the model that the counts were simulated from, and with SCVI of scvi-tools.

Cells are drawn from a negative-binomial factor model: z ~ N(0, I), a library size l with log l ~ N(m, s^2), the proportions
softmax(offset + loadings z) of the genes, and counts x_g ~ NB(mean l * proportion_g, total count r_g). The log-likelihood of a
held-out cell under this model bounds that of every other model on average: by log p(x) without knowledge of l, and by
log p(x | l) where l is known. A VAE with observed exposure knows the row's total instead of l, so it may come out ahead of
log p(x | l) by the information in the total, about half a nat.
"""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import gammaln

from vae_jax import data
from vae_jax._numerics.keys import Stream, stream
from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.reproduction import Number, Row, expect_seeds, judge, summarize, with_error, write
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.config import Config
from vae_jax.data import Dataset
from vae_jax.errors import UserError
from vae_jax.evaluation import importance_log_px, log_px_means
from vae_jax.likelihoods import negative_binomial_log_prob
from vae_jax.sweep import sweep

FOLDER = Path(__file__).parent
FACTORS, LOG_LIBRARY_MEAN, LOG_LIBRARY_STD = 5, math.log(5000), 0.4
LIKELIHOODS = ("poisson", "negative_binomial", "zero_inflated_negative_binomial")
EXPOSURES = ("none", "observed")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train VAEs on simulated counts, and compare log p(x) of held-out cells with that of the simulating model.

    Example: python experiments/reproductions/counts/run.py
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of initialization and noise. The cells are the same for all."""
    cells: int = 5000
    """Cells; the last fifth is the test set."""
    genes: int = 2000
    """Genes, the columns of the count matrix."""
    epochs: int = 300
    """Longest training; it ends after 20 epochs without a better validation ELBO."""
    num_samples: int = 1000
    """Importance samples of each test cell."""
    scvi: Path | None = None
    """JSON file of peer_scvi.py, to be put into the table."""
    save_counts: Path | None = None
    """File to which the counts are saved for peer_scvi.py, an .npy array of integers. Nothing is trained."""
    out: Path = FOLDER / "results.json"
    """JSON file to write."""


class Truth(NamedTuple):
    """Parameters of the model that the counts are drawn from."""

    loadings: np.ndarray  # (FACTORS, genes)
    offset: np.ndarray  # (genes,)
    log_total_count: np.ndarray  # (genes,): log r


def simulate(cells: int, genes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Truth]:
    """Returns the counts (cells, genes), the log library size of each cell, and the model."""
    rng = np.random.default_rng(seed)
    truth = Truth(rng.normal(0, 0.5, (FACTORS, genes)), rng.normal(0, 1.5, genes), rng.normal(math.log(2.0), 0.5, genes))
    z, log_library = rng.normal(size=(cells, FACTORS)), rng.normal(LOG_LIBRARY_MEAN, LOG_LIBRARY_STD, cells)
    weights = np.exp(truth.offset + z @ truth.loadings)
    rate = np.exp(log_library)[:, None] * weights / weights.sum(axis=1, keepdims=True)
    total_count = np.exp(truth.log_total_count)
    return rng.poisson(rng.gamma(total_count, rate / total_count)).astype(np.int32), log_library, truth


def true_log_px(truth: Truth, x: np.ndarray, log_library: np.ndarray | None, num_samples: int) -> tuple[np.ndarray, float]:
    """Estimates log p(x), or log p(x | l), of each cell under the simulating model, and the smallest relative sample size.

    The unknowns of a cell are z and, unless it is given, the standardized log l. A Gaussian is fitted to their posterior by
    Newton's method (Laplace). Importance samples come from a Student t of that shape with 10 degrees of freedom.
    """
    dim, freedom = FACTORS + (log_library is None), 10.0
    loadings, offset, log_r = (jnp.asarray(value, jnp.float32) for value in truth)

    def log_joint(unknown: Array, x: Array, log_l: Array) -> Array:
        log_l = LOG_LIBRARY_MEAN + LOG_LIBRARY_STD * unknown[FACTORS] if log_library is None else log_l
        log_mean = log_l + jax.nn.log_softmax(offset + unknown[:FACTORS] @ loadings)
        log_prior = -0.5 * jnp.sum(unknown**2) - 0.5 * dim * math.log(2 * math.pi)
        return negative_binomial_log_prob(log_mean, log_r, x) + log_prior

    def precision(target: Callable[[Array], Array], unknown: Array) -> tuple[Array, Array]:
        """Returns the absolute eigenvalues of the Hessian, at least 1 (the precision of the prior), and its eigenvectors."""
        eigenvalues, vectors = jnp.linalg.eigh(-jax.hessian(target)(unknown))
        return jnp.maximum(jnp.abs(eigenvalues), 1.0), vectors

    def estimate(inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        key, x, log_l = inputs

        def target(unknown: Array) -> Array:
            return log_joint(unknown, x, log_l)

        def newton(_: int, unknown: Array) -> Array:
            eigenvalues, vectors = precision(target, unknown)
            step = vectors @ ((vectors.T @ jax.grad(target)(unknown)) / eigenvalues)
            lengths = jnp.array([1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 0.001, 0.0])
            heights = jax.vmap(lambda length: target(unknown + length * step))(lengths)
            return unknown + lengths[jnp.argmax(jnp.nan_to_num(heights, nan=-jnp.inf))] * step

        start = jnp.zeros(dim)
        if log_library is None:
            start = start.at[FACTORS].set((jnp.log(jnp.sum(x)) - LOG_LIBRARY_MEAN) / LOG_LIBRARY_STD)
        mode = jax.lax.fori_loop(0, 20, newton, start)
        eigenvalues, vectors = precision(target, mode)
        root = vectors / jnp.sqrt(eigenvalues)  # of the covariance of the Gaussian
        key_normal, key_scale = jax.random.split(key)
        scale = jnp.sqrt(freedom / 2 / jax.random.gamma(key_scale, freedom / 2, (num_samples,)))
        draws = jax.random.normal(key_normal, (num_samples, dim)) * scale[:, None]
        log_q = gammaln((freedom + dim) / 2) - gammaln(freedom / 2) - dim / 2 * math.log(freedom * math.pi)
        log_q -= (freedom + dim) / 2 * jnp.log1p(jnp.sum(draws**2, axis=1) / freedom)
        log_q += 0.5 * jnp.sum(jnp.log(eigenvalues))
        log_w = jax.lax.map(target, mode + draws @ root.T) - log_q
        effective = 1 / jnp.sum(jax.nn.softmax(log_w) ** 2) / num_samples
        return jax.nn.logsumexp(log_w) - math.log(num_samples), effective

    keys = jax.random.split(stream(0, Stream.REPRODUCTION), len(x))
    known = jnp.zeros(len(x)) if log_library is None else jnp.asarray(log_library, jnp.float32)
    log_px, effective = jax.jit(lambda inputs: jax.lax.map(estimate, inputs))((keys, jnp.asarray(x, jnp.float32), known))
    return np.asarray(log_px, np.float64), float(effective.min())


def train(dataset: Dataset, likelihood: str, exposure: str, arguments: Arguments) -> dict[str, Any]:
    """Trains one model with every seed, and returns its scores on the test cells, in nats per cell."""
    dispersion = {} if likelihood == "poisson" else {"dispersion": "per_column"}
    common = Config(
        likelihood=likelihood,
        exposure=exposure,
        hidden=(128,),
        latent_dim=10,
        epochs=arguments.epochs,
        early_stopping=min(20, arguments.epochs),
        **dispersion,
    )
    result = sweep([dataclasses.replace(common, seed=seed) for seed in arguments.seeds], dataset=dataset)
    [(_, built, fit)] = result.fits
    key = stream(common.test_seed, Stream.EVALUATION)

    @jax.jit
    def estimate(params: Any) -> Any:
        options = {"num_samples": arguments.num_samples, "to_input": built.data.eval_input}
        return importance_log_px(key, built.vae, params, built.data.test, **options)

    scores: dict[str, list[float]] = {"log_px": [], "elbo": [], "epochs": [], "monte_carlo_error": []}
    for i in range(len(arguments.seeds)):
        params = jax.tree.map(lambda leaf, i=i: leaf[i], fit.params)
        log_px = log_px_means(estimate(params), arguments.num_samples)
        values = (log_px.log_px, fit.tests[i].elbo, len(fit.progress.histories[i]), log_px.monte_carlo_error)
        for name, value in zip(scores, values, strict=True):
            scores[name].append(float(value))
    return {name: summarize(values) for name, values in scores.items()}


def tables(content: dict[str, Any]) -> str:
    """Returns the comparison as tables in Markdown."""
    truth = content["truth"]
    lines: list[tuple[str, ...]] = [
        ("simulating model", "none", f"{truth['none']['mean']:.2f}", "", "0"),
        ("simulating model", "library size known", f"{truth['observed']['mean']:.2f}", "", "0"),
    ]
    for model in content["models"]:
        log_px, elbo = model["log_px"], model["elbo"]
        over = Number(mean=log_px["mean"] - truth[model["exposure"]]["mean"], standard_error=log_px["standard_error"])
        lines.append((model["name"], model["exposure"], with_error(log_px), with_error(elbo), with_error(over)))
    return markdown(("model", "exposure", "test log p(x)", "test ELBO", "over the simulating model"), lines)


def verdicts(content: dict[str, Any]) -> list[str]:
    """Returns the verdict on each row of results.json."""
    exact = content["truth"]["observed"]["mean"]
    peers = [model["log_px"]["mean"] for model in content["models"] if model["name"].startswith("SCVI")]
    learned = f"a model learned from {0.72 * content['settings']['cells']:,.0f} cells stays below the one that simulated them"
    peer = f" (SCVI, exposure observed: by {exact - max(peers):.1f})" if peers else ""
    return [judge(row, better="higher", because=learned + peer) for row in content["rows"]]


def main() -> int:
    """Simulates, trains, compares and writes the results."""
    arguments = parse(Arguments)
    expect_counts(1, **{name: getattr(arguments, name) for name in ("epochs", "num_samples")})
    expect_counts(10, **{name: getattr(arguments, name) for name in ("cells", "genes")})
    expect_seeds(arguments.seeds)
    began, peers = time.perf_counter(), []
    if arguments.scvi:
        try:
            peers = json.loads(arguments.scvi.read_text())["models"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{arguments.scvi}: expected the JSON file of peer_scvi.py. {error}", field="scvi") from None
    x, log_library, truth = simulate(arguments.cells, arguments.genes)
    num_train = arguments.cells - arguments.cells // 5
    if arguments.save_counts:
        np.save(arguments.save_counts, x)
        print(f"written: {arguments.save_counts}; the last {len(x) - num_train} rows are the test set")
        return 0
    exact = {}
    for exposure, known in (("none", None), ("observed", log_library[num_train:])):
        log_px, effective = true_log_px(truth, x[num_train:], known, min(arguments.num_samples, 500))
        error = float(np.std(log_px, ddof=1)) / math.sqrt(len(log_px))
        exact[exposure] = {"mean": float(log_px.mean()), "standard_error": error, "smallest_relative_sample_size": effective}
        print(
            f"simulating model, exposure {exposure}: {log_px.mean():.2f} nats, relative sample size {effective:.2f}", flush=True
        )
    dataset = data.from_arrays(x[:num_train], x[num_train:], name="simulated counts", validation_fraction=0.1)
    models = []
    for likelihood in LIKELIHOODS:
        for exposure in EXPOSURES:
            scores = train(dataset, likelihood, exposure, arguments)
            models.append({"name": f"VAE, {likelihood}", "exposure": exposure, **scores})
            print(f"{likelihood}, exposure {exposure}: log p(x) {with_error(scores['log_px'])}", flush=True)
    seconds = time.perf_counter() - began
    content = {"truth": exact, "models": [*models, *peers], "nonzero": float(np.mean(x > 0)), "largest": int(x.max())}
    print(f"{tables(content)}\n\n{seconds:.0f} s")
    rows = [
        Row(
            f"{model['name']}, exposure {model['exposure']}: log p(x) of a held-out cell",
            exact[model["exposure"]]["mean"],
            model["log_px"]["mean"],
            model["log_px"]["standard_error"],
            len(arguments.seeds),
        )
        for model in models
        if model["name"] == "VAE, negative_binomial"
    ]
    settings = {**dataclasses.asdict(arguments), "factors": FACTORS}
    for name in ("scvi", "save_counts"):
        settings.pop(name)
    write(arguments.out, settings, rows, content, seconds, verdicts)
    return 0


if __name__ == "__main__":
    run_script(main)
