"""The scripts as a user runs them: what they write, how they go on, what they refuse."""

import json
import os
import re
import signal
import struct
import time

import numpy as np
import pytest
from PIL import Image
from scripts import assert_same_run, metrics, run, start, summary

SLOW = pytest.mark.slow
SMALL = ("--hidden", 16, "--latent-dim", 2, "--batch-size", 256)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One finished run, used by all tests that only read."""
    out = tmp_path_factory.mktemp("runs") / "first"
    done = run("train.py", *SMALL, "--epochs", 3, "--out", out)
    return out, done


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


def test_the_report_is_one_self_contained_page(trained):
    out, _ = trained
    page = (out / "report.html").read_text()
    assert f"{summary(out)['test_elbo']:.3f}" in page
    assert "mlp 16-2, bernoulli likelihood. 2,244 parameters." in page
    assert page.index("test ELBO") < page.index("Learning curves") < page.index("How to repeat this run")
    assert page.count("data:image/png;base64,") == len(list((out / "figures").glob("*.png")))
    assert page.count("data:image/gif;base64,") == len(list((out / "figures").glob("*.gif"))) == 1
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "train.py --dataset digits --hidden 16 --latent-dim 2" in page
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
    for flags, message in ((("--beta", 2), "beta: 1.0 there, 2.0 here"), (("--epochs", 9), "epochs: 3 there, 9 here")):
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


# Bad input: in this process, through the same entry point, because importing jax takes longer than refusing.


def _write(folder):
    grey = np.linspace(0, 1, 160).reshape(10, 4, 4)
    np.save(folder / "grey.npy", grey)
    np.save(folder / "nan.npy", np.where(grey > 0.5, np.nan, grey))
    np.save(folder / "axes.npy", grey.reshape(10, 16))
    np.save(folder / "pickled.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    np.save(folder / "wide.npy", 3 * grey)
    os.mkfifo(folder / "pipe.npy")
    (folder / "zeros.npy").symlink_to("/dev/zero")
    with (folder / "archive.npy").open("wb") as file:
        np.savez(file, x_train=grey)
    np.save(folder / "seconds.npy", np.full((10, 4, 4), 3, "m8[s]"))
    np.savez(folder / "scalar.npz", x_train=np.uint8(3), y_train=np.zeros(3))
    (folder / "empty").mkdir()
    (folder / "images").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "images" / "a.png")
    (folder / "idx").mkdir()
    (folder / "idx" / "train-images-idx3-ubyte").write_bytes(struct.pack(">4B3I", 0, 0, 8, 3, 0, 2**32 - 1, 2**32 - 1))
    (folder / "full").mkdir()
    (folder / "full" / "file").touch()


REFUSED = {
    "unknown data set": ("--dataset digitz", "unknown data set 'digitz'. Did you mean 'digits'"),
    "unknown likelihood": ("--likelihood bernouli", "Did you mean 'bernoulli'"),
    "unknown optimiser": ("--optimizer adamm", "Did you mean 'adam'"),
    "unknown activation": ("--activation rellu", "'relu'"),
    "grey to bernoulli": ("--dataset {here}/grey.npy --binarize none", "bernoulli expects binary data, got grey values"),
    "outside [0, 1]": ("--dataset {here}/wide.npy --likelihood continuous_bernoulli", "expects values in [0, 1], got 0 to 3"),
    "negative beta": ("--beta -1", "--beta: expected a number >= 0, got -1.0"),
    "beta nan": ("--beta nan", "--beta: expected a number >= 0, got nan"),
    "zero latents": ("--latent-dim 0", "--latent-dim: expected a whole number >= 1, got 0"),
    "negative width": ("--hidden 32 -1", "--hidden: expected widths >= 1"),
    "zero batch": ("--batch-size 0", "--batch-size: expected a whole number >= 1, got 0"),
    "zero epochs": ("--epochs 0", "--epochs: expected a whole number >= 1, got 0"),
    "negative rate": ("--learning-rate -0.1", "--learning-rate: expected a number > 0"),
    "negative seed": ("--seed -1", "--seed: expected a whole number from 0"),
    "batch too large": ("--batch-size 1439", "--batch-size: expected at most the 1438 training examples, got 1439"),
    "missing path": ("--dataset {here}/none.npy", "no such file or folder"),
    "missing folder": ("--dataset {here}/none/of/it", "no such file or folder"),
    "nan in data": ("--dataset {here}/nan.npy", "expected finite numbers, got 80 NaN"),
    "axes": ("--dataset {here}/axes.npy", "expected images with 3 or 4 axes"),
    "pickled": ("--dataset {here}/pickled.npy", "never loaded"),
    "a pipe": ("--dataset {here}/pipe.npy", "expected a file or a folder, got something else"),
    "a device": ("--dataset {here}/zeros.npy", "expected a file or a folder, got something else"),
    "an archive called .npy": ("--dataset {here}/archive.npy", "expected an array, got an archive of arrays"),
    "durations": ("--dataset {here}/seconds.npy", "expected uint8 or float images, got dtype timedelta64[s]"),
    "a number with labels": ("--dataset {here}/scalar.npz", "expected images with 3 or 4 axes"),
    "no image, and large": ("--dataset {here}/idx", "expected at least one example and one pixel, got shape (0, 4294967295"),
    "a name too long": (f"--dataset {{here}}/{'a' * 300}.npy", "cannot be read: File name too long"),
    "a run among the images": ("--dataset {here}/images --out {here}/images/run", "expected a folder outside the data set"),
    "no seconds": ("--checkpoint-seconds nan", "--checkpoint-seconds: expected seconds >= 0, got nan"),
    "a name that is no text": ("--out {here}/a\udcff", "expected a name that can be written as UTF-8"),
    "empty folder": ("--dataset {here}/empty", "found none among 0 files"),
    "unprepared": ("--dataset fashion_mnist --data-dir {here}/empty", "not prepared"),
    "no data dir": ("--dataset mnist --data-dir {here}/none", "no such folder"),
    "warm-up too long": ("--beta-warmup-steps 550", "would not end within the run: 550 steps, and the run has 550"),
    "rate warm-up too long": ("--learning-rate-warmup-steps 551", "would not end within the run"),
    "scale without gaussian": (
        "--scale 0.1",
        "--scale belongs to --likelihood gaussian, laplace, student_t or discretized_log",
    ),
    "scale zero": (
        "--likelihood gaussian --scale 0",
        "--scale: expected a number > 0 (from 1e-9 to 1e9) or 'shared' or 'per_pixel', got 0",
    ),
    "scale optimal": ("--likelihood gaussian --scale optimal", "use --objective optimal_sigma and no --scale"),
    "logistic with a number": (
        "--likelihood discretized_logistic --scale 2",
        "--scale: expected 'shared' or 'per_pixel', got 2",
    ),
    "no dispersion": ("--dispersion 2", "--dispersion belongs to --likelihood negative_binomial; bernoulli does not use it"),
    "dispersion zero": ("--likelihood negative_binomial --dispersion 0", "--dispersion: expected a number > 0"),
    "no components": ("--likelihood logistic_mixture --num-components 0", "--num-components: expected a whole number >= 1"),
    "degrees of freedom": ("--likelihood student_t --degrees-of-freedom 0", "--degrees-of-freedom: expected a number > 0"),
    "grey channels": ("--likelihood logistic_mixture_rgb", "logistic_mixture_rgb expects 3 channels, got 1"),
    "levels of floats": (
        "--dataset {here}/grey.npy --likelihood categorical",
        "categorical expects integer levels, got floats",
    ),
    "counts of floats": ("--dataset {here}/grey.npy --likelihood poisson", "poisson expects counts"),
    "custom likelihood": ("--likelihood custom", "is a function of your own"),
    "unknown objective": ("--objective elb", "unknown objective 'elb'. Did you mean 'elbo'"),
    "capacity elsewhere": ("--capacity 5", "--capacity belongs to --objective capacity; elbo does not use it. Leave it out."),
    "beta elsewhere": ("--objective iwae --beta 4", "--beta belongs to --objective elbo, free_bits, beta_tcvae"),
    "no target": ("--objective geco", "--objective geco needs --target-distortion"),
    "optimal sigma": ("--objective optimal_sigma", "use it with --likelihood gaussian and no --scale"),
    "optimal and fixed": (
        "--objective optimal_sigma --likelihood gaussian --scale 0.1",
        "with --likelihood gaussian and no --scale",
    ),
    "groups": (
        "--objective free_bits --free-bits-per group --num-groups 3",
        "--num-groups: expected a divisor of --latent-dim 10",
    ),
    "groups of nothing": ("--objective free_bits --num-groups 2", "with --free-bits-per group only"),
    "elbo weight": ("--objective ciwae --elbo-weight 1.5", "--elbo-weight: expected a number from 0 to 1, got 1.5"),
    "negative gamma": ("--objective factor_vae --gamma -1", "--gamma: expected a number >= 0, got -1.0"),
    "capacity warm-up": ("--objective capacity --capacity-warmup-steps 550", "would not end within the run"),
    "cycles and warm-up": ("--beta-schedule cyclical --beta-warmup-steps 10", "the cyclical schedule rises in every cycle"),
    "dequantised levels": ("--likelihood categorical --dequantize", "--dequantize: dequantized data need a density"),
    "dequantise floats": ("--dataset {here}/grey.npy --likelihood gaussian --dequantize", "integer levels"),
    "dequantise binary": ("--dequantize", "exclude each other"),
    "early stopping": ("--early-stopping 2", "--validation-fraction"),
    "unknown flag": ("--betta 2", "Unrecognized options: --betta"),
    "no number": ("--epochs many", "--epochs"),
    "no choice": ("--binarize maybe", "'threshold'"),
    "out not empty": ("--out {here}/full", "exists and is not empty. Add --resume"),
    "out is a file": ("--out {here}/grey.npy", "exists and is not empty"),
    "resume something else": ("--out {here}/full --resume", "not a run directory"),
}


@pytest.mark.parametrize(("flags", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_input_is_one_line_and_writes_nothing(flags, message, script, tmp_path):
    _write(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    flags = flags.format(here=tmp_path).split()
    status, stderr = script("train", *flags, *(() if "--out" in flags else ("--out", tmp_path / "new")))
    assert status == 2
    assert message in stderr
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_no_out_at_all_is_refused(script):
    assert script("train")[0] == 2


@pytest.mark.parametrize("name", ["evaluate", "report"])
def test_readers_refuse_what_is_no_run(name, script, tmp_path, trained):
    for arguments, message in (
        ((), "at least one run directory"),
        ((tmp_path,), "not a run directory"),
        ((tmp_path / "none",), "not a run directory"),
    ):
        status, stderr = script(name, *arguments)
        assert (status, stderr.count("\n")) == (2, 1)
        assert message in stderr
    if name == "evaluate":
        for flags, message in (
            (("--num-samples", 0), "--num-samples: expected a whole number >= 1, got 0."),
            (("--ais-temperatures", -1), "--ais-temperatures: expected a whole number >= 0, got -1."),
            (("--bdmc", 5), "--bdmc: bounds annealed importance sampling; add --ais-temperatures, such as 1000."),
            (("--num-annealed", 5), "--num-annealed: expected --ais-temperatures or --gap-steps with it."),
        ):
            assert script(name, trained[0], *flags) == (2, f"error: {message}\n")


@pytest.mark.slow
def test_latent_space_draws_a_traversal_and_an_interpolation(trained, tmp_path):
    out, _ = trained
    done = run("latent_space.py", out, "--image", 3, "--span", 2, "--steps", 5, "--out", tmp_path / "there.gif")
    assert re.match(r"test image 3 \(label \d\): z\[\d\], mean KL \d+\.\d\d nats; z\[\d\], mean KL \d", done.stdout)
    assert done.stdout.splitlines()[-1] == f"wrote {tmp_path / 'there.gif'}"
    with Image.open(tmp_path / "there.gif") as gif:
        assert gif.n_frames == 8  # five there, three on the way back
        assert gif.info["loop"] == 0
    figures = set((out / "figures").iterdir())
    done = run("latent_space.py", out, "--label", 7, "--to", 5)
    written = {out / "figures" / name for name in re.findall(r"latent_space_\d+_to_5\.\w+", done.stdout)}
    assert set((out / "figures").iterdir()) - figures == written
    assert {path.suffix for path in written} == {".png", ".gif"}
    for path in written:
        path.unlink()


NO_PICTURE = {
    "a high image": ("--image 359", "--image: expected a test image from 0 to 358, got 359."),
    "a negative image": ("--image -1", "--image: expected a test image from 0 to 358, got -1."),
    "no image to go to": ("--to 359", "--to: expected a test image from 0 to 358, got 359."),
    "no such label": ("--label 10", "--label: expected one of the test set's labels (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), got 10."),
    "label and image": ("--label 1 --image 1", "leave out either --label or --image"),
    "no such dimension": ("--dimensions 0 2", "--dimensions: expected latent dimensions from 0 to 1, got 2."),
    "a negative dimension": ("--dimensions -1", "--dimensions: expected latent dimensions from 0 to 1, got -1."),
    "a dimension twice": ("--dimensions 1 1", "--dimensions: expected each once, got 1 1."),
    "dimensions between images": ("--dimensions 1 --to 2", "--dimensions belongs to traversals"),
    "no span": ("--span 0", "--span: expected a number > 0 and at most 1000, in prior standard deviations, got 0.0."),
    "a negative span": ("--span -3", "--span: expected a number > 0"),
    "span nan": ("--span nan", "--span: expected a number > 0"),
    "span infinite": ("--span inf", "--span: expected a number > 0"),
    "one step": ("--steps 1", "--steps: expected a whole number from 2 to 60, got 1."),
    "many steps": ("--steps 61", "--steps: expected a whole number from 2 to 60, got 61."),
    "suffix": ("--out {here}/a.jpg", "expected a name ending in .png or .gif."),
    "no folder": ("--out {here}/none/a.png", "is not a folder"),
    "a folder": ("--out {here}/folder.png", "it is a folder"),
    "no number": ("--image first", "--image"),
    "unknown flag": ("--spam 3", "Unrecognized options: --spam"),
}


@pytest.mark.parametrize(("flags", "message"), NO_PICTURE.values(), ids=NO_PICTURE)
def test_latent_space_refuses_in_one_line_and_writes_nothing(flags, message, script, tmp_path, trained):
    (tmp_path / "folder.png").mkdir()
    before = sorted([*tmp_path.rglob("*"), *trained[0].rglob("*")])
    status, stderr = script("latent_space", trained[0], *flags.format(here=tmp_path).split())
    assert (status, stderr.count("\n")) == (2, 1)
    assert stderr.startswith("error: ")
    assert message in stderr
    assert sorted([*tmp_path.rglob("*"), *trained[0].rglob("*")]) == before


def test_latent_space_refuses_what_is_no_run(script, tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        status, stderr = script("latent_space", path)
        assert (status, stderr) == (2, f"error: {path}: not a run directory (it has no config.json).\n")
    (tmp_path / "sweep.json").touch()
    assert "a sweep directory, not a run directory" in script("latent_space", tmp_path)[1]
    assert script("latent_space")[0] == 2
