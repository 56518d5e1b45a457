"""Convolutional networks through the scripts: trained, reported, evaluated, gone on with, swept; what does not fit."""

import csv
import json
import signal
import time

import numpy as np
import pytest
from scripts import assert_same_run, run, start, summary

CONV = ("--network", "conv", "--channels", 8, "--dense", 16, "--latent-dim", 2, "--batch-size", 128)


@pytest.fixture(scope="module")
def conv_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "conv"
    return out, run("train.py", "--dataset", "digits", *CONV, "--epochs", 1, "--no-report", "--out", out)


def test_a_conv_run_trains(conv_run):
    out, done = conv_run
    assert "training conv 8, dense 16-2, bernoulli" in done.stdout
    # 4 x 4 kernels, 8 x 8 pixels halved once; the head has the mean and the log scale of two dimensions
    encoder, decoder = 16 * 8 + 8 + (128 * 16 + 16) + (16 * 4 + 4), (2 * 16 + 16) + (16 * 128 + 128) + (16 * 8 + 1)
    assert f"\n{encoder + decoder:,} parameters\n" in done.stdout
    assert summary(out)["status"] == "finished"
    assert np.isfinite(summary(out)["test_elbo"])
    config = json.loads((out / "config.json").read_text())["config"]
    assert (config["network"], config["channels"], config["dense"]) == ("conv", [8], [16])


@pytest.mark.slow
def test_a_conv_run_is_evaluated_and_reported(conv_run):
    out, _ = conv_run
    run("evaluate.py", out, "--num-samples", 20, "--elbo-samples", 20)
    found = json.loads((out / "evaluation.json").read_text())
    assert found["test_elbo"] == pytest.approx(summary(out)["test_elbo"], abs=0.2)  # other draws of z
    assert found["test_elbo"] < found["log_px_mean"] < 0
    run("report.py", out)
    page = (out / "report.html").read_text()
    assert f"{summary(out)['test_elbo']:.3f}" in page
    assert "vae-jax train --dataset digits --network conv --channels 8 --dense 16" in page


@pytest.mark.slow
def test_a_residual_run_of_default_channels_is_repeated(tmp_path):
    flags = ("--network", "resnet", "--norm", "group", "--latent-dim", 2, "--epochs", 1)
    done = run("train.py", "--dataset", "digits", *flags, "--no-report", "--out", tmp_path / "run")
    assert "training resnet 32 (1 residual at each size, norm group), dense 256-2, bernoulli" in done.stdout
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["channels"], config["norm"], config["num_blocks"]) == ([32], "group", 1)
    # with and without the flags, it goes on at its end
    for again in ((), flags):
        before = summary(tmp_path / "run")
        done = run("train.py", "--out", tmp_path / "run", "--resume", "--no-report", *again)
        assert "resuming after epoch 1" in done.stdout
        assert summary(tmp_path / "run") == before


@pytest.mark.slow
def test_an_interrupted_conv_run_goes_on_bit_for_bit(tmp_path):
    settings = (*CONV[:-1], 16, "--epochs", 12, "--no-report")
    process = start("train.py", *settings, "--out", tmp_path / "run")
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not (tmp_path / "run" / "metrics.jsonl").stat().st_size:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert not (tmp_path / "run" / "summary.json").exists()
    run("train.py", "--out", tmp_path / "run", "--resume", "--no-report")
    run("train.py", *settings, "--out", tmp_path / "alone")
    assert_same_run(tmp_path / "run", tmp_path / "alone")


@pytest.mark.slow
def test_a_row_of_a_conv_sweep_is_the_run_of_train(conv_run, tmp_path):
    out, _ = conv_run
    run("sweep.py", "--betas", 1, 4, *CONV, "--epochs", 1, "--devices", 1, "--strategy", "map", "--out", tmp_path / "sweep")
    with (tmp_path / "sweep" / "results.csv").open() as file:
        first, second = csv.DictReader(file)
    for name in ("test_elbo", "test_log_likelihood", "test_kl"):
        assert float(first[name]) == summary(out)[name] != float(second[name])
    assert (tmp_path / "sweep" / "report.html").exists()
    run("sweep.py", "--resume", "--out", tmp_path / "sweep", "--betas", 2, "--no-report")
    with (tmp_path / "sweep" / "results.csv").open() as file:
        assert [row["beta"] for row in csv.DictReader(file)] == ["1.0", "4.0", "2.0"]


REFUSED = {
    "widths of an mlp": (
        "--network conv --hidden 64",
        "--hidden belongs to --network mlp; conv does not use it. Leave it out.",
    ),
    "channels of an mlp": (
        "--network mlp --channels 32",
        "--channels belongs to --network conv, resnet or ladder; mlp does not use it. Leave it out.",
    ),
    "dense of an mlp": ("--dense 32", "--dense belongs to --network conv or resnet; mlp does not use it. Leave it out."),
    "blocks of a plain network": (
        "--network conv --num-blocks 2",
        "--num-blocks belongs to --network resnet or ladder; conv does not",
    ),
    "norm of a plain network": (
        "--network conv --norm group",
        "--norm belongs to --network resnet or ladder; conv does not use it.",
    ),
    "no blocks": ("--network resnet --num-blocks 0", "--num-blocks: expected a whole number >= 1, got 0."),
    "batch statistics": ("--network resnet --norm batch", "--norm"),
    "a channel of nothing": ("--network conv --channels 8 0", "--channels: expected widths >= 1"),
    "a fourth halving": (
        "--network conv --channels 8 8 8 8",
        "--network conv: expected at most 3 channels, one for each halving of 8 x 8 x 1, got 4. Use fewer --channels",
    ),
    "one row of pixels": (
        "--network resnet --dataset {here}/row.npy",
        "--network resnet: expected images of at least 2 x 2 pixels for convolutions, got 1 x 8 x 1. Use --network mlp.",
    ),
    "unknown network": ("--network resnets", "unknown network 'resnets'. Did you mean 'resnet'"),
}


@pytest.mark.parametrize(("flags", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_line_and_writes_nothing(flags, message, script, tmp_path):
    np.save(tmp_path / "row.npy", np.zeros((20, 1, 8, 1), np.uint8))
    before = sorted(tmp_path.rglob("*"))
    status, stderr = script("train", *flags.format(here=tmp_path).split(), "--out", tmp_path / "new")
    assert (status, stderr.count("\n")) == (2, 1)
    assert stderr.startswith("error: ")
    assert message in stderr
    assert sorted(tmp_path.rglob("*")) == before
