"""Command lines that start from a trained model: what is left out is as in that model."""

import dataclasses
import json

import pytest

from vae_jax import runs
from vae_jax._numerics.keys import Stream, stream
from vae_jax.build import build
from vae_jax.cli import sweep, train
from vae_jax.config import Config
from vae_jax.errors import UserError
from vae_jax.runs.trained.model_file import ModelRecord, write_model_file

TRAINED = Config(
    epochs=7, hidden=(4,), latent_dim=2, batch_size=256, likelihood="gaussian", scale="0.5", beta=4.0, max_level=16
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    built, folder = build(TRAINED), tmp_path_factory.mktemp("first")
    record = ModelRecord([dataclasses.asdict(TRAINED)], built.description, {}, [7])
    write_model_file(folder, record, built.vae.init(stream(0, Stream.INIT)))
    (folder / "config.json").write_text(json.dumps({"config": record.configs[0], "data": {"sha256": "0" * 64}}))
    return folder


@pytest.mark.parametrize("command", [train, sweep], ids=["train", "sweep"])
def test_settings_that_are_left_out_are_those_of_the_model(path, tmp_path, command):
    def read(*words):
        return command.read_command_line(["--init-from", str(path), "--out", str(tmp_path / "new"), *words])[1]

    assert read() == TRAINED
    assert read("--epochs", "3", "--beta", "1") == dataclasses.replace(TRAINED, epochs=3, beta=1.0)
    # The scale belongs to the likelihood that was replaced, and the levels to the data set.
    assert read("--likelihood", "bernoulli").scale == Config().scale
    assert read("--dataset=sprites") == dataclasses.replace(TRAINED, dataset="sprites", max_level=None)
    with pytest.raises(UserError, match="`scale` belongs to `likelihood`"):
        read("--likelihood", "bernoulli", "--scale", "0.5").validate()


def test_parts_and_members_need_a_model(tmp_path):
    for words in (["--init-parts", "encoder"], ["--init-member", "3"]):
        with pytest.raises(UserError, match="there is no trained model to start from"):
            train.read_command_line(["--out", str(tmp_path / "new"), *words])


def test_a_model_of_data_from_memory_needs_a_data_set(path, tmp_path, monkeypatch):
    init = runs.init_from(path)
    monkeypatch.setattr(
        runs, "init_from", lambda *_, **__: init._replace(config=dataclasses.replace(TRAINED, dataset="custom"))
    )
    with pytest.raises(UserError, match=r"was trained on data from memory\. Say on which data to train"):
        train.read_command_line(["--init-from", str(path), "--out", str(tmp_path / "new")])


@pytest.mark.slow
def test_a_run_branches_is_lengthened_and_reported(path, tmp_path, capsys):
    out = tmp_path / "new"
    words = ["--init-from", str(path), "--init-parts", "encoder", "--epochs", "1", "--out", str(out)]
    assert train.main([*words, "--no-report"]) == 0
    printed = capsys.readouterr().out
    assert f"starting from the encoder of {path} (epoch 7); the decoder starts at random values" in printed
    assert train.main(["--resume", "--epochs", "2", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "its length was changed from 1 to 2 epochs" in captured.err
    page = (out / "report.html").read_text()
    assert f"It started from the encoder of {path} (epoch 7). After epoch 1, its length was changed from 1 to 2 epochs." in page
    assert f"vae-jax train --init-from {path} --init-parts encoder --dataset digits" in page
    content = json.loads((out / "config.json").read_text())
    assert content["init_from"]["parts"] == ["encoder"]
