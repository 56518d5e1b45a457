"""Blocks of a sweep directory: members of one group that a process trains together, saved and continued bit for bit."""

import dataclasses
import time
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from vae_jax._numerics.short_repr import short_repr
from vae_jax.build import Built
from vae_jax.errors import UserError, fits
from vae_jax.evaluation import NOT_FINITE, are_finite
from vae_jax.model import num_parameters
from vae_jax.runs.checkpoints import Checkpoints, RecordedElbo
from vae_jax.runs.config_file import versions
from vae_jax.runs.metrics_file import append_metrics, read_metrics, rewrite_metrics, sync_metrics, to_epoch, to_line
from vae_jax.runs.postmortem import examine
from vae_jax.runs.trained.model_file import ModelRecord, write_model_file
from vae_jax.storage.atomic import JsonObject, read_json, write_json
from vae_jax.sweep.in_memory import run_group
from vae_jax.sweep.members import Group
from vae_jax.sweep.statistics import rows
from vae_jax.training import Callbacks, EpochInterrupted, MembersFit, MembersProgress, MemberState, run_keys
from vae_jax.training.epoch import init_member
from vae_jax.training.placement import Placement, place
from vae_jax.training.queue import QueueProgress


class Layout(NamedTuple):
    """Placement of the members on devices, which changes no member's settings."""

    strategy: str = "auto"
    chunk: int | None = None
    data_parallel: int = 1
    devices: int | None = None  # of this process; None: all


class Block(NamedTuple):
    """A folder blocks/NNNN/ and the members that are trained in it."""

    path: Path
    group: Group
    recorded_layout: JsonObject  # the layout with which its training began; {} before


@short_repr
class Tick(NamedTuple):
    """Progress of a sweep after an epoch of a block."""

    group: Group
    done: int  # member epochs of this process so far, those of ended members counted as whole
    total: int
    seconds: float  # of the last epoch
    progress: MembersProgress | QueueProgress


OnBlock = Callable[[Group, str, int, list[str]], None]  # (group, description, epochs done, notes for the user)
OnTick = Callable[[Tick], bool | None]


def read_block(folder: Path, num_members: int) -> JsonObject:
    """Reads block.json.

    Args:
      folder: the block's folder.
      num_members: of the whole sweep.

    Returns:
      `members`, their numbers in the sweep, and once training has begun `layout`, as far as it changes bits.
    """
    advice = f"Remove {folder.name}/ and continue with `resume=True`: its members are trained again."
    content = read_json(folder / "block.json", "members", advice=advice)
    members, layout = content["members"], content.get("layout", {})
    are_numbers = isinstance(members, list) and all(isinstance(n, int) and 0 <= n < num_members for n in members)
    hints = typing.get_type_hints(Layout)
    is_layout = isinstance(layout, dict) and all(name in hints and fits(value, hints[name]) for name, value in layout.items())
    if not (are_numbers and is_layout and 0 < len(members) == len(set(members))):
        raise UserError(f"{folder / 'block.json'}: expected members of the sweep and their layout, got {content}. {advice}")
    return content


def members_template(built: Built, num_members: int) -> MemberState:
    """Returns zeros with the shapes and dtypes of the stacked states of a block's members."""
    member = jax.eval_shape(
        lambda key: init_member(built.vae, built.optimizer, key, built.objective, built.data.validation is not None),
        run_keys(0).init,
    )
    return jax.tree.map(lambda leaf: np.zeros((num_members, *leaf.shape), leaf.dtype), member)


def recorded_elbos(folder: Path, members: Sequence[int]) -> RecordedElbo:
    """Returns the test ELBOs of the members by epoch in metrics.jsonl, for `Checkpoints.restore`."""
    elbos = {(line["epoch"], line.get("member")): line.get("test_elbo") for line in read_metrics(folder)}
    return lambda epoch: [elbos.get((epoch, member)) for member in members]


def place_members(num_members: int, layout: Layout) -> Placement:
    """Returns the placement of the members on the devices of this process; raises `UserError` if it is impossible."""
    devices = jax.local_devices()
    if layout.devices is not None and not 1 <= layout.devices <= len(devices):
        raise UserError(
            field="devices", expected=f"1 to {len(devices)}, the number of devices of this process", got=layout.devices
        )
    return place(
        num_members,
        layout.strategy,
        chunk=layout.chunk,
        data_parallel=layout.data_parallel,
        devices=devices[: layout.devices],
    )


def continued_layout(layout: Layout, recorded: JsonObject, name: str) -> Layout:
    """Returns the layout of a block with what was recorded when its training began.

    Raises:
      UserError: a different layout is asked for, or this process has too few devices.
    """
    began = {field: value for field, value in recorded.items() if value is not None}
    for field, there in began.items():
        if (here := getattr(layout, field)) not in (Layout._field_defaults[field], there):
            message = f"{name} began with {there}, not {here}."
            raise UserError(message, field=field, fix="Leave it out to continue bit for bit.")
    if (devices := began.get("devices", 1)) > len(jax.local_devices()):
        raise UserError(
            f"{name} began on {devices} devices, and this process has {len(jax.local_devices())}.",
            fix=f"Continue on at least as many devices (on CPU: `devices={devices}`).",
        )
    return layout._replace(**began)


def run_block(
    block: Block,
    built: Built,
    layout: Layout,
    checkpoint_seconds: float,
    on_block: OnBlock,
    callbacks: Callbacks,
) -> bool:
    """Trains a block to its end, from its last checkpoint.

    Args:
      block: the members and their folder.
      built: data and model of the block's group.
      layout: as asked for; if the training began earlier, the recorded one is used.
      checkpoint_seconds: least time between checkpoints.
      on_block: called when the block starts.
      callbacks: functions to call after each epoch and chunk; a true result ends the training. If it ends within an epoch,
        the block continues from its last checkpoint.

    Returns:
      False if the training was interrupted.
    """
    path, count = block.path, len(block.group.members)
    layout = continued_layout(layout, block.recorded_layout, path.name)
    placement = place_members(count, layout)
    if block.recorded_layout:
        placement = placement._replace(description=placement.description.replace("as requested", "as it began"))
    with Checkpoints(path / "checkpoints", in_little_memory=built.data.is_on_disk) as checkpoints:
        start, lines, notes = _restore(block, built, checkpoints)
        rewrite_metrics(path, lines)
        description = f"{num_parameters(built.vae):,} parameters each; {placement.description}"
        on_block(block.group, description, start.epoch if start else 0, [f"{path.name}: {note}" for note in notes])
        recorder = _Recorder(block, built, checkpoints, start, checkpoint_seconds)

        def after_epoch(progress: MembersProgress) -> bool:
            recorder.record(progress)
            if start is not None:
                _delete(start.members)  # the members have gone on from copies of them
            return bool(callbacks.on_progress(progress))

        if not block.recorded_layout:
            # Only under vmap and with shared batches does the number of devices change bits.
            devices_matter = placement.strategy == "vmap" or layout.data_parallel > 1
            used = layout._replace(strategy=placement.strategy, devices=placement.mesh.size if devices_matter else None)
            write_json(path / "block.json", {"members": list(block.group.members), "layout": used._asdict()})
        try:
            fit = run_group(block.group, built, placement, start, callbacks._replace(on_progress=after_epoch))
        except EpochInterrupted:
            return False  # the block continues from its last checkpoint
        if fit.progress.epoch not in checkpoints.epochs():
            recorder.save(fit.progress)
    if "interrupted" in fit.status:
        return False
    if built.data.is_on_disk and not {"diverged", NOT_FINITE} & set(fit.status):
        _delete(fit.progress.members.state.opt_state)  # two thirds of the memory, and saved
    _write_result(block, built, fit)
    return True


def _delete(tree: object) -> None:
    """Frees the memory of the arrays of JAX in a tree, whoever refers to them."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not leaf.is_deleted():
            leaf.delete()


class _Recorder:
    """Writes metrics.jsonl and the checkpoints of a block while it trains."""

    def __init__(
        self,
        block: Block,
        built: Built,
        checkpoints: Checkpoints,
        start: MembersProgress | None,
        checkpoint_seconds: float,
    ):
        self._path, self._members, self._checkpoints = block.path, block.group.members, checkpoints
        self._num_used = len(built.dataset.train) // built.config.batch_size * built.config.batch_size
        self._num_recorded = [len(history) for history in start.histories] if start else [0] * len(self._members)
        self._checkpoint_seconds = checkpoint_seconds
        self._last_saved = time.perf_counter()

    def record(self, progress: MembersProgress) -> None:
        """Appends the lines of the last epoch, and saves if the last checkpoint is old enough."""
        for i, history in enumerate(progress.histories):
            if len(history) > self._num_recorded[i]:
                line = to_line(history[-1], self._num_used, sum(epoch.seconds for epoch in history))
                append_metrics(self._path, {"member": self._members[i], **line})
                self._num_recorded[i] = len(history)
            elif progress.status[i] == "diverged" and len(history) == progress.epoch - 1:
                line = {"member": self._members[i], "epoch": progress.epoch, "diverged": True}
                append_metrics(self._path, line)
        if time.perf_counter() - self._last_saved >= self._checkpoint_seconds:
            self.save(progress)
            self._last_saved = time.perf_counter()

    def save(self, progress: MembersProgress) -> None:
        """Saves the states of the members."""
        sync_metrics(self._path)
        count = len(self._members)
        members = jax.tree.map(lambda leaf: leaf if len(leaf) == count else leaf[:count], progress.members)
        last = [history[-1] if len(history) == progress.epoch else None for history in progress.histories]
        self._checkpoints.save(progress.epoch, members.state, members.best, [epoch and epoch.test.elbo for epoch in last])


def _write_result(block: Block, built: Built, fit: MembersFit) -> None:
    """Writes result.json, after a record of each member that diverged and the parameters of all."""
    for i, status in enumerate(fit.status):
        record = block.path / f"diverged-{block.group.members[i]}.json"
        record.unlink(missing_ok=True)  # of an earlier attempt, on a different device
        if status == "diverged":
            state = jax.tree.map(lambda leaf, i=i: leaf[i], jax.device_get(fit.progress.members.state))
            write_json(record, examine(built, block.group.configs[i], state))
    write_models(block.path, block.group, built, fit)  # before result.json, without which the members are trained again
    write_json(block.path / "result.json", {"rows": rows(block.group, built, fit), "placement": fit.placement.description})


def write_models(path: Path, group: Group, built: Built, fit: MembersFit) -> None:
    """Writes model.safetensors with the parameters to evaluate of a group into the folder of its block."""
    assert built.description is not None
    configs, parts = [dataclasses.asdict(config) for config in group.configs], built.parts.records()
    record = ModelRecord(configs, built.description, parts, fit.epochs, group.members, versions=versions())
    write_model_file(path, record, fit.params)


def _restore(
    block: Block, built: Built, checkpoints: Checkpoints
) -> tuple[MembersProgress | None, list[JsonObject], list[str]]:
    """Returns the progress at the last checkpoint or None, the lines of metrics.jsonl up to there, and notes for the user."""
    template = members_template(built, len(block.group.members))
    elbos = recorded_elbos(block.path, block.group.members)
    restored = checkpoints.restore((template.state, template.best), elbos)
    if restored is None:
        return None, [], []
    lines = [line for line in read_metrics(block.path) if line["epoch"] <= restored.epoch]
    steps = len(built.dataset.train) // built.config.batch_size
    progress = recorded_progress(MemberState(restored.state, restored.best), block.group, lines, restored.epoch, steps)
    return progress, lines, restored.complaints


def recorded_progress(
    members: MemberState, group: Group, lines: Sequence[JsonObject], epoch: int, steps_per_epoch: int
) -> MembersProgress:
    """Returns the progress of a block after `epoch` epochs, from its checkpoint and metrics.jsonl.

    Args:
      members: the stacked states of the members.
      group: the members.
      lines: of metrics.jsonl, up to this epoch.
      epoch: of the checkpoint.
      steps_per_epoch: number of steps in an epoch.

    Raises:
      UserError: lines are missing.
    """
    lines_by_member = [[line for line in lines if line.get("member") == number] for number in group.members]
    histories = tuple(
        tuple(to_epoch(line) for line in member_lines if not line.get("diverged")) for member_lines in lines_by_member
    )
    has_diverged = [bool(member_lines and member_lines[-1].get("diverged")) for member_lines in lines_by_member]
    status = tuple(
        "diverged" if diverged else "stopped early" if len(history) < epoch else "running"
        for diverged, history in zip(has_diverged, histories, strict=True)
    )
    num_steps, best_epochs = np.asarray(members.state.step), np.asarray(members.best.epoch)
    patience = group.configs[0].early_stopping

    def is_whole(i: int) -> bool:
        count = len(histories[i])
        may_end_here = (
            count == epoch
            or (patience and count - best_epochs[i] >= patience)
            or (count and not are_finite(histories[i][-1].test, histories[i][-1].validation))
        )
        if has_diverged[i]:
            has_steps = num_steps[i] // steps_per_epoch == count
        else:
            has_steps = num_steps[i] == count * steps_per_epoch and may_end_here
        numbers = [line["epoch"] for line in lines_by_member[i]]
        return numbers == list(range(1, len(numbers) + 1)) and bool(has_steps)

    if not all(map(is_whole, range(len(histories)))):
        raise UserError(f"members {list(group.members)}: metrics.jsonl lacks epochs of the checkpoint; it was altered.")
    return MembersProgress(members, histories, status, epoch)
