"""Every optimizer of optax in our step: it moves as in a loop of optax alone, and what optax says is evaluated."""

import functools
import inspect
from operator import itemgetter

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib
from speed import slow_but
from test_training import small_data, small_vae

from vae_jax import evaluation, training
from vae_jax.config import Hyperparams
from vae_jax.errors import UserError
from vae_jax.training import optimizers

RATE = 0.0625
STEPS = 3


def climbing(rate, **options):
    return contrib.sam(optax.sgd(rate), optax.chain(contrib.normalize(), optax.sgd(0.05)), **options)


def is_optimizer(value):
    """Returns true for a function that can be called with a learning rate alone."""
    if not inspect.isfunction(value) and not isinstance(value, functools.partial):
        return False
    parameters = inspect.signature(value).parameters.values()
    names = [parameter.name for parameter in parameters]
    required = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    return "learning_rate" in names and set(required) <= {"learning_rate"}


FOUND = [*sorted(vars(optax).items()), *sorted(vars(contrib).items())]
WITH_A_RATE = {name: value for name, value in FOUND if is_optimizer(value) and not name.startswith("_")}
OPTIMIZERS = {
    **WITH_A_RATE,
    "polyak_sgd": optax.polyak_sgd,
    "noisy_sgd": lambda rate: optax.noisy_sgd(rate, key=1),
    "schedule_free": lambda rate: contrib.schedule_free(optax.adam(rate, b1=0.0), rate),
    "schedule_free injected": lambda rate: optax.inject_hyperparams(contrib.schedule_free_sgd)(learning_rate=rate),
    "schedule_free in MultiSteps": lambda rate: optax.MultiSteps(contrib.schedule_free_sgd(rate), 1),
    "inject_hyperparams": lambda rate: optax.inject_hyperparams(optax.adam)(learning_rate=rate),
    "injected rprop": lambda rate: optax.inject_hyperparams(optax.rprop)(learning_rate=rate),
    "injected among others": lambda rate: optax.chain(optax.clip(0.5), optax.inject_hyperparams(optax.adamw)(rate)),
    "MultiSteps": lambda rate: optax.MultiSteps(optax.inject_hyperparams(optax.adam)(learning_rate=rate), 2),
    "MultiSteps finished": optax.MultiSteps(optax.adam(RATE), 2),
    "finished": optax.adam(RATE),
    "lookahead": lambda rate: optax.lookahead(optax.adam(rate), 2, 0.5),
    "lookahead in a chain": lambda rate: optax.chain(
        optax.clip(0.5), optax.lookahead(optax.adam(rate), 2, 0.5, reset_state=True)
    ),
    "reduce_on_plateau": lambda rate: optax.chain(optax.adam(rate), contrib.reduce_on_plateau(patience=1)),
    "sam": climbing,
    "sam opaque": lambda rate: climbing(rate, opaque_mode=True),
    "mechanize": lambda rate: contrib.mechanize(optax.sgd(rate)),
    "backtracking": lambda rate: optax.chain(optax.sgd(rate), optax.scale_by_backtracking_linesearch(5)),
    "apply_if_finite": lambda rate: optax.apply_if_finite(optax.adam(rate), 3),
    "split_real_and_imaginary": lambda rate: contrib.split_real_and_imaginary(optax.adam(rate)),
}


def start():
    key = jax.random.key(0)
    return {"encoder": {"kernel": jax.random.normal(key, (2, 2)), "bias": jnp.ones(2)}, "decoder": {"kernel": jnp.ones((2, 2))}}


def loss_of_step(step):
    """A loss that differs from step to step, as batches do."""
    x = jnp.array([1.0, -0.5 - step])

    def loss(params, obj_fn=None):  # named for optax's line searches, which refuse what nobody takes
        hidden = jnp.tanh(params["encoder"]["kernel"] @ x + params["encoder"]["bias"])
        return jnp.sum((params["decoder"]["kernel"] @ hidden - 1.0) ** 2)

    return loss


def by_our_steps(optimizer, rates=(RATE,) * STEPS, peak=RATE):
    params = start()
    state = optimizers.transformation(optimizer, 0.0).init(params)
    for step, rate in enumerate(rates):
        loss = loss_of_step(step)
        value, gradient = jax.value_and_grad(loss)(params)
        update = optimizers.make_step(optimizer, jnp.float32(peak), jnp.float32(rate), jnp.int32(step), loss)
        params, state = update(gradient, state, params, value)
    return params, state


def by_optax(name, optimizer):
    """The loop of optax's documentation: (params, the parameters to evaluate)."""
    chosen = optimizer if hasattr(optimizer, "update") else optimizer(RATE)
    params = optax.LookaheadParams.init_synced(start()) if "lookahead" in name else start()
    state = chosen.init(params)
    outer = params
    for step in range(STEPS):
        loss = loss_of_step(step)
        value, gradient = jax.value_and_grad(loss)(params.fast if "lookahead" in name else params)
        extra = {"value": value, "grad": gradient, "value_fn": loss, "obj_fn": loss}
        if name.startswith("sam"):
            extra = {"grad_fn": lambda params, i, loss=loss: jax.grad(loss)(params)}
            outer = params if step % 2 == 0 else outer
        if isinstance(chosen, optax.GradientTransformation):
            updates, state = optax.with_extra_args_support(chosen).update(gradient, state, params, **extra)
        else:
            updates, state = chosen.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    if "lookahead" in name:
        return params.fast, params.slow
    if name.startswith("schedule_free"):
        state = getattr(state, "inner_state", getattr(state, "inner_opt_state", state))
        return params, contrib.schedule_free_eval_params(state, params)
    return params, outer if name == "sam" else params


# By default those that need something of their own; the others differ from adam in their arithmetic alone.
QUICK = ("adam", "rprop", "lbfgs", "polyak_sgd", "momo", "sophia", "prodigy", "noisy_sgd", "schedule_free_adamw", "finished")
QUICK = (*QUICK, *(name for name in OPTIMIZERS if name not in WITH_A_RATE))


@pytest.mark.filterwarnings("ignore:`optimistic_adam` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", slow_but(QUICK, OPTIMIZERS))
def test_an_optimizer_moves_as_in_a_loop_of_optax_alone(name):
    optimizer = OPTIMIZERS[name]
    params, state = by_our_steps(optimizer)
    expected, evaluated = by_optax(name, optimizer)
    chex.assert_trees_all_close(params, expected, rtol=1e-5, atol=1e-7)
    assert largest_change(params, start()) > 0
    got = optimizers.evaluation_params(params, state, jnp.int32(STEPS))
    chex.assert_trees_all_close(got, evaluated, rtol=1e-5, atol=1e-7)
    elsewhere = name.startswith(("schedule_free", "lookahead")) or name == "sam"
    assert (largest_change(got, params) > 1e-4) == elsewhere


def largest_change(new, old):
    return max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True))


def test_the_optimizers_of_optax_were_found():
    assert {"adam", "lion", "rprop", "yogi", "muon", "prodigy", "schedule_free_adamw"} <= WITH_A_RATE.keys()
    assert len(WITH_A_RATE) >= 50


def test_an_injected_rate_follows_its_schedule():
    rates = (0.0, 0.5 * RATE, RATE)
    injected, _ = by_our_steps(OPTIMIZERS["inject_hyperparams"], rates)
    plain, _ = by_our_steps(optax.adam, rates)
    chex.assert_trees_all_close(injected, plain, rtol=1e-5)
    assert largest_change(injected, by_our_steps(optax.adam)[0]) > 1e-3


@pytest.mark.parametrize("name", ["rprop", "injected rprop"])
def test_step_sizes_start_at_the_peak_rate_whatever_the_schedule(name):
    warming_up, _ = by_our_steps(OPTIMIZERS[name], (0.0, 0.5 * RATE, RATE))
    chex.assert_trees_all_close(warming_up, by_optax(name, OPTIMIZERS[name])[0], rtol=1e-6)


def test_rates_side_by_side_are_those_alone():
    """Members of a sweep under vmap: the state that holds the rate holds each member's own."""

    def run(rate, optimizer):
        params, loss = start(), loss_of_step(0)
        state = optimizers.transformation(optimizer, 0.0).init(params)
        for step in range(2):
            update = optimizers.make_step(optimizer, rate, rate, jnp.int32(step), loss)
            params, state = update(jax.grad(loss)(params), state, params, loss(params))
        return params

    optimizer, rates = optax.inject_hyperparams(optax.sgd), jnp.array([0.01, 0.1])
    together = jax.jit(jax.vmap(lambda rate: run(rate, optimizer)))(rates)
    for i, rate in enumerate(rates):
        chex.assert_trees_all_close(jax.tree.map(itemgetter(i), together), run(rate, optimizer), rtol=1e-5)
    assert largest_change(run(rates[0], optimizer), run(rates[1], optimizer)) > 0.01


def test_a_part_of_the_parameters_may_have_an_average():
    labels = {"encoder": "plain", "decoder": "averaged"}
    params, state = by_our_steps(
        lambda rate: optax.partition({"plain": optax.adam(rate), "averaged": contrib.schedule_free_sgd(rate)}, labels)
    )
    got = optimizers.evaluation_params(params, state, jnp.int32(STEPS))
    chex.assert_trees_all_equal(got["encoder"], params["encoder"])
    (z,) = jax.tree.leaves(state.inner_states["averaged"].inner_state.z)
    np.testing.assert_allclose(got["decoder"]["kernel"], (params["decoder"]["kernel"] - 0.1 * z) / 0.9, rtol=1e-5)
    assert largest_change(got["decoder"], params["decoder"]) > 1e-4


def test_a_moving_average_is_of_the_parameters_that_are_evaluated():
    decay = 0.5
    states = [by_our_steps(contrib.schedule_free_sgd, (RATE,) * count) for count in (1, 2, 3)]
    evaluated = [optimizers.evaluation_params(params, state, jnp.int32(1)) for params, state in states]
    expected = jax.tree.map(lambda *x: sum(w * v for w, v in zip((0.25, 0.5, 1.0), x, strict=True)) / 1.75, *evaluated)
    params, state = by_our_steps(optimizers.with_params_ema(contrib.schedule_free_sgd, decay))
    chex.assert_trees_all_close(params, states[-1][0], rtol=1e-6)
    got = optimizers.evaluation_params(params, state, jnp.int32(STEPS))
    chex.assert_trees_all_close(got, expected, rtol=1e-5)


def test_fit_evaluates_what_optax_says():
    """The slow parameters of lookahead, around an optimizer whose rate is injected."""
    vae, prepared = small_vae(), small_data()
    slow = lambda rate: optax.lookahead(optax.inject_hyperparams(optax.adam)(learning_rate=rate), 3, 0.5)  # noqa: E731
    result = training.fit(vae, prepared, epochs=2, batch_size=16, seed=0, optimizer=slow, hyperparams=Hyperparams(1.0, 0.01))
    state = result.progress.state
    assert largest_change(result.params, state.params) > 1e-3  # after ten steps, which three do not divide
    chex.assert_trees_all_equal(result.params, state.opt_state.slow)
    chosen = evaluation.evaluate(training.evaluation_key(0), vae, result.params, prepared.test, to_input=prepared.eval_input)
    assert result.test.elbo == pytest.approx(evaluation.means(chosen).elbo, rel=1e-5)
    start = training.init_state(vae, optax.adam, training.run_keys(0).init).params
    assert largest_change(state.params, start) > 0.01


def test_a_random_key_in_a_state_is_stored_as_numbers():
    noisy = OPTIMIZERS["noisy_sgd"]
    _, state = by_our_steps(noisy)
    assert all(np.asarray(leaf).dtype.kind in "fiu" for leaf in jax.tree.leaves(state))
    template = optimizers.transformation(noisy, 0.0).init(start())
    assert jax.tree.structure(state) == jax.tree.structure(template)


def needs_more(rate):
    def update(updates, state, params=None, *, curvature, **extra):
        return updates, state

    return optax.GradientTransformationExtraArgs(optax.sgd(0.1).init, update)


def sums_rows(rate):
    return optax.stateless(lambda updates, params: jax.tree.map(lambda leaf: leaf.sum(axis=0), updates))


def counts_in_floats(rate):
    return optax.GradientTransformation(lambda params: jnp.int32(0), lambda updates, state, params=None: (updates, state + 0.5))


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (
            lambda rate: optax.chain(contrib.differentially_private_aggregate(1.0, 0.1, key=0), optax.sgd(rate)),
            "dpsgd .* needs the gradient of every example",
        ),
        (contrib.dpsgd, "Called with a learning rate alone it failed: .*l2_norm_clip"),
        ("adam", "expected a function of the learning rate such as optax.adam, .* got 'adam'"),
        (optax.MultiSteps, "Called with a learning rate alone it failed"),
        (lambda rate: optax.adam, "it returned <function adam"),
        (needs_more, "its update failed .*'curvature'.* as keywords grad, grad_fn, obj_fn, value, value_fn"),
        (sums_rows, "expected updates of the same shapes .* got \\(2,\\) at decoder/kernel instead of \\(2, 2\\)"),
        (counts_in_floats, "expected state of the same shapes and types .* got float32\\(\\) at  instead of int32\\(\\)"),
    ],
    ids=["gradients of examples", "arguments missing", "name", "class", "function", "unknown argument", "shapes", "types"],
)
def test_what_cannot_serve_is_refused_in_one_sentence(optimizer, message):
    with pytest.raises(UserError, match=message):
        by_our_steps(optimizer)
