"""Sweep directories: members in blocks that are saved, resumed and extended.

A sweep directory contains sweep.json (members, versions, data) and blocks/NNNN/, each the share of one process: block.json,
metrics.jsonl, checkpoints/, result.json, and diverged-N.json for a member N that diverged. A block with a result.json is never
repeated. Once all members have ended, `results.write_results` adds results.csv, curves.csv and summary.json.
"""

import contextlib
import dataclasses
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np

from vae_jax.build import Built, Initial, PartOptions, Parts, build, resolve_columns, with_dataset
from vae_jax.config import Config
from vae_jax.data import Dataset
from vae_jax.errors import DataWarning, UserError
from vae_jax.runs.config_file import check_moments, check_recorded_parts, describe
from vae_jax.runs.metrics_file import read_metrics
from vae_jax.runs.trained.initial import check_same_init, recorded_init, write_initial
from vae_jax.storage.atomic import JsonObject, write_json
from vae_jax.storage.directories import PathLike, as_path, check_out, exclusive, is_fresh
from vae_jax.sweep.blocks import Block, Layout, OnBlock, OnTick, Tick, place_members, read_block, run_block
from vae_jax.sweep.member_metrics import MemberMetrics
from vae_jax.sweep.members import Group, check_members, groups, with_custom_parts
from vae_jax.sweep.processes import Processes
from vae_jax.sweep.successive_halving.block import run_halving_block
from vae_jax.sweep.successive_halving.in_memory import check_data
from vae_jax.sweep.successive_halving.rule import Halving
from vae_jax.sweep.sweep_file import check_halving_directory, merge, read_sweep
from vae_jax.training import Callbacks, FitOptions, MembersProgress, check_step
from vae_jax.training.metrics import OnEpoch
from vae_jax.training.queue import QueueProgress

_RESUME_PURPOSE = "to continue it or to add members"


class Launch(NamedTuple):
    """Placement and processes of a sweep, which change no member's settings, and a way to end it."""

    layout: Layout = Layout()  # if it changes bits, a block that has begun keeps its layout
    processes: Processes = Processes()  # from `processes.initialize`; each takes its share of the members
    arguments: JsonObject | None = None  # recorded in sweep.json, so that a command line can continue the sweep
    should_stop: Callable[[], bool] = lambda: False
    """Called every few megabytes of streamed data. A true result ends the sweep, which can continue from a checkpoint."""


class BuildArguments(NamedTuple):
    """Arguments of `build` besides the settings: where the data are, and the parts of the user."""

    data_dir: str | None = None
    dataset: Dataset | None = None  # in memory
    parts: PartOptions = {}  # noqa: RUF012 (never changed)
    init: Initial | None = None  # parameters of a trained model from which all members start

    def build(self, config: Config) -> Built:
        """Builds data and model of a member."""
        return build(config, data_dir=self.data_dir, dataset=self.dataset, init=self.init, **self.parts)


class _Plan(NamedTuple):
    """A sweep that is ready to be written and trained."""

    out: Path
    members: list[Config]  # those that the directory already has come first
    groups: list[Group]
    built: Built  # of the last group
    arguments: BuildArguments
    launch: Launch
    halving: Halving | None


class AfterEpoch(NamedTuple):
    """Functions to call after an epoch of a block. If one returns True, the sweep ends there."""

    metrics: MemberMetrics
    on_progress: OnTick


def run_sweep(
    members: Sequence[Config],
    out: PathLike,
    *,
    resume: bool = False,
    launch: Launch = Launch(),  # noqa: B008 (a NamedTuple cannot be changed)
    halving: Halving | None = None,
    data_dir: str | None = None,
    dataset: Dataset | None = None,
    init: Initial | None = None,
    checkpoint_seconds: float = 15.0,
    on_block: OnBlock = lambda group, description, epochs_done, notes: None,
    on_epoch: OnEpoch = lambda metrics: None,
    on_progress: OnTick = lambda tick: None,
    **parts: Unpack[PartOptions],
) -> bool:
    """Trains the members that have not ended into a directory, and continues interrupted ones bit for bit.

    Args:
      members: as for `sweep.sweep`. With `resume`, those that the directory does not have yet are added to it. If all of its
        members are given with more epochs than before, they continue to that length.
      out: the sweep directory, which all processes must see.
      resume: continue the sweep in `out`. If nothing was written yet, the sweep starts.
      launch: placement and processes.
      halving: settings of successive halving, see `sweep.halving`. A sweep with it has one process, and no members are added.
      data_dir: where TFDS finds prepared data.
      dataset: a data set in memory for all members. The directory records its name and fingerprint. Pass it again to continue
        the sweep.
      init: parameters of a trained model from which all members start (from `runs.init_from`). The directory keeps a copy, so
        that they are not needed again.
      checkpoint_seconds: least time between checkpoints, which are written at the end of an epoch.
      on_block: called when a block starts, with its group, a description of the parameter count and the placement, the number
        of epochs done, and notes for the user.
      on_epoch: called after each epoch, once for each member of this process that has completed it (see `sweep.sweep`). If a
        call returns True, the sweep ends after this epoch, and a later call continues it.
      on_progress: called after each epoch with a `Tick`. A true result ends the sweep after it.
      **parts: parts of the user's own for all members (see `build.PartOptions`). The directory records the name and the file
        of each. Pass them again to continue the sweep.

    Returns:
      True if all members have ended, False if the sweep was interrupted.

    Raises:
      UserError: before anything is written, if a member cannot be trained or the directory cannot be written.
    """
    out, processes = as_path(out), launch.processes
    if dataset is not None:
        members = [with_dataset(member, dataset) for member in members]
    members = with_custom_parts(members, Parts(**parts))
    members = resolve_columns(members, data_dir, dataset)
    check_members(members)
    check_halving_directory(members, out, resume, halving, processes)
    processes.check_devices()
    if processes.size > len(members):
        got = f"{processes.size} for {len(members)}"
        raise UserError(field="num_processes", expected="at most one process a member", got=got)
    check_out(out, resume, read_sweep, _RESUME_PURPOSE)
    plan, content = _make_plan(members, out, resume, BuildArguments(data_dir, dataset, parts, init), launch, halving)
    processes.agree("configuration", json.dumps(content, indent=1), "configuration")
    # The first process holds the lock on behalf of all processes of the sweep.
    with exclusive(out) if processes.rank == 0 else contextlib.nullcontext():
        if processes.rank == 0:
            check_out(out, resume, read_sweep, _RESUME_PURPOSE)
            if merge(members, out, resume) != plan.members:
                message = f"another process has changed the sweep in {out} in the meantime."
                raise UserError(message, field="out", fix="Start the sweep again.")
            _write_plan(out, content, plan.members, processes.size)
            write_initial(out, plan.arguments.init)
        _expect_to_see(out, processes)
        after_epoch = AfterEpoch(MemberMetrics(plan.members, on_epoch), on_progress)
        return _run_blocks(plan, checkpoint_seconds, on_block, after_epoch)


def _make_plan(
    members: Sequence[Config],
    out: Path,
    resume: bool,
    arguments: BuildArguments,
    launch: Launch,
    halving: Halving | None,
) -> tuple[_Plan, JsonObject]:
    """Builds every group, so that a mistake in the last group does not cost the hours of the first.

    Returns:
      The plan, and the content of sweep.json.
    """
    everyone = merge(members, out, resume)
    all_groups = groups(everyone)
    recorded, history = None, {}
    if resume and not is_fresh(out):
        began, sweep = read_sweep(out)
        recorded = sweep["data"]
        if arguments.init is None:
            arguments = arguments._replace(init=recorded_init(out))
        check_same_init(out, sweep.get("init_from"), arguments.init)
        history = _changed_epochs(sweep, began, everyone)
        for note in check_recorded_parts(out, sweep, began, Parts(**arguments.parts), "run_sweep"):
            warnings.warn(note, DataWarning, stacklevel=4)

    def build_group(group: Group) -> Built:
        built = arguments.build(group.configs[0])
        place_members(len(group.members), launch.layout)
        check_step(built.vae, built.data, FitOptions.from_keywords(built.fit_arguments), built.fit_arguments["hyperparams"])
        if recorded is not None:
            check_moments(out, recorded, built)
        return built

    *_, built = map(build_group, all_groups)
    if halving is not None:
        check_data(built, halving)
    description = describe(built, arguments.data_dir)
    content = {
        "arguments": launch.arguments,
        **({} if halving is None else {"halving": halving._asdict()}),
        "members": [dataclasses.asdict(member) for member in everyone],
        **{name: description[name] for name in ("data_dir", "data", "parts", "versions", "init_from") if name in description},
        **history,
    }
    if recorded is not None and recorded["sha256"] != content["data"]["sha256"]:
        message = f"the data set {built.dataset.name!r} differs from the one that the sweep in {out} began with."
        raise UserError(message, field="resume")
    return _Plan(out, everyone, all_groups, built, arguments, launch, halving), content


def _changed_epochs(recorded: JsonObject, began: Sequence[Config], everyone: Sequence[Config]) -> JsonObject:
    """Returns the entry of sweep.json about earlier lengths of its members; {} if they have had one."""
    there, here = ([member.epochs for member in members[: len(began)]] for members in (began, everyone))
    changes = list(recorded.get("changed_epochs", []))
    if there != here:
        changes.append({"from": sorted(set(there)), "to": sorted(set(here))})
    return {"changed_epochs": changes} if changes else {}


def _run_blocks(plan: _Plan, checkpoint_seconds: float, on_block: OnBlock, after: AfterEpoch) -> bool:
    """Trains the remaining blocks of this process; returns False if the sweep was interrupted."""
    out, processes, built = plan.out, plan.launch.processes, plan.built
    folders = sorted(path.parent for path in (out / "blocks").glob("*/block.json"))
    remaining = [folder for folder in folders if not (folder / "result.json").exists()]
    blocks = [_load_block(folder, plan) for folder in remaining[processes.rank :: processes.size]]
    sizes = [sum(config.epochs for config in block.group.configs) for block in blocks]
    for i, block in enumerate(blocks):
        if len(plan.groups) > 1:  # built one at a time, because each holds the data on the device
            built = plan.arguments.build(block.group.configs[0])

        def after_epoch(
            progress: MembersProgress | QueueProgress,
            block: Block = block,
            built: Built = built,
            before: int = sum(sizes[:i]),
        ) -> bool:
            is_over = after.metrics.report(block.group, built, progress)
            return is_over | bool(after.on_progress(_tick(block.group, progress, before, sum(sizes))))

        if plan.halving is not None:
            after.metrics.skip(read_metrics(block.path))
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
    if (out / "sweep.json").exists() and read_sweep(out)[0] != members[: len(read_sweep(out)[0])]:  # their length changes
        for result in (out / "blocks").glob("*/result.json"):
            result.unlink()  # first, because the blocks would count as finished
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
