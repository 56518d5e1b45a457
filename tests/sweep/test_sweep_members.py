"""Grids, lists, designs and groups of members."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from scipy.stats import kstest, qmc

from vae_jax.config import Config, Hyperparams
from vae_jax.errors import UserError
from vae_jax.sweep.members import (
    Range,
    check_members,
    check_name,
    cross,
    design,
    grid,
    groups,
    identity,
    parse_range,
    parse_value,
    points,
    read_points,
    stacked,
    varying,
)

BASE = Config()


def test_a_grid_is_every_combination_in_order():
    members = grid(BASE, beta=[0.5, 2.0], learning_rate=[1e-3, 1e-2], seed=[3, 1])
    expected = list(itertools.product([0.5, 2.0], [1e-3, 1e-2], [3, 1]))
    assert [(m.beta, m.learning_rate, m.seed) for m in members] == expected
    assert varying(members) == ("beta", "learning_rate", "seed")
    assert all(dataclasses.replace(m, beta=1.0, learning_rate=1e-3, seed=0) == BASE for m in members)


def test_widths_by_name_and_numbers_of_numpy():
    assert parse_value("channels", "4x8") == (4, 8)
    members = grid(BASE, seed=np.arange(2), latent_dim=np.array([2, 4]), beta=np.float32([0.5]))
    assert {type(value) for member in members for value in (member.seed, member.latent_dim)} == {int}
    assert json.loads(json.dumps(dataclasses.asdict(members[0])))["beta"] == 0.5


def test_groups_differ_in_static_settings_alone():
    members = grid(BASE, latent_dim=[2, 5], beta=[1.0, 4.0], hidden=[(8,), (8, 8)])
    found = groups(members)
    assert [g.label for g in found] == [f"hidden = {h}, latent_dim = {d}" for d in (2, 5) for h in ("8", "8x8")]
    assert sorted(number for g in found for number in g.members) == list(range(8))
    for group in found:
        assert len({(c.latent_dim, c.hidden) for c in group.configs}) == 1
        assert [members[number] for number in group.members] == list(group.configs)
        np.testing.assert_array_equal(stacked(group.configs).beta, [1.0, 4.0])
    assert groups(members[:1], [17])[0].members == (17,)


def test_every_traced_number_reaches_its_column():
    """Each hyperparameter by itself, so that a mixed-up order would show."""
    for i, name in enumerate(Hyperparams._fields):
        column = stacked([BASE, dataclasses.replace(BASE, **{name: 0.125 * (i + 1)})])
        assert getattr(column, name)[1] == np.float32(0.125 * (i + 1))
        others = [float(other[1] - other[0]) for field, other in column._asdict().items() if field != name]
        assert others == [pytest.approx(0.0 if name != "lambda_od" else other) for other in others]


@pytest.mark.parametrize("kind", ["random", "sobol"])
def test_designs_fill_the_range_evenly(kind):
    ranges = {"beta": Range(0.1, 10.0, log=True), "learning_rate": Range(1e-4, 1e-2)}
    members = design(BASE, ranges, 128, kind, seed=3)
    unit = np.array([[np.log(m.beta / 0.1) / np.log(100), (m.learning_rate - 1e-4) / (1e-2 - 1e-4)] for m in members])
    assert ((unit >= -1e-6) & (unit <= 1 + 1e-6)).all()
    for column in unit.T:
        assert kstest(column, "uniform").pvalue > 1e-6
    # discrepancy is what Sobol points are for: far below that of random ones (about 1e-3 for 128 points in the plane)
    assert qmc.discrepancy(np.clip(unit, 0, 1)) < (3e-4 if kind == "sobol" else 2e-2)
    assert members == design(BASE, ranges, 128, kind, seed=3)
    assert members != design(BASE, ranges, 128, kind, seed=4)


def test_a_grid_design_has_both_ends():
    members = design(BASE, {"beta": Range(0.25, 4.0, log=True)}, 5, "grid")
    np.testing.assert_allclose([m.beta for m in members], [0.25, 0.5, 1, 2, 4], rtol=1e-6)
    assert [m.beta for m in design(BASE, {"beta": Range(0.0, 1.0)}, 1, "grid")] == [0.5]
    assert len(design(BASE, {"beta": Range(0, 1), "learning_rate": Range(1e-3, 1e-2)}, 3, "grid")) == 9


def test_a_list_comes_from_a_csv_file(tmp_path):
    file = tmp_path / "points.csv"
    file.write_text("beta,latent_dim,hidden,likelihood\n0.5,2,16x8,bernoulli\n4,10,32,gaussian\n")
    members = read_points(BASE, file)
    assert [(m.beta, m.latent_dim, m.hidden, m.likelihood) for m in members] == [
        (0.5, 2, (16, 8), "bernoulli"),
        (4.0, 10, (32,), "gaussian"),
    ]
    assert points(BASE, [{"beta": 0.5}])[0].beta == 0.5
    assert len(cross(members, seed=[0, 1, 2])) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one line"),
        ("beta\n", "at least one line"),
        ("beta,seed\n1\n", "line 2 has a different number"),
        ("beta\n1,2\n", "line 2 has a different number"),
        ("betta\n1\n", "unknown setting to sweep 'betta'. Did you mean 'beta'"),
        ("beta\none\n", "beta: expected a number, got 'one'"),
        ("dataset\nmnist\n", "dataset cannot be swept"),
    ],
)
def test_a_bad_list_is_refused(tmp_path, text, message):
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_points(BASE, tmp_path / "points.csv")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "points.csv").write_bytes(b"beta\n\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as CSV"):
        read_points(BASE, tmp_path / "points.csv")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("beta", "2", 2.0),
        ("seed", "7", 7),
        ("hidden", "256x128", (256, 128)),
        ("dequantize", "true", True),
        ("gamma", "10", 10.0),
        ("likelihood", "gaussian", "gaussian"),
        ("batch_size", "64", 64),
    ],
)
def test_values_are_read_by_the_settings_type(name, text, value):
    assert parse_value(name, text) == value
    assert type(parse_value(name, text)) is type(value)


@pytest.mark.parametrize(
    ("name", "text"), [("seed", "1.5"), ("hidden", "16x"), ("dequantize", "perhaps"), ("beta", ""), ("batch_size", "many")]
)
def test_values_of_another_type_are_refused(name, text):
    with pytest.raises(UserError, match=f"{name}: expected"):
        parse_value(name, text)


@pytest.mark.parametrize("text", ["beta", "beta=1", "beta=1:2:3", "beta=a:b", "beta=1:2:log:log"])
def test_ranges_that_are_none_are_refused(text):
    with pytest.raises(UserError, match="expected NAME=LOW:HIGH"):
        parse_range(text)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_members([]), "at least one member"),
        (lambda: grid(BASE, beta=[]), "beta: expected at least one value"),
        (lambda: check_members(grid(BASE, beta=[1.0, 2.0, 1.0])), "members 0 and 2 are the same run .beta = 1.0"),
        (lambda: check_members(grid(BASE, beta=[1.0, 1.0 + 1e-9])), "the same run"),  # the same number in float32
        (lambda: check_members(grid(BASE, beta=[-1.0])), "beta: expected a number >= 0"),
        (
            lambda: check_members([BASE, dataclasses.replace(BASE, condition="labels")]),
            "members have condition = '' and 'labels', but all members of a sweep share the data",
        ),
        (lambda: check_members(grid(BASE, capacity=[5.0, 9.0])), "`capacity` belongs to `objective` capacity"),
        (lambda: grid(BASE, test_seed=[0, 1]), "test_seed cannot be swept"),
        (lambda: check_name("latent_dim", static=False), "latent_dim is static.*`groups=latent_dim"),
        (lambda: check_name("beta", static=True), "beta is traced.*`over=beta"),
        (lambda: check_name("bata"), "Did you mean"),
        (lambda: design(BASE, {"seed": Range(0, 1)}, 4), "a seed is a name"),
        (lambda: design(BASE, {"latent_dim": Range(1, 9)}, 4), "latent_dim is static"),
        (lambda: design(BASE, {"beta": Range(2, 1)}, 4), "expected low < high"),
        (lambda: design(BASE, {"beta": Range(0, 1, log=True)}, 4), "low > 0"),
        (lambda: design(BASE, {"beta": Range(0, 1)}, 0), "`num_points` >= 1"),
        (lambda: design(BASE, {}, 4), "expected `ranges`"),
        (lambda: design(BASE, {"beta": Range(0, 1)}, 4, "halton"), "unknown design 'halton'"),
    ],
)
def test_what_cannot_be_swept_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_equal_runs_are_known_by_what_they_do():
    assert identity(dataclasses.replace(BASE, gamma=1000.0)) == identity(BASE)  # the default, written out
    assert identity(dataclasses.replace(BASE, beta=1)) == identity(BASE)
    assert identity(dataclasses.replace(BASE, seed=1)) != identity(BASE)
