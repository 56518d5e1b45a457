"""`init_from`: the parameters of a trained model as the start of a new run, whose directory keeps a copy of them."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import safetensors

from vae_jax import config as config_module
from vae_jax.build import INIT_PARTS, Built, Initial
from vae_jax.errors import UserError, unknown
from vae_jax.runs.trained.model_file import NAME, ModelRecord, read_record, write_model_file
from vae_jax.storage.atomic import JsonObject, read_json
from vae_jax.storage.directories import PathLike, as_path

_FOLDER = "initial"  # of a run or sweep directory: a copy of the parameters that it started from
_SAME = ("sha256", "epoch", "member", "parts")  # entries of a lineage that do not depend on where the directory lies


def init_from(path: PathLike, *, member: int | None = None, init_parts: Sequence[str] = ()) -> Initial:
    """Reads the parameters of a trained model, from which `build(config, init=...)` lets a new run start.

    The parameters are those that are evaluated: the best ones under early stopping, or an average if the optimizer keeps one.
    Neither the training data of the trained model nor its own parts of a user are needed.

    Args:
      path: the run directory, or with `member` the sweep directory.
      member: number of the model in the sweep.
      init_parts: "encoder", "decoder", "likelihood" (learned scales) or "prior". By default all parts that both models have.

    Raises:
      UserError: there is no trained model, or an unknown part.
    """
    path = as_path(path)
    for part in init_parts:
        if part not in INIT_PARTS:
            raise unknown("part", part, INIT_PARTS)
    folder, index = _locate(path, member)
    record, arrays, position = read_record(folder), _read_arrays(folder, index), index or 0
    try:
        config, epoch = config_module.from_dict(record.configs[position]), record.epochs[position]
    except (IndexError, KeyError, TypeError) as error:
        raise UserError(f"{folder / NAME}: cannot be read: {error}.") from None
    lineage: JsonObject = {
        "path": str(path),
        "sha256": hashlib.sha256((folder / NAME).read_bytes()).hexdigest(),
        "epoch": epoch,
        "member": member,
        "parts": [part for part in INIT_PARTS if part in init_parts],
        "init_from": _recorded_lineage(path),
    }
    return Initial(config, record.description, arrays, lineage)


def _locate(path: Path, member: int | None) -> tuple[Path, int | None]:
    """Returns the folder of model.safetensors and the position of the model in it; None for a run."""
    if not (path / "sweep.json").exists():
        if not (path / NAME).exists():
            is_run = (path / "config.json").exists()
            problem = f"has no {NAME}" if is_run else "not a run directory or a sweep directory"
            fix = "Continue the run with `resume=True`, which writes it." if is_run else ""
            raise UserError(f"{path}: {problem}.", field="init_from", fix=fix)
        if member is not None:
            raise UserError(f"{path} is a single run.", field="init_member", fix="Leave `init_member` out.")
        return path, None
    members = {
        number: (file.parent, index)
        for file in sorted(path.glob(f"blocks/*/{NAME}"))
        for index, number in enumerate(read_record(file.parent).members)
    }
    if not members:
        raise UserError(f"{path}: no member has a trained model yet.", field="init_from", fix="Continue it with `resume=True`.")
    if member not in members:
        expected = f"one of the trained members of {path}, {_listed(sorted(members))}"
        raise UserError(field="init_member", expected=expected, got="none" if member is None else member)
    return members[member]


def _listed(numbers: Sequence[int]) -> str:
    if len(numbers) > 8 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def _read_arrays(folder: Path, index: int | None) -> dict[str, np.ndarray]:
    """Returns the parameters of one model by their paths."""
    try:
        with safetensors.safe_open(folder / NAME, "numpy") as file:  # pyright: ignore[reportAttributeAccessIssue]
            names = list(file.keys())
            return {name: file.get_tensor(name) if index is None else file.get_slice(name)[index] for name in names}
    except (OSError, ValueError, safetensors.SafetensorError) as error:  # pyright: ignore[reportAttributeAccessIssue]
        raise UserError(f"{folder / NAME}: cannot be read: {error}.") from None


def _recorded_lineage(path: Path) -> JsonObject | None:
    """Returns the lineage in config.json or sweep.json; None where there is none."""
    for name in ("config.json", "sweep.json"):
        if (path / name).is_file():
            return read_json(path / name).get("init_from")
    return None


def write_initial(out: Path, init: Initial | None) -> None:
    """Copies the parameters that a run or sweep starts from into its directory, which then needs no other."""
    if init is None or (out / _FOLDER / NAME).exists():
        return
    (out / _FOLDER).mkdir(exist_ok=True)
    parts = init.parts or INIT_PARTS
    arrays = {name: array for name, array in init.arrays.items() if name.split(".")[0] in parts}
    settings = dataclasses.asdict(init.config)
    write_model_file(out / _FOLDER, ModelRecord([settings], init.description, {}, [init.record["epoch"]]), arrays)


def recorded_init(path: PathLike) -> Initial | None:
    """Returns the parameters that a run or a sweep started from, from the copy in its directory.

    A directory whose process was killed before it had the copy takes them from the original, if that has not changed.

    Returns:
      None if it started from random parameters.

    Raises:
      UserError: the copy is missing, and the original is missing or has changed.
    """
    path = as_path(path)
    lineage = _recorded_lineage(path)
    if lineage is None:
        return None
    try:
        if (path / _FOLDER / NAME).exists():
            record = read_record(path / _FOLDER)
            config = config_module.from_dict(record.configs[0])
            return Initial(config, record.description, _read_arrays(path / _FOLDER, None), lineage)
        original, member, parts = lineage["path"], lineage["member"], lineage["parts"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: its record of the trained model that it started from is damaged: {error}.") from None
    try:
        init = init_from(original, member=member, init_parts=parts)
        check_same_init(path, lineage, init)
    except UserError as error:
        message = f"{path}: the copy of the parameters that it starts from is missing, and {error.text}"
        raise UserError(message, fix="Start a new run in a different folder.") from None
    return init


def check_same_init(out: Path, recorded: JsonObject | None, init: Initial | None) -> None:
    """Raises `UserError` unless a run or sweep continues from the parameters with which it began.

    Args:
      out: its directory.
      recorded: the lineage that it records.
      init: what `build` was given.
    """
    there = recorded and {name: recorded.get(name) for name in _SAME}
    here = init and {name: init.record[name] for name in _SAME}
    if there == here:
        return
    if not recorded or not init:
        began = f"from {recorded['path']}" if recorded else "from random parameters"
        fix = f"Pass `init=runs.recorded_init({str(out)!r})` to build." if recorded else "Leave `init_from` out."
        raise UserError(f"{out}: it began {began}.", field="init_from", fix=fix)
    assert there is not None
    assert here is not None
    differ = [f"{name} {there[name]} there, {here[name]} here" for name in _SAME if there[name] != here[name]]
    raise UserError(
        f"{out}: it began from different parameters ({'; '.join(differ)}).",
        field="init_from",
        fix="Leave `init_from` out to continue it, or start a new run.",
    )


def describe_lineage(lineage: JsonObject | None) -> str:
    """Returns a sentence about the models that a run descends from; "" for one that started from random parameters.

    Example:
      >>> describe_lineage({"path": "runs/first", "epoch": 50, "member": None, "parts": ["encoder"], "init_from": None})
      'It started from the encoder of runs/first (epoch 50).'
    """
    steps = []
    while lineage is not None:
        member = "" if lineage.get("member") is None else f"member {lineage['member']}, "
        of = f"the {' and '.join(lineage['parts'])} of " if lineage.get("parts") else ""
        steps.append(f"{of}{lineage['path']} ({member}epoch {lineage['epoch']})")
        lineage = lineage.get("init_from")
    return f"It started from {', which started from '.join(steps)}." if steps else ""


def describe_init(built: Built) -> list[str]:
    """Returns sentences about what a new run takes over from a trained model and what starts anew."""
    init = built.init
    if init is None or built.description is None:
        return []
    template = jax.eval_shape(built.vae.init, jax.random.key(0))
    parts, path = init.shared_parts(template), init.record["path"]
    fresh = [part for part in INIT_PARTS if part in template and part not in parts]
    texts = [f"starting from the {', '.join(parts)} of {path} (epoch {init.record['epoch']})"]
    if fresh:
        texts[0] += f"; the {', '.join(fresh)} start{'s' * (len(fresh) == 1)} at random values"
    old, new = init.description, built.description
    takes_networks = {"encoder", "decoder"} & set(parts)
    if takes_networks and new.moments is not None and new.moments is old.moments:
        texts.append(
            f"the data are standardized by the mean and the scale of the training data of {path}, as its networks were"
        )
    if takes_networks and old.condition != new.condition:
        texts.append(f"the condition has other categories or another scale than that of {path}")
    return texts
