"""Compares training with conditions and with missing entries with training without both."""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from workload import BATCH, HIDDEN, LATENT

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.results_file import write_results
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown

NUM_CLASSES = 10
# Settings of each way, and whether it has labels as a condition and half of the entries missing.
WAYS: dict[str, tuple[dict[str, Any], bool, bool]] = {
    "plain": ({}, False, False),
    "conditional": ({}, True, False),
    "conditional, p(z|c)": ({"prior": "conditional"}, True, False),
    "masked": ({}, False, True),
    "masked, mask as input": ({"mask_input": True}, False, True),
    "conditional and masked": ({}, True, True),
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Benchmark conditional and masked training against plain training; prints a table and writes JSON.

    Example: python experiments/benchmarks/conditions.py --ways plain masked --epochs 15
    """

    examples: int = 12_800
    """Images of noise, 28 x 28 bytes."""
    likelihood: str = "bernoulli"
    """Likelihood. bernoulli binarizes the images anew at every step, any other takes them as they are."""
    ways: tuple[str, ...] = tuple(WAYS)
    """Ways to train."""
    epochs: int = 10
    """Epochs of each, in turns, after one whose caches are cold."""
    seed: int = 0
    """Seed of the data and of the training."""
    out: Path | None = None
    """JSON file to write."""


def make_epoch(arguments: Arguments, way: str) -> Callable[[int], None]:
    """Returns the function that trains one epoch, compiled, with its first epoch behind it."""
    import jax

    from vae_jax import data, training
    from vae_jax.build import build
    from vae_jax.config import Config
    from vae_jax.training.epoch import make_epoch

    settings, has_condition, has_mask = WAYS[way]
    rng = np.random.default_rng(arguments.seed)
    count = arguments.examples + 1
    x = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    dataset = data.from_arrays(
        x[1:],
        x[:1],
        condition=rng.integers(0, NUM_CLASSES, count)[1:] if has_condition else None,
        test_condition=np.zeros(1, int) if has_condition else None,
        mask=rng.random(x[1:].shape) < 0.5 if has_mask else None,
    )
    config = Config(
        likelihood=arguments.likelihood,
        hidden=(HIDDEN,),
        latent_dim=LATENT,
        batch_size=BATCH,
        output_bias="zeros",
        seed=arguments.seed,
        **settings,
    )
    built = build(config, dataset=dataset)
    options = {"optimizer": built.optimizer, "objective": built.objective}
    step = training.make_train_step(built.vae, train_input=built.data.train_input, **options)
    keys = training.run_keys(arguments.seed)
    state = [training.init_state(built.vae, built.optimizer, keys.init, built.objective)]
    run_epoch = jax.jit(make_epoch(step, BATCH), donate_argnums=0)
    hyperparams = jax.tree.map(np.float32, built.fit_arguments["hyperparams"])

    def train(number: int) -> None:
        state[0], *metrics = run_epoch(state[0], keys, np.int32(number), built.data.train, hyperparams)
        jax.block_until_ready((state[0], metrics))

    train(0)
    return train


def measure(arguments: Arguments) -> dict[str, dict[str, list[float]]]:
    """Returns examples per second and per CPU second of every epoch, by way. All ways take turns in this process."""
    epochs = {}
    for way in arguments.ways:
        epochs[way] = make_epoch(arguments, way)
        print(f"{way}: compiled", flush=True)
    used = arguments.examples // BATCH * BATCH
    measured: dict[str, dict[str, list[float]]] = {way: {"rates": [], "cpu_rates": []} for way in epochs}
    for number in range(1, arguments.epochs + 1):
        for way, train in epochs.items():
            began, cpu_began = time.perf_counter(), time.process_time()
            train(number)
            measured[way]["cpu_rates"].append(used / (time.process_time() - cpu_began))
            measured[way]["rates"].append(used / (time.perf_counter() - began))
        speeds = "  ".join(f"{way} {one['rates'][-1]:,.0f}/s" for way, one in measured.items())
        print(f"epoch {number}/{arguments.epochs}  {speeds}", flush=True)
    return measured


def result_rows(measured: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """Returns the results, with ratios to the first way: medians over the turns, and of the fastest epochs."""
    first = next(iter(measured.values()))

    def ratio(one: dict[str, list[float]], name: str) -> float:
        return statistics.median(a / b for a, b in zip(one[name], first[name], strict=True))

    return [
        {
            "way": way,
            "examples_per_second": statistics.median(one["rates"]),
            "best_examples_per_second": max(one["rates"]),
            "ratio": ratio(one, "rates"),
            "cpu_ratio": ratio(one, "cpu_rates"),
            "best_ratio": max(one["rates"]) / max(first["rates"]),
        }
        for way, one in measured.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the table of results in Markdown."""
    cells = [
        (
            row["way"],
            f"{row['examples_per_second']:,.0f}",
            f"{row['ratio']:.3f}",
            f"{row['cpu_ratio']:.3f}",
            f"{row['best_examples_per_second']:,.0f}",
            f"{row['best_ratio']:.3f}",
        )
        for row in rows
    ]
    reference = rows[0]["way"]
    return markdown(("", "examples/s", f"of {reference}", "per CPU second", "best epoch", "of the best"), cells)


def main() -> int:
    """Trains in all ways in turns, and prints the table."""
    arguments = parse(Arguments)
    expect_counts(1, examples=arguments.examples // BATCH, epochs=arguments.epochs)
    unknown = set(arguments.ways) - set(WAYS)
    if unknown:
        from vae_jax.errors import UserError

        raise UserError(field="ways", expected=f"names among {', '.join(WAYS)}", got=", ".join(sorted(unknown)))
    measured = measure(arguments)
    rows = result_rows(measured)
    print(f"\n{table(rows)}")
    if arguments.out is not None:
        content = {"rows": rows, "measured": measured, "settings": dataclasses.asdict(arguments) | {"out": None}}
        write_results(arguments.out, content, ("jax", "jaxlib", "numpy"))
    return 0


if __name__ == "__main__":
    run_script(main)
