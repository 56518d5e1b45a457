"""Vectors and series in any unit: training is that of standardized data, and constant columns do no harm."""

import jax
import numpy as np
import pytest
from speed import slow_but

from vae_jax import data, training
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.errors import DataWarning

RNG = np.random.default_rng(0)
UNITS = np.float32(2.0) ** np.array([-20, 0, 9, 30], np.float32)  # powers of two, by which float32 is multiplied exactly


def fitted(path, x, **settings):
    np.save(path, x)
    options = {"likelihood": "gaussian", "scale": "shared", "hidden": (8,), "latent_dim": 2, "epochs": 3, "batch_size": 20}
    built = build(Config(dataset=str(path), **options | settings))
    fit = training.fit(built.vae, built.data, **built.fit_arguments)
    return built, fit


@pytest.mark.slow
@pytest.mark.parametrize("event", slow_but(("series",), ("vector", "series")))
def test_a_model_in_other_units_has_the_same_elbo_up_to_the_log_jacobian(event, tmp_path):
    """Units from 1e-6 to 1e9: ELBO(x s) = ELBO(x) - sum log s, in training, in validation and for the posteriors."""
    shape = (100, 4) if event == "vector" else (100, 3, 4)
    x = (RNG.normal(size=(100, *(1,) * (len(shape) - 1))) + 0.3 * RNG.normal(size=shape)).astype(np.float32)
    standard, scaled = (fitted(tmp_path / f"{i}.npy", y, event=event) for i, y in enumerate((x, x * UNITS)))
    jacobian = np.log(np.float64(UNITS)).sum() * np.prod(shape[1:-1])
    for one, other in zip(standard[1].progress.history, scaled[1].progress.history, strict=True):
        assert float(other.test.elbo) == pytest.approx(float(one.test.elbo) - jacobian, abs=2e-3)
        assert float(other.train.loss) == pytest.approx(float(one.train.loss) + jacobian, abs=2e-3)
    codes = [jax.vmap(built.vae.encode, (None, 0))(fit.params, built.dataset.test)[0] for built, fit in (standard, scaled)]
    np.testing.assert_allclose(*codes, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("scale", slow_but(("per_pixel",), ("1.0", "shared", "per_pixel")))
def test_constant_columns_train_without_harm(scale, tmp_path):
    x = np.column_stack([RNG.normal(size=100), np.zeros(100), np.full(100, 1e6), np.full(100, -1e-6)]).astype(np.float32)
    built, fit = fitted(tmp_path / "x.npy", x, scale=scale)
    assert fit.status == "finished"
    assert all(np.isfinite(epoch.test.elbo) for epoch in fit.progress.history)
    assert built.data.moments.std[1:].tolist() == [1, 1, 1]
    means = jax.vmap(lambda x: built.vae.likelihood.mean(built.vae.decode(fit.params, built.vae.encode(fit.params, x)[0])))(
        built.dataset.test
    )
    assert np.abs(np.asarray(means)[:, 1:] - x[0, 1:]).max() < 2


def test_columns_that_vary_by_the_last_bits_are_not_taken_as_constant(tmp_path):
    x = np.float32(2**24) + RNG.integers(0, 4, (50, 1)).astype(np.float32) * 2
    np.save(tmp_path / "x.npy", np.column_stack([x, x]))
    moments = data.prepare(data.load(str(tmp_path / "x.npy"))).moments
    assert 1 < moments.std[0] < 4


def test_arrays_that_may_be_series_are_read_as_images_with_a_note(tmp_path):
    np.save(tmp_path / "x.npy", RNG.normal(size=(30, 20, 3)).astype(np.float32))
    with pytest.warns(DataWarning, match=r'shape \(30, 20, 3\) is taken as gray images .* pass `event="series"`'):
        assert data.load(str(tmp_path / "x.npy")).data_shape == (20, 3, 1)
    assert data.load(str(tmp_path / "x.npy"), event="series").data_shape == (20, 3)
    assert data.load(str(tmp_path / "x.npy"), event="vector").data_shape == (60,)
    np.save(tmp_path / "x.npy", RNG.normal(size=(30, 20, 18)).astype(np.float32))
    assert data.load(str(tmp_path / "x.npy")).notes == ()
