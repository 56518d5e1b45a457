"""`init_from`: the parameters of a trained model as the start of a new run, whose directory keeps a copy of them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from vae_jax import config as config_module
from vae_jax._numerics.keys import Stream, stream
from vae_jax.build import INIT_PARTS, Built, Initial
from vae_jax.build.parts import file_sha256
from vae_jax.errors import UserError, unknown
from vae_jax.runs.config_file import check_lineage
from vae_jax.runs.trained.model_file import NAME, ModelRecord, read_arrays, read_record, write_model_file
from vae_jax.runs.trained.sweep_members import locate_model
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
    try:
        folder, record, index = locate_model(path, member)
    except UserError as error:
        raise UserError(error.text, field="init_member" if error.field == "member" else "init_from") from None
    arrays, position = read_arrays(folder, index), index or 0
    config, epoch = config_module.from_dict(record.configs[position]), record.epochs[position]
    lineage: JsonObject = {
        "path": str(path),
        "sha256": file_sha256(folder / NAME),
        "epoch": epoch,
        "member": member,
        "parts": [part for part in INIT_PARTS if part in init_parts],
        "init_from": _recorded_lineage(path),
    }
    return Initial(config, record.description, arrays, lineage)


def _recorded_lineage(path: Path) -> JsonObject | None:
    """Returns the lineage in config.json or sweep.json; None where there is none."""
    for name in ("config.json", "sweep.json"):
        if (path / name).is_file():
            lineage = read_json(path / name).get("init_from")
            try:
                check_lineage(lineage)
            except ValueError as error:
                raise UserError(f"{path / name}: {error}. It was altered.") from None
            return lineage
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
    if (path / _FOLDER / NAME).exists():
        record = read_record(path / _FOLDER)
        config = config_module.from_dict(record.configs[0])
        return Initial(config, record.description, read_arrays(path / _FOLDER), lineage)
    try:
        init = init_from(lineage["path"], member=lineage["member"], init_parts=lineage["parts"])
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
    template = jax.eval_shape(built.vae.init, stream(0, Stream.INIT))
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
