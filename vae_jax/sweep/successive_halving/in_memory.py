"""Successive halving in memory: members are trained and tabled without files, by one program that is compiled once."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Unpack

import jax
import numpy as np

from vae_jax._numerics.short_repr import short_repr
from vae_jax.build import Built, Initial, PartOptions, Parts, build, resolve_columns
from vae_jax.config import Config
from vae_jax.data import Dataset
from vae_jax.errors import UserError
from vae_jax.model import Params
from vae_jax.sweep.member_metrics import MemberMetrics
from vae_jax.sweep.members import Group, check_members, groups, stacked, varying, with_custom_parts
from vae_jax.sweep.statistics import to_arrays, with_settings
from vae_jax.sweep.successive_halving.rows import halving_rows
from vae_jax.sweep.successive_halving.rule import STOPPED, Decision, Halving, HalvingQueue
from vae_jax.training import FitOptions, MemberState, check_step, params_to_evaluate_members
from vae_jax.training.metrics import OnEpoch
from vae_jax.training.placement import Placement, place
from vae_jax.training.queue import Ended, QueueCallbacks, QueuedRuns, QueueProgress, fit_queue


@short_repr
class HalvingSweep(NamedTuple):
    """The result of `halving`."""

    members: tuple[Config, ...]
    table: dict[str, np.ndarray]  # columns of results.csv by name, one entry for each member
    decisions: list[Decision]  # in order
    curves: dict[str, np.ndarray]  # validation_elbo, test_elbo, ...: (members, epochs), NaN after a member has ended
    built: Built
    params: dict[int, Params]  # of the members that finished, by number
    member_epochs: int  # the cost: number of epochs of all members


def check_halving(members: Sequence[Config], settings: Halving) -> Group:
    """Returns the members as one group; raises `UserError` for members that halving cannot compare."""
    check_members(members)
    group, *others = groups(members)
    if others:
        message = f"successive halving compares members of one program, and these make {1 + len(others)} ({group.label} ...)."
        raise UserError(message, field="halving", fix="Make a sweep with halving for each static setting, without `groups`.")
    config = members[0]
    if "seed" in varying(members):
        message = "members differ in their seeds. A mean over the seeds that survive a selection would be too good."
        fix = "Select with one seed, and train the best settings with several seeds afterwards."
        raise UserError(message, field="halving", fix=fix)
    if config.early_stopping:
        message = "halving decides when a member ends, so members cannot stop early as well."
        raise UserError(message, field="early_stopping", fix="Leave out `early_stopping`.")
    if config.stream:
        message = "successive halving needs data in memory, because a reader feeds all members the same epoch."
        raise UserError(message, field="stream", fix="Leave out `stream`.")
    settings.check(len(members), config.epochs)
    return group


def check_data(built: Built, settings: Halving) -> None:
    """Raises `UserError` for data without a validation set, and for a column that does not exist."""
    if built.data.validation is None:
        message = "successive halving compares members on validation data, and there are none."
        raise UserError(message, field="halving", fix="Set `validation_fraction=0.1`.")
    metrics = check_step(
        built.vae, built.data, FitOptions.from_keywords(built.fit_arguments), built.fit_arguments["hyperparams"]
    )
    settings.check_column([name for name in metrics._fields if name != "extra"] + list(metrics.extra or {}))


def run_queue(
    group: Group,
    built: Built,
    placement: Placement,
    queue: HalvingQueue,
    start: QueueProgress | None,
    callbacks: QueueCallbacks,
) -> tuple[QueueProgress, Placement]:
    """Trains the members of a group by successive halving; see `training.queue.fit_queue`."""
    return fit_queue(
        built.vae,
        built.data,
        FitOptions.from_keywords(built.fit_arguments),
        runs=QueuedRuns([config.seed for config in group.configs], stacked(group.configs)),
        queue=queue,
        placement=placement,
        start=start,
        callbacks=callbacks,
    )


def halving(
    members: Sequence[Config],
    settings: Halving = Halving(),  # noqa: B008 (a NamedTuple cannot be changed)
    *,
    strategy: str = "auto",
    data_dir: str | None = None,
    on_epoch: OnEpoch = lambda metrics: None,
    on_progress: Callable[[QueueProgress], bool | None] = lambda progress: None,
    dataset: Dataset | None = None,
    init: Initial | None = None,
    **parts: Unpack[PartOptions],
) -> HalvingSweep:
    """Trains members by asynchronous successive halving, and tables the results. Nothing is written.

    A member that is not among the best 1/eta at a rung (min_epochs, min_epochs eta, min_epochs eta^2 ... epochs) ends, and the
    next one takes its place in the same compiled program. A member that finishes is the run that `runs.train` makes with its
    settings, bit for bit with the strategy "map".

    Args:
      members: from `design`, `points`, or any list, in the order in which they are tried. They differ in traced settings.
      settings: of the halving.
      strategy: "map" (members one after another), "vmap" (side by side) or "auto".
      data_dir: where TFDS finds prepared data.
      on_epoch: called after each epoch, once for each member that has completed one (see `sweep.sweep`). If a call returns
        True, the sweep ends after this epoch.
      on_progress: called after each epoch with the states of the members. A true result ends the sweep.
      dataset: a data set in memory for `build`.
      init: parameters of a trained model from which all members start (from `runs.init_from`).
      **parts: a user's own parts for `build`.

    Raises:
      UserError: members of several programs or seeds, no validation data, early stopping, or streamed data.

    Source:
      Li et al. (2020), "A System for Massively Parallel Hyperparameter Tuning".

    Example:
      >>> from vae_jax.sweep import Range, design
      >>> base = Config(hidden=(16,), epochs=4, validation_fraction=0.1)
      >>> members = design(base, {"learning_rate": Range(1e-4, 1e-1, log=True)}, 6, "random")
      >>> result = halving(members, Halving(eta=2, min_epochs=1))
      >>> result.member_epochs < 6 * 4
      True
    """
    members = resolve_columns(with_custom_parts(members, Parts(**parts)), data_dir, dataset)
    group = check_halving(members, settings)
    built = build(members[0], data_dir=data_dir, dataset=dataset, init=init, **parts)
    check_data(built, settings)
    queue = HalvingQueue(settings, len(members), members[0].epochs)
    placement = place(len(queue.slots), strategy)
    states: dict[int, MemberState] = {}

    def keep(ended: Ended) -> None:
        if not ended.status.startswith(STOPPED):
            states[ended.member] = ended.state

    metrics = MemberMetrics(members, on_epoch)

    def after_epoch(progress: QueueProgress) -> bool:
        return metrics.report(group, built, progress) | bool(on_progress(progress))

    progress, placement = run_queue(group, built, placement, queue, None, QueueCallbacks(keep, after_epoch))
    table = with_settings(halving_rows(group, built, queue, progress, states, placement), members)
    params = {
        member: jax.tree.map(lambda leaf: leaf[0], params_to_evaluate_members(state, 1, built.objective, 0))
        for member, state in states.items()
        if progress.status[member] == "finished"
    }
    names = [f"{split}_{name}" for split in ("test", "validation") for name in ("elbo", "log_likelihood", "kl")]
    curves = {name: np.full((len(members), members[0].epochs), np.nan) for name in names}
    for member, history in enumerate(progress.histories):
        for epoch in history:
            for name, values in curves.items():
                split, _, field = name.partition("_")
                values[member, epoch.epoch - 1] = getattr(getattr(epoch, split), field)
    cost = sum(map(len, progress.histories))
    return HalvingSweep(tuple(members), to_arrays(table), queue.decisions, curves, built, params, cost)
