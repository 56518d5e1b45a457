"""The disentanglement metrics, against loops over SciPy and scikit-learn, known ceilings, and codes whose scores are known."""

import itertools
import math

import budget
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score
from sklearn.svm import LinearSVC

from vae_jax import disentanglement as dis
from vae_jax.disentanglement import Settings
from vae_jax.errors import UserError

KEY = jax.random.key(0)
SMALL = Settings(num_points=400, num_eval=250, num_variance_points=300, batch_size=8)


def full_grid(sizes):
    return np.stack(np.unravel_index(np.arange(math.prod(sizes)), sizes), axis=1)


@pytest.fixture(scope="module")
def table():
    """As codes and factors come: unequal frequencies, not a grid; one code is constant and one hardly moves."""
    rng = np.random.default_rng(0)
    factors = np.stack(
        [rng.choice(size, 700, p=np.arange(1, size + 1) / (size * (size + 1) / 2)) for size in (3, 4, 6)], axis=1
    )
    factors[:, 1] = np.where(rng.random(700) < 0.3, factors[:, 0], factors[:, 1])
    codes = factors @ rng.normal(size=(3, 5)) + 0.3 * rng.normal(size=(700, 5))
    codes = np.concatenate([0.01 * rng.normal(size=(700, 1)), codes, np.full((700, 1), 0.3)], axis=1)
    return codes, factors * 3  # values with gaps


# Independent versions: plain loops, as the metrics are described.
def mutual_information_by_loops(codes, labels, num_bins=20):
    matrix = np.zeros((codes.shape[1], labels.shape[1]))
    for i, j in itertools.product(*map(range, matrix.shape)):
        bins = np.digitize(codes[:, i], np.histogram(codes[:, i], num_bins)[1][:-1])
        matrix[i, j] = mutual_info_score(labels[:, j], bins)
    return matrix


def mig_by_loops(codes, factors):
    gaps = []
    for f, column in enumerate(mutual_information_by_loops(codes, factors).T):
        second, first = sorted(column)[-2:]
        gaps.append((first - second) / stats.entropy(np.unique(factors[:, f], return_counts=True)[1]))
    return np.array(gaps)


def modularity_by_loops(codes, factors):
    scores = []
    for code, row in zip(codes.T, mutual_information_by_loops(codes, factors), strict=True):
        best = max(row)
        rest = sum(value**2 for value in row) - best**2
        scores.append(0.0 if np.all(code == code[0]) else 1 - rest / (best**2 * (len(row) - 1)))
    return np.mean(scores)


def beta_vae_by_loops(codes, draws):
    points = [
        np.array(
            [
                np.mean([abs(codes[a] - codes[b]) for a, b in zip(*rows, strict=True)], axis=0)
                for rows in zip(*pairs, strict=True)
            ]
        )
        for pairs in ((p.first, p.second) for p in draws)
    ]
    return LogisticRegression(max_iter=100).fit(points[0], draws[0].factor).score(points[1], draws[1].factor)


def factor_vae_by_loops(codes, factors, draws, least_std=0.05):
    rows, *batches = draws
    deviation = [
        math.sqrt(sum((v - np.mean(codes[rows, j])) ** 2 for v in codes[rows, j]) / (len(rows) - 1))
        for j in range(codes.shape[1])
    ]
    active = [j for j, value in enumerate(deviation) if value >= least_std]
    tables = []
    for batch in batches:
        votes = np.zeros((factors.shape[1], len(active)))
        for factor, members in zip(batch.factor, batch.rows, strict=True):
            ratios = [stats.tvar(codes[members, j]) / deviation[j] ** 2 for j in active]
            votes[factor, ratios.index(min(ratios))] += 1
        tables.append(votes)
    right = sum(tables[1][np.argmax(tables[0][:, j]), j] for j in range(len(active)))
    return right / tables[1].sum(), active


def sap_by_loops(codes, factors, rows):
    gaps = []
    for f in range(factors.shape[1]):
        accuracies = []
        for j in range(codes.shape[1]):
            classifier = LinearSVC(C=0.01, class_weight="balanced").fit(codes[rows.train, j][:, None], factors[rows.train, f])
            accuracies.append(classifier.score(codes[rows.evaluation, j][:, None], factors[rows.evaluation, f]))
        second, first = sorted(accuracies)[-2:]
        gaps.append(first - second)
    return np.mean(gaps)


def dci_by_loops(codes, factors, rows, seeds):
    importance, accuracies = [], []
    for f, seed in enumerate(seeds):
        trees = GradientBoostingClassifier(random_state=seed).fit(codes[rows.train], factors[rows.train, f])
        importance.append(trees.feature_importances_)
        accuracies.append(trees.score(codes[rows.evaluation], factors[rows.evaluation, f]))
    importance = np.array(importance).T
    disentanglement = completeness = 0.0
    for row in importance:
        if row.sum() > 0:
            disentanglement += row.sum() / importance.sum() * (1 - stats.entropy(row, base=importance.shape[1]))
    for column in importance.T:
        completeness += column.sum() / importance.sum() * (1 - stats.entropy(column, base=importance.shape[0]))
    return disentanglement, completeness, np.mean(accuracies)


def explicitness_by_ranks(codes, factors, rows):
    """The area under the curve as the chance that a member's probability is above another's, from ranks."""
    codes = codes[:, np.ptp(codes, axis=0) > 0]
    z = stats.zmap(codes, codes[rows.train])
    of_factors = []
    for f in range(factors.shape[1]):
        classifier = LogisticRegression().fit(z[rows.train], factors[rows.train, f])
        areas = []
        for i, value in enumerate(classifier.classes_):
            member = factors[rows.evaluation, f] == value
            ranks = stats.rankdata(classifier.predict_proba(z[rows.evaluation])[:, i])
            count = member.sum()
            areas.append((ranks[member].sum() - count * (count + 1) / 2) / (count * (len(member) - count)))
        of_factors.append(np.mean(areas))
    return np.mean(of_factors)


# The ceiling, and codes whose scores are known.
def test_perfect_linear_codes_on_the_full_dsprites_grid_reach_the_known_ceiling():
    assert_ceiling()


def assert_ceiling():
    factors = full_grid((3, 6, 40, 32, 32))
    assert len(factors) == 737_280
    scores = dis.mig(2.0 * factors - 1, factors)
    np.testing.assert_array_equal(np.round(scores.gaps, 4), [1, 1, 0.8121, 0.85, 0.85])
    assert round(scores.score, 4) == 0.9024
    np.testing.assert_allclose(scores.entropies, np.log([3, 6, 40, 32, 32]), rtol=1e-12)
    assert np.all(scores.mutual_information[~np.eye(5, dtype=bool)] < 1e-12)  # of a full grid, exactly independent


SIZES = (4, 4, 5, 5)
GRID = Settings(num_points=350, num_eval=300, num_variance_points=350, batch_size=16)


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


# Each metric is the loop.
def test_mutual_information_mig_and_modularity_are_the_loops(table):
    assert_mutual_information(table)


def assert_mutual_information(table):
    codes, factors = table
    scores = dis.mig(codes, factors)
    np.testing.assert_allclose(scores.mutual_information, mutual_information_by_loops(codes, factors), atol=1e-10)
    np.testing.assert_allclose(scores.gaps, mig_by_loops(codes, factors), atol=1e-10)
    assert scores.score == pytest.approx(np.mean(scores.gaps), abs=1e-12)
    assert dis.modularity(codes, factors) == pytest.approx(modularity_by_loops(codes, factors), abs=1e-10)
    seven = dis.mig(codes, factors, num_bins=7).mutual_information
    np.testing.assert_allclose(seven, mutual_information_by_loops(codes, factors, 7), atol=1e-10)
    bins = np.stack([np.digitize(c, np.histogram(c, 20)[1][:-1]) for c in codes.T], axis=1)
    between = mutual_information_by_loops(codes, bins)
    expected = between[~np.eye(len(between), dtype=bool)].mean()
    assert dis.average_mutual_information(codes) == pytest.approx(expected, abs=1e-10)


def test_dead_codes_count_zero_in_modularity_and_nearly_dead_ones_do_not():
    factors = full_grid((4, 5, 30))
    codes = factors.astype(float)
    assert dis.modularity(codes, factors) == pytest.approx(1, abs=1e-12)
    dead = np.concatenate([codes, np.full((600, 3), 0.1)], axis=1)
    assert dis.modularity(dead, factors) == pytest.approx(0.5, abs=1e-12)
    nearly = np.concatenate([codes, 1e-6 * np.random.default_rng(0).normal(size=(600, 3))], axis=1)
    assert dis.modularity(nearly, factors) > 0.55


def test_the_beta_vae_score_is_the_loop(table):
    codes, factors = table
    expected = beta_vae_by_loops(codes, dis.beta_vae_draws(KEY, factors, SMALL))
    assert dis.beta_vae_score(KEY, codes, factors, SMALL) == pytest.approx(expected, abs=1e-6)
    assert 0.5 < expected < 1


def test_the_factor_vae_score_is_the_loop(table):
    codes, factors = table
    expected, active = factor_vae_by_loops(codes, factors, dis.factor_vae_draws(KEY, factors, SMALL))
    assert active == [1, 2, 3, 4, 5]  # neither the code that hardly moves nor the constant one
    assert dis.factor_vae_score(KEY, codes, factors, SMALL) == pytest.approx(expected, abs=1e-6)
    assert 0.5 < expected < 1
    votes = dis.factor_vae_votes(KEY, codes, factors, SMALL)
    assert votes.train.sum() == 400
    assert votes.evaluation.shape == (3, 5)
    np.testing.assert_array_equal(np.flatnonzero(votes.active), active)
    without_pruning = dis.factor_vae_votes(KEY, codes, factors, SMALL._replace(least_std=0.0))
    np.testing.assert_array_equal(np.flatnonzero(without_pruning.active), range(6))  # a constant code never votes


def test_the_majority_is_that_of_the_training_votes(table):
    """Codes that tell nothing, and few votes: the majorities of the two sets differ."""
    factors = table[1]
    noise = np.random.default_rng(0).normal(size=(700, 4))
    settings = SMALL._replace(num_points=20, num_eval=10, batch_size=4)
    votes = dis.factor_vae_votes(KEY, noise, factors, settings)
    assert np.any(np.argmax(votes.train, axis=0) != np.argmax(votes.evaluation, axis=0))
    expected, _ = factor_vae_by_loops(noise, factors, dis.factor_vae_draws(KEY, factors, settings))
    assert dis.factor_vae_score(KEY, noise, factors, settings) == pytest.approx(expected, abs=1e-6)


def test_large_tables_are_worked_through_in_parts(table, monkeypatch):
    codes, factors = table
    whole = [f(KEY, codes, factors, SMALL) for f in (dis.beta_vae_score, dis.factor_vae_score)]
    monkeypatch.setattr("vae_jax.disentanglement.fixed_factor._MAX_ENTRIES", 8 * 7 * 33)
    assert [f(KEY, codes, factors, SMALL) for f in (dis.beta_vae_score, dis.factor_vae_score)] == whole


def test_sap_is_the_loop(table):
    codes, factors = table
    expected = sap_by_loops(codes, factors, dis.draw_rows(KEY, 700, SMALL))
    assert dis.sap(KEY, codes, factors, SMALL) == pytest.approx(expected, abs=1e-6)
    assert expected > 0.01


def test_dci_is_the_loop(table):
    codes, factors = table
    key_rows, key_trees = jax.random.split(KEY)
    seeds = [int(jax.random.bits(jax.random.fold_in(key_trees, f), (), jnp.uint32)) for f in range(3)]
    got = dis.dci(KEY, codes, factors, SMALL)
    expected = dci_by_loops(codes, factors, dis.draw_rows(key_rows, 700, SMALL), seeds)
    np.testing.assert_allclose(got[:3], expected, atol=1e-6)
    assert got.importance.shape == (7, 3)
    np.testing.assert_allclose(got.importance.sum(axis=0), 1, rtol=1e-9)
    np.testing.assert_array_equal(got.importance[-1], 0)  # the constant code


def test_explicitness_is_the_area_from_ranks(table):
    codes, factors = table
    expected = explicitness_by_ranks(codes, factors, dis.draw_rows(KEY, 700, SMALL))
    assert dis.explicitness(KEY, codes, factors, SMALL) == pytest.approx(expected, abs=1e-6)
    assert 0.7 < expected < 1


@pytest.mark.parametrize("seed", range(5))
def test_the_correlations_of_a_gaussian_are_those_of_dense_algebra(seed):
    rng = np.random.default_rng(seed)
    codes = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)) * np.exp(rng.normal(size=6)) + 3
    s = sum(np.outer(row, row) for row in codes - codes.mean(axis=0)) / 49
    d = np.diag(np.diag(s))
    kl = (np.trace(np.linalg.inv(d) @ s) - 6 + np.log(np.linalg.det(d) / np.linalg.det(s))) / 2
    assert dis.gaussian_total_correlation(codes) == pytest.approx(kl, rel=1e-8)
    root = linalg.sqrtm(d)
    distance = np.trace(s + d - 2 * linalg.sqrtm(root @ s @ root).real)
    got = dis.gaussian_wasserstein_correlation(codes)
    assert got.squared_distance == pytest.approx(distance, rel=1e-8)
    assert got.normalized == pytest.approx(distance / np.trace(s), rel=1e-8)
    with_constant = np.concatenate([codes, np.full((50, 2), 0.1)], axis=1)
    assert dis.gaussian_total_correlation(with_constant) == pytest.approx(kl, rel=1e-8)
    assert dis.gaussian_wasserstein_correlation(with_constant).normalized == pytest.approx(got.normalized, rel=1e-8)


def test_scaling_codes_changes_what_it_should():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 3))
    plain, scaled = (dis.gaussian_wasserstein_correlation(c) for c in (codes, 7 * codes))
    assert scaled.squared_distance == pytest.approx(49 * plain.squared_distance, rel=1e-9)
    assert scaled.normalized == pytest.approx(plain.normalized, rel=1e-9)
    each = codes * np.array([1e-9, 1.0, 1e9])
    assert dis.gaussian_total_correlation(each) == pytest.approx(dis.gaussian_total_correlation(codes), rel=1e-6)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_copies_of_one_code(count):
    codes = np.repeat(np.random.default_rng(0).normal(size=(40, 1)), count, axis=1)
    assert dis.gaussian_wasserstein_correlation(codes).normalized == pytest.approx(2 - 2 / math.sqrt(count), abs=1e-6)
    floor = count * np.finfo(float).eps
    expected = -((count - 1) * math.log(floor) + math.log(count)) / 2
    assert dis.gaussian_total_correlation(codes) == pytest.approx(expected, rel=0.05)


# The draws.
def test_rows_are_uniform_with_replacement_and_apart_without():
    train, evaluation = dis.draw_rows(KEY, 300, Settings(num_points=300, num_eval=200))
    assert len(np.unique(train)) < 300
    for rows in (train, evaluation):
        budget.accept_frequencies(np.bincount(rows, minlength=300), np.full(300, 1 / 300))
    apart = dis.draw_rows(KEY, 500, Settings(num_points=300, num_eval=200, replace=False))
    np.testing.assert_array_equal(np.sort(np.concatenate(apart)), np.arange(500))
    assert np.any(np.diff(apart.train) < 0)
    with pytest.raises(UserError, match=r"at least 501 rows \(num_points \+ num_eval\) in draw_rows, got 500"):
        dis.draw_rows(KEY, 500, Settings(num_points=301, num_eval=200, replace=False))


def ragged():
    """Values of unequal frequencies, and an example of a value that comes once."""
    rng = np.random.default_rng(1)
    factors = np.stack([rng.choice(3, 60, p=[0.6, 0.3, 0.1]), rng.choice(4, 60)], axis=1) * 5
    factors[17, 0] = 99
    return factors


def assert_pairs():
    factors = ragged()
    pairs, evaluation = dis.beta_vae_draws(KEY, factors, Settings(num_points=3000, num_eval=100, batch_size=8))
    assert evaluation.first.shape == (100, 8)
    budget.accept_frequencies(np.bincount(pairs.factor, minlength=2), [0.5, 0.5])
    for f in range(2):
        first, second = (rows[pairs.factor == f].ravel() for rows in (pairs.first, pairs.second))
        np.testing.assert_array_equal(factors[first, f], factors[second, f])
        # The second row of a pair is as uniform as the first, and within a value independent of it.
        budget.accept_frequencies(np.bincount(first, minlength=60), np.full(60, 1 / 60))
        budget.accept_frequencies(np.bincount(second, minlength=60), np.full(60, 1 / 60))
        members = np.flatnonzero(factors[:, f] == factors[0, f])
        partners = np.searchsorted(members, second[first == members[0]])
        uniform = np.full(len(members), 1 / len(members))
        budget.accept_frequencies(np.bincount(partners, minlength=len(members)), uniform, least=5)


def test_pairs_agree_in_their_factor_and_are_uniform_otherwise():
    assert_pairs()


def test_batches_agree_in_their_factor_and_are_uniform_otherwise():
    factors = ragged()
    settings = Settings(num_points=3000, num_eval=100, num_variance_points=60, batch_size=8)
    rows, batches, evaluation = dis.factor_vae_draws(KEY, factors, settings)
    assert rows.shape == (60,)
    assert evaluation.rows.shape == (100, 8)
    values = factors[batches.rows, batches.factor[:, None]]
    np.testing.assert_array_equal(values, np.repeat(values[:, :1], 8, axis=1))
    # One row of each batch: those of a batch are not independent of each other.
    budget.accept_frequencies(np.bincount(batches.rows[:, 3], minlength=60), np.full(60, 1 / 60), least=5)
    assert np.all((np.ptp(batches.rows, axis=1) > 0) | (values[:, 0] == 99))
    apart = dis.factor_vae_draws(KEY, factors, settings._replace(replace=False))[0]
    np.testing.assert_array_equal(np.sort(apart), np.arange(60))


def test_draws_do_not_depend_on_the_width_of_numbers():
    settings = Settings(num_points=20, num_eval=10, batch_size=4)
    draw = lambda: jax.tree.leaves((dis.draw_rows(KEY, 60, settings), dis.beta_vae_draws(KEY, ragged(), settings)))  # noqa: E731
    narrow = draw()
    with jax.enable_x64(True):
        wide = draw()
    for a, b in zip(narrow, wide, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == np.int64


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


@pytest.mark.parametrize(
    ("part", "broken"),
    [
        ("bin_codes", lambda real, codes, bins: real(codes, 2 * bins)),
        ("bin_codes", lambda real, codes, bins: real(stats.rankdata(codes, axis=0), bins)),  # of equal counts, not widths
        ("mutual_information_matrix", lambda real, a, b: real(a, b) / np.log(2)),  # bits
        ("mutual_information_matrix", lambda real, a, b: real(b, a)),  # transposed
        ("entropies", lambda real, labels: real(labels) / np.log(2)),
        ("entropies", lambda real, labels: np.log(1 + labels.max(axis=0))),  # of the uniform distribution
    ],
)
def test_broken_twins_of_the_gap_fail(table, part, broken, monkeypatch):
    real = getattr(dis, part)
    monkeypatch.setattr(f"vae_jax.disentanglement.mutual_information.{part}", lambda *arguments: broken(real, *arguments))
    with pytest.raises((AssertionError, ValueError)):
        assert_mutual_information(table)


@pytest.mark.parametrize(
    "broken",
    [
        lambda real, key, groups, factor, rows: rows,  # each row with itself
        lambda real, key, groups, factor, rows: real(key, groups, 1 - factor, rows),  # that agree in another factor
        lambda real, key, groups, factor, rows: real(key, groups, factor, rows[:, ::-1]),  # of another pair
    ],
)
def test_broken_twins_of_the_pairs_fail(broken, monkeypatch):
    from vae_jax.disentanglement import draws

    real = draws._rows_that_agree
    monkeypatch.setattr(draws, "_rows_that_agree", lambda *arguments: broken(real, *arguments))
    with pytest.raises(AssertionError):
        assert_pairs()
