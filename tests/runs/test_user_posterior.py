"""A posterior of the user, from `--posterior FILE.py:NAME` to evaluation and codes, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import posteriors, runs
from vae_jax.build import build
from vae_jax.cli.main import run_command
from vae_jax.config import Config
from vae_jax.errors import UserError

# A Gaussian with one scale for all inputs and correlations from the encoder, and a posterior without a density.
MODULE = """
import jax, jax.numpy as jnp
from vae_jax import posteriors

def make(config, data):
    inner = posteriors.full(config.latent_dim)
    def merged(q):
        mean, log_scale, extra, weights = q
        return mean, 0.1 * log_scale + weights, extra
    return inner._replace(
        name="shared_scale",
        sample=lambda key, q: inner.sample(key, merged(q)),
        sample_and_log_prob=lambda key, q: inner.sample_and_log_prob(key, merged(q)),
        log_prob=lambda q, z: inner.log_prob(merged(q), z),
        kl_to_standard_normal=lambda q: inner.kl_to_standard_normal(merged(q)),
        moments=lambda key, q: inner.moments(key, merged(q)),
        init=lambda key: jnp.zeros(config.latent_dim),
        factor=lambda q: inner.factor(merged(q)),
    )

def make_without_density(config, data):
    return make(config, data)._replace(log_prob=None, kl_to_standard_normal=None, factor=None)
"""
SMALL = ("--hidden", 8, "--latent-dim", 2, "--batch-size", 128, "--no-report")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user_posterior")
    (folder / "mine.py").write_text(MODULE)
    return folder


def command(*arguments):
    return run_command([str(argument) for argument in arguments])


@pytest.mark.slow
def test_a_posterior_of_a_file_is_trained_evaluated_and_encodes(folder):
    posterior, run = ("--posterior", f"{folder / 'mine.py'}:make"), folder / "run"
    assert command("train", "--dataset", "digits", "--epochs", 2, *SMALL, *posterior, "--out", run) == 0
    trained = runs.load_run(run, posterior=load(folder).make)
    scale = trained.params["posterior"]
    assert scale.shape == (2,)
    assert np.all(scale != 0)
    assert command("evaluate", run, *posterior, "--num-samples", 20) == 0
    numbers = json.loads((run / "evaluation.json").read_text())
    assert numbers["log_px_mean"] > numbers["test_elbo"]
    np.save(folder / "new.npy", np.random.default_rng(0).integers(0, 17, (5, 8, 8, 1), np.uint8))
    assert command("encode", run, *posterior, "--data", folder / "new.npy", "--out", folder / "codes.npz") == 0
    with np.load(folder / "codes.npz") as codes:
        means, scales = (codes[name] for name in ("means", "log_scales"))
    assert means.shape == (5, 2)
    assert np.isfinite(means).all()
    assert scales.std(axis=0).max() < 1  # the encoder's part has the factor 0.1
    with pytest.raises(UserError, match=r"Add --posterior .*mine\.py:make"):
        command("evaluate", run, "--num-samples", 20)


def load(folder):
    namespace = {}
    exec(compile((folder / "mine.py").read_text(), "mine.py", "exec"), namespace)
    return type("Module", (), namespace)


def test_build_takes_a_posterior_and_refuses_what_is_none(folder):
    config = Config(latent_dim=2, hidden=(8,))
    made = build(config, posterior=posteriors.full(2))
    assert made.vae.posterior.name == "full"
    assert len(jax.eval_shape(made.vae.encode, jax.eval_shape(made.vae.init, jax.random.key(0)), jnp.zeros((8, 8, 1)))) == 3
    for wrong in (lambda config, data: 3, 3, lambda config: posteriors.full(2)):
        with pytest.raises(UserError, match="posterior"):
            build(config, posterior=wrong)
    with pytest.raises((UserError, ValueError), match="full"):
        build(config, posterior=posteriors.full(3))


@pytest.mark.parametrize("estimator", ["stl", "dreg"])
def test_estimators_that_need_the_density_of_a_code_are_refused_without_one(folder, estimator):
    with pytest.raises(UserError, match="density of a given code"):
        Config(posterior="planar", estimator=estimator).validate()
    with pytest.raises(UserError, match="density of a given code"):
        build(Config(latent_dim=2, estimator=estimator), posterior=load(folder).make_without_density)
    assert build(Config(latent_dim=2), posterior=load(folder).make_without_density).vae.posterior.log_prob is None


@pytest.mark.parametrize("name", ["full", "householder", "planar", "iaf"])
def test_named_posteriors_take_their_settings_and_refuse_others(name):
    sizes = {"num_flows": 3} if name != "full" else {}
    networks = {"posterior_hidden": (5,), "posterior_context_dim": 7} if name == "iaf" else {}
    vae = build(Config(posterior=name, latent_dim=2, hidden=(8,), **sizes, **networks)).vae
    assert vae.posterior.num_extra == {"full": 1, "householder": 6, "planar": 15, "iaf": 7}[name]
    weights = jax.eval_shape(vae.init, jax.random.key(0)).get("posterior")
    assert (weights is not None) == (name == "iaf")
    if name == "iaf":
        assert len(weights) == 3
        assert weights["flow_0"]["kernel_0"].shape == (2, 5)
    with pytest.raises(UserError, match="iaf"):
        Config(posterior="full", posterior_hidden=(5,)).validate()
