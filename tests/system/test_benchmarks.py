"""The benchmarks run, on settings too small to mean anything, and write what they promise."""

import importlib
import json
import subprocess
import sys

import numpy as np
import pytest
from scripts import EXPERIMENTS, run

from vae_jax import data, training
from vae_jax.training import placement as sharding

BENCHMARKS = EXPERIMENTS / "benchmarks"
NOT_ON_A_BARE_IMAGE = (
    "tyro",
    "tqdm",
    "matplotlib",
    "sklearn",
    "tensorflow_datasets",
    "tensorflow",
    "PIL",
    "torch",
    "chex",
    "orbax",
    "tensorboardX",
)


def run_on_a_bare_image(*flags):
    """Runs accelerator.py in a process that cannot import what is not on a bare GPU image."""
    code = f"""
import runpy, sys
for name in {NOT_ON_A_BARE_IMAGE}:
    sys.modules[name] = None
script = {str(BENCHMARKS / "accelerator.py")!r}
sys.argv, sys.path[0] = [script, *{[str(flag) for flag in flags]}], {str(BENCHMARKS)!r}
try:
    runpy.run_path(script, run_name="__main__")
finally:
    import vae_jax.training.epoch, vae_jax.likelihoods, vae_jax.model, vae_jax.training.placement, vae_jax.training.step
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def test_accelerator_says_what_it_left_out(tmp_path):
    out = tmp_path / "results.json"
    done = run_on_a_bare_image("--members", 1, 2, "--steps", 5, "--budget-seconds", 0, "--out", out)
    assert "Left out, no time in 0 s: mlp float32 map of 1, mlp float32 vmap of 2" in done.stdout
    assert not json.loads(out.read_text())["rows"]


@pytest.mark.slow
def test_accelerator_needs_nothing_but_jax_flax_optax_and_numpy(tmp_path):
    out = tmp_path / "folder" / "results.json"
    flags = ("--members", 1, 2, "--steps", 5, "--networks", "conv", "--dtypes", "float32", "--variants", "--out", out)
    done = run_on_a_bare_image(*flags)
    results = json.loads(out.read_text())
    assert results["device"]["platform"] == "cpu"
    assert not results["failed"]
    assert not results["left_out"]
    first, second = [("map", 1), ("vmap", 2)], [("vmap", 1), ("map", 2)]
    assert [(row["network"], row["strategy"], row["members"]) for row in results["rows"]] == [
        ("conv", *case) for case in (*first, *second)
    ]
    assert all(row["finite"] and row["step_seconds"] and row["member_images_per_second"] for row in results["rows"])
    assert all(row["share_of_roof"] for row in results["rows"])
    (check,) = results["correctness"]
    assert check["network"] == "conv"
    assert check["max_relative_difference"] < 1e-5 < check["spread_between_members"]
    assert "PyTorch is not installed" in results["notes"][0]
    table = out.with_suffix(".md").read_text()
    assert table in done.stdout
    assert table.splitlines()[0].startswith("cpu (cpu)")
    assert sum(line.startswith("| vae_jax | conv | float32 |") for line in table.splitlines()) == 4


@pytest.mark.slow
def test_the_timed_program_is_that_of_a_sweep(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    members, workload = (importlib.import_module(name) for name in ("members", "workload"))
    images = members.blobs(0, 6 * 128)
    dataset = data.Dataset("blobs", images[:512], None, images[512:], None, 255, "synthetic")
    prepared = data.prepare(dataset, binarization="dynamic")
    trainer = members.Trainer(members.Case("mlp", "float32", "vmap", 2), prepared)
    losses = [trainer.run(trainer.steps)[1].metrics.loss for _ in range(2)]
    vae, placement = workload.make_vae(workload.mlp(dataset.data_shape)), sharding.place(2, "vmap")
    fit = training.fit_members(vae, prepared, training.FitOptions(2, 128), seeds=[0, 1], placement=placement)
    np.testing.assert_array_equal([[e.train.loss for e in history] for history in fit.progress.histories], np.transpose(losses))


@pytest.mark.slow
def test_accelerator_with_everything(tmp_path):
    flags = ("--networks", "mlp", "--members", 1, 2, "--steps", 2, "--peers", "eager", "--out", tmp_path / "results.json")
    done = run("benchmarks/accelerator.py", *flags)
    results = json.loads((tmp_path / "results.json").read_text())
    assert not results["failed"]
    assert all(row["finite"] for row in results["rows"] if row["kind"] == "vae_jax")
    exact, rounded = results["correctness"]
    assert (exact["dtype"], rounded["dtype"], rounded["passed"]) == ("float32", "bfloat16", True)
    assert exact["max_relative_difference"] < 1e-5 < exact["spread_between_members"]
    assert {row["dtype"] for row in results["rows"]} == {"float32", "bfloat16"}
    assert {row.get("variant", "") for row in results["rows"]} == {"", "static", "bits", "sgd"}
    assert "the epoch takes" in done.stdout


@pytest.mark.slow
def test_sweep_against_single_runs(shared_data, tmp_path):
    out = tmp_path / "results.json"
    flags = ("--dataset", shared_data / "mnist", "--examples", 2560, "--rounds", 1, "--members", 2, "--startup-epochs", 1)
    done = run("benchmarks/sweep_mnist.py", *flags, "--entries", "sweep", "single", "--startup", "no-report", "--out", out)
    rows = json.loads(out.read_text())["rows"]
    names = [row["name"] for row in rows]
    assert names[:2] == ["sweep as sweep.py runs it", "single runs as train.py runs them"]
    assert [("cold" in name, "warm" in name) for name in names[-2:]] == [(True, False), (False, True)]
    assert all(row["ratio"] > 0 for row in rows)
    assert sum(line.startswith("| ") for line in done.stdout.splitlines()) == len(rows) + 2


def test_bad_settings_are_one_line(script, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name, flags, message in (
        ("sweep_mnist", ("--members", 0), "--members: expected a whole number >= 1, got 0"),
        ("sweep_mnist", ("--examples", 100), "--examples: expected at least one batch, 128, got 100"),
        ("sweep_mnist", ("--entries", "sweeep"), "Did you mean 'sweep'"),
        ("accelerator", ("--steps", 0), "--steps: expected a whole number >= 1, got 0"),
        ("training", ("--peers", "vae_jax", "pytorch-loded"), "Did you mean 'pytorch-loader'"),
        ("training", ("--network", "conv", "--peers", "vae_jax", "numpyro"), "numpyro has no network conv"),
        (
            "training",
            ("--suite", "--batch-size", 64),
            "--suite sets the batch size. Leave one of --suite and --batch-size out.",
        ),
        ("training", ("--steps", -1), "--steps: expected a whole number >= 0, got -1"),
        ("training", ("--dataset", "digits", "--batch-size", 5000), "--batch-size: expected at most 1438 training images"),
        ("scaling", ("--width", 10, 20), "--width: expected at least three growing whole numbers >= 1, got 10 20"),
        ("scaling", ("--examples", 64, 128, 256), "--batch-size: expected at most the second of --examples, 128"),
    ):
        status, stderr = script(name, *flags)
        assert (status, stderr.count("\n")) == (2, 1)
        assert message in stderr


@pytest.mark.slow
def test_evaluation_counts_its_work(tmp_path):
    out = tmp_path / "results.json"
    flags = ("--dataset", "digits", "--num-samples", 200, "--epochs", 1, "--pythae-images", 0, "--examples", 40)
    done = run("benchmarks/evaluation_mnist.py", *flags, "--out", out)
    found = json.loads(out.read_text())
    flops = 40 * 200 * 2 * (20 * 512 + 512 * 64)
    assert found["flops_per_second"] * found["seconds"] == pytest.approx(flops)
    assert found["log_px"]["num_samples"] == 200
    assert f"{found['log_px']['log_px']:.3f}" in done.stdout
