"""The installed command `vae-jax`: chooses the subcommand."""

import importlib
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NoReturn

from vae_jax.cli.script import run_script
from vae_jax.errors import UserError, unknown

COMMANDS = {
    "train": "train a VAE and write a run directory",
    "sweep": "train many settings and seeds as one program and write a sweep directory",
    "evaluate": "estimate log p(x), the ELBO and the information in the code of trained runs",
    "refit": "fit a prior to the codes of trained runs, for better log p(x) and samples",
    "impute": "fill in the missing entries of a file by a trained run",
    "encode": "write the codes of new data under a trained model",
    "reconstruct": "write the reconstructions of new data by a trained model",
    "score": "write the ELBO and log p(x) of each row of new data, to find unusual ones",
    "sample": "write examples from a trained model: images for FID, or a table",
    "interpolate": "write examples on the way from one row of new data to another",
    "export": "write weights, encoder and decoder of a trained run for use with JAX alone",
    "report": "rebuild the figures and report.html of runs and sweeps",
    "compare": "train the same network under several likelihoods and print one table",
    "latent": "draw a traversal of the latent space, or an interpolation between two examples",
    "disentangle": "score a sweep over a data set with known factors by disentanglement metrics",
    "postmortem": "explain why a run or a member of a sweep diverged",
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a subcommand and exits with its status.

    Args:
      argv: the subcommand and its options; by default the words that this process was started with.

    Raises:
      SystemExit: always.
    """
    given = sys.argv[1:] if argv is None else list(argv)
    run_script(lambda: run_command(given), ends_process=argv is None)


def run_command(argv: Sequence[str]) -> int:
    """Runs the subcommand that the first word names, and returns its exit status."""
    if not argv:
        raise UserError(f"expected a command ({', '.join(COMMANDS)}), got none. vae-jax --help describes them.")
    name, *rest = argv
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"vae-jax {metadata.version('vae_jax')}")
        return 0
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    return importlib.import_module(f"vae_jax.cli.{name}").main(rest)


def usage() -> str:
    """Returns the text of `vae-jax --help`."""
    lines = [f"  {name:11}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vae-jax COMMAND [OPTIONS]",
            "",
            "Variational autoencoders in JAX: every term in nats, one example at a time.",
            "",
            "commands:",
            *lines,
            "",
            "vae-jax COMMAND --help lists the options of a command, vae-jax --version prints the version.",
        ]
    )
