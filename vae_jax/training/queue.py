"""`fit_queue` trains a queue of members in a fixed number of slots: when a member ends, its slot gets the next one."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

from vae_jax._numerics.short_repr import short_repr
from vae_jax.config import Hyperparams
from vae_jax.data import Prepared
from vae_jax.errors import UserError
from vae_jax.evaluation import NOT_FINITE, are_finite
from vae_jax.model import VAE, with_moments
from vae_jax.training.checks import check_companions, check_fit, check_values
from vae_jax.training.epoch import MemberState, Outcome
from vae_jax.training.loop import make_job, replay_to_last_good_step
from vae_jax.training.options import FitOptions
from vae_jax.training.placement import Placement
from vae_jax.training.program import EpochTask, Job
from vae_jax.training.progress import Epoch, epoch_record
from vae_jax.training.slots import SlotProgram, slot_program


class Queue(Protocol):
    """Assigns the members to the slots. Its decisions depend on the epochs of the members alone."""

    slots: list[int | None]  # the member in each slot, None for a slot that stays empty

    def advance(self, values: Mapping[int, Epoch], lost: Collection[int]) -> Mapping[int, str]:
        """Takes the last epochs of the members in the slots, and puts new members where some have ended.

        Args:
          values: the epoch that each member in a slot has just made, without those that diverged in it.
          lost: members that diverged or whose ELBO is not finite.

        Returns:
          The statuses of the members that ended and were not lost.
        """
        ...


class QueuedRuns(NamedTuple):
    """The members of a queue. Member i is the run that `fit` makes with its numbers, bit for bit under `map`, up to its end."""

    seeds: Sequence[int]  # one for each member
    hyperparams: Hyperparams  # fields are one number for all members or arrays of shape (members,)


@short_repr
class QueueProgress(NamedTuple):
    """Everything that another process needs to continue a queue."""

    members: MemberState  # stacked, one for each slot; there may be more slots than the queue uses
    slots: tuple[int | None, ...]  # the member in each slot
    histories: tuple[tuple[Epoch, ...], ...]  # of every member
    status: tuple[str, ...]  # "waiting", "running", "diverged", "not finite", or as the queue returned it
    epoch: int  # number of epochs that the program has made


@short_repr
class Ended(NamedTuple):
    """A member at its end."""

    member: int
    status: str
    state: MemberState  # on the host, (1, ...) each; of a member that diverged, that of the last good step


class QueueCallbacks(NamedTuple):
    """Functions that `fit_queue` calls while it trains."""

    on_end: Callable[[Ended], None] = lambda ended: None
    """Called for each member that ends, before the call of `on_epoch`."""
    on_epoch: Callable[[QueueProgress], bool | None] = lambda progress: None
    """Called after each epoch of the program. If it returns True, the training is interrupted. Copy the arrays that you
    keep, because the next epoch overwrites them."""


def fit_queue(
    vae: VAE,
    data: Prepared,
    options: FitOptions,
    *,
    runs: QueuedRuns,
    queue: Queue,
    placement: Placement,
    start: QueueProgress | None = None,
    callbacks: QueueCallbacks = QueueCallbacks(),  # noqa: B008 (a NamedTuple cannot be changed)
) -> tuple[QueueProgress, Placement]:
    """Trains the members of a queue with one program, which is compiled once for all of them.

    Args:
      vae, data: the model and the prepared data, in memory.
      options: see `FitOptions`, without early stopping. Schedules are those of a run of `options.epochs`.
      runs: the seed and the hyperparameters of each member.
      queue: decides which members are in the slots. It is advanced after each epoch.
      placement: of the slots, from `placement.place`.
      start: progress to continue from, whose slots are those of the queue.
      callbacks: functions to call while it trains.

    Returns:
      The progress at the end, and the placement as used.
    """
    if data.is_on_disk:
        raise UserError("members of a queue are trained on data in memory.", field="stream", fix="Leave out `stream`.")
    if options.early_stopping:
        message = "the queue decides when a member ends, so members cannot stop early as well."
        raise UserError(message, field="early_stopping", fix="Leave out `early_stopping`.")
    check_fit(data, options.batch_size, options.early_stopping)
    check_companions(vae, data)
    check_values(vae, data)
    job = make_job(with_moments(vae, data.moments), data, options, runs.seeds, runs.hyperparams, None)
    program = slot_program(job, placement, queue.slots, start and start.members)
    log = _Log(job, start)
    progress = log.progress(program.members, queue)
    while any(member is not None for member in queue.slots):
        program.members = _run_epoch(program, queue, log, callbacks.on_end)
        progress = log.progress(program.members, queue)
        if callbacks.on_epoch(progress):
            break
    return progress, program.placement


class _Log:
    """Histories and statuses of all members."""

    def __init__(self, job: Job, start: QueueProgress | None):
        self.job, self.epoch = job, start.epoch if start else 0
        self.histories = [list(history) for history in start.histories] if start else [[] for _ in job.seeds]
        self.status = list(start.status) if start else ["waiting"] * len(job.seeds)

    def progress(self, members: MemberState, queue: Queue) -> QueueProgress:
        """Returns a record of the queue with these arrays in its slots."""
        for member in queue.slots:
            if member is not None:
                self.status[member] = "running"
        return QueueProgress(members, tuple(queue.slots), tuple(map(tuple, self.histories)), tuple(self.status), self.epoch)

    def add_epoch(self, member: int, slot: int, outcome: Outcome, seconds: float) -> Epoch:
        """Adds the epoch of a member in which everything was finite."""
        epoch, job = len(self.histories[member]) + 1, self.job
        step = epoch * job.num_steps
        self.histories[member].append(epoch_record(epoch, step, outcome, slot, job.data.log_jacobian, seconds))
        return self.histories[member][-1]


def _run_epoch(program: SlotProgram, queue: Queue, log: _Log, on_end: Callable[[Ended], None]) -> MemberState:
    """Makes an epoch of the member in each slot, and fills the slots of those that ended. Returns the members in the slots."""
    num_steps, slots = log.job.num_steps, list(queue.slots)
    used = [(slot, member) for slot, member in enumerate(slots) if member is not None]
    program.epochs = np.array([0 if member is None else len(log.histories[member]) for member in slots], np.int32)
    began = time.perf_counter()
    members, _, outcome = program.run_epoch(EpochTask(program.members, None, [slot for slot, _ in used], log.epoch, num_steps))
    assert outcome is not None  # nothing interrupts it
    seconds = (time.perf_counter() - began) / len(used)
    values: dict[int, Epoch] = {}
    lost: dict[int, str] = {}
    for slot, member in used:
        if int(outcome.good_steps[slot]) == num_steps:
            values[member] = epoch = log.add_epoch(member, slot, outcome, seconds)
            if not are_finite(epoch.test, epoch.validation):
                lost[member] = NOT_FINITE
        else:
            lost[member] = "diverged"
            task = EpochTask(members, None, [slot], log.epoch, num_steps)
            members, _ = replay_to_last_good_step(program.run_epoch, task, int(outcome.good_steps[slot]))
    log.epoch += 1
    ended = {**lost, **queue.advance(values, tuple(lost))}
    if ended:
        on_host = jax.device_get(members)
        for slot, member in used:
            if member in ended:
                log.status[member] = ended[member]
                state = jax.tree.map(lambda leaf, slot=slot: leaf[slot : slot + 1].copy(), on_host)
                on_end(Ended(member, ended[member], state))
    return program.fill(members, queue.slots, [new != old for new, old in zip(queue.slots, slots, strict=True)])
