"""Compares binary cross-entropy on gray pixels with the continuous Bernoulli, by training the same network with each.

Binary cross-entropy of gray pixels is not a log-likelihood, because it lacks the normalizing constant of the density
(Loaiza-Ganem & Cunningham 2019). Both networks are evaluated under the normalized density. The network trained with
cross-entropy is evaluated in two ways: its logits are taken as the parameter of the density, or the parameter is chosen so that
the mean is the sigmoid of the logits.
"""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.reproduction import Row, epoch_printer, expect_seeds, summarize, with_error, write
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown

if TYPE_CHECKING:
    import numpy as np

    from vae_jax.config import Config

FOLDER = Path(__file__).parent
TITLES = {
    "continuous_bernoulli": "trained with the continuous Bernoulli",
    "bce_as_parameter": "trained with BCE, its logits taken as the parameter",
    "bce_by_mean": "trained with BCE, the parameter that has its mean",
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train one network with binary cross-entropy and with the continuous Bernoulli, and evaluate both under the latter.

    Example: python experiments/reproductions/continuous_bernoulli/run.py --dataset mnist --data-dir ~/tensorflow_datasets
    """

    dataset: str = "mnist"
    """Gray images: a TFDS name, a file, or a folder with IDX files."""
    data_dir: str | None = None
    """Folder with prepared TFDS data."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of initialization, order and noise."""
    epochs: int = 20
    """Passes over the training set."""
    batch_size: int = 50
    """Examples in a step."""
    out: Path = FOLDER / "results.json"
    """JSON file to write."""


def tables(content: dict[str, Any]) -> str:
    """Returns the table of networks and readings in Markdown."""
    cells = [
        (TITLES[name], *(with_error(terms[term], 1) for term in ("elbo", "log_likelihood", "kl")))
        for name, terms in content["numbers"].items()
    ]
    prices = [
        f"{TITLES[name].removeprefix('trained with BCE, ')}, {with_error(price, 1)} nats"
        for name, price in content["price_of_bce"].items()
    ]
    table = markdown(("", "test ELBO", "log-likelihood", "KL"), cells)
    return f"{table}\n\nThe price of BCE, seed by seed: {'; '.join(prices)}."


def measure(config: "Config", arguments: Arguments) -> tuple[dict[str, dict[str, "np.ndarray"]], list[dict[str, Any]]]:
    """Trains the network with each loss, and evaluates it under each density.

    Returns:
      per_seed: ELBO, log-likelihood and KL of each reading, nats, (seeds,).
      reported: the test ELBOs that the training reports.
    """
    import jax
    import numpy as np

    from vae_jax import evaluation, likelihoods, sweep, training

    normalized = likelihoods.continuous_bernoulli()
    unnormalized = likelihoods.bernoulli()._replace(name="binary_cross_entropy", support="unit_interval")
    output_for_mean = normalized.output_for_mean
    assert output_for_mean is not None
    by_mean = normalized._replace(log_prob=lambda logits, x: normalized.log_prob(output_for_mean(jax.nn.sigmoid(logits)), x))
    plan = {
        "continuous_bernoulli": (None, {"continuous_bernoulli": normalized}),
        "bce": (unnormalized, {"bce_as_parameter": normalized, "bce_by_mean": by_mean}),
    }
    per_seed, reported = {}, []
    for name, (likelihood, readings) in plan.items():
        options: dict[str, Any] = {} if likelihood is None else {"likelihood": likelihood}
        members = sweep.grid(config, seed=arguments.seeds)
        result = sweep.sweep(members, data_dir=arguments.data_dir, on_progress=epoch_printer(name, arguments.epochs), **options)
        (_, built, fit) = result.fits[0]
        reported.append({"trained_with": name, "reports": result.table["test_elbo"].tolist()})
        for reading, density in readings.items():
            vae, data = built.vae._replace(likelihood=density), built.data

            @jax.jit
            def evaluate(params: Any, vae: Any = vae, data: Any = data) -> Any:
                key, jacobian = training.evaluation_key(config.test_seed), data.log_jacobian
                return jax.lax.map(
                    lambda one: evaluation.evaluate(key, vae, one, data.test, to_input=data.eval_input, log_jacobian=jacobian),
                    params,
                )

            terms = jax.device_get(evaluate(fit.params))
            log_likelihood, kl = (values.mean(axis=1, dtype=np.float64) for values in (terms.log_likelihood, terms.kl))
            per_seed[reading] = {"elbo": log_likelihood - kl, "log_likelihood": log_likelihood, "kl": kl}
    return per_seed, reported


def verdicts(content: dict[str, Any]) -> list[str]:
    """Returns the verdict on each row of results.json."""
    sentences = []
    for name in content["numbers"]:
        if name == "continuous_bernoulli":
            sentences.append("No published number: the table of the paper was not available.")
        else:
            price = with_error(content["price_of_bce"][name], 0)
            sentences.append(f"No published number. Cross-entropy costs {price} nats against the continuous Bernoulli.")
    return sentences


def main() -> int:
    """Trains, evaluates and writes the results."""
    arguments = parse(Arguments)
    expect_counts(1, epochs=arguments.epochs, batch_size=arguments.batch_size)
    expect_seeds(arguments.seeds)
    from vae_jax.config import Config
    from vae_jax.storage.cache import enable_compilation_cache

    enable_compilation_cache()
    config = Config(
        dataset=arguments.dataset,
        likelihood="continuous_bernoulli",
        dequantize=True,  # uniform noise of one level, as in the paper, so that the data have a density
        hidden=(500, 500),
        latent_dim=20,
        learning_rate=1e-3,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
    )
    began = time.perf_counter()
    per_seed, reported = measure(config, arguments)
    seconds = time.perf_counter() - began
    numbers = {name: {term: summarize(values) for term, values in terms.items()} for name, terms in per_seed.items()}
    rows = [
        Row(f"test ELBO, {TITLES[name]}", None, terms["elbo"]["mean"], terms["elbo"]["standard_error"], len(arguments.seeds))
        for name, terms in numbers.items()
    ]
    differences = {
        name: summarize(per_seed["continuous_bernoulli"]["elbo"] - per_seed[name]["elbo"])
        for name in ("bce_as_parameter", "bce_by_mean")
    }
    details = {
        "unit": "nats of the discrete data (densities of dequantized data and the log-Jacobian of a level)",
        "numbers": numbers,
        "price_of_bce": differences,
        "per_seed": {name: {term: values.tolist() for term, values in terms.items()} for name, terms in per_seed.items()},
        "what_training_reports": reported,
    }
    print(f"{tables(details)}\n\n{details['unit']}; ± is the standard error over the seeds")
    write(arguments.out, {**dataclasses.asdict(config), **dataclasses.asdict(arguments)}, rows, details, seconds, verdicts)
    return 0


if __name__ == "__main__":
    run_script(main)
