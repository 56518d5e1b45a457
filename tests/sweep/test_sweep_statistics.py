"""Intervals, points and the hull against SciPy; the table's columns; active units."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.spatial import ConvexHull

from vae_jax.config import Config
from vae_jax.evaluation.posterior_collapse import active_units
from vae_jax.sweep.members import grid
from vae_jax.sweep.statistics import interval, lower_hull, points, to_arrays, to_csv, with_settings


def row(member, beta, seed, elbo=-10.0, status="finished", **more):
    return {"member": member, "group": "", "beta": beta, "seed": seed, "learning_rate": 1e-3, "status": status} | {
        "test_elbo": elbo,
        "rate": 2.0,
        "distortion": elbo and -elbo - 2.0,
        "active_units": 3,
        "test_bits_per_dim": None,
        **more,
    }


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_the_interval_is_students(n):
    values = np.random.default_rng(n).normal(3, 2, n)
    found = interval(values)
    expected = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-12)
    np.testing.assert_allclose([found.mean, found.standard_error], [values.mean(), stats.sem(values)], rtol=1e-12)
    # what one would get wrong
    normal = stats.norm.interval(0.95, loc=values.mean(), scale=stats.sem(values))
    biased = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=values.std() / n**0.5)
    assert not np.allclose([found.low, found.high], normal, rtol=1e-3)
    assert not np.allclose([found.low, found.high], biased, rtol=1e-3)


def test_the_interval_covers_as_often_as_it_says():
    rng, trials = np.random.default_rng(0), 4000
    covered = sum(found.low <= 1 <= found.high for found in (interval(rng.normal(1, 3, 4)) for _ in range(trials)))
    assert stats.binomtest(covered, trials, 0.95).pvalue > 1e-6


def test_one_seed_has_no_interval():
    found = interval([2.0])
    assert found.mean == 2.0
    assert found.n == 1
    assert np.isnan([found.standard_error, found.low, found.high]).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_hull_is_the_lower_left_part_of_scipys(seed):
    cloud = np.random.default_rng(seed).normal(size=(40, 2))
    found = lower_hull(cloud[:, 0], cloud[:, 1])
    # of the whole hull, the part from the leftmost point to the lowest: those edges whose outward normal points down and left
    hull = ConvexHull(cloud)
    edges = zip(hull.simplices, hull.equations, strict=True)
    expected = {vertex for edge, (a, b, _) in edges if a <= 0 and b <= 0 for vertex in edge}
    assert set(found) == expected | {int(np.argmin(cloud[:, 0]))}  # alone where the leftmost point is the lowest too
    assert (np.diff(cloud[found, 0]) > 0).all()
    assert (np.diff(cloud[found, 1]) < 0).all()


def test_the_hull_of_few_or_equal_points():
    assert lower_hull([1.0], [2.0]) == [0]
    assert lower_hull([1.0, 1.0], [2.0, 2.0]) == [0]
    assert lower_hull([0.0, 1.0, 2.0], [2.0, 1.0, 0.0]) in ([0, 2], [0, 1, 2])
    assert lower_hull([0.0, 1.0, 2.0], [0.0, 1.0, 2.0]) == [0]  # more rate for more distortion


def test_points_gather_seeds_and_leave_out_what_diverged():
    table = [row(0, 1.0, 0, -10.0), row(1, 1.0, 1, -12.0), row(2, 4.0, 0, -20.0), row(3, 4.0, 1, None, "diverged at step 7")]
    first, second = points(table, ["beta", "seed"])
    assert (first.settings, first.members, first.num_lost) == ({"beta": 1.0}, (0, 1), 0)
    assert (first.numbers["test_elbo"].mean, first.numbers["test_elbo"].n) == (-11.0, 2)
    assert (second.members, second.num_lost, second.numbers["test_elbo"].mean) == ((2,), 1, -20.0)
    assert "test_bits_per_dim" not in first.numbers
    (lost,) = points([row(0, 1.0, 0, None, "diverged at step 0")], ["beta"])
    assert (lost.members, lost.num_lost, lost.numbers) == ((), 1, {})


def test_points_know_other_settings_apart():
    table = [row(0, 1.0, 0, capacity=5.0), row(1, 1.0, 0, capacity=9.0), row(2, 1.0, 0, capacity=9.0, group="latent_dim = 2")]
    assert [p.settings for p in points(table, ["capacity"])] == [
        {"beta": 1.0, "capacity": 5.0},
        {"beta": 1.0, "capacity": 9.0},
        {"beta": 1.0, "capacity": 9.0},
    ]


def test_the_table_has_every_setting_that_differs():
    members = grid(Config(), hidden=[(8,), (8, 8)], beta=[1.0, 2.0])
    table = [row(i, member.beta, 0) for i, member in enumerate(members)]
    complete = with_settings(reversed(table), members)
    assert [r["member"] for r in complete] == [0, 1, 2, 3]
    assert [r["hidden"] for r in complete] == ["8", "8", "8x8", "8x8"]
    assert complete[2]["group"] == "hidden = 8x8"


def test_csv_keeps_every_digit_and_leaves_gaps():
    table = [row(0, 0.1, 0, -10.12345678901234), row(1, 0.1, 1, None, "diverged at step 1")]
    lines = to_csv(table, ["member", "beta", "test_elbo", "status"]).splitlines()
    assert lines == ["member,beta,test_elbo,status", "0,0.1,-10.12345678901234,finished", "1,0.1,,diverged at step 1"]
    arrays = to_arrays(table)
    assert arrays["test_elbo"][0] == -10.12345678901234
    assert np.isnan(arrays["test_elbo"][1])
    assert arrays["member"].dtype.kind == "i"


def test_active_units_counts_means_that_vary():
    rng = np.random.default_rng(0)
    scales = np.array([1.0, 0.11, 0.09, 0.0])  # variances 1, 0.0121, 0.0081, 0
    draws = rng.normal(size=(1000, 4))
    draws = (draws - draws.mean(0)) / draws.std(0)
    means = jnp.asarray(draws * scales + np.array([0.0, 5.0, -5.0, 9.0]), jnp.float32)
    assert int(active_units(means)) == 2
    assert int(active_units(means, threshold=0.5)) == 1
    assert int(active_units(means, threshold=1e-4)) == 3  # a constant mean, however large, is not active
