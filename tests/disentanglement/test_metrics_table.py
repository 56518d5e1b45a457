"""The table of all disentanglement metrics, its settings, and input that is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disentanglement_loops import GRID, KEY, SIZES, SMALL, full_grid

from vae_jax import disentanglement as dis
from vae_jax.disentanglement import Settings
from vae_jax.errors import UserError


# Together.
@pytest.fixture(scope="module")
def scores(table):
    return dis.all_metrics(KEY, *table, SMALL)


def test_permuting_the_latent_dimensions_changes_nothing(table, scores):
    codes, factors = table
    permuted = dis.all_metrics(KEY, codes[:, [3, 6, 0, 5, 2, 4, 1]], factors, SMALL)
    solvers = {"beta_vae_score": 0.01, "explicitness": 1e-3}  # the order in which they add
    solvers |= dict.fromkeys(("dci_disentanglement", "dci_completeness", "dci_informativeness"), 0.05)  # ties between splits
    for name, score in scores.items():
        assert permuted[name] == pytest.approx(score, abs=solvers.get(name, 1e-6)), name


@pytest.mark.slow
def test_the_table_has_every_metric_on_rows_of_its_own(table, scores):
    codes, factors = table
    keys = {name: jax.random.fold_in(KEY, i) for i, name in enumerate(dis.METRICS)}
    assert all(type(score) is float and math.isfinite(score) for score in scores.values())
    assert scores["beta_vae_score"] == dis.beta_vae_score(keys["beta_vae"], codes, factors, SMALL)
    assert scores["factor_vae_score"] == dis.factor_vae_score(keys["factor_vae"], codes, factors, SMALL)
    assert scores["sap"] == dis.sap(keys["sap"], codes, factors, SMALL)
    assert scores["explicitness"] == dis.explicitness(keys["explicitness"], codes, factors, SMALL)
    rows = {name: dis.draw_rows(key, 700, SMALL).train for name, key in keys.items()}
    assert scores["mig"] == dis.mig(codes[rows["mig"]], factors[rows["mig"]]).score
    assert scores["modularity"] == dis.modularity(codes[rows["modularity"]], factors[rows["modularity"]])
    drawn = codes[rows["unsupervised"]]
    assert scores["gaussian_total_correlation"] == dis.gaussian_total_correlation(drawn)
    assert scores["gaussian_wasserstein_correlation"] == dis.gaussian_wasserstein_correlation(drawn).squared_distance
    assert scores["gaussian_wasserstein_correlation_normalised"] == dis.gaussian_wasserstein_correlation(drawn).normalized
    assert scores["average_mutual_information"] == dis.average_mutual_information(drawn)
    expected = dis.dci(keys["dci"], codes, factors, SMALL)[:3]
    assert tuple(scores[f"dci_{name}"] for name in ("disentanglement", "completeness", "informativeness")) == expected
    assert len(scores) == 13


def test_a_selection_gives_the_same_numbers_and_another_key_others(table, scores):
    codes, factors = table
    few = dis.all_metrics(KEY, jnp.asarray(codes, jnp.float32), jnp.asarray(factors), SMALL, only=["modularity", "mig"])
    assert list(few) == ["mig", "modularity"]
    for name, score in few.items():
        assert score == pytest.approx(scores[name], abs=1e-6)
    other = dis.all_metrics(jax.random.key(1), codes, factors, SMALL, only="mig")
    assert other["mig"] != few["mig"]
    with pytest.raises(UserError, match=r"unknown metric 'mgi'\. Did you mean 'mig'"):
        dis.all_metrics(KEY, codes, factors, SMALL, only=["mgi"])


def test_the_defaults_are_the_published_sizes():
    assert tuple(Settings()) == (10_000, 5_000, 10_000, 64, 20, 0.05, True)
    assert Settings() == dis.PUBLISHED


# Inputs.
ALL = {
    "mig": lambda codes, factors: dis.mig(codes, factors),
    "modularity": lambda codes, factors: dis.modularity(codes, factors),
    "beta_vae_score": lambda codes, factors: dis.beta_vae_score(KEY, codes, factors, SMALL),
    "factor_vae": lambda codes, factors: dis.factor_vae_score(KEY, codes, factors, SMALL),
    "sap": lambda codes, factors: dis.sap(KEY, codes, factors, SMALL),
    "dci": lambda codes, factors: dis.dci(KEY, codes, factors, SMALL),
    "explicitness": lambda codes, factors: dis.explicitness(KEY, codes, factors, SMALL),
    "all_metrics": lambda codes, factors: dis.all_metrics(KEY, codes, factors, SMALL),
}


@pytest.mark.parametrize("name", ALL)
def test_bad_input_is_named(table, name):
    codes, factors = table
    broken = codes.copy()
    broken[[5, 9], 2] = np.nan, np.inf
    single = factors.copy()
    single[:, 1] = 7
    cases = [
        (broken, factors, UserError, r"NaN or infinity in 2 of 700 rows \(first: row 5\)"),
        (codes, single, UserError, r"got one value of factor 1"),
        (codes[:, 0], factors, ValueError, r"codes of shape \(examples >= 2, latent >= 2\), got \(700,\)"),
        (codes[:, :1], factors, ValueError, r"latent >= 2\), got \(700, 1\)"),
        (codes, factors[:, :1], ValueError, r"factors of shape \(examples, num_factors >= 2\), got \(700, 1\)"),
        (codes, factors / 2, ValueError, r"factors as integers .*, got float64"),
        (codes, -factors, ValueError, r"factors >= 0, got -15"),
        (codes[:-1], factors, ValueError, r"a row of factors for each code, got 699 and 700 rows"),
    ]
    for bad_codes, bad_factors, error, message in cases:
        with pytest.raises(error, match=f"{name}.*{message}"):
            ALL[name](bad_codes, bad_factors)


@pytest.mark.parametrize("name", ["factor_vae", "sap", "dci", "explicitness"])
def test_too_few_rows_are_an_error_that_says_what_to_set(table, name):
    codes, factors = table
    few = 290 if name == "factor_vae" else 390
    with pytest.raises(
        UserError, match=rf"at least \d+ rows \((num_variance_points|num_points)\) in \w+, got {few}\. Give more examples"
    ):
        ALL[name](codes[:few], factors[:few])


def test_sizes_that_make_no_sense_are_errors(table):
    codes, factors = table
    for name in ("num_points", "num_eval", "num_variance_points", "batch_size", "num_bins"):
        with pytest.raises(ValueError, match=rf"expected {name} >= [12], got 0"):
            dis.all_metrics(KEY, codes, factors, SMALL._replace(**{name: 0}))
    with pytest.raises(ValueError, match=r"num_bins >= 1, got 0"):
        dis.mig(codes, factors, num_bins=0)
    with pytest.raises(ValueError, match=r"same examples, got shapes"):
        dis.mutual_information_matrix(factors, factors[:-1])


def test_values_that_the_draws_miss_are_an_error_or_left_out(table):
    codes, _ = table
    once = np.zeros((700, 2), int)
    once[0] = 1
    with pytest.raises(UserError, match=r"two values of each factor in sap \(rows drawn to train on\)"):
        dis.sap(jax.random.key(3), codes, once, Settings(num_points=20, num_eval=5))
    # Of the rare value's rows, some are drawn in one set only: its area is left out, the others stay.
    rare = np.stack([np.arange(700) % 3, np.arange(700) % 4], axis=1)
    rare[:4, 0] = 9
    rows = dis.draw_rows(KEY, 700, SMALL._replace(num_eval=12))
    assert 9 not in rare[rows.evaluation, 0]
    assert 0 < dis.explicitness(KEY, codes, rare, SMALL._replace(num_eval=12)) < 1
    with pytest.raises(UserError, match=r"Raise `num_eval`"):
        dis.explicitness(KEY, codes, rare, SMALL._replace(num_eval=1))


def test_codes_that_hardly_differ_from_constant_raise_and_warn_of_nothing():
    factors = full_grid(SIZES)
    count = len(factors)
    rng = np.random.default_rng(0)
    codes = np.stack(
        [
            np.where(rng.random(count) < 0.5, 1.0, np.nextafter(1.0, 2.0)),
            1e-200 * rng.normal(size=count),
            np.full(count, 1e20),
            np.zeros(count),
        ],
        axis=1,
    )
    few = [name for name in dis.METRICS if name != "dci"]
    scores = dis.all_metrics(KEY, codes, factors, GRID, only=few)
    assert all(math.isfinite(score) for score in scores.values())
    assert scores["factor_vae_score"] == 0
    assert scores["mig"] < 0.1
