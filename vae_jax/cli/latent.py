"""`vae-jax latent`: one test image along the latent dimensions, or on the way to another image."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import tyro

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_runs
from vae_jax.cli.messages import note
from vae_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from vae_jax.report.html import Figure
    from vae_jax.runs import Run

_MOST_ROWS, _MOST_STEPS = 10, 60


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Draw the decoder's mean E[x|z] as one latent dimension of a test image moves at a time; with `to`, on the straight line
    from the posterior mean of one test image to that of another. A PNG shows all steps in a grid, a GIF moves.

    Example: vae-jax latent runs/first --image 3 --dimensions 4 7
    """

    run: tyro.conf.Positional[Path]
    """A run directory."""
    image: int | None = None
    """Number of the test image, counted from 0. The first by default."""
    label: int | None = None
    """Instead of `image`: the first test image with this label."""
    to: int | None = None
    """Number of a second test image: draw the way there instead."""
    dimensions: tuple[int, ...] = ()
    """Latent dimensions to move, in this order. The ten with the most KL by default."""
    span: float = 3.0
    """Distance that each moves to either side, in prior standard deviations."""
    steps: int = 9
    """Images in a row, both ends included."""
    out: Path | None = None
    """File to write, ending in .png or .gif. By default both, into the run's figures/."""
    data_dir: str | None = None
    """Where TFDS finds prepared data, if not where the run found it."""


class Pictures(NamedTuple):
    """The pictures of a traversal or an interpolation."""

    name: str  # of the files, without a suffix
    draw: "Mapping[str, Callable[[], Figure | bytes]]"  # suffix -> function that draws the picture


def check(arguments: Arguments) -> None:
    """Raises `UserError` for values that are wrong for every run."""
    expect_runs((arguments.run,))
    if not 0 < arguments.span <= 1000:
        expected = "a number > 0 and at most 1000, in prior standard deviations"
        raise UserError(field="span", expected=expected, got=arguments.span)
    if not 2 <= arguments.steps <= _MOST_STEPS:
        raise UserError(field="steps", expected=f"a whole number from 2 to {_MOST_STEPS}", got=arguments.steps)
    if arguments.label is not None and arguments.image is not None:
        raise UserError("`label` chooses the image as well: leave out either `label` or `image`.")
    if arguments.to is not None and arguments.dimensions:
        raise UserError("`dimensions` belongs to traversals; between two images all of them move. Leave out it or `to`.")
    if len(set(arguments.dimensions)) < len(arguments.dimensions):
        raise UserError(field="dimensions", expected="each once", got=" ".join(map(str, arguments.dimensions)))
    out = arguments.out
    if out is not None:
        if out.suffix not in (".png", ".gif"):
            raise UserError(f"`out={out}`: expected a name ending in .png or .gif.")
        if out.is_dir() or not out.parent.is_dir():
            problem = "it is a folder" if out.is_dir() else f"{out.parent} is not a folder"
            raise UserError(f"`out={out}`: cannot be written: {problem}.")


def chosen_image(arguments: Arguments, count: int, labels: "np.ndarray | None") -> int:
    """Returns the number of the test image that the arguments choose among `count`."""
    for name, number in (("image", arguments.image), ("to", arguments.to)):
        if number is not None and not 0 <= number < count:
            raise UserError(field=name, expected=f"a test image from 0 to {count - 1}", got=number)
    if arguments.label is None:
        return arguments.image or 0
    if labels is None:
        raise UserError("the data set has no labels. Choose an image by its number, `image`.", field="label")
    with_label = (labels == arguments.label).nonzero()[0]
    if not len(with_label):
        known = sorted({int(label) for label in labels})
        shown = ", ".join(map(str, known[:20])) + (" ..." if len(known) > 20 else "")
        raise UserError(field="label", expected=f"one of the test set's labels ({shown})", got=arguments.label)
    return int(with_label[0])


def interpolate(run: "Run", image: int, to: int, steps: int) -> Pictures:
    """Prints what the pictures of the way between two test images show, and returns the pictures."""
    import numpy as np

    from vae_jax.report.run import content, latent, latent_figures

    built, params = run.built, run.params
    views = content.views(built, first=(image, to))  # the other images only set the scale of gray
    codes = np.asarray(views.codes(params))
    print(f"from {latent.image_name(built, image)} to {latent.image_name(built, to)} in {steps} steps")
    images = latent.decode(views, params, latent.interpolation_codes(codes[:1], codes[1:2], steps))
    row = f"{image} → {to}"
    return Pictures(
        f"latent_space_{image}_to_{to}",
        {
            ".png": lambda: latent_figures.interpolation(images, views.originals[:1], views.originals[1:2], [row]),
            ".gif": lambda: latent_figures.animation(images, [row], (str(image), str(to))),
        },
    )


def traverse(run: "Run", image: int, arguments: Arguments) -> Pictures:
    """Prints what the pictures of one image along latent dimensions show, and returns the pictures."""
    import numpy as np

    from vae_jax.report.run import content, latent, latent_figures

    built, params = run.built, run.params
    views = content.views(built, first=(image,))  # the other images only set the scale of gray
    codes = np.asarray(views.codes(params))
    kl, prior = content.posteriors(built, params)[2], latent.prior_shape(built, params)
    moved = np.array(arguments.dimensions or latent.by_kl(kl, _MOST_ROWS))
    offsets = np.linspace(-arguments.span, arguments.span, arguments.steps)
    rows, name = [latent_figures.name(j, kl) for j in moved], latent.image_name(built, image)
    print(f"{name}: {'; '.join(rows)}")
    images = latent.decode(views, params, latent.traversal_codes(codes[0], moved, offsets, prior))
    offsets_of_image = (codes[0, moved] - prior.mean[moved]) / prior.std[moved]
    reference = np.stack([views.originals[0], latent.decode(views, params, codes[:1])[0]])
    is_learned = prior.codes is not None
    ends = (latent_figures.signed(-arguments.span), latent_figures.signed(arguments.span))
    return Pictures(
        f"latent_space_{image}",
        {
            ".png": lambda: latent_figures.traversal(images, rows, offsets, offsets_of_image, reference, name, is_learned),
            ".gif": lambda: latent_figures.animation(images, [f"z[{j}]" for j in moved], ends),
        },
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the pictures and returns the exit status."""
    arguments = parse(Arguments, argv, "latent")
    check(arguments)

    from vae_jax.report.html import write_picture
    from vae_jax.runs import load_run
    from vae_jax.storage.cache import enable_compilation_cache

    enable_compilation_cache()
    run = load_run(arguments.run, data_dir=arguments.data_dir)
    for text in run.notes:
        note(text)
    image = chosen_image(arguments, len(run.built.data.test), run.built.dataset.test_labels)
    size = run.built.vae.latent_dim
    for j in arguments.dimensions:
        if not 0 <= j < size:
            raise UserError(field="dimensions", expected=f"latent dimensions from 0 to {size - 1}", got=j)
    if arguments.to is None:
        pictures = traverse(run, image, arguments)
    else:
        pictures = interpolate(run, image, arguments.to, arguments.steps)
    if arguments.out is not None:
        write_picture(arguments.out, pictures.draw[arguments.out.suffix]())
        print(f"wrote {arguments.out}")
        return 0
    folder = arguments.run / "figures"
    folder.mkdir(exist_ok=True)
    for suffix, draw in pictures.draw.items():
        write_picture(folder / f"{pictures.name}{suffix}", draw())
        print(f"wrote {folder / f'{pictures.name}{suffix}'}")
    return 0
