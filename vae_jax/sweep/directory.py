"""Sweep directories: members in blocks that are saved, resumed and extended.

A sweep directory contains sweep.json (members, versions, data) and blocks/NNNN/, each the share of one process: block.json,
metrics.jsonl, checkpoints/, result.json, and diverged-N.json for a member N that diverged. A block with a result.json is never
repeated. Once all members have ended, `results.write_results` adds results.csv, curves.csv and summary.json.
"""

import contextlib
import dataclasses
import json
import time
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_jax import config as config_module
from vae_jax.build import Built, build, resolve_columns, with_dataset
from vae_jax.config import Config
from vae_jax.data import Dataset
from vae_jax.errors import UserError, fits
from vae_jax.runs.config_file import check_data_entry, check_moments, describe
from vae_jax.storage.atomic import JsonObject, read_json, write_json
from vae_jax.storage.directories import PathLike, as_path, check_out, exclusive, is_fresh
from vae_jax.sweep.blocks import Block, Layout, OnBlock, OnTick, Tick, place_members, read_block, run_block
from vae_jax.sweep.members import SHARED, Group, check_members, groups, identity
from vae_jax.sweep.processes import Processes
from vae_jax.sweep.successive_halving.block import run_halving_block
from vae_jax.sweep.successive_halving.in_memory import check_data, check_halving
from vae_jax.sweep.successive_halving.rule import Halving
from vae_jax.training import Callbacks, FitOptions, MembersProgress, check_step
from vae_jax.training.queue import QueueProgress

_RESUME_PURPOSE = "to continue it or to add members"


class Launch(NamedTuple):
    """Placement and processes of a sweep, which change no member's settings, and a way to end it."""

    layout: Layout = Layout()  # if it changes bits, a block that has begun keeps its layout
    processes: Processes = Processes()  # from `processes.initialize`; each takes its share of the members
    arguments: JsonObject | None = None  # recorded in sweep.json, so that a command line can continue the sweep
    should_stop: Callable[[], bool] = lambda: False
    """Called every few megabytes of streamed data. A true result ends the sweep, which can continue from a checkpoint."""


class DataArguments(NamedTuple):
    """Arguments of `build` that say where the data are."""

    data_dir: str | None
    dataset: Dataset | None  # in memory


class _Plan(NamedTuple):
    """A sweep that is ready to be written and trained."""

    out: Path
    members: list[Config]  # those that the directory already has come first
    groups: list[Group]
    built: Built  # of the last group
    data: DataArguments
    launch: Launch
    halving: Halving | None


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
        check_data_entry(content)
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
    known = {identity(member) for member in old}
    return [*old, *(member for member in members if identity(member) not in known)]


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


def run_sweep(
    members: Sequence[Config],
    out: PathLike,
    *,
    resume: bool = False,
    launch: Launch = Launch(),  # noqa: B008 (a NamedTuple cannot be changed)
    halving: Halving | None = None,
    data_dir: str | None = None,
    dataset: Dataset | None = None,
    checkpoint_seconds: float = 15.0,
    on_block: OnBlock = lambda group, description, epochs_done, notes: None,
    on_epoch: OnTick = lambda tick: None,
) -> bool:
    """Trains the members that have not ended into a directory, and continues interrupted ones bit for bit.

    Args:
      members: as for `sweep.sweep`. With `resume`, those that the directory does not have yet are added to it.
      out: the sweep directory, which all processes must see.
      resume: continue the sweep in `out`. If nothing was written yet, the sweep starts.
      launch: placement and processes.
      halving: settings of successive halving, see `sweep.halving`. A sweep with it has one process, and no members are added.
      data_dir: where TFDS finds prepared data.
      dataset: a data set in memory for all members. The directory records its name and fingerprint. Pass it again to continue
        the sweep.
      checkpoint_seconds: least time between checkpoints, which are written at the end of an epoch.
      on_block: called when a block starts, with its group, a description of the parameter count and the placement, the number
        of epochs done, and notes for the user.
      on_epoch: called after each epoch. A true result ends the sweep after it.

    Returns:
      True if all members have ended, False if the sweep was interrupted.

    Raises:
      UserError: before anything is written, if a member cannot be trained or the directory cannot be written.
    """
    out, processes = as_path(out), launch.processes
    if dataset is not None:
        members = [with_dataset(member, dataset) for member in members]
    members = resolve_columns(members, data_dir, dataset)
    check_members(members)
    check_halving_directory(members, out, resume, halving, processes)
    processes.check_devices()
    if processes.size > len(members):
        got = f"{processes.size} for {len(members)}"
        raise UserError(field="num_processes", expected="at most one process a member", got=got)
    check_out(out, resume, read_sweep, _RESUME_PURPOSE)
    plan, content = _make_plan(members, out, resume, DataArguments(data_dir, dataset), launch, halving)
    processes.agree("configuration", json.dumps(content, indent=1), "configuration")
    # The first process holds the lock on behalf of all processes of the sweep.
    with exclusive(out) if processes.rank == 0 else contextlib.nullcontext():
        if processes.rank == 0:
            check_out(out, resume, read_sweep, _RESUME_PURPOSE)
            if merge(members, out, resume) != plan.members:
                message = f"another process has changed the sweep in {out} in the meantime."
                raise UserError(message, field="out", fix="Start the sweep again.")
            _write_plan(out, content, plan.members, processes.size)
        _expect_to_see(out, processes)
        return _run_blocks(plan, checkpoint_seconds, on_block, on_epoch)


def _make_plan(
    members: Sequence[Config], out: Path, resume: bool, data: DataArguments, launch: Launch, halving: Halving | None
) -> tuple[_Plan, JsonObject]:
    """Builds every group, so that a mistake in the last group does not cost the hours of the first.

    Returns:
      The plan, and the content of sweep.json.
    """
    everyone = merge(members, out, resume)
    all_groups = groups(everyone)
    recorded = read_sweep(out)[1]["data"] if resume and not is_fresh(out) else None

    def build_group(group: Group) -> Built:
        built = build(group.configs[0], **data._asdict())
        place_members(len(group.members), launch.layout)
        check_step(built.vae, built.data, FitOptions.from_keywords(built.fit_arguments), built.fit_arguments["hyperparams"])
        if recorded is not None:
            check_moments(out, recorded, built)
        return built

    *_, built = map(build_group, all_groups)
    if halving is not None:
        check_data(built, halving)
    description = describe(built, data.data_dir)
    content = {
        "arguments": launch.arguments,
        **({} if halving is None else {"halving": halving._asdict()}),
        "members": [dataclasses.asdict(member) for member in everyone],
        **{name: description[name] for name in ("data_dir", "data", "versions")},
    }
    if recorded is not None and recorded["sha256"] != content["data"]["sha256"]:
        message = f"the data set {built.dataset.name!r} differs from the one that the sweep in {out} began with."
        raise UserError(message, field="resume")
    return _Plan(out, everyone, all_groups, built, data, launch, halving), content


def _run_blocks(plan: _Plan, checkpoint_seconds: float, on_block: OnBlock, on_epoch: OnTick) -> bool:
    """Trains the remaining blocks of this process; returns False if the sweep was interrupted."""
    out, processes, built = plan.out, plan.launch.processes, plan.built
    folders = sorted(path.parent for path in (out / "blocks").glob("*/block.json"))
    remaining = [folder for folder in folders if not (folder / "result.json").exists()]
    blocks = [_load_block(folder, plan) for folder in remaining[processes.rank :: processes.size]]
    sizes = [sum(config.epochs for config in block.group.configs) for block in blocks]
    for i, block in enumerate(blocks):
        if len(plan.groups) > 1:  # built one at a time, because each holds the data on the device
            built = build(block.group.configs[0], **plan.data._asdict())

        def after_epoch(progress: MembersProgress | QueueProgress, block: Block = block, before: int = sum(sizes[:i])) -> bool:
            return bool(on_epoch(_tick(block.group, progress, before, sum(sizes))))

        if plan.halving is not None:
            is_finished = run_halving_block(
                block, built, plan.launch.layout, plan.halving, checkpoint_seconds, on_block, after_epoch
            )
            return is_finished  # its only block
        callbacks = Callbacks(after_epoch, lambda steps, progress: plan.launch.should_stop())
        if not run_block(block, built, plan.launch.layout, checkpoint_seconds, on_block, callbacks):
            with contextlib.suppress(Exception):  # processes that were not interrupted do not come to this barrier
                processes.wait("interrupted", timeout=10)
            return False
    processes.leave()
    return True


def _load_block(folder: Path, plan: _Plan) -> Block:
    content = read_block(folder, len(plan.members))
    numbers = content["members"]
    label = next(group.label for group in plan.groups if numbers[0] in group.members)
    group = Group(label, tuple(plan.members[i] for i in numbers), tuple(numbers))
    return Block(folder, group, content.get("layout", {}))


def _tick(group: Group, progress: MembersProgress | QueueProgress, before: int, total: int) -> Tick:
    """Returns the progress after an epoch of a block, given the member epochs of earlier blocks and of all."""
    epochs = group.configs[0].epochs
    is_whole = [status not in ("running", "waiting") for status in progress.status]
    done = sum(epochs if whole else len(h) for h, whole in zip(progress.histories, is_whole, strict=True))
    if isinstance(progress, MembersProgress):
        seconds = sum(history[-1].seconds for history in progress.histories if len(history) == progress.epoch)
    else:
        seconds = sum(
            history[-1].seconds
            for history, s in zip(progress.histories, progress.status, strict=True)
            if history and s == "running"
        )
    return Tick(group, before + done, total, seconds, progress)


def _write_plan(out: Path, content: JsonObject, members: Sequence[Config], num_processes: int) -> None:
    """Writes sweep.json and the blocks of members that have none: one for each group in each process's share."""
    write_json(out / "sweep.json", content)
    (out / "blocks").mkdir(exist_ok=True)
    folders = [path.parent for path in (out / "blocks").glob("*/block.json")]
    planned = {number for folder in folders for number in read_block(folder, len(members))["members"]}
    # A process that was killed may have written only some of the blocks.
    unplanned = [number for number in range(len(members)) if number not in planned]
    in_order = [number for group in groups([members[i] for i in unplanned], unplanned) for number in group.members]
    next_block = 1 + max((int(path.name) for path in (out / "blocks").iterdir() if path.name.isdigit()), default=-1)
    for share in np.array_split(np.array(in_order, int), num_processes):
        for group in groups([members[i] for i in share], share.tolist()):
            folder = out / "blocks" / f"{next_block:04d}"
            folder.mkdir(exist_ok=True)
            write_json(folder / "block.json", {"members": list(group.members)})
            next_block += 1


def _expect_to_see(out: Path, processes: Processes) -> None:
    """Raises `UserError` if `out` is not the folder that process 0 writes to."""
    written = (out / "sweep.json").read_text() if processes.rank == 0 else ""
    written = processes.broadcast("sweep.json", written)
    deadline = time.monotonic() + min(10.0, processes.timeout)  # network file systems show new files with a delay
    while processes.rank and not ((out / "sweep.json").exists() and (out / "sweep.json").read_text() == written):
        if time.monotonic() > deadline:
            message = f"process {processes.rank} does not see the files that process 0 wrote to {out}."
            raise UserError(message, field="out", fix="Use a shared folder.")
        time.sleep(0.2)
