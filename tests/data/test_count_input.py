"""The encoder sees log(1 + x) of counts, standardized; runs that were written before saw x."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from vae_jax import data, likelihoods, model, runs, training
from vae_jax.build import build
from vae_jax.config import Config, from_dict
from vae_jax.data.moments import log1p_moments
from vae_jax.data.sparse import sparse_rows
from vae_jax.errors import UserError
from vae_jax.model.scaling import SCALING

RNG = np.random.default_rng(0)
TABLE = RNG.negative_binomial(0.5, [0.5, 0.05, 0.001, 0.0001, 1.0], (3000, 5)).astype(np.int32)  # the last column is constant


def _dataset(x):
    return data.Dataset("counts", x[:-20], None, x[-20:], None, None, "by hand")


EVENTS = {
    "vector": (TABLE, np.log1p(TABLE.astype(float)).mean(axis=0), np.log1p(TABLE.astype(float)).var(axis=0).mean() ** 0.5),
    "series": (
        TABLE.reshape(600, 5, 5),
        np.tile(np.log1p(TABLE.astype(float)).reshape(600, 5, 5).mean(axis=(0, 1)), (5, 1)),
        np.log1p(TABLE.astype(float)).reshape(600, 5, 5).var(axis=(0, 1)).mean() ** 0.5,
    ),
}


@pytest.mark.parametrize("name", EVENTS)
def test_means_of_each_column_and_one_standard_deviation(name):
    x, mean, std = EVENTS[name]
    moments = log1p_moments(x)
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(moments.std, np.full(x.shape[1:], std), rtol=1e-6)


def test_wide_matrices_have_smaller_inputs():
    x = RNG.poisson(3.0, (200, 1024)).astype(np.int32)
    wide, narrow = log1p_moments(x), log1p_moments(x[:, :256])
    np.testing.assert_allclose(wide.std, np.full(1024, 4 * np.log1p(x).var(axis=0).mean() ** 0.5), rtol=1e-5)
    np.testing.assert_allclose(narrow.std, np.full(256, np.log1p(x[:, :256]).var(axis=0).mean() ** 0.5), rtol=1e-5)


def test_rare_counts_do_not_become_large_inputs():
    x = RNG.poisson(0.5, (5000, 50)).astype(np.int32)
    x[:, :40] = 0
    x[np.arange(40), np.arange(40)] = 1  # columns with a count in a single example
    moments = log1p_moments(x)
    assert np.abs((np.log1p(x) - moments.mean) / moments.std).max() < 20


@pytest.mark.parametrize("num_rows", [100, 1000, 5000])
def test_counts_that_never_vary_have_the_scale_one(num_rows):
    x = np.broadcast_to(np.array([0, 1, 3, 5, 77, 1000, 100_000], np.int32), (num_rows, 7))
    for rows in (x, sparse_rows("counts", scipy.sparse.csr_matrix(x))):
        moments = log1p_moments(rows)
        np.testing.assert_array_equal(moments.std, np.ones(7))
        np.testing.assert_allclose(moments.mean, np.log1p(x[0].astype(float)), rtol=1e-6)


def test_a_single_different_count_is_not_taken_for_rounding():
    x = np.full((5000, 2), [5, 1000], np.int32)
    x[17] += 1
    np.testing.assert_allclose(log1p_moments(x).std, np.log1p(x.astype(float)).var(axis=0).mean() ** 0.5, rtol=1e-3)


def test_moments_of_images_are_pooled_and_bytes_are_no_halves():
    x = RNG.integers(0, 256, (50, 4, 6, 1), np.uint8)
    moments = log1p_moments(x)
    logs = np.log1p(x.astype(float))
    square = np.square(logs).mean() - logs.mean() ** 2
    assert (moments.mean, moments.std) == (pytest.approx(logs.mean(), rel=1e-9), pytest.approx(square**0.5, rel=1e-7))


class _Slices:
    """Rows that can be read by slices only, as from a file or from a sparse matrix."""

    def __init__(self, rows):
        self._rows, self.shape, self.dtype, self.largest = rows, rows.shape, rows.dtype, 0

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, part):
        assert type(part) is slice
        self.largest = max(self.largest, len(self._rows[part]))
        return self._rows[part]


def test_moments_are_computed_from_slices():
    rows = _Slices(TABLE)
    moments, expected = log1p_moments(rows), log1p_moments(TABLE)
    assert rows.largest <= 1024
    np.testing.assert_array_equal(moments.mean, expected.mean)
    np.testing.assert_array_equal(moments.std, expected.std)


def test_sparse_rows_have_the_moments_of_dense_ones():
    sparse, dense = log1p_moments(sparse_rows("counts", scipy.sparse.csr_matrix(TABLE))), log1p_moments(TABLE)
    np.testing.assert_allclose(sparse.mean, dense.mean, rtol=1e-6)
    np.testing.assert_allclose(sparse.std, dense.std, rtol=1e-6)


def test_streamed_counts_have_the_moments_of_those_in_memory(tmp_path):
    np.save(tmp_path / "x.npy", TABLE)
    memory, streamed = (
        data.prepare(data.load(tmp_path / "x.npy", stream=stream), counts=True).moments.log1p for stream in (False, True)
    )
    np.testing.assert_allclose(streamed.mean, memory.mean, rtol=1e-6)
    np.testing.assert_allclose(streamed.std, memory.std, rtol=1e-6)


def _seen(vae, params, x):
    """The input of the encoder, whose weights are the identity."""
    layers = params["encoder"]
    last = next(iter(layers))
    layers[last] = {"kernel": jnp.concatenate([jnp.eye(5), jnp.zeros((5, 5))], axis=1), "bias": jnp.zeros(10)}
    return np.asarray(jax.vmap(vae.encode, in_axes=(None, 0))(params, x)[0])


@pytest.mark.parametrize("count_input", ["log1p", "standardized"])
def test_the_encoder_sees_what_the_setting_says(count_input, tmp_path):
    np.save(tmp_path / "x.npy", TABLE)
    config = Config(
        dataset=str(tmp_path / "x.npy"), likelihood="poisson", hidden=(), latent_dim=5, epochs=1, count_input=count_input
    )
    built = build(config)
    params = built.vae.init(jax.random.key(0))
    train = np.asarray(built.data.train_input(jax.random.key(0), built.data.train))
    assert train.dtype == np.float32
    np.testing.assert_array_equal(train, built.dataset.train)  # the likelihood stays that of the counts
    x = train.astype(np.float64)
    x = np.log1p(x) if count_input == "log1p" else x
    std = np.where(x.std(axis=0) == 0, 1, x.std(axis=0)) if count_input == "standardized" else x.var(axis=0).mean() ** 0.5
    np.testing.assert_allclose(_seen(built.vae, params, train), (x - x.mean(axis=0)) / std, rtol=2e-4, atol=2e-4)
    described = built.data.description
    assert described == ("counts, seen by the encoder as log(1 + x)" if count_input == "log1p" else "counts")


@pytest.mark.parametrize("count_input", ["log1p", "standardized"])
def test_a_notebook_has_the_same_choice_in_prepare(count_input):
    prepared = data.prepare(_dataset(TABLE), counts=True, count_input=count_input)
    vae = model.mlp_vae((5,), likelihoods.negative_binomial(), latent_dim=5, hidden=())
    vae = model.scaling.with_moments(vae, prepared.moments)
    params = vae.init(jax.random.key(0))
    assert set(params[SCALING]) == ({"mean", "std", "log1p"} if count_input == "log1p" else {"mean", "std"})
    x = np.log1p(TABLE[:-20].astype(float)) if count_input == "log1p" else TABLE[:-20].astype(float)
    std = np.where(x.std(axis=0) == 0, 1, x.std(axis=0)) if count_input == "standardized" else x.var(axis=0).mean() ** 0.5
    seen = _seen(vae, params, TABLE[:-20].astype(np.float32))
    np.testing.assert_allclose(seen, (x - x.mean(axis=0)) / std, rtol=2e-4, atol=2e-4)
    negative = vae.encode(params, jnp.full(5, -3.0))[0]  # as a pseudo-input of a VampPrior may become
    assert np.all(np.isfinite(np.asarray(negative)))


@pytest.mark.slow
def test_log1p_is_the_default_and_the_scale_is_no_parameter_that_is_trained():
    prepared = data.prepare(_dataset(TABLE), counts=True)
    vae = model.mlp_vae((5,), likelihoods.poisson(exposure="observed", total=500.0), latent_dim=2, hidden=(4,))
    fit = training.fit(vae, prepared, epochs=1, batch_size=500, seed=0)
    assert fit.status == "finished"
    np.testing.assert_array_equal(fit.params[SCALING]["log1p"]["mean"], prepared.moments.log1p.mean)
    assert data.prepare(_dataset(TABLE.astype(np.float32) + 0.5)).moments.log1p is None


def test_an_unknown_input_is_refused():
    with pytest.raises(UserError, match="log1p"):
        data.prepare(_dataset(TABLE), counts=True, count_input="log")


def test_rendered_zeros_and_ones_have_moments_without_a_pass():
    dataset = data.load("sprites")
    moments = data.train_moments(dataset, counts=True, count_input="log1p")
    assert moments.log1p.mean == pytest.approx(np.log(2) * moments.mean)
    assert moments.log1p.std == pytest.approx(np.log(2) * moments.std)


def _counts_seen_standardized(tmp_path):
    np.save(tmp_path / "x.npy", TABLE[:600, :3])
    return Config(
        dataset=str(tmp_path / "x.npy"),
        likelihood="negative_binomial",
        count_input="standardized",
        hidden=(4,),
        latent_dim=2,
        epochs=2,
        batch_size=100,
    )


def _as_written_before(run):
    path = run / "config.json"
    content = json.loads(path.read_text())
    for setting in ("count_input", "exposure"):
        del content["config"][setting]
    path.write_text(json.dumps(content))


@pytest.mark.slow
def test_runs_of_earlier_versions_see_standardized_counts(tmp_path):
    config = _counts_seen_standardized(tmp_path)
    fit, _ = runs.train(build(config), tmp_path / "run")
    _as_written_before(tmp_path / "run")
    loaded = runs.load_run(tmp_path / "run")
    assert loaded.built.config == config
    assert loaded.built.config.exposure == "none"
    assert loaded.built.data.moments.log1p is None
    jax.tree.map(np.testing.assert_array_equal, loaded.params, fit.params)


@pytest.mark.slow
def test_runs_of_earlier_versions_resume_bit_for_bit(tmp_path):
    config = _counts_seen_standardized(tmp_path)
    fit, _ = runs.train(build(config), tmp_path / "run")
    runs.train(build(config), tmp_path / "half", on_epoch=lambda line: True)
    _as_written_before(tmp_path / "half")
    resumed, _ = runs.train(build(runs.read_config(tmp_path / "half")[0]), tmp_path / "half", resume=True)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, fit.params)


def test_only_what_an_earlier_version_did_not_have_is_filled_in():
    config = Config(likelihood="poisson")
    old = {name: value for name, value in dataclasses.asdict(config).items() if name != "count_input"}
    assert from_dict(old).count_input == "standardized"
    assert from_dict(dataclasses.asdict(config)) == config
    assert from_dict({**old, "likelihood": "bernoulli"}) == Config()
