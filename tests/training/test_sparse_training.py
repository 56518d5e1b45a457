"""Sparse examples on the device: batches are the dense rows, and training and evaluation have the bits of dense data."""

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from vae_jax import data, evaluation, training
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.data import SparseArray, SparseRows, prepare
from vae_jax.data.sparse import sparse_rows
from vae_jax.data.sparse_on_device import to_device
from vae_jax.errors import UserError
from vae_jax.evaluation.dataset_means import Evaluation
from vae_jax.evaluation.not_finite import describe_not_finite
from vae_jax.training.placement import place

COUNTS = Config(
    likelihood="poisson", hidden=(16,), latent_dim=2, batch_size=16, epochs=2, split="last", validation_fraction=0.1
)


def matrix(kind):
    """Dense numbers of a matrix to store."""
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((40, 30)) < 0.2, rng.integers(1, 500, (40, 30)), 0)
    match kind:
        case "empty rows":
            dense[[0, 7, 39]] = 0
        case "full rows":
            dense[[0, 11]] = rng.integers(1, 9, (2, 30))
        case "one long row":
            dense = np.where(rng.random((400, 300)) < 0.01, 1, 0)
            dense[17] = 2
        case "one row":
            dense = dense[:1]
        case "one column":
            dense = dense[:, :1]
        case "all zeros":
            dense[:] = 0
        case "floats":
            dense = dense * 0.25
    return dense


KINDS = ["empty rows", "full rows", "one long row", "one row", "one column", "all zeros", "floats"]


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_the_dense_rows(kind):
    dense = matrix(kind)
    rows = to_device(sparse_rows(kind, scipy.sparse.csr_array(dense)))
    assert (rows.shape, len(rows), rows.size) == (dense.shape, len(dense), dense.size)
    assert rows.has_long_rows == (kind == "one long row")
    rng = np.random.default_rng(1)
    take = jax.jit(lambda rows, index: rows[index])
    for index in (np.arange(len(dense)), rng.integers(0, len(dense), (5, 3)), np.array(len(dense) - 1), np.zeros(0, int)):
        got = take(rows, index)
        assert got.dtype == rows.dtype
        np.testing.assert_array_equal(got, dense[index])
    # Members side by side have a batch each.
    index = rng.integers(0, len(dense), (3, 4))
    np.testing.assert_array_equal(jax.jit(jax.vmap(take, in_axes=(None, 0)))(rows, index), dense[index])
    for part in (slice(0, 0), slice(3), slice(1, None), slice(5, 1000)):
        view = rows[part]
        assert isinstance(view, SparseArray)
        assert view.data is rows.data
        assert view.shape == dense[part].shape
        np.testing.assert_array_equal(view[np.arange(len(view))], dense[part])


def test_duplicates_are_summed():
    coordinates = (np.array([1, 2, 2, 3]), (np.array([0, 1, 1, 1]), np.array([4, 0, 0, 4])))
    rows = to_device(sparse_rows("x", scipy.sparse.coo_array(coordinates, shape=(2, 5))))
    np.testing.assert_array_equal(rows[jnp.arange(2)], [[0, 0, 0, 0, 1], [4, 0, 0, 0, 3]])


def test_sparse_rows_are_never_dense_as_a_whole():
    rows = to_device(sparse_rows("x", scipy.sparse.csr_array(matrix("full rows"))))
    for convert in (np.asarray, jnp.asarray, list):
        with pytest.raises(TypeError):
            convert(rows)
    with pytest.raises(TypeError, match="slice with step 1"):
        rows[::2]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same counts of cells of different sizes, sparse and dense."""
    folder, rng = tmp_path_factory.mktemp("cells"), np.random.default_rng(0)
    rates = rng.gamma(0.3, 1.0, (250, 1)) * rng.gamma(0.3, 1.0, (1, 30))
    counts = rng.poisson(rates)
    counts[0, 0] = 300  # a count beyond the levels of bytes
    np.save(folder / "dense.npy", counts)
    scipy.sparse.save_npz(folder / "sparse.npz", scipy.sparse.csr_array(counts))
    scipy.sparse.save_npz(folder / "binary.npz", scipy.sparse.csr_array((counts > 0).astype(np.uint8)))
    np.save(folder / "binary.npy", (counts > 0).astype(np.uint8))
    return folder


def both(files, config, names=("sparse.npz", "dense.npy")):
    return [build(dataclasses.replace(config, dataset=str(files / name))) for name in names]


def assert_same_run(sparse, dense):
    """The moments are summed in another order, so that the networks start a few roundings apart where they matter."""
    exact = sparse.data.moments is None
    ours, theirs = (training.fit(built.vae, built.data, **built.fit_arguments) for built in (sparse, dense))
    compare = chex.assert_trees_all_equal if exact else lambda *a: chex.assert_trees_all_close(*a, rtol=1e-4, atol=1e-5)
    compare(jax.device_get(ours.progress.state), jax.device_get(theirs.progress.state))
    assert ours.test.elbo == pytest.approx(theirs.test.elbo, rel=1e-12 if exact else 1e-5)
    return ours, theirs


@pytest.mark.slow
def test_a_sparse_run_is_the_dense_run(files):
    sparse, dense = both(files, COUNTS)
    for split in ("train", "validation", "test"):
        assert isinstance(getattr(sparse.dataset, split), SparseRows)
        assert isinstance(getattr(sparse.data, split), SparseArray)
    ours, _ = assert_same_run(sparse, dense)
    # What the run is evaluated by takes the same examples.
    options = {"key": jax.random.key(0), "split": "train"}
    got, expected = (
        jax.jit(lambda params, built=built: evaluation.encode_dataset(built.vae, params, built.data, **options))(ours.params)
        for built in (sparse, dense)
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_implicit_feedback_has_the_bits_of_dense_data(files):
    config = dataclasses.replace(COUNTS, likelihood="bernoulli", output_bias="zeros", epochs=1)
    for binarize in ("dynamic", "threshold"):
        sparse, dense = both(files, dataclasses.replace(config, binarize=binarize), ("binary.npz", "binary.npy"))
        assert isinstance(sparse.data.train, SparseArray)
        assert sparse.data.description == dense.data.description
        index = jnp.arange(20).reshape(4, 5)
        np.testing.assert_array_equal(sparse.data.train_rows(index), dense.data.train_rows(index))
    assert_same_run(sparse, dense)


@pytest.mark.slow
def test_members_of_a_sweep_train_on_sparse_data(files):
    config = dataclasses.replace(COUNTS, likelihood="bernoulli", output_bias="zeros", epochs=1)
    sparse, dense = both(files, config, ("binary.npz", "binary.npy"))
    options = training.FitOptions.from_keywords(sparse.fit_arguments)
    fits = [
        training.fit_members(
            built.vae, built.data, options, seeds=[0, 1], placement=place(2, "vmap", devices=jax.devices()[:1])
        )
        for built in (sparse, dense)
    ]
    chex.assert_trees_all_equal(*(jax.device_get(fit.progress.members) for fit in fits))


@pytest.mark.slow
def test_probabilities_are_drawn_and_stay_sparse(tmp_path):
    """Numbers in [0, 1] between zeros: the test set is drawn once, from the keys of dense data."""
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((60, 20)) < 0.3, rng.random((60, 20)), 0).astype(np.float32)
    np.save(tmp_path / "dense.npy", dense)
    scipy.sparse.save_npz(tmp_path / "sparse.npz", scipy.sparse.csr_array(dense))
    for binarization, split in itertools.product(("dynamic", "fixed", "threshold"), ("test", "train")):
        prepared = [
            prepare(data.load(tmp_path / name, split="last"), binarization=binarization) for name in ("sparse.npz", "dense.npy")
        ]
        ours, theirs = (getattr(one, split) for one in prepared)
        assert isinstance(ours, SparseArray)
        np.testing.assert_array_equal(ours[np.arange(len(ours))], theirs)


def test_what_would_not_stay_sparse_is_refused(files):
    with pytest.raises(UserError, match=r"dequantize: .*sparse data would not stay sparse"):
        prepare(data.load(files / "binary.npz"), dequantize=True)


def test_values_outside_of_the_support_are_refused(files):
    sparse, _ = both(files, COUNTS)
    numbers = sparse.data.train
    for wrong in (numbers.data.at[3].set(-1), numbers.data.astype(np.float32).at[5].set(0.5)):
        changed = sparse.data._replace(train=dataclasses.replace(numbers, data=wrong))
        with pytest.raises(UserError, match="training data: "):
            training.fit(sparse.vae, changed, **sparse.fit_arguments)


def test_an_example_without_a_finite_bound_is_named():
    rows = to_device(sparse_rows("x", scipy.sparse.csr_array(matrix("full rows"))))
    log_likelihood = np.zeros(40)
    log_likelihood[3] = -np.inf
    problem = describe_not_finite("test", rows, Evaluation(log_likelihood, np.zeros(40)))
    assert problem is not None
    assert "test example 3" in problem.sentence
