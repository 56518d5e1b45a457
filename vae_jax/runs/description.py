"""The description of a run in config.json: written, and compared with what is built when the run is read or resumed."""

import dataclasses
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax import config as config_module
from vae_jax.build import Built
from vae_jax.data import is_image
from vae_jax.errors import UserError
from vae_jax.model import num_parameters

_PACKAGES = ("vae_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def describe(built: Built, data_dir: str | None) -> dict[str, Any]:
    """Returns the content of config.json."""
    dataset = built.dataset
    return {
        "config": dataclasses.asdict(built.config),
        "data_dir": data_dir,
        "data": {
            "sha256": dataset.fingerprint(),
            "train_examples": len(dataset.train),
            "validation_examples": 0 if dataset.validation is None else len(dataset.validation),
            "test_examples": len(dataset.test),
            "shape": list(dataset.data_shape),
            "max_level": dataset.max_level,
            "split": dataset.split,
            "treatment": built.data.description,
            "moments": "pooled" if is_image(dataset.data_shape) else "per entry",  # older versions: always pooled
            "notes": list(dataset.notes),
        },
        "num_parameters": num_parameters(built.vae),
        "versions": {name: _version(name) for name in _PACKAGES},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_same(old: dict[str, Any], new: dict[str, Any], out: Path) -> None:
    """Refuses to resume a run with different settings or different data."""
    # An older version may not have had a setting; what it did is the default.
    old_config = json.loads(json.dumps(dataclasses.asdict(config_module.from_dict(old["config"]))))
    new_config = json.loads(json.dumps(new["config"]))
    changed = [f"{k}: {old_config.get(k)} there, {v} here" for k, v in new_config.items() if old_config.get(k) != v]
    if changed:
        raise UserError(
            f"--resume {out}: the run began with other settings ({'; '.join(changed)}). Repeat those, or start anew."
        )
    if old["data"]["sha256"] != new["data"]["sha256"]:
        raise UserError(f"--resume {out}: the data set {new['config']['dataset']!r} is not the one that the run began with.")


def check_moments(path: Path, old: Mapping[str, Any], built: Built) -> None:
    """Refuses parameters for which an earlier version pooled entries that the model now standardizes one by one."""
    moments = built.data.moments if built.vae.likelihood.support in ("real", "counts") else None
    if moments is not None and np.ndim(moments.mean) and old.get("moments") != "per entry":
        raise UserError(
            f"{path}: an earlier version standardized all entries of an example by one mean and one scale, and this version "
            "standardizes each entry. Train it anew."
        )
