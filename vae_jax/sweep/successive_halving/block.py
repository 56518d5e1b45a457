"""The block of a sweep directory with successive halving: its members are queued, saved and continued bit for bit.

As in any block there are block.json, metrics.jsonl, checkpoints/, result.json and model.safetensors. A checkpoint holds the
members in the slots, and is named by the number of epochs that the sweep had made. The lines of metrics.jsonl have this number
as `sweep_epoch`. All decisions follow from the lines, so a resumed sweep repeats them. ended/NNNN/ holds the last state of
member NNNN that finished or diverged, and model.safetensors their parameters. States of members that were stopped at a rung are
not kept.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from vae_jax.build import Built
from vae_jax.errors import UserError
from vae_jax.evaluation import NOT_FINITE, are_finite
from vae_jax.model import num_parameters
from vae_jax.runs.checkpoints import Checkpoints
from vae_jax.runs.metrics_file import append_metrics, read_metrics, rewrite_metrics, sync_metrics, to_epoch, to_line
from vae_jax.runs.postmortem import examine
from vae_jax.storage.atomic import JsonObject, write_json
from vae_jax.sweep.blocks import Block, Layout, OnBlock, continued_layout, members_template, place_members, write_models
from vae_jax.sweep.successive_halving.in_memory import run_queue
from vae_jax.sweep.successive_halving.rows import ended_group, halving_rows
from vae_jax.sweep.successive_halving.rule import STOPPED, Decision, Halving, HalvingQueue
from vae_jax.training import Epoch, MemberState
from vae_jax.training.queue import Ended, QueueCallbacks, QueueProgress
from vae_jax.training.schedules import first_epoch_at_full_values

OnQueueEpoch = Callable[[QueueProgress], bool | None]


class Replayed(NamedTuple):
    """The course of a sweep according to metrics.jsonl."""

    queue: HalvingQueue
    histories: list[list[Epoch]]
    status: list[str]


def replay(settings: Halving, num_members: int, epochs: int, lines: Sequence[JsonObject], until: int | None = None) -> Replayed:
    """Repeats the decisions of a sweep from the lines of metrics.jsonl.

    Args:
      settings: of the halving.
      num_members: of the sweep.
      epochs: of a whole run.
      lines: in any order.
      until: number of epochs of the sweep to repeat; all by default.

    Raises:
      UserError: lines are missing, or there are others.
    """
    queue, histories = HalvingQueue(settings, num_members, epochs), [[] for _ in range(num_members)]
    status = ["waiting"] * num_members
    by_time: dict[object, list[JsonObject]] = {}
    for line in lines:
        by_time.setdefault(line.get("sweep_epoch"), []).append(line)
    last = len(by_time) if until is None else until
    for now in range(1, last + 1):
        in_slots = {member for member in queue.slots if member is not None}
        here = {line.get("member"): line for line in by_time.get(now, [])}
        expected = {member: len(histories[member]) + 1 for member in in_slots}
        if {member: line["epoch"] for member, line in here.items()} != expected or not expected:
            raise UserError(
                f"metrics.jsonl: expected the epochs of members {sorted(in_slots)} at sweep epoch {now}; it was altered."
            )
        values: dict[int, Epoch] = {}
        lost: list[int] = []
        for member in sorted(in_slots):
            if here[member].get("diverged"):
                lost.append(member)
                status[member] = "diverged"
                continue
            values[member] = epoch = to_epoch(here[member])
            histories[member].append(epoch)
            if not are_finite(epoch.test, epoch.validation):
                lost.append(member)
                status[member] = NOT_FINITE
        try:
            ended = queue.advance(values, lost)
        except KeyError as error:
            raise UserError(f"metrics.jsonl: expected the column {error} in every line; it was altered.") from None
        for member, end in ended.items():
            status[member] = end
    for member in queue.slots:
        if member is not None:
            status[member] = "running"
    return Replayed(queue, histories, status)


def decisions_of(folder: Path, settings: Halving, num_members: int, epochs: int) -> list[Decision]:
    """Returns the decisions of a block that has ended, from its metrics.jsonl."""
    return replay(settings, num_members, epochs, read_metrics(folder)).queue.decisions


def run_halving_block(
    block: Block,
    built: Built,
    layout: Layout,
    settings: Halving,
    checkpoint_seconds: float,
    on_block: OnBlock,
    on_epoch: OnQueueEpoch,
) -> bool:
    """Trains the members of a block by successive halving to its end, from its last checkpoint; see `blocks.run_block`.

    Returns:
      False if the training was interrupted.
    """
    path, group = block.path, block.group
    layout = continued_layout(layout, block.recorded_layout, path.name)
    placement = place_members(settings.num_slots(len(group.members)), layout)
    with Checkpoints(path / "checkpoints") as checkpoints:
        queue, start, lines, notes = _restore(block, built, settings, checkpoints)
        rewrite_metrics(path, lines)
        _remove_states(path, [] if start is None else start.status)
        description = (
            f"{len(queue.slots)} at the same time, {num_parameters(built.vae):,} parameters each; {placement.description}"
        )
        notes = [*(f"{path.name}: {note}" for note in notes), *_schedule_notes(built, settings)]
        on_block(group, description, start.epoch if start else 0, notes)
        recorder = _Recorder(block, built, checkpoints, start, checkpoint_seconds)

        def after_epoch(progress: QueueProgress) -> bool:
            recorder.record(progress)
            return bool(on_epoch(progress))

        if not block.recorded_layout:
            devices_matter = placement.strategy == "vmap" or layout.data_parallel > 1
            used = layout._replace(strategy=placement.strategy, devices=placement.mesh.size if devices_matter else None)
            write_json(path / "block.json", {"members": list(group.members), "layout": used._asdict()})
        callbacks = QueueCallbacks(recorder.keep, after_epoch)
        progress, placement = run_queue(group, built, placement, queue, start, callbacks)
        if progress.epoch not in checkpoints.epochs():
            recorder.save(progress)
    if any(member is not None for member in progress.slots):
        return False
    numbers = [number for number, status in enumerate(progress.status) if not status.startswith(STOPPED)]
    states = {number: read_state(path, built, number, len(progress.histories[number])) for number in numbers}
    for number, state in states.items():
        if progress.status[number] == "diverged":
            first = jax.tree.map(lambda leaf: leaf[0], state.state)
            write_json(path / f"diverged-{number}.json", examine(built, group.configs[number], first))
    if states:
        ended, _, fit = ended_group(group, built, progress, states, placement)
        write_models(path, ended, built, fit)
    table = halving_rows(group, built, queue, progress, states, placement)
    write_json(path / "result.json", {"rows": table, "placement": placement.description})
    return True


def _schedule_notes(built: Built, settings: Halving) -> list[str]:
    """Returns a note if members are compared before the schedules have come to their ends."""
    steps = len(built.dataset.train) // built.config.batch_size
    epoch = first_epoch_at_full_values(built.fit_arguments["schedules"], built.config.epochs, steps)
    if settings.min_epochs >= epoch:
        return []
    return [
        f"members are compared from epoch {settings.min_epochs} on, but the warm-up and the schedules of weights last until "
        f"epoch {epoch}. A larger `min_epochs` would compare members at their full values."
    ]


class _Recorder:
    """Writes metrics.jsonl, the checkpoints and the states of ended members while the queue is trained."""

    def __init__(
        self, block: Block, built: Built, checkpoints: Checkpoints, start: QueueProgress | None, checkpoint_seconds: float
    ):
        self._path, self._checkpoints = block.path, checkpoints
        self._num_used = len(built.dataset.train) // built.config.batch_size * built.config.batch_size
        count = len(block.group.members)
        self._lengths = [len(history) for history in start.histories] if start else [0] * count
        self._diverged = {number for number, status in enumerate(start.status if start else ()) if status == "diverged"}
        self._checkpoint_seconds, self._last_saved = checkpoint_seconds, time.perf_counter()

    def record(self, progress: QueueProgress) -> None:
        """Appends the lines of the last epoch, and saves if the last checkpoint is old enough."""
        for number, history in enumerate(progress.histories):
            front = {"member": number, "sweep_epoch": progress.epoch}
            if len(history) > self._lengths[number]:
                line = to_line(history[-1], self._num_used, sum(epoch.seconds for epoch in history))
                append_metrics(self._path, {**front, **line})
                self._lengths[number] = len(history)
            elif progress.status[number] == "diverged" and number not in self._diverged:
                append_metrics(self._path, {**front, "epoch": len(history) + 1, "diverged": True})
                self._diverged.add(number)
        if time.perf_counter() - self._last_saved >= self._checkpoint_seconds:
            self.save(progress)
            self._last_saved = time.perf_counter()

    def save(self, progress: QueueProgress) -> None:
        """Saves the states of the members in the slots."""
        sync_metrics(self._path)
        count = len(progress.slots)
        members = jax.tree.map(lambda leaf: leaf if len(leaf) == count else leaf[:count], progress.members)
        elbos = _last_elbos(read_metrics(self._path), progress.epoch)
        self._checkpoints.save(progress.epoch, members.state, members.best, elbos)

    def keep(self, ended: Ended) -> None:
        """Saves the state of a member that finished or was lost."""
        if not ended.status.startswith(STOPPED):
            with Checkpoints(self._path / "ended" / f"{ended.member:04d}") as checkpoints:
                checkpoints.save(int(ended.state.state.step[0]), ended.state.state, ended.state.best, None)


def _last_elbos(lines: Sequence[JsonObject], sweep_epoch: int) -> list[float | None]:
    """Returns the test ELBOs of one epoch of the sweep, which show whether a checkpoint belongs to metrics.jsonl."""
    return [line.get("test_elbo") for line in lines if line.get("sweep_epoch") == sweep_epoch]


def _remove_states(path: Path, status: Sequence[str]) -> None:
    """Removes the states of members that will end again, because the sweep continues from an earlier checkpoint."""
    for folder in (path / "ended").glob("*"):
        is_member = folder.name.isdigit() and int(folder.name) < len(status)
        if not is_member or status[int(folder.name)] in ("waiting", "running"):
            shutil.rmtree(folder)


def read_state(path: Path, built: Built, number: int, epochs: int) -> MemberState:
    """Returns the state, (1, ...) each, of a member that finished or was lost.

    Args:
      path: folder of the block.
      built: data and model.
      number: of the member.
      epochs: number of whole epochs that it made.

    Raises:
      UserError: it is damaged or missing.
    """
    template, folder, restored = members_template(built, 1), path / "ended" / f"{number:04d}", None
    if folder.is_dir():
        with Checkpoints(folder) as checkpoints:
            restored = checkpoints.restore((template.state, template.best))
    steps = len(built.dataset.train) // built.config.batch_size
    if restored is None or int(np.asarray(restored.state.step)[0]) // steps != epochs:
        fix = f"Remove {path.name}/result.json and {path.name}/checkpoints/, and continue the sweep with `resume=True`."
        raise UserError(f"{folder}: the state of member {number} is damaged or missing.", fix=fix)
    return MemberState(restored.state, restored.best)


def _restore(
    block: Block, built: Built, settings: Halving, checkpoints: Checkpoints
) -> tuple[HalvingQueue, QueueProgress | None, list[JsonObject], list[str]]:
    """Returns the queue and the progress at the last checkpoint, the lines up to there, and notes for the user."""
    count, epochs = len(block.group.members), block.group.configs[0].epochs
    template = members_template(built, settings.num_slots(count))
    all_lines = read_metrics(block.path)
    restored = checkpoints.restore((template.state, template.best), lambda epoch: _last_elbos(all_lines, epoch))
    if restored is None:
        return HalvingQueue(settings, count, epochs), None, [], []
    lines = [line for line in all_lines if line.get("sweep_epoch", 0) <= restored.epoch]
    queue, histories, status = replay(settings, count, epochs, lines, restored.epoch)
    steps = len(built.dataset.train) // built.config.batch_size
    for member, made in zip(queue.slots, np.asarray(restored.state.step).tolist(), strict=True):
        if member is not None and made != queue.epochs[member] * steps:
            raise UserError(f"{block.path.name}: metrics.jsonl lacks epochs of the checkpoint; it was altered.")
    members = MemberState(restored.state, restored.best)
    progress = QueueProgress(members, tuple(queue.slots), tuple(map(tuple, histories)), tuple(status), restored.epoch)
    return queue, progress, lines, restored.complaints
