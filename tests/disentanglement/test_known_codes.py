"""The disentanglement metrics on codes whose scores are known."""

import math

import numpy as np
import pytest
from disentanglement_loops import GRID, KEY, SIZES, SMALL, assert_ceiling, full_grid

from vae_jax import disentanglement as dis


# The ceiling, and codes whose scores are known.
def test_perfect_linear_codes_on_the_full_dsprites_grid_reach_the_known_ceiling():
    assert_ceiling()


@pytest.fixture(scope="module")
def known():
    """Scores of the factors themselves, of nothing, of every factor twice, and of their rotation."""
    factors = full_grid(SIZES)
    identity = (factors - factors.mean(axis=0)) / factors.std(axis=0)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    codes = {
        "identity": identity,
        "constant": np.full(identity.shape, 0.3),
        "twice": np.concatenate([identity, identity], axis=1),
        "rotated": identity @ rotation,
    }
    return {name: dis.all_metrics(KEY, z, factors, GRID) for name, z in codes.items()}


def test_the_factors_themselves_score_near_one(known):
    scores = known["identity"]
    for name in ("beta_vae_score", "factor_vae_score", "dci_disentanglement", "dci_completeness", "dci_informativeness"):
        assert scores[name] > 0.99, name
    for name in ("modularity", "explicitness", "mig"):
        assert scores[name] > 0.97, name
    for name in ("gaussian_total_correlation", "gaussian_wasserstein_correlation", "average_mutual_information"):
        assert 0 <= scores[name] < 0.05, name


def test_sap_reaches_what_is_right_by_one_code_alone_less_chance():
    """Two values of each factor, where one line per code separates them all: 1 - 1/2."""
    factors = np.tile(full_grid((2, 2, 2)), (64, 1))
    score = dis.sap(KEY, 10.0 * factors, factors, SMALL)
    assert abs(score - 0.5) < 0.15
    assert dis.sap_matrix(KEY, 10.0 * factors, factors, SMALL)[np.eye(3, dtype=bool)].min() == 1


def test_constant_codes_score_nothing_or_chance(known):
    scores = known["constant"]
    chance = {"beta_vae_score": 1 / 4, "dci_informativeness": np.mean(1 / np.array(SIZES)), "explicitness": 0.5}
    for name, score in scores.items():
        tolerance = 0.1 if name in ("beta_vae_score", "dci_informativeness") else 1e-9
        assert abs(score - chance.get(name, 0.0)) < tolerance, name


def test_every_factor_twice_is_found_out_where_the_metric_asks_for_one_code(known):
    scores, single = known["twice"], known["identity"]
    assert scores["mig"] == pytest.approx(0, abs=1e-9)
    assert scores["sap"] == pytest.approx(0, abs=1e-9)
    assert scores["dci_completeness"] < 0.8
    assert scores["dci_disentanglement"] > 0.99  # each code still is about one factor
    assert scores["average_mutual_information"] > single["average_mutual_information"] + 0.1
    # Four eigenvalues of the correlations at the floor, four at 2, and what little the codes correlate beside.
    at_the_floor = -(4 * math.log(8 * np.finfo(float).eps) + 4 * math.log(2)) / 2
    assert scores["gaussian_total_correlation"] > at_the_floor - 3
    assert scores["gaussian_wasserstein_correlation_normalised"] == pytest.approx(2 - math.sqrt(2), abs=0.01)


def test_a_rotation_lies_between(known):
    for name in ("mig", "dci_disentanglement", "dci_completeness", "modularity", "dci_informativeness"):
        assert known["constant"][name] + 0.05 < known["rotated"][name] < known["identity"][name] - 0.02, name
    assert known["rotated"]["explicitness"] > 0.97  # which does not ask for axes
