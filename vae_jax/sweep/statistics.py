"""Statistics of a sweep: a row for each member, a point with its interval over seeds for each setting, and the hull."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from vae_jax.build import Built
from vae_jax.config import Config
from vae_jax.divergences import kl_per_dimension
from vae_jax.evaluation import NOT_FINITE, encode_dataset, find_not_finite
from vae_jax.evaluation.posterior_collapse import active_units
from vae_jax.model import Params
from vae_jax.runs.summary_file import test_bits_per_dim
from vae_jax.storage.atomic import JsonObject, as_json
from vae_jax.sweep.members import Group, groups, plain, varying
from vae_jax.training import Epoch, MembersFit, params_to_evaluate

Row = JsonObject
_ALWAYS = ("beta", "seed", "learning_rate")
ROW = {
    "member",
    *_ALWAYS,
    "status",
    "test_elbo",
    "test_log_likelihood",
    "test_kl",
    "active_units",
    "epochs",
    "steps",
}  # columns that every row has, among others
MEASURES = ("test_elbo", "rate", "distortion", "active_units", "test_bits_per_dim")
DONE = ("finished", "stopped early")  # only members with this status enter the means


def rows(group: Group, built: Built, fit: MembersFit) -> list[Row]:
    """Returns a row for each member of a group that has ended.

    Args:
      group: the members.
      built: data and model.
      fit: result of the training.
    """

    def codes(params: Params, test: Array) -> tuple[Array, Array]:
        mean, log_scale = encode_dataset(
            built.vae, params, test, to_input=built.data.eval_input, batch_size=built.config.eval_batch_size
        )
        return active_units(mean), jax.vmap(kl_per_dimension)(mean, log_scale).mean(axis=0)

    measured = jax.jit(lambda stacked, test: jax.lax.map(lambda params: codes(params, test), stacked))
    active, kl = jax.device_get(measured(fit.params, built.data.test))
    steps = np.asarray(jax.device_get(fit.progress.members.state.step))
    table = []
    for i, (number, config) in enumerate(zip(group.members, group.configs, strict=True)):
        lost = fit.status[i] in ("diverged", NOT_FINITE)
        codes_of_member = None if lost else (int(active[i]), [float(value) for value in kl[i]])
        history, step = fit.progress.histories[i], int(steps[i])
        status = _status(built, fit, i, step)
        table.append(member_row(built, number, config, history, (status, fit.epochs[i], step), codes_of_member))
    return table


def member_row(
    built: Built,
    number: int,
    config: Config,
    history: Sequence[Epoch],
    end: tuple[str, int, int],
    codes: tuple[int, list[float]] | None,
) -> Row:
    """Returns the row of one member.

    Args:
      built: data and model.
      number: of the member in the sweep.
      config: its settings.
      history: its epochs.
      end: status, the epoch that the evaluated parameters come from (0 if it diverged in its first epoch), and steps made.
      codes: number of active units and KL of each dimension; None if they are not known.
    """
    status, evaluated_epoch, steps = end
    evaluated = history[evaluated_epoch - 1] if evaluated_epoch else None
    test = evaluated and evaluated.test
    row: Row = {"member": number}
    row |= {"beta": float(config.beta), "seed": config.seed, "learning_rate": float(config.learning_rate)}
    row |= {
        "status": status,
        "test_elbo": test and test.elbo,
        "test_log_likelihood": test and test.log_likelihood,
        "test_kl": test and test.kl,
        "test_elbo_standard_error": test and test.elbo_standard_error,
    }
    if built.data.validation is not None:
        row |= {"validation_elbo": evaluated.validation.elbo if evaluated and evaluated.validation else None}
    row |= {
        "rate": test and test.kl,
        "distortion": test and -test.log_likelihood,
        "test_bits_per_dim": test and test_bits_per_dim(built, test.elbo),
        "active_units": codes and codes[0],
        "epochs": len(history),
        "evaluated_epoch": evaluated_epoch,
        "steps": steps,
        "wall_seconds": sum(epoch.seconds for epoch in history),
        "kl_per_dimension": codes and codes[1],
    }
    return {name: as_json(value) for name, value in row.items()}


def _status(built: Built, fit: MembersFit, i: int, step: int) -> str:
    """Returns the status of member i, with the step at which it diverged, or the example whose ELBO is not finite."""
    if fit.status[i] == "diverged":
        return f"diverged at step {step}"
    if fit.status[i] != NOT_FINITE:
        return fit.status[i]
    state = jax.tree.map(lambda leaf: leaf[i], fit.progress.members.state)
    params, settings = params_to_evaluate(state, built.objective), built.config
    not_finite = find_not_finite(settings.test_seed, built.vae, params, built.data, settings.eval_batch_size)
    return f"{NOT_FINITE} on {not_finite.examples} after epoch {len(fit.progress.histories[i])}"


def with_settings(table: Sequence[Row], members: Sequence[Config]) -> list[Row]:
    """Returns the rows in the order of the members, with every setting in which the members differ.

    Args:
      table: rows from `rows`.
      members: of the sweep.
    """
    names = varying(members)
    labels = {number: group.label for group in groups(members) for number in group.members}
    ordered = sorted(table, key=lambda row: row["member"])
    complete = []
    for row in ordered:
        config = members[row["member"]]
        settings = {**{name: getattr(config, name) for name in names}, **{name: row[name] for name in _ALWAYS}}
        front = {"member": row["member"], "group": labels[row["member"]], **{name: settings[name] for name in _ALWAYS}}
        others = {name: plain(value) for name, value in settings.items() if name not in front}
        complete.append({**front, **others, **{name: value for name, value in row.items() if name not in front}})
    return complete


def to_csv(table: Sequence[Row], names: Sequence[str]) -> str:
    """Returns columns of a table as CSV.

    Numbers have all their digits. A cell is empty if the number is missing or not finite.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(as_json, table))
    return buffer.getvalue()


def to_arrays(table: Sequence[JsonObject]) -> dict[str, np.ndarray]:
    """Returns the columns of a table by name, with one entry for each member. A missing number is NaN."""

    def column(values: list[object]) -> np.ndarray:
        if any(isinstance(value, list) for value in values):  # lengths differ if the latent size is swept
            column = np.empty(len(values), object)
            column[:] = [None if value is None else np.array(value) for value in values]
            return column
        if any(isinstance(value, str) for value in values):
            return np.array(values)
        return np.array([np.nan if value is None else value for value in values])

    return {name: column([row[name] for row in table]) for name in table[0]}


class Interval(NamedTuple):
    """A mean over seeds with its standard error and its 95 % t-interval for the expectation."""

    mean: float
    standard_error: float  # NaN for one seed
    low: float
    high: float
    n: int


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Returns the mean, the standard error s/sqrt(n) and the t-interval mean -+ t_{n-1} s/sqrt(n).

    Args:
      values: one for each seed.
      confidence: probability with which the interval covers the expectation of normal values, in (0, 1).

    Returns:
      The interval; standard error and bounds are NaN for a single value.

    Example:
      >>> [round(x, 3) for x in interval([1.0, 2.0, 3.0])]
      [2.0, 0.577, -0.484, 4.484, 3]
    """
    from scipy.special import stdtrit

    array = np.asarray(values, np.float64)
    n, mean = len(array), float(array.mean())
    if n < 2:
        return Interval(mean, np.nan, np.nan, np.nan, n)
    error = float(array.std(ddof=1) / n**0.5)
    reach = float(stdtrit(n - 1, (1 + confidence) / 2)) * error
    return Interval(mean, error, mean - reach, mean + reach, n)


Range = tuple[float, float]  # least and greatest possible value of a measure
UNBOUNDED: Range = (-math.inf, math.inf)


def within(one: Interval, bounds: Range) -> Interval:
    """Cuts an interval at the least and the greatest possible value of its measure.

    The expectation of a bounded measure lies within the bounds. The part that is cut off never contains it, so the remaining
    interval has the same coverage. The alternatives are worse: an interval on a transformed scale is one of a different
    expectation and is undefined for a score of exactly 0 or 1, and a bootstrap of a handful of seeds covers too little.

    Example: three scores of at most 1.
      >>> [round(x, 3) for x in within(interval([0.8, 0.9, 1.0]), (0.0, 1.0))]
      [0.9, 0.058, 0.652, 1.0, 3]
    """
    least, greatest = min(bounds[0], one.mean), max(bounds[1], one.mean)  # noise may move an estimate out of the bounds
    if not one.n > 1:
        return one
    return one._replace(low=max(one.low, least), high=min(one.high, greatest))


class Point(NamedTuple):
    """All seeds of one setting."""

    group: str
    settings: JsonObject  # the traced settings that vary, and beta always; without the seed
    members: tuple[int, ...]  # numbers of the members that ended well
    num_lost: int  # members that diverged or whose ELBO is not finite on an example
    numbers: dict[str, Interval]


def points(
    table: Sequence[Row], traced: Sequence[str], measures: Sequence[str] = MEASURES, ranges: Mapping[str, Range] | None = None
) -> list[Point]:
    """Combines the rows of all seeds of a setting, in order of appearance.

    Args:
      table: a row for each member.
      traced: names of the traced settings that vary.
      measures: columns to average. A column is left out if a member that ended well lacks it.
      ranges: possible values by measure, at which intervals are cut.
    """
    names = list(dict.fromkeys(["beta", *(name for name in traced if name != "seed")]))
    rows_by_point: dict[tuple[Any, ...], list[Row]] = {}
    for row in table:
        rows_by_point.setdefault((row["group"], *(row[name] for name in names)), []).append(row)
    combined = []
    for (group, *values), same in rows_by_point.items():
        good = [row for row in same if row["status"] in DONE]
        known = [name for name in measures if good and all(row[name] is not None for row in good)]
        numbers = {name: within(interval([row[name] for row in good]), (ranges or {}).get(name, UNBOUNDED)) for name in known}
        settings = dict(zip(names, values, strict=True))
        combined.append(Point(group, settings, tuple(row["member"] for row in good), len(same) - len(good), numbers))
    return combined


def lower_hull(rate: Sequence[float], distortion: Sequence[float]) -> list[int]:
    """Returns the indices of the points on the lower left convex hull of the rate-distortion plane, by increasing rate.

    Args:
      rate: of each point, in nats.
      distortion: of each point, in nats.

    Source:
      Andrew (1979), monotone chain; the plane is that of Alemi et al. (2018).
    """
    order = sorted(range(len(rate)), key=lambda i: (rate[i], distortion[i]))
    hull: list[int] = []
    for i in order:
        if hull and distortion[i] >= min(distortion[j] for j in hull):
            continue  # a higher rate without a lower distortion
        while len(hull) >= 2:
            a, b = hull[-2], hull[-1]
            up = (rate[b] - rate[a]) * (distortion[i] - distortion[a])
            if up > (distortion[b] - distortion[a]) * (rate[i] - rate[a]):
                break
            hull.pop()
        hull.append(i)
    return hull
