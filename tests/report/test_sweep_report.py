"""The report of a sweep: what it must contain, what its figures draw, what it says when something is missing."""

import dataclasses
import html
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from paths import ROOT

from vae_jax.config import Config
from vae_jax.report import write_sweep_report
from vae_jax.report.html import notes, table
from vae_jax.report.sweep import content, figures, page, text
from vae_jax.report.sweep.axes import scale
from vae_jax.report.sweep.content import Member, Overview, Part, Setting, summarize
from vae_jax.sweep import cross, grid, load_sweep
from vae_jax.sweep.directory import run_sweep
from vae_jax.sweep.results import Results, write_results
from vae_jax.sweep.statistics import Point, interval, points

EXPERIMENTS = ROOT / "experiments"
FIGURES = {"elbo_against_beta.png", "kl_per_dimension.png", "learning_curves.png", "by_beta.png"}
BASE = Config(hidden=(16,), epochs=2, latent_dim=3)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Two betas with two seeds, and a member that diverges."""
    out = tmp_path_factory.mktemp("sweep") / "swept"
    lost = dataclasses.replace(BASE, beta=2.0, learning_rate=1e3)
    as_before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)  # which would take most of the time
    run_sweep([*grid(BASE, beta=[0.5, 2.0], seed=[0, 1]), lost], out)
    jax.config.update("jax_disable_most_optimizations", as_before)
    write_sweep_report(write_results(out))
    return out


def words_of(path):
    return html.unescape(re.sub(r"<[^>]*>", " ", re.sub(r'src="data:[^"]*"', "", (path / "report.html").read_text())))


def test_the_page_and_its_figures_are_there(swept):
    assert {path.name for path in (swept / "figures").iterdir()} == FIGURES
    assert (swept / "rate_distortion.png").read_bytes().startswith(b"\x89PNG")
    page_text = (swept / "report.html").read_text()
    assert page_text.count('src="data:image/png;base64,') == 5
    assert not re.search(r'(src|href)="(https?:|/)', page_text)  # it can be sent to somebody by itself


def test_the_page_has_every_setting_and_every_member(swept):
    results, page_text = load_sweep(swept), words_of(swept)
    for point in results.points:
        assert f"{point.settings['beta']:g}" in page_text
        for name in ("test_elbo", "rate", "distortion") if point.numbers else ():
            one = point.numbers[name]
            assert f"{one.mean:.3f} ± {one.standard_error:.3f}" in page_text
    first = results.points[0].numbers["test_elbo"]
    assert f"{first.low:.3f} to {first.high:.3f}" in page_text
    for row in results.rows:
        assert row["status"] in page_text
        if row["test_elbo"] is not None:
            assert f"{row['test_elbo']:.3f}" in page_text
    assert "5 members in one program" in page_text
    assert "map: one after another" in page_text
    assert "n = 2 seeds" in page_text


def test_a_member_that_diverged_is_named_and_left_out(swept):
    page_text = words_of(swept)
    assert re.search(r"Left out of every mean: member 4 \(.*learning rate = 1000.*\) diverged at step \d", page_text)
    assert "0 (1 diverged)" in page_text


def test_one_seed_has_no_errors_and_the_kl_is_against_the_normal(swept, tmp_path, monkeypatch):
    results = load_sweep(shutil.copytree(swept, tmp_path / "copy"))
    rows = [row for row in results.rows if row["seed"] == 0]
    members = [dataclasses.replace(member, prior="mixture") for member in results.members]
    monkeypatch.setattr(page, "example_section", lambda *arguments: [])  # the parameters are those of another prior
    write_sweep_report(results._replace(members=members, rows=rows, points=points(rows, ["learning_rate"])))
    page_text = words_of(results.path)
    assert "Each setting has one seed, so there are no standard errors" in page_text
    assert "±" not in page_text.split("Rate and distortion")[0].replace("± standard error over n", "")
    assert "to N(0, I), even where the prior is learned" in page_text


def test_an_unfinished_sweep_says_so_and_text_is_escaped(swept, tmp_path):
    place = shutil.copytree(swept, tmp_path / "<b>&amp;")
    results = load_sweep(place)
    write_sweep_report(results._replace(rows=results.rows[:-1], description=results.description | {"note": "<script>"}))
    page_text = (place / "report.html").read_text()
    assert "1 of 5 members have not ended" in page_text
    assert "not ended" in words_of(place)
    assert "<script>" not in page_text
    assert "<b>" not in page_text
    assert html.escape("<b>&amp;") in page_text
    assert "<i>" not in table([["<i>"]], [""], ["<i>"]) + notes(["<i>"])


def test_all_diverged_leaves_a_page(swept, tmp_path):
    results = load_sweep(shutil.copytree(swept, tmp_path / "lost"))
    lost = [point for point in results.points if not point.numbers]
    write_sweep_report(results._replace(rows=results.rows[-1:], points=lost, curves=[]))
    assert "No member finished" in words_of(results.path)


@pytest.mark.slow
def test_report_py_rebuilds_it_and_evaluate_py_wants_runs(swept, tmp_path):
    place = shutil.copytree(swept, tmp_path / "copy")
    (place / "report.html").unlink()
    shutil.rmtree(place / "figures")

    def script(name):
        command = [sys.executable, str(EXPERIMENTS / name), str(place)]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})

    done = script("report.py")
    assert done.returncode == 0, done.stderr
    assert f"report: {place / 'report.html'}" in done.stdout
    assert {path.name for path in (place / "figures").iterdir()} == FIGURES
    refused = script("evaluate.py")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "a sweep directory, not a run directory" in refused.stderr


def made_up(values, label="", unit="bernoulli"):
    """A part from {beta: (rates, distortions) over seeds}."""
    settings, members, number = [], {}, 0
    for beta, (rates, distortions) in values.items():
        own = []
        for rate, distortion in zip(rates, distortions, strict=True):
            row = {"status": "finished", "rate": rate, "distortion": distortion, "test_elbo": -rate - distortion}
            members[number] = Member(row, [], beta)
            own.append(number)
            number += 1
        elbos = [-r - d for r, d in zip(rates, distortions, strict=True)]
        numbers = {"rate": interval(rates), "distortion": interval(distortions), "test_elbo": interval(elbos)}
        settings.append(Setting((beta,), (f"{beta:g}",), Point(label, {"beta": beta}, tuple(own), 0, numbers)))
    return Part(label, unit, False, settings, members)


PLANE = {
    0.5: ([9.0, 11.0, 10.0], [9.0, 11.0, 10.0]),
    1.0: ([5.0, 5.0, 5.0], [12.0, 14.0, 13.0]),
    2.0: ([4.0, 6.0, 5.0], [19.0, 21.0, 20.0]),  # above beta = 1: not on the hull
    4.0: ([0.0, 0.0, 0.0], [25.0, 25.0, 25.0]),
}


def test_the_hull_and_the_bars_are_those_of_the_means():
    (axes,) = figures.rate_distortion(Overview(("beta",), [made_up(PLANE)])).axes
    (hull,) = (line for line in axes.lines if line.get_gid() == "hull")
    np.testing.assert_allclose(hull.get_xydata(), [(0, 25), (5, 13), (10, 10)])
    one = interval(PLANE[0.5][0])
    drawn = [tuple(line.get_xdata()) for line in axes.lines if tuple(line.get_ydata()) == (10.0, 10.0)]
    assert (one.mean - one.standard_error, one.mean + one.standard_error) in drawn
    assert (one.low, one.high) in drawn
    assert {text.get_text() for text in axes.texts} >= {"β = 0.5", "β = 1", "β = 2", "β = 4"}


def test_every_part_has_its_own_hull_and_units_are_not_mixed():
    parts = [made_up(PLANE, "latent dim = 2"), made_up(PLANE, "latent dim = 3"), made_up(PLANE, "likelihood = gaussian", "g")]
    figure = figures.rate_distortion(Overview(("beta",), parts))
    assert [sum(line.get_gid() == "hull" for line in axes.lines) for axes in figure.axes if axes.axison] == [2, 1]
    assert {text.get_text() for text in figure.legends[0].texts} >= {part.label for part in parts}


def test_a_setting_far_off_does_not_flatten_the_others():
    part = made_up(PLANE | {8.0: ([0.0, 0.0, 0.0], [1e5, 1e5, 1e5])})
    seen = Overview(("beta",), [part])
    assert content.find_outliers([part]) == {12, 13, 14}
    assert figures.rate_distortion(seen).axes[0].get_ylim()[1] < 50
    assert figures.elbo(seen).axes[0].get_ylim()[0] > -50
    assert "member 12, 13 and 14" in text.about_outliers(seen)


def test_scales_follow_the_values():
    assert [scale(values) for values in ((1, 2), (0.1, 2), (0, 0.1, 2), (0, 1, 4), (-1, 100))] == [
        "linear",
        "log",
        "symlog",
        "linear",
        "linear",
    ]
    axes = figures.elbo(Overview(("beta",), [made_up({0.0: PLANE[0.5], 0.1: PLANE[1.0], 10.0: PLANE[2.0]})])).axes[0]
    assert axes.get_xscale() == "symlog"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.1", "10"]


def test_dimensions_are_sorted_within_each_member_before_the_mean():
    part = made_up({1.0: ([0.0, 0.0], [1.0, 1.0])})
    for member, kl in zip(part.members.values(), ([3.0, 0.0, 1.0], [0.5, 2.0, 5.0]), strict=True):
        member.row["kl_per_dimension"] = kl
    ((_, kl),) = content.kl_rows(part)
    np.testing.assert_allclose(kl, [4.0, 1.5, 0.25])


def test_likelihoods_have_panels_of_their_own():
    members = cross([BASE, dataclasses.replace(BASE, likelihood="gaussian", dequantize=True)], seed=[0])
    groups = ["dequantize = False, likelihood = bernoulli", "dequantize = True, likelihood = gaussian"]
    row = {"beta": 1.0, "status": "finished", "test_elbo": -3.0, "rate": 1.0, "distortion": 2.0, "active_units": 1}
    rows = [{"member": i, "group": group, "test_bits_per_dim": None, **row} for i, group in enumerate(groups)]
    results = Results(Path(), members, {}, rows, points(rows, []), [], [])
    seen = summarize(results)
    titles = ["bernoulli, binarized (dynamic)", "gaussian, dequantized"]
    assert [axes.get_title() for axes in figures.rate_distortion(seen).axes] == titles
    assert [axes.get_title() for axes in figures.elbo(seen).axes] == titles
    assert any("different units" in note for note in text.notes(results, seen))


def test_settings_come_in_order_with_their_defaults_filled_in():
    base = Config(objective="capacity")
    members = [dataclasses.replace(base, gamma=gamma) for gamma in (None, 1e-7, 50.0, 50.000001)]
    row = {"group": "", "beta": 1.0, "status": "diverged at step 1", "test_elbo": None}
    rows = [{"member": i, "gamma": member.gamma, **row} for i, member in enumerate(members)]
    seen = summarize(Results(Path(), members, {}, rows, points(rows, ["gamma"]), [], []))
    assert seen.names == ("gamma",)
    assert [setting.labels for setting in seen.parts[0].settings] == [("1e-07",), ("50",), ("50.000001",), ("1000",)]


def test_the_command_repeats_what_one_command_made(swept):
    results = load_sweep(swept)
    names = ("betas", "seeds", "learning_rates", "over", "groups", "points", "ranges")
    arguments = dict.fromkeys(names) | {"base": dataclasses.asdict(BASE), "over": [], "groups": [], "ranges": []}
    arguments |= {"betas": [0.5, 2.0, 4.0, 5.0, 6.0], "design": "sobol", "num_points": 4, "design_seed": 3}

    def command(**changes):
        return text.command(results._replace(description={"arguments": arguments | changes}))[0]

    assert command() == (
        "vae-jax sweep --betas 0.5 2.0 4.0 5.0 6.0 --dataset digits --hidden 16 --latent-dim 3 --epochs 2 --out runs/repeated"
    )
    assert "--groups optimizer=adam,sgd" not in command(groups=["optimizer=adam,sgd"])  # would be ten members, there are five
    assert "--ranges beta=1:2 --design sobol --num-points 5 --design-seed 3" in command(
        betas=None, ranges=["beta=1:2"], num_points=5
    )
    assert "read_sweep" in text.command(results)[0]  # this one was made from Python
