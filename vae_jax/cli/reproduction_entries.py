"""Entries of a reproduction, each a resumable sweep over seeds in a directory of its own: training and log p(x)."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from vae_jax.cli.reproduction import train_sweep, use_cpu_devices
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.storage.atomic import JsonObject, write_json

if TYPE_CHECKING:
    from jax import Array

    from vae_jax.build import Built
    from vae_jax.evaluation import LogPx
    from vae_jax.model import Params

Entries = Mapping[str, Sequence[Config]]  # members of each entry, by the name of its sweep directory
Value = TypeVar("Value")


def split_entry(entry: str, example: str) -> tuple[list[str], int | None]:
    """Splits an entry such as "iwae:5:2@800" into its parts and its passes over the training set.

    Args:
      entry: the text.
      example: a valid entry, for the error message.

    Returns:
      The texts between the colons, and the number after @, or None without one.
    """
    text, _, passes = entry.partition("@")
    if "@" in entry and not (passes.isdecimal() and int(passes) > 0):
        raise UserError(field="entries", expected=f"a number of passes after @, such as {example}", got=repr(entry))
    return text.split(":"), int(passes) if passes else None


def train_entries(entries: Entries, runs: Path, *, data_dir: str | None, minutes: float) -> int | None:
    """Trains each entry in `runs`/name, or continues what earlier calls have left unfinished.

    Args:
      entries: name of the sweep directory -> members.
      runs: folder of the sweep directories.
      data_dir: folder with prepared TFDS data.
      minutes: training is interrupted after the epoch in which this time has passed in all.

    Returns:
      None if all members have ended, else the exit status of the script.
    """
    if (runs / "sweep.json").exists():
        fix = f"Pass a folder of sweep directories, and move this one to {next(iter(entries))} in it."
        raise UserError(f"{runs} is itself a sweep directory.", field="runs", fix=fix)
    began = time.monotonic()
    use_cpu_devices(max(map(len, entries.values())))
    for name, members in entries.items():
        left = minutes - (time.monotonic() - began) / 60
        status = train_sweep(members, runs / name, data_dir=data_dir, minutes=left)
        if status is not None:
            return status
    return None


def measure_members(
    name: str, folder: Path, members: Sequence[Config], estimate: Callable[[int], JsonObject]
) -> list[JsonObject]:
    """Returns the numbers of the members of one entry that have finished: those of training and those of `estimate`.

    Args:
      name: of the entry, for messages.
      folder: its sweep directory.
      members: some of its members.
      estimate: returns further numbers of the member with this number.
    """
    from vae_jax.sweep.members import identity
    from vae_jax.sweep.results import load_sweep
    from vae_jax.sweep.statistics import DONE

    results, measured = load_sweep(folder), []
    numbers = {identity(config): number for number, config in enumerate(results.members)}
    rows = {row["member"]: row for row in results.rows}
    for config in members:
        row = rows[numbers[identity(config)]]
        if row["status"] not in DONE:
            print(f"note: {name}, seed {config.seed}: {row['status']}, left out", file=sys.stderr)
            continue
        began = time.monotonic()
        numbers_of_training = {"test_elbo": row["test_elbo"], "test_kl": row["test_kl"], "epochs": row["epochs"]}
        one = {"seed": config.seed, **estimate(row["member"]), **numbers_of_training, "training_seconds": row["wall_seconds"]}
        print(f"{name}, seed {config.seed}: evaluated in {time.monotonic() - began:.0f} s", flush=True)
        measured.append(one)
    return measured


def kept(path: Path, compute: Callable[[], JsonObject]) -> JsonObject:
    """Returns the content of a JSON file, which is computed and written first if it does not exist."""
    if not path.exists():
        content = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
    return json.loads(path.read_text())


def member_nll(
    folder: Path, number: int, *, num_samples: int, data_dir: str | None, split: Literal["test", "validation"] = "test"
) -> JsonObject:
    """Returns the NLL and the active units of one member of a sweep directory. They are kept in it and computed only once.

    Args:
      folder: sweep directory.
      number: of the member.
      num_samples: importance samples of each image.
      data_dir: folder with prepared TFDS data.
      split: images to evaluate.
    """

    def compute() -> JsonObject:
        from vae_jax.sweep.results import load_params, load_sweep

        built, params = load_params(load_sweep(folder), [number], data_dir)[number]
        return nll(built, params, num_samples=num_samples, split=split)

    return kept(folder / "evaluation" / f"{number}-{num_samples}.json", compute)


def nll(built: "Built", params: "Params", *, num_samples: int, split: Literal["test", "validation"] = "test") -> JsonObject:
    """Returns -log p(x) in nats per image by importance sampling, its errors, and the active units of each stochastic layer.

    Args:
      built: the model with its data.
      params: parameters of the model.
      num_samples: importance samples of each image.
      split: images to evaluate.
    """
    import jax

    from vae_jax._numerics.keys import Stream, stream
    from vae_jax.evaluation import DataSlice, importance_log_px, log_px_means
    from vae_jax.runs.parts import map_parts

    data = built.data.test if split == "test" else built.data.validation
    assert data is not None
    memory = 2**26 if jax.default_backend() == "cpu" else 2**30

    def log_px(params: "Params", part: "Array", first: "Array") -> "LogPx":
        key, images = stream(built.config.test_seed, Stream.LOG_PX), DataSlice(part, first)
        to_input = built.data.eval_input
        return importance_log_px(
            key, built.vae, params, images, num_samples=num_samples, to_input=to_input, memory_bytes=memory
        )

    estimates = log_px_means(map_parts(log_px, params, data, lambda done: None), num_samples)
    return {
        "nll": -estimates.log_px,
        "nll_standard_error_over_images": estimates.standard_error,
        "nll_monte_carlo_error": estimates.monte_carlo_error,
        "active_units": _active_units(built, params, data),
    }


def _active_units(built: "Built", params: "Params", data: "Array") -> list[int]:
    """Returns the active units of each stochastic layer, those of the second layer at one draw of the first."""
    import jax

    from vae_jax._numerics.keys import Stream, stream
    from vae_jax.evaluation import encode_dataset
    from vae_jax.evaluation.posterior_collapse import active_units
    from vae_jax.posteriors import sample_posterior
    from vae_jax.priors.entries import make_layers

    @jax.jit
    def layer_means(params: "Params", data: "Array") -> "list[Array]":
        moments = encode_dataset(built.vae, params, data, to_input=built.data.eval_input)
        mean, log_scale = (leaf[:, : built.config.latent_dim] for leaf in moments)
        if built.config.prior != "hierarchical":
            return [mean]
        keys = jax.random.split(stream(built.config.test_seed, Stream.REPRODUCTION), len(data))
        z1 = jax.vmap(sample_posterior)(keys, mean, log_scale)
        infer, _ = make_layers(built.config)
        return [mean, jax.vmap(lambda z1: infer.apply(params["prior"]["infer"], z1))(z1)[0]]

    return [int(active_units(means)) for means in layer_means(params, data)]
