"""Conditions that `fit` and `data.with_condition` add to prepared data, and models of a different condition."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse

from vae_jax import data, likelihoods, model, networks, priors, training
from vae_jax.errors import UserError
from vae_jax.example import Example
from vae_jax.runs.checkpoints import Checkpoints
from vae_jax.training import FitOptions
from vae_jax.training.optimizers import kernels

RNG = np.random.default_rng(0)
TRAIN, VALIDATION, TEST = 48, 8, 16
COUNTS = RNG.poisson(1.0, (TRAIN + VALIDATION + TEST, 6)) * (RNG.random((TRAIN + VALIDATION + TEST, 6)) < 0.4)
LABELS = np.resize([3, 7, 5], len(COUNTS))
PARTS = {"train": slice(0, TRAIN), "validation": slice(TRAIN, TRAIN + VALIDATION), "test": slice(TRAIN + VALIDATION, None)}
AGES = RNG.normal(40, 10, len(COUNTS))
FIT = {"epochs": 1, "batch_size": 16, "seed": 0}


def by_part(values):
    return {part: values[rows] for part, rows in PARTS.items()}


def dataset(convert=lambda x: x, **options):
    parts = by_part(COUNTS)
    return data.from_arrays(
        convert(parts["train"]), convert(parts["test"]), validation=convert(parts["validation"]), name="cells", **options
    )


def prepared(**options):
    return data.prepare(dataset(**options), counts=True)


def make_vae(condition_dim, **options):
    return model.mlp_vae((6,), likelihoods.poisson(), latent_dim=2, hidden=(4,), condition_dim=condition_dim, **options)


def conditions_of_dataset(values):
    parts = by_part(values)
    return {"condition": parts["train"], "validation_condition": parts["validation"], "test_condition": parts["test"]}


COLUMNS = {
    "integers": (LABELS, 3),
    "words": (np.array(["b", "a", "c"])[LABELS // 2 - 1], 3),
    "booleans": (LABELS > 4, 2),
    "reals": (AGES, 1),
    "integers of two columns": (np.stack([LABELS, LABELS // 5], axis=1), 5),
}


@pytest.mark.parametrize(("values", "dim"), COLUMNS.values(), ids=COLUMNS)
def test_added_conditions_are_those_of_data_that_came_with_them(values, dim):
    added = data.with_condition(prepared(), by_part(values))
    came = prepared(**conditions_of_dataset(values))
    assert (added.condition_dim, added.condition, added.description) == (dim, came.condition, came.description)
    key = jax.random.key(0)
    for part in ("train", "validation", "test"):
        rows, expected = getattr(added, part)[:5], getattr(came, part)[:5]
        inputs = (lambda d, rows: d.train_input(key, rows)) if part == "train" else lambda d, rows: d.eval_input(rows)
        got, expected = inputs(added, rows), inputs(came, expected)
        np.testing.assert_array_equal(got.event, expected.event)
        np.testing.assert_array_equal(got.condition, expected.condition)
        assert (got.mask, got.condition.shape) == (None, (5, dim))


def test_categories_and_standardized_numbers_by_hand():
    added = data.with_condition(prepared(), {part: {"label": LABELS[rows], "age": AGES[rows]} for part, rows in PARTS.items()})
    c = np.asarray(added.eval_input(added.test).condition)
    train = AGES[PARTS["train"]]
    one_hot = LABELS[PARTS["test"]][:, None] == [3, 5, 7]
    expected = np.concatenate([one_hot, ((AGES[PARTS["test"]] - train.mean()) / train.std())[:, None]], axis=1)
    np.testing.assert_allclose(c, expected, rtol=1e-5, atol=1e-5)


LABELS_BY_PART = by_part(LABELS)
REFUSED = {
    "an unseen category": (
        lambda: data.with_condition(prepared(), LABELS_BY_PART | {"test": np.full(TEST, 4)}),
        f"has 1 category in {TEST} of {TEST} test examples that no training example has: '4'.",
    ),
    "a part too few": (
        lambda: data.with_condition(prepared(), {"train": LABELS_BY_PART["train"], "test": LABELS_BY_PART["test"]}),
        "expected the keys 'train', 'validation', 'test', which are the parts of the data, got 'train', 'test'.",
    ),
    "another number of examples": (
        lambda: data.with_condition(prepared(), LABELS_BY_PART | {"train": LABELS[:5]}),
        "condition['train']: expected one value for each of the 48 examples, got an array of shape (5,)",
    ),
    "an array": (
        lambda: data.with_condition(prepared(), LABELS),
        "expected a dictionary of arrays with the keys 'train', 'valid",
    ),
    "a word": (
        lambda: data.with_condition(prepared(), LABELS_BY_PART | {"test": "labels"}),
        "condition['test']: expected an array (examples,) or (examples, columns), got 'labels'.",
    ),
    "NaN": (
        lambda: data.with_condition(prepared(), by_part(np.where(LABELS == 3, np.nan, AGES))),
        "expected a value of the condition 'condition' for every example, and 16 are missing",
    ),
    "a condition already": (
        lambda: data.with_condition(prepared(**conditions_of_dataset(LABELS)), LABELS_BY_PART),
        "the data have a condition already: condition (3 categories). Leave out this one",
    ),
    "a Dataset": (lambda: data.with_condition(dataset(), LABELS_BY_PART), "got a Dataset. Use data.prepare(dataset)."),
    "computed images": (
        lambda: data.with_condition(data.prepare(data.load("sprites")), {"train": [], "test": []}),
        "training may draw new ones at every step. Pass stored images with their conditions",
    ),
    "a model without a condition": (
        lambda: training.fit(make_vae(0), prepared(), condition=LABELS_BY_PART, **FIT),
        "the condition of the data has condition_dim=3: condition (3 categories). But the model has no condition "
        "(condition_dim=0). Make the model with condition_dim=3",
    ),
    "data without a condition": (
        lambda: training.fit(make_vae(3), prepared(), **FIT),
        "the model has condition_dim=3, and the data have no condition (condition_dim=0). Pass `condition` to fit",
    ),
    "another length": (
        lambda: training.fit(make_vae(2), prepared(), condition=LABELS_BY_PART, **FIT),
        "condition_dim=3: condition (3 categories). But the model has condition_dim=2. Make the model with condition_dim=3",
    ),
    "members": (
        lambda: training.fit_members(make_vae(0), prepared(), FitOptions(1, 16), seeds=[0], condition=LABELS_BY_PART),
        "Make the model with condition_dim=3",
    ),
    "a step": (
        lambda: training.check_step(make_vae(3), prepared(), FitOptions(1, 16)),
        "the model has condition_dim=3, and the data have no condition",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_conditions_that_do_not_fit_are_refused(call, message):
    with pytest.raises(UserError, match=re.escape(message)):
        call()


@pytest.mark.slow
def test_sparse_examples_train_with_conditions_as_dense_ones():
    """Through `fit(condition=)`, `from_arrays(condition=)` and `fit_members(condition=)`: the same test results."""
    vae = make_vae(3)
    dense = training.fit(vae, prepared(), condition=LABELS_BY_PART, **FIT)
    sparse = prepared(convert=scipy.sparse.csr_array, **conditions_of_dataset(LABELS))
    assert isinstance(sparse.train.event, data.SparseArray)
    assert training.fit(vae, sparse, **FIT).test[:3] == pytest.approx(dense.test[:3], rel=1e-6)
    later = prepared(convert=scipy.sparse.csr_array)
    members = training.fit_members(vae, later, FitOptions(1, 16), seeds=[0], condition=LABELS_BY_PART)
    assert members.tests[0][:3] == pytest.approx(dense.test[:3], rel=1e-6)


def test_missing_entries_keep_their_masks_beside_an_added_condition():
    x = np.where(RNG.random(COUNTS.shape) < 0.3, np.nan, COUNTS.astype(np.float32))
    parts = by_part(x)
    made = data.from_arrays(parts["train"], parts["test"], validation=parts["validation"], missing="nan", name="gaps")
    with_gaps = data.with_condition(data.prepare(made), LABELS_BY_PART)
    assert (with_gaps.has_missing, with_gaps.condition_dim) == (True, 3)
    batch = with_gaps.eval_input(with_gaps.test)
    np.testing.assert_array_equal(batch.mask, ~np.isnan(parts["test"]))
    np.testing.assert_array_equal(batch.event, np.nan_to_num(parts["test"]))
    np.testing.assert_array_equal(batch.condition, LABELS_BY_PART["test"][:, None] == [3, 5, 7])


def streamed(folder):
    path = folder / "rows.npy"
    np.save(path, COUNTS.astype(np.float32))
    made = data.load(str(path), stream=True, split="last", test_fraction=TEST / len(COUNTS))
    labels = {"train": LABELS[: len(made.train)], "test": LABELS[len(made.train) :]}
    return data.prepare(made), labels


def test_conditions_of_rows_on_disk_stay_beside_them(tmp_path):
    rows, labels = streamed(tmp_path)
    added = data.with_condition(rows, labels)
    assert added.is_on_disk
    assert isinstance(added.train.condition, np.ndarray)
    batch = added.train_input(jax.random.key(0), added.train_rows(jnp.array([4, 0])))
    np.testing.assert_array_equal(batch.event, COUNTS[[4, 0]])
    np.testing.assert_array_equal(batch.condition, labels["train"][[4, 0], None] == [3, 5, 7])


@pytest.mark.slow
def test_streamed_examples_train_with_added_conditions_as_those_in_memory(tmp_path):
    rows, labels = streamed(tmp_path)
    vae = model.mlp_vae((6,), likelihoods.gaussian(1.0), latent_dim=2, hidden=(4,), condition_dim=3)
    in_memory = data.prepare(data.load(str(tmp_path / "rows.npy"), split="last", test_fraction=TEST / len(COUNTS)))
    results = [training.fit(vae, prepared, condition=labels, **FIT) for prepared in (rows, in_memory)]
    chex.assert_trees_all_close(results[0].params, results[1].params, rtol=1e-4, atol=1e-6)


# The VampPrior of a conditional model.


@pytest.mark.slow
def test_pseudo_inputs_with_conditions_train_and_are_stored(tmp_path):
    data_given = data.with_condition(prepared(), LABELS_BY_PART)
    start = data_given.train_input(jax.random.key(0), data_given.train_rows(jnp.arange(4)))
    vae = make_vae(3, prior=priors.vamp(start))
    result = training.fit(vae, data_given, **FIT)
    before, after = vae.init(jax.random.key(0))["prior"], result.params["prior"]
    assert {name: leaf.shape for name, leaf in after.items()} == {"event": (4, 6), "condition": (4, 3)}
    np.testing.assert_array_equal(before["condition"], start.condition)
    assert all(np.any(after[name] != before[name]) and np.isfinite(after[name]).all() for name in after)
    assert np.isfinite(result.test.elbo)
    # p(z) is the mixture of the posteriors of the pseudo-inputs, whatever the condition of x is.
    z = jnp.array([0.3, -0.2])
    means, log_scales = jax.vmap(vae.encode, (None, 0))(result.params, Example(**after))
    expected = priors.gaussian_mixture_log_prob(z, jnp.zeros(4), means, log_scales)
    np.testing.assert_allclose(model.prior_log_prob(vae, result.params)(z), expected, rtol=1e-5)
    assert model.sample_prior(vae, result.params, jax.random.key(0)).shape == (2,)
    decays = kernels(result.params)
    assert not any(jax.tree.leaves(decays["prior"]))
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, *result.progress[:2])
    with Checkpoints(tmp_path / "c") as checkpoints:
        like = training.initial_progress(model.with_moments(vae, data_given.moments), optax.adam, 0)
        epoch, state, _, complaints = checkpoints.restore(like[:2])
    assert (epoch, complaints) == (1, [])
    chex.assert_trees_all_equal(state.params, result.progress.state.params)


def test_weight_decay_leaves_out_p_of_z_given_c_and_keeps_the_modulation():
    given = priors.ConditionalGaussian(*networks.mlp_encoder((3,), 2, hidden=(4,)))
    options = {"latent_dim": 2, "channels": (3,), "dense": (4,), "num_blocks": 1, "norm": "group", "condition_dim": 3}
    vae = model.conv_vae((4, 4, 1), likelihoods.bernoulli(), prior=given, **options)
    params = jax.eval_shape(vae.init, jax.random.key(0))
    decays = {jax.tree_util.keystr(path): decay for path, decay in jax.tree.leaves_with_path(kernels(params))}
    for path, decay in decays.items():
        assert decay == (path.endswith("['kernel']") and not path.startswith("['prior']")), path
    assert sum("['prior']" in path for path in decays) == 4
