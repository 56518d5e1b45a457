"""Finds the model file of a run or of a member of a sweep, and the member that is best by a column."""

import csv
import io
import math
from pathlib import Path

from vae_jax.errors import UserError, unknown
from vae_jax.runs.trained.model_file import NAME, ModelRecord, read_record
from vae_jax.storage.atomic import read_json
from vae_jax.storage.directories import PathLike, as_path

# As in the rows of a sweep: members that diverged, or whose evaluation is not finite, have no result to compare.
_DONE = ("finished", "stopped early")
_SMALLER = ("loss", "kl", "error", "distortion", "rate", "seconds", "mse", "gap", "bits_per_dim", "parameters")


def locate_model(path: Path, member: int | None) -> tuple[Path, ModelRecord, int | None]:
    """Finds a trained model.

    Args:
      path: the run or sweep directory.
      member: number of the model in a sweep.

    Returns:
      The folder of model.safetensors, the record in it, and the position of the model among its arrays; None for a run.

    Raises:
      UserError: there is no such model, or its files are damaged.
    """
    if (path / "sweep.json").exists():
        folder = _member_folder(path, member)
        advice = f"Remove result.json of {folder.name} and continue the sweep with `resume=True`, which trains it again."
    else:
        folder, advice = path, "Continue the run with `resume=True`, which writes it."
        if not (path / "config.json").exists() and not (path / NAME).exists():
            raise UserError(f"{path}: neither a run directory nor a sweep directory.")
        if member is not None:
            raise UserError(f"{path}: a run has a single model.", field="member", fix="Leave it out.")
    if not (folder / NAME).exists():
        if (path / "diverged.json").exists():
            raise UserError(f"{path}: the run diverged before its first checkpoint; there is no model.")
        raise UserError(f"{folder}: has no {NAME}, because it was written by an earlier version or is unfinished.", fix=advice)
    record = read_record(folder)
    if member is None:
        return folder, record, None
    if member not in record.members:
        raise UserError(f"{folder / NAME}: lacks the member {member}; it was altered.", field="member", fix=advice)
    return folder, record, list(record.members).index(member)


def _member_folder(path: Path, member: int | None) -> Path:
    """Returns the folder of the block in which a member was trained to its end.

    Args:
      path: the sweep directory.
      member: number of the member.

    Raises:
      UserError: no member is named, there is no such member, or it has not ended or has diverged.
    """
    count = len(_list_in(path / "sweep.json", "members"))
    if member is None or not 0 <= member < count:
        got = "none" if member is None else member
        fix = f"See results.csv, or take the best one: member=best({str(path)!r})."
        raise UserError(field="member", expected=f"a member of the sweep from 0 to {count - 1}", got=f"{got}. {fix}")
    for folder in sorted((path / "blocks").glob("*/block.json")):
        if member in _list_in(folder, "members"):
            result = folder.parent / "result.json"
            if not result.exists():
                break
            rows = [row for row in _list_in(result, "rows") if isinstance(row, dict)]
            status = next((row.get("status") for row in rows if row.get("member") == member), None)
            if status not in _DONE:
                raise UserError(f"{path}: the member {member} has no result to use, its status is {status!r}.", field="member")
            return folder.parent
    fix = "Continue the sweep with `resume=True`."
    raise UserError(f"{path}: the member {member} has not ended.", field="member", fix=fix)


def best(path: PathLike, by: str = "validation_elbo", *, largest: bool | None = None) -> int:
    """Returns the number of the best member of a sweep directory, for `load_model(path, member=best(path))`.

    Members that diverged, and those without a value in the column, do not take part. Among equal members the first one is
    taken.

    Args:
      path: the sweep directory.
      by: column of results.csv.
      largest: take the largest value, or else the smallest. None: the smallest of columns of losses, KL divergences, errors,
        rates, distortions, bits and seconds, which are those with such a word in their name, and the largest of others.

    Raises:
      UserError: no results.csv, no such column, or no member with a number in it.
    """
    path = as_path(path)
    file = path / "results.csv"
    if not file.exists():
        raise UserError(f"{path}: has no results.csv.", fix="Continue the sweep with `resume=True`, which writes it.")
    try:
        rows = list(csv.DictReader(io.StringIO(file.read_text())))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read: {error}.") from None
    columns = [] if not rows else [name for name in rows[0] if name is not None]
    if not rows or not {"member", "status"} <= set(columns):
        raise UserError(f"{file}: expected a row for each member; it was altered.")
    if by not in columns:
        hint = f" The columns are {', '.join(columns)}."
        if by == "validation_elbo":
            hint = f" The sweep has no validation set, so choose a different one.{hint}"
        raise unknown("column", by, columns, hint, list_all=False)
    values = {}
    for row in rows:
        value = _number(row.get(by))
        if row["status"] in _DONE and math.isfinite(value):
            values[int(row["member"])] = value
    if not values:
        raise UserError(f"{file}: no member that has ended has a number in the column {by!r}.", field="by")
    if largest is None:
        largest = not any(word in by for word in _SMALLER) or "elbo" in by
    return (max if largest else min)(values, key=values.__getitem__)


def _list_in(path: Path, name: str) -> list[object]:
    """Returns a list in a JSON file of the sweep."""
    values = read_json(path, name)[name]
    if not isinstance(values, list):
        raise UserError(f"{path}: expected a list of {name}; it was altered.", fix="Restore it from a copy.")
    return values


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
