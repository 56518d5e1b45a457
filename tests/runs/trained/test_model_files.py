"""Model files at checkpoints, in sweeps, and damaged ones; the best member; quantiles of training scores."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax import data, runs
from vae_jax.build import build
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.evaluation import evaluate
from vae_jax.runs.trained.model_file import NAME, read_record
from vae_jax.sweep.directory import run_sweep
from vae_jax.sweep.results import load_params, load_sweep, write_results

X = (np.random.default_rng(0).random((60, 4)) < 0.5).astype(np.uint8)
CONFIG = Config(hidden=(4,), latent_dim=2, batch_size=16, epochs=3, seed=1)
DATASET = data.from_arrays(X, validation=X[:20])


def same(first, second):
    return all(np.array_equal(*pair) for pair in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))


@pytest.fixture(scope="module")
def built():
    return build(CONFIG, dataset=DATASET)


@pytest.fixture(scope="module")
def finished(built, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    fit, _ = runs.train(built, out)
    return out, fit


@pytest.mark.slow
def test_an_interrupted_run_has_the_model_of_its_checkpoint(built, finished, tmp_path):
    epochs = []
    stop = lambda line: epochs.append(line["epoch"]) or line["epoch"] == 2  # noqa: E731
    runs.train(built, tmp_path / "run", on_epoch=stop, checkpoint_seconds=0.0)
    model = runs.load_model(tmp_path / "run")
    assert model.epoch == 2
    assert "unfinished" in model.notes[0]
    assert "epoch 2 of 3" in model.notes[0]
    assert same(model.params, runs.load_run(tmp_path / "run", dataset=DATASET).params)
    runs.train(built, tmp_path / "run", resume=True)
    resumed = runs.load_model(tmp_path / "run")
    assert (resumed.epoch, resumed.notes) == (3, ())
    assert same(resumed.params, finished[1].params)
    # Without the newest checkpoints the run goes back, and so does the model.
    (tmp_path / "run/summary.json").unlink()
    shutil.rmtree(tmp_path / "run/checkpoints")
    (tmp_path / "run/metrics.jsonl").write_text("")
    runs.train(built, tmp_path / "run", resume=True, on_epoch=lambda line: True)
    assert runs.load_model(tmp_path / "run").epoch == 1


def test_a_run_of_an_earlier_version_gets_its_model_by_resuming(built, finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run" / NAME).unlink()
    with pytest.raises(UserError, match="Continue the run"):
        runs.load_model(tmp_path / "run")
    runs.train(built, tmp_path / "run", resume=True)
    assert same(runs.load_model(tmp_path / "run").params, finished[1].params)


def test_damaged_files_are_one_error(finished, tmp_path):
    content = (finished[0] / NAME).read_bytes()
    length = int.from_bytes(content[:8], "little")
    damages = {
        "empty": b"",
        "short": content[:-7],
        "half of the header": content[: 8 + length // 2],
        "garbage": bytes(range(256)) * 8,
        "a longer header": (2**60).to_bytes(8, "little") + content[8:],
        "no metadata": content.replace(b"vae_jax", b"vae_jix", 1),
        "another type": content.replace(b'"F32"', b'"I32"', 1),
        "other entries": content.replace(b'\\"epochs\\": [3]', b'\\"epochs\\": [x]', 1),
        "another name": content.replace(b"encoder.", b"encoded.", 1),
        "a type of objects": content.replace(b'\\"dtype\\": \\"float32\\"', b'\\"dtype\\": \\"object_\\"', 1),
    }
    for name, damaged in damages.items():
        assert damaged != content, name
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / NAME).write_bytes(damaged)
        with pytest.raises(UserError, match=NAME):
            runs.load_model(tmp_path)


def test_quantiles_are_those_of_the_training_scores(built, finished):
    """With one latent code for all examples the scores are those of `evaluate` up to the draws."""
    scores = runs.load_model(finished[0]).scores
    count = len(built.dataset.train)
    assert (scores["elbo"]["num_examples"], scores["log_px"]["num_examples"], scores["log_px"]["num_samples"]) == (
        count,
        count,
        16,
    )
    draws = [evaluate(jax.random.key(i), built.vae, finished[1].params, jnp.float32(built.dataset.train)) for i in range(20)]
    elbo = np.mean([one.log_likelihood - one.kl for one in draws], axis=0)
    spread = np.std([one.log_likelihood - one.kl for one in draws], axis=0).max()
    # The mean of the quantiles 0 % ... 100 % is that of the scores up to the spacing of the quantiles.
    quantiles = np.array(scores["elbo"]["quantiles"])
    assert len(quantiles) == 101
    assert (np.diff(quantiles) >= 0).all()
    assert abs(quantiles.mean() - elbo.mean()) < 4 * spread / np.sqrt(count) + 0.1
    assert np.mean(scores["log_px"]["quantiles"]) >= quantiles.mean() - 4 * spread / np.sqrt(count)


@pytest.mark.slow
def test_members_of_a_sweep_are_models_of_their_own(tmp_path):
    members = [CONFIG, Config(**{**vars(CONFIG), "beta": 4.0}), Config(**{**vars(CONFIG), "hidden": (5,)})]
    run_sweep(members, tmp_path / "sweep", dataset=DATASET)
    write_results(tmp_path / "sweep")
    expected = load_params(load_sweep(tmp_path / "sweep"), [0, 1, 2], dataset=DATASET)
    for number, (built, params) in expected.items():
        model = runs.load_model(tmp_path / "sweep", member=number)
        assert same(model.params, params)
        assert (model.member, model.config.beta, model.config.hidden) == (number, members[number].beta, built.config.hidden)
    results = load_sweep(tmp_path / "sweep").arrays
    for by, choose in (("validation_elbo", np.argmax), ("test_kl", np.argmin)):
        assert runs.best(tmp_path / "sweep", by) == choose(results[by])
    assert runs.best(tmp_path / "sweep", "test_kl", largest=True) == np.argmax(results["test_kl"])
    with pytest.raises(UserError, match="test_elbo"):
        runs.best(tmp_path / "sweep", "test_elb")
    for member, phrase in ((None, "from 0 to 2"), (3, "from 0 to 2")):
        with pytest.raises(UserError, match=phrase):
            runs.load_model(tmp_path / "sweep", member=member)
    table = (tmp_path / "sweep/results.csv").read_text().splitlines()
    chosen = runs.best(tmp_path / "sweep")
    table[1 + chosen] = table[1 + chosen].replace("finished", "diverged")
    (tmp_path / "sweep/results.csv").write_text("\n".join(table))
    assert runs.best(tmp_path / "sweep") != chosen
    assert not read_record(next((tmp_path / "sweep/blocks").glob("*"))).scores
