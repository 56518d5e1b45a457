"""Priors that are fitted to the codes of a trained run: exact gains, the file, and everything that reads it."""

import dataclasses
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from budget import accept_mean

from vae_jax import likelihoods, model, networks, priors, runs
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.evaluation import refitting
from vae_jax.model import make_vae
from vae_jax.runs.evaluate_run import EvaluationOptions, assess
from vae_jax.runs.refit import log_prior_gain
from vae_jax.runs.trained import refitted_file
from vae_jax.sweep.members import check_members

SMALL = Config(epochs=2, hidden=(8,), latent_dim=2, batch_size=64, dataset="digits", refit_kind="mixture", prior="refit")
SMALL = dataclasses.replace(SMALL, prior_components=3)
QUICK = EvaluationOptions(num_samples=50, elbo_samples=20, probe_codes=0)


@pytest.fixture(scope="module")
def refitted(tmp_path_factory):
    """(the directory of a run with `prior="refit"`, its summary, its fit)."""
    out = tmp_path_factory.mktemp("refit") / "run"
    fit, summary = runs.train(build(SMALL), out)
    return out, summary, fit


def test_a_mixture_of_scikit_learn_has_the_same_density_as_a_prior():
    from sklearn.mixture import GaussianMixture

    codes = np.random.default_rng(0).normal(size=(500, 3)) @ np.array([[1.0, 0.5, 0], [0, 0.2, 2], [0, 0, 0.7]])
    codes[:200] += 3
    theirs = GaussianMixture(4, random_state=0).fit(codes)
    draws = refitting.AggregateDraws(codes.astype(np.float32), codes[:50].astype(np.float32), 1)
    fitted = refitting.fit_mixture(draws, 4)
    prior = priors.full_mixture(3, 4)
    arrays = np.log(theirs.weights_), theirs.means_, theirs.precisions_cholesky_
    params = dict(zip(("logits", "means", "precisions_cholesky"), (jnp.asarray(a, jnp.float32) for a in arrays), strict=True))
    log_prob = jax.jit(jax.vmap(lambda z: prior.log_prob(params, None, z)))
    np.testing.assert_allclose(log_prob(jnp.asarray(codes, jnp.float32)), theirs.score_samples(codes), rtol=2e-5, atol=2e-5)
    assert fitted.held_out[fitted.size] == max(fitted.held_out.values())
    assert fitted.size > 1  # two clusters
    z = np.asarray(jax.jit(jax.vmap(lambda key: prior.sample(params, None, key)))(jax.random.split(jax.random.key(0), 20_000)))
    covariance = np.einsum("k,kij->ij", theirs.weights_, theirs.covariances_)
    mean = theirs.weights_ @ theirs.means_
    covariance += np.einsum("k,ki,kj->ij", theirs.weights_, theirs.means_ - mean, theirs.means_ - mean)
    for i in range(3):
        accept_mean(z[:, i], mean[i])
        for j in range(i + 1):
            accept_mean((z[:, i] - mean[i]) * (z[:, j] - mean[j]), covariance[i, j])


@pytest.mark.parametrize("kind", ["mixture", pytest.param("realnvp", marks=pytest.mark.slow)])
def test_the_gain_is_the_kl_of_two_gaussians_where_codes_are_gaussian(kind):
    """Q(z|x) = N(A x, S), x ~ N(0, I): q(z) = N(0, A A' + S), so the best prior gains KL(q(z) || N(0, I))."""
    rng, a, scale = np.random.default_rng(0), np.array([[1.5, 0.3], [-0.4, 0.6]]), np.array([0.3, 0.5])
    covariance = a @ a.T + np.diag(scale**2)
    exact = 0.5 * (np.trace(covariance) - 2 - np.linalg.slogdet(covariance)[1])
    sample = lambda count: (rng.normal(size=(count, 2)) @ a.T + scale * rng.normal(size=(count, 2))).astype(np.float32)  # noqa: E731
    draws = refitting.split_draws(sample(20_000)[:, None])
    fitted = refitting.fit_mixture(draws, 1) if kind == "mixture" else refitting.fit_realnvp(draws, 2, (8,), max_epochs=40)
    network = networks.Network(lambda key: {}, lambda params, x: (jnp.zeros(2), jnp.zeros(2)))
    decoder = networks.Network(lambda key: {}, lambda params, z: z)
    vae = make_vae(network, decoder, likelihoods.gaussian(1.0), (2,))
    new, params = refitted_file.with_prior(vae, vae.init(jax.random.key(0)), fitted.prior, fitted.params)
    gains = jax.jit(jax.vmap(log_prior_gain(vae, new, params)))(sample(20_000))
    # Fitted to finite draws, a Gaussian of 5 parameters loses 5 / (2 N) nats, and a RealNVP somewhat more.
    accept_mean(gains, exact, slack=0.001 if kind == "mixture" else 0.02)
    assert exact > 0.3


def test_training_is_that_with_the_normal_prior(refitted):
    out, summary, fit = refitted
    normal, _ = runs.train(build(dataclasses.replace(SMALL, **_NORMAL)), out.parent / "normal")
    jax.tree.map(np.testing.assert_array_equal, normal.params, fit.params)
    assert normal.test == fit.test
    assert summary["test_elbo"] == fit.test.elbo
    assert summary["refit"]["num_components"] <= 3
    # Refitting the other run gives the same file.
    record = runs.refit_prior(out.parent / "normal", runs.RefitOptions("mixture", 3))
    assert record["marginal_kl_gain"] == summary["refit"]["marginal_kl_gain"]
    assert (out / "prior.safetensors").read_bytes() == (out.parent / "normal" / "prior.safetensors").read_bytes()


_NORMAL = {"prior": "normal", "refit_kind": Config().refit_kind, "prior_components": Config().prior_components}


def test_the_elbo_gains_what_the_marginal_kl_loses(refitted):
    out, _, _ = refitted
    run = runs.load_run(out)
    assert run.built.vae.prior.name == "full_mixture"
    assert run.notes == []
    numbers = assess(run, QUICK).numbers
    before = assess(run.as_trained(), QUICK).numbers
    refit = numbers["refit"]
    assert "refit" not in before
    assert refit["log_px_mean_before"] == before["log_px_mean"]
    assert refit["log_px_gain"] == pytest.approx(numbers["log_px_mean"] - before["log_px_mean"], abs=1e-5)
    marginal = before["total_correlation"] + before["dimension_wise_kl"]
    assert refit["marginal_kl_before"] == pytest.approx(marginal, abs=1e-5)
    spread = np.hypot(refit["elbo_gain_standard_error"], refit["marginal_kl_gain_standard_error"])
    assert abs(refit["elbo_gain"] - refit["marginal_kl_gain"]) < 6.1 * spread
    assert numbers["test_elbo"] - before["test_elbo"] == pytest.approx(refit["elbo_gain"], abs=0.2)
    assert refit["elbo_gain"] > 0


def test_models_are_read_with_the_prior(refitted, tmp_path):
    out, _, _ = refitted
    trained = runs.load_model(out)
    record, params = refitted_file.read_refitted(out)
    assert trained.vae.prior.name == "full_mixture"
    jax.tree.map(np.testing.assert_array_equal, trained.params["refitted_prior"], params)
    assert trained.scores == record["scores"] != {}
    z = jax.jit(jax.vmap(lambda key: model.sample_prior(trained.vae, trained.params, key)))(
        jax.random.split(jax.random.key(0), 20_000)
    )
    weights = np.asarray(jax.nn.softmax(params["logits"]), np.float64)
    accept_mean(z[:, 0], weights @ np.asarray(params["means"], np.float64)[:, 0])
    assert runs.sample(trained, 2).shape == (2, 8, 8, 1)
    # Without the file it is the prior of the training, and a file of other parameters is not used.
    shutil.copytree(out, tmp_path / "run")
    damaged = dict(record, parameters_sha256="0" * 64)
    refitted_file.write_refitted(tmp_path / "run", damaged, params)
    other = runs.load_model(tmp_path / "run")
    assert other.vae.prior is None
    assert "was fitted to other parameters than those of epoch 2" in other.notes[0]
    (tmp_path / "run" / "prior.safetensors").unlink()
    assert runs.load_run(tmp_path / "run").built.vae.prior is None


def test_damaged_files_are_one_error(refitted, tmp_path):
    out, _, _ = refitted
    record, params = refitted_file.read_refitted(out)
    file, good = tmp_path / "prior.safetensors", (out / "prior.safetensors").read_bytes()
    broken = [good[:-1], good[: len(good) // 2], b"", b"\xff" * 100, good.replace(b'\\"mixture', b'\\"nothing')]
    for change in (
        {"num_components": 10**12},
        {"num_components": 2.0},
        {"latent_dim": -1},
        {"kind": "realnvp", "num_layers": 10**9, "hidden": [3]},
        {"kind": "realnvp", "num_layers": 1, "hidden": "ab"},
        {"marginal_kl_gain": "nan"},
        {"scores": 3},
        {"format": 2},
    ):
        metadata = {"vae_jax": json.dumps({"format": 1, **record, **change})}
        broken.append(safetensors.numpy.save({k: np.asarray(v) for k, v in params.items()}, metadata))
    broken.append(safetensors.numpy.save({"a": np.zeros(3)}))
    for content in broken:
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"cannot be read.*It is damaged"):
            refitted_file.read_refitted(tmp_path)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match="not a regular file"):
        refitted_file.read_refitted(tmp_path)


@pytest.mark.slow
def test_interrupted_and_longer_runs(refitted, tmp_path):
    _, summary, _ = refitted
    runs.train(build(SMALL), tmp_path / "run", on_epoch=lambda line: line["epoch"] == 1)
    assert not (tmp_path / "run" / "prior.safetensors").exists()
    assert runs.load_model(tmp_path / "run").vae.prior is None
    _, resumed = runs.train(build(SMALL), tmp_path / "run", resume=True)
    assert resumed["refit"] == summary["refit"]
    _, longer = runs.train(build(dataclasses.replace(SMALL, epochs=3)), tmp_path / "run", resume=True)
    assert longer["refit"]["epoch"] == 3
    assert runs.load_run(tmp_path / "run").refitted.record["epoch"] == 3


def test_refusals(refitted, tmp_path):
    out, _, _ = refitted
    with pytest.raises(UserError, match="members of a sweep keep theirs"):
        check_members([SMALL])
    with pytest.raises(UserError, match="unknown kind"):
        runs.refit_prior(out, runs.RefitOptions("vamp"))
    with pytest.raises(UserError, match="latent_dim` is 1"):
        build(Config(prior="refit", refit_kind="realnvp", latent_dim=1))
    with pytest.raises(UserError, match="codes of 19 training examples"):
        refitting.split_draws(np.zeros((19, 2, 2), np.float32))
    with pytest.raises(UserError, match="not finite"):
        refitting.split_draws(np.full((30, 1, 2), np.nan, np.float32))
