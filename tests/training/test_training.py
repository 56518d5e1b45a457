"""The train step, scanned epochs and `fit`: determinism, no second compile, members that stop, schedules, averages."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax import data, likelihoods, model, objectives, training
from vae_jax.config import Hyperparams
from vae_jax.data import Prepared
from vae_jax.errors import DivergenceWarning, UserError
from vae_jax.objectives import batch
from vae_jax.training import optimizers, schedules

SHAPE = (4, 4, 1)


def hyperparams(beta=1.0, learning_rate=1e-3):
    return Hyperparams(jnp.float32(beta), jnp.float32(learning_rate))


def small_vae(likelihood=None):
    return model.mlp_vae(SHAPE, likelihood or likelihoods.bernoulli(), latent_dim=2, hidden=(16,))


def small_data(count=100, validation=False, seed=0):
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, 2, (count, 2, 2))
    images = (np.kron(factors, np.ones((2, 2), int))[..., None] * 255).astype(np.uint8)
    held = images[-20:]
    dataset = data.Dataset("squares", images[:-20], held if validation else None, held, None, 255, "by hand")
    return data.prepare(dataset, binarization="dynamic")


def fit(vae, prepared, **options):
    defaults = dict(epochs=4, batch_size=16, seed=0, hyperparams=Hyperparams(1.0, 3e-3))
    return training.fit(vae, prepared, **(defaults | options))


def test_beta_and_learning_rate_do_not_retrace():
    prepared, vae = small_data(), small_vae()
    step = chex.assert_max_traces(training.make_train_step(vae, train_input=prepared.train_input), n=1)
    run_epoch = jax.jit(training.make_epoch(step, 16))
    keys = training.run_keys(0)
    state = training.init_state(vae, optax.adam, keys.init)
    losses = set()
    for epoch, beta, rate in ((0, 1.0, 1e-3), (1, 4.0, 1e-3), (2, 0.0, 1e-2)):
        _, metrics, _ = run_epoch(state, keys, jnp.int32(epoch), prepared.train, hyperparams(beta, rate))
        losses.add(float(metrics.loss))
    assert len(losses) == 3


def test_nothing_compiles_after_the_first_epoch():
    compilations, after_epoch = [], []

    def listen(name, seconds, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            compilations.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        fit(small_vae(), small_data(validation=True), on_progress=lambda _: after_epoch.append(len(compilations)))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert after_epoch[0] > 0
    assert after_epoch == [after_epoch[0]] * 4


def test_the_loss_is_the_weighted_sum_of_the_reported_terms():
    prepared, vae = small_data(), small_vae()
    step = jax.jit(training.make_train_step(vae))
    state = training.init_state(vae, optax.adam, jax.random.key(0))
    x = prepared.eval_input(prepared.test)
    for beta in (0.0, 1.0, 5.0):
        _, metrics = step(state, jax.random.key(1), x, hyperparams(beta))
        np.testing.assert_allclose(metrics.loss, -(metrics.log_likelihood - beta * metrics.kl), rtol=1e-6)


def test_the_step_is_optaxs_own_update():
    """One step by hand: value_and_grad of the mean loss with the step's key, then optax.adam at that rate."""
    vae, key = small_vae(), jax.random.key(5)
    x = (jax.random.uniform(jax.random.key(1), (8, *SHAPE)) < 0.5).astype(jnp.float32)
    state = training.init_state(vae, optax.adam, jax.random.key(0))
    keys, examples = list(jax.random.split(key, 9)[1:]), list(x)  # lists, since a program cannot iterate over keys

    def mean_loss(params):
        total = 0.0
        for key_one, one in zip(keys, examples, strict=True):
            terms = objectives.elbo(
                key_one,
                lambda x: vae.encode(params, x),
                lambda z: vae.decode(params, z),
                likelihoods.bernoulli_log_prob,
                one,
                beta=2.0,
            )
            total = total + terms.loss / 8
        return total

    adam = optax.adam(1e-2)
    updates, _ = adam.update(jax.jit(jax.grad(mean_loss))(state.params), adam.init(state.params), state.params)
    expected = optax.apply_updates(state.params, updates)
    new, _ = jax.jit(training.make_train_step(vae))(state, key, x, hyperparams(2.0, 1e-2))
    chex.assert_trees_all_close(new.params, expected, rtol=1e-3, atol=1e-6)
    assert int(new.step) == 1


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(optax.sgd, id="sgd", marks=pytest.mark.slow),
        pytest.param(optax.adamw, id="adamw", marks=pytest.mark.slow),
        pytest.param(lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)), id="clipped"),
        pytest.param(optax.adam(1e-3), id="finished", marks=pytest.mark.slow),
    ],
)
def test_any_optax_optimiser_trains(optimizer):
    result = fit(small_vae(), small_data(), optimizer=optimizer, epochs=6)
    assert result.test.elbo > result.progress.history[0].test.elbo


@pytest.mark.slow
def test_a_users_own_objective_trains():
    def squared_kl(key, encode, decode, log_prob, x, hyperparams):
        terms = objectives.elbo(key, encode, decode, log_prob, x)
        return terms._replace(loss=-terms.log_likelihood + hyperparams.beta * terms.kl**2)

    result = fit(small_vae(), small_data(), objective=squared_kl, epochs=3)
    assert result.progress.history[-1].train.loss < result.progress.history[0].train.loss


def test_it_learns_and_repeats_bit_for_bit():
    options = dict(epochs=80, hyperparams=Hyperparams(1.0, 1e-2))
    first, second = (fit(small_vae(), small_data(400), **options) for _ in range(2))
    chex.assert_trees_all_equal(first.progress.state, second.progress.state)
    assert first.test == second.test
    # Sixteen equally likely images of 2 x 2 blocks: log p(x) is -log 16 = -2.8 at best, -16 log 2 = -11.1 pixel by pixel.
    # Two latent dimensions cannot hold all sixteen exactly; half-way in between is learning.
    assert -6 < first.test.elbo < -np.log(16)


@pytest.mark.slow
def test_going_on_from_the_middle_is_bit_for_bit():
    whole = fit(small_vae(), small_data(validation=True), epochs=5)
    kept = {}

    def stop_at_two(progress):
        kept["progress"] = jax.tree.map(np.array, progress) if len(progress.history) == 2 else None
        return len(progress.history) == 2

    part = fit(small_vae(), small_data(validation=True), epochs=5, on_progress=stop_at_two)
    assert part.status == "interrupted"
    start = training.Progress(*jax.tree.map(jnp.asarray, kept["progress"][:2]), part.progress.history)
    rest = fit(small_vae(), small_data(validation=True), epochs=5, start=start)
    chex.assert_trees_all_equal(whole.progress.state, rest.progress.state)
    chex.assert_trees_all_equal(whole.progress.best, rest.progress.best)
    assert [e.test for e in whole.progress.history] == [e.test for e in rest.progress.history]


def test_an_epoch_sees_every_example_once_in_an_order_of_its_own():
    images = np.arange(64, dtype=np.uint8).reshape(64, 1)
    keys, orders = training.run_keys(0), []

    def train_step(state, key, batch, hyperparams):
        zero = jnp.float32(0)
        seen = state.params.at[state.step].set(batch[:, 0].astype(jnp.int32))
        return state._replace(step=state.step + 1, params=seen), training.StepMetrics(zero, zero, zero)

    run_epoch = jax.jit(training.make_epoch(train_step, 10))
    for epoch in range(2):
        start = training.TrainState(jnp.int32(0), jnp.zeros((6, 10), jnp.int32), ())
        start = start._replace(step=jnp.int32(epoch * 6), params=jnp.zeros((12, 10), jnp.int32))
        state, _, good_steps = run_epoch(start, keys, jnp.int32(epoch), jnp.asarray(images), hyperparams())
        assert good_steps == 6
        orders.append(np.asarray(state.params)[epoch * 6 : epoch * 6 + 6].ravel())
    for order in orders:
        assert len(set(order.tolist())) == 60  # six full batches of ten, no example twice
    assert orders[0].tolist() != orders[1].tolist()


def test_a_diverging_run_keeps_its_last_good_state():
    def poisoned(key, encode, decode, log_prob, x, hyperparams):
        terms = objectives.elbo(key, encode, decode, log_prob, x)
        # not finite for an image that is all ones, which one training image is
        return terms._replace(loss=jnp.where(jnp.min(x) > 0.5, jnp.nan, terms.loss))

    clean = small_data()
    images = (np.asarray(clean.train) > 127).astype(np.float32)
    images[7] = 1
    bad = clean._replace(train=jnp.asarray(images), train_input=lambda key, batch: batch)
    progress = []
    with pytest.warns(DivergenceWarning, match="diverged"):
        result = fit(small_vae(), bad, objective=poisoned, on_progress=progress.append)
    stopped = int(result.progress.state.step)
    assert result.status == "diverged"
    assert progress == []  # no epoch ended
    assert 0 <= stopped < 5  # the first epoch has five steps
    chex.assert_tree_all_finite(result.progress.state.params)
    # the state is what a healthy run has after as many steps
    step = jax.jit(training.make_train_step(small_vae(), train_input=bad.train_input))
    keys = training.run_keys(0)
    order = jnp.argsort(jax.random.bits(jax.random.fold_in(keys.data, 0), (80,)))
    state = training.init_state(small_vae(), optax.adam, keys.init)
    for n in range(stopped):
        batch = bad.train[order[16 * n : 16 * n + 16]]
        state, _ = step(state, jax.random.fold_in(keys.step, n), batch, hyperparams(1.0, 3e-3))
    chex.assert_trees_all_close(result.progress.state.params, state.params, rtol=1e-4, atol=1e-6)


def test_warm_ups_scale_the_traced_values():
    seen = []
    for steps in (0, 4):
        schedule = schedules.warm_up(steps)
        seen.append([float(schedule(n)) for n in (0, 1, 2, 4, 9)])
    assert seen == [[1, 1, 1, 1, 1], [0, 0.25, 0.5, 1, 1]]
    cosine = schedules.learning_rate_schedule("cosine", 2, 12)
    np.testing.assert_allclose([float(cosine(n)) for n in (0, 1, 2, 7, 12)], [0, 0.5, 1, 0.5, 0], atol=1e-6)
    linear = schedules.learning_rate_schedule("linear", 0, 10)
    np.testing.assert_allclose([float(linear(n)) for n in (0, 5, 10)], [1, 0.5, 0], atol=1e-6)
    burda = schedules.learning_rate_schedule("burda", 0, 10 * 3280)  # ten steps to an epoch
    starts = np.array([1, 4, 13, 40, 121, 364, 1093])
    rates = np.array([[float(burda(10 * epoch + step)) for step in (-1, 0)] for epoch in starts])
    np.testing.assert_allclose(rates, 10 ** (-(np.arange(1, 8)[:, None] + [-1, 0]) / 7), rtol=1e-5)
    np.testing.assert_allclose([float(burda(n)) for n in (0, 32_800)], [1, 0.1], rtol=1e-5)


def test_beta_zero_at_the_start_of_a_warm_up_leaves_the_kl_out_of_the_loss():
    vae, prepared = small_vae(), small_data()
    state = training.init_state(vae, optax.adam, jax.random.key(0))
    rising = {"beta": schedules.warm_up(10), "learning_rate": schedules.warm_up(10)}
    step = jax.jit(training.make_train_step(vae, schedules=rising))
    new, metrics = step(state, jax.random.key(1), prepared.eval_input(prepared.test), hyperparams(3.0))
    np.testing.assert_allclose(metrics.loss, -metrics.log_likelihood, rtol=1e-6)
    chex.assert_trees_all_equal(new.params, state.params)  # the learning rate is 0 at its start, too
    assert all(np.any(leaf) for leaf in jax.tree.leaves(new.opt_state[0].nu["decoder"]))  # and not the gradient


def test_the_moving_average_is_the_corrected_mean_of_the_parameters():
    decay, params = 0.9, {"w": jnp.array([1.0, -2.0])}
    optimizer = optimizers.with_params_ema(optax.sgd, decay)(0.1)
    state, history = optimizer.init(params), []
    for _ in range(3):
        updates, state = optimizer.update({"w": jnp.ones(2)}, state, params)
        params = optax.apply_updates(params, updates)
        history.append(np.asarray(params["w"]))
    weights = np.array([decay**2, decay, 1.0])
    expected = (weights[:, None] * np.stack(history)).sum(axis=0) / weights.sum()
    got = optimizers.evaluation_params(params, state, jnp.int32(3))
    np.testing.assert_allclose(got["w"], expected, rtol=1e-6)
    chex.assert_trees_all_equal(optimizers.evaluation_params(params, optax.sgd(0.1).init(params), jnp.int32(3)), params)


def test_fit_takes_the_fields_of_its_options_as_keywords():
    parameters = inspect.signature(training.fit).parameters
    for name in training.FitOptions._fields:
        assert parameters[name].default == training.FitOptions._field_defaults.get(name, inspect.Parameter.empty)
    keywords = {"epochs": 2, "batch_size": 16, "seed": 1, "prng": "rbg"}
    assert training.FitOptions.from_keywords(keywords) == training.FitOptions(2, 16, prng="rbg")


def test_the_optimizer_the_objective_and_early_stopping_choose_what_is_evaluated():
    def evaluation_params(params, state):
        return params | {"scale": state}

    objective = batch.BatchObjective(None, None, evaluation_params)
    average = optimizers.ParamsEma(jnp.float32(0.5), {"w": jnp.ones(2)})  # after one step: 1 / (1 - 0.5)
    state = training.TrainState(jnp.int32(1), {"w": jnp.zeros(2)}, ((), average), jnp.float32(7.0))
    chex.assert_trees_all_equal(training.params_to_evaluate(state), {"w": jnp.full(2, 2.0)})
    last = training.params_to_evaluate(state, objective)
    chex.assert_trees_all_equal(last, {"w": jnp.full(2, 2.0), "scale": jnp.float32(7.0)})
    kept = {"w": jnp.full(2, 5.0), "scale": jnp.float32(6.0)}
    for epoch, expected in ((0, last), (3, kept)):
        best = training.Best(jnp.int32(epoch), jnp.float32(-1.0), kept)
        chex.assert_trees_all_equal(training.params_to_evaluate(state, objective, best), expected)


def test_early_stopping_reports_the_best_epoch():
    # 24 training images and 60 epochs of a large rate: the validation ELBO peaks, then falls
    prepared = small_data(44, validation=True)
    rng = np.random.default_rng(0)
    noise = jnp.asarray(rng.integers(0, 2, (24, *SHAPE), dtype=np.uint8) * 255)
    result = fit(small_vae(), prepared._replace(train=noise), epochs=60, batch_size=8, early_stopping=3)
    history = [epoch.validation.elbo for epoch in result.progress.history]
    assert result.status == "stopped early"
    assert len(history) == int(np.argmax(history)) + 1 + 3
    assert result.epoch == int(np.argmax(history)) + 1
    assert result.test.elbo == result.progress.history[result.epoch - 1].test.elbo


@pytest.mark.slow
def test_parameters_that_are_not_finite_to_begin_with_end_the_run():
    vae = small_vae()
    infinite = vae._replace(init=lambda key: jax.tree.map(lambda leaf: leaf + jnp.inf, vae.init(key)))
    with pytest.warns(DivergenceWarning, match=r"at step 0 \(epoch 1\).*Check the range of the data"):
        result = fit(infinite, small_data(), epochs=2)
    assert (result.status, int(result.progress.state.step)) == ("diverged", 0)


def test_what_cannot_be_trained_on_is_refused():
    with pytest.raises(UserError, match="80 training examples, got 81"):
        fit(small_vae(), small_data(), batch_size=81)
    with pytest.raises(UserError, match="validation"):
        fit(small_vae(), small_data(), early_stopping=2)


def test_the_state_is_donated():
    prepared, vae = small_data(), small_vae()
    step = training.make_train_step(vae, train_input=prepared.train_input)
    run_epoch = jax.jit(training.make_epoch(step, 16), donate_argnums=0)
    keys = training.run_keys(0)
    state = jax.tree.map(jnp.copy, training.init_state(vae, optax.adam, keys.init))
    run_epoch(state, keys, jnp.int32(0), prepared.train, hyperparams())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_dequantised_training_reports_nats_of_the_discrete_data():
    dataset = data.load("digits")
    discrete = data.prepare(dataset, dequantize=True)
    vae = model.mlp_vae(dataset.data_shape, likelihoods.gaussian("shared"), hidden=(32,), latent_dim=4)
    result = fit(vae, discrete, epochs=2, batch_size=128)
    epoch = result.progress.history[-1]
    assert isinstance(discrete, Prepared)
    assert discrete.log_jacobian == pytest.approx(-64 * np.log(17))
    # a discrete log-likelihood cannot be positive, a density on [0, 1] can; train and test carry the same constant
    assert epoch.test.log_likelihood < 0
    assert abs(epoch.test.log_likelihood - epoch.train.log_likelihood) < 30
