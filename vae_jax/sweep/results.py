"""Results of a sweep directory: its table, its points, its curves, and the parameters of its members."""

import warnings
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, TypeVar, Unpack

import jax
import numpy as np

from vae_jax._numerics.short_repr import short_repr
from vae_jax.build import Built, PartOptions, Parts
from vae_jax.config import CUSTOM, Config
from vae_jax.data import Dataset
from vae_jax.errors import DataWarning, UserError
from vae_jax.evaluation.overfitting import early_stopping_advice, overfit
from vae_jax.model import Params
from vae_jax.runs import read_metrics
from vae_jax.runs.checkpoints import Checkpoints
from vae_jax.runs.config_file import check_dataset_given, check_fingerprint, check_moments, check_recorded_parts
from vae_jax.runs.trained.initial import recorded_init
from vae_jax.storage.atomic import JsonObject, read_json, write_json, write_text
from vae_jax.storage.directories import PathLike, as_path
from vae_jax.sweep.blocks import members_template, read_block, recorded_elbos
from vae_jax.sweep.directory import BuildArguments
from vae_jax.sweep.members import Group, groups, traced_names, varying
from vae_jax.sweep.statistics import DONE, ROW, Point, Row, points, to_arrays, to_csv, with_settings
from vae_jax.sweep.successive_halving.block import decisions_of, read_state
from vae_jax.sweep.successive_halving.rule import STOPPED, Decision
from vae_jax.sweep.sweep_file import read_halving, read_sweep
from vae_jax.training import MemberState, params_to_evaluate_members
from vae_jax.training.step import TrainState

Selected = TypeVar("Selected")
_TIMES = ("seconds", "wall_seconds", "train_examples_per_second")


@short_repr
class Results(NamedTuple):
    """A sweep directory, read back."""

    path: Path
    members: list[Config]
    description: JsonObject  # sweep.json
    rows: list[Row]  # of the members that have ended
    points: list[Point]  # the rows with seeds combined, without members that were stopped by halving
    curves: list[Row]  # member, epoch and the numbers of metrics.jsonl
    placements: list[str]  # descriptions of the placements of the blocks
    decisions: tuple[Decision, ...] = ()  # of successive halving, in order

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The table as arrays with one entry for each member."""
        return to_arrays(self.rows)


def _result_files(path: Path) -> list[Path]:
    """Returns result.json of every block that has ended. Without block.json, its members are trained again elsewhere."""
    return [result for result in sorted((path / "blocks").glob("*/result.json")) if (result.parent / "block.json").exists()]


def _is_table(rows: object, members: Sequence[int]) -> bool:
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= ROW for row in rows):
        return False
    has_numbers = all(isinstance(row[name], int | float | None) for row in rows for name in ROW - {"status"})
    has_status = all(isinstance(row["status"], str) for row in rows)
    return has_numbers and has_status and [row["member"] for row in rows] == list(members)


def load_sweep(path: PathLike) -> Results:
    """Reads a sweep directory. Only the members that have ended have rows and curves.

    Raises:
      UserError: no member has ended, or a file was altered.
    """
    path = as_path(path)
    members, description = read_sweep(path)
    rows, curves, placements = [], [], []
    halving, decisions = read_halving(members, description), []
    for file in _result_files(path):
        advice = "Remove it and continue the sweep with `resume=True`."
        result = read_json(file, "rows", "placement", advice=advice)
        numbers = read_block(file.parent, len(members))["members"]
        if not _is_table(result["rows"], numbers):
            raise UserError(f"{file}: expected a row for each of the members {numbers}; it was altered. {advice}")
        rows += result["rows"]
        placements.append(result["placement"])
        lines = [line for line in read_metrics(file.parent) if not line.get("diverged")]
        if len(lines) != sum(row["epochs"] for row in result["rows"]):
            advice = f"Remove blocks/{file.parent.name}/ and continue with `resume=True`: its members are trained again."
            raise UserError(f"{file.parent / 'metrics.jsonl'}: lacks epochs of its members; it was altered. {advice}")
        curves += lines
        if halving is not None:
            decisions = decisions_of(file.parent, halving, len(members), members[0].epochs)
    if not rows:
        raise UserError(f"{path}: no member has ended yet.", fix="Continue the sweep with `resume=True`.")
    rows = with_settings(rows, members)
    traced = [name for name in varying(members) if name in traced_names()]
    curves.sort(key=lambda line: (line["member"], line["epoch"]))
    compared = [row for row in rows if not row["status"].startswith(STOPPED)]
    return Results(path, members, description, rows, points(compared, traced), curves, placements, tuple(decisions))


def describe_overfitting(results: Results) -> str | None:
    """Returns a sentence on members whose held-out ELBO peaked before the end, and what to do; None if there are none."""
    curves: dict[int, list[Row]] = {}
    for line in results.curves:
        curves.setdefault(line["member"], []).append(line)
    good = {row["member"]: row for row in results.rows if row["status"] in DONE and row["member"] in curves}
    observed = {number: overfit(curves[number], row.get("evaluated_epoch")) for number, row in good.items()}
    overfitted = {number: one for number, one in observed.items() if one is not None}
    if not overfitted:
        return None
    worst = max(overfitted, key=lambda number: overfitted[number].fall)
    one, several = overfitted[worst], len(overfitted) > 1
    return (
        f"overfitting: in {len(overfitted)} of {len(good)} members the {one.split} ELBO fell after its best epoch, while the "
        f"training ELBO rose; {'most of all ' if several else ''}in member {worst}, from {one.best_elbo:z.2f} after epoch "
        f"{one.best_epoch} to {one.elbo:z.2f} after epoch {one.epoch}. {early_stopping_advice(one.split)}"
    )


def write_results(path: PathLike, wall_seconds: float | None = None) -> Results:
    """Writes results.csv, curves.csv and summary.json from the blocks.

    Args:
      path: the sweep directory.
      wall_seconds: duration of the sweep, recorded in summary.json.
    """
    path = as_path(path)
    results = load_sweep(path)
    write_text(path / "results.csv", to_csv(results.rows, [name for name in results.rows[0] if name != "kl_per_dimension"]))
    condition = results.description["data"].get("conditioned_on")
    given = {} if condition is None else {"conditioned_on": condition}
    names = list(dict.fromkeys(name for line in results.curves for name in line if name not in _TIMES))
    write_text(path / "curves.csv", to_csv([line | given for line in results.curves], [*names, *given]))
    stopped = [row["member"] for row in results.rows if row["status"].startswith(STOPPED)]
    lost = [row["member"] for row in results.rows if row["status"] not in DONE and row["member"] not in stopped]
    selection = {
        "stopped_by_halving": stopped,
        "member_epochs": sum(row["epochs"] for row in results.rows),
        "decisions": [decision._asdict() for decision in results.decisions],
    }
    summary = {
        "status": "finished" if len(results.rows) == len(results.members) else "unfinished",
        "members": len(results.members),
        "diverged": lost,
        **(selection if results.decisions else {}),
        "unit": "nats per example, beta = 1",
        **given,
        "interval": "t, 95 %, over seeds",
        "num_test_examples": results.description["data"]["test_examples"],
        "points": [
            {
                "group": point.group,
                **point.settings,
                "members": point.members,
                "diverged": point.num_lost,
                **{name: numbers._asdict() for name, numbers in point.numbers.items()},
            }
            for point in results.points
        ],
        "placement": list(dict.fromkeys(results.placements)),
        "member_seconds": sum(row["wall_seconds"] for row in results.rows),
        "wall_seconds": wall_seconds,
    }
    write_json(path / "summary.json", summary)
    return results


def load_params(
    results: Results,
    numbers: Sequence[int],
    data_dir: str | None = None,
    *,
    dataset: Dataset | None = None,
    **parts: Unpack[PartOptions],
) -> dict[int, tuple[Built, Params]]:
    """Returns the model and the parameters to evaluate of some members.

    Args:
      results: from `load_sweep`.
      numbers: of the members.
      data_dir: where TFDS finds prepared data, if not where the sweep found it.
      dataset: the data set of the sweep, if it was passed from memory.
      **parts: the parts that the sweep was trained with, where they are the user's own (see `build.PartOptions`).

    Returns:
      (model, parameters) by number.
    """

    def to_evaluate(built: Built, members: MemberState, count: int) -> Params:
        return params_to_evaluate_members(members, count, built.objective, built.config.early_stopping)

    return _load(results, numbers, BuildArguments(data_dir, dataset, parts), to_evaluate)


def load_states(
    results: Results,
    numbers: Sequence[int],
    data_dir: str | None = None,
    *,
    dataset: Dataset | None = None,
    **parts: Unpack[PartOptions],
) -> dict[int, tuple[Built, TrainState]]:
    """Returns the model and the last state of some members, or the last finite state of a member that diverged.

    Args:
      results: from `load_sweep`.
      numbers: of the members.
      data_dir: where TFDS finds prepared data, if not where the sweep found it.
      dataset: the data set of the sweep, if it was passed from memory.
      **parts: the parts that the sweep was trained with, where they are the user's own (see `build.PartOptions`).

    Returns:
      (model, state) by number.
    """
    return _load(results, numbers, BuildArguments(data_dir, dataset, parts), lambda built, members, count: members.state)


def _load(
    results: Results, numbers: Sequence[int], arguments: BuildArguments, select: Callable[[Built, MemberState, int], Selected]
) -> dict[int, tuple[Built, Selected]]:
    """Reads the checkpoints of some members.

    Args:
      results: from `load_sweep`.
      numbers: of the members.
      arguments: where the data are, and the parts of the user.
      select: (model, stacked states of a block, number of its members) -> stacked arrays, of which each member gets its part.

    Returns:
      (model, selected arrays) by number.
    """
    for note in check_recorded_parts(
        results.path, results.description, results.members, Parts(**arguments.parts), "load_params"
    ):
        warnings.warn(note, DataWarning, stacklevel=3)
    loaded: dict[int, tuple[Built, Selected]] = {}
    all_groups = groups(results.members)
    built_groups: dict[tuple[int, ...], Built] = {}
    for file in _result_files(results.path):
        members = read_block(file.parent, len(results.members))["members"]
        wanted = [number for number in numbers if number in members]
        if not wanted:
            continue
        group = next(group for group in all_groups if members[0] in group.members)
        if group.members not in built_groups:
            built_groups[group.members] = _build_group(results, group, arguments)
        built = built_groups[group.members]
        if read_halving(results.members, results.description) is not None:
            for number in wanted:
                state = _restore_ended(results, file.parent, built, number)
                loaded[number] = (built, jax.tree.map(itemgetter(0), select(built, state, 1)))
            continue
        parts = select(built, _restore(results, file.parent, built, members, wanted), len(members))
        for number in wanted:
            loaded[number] = (built, jax.tree.map(itemgetter(members.index(number)), parts))
    return loaded


def _restore_ended(results: Results, folder: Path, built: Built, number: int) -> MemberState:
    """Reads the state of a member of a sweep with successive halving; raises `UserError` if it was not kept."""
    row = next(row for row in results.rows if row["member"] == number)
    if row["status"].startswith(STOPPED):
        kept = [row["member"] for row in results.rows if not row["status"].startswith(STOPPED)]
        raise UserError(
            f"member {number} was {row['status']} after {row['epochs']} epochs, and its parameters were not kept.",
            fix=f"Choose a member that was trained to its end: {', '.join(map(str, kept))}.",
        )
    return read_state(folder, built, number, row["epochs"])


def _build_group(results: Results, group: Group, arguments: BuildArguments) -> Built:
    """Returns data and model of a group; raises `UserError` if the data have changed."""
    config, recorded = group.configs[0], results.description["data"]
    check_dataset_given(results.path, config.dataset == CUSTOM, recorded, arguments.dataset, "load_params")
    data_dir = arguments.data_dir or results.description.get("data_dir")
    built = arguments._replace(data_dir=data_dir, init=recorded_init(results.path)).build(config)
    check_fingerprint(results.path, recorded, built.dataset, "the sweep was trained on")
    check_moments(results.path, recorded, built)
    return built


def _restore(results: Results, folder: Path, built: Built, members: Sequence[int], wanted: Sequence[int]) -> MemberState:
    """Reads the stacked states of a block; raises `UserError` unless the wanted members are those of the table."""
    template = members_template(built, len(members))
    with Checkpoints(folder / "checkpoints", in_little_memory=built.config.stream) as checkpoints:
        restored = checkpoints.restore((template.state, template.best), recorded_elbos(folder, members))
    steps = {row["member"]: row["steps"] for row in results.rows if row["member"] in wanted}
    restored_steps = {} if restored is None else dict(zip(members, np.asarray(restored.state.step).tolist(), strict=True))
    if restored is None or any(restored_steps[number] != count for number, count in steps.items()):
        raise UserError(
            f"{folder}: the checkpoint of the numbers in the table is damaged or missing.",
            fix="Remove its result.json and continue the sweep with `resume=True`, which trains its members again.",
        )
    return MemberState(restored.state, restored.best)
