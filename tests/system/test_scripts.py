"""The scripts as a user runs them: what they write, how they go on, what they refuse."""

import json
import re
import signal
import time

import numpy as np
import pytest
from scripts import assert_same_run, metrics, run, start, summary
from small_runs import SMALL

SLOW = pytest.mark.slow


def test_a_run_directory_has_its_files_and_fields(trained):
    out, done = trained
    written = summary(out)
    assert written["test_elbo"] == pytest.approx(written["test_log_likelihood"] - written["test_kl"], abs=1e-9)
    assert written["num_test_examples"] == 359
    assert written["epochs"] == 3
    assert written["status"] == "finished"
    full = json.loads((out / "summary.json").read_text())
    assert full["train_examples_per_second"] > 0
    assert full["wall_seconds"] > 0
    assert [line["epoch"] for line in metrics(out)] == [1, 2, 3]
    assert metrics(out)[-1]["test_elbo"] == written["test_elbo"]
    config = json.loads((out / "config.json").read_text())
    assert config["config"]["hidden"] == [16]
    count = (64 * 16 + 16 + 16 * 4 + 4) + (2 * 16 + 16 + 16 * 64 + 64)
    assert (full["num_parameters"], config["num_parameters"]) == (count, count)
    assert f"\n{count:,} parameters\n" in done.stdout
    assert config["versions"]["jax"]
    assert len(config["data"]["sha256"]) == 64
    names = {path.stem for path in (out / "figures").iterdir()}
    assert {"learning_curves", "reconstructions", "prior_samples", "kl_per_dimension", "latent_space", "manifold"} <= names
    assert {"rate_distortion", "aggregate_posterior", "traversal", "interpolation"} <= names
    assert (out / "figures" / "traversal.gif").stat().st_size < 1_000_000
    # no terminal: lines rather than a bar, and the report's place last
    assert "\r" not in done.stdout + done.stderr
    assert re.search(r"epoch 3/3 +ELBO -\d+\.\d+ +log-likelihood -\d+\.\d+ +KL \d+\.\d+ +[\d,]+ examples/s", done.stdout)
    assert done.stdout.splitlines()[-1] == f"report: {out / 'report.html'}"


@pytest.mark.slow
def test_the_report_is_one_self_contained_page(trained):
    out, _ = trained
    page = (out / "report.html").read_text()
    assert f"{summary(out)['test_elbo']:.3f}" in page
    assert "mlp 16-2, bernoulli likelihood. 2,244 parameters." in page
    assert page.index("test ELBO") < page.index("Learning curves") < page.index("How to repeat this run")
    assert page.count("data:image/png;base64,") == len(list((out / "figures").glob("*.png")))
    assert page.count("data:image/gif;base64,") == len(list((out / "figures").glob("*.gif"))) == 1
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "vae-jax train --dataset digits --hidden 16 --latent-dim 2" in page
    (out / "report.html").unlink()
    assert run("report.py", out).stdout.strip() == f"report: {out / 'report.html'}"
    assert (out / "report.html").stat().st_size == pytest.approx(len(page.encode()), rel=0.01)


def test_evaluate_repeats_the_summary_and_improves_on_it(trained):
    out, _ = trained
    run("evaluate.py", out, "--num-samples", 1, "--elbo-samples", 1)
    once = json.loads((out / "evaluation.json").read_text())
    for name in ("test_elbo", "test_log_likelihood", "test_kl"):
        assert once[name] == pytest.approx(summary(out)[name], abs=1e-4)
    done = run("evaluate.py", out, "--num-samples", 50, "--elbo-samples", 50, "--batch-size", 37)
    many = json.loads((out / "evaluation.json").read_text())
    assert many["test_kl"] == pytest.approx(once["test_kl"], abs=1e-4)
    assert sum(many["kl_per_dimension"]) == pytest.approx(many["test_kl"], rel=1e-5)
    assert many["num_test_examples"] == 359
    assert many["test_elbo"] < many["log_px_mean"] < 0
    assert f"{many['test_elbo']:.3f}" in done.stdout


@pytest.mark.slow
def test_the_same_command_gives_the_same_run_whatever_the_evaluation_batch(trained, tmp_path):
    out, _ = trained
    run("train.py", *SMALL, "--epochs", 3, "--out", tmp_path / "again", "--no-report")
    assert_same_run(out, tmp_path / "again")
    for size in (1, 37, 128):
        run("train.py", *SMALL, "--epochs", 3, "--eval-batch-size", size, "--out", tmp_path / f"{size}", "--no-report")
        assert_same_run(out, tmp_path / f"{size}")


@pytest.mark.slow
def test_a_finished_run_resumes_at_its_end_and_refuses_other_settings(trained):
    out, _ = trained
    before = summary(out)
    again = run("train.py", "--out", out, "--resume", "--no-report")
    assert "resuming after epoch 3" in again.stdout
    assert summary(out) == before
    for flags, message in ((("--beta", 2), "beta: 1.0 there, 2.0 here"), (("--epochs", 2), "3 epochs are done already")):
        refused = run("train.py", "--out", out, "--resume", *flags, check=False)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert message in refused.stderr
    assert summary(out) == before


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_continue(tmp_path):  # SIGTERM: test_conv_scripts.py
    settings = ("--hidden", 256, 256, "--batch-size", 32, "--epochs", 40)
    process = start("train.py", *settings, "--out", tmp_path / "run", "--no-report")
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not (tmp_path / "run" / "metrics.jsonl").stat().st_size:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "saving" in stderr
    assert "Traceback" not in stderr
    assert re.search(r"saved after epoch \d+ of 40; continue with:\n  \S*python\S* \S*train.py .* --resume", stdout)
    assert not (tmp_path / "run" / "summary.json").exists()
    unfinished = run("evaluate.py", tmp_path / "run")
    assert "unfinished" in unfinished.stderr
    run("train.py", "--out", tmp_path / "run", "--resume", "--no-report")
    run("train.py", *settings, "--out", tmp_path / "alone", "--no-report")
    assert_same_run(tmp_path / "run", tmp_path / "alone")


@pytest.mark.slow
def test_a_second_process_is_refused_until_the_first_one_is_gone(tmp_path):
    flags = ("--epochs", 100_000, "--no-report", "--checkpoint-seconds", 1)
    process = start("train.py", *SMALL, *flags, "--out", tmp_path / "run")
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not (tmp_path / "run" / "metrics.jsonl").stat().st_size:
        time.sleep(0.01)
        assert process.poll() is None
    second = run("train.py", "--out", tmp_path / "run", "--resume", check=False)
    assert (second.returncode, second.stderr.count("\n")) == (2, 1)
    assert "another process is writing to" in second.stderr
    assert process.poll() is None
    process.kill()
    process.communicate(timeout=60)
    third = start("train.py", "--out", tmp_path / "run", "--resume", "--no-report")
    assert "resuming after epoch" in "".join(third.stdout.readline() for _ in range(5))
    third.kill()
    third.communicate(timeout=60)


@pytest.mark.slow
def test_divergence_keeps_the_last_good_state_and_says_where(tmp_path):
    flags = ("--optimizer", "sgd", "--learning-rate", 1e30, "--epochs", 3, "--out", tmp_path / "run")
    done = run("train.py", *SMALL, *flags, check=False)
    assert done.returncode == 1
    assert re.search(r"error: training diverged: .* at step \d+ \(epoch 1\)", done.stderr)
    assert "Warning" not in done.stderr  # what a notebook is told, the script says in its own line
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "diverged"
    assert list((tmp_path / "run" / "last_good").iterdir())
    bad = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert len(bad["train_indices"]) == 256
    assert bad["step"] == json.loads((tmp_path / "run" / "summary.json").read_text())["diverged_at_step"]
    explained = run("postmortem.py", tmp_path / "run", "--debug-nans")
    assert re.search(r"\noperation: \w+ gives (NaN|infinity)", explained.stdout)
    assert f"first not finite: {bad['term']}" in explained.stdout
    assert f"step {bad['step']} (epoch 1)" in explained.stdout


@pytest.mark.slow
def test_tensorboard_event_files(tmp_path):
    pytest.importorskip("tensorboardX")
    run("train.py", *SMALL, "--epochs", 2, "--out", tmp_path / "run", "--no-report", "--tensorboard")
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"test_elbo" in events.read_bytes()


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(("--likelihood", "gaussian", "--scale", "shared"), marks=SLOW),
        pytest.param(
            ("--likelihood", "gaussian", "--dequantize", "--validation-fraction", 0.1, "--early-stopping", 2), marks=SLOW
        ),
        pytest.param(("--likelihood", "continuous_bernoulli", "--output-bias", "train_mean", "--latent-dim", 1), marks=SLOW),
        pytest.param(("--binarize", "fixed", "--ema-decay", 0.9, "--num-samples", 3, "--dtype", "bfloat16"), marks=SLOW),
        pytest.param(
            ("--beta-warmup-steps", 5, "--learning-rate-schedule", "cosine", "--learning-rate-warmup-steps", 3, "--hidden"),
            marks=SLOW,
        ),
    ],
    ids=lambda flags: " ".join(map(str, flags)),
)
def test_options_work_together(flags, tmp_path):
    run("train.py", *SMALL[:2], "--epochs", 2, *flags, "--out", tmp_path / "run")
    assert np.isfinite(summary(tmp_path / "run")["test_elbo"])
    assert (tmp_path / "run" / "report.html").exists()
