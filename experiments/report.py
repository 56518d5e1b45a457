"""Rebuilds the figures and report.html of run directories."""

import dataclasses
import sys
from pathlib import Path

import tyro
from common import expect_runs, parse, run_script


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Rebuild figures/ and report.html from a run directory; works for an unfinished run as well.

    Example: python experiments/report.py runs/first
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories written by train.py."""
    data_dir: str | None = None
    """Where TFDS finds prepared data, if not where the run found it."""


def main() -> int:
    """Parses and writes."""
    arguments = parse(Arguments)
    expect_runs(arguments.runs)

    from vae_jax.cache import enable_compilation_cache
    from vae_jax.report import write_report
    from vae_jax.runs import load_run

    enable_compilation_cache()
    for path in arguments.runs:
        run = load_run(path, data_dir=arguments.data_dir)
        for note in run.notes:
            print(f"note: {note}", file=sys.stderr)
        print(f"report: {write_report(run)}")
    return 0


if __name__ == "__main__":
    run_script(main)
