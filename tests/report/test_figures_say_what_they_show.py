"""Figures, tables and captions claim what is true of what they show: headings, intervals, axes, zeros, cut curves."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import integrate, stats

from vae_jax.build import Parts
from vae_jax.cli import disentangle, evaluate
from vae_jax.cli.progress import EpochProgress
from vae_jax.config import Config
from vae_jax.disentanglement import RANGES
from vae_jax.likelihoods import bernoulli, gaussian, poisson
from vae_jax.report.html import describe_data
from vae_jax.report.run import content, displayed_examples, evaluation_table, figures, latent, latent_figures
from vae_jax.report.run.latent import PriorShape
from vae_jax.report.sweep import axes as sweep_axes
from vae_jax.report.sweep import content as sweep_content
from vae_jax.report.sweep import figures as sweep_figures
from vae_jax.report.sweep import metric_figures
from vae_jax.report.sweep import page as sweep_page
from vae_jax.sweep.results import Results
from vae_jax.sweep.statistics import UNBOUNDED, Point, interval, points, within

NORMAL = PriorShape(np.zeros(3), np.ones(3), None)


# KL


class FakeRun(SimpleNamespace):
    """A run whose prior is that of its training."""

    refitted = None

    def as_trained(self):
        return self


def test_the_heading_of_a_panel_tells_the_kl_of_the_curve_from_the_mean_kl():
    """The posteriors of single examples are far from the prior, and their mixture is nearly the prior itself."""
    rng = np.random.default_rng(0)
    mean = np.stack([rng.normal(size=2000), rng.normal(3, 1, 2000), np.zeros(2000)], axis=1).astype(np.float32)
    log_scale = np.tile(np.log([0.3, 0.2, 0.5]), (2000, 1)).astype(np.float32)
    found = latent.aggregate_kl(latent.aggregate(mean, log_scale, [0, 1, 2], NORMAL))
    scale = np.exp(log_scale)
    mean_kl = (0.5 * (scale**2 + mean**2 - 1) - log_scale).mean(axis=0)
    for j in range(3):

        def term(z, j=j):
            q = stats.norm.pdf(z, mean[:, j], scale[:, j]).mean()
            return q * (np.log(q) - stats.norm.logpdf(z)) if q > 0 else 0.0

        center, reach = mean[:, j].mean(), 7 * mean[:, j].std() + 4 * scale[0, j]
        exact = integrate.quad(term, center - reach, center + reach, limit=200, epsabs=1e-4)[0]
        assert found[j] == pytest.approx(exact, abs=0.01)
    assert found[0] < 0.06 < 0.9 < mean_kl[0]
    heading = latent_figures.panel_name(0, mean_kl, found[0])
    assert heading == f"z[0]\nKL of q(z|x) {mean_kl[0]:.2f}, of q(z) {found[0]:.2f} nats"
    assert latent_figures.panel_name(1, mean_kl, None) == f"z[1]\nKL of q(z|x) {mean_kl[1]:.2f} nats"
    assert latent_figures.name(2, mean_kl) == f"z[2], mean KL {mean_kl[2]:.2f} nats"


def test_the_kl_of_codes_far_outside_of_the_prior_is_finite():
    found = latent.aggregate(np.full((5, 1), 900.0, np.float32), np.zeros((5, 1), np.float32), [0], NORMAL)
    assert latent.aggregate_kl(found)[0] == pytest.approx(900**2 / 2, rel=0.02)


# Intervals


@pytest.mark.parametrize(
    ("values", "bounds"), [([0.01, 0.2, 0.05], (0.0, 1.0)), ([0.99, 0.6], (0.0, 1.0)), ([-0.1, -3.0], (-np.inf, 0.0))]
)
def test_an_interval_is_cut_at_what_its_measure_can_be(values, bounds):
    whole, cut = interval(values), within(interval(values), bounds)
    assert whole.low < bounds[0] or whole.high > bounds[1]
    assert (cut.low, cut.high) == (max(whole.low, bounds[0]), min(whole.high, bounds[1]))
    assert (cut.mean, cut.standard_error, cut.n) == (whole.mean, whole.standard_error, whole.n)


def test_cutting_costs_no_coverage():
    rng = np.random.default_rng(0)
    drawn = [rng.beta(0.6, 6.0, 4) for _ in range(500)]
    expectation = 0.6 / 6.6
    covered = [
        [one.low <= expectation <= one.high for one in (interval(values), within(interval(values), (0.0, 1.0)))]
        for values in drawn
    ]
    assert all(before == after for before, after in covered)
    assert sum(interval(values).low < 0 for values in drawn) > 250  # and most were cut


def test_an_interval_keeps_its_mean_and_one_seed_has_none():
    noisy = within(interval([-0.02, 0.01]), (0.0, np.inf))  # the estimate of a KL may be negative
    assert noisy.low == noisy.mean == pytest.approx(-0.005)
    assert np.isnan(within(interval([0.5]), (0.0, 1.0)).low)
    assert within(interval([1.0, 2.0]), UNBOUNDED) == interval([1.0, 2.0])


def scored():
    """Points of three metrics over two settings."""
    values = {0.5: ([0.55, 0.95], [0.01, 0.2], [0.3, 3.0]), 4.0: ([0.9, 0.9], [0.0, 0.0], [0.1, 0.2])}
    rows = [
        {"member": 2 * i + seed, "group": "", "status": "finished", "beta": beta}
        | {name: scores[seed] for name, scores in zip(("modularity", "mig", "gaussian_total_correlation"), own, strict=True)}
        for i, (beta, own) in enumerate(values.items())
        for seed in (0, 1)
    ]
    titles = {name: disentangle.TITLES[name] for name in ("modularity", "mig", "gaussian_total_correlation")}
    return points(rows, ["beta"], list(titles), RANGES), rows, titles


def test_disentanglement_tables_have_standard_errors_and_intervals_within_the_range(capsys):
    gathered, _, titles = scored()
    assert set(RANGES) == set(disentangle.TITLES)
    disentangle.print_tables(gathered, titles)
    printed = capsys.readouterr().out
    assert "beta = 0.5    0.7500 +- 0.2000   [0.0000, 1.0000]   (n = 2)" in printed  # 1.96 and -1.79 without bounds
    assert f"beta = 0.5    0.1050 +- 0.0950   [0.0000, {min(1, 0.105 + 12.7062 * 0.095):.4f}]" in printed
    assert "beta = 0.5    1.6500 +- 1.3500   [0.0000, 18.8034]" in printed
    assert "means over n seeds +- standard error" in printed


def test_the_figure_of_metrics_has_bars_within_the_range_and_a_legend():
    gathered, rows, titles = scored()
    figure = metric_figures.against(gathered, rows, "beta", titles)
    bars = [line.get_ydata() for line in figure.axes[0].lines if line.get_gid() == "bar"]
    assert [tuple(np.round(ends, 6)) for ends in bars[:2]] == [(0.55, 0.95), (0.0, 1.0)]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "mean ± standard error",
        "95 % t-interval over seeds, cut at the metric's range",
        "one member",
    ]


def overview_of(rows, **settings):
    members = [dataclasses.replace(Config(latent_dim=3), seed=seed, **settings) for seed in (0, 1)]
    return sweep_content.summarize(Results(Path(), members, {}, rows, points(rows, []), [], []))


def test_a_sweeps_intervals_stay_where_rates_units_and_probabilities_are():
    row = {"group": "", "beta": 1.0, "status": "finished", "test_elbo": -1.0, "rate": 0.1, "distortion": 0.9}
    rows = [{"member": 0, **row, "active_units": 1}, {"member": 1, **row, "active_units": 3}]
    rows[1] |= {"rate": 1.1, "distortion": 1.9, "test_elbo": -3.0}
    assert points([one | {"test_bits_per_dim": None} for one in rows], [])[0].numbers["rate"].low < 0  # so in summary.json
    for bits, elbo_high, distortion_low in ((0.2, 0.0, 0.0), (None, pytest.approx(10.7062, abs=1e-4), pytest.approx(-4.9531))):
        seen = overview_of([one | {"test_bits_per_dim": bits} for one in rows])
        numbers = seen.parts[0].settings[0].point.numbers
        assert numbers["rate"].low == 0.0
        assert (numbers["active_units"].low, numbers["active_units"].high) == (0.0, 3.0)
        assert numbers["test_elbo"].high == elbo_high  # a density may be above 1, a probability not
        assert numbers["distortion"].low == distortion_low
    table = sweep_page._points_table(overview_of([one | {"test_bits_per_dim": 0.2} for one in rows]))
    assert "to 0.000" in table
    assert "one draw of z per example: mean ± standard error over n seeds" in table


# Axes


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.5, 1, 4), "log"),
        ((1e-3, 2e-3, 4e-3), "log"),  # learning rates
        ((5, 10, 25), "log"),  # capacities
        ((0.25, 0.5, 1, 2), "log"),
        ((1, 2, 3, 4, 5), "linear"),
        ((0.9, 1.0, 1.1), "linear"),
        ((2, 4), "linear"),
        ((1,), "linear"),
        ((0, 0.5, 1, 4), "symlog"),
        ((0, 1, 2, 3), "linear"),
        ((-1, 0.5, 1, 4), "linear"),
    ],
)
def test_an_axis_is_logarithmic_where_the_values_are_spaced_so(values, expected):
    assert sweep_axes.scale(values) == expected


def test_zero_and_the_least_positive_value_are_a_step_apart_in_every_figure():
    numbers = {"mig": interval([0.1, 0.2])}
    gathered = [Point("", {"beta": beta}, (), 0, numbers) for beta in (0.0, 0.01, 0.1, 1.0)]
    axes = metric_figures.against(gathered, [], "beta", {"mig": "MIG"}).axes[0]
    assert axes.get_xscale() == "symlog"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "0.01", "0.1", "1"]
    places = axes.transData.transform([(beta, 0.1) for beta in (0.0, 0.01, 0.1, 1.0)])[:, 0]
    np.testing.assert_allclose(np.diff(places) / np.diff(places)[0], 1, rtol=0.15)


# Zeros without a sign


def test_no_zero_has_a_sign():
    axes = Figure().subplots()
    axes.set(xlim=(0, 2), ylim=(-2, 2))
    figures.equal_elbos(axes)
    written = [text.get_text().strip() for text in axes.texts]
    assert "0" in written
    assert not {"-0", "−0"} & set(written)
    assert evaluation_table._value(-0.0001, 0.1) == "0.000 ± 0.100"
    assert sweep_page._number(-1e-9) == "0.000"
    assert latent_figures.name(0, np.array([-1e-4])) == "z[0], mean KL 0.00 nats"
    assert latent_figures.signed(-1e-12) == "0"
    run = FakeRun(metrics=[], summary=SUMMARY | {"test_kl": -1e-5}, epoch=1, built=SimpleNamespace(config=Config(), **BITS))
    assert ("KL", "0.000") in [(row.name, row.value) for row in content.quantities(run)]


def test_scripts_print_no_negative_zero(capsys):
    progress = EpochProgress(1, 0)
    line = {"epoch": 1, "test_elbo": -1e-4, "test_log_likelihood": -0.0, "test_kl": -1e-9, "train_examples_per_second": 1.0}
    progress.update(line)
    progress.close()
    assert "ELBO 0.00  log-likelihood 0.00  KL 0.00" in capsys.readouterr().out
    kl, active = evaluate.Column("KL", "test_kl", 8, 3), evaluate.Column("active", "active_units", 6, None)
    cells = [evaluate.cell(value, column) for value, column in ((-1e-5, kl), (3, active), (np.nan, kl))]
    assert cells == ["   0.000", "     3", "       -"]


# Two ELBOs in one report

SUMMARY = {
    "status": "finished",
    "test_elbo": -24.202,
    "test_elbo_standard_error": 0.2,
    "test_log_likelihood": -20.0,
    "test_kl": 4.202,
    "num_test_examples": 359,
    "epochs": 1,
    "train_examples_per_second": 1.0,
    "wall_seconds": 1.0,
}
BITS = {
    "parts": Parts(),
    "vae": SimpleNamespace(likelihood=bernoulli(), prior=None, posterior=None),
    "data": SimpleNamespace(log_jacobian=0.0),
    "dataset": SimpleNamespace(data_shape=(8, 8, 1), test_mask=None),
}


def test_both_elbos_of_a_report_say_how_many_draws_they_are_from():
    run = FakeRun(metrics=[], summary=SUMMARY, epoch=1, built=SimpleNamespace(config=Config(), **BITS))
    (top,) = [row.remark for row in content.quantities(run) if row.name == "test ELBO"]
    about_error = "± is the standard error over 359 test examples."
    assert top == f"The test ELBO has β = 1 and uses one draw of z per example. {about_error}"
    assert evaluation_table._describe_draws(10).startswith(
        "This ELBO uses 10 draws of z per example. The one at the top uses one draw"
    )
    assert evaluation_table._describe_draws(1) == "This ELBO uses one draw of z per example, as the one at the top does."


# Curves that are cut


def lines_of(test, train=None, validation=None):
    found = []
    for i, elbo in enumerate(test):
        line = {"epoch": i + 1, "test_kl": 2.0, "test_log_likelihood": elbo + 2, "test_elbo": elbo}
        for name, values in (("train", train or test), ("validation", validation)):
            if values is not None:
                line |= {f"{name}_elbo": values[i], f"{name}_log_likelihood": values[i] + 2, f"{name}_kl": 2.0}
        found.append(line)
    return found


def test_captions_say_which_epochs_are_cut_off():
    elbos = [-500.0, -80.0, -60.0, -50.0, -45.0, -44.0]
    curves = figures.learning_curves(lines_of(elbos))
    words = " Cut off at the edges: ELBO in epoch 1 (as far as −500.00); log-likelihood in epoch 1 (as far as −498.00)."
    assert figures.cut_off(curves) == words
    assert figures.cut_off(figures.rate_distortion(lines_of(elbos), 6)) == " Cut off at the edges: the path in epoch 1."
    assert figures.cut_off(figures.learning_curves(lines_of(elbos[1:4]))) == ""  # of few epochs, all are shown
    late = [-500.0, -490.0, -480.0, *np.linspace(-60, -40, 20)]
    assert "ELBO in epochs 1 to 3 (as far as −500.00)" in figures.cut_off(figures.learning_curves(lines_of(late)))


def test_a_validation_curve_is_inside_and_numbers_that_are_not_finite_set_no_limit():
    test = [-500.0, -80.0, -60.0, -50.0, -45.0, -44.0]
    curves = figures.learning_curves(lines_of(test, validation=[-500.0, -95.0, -91.0, -90.0, -90.0, -90.0]))
    assert curves.axes[0].get_ylim()[0] < -95
    assert figures.cut_off(curves).count("ELBO in epoch 1 ") == 1
    broken = figures.learning_curves(lines_of([*test[:-1], float("nan")]))
    assert np.isfinite(broken.axes[0].get_ylim()).all()


def test_a_sweeps_captions_say_which_curves_and_intervals_are_cut_off():
    row = {"status": "finished", "test_elbo": -44.0, "test_log_likelihood": -42.0, "test_kl": 2.0}
    curve = lines_of([-500.0, -80.0, -60.0, -50.0, -45.0, -44.0])
    part = sweep_content.Part("", "bernoulli", False, [], {0: sweep_content.Member(row, curve, 1.0)})
    figure = sweep_figures.learning_curves(sweep_content.Overview(("beta",), [part]), 8)
    assert "ELBO in epoch 1 (as far as −500.00)" in figures.cut_off(figure)
    axes = (figure := Figure()).subplots()
    for across, one in ((0.0, interval([1.0, 2.0])), (1.0, interval([1.4, 1.6]))):
        sweep_axes.bars(axes, one, "C0", across, horizontal=False)
    axes.set(xlim=(-1, 2), ylim=(-0.5, 3.5))
    assert sweep_axes.cut_bars(figure) == " Cut off at the edges: 1 of 2 intervals."
    axes.set_ylim(-10, 10)
    assert sweep_axes.cut_bars(figure) == ""


# Images


@pytest.mark.parametrize(
    ("likelihood", "max_level", "channels", "expected"),
    [
        (bernoulli(), 1, 1, ""),
        (bernoulli(), 255, 4, " Only the first of 4 channels is shown."),
        (gaussian(), 255, 3, " Black is 0 and white is the highest level. Means and draws beyond are clipped."),
        (gaussian(), None, 1, " Black is −2 and white is 3, the range of the test images shown. Values beyond are clipped."),
        (
            poisson(),
            None,
            1,
            " Black is 0 and white is 3, the largest count of the test images shown. Values beyond are clipped.",
        ),
    ],
)
def test_captions_say_what_black_and_white_are(likelihood, max_level, channels, expected):
    built = SimpleNamespace(vae=SimpleNamespace(likelihood=likelihood), dataset=SimpleNamespace(max_level=max_level))
    low = 0.0 if likelihood.support == "counts" else -2.0
    assert displayed_examples._describe_scale(built, low, 3.0, channels) == expected


@pytest.mark.parametrize(("count", "held_out"), [(0, ""), (2, ", 2 validation"), (None, "")])
def test_a_report_counts_the_validation_examples(count, held_out):
    """Without them the counts do not add up to those of the source. Directories of early versions have no such count."""
    facts = {"train_examples": 8, "validation_examples": count, "test_examples": 3, "shape": [2, 2, 1]}
    facts |= {"treatment": "counts", "split": "random with seed 0"}
    facts = {name: value for name, value in facts.items() if value is not None}
    expected = f"mine: 8 training{held_out} and 3 test examples of 2 × 2 × 1, counts; split: random with seed 0."
    assert describe_data("mine", facts) == expected
