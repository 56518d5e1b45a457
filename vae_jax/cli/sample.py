"""`vae-jax sample`: examples from a trained model."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.output import expect_suits, run_command, samples_output, write_results
from vae_jax.cli.trained_models import ModelArguments, open_model
from vae_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from vae_jax.runs.trained.chunks import Report


@dataclasses.dataclass(frozen=True)
class Arguments(ModelArguments):
    """Sample from a trained model: z from the prior, then the mean of p(x|z) for images, and a draw for everything else.

    `out` ending in .npz has the array arr_0: images as pixels from 0 to 255, uint8, (num, height, width, channels), which is
    the layout of the evaluator of guided-diffusion (with `rgb` for gray images), and other examples in the unit of the data.
    The conditions of a conditional model are beside it: arr_1 has the codes of a single category. A name without an ending is a
    folder of PNG images, as pytorch-fid, clean-fid and torch-fidelity read them. A .csv or .parquet file has the columns of the
    data with their names, categories and types.

    Example: vae-jax sample runs/first --num 50000 --out samples.npz
    """

    num: int = 1000
    """Number of examples."""
    draw: bool = False
    """Draw images from p(x|z) too. Their pixels are independent given z, so a draw only adds noise to the mean."""
    mean: bool = False
    """Take the mean of everything. The mean of a count, or of zeros and ones, is not one of them."""
    temperature: float = 1.0
    """Standard deviation of z; only 1 samples from the model."""
    rgb: bool = False
    """Repeat gray images in three channels, as evaluators of samples in .npz files expect them."""
    condition: str = ""
    """Conditions of a conditional model: a file with a row for each, which are used from the first on, again and again; or one
    for all samples, such as "label=3"."""

    def validate(self, *, folder: bool) -> None:
        """Raises `UserError` for values that are wrong for every model."""
        super().validate(folder=folder)
        expect_counts(1, 10**9, num=self.num)
        if not 0 < self.temperature < float("inf"):
            raise UserError(field="temperature", expected="a number > 0", got=self.temperature)
        if self.draw and self.mean:
            raise UserError("`draw` and `mean` exclude each other. Leave one out.")


def main(argv: Sequence[str] | None = None) -> int:
    """Samples, writes the examples, and returns the exit status."""
    arguments = parse(Arguments, argv, "sample")
    arguments.validate(folder=True)
    return run_command(lambda: _sample(arguments))


def _sample(arguments: Arguments) -> None:
    from vae_jax.data import is_image
    from vae_jax.runs.trained.decoding import Output, SampleOptions, sample_chunks
    from vae_jax.runs.trained.sources import read_condition

    model = open_model(arguments)
    image = is_image(model.vae.data_shape)
    expect_suits(arguments.file, model, as_pixels=image)
    if arguments.rgb and (not image or model.vae.data_shape[-1] != 1):
        raise UserError(field="rgb", expected="a model of gray images", got=f"examples of shape {model.vae.data_shape}")
    conditions = read_condition(model, arguments.condition) if arguments.condition else None
    output = Output(arguments.draw or not (arguments.mean or image), as_pixels=image)
    options = SampleOptions(arguments.num, arguments.seed or 0, arguments.temperature, output)

    def chunks(report: "Report") -> "Iterator[np.ndarray]":
        return sample_chunks(model, options, conditions, batch_size=arguments.batch_size, report=report)

    write_results(arguments.file, arguments.num, chunks, samples_output(model, conditions, arguments.rgb))
