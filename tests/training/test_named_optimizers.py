"""Every named optimizer moves as optax's does, with its defaults and with traced numbers, which do not compile again."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib
from speed import slow_but

from vae_jax.build.model import make_optimizer
from vae_jax.config import Config, entries, settings_of
from vae_jax.errors import UserError
from vae_jax.training import entries as optimizer_entries
from vae_jax.training import optimizers

RATES = jnp.array([0.0, 0.03125, 0.0625, 0.0625, 0.0625, 0.03125])  # a warm-up and a decay
DECAYED = {"encoder": {"kernel": True, "bias": False}, "decoder": {"w": True}, "prior": {"means": False}}
MUON = jax.tree.map(lambda is_kernel: contrib.MuonDimensionNumbers() if is_kernel else None, DECAYED)
NUMBERS = {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "momentum": 0.7, "weight_decay": 0.3}
UNMASKED = ("schedule_free_adamw", "schedule_free_sgd", "prodigy")  # optax decays all or nothing


def start():
    keys = jax.random.split(jax.random.key(0), 4)
    return {
        "encoder": {"kernel": jax.random.normal(keys[0], (3, 2)), "bias": jax.random.normal(keys[1], (2,))},
        "decoder": {"w": jax.random.normal(keys[2], (2, 3))},
        "prior": {"means": jax.random.normal(keys[3], (2, 2))},
    }


def loss_of_step(step):
    return lambda params: sum(jnp.sum(jnp.square(leaf - 0.1 * step)) for leaf in jax.tree.leaves(params))


def rates_of(name):
    return RATES * (1e4 if name == "prodigy" else 1)  # which starts at 1e-6 of its rate


def by_our_steps(name, optimizer, peak):
    """(the parameters, those to evaluate), by the steps of a run whose learning rate has a schedule."""

    def step(carry, at):
        params, state = carry
        i, rate = at
        loss = loss_of_step(i)
        update = optimizers.make_step(optimizer, peak, peak._replace(learning_rate=rate), i, loss)
        return update(jax.grad(loss)(params), state, params, loss(params)), None

    state = optimizers.transformation(optimizer, 0.0).init(start())
    (params, state), _ = jax.lax.scan(step, (start(), state), (jnp.arange(len(RATES)), rates_of(name)))
    return params, optimizers.evaluation_params(params, state, jnp.int32(len(RATES)))


def by_optax(name, options):
    """The same by a loop of optax alone, whose schedule is optax's: a function of the count."""
    rename = {"rmsprop": {"b2": "decay"}, "muon": {"momentum": "beta", "b1": "adam_b1", "b2": "adam_b2"}}.get(name, {})
    options = {rename.get(key, key): value for key, value in options.items()}
    has_slow = name == "lookahead"
    if has_slow:
        optimizer = lambda rate: optax.lookahead(optax.adam(rate, **options), 5, 0.5)  # noqa: E731
    elif name == "prodigy":
        betas = (options.pop("b1", 0.9), options.pop("b2", 0.999))
        # At a learning rate of 0, the first one of a warm-up, optax 0.2.8 divides 0 by 0.
        optimizer = lambda rate: contrib.prodigy(jnp.maximum(rate, 1e-9), betas, **options)  # noqa: E731
    else:
        make = getattr(optax, name, None) or getattr(contrib, name)
        accepted = inspect.signature(make).parameters
        decays = options.get("weight_decay", getattr(accepted.get("weight_decay"), "default", 0))
        masks = {mask: DECAYED for mask in ("mask", "weight_decay_mask") if mask in accepted and decays}
        muon = {"muon_weight_dimension_numbers": MUON} if name == "muon" else {}
        optimizer = lambda rate: make(rate, **options, **masks, **muon)  # noqa: E731

    def step(carry, at):
        params, state = carry
        i, rate = at
        gradient = jax.grad(loss_of_step(i))(params.fast if has_slow else params)
        updates, state = optimizer(rate).update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = optax.LookaheadParams.init_synced(start()) if has_slow else start()
    carry = (params, optimizer(0.0).init(params))
    (params, state), _ = jax.lax.scan(step, carry, (jnp.arange(len(RATES)), rates_of(name)))
    if has_slow:
        return params.fast, params.slow
    return params, contrib.schedule_free_eval_params(state, params) if name.startswith("schedule_free") else params


def numbers_of(name):
    """Values for the settings of an optimizer, without a weight decay that optax would apply to everything."""
    return {key: value for key, value in NUMBERS.items() if key in optimizer_entries.DEFAULTS[name]}


def without_decay(name, numbers):
    return {key: value for key, value in numbers.items() if key != "weight_decay" or name not in UNMASKED}


def named(name, numbers):
    return make_optimizer(Config(optimizer=name, **numbers), None, None, 1)


QUICK = ("adamw", "muon", "schedule_free_adamw", "prodigy", "lookahead")


@pytest.mark.parametrize("name", slow_but(QUICK, optimizer_entries.DEFAULTS))
def test_a_named_optimizer_moves_as_optaxs_and_compiles_once(name):
    numbers = without_decay(name, numbers_of(name))
    given = named(name, numbers)

    traces = []

    @jax.jit
    def both(hyperparams):
        traces.append(name)
        return by_our_steps(name, given, hyperparams), by_our_steps(name, named(name, {}), hyperparams)

    def settings(**changes):
        config = Config(optimizer=name, learning_rate=0.0625, **{**numbers, **changes})
        return jax.tree.map(jnp.float32, config.hyperparams)

    expected = jax.jit(lambda: (by_optax(name, numbers), by_optax(name, {})))()
    (got, default), (other, still_default) = both(settings()), both(settings(**dict.fromkeys(numbers, 0.5)))
    assert len(traces) == 1
    chex.assert_trees_all_close(default, expected[1], rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(got, expected[0], rtol=3e-5, atol=1e-6)
    chex.assert_trees_all_equal(default, still_default)  # a number that is not given is not read
    assert largest_change(got, other) > 1e-4
    assert largest_change(got[0], start()) > 1e-6
    assert (largest_change(*got) > 1e-4) == (name.startswith("schedule_free") or name == "lookahead")


def largest_change(new, old):
    return max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True))


def test_the_recorded_defaults_are_optaxs():
    names = {"rmsprop": {"b2": "decay"}, "muon": {"momentum": "beta", "b1": "adam_b1", "b2": "adam_b2"}}
    for name, defaults in optimizer_entries.DEFAULTS.items():
        found = "adam" if name == "lookahead" else name
        parameters = inspect.signature(getattr(optax, found, None) or getattr(contrib, found)).parameters
        betas = dict(zip(("b1", "b2"), parameters["betas"].default, strict=True)) if "betas" in parameters else {}
        for setting, value in defaults.items():
            argument = names.get(name, {}).get(setting, setting)
            expected = betas[setting] if setting in betas else parameters[argument].default
            assert value == (expected or 0.0), (name, setting)
        assert set(defaults) <= set(settings_of("optimizer", name))
        assert getattr(Config(optimizer=name).hyperparams, next(iter(defaults))) == next(iter(defaults.values()))
    assert set(entries("optimizer")) == set(optimizer_entries.DEFAULTS)


@pytest.mark.parametrize("name", slow_but(("prodigy", "schedule_free_adamw"), ("adamw", *UNMASKED, "muon", "lion")))
def test_only_kernels_decay(name):
    """The update with a decay less that without one is the decay alone."""
    optimizer, params = named(name, {"weight_decay": 0.25}), jax.tree.map(lambda leaf: 1000 * jnp.ones_like(leaf), start())
    hyperparams = jax.tree.map(jnp.float32, Config(optimizer=name, learning_rate=0.5).hyperparams)

    @jax.jit
    def update(decay):
        made = optimizers.transformation(optimizer, hyperparams._replace(weight_decay=decay))
        return made.update(jax.tree.map(jnp.ones_like, params), made.init(params), params)[0]

    decay = jax.tree.map(lambda a, b: np.asarray(a - b), update(jnp.float32(0.25)), update(jnp.float32(0.0)))
    for leaf, is_decayed in zip(jax.tree.leaves(decay), jax.tree.leaves(DECAYED), strict=True):
        assert np.all(leaf < 0) if is_decayed else np.all(leaf == 0)
        if name != "prodigy" and is_decayed:
            np.testing.assert_allclose(leaf, -125.0, rtol=1e-4)  # rate times decay times parameter


def test_kernels_of_networks_of_any_kind():
    square, row = jnp.ones((2, 2)), jnp.ones(2)
    params = {
        "encoder": {"Dense_0": {"kernel": square, "bias": row}, "layers": {0: {"kernel": jnp.ones((3, 3, 1, 2))}}},
        "decoder": [(square, row), {"w": square, "scale": square, "bias": square, "b": square, "embedding": square}],
        "prior": {"kernel": square},
        "likelihood": row,
    }
    expected = {
        "encoder": {"Dense_0": {"kernel": True, "bias": False}, "layers": {0: {"kernel": True}}},
        "decoder": [(True, False), {"w": True, "scale": False, "bias": False, "b": False, "embedding": False}],
        "prior": {"kernel": False},
        "likelihood": False,
    }
    assert optimizers.kernels(params) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "sgd", "b1": 0.5}, "`b1` belongs to `optimizer` adam, .*; sgd does not use it"),
        ({"b1": 1.0}, r"b1: expected a number in \[0, 1\), got 1.0"),
        ({"clip_norm": 0.0}, "clip_norm: expected a number > 0"),
        ({"optimizer": "schedule_free_adamw", "b1": 0.0}, r"b1: expected a number in \(0, 1\) with schedule_free_adamw"),
        ({"optimizer": "lookahead", "objective": "optimal_sigma", "likelihood": "gaussian"}, "lookahead evaluates an average"),
        ({"ema_decay": 0.5, "average_from_epoch": 1}, "exclude each other"),
        ({"average_from_epoch": 3, "epochs": 2}, "average_from_epoch: expected at most 2"),
        ({"sync_period": 3}, "`sync_period` belongs to `optimizer` lookahead"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Config(**settings).validate()
