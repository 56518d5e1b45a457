"""The script that draws traversals and interpolations."""

import re

import pytest
from PIL import Image
from scripts import run


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
    "a high image": ("--image 359", "--image: expected a test example from 0 to 358, got 359."),
    "a negative image": ("--image -1", "--image: expected a test example from 0 to 358, got -1."),
    "no image to go to": ("--to 359", "--to: expected a test example from 0 to 358, got 359."),
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
