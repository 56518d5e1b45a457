"""`vae-jax refit`: fits a prior to the codes of trained runs, and saves it with them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts, expect_runs
from vae_jax.cli.user_parts import PartArguments, load_parts_of_each
from vae_jax.errors import UserError

if TYPE_CHECKING:
    from vae_jax.evaluation.refitting import Progress
    from vae_jax.storage.atomic import JsonObject


@dataclasses.dataclass(frozen=True)
class Arguments(PartArguments):
    """Fit a prior to the aggregate posterior of the training set of trained runs, and save it with each as prior.safetensors.

    Evaluations, reports, scores and samples then use this prior. Encoder and decoder stay as they are. Remove the file to
    return to the prior of the training.

    Example: vae-jax refit runs/first --kind realnvp
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories."""
    kind: Literal["mixture", "realnvp"] = "mixture"
    """A mixture of Gaussians with full covariances, or a RealNVP."""
    max_components: int = 50
    """The most components of the mixture that are tried. The held-out likelihood chooses among them."""
    num_layers: int = 6
    """Affine couplings of the RealNVP."""
    hidden: tuple[int, ...] = (100, 100)
    """Widths of the perceptrons of its couplings."""
    data_dir: str | None = None
    """Where TFDS finds prepared data, if not where the run found it."""

    def validate(self) -> None:
        """Raises `UserError` for values that are wrong for every run."""
        expect_counts(1, 10**5, max_components=self.max_components)
        expect_counts(1, 1000, num_layers=self.num_layers)
        if not all(1 <= width <= 10**6 for width in self.hidden):
            raise UserError(field="hidden", expected="widths from 1 to 1,000,000", got=self.hidden)


def summary_line(record: "JsonObject") -> str:
    """Returns the result of a refit in one line, for a run's output."""
    size = (
        f"a mixture of {record['num_components']} Gaussians with full covariances"
        if record["kind"] == "mixture"
        else f"a RealNVP of {record['num_layers']} couplings, trained for {record['num_epochs']} epochs"
    )
    return (
        f"refitted prior: {size}; the ELBO of held-out training examples gains {record['marginal_kl_gain']:.3f} +- "
        f"{record['marginal_kl_gain_standard_error']:.3f} nats, by which the marginal KL falls"
    )


def progress_bar(name: str) -> "Progress":
    """Returns a function that shows the progress of a fit."""
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def report(part: str, done: int, total: int) -> None:
        bar = bars.setdefault(part, tqdm(total=total, desc=f"{name}: {part}", leave=False, disable=None))
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Refits the priors of runs, prints a line for each, and returns the exit status."""
    arguments = parse(Arguments, argv, "refit")
    expect_runs(arguments.runs)
    arguments.validate()

    from vae_jax.runs import RefitOptions, refit_prior
    from vae_jax.storage.cache import enable_compilation_cache

    enable_compilation_cache()
    options = RefitOptions(arguments.kind, arguments.max_components, arguments.num_layers, arguments.hidden)
    parts_of_each = load_parts_of_each(arguments, arguments.runs)
    for path, parts in zip(arguments.runs, parts_of_each, strict=True):
        report = progress_bar(path.name)
        record = refit_prior(path, options, data_dir=arguments.data_dir, progress=report, **parts)
        print(f"{path}: {summary_line(record)}", flush=True)
        print(f"{path / 'prior.safetensors'}", flush=True)
    return 0
