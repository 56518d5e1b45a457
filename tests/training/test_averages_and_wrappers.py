"""Clipping, accumulation, skipping and averages of any optimizer, and what is evaluated inside of every wrapper of optax."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib
from speed import slow_but

from vae_jax.build.model import make_optimizer
from vae_jax.config import Config
from vae_jax.training import optimizers

RATE = 0.0625
NAN_STEP = 2


def start():
    keys = jax.random.split(jax.random.key(1), 2)
    return {"encoder": {"kernel": jax.random.normal(keys[0], (2, 2))}, "decoder": {"kernel": jax.random.normal(keys[1], (2,))}}


def gradients(steps, nan_step=None):
    """Gradients that do not depend on the parameters, (steps, ...)."""
    leaves, structure = jax.tree.flatten(start())
    made = [jax.random.normal(jax.random.key(i), (steps, *leaf.shape)) for i, leaf in enumerate(leaves)]
    if nan_step is not None:
        made[0] = made[0].at[nan_step, 0].set(jnp.nan)
    return jax.tree.unflatten(structure, made)


def path_of(optimizer, given, hyperparams=None):
    """(parameters, parameters to evaluate, state) after each step, by the steps of a run."""
    numbers = RATE if hyperparams is None else hyperparams
    count = jax.tree.leaves(given)[0].shape[0]

    @jax.jit
    def run():
        def step(carry, at):
            i, gradient = at
            update = optimizers.make_step(optimizer, numbers, numbers, i, lambda params: jnp.float32(0))
            params, state = update(gradient, carry[1], carry[0], jnp.float32(0))
            return (params, state), (params, optimizers.evaluation_params(params, state, i + 1), state)

        carry = (start(), optimizers.transformation(optimizer, 0.0).init(start()))
        return jax.lax.scan(step, carry, (jnp.arange(count), given))[1]

    return jax.tree.map(np.asarray, run())


def at(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def configured(**settings):
    """(the optimizer of a configuration, its hyperparameters)."""
    config = Config(optimizer="sgd", learning_rate=RATE, **settings)
    return make_optimizer(config, None, None, 1), jax.tree.map(jnp.float32, config.hyperparams)


def test_clipping_is_by_the_global_norm():
    given = gradients(3)
    params, _, _ = path_of(*configured(clip_norm=0.5)[:1], given, configured(clip_norm=0.5)[1])
    expected = start()
    for i in range(3):
        norm = np.sqrt(sum(np.sum(np.square(leaf[i])) for leaf in jax.tree.leaves(given)))
        assert norm > 0.5
        expected = jax.tree.map(lambda p, g, i=i, norm=norm: p - RATE * 0.5 / norm * g[i], expected, given)
        chex.assert_trees_all_close(at(params, i), expected, rtol=1e-5)


def test_accumulated_steps_are_one_step_of_a_larger_batch():
    """With a mean that is not finite at one step, which is neither accumulated nor the end."""
    given = gradients(7, NAN_STEP)
    optimizer, hyperparams = configured(accumulate_steps=3, skip_not_finite=1, clip_norm=1e6)
    params, _, _ = path_of(optimizer, given, hyperparams)
    used = [i for i in range(7) if i != NAN_STEP]
    expected = start()
    for first in (0, 3):
        mean = jax.tree.map(lambda g, first=first: g[jnp.array(used[first : first + 3])].mean(0), given)
        before = expected
        expected = jax.tree.map(lambda p, g: p - RATE * g, expected, mean)
        chex.assert_trees_all_close(at(params, used[first + 2]), expected, rtol=1e-5)
        chex.assert_trees_all_close(at(params, used[first + 1]), before, rtol=1e-6)


@pytest.mark.parametrize("around", [{}, {"accumulate_steps": 2}, {"skip_not_finite": 1}])
def test_averages_are_over_updates(around):
    given = gradients(6, NAN_STEP if "skip_not_finite" in around else None)
    decay, first = 0.5, 2
    optimizer, hyperparams = configured(ema_decay=decay, **around)
    params, evaluated, _ = path_of(optimizer, given, hyperparams)
    optimizer, _ = configured(average_from_epoch=first + 1, **around)  # an epoch has one step here
    also_params, mean, _ = path_of(optimizer, given, hyperparams)
    chex.assert_trees_all_equal(params, also_params)
    made = [1, 3, 5] if "accumulate_steps" in around else [i for i in range(6) if not (around and i == NAN_STEP)]
    weights = np.array([decay ** (len(made) - 1 - n) for n in range(len(made))])
    expected = jax.tree.map(lambda p: np.einsum("i...,i->...", p[np.array(made)], weights / weights.sum()), params)
    chex.assert_trees_all_close(at(evaluated, -1), expected, rtol=1e-5)
    late = np.array([i for i in made if i >= first])
    chex.assert_trees_all_close(at(mean, -1), jax.tree.map(lambda p: p[late].mean(0), params), rtol=1e-5)
    chex.assert_trees_all_equal(at(mean, first - 1), at(params, first - 1))  # before it begins


def test_a_gradient_that_is_not_finite_counts_until_there_are_too_many():
    given = jax.tree.map(lambda leaf: leaf.at[2:5].set(jnp.inf), gradients(6))
    optimizer, hyperparams = configured(skip_not_finite=2)
    params, _, state = path_of(optimizer, given, hyperparams)
    chex.assert_trees_all_equal(at(params, 3), at(params, 1))
    assert not np.isfinite(jax.tree.leaves(params)[0][4]).any()
    assert state.total_notfinite.tolist() == [0, 0, 1, 2, 3, 3]
    assert optimizers.may_skip(at(state, 0))
    assert not optimizers.may_skip(optax.adam(RATE).init(start()))
    assert optimizers.may_skip(optax.MultiSteps(optax.sgd(RATE), 2, should_skip_update_fn=optax.skip_not_finite).init(start()))


def schedule_free(rate):
    return contrib.schedule_free_sgd(rate)


def climbing(rate):
    return contrib.sam(optax.sgd(rate), optax.sgd(0.05))


def averaged(rate):
    return optimizers.with_params_ema(optax.sgd, 0.5)(rate)


def polyak(rate):
    return optimizers.with_params_mean(optax.sgd, 0)(rate)


def slow(rate):
    return optimizers.transformation(optax.lookahead(optax.sgd(rate), 2, 0.5), rate)


WRAPPERS = {
    "chain": lambda inner: lambda rate: optax.chain(optax.clip(1e6), inner(rate)),
    "MultiSteps": lambda inner: lambda rate: optax.MultiSteps(optimizers.transformation(inner(rate), rate), 1),
    "apply_if_finite": lambda inner: lambda rate: optax.apply_if_finite(optimizers.transformation(inner(rate), rate), 2),
    "masked": lambda inner: lambda rate: optax.masked(inner(rate), {"encoder": True, "decoder": True}),
    "partition": lambda inner: (
        lambda rate: optax.partition({"all": inner(rate), "none": optax.set_to_zero()}, {"encoder": "all", "decoder": "all"})
    ),
    "inject_hyperparams": lambda inner: lambda rate: optax.inject_hyperparams(inner)(rate=rate),
    "skipped clipped chain": lambda inner: (
        lambda rate: optax.apply_if_finite(
            optax.chain(optax.clip(1e6), optax.chain(optimizers.transformation(inner(rate), rate), optax.identity())), 2
        )
    ),
}


@pytest.mark.parametrize("inner", slow_but((climbing, averaged), (schedule_free, climbing, averaged, polyak, slow)))
def test_what_is_evaluated_is_the_same_inside_every_wrapper(inner):
    """All wrappers in one program."""
    given = gradients(3)

    @jax.jit
    def run():
        ends = {}
        for name, optimizer in {"alone": inner, **{name: wrap(inner) for name, wrap in WRAPPERS.items()}}.items():
            params, state = start(), optimizers.transformation(optimizer, 0.0).init(start())
            for i in range(3):
                update = optimizers.make_step(optimizer, RATE, RATE, jnp.int32(i), lambda params: jnp.float32(0))
                params, state = update(jax.tree.map(lambda g, i=i: g[i], given), state, params, jnp.float32(0))
            ends[name] = (params, optimizers.evaluation_params(params, state, jnp.int32(3)))
        return ends

    ends = run()
    params, expected = ends.pop("alone")
    assert max(np.max(np.abs(a - b)) for a, b in zip(*map(jax.tree.leaves, (params, expected)), strict=True)) > 1e-3
    for got in ends.values():
        chex.assert_trees_all_close(got, (params, expected), rtol=1e-5, atol=1e-7)


def test_a_part_of_the_parameters_may_climb_or_have_an_average():
    labels = {"encoder": "plain", "decoder": "special"}
    for special in (climbing, averaged, polyak):
        optimizer = lambda rate, special=special: optax.partition(  # noqa: E731
            {"plain": optax.sgd(rate), "special": special(rate)}, labels
        )
        params, evaluated, _ = path_of(optimizer, gradients(3))
        chex.assert_trees_all_equal(evaluated["encoder"], params["encoder"])
        assert np.max(np.abs(evaluated["decoder"]["kernel"][-1] - params["decoder"]["kernel"][-1])) > 1e-3
