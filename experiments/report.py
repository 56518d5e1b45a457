"""Rebuilds the figures and report.html of run directories and of sweep directories."""

import environment  # noqa: F401

import dataclasses
import sys
from pathlib import Path

import tyro
from common import expect_runs, is_sweep, parse, run_script


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Rebuild the figures and report.html from a run or sweep directory; works for an unfinished one as well.

    Example: python experiments/report.py runs/first runs/sweep
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Directories written by train.py or sweep.py."""
    data_dir: str | None = None
    """Where TFDS finds prepared data, if not where the run found it."""


def main() -> int:
    """Parses and writes."""
    arguments = parse(Arguments)
    expect_runs(arguments.runs, or_sweeps=True)

    from vae_jax.report import write_report, write_sweep_report
    from vae_jax.runs import load_run
    from vae_jax.storage.cache import enable_compilation_cache
    from vae_jax.sweep import load_sweep

    enable_compilation_cache()
    for path in arguments.runs:
        if is_sweep(path):
            results = load_sweep(path)
            missing = len(results.members) - len(results.rows)
            if missing:
                print(f"note: {path}: unfinished; {missing} of {len(results.members)} members are left out.", file=sys.stderr)
            print(f"report: {write_sweep_report(results, arguments.data_dir)}")
            continue
        run = load_run(path, data_dir=arguments.data_dir)
        for note in run.notes:
            print(f"note: {note}", file=sys.stderr)
        print(f"report: {write_report(run)}")
    return 0


if __name__ == "__main__":
    run_script(main)
