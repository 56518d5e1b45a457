"""`vae-jax export`: writes a trained model as plain weights and as programs that JAX alone runs."""

import dataclasses
from collections.abc import Sequence

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_out
from vae_jax.cli.trained_models import ChosenModel, check_model, open_model


@dataclasses.dataclass(frozen=True)
class Arguments(ChosenModel):
    """Export a trained model: its weights as params.safetensors, and encoder, decoder and E[x|z] as StableHLO programs for CPU,
    CUDA and TPU, with the parameters inside and for batches of any size. config.json describes shapes, units and preprocessing.

    Plain JAX loads the programs by jax.export.deserialize. The data of the run are not needed.

    Example: vae-jax export runs/first --out exported
    """

    out: str = ""
    """Folder to write; new or empty. Required."""
    overwrite: bool = False
    """Replace `out` if it is an earlier export."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exports the model and returns the exit status."""
    arguments = parse(Arguments, argv, "export")
    check_model(arguments)
    expect_out(arguments.out, "a folder", "exported")

    from vae_jax.runs import export_model

    model = open_model(arguments)
    out = export_model(model, arguments.out, overwrite=arguments.overwrite)
    which = "" if model.member is None else f", member {model.member}"
    print(f"{model.path}{which}, epoch {model.epoch}: {model.config.likelihood}, {model.vae.latent_dim} latent dimensions")
    for path in sorted(out.iterdir()):
        print(f"  {path.name:18}  {path.stat().st_size:>12,} bytes")
    print(f"written: {out}")
    return 0
