"""Animated traversals: their frames, their size, and how they are written."""

import io
import os

import numpy as np
import pytest
from latent_pictures import picture
from PIL import Image

from vae_jax.report.html import write_picture
from vae_jax.report.run import figures, latent_figures

# Animation


def frames_of(content):
    gif = Image.open(io.BytesIO(content))
    frames = []
    for i in range(gif.n_frames):
        gif.seek(i)
        frames.append(np.asarray(gif.convert("RGB"), np.float64) / 255)
    return gif, frames


def test_the_animation_goes_there_and_back_for_ever():
    images = np.linspace(0, 1, 5)[None, :, None, None, None] * np.ones((2, 1, 28, 28, 1))
    images[1] = 1 - images[1]
    gif, frames = frames_of(latent_figures.animation(images, ["z[0]", "z[12]"], ("−3", "3")))
    assert gif.info["loop"] == 0
    assert len(frames) == 8
    for step, frame in zip([0, 1, 2, 3, 4, 3, 2, 1], frames, strict=True):
        for tile, left in ((0, 10), (1, 104)):  # 28 pixels are shown as 84, and 10 more in between
            shown = frame[20:104, left : left + 84]
            np.testing.assert_allclose(shown, images[tile, step].mean(), atol=0.02)
    assert frames[0][:20].mean() > 0.9  # names on white, above


def test_pixels_are_kept_as_they_are():
    images = np.random.default_rng(0).uniform(size=(1, 2, 8, 8, 3))
    _, frames = frames_of(latent_figures.animation(images, ["a"], ("0", "1")))
    for frame, image in zip(frames, images[0], strict=True):
        np.testing.assert_allclose(frame[20:116, 10:106][6::12, 6::12], image, atol=0.06)  # of 256 colors


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((10, 13, 64, 64, 3), (380, 216)),
        ((1, 13, 300, 200, 1), (220, 164)),
        ((3, 5, 1, 300, 1), (340, 88)),
        ((2, 3, 200, 1, 1), (220, 164)),
    ],
)
def test_the_animation_is_small(shape, size):
    content = latent_figures.animation(picture(*shape), [f"z[{j}]" for j in range(shape[0])], ("−3", "3"))
    assert len(content) < 1_000_000
    assert frames_of(content)[0].size == size


def test_what_would_be_large_loses_shades_and_then_steps():
    noise = np.random.default_rng(0).uniform(size=(4, 13, 32, 32, 3))
    names = ["a", "b", "c", "d"]
    whole = latent_figures.animation(noise, names, ("0", "1"), max_bytes=10**9)
    fewer = latent_figures.animation(noise, names, ("0", "1"), max_bytes=len(whole) // 2)
    assert len(fewer) < 0.75 * len(whole)
    assert frames_of(whole)[0].n_frames == 24
    assert frames_of(fewer)[0].n_frames == 12


def test_a_picture_replaces_another_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.gif"
    write_picture(path, b"first")
    write_picture(tmp_path / "a.png", figures.kl_per_dimension(np.ones(3)))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")

    def fail(*arguments):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write_picture(path, b"second")
    assert path.read_bytes() == b"first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gif", "a.png"]
