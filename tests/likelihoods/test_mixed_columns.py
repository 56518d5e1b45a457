"""`likelihoods.columns`: a likelihood for each column, against sums of SciPy's distributions in float64."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from vae_jax import likelihoods
from vae_jax.data import outside_columns
from vae_jax.errors import UserError
from vae_jax.example import Example
from vae_jax.likelihoods import ColumnGroup, mixed
from vae_jax.model import SCALING, mlp_vae, with_moments

SHARED = np.array([0.3, -0.4, 0.7], np.float32)  # two scales and a dispersion, as logs above their starts
# In an order that is not that of the columns: reals 4 and 1, a rating 1, 3 or 7, zeros and ones, counts, three categories.
LIKELIHOOD = likelihoods.columns(
    [
        (likelihoods.gaussian("per_column", initial_scale=np.array([1.0, 2.0])), [4, 1]),
        ColumnGroup(likelihoods.categorical(3), (5,), ((1.0, 3.0, 7.0),)),
        (likelihoods.bernoulli(), [0]),
        (likelihoods.negative_binomial("per_column", initial_dispersion=np.array([1.5])), [3]),
        (likelihoods.categorical(3), [2]),
    ]
)
WIDTH = 6
OUTPUT = np.array([0.2, -0.5, 0.1, 0.6, -0.3, 0.4, 0.9, -0.2, 0.5, 0.3], np.float32)
X = np.array([[1, 0.5, 2, 4, -1.0, 7], [0, -1.5, 0, 0, 2.0, 1], [1, 3.0, 1, 11, 0.3, 3]], np.float32)
ENTRIES = jax.jit(jax.vmap(lambda output, shared, x: LIKELIHOOD.log_prob_per_entry((output, shared), x), (None, None, 0)))
OBSERVED = jax.jit(lambda output, shared, x, mask: likelihoods.observed_log_prob(LIKELIHOOD, (output, shared), x, mask))


def softmax(logits):
    return scipy.special.log_softmax(logits.astype(np.float64))


def oracle(x):
    """Log p of each column of one example in float64. The scales are those of the reals, which have a floor of exp(-6)."""
    scales = [float(s) for s in LIKELIHOOD.groups[0].likelihood.shared_values(jnp.asarray(SHARED[:2]))]
    mean, r = np.log1p(np.exp(np.float64(OUTPUT[6]))), np.exp(np.float64(SHARED[2]))
    code = {1: 0, 3: 1, 7: 2}[int(x[5])]
    return np.array(
        [
            scipy.stats.bernoulli.logpmf(x[0], scipy.special.expit(np.float64(OUTPUT[5]))),
            scipy.stats.norm.logpdf(x[1], OUTPUT[1], np.exp(scales[1])),
            softmax(OUTPUT[7:])[int(x[2])],
            scipy.stats.nbinom.logpmf(x[3], r, r / (r + mean)),
            scipy.stats.norm.logpdf(x[4], OUTPUT[0], np.exp(scales[0])),
            softmax(OUTPUT[2:5])[code],
        ]
    )


def test_each_column_has_its_own_log_likelihood():
    expected = np.stack([oracle(x) for x in X])
    np.testing.assert_allclose(ENTRIES(OUTPUT, SHARED, X), expected, rtol=1e-5, atol=1e-5)
    for x, row in zip(X, expected, strict=True):
        np.testing.assert_allclose(LIKELIHOOD.log_prob((jnp.asarray(OUTPUT), jnp.asarray(SHARED)), x), row.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda entries: entries[:, [1, 0, 2, 3, 4, 5]],  # columns in the wrong order
        lambda entries: entries[:, [4, 1, 5, 0, 3, 2]],  # in the order of the groups
        lambda entries: entries * np.array([1, 1, 1, 1, 0.5, 1]),
        lambda entries: entries - np.log(3),
    ],
)
def test_oracle_rejects_broken_copies(wrong):
    expected = np.stack([oracle(x) for x in X])
    assert not np.allclose(wrong(np.asarray(ENTRIES(OUTPUT, SHARED, X))), expected, rtol=1e-4, atol=1e-4)


def test_probabilities_of_a_discrete_table_sum_to_one():
    table = likelihoods.columns(
        [ColumnGroup(likelihoods.categorical(4), (2,), ((0.0, 2.0, 5.0, 9.0),)), (likelihoods.bernoulli(), [1]),
         (likelihoods.poisson(), [0])]
    )  # fmt: skip
    x = np.array(list(itertools.product(range(40), (0, 1), (0, 2, 5, 9))), np.float32)
    output = jnp.array([0.3, -1.0, 0.2, 0.5, 1.1, 0.4])
    total = np.exp(np.asarray(jax.jit(jax.vmap(partial(table.log_prob, output)))(x), np.float64)).sum()
    np.testing.assert_allclose(total, 1, rtol=1e-5)


def test_density_of_a_real_column_integrates_to_one():
    grid = np.linspace(-40, 40, 8001, dtype=np.float32)
    x = np.tile(X[0], (len(grid), 1))
    x[:, 1] = grid
    density = np.exp(np.asarray(ENTRIES(OUTPUT, SHARED, x), np.float64)[:, 1])
    np.testing.assert_allclose(scipy.integrate.simpson(density, x=grid.astype(np.float64)), 1, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_missing_entries_leave_no_trace_in_value_or_gradient(dtype):
    for mask in np.eye(WIDTH, dtype=bool):
        x = jnp.where(mask, X[0], jnp.nan).astype(dtype)
        arguments = jnp.asarray(OUTPUT, dtype), jnp.asarray(SHARED, dtype), x, jnp.asarray(mask)
        value, gradients = jax.jit(jax.value_and_grad(OBSERVED, (0, 1)))(*arguments)
        tolerance = 1e-5 if dtype == jnp.float32 else 3e-2
        np.testing.assert_allclose(np.float32(value), oracle(X[0])[mask].sum(), rtol=tolerance, atol=tolerance)
        assert all(np.isfinite(np.asarray(gradient, np.float32)).all() for gradient in gradients)
        assert all(np.asarray(gradient, np.float32).any() for gradient in gradients[:1])
    assert OBSERVED(OUTPUT, SHARED, np.full(WIDTH, np.nan, np.float32), np.zeros(WIDTH, bool)) == 0
    np.testing.assert_allclose(OBSERVED(OUTPUT, SHARED, X[0], np.ones(WIDTH, bool)), oracle(X[0]).sum(), rtol=1e-5)


def test_permuting_columns_permutes_their_nats():
    order = np.array([3, 5, 0, 4, 1, 2])  # column j of the new table is order[j] of the old one
    place = np.argsort(order)
    groups = [group._replace(columns=tuple(place[list(group.columns)])) for group in LIKELIHOOD.groups]
    permuted = likelihoods.columns(groups)
    entries = jax.vmap(lambda x: permuted.log_prob_per_entry((jnp.asarray(OUTPUT), jnp.asarray(SHARED)), x))(X[:, order])
    np.testing.assert_array_equal(entries, np.asarray(ENTRIES(OUTPUT, SHARED, X))[:, order])


def test_draws_and_means_are_values_of_the_table():
    keys = jax.random.split(jax.random.key(0), 4000)
    draws = np.asarray(jax.jit(jax.vmap(lambda key: LIKELIHOOD.sample(key, (jnp.asarray(OUTPUT), jnp.asarray(SHARED)))))(keys))
    assert set(np.unique(draws[:, 0])) == {0, 1}
    assert set(np.unique(draws[:, 5])) == {1, 3, 7}
    assert set(np.unique(draws[:, 2])) == {0, 1, 2}
    assert (draws[:, 3] == np.round(draws[:, 3])).all()
    frequencies = [np.mean(draws[:, 5] == value) for value in (1, 3, 7)]
    probs = np.exp(softmax(OUTPUT[2:5]))
    assert (np.abs(frequencies - probs) < 5 * np.sqrt(probs * (1 - probs) / 4000)).all()  # fails once in 10^6 keys
    mean = np.asarray(LIKELIHOOD.mean((jnp.asarray(OUTPUT), jnp.asarray(SHARED))))
    np.testing.assert_allclose(mean[[0, 1, 2, 4, 5]], [scipy.special.expit(OUTPUT[5]), OUTPUT[1], 1, OUTPUT[0], 3], rtol=1e-6)
    given = likelihoods.category_probs(LIKELIHOOD, (jnp.asarray(OUTPUT), jnp.asarray(SHARED)))
    np.testing.assert_allclose(given[5], probs, rtol=1e-6)


def test_encoder_sees_one_hot_categories_and_standardized_numbers():
    x, ones = jnp.asarray(X[0]), np.ones(WIDTH)
    seen = mixed.standardize(LIKELIHOOD, x, (2 * ones, 4 * ones), (ones, 3 * ones))
    np.testing.assert_allclose(seen, [1, (0.5 - 2) / 4, 2, (np.log1p(4) - 1) / 3, (-1 - 2) / 4, 7], rtol=1e-6)
    expected = [-1, 0.5, 0, 0, 1, 1, 4, 0, 0, 1]  # the order of the groups
    np.testing.assert_allclose(mixed.features(LIKELIHOOD, x), expected)
    np.testing.assert_array_equal(mixed.feature_columns(LIKELIHOOD), [4, 1, 5, 5, 5, 0, 3, 2, 2, 2])
    gradient = jax.grad(lambda x: mixed.features(LIKELIHOOD, x)[4])(x.at[5].set(5.0))  # between two categories
    np.testing.assert_allclose(gradient, [0, 0, 0, 0, 0, 0.25])


def test_missing_entries_do_not_reach_the_encoder():
    vae = mlp_vae((WIDTH,), LIKELIHOOD, latent_dim=2, hidden=(4,), mask_input=True)
    params, mask = vae.init(jax.random.key(0)), jnp.array([True, False, False, True, True, False])
    encode = jax.jit(lambda x: vae.encode(params, Example(x, mask=mask))[0])
    first, second = encode(jnp.asarray(X[0])), encode(jnp.where(mask, X[0], X[1]))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, encode(jnp.asarray(X[1])))


def test_moments_in_the_parameters_move_reals_and_scale_counts():
    from vae_jax.data import Moments

    vae = mlp_vae((WIDTH,), LIKELIHOOD, latent_dim=2, hidden=(4,))
    mean, std = np.arange(6.0), np.arange(1.0, 7.0)
    scaled = with_moments(vae, Moments(mean, std, Moments(mean, std)))
    params = scaled.init(jax.random.key(1))
    plain = {name: value for name, value in params.items() if name != SCALING}
    before, after = vae.decode(plain, jnp.ones(2))[0], scaled.decode(params, jnp.ones(2))[0]
    np.testing.assert_allclose(after[:2], mean[[4, 1]] + std[[4, 1]] * before[:2], rtol=1e-5)
    np.testing.assert_allclose(np.log1p(np.exp(after[6])), mean[3] * np.log1p(np.exp(before[6])), rtol=1e-5)
    np.testing.assert_array_equal(np.delete(after, [0, 1, 6]), np.delete(before, [0, 1, 6]))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([(likelihoods.bernoulli(), [0, 2])], "each of the columns 0 to D - 1"),
        ([(likelihoods.bernoulli(), [0, 1]), (likelihoods.poisson(), [1])], "each of the columns 0 to D - 1"),
        ([(likelihoods.multinomial(), [0, 1])], "does not factorize"),
        ([(likelihoods.poisson(exposure="observed"), [0, 1])], "does not factorize"),
        ([ColumnGroup(likelihoods.categorical(3), (0,), ((0.0, 1.0),))], "3 numbers for each column"),
    ],
)
def test_groups_that_are_no_table_are_refused(groups, message):
    with pytest.raises(UserError, match=message):
        likelihoods.columns(groups)


def test_values_outside_of_a_column_are_named():
    assert outside_columns(LIKELIHOOD, X) is None
    wrong = X.copy()
    wrong[1, 5] = 2
    assert "'stars': categorical" in str(outside_columns(LIKELIHOOD, wrong, names=[*"abcde", "stars"]))
    assert outside_columns(LIKELIHOOD, wrong, mask=wrong != 2) is None
    wrong = X.copy()
    wrong[0, 3] = -1
    assert "column 3: negative_binomial expects counts" in str(outside_columns(LIKELIHOOD, wrong))
