"""`vae-jax encode`: the codes of new data under a trained model."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.messages import note
from vae_jax.cli.output import numbers_output, run_command, write_results
from vae_jax.cli.trained_models import DataArguments, open_data, open_model

if TYPE_CHECKING:
    import numpy as np

    from vae_jax.runs import TrainedModel
    from vae_jax.runs.trained.chunks import Report
    from vae_jax.runs.trained.encoding import Encoded


@dataclasses.dataclass(frozen=True)
class Arguments(DataArguments):
    """Encode new data: the mean and the log scale (the natural log of the standard deviation) of q(z|x) of each row, in the
    order of the file. The training data are not needed.

    `out` ending in .npz has the arrays means and log_scales, (rows, latent), and draws, (rows, draws, latent). A .csv or
    .parquet file has the columns row, label (where the source has labels), means_0, ..., log_scales_0, ..., draws_0_0, ...

    Example: vae-jax encode runs/first --data new.csv --out codes.csv
    """

    num_draws: int = 0
    """Draws of z for each row."""


def main(argv: Sequence[str] | None = None) -> int:
    """Encodes the data, writes the codes, and returns the exit status."""
    arguments = parse(Arguments, argv, "encode")
    arguments.validate(folder=False)
    expect_counts(0, 10**6, num_draws=arguments.num_draws)
    return run_command(lambda: write_codes(arguments, open_model(arguments)))


def write_codes(arguments: Arguments, model: "TrainedModel") -> None:
    """Encodes the data that the command line names, and writes the codes."""
    from vae_jax.runs.trained.encoding import encode_chunks

    data = open_data(arguments, model)
    if model.vae.conditional_prior is not None:
        note("the codes are u = (z - mean(c)) / scale(c), which are N(0, I) under the prior p(z|c).")

    def chunks(report: "Report") -> "Iterator[Encoded]":
        draws = {"num_draws": arguments.num_draws, "seed": arguments.seed or 0}
        return encode_chunks(model, data, **draws, batch_size=arguments.batch_size, report=report)

    def arrays(encoded: "Encoded") -> "dict[str, np.ndarray]":
        return {name: array for name, array in encoded._asdict().items() if array.size}

    write_results(arguments.file, data.num_examples, chunks, numbers_output(data, arrays))
