"""New runs from the parameters of trained models: what is taken over, what starts anew, what is refused, and the lineage."""

import dataclasses
import json
import re
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import data, runs, sweep, training
from vae_jax._numerics.keys import Stream, stream
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.runs.in_words import repeat_command
from vae_jax.runs.trained.initial import describe_init, describe_lineage
from vae_jax.runs.trained.model_file import ModelRecord, write_model_file
from vae_jax.sweep.directory import read_sweep, run_sweep
from vae_jax.sweep.results import load_states, load_sweep, write_results

CONFIG = Config(epochs=1, hidden=(4,), latent_dim=2, batch_size=256)
KEY = stream(7, Stream.INIT)
RNG = np.random.default_rng(0)


def save(folder, builts, params, members=()):
    """Writes model.safetensors as a run or a block of a sweep does, without training."""
    folder.mkdir(parents=True)
    configs = [dataclasses.asdict(built.config) for built in builts]
    write_model_file(folder, ModelRecord(configs, builts[0].description, {}, [3] * len(configs), members), params)
    return folder


def save_sweep(path, builts, params, members):
    """Writes a sweep directory with a single block of members that have finished, without training."""
    block = save(path / "blocks" / "0000", builts, params, members)
    (path / "sweep.json").write_text(json.dumps({"members": [{}] * (1 + max(members))}))
    (block / "block.json").write_text(json.dumps({"members": members}))
    rows = [{"member": member, "status": "finished"} for member in members]
    (block / "result.json").write_text(json.dumps({"rows": rows}))
    return block


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """(the folder of a model, its parameters)"""
    built = build(CONFIG)
    params = built.vae.init(KEY)
    return save(tmp_path_factory.mktemp("source") / "first", [built], params), params


def start_of(built):
    """The state before the first step, as `fit` makes it."""
    return training.initial_progress(built.vae, built.optimizer, built.config.seed, built.objective).state


def test_a_run_starts_from_all_parameters_with_a_fresh_optimizer(source):
    path, params = source
    built = build(dataclasses.replace(CONFIG, beta=4.0, optimizer="sgd", objective="free_bits"), init=runs.init_from(path))
    state = start_of(built)
    chex.assert_trees_all_equal(state.params, params)
    assert int(state.step) == 0
    assert describe_init(built) == [f"starting from the encoder, decoder of {path} (epoch 3)"]
    assert build(CONFIG).init is None


def test_a_part_is_taken_over_and_the_rest_starts_as_without_it(source):
    path, params = source
    config = dataclasses.replace(CONFIG, prior="mixture")
    built, fresh = build(config, init=runs.init_from(path, init_parts=("encoder",))), build(config)
    state, random = start_of(built), start_of(fresh)
    chex.assert_trees_all_equal(state.params["encoder"], params["encoder"])
    for part in ("decoder", "prior"):
        chex.assert_trees_all_equal(state.params[part], random.params[part])
    chex.assert_trees_all_equal(state.opt_state, random.opt_state)
    assert describe_init(built) == [f"starting from the encoder of {path} (epoch 3); the decoder, prior start at random values"]


@pytest.mark.parametrize(
    ("changes", "parts", "message"),
    [
        (
            {"hidden": (5,)},
            (),
            r"Dense_0\.kernel is of shape \(4, 4\) in \S*first and of shape \(5, 4\) in the new model.*train from",
        ),
        (
            {"likelihood": "discretized_logistic", "scale": "per_pixel"},
            (),
            r"decoder\.Dense_0\.bias is of shape \(64,\) in .* and of shape \(128,\) .* `init_parts=\(encoder\)`",
        ),
        ({}, ("prior",), r"init_parts: \S*first has no parameters of the prior\. Leave 'prior' out"),
        ({}, ("encoders",), r"unknown part 'encoders'\. Did you mean 'encoder'"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_shapes_and_what_fits(source, changes, parts, message):
    with pytest.raises(UserError, match=message):
        build(dataclasses.replace(CONFIG, **changes), init=runs.init_from(source[0], init_parts=parts))


def real(shift, scale):
    x = (RNG.normal(size=(300, 5)) * np.array([1, 2, 3, 4, 5]) * scale + shift).astype(np.float32)
    return data.from_arrays(x[:250], x[250:])


def counts(rate):
    x = RNG.poisson(rate * np.array([1, 2, 5, 9, 20]), (300, 5)).astype(np.int32)
    return data.from_arrays(x[:250], x[250:])


@pytest.mark.parametrize(
    ("likelihood", "old", "new"),
    [
        ("gaussian", real(0, 1), real(50, 7)),
        ("poisson", counts(1), counts(30)),
        pytest.param("negative_binomial", counts(1), counts(30), marks=pytest.mark.slow),
    ],
)
def test_on_other_data_a_run_begins_as_the_function_that_was_trained(tmp_path, likelihood, old, new):
    """The networks keep the scale with which they saw their data: the model is the same function of the data, bit for bit."""
    config = Config(likelihood=likelihood, hidden=(4,), latent_dim=2, batch_size=50)
    trained = build(config, dataset=old)
    path = save(tmp_path / "first", [trained], params := trained.vae.init(KEY))
    built, other = build(config, dataset=new, init=runs.init_from(path)), build(config, dataset=new)
    x = jnp.asarray(np.asarray(new.test[3]), jnp.float32)

    @jax.jit
    def outputs(params):
        models = (trained, built, other)
        scores = [one.vae.likelihood.log_prob(one.vae.decode(params, jnp.ones(2)), x) for one in models]
        return [one.vae.encode(params, x)[0] for one in models], scores

    for first, second, without in jax.device_get(outputs(params)):
        np.testing.assert_array_equal(first, second)
        assert np.abs(first - without).max() > 0.01
    assert any("standardized by the mean and the scale of" in text for text in describe_init(built))
    fresh = build(config, dataset=new, init=runs.init_from(path, init_parts=("decoder",))).description
    assert fresh.moments.mean.tolist() == trained.description.moments.mean.tolist()


def test_networks_of_standardized_data_do_not_take_raw_ones(tmp_path):
    x = RNG.integers(0, 2, (300, 5)).astype(np.float32)
    dataset = data.from_arrays(x[:250], x[250:])
    config = Config(likelihood="gaussian", hidden=(4,), latent_dim=2, batch_size=50)
    trained = build(config, dataset=dataset)
    path = save(tmp_path / "first", [trained], trained.vae.init(KEY))
    with pytest.raises(UserError, match=r'saw data standardized \(gaussian\).*bernoulli.*as they are.*`likelihood="gaussian"`'):
        build(dataclasses.replace(config, likelihood="bernoulli"), dataset=dataset, init=runs.init_from(path))


@pytest.mark.slow
def test_a_run_needs_its_origin_no_more_and_continues_bit_for_bit(source, tmp_path):
    origin, two = shutil.copytree(source[0], tmp_path / "first"), dataclasses.replace(CONFIG, beta=2.0, epochs=2)
    init = runs.init_from(origin)
    built = build(two, init=init)
    whole, _ = runs.train(built, tmp_path / "whole")
    runs.train(built, tmp_path / "run", on_epoch=lambda line: True)  # stops after one epoch
    shutil.rmtree(origin)
    again, _ = runs.train(build(two, init=runs.recorded_init(tmp_path / "run")), tmp_path / "run", resume=True)
    chex.assert_trees_all_equal(*(jax.device_get(fit.progress[:2]) for fit in (whole, again)))
    for loaded in (runs.load_run(tmp_path / "run"), runs.load_model(tmp_path / "run")):
        chex.assert_trees_all_equal(jax.device_get(loaded.params), jax.device_get(whole.params))
    with pytest.raises(UserError, match=r"began from \S*first\. Pass `init=runs\.recorded_init\('\S*run'\)` to build"):
        runs.train(build(two), tmp_path / "run", resume=True)
    other = build(two, init=runs.init_from(tmp_path / "whole"))
    with pytest.raises(UserError, match=r"began from different parameters \(sha256 \w+ there, \w+ here; epoch 3 there, 2 here"):
        runs.train(other, tmp_path / "run", resume=True)
    # A process that was killed before it had copied the parameters would need them again.
    shutil.rmtree(tmp_path / "run" / "initial")
    with pytest.raises(UserError, match=r"the copy of the parameters .* is missing, and \S*first: neither a run directory"):
        runs.recorded_init(tmp_path / "run")


def test_the_lineage_names_every_ancestor(source, tmp_path):
    path, _ = source
    record = runs.init_from(path).record
    assert set(record) == {"path", "sha256", "epoch", "member", "parts", "init_from"}
    child = save(tmp_path / "child", [built := build(CONFIG, init=runs.init_from(path))], built.vae.init(KEY))
    (child / "config.json").write_text(json.dumps(runs.describe(built, None)))
    grandchild = runs.init_from(child, init_parts=("decoder", "encoder"))
    assert grandchild.record["init_from"] == record
    assert describe_lineage(grandchild.record) == (
        f"It started from the encoder and decoder of {child} (epoch 3), which started from {path} (epoch 3)."
    )
    config = dataclasses.replace(CONFIG, hidden=(4,), mask_input=False)
    command = repeat_command(config, tmp_path / "x", init=grandchild, devices=2)
    assert f"--init-from {child} --init-parts encoder decoder --dataset digits" in command
    assert "--devices 2" in command
    inherited = grandchild._replace(config=dataclasses.replace(CONFIG, beta=4.0, mask_input=True))
    command = repeat_command(config, tmp_path / "x", init=inherited)
    assert re.search(r"--no-mask-input .*--beta 1\.0", command)  # the defaults are those of the origin


def test_a_damaged_origin_is_one_error(source, tmp_path):
    path = shutil.copytree(source[0], tmp_path / "first")
    content = (path / "model.safetensors").read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"\xff" * 64, content.replace(b"[3]", b"[ ]")):
        (path / "model.safetensors").write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.safetensors: cannot be read"):
            runs.init_from(path)


@pytest.fixture(scope="module")
def swept(source, tmp_path_factory):
    """A sweep of one epoch, from a member of another sweep, that goes on to two; the same with two epochs from the start."""
    out, params = tmp_path_factory.mktemp("swept"), source[1]
    members = sweep.grid(CONFIG, beta=(0.5, 4.0))
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf * 0, leaf]), params)
    save_sweep(out / "origin", [build(member) for member in members], stacked, (3, 1))
    init = runs.init_from(out / "origin", member=1)
    longer = [dataclasses.replace(member, epochs=2) for member in members]
    assert run_sweep(members, out / "sweep", init=init)
    shutil.rmtree(out / "origin")
    assert run_sweep(longer, out / "sweep", resume=True)
    assert run_sweep(longer, out / "whole", init=init)
    return out, params, longer


def test_a_sweep_starts_from_a_member_and_is_lengthened_bit_for_bit(swept):
    out, params, longer = swept
    content = json.loads((out / "sweep" / "sweep.json").read_text())
    assert read_sweep(out / "sweep")[0] == longer
    assert (content["init_from"]["member"], content["changed_epochs"]) == (1, [{"from": [1], "to": [2]}])
    for name in ("sweep", "whole"):
        write_results(out / name)
    states = [load_states(load_sweep(out / name), [0, 1]) for name in ("sweep", "whole")]
    for i in (0, 1):
        chex.assert_trees_all_equal(*(one[i][1] for one in states))
    single = build(longer[1], init=states[0][1][0].init)
    chex.assert_trees_all_equal(start_of(single).params, params)  # those of member 1, not of member 3
    fit = training.fit(single.vae, single.data, **single.fit_arguments)
    chex.assert_trees_all_equal(jax.device_get(fit.progress.state), jax.device_get(states[0][1][1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 1}, r"epochs: expected at least the 2 of the sweep in \S*sweep, got 1"),
        ({"epochs": 3, "learning_rate_schedule": "linear"}, r"`learning_rate_schedule` depends on the length of a run"),
    ],
)
def test_a_sweep_is_not_shortened_and_keeps_schedules_of_its_length(swept, tmp_path, changes, message):
    out = shutil.copytree(swept[0] / "sweep", tmp_path / "sweep")
    schedule = changes.get("learning_rate_schedule", "constant")
    content = json.loads((out / "sweep.json").read_text())
    content["members"] = [{**member, "learning_rate_schedule": schedule} for member in content["members"]]
    (out / "sweep.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        run_sweep([dataclasses.replace(member, **changes) for member in swept[2]], out, resume=True)


def test_the_member_of_a_sweep_has_to_be_one_of_it(source, tmp_path):
    path = save_sweep(tmp_path, [build(CONFIG)], jax.tree.map(lambda leaf: leaf[None], source[1]), (2,))
    with pytest.raises(UserError, match=r"init_member: expected a member of the sweep from 0 to 2, got none"):
        runs.init_from(tmp_path)
    with pytest.raises(UserError, match=r"init_member: \S*first: a run has a single model\. Leave it out"):
        runs.init_from(source[0], member=1)
    (path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"init_from: \S*0000: has no model\.safetensors"):
        runs.init_from(tmp_path, member=2)
    (path / "result.json").write_text('{"rows": [{"member": 2, "status": "diverged at step 3"}, 7]}')
    with pytest.raises(UserError, match=r"init_member: .* no result to use\. Its status is 'diverged at step 3'"):
        runs.init_from(tmp_path, member=2)
    (path / "result.json").unlink()
    with pytest.raises(UserError, match=r"init_member: .* has not ended"):
        runs.init_from(tmp_path, member=2)
    (path / "block.json").write_text('{"members": 2}')
    with pytest.raises(UserError, match="expected a list of members"):
        runs.init_from(tmp_path, member=2)
