"""Successive halving: its decisions, its members as single runs, one compilation, resumed directories, and refusals."""

import csv
import dataclasses
import functools
import json
import math

import chex
import jax
import numpy as np
import pytest

from vae_jax import training
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.report.sweep.halving import halving_part
from vae_jax.runs import load_model
from vae_jax.sweep import Halving, Range, design, grid, halving
from vae_jax.sweep.directory import run_sweep
from vae_jax.sweep.results import load_params, write_results
from vae_jax.sweep.successive_halving.rule import HalvingQueue

BASE = Config(hidden=(8,), latent_dim=2, batch_size=512, epochs=4, validation_fraction=0.1, learning_rate=1e-2)
# The second member diverges in its first epoch. The first one is among the best at its first rung, as nothing is known then.
MEMBERS = [dataclasses.replace(BASE, learning_rate=rate) for rate in (0.02, 1e8, 1e-3, 0.01, 0.03, 0.005, 0.05, 1e-4, 0.04)]
SETTINGS = Halving(eta=2, min_epochs=1, num_concurrent=3)
REPORTED = []  # what the sweep in a directory passes to on_epoch, over both of its processes
ON_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="members are alone, bit for bit, under map on CPU")


@pytest.fixture(scope="module")
def in_memory():
    """The sweep, and the number of compilations at the end of each of its epochs."""
    compilations, after_epoch = [], []

    def listen(name, seconds, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            compilations.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        result = halving(MEMBERS, SETTINGS, strategy="map", on_progress=lambda progress: after_epoch.append(len(compilations)))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return result, after_epoch


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The same sweep in a directory, interrupted after its third epoch."""
    out, blocks = tmp_path_factory.mktemp("sweeps") / "halving", []

    def train(stop_after, **options):
        return run_sweep(
            MEMBERS,
            out,
            halving=SETTINGS,
            on_block=lambda group, description, done, notes: blocks.append((done, notes)),
            on_epoch=REPORTED.append,
            on_progress=lambda tick: tick.progress.epoch == stop_after,
            **options,
        )

    assert not train(3)
    # As if the process had been killed after its next epoch was recorded, and before its checkpoint.
    with (out / "blocks" / "0000" / "metrics.jsonl").open("a") as file:
        file.write('{"member": 0, "sweep_epoch": 4, "epoch": 4, "diverged": true}\n{"half a li')
    assert train(None, resume=True)
    assert blocks == [(0, []), (3, [])]
    return write_results(out)


def test_each_epoch_of_each_member_is_reported_once(directory):
    text = (directory.path / "blocks" / "0000" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    expected = {(line["member"], line["epoch"]): line["test_elbo"] for line in lines if not line.get("diverged")}
    assert len(REPORTED) == len(expected)
    assert {(metrics["member"], metrics["epoch"]): metrics["test_elbo"] for metrics in REPORTED} == expected
    assert all(metrics["learning_rate"] == MEMBERS[metrics["member"]].learning_rate for metrics in REPORTED)


def simulate(curves, settings, epochs, num_slots):
    """Asynchronous halving with a queue of events, written independently: (end of each member, decisions).

    curves[m] is the list of the values of member m; a list that is too short ends in a divergence.
    """
    rungs = {settings.min_epochs * settings.eta**k: k for k in range(20)}
    arrived, ends, decisions = {}, {}, set()
    waiting, running, now = list(range(len(curves)))[::-1], {}, 0
    for slot in range(num_slots):
        running[slot] = (waiting.pop(), 0)
    while running:
        now += 1
        at_rung = {}
        for member, born in running.values():
            age = now - born
            if age > len(curves[member]):
                next_rung = min((rung for rung in rungs if age <= rung < epochs), default=None)
                arrived.setdefault(next_rung, []).append((math.inf, member))
                ends[member] = (age - 1, "lost")
            elif age == epochs:
                ends[member] = (age, "finished")
            elif age in rungs:
                arrived.setdefault(age, []).append((-curves[member][age - 1], member))
                at_rung[member] = age
        for member, age in at_rung.items():
            place = sorted(arrived[age]).index((-curves[member][age - 1], member))
            is_promoted = place * settings.eta < len(arrived[age])
            decisions.add((now, member, rungs[age], is_promoted))
            if not is_promoted:
                ends[member] = (age, "stopped")
        for slot, (member, _) in list(running.items()):
            if member in ends:
                del running[slot]
                if waiting:
                    running[slot] = (waiting.pop(), now)
    return ends, decisions


def drive(curves, settings, epochs):
    """The same with `HalvingQueue`."""
    queue, ends = HalvingQueue(settings, len(curves), epochs), {}
    while any(member is not None for member in queue.slots):
        running = [member for member in queue.slots if member is not None]
        age = {member: queue.epochs[member] for member in running}
        lost = [member for member in running if age[member] == len(curves[member])]
        values = {member: curves[member][age[member]] for member in running if member not in lost}
        ended = queue.advance_by(values, lost)
        ends |= {member: (queue.epochs[member], text.split()[0]) for member, text in ended.items()}
        ends |= {member: (queue.epochs[member], "lost") for member in lost}
    return queue, ends


def test_decisions_are_those_of_an_independent_simulation():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        count, eta, epochs = rng.integers(3, 40), int(rng.integers(2, 5)), int(rng.integers(2, 30))
        count = max(int(count), eta)
        settings = Halving(eta, int(rng.integers(1, epochs)), num_concurrent=int(rng.integers(eta, count + 1)))
        lengths = np.where(rng.random(count) < 0.1, rng.integers(0, epochs, count), epochs)
        curves = [rng.integers(0, 20, length).astype(float).tolist() for length in lengths]  # with ties
        queue, ends = drive(curves, settings, epochs)
        expected, decisions = simulate(curves, settings, epochs, settings.num_slots(count))
        assert ends == expected
        assert {(one.sweep_epoch, one.member, one.rung, one.is_promoted) for one in queue.decisions} == decisions


def test_all_members_at_once_are_synchronous_successive_halving():
    curves = np.random.default_rng(0).permutation(27)[:, None] + np.zeros((27, 45))
    settings = Halving(3, 5, num_concurrent=27)
    queue, ends = drive(curves.tolist(), settings, 45)
    for rung, kept in enumerate((9, 3)):
        promoted = {one.member for one in queue.decisions if one.rung == rung and one.is_promoted}
        assert promoted == set(np.argsort(-curves[:, 0])[:kept].tolist())
    assert sum(epochs for epochs, _ in ends.values()) == 18 * 5 + 6 * 15 + 3 * 45
    reversed_queue, _ = drive((-curves).tolist(), settings._replace(by="train_loss:min"), 45)
    assert [one._replace(value=0) for one in reversed_queue.decisions] == [one._replace(value=0) for one in queue.decisions]


def test_nothing_compiles_when_slots_are_filled_again(in_memory):
    result, after_epoch = in_memory
    assert after_epoch == after_epoch[:1] * len(after_epoch)
    assert max(result.table["born"]) > 0
    assert len({born for born in result.table["born"].tolist()}) > 2  # members of different epochs were trained together


@functools.cache
def alone(config):
    built = build(config)
    return training.fit(built.vae, built.data, **built.fit_arguments)


@ON_CPU
def test_a_survivor_is_the_single_run_bit_for_bit(in_memory):
    result, _ = in_memory
    late = max(result.params, key=lambda number: result.table["born"][number])
    assert result.table["born"][late] > 0
    single = alone(MEMBERS[late])
    chex.assert_trees_all_equal(result.params[late], jax.device_get(single.params))
    assert result.curves["test_elbo"][late].tolist() == [epoch.test.elbo for epoch in single.progress.history]
    stopped = next(number for number, status in enumerate(result.table["status"]) if status.startswith("stopped"))
    count = result.table["epochs"][stopped]
    prefix = [epoch.validation.elbo for epoch in alone(MEMBERS[stopped]).progress.history]
    np.testing.assert_array_equal(result.curves["validation_elbo"][stopped], prefix[:count] + [np.nan] * (4 - count))


def test_the_table_records_every_decision(in_memory, directory):
    result, _ = in_memory
    assert result.table["status"][1] == "diverged at step 1"
    assert result.member_epochs == np.isfinite(result.curves["test_elbo"]).sum() < 4 * len(MEMBERS)
    with (directory.path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    for decision in result.decisions:
        row = rows[decision.member]
        assert float(row[f"rung_{decision.rung}_value"]) == decision.value
        assert row[f"rung_{decision.rung}_rank"] == str(decision.rank)
        assert row[f"rung_{decision.rung}_compared"] == str(decision.num_compared)
        if not decision.is_promoted:
            assert row["status"] == f"stopped by halving at rung {decision.rung}"
            assert (int(row["rung"]), int(row["epochs"])) == (decision.rung, decision.epoch)
            assert float(row["validation_elbo"]) == decision.value
    finished = [int(row["member"]) for row in rows if row["status"] == "finished"]
    assert sorted(number for point in directory.points for number in point.members) == finished == sorted(result.params)
    summary = json.loads((directory.path / "summary.json").read_text())
    assert summary["diverged"] == [1]
    assert len(summary["stopped_by_halving"]) == len(MEMBERS) - len(finished) - 1
    assert summary["decisions"] == [decision._asdict() for decision in result.decisions]


@ON_CPU
def test_a_directory_that_was_interrupted_has_the_same_bits(in_memory, directory):
    result, _ = in_memory
    assert list(directory.decisions) == result.decisions
    for name in ("status", "test_elbo", "test_kl", "validation_elbo", "born", "epochs", "steps", "active_units"):
        np.testing.assert_array_equal(directory.arrays[name], result.table[name], err_msg=name)
    for number, (_, params) in load_params(directory, sorted(result.params)).items():
        chex.assert_trees_all_equal(params, result.params[number])
    stopped = result.table["status"].tolist().index("stopped by halving at rung 0")
    with pytest.raises(UserError, match=f"member {stopped} was stopped by halving at rung 0 after 1 epochs"):
        load_params(directory, [stopped])
    for number, params in result.params.items():  # without the training data
        chex.assert_trees_all_equal(load_model(directory.path, member=number).params, params)
    with pytest.raises(UserError, match="no result to use, its status is 'stopped by halving at rung 0'"):
        load_model(directory.path, member=stopped)


def test_the_report_draws_curves_and_lists_decisions(directory):
    page = halving_part(directory)
    assert (directory.path / "figures" / "halving.png").stat().st_size > 10_000
    assert page.count('<td class="number">stopped</td>') == sum(not one.is_promoted for one in directory.decisions)
    assert f"All {len(directory.decisions)} decisions" in page


@pytest.mark.parametrize(
    ("members", "settings", "problem"),
    [
        (MEMBERS, Halving(1), "halving: expected a whole number >= 2, got 1"),
        (MEMBERS, Halving(2, 0), "min_epochs: expected a whole number >= 1, got 0"),
        (MEMBERS, Halving(2, 4), "min_epochs: expected fewer epochs than a whole run has"),
        (MEMBERS, Halving(2, 1, num_concurrent=1), "num_concurrent: expected at least"),
        (MEMBERS, Halving(2, 1, by="test_elbo"), "The test set is for the report"),
        (MEMBERS, Halving(2, 1, by="validation_elbow"), "halving_by: expected one of .*validation_elbo"),
        (MEMBERS[:2], Halving(3, 1), "halving: expected at most one member in 2"),
        (grid(BASE, learning_rate=[1e-3, 1e-2], seed=[0, 1]), Halving(2, 1), "differ in their seeds"),
        (grid(BASE, learning_rate=[1e-3, 1e-2], latent_dim=[2, 3]), Halving(2, 1), "one program"),
        (grid(BASE, learning_rate=[1e-3, 1e-2], early_stopping=[1]), Halving(2, 1), "cannot stop early"),
        (design(Config(epochs=4), {"beta": Range(1, 2)}, 3), Halving(2, 1), "validation_fraction=0.1"),
    ],
)
def test_what_cannot_be_halved_is_refused(members, settings, problem):
    with pytest.raises(UserError, match=problem):
        halving(members, settings)


def test_a_sweep_continues_only_as_it_began(directory):
    for members, options, problem in (
        (MEMBERS, {}, "began with Halving"),
        (MEMBERS, {"halving": SETTINGS._replace(eta=3)}, "began with Halving"),
        ([*MEMBERS, dataclasses.replace(BASE, learning_rate=0.5)], {"halving": SETTINGS}, "no members can be added"),
    ):
        with pytest.raises(UserError, match=problem):
            run_sweep(members, directory.path, resume=True, **options)
