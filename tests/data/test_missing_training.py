"""Runs on data with missing entries: finite gradients at every likelihood, masks of zeros, bits per dimension, messages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import data, training
from vae_jax.build import build
from vae_jax.config import Config, entries
from vae_jax.errors import DataWarning, UserError
from vae_jax.evaluation.dataset_means import Evaluation
from vae_jax.evaluation.not_finite import describe_not_finite
from vae_jax.example import Example
from vae_jax.runs.summary_file import test_bits_per_dim as bits_per_observed_entry
from vae_jax.training.checks import check_values

RNG = np.random.default_rng(0)
SMALL = {"epochs": 1, "hidden": (4,), "latent_dim": 2, "batch_size": 8, "binarize": "none"}
MASK = RNG.random((24, 4)) < 0.6
MASK[0] = False  # a row without any observed entry
NUMBERS = {
    "binary": RNG.integers(0, 2, (24, 4)).astype(np.float32),
    "unit_interval": RNG.uniform(0.1, 0.9, (24, 4)).astype(np.float32),
    "counts": RNG.poisson(5, (24, 4)).astype(np.float32),
    "real": RNG.normal(2, 3, (24, 4)).astype(np.float32),
}
FAST = ("bernoulli", "gaussian", "negative_binomial")
NAMES = [name for name in entries("likelihood") if name != "logistic_mixture_rgb"]  # which takes colors


def hidden(support):
    """Returns numbers of a support of which some are missing: NaN in floats, a mask over wrong numbers in integers."""
    if support == "levels":
        levels = np.where(MASK, RNG.integers(0, 8, (24, 4)), 255).astype(np.uint8)
        return data.from_arrays(levels, mask=MASK, max_level=7, split="last")
    return data.from_arrays(np.where(MASK, NUMBERS[support], np.nan), missing="nan", split="last")


def fit(built):
    return training.fit(built.vae, built.data, **built.fit_arguments)


@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NAMES])
def test_no_nan_reaches_a_parameter(name):
    config = Config(likelihood=name, **SMALL)
    for support in ("real", "unit_interval", "binary", "counts", "levels"):
        dataset = hidden(support)
        try:
            built = build(config, dataset=dataset)
        except UserError as error:
            problem = str(error)
            if "cannot leave out missing entries" in problem:
                assert name in ("multinomial", "logistic_mixture_rgb")
                return
            continue
        done = fit(built)
        assert done.status == "finished"
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((done.params, done.progress.state)))
        assert np.isfinite(done.test.elbo)
        return
    raise AssertionError(problem)


@pytest.fixture(scope="module")
def unobserved():
    """A run on binary data without any observed entry."""
    with pytest.warns(DataWarning) as warned:
        dataset = data.from_arrays(NUMBERS["binary"], mask=np.zeros((24, 4), bool), split="last")
    assert ["True or 1 for 0.0% of the entries" in str(w.message) for w in warned] == [True, False]
    assert "no entry of the training examples is observed" in str(warned[1].message)
    config = Config(likelihood="bernoulli", **(SMALL | {"epochs": 150, "learning_rate": 0.03}))
    built = build(config, dataset=dataset)
    return built, fit(built)


def test_a_mask_of_zeros_gives_log_likelihood_0_and_drives_the_kl_to_0(unobserved):
    built, done = unobserved
    assert done.test.log_likelihood == 0
    assert 0 <= done.test.kl < 1e-3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(done.params))
    assert bits_per_observed_entry(built, done.test.elbo) is None
    assert "100.0% of the entries are missing" in built.data.description


def test_floats_without_any_observed_entry_train_too():
    with pytest.warns(DataWarning, match="no entry of the training examples is observed"):
        dataset = data.from_arrays(np.full((24, 4), np.nan), missing="nan")
    done = fit(build(Config(likelihood="gaussian", scale="shared", **SMALL), dataset=dataset))
    assert done.test.log_likelihood == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(done.params))


def test_bits_per_dim_count_observed_entries(unobserved):
    built, _ = unobserved
    mask = np.array([[True, False, False, True], [True, True, True, False]])
    some = built._replace(dataset=built.dataset._replace(test_mask=mask))
    # 3 nats per example over 5 observed entries of 2 examples
    assert bits_per_observed_entry(some, -3.0) == pytest.approx(2 * 3 / (5 * np.log(2)))
    whole = built._replace(dataset=built.dataset._replace(test_mask=None))
    assert bits_per_observed_entry(whole, -3.0) == pytest.approx(3 / (4 * np.log(2)))


def test_values_at_missing_entries_are_not_checked(unobserved):
    built, _ = unobserved
    x, mask = jnp.full((8, 4), 0.5).at[:, 0].set(1), jnp.zeros((8, 4), bool).at[:, 0].set(True)
    as_given = built.data._replace(eval_input=lambda rows: rows, train_input=lambda key, rows: rows, validation=None)
    check_values(built.vae, as_given._replace(train=Example(x, mask=mask), test=Example(x.at[2, 1].set(jnp.nan), mask=mask)))
    with pytest.raises(UserError, match="test data: bernoulli expects binary data, got gray"):
        check_values(built.vae, as_given._replace(train=Example(x, mask=mask), test=Example(x, mask=mask.at[7, 3].set(True))))
    bad = Example(x.at[2, 0].set(jnp.nan), mask=mask)
    with pytest.raises(UserError, match=r"example 2\..*`missing=\"nan\"`"):
        check_values(built.vae, as_given._replace(train=bad, test=bad))


def test_messages_about_infinite_elbos_leave_missing_entries_out():
    x = np.array([[1.0, 2], [3, 900], [5, 0]])
    mask = np.array([[True, True], [True, True], [True, False]])
    problem = describe_not_finite("test", Example(x, mask=mask), Evaluation(np.array([0, -np.inf, 0]), np.zeros(3)))
    assert "values there go from 3 to 900, those of the other examples from 1 to 5" in problem.sentence
    nothing = describe_not_finite("test", Example(x, mask=mask & False), Evaluation(np.array([0, 0, np.inf]), np.zeros(3)))
    assert "No value of them is observed" in nothing.sentence


def test_the_mask_is_an_input_by_option():
    dataset = hidden("real")
    built = build(Config(likelihood="gaussian", mask_input=True, **SMALL), dataset=dataset)
    params = built.vae.init(jax.random.key(0))
    rows = built.data.eval_input(built.data.test)
    one, other = (built.vae.encode(params, Example(jnp.zeros(4), mask=mask)) for mask in (rows.mask[0], ~rows.mask[0]))
    assert not np.array_equal(one[0], other[0])


def test_events_alone_are_refused_where_examples_have_masks():
    prepared = data.prepare(hidden("real"))
    with pytest.raises(UserError, match=r"expected examples with their conditions and masks.* Pass those of the prepared data"):
        prepared.eval_input(prepared.test.event)
