"""The price of binary cross-entropy on grey pixels: the same network trained with it and with the continuous Bernoulli.

Binary cross-entropy of grey pixels is no log-likelihood: it lacks the density's normaliser (Loaiza-Ganem & Cunningham 2019).
Both networks are evaluated under the normalised density; that of the one trained with cross-entropy in two readings: its logits
taken as the density's parameter, and the parameter whose mean is the sigmoid of its logits.
"""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import time
from pathlib import Path
from typing import Any

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.reproduction import Row, epoch_printer, expect_seeds, summarize, with_error, write
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown

FOLDER = Path(__file__).parent
WORDS = {
    "continuous_bernoulli": "trained with the continuous Bernoulli",
    "bce_as_parameter": "trained with BCE, its logits taken as the parameter",
    "bce_by_mean": "trained with BCE, the parameter that has its mean",
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Trains one network with binary cross-entropy and with the continuous Bernoulli, and evaluates both under the latter.

    Example: python experiments/reproductions/continuous_bernoulli/run.py --dataset mnist --data-dir ~/tensorflow_datasets
    """

    dataset: str = "mnist"
    """Grey images: a TFDS name, a file, or a folder with IDX files."""
    data_dir: str | None = None
    """Where TFDS finds prepared data."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of initialisation, order and noise."""
    epochs: int = 20
    """Passes over the training set."""
    batch_size: int = 50
    """Examples in a step."""
    out: Path = FOLDER / "results.json"
    """JSON file to write."""


def tables(content: dict[str, Any]) -> str:
    """The networks and readings as Markdown."""
    cells = [
        (WORDS[name], *(with_error(terms[term], 1) for term in ("elbo", "log_likelihood", "kl")))
        for name, terms in content["numbers"].items()
    ]
    prices = [
        f"{WORDS[name].removeprefix('trained with BCE, ')}, {with_error(price, 1)} nats"
        for name, price in content["price_of_bce"].items()
    ]
    table = markdown(("", "test ELBO", "log-likelihood", "KL"), cells)
    return f"{table}\n\nThe price of BCE, seed by seed: {'; '.join(prices)}."


def main() -> int:
    """Trains, evaluates, writes."""
    arguments = parse(Arguments)
    expect_counts(1, epochs=arguments.epochs, batch_size=arguments.batch_size)
    expect_seeds(arguments.seeds)
    import jax
    import numpy as np

    from vae_jax import evaluation, likelihoods, sweep, training
    from vae_jax.config import Config
    from vae_jax.storage.cache import enable_compilation_cache

    enable_compilation_cache()
    config = Config(
        dataset=arguments.dataset,
        likelihood="continuous_bernoulli",
        dequantize=True,  # uniform noise of one level, as in the paper, so that the data have a density at all
        hidden=(500, 500),
        latent_dim=20,
        learning_rate=1e-3,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
    )
    normalised = likelihoods.continuous_bernoulli()
    unnormalised = likelihoods.bernoulli()._replace(name="binary_cross_entropy", support="unit_interval")
    of_mean = normalised.output_for_mean
    assert of_mean is not None
    by_mean = normalised._replace(log_prob=lambda logits, x: normalised.log_prob(of_mean(jax.nn.sigmoid(logits)), x))
    plan = {
        "continuous_bernoulli": (None, {"continuous_bernoulli": normalised}),
        "bce": (unnormalised, {"bce_as_parameter": normalised, "bce_by_mean": by_mean}),
    }
    began, found, reported = time.perf_counter(), {}, []
    for name, (likelihood, readings) in plan.items():
        own: dict[str, Any] = {} if likelihood is None else {"likelihood": likelihood}
        members = sweep.grid(config, seed=arguments.seeds)
        result = sweep.sweep(members, data_dir=arguments.data_dir, on_epoch=epoch_printer(name, arguments.epochs), **own)
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

            of_members = jax.device_get(evaluate(fit.params))
            terms = {"log_likelihood": of_members.log_likelihood, "kl": of_members.kl}
            per_seed = {term: values.mean(axis=1, dtype=np.float64) for term, values in terms.items()}
            found[reading] = {"elbo": per_seed["log_likelihood"] - per_seed["kl"], **per_seed}
    seconds = time.perf_counter() - began
    numbers = {name: {term: summarize(values) for term, values in terms.items()} for name, terms in found.items()}
    rows = [
        Row(f"test ELBO, {WORDS[name]}", None, terms["elbo"]["mean"], terms["elbo"]["standard_error"], len(arguments.seeds))
        for name, terms in numbers.items()
    ]
    differences = {}
    for name in ("bce_as_parameter", "bce_by_mean"):
        differences[name] = summarize(found["continuous_bernoulli"]["elbo"] - found[name]["elbo"])
    details = {
        "unit": "nats of the discrete data (densities of dequantised data and the log-Jacobian of a level)",
        "numbers": numbers,
        "price_of_bce": differences,
        "per_seed": {name: {term: values.tolist() for term, values in terms.items()} for name, terms in found.items()},
        "what_training_reports": reported,
    }
    print(f"{tables(details)}\n\n{details['unit']}; ± is the standard error over the seeds")
    write(arguments.out, {**dataclasses.asdict(config), **dataclasses.asdict(arguments)}, rows, details, seconds)
    return 0


if __name__ == "__main__":
    run_script(main)
