"""Codes of stored data, runs that can be read again, and results that a notebook can print."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import data, evaluation, likelihoods, model, runs, training
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.evaluation import encode_dataset
from vae_jax.runs import evaluate_run as assessment
from vae_jax.runs.metrics_file import read_metrics
from vae_jax.runs.summary_file import read_summary
from vae_jax.sweep.directory import read_sweep
from vae_jax.sweep.in_memory import Sweep
from vae_jax.sweep.members import Group, read_points

FIT = {"epochs": 1, "batch_size": 2, "seed": 0}
TINY = {"hidden": (4,), "latent_dim": 2, "batch_size": 512, "epochs": 1}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", validation_fraction=0.1)


@pytest.fixture(scope="module")
def vae():
    return model.mlp_vae((8, 8, 1), likelihoods.bernoulli(), latent_dim=2, hidden=(4,))


@pytest.fixture(scope="module")
def params(vae):
    return vae.init(jax.random.key(0))


def by_hand(params, x):
    """The encoder's layers in float64: (means, log scales) of images on the scale of training."""
    dense = lambda layer, h: h @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)  # noqa: E731
    encoder = params["encoder"]
    h = np.maximum(dense(encoder["_Hidden_0"]["Dense_0"], np.asarray(x, np.float64).reshape(len(x), -1)), 0)
    return np.split(dense(encoder["Dense_0"], h), 2, axis=1)


# Codes of whole splits.


@pytest.mark.parametrize("split", ["test", "validation", "train"])
def test_codes_of_a_split_are_those_of_images_on_the_scale_of_training(split, digits, vae, params):
    """Levels 0 to 16 become 0 to 1: seen as stored, the codes would be spread sixteen times as far."""
    prepared = data.prepare(digits)
    key = jax.random.key(0) if split == "train" else None
    found = encode_dataset(vae, params, prepared, split=split, key=key)
    images = {"test": digits.test, "validation": digits.validation, "train": digits.train}[split]
    for ours, exact in zip(found, by_hand(params, images / 16.0), strict=True):
        np.testing.assert_allclose(ours, exact, atol=1e-5)
    with pytest.raises(ValueError, match=re.escape("evaluation.encode_dataset(vae, params, prepared)")):
        jax.vmap(vae.encode, in_axes=(None, 0))(params, getattr(prepared, split)[:3])


def test_codes_of_binarized_data_are_those_of_zeros_and_ones(digits, vae, params):
    prepared = data.prepare(digits, binarization="dynamic")
    found = encode_dataset(vae, params, prepared)
    assert set(np.unique(prepared.test)) == {0, 1}
    np.testing.assert_allclose(found[0], by_hand(params, prepared.test)[0], atol=1e-5)
    # Of the training set the levels are stored, and each example is drawn with a key of its own.
    key = jax.random.key(3)
    means, _ = encode_dataset(vae, params, prepared, split="train", key=key)
    rows = jnp.asarray(prepared.train[:300])
    drawn = jax.vmap(lambda i, row: prepared.train_input(jax.random.fold_in(key, i), row[None])[0])(jnp.arange(300), rows)
    assert set(np.unique(drawn)) == {0, 1}
    np.testing.assert_allclose(means[:300], by_hand(params, drawn)[0], atol=1e-5)
    assert not np.allclose(means, encode_dataset(vae, params, prepared, split="train", key=jax.random.key(4))[0], atol=1e-3)


def test_training_images_on_disk_have_the_codes_of_those_in_memory(tmp_path, vae, params):
    np.save(tmp_path / "levels.npy", np.random.default_rng(0).integers(0, 256, (200, 8, 8), np.uint8))
    codes = []
    for stream in (False, True):
        prepared = data.prepare(data.load(tmp_path / "levels.npy", stream=stream))
        codes.append(encode_dataset(vae, params, prepared, split="train", key=jax.random.key(0)))
    assert isinstance(prepared.train, data.Rows)
    np.testing.assert_array_equal(codes[0], codes[1])


WRONG = {
    "levels": (lambda v, p, d: encode_dataset(v, p, d.test), "got uint8, as data are stored"),
    "levels to evaluate": (
        lambda v, p, d: evaluation.evaluate(jax.random.key(0), v, p, d.test),
        "to_input=prepared.eval_input",
    ),
    "levels to log p(x)": (
        lambda v, p, d: evaluation.importance_log_px(jax.random.key(0), v, p, d.test[:2], num_samples=2),
        "to_input=prepared.eval_input",
    ),
    "to_input twice": (
        lambda v, p, d: encode_dataset(v, p, d, to_input=d.eval_input),
        "`to_input` comes from the prepared data",
    ),
    "no key": (lambda v, p, d: encode_dataset(v, p, d, split="train"), 'expected a key for `split="train"`'),
    "no validation": (lambda v, p, d: encode_dataset(v, p, d, split="validation"), "validation_fraction=0.1"),
    "no such split": (lambda v, p, d: encode_dataset(v, p, d, split="valid"), "unknown split 'valid'"),
    "a split of an array": (lambda v, p, d: encode_dataset(v, p, d.test, split="train"), "Pass what data.prepare returned"),
    "a data set": (lambda v, p, d: encode_dataset(v, p, data.load("digits")), "such as prepared.test, got a Dataset"),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_codes_that_would_be_wrong_are_refused(call, message, vae, params):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(vae, params, data.prepare(data.load("digits")))


ARRAY = np.zeros((10, 8, 8), np.uint8)
GIVEN = {
    "load an array": (lambda v: data.load(ARRAY), "got an array of shape (10, 8, 8) and dtype uint8. Use data.from_arrays("),
    "load a list": (
        lambda v: data.load([ARRAY]),
        "data.load: expected the name or path of a data set, got a list. For",
    ),
    "load twice": (lambda v: data.load(data.load("digits")), "It is loaded already"),
    "prepare an array": (lambda v: data.prepare(ARRAY), "Use data.prepare(data.from_arrays(array))."),
    "prepare a name": (lambda v: data.prepare("digits"), "Use data.prepare(data.load('digits'))."),
    "fit an array": (
        lambda v: training.fit(v, jnp.asarray(ARRAY), **FIT),
        "Use data.prepare(data.from_arrays(array)).",
    ),
    "fit a data set": (
        lambda v: training.fit(v, data.load("digits"), **FIT),
        "Use data.prepare(dataset).",
    ),
    "arguments swapped": (
        lambda v: training.fit(data.prepare(data.load("digits")), v, **FIT),
        "The model comes first: fit(vae, prepared).",
    ),
}


@pytest.mark.parametrize(("call", "message"), GIVEN.values(), ids=GIVEN)
def test_the_steps_from_images_to_training_are_named(call, message, vae):
    with pytest.raises(ValueError, match=re.escape(message)):
        call(vae)


def test_the_steps_for_an_array_serve(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", ARRAY)
    assert data.prepare(data.load("images.npy")).test.shape == (2, 8, 8, 1)


# Run directories by strings, from what `build` made.


@pytest.fixture(scope="module")
def built():
    return build(Config(**TINY))


@pytest.fixture(scope="module")
def trained(built, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("runs") / "run")
    return out, *runs.train(built, out)


def test_a_run_is_written_and_read_by_a_string_and_records_the_number_of_parameters(trained):
    out, fit, summary = trained
    encoder, decoder = (64 * 4 + 4) + (4 * 4 + 4), (2 * 4 + 4) + (4 * 64 + 64)
    run = runs.load_run(out)
    assert run.summary["num_parameters"] == runs.read_config(out)[1]["num_parameters"] == encoder + decoder
    jax.tree.map(np.testing.assert_array_equal, run.params, fit.params)
    assert len(read_metrics(out)) == 1
    assert read_summary(out)["test_elbo"] == summary["test_elbo"]
    with pytest.raises(ValueError, match="did not diverge"):
        runs.load_last_good(out)
    with pytest.raises(ValueError, match="not a sweep directory"):
        read_sweep(out)


def test_a_home_is_found_and_what_is_no_path_is_named(monkeypatch, trained, tmp_path):
    out = trained[0]
    monkeypatch.setenv("HOME", out.removesuffix("/run"))
    assert runs.read_config("~/run")[0].hidden == (4,)
    (tmp_path / "members.csv").write_text("beta\n2\n")
    assert [member.beta for member in read_points(Config(), str(tmp_path / "members.csv"))] == [2.0]
    for wrong in (None, "", 3):
        with pytest.raises(ValueError, match="expected a path such as 'runs/first', got"):
            runs.load_run(wrong)


CHANGES = {
    "vae": lambda b: {"vae": model.mlp_vae((8, 8, 1), likelihoods.bernoulli(), latent_dim=2, hidden=(4,))},
    "vae's likelihood": lambda b: {"vae": b.vae._replace(likelihood=likelihoods.bernoulli())},
    "config": lambda b: {"config": dataclasses.replace(b.config, latent_dim=3)},
    "data": lambda b: {"data": data.prepare(b.dataset, seed=1)},
    "fit_arguments['epochs']": lambda b: {"fit_arguments": {**b.fit_arguments, "epochs": 2}},
    "fit_arguments['on_epoch']": lambda b: {"fit_arguments": {**b.fit_arguments, "on_epoch": print}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_parts_replaced_after_build_are_refused_before_anything_is_written(name, built, tmp_path):
    changed = built._replace(**CHANGES[name](built))
    with pytest.raises(ValueError, match=rf"built\.{re.escape(name.split(chr(39) + 's')[0])} was replaced after build"):
        runs.train(changed, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_the_advice_for_a_model_of_ones_own_serves(built):
    mine = model.mlp_vae((8, 8, 1), likelihoods.bernoulli(), latent_dim=3, hidden=(3,))
    assert training.check_step(mine, built.data, training.FitOptions.from_keywords(built.fit_arguments)).loss.shape == ()


# What a notebook prints.


def test_results_are_printed_by_their_shapes(built, trained):
    out, fit, _ = trained
    run, many = runs.load_run(out), np.zeros(10_000)
    found = assessment.Assessment({f"number {i}": 1 / 3 for i in range(200)}, {"kl": many, "log_px": many})
    log_px = evaluation.LogPx(*(many for _ in evaluation.LogPx._fields))
    members = training.MembersFit(fit.progress, ("finished",) * 100, fit.params, (1,) * 100, (fit.test,) * 100, None)
    group = Group("beta = 1", (built.config,) * 100, tuple(range(100)))
    table = Sweep(group.configs, {"test_elbo": many}, [], {"test_kl": np.zeros((100, 50))}, [(group, built, members)])
    results = [fit, fit.progress, fit.progress.state, run, built, built.data, built.dataset, built.vae]
    for result in (*results, found, log_px, members, group, table):
        assert len(repr(result)) < 1000
        assert repr(result).startswith(f"{type(result).__name__}(")
    assert "test=uint8(359, 8, 8, 1)" in repr(built.data)
    assert "status='finished'" in repr(fit)
    assert f"elbo={fit.test.elbo:.6g}" in repr(fit)
    assert "log_px=float64(10000,)" in repr(log_px)
    assert "{'test_kl': float64(100, 50)}" in repr(table)
