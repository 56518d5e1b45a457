"""`vae-jax interpolate`: examples on the way from one row of new data to another."""

import dataclasses
from collections.abc import Sequence

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts
from vae_jax.cli.output import examples_output, expect_suits, run_command, write_results
from vae_jax.cli.trained_models import DataArguments, open_data, open_model


@dataclasses.dataclass(frozen=True)
class Arguments(DataArguments):
    """Decode codes on the way from the posterior mean of one row of new data to that of another, both ends included. A
    conditional model decodes all of them with the condition of the first row.

    `out` is a .npz, .csv or .parquet file, or a folder of PNG images, as for vae-jax reconstruct.

    Example: vae-jax interpolate runs/first --data new.npy --first 0 --last 7 --steps 16 --out frames
    """

    first: int = 0
    """Number of the row at the start, counted from 0."""
    last: int = 1
    """Number of the row at the end."""
    steps: int = 9
    """Number of codes, both ends included."""
    spherical: bool = False
    """Move along a great circle instead of the straight line, which suits codes with the norms of draws from N(0, I)."""

    def validate(self, *, folder: bool) -> None:
        """Raises `UserError` for values that are wrong for every model."""
        super().validate(folder=folder)
        expect_counts(0, first=self.first, last=self.last)
        expect_counts(2, 10**6, steps=self.steps)


def main(argv: Sequence[str] | None = None) -> int:
    """Decodes the codes, writes the results, and returns the exit status."""
    arguments = parse(Arguments, argv, "interpolate")
    arguments.validate(folder=True)
    return run_command(lambda: _interpolate(arguments))


def _interpolate(arguments: Arguments) -> None:
    from vae_jax.runs.trained.decoding import interpolate

    model = open_model(arguments)
    as_pixels = expect_suits(arguments.file, model)
    data = open_data(arguments, model)
    ends = (arguments.first, arguments.last, arguments.steps)
    examples = interpolate(model, data, *ends, spherical=arguments.spherical, as_pixels=as_pixels)
    write_results(arguments.file, len(examples), lambda report: [examples], examples_output(model, None))
