"""The decisions of asynchronous successive halving, as a function of the recorded values alone.

A rung is a number of epochs, r_k = min_epochs eta^k < epochs. A member that reaches a rung is compared with all members whose
values at this rung are known. It continues if it is among the best n / eta of these n members, rounded up. Otherwise it ends,
and the next member takes its slot. Members that reach a rung after the same epoch of the sweep are compared with each other, so
with as many slots as members this is synchronous successive halving (Jamieson and Talwalkar 2016). With fewer slots it is the
stopping variant of ASHA (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning"). In this variant a member is
never paused to be continued later, so the states of stopped members need not be kept. The decisions depend on epochs, not on
times, and therefore not on the speed of the machine or on interruptions.
"""

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

from vae_jax.errors import UserError
from vae_jax.runs.metrics_file import to_line
from vae_jax.training import Epoch

BY = "validation_elbo"
STOPPED = "stopped by halving"


class Halving(NamedTuple):
    """Settings of successive halving.

    Attributes:
      eta: one of `eta` members continues at each rung, a whole number >= 2.
      min_epochs: epochs of the first rung, >= 1 and less than the epochs of the run.
      by: column of metrics.jsonl by which members are compared, a number of the training or the validation set. With
        ":min" at its end the smallest value is the best one.
      num_concurrent: members that are trained at the same time, at least `eta`. By default a share 1/eta of all members.
    """

    eta: int = 3
    min_epochs: int = 5
    by: str = BY
    num_concurrent: int | None = None

    @property
    def column(self) -> str:
        """The column by which members are compared."""
        return self.by.removesuffix(":min")

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """Returns the epochs at which members are compared, in a run of this length."""
        rungs = [self.min_epochs]
        while rungs[-1] * self.eta < epochs:
            rungs.append(rungs[-1] * self.eta)
        return tuple(rungs)

    def num_slots(self, num_members: int) -> int:
        """Returns the number of members that are trained at the same time."""
        return min(num_members, self.num_concurrent or max(self.eta, -(-num_members // self.eta)))

    def check(self, num_members: int, epochs: int) -> None:
        """Raises `UserError` for settings that compare nothing."""
        for name, value, low in (("eta", self.eta, 2), ("min_epochs", self.min_epochs, 1)):
            if value < low:
                raise UserError(field="halving" if name == "eta" else name, expected=f"a whole number >= {low}", got=value)
        if self.min_epochs >= epochs:
            expected = f"fewer epochs than a whole run has, `epochs={epochs}`"
            raise UserError(field="min_epochs", expected=expected, got=self.min_epochs)
        if num_members < self.eta:
            raise UserError(field="halving", expected=f"at most one member in {num_members}, which are all", got=self.eta)
        if self.num_concurrent is not None and self.num_concurrent < self.eta:
            expected = f"at least `halving={self.eta}`, so that members are compared"
            raise UserError(field="num_concurrent", expected=expected, got=self.num_concurrent)
        if self.column.startswith("test_"):
            fix = "The test set is for the report. Its ELBO would be optimistic if members were chosen by it."
            raise UserError(
                field="halving_by", expected=f"a column of the validation or training set, such as {BY}", got=self.by, fix=fix
            )

    def check_column(self, train_names: Collection[str]) -> None:
        """Raises `UserError` if metrics.jsonl will not have the column.

        Args:
          train_names: names of the quantities that a training step records.
        """
        names = [f"validation_{name}" for name in ("elbo", "log_likelihood", "kl")]
        names += [f"train_{name}" for name in ("elbo", *train_names)]
        if self.column not in names:
            expected = f"one of {', '.join(names)}, with :min at its end if the smallest is the best"
            raise UserError(field="halving_by", expected=expected, got=self.by)

    def value(self, epoch: Epoch) -> float:
        """Returns the number by which members are compared after an epoch."""
        return float(to_line(epoch, 1, 1.0)[self.column])


class Decision(NamedTuple):
    """A member at a rung."""

    sweep_epoch: int  # number of epochs of the sweep at that time
    member: int
    rung: int  # counted from 0
    epoch: int  # of the member
    value: float
    rank: int  # among the compared members, 1 is the best
    num_compared: int
    is_promoted: bool


class HalvingQueue:
    """Assigns members to slots by successive halving; a `training.queue.Queue`.

    Attributes:
      slots: the member in each slot.
      epochs: number of epochs that each member has made.
      born: number of epochs that the sweep had made when a member started, or None before its start.
      decisions: in order.
      sweep_epoch: number of epochs that the sweep has made.
    """

    def __init__(self, settings: Halving, num_members: int, epochs: int):
        self._settings, self._num_epochs, self._rungs = settings, epochs, settings.rungs(epochs)
        count = settings.num_slots(num_members)
        self.slots: list[int | None] = list(range(count))
        self.epochs = [0] * num_members
        self.born: list[int | None] = [0 if member < count else None for member in range(num_members)]
        self.decisions: list[Decision] = []
        self.sweep_epoch = 0
        self._next = count
        self._scores: list[dict[int, float]] = [{} for _ in self._rungs]  # by rung and member, larger is better

    def advance(self, values: Mapping[int, Epoch], lost: Collection[int]) -> dict[int, str]:
        """Takes the last epochs of the members in the slots, and puts new members where some have ended; see `Queue`."""
        return self.advance_by({member: self._settings.value(epoch) for member, epoch in values.items()}, lost)

    def advance_by(self, values: Mapping[int, float], lost: Collection[int]) -> dict[int, str]:
        """Does the same with the value of each member. A lost member counts as the worst at the rung that it did not reach."""
        self.sweep_epoch += 1
        here: list[tuple[int, int]] = []
        ended: dict[int, str] = {}
        for member in [member for member in self.slots if member is not None]:
            self.epochs[member] += member in values
            epoch = self.epochs[member]
            if member in lost:
                failed = epoch if member in values else epoch + 1
                missed = sum(rung < failed for rung in self._rungs)
                for scores in self._scores[missed : missed + 1]:
                    scores[member] = -math.inf
            elif epoch == self._num_epochs:
                ended[member] = "finished"
            elif epoch in self._rungs:
                rung = self._rungs.index(epoch)
                self._scores[rung][member] = self._score(values[member])
                here.append((member, rung))
        for member, rung in here:
            decision = self._decide(member, rung, values[member])
            self.decisions.append(decision)
            if not decision.is_promoted:
                ended[member] = f"{STOPPED} at rung {rung}"
        for slot, member in enumerate(self.slots):
            if member in ended or member in lost:
                self.slots[slot] = self._start_next()
        return ended

    def _score(self, value: float) -> float:
        score = -value if self._settings.by.endswith(":min") else value
        return -math.inf if math.isnan(score) else score

    def _decide(self, member: int, rung: int, value: float) -> Decision:
        scores = self._scores[rung]
        # The member with the lower number is the better one of two with the same value.
        rank = 1 + sum((-score, other) < (-scores[member], member) for other, score in scores.items())
        is_promoted = rank <= math.ceil(len(scores) / self._settings.eta)
        return Decision(self.sweep_epoch, member, rung, self.epochs[member], value, rank, len(scores), is_promoted)

    def _start_next(self) -> int | None:
        if self._next == len(self.epochs):
            return None
        member, self._next = self._next, self._next + 1
        self.born[member] = self.sweep_epoch
        return member
