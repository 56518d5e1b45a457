"""Members of a sweep: the run that each would be alone, whatever runs beside it; one compilation; members that end."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import pytest

from vae_jax import training
from vae_jax.build import build
from vae_jax.config import Config, Hyperparams
from vae_jax.errors import DivergenceWarning, UserError
from vae_jax.sweep import grid, sweep
from vae_jax.sweep.in_memory import run_group
from vae_jax.sweep.members import groups
from vae_jax.training import Callbacks
from vae_jax.training.placement import place

BASE = Config(hidden=(16,), latent_dim=3, epochs=2)
NUMBERS = ("test_elbo", "test_log_likelihood", "test_kl", "steps", "active_units", "status")
ON_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="members are alone, bit for bit, and under map on CPU")


@functools.cache
def alone(config):
    built = build(config)
    return training.fit(built.vae, built.data, **built.fit_arguments)


@functools.cache
def diverged_alone(config):
    with pytest.warns(DivergenceWarning):
        return alone(config)


def member(fit, i):
    return jax.tree.map(lambda leaf: np.asarray(leaf[i]), fit.progress.members)


def run(members, **options):
    (group,) = groups(members)
    return run_group(group, build(members[0]), place(len(members), **options))


def slow(name, **changes):
    return pytest.param(changes, id=name, marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="elbo"),
        slow("early stopping", validation_fraction=0.1, early_stopping=1, learning_rate=0.3, epochs=4),
        slow("vamp", prior="vamp", prior_components=5),
        slow("geco", objective="geco", target_distortion=20.0),
        slow("average and warm-up", ema_decay=0.9, beta_warmup_steps=5),
    ],
)
def test_a_member_under_map_is_the_single_run_bit_for_bit(changes):
    base = dataclasses.replace(BASE, **changes)
    name = "target_distortion" if base.objective == "geco" else "learning_rate"
    members = grid(base, **{name: [getattr(base, name), 0.7 * getattr(base, name)]}, seed=[0, 5])
    fit = run(members, strategy="map")
    for i in (1, 2):  # another seed, another rate
        single = alone(members[i])
        chex.assert_trees_all_equal(member(fit, i).state, jax.tree.map(np.asarray, single.progress.state))
        chex.assert_trees_all_equal(
            jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), fit.params), jax.device_get(single.params)
        )
        assert (fit.tests[i], fit.status[i], fit.epochs[i]) == (single.test, single.status, single.epoch)
        assert [e._replace(seconds=0) for e in fit.progress.histories[i]] == [
            e._replace(seconds=0) for e in single.progress.history
        ]


@pytest.mark.slow
def test_vmap_agrees_to_a_thousandth_after_five_epochs():
    members = grid(dataclasses.replace(BASE, epochs=5), beta=[0.5, 2.0], seed=[0, 1, 2])
    one, other = run(members, strategy="map"), run(members, strategy="vmap")
    chunked = run(members, strategy="vmap", chunk=4)  # six members in chunks of four: two slots stay empty
    for fit in (other, chunked):
        for a, b in zip(one.tests, fit.tests, strict=True):
            np.testing.assert_allclose(b[:3], a[:3], rtol=1e-3)


@pytest.mark.slow
def test_other_members_change_nothing():
    few = grid(BASE, beta=[1.0], seed=[0, 1])
    many = grid(BASE, beta=[4.0, 1.0, 0.1], seed=[1, 0, 7])
    fit_few, fit_many = run(few, strategy="map"), run(many, strategy="map")
    for i, config in enumerate(few):
        chex.assert_trees_all_equal(member(fit_few, i), member(fit_many, many.index(config)))


@pytest.mark.slow
def test_one_compilation_whatever_the_values():
    counts = []

    def count(members):
        compilations = []

        def listen(name, seconds, **_):
            if name == "/jax/core/compile/backend_compile_duration":
                compilations.append(seconds)

        (group,), built = groups(members), build(members[0])
        after_epoch = []
        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            jax.clear_caches()
            run_group(
                group, built, place(len(members), "map"), callbacks=Callbacks(lambda _: after_epoch.append(len(compilations)))
            )
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)
        assert after_epoch == [after_epoch[0]] * len(after_epoch)  # nothing compiles once training has begun
        counts.append(after_epoch[0])

    count(grid(BASE, beta=[1.0], seed=[0, 1]))
    count(grid(BASE, beta=[0.1, 1.0, 3.0], learning_rate=[1e-3, 1e-2, 1e3], seed=[0, 1, 2]))  # some of them diverge
    assert counts[0] == counts[1]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["map", pytest.param("vmap", marks=pytest.mark.slow)])
def test_a_member_that_diverges_does_so_alone(strategy):
    good = grid(BASE, beta=[0.5, 1.0], seed=[0, 1])
    bad = dataclasses.replace(BASE, learning_rate=1e3)
    fit, with_bad = run(good, strategy=strategy), run([good[0], bad, *good[1:]], strategy=strategy)
    assert with_bad.status == ("finished", "diverged", "finished", "finished", "finished")
    if strategy == "map":
        for i, j in enumerate((0, 2, 3, 4)):
            chex.assert_trees_all_equal(member(fit, i), member(with_bad, j))
            assert fit.tests[i] == with_bad.tests[j]
    # It is frozen at its last good step: one more makes something not finite, and no step is missing.
    single = diverged_alone(bad)
    assert single.status == "diverged"
    frozen = member(with_bad, 1)
    chex.assert_tree_all_finite(frozen.state.params)
    assert int(frozen.state.step) == int(single.progress.state.step) > 0
    if strategy == "map":
        chex.assert_trees_all_equal(frozen.state, jax.tree.map(np.asarray, single.progress.state))


def test_the_last_good_state_is_as_far_as_everything_is_finite():
    """By hand: the same epoch with ever fewer steps, until loss and parameters are finite."""
    bad = dataclasses.replace(BASE, learning_rate=1e3)
    built, stopped = build(bad), diverged_alone(bad).progress
    step = training.make_train_step(built.vae, objective=built.objective, train_input=built.data.train_input)
    run_epoch = jax.jit(training.make_epoch(step, bad.batch_size))
    keys, hyperparams = training.run_keys(0), jax.tree.map(np.float32, bad.hyperparams)
    state = training.init_state(built.vae, built.optimizer, keys.init, built.objective)
    good = [
        steps
        for steps in range(12)
        if int(run_epoch(state, keys, np.int32(0), built.data.train, hyperparams, np.int32(steps))[2]) == steps
    ]
    assert good == list(range(int(stopped.state.step) + 1))
    reached = run_epoch(state, keys, np.int32(0), built.data.train, hyperparams, np.int32(good[-1]))[0]
    chex.assert_trees_all_close(reached.params, stopped.state.params, rtol=1e-6)


def test_a_member_that_stops_early_stays_as_it_is():
    base = dataclasses.replace(BASE, validation_fraction=0.1, early_stopping=2, epochs=8)
    members = grid(base, learning_rate=[1e-3, 1e-30])  # the second does not move, so it never improves
    states = []
    (group,) = groups(members)
    fit = run_group(
        group,
        build(members[0]),
        place(2, "map"),
        callbacks=Callbacks(lambda p: states.append((p.status, jax.device_get(p.members))) and None),
    )
    assert fit.status == ("finished", "stopped early")
    ended = next(i for i, (status, _) in enumerate(states) if status[1] == "stopped early")
    frozen = jax.tree.map(lambda leaf: leaf[1], states[ended][1])
    chex.assert_trees_all_equal(frozen, member(fit, 1))
    assert len(fit.progress.histories[1]) < len(fit.progress.histories[0]) == 8


@pytest.mark.slow
def test_going_on_from_the_middle_is_bit_for_bit():
    members = [*grid(dataclasses.replace(BASE, epochs=4), seed=[0, 1]), dataclasses.replace(BASE, epochs=4, learning_rate=1e3)]
    (group,), built, kept = groups(members), build(members[0]), {}

    def stop(progress):
        kept["progress"] = progress._replace(members=jax.tree.map(np.array, jax.device_get(progress.members)))
        return len(progress.histories[0]) == 2

    part = run_group(group, built, place(3, "map"), callbacks=Callbacks(stop))
    assert part.status == ("interrupted", "interrupted", "diverged")
    whole = run_group(group, built, place(3, "map"))
    rest = run_group(group, built, place(3, "map"), start=kept["progress"])
    chex.assert_trees_all_equal(whole.progress.members, rest.progress.members)
    assert whole.tests == rest.tests
    assert whole.status == rest.status


@pytest.mark.slow
def test_static_settings_are_groups():
    result = sweep(grid(dataclasses.replace(BASE, epochs=1), latent_dim=[2, 3], beta=[1.0, 2.0]))
    assert result.table["group"].tolist() == ["latent_dim = 2"] * 2 + ["latent_dim = 3"] * 2
    single = alone(dataclasses.replace(BASE, epochs=1, latent_dim=3, beta=2.0))
    assert result.table["test_elbo"][3] == single.test.elbo
    assert [len(kl) for kl in result.table["kl_per_dimension"]] == [2, 2, 3, 3]


@ON_CPU
def test_the_table_is_that_of_the_runs():
    members = grid(BASE, beta=[0.5, 2.0], seed=[0, 1])
    result = sweep(members)
    assert result.curves["test_elbo"].shape == (4, 2)
    for i, config in [*enumerate(members)][1::2]:
        single = alone(config)
        row = {name: values[i] for name, values in result.table.items()}
        assert (row["member"], row["beta"], row["seed"]) == (i, config.beta, config.seed)
        assert (row["test_elbo"], row["rate"], row["distortion"]) == (
            single.test.elbo,
            single.test.kl,
            -single.test.log_likelihood,
        )
        assert row["test_elbo"] == pytest.approx(-row["rate"] - row["distortion"], abs=1e-12)
        np.testing.assert_allclose(row["kl_per_dimension"].sum(), single.test.kl, rtol=1e-5)
        assert result.curves["test_elbo"][i, -1] == single.test.elbo


def test_hyperparameters_of_the_wrong_length_are_refused():
    built = build(BASE)
    options = training.FitOptions.from_keywords(built.fit_arguments)
    with pytest.raises(UserError, match=r"hyperparams.beta: expected a number or one for each of 3 members, got \(2,\)"):
        training.fit_members(
            built.vae, built.data, options, seeds=[0, 1, 2], hyperparams=Hyperparams(beta=np.array([1.0, 2.0]))
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "pmap"}, "strategy: expected auto, map or vmap, got pmap"),
        ({"strategy": "map", "chunk": 2}, r'chunk: expected `strategy="vmap"` with it \(map means map here\), got 2'),
        ({"strategy": "vmap", "chunk": 0}, "chunk: expected a whole number >= 1, got 0"),
        ({"data_parallel": 3}, "data_parallel: expected a divisor of the"),
    ],
)
def test_layouts_that_cannot_be_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        place(4, **options)


@ON_CPU
def test_auto_says_what_it_chose_and_why():
    assert place(4).strategy == "map"
    assert "slower on CPU" in place(4).description
    assert "as requested" in place(4, "vmap").description
    assert place(4, "vmap").chunk_is_free
    assert not place(4, "vmap", chunk=2).chunk_is_free


def test_a_program_that_does_not_fit_gets_a_smaller_chunk():
    class Memory:
        argument_size_in_bytes, output_size_in_bytes, temp_size_in_bytes, alias_size_in_bytes = 100, 60, 50, 60

    class Program:
        def memory_analysis(self):
            return Memory()

    class Device:
        platform = "gpu"

        def __init__(self, limit):
            self.limit = limit

        def memory_stats(self):
            return {"bytes_limit": self.limit}

    def on(limit, chunk=None):
        placement = place(10, "vmap", chunk=chunk)
        mesh = type("Mesh", (), {"devices": np.array([Device(limit)]), "shape": placement.mesh.shape})()
        return placement._replace(mesh=mesh).with_smaller_chunk(Program())

    assert on(1000) is None
    assert on(160).chunk == 5
    assert "5 at once, because 10 would need" in on(160).description
    assert on(160, chunk=10) is None  # asked for: not ours to change
