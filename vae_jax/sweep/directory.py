"""Sweep directories: blocks of members that are saved, resumed and added to; the table once all have ended.

sweep.json (members, versions, data) · blocks/NNNN/ (block.json, metrics.jsonl, checkpoints/, result.json: the part of one
process; diverged-N.json of a member that did) · results.csv · curves.csv · summary.json. A block is never repeated once its
result.json is there.
"""

import contextlib
import dataclasses
import json
import time
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vae_jax import config as config_module
from vae_jax._numerics.short_repr import short_repr
from vae_jax.build import Built, build
from vae_jax.config import Config
from vae_jax.errors import UserError, fits
from vae_jax.evaluation import are_finite
from vae_jax.model import num_parameters
from vae_jax.runs.checkpoints import Checkpoints, Told
from vae_jax.runs.description import check_moments, describe
from vae_jax.runs.metrics_file import append_metrics, read_metrics, rewrite_metrics, sync_metrics, to_epoch, to_line
from vae_jax.runs.postmortem import examine
from vae_jax.storage.atomic import read_json, write_json
from vae_jax.storage.directories import PathLike, as_path, check_out, exclusive, is_fresh
from vae_jax.sweep.in_memory import run_group
from vae_jax.sweep.members import SHARED, Group, check_members, groups, identity
from vae_jax.sweep.processes import Processes
from vae_jax.sweep.statistics import rows
from vae_jax.training import FitOptions, MembersProgress, MemberState, check_step, run_keys
from vae_jax.training.epoch import init_member
from vae_jax.training.placement import Placement, place


class Layout(NamedTuple):
    """How to run, which changes no member's settings."""

    strategy: str = "auto"
    chunk: int | None = None
    data_parallel: int = 1
    devices: int | None = None  # of this process to use; all by default


@short_repr
class Tick(NamedTuple):
    """What a progress bar is told after each epoch of a block."""

    group: Group
    done: int  # member epochs of this process so far, those of ended members counted as whole
    total: int
    seconds: float  # of the last epoch
    progress: MembersProgress


def read_sweep(path: PathLike) -> tuple[list[Config], dict[str, Any]]:
    """The members of a sweep directory, and all of sweep.json."""
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
        content["data"]["sha256"]
        if not isinstance(content.get("data_dir"), str | None):
            raise ValueError(f"data_dir: expected a path or null, got {content['data_dir']!r}")
        return members, content
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path / 'sweep.json'}: cannot be read: {error}") from None


def merge(members: Sequence[Config], out: PathLike, resume: bool) -> list[Config]:
    """All members of the sweep, those that the directory has already first."""
    out = as_path(out)
    if not resume or is_fresh(out):
        return list(members)
    old, _ = read_sweep(out)
    for name in SHARED:
        if (there := getattr(old[0], name)) != (here := getattr(members[0], name)):
            raise UserError(f"--resume {out}: the sweep has {name} = {there}, not {here}. All its members share the data.")
    known = {identity(member) for member in old}
    return [*old, *(member for member in members if identity(member) not in known)]


def run_sweep(
    members: Sequence[Config],
    out: PathLike,
    *,
    resume: bool = False,
    layout: Layout | None = None,
    processes: Processes | None = None,
    arguments: dict[str, Any] | None = None,
    data_dir: str | None = None,
    checkpoint_seconds: float = 15.0,
    on_block: Callable[[Group, str, int, list[str]], None] = lambda group, why, done, notes: None,
    on_epoch: Callable[[Tick], bool | None] = lambda tick: None,
) -> bool:
    """Trains the members that have not ended, into a directory; goes on with what was interrupted, bit for bit.

    Args:
      members: as of `sweep.sweep`; with `resume`, those that the directory does not have yet are added to it.
      out: the sweep directory, seen by all processes.
      layout: strategy, chunk, data_parallel of `sharding.place`; where they change bits, a block goes on as it began.
      processes: from `processes.initialize`; each takes its share of the members.
      arguments: recorded in sweep.json, for whoever wants to continue it.
      data_dir: where TFDS finds prepared data.
      checkpoint_seconds: least time between checkpoints, written at the end of an epoch.
      on_block: called when a block starts, with a group, its parameter count and why it is laid out as it is, the epochs done,
        and notes for the user.
      on_epoch: called after each epoch; a true answer ends the sweep after it.

    Returns:
      Whether all members have ended. If not, the sweep was interrupted.
    """
    out, layout, processes = as_path(out), layout or Layout(), processes or Processes()
    check_members(members)
    processes.check_devices()
    if processes.size > len(members):
        raise UserError(f"--num-processes: expected at most one process a member, got {processes.size} for {len(members)}.")
    check_out(out, resume, read_sweep, "to go on with it or to add members")
    everyone = merge(members, out, resume)
    # Everything is built before anything is written, so that the last group's mistake does not cost the first one's hours.
    kinds = groups(everyone)
    recorded = read_sweep(out)[1]["data"] if resume and not is_fresh(out) else None

    def built_for(group: Group) -> Built:
        built = _checked(build(group.configs[0], data_dir=data_dir), len(group.members), layout)
        if recorded is not None:
            check_moments(out, recorded, built)
        return built

    *_, built = map(built_for, kinds)
    content = {"arguments": arguments, **_describe(everyone, built, data_dir)}
    if recorded is not None and recorded["sha256"] != content["data"]["sha256"]:
        raise UserError(f"--resume {out}: the data set {everyone[0].dataset!r} is not the one that the sweep began with.")
    processes.agree("configuration", json.dumps(content, indent=1), "configuration")
    with exclusive(out) if processes.rank == 0 else contextlib.nullcontext():  # one sweep; the others are its processes
        if processes.rank == 0:
            check_out(out, resume, read_sweep, "to go on with it or to add members")
            if merge(members, out, resume) != everyone:
                raise UserError(f"--out {out}: another process has changed the sweep meanwhile. Give the same command again.")
            _plan(out, content, everyone, processes.size)
        _expect_to_see(out, processes)
        return _run_blocks(out, everyone, kinds, built, layout, processes, data_dir, checkpoint_seconds, on_block, on_epoch)


def _run_blocks(
    out: Path,
    everyone: Sequence[Config],
    kinds: Sequence[Group],
    built: Built,
    layout: Layout,
    processes: Processes,
    data_dir: str | None,
    checkpoint_seconds: float,
    on_block: Callable[[Group, str, int, list[str]], None],
    on_epoch: Callable[[Tick], bool | None],
) -> bool:
    """Trains what is left of the blocks that fall to this process; False if interrupted."""
    blocks = sorted(path.parent for path in (out / "blocks").glob("*/block.json"))
    todo = [path for path in blocks if not (path / "result.json").exists()]
    mine = {path: read_block(path, len(everyone)) for path in todo[processes.rank :: processes.size]}
    sizes = {path: sum(everyone[i].epochs for i in block["members"]) for path, block in mine.items()}
    before = 0
    for path, block in mine.items():
        numbers = block["members"]
        whole = next(group for group in kinds if numbers[0] in group.members)
        group = Group(whole.label, tuple(everyone[i] for i in numbers), tuple(numbers))
        if len(kinds) > 1:  # one at a time: each holds the data on the device
            built = build(group.configs[0], data_dir=data_dir)

        def tell(progress: MembersProgress, group: Group = group, before: int = before) -> bool:
            epochs = group.configs[0].epochs
            done = sum(len(h) if s == "running" else epochs for h, s in zip(progress.histories, progress.status, strict=True))
            seconds = sum(history[-1].seconds for history in progress.histories if len(history) == progress.epoch)
            return bool(on_epoch(Tick(group, before + done, sum(sizes.values()), seconds, progress)))

        began_with = block.get("layout", {})
        if not _run_block(path, group, built, began_with, layout, checkpoint_seconds, on_block, tell):
            with contextlib.suppress(Exception):  # those that were not interrupted do not come
                processes.wait("interrupted", timeout=10)
            return False
        before += sizes[path]
    processes.leave()
    return True


def _checked(built: Built, num_members: int, layout: Layout) -> Built:
    """The same; raises `UserError` for a layout or a train step that cannot be, before anything is written."""
    _place(num_members, layout)
    options = FitOptions.from_keywords(built.fit_arguments)
    check_step(built.vae, built.data, options, built.fit_arguments["hyperparams"])
    return built


def _place(num_members: int, layout: Layout) -> Placement:
    devices = jax.local_devices()
    if layout.devices is not None and not 1 <= layout.devices <= len(devices):
        raise UserError(f"--devices: expected 1 to {len(devices)}, which this process has, got {layout.devices}.")
    return place(
        num_members,
        layout.strategy,
        chunk=layout.chunk,
        data_parallel=layout.data_parallel,
        devices=devices[: layout.devices],
    )


def _describe(members: Sequence[Config], built: Built, data_dir: str | None) -> dict[str, Any]:
    description = describe(built, data_dir)
    kept = {name: description[name] for name in ("data_dir", "data", "versions")}
    return {"members": [dataclasses.asdict(member) for member in members], **kept}


def _plan(out: Path, content: dict[str, Any], members: Sequence[Config], num_processes: int) -> None:
    """Writes sweep.json and a block for each group among each process's share of the members that have none."""
    write_json(out / "sweep.json", content)
    (out / "blocks").mkdir(exist_ok=True)
    blocks = [path.parent for path in (out / "blocks").glob("*/block.json")]
    planned = {number for block in blocks for number in read_block(block, len(members))["members"]}
    unplanned = [number for number in range(len(members)) if number not in planned]  # a kill may have come in between
    in_order = [number for group in groups([members[i] for i in unplanned], unplanned) for number in group.members]
    next_block = 1 + max((int(path.name) for path in (out / "blocks").iterdir() if path.name.isdigit()), default=-1)
    for share in np.array_split(np.array(in_order, int), num_processes):
        for group in groups([members[i] for i in share], share.tolist()):
            folder = out / "blocks" / f"{next_block:04d}"
            folder.mkdir(exist_ok=True)
            write_json(folder / "block.json", {"members": list(group.members)})
            next_block += 1


def _expect_to_see(out: Path, processes: Processes) -> None:
    """Raises `UserError` where `out` is not the folder that process 0 writes to."""
    written = (out / "sweep.json").read_text() if processes.rank == 0 else ""
    written = processes.tell("sweep.json", written)
    deadline = time.monotonic() + min(10.0, processes.timeout)  # network file systems take their time
    while processes.rank and not ((out / "sweep.json").exists() and (out / "sweep.json").read_text() == written):
        if time.monotonic() > deadline:
            raise UserError(f"--out {out}: process {processes.rank} does not see what process 0 wrote. Use a shared folder.")
        time.sleep(0.2)


def read_block(block: Path, count: int) -> dict[str, Any]:
    """block.json of a sweep of `count` members: its own, and once it began its layout, as far as that changes bits."""
    advice = f"Remove {block.name}/ and continue with --resume: its members are trained again."
    content = read_json(block / "block.json", "members", advice=advice)
    members, layout = content["members"], content.get("layout", {})
    numbers = isinstance(members, list) and all(isinstance(number, int) and 0 <= number < count for number in members)
    hints = typing.get_type_hints(Layout)
    known = isinstance(layout, dict) and all(name in hints and fits(value, hints[name]) for name, value in layout.items())
    if not (numbers and known and 0 < len(members) == len(set(members))):
        raise UserError(f"{block / 'block.json'}: expected members of the sweep and how they run, got {content}. {advice}")
    return content


def member_template(built: Built, count: int) -> MemberState:
    """Returns zeros of the shapes and dtypes of the stacked members of a block."""
    member = jax.eval_shape(
        lambda key: init_member(built.vae, built.optimizer, key, built.objective, built.data.validation is not None),
        run_keys(0).init,
    )
    return jax.tree.map(lambda leaf: np.zeros((count, *leaf.shape), leaf.dtype), member)


def _run_block(
    path: Path,
    group: Group,
    built: Built,
    began_with: dict[str, Any],
    layout: Layout,
    checkpoint_seconds: float,
    on_block: Callable[[Group, str, int, list[str]], None],
    on_epoch: Callable[[MembersProgress], bool],
) -> bool:
    """Trains a block to its end, from its last checkpoint on; False if interrupted."""
    count = len(group.members)
    layout = _as_begun(layout, began_with, path.name)
    placement = _place(count, layout)
    if began_with:
        placement = placement._replace(description=placement.description.replace("as requested", "as it began"))
    start, lines, notes = None, [], []
    with Checkpoints(path / "checkpoints") as checkpoints:
        template = member_template(built, count)
        if (found := checkpoints.restore((template.state, template.best), told(path, group.members))) is not None:
            epoch, state, best, notes = found
            lines = [line for line in read_metrics(path) if line["epoch"] <= epoch]
            steps = len(built.dataset.train) // built.config.batch_size
            start = _progress(MemberState(state, best), group, lines, epoch, steps)
        rewrite_metrics(path, lines)
        why = f"{num_parameters(built.vae):,} parameters each; {placement.description}"
        on_block(group, why, start.epoch if start else 0, [f"{path.name}: {note}" for note in notes])
        last_saved = time.perf_counter()
        num_used = len(built.dataset.train) // built.config.batch_size * built.config.batch_size
        seen = [len(history) for history in start.histories] if start else [0] * count

        def save(progress: MembersProgress) -> None:
            sync_metrics(path)
            members = jax.tree.map(lambda leaf: leaf[:count], jax.device_get(progress.members))
            last = [history[-1] if len(history) == progress.epoch else None for history in progress.histories]
            elbos = [epoch and epoch.test.elbo for epoch in last]
            checkpoints.save(progress.epoch, members.state, members.best, elbos)

        def after_epoch(progress: MembersProgress) -> bool:
            nonlocal last_saved
            for i, history in enumerate(progress.histories):
                if len(history) > seen[i]:
                    line = to_line(history[-1], num_used, sum(epoch.seconds for epoch in history))
                    append_metrics(path, {"member": group.members[i], **line})
                    seen[i] = len(history)
                elif progress.status[i] == "diverged" and len(history) == progress.epoch - 1:
                    line = {"member": group.members[i], "epoch": progress.epoch, "diverged": True}
                    append_metrics(path, line)
            if time.perf_counter() - last_saved >= checkpoint_seconds:
                save(progress)
                last_saved = time.perf_counter()
            return on_epoch(progress)

        if not began_with:
            together = placement.strategy == "vmap" or layout.data_parallel > 1  # then the number of devices changes bits
            used = layout._replace(strategy=placement.strategy, devices=placement.mesh.size if together else None)
            write_json(path / "block.json", {"members": list(group.members), "layout": used._asdict()})
        fit = run_group(group, built, placement, start, after_epoch)
        if fit.progress.epoch not in checkpoints.epochs():
            save(fit.progress)
    if "interrupted" in fit.status:
        return False
    for i, status in enumerate(fit.status):
        record = path / f"diverged-{group.members[i]}.json"
        record.unlink(missing_ok=True)  # of an earlier try, elsewhere
        if status == "diverged":
            state = jax.tree.map(lambda leaf, i=i: leaf[i], jax.device_get(fit.progress.members.state))
            write_json(record, examine(built, group.configs[i], state))
    write_json(path / "result.json", {"rows": rows(group, built, fit), "placement": fit.placement.description})
    return True


def _as_begun(layout: Layout, began_with: dict[str, Any], name: str) -> Layout:
    """The layout with what the block began with; raises `UserError` where another is asked for, or it cannot be."""
    began = {field: value for field, value in began_with.items() if value is not None}
    for field, there in began.items():
        if (here := getattr(layout, field)) not in (Layout._field_defaults[field], there):
            flag = f"--{field.replace('_', '-')}"
            raise UserError(f"{flag}: {name} began with {there}, not {here}; leave it out to go on, bit for bit.")
    if (devices := began.get("devices", 1)) > len(jax.local_devices()):
        raise UserError(
            f"{name} began on {devices} devices, and this process has {len(jax.local_devices())}. Continue where there are as "
            f"many (on CPU: --devices {devices})."
        )
    return layout._replace(**began)


def told(block: Path, members: Sequence[int]) -> Told:
    """What the block's metrics.jsonl says of an epoch, for `Checkpoints.restore`: the test ELBO of each member, or None."""
    elbos = {(line["epoch"], line.get("member")): line.get("test_elbo") for line in read_metrics(block)}
    return lambda epoch: [elbos.get((epoch, member)) for member in members]


def _progress(members: MemberState, group: Group, lines: Sequence[dict[str, Any]], epoch: int, steps: int) -> MembersProgress:
    """Where a block was after `epoch` epochs of so many steps, from its checkpoint and its record."""
    own = [[line for line in lines if line.get("member") == number] for number in group.members]
    histories = tuple(tuple(to_epoch(line) for line in mine if not line.get("diverged")) for mine in own)
    ended = ("stopped early" if len(history) < epoch else "running" for history in histories)
    status = tuple("diverged" if mine and mine[-1].get("diverged") else word for mine, word in zip(own, ended, strict=True))
    made, best = np.asarray(members.state.step), np.asarray(members.best.epoch)
    patience = group.configs[0].early_stopping

    def is_whole(i: int) -> bool:
        count = len(histories[i])
        stopped = (
            count == epoch
            or (patience and count - best[i] >= patience)
            or (count and not are_finite(histories[i][-1].test, histories[i][-1].validation))
        )
        ended = made[i] // steps == count if status[i] == "diverged" else made[i] == count * steps and stopped
        return [line["epoch"] for line in own[i]] == list(range(1, len(own[i]) + 1)) and bool(ended)

    if not all(map(is_whole, range(len(own)))):
        raise UserError(f"members {list(group.members)}: metrics.jsonl lacks epochs of the checkpoint; it was altered.")
    return MembersProgress(members, histories, status, epoch)
