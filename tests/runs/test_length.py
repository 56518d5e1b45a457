"""Runs that continue to a different number of epochs: the same bits as a run of that length, or a refusal with the reason."""

import dataclasses
import json
import shutil
import typing

import chex
import jax
import numpy as np
import pytest

from vae_jax import runs
from vae_jax.build import build
from vae_jax.build.built import _make_schedules
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.runs.config_file import read_config
from vae_jax.runs.length import describe_lengths
from vae_jax.training.schedules import DEPENDS_ON_LENGTH

CONFIG = Config(epochs=1, hidden=(4,), latent_dim=2, batch_size=256, validation_fraction=0.1, early_stopping=40)
TIMES = ("seconds", "wall_seconds", "train_examples_per_second")


def config_of(length, **changes):
    return dataclasses.replace(CONFIG, epochs=length, **changes)


def read(path):
    return json.loads(path.read_text())


def lines_of(out):
    return [{k: v for k, v in line.items() if k not in TIMES} for line in runs.read_metrics(out)]


def summary_of(out):
    return {k: v for k, v in read(out / "summary.json").items() if k not in TIMES}


@pytest.fixture(scope="module")
def built():
    return build(config_of(3))


@pytest.fixture(scope="module")
def trained(built, tmp_path_factory):
    """A run of one epoch, and one of three."""
    out = tmp_path_factory.mktemp("length")
    runs.train(build(CONFIG), out / "short")
    fit, _ = runs.train(built, out / "long", checkpoint_seconds=0.0)
    return out, jax.device_get(fit.progress[:2])


@pytest.fixture
def short(trained, tmp_path):
    return shutil.copytree(trained[0] / "short", tmp_path / "run")


def edit_config(out, **settings):
    content = read(out / "config.json")
    (out / "config.json").write_text(json.dumps({**content, "config": {**content["config"], **settings}}))


def lengthen(built, out):
    """(the states, what was said)"""
    said = []
    fit, _ = runs.train(built, out, resume=True, on_start=lambda progress, notes: said.extend(notes))
    return jax.device_get(fit.progress[:2]), said


def test_a_lengthened_run_is_the_longer_run_bit_for_bit(built, trained, short):
    states, said = lengthen(built, short)
    chex.assert_trees_all_equal(states, trained[1])
    assert lines_of(short) == lines_of(trained[0] / "long")
    assert summary_of(short) == summary_of(trained[0] / "long")
    assert said == [f"{short}: its length was changed from 1 to 3 epochs"]
    content = read(short / "config.json")
    assert content["changed_epochs"] == [{"from": 1, "to": 3, "after_epoch": 1}]
    assert content["config"] == read(trained[0] / "long" / "config.json")["config"]
    assert "After epoch 1, its length was changed from 1 to 3 epochs" in describe_lengths(content)
    assert runs.load_run(short).notes == []


class Killed(BaseException):
    pass


def killed(progress, notes):
    raise Killed(notes)


def test_a_kill_while_the_length_is_recorded_leaves_a_run_that_continues(built, trained, short, monkeypatch):
    write = runs.length.write_json
    monkeypatch.setattr(runs.length, "write_json", lambda path, content: killed(None, None))
    with pytest.raises(Killed):
        lengthen(built, short)
    assert read(short / "config.json")["config"]["epochs"] == 1
    assert not (short / "summary.json").exists()
    monkeypatch.setattr(runs.length, "write_json", write)
    with pytest.raises(Killed):
        runs.train(built, short, resume=True, on_start=killed)
    run = runs.load_run(short)
    assert (run.epoch, run.notes) == (1, [f"{short}: the run is unfinished; read at its last checkpoint, epoch 1 of 3."])
    chex.assert_trees_all_equal(lengthen(built, short)[0], trained[1])
    assert len(read(short / "config.json")["changed_epochs"]) == 1


@pytest.mark.slow
def test_a_streamed_run_is_lengthened_too(tmp_path):
    path = tmp_path / "bytes.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (250, 4, 4), dtype=np.uint8))
    one, two = (build(config_of(length, dataset=str(path), stream=True, batch_size=16, early_stopping=0)) for length in (1, 2))
    runs.train(one, tmp_path / "run")
    fit, _ = runs.train(two, tmp_path / "whole")
    chex.assert_trees_all_equal(lengthen(two, tmp_path / "run")[0], jax.device_get(fit.progress[:2]))


SCHEDULES = [
    (name, course)
    for name in ("learning_rate_schedule", "beta_schedule")
    for course in typing.get_args(
        {field.name: typing.get_type_hints(Config)[field.name] for field in dataclasses.fields(Config)}[name]
    )
]


@pytest.mark.parametrize(("name", "course"), SCHEDULES)
def test_schedules_that_depend_on_the_length_are_known(name, course):
    """Compares the first 100 steps of a run of 100 steps with those of a run of 400."""
    config = Config(**{name: course}, beta_warmup_steps=0 if course == "cyclical" else 20, learning_rate_warmup_steps=30)
    both = [_make_schedules(config, total)[name.removesuffix("_schedule")] for total in (100, 400)]
    first, second = (jax.jit(jax.vmap(schedule))(np.arange(100)) for schedule in both)
    assert (course in DEPENDS_ON_LENGTH[name]) == (not np.allclose(first, second, rtol=1e-6))


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        ({"learning_rate_schedule": "cosine"},) * 2
        + (r"`learning_rate_schedule=\"cosine\"` depends on the length.*=\"constant\"`, at the full value, or .*`init_from=",),
        ({"beta_schedule": "cyclical"},) * 2 + (r"`beta_schedule=\"cyclical\"` depends on the length.*=\"linear\"`",),
        ({}, {"beta": 2.0}, r"different settings \(beta: 1\.0 there, 2\.0 here\)"),
    ],
)
def test_what_cannot_be_lengthened_is_refused_and_stays_as_it_is(short, there, here, message):
    edit_config(short, **there)
    before = {path.name: path.read_bytes() for path in short.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=message):
        lengthen(build(config_of(4, **here)), short)
    assert {path.name: path.read_bytes() for path in short.iterdir() if path.is_file()} == before


def test_a_schedule_is_restated_as_one_that_does_not_depend_on_the_length(built, short):
    edit_config(short, learning_rate_schedule="cosine")
    said = lengthen(built, short)[1]
    assert said == [
        f"{short}: its length was changed from 1 to 3 epochs, and its learning rate schedule from cosine to constant"
    ]
    content = read(short / "config.json")
    assert content["changed_epochs"][0]["learning_rate_schedule"] == {"from": "cosine", "to": "constant"}
    assert content["config"]["learning_rate_schedule"] == "constant"


def test_fewer_epochs_than_are_done_are_refused(trained):
    out = trained[0] / "long"
    with pytest.raises(UserError, match=r"epochs: .*: 3 epochs are done already, and 2 are asked for"):
        lengthen(build(config_of(2)), out)
    assert read(out / "config.json")["config"]["epochs"] == 3


def test_a_run_that_stopped_early_is_not_lengthened(tmp_path):
    """A learning rate without effect never improves on the first epoch."""
    config = config_of(9, early_stopping=1, learning_rate=1e-30)
    fit, _ = runs.train(build(config), tmp_path / "run")
    assert (fit.status, len(fit.progress.history)) == ("stopped early", 2)
    with pytest.raises(UserError, match=r"stopped early after epoch 2, .* so a different length would change nothing"):
        lengthen(build(dataclasses.replace(config, epochs=20)), tmp_path / "run")
    assert read(tmp_path / "run" / "summary.json")["epochs"] == 2


ORIGIN = {"path": "runs/a", "sha256": "0", "epoch": 3, "member": None, "parts": ["encoder"], "init_from": None}


@pytest.mark.parametrize(
    "entries",
    [
        {"devices": 0},
        {"devices": "two"},
        {"changed_epochs": [[1, 2]]},
        {"changed_epochs": [{"from": 1, "to": 2}]},
        {"changed_epochs": [{"from": 1, "to": 2, "after_epoch": 1, "beta_schedule": {}}]},
        {"init_from": "runs/a"},
        {"init_from": {**ORIGIN, "parts": None}},
        {"init_from": {**ORIGIN, "init_from": {**ORIGIN, "path": 7}}},
    ],
    ids=str,
)
def test_altered_entries_are_one_error(entries, tmp_path):
    good = {"config": {}, "data": {"sha256": "0"}, "devices": 2, "init_from": {**ORIGIN, "init_from": ORIGIN}}
    good["changed_epochs"] = [{"from": 1, "to": 2, "after_epoch": 1}]
    (tmp_path / "config.json").write_text(json.dumps(good))
    read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**good, **entries}))
    with pytest.raises(UserError, match=rf"config\.json: cannot be read: {next(iter(entries))}: expected"):
        read_config(tmp_path)
