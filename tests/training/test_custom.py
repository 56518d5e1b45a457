"""A user's own likelihood and objective, functions in a fresh Python session, through the machinery of train.py."""

import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

from vae_jax import likelihoods, model, runs, training
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.data import load, prepare
from vae_jax.errors import UserError
from vae_jax.objectives import Terms, elbo

SESSION = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from jax.scipy.stats import t
from vae_jax import runs
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.objectives import Terms, elbo
from vae_jax.report import write_report

def student(loc, x):
    return jnp.sum(t.logpdf(x, 3.0, loc, 0.2))

def edges(image):
    return jnp.diff(image, axis=0)[:, :-1] + jnp.diff(image, axis=1)[:-1]

def sharp(key, encode, decode, log_prob, x, hyperparams):
    terms = elbo(key, encode, decode, log_prob, x, beta=hyperparams.beta)
    blur = jnp.sum(jnp.square(edges(decode(encode(x)[0])) - edges(x)))
    return terms._replace(loss=terms.loss + 10 * blur, extra={"blur": blur})

out = Path(sys.argv[1])
built = build(Config(epochs=3, hidden=(32,), latent_dim=4, batch_size=64), likelihood=student, objective=sharp)
fit, summary = runs.train(built, out)
run = runs.load_run(out, likelihood=student, objective=sharp)
write_report(run)
print(fit.status, [round(line["train_blur"], 3) for line in run.metrics], round(summary["test_elbo"], 3))
"""


@pytest.mark.slow
def test_own_functions_train_in_a_fresh_session(tmp_path):
    result = subprocess.run([sys.executable, "-c", SESSION, tmp_path / "run"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    status, *blur, test_elbo = result.stdout.replace("[", "").replace("]", "").replace(",", "").split()
    assert status == "finished"
    assert float(blur[0]) > float(blur[1]) > float(blur[2]) > 0  # the own term went down
    assert -200 < float(test_elbo) < 200
    assert (tmp_path / "run" / "report.html").exists()
    with pytest.raises(UserError, match=r"the likelihood .*student and the objective .*sharp, which are not stored here"):
        runs.load_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"the objective .*sharp.* not stored here"):
        runs.load_run(tmp_path / "run", likelihood=lambda loc, x: jnp.sum(loc - x))


def test_functions_are_not_taken_where_the_run_had_none(tmp_path):
    built = build(Config(epochs=1, hidden=(8,), latent_dim=2))
    runs.train(built, tmp_path / "run")
    with pytest.raises(UserError, match=r"trained with the likelihood 'bernoulli'\. Leave `likelihood` out"):
        runs.load_run(tmp_path / "run", likelihood=lambda logits, x: jnp.sum(logits * x))
    with pytest.raises(UserError, match=r"likelihood: the likelihood of this configuration is of your own\. Pass `likelihood`"):
        build(Config(likelihood="custom"))
    with pytest.raises(UserError, match=r"objective: the objective of this configuration is of your own\. Pass `objective`"):
        build(Config(objective="custom"))


def fit_with(objective=None, likelihood=lambda loc, x: -jnp.sum(jnp.square(loc - x))):
    digits = load("digits")
    vae = model.mlp_vae(digits.data_shape, likelihood, latent_dim=2, hidden=(8,))
    return training.fit(vae, prepare(digits), epochs=1, batch_size=128, seed=0, objective=objective)


def _no_key(encode, decode, log_prob, x, hyperparams): ...


def _two_numbers(key, encode, decode, log_prob, x, hyperparams):
    return 1.0, 2.0


def _per_pixel(key, encode, decode, log_prob, x, hyperparams):
    return Terms(jnp.square(x), jnp.zeros(()), jnp.zeros(()))


def _one(output): ...


def _number(key, encode, decode, log_prob, x, hyperparams):
    return jnp.sum(x)


def _good(key, encode, decode, log_prob, x, hyperparams):
    return elbo(key, encode, decode, log_prob, x)


BAD = {
    "signature": (_no_key, r"expected an objective \(key, encode, decode, log_prob, x, hyperparams\) .* got _no_key\(encode"),
    "result": (_two_numbers, r"expected an objective .*; it returned tuple"),
    "a number": (_number, r"expected an objective .*; it returned an array of shape \(\)"),
    "not a scalar": (_per_pixel, r"expected the objective's loss to be a scalar, .* got shape \(8, 8, 1\)"),
}


@pytest.mark.parametrize(("objective", "message"), BAD.values(), ids=BAD)
def test_a_wrong_objective_says_what_is_expected(objective, message):
    with pytest.raises(ValueError, match=message):
        fit_with(objective)


class Mine(NamedTuple):
    """Hyperparameters of the user's own, traced like the package's."""

    learning_rate: float
    weight: float


def test_own_hyperparameters_are_traced_and_scheduled():
    traces = []

    def objective(key, encode, decode, log_prob, x, hyperparams):
        traces.append(1)
        terms = elbo(key, encode, decode, log_prob, x)
        return terms._replace(extra={"weight": hyperparams.weight})

    digits = load("digits")
    vae = model.mlp_vae(digits.data_shape, likelihoods.gaussian(), latent_dim=2, hidden=(8,))
    step = jax.jit(training.make_train_step(vae, objective=objective, schedules={"weight": lambda step: 0.5}))
    state, batch = training.init_state(vae, optax.adam, jax.random.key(0)), jnp.zeros((4, *digits.data_shape))
    for weight in (2.0, 6.0):
        _, metrics = step(state, jax.random.key(1), batch, Mine(1e-3, weight))
        assert float(metrics.extra["weight"]) == weight / 2
    assert len(traces) <= 2  # of one compilation
    assert step._cache_size() == 1


def test_fit_refuses_gray_pixels_for_a_bernoulli():
    digits = load("digits")
    vae = model.mlp_vae(digits.data_shape, likelihoods.bernoulli(), latent_dim=2, hidden=(8,))
    with pytest.raises(UserError, match=r"training data: bernoulli expects binary data, got gray values"):
        training.fit(vae, prepare(digits), epochs=1, batch_size=128, seed=0)


def test_a_wrong_likelihood_says_what_is_expected():
    assert fit_with(_good).status == "finished"
    with pytest.raises(ValueError, match=r"likelihood '<lambda>' to return a scalar .* got \(8, 8, 1\)"):
        fit_with(likelihood=lambda loc, x: -jnp.square(loc - x))
    with pytest.raises(ValueError, match=r"likelihood \(decoder_output, x\) -> scalar nats .* got _one\(output\)"):
        fit_with(likelihood=_one)
    with pytest.raises(ValueError, match=r"return a scalar .* got tuple"):
        fit_with(likelihood=lambda loc, x: (loc, x))
