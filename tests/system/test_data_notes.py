"""The scripts print what the readers note about data, once, and use the options that the notes name."""

import json
import re
import sys

import numpy as np
import pytest

from vae_jax import runs
from vae_jax.cli import train
from vae_jax.cli.script import run_script
from vae_jax.errors import UserError
from vae_jax.storage.atomic import write_json

SMALL = ("--hidden", 8, "--latent-dim", 2, "--batch-size", 16, "--epochs", 1)


@pytest.fixture
def archive(tmp_path):
    """Label maps with their channels first, a validation set of their own, and an array of unknown use."""
    images = np.random.default_rng(0).integers(0, 5, (70, 3, 6, 5), dtype=np.uint8)
    images[0, 0, 0, 0] = 4
    np.savez(tmp_path / "a.npz", x_train=images[:40], x_valid=images[40:50], x_test=images[50:], weights=np.ones(40))
    return tmp_path / "a.npz"


def notes(stderr):
    return [line.removeprefix("note: ") for line in stderr.splitlines() if line.startswith("note: ")]


def test_a_run_prints_its_notes_and_its_parts_and_records_them(archive, tmp_path, capfd, monkeypatch):
    """Up to the training, in place of which the run's description is written."""
    out = tmp_path / "run"

    def describe(built, out, **options):
        out.mkdir()
        write_json(out / "config.json", runs.describe(built, None))
        raise UserError("described")

    monkeypatch.setattr(runs, "train", describe)
    flags = (*SMALL, "--dataset", archive, "--likelihood", "categorical", "--max-level", 4, "--validation-fraction", 0.1)
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, flags), "--no-compilation-cache", "--out", str(out)])
    with pytest.raises(SystemExit):
        run_script(train.main, ends_process=False)
    printed, stderr = capfd.readouterr()
    unused, fraction, layout = notes(stderr)
    assert "the array weights is not used" in unused
    assert re.match(r"(`validation_fraction=0.1`|--validation-fraction 0.1) has no effect: the source has its own", fraction)
    assert "images of shape (3, 6, 5) are taken as channels first and become (6, 5, 3)" in layout
    assert "40 training, 10 validation and 20 test examples of 6 x 5 x 3" in printed
    assert "split: the source's own (training x_train, validation x_valid, test x_test)" in printed
    content = json.loads((out / "config.json").read_text())
    recorded = content["data"]["notes"]
    assert (len(recorded), recorded[0]) == (3, unused)
    assert recorded[1].startswith("`validation_fraction=0.1` has no effect")
    assert recorded[2].startswith(layout.split(". Pass")[0])
    assert (content["data"]["max_level"], content["config"]["max_level"], content["config"]["layout"]) == (4, 4, "auto")
    with pytest.raises(UserError, match="no checkpoint yet"):  # and no note again, which would be another error
        runs.load_run(out)


@pytest.mark.parametrize("name", ["train", "sweep", "compare_likelihoods"])
def test_each_script_prints_each_note_once(script, archive, tmp_path, name):
    """Also where the data are read several times before a batch that is too large is refused."""
    flags = ("--dataset", archive, "--batch-size", 100, "--layout", "channels_first", "--out", tmp_path / "new")
    more = {"sweep": ("--groups", "latent_dim=2,3"), "compare_likelihoods": ("--likelihoods", "gaussian:1.0", "laplace:1.0")}
    status, stderr = script(name, *flags, *more.get(name, ()))
    assert status == 2
    assert "--batch-size: expected at most the 40 training examples" in stderr
    first, second = notes(stderr)
    assert "weights is not used" in first
    assert "the largest level is 4, but levels are taken to run from 0 to 255" in second
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--max-level 255", "digits: --max-level 255 does not fit"),
        ("--max-level 0", "--max-level: expected a level from 1 to 65535, got 0"),
        ("--layout channels_first", "digits: its channels are last"),
        ("--layout first", "--layout"),
        ("--dataset nosuch", "unknown data set 'nosuch'."),
    ],
)
def test_what_does_not_fit_is_one_line(script, tmp_path, flags, words):
    status, stderr = script("train", *SMALL, *flags.split(), "--out", tmp_path / "new")
    assert (status, stderr.count("\n")) == (2, 1)
    assert words in stderr
    assert "nsynth" not in stderr
