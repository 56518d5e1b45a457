"""`vae-jax report`: rebuilds the figures and report.html of run directories and of sweep directories."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from vae_jax.cli.arguments import parse
from vae_jax.cli.checks import expect_runs, is_sweep
from vae_jax.cli.messages import note
from vae_jax.cli.user_parts import PartArguments, load_parts_of_each


@dataclasses.dataclass(frozen=True)
class Arguments(PartArguments):
    """Rebuild the figures and report.html from a run or sweep directory; works for an unfinished one as well.

    Example: vae-jax report runs/first runs/sweep
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories and sweep directories."""
    data_dir: str | None = None
    """Where TFDS finds prepared data, if not where the run found it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the reports and returns the exit status."""
    arguments = parse(Arguments, argv, "report")
    expect_runs(arguments.runs, or_sweeps=True)

    from vae_jax.report import write_report, write_sweep_report
    from vae_jax.runs import load_run
    from vae_jax.storage.cache import enable_compilation_cache
    from vae_jax.sweep import load_sweep

    enable_compilation_cache()
    parts_of_each = load_parts_of_each(arguments, arguments.runs)
    for path, parts in zip(arguments.runs, parts_of_each, strict=True):
        if is_sweep(path):
            results = load_sweep(path)
            missing = len(results.members) - len(results.rows)
            if missing:
                note(f"{path}: unfinished; {missing} of {len(results.members)} members are left out.")
            print(f"report: {write_sweep_report(results, arguments.data_dir, **parts)}")
            continue
        run = load_run(path, data_dir=arguments.data_dir, **parts)
        for text in run.notes:
            note(text)
        print(f"report: {write_report(run)}")
    return 0
