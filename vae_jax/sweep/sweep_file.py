"""Reads sweep.json, and checks that new members continue the sweep in a directory, lengthen it, or can be added to it."""

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path

from vae_jax import config as config_module
from vae_jax.config import Config
from vae_jax.errors import UserError, fits
from vae_jax.runs.config_file import check_entries
from vae_jax.runs.length import settings_that_depend_on_length
from vae_jax.storage.atomic import JsonObject, read_json
from vae_jax.storage.directories import PathLike, as_path, is_fresh
from vae_jax.sweep.members import SHARED, identity
from vae_jax.sweep.processes import Processes
from vae_jax.sweep.successive_halving.in_memory import check_halving
from vae_jax.sweep.successive_halving.rule import Halving


def read_sweep(path: PathLike) -> tuple[list[Config], JsonObject]:
    """Reads sweep.json of a sweep directory.

    Returns:
      The validated members, and the whole content of the file.

    Raises:
      UserError: sweep.json is missing or cannot be read.
    """
    path = as_path(path)
    if not (path / "sweep.json").exists():
        raise UserError(f"{path}: not a sweep directory (it has no sweep.json).")
    content = read_json(path / "sweep.json", "members", "data")
    try:
        members = [config_module.from_dict(settings) for settings in content["members"]]
        if not members:
            raise ValueError("expected at least one member")
        for member in members:
            member.validate()
        check_entries(content)
        return members, content
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path / 'sweep.json'}: cannot be read: {error}") from None


def merge(members: Sequence[Config], out: PathLike, resume: bool) -> list[Config]:
    """Returns all members of the sweep. Those that the directory already has come first.

    Raises:
      UserError: the new members do not share the data of those in the directory.
    """
    out = as_path(out)
    if not resume or is_fresh(out):
        return list(members)
    old, _ = read_sweep(out)
    for name in SHARED:
        if (there := getattr(old[0], name)) != (here := getattr(members[0], name)):
            message = f"the sweep in {out} has {name} = {there}, not {here}. All its members share the data."
            raise UserError(message, field="resume")
    lengthened = _lengthened(old, members, out)
    old = lengthened or old
    known = {identity(member) for member in old}
    return [*old, *(member for member in members if identity(member) not in known)]


def _lengthened(old: Sequence[Config], members: Sequence[Config], out: Path) -> list[Config]:
    """Returns the members of a directory with new numbers of epochs, if all of them are given anew with others; else [].

    Raises:
      UserError: a schedule depends on the length of the run.
    """
    same_but_length = [[identity(dataclasses.replace(one, epochs=1)) for one in configs] for configs in (old, members)]
    if len(set(same_but_length[0])) < len(old):  # the sweep has members of several lengths
        return []
    anew = dict(zip(same_but_length[1], members, strict=True))
    pairs = [(anew.get(key), member) for key, member in zip(same_but_length[0], old, strict=True)]
    longer = [new for new, member in pairs if new is not None and new.epochs != member.epochs]
    if len(longer) < len(old):
        return []
    for new, member in zip(longer, old, strict=True):
        if names := settings_that_depend_on_length(new):
            raise UserError(
                f"{out}: `{names[0]}` depends on the length of a run, so {member.epochs} epochs of it are not the beginning of "
                f"{new.epochs}.",
                field="epochs",
                fix="Start a new sweep.",
            )
        if new.epochs < member.epochs:
            raise UserError(field="epochs", expected=f"at least the {member.epochs} of the sweep in {out}", got=new.epochs)
    return [dataclasses.replace(member, epochs=new.epochs) for new, member in zip(longer, old, strict=True)]


def check_halving_directory(
    members: Sequence[Config], out: Path, resume: bool, halving: Halving | None, processes: Processes
) -> None:
    """Raises `UserError` for a sweep that successive halving cannot make, or cannot continue as it began.

    Args:
      members: as passed to `run_sweep`.
      out: the sweep directory.
      resume: as passed to `run_sweep`.
      halving: as passed to `run_sweep`.
      processes: of the sweep.
    """
    if halving is not None:
        check_halving(members, halving)
        if processes.size > 1:
            message = "successive halving compares all members, so one process trains them."
            raise UserError(message, field="num_processes", fix="Use one process. It can use several devices.")
    if not resume or is_fresh(out):
        return
    old, content = read_sweep(out)
    recorded = read_halving(old, content)
    if recorded != halving:
        began = "without successive halving" if recorded is None else f"with {recorded}"
        raise UserError(f"the sweep in {out} began {began}, and continues only so.", field="halving")
    if halving is not None and [identity(member) for member in members] != [identity(member) for member in old]:
        message = f"no members can be added to the sweep in {out}, because its decisions depend on the order of all members."
        raise UserError(message, field="resume", fix="Make a sweep in a new folder.")


def read_halving(members: Sequence[Config], content: JsonObject) -> Halving | None:
    """Returns the settings of successive halving in sweep.json, or None if there are none.

    Raises:
      UserError: they are not settings of these members.
    """
    recorded = content.get("halving")
    if recorded is None:
        return None
    hints = typing.get_type_hints(Halving)
    if not isinstance(recorded, dict) or recorded.keys() != hints.keys() or not all(fits(recorded[n], hints[n]) for n in hints):
        raise UserError(f"sweep.json: expected the settings of successive halving ({', '.join(hints)}), got {recorded}.")
    settings = Halving(**recorded)
    settings.check(len(members), members[0].epochs)
    return settings
