"""Compares successive halving with random search at equal training cost, by the best validation ELBO.

Both draw beta and the learning rate from the same ranges. Random search trains a fixed number of points to their end. Halving
draws points from the same sequence until it has spent as many member-epochs. A repetition is a seed of this sequence.
"""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.reproduction import PACKAGES, Number, expect_seeds, summarize, with_error
from vae_jax.cli.results_file import write_results
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown

if TYPE_CHECKING:
    from vae_jax.config import Config
    from vae_jax.data import Dataset
    from vae_jax.training.progress import MembersProgress
    from vae_jax.training.queue import QueueProgress

RANGES = {"beta": (0.1, 10.0), "learning_rate": (1e-4, 1e-1)}  # both on a logarithmic scale
Trace = list[tuple[int, float]]  # (member-epochs so far, best validation ELBO so far)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Benchmark successive halving against random search; continues from the file that an earlier call has written.

    Example: python experiments/benchmarks/halving.py --seeds 0 1 --out halving.json
    """

    dataset: str = "digits"
    """Data set: a bundled name, or a path."""
    examples: int | None = None
    """Training and validation examples to use, the first ones; a sixth as many for the test. By default all."""
    hidden: int = 128
    """Width of the hidden layer."""
    latent_dim: int = 10
    """Latent dimensions."""
    num_points: int = 27
    """Points of random search."""
    epochs: int = 45
    """Epochs of a whole run."""
    min_epochs: int = 5
    """Epochs of the first rung."""
    eta: int = 3
    """One of eta members continues at each rung."""
    num_concurrent: int = 9
    """Members that halving trains at the same time."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the points, one for each repetition."""
    out: Path | None = None
    """JSON file to write after every repetition, and to continue from."""


class Summary(TypedDict):
    """Results over all repetitions."""

    member_epochs: int  # of each search
    random_best_validation_elbo: Number
    halving_best_validation_elbo: Number
    difference: Number  # halving minus random search with the same points
    share_of_cost: list[float | None]  # at which halving reaches the best value of random search with the same points, or never
    median_share_of_cost: float | None
    share_of_cost_with_other_points: list[float | None]  # the same against random search of the other repetitions
    median_share_with_other_points: float | None
    points_tried: list[int]  # by halving


class Repetition(NamedTuple):
    """Both searches with the points of one seed."""

    seed: int
    random: Trace
    halving: Trace
    num_tried: int  # points that halving has begun
    seconds: tuple[float, float]  # of random search and of halving


def best_of(epochs: "Sequence[Sequence[tuple[int, float]]]") -> Trace:
    """Returns the trace of a search, from the validation ELBOs of the members by the epoch of the program."""
    trace: Trace = []
    for made in epochs:
        cost, best = trace[-1] if trace else (0, -np.inf)
        trace.append((cost + len(made), max(best, *(elbo for _, elbo in made))))
    return trace


def repetition(arguments: Arguments, seed: int, base: "Config", dataset: "Dataset | None") -> Repetition:
    """Runs both searches with the points of one seed."""
    from vae_jax.sweep import Halving, Range, design, halving, sweep

    ranges = {name: Range(*bounds, log=True) for name, bounds in RANGES.items()}
    budget = arguments.num_points * arguments.epochs
    epochs: list[list[tuple[int, float]]] = []
    counts = [0]

    def record(progress: "MembersProgress | QueueProgress") -> bool:
        lengths = list(map(len, progress.histories))
        counts.append(sum(lengths))
        before = seen.copy()
        seen[: len(lengths)] = lengths
        made = [
            (number, history[-1].validation.elbo)
            for number, history in enumerate(progress.histories)
            if len(history) > before[number] and history[-1].validation
        ]
        epochs.append([(number, elbo if np.isfinite(elbo) else -np.inf) for number, elbo in made])
        return counts[-1] >= budget

    began = time.perf_counter()
    seen = np.zeros(100_000, int)
    sweep(
        design(base, ranges, arguments.num_points, "random", seed),
        on_progress=lambda group, progress: record(progress),
        dataset=dataset,
    )
    random, seconds = best_of(epochs), time.perf_counter() - began
    began = time.perf_counter()
    seen, epochs = np.zeros(100_000, int), []
    # More points than the budget can begin to train.
    members = design(base, ranges, budget // arguments.min_epochs, "random", seed)
    settings = Halving(arguments.eta, arguments.min_epochs, num_concurrent=arguments.num_concurrent)
    halving(members, settings, on_progress=record, dataset=dataset)
    trace = [(cost, best) for cost, best in best_of(epochs) if cost <= budget]
    return Repetition(seed, random, trace, int(np.sum(seen > 0)), (seconds, time.perf_counter() - began))


def share_to_reach(target: float, trace: Trace, budget: int) -> float:
    """Returns the share of the budget at which a trace reaches a value; infinity if it never does."""
    return next((cost / budget for cost, best in trace if best >= target), float("inf"))


def summary(arguments: Arguments, repetitions: Sequence[Repetition]) -> Summary:
    """Returns the best ELBOs with their standard errors, and the shares of the cost at which halving reaches random search."""
    budget = arguments.num_points * arguments.epochs
    paired = [share_to_reach(one.random[-1][1], one.halving, budget) for one in repetitions]
    unpaired = [
        share_to_reach(one.random[-1][1], other.halving, budget)
        for one in repetitions
        for other in repetitions
        if one.seed != other.seed
    ]

    def finite(shares: Sequence[float]) -> list[float | None]:
        return [share if np.isfinite(share) else None for share in shares]

    differences = [one.halving[-1][1] - one.random[-1][1] for one in repetitions]
    return {
        "member_epochs": budget,
        "random_best_validation_elbo": summarize([one.random[-1][1] for one in repetitions]),
        "halving_best_validation_elbo": summarize([one.halving[-1][1] for one in repetitions]),
        "difference": summarize(differences),
        "share_of_cost": finite(paired),
        "median_share_of_cost": finite([statistics.median(paired)])[0],
        "share_of_cost_with_other_points": finite(unpaired),
        "median_share_with_other_points": finite([statistics.median(unpaired)])[0] if unpaired else None,
        "points_tried": [one.num_tried for one in repetitions],
    }


def improvements(trace: Trace) -> Trace:
    """Returns the entries at which the best value improved, and the last one."""
    return [entry for i, entry in enumerate(trace) if i in (0, len(trace) - 1) or entry[1] > trace[i - 1][1]]


def load_data(arguments: Arguments) -> "Dataset | None":
    """Returns the first examples of the data set, or None to use all of it."""
    if arguments.examples is None:
        return None
    from vae_jax import data

    everything = data.load(arguments.dataset)
    return data.from_arrays(
        np.asarray(everything.train[: arguments.examples]),
        np.asarray(everything.test[: arguments.examples // 6]),
        validation_fraction=0.1,
    )


def work(arguments: Arguments) -> int:
    """Runs the repetitions that the file does not have, and prints the table."""
    from vae_jax.config import CUSTOM, Config
    from vae_jax.storage.atomic import read_json

    expect_counts(
        1, num_points=arguments.num_points, epochs=arguments.epochs, min_epochs=arguments.min_epochs, eta=arguments.eta
    )
    expect_seeds(arguments.seeds)
    settings = {name: value for name, value in dataclasses.asdict(arguments).items() if name not in ("out", "seeds")}
    settings |= {"dataset": Path(arguments.dataset).name}
    done: dict[int, Repetition] = {}
    if arguments.out is not None and arguments.out.exists():
        recorded = read_json(arguments.out, "settings", "repetitions")
        if recorded["settings"] == json.loads(json.dumps(settings)):
            done = {one["seed"]: Repetition(**one) for one in recorded["repetitions"]}
    dataset = load_data(arguments)
    base = Config(
        dataset=arguments.dataset if dataset is None else CUSTOM,
        hidden=(arguments.hidden,),
        latent_dim=arguments.latent_dim,
        epochs=arguments.epochs,
        validation_fraction=0.1 if dataset is None else 0.0,
        binarize="dynamic",
    )
    for seed in arguments.seeds:
        if seed not in done:
            one = repetition(arguments, seed, base, dataset)
            done[seed] = one._replace(random=improvements(one.random), halving=improvements(one.halving))
        if arguments.out is not None:
            result = summary(arguments, [done[one] for one in arguments.seeds if one in done])
            repetitions = [one._asdict() for one in done.values()]
            write_results(arguments.out, {"settings": settings, "summary": result, "repetitions": repetitions}, PACKAGES)
        print(f"seed {seed}: random {done[seed].random[-1][1]:.3f}, halving {done[seed].halving[-1][1]:.3f}", flush=True)
    result = summary(arguments, [done[one] for one in arguments.seeds])
    shares = [result["median_share_of_cost"], result["median_share_with_other_points"]]
    cells = ["never" if share is None else f"{share:.2f}" for share in shares]
    rows = [
        ("random search", with_error(result["random_best_validation_elbo"], 3), "1", "1"),
        ("successive halving", with_error(result["halving_best_validation_elbo"], 3), *cells),
    ]
    header = ("search", "best validation ELBO, nats", "share of the cost, same points", "share of the cost, other points")
    print(markdown(header, rows))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark and returns the exit status."""
    return work(parse(Arguments, argv))


if __name__ == "__main__":
    run_script(main)
