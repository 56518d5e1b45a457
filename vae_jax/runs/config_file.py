"""config.json: everything that is needed to repeat a run. It is compared with the new settings when the run is resumed."""

import dataclasses
import json
from collections.abc import Collection, Sequence
from importlib import metadata
from pathlib import Path

import jax
import numpy as np

from vae_jax import config as config_module
from vae_jax.build import PART_NAMES, Built, Parts, check_parts
from vae_jax.config import CUSTOM, Config
from vae_jax.data import ConditionColumn, Dataset, is_image
from vae_jax.errors import UserError
from vae_jax.model import num_parameters
from vae_jax.runs.notation import facts
from vae_jax.storage.atomic import JsonObject, read_json
from vae_jax.storage.directories import PathLike, as_path

_PACKAGES = ("vae_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def describe(built: Built, data_dir: str | None, devices: int = 1) -> JsonObject:
    """Returns the content of config.json of a run that is trained on a number of devices."""
    dataset = built.dataset
    # Members of a sweep may differ in what their codes are, unless they share a prior of the user.
    content: JsonObject = {
        "config": dataclasses.asdict(built.config),
        "data_dir": data_dir,
        "data": {
            "name": dataset.name,
            "sha256": dataset.fingerprint(),
            "train_examples": len(dataset.train),
            "validation_examples": 0 if dataset.validation is None else len(dataset.validation),
            "test_examples": len(dataset.test),
            "shape": list(dataset.data_shape),
            "max_level": dataset.max_level,
            "split": dataset.split,
            "treatment": built.data.description,
            "moments": "pooled" if is_image(dataset.data_shape) else "per entry",  # earlier versions always pooled
            "notes": list(dataset.notes),
            **{name: fact for name, fact in facts(built).items() if name != "codes" or built.config.prior == CUSTOM},
        },
        "parts": built.parts.records(),
        "num_parameters": num_parameters(built.vae),
        "versions": versions(),
        "device": f"{devices} x {jax.devices()[0].device_kind}",
        "devices": devices,
    }
    if built.init is not None:
        content["init_from"] = built.init.record
    if dataset.condition is not None:
        content["data"]["condition"] = {
            "columns": [_describe_column(column) for column in dataset.condition.columns],
            "sha256": dataset.condition_fingerprint(),
        }
    return content


def _describe_column(column: ConditionColumn) -> JsonObject:
    """Returns what a reader of config.json needs to know of one column of the condition."""
    if column.categories is not None:
        return {"name": column.name, "categories": list(column.categories)}
    return {"name": column.name, "mean": column.mean, "standard_deviation": column.std}


def versions() -> JsonObject:
    """Returns the versions of the packages on which results depend."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def read_config(path: PathLike) -> tuple[Config, JsonObject]:
    """Reads config.json of a run directory.

    Returns:
      The validated configuration, and the whole content of the file.

    Raises:
      UserError: config.json is missing or cannot be read.
    """
    path = as_path(path)
    if not (path / "config.json").exists():
        raise UserError(f"{path}: not a run directory (it has no config.json).")
    content = read_json(path / "config.json", "config", "data")
    try:
        config = config_module.from_dict(content["config"])
        config.validate()
        check_entries(content)
        return config, content
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path / 'config.json'}: cannot be read: {error}") from None


def check_entries(content: JsonObject) -> None:
    """Raises ValueError, KeyError or TypeError unless config.json or sweep.json has a fingerprint of the data, and the entries
    on the folder of the data, the devices, earlier lengths and the lineage, if any, are as this package writes them.
    """
    content["data"]["sha256"]
    if not isinstance(content.get("data_dir"), str | None):
        raise ValueError(f"data_dir: expected a path or null, got {content['data_dir']!r}")
    if type(devices := content.get("devices", 1)) is not int or devices < 1:
        raise ValueError(f"devices: expected a whole number >= 1, got {devices!r:.80}")
    names = {"from", "to", *(["after_epoch"] if "config" in content else [])}
    for change in content.get("changed_epochs", []):
        entries: JsonObject = change if isinstance(change, dict) else {}
        schedules = [value for value in entries.values() if isinstance(value, dict)]
        if not (names <= entries.keys() and all({"from", "to"} <= one.keys() for one in schedules)):
            raise ValueError(f"changed_epochs: expected {', '.join(sorted(names))}, got {change!r:.80}")
    check_lineage(content.get("init_from"))


def check_lineage(lineage: object) -> None:
    """Raises ValueError unless this is None or the lineage of a run that started from a trained model (`build.Initial`)."""
    while lineage is not None:
        fields: JsonObject = lineage if isinstance(lineage, dict) else {}
        texts, parts = (fields.get("path"), fields.get("sha256")), fields.get("parts")
        are_texts = isinstance(parts, list) and all(isinstance(text, str) for text in (*texts, *parts))
        if not (are_texts and type(fields.get("epoch")) is int and type(fields.get("member")) in (int, type(None))):
            raise ValueError(f"init_from: expected path, sha256, epoch, member and parts, got {lineage!r:.80}")
        lineage = fields.get("init_from")


def check_recorded_parts(
    path: Path, description: JsonObject, members: Sequence[Config], parts: Parts, function: str
) -> list[str]:
    """Compares the parts that are passed with those that config.json or sweep.json records (see `build.check_parts`).

    Args:
      path: the run or sweep directory, for messages.
      description: content of its config.json or sweep.json.
      members: the settings of the run, or of every member of the sweep.
      parts: the parts that are passed.
      function: the function that takes them, such as "load_run".

    Returns:
      Notes for the user.
    """
    return check_parts(path, description.get("parts", {}), part_names(members), parts, function)


def part_names(members: Sequence[Config]) -> dict[str, str]:
    """Returns the name of each part: "custom" for one of the user in any member, else that of the first member."""
    named = {name: [getattr(member, name) for member in members] for name in PART_NAMES}
    return {name: CUSTOM if CUSTOM in values else values[0] for name, values in named.items()}


def check_same(old: JsonObject, new: JsonObject, out: Path, may_differ: Collection[str] = ()) -> None:
    """Raises `UserError` for resuming a run with different settings or different data.

    Args:
      old: content of config.json in the run directory.
      new: what `describe` returns now.
      out: the run directory, for the message.
      may_differ: settings that are not compared.
    """
    # An earlier version may not have had a setting. It then behaved as the default does.
    old_config = json.loads(json.dumps(dataclasses.asdict(config_module.from_dict(old["config"]))))
    new_config = json.loads(json.dumps(new["config"]))
    names = [name for name, value in new_config.items() if old_config.get(name) != value and name not in may_differ]
    changed = [f"{name}: {old_config.get(name)} there, {new_config[name]} here" for name in names]
    if changed:
        message = f"{out}: the run began with different settings ({'; '.join(changed)})."
        raise UserError(message, field="resume", fix="Repeat those settings, or start a new run.")
    if old["data"]["sha256"] != new["data"]["sha256"]:
        dataset = new["data"]["name"]
        if _condition_hash(old["data"]) != _condition_hash(new["data"]):
            raise UserError(
                f"{out}: the condition of {dataset!r} differs from the one that the run began with.", field="resume"
            )
        raise UserError(f"{out}: the data set {dataset!r} differs from the one that the run began with.", field="resume")


def check_fingerprint(path: Path, recorded_data: JsonObject, dataset: Dataset, purpose: str) -> None:
    """Raises `UserError` unless a data set has the fingerprint that a directory records.

    Args:
      path: the run or sweep directory, for the message.
      recorded_data: the entry "data" of its config.json or sweep.json.
      dataset: the data set.
      purpose: the end of the message, such as "the run was trained on".
    """
    fingerprint, recorded = dataset.fingerprint(), recorded_data["sha256"]
    if fingerprint != recorded:
        _check_condition(path, recorded_data, dataset, purpose)
        raise UserError(
            f"{path}: the data set {dataset.name!r} differs from the one that {purpose}: its fingerprint is "
            f"{fingerprint[:12]}, and {recorded[:12]} is recorded."
        )


def _condition_hash(recorded_data: JsonObject) -> str | None:
    condition = recorded_data.get("condition")
    return condition.get("sha256") if isinstance(condition, dict) else None


def _check_condition(path: Path, recorded_data: JsonObject, dataset: Dataset, purpose: str) -> None:
    """Raises `UserError` where the condition of a data set is not the recorded one; arguments as for `check_fingerprint`."""
    recorded = _condition_hash(recorded_data)
    current = None if dataset.condition is None else dataset.condition_fingerprint()
    if recorded == current:
        return
    here = "it has none" if dataset.condition is None else f"it is {dataset.condition.describe()}"
    there = "none" if recorded is None else recorded[:12]
    raise UserError(
        f"{path}: the condition of the data set {dataset.name!r} differs from the one that {purpose}: {here} with the "
        f"fingerprint {'none' if current is None else current[:12]}, and {there} is recorded.",
        fix="Restore the columns or the file that the condition was read from, or train again.",
    )


def check_dataset_given(path: Path, is_custom: bool, recorded_data: JsonObject, dataset: Dataset | None, function: str) -> None:
    """Raises `UserError` unless a data set is passed for a directory that has one from memory, and only there.

    Args:
      path: the run or sweep directory, for the message.
      is_custom: whether the directory was made from a data set in memory.
      recorded_data: the entry "data" of its config.json or sweep.json.
      dataset: the data set that is passed, if any.
      function: the function that takes it, such as "load_run".
    """
    if is_custom and dataset is None:
        name, recorded = recorded_data.get("name", CUSTOM), recorded_data["sha256"]
        raise UserError(
            f"{path}: the data set {name!r} (fingerprint {recorded[:12]}) was passed from memory, and is not stored here.",
            fix=f"From Python, pass dataset=... to {function}, made by data.from_arrays as before.",
        )
    if dataset is not None and not is_custom:
        raise UserError(f"{path}: it names its data set, which is loaded again.", fix="Leave dataset= out.")


def check_moments(path: Path, recorded_data: JsonObject, built: Built) -> None:
    """Raises `UserError` for parameters of an earlier version that pooled entries which are now standardized one by one.

    Args:
      path: the run or sweep directory, for the message.
      recorded_data: the entry "data" of its config.json or sweep.json.
      built: the model as this version builds it.
    """
    moments = built.data.moments if built.vae.likelihood.support in ("real", "counts") else None
    if moments is not None and np.ndim(moments.mean) and recorded_data.get("moments") != "per entry":
        raise UserError(
            f"{path}: an earlier version standardized all entries of an example by one mean and one scale. This version "
            "standardizes each entry separately.",
            fix="Train the model again.",
        )
