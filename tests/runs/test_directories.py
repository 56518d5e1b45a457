"""Run and sweep directories as a kill, a fault of the disk or another process leaves them: never a wrong number in silence."""

import dataclasses
import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import likelihoods, runs, sweep, training
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.errors import DivergenceWarning, UserError
from vae_jax.model import num_parameters
from vae_jax.report.run.content import quantities
from vae_jax.runs.checkpoints import Checkpoints
from vae_jax.sweep import blocks, directory
from vae_jax.sweep.blocks import Layout
from vae_jax.sweep.directory import read_sweep, run_sweep
from vae_jax.sweep.results import load_params, load_states, load_sweep

DECAY = 0.6
CONFIG = Config(epochs=3, hidden=(8,), latent_dim=2, batch_size=256, ema_decay=DECAY)
ALWAYS = {"checkpoint_seconds": 0.0}


@pytest.fixture(scope="module")
def built():
    return build(CONFIG)


@pytest.fixture(scope="module")
def whole(built, tmp_path_factory):
    """A finished run, one of another seed, and a sweep of two members."""
    out = tmp_path_factory.mktemp("whole")
    runs.train(built, out / "run", **ALWAYS)
    runs.train(build(dataclasses.replace(CONFIG, seed=1)), out / "other", **ALWAYS)
    run_sweep(sweep.grid(CONFIG, beta=(0.5, 4.0)), out / "sweep", **ALWAYS)
    return out


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole / "run", tmp_path / "run")


@pytest.fixture
def block(whole, tmp_path):
    """The block of the sweep, which has ended."""
    return shutil.copytree(whole / "sweep", tmp_path / "sweep") / "blocks" / "0000"


def read(path):
    return json.loads(path.read_text())


def edit(path, change):
    path.write_text(json.dumps(change(read(path))))


def drop_last_line(path):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def go_on(built, run, **options):
    """(summary.json after the run was resumed, the notes)."""
    said = []
    runs.train(built, run, resume=True, on_start=lambda progress, notes: said.extend(notes), **ALWAYS, **options)
    return read(run / "summary.json"), said


def same(one, other):
    return one["test_elbo"] == other["test_elbo"] and one["steps"] == other["steps"]


def test_what_is_read_back_are_the_averaged_parameters(built, whole):
    """Of a run and of a member of a sweep; the average corrected for its start at zero, from what the checkpoint holds."""

    def average(state):
        weight = 1 - DECAY ** int(state.step)
        return jax.tree.map(lambda average: np.asarray(average) / weight, state.opt_state[-1].average)

    like = training.initial_progress(built.vae, built.optimizer, 0, built.objective, keep_best=False)
    with Checkpoints(whole / "run" / "checkpoints") as checkpoints:
        of_run = checkpoints.restore(like[:2])[1]
    results = load_sweep(whole / "sweep")
    ((_, member),) = load_states(results, [1]).values()
    ((_, of_member),) = load_params(results, [1]).values()
    for params, state in ((runs.load_run(whole / "run").params, of_run), (of_member, member)):
        chex.assert_trees_all_close(params, average(state), rtol=1e-5)
        far = jax.tree.map(lambda a, b: np.max(np.abs(np.asarray(a) - np.asarray(b))), params, state.params)
        assert max(jax.tree.leaves(far)) > 1e-3  # the raw ones are others


@pytest.mark.parametrize(
    "state",
    [
        "another run's",
        "both another run's",
        *(pytest.param(state, marks=pytest.mark.slow) for state in ("an older one", "newer than the record")),
    ],
)
def test_a_checkpoint_that_is_not_this_epochs_is_passed_over(state, built, whole, run):
    before, folder = read(whole / "run" / "summary.json"), run / "checkpoints"
    if state == "newer than the record":  # as after a resume that could not read it for a moment, and a kill
        drop_last_line(run / "metrics.jsonl")
    else:
        for name in ("2", "3") if state.startswith("both") else ("3",):
            shutil.rmtree(folder / name)
            source = run if state == "an older one" else whole / "other"
            shutil.copytree(source / "checkpoints" / ("2" if source == run else name), folder / name)
    if state.startswith("both"):
        with pytest.raises(UserError, match=r"no good checkpoint.*a different run.* its test ELBO of epoch 3 is -"):
            go_on(built, run)
        return
    read_at = runs.load_run(run)
    assert read_at.epoch == 2
    assert "checkpoint 3 is damaged or belongs to a different run" in read_at.notes[0]
    after, said = go_on(built, run)
    assert same(after, before)
    assert said == read_at.notes[:1]
    again = runs.load_run(run)
    assert (again.epoch, again.notes) == (3, [])


def test_a_checkpoint_that_is_missing_is_said_and_made_again(built, run):
    shutil.rmtree(run / "checkpoints" / "3")
    found = runs.load_run(run)
    assert (found.epoch, found.summary) == (2, None)
    assert "summary.json describes epoch 3, whose checkpoint is missing; read at epoch 2" in found.notes[0]
    go_on(built, run)
    assert runs.load_run(run).notes == []


def test_a_reader_that_the_writer_overtakes_reads_what_is_there_now(built, run, monkeypatch):
    read_one, overtaken = Checkpoints._read, []

    def slowly(self, name, like):
        if not overtaken:
            overtaken.append(name)
            (run / "checkpoints" / str(name)).rename(run / "moved")
        return read_one(self, name, like)

    monkeypatch.setattr(Checkpoints, "_read", slowly)
    found = runs.load_run(run)
    assert overtaken == [3]
    assert found.epoch == 2
    assert not any("damaged" in note for note in found.notes)


@pytest.mark.parametrize("content", ["[]", "0", "{}", '{"status": "diverged"}', '{"status": "finished", "epochs": 3}', '{"a'])
def test_a_summary_that_is_none_is_written_anew(content, built, whole, run):
    (run / "summary.json").write_text(content)
    found = runs.load_run(run)
    assert found.summary is None
    assert "unfinished" in found.notes[0]


def test_an_elbo_that_was_not_finite_is_reported_as_such(run):
    edit(run / "summary.json", lambda content: {**content, "test_elbo": None, "test_log_likelihood": None})
    assert {row.name: row.value for row in quantities(runs.load_run(run))}["test ELBO"].startswith("nan ± 0.")


def test_a_record_with_another_name_in_it_ends_there(built, whole, run):
    text = (run / "metrics.jsonl").read_text().splitlines()
    text[1] = text[1].replace("train_kl", "train_kk")
    (run / "metrics.jsonl").write_text("\n".join(text) + "\n")
    assert [line["epoch"] for line in runs.read_metrics(run)] == [1]
    with pytest.raises(UserError, match=r"metrics\.jsonl has null"):
        go_on(built, run)


def test_what_another_process_made_meanwhile_stays(whole, tmp_path, built, monkeypatch):
    """It comes and goes between the look at the folder and the lock."""
    check_step, out = training.check_step, tmp_path / "run"

    def meanwhile(*args, **options):
        if not out.exists():
            shutil.copytree(whole / "other", out)
        return check_step(*args, **options)

    monkeypatch.setattr(training, "check_step", meanwhile)
    with pytest.raises(UserError, match="exists and is not empty"):
        runs.train(built, out)
    assert read(out / "summary.json") == read(whole / "other" / "summary.json")


def test_members_that_another_process_added_meanwhile_stay(block, monkeypatch):
    out, check_step = block.parents[1], directory.check_step

    def meanwhile(*args, **options):
        monkeypatch.setattr(directory, "check_step", check_step)
        run_sweep(sweep.grid(CONFIG, beta=(0.5, 4.0, 8.0)), out, resume=True)
        return check_step(*args, **options)

    monkeypatch.setattr(directory, "check_step", meanwhile)
    with pytest.raises(UserError, match="another process has changed the sweep"):
        run_sweep(sweep.grid(CONFIG, beta=(0.5, 4.0, 2.0)), out, resume=True)
    assert [member.beta for member in read_sweep(out)[0]] == [0.5, 4.0, 8.0]
    assert [row["beta"] for row in load_sweep(out).rows] == [0.5, 4.0, 8.0]


@pytest.mark.slow
def test_nothing_of_a_divergence_outlives_it(tmp_path):
    """A run of a function of the user's, which is repaired."""

    def broken(logits, x):
        return likelihoods.bernoulli_log_prob(logits, x) + jnp.where(x[3, 3, 0] > 0.5, jnp.nan, 0.0)

    def repaired(logits, x):
        return likelihoods.bernoulli_log_prob(logits, x)

    config = dataclasses.replace(CONFIG, binarize="threshold")
    with pytest.warns(DivergenceWarning):
        fit, _ = runs.train(build(config, likelihood=broken), tmp_path / "run")
    assert fit.status == "diverged"
    assert (tmp_path / "run" / "last_good").is_dir()
    fit, _ = runs.train(build(config, likelihood=repaired), tmp_path / "run", resume=True)
    assert fit.status == "finished"
    assert not {"last_good", "diverged.json", ".last_good.removed"} & {path.name for path in (tmp_path / "run").iterdir()}


def test_a_member_whose_last_epoch_is_not_on_record_is_not_trained_on(block):
    (block / "result.json").unlink()
    drop_last_line(block / "metrics.jsonl")  # of the second member; the first one's stays
    for epoch in (2, 3):  # as an older version wrote them: they do not say what they belong to
        edit(block / "checkpoints" / str(epoch) / "meta" / "metadata", lambda meta: {k: meta[k] for k in ("epoch", "sha256")})
    with pytest.raises(UserError, match=r"metrics.jsonl lacks epochs of the checkpoint"):
        run_sweep(sweep.grid(CONFIG, beta=(0.5, 4.0)), block.parents[1], resume=True)


def test_and_one_that_says_what_it_belongs_to_is_passed_over(whole, block):
    (block / "result.json").unlink()
    drop_last_line(block / "metrics.jsonl")
    said = []
    run_sweep(
        sweep.grid(CONFIG, beta=(0.5, 4.0)),
        block.parents[1],
        resume=True,
        on_block=lambda group, why, done, notes: said.extend([*notes, why]),
        **ALWAYS,
    )
    assert "checkpoint 3 is damaged or belongs to a different run" in said[0]
    assert said[-1].startswith(f"{num_parameters(build(CONFIG).vae):,} parameters each; ")
    assert [row["test_elbo"] for row in load_sweep(block.parents[1]).rows] == [
        row["test_elbo"] for row in load_sweep(whole / "sweep").rows
    ]


def test_parameters_that_are_not_those_of_the_table_are_refused(block):
    out = block.parents[1]
    assert len(load_params(load_sweep(out), [1])) == 1
    shutil.rmtree(block / "checkpoints" / "3")
    with pytest.raises(
        UserError, match=r"damaged or missing. Remove its result.json and continue the sweep with `resume=True`"
    ):
        load_params(load_sweep(out), [1])
    (block / "result.json").unlink()
    run_sweep(sweep.grid(CONFIG, beta=(0.5, 4.0)), out, resume=True)
    assert len(load_params(load_sweep(out), [1])) == 1


ALTERED = {
    "no members": ("sweep.json", lambda content: {**content, "members": []}, "expected at least one member"),
    "a setting out of range": (
        "sweep.json",
        lambda content: {**content, "members": [{**content["members"][0], "beta": -1.0}]},
        "beta: expected a number >= 0",
    ),
    "a block of none": ("block.json", lambda content: {**content, "members": []}, "expected members of the sweep"),
    "a block of others": ("block.json", lambda content: {**content, "members": [0, 7]}, "expected members of the sweep"),
    "a block of words": ("block.json", lambda content: {**content, "members": "x"}, "expected members of the sweep"),
    "a layout of words": (
        "block.json",
        lambda content: {**content, "layout": {"strategy": "vmap", "chunk": "x"}},
        "and their layout",
    ),
    "a layout of others": ("block.json", lambda content: {**content, "layout": {"x": 1}}, "and their layout"),
    "rows without names": ("result.json", lambda content: {**content, "rows": [{}]}, "expected a row for each of the members"),
    "too few rows": ("result.json", lambda content: {**content, "rows": content["rows"][:1]}, "a row for each"),
}


@pytest.mark.parametrize(("name", "change", "words"), ALTERED.values(), ids=ALTERED)
def test_files_of_a_sweep_that_were_altered(name, change, words, block):
    out = block.parents[1]
    edit(out / name if name == "sweep.json" else block / name, change)
    with pytest.raises(UserError, match=words):
        load_sweep(out)
    if name == "block.json":
        (block / "result.json").unlink()
        with pytest.raises(UserError, match=words):
            run_sweep(sweep.grid(CONFIG, beta=(0.5, 4.0)), out, resume=True)


def test_a_block_goes_on_as_it_began():
    began = {"strategy": "vmap", "chunk": None, "data_parallel": 1, "devices": 1}
    assert blocks.continued_layout(Layout(), began, "0000") == Layout("vmap", None, 1, 1)
    assert blocks.continued_layout(Layout(devices=2), {"strategy": "map", "devices": None}, "0000") == Layout("map", devices=2)
    with pytest.raises(UserError, match=r"data_parallel: 0000 began with 1, not 2\. Leave it out to continue bit for bit"):
        blocks.continued_layout(Layout(data_parallel=2), began, "0000")
    many = len(jax.local_devices()) + 1
    with pytest.raises(UserError, match=rf"0000 began on {many} devices, and this process has {many - 1}\. .*`devices={many}`"):
        blocks.continued_layout(Layout(), {**began, "devices": many}, "0000")


@pytest.mark.parametrize("name", ["figures", "checkpoints"])
def test_nothing_is_written_through_a_link(name, built, run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    if (run / name).exists():
        shutil.rmtree(run / name)
    (run / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(UserError, match=f"{name}: a link that leads out of the run directory"):
        go_on(built, run)
    assert not list((tmp_path / "elsewhere").iterdir())
