"""The result of a sweep as numbers: a row for each member, a point for each setting with its interval over seeds, the hull."""

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
from vae_jax.runs.summary_file import test_bits_per_dim
from vae_jax.storage.atomic import as_json
from vae_jax.sweep.members import Group, groups, varying
from vae_jax.training import MembersFit, params_to_evaluate

Row = dict[str, Any]
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
}  # and more
MEASURES = ("test_elbo", "rate", "distortion", "active_units", "test_bits_per_dim")
DONE = ("finished", "stopped early")  # the others' numbers enter no mean


def rows(group: Group, built: Built, fit: MembersFit) -> list[Row]:
    """What is known of each member of a group that has ended."""

    def codes(params: Any, test: Array) -> tuple[Array, Array]:
        mean, log_scale = encode_dataset(
            built.vae, params, test, to_input=built.data.eval_input, batch_size=built.config.eval_batch_size
        )
        return active_units(mean), jax.vmap(kl_per_dimension)(mean, log_scale).mean(axis=0)

    measured = jax.jit(lambda stacked, test: jax.lax.map(lambda params: codes(params, test), stacked))
    active, kl = jax.device_get(measured(fit.params, built.data.test))
    steps = np.asarray(jax.device_get(fit.progress.members.state.step))
    result = []
    for i, (number, config) in enumerate(zip(group.members, group.configs, strict=True)):
        history, diverged = fit.progress.histories[i], fit.status[i] == "diverged"
        test = fit.tests[i] if fit.epochs[i] else None  # it diverged in its first epoch
        lost = diverged or fit.status[i] == NOT_FINITE
        row: Row = {"member": number}
        row |= {"beta": float(config.beta), "seed": config.seed, "learning_rate": float(config.learning_rate)}
        row |= {"status": _status(built, fit, i, int(steps[i]))}
        row |= {
            "test_elbo": test and test.elbo,
            "test_log_likelihood": test and test.log_likelihood,
            "test_kl": test and test.kl,
            "test_elbo_standard_error": test and test.elbo_standard_error,
            "rate": test and test.kl,
            "distortion": test and -test.log_likelihood,
            "test_bits_per_dim": test and test_bits_per_dim(built, test.elbo),
            "active_units": None if lost else int(active[i]),
            "epochs": len(history),
            "evaluated_epoch": fit.epochs[i],
            "steps": int(steps[i]),
            "wall_seconds": sum(epoch.seconds for epoch in history),
            "kl_per_dimension": None if lost else [float(value) for value in kl[i]],
        }
        result.append({name: as_json(value) for name, value in row.items()})
    return result


def _status(built: Built, fit: MembersFit, i: int, step: int) -> str:
    """The status of member i, with where it diverged, or the example whose ELBO is not finite."""
    if fit.status[i] == "diverged":
        return f"diverged at step {step}"
    if fit.status[i] != NOT_FINITE:
        return fit.status[i]
    state = jax.tree.map(lambda leaf: leaf[i], fit.progress.members.state)
    params, settings = params_to_evaluate(state, built.objective), built.config
    found = find_not_finite(settings.test_seed, built.vae, params, built.data, settings.eval_batch_size)
    return f"{NOT_FINITE} on {found.examples} after epoch {len(fit.progress.histories[i])}"


def with_settings(table: Sequence[Row], members: Sequence[Config]) -> list[Row]:
    """The rows in the order of the members, completed by every setting in which the members differ."""
    names = varying(members)
    labels = {number: group.label for group in groups(members) for number in group.members}
    ordered = sorted(table, key=lambda row: row["member"])
    complete = []
    for row in ordered:
        config = members[row["member"]]
        settings = {**{name: getattr(config, name) for name in names}, **{name: row[name] for name in _ALWAYS}}
        front = {"member": row["member"], "group": labels[row["member"]], **{name: settings[name] for name in _ALWAYS}}
        others = {name: _plain(value) for name, value in settings.items() if name not in front}
        complete.append({**front, **others, **{name: value for name, value in row.items() if name not in front}})
    return complete


def _plain(value: Any) -> Any:
    return "x".join(map(str, value)) if isinstance(value, tuple) else value


def to_csv(table: Sequence[Row], names: Sequence[str]) -> str:
    """Returns these columns as CSV: numbers with all their digits, nothing where there is none or where it is not finite."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(as_json, table))
    return buffer.getvalue()


def to_arrays(table: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Columns by name, one entry a member; NaN where a number is missing."""

    def column(values: list[Any]) -> np.ndarray:
        if any(isinstance(value, list) for value in values):  # of different lengths where the latent size is swept
            column = np.empty(len(values), object)
            column[:] = [None if value is None else np.array(value) for value in values]
            return column
        if any(isinstance(value, str) for value in values):
            return np.array(values)
        return np.array([np.nan if value is None else value for value in values])

    return {name: column([row[name] for row in table]) for name in table[0]}


class Interval(NamedTuple):
    """A mean over seeds, with its standard error and the t-interval that holds the expectation with 95 % confidence."""

    mean: float
    standard_error: float  # NaN for one seed
    low: float
    high: float
    n: int


def interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean, standard error s/sqrt(n) and mean -+ t_{n-1} s/sqrt(n); NaN bounds for a single value.

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


Range = tuple[float, float]  # least and greatest value that a measure can have
UNBOUNDED: Range = (-math.inf, math.inf)


def within(one: Interval, bounds: Range) -> Interval:
    """Cuts an interval at the least and the greatest value that its measure can have.

    The expectation of a bounded measure lies within the bounds, so the part that is cut off never holds it: the interval that
    remains has the same coverage. An interval on a transformed scale would be one of a different expectation, and is undefined
    for a score of exactly 0 or 1; a bootstrap of a handful of seeds covers too little.

    Example: three scores of at most 1.
      >>> [round(x, 3) for x in within(interval([0.8, 0.9, 1.0]), (0.0, 1.0))]
      [0.9, 0.058, 0.652, 1.0, 3]
    """
    least, greatest = min(bounds[0], one.mean), max(bounds[1], one.mean)  # an estimate may lie outside by its own noise
    if not one.n > 1:
        return one
    return one._replace(low=max(one.low, least), high=min(one.high, greatest))


class Point(NamedTuple):
    """All seeds of one setting."""

    group: str
    settings: dict[str, Any]  # the traced settings that vary, without the seed; beta always
    members: tuple[int, ...]  # those that ended well
    num_lost: int  # diverged, or not finite on an example
    numbers: dict[str, Interval]


def points(
    table: Sequence[Row], traced: Sequence[str], measures: Sequence[str] = MEASURES, ranges: Mapping[str, Range] | None = None
) -> list[Point]:
    """Rows gathered over seeds, in order of appearance.

    Args:
      table: a row for each member.
      traced: names of the traced settings that vary.
      measures: columns to average; those that no good row lacks are.
      ranges: measure -> the values that it can have; its interval is cut there.
    """
    names = list(dict.fromkeys(["beta", *(name for name in traced if name != "seed")]))
    gathered: dict[tuple[Any, ...], list[Row]] = {}
    for row in table:
        gathered.setdefault((row["group"], *(row[name] for name in names)), []).append(row)
    result = []
    for (group, *values), same in gathered.items():
        good = [row for row in same if row["status"] in DONE]
        known = [name for name in measures if good and all(row[name] is not None for row in good)]
        numbers = {name: within(interval([row[name] for row in good]), (ranges or {}).get(name, UNBOUNDED)) for name in known}
        settings = dict(zip(names, values, strict=True))
        result.append(Point(group, settings, tuple(row["member"] for row in good), len(same) - len(good), numbers))
    return result


def lower_hull(rate: Sequence[float], distortion: Sequence[float]) -> list[int]:
    """Indices of the points on the lower left convex hull of the rate-distortion plane, by rising rate.

    Source:
      Andrew (1979), monotone chain; the plane is that of Alemi et al. (2018).
    """
    order = sorted(range(len(rate)), key=lambda i: (rate[i], distortion[i]))
    hull: list[int] = []
    for i in order:
        if hull and distortion[i] >= min(distortion[j] for j in hull):
            continue  # more rate for no less distortion
        while len(hull) >= 2:
            a, b = hull[-2], hull[-1]
            up = (rate[b] - rate[a]) * (distortion[i] - distortion[a])
            if up > (distortion[b] - distortion[a]) * (rate[i] - rate[a]):
                break
            hull.pop()
        hull.append(i)
    return hull
