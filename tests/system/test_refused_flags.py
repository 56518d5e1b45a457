"""Input that the scripts refuse, with one line that says why."""

import os
import struct

import numpy as np
import pytest
from PIL import Image

# Bad input: in this process, through the same entry point, because importing jax takes longer than refusing.


def _write(folder):
    gray = np.linspace(0, 1, 160).reshape(10, 4, 4)
    np.save(folder / "gray.npy", gray)
    np.save(folder / "nan.npy", np.where(gray > 0.5, np.nan, gray))
    np.save(folder / "axes.npy", gray.reshape(10, 2, 2, 2, 2))
    np.save(folder / "pickled.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    np.save(folder / "wide.npy", 3 * gray)
    os.mkfifo(folder / "pipe.npy")
    (folder / "zeros.npy").symlink_to("/dev/zero")
    with (folder / "archive.npy").open("wb") as file:
        np.savez(file, x_train=gray)
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
    "gray to bernoulli": ("--dataset {here}/gray.npy --binarize none", "bernoulli expects binary data, got gray values"),
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
    "axes": ("--dataset {here}/axes.npy", "or images with 3 or 4 axes"),
    "pickled": ("--dataset {here}/pickled.npy", "never loaded"),
    "a pipe": ("--dataset {here}/pipe.npy", "expected a file or a folder, got something else"),
    "a device": ("--dataset {here}/zeros.npy", "expected a file or a folder, got something else"),
    "an archive called .npy": ("--dataset {here}/archive.npy", "expected an array, got an archive of arrays"),
    "durations": ("--dataset {here}/seconds.npy", "expected integers or floats, got dtype timedelta64[s]"),
    "a number with labels": ("--dataset {here}/scalar.npz", "It holds a single number"),
    "no image, and large": (
        "--dataset {here}/idx",
        "expected at least one example and one entry in each, got shape (0, 4294967295",
    ),
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
        "--scale: expected a number > 0 (from 1e-9 to 1e9), 'shared', 'per_column' or 'per_pixel', got 0",
    ),
    "scale optimal": ("--likelihood gaussian --scale optimal", "use --objective optimal_sigma and no --scale"),
    "logistic with a number": (
        "--likelihood discretized_logistic --scale 2",
        "--scale: expected 'shared', 'per_column' or 'per_pixel', got 2",
    ),
    "no dispersion": ("--dispersion 2", "--dispersion belongs to --likelihood negative_binomial or zero_inflated"),
    "exposure of proportions": ("--likelihood multinomial --exposure observed", "--exposure belongs to --likelihood poisson, "),
    "exposure unknown": ("--likelihood poisson --exposure total", "--exposure"),
    "a scale of columns and one of the batch": (
        "--likelihood gaussian --scale per_column --objective optimal_sigma",
        "--objective optimal_sigma sets one scale for all columns. Leave out --scale.",
    ),
    "dispersion zero": ("--likelihood negative_binomial --dispersion 0", "--dispersion: expected a number > 0"),
    "no components": ("--likelihood logistic_mixture --num-components 0", "--num-components: expected a whole number >= 1"),
    "degrees of freedom": ("--likelihood student_t --degrees-of-freedom 0", "--degrees-of-freedom: expected a number > 0"),
    "gray channels": ("--likelihood logistic_mixture_rgb", "logistic_mixture_rgb expects 3 channels, got 1"),
    "levels of floats": (
        "--dataset {here}/gray.npy --likelihood categorical",
        "categorical expects integer levels, got floats",
    ),
    "counts of floats": ("--dataset {here}/gray.npy --likelihood poisson", "poisson expects counts"),
    "custom likelihood": ("--likelihood custom", "or a likelihood of yours as parts.py:NAME"),
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
    "dequantized levels": ("--likelihood categorical --dequantize", "--dequantize: dequantized data need a density"),
    "dequantize floats": ("--dataset {here}/gray.npy --likelihood gaussian --dequantize", "integer levels"),
    "dequantize binary": ("--dequantize", "exclude each other"),
    "early stopping": ("--early-stopping 2", "--validation-fraction"),
    "unknown flag": ("--betta 2", "Unrecognized options: --betta"),
    "no number": ("--epochs many", "--epochs"),
    "no choice": ("--binarize maybe", "'threshold'"),
    "out not empty": ("--out {here}/full", "exists and is not empty. Add --resume"),
    "out is a file": ("--out {here}/gray.npy", "exists and is not empty"),
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
