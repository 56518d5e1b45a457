"""What a sweep directory says: its table, its points, its curves, and the parameters of its members."""

from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vae_jax._numerics.short_repr import short_repr
from vae_jax.build import Built, build
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.evaluation.overfitting import early_stopping_advice, overfit
from vae_jax.runs import read_metrics
from vae_jax.runs.checkpoints import Checkpoints
from vae_jax.runs.description import check_moments
from vae_jax.storage.atomic import read_json, write_json, write_text
from vae_jax.storage.directories import PathLike, as_path
from vae_jax.sweep.directory import member_template, read_block, read_sweep, told
from vae_jax.sweep.members import groups, traced_names, varying
from vae_jax.sweep.statistics import DONE, ROW, Point, Row, points, to_arrays, to_csv, with_settings
from vae_jax.training import MemberState, params_to_evaluate_members
from vae_jax.training.step import TrainState

_TIMES = ("seconds", "wall_seconds", "train_examples_per_second")


@short_repr
class Results(NamedTuple):
    """A sweep directory, read back."""

    path: Path
    members: list[Config]
    description: dict[str, Any]  # sweep.json
    rows: list[Row]  # of the members that have ended
    points: list[Point]  # gathered over seeds
    curves: list[Row]  # member, epoch and the numbers of metrics.jsonl
    placements: list[str]  # how the blocks ran, and why

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The table as arrays, one entry a member."""
        return to_arrays(self.rows)


def _ended(path: Path) -> list[Path]:
    """The result.json of every block that has ended; of a folder without block.json the members are trained elsewhere anew."""
    return [result for result in sorted((path / "blocks").glob("*/result.json")) if (result.parent / "block.json").exists()]


def _is_table(rows: Any, members: Sequence[int]) -> bool:
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= ROW for row in rows):
        return False
    numbers = all(isinstance(row[name], int | float | None) for row in rows for name in ROW - {"status"})
    words = all(isinstance(row["status"], str) for row in rows)
    return numbers and words and [row["member"] for row in rows] == list(members)


def load_sweep(path: PathLike) -> Results:
    """Reads a sweep directory; of an unfinished one the members that have ended."""
    path = as_path(path)
    members, description = read_sweep(path)
    rows, curves, placements = [], [], []
    for block in _ended(path):
        advice = "Remove it and continue the sweep with --resume."
        result = read_json(block, "rows", "placement", advice=advice)
        own = read_block(block.parent, len(members))["members"]
        if not _is_table(result["rows"], own):
            raise UserError(f"{block}: expected a row for each of the members {own}; it was altered. {advice}")
        rows += result["rows"]
        placements.append(result["placement"])
        lines = [line for line in read_metrics(block.parent) if not line.get("diverged")]
        if len(lines) != sum(row["epochs"] for row in result["rows"]):
            advice = f"Remove blocks/{block.parent.name}/ and continue with --resume: its members are trained again."
            raise UserError(f"{block.parent / 'metrics.jsonl'}: lacks epochs of its members; it was altered. {advice}")
        curves += lines
    if not rows:
        raise UserError(f"{path}: no member has ended yet. Continue the sweep with --resume.")
    rows = with_settings(rows, members)
    traced = [name for name in varying(members) if name in traced_names()]
    curves.sort(key=lambda line: (line["member"], line["epoch"]))
    return Results(path, members, description, rows, points(rows, traced), curves, placements)


def overfit_words(results: Results) -> str | None:
    """Tells a user which members' held-out ELBO had peaked before the end, and what to do; None if there are none."""
    curves: dict[int, list[Row]] = {}
    for line in results.curves:
        curves.setdefault(line["member"], []).append(line)
    good = {row["member"]: row for row in results.rows if row["status"] in DONE and row["member"] in curves}
    observed = {number: overfit(curves[number], row.get("evaluated_epoch")) for number, row in good.items()}
    found = {number: one for number, one in observed.items() if one is not None}
    if not found:
        return None
    worst = max(found, key=lambda number: found[number].fall)
    one, several = found[worst], len(found) > 1
    return (
        f"overfitting: in {len(found)} of {len(good)} members the {one.split} ELBO fell after its best epoch, while the "
        f"training ELBO rose; {'most of all ' if several else ''}in member {worst}, from {one.best_elbo:z.2f} after epoch "
        f"{one.best_epoch} to {one.elbo:z.2f} after epoch {one.epoch}. {early_stopping_advice(one.split)}"
    )


def write_results(path: PathLike, wall_seconds: float | None = None) -> Results:
    """Writes results.csv, curves.csv and summary.json from the blocks."""
    path = as_path(path)
    results = load_sweep(path)
    write_text(path / "results.csv", to_csv(results.rows, [name for name in results.rows[0] if name != "kl_per_dimension"]))
    names = list(dict.fromkeys(name for line in results.curves for name in line if name not in _TIMES))
    write_text(path / "curves.csv", to_csv(results.curves, names))
    lost = [row["member"] for row in results.rows if row["status"] not in DONE]
    summary = {
        "status": "finished" if len(results.rows) == len(results.members) else "unfinished",
        "members": len(results.members),
        "diverged": lost,
        "unit": "nats per example, beta = 1",
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


def load_params(results: Results, numbers: Sequence[int], data_dir: str | None = None) -> dict[int, tuple[Built, Any]]:
    """The model and the parameters to evaluate of some members, by their numbers."""

    def params_of(built: Built, members: MemberState, count: int) -> Any:
        return params_to_evaluate_members(members, count, built.objective, built.config.early_stopping)

    return _load(results, numbers, data_dir, params_of)


def load_states(results: Results, numbers: Sequence[int], data_dir: str | None = None) -> dict[int, tuple[Built, TrainState]]:
    """The model and the last state of some members, by their numbers; of one that diverged the last good one."""
    return _load(results, numbers, data_dir, lambda built, members, count: members.state)


def _load(
    results: Results, numbers: Sequence[int], data_dir: str | None, read: Callable[[Built, MemberState, int], Any]
) -> dict[int, tuple[Built, Any]]:
    """(model, what `read` makes of the members of its block, the member's part of it) of some members, by their numbers."""
    found: dict[int, tuple[Built, Any]] = {}
    all_groups = groups(results.members)
    builts: dict[tuple[int, ...], Built] = {}
    for block in _ended(results.path):
        own = read_block(block.parent, len(results.members))["members"]
        wanted = [number for number in numbers if number in own]
        if not wanted:
            continue
        group = next(group for group in all_groups if own[0] in group.members)
        if group.members not in builts:
            place = data_dir or results.description.get("data_dir")
            builts[group.members] = build(group.configs[0], data_dir=place)
        built = builts[group.members]
        if built.dataset.fingerprint() != results.description["data"]["sha256"]:
            raise UserError(f"{results.path}: the data set {built.config.dataset!r} is not that of the sweep.")
        check_moments(results.path, results.description["data"], built)
        template = member_template(built, len(own))
        with Checkpoints(block.parent / "checkpoints") as checkpoints:
            restored = checkpoints.restore((template.state, template.best), told(block.parent, own))
        steps = {row["member"]: row["steps"] for row in results.rows if row["member"] in wanted}
        made = {} if restored is None else dict(zip(own, np.asarray(restored[1].step).tolist(), strict=True))
        if restored is None or any(made[number] != count for number, count in steps.items()):
            raise UserError(
                f"{block.parent}: the checkpoint of the numbers in the table is damaged or missing. Remove its result.json and "
                "continue the sweep with --resume, which makes it again."
            )
        parts = read(built, MemberState(*restored[1:3]), len(own))
        for number in wanted:
            found[number] = (built, jax.tree.map(itemgetter(own.index(number)), parts))
    return found
