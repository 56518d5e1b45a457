"""`vae-jax reconstruct`: E[x|z] of each row of new data under a trained model."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vae_jax.cli.arguments import parse
from vae_jax.cli.output import examples_output, expect_suits, run_command, write_results
from vae_jax.cli.trained_models import DataArguments, open_data, open_model

if TYPE_CHECKING:
    import numpy as np

    from vae_jax.runs.trained.chunks import Report


@dataclasses.dataclass(frozen=True)
class Arguments(DataArguments):
    """Reconstruct new data: E[x|z] at the mean z of q(z|x) of each row, in the order of the file. The training data are not
    needed.

    `out` ending in .npz has the array arr_0, (rows, ...), in the unit of the data: levels with their type, and expectations of
    counts and of zeros and ones as floats. A .csv or .parquet file has the columns of the data with their names, categories
    (the most probable ones) and types, after the columns row and label (where the source has labels). A name without an ending
    is a folder of PNG images.

    Example: vae-jax reconstruct runs/first --data new.npy --out reconstructions.npz
    """

    draw: bool = False
    """Draw from p(x|z) instead of taking its mean."""


def main(argv: Sequence[str] | None = None) -> int:
    """Reconstructs the data, writes the results, and returns the exit status."""
    arguments = parse(Arguments, argv, "reconstruct")
    arguments.validate(folder=True)
    return run_command(lambda: _reconstruct(arguments))


def _reconstruct(arguments: Arguments) -> None:
    from vae_jax.runs.trained.decoding import Output, reconstruct_chunks

    model = open_model(arguments)
    as_pixels = expect_suits(arguments.file, model)
    data = open_data(arguments, model)
    output = Output(arguments.draw, as_pixels)

    def chunks(report: "Report") -> "Iterator[np.ndarray]":
        batch_size = arguments.batch_size
        return reconstruct_chunks(model, data, output, seed=arguments.seed or 0, batch_size=batch_size, report=report)

    write_results(arguments.file, data.num_examples, chunks, examples_output(model, data))
