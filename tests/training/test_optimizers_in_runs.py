"""Named optimizers in runs and sweeps: one compilation, skipped steps, and what is reported, kept and loaded."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_training import small_data, small_vae

from vae_jax import evaluation, runs, training
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.likelihoods import bernoulli_log_prob
from vae_jax.objectives import elbo
from vae_jax.sweep import grid, sweep
from vae_jax.sweep.members import groups
from vae_jax.training import FitOptions, optimizers
from vae_jax.training.placement import place

SMALL = Config(dataset="digits", hidden=(4,), latent_dim=2, epochs=1, batch_size=256, optimizer="adamw")
GIVEN = dataclasses.replace(SMALL, b1=0.8, b2=0.99, eps=1e-6, weight_decay=0.1, clip_norm=0.5)


@pytest.mark.slow
def test_a_sweep_over_the_numbers_of_an_optimizer_is_one_program():
    changes = ({}, {"b1": 0.5}, {"b2": 0.9}, {"eps": 1e-2}, {"weight_decay": 10.0}, {"clip_norm": 1e-3})
    members = [dataclasses.replace(GIVEN, **change) for change in changes]
    (group,) = groups(members)
    built, traces = build(members[0]), []

    def counted(key, encode, decode, log_prob, x, hyperparams):
        traces.append(1)
        return elbo(key, encode, decode, log_prob, x)

    options = FitOptions(1, 256, built.optimizer, counted)
    numbers = jax.tree.map(lambda *values: np.array(values, np.float32), *(m.hyperparams for m in group.configs))
    together = training.fit_members(
        built.vae, built.data, options, seeds=[0] * 6, hyperparams=numbers, placement=place(6, "map")
    )
    assert len(traces) <= 2  # of one compilation
    alone = training.fit(
        built.vae, built.data, epochs=1, batch_size=256, seed=0, optimizer=built.optimizer, objective=counted,
        hyperparams=members[4].hyperparams,
    )  # fmt: skip
    params = [jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), together.params) for i in range(6)]
    chex.assert_trees_all_equal(params[4], jax.tree.map(np.asarray, alone.params))
    for other in params[1:]:
        assert not np.array_equal(other["encoder"]["Dense_0"]["kernel"], params[0]["encoder"]["Dense_0"]["kernel"])


def test_a_number_and_the_default_are_different_programs():
    members = grid(SMALL, b1=[None, 0.5, 0.8], weight_decay=[0.0, 0.1])
    assert [(group.label, group.members) for group in groups(members)] == [
        ("b1 not given", (0, 1)),
        ("b1 given", (2, 3, 4, 5)),
    ]
    assert groups(grid(SMALL, weight_decay=[0.0, 0.1]))[0].label == ""
    with pytest.raises(UserError, match="are the same run"):
        sweep(grid(SMALL, b1=[None, 0.9]))


def flagged():
    """Squares of which one training example alone has a bright corner, where log-likelihood and gradient are NaN."""
    prepared = small_data()
    train = np.array(prepared.train)
    train[:, 0, 0] = 0
    train[7, 0, 0] = 255
    log_prob = lambda logits, x: jnp.where(x[0, 0, 0] > 0.5, jnp.nan, 1.0) * bernoulli_log_prob(logits, x)  # noqa: E731
    test = np.array(prepared.test)
    test[:, 0, 0] = 0
    return small_vae(log_prob), prepared._replace(train=jnp.asarray(train), test=jnp.asarray(test))


def test_a_skipped_step_does_not_end_a_run_and_is_not_in_the_means():
    vae, prepared = flagged()
    options = {"epochs": 2, "batch_size": 16, "seed": 0}
    result = training.fit(vae, prepared, **options, optimizer=optimizers.with_skipping(optax.adam, 1))
    assert result.status == "finished"
    history = result.progress.history
    assert [epoch.train.extra["skipped_steps"] for epoch in history] == [1.0, 1.0]
    assert np.isfinite([epoch.train.loss for epoch in history]).all()
    # By hand: the step of the flagged example leaves everything as it was, and the means are over the four others.
    step = jax.jit(training.make_train_step(vae, train_input=prepared.train_input))
    keys, losses = training.run_keys(0), []
    state = training.init_state(vae, optax.adam, keys.init)
    hyperparams = jax.tree.map(jnp.float32, Config().hyperparams)
    for i, rows in enumerate(training.epoch_order(keys, 0, 80, 16)):
        new, metrics = step(state, jax.random.fold_in(keys.step, i), prepared.train[rows], hyperparams)
        if 7 in rows:
            new = state._replace(step=state.step + 1)
        else:
            losses.append(float(metrics.loss))
        state = new
    assert history[0].train.loss == pytest.approx(np.mean(losses), rel=1e-5)
    with pytest.warns(UserWarning, match="training diverged"):
        assert training.fit(vae, prepared, **options).status == "diverged"


def test_too_many_skipped_steps_in_a_row_end_the_run_where_they_do():
    vae, prepared = small_vae(lambda logits, x: jnp.nan * jnp.sum(logits)), small_data()
    options = {"epochs": 1, "batch_size": 16, "seed": 0, "optimizer": optimizers.with_skipping(optax.adam, 2)}
    with pytest.warns(UserWarning, match="training diverged: .* at step 2"):
        result = training.fit(vae, prepared, **options)
    assert int(result.progress.state.step) == 2


@pytest.mark.slow
def test_schedule_free_on_digits_reports_the_average(tmp_path):
    """About half a nat from the iterate at which gradients are taken, wherever the parameters of a run are read."""
    config = Config(
        dataset="digits", optimizer="schedule_free_adamw", learning_rate=0.001, learning_rate_warmup_steps=20, epochs=10,
        validation_fraction=0.1, hidden=(64,), batch_size=64,
    )  # fmt: skip
    built = build(config)
    fit, summary = runs.train(built, tmp_path / "run")
    state = fit.progress.state
    average = optax.contrib.schedule_free_eval_params(state.opt_state, state.params)

    def elbo_at(params, part=built.data.test):
        key = training.evaluation_key(config.test_seed)
        return evaluation.means(evaluation.evaluate(key, built.vae, params, part, to_input=built.data.eval_input)).elbo

    assert summary["test_elbo"] == pytest.approx(elbo_at(average), abs=1e-3)
    difference = summary["test_elbo"] - elbo_at(state.params)  # the average lags behind so early in a run
    assert 0.3 < abs(difference) < 1.0, difference
    for params in (fit.params, runs.load_run(tmp_path / "run").params, runs.load_model(tmp_path / "run").params):
        chex.assert_trees_all_close(params, average, rtol=1e-6, atol=1e-7)
    last = fit.progress.history[-1]
    assert int(fit.progress.best.epoch) == max(fit.progress.history, key=lambda epoch: epoch.validation.elbo).epoch
    if int(fit.progress.best.epoch) == last.epoch:
        chex.assert_trees_all_close(fit.progress.best.params, average, rtol=1e-6, atol=1e-7)
