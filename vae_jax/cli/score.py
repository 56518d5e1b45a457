"""`vae-jax score`: the ELBO and log p(x) of each row of new data under a trained model."""

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

    from vae_jax.runs.trained.chunks import Report
    from vae_jax.runs.trained.scoring import Scores


@dataclasses.dataclass(frozen=True)
class Arguments(DataArguments):
    """Score new data, in nats: the ELBO (at beta = 1), its two terms, and the importance-weighted log p(x) of each row, in the
    order of the file, to find unusual rows. The training data are not needed.

    Files have elbo, log_likelihood, kl, log_px, standard_error (of log_px), effective_sample_size and pareto_k (tail shape of
    the importance weights). Where the run has scores of its training data, elbo_quantile and log_px_quantile are the shares of
    them below those of the row: 0 for a row less likely than every training example.

    Example: vae-jax score runs/first --data new.csv --out scores.csv
    """

    num_samples: int = 1000
    """Importance samples of log p(x) for each row."""
    elbo_samples: int = 10
    """Draws of z for the ELBO of each row."""
    seed: int | None = None
    """Seed of the draws. By default the test seed of the run, so that its test set has the scores of vae-jax evaluate."""

    def validate(self, *, folder: bool) -> None:
        """Raises `UserError` for values that are wrong for every model."""
        super().validate(folder=folder)
        for name in ("num_samples", "elbo_samples"):
            expect_counts(1, 10**8, **{name: getattr(self, name)})


def main(argv: Sequence[str] | None = None) -> int:
    """Scores the data, writes the scores, and returns the exit status."""
    arguments = parse(Arguments, argv, "score")
    arguments.validate(folder=False)
    return run_command(lambda: _score(arguments))


def _score(arguments: Arguments) -> None:
    from vae_jax.runs.trained.scoring import ScoreOptions, score_chunks

    model = open_model(arguments)
    data = open_data(arguments, model)
    if not model.scores:
        note("the run has no scores of its training data, so the columns elbo_quantile and log_px_quantile are left out.")
    options = ScoreOptions(arguments.num_samples, arguments.elbo_samples, arguments.seed)

    def chunks(report: "Report") -> "Iterator[Scores]":
        return score_chunks(model, data, options, batch_size=arguments.batch_size, report=report)

    def arrays(scores: "Scores") -> "dict[str, np.ndarray]":
        return {name: array for name, array in scores._asdict().items() if array is not None}

    write_results(arguments.file, data.num_examples, chunks, numbers_output(data, arrays))
