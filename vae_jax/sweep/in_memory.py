"""Sweeps in memory: members are trained and tabled without files. Each static group is one program, compiled once."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Unpack

import numpy as np

from vae_jax._numerics.short_repr import short_repr
from vae_jax.build import Built, Initial, PartOptions, Parts, build, resolve_columns
from vae_jax.config import Config
from vae_jax.data import Dataset
from vae_jax.sweep.member_metrics import MemberMetrics
from vae_jax.sweep.members import Group, check_members, groups, stacked, traced_names, varying, with_custom_parts
from vae_jax.sweep.statistics import Point, points, rows, to_arrays, with_settings
from vae_jax.training import Callbacks, FitOptions, MembersFit, MembersProgress, fit_members
from vae_jax.training.metrics import OnEpoch
from vae_jax.training.placement import Placement, place


@short_repr
class Sweep(NamedTuple):
    """The result of `sweep`."""

    members: tuple[Config, ...]
    table: dict[str, np.ndarray]  # columns of results.csv by name, one entry for each member
    points: list[Point]  # the table with seeds combined, with intervals
    curves: dict[str, np.ndarray]  # test_elbo, test_log_likelihood, test_kl: (members, epochs), NaN after a member has ended
    fits: list[tuple[Group, Built, MembersFit]]  # with the trained parameters


def run_group(
    group: Group,
    built: Built,
    placement: Placement,
    start: MembersProgress | None = None,
    callbacks: Callbacks | None = None,
) -> MembersFit:
    """Trains the members of a group.

    Args:
      group: the members.
      built: from the configuration of any member.
      placement: of the members on devices.
      start: progress to continue from.
      callbacks: functions to call after each epoch and chunk.
    """
    return fit_members(
        built.vae,
        built.data,
        FitOptions.from_keywords(built.fit_arguments),
        seeds=[config.seed for config in group.configs],
        hyperparams=stacked(group.configs),
        placement=placement,
        start=start,
        callbacks=callbacks,
    )


def sweep(
    members: Sequence[Config],
    *,
    strategy: str = "auto",
    chunk: int | None = None,
    data_parallel: int = 1,
    data_dir: str | None = None,
    on_epoch: OnEpoch = lambda metrics: None,
    on_progress: Callable[[Group, MembersProgress], bool | None] = lambda group, progress: None,
    dataset: Dataset | None = None,
    init: Initial | None = None,
    **parts: Unpack[PartOptions],
) -> Sweep:
    """Trains every member and tables the results. Nothing is written.

    Args:
      members: from `grid`, `points`, `design`, or any list. Member i is the run that `runs.train` makes with its settings.
      strategy: "map" (members one after another), "vmap" (side by side) or "auto".
      chunk: members that are trained at once on a device, with "vmap".
      data_parallel: devices that share each batch.
      data_dir: where TFDS finds prepared data.
      on_epoch: called after each epoch, once for each member that has completed it, with the metrics of a line of
        metrics.jsonl, `member`, and the numbers in which members differ, such as beta (see `training.metrics`). If a call
        returns True, the members of the same program end after this epoch.
      on_progress: called after each epoch of each group with the group and the states of its members. A true result ends the
        training of the group.
      dataset: a data set in memory for `build`.
      init: parameters of a trained model from which all members start (from `runs.init_from`).
      **parts: a user's own parts for `build`.

    Example: two values of beta, two seeds, one compilation.
      >>> from vae_jax.sweep import grid
      >>> result = sweep(grid(Config(hidden=(16,), epochs=1), beta=[1.0, 4.0], seed=[0, 1]))
      >>> result.table["test_elbo"].shape, [point.numbers["rate"].n for point in result.points]
      ((4,), [2, 2])
    """
    members = with_custom_parts(members, Parts(**parts))
    members = resolve_columns(members, data_dir, dataset)
    check_members(members)
    prepared = [
        (group, build(group.configs[0], data_dir=data_dir, dataset=dataset, init=init, **parts)) for group in groups(members)
    ]
    table, fits, metrics = [], [], MemberMetrics(members, on_epoch)
    for group, built in prepared:
        placement = place(len(group.members), strategy, chunk=chunk, data_parallel=data_parallel)

        def after_epoch(progress: MembersProgress, group: Group = group, built: Built = built) -> bool:
            return metrics.report(group, built, progress) | bool(on_progress(group, progress))

        fit = run_group(group, built, placement, callbacks=Callbacks(after_epoch))
        table += rows(group, built, fit)
        fits.append((group, built, fit))
    complete = with_settings(table, members)
    epochs = max(len(history) for _, _, fit in fits for history in fit.progress.histories)
    curves = {name: np.full((len(members), epochs), np.nan) for name in ("test_elbo", "test_log_likelihood", "test_kl")}
    for group, _, fit in fits:
        for number, history in zip(group.members, fit.progress.histories, strict=True):
            for name, values in curves.items():
                values[number, : len(history)] = [getattr(epoch.test, name.removeprefix("test_")) for epoch in history]
    traced = [name for name in varying(members) if name in traced_names()]
    return Sweep(tuple(members), to_arrays(complete), points(complete, traced), curves, fits)
