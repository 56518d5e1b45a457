"""`vae-jax export`: writes a trained model as plain weights and as programs that JAX alone runs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_counts, expect_out, expect_runs, is_sweep
from vae_jax.cli.messages import note
from vae_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Export a trained model: its weights as params.safetensors, and encoder, decoder and E[x|z] as StableHLO programs for CPU,
    CUDA and TPU, with the parameters inside and for batches of any size. config.json describes shapes, units and preprocessing.

    Plain JAX loads the programs by jax.export.deserialize. The data of the run are not needed.

    Example: vae-jax export runs/first --out exported
    """

    run: tyro.conf.Positional[Path]
    """A run directory, or a sweep directory with `member` or `best`."""
    out: str = ""
    """Folder to write; new or empty. Required."""
    member: int | None = None
    """Of a sweep: number of the member."""
    best: str = ""
    """Of a sweep: the member with the best value of this column of results.csv, such as validation_elbo."""
    overwrite: bool = False
    """Replace `out` if it is an earlier export."""


def check_member(arguments: Arguments) -> None:
    """Raises `UserError` unless the command line names one member of a sweep, and none of a run."""
    expect_counts(0, 10**9, member=arguments.member)
    if is_sweep(arguments.run):
        if (arguments.member is None) == (not arguments.best):
            fix = "Add `member=3`, or `best=validation_elbo`."
            raise UserError(f"{arguments.run}: a sweep directory, of which one member must be chosen.", fix=fix)
    elif arguments.member is not None or arguments.best:
        field = "best" if arguments.best else "member"
        raise UserError(f"{arguments.run} is a run directory, which has no members.", field=field, fix="Leave it out.")


def main(argv: Sequence[str] | None = None) -> int:
    """Exports the model and returns the exit status."""
    arguments = parse(Arguments, argv, "export")
    expect_runs((arguments.run,), or_sweeps=True)
    expect_out(arguments.out, "a folder", "exported")
    check_member(arguments)

    from vae_jax.runs import best, export_model, load_model

    member = best(arguments.run, arguments.best) if arguments.best else arguments.member
    model = load_model(arguments.run, member=member)
    for text in model.notes:
        note(text)
    out = export_model(model, arguments.out, overwrite=arguments.overwrite)
    which = "" if model.member is None else f", member {model.member}"
    print(f"{model.path}{which}, epoch {model.epoch}: {model.config.likelihood}, {model.vae.latent_dim} latent dimensions")
    for path in sorted(out.iterdir()):
        print(f"  {path.name:18}  {path.stat().st_size:>12,} bytes")
    print(f"written: {out}")
    return 0
