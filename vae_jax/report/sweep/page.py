"""report.html of a sweep: the points, the figures, every member, and how to repeat it."""

from pathlib import Path

from vae_jax.report import html as page
from vae_jax.report.html import Section
from vae_jax.report.run import figures
from vae_jax.report.sweep import figures as sweep_figures
from vae_jax.report.sweep import text as sweep_words
from vae_jax.report.sweep.axes import FEW, cut_bars
from vae_jax.report.sweep.content import Overview, Setting, in_words, kl_rows, overview, strips
from vae_jax.sweep.members import varying
from vae_jax.sweep.results import Results
from vae_jax.sweep.statistics import Interval

_FILES = ("results.csv", "curves.csv", "summary.json", "sweep.json")
_MOST_ROWS, _MOST_CURVES, _MOST_STRIPS = 60, 8, 8  # settings, programs and settings that the figures have room for


def write_sweep_report(results: Results, data_dir: str | None = None) -> Path:
    """Draws rate_distortion.png and figures/*.png and writes report.html into the sweep directory; returns the page's path."""
    seen, heading = overview(results), sweep_words.heading(results)
    command, remark = sweep_words.command(results)
    description = {name: value for name, value in results.description.items() if name != "members"}
    links = ", ".join(f'<a href="{name}">{name}</a>' for name in _FILES)
    body = [
        page.notes(sweep_words.notes(results, seen)),
        _points_table(seen),
        f"<p>Every number and setting: {links}.</p>",
        page.write_sections(_sections(results, seen, data_dir), results.path / "figures", {"rate_distortion": results.path}),
        _members_table(results),
        page.how_to_repeat("sweep", command, description, remark),
    ]
    title = f"{heading} · vae_jax"
    return page.write_page(results.path / "report.html", title, heading, sweep_words.lead(results), "".join(body))


def _sections(results: Results, seen: Overview, data_dir: str | None) -> list[Section]:
    """In the order of the page; what has nothing to show is left out."""
    settings = [setting for part in seen.parts for setting in part.settings]
    axis, bars, outside = in_words(seen.names[0]), sweep_words.about_bars(seen), sweep_words.outside(seen)
    learned = any(part.learned_prior for part in seen.parts)
    hull = f"Dashed: lower convex hull of the means{' of each program' if len(seen.parts) > 1 else ''}."
    labels = f"labelled by {'; '.join(in_words(name) for name in seen.names)} (those on the hull first, where room is short)"
    lines = "Grey lines: equal ELBO, −(rate + distortion)."
    plane = sweep_figures.rate_distortion(seen)
    caption = f"Means over the seeds of each setting, {labels}. {bars} {hull} {lines}{cut_bars(plane)}{outside}"
    if not any(setting.is_known for setting in settings):
        caption = "No member ended well: there is nothing to draw."
    sections = [Section("rate_distortion", "Rate and distortion", caption, plane)]
    if any(setting.is_known for setting in settings):
        what = "the β that was trained with" if seen.names[0] == "beta" else f"the {axis}; β does not vary"
        joined = {(part.label, *one.words[1:]) for part in seen.parts for one in part.settings if one.is_known}
        lines = " Lines join settings that are otherwise alike, drawn a little apart." if 1 < len(joined) <= FEW else ""
        figure = sweep_figures.elbo(seen)
        caption = f"The ELBO itself (β = 1) against {what}.{lines} {bars}{cut_bars(figure)}{outside}"
        sections.append(Section("elbo_against_beta", f"ELBO against {axis}", caption, figure))
    if num_rows := sum(len(kl_rows(part)) for part in seen.parts):
        caption = (
            f"{'Against N(0, I), also where the prior is learned. ' if learned else ''}Mean over the test set, sorted within "
            f"each member, then averaged over seeds. A dimension near 0 is not used.{_some(_MOST_ROWS, num_rows, 'settings')}"
        )
        figure = sweep_figures.kl_per_dimension(seen, _MOST_ROWS)
        sections.append(Section("kl_per_dimension", "KL per latent dimension", caption, figure))
    if results.curves:
        coloured = f", coloured by {axis}" if len({setting.values[0] for setting in settings}) > 1 else ""
        figure = sweep_figures.learning_curves(seen, _MOST_CURVES)
        caption = (
            f"On the test set, a line for each member{coloured}; one that diverged ends where it did. The epochs after the "
            f"first tenth set the scale.{figures.cut_off(figure)}{outside}{_some(_MOST_CURVES, len(seen.parts), 'programs')}"
        )
        sections.append(Section("learning_curves", "Learning curves", caption, figure))
    if rows := strips(results, seen, data_dir, _MOST_STRIPS):
        same = "the same z for all settings with as many latent dimensions"
        same += ", or each from its own prior where that is learned" if learned else ""
        chosen = _some((len(rows) - 4) // 3, sum(bool(setting.point.members) for setting in settings), "settings")
        caption = (
            "Test images as stored, then means E[x|z] of the first seed of each setting that ended well: of the test images, "
            f"from the posterior mean of z; from the prior, {same}; and along the dimension that is named, the others at the "
            f"posterior mean of the first test image.{chosen}"
        )
        sections.append(Section("by_beta", f"Images by {axis}", caption, figures.labelled_strips(rows)))
    return sections


def _some(shown: int, count: int, what: str) -> str:
    return f" Shown: {shown} of {count} {what}, evenly chosen." if shown < count else ""


def _points_table(seen: Overview) -> str:
    """A row for each setting, in the order of the figures."""
    static = list(seen.parts[0].static)
    with_bits = any("test_bits_per_dim" in setting.point.numbers for part in seen.parts for setting in part.settings)
    header = [*static, *(in_words(name) for name in seen.names)]
    header += ["n", "test ELBO", "95 % interval", "rate", "distortion", "active units", *["bits per dim."] * with_bits]
    rows = [
        [*part.static.values(), *setting.words, *_cells(setting, with_bits)] for part in seen.parts for setting in part.settings
    ]
    left = len(static) + len(seen.names)
    classes = ["value"] * left + ["number"] * (len(header) - left)
    return page.table(rows, classes, header) + (
        "<p>Nats per example, β = 1, one draw of z per example: mean ± standard error over n seeds; the t-interval holds the "
        "expectation over seeds with 95 % confidence. Intervals are cut at the least and greatest value that a measure can "
        "have.</p>"
    )


def _cells(setting: Setting, with_bits: bool) -> list[str]:
    point = setting.point
    lost = f" ({point.num_lost} diverged)" if point.num_lost else ""

    def cell(name: str, digits: int = 3) -> str:
        return _mean(point.numbers[name], digits) if name in point.numbers else "–"

    elbo = point.numbers.get("test_elbo")
    interval = f"{_number(elbo.low)} to {_number(elbo.high)}" if elbo and elbo.n > 1 else "–"
    front = [f"{len(point.members)}{lost}", cell("test_elbo"), interval]
    return [*front, cell("rate"), cell("distortion"), cell("active_units", 1), *[cell("test_bits_per_dim", 4)] * with_bits]


def _mean(one: Interval, digits: int) -> str:
    return _number(one.mean, digits) + (f" ± {_number(one.standard_error, digits)}" if one.n > 1 else "")


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "–"
    return f"{value:z.{digits}f}" if abs(value) < 1e6 else f"{value:.4g}"


def _members_table(results: Results) -> str:
    """Every member, those that have not ended too; folded away where there are many."""
    rows = {row["member"]: row for row in results.rows}
    varied = varying(results.members)
    header = ["member", *(in_words(name) for name in varied), "status"]
    header += ["test ELBO", "standard error over examples", "rate", "distortion", "active units", "epochs"]
    numbers = ("test_elbo", "test_elbo_standard_error", "rate", "distortion")

    def cells(number: int) -> list[str]:
        config, row = results.members[number], rows.get(number)
        front = [number, *(sweep_words.value_in_words(getattr(config, name)) for name in varied)]
        if row is None:
            back = ["not ended", *["–"] * 6]
        else:
            active = "–" if row["active_units"] is None else row["active_units"]
            back = [row["status"], *(_number(row[name]) for name in numbers), active, row["epochs"]]
        return [str(cell) for cell in (*front, *back)]

    table = page.table([cells(number) for number in range(len(results.members))], ["number"] * len(header), header)
    opened, title = " open" if len(results.members) <= 40 else "", f"All {len(results.members)} of them"
    return f"<h2>Members</h2><details{opened}><summary>{title}</summary>{table}</details>"
