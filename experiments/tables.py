"""Results of benchmarks and reproductions: Markdown tables, and JSON with the machine and the versions."""

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from vae_jax.cli.tables import markdown as markdown
from vae_jax.errors import UserError


def check_counts(**values: int) -> None:
    """Raises `UserError` for a number on the command line that is less than one."""
    for name, value in values.items():
        if value < 1:
            raise UserError(field=name, expected="a whole number >= 1", got=value)


def write_results(out: Path, content: dict[str, Any], packages: Sequence[str]) -> None:
    """Writes the content, the machine and the versions of the installed ones among `packages` as JSON."""
    from vae_jax.storage.atomic import write_json

    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, {**content, "machine": machine, "versions": versions})
