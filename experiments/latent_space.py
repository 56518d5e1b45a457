"""Looks into the latent space of a trained run: one test image along the latent dimensions, or on the way to another image."""

import environment  # noqa: F401

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro
from common import expect_runs, parse, run_script

from vae_jax.errors import UserError

_MOST_ROWS, _MOST_STEPS = 10, 60


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Draw the decoder's mean E[x|z] as one latent dimension of a test image moves at a time; with --to, on the straight line
    from the posterior mean of one test image to that of another. A PNG shows all steps in a grid, a GIF moves.

    Example: python experiments/latent_space.py runs/first --image 3 --dimensions 4 7
    """

    run: tyro.conf.Positional[Path]
    """A run directory written by train.py."""
    image: int | None = None
    """Which test image, counted from 0. The first by default."""
    label: int | None = None
    """Instead of --image: the first test image with this label."""
    to: int | None = None
    """Another test image: draw the way there instead."""
    dimensions: tuple[int, ...] = ()
    """Latent dimensions to move, in this order. The ten with the most KL by default."""
    span: float = 3.0
    """How far each moves to either side, in prior standard deviations."""
    steps: int = 9
    """Images in a row, both ends included."""
    out: Path | None = None
    """Where to write, a name ending in .png or .gif. Both, into the run's figures/, by default."""
    data_dir: str | None = None
    """Where TFDS finds prepared data, if not where the run found it."""


def check(arguments: Arguments) -> None:
    """Raises `UserError` for all that is wrong whatever the run is."""
    expect_runs((arguments.run,))
    if not 0 < arguments.span <= 1000:
        raise UserError(f"--span: expected a number > 0 and at most 1000, in prior standard deviations, got {arguments.span}.")
    if not 2 <= arguments.steps <= _MOST_STEPS:
        raise UserError(f"--steps: expected a whole number from 2 to {_MOST_STEPS}, got {arguments.steps}.")
    if arguments.label is not None and arguments.image is not None:
        raise UserError("--label chooses the image as well: leave out either --label or --image.")
    if arguments.to is not None and arguments.dimensions:
        raise UserError("--dimensions belongs to traversals; between two images all of them move. Leave out it or --to.")
    if len(set(arguments.dimensions)) < len(arguments.dimensions):
        raise UserError(f"--dimensions: expected each once, got {' '.join(map(str, arguments.dimensions))}.")
    out = arguments.out
    if out is not None:
        if out.suffix not in (".png", ".gif"):
            raise UserError(f"--out {out}: expected a name ending in .png or .gif.")
        if out.is_dir() or not out.parent.is_dir():
            problem = "it is a folder" if out.is_dir() else f"{out.parent} is not a folder"
            raise UserError(f"--out {out}: cannot be written: {problem}.")


def chosen_image(arguments: Arguments, count: int, labels: Any) -> int:
    """The number of the test image that the arguments name."""
    for flag, number in (("image", arguments.image), ("to", arguments.to)):
        if number is not None and not 0 <= number < count:
            raise UserError(f"--{flag}: expected a test image from 0 to {count - 1}, got {number}.")
    if arguments.label is None:
        return arguments.image or 0
    if labels is None:
        raise UserError("--label: the data set has no labels. Choose an image by its number, --image.")
    found = (labels == arguments.label).nonzero()[0]
    if not len(found):
        known = sorted({int(label) for label in labels})
        shown = ", ".join(map(str, known[:20])) + (" ..." if len(known) > 20 else "")
        raise UserError(f"--label: expected one of the test set's labels ({shown}), got {arguments.label}.")
    return int(found[0])


def draw(arguments: Arguments) -> tuple[str, dict[str, Callable[[], Any]]]:
    """A name for the pictures, and by suffix what draws each; says on stdout what they show."""
    import numpy as np

    from vae_jax.report.run import content, latent, latent_figures
    from vae_jax.runs import load_run

    run = load_run(arguments.run, data_dir=arguments.data_dir)
    for note in run.notes:
        print(f"note: {note}", file=sys.stderr)
    built, params = run.built, run.params
    size, labels = built.vae.latent_dim, built.dataset.test_labels
    image = chosen_image(arguments, len(built.data.test), labels)
    for j in arguments.dimensions:
        if not 0 <= j < size:
            raise UserError(f"--dimensions: expected latent dimensions from 0 to {size - 1}, got {j}.")
    first = (image,) if arguments.to is None else (image, arguments.to)
    seen = content.views(built, first=first)  # the others are there for the scale of grey alone
    codes = np.asarray(seen.codes(params))
    if arguments.to is not None:
        names = [latent.image_name(built, number) for number in first]
        print(f"from {names[0]} to {names[1]} in {arguments.steps} steps")
        images = latent.decode(seen, params, latent.interpolation_codes(codes[:1], codes[1:2], arguments.steps))
        row = f"{image} → {arguments.to}"
        return f"latent_space_{image}_to_{arguments.to}", {
            ".png": lambda: latent_figures.interpolation(images, seen.originals[:1], seen.originals[1:2], [row]),
            ".gif": lambda: latent_figures.animation(images, [row], (str(image), str(arguments.to))),
        }
    kl, prior = content.posteriors(built, params)[2], latent.prior_shape(built, params)
    moved = np.array(arguments.dimensions or latent.by_kl(kl, _MOST_ROWS))
    offsets = np.linspace(-arguments.span, arguments.span, arguments.steps)
    rows, name = [latent_figures.name(j, kl) for j in moved], latent.image_name(built, image)
    print(f"{name}: {'; '.join(rows)}")
    images = latent.decode(seen, params, latent.traversal_codes(codes[0], moved, offsets, prior))
    own = (codes[0, moved] - prior.mean[moved]) / prior.std[moved]
    reference = np.stack([seen.originals[0], latent.decode(seen, params, codes[:1])[0]])
    learned = prior.codes is not None
    ends = (latent_figures.signed(-arguments.span), latent_figures.signed(arguments.span))
    return f"latent_space_{image}", {
        ".png": lambda: latent_figures.traversal(images, rows, offsets, own, reference, name, learned),
        ".gif": lambda: latent_figures.animation(images, [f"z[{j}]" for j in moved], ends),
    }


def main() -> int:
    """Parses, decodes, writes."""
    arguments = parse(Arguments)
    check(arguments)

    from vae_jax.report.html import write_picture
    from vae_jax.storage.cache import enable_compilation_cache

    enable_compilation_cache()
    name, pictures = draw(arguments)
    if arguments.out is not None:
        write_picture(arguments.out, pictures[arguments.out.suffix]())
        print(f"wrote {arguments.out}")
        return 0
    folder = arguments.run / "figures"
    folder.mkdir(exist_ok=True)
    for suffix, picture in pictures.items():
        write_picture(folder / f"{name}{suffix}", picture())
        print(f"wrote {folder / f'{name}{suffix}'}")
    return 0


if __name__ == "__main__":
    run_script(main)
