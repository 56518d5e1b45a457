"""metrics.jsonl: one line for each epoch, converted from `training.Epoch` and back."""

import contextlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

from vae_jax.evaluation import Means
from vae_jax.storage.atomic import JsonObject, as_json, naming_path, write_text
from vae_jax.storage.directories import PathLike, as_path
from vae_jax.training import Epoch, TrainMeans, epoch_metrics

to_line = epoch_metrics  # the line of metrics.jsonl for an epoch


def read_metrics(path: PathLike) -> list[JsonObject]:
    """Reads metrics.jsonl up to the first incomplete line, such as one that a killed process left half-written.

    A mean or standard error that is not defined is null in the file and NaN here.
    """
    path, lines = as_path(path), []
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        for text in (path / "metrics.jsonl").read_bytes().splitlines():
            line = {name: _nan_if_null(name, value) for name, value in json.loads(text).items()}
            if not isinstance(line["epoch"], int) or not all(isinstance(value, int | float) for value in line.values()):
                break
            if not line.get("diverged"):
                to_epoch(line)
            lines.append(line)
    return lines


def _nan_if_null(name: str, value: float | None) -> float | None:
    return math.nan if value is None and name.startswith(("train_", "test_", "validation_")) else value


def rewrite_metrics(out: PathLike, lines: Sequence[JsonObject]) -> None:
    """Replaces the content of metrics.jsonl by these lines."""
    write_text(as_path(out) / "metrics.jsonl", "".join(json.dumps(as_json(line)) + "\n" for line in lines))


def append_metrics(out: Path, line: JsonObject) -> None:
    """Appends a line to metrics.jsonl.

    The file is opened for each line, so that a full disk raises an error for this line instead of a later one.
    """
    with naming_path(out / "metrics.jsonl"), (out / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(as_json(line)) + "\n")


def sync_metrics(out: Path) -> None:
    """Returns once metrics.jsonl is on the disk. Called before a checkpoint, which must never be ahead of the record."""
    with naming_path(out / "metrics.jsonl"), (out / "metrics.jsonl").open("a") as file:
        os.fsync(file.fileno())


def to_epoch(line: JsonObject) -> Epoch:
    """Returns the epoch that a line of metrics.jsonl describes; raises KeyError if a number is missing."""
    names = [name for name in TrainMeans._fields if name != "extra"]
    known = {"elbo", *names, "examples_per_second"}
    recorded = {key.removeprefix("train_"): value for key, value in line.items() if key.startswith("train_")}
    extra = {name: value for name, value in recorded.items() if name not in known}
    train = TrainMeans(**{name: recorded[name] for name in names}, extra=extra)

    def means(split: str) -> Means:
        return Means(*(line[f"{split}_{field}"] for field in Means._fields))

    return Epoch(
        line["epoch"],
        line["step"],
        train,
        means("test"),
        means("validation") if "validation_elbo" in line else None,
        line["seconds"],
    )
