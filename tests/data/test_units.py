"""Data on scales of their own: entries in different units, counts in the hundreds; in scripts and in notebooks alike."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from vae_jax import data, likelihoods, model, runs, training
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.model import SCALING

UNITS = np.array([1.0, 100.0, 10_000.0])


@pytest.fixture(scope="module")
def columns():
    """One factor seen in three columns of different units, with a signal-to-noise ratio of 10."""
    rng = np.random.default_rng(0)
    standard = rng.normal(size=(2000, 1)) + 0.1 * rng.normal(size=(2000, 3))
    return (standard * UNITS + np.array([3.0, 0.0, 5000.0])).astype(np.float32)


@pytest.fixture(scope="module")
def table(columns, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "columns.npy"
    np.save(path, columns[:, np.newaxis, :, np.newaxis])
    return str(path)


@pytest.fixture(scope="module")
def counts():
    """Counts of a negative binomial up to 1,200, with means from 1 to 400."""
    rng = np.random.default_rng(1)
    mean = np.exp(rng.normal(size=(600, 1)) * 0.5 + np.linspace(0, 6, 8))
    x = np.minimum(rng.poisson(rng.gamma(3.0, mean / 3)), 1200).astype(np.float32)
    return x[:, np.newaxis, :, np.newaxis]


def settings(table, **changes):
    options = {"likelihood": "gaussian", "hidden": (32,), "latent_dim": 1}
    options |= {"epochs": 60, "batch_size": 64, "learning_rate": 3e-3}
    return Config(dataset=table, **options | changes)


def explained(built, params):
    """R^2 of each column's reconstructions from posterior means, on the test set."""
    test = built.dataset.test

    def reconstruct(x):
        return built.vae.likelihood.mean(built.vae.decode(params, built.vae.encode(params, x)[0]))

    error = np.mean((np.asarray(jax.vmap(reconstruct)(test)) - test) ** 2, axis=0)
    return 1 - (error / np.var(test, axis=0)).ravel()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"scale": "shared"},
        pytest.param({"scale": "per_pixel"}, marks=pytest.mark.slow),
        pytest.param({"objective": "optimal_sigma"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_columns_in_any_unit_are_reconstructed(columns, table, changes):
    """The exact log-density of the Gaussian with all covariances is out of reach for nobody by more than 0.3 nats."""
    built = build(settings(table, **changes))
    fit = training.fit(built.vae, built.data, **built.fit_arguments)
    assert np.all(explained(built, fit.params) > 0.98)
    standard = columns.astype(np.float64) / UNITS
    exact = scipy.stats.multivariate_normal(standard.mean(0), np.cov(standard.T)).logpdf(standard).mean() - np.log(UNITS).sum()
    assert exact - 0.3 < fit.test.elbo < exact + 0.2  # the test set's own mean is within 0.2 of that of all


@pytest.mark.slow
def test_units_change_nothing_but_the_density(columns, tmp_path):
    """The same run on columns in other units: the same code, and densities apart by the logarithms of the units."""
    elbos = []
    for factors in (np.ones(3), np.array([1.0, 8.0, 1 / 64])):  # powers of two: float32 rounds alike
        np.save(tmp_path / "x.npy", (columns * factors)[:, np.newaxis, :, np.newaxis].astype(np.float32))
        built = build(settings(str(tmp_path / "x.npy"), scale="per_pixel", epochs=2))
        fit = training.fit(built.vae, built.data, **built.fit_arguments)
        elbos.append(fit.test.elbo + np.log(factors).sum())
    assert elbos[0] == pytest.approx(elbos[1], abs=1e-3)


def test_moments_of_entries_are_those_of_numpy(columns, table):
    prepared = data.prepare(data.load(table))
    train = data.load(table).train.astype(np.float64)
    np.testing.assert_allclose(prepared.moments.mean, train.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(prepared.moments.std, train.std(axis=0), rtol=1e-6)
    streamed = data.prepare(data.load(table, stream=True))
    np.testing.assert_allclose(streamed.moments.std, prepared.moments.std, rtol=1e-6)


@pytest.mark.slow
def test_constant_columns_are_no_obstacle(columns, tmp_path):
    constant = np.broadcast_to(np.float32([0, -7, 1e6]), (len(columns), 3))
    x = np.column_stack([columns, constant])
    np.save(tmp_path / "x.npy", x[:, np.newaxis, :, np.newaxis])
    built = build(settings(str(tmp_path / "x.npy"), scale="per_pixel", epochs=1))
    assert built.data.moments.std.ravel()[3:].tolist() == [1, 7, 1e6]
    fit = training.fit(built.vae, built.data, **built.fit_arguments)
    assert fit.status == "finished"


def test_images_are_pooled_as_before(tmp_path):
    x = np.random.default_rng(0).normal(5.0, 2.0, (40, 3, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    built = build(settings(str(tmp_path / "x.npy"), batch_size=8))
    assert built.data.moments == (float(built.dataset.train_mean.mean(dtype=np.float64)), built.dataset.train_std, None)
    assert data.prepare(data.load("digits")).moments is None


@pytest.mark.parametrize("name", ["gaussian", "laplace", "student_t"])
@pytest.mark.parametrize("scale", ["shared", "per_pixel"])
def test_a_scale_of_each_entry_starts_and_ends_at_its_own(name, scale):
    """Log p(x) = sum_d log p(x_d / s_d) - log s_d at the start, and a floor that is the same share of each s_d."""
    spread = jnp.asarray([[[0.01], [1.0], [1000.0]]])
    bundle, unit = (getattr(likelihoods, name)(scale, initial_scale=s) for s in (spread, 1.0))
    x = jnp.asarray([[[0.3], [-1.0], [2.0]]])
    start = jnp.zeros(x.shape) if scale == "shared" else jnp.zeros((*x.shape, 2))
    outputs = [(start, jnp.asarray(b.shared_start)) if scale == "shared" else start for b in (bundle, unit)]
    ours, standard = bundle.log_prob(outputs[0], x * spread), unit.log_prob(outputs[1], x)
    np.testing.assert_allclose(ours, standard - jnp.sum(jnp.log(spread)), rtol=2e-5)
    if scale == "per_pixel":
        lowest = start.at[..., 1].set(-50.0)
        floor = [bundle.log_prob(lowest, 0 * x), unit.log_prob(lowest, 0 * x)]
        np.testing.assert_allclose(floor[0], floor[1] - jnp.sum(jnp.log(spread)), rtol=2e-5)
    else:
        np.testing.assert_allclose(bundle.shared_values(outputs[0][1]), jnp.log(spread).ravel(), atol=1e-5)


# In a notebook: the scale that the scripts build into the model comes with the data


def counts_in_a_notebook(counts, epochs):
    dataset = data.Dataset("counts", counts[:480], None, counts[480:], None, None, "by hand")
    vae = model.mlp_vae(dataset.data_shape, likelihoods.negative_binomial(), latent_dim=1, hidden=(32,))
    prepared = data.prepare(dataset, counts=True)
    return vae, prepared, training.fit(vae, prepared, epochs=epochs, batch_size=64, seed=0)


@pytest.mark.slow
def test_counts_in_the_hundreds_train_in_a_notebook(counts):
    """As well as a constant negative binomial fitted to each column; without the scale, the first steps overflowed."""
    vae, prepared, fit = counts_in_a_notebook(counts, 3)
    assert fit.status == "finished"
    rates, test = counts[:480].mean(axis=0), counts[480:]
    constant = scipy.stats.nbinom(1.0, 1 / (1 + rates)).logpmf(test).sum(axis=(1, 2, 3)).mean()
    assert fit.test.elbo > constant - 1
    mean = jax.vmap(lambda x: vae.likelihood.mean(vae.decode(fit.params, vae.encode(fit.params, x)[0])))(prepared.test)
    assert np.all(np.isfinite(np.asarray(mean)))


@pytest.mark.slow
def test_counts_in_a_notebook_train_as_in_a_script(counts, tmp_path):
    np.save(tmp_path / "counts.npy", counts)
    options = {"likelihood": "negative_binomial", "epochs": 3, "learning_rate": 1e-3, "split": "last"}
    built = build(settings(str(tmp_path / "counts.npy"), **options))
    script = training.fit(built.vae, built.data, **built.fit_arguments)
    _, _, fit = counts_in_a_notebook(counts, 3)
    assert fit.test.elbo == pytest.approx(script.test.elbo, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(optax.adam, id="adam", marks=pytest.mark.slow),
        pytest.param(lambda rate: optax.adamw(rate, weight_decay=0.5), id="adamw"),
    ],
)
def test_numbers_in_the_thousands_train_in_a_notebook(optimizer):
    """The scale of the data is part of the parameters, and no optimizer changes it."""
    x = (5000 + 300 * np.random.default_rng(0).normal(size=(200, 2, 2, 1))).astype(np.float32)
    prepared = data.prepare(data.Dataset("mine", x[:160], None, x[160:], None, None, "by hand"))
    vae = model.mlp_vae((2, 2, 1), likelihoods.laplace("shared", initial_scale=300.0), latent_dim=1, hidden=(8,))
    fit = training.fit(vae, prepared, epochs=2, batch_size=16, seed=0, optimizer=optimizer)
    assert fit.test.elbo > -32  # 4 (log 2 + log 300 + 1 at most)
    np.testing.assert_allclose(fit.params[SCALING]["mean"], x[:160].mean(), rtol=1e-6)
    np.testing.assert_allclose(fit.params[SCALING]["std"], x[:160].std(axis=0).mean(), rtol=1e-2)
    assert 4000 < float(jnp.mean(vae.likelihood.mean(vae.decode(fit.params, jnp.zeros(1))))) < 6000


def test_a_model_without_data_has_no_scale():
    vae = model.mlp_vae((2, 2, 1), likelihoods.gaussian(), latent_dim=1, hidden=())
    assert SCALING not in vae.init(jax.random.key(0))
    prepared = data.prepare(data.load("digits"))
    vae = model.mlp_vae((8, 8, 1), likelihoods.gaussian(), latent_dim=1, hidden=())
    assert SCALING not in training.fit(vae, prepared, epochs=1, batch_size=512, seed=0).params


def test_a_mean_is_scaled_exactly():
    """Softplus of the scaled number is the factor times softplus, from very small means to large ones, with a gradient."""
    raw, factor = jnp.linspace(-30.0, 30.0, 61), 250.0
    scaled = likelihoods.poisson().scale_mean(raw, jnp.asarray(factor))
    exact = factor * np.logaddexp(0, np.linspace(-30.0, 30.0, 61))
    np.testing.assert_allclose(jax.nn.softplus(scaled), exact, rtol=1e-5)
    extreme = jax.vmap(jax.grad(lambda raw: likelihoods.poisson().scale_mean(raw, jnp.asarray(factor))))
    assert np.all(np.isfinite(extreme(jnp.array([-1e4, -200.0, 0.0, 1e4]))))


@pytest.mark.slow
def test_a_run_of_a_version_that_pooled_the_columns_is_refused(table, tmp_path):
    """Its parameters fit, and would have been given data on another scale."""
    built = build(settings(table, epochs=1, hidden=(4,)))
    runs.train(built, tmp_path / "run")
    runs.load_run(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    assert content["data"].pop("moments") == "per entry"
    path.write_text(json.dumps(content))
    for attempt in (lambda: runs.load_run(tmp_path / "run"), lambda: runs.train(built, tmp_path / "run", resume=True)):
        with pytest.raises(UserError, match=r"standardizes each entry separately\. Train the model again"):
            attempt()
