"""A data set from memory, from `data.from_arrays` to training, a run directory, its evaluation, a report and sweeps."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from vae_jax import data, runs, sweep
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.evaluation.probes import probe_labels
from vae_jax.report.run.page import write_report
from vae_jax.report.sweep.text import command
from vae_jax.runs.evaluate_run import EvaluationOptions, assess
from vae_jax.runs.in_words import repeat_command
from vae_jax.runs.label_accuracy import label_accuracy
from vae_jax.runs.likelihood_comparison import plan
from vae_jax.sweep.directory import run_sweep
from vae_jax.sweep.results import load_params, load_sweep

IMAGES = np.random.default_rng(0).integers(0, 2, (120, 6, 6), dtype=np.uint8)
LABELS = np.array(["cat", "dog"])[IMAGES[:, 0, 0]]
CONFIG = Config(epochs=2, hidden=(8,), latent_dim=2, batch_size=16)


def make():
    return data.from_arrays(IMAGES, labels=LABELS, validation_fraction=0.1, name="checks")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run, and its fit."""
    out = tmp_path_factory.mktemp("runs") / "run"
    fit, _ = runs.train(build(CONFIG, dataset=make()), out)
    return out, fit


def accuracies(run):
    """The accuracies of labels, from codes that are computed one by one."""
    vae, dataset = run.built.vae, run.built.dataset
    encode = jax.jit(jax.vmap(lambda x: vae.encode(run.params, x)[0]))
    codes, test_codes = (np.asarray(encode(rows.astype(np.float32))) for rows in (dataset.train, dataset.test))
    probes = probe_labels(codes, dataset.train_labels, test_codes, dataset.test_labels)
    return {"knn_accuracy": probes.knn.mean, "linear_probe_accuracy": probes.linear.mean, "probe_train_codes": 86}


def test_few_codes_predict_labels_and_none_where_they_are_no_classes(trained):
    run = runs.load_run(trained[0], dataset=make())
    test_codes = np.zeros((24, 2))
    numbers = label_accuracy(run, test_codes, 10)
    assert (numbers["probe_train_codes"], numbers["probe_test_codes"]) == (10, 10)
    assert numbers == label_accuracy(run, test_codes, 10)
    assert label_accuracy(run, test_codes, 0) == {}
    for labels in (np.arange(86), np.full(86, -1), None):
        dataset = run.built.dataset._replace(train_labels=labels)
        assert label_accuracy(run._replace(built=run.built._replace(dataset=dataset)), test_codes, 100) == {}


def test_a_run_directory_records_the_name_and_the_fingerprint(trained):
    content = json.loads((trained[0] / "config.json").read_text())
    assert content["config"]["dataset"] == "custom"
    assert (content["data"]["name"], content["data"]["sha256"]) == ("checks", make().fingerprint())


@pytest.mark.slow
def test_the_run_is_loaded_with_its_data_and_evaluated(trained):
    run = runs.load_run(trained[0], dataset=make())
    jax.tree.map(np.testing.assert_array_equal, run.params, trained[1].params)
    numbers = assess(run, EvaluationOptions(num_samples=10, elbo_samples=1)).numbers
    assert numbers["test_elbo"] == run.summary["test_elbo"]
    assert numbers | accuracies(run) == numbers
    assert numbers["num_labels"] == 2
    assert np.isfinite(numbers["majority_accuracy_standard_error"])
    page = write_report(run).read_text()
    assert "VAE on checks" in page
    assert "dataset=dataset" in page


def test_without_the_data_or_with_other_data_the_run_says_what_to_pass(trained):
    with pytest.raises(UserError, match=r"the data set 'checks' \(fingerprint \w{12}\) was passed from memory, .*pass data"):
        runs.load_run(trained[0])
    other = data.from_arrays(1 - IMAGES, name="others")
    there, here = make().fingerprint()[:12], other.fingerprint()[:12]
    with pytest.raises(UserError, match=f"'others' differs from .* fingerprint is {here}, and {there} is recorded"):
        runs.load_run(trained[0], dataset=other)


def test_a_run_of_a_named_data_set_refuses_data_from_memory(tmp_path):
    np.save(tmp_path / "x.npy", IMAGES)
    built = build(dataclasses.replace(CONFIG, dataset=str(tmp_path / "x.npy"), validation_fraction=0.1))
    runs.train(built, tmp_path / "run")
    with pytest.raises(UserError, match=r"it names its data set, which is loaded again.* Leave dataset= out"):
        runs.load_run(tmp_path / "run", dataset=built.dataset)


@pytest.mark.slow
def test_a_run_is_resumed_with_its_data_alone(trained, tmp_path):
    out, stopped = tmp_path / "run", []
    runs.train(build(CONFIG, dataset=make()), out, on_epoch=lambda line: stopped.append(line) or True)
    other = data.from_arrays(IMAGES[::-1], validation_fraction=0.1)
    with pytest.raises(UserError, match=r"the data set 'arrays' differs from the one that the run began with"):
        runs.train(build(CONFIG, dataset=other), out, resume=True)
    fit, _ = runs.train(build(CONFIG, dataset=make()), out, resume=True)
    assert len(stopped) == 1
    jax.tree.map(np.testing.assert_array_equal, fit.params, trained[1].params)


def test_the_lines_that_repeat_a_run_can_be_executed(trained):
    lines = repeat_command(runs.read_config(trained[0])[0], trained[0]).splitlines()
    names = {"build": build, "Config": Config, "dataset": make()}
    exec(lines[0], names)
    assert names["built"].config == build(CONFIG, dataset=make()).config
    assert lines[1] == f"runs.train(built, {str(trained[0])!r})"


@pytest.mark.slow
def test_a_sweep_trains_its_members_on_the_data(trained, tmp_path):
    members = sweep.grid(CONFIG, beta=(1.0, 4.0))
    result = sweep.sweep(members, dataset=make())
    alone = trained[1].test
    np.testing.assert_allclose(result.table["test_elbo"][0], alone.elbo, rtol=1e-5)
    assert run_sweep(members, tmp_path / "sweep", dataset=make())
    loaded = load_sweep(tmp_path / "sweep")
    np.testing.assert_allclose(loaded.arrays["test_elbo"], result.table["test_elbo"], rtol=1e-5)
    with pytest.raises(UserError, match=r"'checks' .* was passed from memory, .*pass dataset=... to load_params"):
        load_params(loaded, [1])
    other = data.from_arrays(1 - IMAGES, validation_fraction=0.1)
    with pytest.raises(UserError, match="'arrays' differs from the one that the sweep was trained on"):
        load_params(loaded, [1], dataset=other)
    assert load_params(loaded, [1], dataset=make())[1][0].dataset.name == "checks"
    assert "dataset=dataset)" in command(loaded)[0]
    with pytest.raises(UserError, match=r"'arrays' differs from the one that the sweep in .* began with"):
        run_sweep(members, tmp_path / "sweep", dataset=other, resume=True)
    assert run_sweep(members, tmp_path / "sweep", dataset=make(), resume=True)  # nothing is left to train


def test_likelihoods_are_compared_on_the_data():
    dataset = make()
    entry = plan(CONFIG, "poisson", dataset)
    assert build(entry.config, dataset=dataset).dataset is dataset


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"test_fraction": 0.5}, r"test_fraction: the data set 'checks' is made already, .*Pass it to data.from_arrays"),
        ({"event": "vector"}, r"event: the data set 'checks' is made already"),
        ({"test_dataset": "x.npy"}, r"test_dataset: the data set 'checks' is made already"),
        ({"stream": True}, r"stream: the data set 'checks' is in memory. Leave out"),
    ],
)
def test_settings_that_the_data_have_already_are_refused(settings, text):
    with pytest.raises(UserError, match=text):
        build(dataclasses.replace(CONFIG, **settings), dataset=make())


def test_an_array_in_place_of_a_data_set_says_how_to_make_one():
    with pytest.raises(UserError, match=r"build: expected the Dataset .* Use data.from_arrays\(array\)"):
        build(CONFIG, dataset=IMAGES)
    with pytest.raises(UserError, match=r"dataset: the data set was made in memory. Pass dataset=... to build or load_run"):
        build(dataclasses.replace(CONFIG, dataset="custom"))


def test_a_loaded_data_set_that_is_streamed_can_be_passed(tmp_path):
    np.save(tmp_path / "x.npy", IMAGES)
    built = build(CONFIG, dataset=data.load(tmp_path / "x.npy", stream=True))
    assert built.config.stream
    assert isinstance(built.data.train, data.Rows)


def test_settings_of_the_data_cannot_be_swept():
    for name in ("event", "test_dataset", "label_column", "array"):
        with pytest.raises(UserError, match="cannot be swept: all members share the data"):
            sweep.grid(CONFIG, **{name: ["a", "b"]})


WITHOUT = [({"condition": [0, 1] * 30}, "condition"), ({"missing": "nan"}, "missing entries")]


@pytest.mark.parametrize(("arguments", "thing"), WITHOUT)
def test_a_data_set_without_what_the_run_had_is_named(tmp_path, arguments, thing):
    x = np.ones((60, 3), np.float32)
    complete = data.from_arrays(x)
    x[3:9, 0] = np.nan if "missing" in arguments else 1
    config = Config(likelihood="gaussian", epochs=1, hidden=(4,), latent_dim=2, batch_size=16)
    runs.train(build(config, dataset=data.from_arrays(x, **arguments)), tmp_path)
    with pytest.raises(UserError, match=f"'arrays' has no {thing}, and the one that the run was trained on has. Make it with"):
        runs.load_run(tmp_path, dataset=complete)
