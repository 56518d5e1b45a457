"""`vae-jax latent`: one test example along the latent dimensions, or on the way to another example."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import tyro

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_runs
from vae_jax.cli.messages import note
from vae_jax.cli.user_parts import PartArguments, load_parts
from vae_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from vae_jax.report.html import Figure
    from vae_jax.runs import Run

_MOST_ROWS, _MOST_STEPS = 10, 60


@dataclasses.dataclass(frozen=True)
class Arguments(PartArguments):
    """Draw the decoder's mean E[x|z] as one latent dimension of a test example moves at a time; with `to`, on the straight line
    from the posterior mean of one test example to that of another. A PNG shows all steps of images in a grid, of series as
    shaded lines, and of vectors as heat maps. A GIF of images moves.

    Example: vae-jax latent runs/first --image 3 --dimensions 4 7
    """

    run: tyro.conf.Positional[Path]
    """A run directory."""
    image: int | None = None
    """Number of the test image or other test example, counted from 0. The first by default."""
    label: int | None = None
    """Instead of `image`: the first test example with this label."""
    to: int | None = None
    """Number of a second test example: draw the way there instead."""
    dimensions: tuple[int, ...] = ()
    """Latent dimensions to move, in this order. The ten with the most KL by default."""
    span: float = 3.0
    """Distance that each moves to either side, in prior standard deviations."""
    steps: int = 9
    """Images in a row (or lines, or columns of a heat map), both ends included."""
    out: Path | None = None
    """File to write, ending in .png or, for images, .gif. By default into the run's figures/."""
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
    """Returns the number of the test example that the arguments choose among `count`."""
    for name, number in (("image", arguments.image), ("to", arguments.to)):
        if number is not None and not 0 <= number < count:
            raise UserError(field=name, expected=f"a test example from 0 to {count - 1}", got=number)
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
    """Prints what the pictures of the way between two test examples show, and returns the pictures."""
    import numpy as np

    from vae_jax.report.run import content, latent, latent_figures
    from vae_jax.report.run.events import sections
    from vae_jax.report.run.events.panels import displayed_kind

    built, params = run.built, run.params
    views = content.views(built, content.num_shown(built), (image, to))  # the others set the scale of gray or of columns
    codes = np.asarray(views.codes(params))
    print(f"from {latent.example_name(built, image)} to {latent.example_name(built, to)} in {steps} steps")
    images = latent.decode(views, params, latent.interpolation_codes(codes[:1], codes[1:2], steps))
    row, name = f"{image} → {to}", f"latent_space_{image}_to_{to}"
    if displayed_kind(built.dataset.data_shape) != "image":
        between = sections.Interpolation(images, views.originals[:1], views.originals[1:2], [row])
        return Pictures(name, {".png": lambda: sections.interpolation_figure(built, views.originals, between)[0]})
    return Pictures(
        name,
        {
            ".png": lambda: latent_figures.interpolation(images, views.originals[:1], views.originals[1:2], [row]),
            ".gif": lambda: latent_figures.animation(images, [row], (str(image), str(to))),
        },
    )


def traverse(run: "Run", image: int, arguments: Arguments) -> Pictures:
    """Prints what the pictures of one example along latent dimensions show, and returns the pictures."""
    import numpy as np

    from vae_jax.report.run import content, latent, latent_figures
    from vae_jax.report.run.events import sections
    from vae_jax.report.run.events.panels import displayed_kind
    from vae_jax.runs.notation import Notation

    built, params = run.built, run.params
    views = content.views(built, content.num_shown(built), (image,))  # the others set the scale of gray or of columns
    codes = np.asarray(views.codes(params))
    kl, prior = content.posteriors(built, params)[2], latent.prior_shape(built, params)
    moved = np.array(arguments.dimensions or latent.by_kl(kl, _MOST_ROWS))
    offsets = np.linspace(-arguments.span, arguments.span, arguments.steps)
    rows, name = [latent_figures.name(j, kl) for j in moved], latent.example_name(built, image)
    print(Notation.of(built).translate(f"{name}: {'; '.join(rows)}"))
    images = latent.decode(views, params, latent.traversal_codes(codes[0], moved, offsets, prior))
    offsets_of_image = (codes[0, moved] - prior.mean[moved]) / prior.std[moved]
    reference = np.stack([views.originals[0], latent.decode(views, params, codes[:1])[0]])
    if displayed_kind(built.dataset.data_shape) != "image":
        moving = sections.Traversal(images, rows, offsets, *reference)
        figure = lambda: sections.traversal_figure(built, views.originals, moving)[0]  # noqa: E731
        return Pictures(f"latent_space_{image}", {".png": figure})
    is_learned = prior.codes is not None
    ends = (latent_figures.signed(-arguments.span), latent_figures.signed(arguments.span))
    return Pictures(
        f"latent_space_{image}",
        {
            ".png": lambda: latent_figures.traversal(images, rows, offsets, offsets_of_image, reference, name, is_learned),
            ".gif": lambda: latent_figures.animation(images, [Notation.of(built).translate(f"z[{j}]") for j in moved], ends),
        },
    )


def in_notation(run: "Run", picture: "Figure | bytes") -> "Figure | bytes":
    """Returns a picture whose texts name the densities of a conditional model or of data with missing entries."""
    from vae_jax.report.run.figures import rewrite
    from vae_jax.runs.notation import Notation

    notation = Notation.of(run.built)
    return picture if isinstance(picture, bytes) or notation == Notation() else rewrite(picture, notation.translate)


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the pictures and returns the exit status."""
    arguments = parse(Arguments, argv, "latent")
    check(arguments)

    from vae_jax.report.html import write_picture
    from vae_jax.runs import load_run
    from vae_jax.storage.cache import enable_compilation_cache

    enable_compilation_cache()
    run = load_run(arguments.run, data_dir=arguments.data_dir, **load_parts(arguments, arguments.run))
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
        if arguments.out.suffix not in pictures.draw:
            raise UserError(f"`out={arguments.out}`: only images are animated. Write a .png.")
        write_picture(arguments.out, in_notation(run, pictures.draw[arguments.out.suffix]()))
        print(f"wrote {arguments.out}")
        return 0
    folder = arguments.run / "figures"
    folder.mkdir(exist_ok=True)
    for suffix, draw in pictures.draw.items():
        write_picture(folder / f"{pictures.name}{suffix}", in_notation(run, draw()))
        print(f"wrote {folder / f'{pictures.name}{suffix}'}")
    return 0
