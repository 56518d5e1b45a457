"""Rows of results.csv for a sweep with successive halving."""

from collections.abc import Mapping

import jax
import numpy as np

from vae_jax.build import Built
from vae_jax.storage.atomic import as_json
from vae_jax.sweep.members import Group
from vae_jax.sweep.statistics import Row, member_row, rows
from vae_jax.sweep.successive_halving.rule import STOPPED, HalvingQueue
from vae_jax.training import MembersFit, MembersProgress, MemberState, params_to_evaluate_members
from vae_jax.training.placement import Placement
from vae_jax.training.progress import NO_TEST
from vae_jax.training.queue import QueueProgress


def halving_rows(
    group: Group,
    built: Built,
    queue: HalvingQueue,
    progress: QueueProgress,
    states: Mapping[int, MemberState],
    placement: Placement,
) -> list[Row]:
    """Returns a row for each member that has ended, with its decisions.

    Members that were stopped at a rung have the test results of their last epoch, and no statistics of their codes.

    Args:
      group: the members.
      built: data and model.
      queue: the decisions.
      progress: histories and statuses at the end.
      states: (1, ...) each, of the members that finished or were lost.
      placement: of the members.
    """
    table = {row["member"]: row for row in rows(*ended_group(group, built, progress, states, placement))} if states else {}
    steps_per_epoch = len(built.dataset.train) // built.config.batch_size
    for number, config in zip(group.members, group.configs, strict=True):
        if progress.status[number].startswith(STOPPED):
            history = progress.histories[number]
            end = progress.status[number], len(history), len(history) * steps_per_epoch
            table[number] = member_row(built, number, config, history, end, None)
    num_rungs = 1 + max((decision.rung for decision in queue.decisions), default=-1)
    return [table[number] | decision_columns(queue, number, num_rungs) for number in sorted(table)]


def decision_columns(queue: HalvingQueue, number: int, num_rungs: int) -> Row:
    """Returns the columns of results.csv about the decisions on a member.

    Returns:
      `born` is the number of epochs that the sweep had made at its start. `rung` is the last one that it reached. Each rung has
      the value by which it was compared, its rank, and the number of members that were compared.
    """
    decisions = {decision.rung: decision for decision in queue.decisions if decision.member == number}
    columns: Row = {"born": queue.born[number], "rung": max(decisions, default=None)}
    for rung in range(num_rungs):
        decision = decisions.get(rung)
        columns[f"rung_{rung}_value"] = decision and as_json(decision.value)
        columns[f"rung_{rung}_rank"] = decision and decision.rank
        columns[f"rung_{rung}_compared"] = decision and decision.num_compared
    return columns


def ended_group(
    group: Group, built: Built, progress: QueueProgress, states: Mapping[int, MemberState], placement: Placement
) -> tuple[Group, Built, MembersFit]:
    """Returns the members that finished or were lost as if `fit_members` had trained them."""
    numbers = sorted(states)
    members: MemberState = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(states[number] for number in numbers))
    histories = tuple(progress.histories[number] for number in numbers)
    status = tuple(progress.status[number] for number in numbers)
    fit = MembersFit(
        MembersProgress(members, histories, status, progress.epoch),
        status,
        params_to_evaluate_members(members, len(numbers), built.objective, 0),
        tuple(map(len, histories)),
        tuple(history[-1].test if history else NO_TEST for history in histories),
        placement,
    )
    return Group(group.label, tuple(group.configs[number] for number in numbers), tuple(numbers)), built, fit
