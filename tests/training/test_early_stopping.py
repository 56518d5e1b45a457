"""Patience and the best epoch begin when every schedule has ended; what diverges warns and has a result to print."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_training import fit, small_data, small_vae

from vae_jax import evaluation, runs, training
from vae_jax.build import build
from vae_jax.config import Config, Hyperparams
from vae_jax.errors import DivergenceWarning, UserError
from vae_jax.report.run.content import quantities
from vae_jax.runs import summary_file as summary
from vae_jax.training import program
from vae_jax.training.placement import place
from vae_jax.training.schedules import (
    constant,
    first_epoch_at_full_values,
    first_step_at_full_values,
    learning_rate_schedule,
    rise,
    warm_up,
)

STEPS = 5  # 80 training examples in batches of 16
WARM_UP, FIRST = 37, 8  # it ends in the eighth epoch
PATIENCE = 3
SEED = 3  # of a run whose validation ELBO peaks inside the warm-up, and again after it


@pytest.mark.parametrize(
    ("name", "schedule", "expected"),
    [
        ("beta", constant, 0),
        ("beta", lambda step: 1.0, 0),
        ("beta", warm_up(40), 40),
        ("beta", rise("cosine", 33, 100, 4), 33),
        ("beta", rise("cyclical", 0, 100, 4), 88),  # the ramp of the last cycle, from 75 on, ends at 87.5
        ("capacity", warm_up(99), 99),
        ("gamma", optax.piecewise_constant_schedule(1.0, {10: 2.0, 60: 0.5}), 60),
        ("free_bits", optax.linear_schedule(1.0, 0.1, 50), 50),  # a weight that falls
        ("beta", lambda step: jax.nn.sigmoid(step - 40.0), 54),  # within 1e-6 of 1, the rounding of float32
        ("beta", lambda step: step / 100, 99),  # to the end of the run
        ("learning_rate", learning_rate_schedule("constant", 20, 100), 20),
        ("learning_rate", learning_rate_schedule("cosine", 20, 100), 20),  # its decay is not waited for
        ("learning_rate", learning_rate_schedule("linear", 0, 100), 0),
        ("learning_rate", learning_rate_schedule("burda", 7, 4000), 7),
        ("learning_rate", optax.cosine_onecycle_schedule(100, 1.0), 30),
    ],
)
def test_a_schedule_ends_where_it_should(name, schedule, expected):
    assert first_step_at_full_values({name: schedule}, 100) == expected


def test_the_last_schedule_to_end_counts():
    schedules = {"beta": warm_up(12), "capacity": warm_up(31), "learning_rate": learning_rate_schedule("cosine", 50, 100)}
    assert first_step_at_full_values(schedules, 100) == 50
    assert first_step_at_full_values(None, 100) == first_step_at_full_values({}, 100) == 0
    assert first_step_at_full_values({"beta": warm_up(2**21)}, 2**23) == pytest.approx(2**21, abs=16)  # not every step is seen
    first_epoch = first_epoch_at_full_values
    assert [first_epoch({"beta": warm_up(steps)}, 10, 5) for steps in (0, 1, 5, 6, 49)] == [1, 1, 1, 2, 10]


def overfitting():
    """Images of noise: the validation ELBO falls soon and for good, inside the warm-up and after it."""
    rng = np.random.default_rng(0)
    noise = jnp.asarray(rng.integers(0, 2, (80, 4, 4, 1), dtype=np.uint8) * 255)
    return small_data(100, validation=True)._replace(train=noise)


OPTIONS = dict(epochs=25, hyperparams=Hyperparams(1.0, 1e-2), schedules={"beta": warm_up(WARM_UP)})


@pytest.fixture(scope="module")
def whole():
    """(a run without early stopping, where it was after two epochs)"""
    kept = []

    def keep(progress):
        if len(progress.history) == 2:
            kept.append((*jax.tree.map(np.array, progress[:2]), progress.history))

    return fit(small_vae(), overfitting(), **OPTIONS, seed=SEED, on_progress=keep), training.Progress(*kept[0])


def by_hand(elbos, first, patience):
    """(epochs made, best epoch) of early stopping that looks at epochs from `first` on."""
    best = 0
    for epoch, elbo in enumerate(elbos, start=1):
        if epoch >= first and (not best or elbo > elbos[best - 1]):
            best = epoch
        if epoch - max(best, first - 1) >= patience:
            return epoch, best
    return len(elbos), best


def test_early_stopping_waits_for_the_warm_up(whole):
    """Two members: one trains and one stands still. All epochs of that one are equal, so its best is the first that counts."""
    elbos = [epoch.validation.elbo for epoch in whole[0].progress.history]
    assert by_hand(elbos, 1, PATIENCE)[0] < FIRST  # what used to happen: an end inside the warm-up
    epochs, best = by_hand(elbos, FIRST, PATIENCE)
    assert FIRST <= best < epochs < 25
    options = training.FitOptions.from_keywords(OPTIONS | {"batch_size": 16, "early_stopping": PATIENCE})
    result = training.fit_members(
        small_vae(),
        overfitting(),
        options,
        seeds=[SEED, SEED],
        hyperparams=Hyperparams(1.0, np.array([1e-2, 0.0])),
        placement=place(2, "map", devices=jax.local_devices()[:1]),
    )
    first, still = result.progress.histories
    assert result.status == ("stopped early", "stopped early")
    assert (result.epochs, result.first_epoch) == ((best, FIRST), FIRST)
    assert (len(first), len(still)) == (epochs, FIRST + PATIENCE)
    assert len({epoch.validation.elbo for epoch in still}) == 1
    assert result.tests == (first[best - 1].test, still[FIRST - 1].test)
    assert [epoch.validation.elbo for epoch in first] == elbos[:epochs]
    # The best is chosen in the same way where nothing stops early.
    assert int(whole[0].progress.best.epoch) == by_hand(elbos, FIRST, 99)[1]


def test_a_run_resumed_in_its_warm_up_forgets_the_best_of_an_older_version(whole):
    result, after_two = whole
    assert int(after_two.best.epoch) == 0
    early = after_two.best._replace(epoch=np.int32(1), elbo=np.float32(0.0))  # better than any that follows
    rest = fit(small_vae(), overfitting(), **OPTIONS, seed=SEED, start=after_two._replace(best=early))
    jax.tree.map(np.testing.assert_array_equal, rest.progress.best, result.progress.best)
    jax.tree.map(np.testing.assert_array_equal, rest.progress.state, result.progress.state)


def test_streamed_runs_wait_too(tmp_path, monkeypatch):
    """Their epochs end in a separate program, which is made with the same first epoch."""

    class Stop(Exception):
        pass

    def make_epoch_end(*arguments):
        raise Stop(arguments[-1])

    data = overfitting()
    np.save(tmp_path / "noise.npy", np.concatenate([data.train, data.test]))
    config = Config(dataset=str(tmp_path / "noise.npy"), split="last", test_fraction=0.2, batch_size=16, stream=True)
    monkeypatch.setattr(program, "make_epoch_end", make_epoch_end)
    with pytest.raises(Stop, match=f"^{FIRST}$"):
        fit(small_vae(), data._replace(train=build(config).data.train), **OPTIONS)


def test_summary_and_report_say_from_when_on_epochs_counted(tmp_path, monkeypatch):
    np.save(tmp_path / "noise.npy", overfitting().train)
    settings = {"batch_size": 10, "validation_fraction": 0.2, "early_stopping": 2, "beta_warmup_steps": 12}
    built = build(Config(dataset=str(tmp_path / "noise.npy"), hidden=(8,), latent_dim=2, **settings))
    means = evaluation.Means(-11.0, -10.0, 1.0, 0.1, 20)
    epochs = tuple(training.Epoch(i, 5 * i, training.TrainMeans(11.0, -10.0, 1.0, {}), means, means, 1.0) for i in (1, 2, 3))
    progress = training.initial_progress(built.vae, built.optimizer, 0)
    progress = progress._replace(history=epochs, best=progress.best._replace(epoch=np.int32(3), elbo=np.float32(-11)))
    monkeypatch.setattr(summary, "_code_usage", lambda built, params: {})
    content = summary.summarize(built, training.Fit(progress, "stopped early", progress.state.params, 3, means, 3), 50, 1.0)
    assert (content["best_epoch"], content["validation_counted_from_epoch"]) == (3, 3)
    run = runs.Run(tmp_path, built, 3, progress.state.params, content, [], [])
    rows = {row.name: row.remark for row in quantities(run)}
    assert "The best epoch and early stopping count from epoch 3, when every warm-up had ended." in rows["best epoch"]
    always = {**content, "validation_counted_from_epoch": 1}
    rows = {row.name: row.remark for row in quantities(run._replace(summary=always))}
    assert rows["best epoch"] == "The validation ELBO after the best epoch is -11.000 nats."


def test_cycles_too_short_to_rise_are_refused():
    """Four cycles of one step each: beta was 0 at every step of the run, in silence."""
    short = Config(epochs=2, batch_size=512, hidden=(8,), beta_schedule="cyclical")
    with pytest.raises(UserError, match=r"beta_cycles: expected at most 2 in a run of 4 steps"):
        build(short)
    build(dataclasses.replace(short, beta_cycles=2))


def test_a_run_that_diverges_warns_and_has_a_result_to_print():
    """In its second epoch, where a schedule becomes infinite, its test result is that of the first."""
    options = {"schedules": {"beta": lambda step: jnp.where(step < STEPS + 2, 1.0, jnp.inf)}}
    with pytest.warns(
        DivergenceWarning, match=r"at step 7 \(epoch 2\).* that of epoch 1\. Try a learning rate below 0\.003.* clip"
    ):
        result = fit(small_vae(), small_data(), **options)
    assert (result.status, result.epoch, int(result.progress.state.step)) == ("diverged", 1, 7)
    assert result.test == result.progress.history[0].test
    with pytest.warns(DivergenceWarning, match=r"at step 0 \(epoch 1\).*result is NaN because no epoch was completed"):
        result = fit(small_vae(), small_data(), **options, hyperparams=Hyperparams(math.inf, 3e-3))
    assert f"{result.test.elbo:.2f} {result.test.elbo_standard_error:.2f}" == "nan nan"
    assert f"{result.test.log_likelihood:.2f} {result.test.kl:.2f} {result.test.num_examples}" == "nan nan 0"
