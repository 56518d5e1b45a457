"""The part of a sweep's report on successive halving: learning curves by rung, the course of the sweep, and the decisions."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from vae_jax.report import html
from vae_jax.report.html import Section
from vae_jax.report.run import figures
from vae_jax.report.sweep import text
from vae_jax.report.sweep.axes import FEW, GRAY
from vae_jax.sweep.results import Results
from vae_jax.sweep.statistics import DONE, Row
from vae_jax.sweep.successive_halving.rule import STOPPED, Halving
from vae_jax.sweep.sweep_file import read_halving

_LOST = "#c0392b"


def halving_part(results: Results) -> str:
    """Returns the HTML of the figure and the tables, or "" for a sweep without successive halving."""
    settings = read_halving(results.members, results.description)
    if settings is None:
        return ""
    section = Section("halving", "Successive halving", _caption(results, settings), halving_figure(results, settings))
    return html.write_sections([section], results.path / "figures") + _rung_table(results, settings) + _decision_table(results)


def _caption(results: Results, settings: Halving) -> str:
    count = sum(row["status"].startswith(STOPPED) for row in results.rows)
    made, whole = sum(row["epochs"] for row in results.rows), sum(member.epochs for member in results.members)
    best = "lowest" if settings.by.endswith(":min") else "highest"
    return (
        f"At each rung (dotted), a member is compared by its {_title(settings)} with all members that have reached it so far. "
        f"It continues if it is among the best 1/{settings.eta} of them, rounded up. Otherwise it stops (cross), and a new "
        f"member takes its place. The {best} value is the best. {count} of {len(results.rows)} members were stopped. The sweep "
        f"cost {made:,} member-epochs, {100 * made / whole:.0f} % of those without halving. Left: the values by the epoch of "
        f"each member, on a scale that leaves out the worst quarter at the first rung. Right: when each member was trained."
    )


def _title(settings: Halving) -> str:
    return settings.column.replace("_", " ").replace("elbo", "ELBO").replace(" kl", " KL")


def halving_figure(results: Results, settings: Halving) -> Figure:
    """Draws the value of each member against its epoch, and the time at which each member was trained."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
    curves: dict[int, list[Row]] = {}
    for line in results.curves:
        curves.setdefault(line["member"], []).append(line)
    finished = [row for row in results.rows if row["status"] in DONE]
    shades = {row["member"]: f"C{i}" for i, row in enumerate(finished)} if len(finished) <= FEW else {}
    for row in results.rows:
        number, is_stopped = row["member"], row["status"].startswith(STOPPED)
        is_finished = row["status"] in DONE
        color = shades.get(number, figures.TEST) if is_finished else GRAY if is_stopped else _LOST
        line = curves.get(number, [])
        epochs, values = [one["epoch"] for one in line], [one[settings.column] for one in line]
        left.plot(epochs, values, color=color, linewidth=1.6 if is_finished else 0.8, alpha=1 if is_finished else 0.6)
        if line and not is_finished:
            left.plot(epochs[-1], values[-1], "x", color=color, markersize=5)
        right.barh(number, row["epochs"], left=row["born"], height=0.8, color=color, alpha=1 if is_finished else 0.55)
    num_epochs = results.members[0].epochs
    for epoch in settings.rungs(num_epochs):
        left.axvline(epoch, color=GRAY, linestyle=":", linewidth=1)
    _limit(left, results, settings, curves)
    left.set(xlabel="epoch of the member", ylabel=f"{_title(settings)}, nats per example")
    right.set(xlabel="epoch of the sweep", ylabel="member", ylim=(len(results.members) - 0.4, -0.6))
    for axis in (left.xaxis, right.xaxis, right.yaxis):
        axis.set_major_locator(MaxNLocator("auto", integer=True))
    left.grid(alpha=0.2)
    figure.legend(handles=_handles(results, finished, shades), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _limit(axes: "figures.Axes", results: Results, settings: Halving, curves: dict[int, list[Row]]) -> None:
    """Sets the scale so that the members that continued can be told apart."""
    sign = -1 if settings.by.endswith(":min") else 1
    first = [sign * decision.value for decision in results.decisions if decision.rung == 0 and np.isfinite(decision.value)]
    good = {row["member"] for row in results.rows if row["status"] in DONE}
    values = [sign * line[settings.column] for number in good for line in curves.get(number, [])]
    values = [value for value in values if np.isfinite(value)]
    if first and values:
        low, high = figures.limits([float(np.percentile(first, 25)), max(values)])
        axes.set_ylim(*sorted((sign * low, sign * high)))


def _handles(results: Results, finished: Sequence[Row], shades: dict[int, str]) -> list[Line2D]:
    """Returns the legend: the members that finished, or one entry for many of them, and the meaning of the gray lines."""
    if shades:
        entries = [
            Line2D(
                [],
                [],
                color=shades[row["member"]],
                linewidth=1.6,
                label=f"member {row['member']}: {text.describe_settings(results, row['member'])}",
            )
            for row in finished
        ]
    else:
        entries = [Line2D([], [], color=figures.TEST, linewidth=1.6, label=f"finished ({len(finished)} members)")]
    entries.append(Line2D([], [], color=GRAY, marker="x", linewidth=0.8, label=STOPPED))
    if any(row["status"] not in DONE and not row["status"].startswith(STOPPED) for row in results.rows):
        entries.append(Line2D([], [], color=_LOST, marker="x", linewidth=0.8, label="diverged or not finite"))
    return entries


def _rung_table(results: Results, settings: Halving) -> str:
    """Returns a table with a row for each rung."""
    sign = -1 if settings.by.endswith(":min") else 1
    header = ["rung", "epoch", "compared", "continued", f"best {_title(settings)}", "worst that continued"]
    rows = []
    for rung, epoch in enumerate(settings.rungs(results.members[0].epochs)):
        here = [decision for decision in results.decisions if decision.rung == rung]
        known = [decision.value for decision in here if np.isfinite(decision.value)]
        kept = [decision.value for decision in here if decision.is_promoted and np.isfinite(decision.value)]
        best = f"{sign * max(sign * value for value in known):z.3f}" if known else "–"
        worst = f"{sign * min(sign * value for value in kept):z.3f}" if kept else "–"
        rows.append([str(rung), str(epoch), str(len(here)), str(sum(one.is_promoted for one in here)), best, worst])
    return html.table(rows, ["number"] * len(header), header)


def _decision_table(results: Results) -> str:
    """Returns the folded table of all decisions."""
    header = ["epoch of the sweep", "member", "rung", "value", "rank", "decision"]
    rows = [
        [
            str(one.sweep_epoch),
            str(one.member),
            str(one.rung),
            f"{one.value:z.3f}",
            f"{one.rank} of {one.num_compared}",
            "continued" if one.is_promoted else "stopped",
        ]
        for one in results.decisions
    ]
    table = html.table(rows, ["number"] * len(header), header)
    return f"<details><summary>All {len(rows)} decisions</summary>{table}</details>"
