"""The report.html of a sweep: its settings, the figures, every member, and the command that repeats the sweep."""

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Unpack

from vae_jax.build import PartOptions
from vae_jax.data import Dataset
from vae_jax.report import html
from vae_jax.report.html import Section
from vae_jax.report.run.figures import cut_off
from vae_jax.report.run.page import in_notation
from vae_jax.report.sweep import figures, text
from vae_jax.report.sweep.axes import FEW, cut_bars
from vae_jax.report.sweep.content import Overview, Setting, display_name, kl_rows, summarize
from vae_jax.report.sweep.examples import example_section
from vae_jax.report.sweep.halving import halving_part
from vae_jax.runs.notation import Notation
from vae_jax.sweep.directory import BuildArguments
from vae_jax.sweep.members import varying
from vae_jax.sweep.results import Results
from vae_jax.sweep.statistics import Interval

_FILES = ("results.csv", "curves.csv", "summary.json", "sweep.json")
_MAX_ROWS, _MAX_CURVES, _MAX_STRIPS = 60, 8, 8  # settings, programs and settings that fit into a figure
_MAX_OPEN = 40  # members that are listed without a click


def write_sweep_report(
    results: Results, data_dir: str | None = None, *, dataset: Dataset | None = None, **parts: Unpack[PartOptions]
) -> Path:
    """Draws the figures, writes report.html into the sweep directory, and returns the path of the page.

    The figures are rate_distortion.png and figures/*.png.

    Args:
      results: from `load_sweep` or `write_results`.
      data_dir: where TFDS finds prepared data, if not where the sweep found it.
      dataset: the data set of the sweep, if it was passed from memory.
      **parts: the parts that the sweep was trained with, where they are the user's own (see `build.PartOptions`).
    """
    arguments = BuildArguments(data_dir, dataset, parts)
    overview, heading = summarize(results), text.heading(results)
    command, remark = text.command(results)
    description = {name: value for name, value in results.description.items() if name != "members"}
    links = ", ".join(f'<a href="{name}">{name}</a>' for name in _FILES)
    notation = sweep_notation(results)
    sections = [in_notation(section, notation) for section in _sections(results, overview, arguments)]
    body = [
        html.notes(text.notes(results, overview)),
        _givens(results),
        _points_table(overview),
        f"<p>Every number and setting: {links}.</p>",
        halving_part(results),
        html.write_sections(sections, results.path / "figures", {"rate_distortion": results.path}),
        _members_table(results),
        html.repeat_section("sweep", command, description, remark),
    ]
    title = f"{heading} · vae_jax"
    return html.write_page(results.path / "report.html", title, heading, text.lead(results), "".join(body))


def sweep_notation(results: Results) -> Notation:
    """Returns the notation of the members of a sweep. Codes are called u where all members have a prior p(z|c)."""
    notation = Notation.read(results.description["data"])  # it knows of a prior p(z|c) of the user
    is_conditional = all(member.prior == "conditional" for member in results.members)
    return notation._replace(has_conditional_prior=notation.has_conditional_prior or is_conditional)


def _givens(results: Results) -> str:
    """Returns a paragraph that says what the members are conditioned on, and the share of missing entries."""
    sentences = sweep_notation(results).explain()
    if (share := results.description["data"].get("missing_share_of_test")) is not None:
        sentences.append(f"{100 * share:.2f} % of the test entries are missing.")
    return f"<p>{escape(' '.join(sentences))}</p>" if sentences else ""


def _sections(results: Results, overview: Overview, arguments: BuildArguments) -> list[Section]:
    """Returns the figures in the order of the page, without those that have nothing to show."""
    return [
        _rate_distortion(overview),
        *_elbo(overview),
        *_kl_per_dimension(overview),
        *_learning_curves(results, overview),
        *_examples(results, overview, arguments),
    ]


def _settings(overview: Overview) -> list[Setting]:
    return [setting for part in overview.parts for setting in part.settings]


def _rate_distortion(overview: Overview) -> Section:
    plane = figures.rate_distortion(overview)
    caption = "No member finished, so there is nothing to draw."
    if any(setting.is_known for setting in _settings(overview)):
        names = "; ".join(display_name(name) for name in overview.names)
        hull = f"The dashed line is the lower convex hull of the means{' of each program' if len(overview.parts) > 1 else ''}."
        caption = (
            f"Means over the seeds of each setting, labeled by {names}. Where space is short, only the settings on the hull "
            f"are labeled. {text.about_bars(overview)} {hull} Gray lines have equal ELBO, −(rate + distortion)."
            f"{cut_bars(plane)}{text.about_outliers(overview)}"
        )
    return Section("rate_distortion", "Rate and distortion", caption, plane)


def _elbo(overview: Overview) -> Iterator[Section]:
    if not any(setting.is_known for setting in _settings(overview)):
        return
    axis = display_name(overview.names[0])
    against = "the β of training" if overview.names[0] == "beta" else f"the {axis}, at one β"
    series = {(part.label, *one.labels[1:]) for part in overview.parts for one in part.settings if one.is_known}
    lines = " Lines join settings that differ in nothing else, and are drawn slightly apart." if 1 < len(series) <= FEW else ""
    figure = figures.elbo(overview)
    bars = f"{text.about_bars(overview)}{cut_bars(figure)}{text.about_outliers(overview)}"
    caption = f"The ELBO (β = 1) against {against}.{lines} {bars}"
    yield Section("elbo_against_beta", f"ELBO against {axis}", caption, figure)


def _about_posteriors(overview: Overview) -> str:
    if all(part.has_diagonal_posterior for part in overview.parts):
        return ""
    return (
        " Where the posterior is not a diagonal Gaussian, these are KLs of Gaussians with the mean and the variance of each "
        "q(z_j|x), which do not add up to KL(q(z|x) ‖ p(z))."
    )


def _kl_per_dimension(overview: Overview) -> Iterator[Section]:
    num_rows = sum(len(kl_rows(part)) for part in overview.parts)
    if not num_rows:
        return
    learned = any(part.has_learned_prior for part in overview.parts)
    against = " to N(0, I), even where the prior is learned" if learned else ""
    caption = (
        f"The KL{against}, averaged over the test set, sorted within each member, and then averaged over seeds. A dimension "
        f"near 0 is not used.{_about_posteriors(overview)}{_subset(_MAX_ROWS, num_rows, 'settings')}"
    )
    yield Section("kl_per_dimension", "KL per latent dimension", caption, figures.kl_per_dimension(overview, _MAX_ROWS))


def _learning_curves(results: Results, overview: Overview) -> Iterator[Section]:
    if not results.curves:
        return
    has_several = len({setting.values[0] for setting in _settings(overview)}) > 1
    colored = f", colored by {display_name(overview.names[0])}" if has_several else ""
    figure = figures.learning_curves(overview, _MAX_CURVES)
    caption = (
        f"Results on the test set with one line for each member{colored}. The line of a member that diverged ends where it "
        f"did. The scale is set by the epochs after the first tenth.{cut_off(figure)}{text.about_outliers(overview)}"
        f"{_subset(_MAX_CURVES, len(overview.parts), 'programs')}"
    )
    yield Section("learning_curves", "Learning curves", caption, figure)


def _examples(results: Results, overview: Overview, arguments: BuildArguments) -> Iterator[Section]:
    yield from example_section(results, overview, arguments, _MAX_STRIPS)


def _subset(shown: int, count: int, noun: str) -> str:
    return f" Shown are {shown} of {count} {noun}, evenly chosen." if shown < count else ""


def _points_table(overview: Overview) -> str:
    """Returns the table of settings, in the order of the figures."""
    static = list(overview.parts[0].static)
    with_bits = any("test_bits_per_dim" in setting.point.numbers for setting in _settings(overview))
    header = [*static, *(display_name(name) for name in overview.names)]
    header += ["n", "test ELBO", "95 % interval", "rate", "distortion", "active units", *["bits per dim."] * with_bits]
    rows = [
        [*part.static.values(), *setting.labels, *_cells(setting, with_bits)]
        for part in overview.parts
        for setting in part.settings
    ]
    num_settings = len(static) + len(overview.names)
    classes = ["value"] * num_settings + ["number"] * (len(header) - num_settings)
    return html.table(rows, classes, header) + (
        "<p>ELBO, rate and distortion are in nats per example, at β = 1 and with one draw of z per example: mean ± standard "
        "error over n seeds. The t-interval contains the expectation over seeds with 95 % confidence. Intervals are cut at the "
        "smallest and largest value that a measure can have.</p>"
    )


def _cells(setting: Setting, with_bits: bool) -> list[str]:
    point = setting.point
    diverged = f" ({point.num_lost} diverged)" if point.num_lost else ""

    def cell(name: str, digits: int = 3) -> str:
        return _mean(point.numbers[name], digits) if name in point.numbers else "–"

    elbo = point.numbers.get("test_elbo")
    interval = f"{_number(elbo.low)} to {_number(elbo.high)}" if elbo and elbo.n > 1 else "–"
    front = [f"{len(point.members)}{diverged}", cell("test_elbo"), interval]
    return [*front, cell("rate"), cell("distortion"), cell("active_units", 1), *[cell("test_bits_per_dim", 4)] * with_bits]


def _mean(one: Interval, digits: int) -> str:
    return _number(one.mean, digits) + (f" ± {_number(one.standard_error, digits)}" if one.n > 1 else "")


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "–"
    return f"{value:z.{digits}f}" if abs(value) < 1e6 else f"{value:.4g}"


def _members_table(results: Results) -> str:
    """Returns the table of all members, including those that have not ended; a long table is folded."""
    rows = {row["member"]: row for row in results.rows}
    varied = varying(results.members)
    header = ["member", *(display_name(name) for name in varied), "status"]
    header += ["test ELBO", "standard error over examples", "rate", "distortion", "active units", "epochs"]
    numbers = ("test_elbo", "test_elbo_standard_error", "rate", "distortion")

    def cells(number: int) -> list[str]:
        config, row = results.members[number], rows.get(number)
        front = [number, *(text.format_value(getattr(config, name)) for name in varied)]
        if row is None:
            back = ["not ended", *["–"] * 6]
        else:
            active = "–" if row["active_units"] is None else row["active_units"]
            back = [row["status"], *(_number(row[name]) for name in numbers), active, row["epochs"]]
        return [str(cell) for cell in (*front, *back)]

    table = html.table([cells(number) for number in range(len(results.members))], ["number"] * len(header), header)
    is_open, title = " open" if len(results.members) <= _MAX_OPEN else "", f"All {len(results.members)} members"
    return f"<h2>Members</h2><details{is_open}><summary>{title}</summary>{table}</details>"
