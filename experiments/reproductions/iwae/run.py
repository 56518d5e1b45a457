"""Reproduces Tables 1 and 3 of Burda et al. (2016) on MNIST.

VAE, IWAE, STL and DReG are trained with one or two stochastic layers, and their NLL is estimated with 5,000 samples.
"""

if __name__ == "__main__":
    import environment

    environment.expect_packages()

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any, Literal

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.reproduction import Row, expect_seeds, judge, summarize, train_sweep, with_error, write
from vae_jax.cli.script import run_script
from vae_jax.cli.tables import markdown
from vae_jax.errors import UserError

FOLDER = Path(__file__).parent
KINDS: dict[str, dict[str, Any]] = {
    "vae": {"objective": "elbo"},
    "iwae": {"objective": "iwae"},
    "stl": {"objective": "iwae", "estimator": "stl"},
    "dreg": {"objective": "iwae", "estimator": "dreg"},
}
# NLL by binarization and number of stochastic layers. "dynamic" is Table 1. "fixed" is Table 3, with the 50,000 training
# images of Larochelle's fixed binarization.
PUBLISHED: dict[tuple[str, int], dict[str, float]] = {
    ("dynamic", 1): {"vae:1": 86.76, "vae:5": 86.47, "vae:50": 86.35, "iwae:1": 86.76, "iwae:5": 85.54, "iwae:50": 84.78},
    ("dynamic", 2): {"vae:1": 85.33, "vae:5": 85.01, "vae:50": 84.78, "iwae:1": 85.33, "iwae:5": 83.89, "iwae:50": 82.90},
    ("fixed", 1): {"vae:1": 88.71, "vae:5": 88.83, "vae:50": 89.05, "iwae:1": 88.71, "iwae:5": 87.63, "iwae:50": 87.10},
    ("fixed", 2): {"vae:1": 88.08, "vae:5": 87.63, "vae:50": 87.86, "iwae:1": 88.08, "iwae:5": 86.17, "iwae:50": 85.32},
}
LAYERS: dict[int, dict[str, Any]] = {
    1: {"latent_dim": 50},
    2: {"latent_dim": 100, "prior": "hierarchical", "prior_latent_dim": 50, "prior_hidden": (100, 100)},
}
MARGIN = 0.1  # nats
SCHEDULES: dict[str, dict[str, Any]] = {
    "full": {"batch_size": 20, "epochs": 3280, "learning_rate": 1e-3, "learning_rate_schedule": "burda"},
    "short": {"batch_size": 100, "epochs": 600, "learning_rate": 2e-3, "learning_rate_schedule": "cosine"},
}
SHORT_EPOCHS_SEVERAL_SAMPLES = (
    300  # of the short schedule with k > 1, because a pass with k = 5 takes almost four times as long
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train every entry with every seed as one resumable sweep, and estimate the NLL of each.

    Example: python experiments/reproductions/iwae/run.py --dataset mnist --data-dir ~/tensorflow_datasets --schedule short
    """

    dataset: str = "mnist"
    """MNIST: a TFDS name, or a folder with its IDX files; with `binarize="fixed"` also a file of images that are 0 and 1."""
    data_dir: str | None = None
    """Folder with prepared TFDS data."""
    binarize: Literal["dynamic", "fixed"] = "dynamic"
    """dynamic: anew at every step (Table 1). fixed: once (Table 3), and binary images stay as they are."""
    layers: Literal[1, 2] = 1
    """Stochastic layers: 784-200-200-50, or 784-200-200-100-100-100-50."""
    schedule: Literal["short", "full"] = "short"
    """full: batch 20, 3,280 passes, rates as published. short: batch 100, 600 passes (k > 1: 300), a cosine."""
    entries: tuple[str, ...] = ("vae:1", "iwae:5:2")
    """Objective and number of samples, such as vae:1 iwae:5 stl:50 dreg:50. iwae:5:2 uses the first two seeds only."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the entries."""
    epochs: int | None = None
    """Passes, by default those of the schedule. The course of the learning rate is stretched to them."""
    learning_rate: float | None = None
    """Peak learning rate, by default that of the schedule."""
    validation_fraction: float = 0.0
    """Share of the training images that is held out and evaluated in place of the test images, for choosing settings."""
    num_samples: int = 5000
    """Importance samples of the NLL."""
    minutes: float = float("inf")
    """Stop after this time. The same command continues."""
    runs: Path = Path("runs/iwae")
    """Sweep directory. An unfinished one is continued."""
    out: Path = FOLDER / "results.json"
    """JSON file to write when all members have ended."""


def parse_entry(entry: str, seeds: int) -> tuple[str, int, int]:
    """Splits "iwae:5:2" into ("iwae", 5, 2). An entry without a number of seeds uses all of them."""
    kind, *numbers = entry.split(":")
    if kind not in KINDS or len(numbers) not in (1, 2) or not all(n.isdecimal() and int(n) > 0 for n in numbers):
        expected = f"{', '.join(KINDS)} and a number of samples, such as iwae:5"
        raise UserError(field="entries", expected=expected, got=repr(entry))
    count, used = int(numbers[0]), int(numbers[-1]) if len(numbers) == 2 else seeds
    if used > seeds:
        raise UserError(field="entries", expected=f"at most the {seeds} of `seeds`", got=f"{used} seeds in {entry!r}")
    return kind, count, used


def make_members(arguments: Arguments) -> dict[str, list[Any]]:
    """Returns the members of each entry."""
    from vae_jax import sweep
    from vae_jax.config import Config

    chosen = {"epochs": arguments.epochs, "learning_rate": arguments.learning_rate}
    base = Config(
        dataset=arguments.dataset,
        hidden=(200, 200),
        activation="tanh",
        output_bias="train_mean",
        binarize=arguments.binarize,
        validation_fraction=arguments.validation_fraction,
        **LAYERS[arguments.layers],
        **{**SCHEDULES[arguments.schedule], **{name: value for name, value in chosen.items() if value is not None}},
    )
    members = {}
    for entry in arguments.entries:
        kind, count, used = parse_entry(entry, len(arguments.seeds))
        if f"{kind}:{count}" in members:
            raise UserError(field="entries", expected="each once", got=f"{kind}:{count} twice")
        config = dataclasses.replace(base, num_samples=count, **KINDS[kind])
        if arguments.schedule == "short" and arguments.epochs is None and count > 1:
            config = dataclasses.replace(config, epochs=SHORT_EPOCHS_SEVERAL_SAMPLES)
        members[f"{kind}:{count}"] = sweep.grid(config, seed=arguments.seeds[:used])
    return members


def evaluate(arguments: Arguments, number: int, folder: Path) -> dict[str, Any]:
    """Returns NLL and active units of one member. The result is kept in a file and computed only once."""
    import jax
    import numpy as np

    from vae_jax._numerics.keys import Stream, stream
    from vae_jax.evaluation import DataSlice, encode_dataset, importance_log_px, log_px_means
    from vae_jax.evaluation.posterior_collapse import active_units
    from vae_jax.posteriors import sample_posterior
    from vae_jax.priors.entries import make_layers
    from vae_jax.storage.atomic import write_json
    from vae_jax.sweep.results import load_params, load_sweep

    path = folder / f"{number}-{arguments.num_samples}.json"
    if path.exists():
        return json.loads(path.read_text())
    built, params = load_params(load_sweep(arguments.runs), [number], arguments.data_dir)[number]
    data = built.data.test if built.data.validation is None else built.data.validation
    seed, to_input = built.config.test_seed, built.data.eval_input

    @jax.jit
    def weigh(params: Any, part: Any, first: Any) -> Any:
        return importance_log_px(
            stream(seed, Stream.LOG_PX),
            built.vae,
            params,
            DataSlice(part, first),
            num_samples=arguments.num_samples,
            to_input=to_input,
        )

    size = max(size for size in range(1, 501) if len(data) % size == 0)
    parts = [jax.device_get(weigh(params, data[first : first + size], first)) for first in range(0, len(data), size)]
    estimates = log_px_means(jax.tree.map(lambda *values: np.concatenate(values), *parts), arguments.num_samples)

    @jax.jit
    def layer_means(params: Any, data: Any) -> list[Any]:
        """Returns posterior means of each stochastic layer, those of the second layer at one draw of the first."""
        mean, log_scale = (
            leaf[:, : built.config.latent_dim] for leaf in encode_dataset(built.vae, params, data, to_input=to_input)
        )
        if built.config.prior != "hierarchical":
            return [mean]
        z1 = jax.vmap(sample_posterior)(jax.random.split(stream(seed, Stream.REPRODUCTION), len(data)), mean, log_scale)
        infer, _ = make_layers(built.config)
        return [mean, jax.vmap(lambda z1: infer.apply(params["prior"]["infer"], z1))(z1)[0]]

    result = {
        "nll": -estimates.log_px,
        "nll_standard_error_over_images": estimates.standard_error,
        "nll_monte_carlo_error": estimates.monte_carlo_error,
        "active_units": [int(active_units(means)) for means in layer_means(params, data)],
    }
    folder.mkdir(exist_ok=True)
    write_json(path, result)
    return result


def tables(content: dict[str, Any]) -> str:
    """Returns the table of entries in Markdown."""
    cells = []
    for name, entry in content["entries"].items():
        layers = zip(*(member["active_units"] for member in entry["members"]), strict=True)
        active = " + ".join(f"{sum(counts) / len(counts):.1f}" for counts in layers)
        published = "—" if entry["published"] is None else f"{entry['published']:.2f}"
        cells.append((f"`{name}`", published, with_error(entry["nll"]), active, str(len(entry["members"]))))
    return markdown(("entry", "published", "test NLL", "active units", "seeds"), cells)


def verdicts(content: dict[str, Any]) -> list[str]:
    """Returns the verdict on each row of results.json.

    The margin is that of a published number from one run, whose test images were binarized by another draw.
    """
    sentences = []
    for row, entry in zip(content["rows"], content["entries"].values(), strict=True):
        passes = entry["epochs"]
        if row["published"] is None:
            sentences.append("No published number.")
        else:
            reason = f"{passes:,} passes were trained instead of 3,280"
            sentences.append(judge(row, margin=MARGIN, better="lower", because=reason))
    return sentences


def main() -> int:
    """Trains, evaluates and writes the results."""
    arguments = parse(Arguments)
    expect_seeds(arguments.seeds)
    expect_counts(1, num_samples=arguments.num_samples, epochs=arguments.epochs)
    if not arguments.entries:
        raise UserError(field="entries", expected="at least one, such as iwae:5", got="none")
    entries = make_members(arguments)
    configs = [config for members in entries.values() for config in members]
    status = train_sweep(configs, arguments.runs, data_dir=arguments.data_dir, minutes=arguments.minutes)
    if status is not None:
        return status
    from vae_jax.sweep.members import identity
    from vae_jax.sweep.results import load_sweep

    results = load_sweep(arguments.runs)
    numbers = {identity(config): number for number, config in enumerate(results.members)}
    rows, details = [], {}
    for entry, members in entries.items():
        began, measured = time.monotonic(), []
        for config in members:
            row = results.rows[numbers[identity(config)]]
            if row["status"] == "finished":
                one = evaluate(arguments, row["member"], arguments.runs / "evaluation")
                more = {"test_elbo": row["test_elbo"], "training_seconds": row["wall_seconds"]}
                measured.append({"seed": config.seed, **one, **more})
            else:
                print(f"note: {entry}, seed {config.seed}: {row['status']}, left out", file=sys.stderr)
        if not measured:
            continue
        nll = summarize([one["nll"] for one in measured])
        published = PUBLISHED[arguments.binarize, arguments.layers].get(entry)
        details[entry] = {"members": measured, "nll": nll, "published": published, "epochs": members[0].epochs}
        layers = "one layer" if arguments.layers == 1 else "two layers"
        title = f"test NLL, {layers}, {entry.replace(':', ', k = ')}"
        rows.append(Row(title, published, nll["mean"], nll["standard_error"], len(measured)))
        print(f"{entry} evaluated in {time.monotonic() - began:.0f} s", flush=True)
    if not rows:
        raise UserError("every member diverged. Try a lower `learning_rate`.")
    print(f"\n{tables({'entries': details})}")
    seconds = sum(one["training_seconds"] for entry in details.values() for one in entry["members"])
    first = next(iter(entries.values()))[0]
    write(
        arguments.out,
        {**dataclasses.asdict(first), **recorded_settings(arguments)},
        rows,
        {"entries": details},
        seconds,
        verdicts,
    )
    return 0


def recorded_settings(arguments: Arguments) -> dict[str, Any]:
    """Returns the arguments that affect the results."""
    kept = dataclasses.asdict(arguments)
    return {name: value for name, value in kept.items() if name not in ("runs", "minutes") and value is not None}


if __name__ == "__main__":
    run_script(main)
